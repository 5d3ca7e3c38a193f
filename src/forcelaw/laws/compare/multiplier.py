"""How much more compute one architecture needs for the same loss, and how the losses compare at the
same compute.

Both are read off the frontiers over the range that both architectures really cover. They are far
better determined than exponents, and say what a user wants to know. Intervals delete whole runs;
the crossing is where the two frontiers meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.runs import Runs
from ..fit.result import clean, spread
from ..frontier.frontier import Frontier, frontier
from .pairing import pair

POINTS = 13


@dataclass
class Multiplier:
    """loss [P] with multiplier = C_second / C_first there, and x [P] (FLOPs or hours) with ratio =
    L_second / L_first, each with low and high. crossing: the x at which the frontiers meet (None:
    nowhere in the common range)."""

    names: tuple[str, str]
    x_name: str
    loss: np.ndarray
    multiplier: np.ndarray
    multiplier_low: np.ndarray
    multiplier_high: np.ndarray
    x: np.ndarray
    ratio: np.ndarray
    ratio_low: np.ndarray
    ratio_high: np.ndarray
    crossing: float | None
    level: float
    paired: bool
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return clean(vars(self))

    def summary(self) -> str:
        first, second = self.names
        unit = {"c": "FLOPs", "h": "hours"}.get(self.x_name, self.x_name)
        lines = []
        if len(self.loss):
            i = len(self.loss) // 2
            lines.append(
                f"at loss {self.loss[i]:.4g}, {second} needs {self.multiplier[i]:.3g}"
                f" [{self.multiplier_low[i]:.3g}, {self.multiplier_high[i]:.3g}] times the {unit}"
                f" of {first}"
            )
        if len(self.x):
            i = len(self.x) // 2
            lines.append(
                f"at {self.x[i]:.3g} {unit}, the loss of {second} is {self.ratio[i]:.3g} "
                f"[{self.ratio_low[i]:.3g}, {self.ratio_high[i]:.3g}] times that of {first}"
            )
        if self.crossing:
            told = ((self.ratio_low > 1) | (self.ratio_high < 1)).any()
            lines.append(
                f"the frontiers cross at {self.crossing:.3g} {unit}"
                + (
                    ""
                    if told
                    else (
                        ", but nowhere in the common range is one told from the other: the crossing"
                        " may be chance"
                    )
                )
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def multiplier(
    first: Runs,
    second: Runs,
    x: str = "c",
    *,
    names: tuple[str, str] = ("first", "second"),
    level: float = 0.95,
    frontiers: tuple[Frontier, Frontier] | None = None,
) -> Multiplier:
    """Compare the frontiers of two architectures. FitError if either has none or they share no
    range."""
    found = frontiers or (frontier(first, x, level=level), frontier(second, x, level=level))
    notes = []
    for name, one in zip(names, found):
        if one.fit.theta is None:
            raise FitError(
                f"{name} has no frontier law: {one.fit.message}", where=f"frontier in {x}"
            )
        if one.method != "tangents":
            notes.append(
                f"the frontier of {name} is a hull, not tangents: read the ratios as a trend"
            )
    curves = [_ends(one) for one in found]
    paired, _ = pair(first, second)
    level_df = min(one.fit.n_runs for one in found) - 1

    low, high = (
        max(ends[2] for ends in curves),
        min(ends[3] for ends in curves),
    )  # losses both reach
    losses = np.geomspace(low, high, POINTS) if low < high else np.array([])
    left, right = max(ends[0] for ends in curves), min(ends[1] for ends in curves)
    budgets = np.geomspace(left, right, POINTS) if left < right else np.array([])
    if not len(losses) and not len(budgets):
        raise FitError(
            f"the frontiers of {names[0]} and {names[1]} share no range of loss or {x}",
            where="compare",
            remedy="train the two over overlapping budgets",
        )
    if not len(losses):
        notes.append("the frontiers share no range of losses: no compute multiplier")

    def log_x(one: Frontier, theta: np.ndarray) -> np.ndarray:
        """ln x at the losses [R, P]; NaN where the floor is above the loss."""
        values = one.fit.law.natural(theta, one.fit.centre)
        above = losses[None] - values["E"][:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                np.log(values["F"])[:, None] - np.log(np.where(above > 0, above, np.nan))
            ) / values["gamma"][:, None]

    def log_loss(one: Frontier, theta: np.ndarray) -> np.ndarray:
        return one.fit.law.predict_log(theta, {x: budgets}, one.fit.centre)

    made = []
    for function, size in ((log_x, len(losses)), (log_loss, len(budgets))):
        if size == 0:
            made.append((np.array([]),) * 3)
            continue
        point = [function(one, one.fit.theta[None])[0] for one in found]
        value = point[1] - point[0]
        se = (
            _error([function(one, one.fit.replicates) for one in found], point, paired)
            if all(one.fit.replicates is not None for one in found)
            else np.full(size, np.nan)
        )
        half = stats.t.ppf(0.5 + level / 2, level_df) * se
        made.append((np.exp(value), np.exp(value - half), np.exp(value + half)))
    return Multiplier(
        names,
        x,
        losses,
        *made[0],
        budgets,
        *made[1],
        _crossing(budgets, made[1][0]),
        level,
        paired is not None,
        notes,
    )


def _ends(one: Frontier) -> tuple[float, float, float, float]:
    """Range of x and of the loss that the frontier's own points span."""
    points = one.tangents if one.method == "tangents" else one.points
    xs = np.asarray(points["x"])
    losses = one.fit.predict(**{one.x: np.array([xs.min(), xs.max()])})
    return float(xs.min()), float(xs.max()), float(losses[1]), float(losses[0])


def _error(draws: list[np.ndarray], point: list[np.ndarray], pairing: Any) -> np.ndarray:
    """Standard error of the difference; pairs of runs are deleted together where there are any. A
    refit without an answer (its floor above the loss) makes the error unknown there."""
    if pairing is not None:
        return spread(
            draws[1][pairing.second] - draws[0][pairing.first], point[1] - point[0], "jackknife"
        )
    return np.sqrt(sum(spread(d, p, "jackknife") ** 2 for d, p in zip(draws, point)))


def _crossing(x: np.ndarray, ratio: np.ndarray) -> float | None:
    """Where the loss ratio passes one, by interpolation in logarithms."""
    if len(x) < 2:
        return None
    y = np.log(ratio)
    change = np.flatnonzero(np.sign(y[1:]) != np.sign(y[:-1]))
    if not len(change):
        return None
    i = int(change[0])
    t = y[i] / (y[i] - y[i + 1])
    return float(np.exp(np.log(x[i]) + t * (np.log(x[i + 1]) - np.log(x[i]))))
