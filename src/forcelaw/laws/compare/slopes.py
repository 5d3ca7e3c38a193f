"""A slope over few sizes, with an interval that few units allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..fit.result import Result, small_p

LEAST_SIZES = 3  # sizes below which no interval is made
EXACT = 1e-9  # errors below this are rounding


@dataclass
class Slope(Result):
    """Extra slope of the second, -d ln(second / first) / d ln ``variable``: positive where the loss
    of the second falls faster. No interval (None) where there are too few sizes. units: sizes that
    it rests on."""

    variable: str
    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None
    df: float | None = None
    p: float | None = None
    units: int = 0

    def __str__(self) -> str:
        if self.se is None:
            return f"{self.value:+.3f} (no interval: {self.units} sizes)"
        return (
            f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]  p {small_p(self.p)}"
            f" ({self.units} sizes)"
        )


def estimate(name: str, basis: np.ndarray, y: np.ndarray, k: int, level: float) -> Slope:
    """Coefficient ``k`` of least squares with its HC2 error and Bell & McCaffrey's degrees of
    freedom (for a mean: Student's t with one less than the number of units)."""
    count = len(y)
    inverse = np.linalg.pinv(basis)
    value = float(inverse[k] @ y)
    hat = basis @ inverse
    free = 1.0 - np.diag(hat)
    if count < max(LEAST_SIZES, basis.shape[1] + 1) or (free < 1e-9).any():
        return Slope(name, value, units=count)
    rest = np.eye(count) - hat
    weights = inverse[k] / np.sqrt(free)
    se = float(np.sqrt(((weights * (rest @ y)) ** 2).sum()))
    g = rest * weights[None, :]
    a = g.T @ g
    return _with_interval(name, value, se, float(np.trace(a) ** 2 / (a * a).sum()), level, count)


def jackknife(name: str, value: float, draws: np.ndarray, level: float) -> Slope:
    """A slope with the delete-one-size jackknife: ``draws`` [sizes] without each size in turn."""
    count = len(draws)
    if count < LEAST_SIZES or not np.isfinite(draws).all():
        return Slope(name, value, units=count)
    se = float(np.sqrt((count - 1) / count * ((draws - value) ** 2).sum()))
    return _with_interval(name, value, se, count - 1.0, level, count)


def _with_interval(
    name: str, value: float, se: float, df: float, level: float, count: int
) -> Slope:
    half = float(stats.t.ppf(0.5 + level / 2, df)) * se
    p = float(2 * stats.t.sf(abs(value) / max(se, EXACT), df))
    return Slope(name, value, se, value - half, value + half, df, p, count)
