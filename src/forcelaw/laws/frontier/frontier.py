"""The frontier of a study: lowest loss per FLOPs or per hours, its law, and the sizes and data that
lie on it.

Taking the lowest of many noisy curves is biased: lucky runs win, and more of them where curves
crowd; in simulations (benchmarks/law_coverage.py) the exponent fitted to the hull's vertices is off
by 5 to 30%. So the law is fitted to tangents instead (:mod:`.tangents`): no minimum is taken over
runs, and a run that has no point of tangency inside its range (size at the edge of the grid,
stopped too early) does not take part. Intervals delete whole runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit import intervals
from ..fit.result import NOT_IDENTIFIED, OK, REFUSED, UNITS, Estimate, FitResult, Result, records
from ..fit.single import attach
from ..forms.base import Floor
from ..forms.frontier import FrontierFlops
from ..inputs import one_architecture
from .curves import Curve, curves, lower_hull, pooled
from .tangents import (
    LEAST_TANGENTS,
    Envelope,
    Tangency,
    Tangents,
    fit_tangents,
    law_result,
    through,
    without_each,
)

MOST_HULL_RUNS = 400  # beyond which the biased law through the hull gets no intervals


@dataclass
class Frontier(Result):
    """points: vertices of the lower hull of the run-averaged curves (dict of arrays x, loss, n, d,
    run), what a figure shows; tangents: the same for the points of tangency that the law was fitted
    to; fit: the law with intervals; optimum: N*(x) and D*(x) along the frontier; method: "tangents"
    or "hull" (too few tangents: a trend only)."""

    x: str
    points: dict[str, Any]
    tangents: dict[str, Any]
    fit: FitResult
    optimum: Optimum
    method: str
    message: str = ""

    @property
    def unit(self) -> str:
        """Of x."""
        return UNITS[self.x]

    @property
    def trend(self) -> bool:
        """Whether its numbers describe a trend only: the law goes through the hull."""
        return self.method == "hull" and bool(self.fit.parameters)

    def curve(self, count: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """x and the loss of the fitted law over the range of the points."""
        x = np.asarray(self.points["x"], float)
        grid = np.geomspace(x.min(), x.max(), count)
        return grid, np.asarray(self.fit.predict(**{self.x: grid}), float)

    def summary(self) -> str:
        """The law and where it comes from, for a terminal."""
        how = f"frontier in {self.unit}, from its {self.method}"
        return "\n".join(filter(None, (how, self.message, self.fit.summary())))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each vertex of the hull: x, loss, n, d, run."""
        return records(self.points)


@dataclass
class Optimum(Result):
    """Compute-optimal sizes: N* = n_at (x/x_mid)^a and D* = d_at (x/x_mid)^b, with intervals of the
    exponents.

    table: arrays x, n, d over the range of the frontier. edge: the best size is the largest (or
    smallest) of the study over a third of the range of x or more, so that the exponents say more
    about the grid than about the architecture.
    """

    a: Estimate | None
    b: Estimate | None
    table: dict[str, np.ndarray]
    edge: bool = False
    method: str = ""
    message: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """One row for each x of the table."""
        return records(self.table)


def frontier(
    runs: Any,
    x: str = "c",
    *,
    floor: Floor = "free",
    level: float = 0.95,
    interval: str = "jackknife",
) -> Frontier:
    """Frontier of a table of one architecture against ``x``: "c" FLOPs or "h" device-hours.

    runs: any table (see :func:`forcelaw.fit`). interval: jackknife or none. The fit is refused,
    with the reason, where fewer than three sizes reach the frontier.
    FitError where the table has several architectures, or no column x or n.
    """
    runs = one_architecture(runs, "frontier", "a frontier")
    runs[x], runs["n"]
    found = pooled(curves(runs, x))
    points = _hull_points(runs, found)
    tangents = fit_tangents(runs, found, x, floor, level, interval)
    fit, method, message = tangents.fit, "tangents", ""
    if fit is None:
        method = "hull"
        message = (
            f"only {tangents.count} sizes touch the frontier inside their range"
            f" ({LEAST_TANGENTS} are needed): the law is fitted to the hull, which is biased: a"
            " trend, not an exponent; add sizes between, or train the middle sizes longer and"
            " shorter"
        )
        fit = _fit_hull(runs, found, x, floor, level, interval, points)
        if fit.status == OK:
            fit.status, fit.message = NOT_IDENTIFIED, message
    optimum = _optimum(points, tangents, found, level, len(runs.run_names))
    return Frontier(x, points, tangents.points, fit, optimum, method, message)


