"""How much more compute one architecture needs for the same loss, and how the losses compare at the
same compute.

Both are read off the frontiers over the range that both architectures really cover. They are far
better determined than exponents, and say what a user wants to know. Intervals delete whole runs;
the crossing is where the two frontiers meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.runs import Runs
from ..fit.result import UNITS, Estimate, Result, note_lines, records
from ..frontier.frontier import Frontier, frontier
from .pairing import Pairing, difference_se, pair

POINTS = 13


@dataclass
class Multiplier(Result):
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

    @property
    def unit(self) -> str:
        """Of x."""
        return UNITS.get(self.x_name, self.x_name)

    def rows(self, what: str = "multiplier") -> list[dict[str, Any]]:
        """One row for each loss ("multiplier") or each x ("ratio"): at, value, low, high."""
        at = self.loss if what == "multiplier" else self.x
        ends = (getattr(self, f"{what}{end}") for end in ("", "_low", "_high"))
        return records(dict(zip(("at", "value", "low", "high"), (at, *ends))))

    def middle(self, what: str = "multiplier") -> tuple[float, Estimate] | None:
        """The loss (or x, for "ratio") in the middle of the common range and the value there; None
        where there is no common range."""
        rows = self.rows(what)
        if not rows:
            return None
        row = rows[len(rows) // 2]
        return row["at"], Estimate(row["value"], None, row["low"], row["high"], "jackknife")

    def summary(self) -> str:
        """For a terminal."""
        first, second = self.names
        lines = []
        if len(self.loss):
            i = len(self.loss) // 2
            lines.append(
                f"at loss {self.loss[i]:.4g}, {second} needs {self.multiplier[i]:.3g}"
                f" [{self.multiplier_low[i]:.3g}, {self.multiplier_high[i]:.3g}] times the"
                f" {self.unit} of {first}"
            )
        if len(self.x):
            i = len(self.x) // 2
            lines.append(
                f"at {self.x[i]:.3g} {self.unit}, the loss of {second} is {self.ratio[i]:.3g} "
                f"[{self.ratio_low[i]:.3g}, {self.ratio_high[i]:.3g}] times that of {first}"
            )
        if self.crossing:
            sure = ((self.ratio_low > 1) | (self.ratio_high < 1)).any()
            doubt = (
                ", but nowhere in the common range is one surely better: the crossing may be chance"
            )
            lines.append(
                f"the frontiers cross at {self.crossing:.3g} {self.unit}{'' if sure else doubt}"
            )
        return "\n".join([*lines, *note_lines(self.notes)])


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
    x_low, x_high, loss_low, loss_high = zip(*(_ends(one) for one in found))
    losses = _common(loss_low, loss_high)
    budgets = _common(x_low, x_high)
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
            ln_above = np.log(np.where(above > 0, above, np.nan))
            return (np.log(values["F"])[:, None] - ln_above) / values["gamma"][:, None]

    def log_loss(one: Frontier, theta: np.ndarray) -> np.ndarray:
        return one.fit.law.predict_log(theta, {x: budgets}, one.fit.centre)

    pairing, _ = pair(first, second)
    reach = stats.t.ppf(0.5 + level / 2, min(one.fit.n_runs for one in found) - 1)
    made = [
        _ratio(found, function, pairing, reach) if len(at) else (at,) * 3
        for function, at in ((log_x, losses), (log_loss, budgets))
    ]
    crossing = _crossing(budgets, made[1][0])
    paired = pairing is not None
    return Multiplier(names, x, losses, *made[0], budgets, *made[1], crossing, level, paired, notes)


def _common(low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """POINTS values over the range that both cover; none where there is no such range."""
    left, right = max(low), min(high)
    return np.geomspace(left, right, POINTS) if left < right else np.array([])


def _ratio(
    found: tuple[Frontier, Frontier],
    function: Callable[[Frontier, np.ndarray], np.ndarray],
    pairing: Pairing | None,
    reach: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """exp(second - first) of a function of the two frontiers [P], with its interval. Pairs of runs
    are deleted together where there are any. A refit without an answer (its floor above the loss)
    makes the error unknown there."""
    point = [function(one, one.fit.best()[None])[0] for one in found]
    value = point[1] - point[0]
    if any(one.fit.replicates is None for one in found):
        se = np.full(len(value), np.nan)
    else:
        draws = [function(one, one.fit.refits()) for one in found]
        se = difference_se(point, draws, pairing)
    return np.exp(value), np.exp(value - reach * se), np.exp(value + reach * se)


def _ends(one: Frontier) -> tuple[float, float, float, float]:
    """Range of x and of the loss that the frontier's own points span."""
    points = one.tangents if one.method == "tangents" else one.points
    xs = np.asarray(points["x"])
    losses = one.fit.predict(**{one.x: np.array([xs.min(), xs.max()])})
    return float(xs.min()), float(xs.max()), float(losses[1]), float(losses[0])


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
