"""Iso-FLOP curves: loss against N at fixed compute, and the N and D at their minima (approach 2 of
Hoffmann et al. 2022).

At each budget every run-averaged, smoothed curve that reaches it gives a point. The minimum is that
of a parabola in ln N through the sizes within a factor of five of it: what lies further out bends
otherwise (rates that were not tuned there, alpha unlike beta) and would pull one curve through all
sizes, which is made as well and compared. Minima at the end of the grid are dropped: they are no
minima. The surface and the tangents should be read with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit import intervals
from ..fit.problem import level_of, levels
from ..fit.result import Estimate, Result, note_lines, records
from ..fit.small_sample import MOST_RUNS
from ..inputs import one_architecture
from .curves import Curve, curves

LEAST_SIZES = 4
ABOUT_MINIMUM = 1.6  # ln N about the minimum within which the parabola is fitted (a factor of five)
LEAST_NEAR = 5  # sizes, or the nearest so many
BENT = 0.2  # ln N between the local minimum and that of one curve through all sizes, to be said
SAME_SIZE = 0.01  # ln N: seeds and lengths of one size
SAME_BUDGET = 0.05  # single-point runs within this in ln C are of one budget


@dataclass
class IsoFlop(Result):
    """budgets [K]; curves: for each budget n and loss arrays; n_star, d_star, loss_star [K] (NaN
    where the minimum is at the edge); misfit [K]: root mean square of ln L about the local
    parabola; bent [K]: ln of N* by one cubic through all sizes over N*; a and b: slopes of ln N*
    and ln D* against ln C."""

    x: str
    budgets: np.ndarray
    curves: list[dict[str, np.ndarray]]
    n_star: np.ndarray
    d_star: np.ndarray
    loss_star: np.ndarray
    misfit: np.ndarray
    bent: np.ndarray
    a: Estimate | None = None
    b: Estimate | None = None
    message: str = ""
    notes: list[str] = field(default_factory=list)
    also = ("status",)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each budget whose minimum is inside the grid: x, n, d, loss, misfit."""
        columns = {"x": self.budgets, "n": self.n_star, "d": self.d_star, "loss": self.loss_star}
        columns["misfit"] = self.misfit
        return [row for row in records(columns) if row["n"] is not None]

    @property
    def status(self) -> str:
        return "ok" if self.a is not None else "refused"

    def summary(self) -> str:
        """For a terminal."""
        unit = "FLOPs" if self.x == "c" else "hours"
        head = (
            f"{unit:>10} {'sizes':>6} {'N*':>10} {'D*':>10} {'loss':>9} {'D*/N*':>9} {'misfit':>7}"
        )
        lines = [head]
        for i, budget in enumerate(self.budgets):
            count = levels(self.curves[i]["n"], SAME_SIZE)
            if np.isfinite(self.n_star[i]):
                n, d = self.n_star[i], self.d_star[i]
                lines.append(
                    f"{budget:10.3g} {count:6} {n:10.3g} {d:10.3g} {self.loss_star[i]:9.4g}"
                    f" {d / n:9.3g} {self.misfit[i]:7.2%}"
                )
            else:
                lines.append(f"{budget:10.3g} {count:6}  no minimum inside the grid of sizes")
        if self.a is not None and self.b is not None:
            lines.append(f"N* ~ C^a, a = {self.a}; D* ~ C^b, b = {self.b}")
        lines += [self.message] if self.message else []
        return "\n".join([*lines, *note_lines(self.notes)])


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
        return IsoFlop(x, none, [], none, none, none, none, none, message=message)
    lines, stars = _minima(found, grid, single)
    n, d, loss = np.exp(stars[:, :3]).T
    result = IsoFlop(x, np.exp(grid), lines, n, d, loss, misfit=stars[:, 3], bent=stars[:, 4])
    result.notes = _lack_of_fit(result)
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
    size = level_of(np.array([curve.n for curve in found]), SAME_SIZE)
    reach = [[curve.lx[0] <= at <= curve.lx[-1] for curve in found] for at in dense]
    count = np.array([len(np.unique(size[mask])) for mask in np.array(reach)])
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
    """The iso-FLOP curves, and ln N*, ln D*, ln L* at their minima, misfit and bent [K, 5]."""
    lines, stars = [], np.full((len(grid), 5), np.nan)
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
    """ln N*, ln D*, ln L*, misfit and bent of points [M, 3] (ln N, ln L, ln D); NaN where the
    minimum is not inside."""
    nothing = np.full(5, np.nan)
    t, y = points[:, 0], points[:, 1]
    size = level_of(np.exp(t), SAME_SIZE)
    sizes = int(size.max(initial=-1)) + 1
    if sizes < LEAST_SIZES:
        return nothing
    at = np.bincount(size, t) / np.bincount(size)
    # the parabola about the lowest point says where the middle is; a lowest size that is not lowest
    # by more than noise may still be inside
    middle = t[int(np.argmin(y))]
    for _ in range(4):
        near = np.abs(t - middle) <= ABOUT_MINIMUM
        if len(np.unique(size[near])) < LEAST_NEAR:
            near = np.isin(size, np.argsort(np.abs(at - middle))[:LEAST_NEAR])
        poly = np.polyfit(t[near] - middle, y[near], 2)
        if poly[0] <= 0:
            return nothing
        step = -poly[1] / (2 * poly[0])
        star = middle + step
        middle = float(np.clip(star, t.min(), t.max()))
    edge = 0.01 * (t.max() - t.min())
    if not t.min() + edge < star < t.max() - edge:
        return nothing
    misfit = float(np.sqrt(np.mean((np.polyval(poly, t[near] - star + step) - y[near]) ** 2)))
    lowest = float(np.polyval(poly, step))
    line = np.polyfit(t - star, points[:, 2], 1)  # ln D against ln N at fixed C is straight
    return np.array([star, line[1], lowest, misfit, _through_all(t, y, sizes) - star])


def _through_all(t: np.ndarray, y: np.ndarray, sizes: int) -> float:
    """ln N at the minimum of a cubic (four sizes: a parabola) through all points; NaN if it has
    none inside."""
    poly = np.polyfit(t - t.mean(), y, 3 if sizes > LEAST_SIZES else 2)
    fine = np.linspace(t.min(), t.max(), 401)
    i = int(np.argmin(np.polyval(poly, fine - t.mean())))
    return float(fine[i]) if 0 < i < 400 else float("nan")


def _lack_of_fit(found: IsoFlop) -> list[str]:
    """Whether the curves are of another shape than one polynomial through all sizes has."""
    bent = found.bent[np.isfinite(found.bent)]
    if not len(bent) or np.median(np.abs(bent)) < BENT:
        return []
    typical = np.exp(np.median(np.abs(bent)))
    return [
        "lack of fit: one cubic through all sizes of a budget would put its minimum off by a factor"
        f" of {typical:.2f} (median): the curves bend otherwise away from their minima"
    ]


def _slopes(grid: np.ndarray, stars: np.ndarray) -> np.ndarray:
    good = np.isfinite(stars[:, 0])
    if good.sum() < 3:
        return np.full(2, np.nan)
    return np.polyfit(grid[good], stars[good, :2], 1)[0]