def _hull_points(runs: Runs, found: list[Curve]) -> dict[str, Any]:
    lx, ly, ld = (
        np.concatenate([getattr(curve, name) for curve in found]) for name in ("lx", "ly", "ld")
    )
    own = np.concatenate([np.full(len(curve.lx), i) for i, curve in enumerate(found)])
    vertices = lower_hull(lx, ly)
    return {
        "x": np.exp(lx[vertices]),
        "loss": np.exp(ly[vertices]),
        "d": np.exp(ld[vertices]),
        "n": np.array([found[i].n for i in own[vertices]]),
        "run": [found[i].names(runs) for i in own[vertices]],
    }


def _fit_hull(
    runs: Runs,
    found: list[Curve],
    x: str,
    floor: Floor,
    level: float,
    interval: str,
    points: dict[str, Any],
) -> FitResult:
    """The law through the hull's vertices: descriptive, used where there are too few tangents."""
    law, groups, vertices = FrontierFlops(floor, x=x), len(runs.run_names), len(points["x"])
    if vertices < law.size + 1 or groups < 3:
        reason = (
            f"{vertices} vertices of {groups} runs on the frontier cannot carry"
            f" {law.size} parameters; add sizes and longer runs"
        )
        return FitResult(law, REFUSED, reason, level=level, n_rows=vertices, n_runs=groups)
    lx, ly = np.log(points["x"]), np.log(points["loss"])
    centre = float(lx.mean())
    bounds = law.all_bounds({}, ly)
    theta = through(law, lx - centre, ly, bounds)
    whole = {"lx": lx[None] - centre, "ly": ly[None]}
    as_one = Tangency(Envelope(floor, x=x), whole, centre, bounds, np.zeros((1, 2)))
    result = law_result(runs, as_one, theta[None], np.ones((1, 1), bool), level)
    result.n_rows = len(lx)
    if interval != "none" and groups <= MOST_HULL_RUNS:
        draws = np.tile(theta, (groups, 1))
        everything, there = without_each(runs, found, x, least=1)
        for r in range(groups):
            rest = [everything[i] for i in np.flatnonzero(there[r])]
            vx, vy = (
                np.concatenate([getattr(curve, name) for curve in rest]) for name in ("lx", "ly")
            )
            on = lower_hull(vx, vy)
            if len(on) > law.size:
                draws[r] = through(law, vx[on] - centre, vy[on], bounds)
        attach(result, draws, "jackknife")
    return result


# -- compute-optimal sizes -----------------------------------------------------------------------


def _optimum(
    points: dict[str, Any], tangents: Tangents, found: list[Curve], level: float, groups: int
) -> Optimum:
    """N*(x), D*(x) by straight lines in log-log through the tangents, or through the middles of the
    hull's pieces."""
    sizes = np.array([curve.n for curve in found])
    edge = _share_at_edge(points, sizes) > 1 / 3
    if tangents.slopes is not None:
        method = "tangents"
        at, n, d = (np.log(tangents.points[name]) for name in ("x", "n", "d"))
    else:
        method = "hull"
        at, n, d = _middles(points, sizes)
    if len(at) < 3 or np.ptp(at) <= 0:
        nothing = {name: np.array([]) for name in ("x", "n", "d")}
        message = (
            "fewer than three sizes lie on the frontier inside the grid: no exponents of N* and D*"
        )
        return Optimum(None, None, nothing, edge, method, message)
    both = np.stack([n, d], axis=1)
    value = np.polyfit(at, both, 1)[0] if tangents.slopes is None else tangents.slopes[0]
    draws = np.full((1, 2), np.nan) if tangents.slope_draws is None else tangents.slope_draws
    a, b = intervals.slope_estimates(value, draws, level, groups)
    grid = np.linspace(at.min(), at.max(), 25)
    table = {"x": np.exp(grid)}
    for name, values in (("n", n), ("d", d)):
        table[name] = np.exp(np.polyval(np.polyfit(at, values, 1), grid))
    message = (
        "the best size is at the edge of the grid over a third of the range or more" if edge else ""
    )
    return Optimum(a, b, table, edge, method, message)


def _share_at_edge(points: dict[str, Any], sizes: np.ndarray) -> float:
    """The share of the range of ln x over which the smallest or the largest size is the best."""
    lx, share = np.log(points["x"]), 0.0
    for size in (sizes.min(), sizes.max()):
        on = points["n"] == size
        if on.any() and np.ptp(lx) > 0:
            share = max(share, float(np.ptp(lx[on]) / np.ptp(lx)))
    return share


def _middles(
    points: dict[str, Any], sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln x, ln N and ln D at the middle of each inner size's piece of the hull."""
    inner = np.unique(points["n"])
    inner = inner[(inner > sizes.min()) & (inner < sizes.max())]
    lx, ld = np.log(points["x"]), np.log(points["d"])
    pieces = [points["n"] == size for size in inner]
    at, d = (np.array([values[on].mean() for on in pieces]) for values in (lx, ld))
    return at, np.log(inner), d
