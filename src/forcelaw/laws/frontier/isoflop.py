"""Iso-FLOP curves: loss against N at fixed compute, and the N and D at their minima (approach 2 of
Hoffmann et al. 2022).

At each budget every run-averaged, smoothed curve that reaches it gives a point; a cubic (a parabola
with four sizes or fewer) in ln N gives the minimum. Minima at the end of the grid are dropped: they
are no minima. The vertex of a parabola is biased where alpha and beta differ, so the surface and
the tangents should be read with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit import intervals
from ..fit.result import Estimate, Result, records
from ..fit.small_sample import MOST_RUNS
from ..inputs import one_architecture
from .curves import Curve, curves

LEAST_SIZES = 4
SAME_BUDGET = 0.05  # single-point runs within this in ln C are of one budget


@dataclass
class IsoFlop(Result):
    """budgets [K]; curves: for each budget n and loss arrays; n_star, d_star, loss_star [K] (NaN
    where the minimum is at the edge); a and b: slopes of ln N* and ln D* against ln C."""

    x: str
    budgets: np.ndarray
    curves: list[dict[str, np.ndarray]]
    n_star: np.ndarray
    d_star: np.ndarray
    loss_star: np.ndarray
    a: Estimate | None = None
    b: Estimate | None = None
    message: str = ""
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each budget whose minimum is inside the grid: x, n, d, loss."""
        columns = {"x": self.budgets, "n": self.n_star, "d": self.d_star, "loss": self.loss_star}
        return [row for row in records(columns) if row["n"] is not None]


def isoflop(
    runs: Any, x: str = "c", *, budgets: int | np.ndarray = 8, level: float = 0.95
) -> IsoFlop:
    """Iso-FLOP (or iso-hour) minima of one architecture; intervals of a and b by deleting whole
    runs.

    runs: any table (see :func:`forcelaw.fit`). budgets: how many, or their values in FLOPs (x="c")
    or hours. FitError where the table has several architectures.
    Source: Hoffmann et al. (2022), arXiv 2203.15556, approach 2.
    """
    runs = one_architecture(runs, "isoflop", "an iso-FLOP curve")
    found = curves(runs, x)
    single = bool(np.median([len(curve.lx) for curve in found]) < 3)
    grid = _single_budgets(runs, x) if single else _budgets(found, budgets)
    if not len(grid):
        none = np.array([])
        message = f"no budget is reached by {LEAST_SIZES} sizes: no iso-FLOP curves"
        return IsoFlop(x, none, [], none, none, none, message=message)
    lines, stars = _minima(found, grid, single)
    result = IsoFlop(x, np.exp(grid), lines, *np.exp(stars).T)
    slopes, groups = _slopes(grid, stars), len(runs.run_names)
    if not np.isfinite(slopes).all():
        result.message = (
            "fewer than three budgets have their minimum inside the grid of sizes: no exponents"
        )
        return result
    draws, lost = np.full((1, 2), np.nan), ""
    if groups <= MOST_RUNS:
        lost = "no interval: a minimum is lost when a run is deleted"
        rest = [[one for one in found if one.runs and r not in one.runs] for r in range(groups)]
        draws = np.array([_slopes(grid, _minima(part, grid, single)[1]) for part in rest])
    result.a, result.b = intervals.slope_estimates(slopes, draws, level, groups, lost)
    return result


def _budgets(found: list[Curve], budgets: int | np.ndarray) -> np.ndarray:
    """ln C of the budgets: even over the range that at least four sizes reach."""
    if not isinstance(budgets, int):
        return np.log(np.asarray(budgets, float))
    starts = np.sort([curve.lx[0] for curve in found])
    ends = np.sort([curve.lx[-1] for curve in found])[::-1]
    if len(found) < LEAST_SIZES:
        return np.array([])
    dense = np.linspace(starts[0], ends[0], 400)
    count = np.array([sum(curve.lx[0] <= at <= curve.lx[-1] for curve in found) for at in dense])
    good = dense[count >= LEAST_SIZES]
    return np.linspace(good[0], good[-1], budgets) if len(good) else np.array([])


def _single_budgets(runs: Runs, x: str) -> np.ndarray:
    """ln C of the budgets of a table of single points: clusters of equal C with four sizes or
    more."""
    lx = np.sort(np.log(runs[x]))
    cuts = np.flatnonzero(np.diff(lx) > SAME_BUDGET)
    parts = np.split(lx, cuts + 1)
    return np.array([part.mean() for part in parts if len(part) >= LEAST_SIZES])


def _minima(
    found: list[Curve], grid: np.ndarray, single: bool
) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """The iso-FLOP curves, and ln N*, ln D*, ln L* [K, 3] at their minima."""
    lines, stars = [], np.full((len(grid), 3), np.nan)
    for i, at in enumerate(grid):
        if single:
            here = [
                (np.log(c.n), c.ly[0], c.ld[0]) for c in found if abs(c.lx[0] - at) < SAME_BUDGET
            ]
        else:
            here = [
                (np.log(c.n), np.interp(at, c.fx, c.fy), np.interp(at, c.lx, c.ld))
                for c in found
                if len(c.lx) >= 3 and c.lx[0] - 1e-9 <= at <= c.lx[-1] + 1e-9
            ]
        points = np.array(sorted(here)).reshape(-1, 3)
        lines.append({"n": np.exp(points[:, 0]), "loss": np.exp(points[:, 1])})
        stars[i] = _vertex(points)
    return lines, stars


def _vertex(points: np.ndarray) -> np.ndarray:
    """Minimum of a polynomial in ln N through points [M, 3] (ln N, ln L, ln D); NaN if it is not
    inside."""
    nothing = np.full(3, np.nan)
    sizes = np.unique(np.round(points[:, 0], 3))
    if len(sizes) < LEAST_SIZES:
        return nothing
    t = points[:, 0] - points[:, 0].mean()
    degree = 3 if len(sizes) >= 5 else 2
    poly = np.polyfit(t, points[:, 1], degree)
    fine = np.linspace(t.min(), t.max(), 401)
    values = np.polyval(poly, fine)
    i = int(np.argmin(values))
    if i < 4 or i > len(fine) - 5:
        return nothing
    line = np.polyfit(t, points[:, 2], 1)  # ln D against ln N at fixed C is a straight line
    return np.array([fine[i] + points[:, 0].mean(), np.polyval(line, fine[i]), values[i]])


def _slopes(grid: np.ndarray, stars: np.ndarray) -> np.ndarray:
    good = np.isfinite(stars[:, 0])
    if good.sum() < 3:
        return np.full(2, np.nan)
    return np.polyfit(grid[good], stars[good, :2], 1)[0]
