"""The frontier of a study: lowest loss per FLOPs or per hours, its law, and the sizes and data that
lie on it.

Taking the lowest of many noisy curves is biased: lucky runs win, and more of them where curves
crowd; in simulations (benchmarks/law_coverage.py) the exponent fitted to the hull's vertices is off
by 5 to 30%. So the law is fitted to tangents instead. In the limit of many sizes the frontier is
the envelope of the curves: each touches it once, where its gap ln L_run(C) - ln L*(C) is smallest.
The fit makes these smallest gaps, one per run-averaged curve, as small as possible in the
least-squares sense; no minimum is taken over runs, and a run that has no point of tangency inside
its range (size at the edge of the grid, stopped too early) does not take part. Intervals delete
whole runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit import intervals
from ..fit.initial import starts
from ..fit.objective import Objective
from ..fit.problem import levels
from ..fit.result import AT_BOUND, NOT_IDENTIFIED, OK, REFUSED, Estimate, FitResult, clean
from ..fit.small_sample import Student
from ..fit.solver import solve
from ..forms.base import Floor
from ..forms.frontier import FrontierFlops
from .curves import Curve, curves, lower_hull

LEAST_TANGENTS = 5


@dataclass
class Frontier:
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

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "x": self.x,
                "method": self.method,
                "message": self.message,
                "points": self.points,
                "tangents": self.tangents,
                "fit": self.fit.to_dict(),
                "optimum": self.optimum.to_dict(),
            }
        )


@dataclass
class Optimum:
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

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "a": vars(self.a) if self.a else None,
                "b": vars(self.b) if self.b else None,
                "table": self.table,
                "edge": self.edge,
                "method": self.method,
                "message": self.message,
            }
        )


class _Envelope(FrontierFlops):
    """The frontier law whose residuals are the smallest gaps of curves, not of points.

    x holds "lx" and "ly" [R, M] (padded with NaN) of the curves; a residual is -min over the curve
    of ln L - ln L*, the minimum of a parabola through the three points around the lowest gap.
    """

    def residuals(self, theta, x, y, jacobian=True):  # type: ignore[override]
        lx, ly = x["lx"], x["ly"]
        flat = {self.x: lx.ravel()}
        value = super().residuals(theta, flat, np.zeros(1), jacobian=False)[0]
        gap = ly[None] - value.reshape(len(theta), *lx.shape)
        where, least = touch(lx, gap)
        if not jacobian:
            return -least, None
        return -least, super().residuals(theta, {self.x: where}, np.zeros(1))[1]


def touch(lx: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where [B, R] the gap [B, R, M] over lx [R, M] is least, and how large it is there (parabola
    of three points)."""
    padded = np.where(np.isfinite(gap), gap, np.inf)
    i = padded.argmin(axis=2)
    last = np.isfinite(lx).sum(axis=1) - 1
    mid = np.clip(i, 1, np.maximum(last - 1, 1)[None])
    rows = np.arange(lx.shape[0])[None]
    batch = np.arange(len(gap))[:, None]
    x0, x1, x2 = (lx[rows, mid + k] for k in (-1, 0, 1))
    g0, g1, g2 = (padded[batch, rows, mid + k] for k in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        s1, s2 = (g1 - g0) / (x1 - x0), (g2 - g1) / (x2 - x1)
        curve = (s2 - s1) / (x2 - x0)
        t = np.where(curve > 1e-12, 0.5 * (x0 + x1) - s1 / (2 * curve), lx[rows, i])
        t = np.clip(t, x0, x2)
        low = g0 + s1 * (t - x0) + curve * (t - x0) * (t - x1)
    bad = ~np.isfinite(low)
    return np.where(bad, lx[rows, i], t), np.where(bad, padded[batch, rows, i], low)


def frontier(
    runs: Runs,
    x: str = "c",
    *,
    floor: Floor = "free",
    objective: str = "log",
    level: float = 0.95,
    smooth: bool = True,
    interval: str = "jackknife",
) -> Frontier:
    """Frontier of ``runs`` (one architecture) against ``x``: "c" FLOPs or "h" device-hours.

    ``smooth``: smooth each curve first. ``interval``: jackknife or none. The fit is
    refused, with the reason, where fewer than three sizes reach the frontier.
    """
    if len(runs.group_names) > 1:
        raise FitError(
            f"a frontier is of one architecture; the table has {', '.join(runs.group_names)}",
            where="frontier",
            remedy="select one: runs.select(group=...)",
        )
    runs[x], runs["n"]
    all_curves = _pooled(runs, curves(runs, x, smooth))
    points = _hull_points(runs, all_curves)
    fit, tangents = _fit_tangents(runs, all_curves, x, floor, objective, level, interval, smooth)
    method, message = "tangents", ""
    if fit is None:
        method = "hull"
        message = (
            f"only {tangents['count']} sizes touch the frontier inside their range"
            f" ({LEAST_TANGENTS} are needed): the law is fitted to the hull, which is biased: a"
            " trend, not an exponent; add sizes between, or train the middle sizes longer and"
            " shorter"
        )
        fit = _fit_hull(runs, all_curves, x, floor, level, interval, smooth, points)
        if fit.status == OK:
            fit.status, fit.message = NOT_IDENTIFIED, message
    optimum = _optimum(points, tangents, all_curves, level, len(runs.run_names))
    return Frontier(
        x, points, {key: tangents[key] for key in points}, fit, optimum, method, message
    )


def _pooled(runs: Runs, found: list[Curve]) -> list[Curve]:
    """Curves as they are if runs are trajectories; where runs are single points, those of one N
    level form one curve."""
    if not found or np.median([len(curve.lx) for curve in found]) >= 3:
        return found
    order = sorted(found, key=lambda curve: curve.n)
    sets: list[list[Curve]] = []
    for curve in order:
        if sets and np.log(curve.n / sets[-1][0].n) <= 0.03:
            sets[-1].append(curve)
        else:
            sets.append([curve])
    out = []
    for members in sets:
        lx = np.concatenate([curve.lx for curve in members])
        by = np.argsort(lx)
        ly = np.concatenate([curve.ly for curve in members])[by]
        ld = np.concatenate([curve.ld for curve in members])[by]
        out.append(
            Curve(
                lx[by],
                ly,
                ld,
                members[0].n,
                tuple(r for curve in members for r in curve.runs),
                lx[by],
                ly,
            )
        )
    return out


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
        "run": [" ".join(runs.run_names[r] for r in found[i].runs[:3]) for i in own[vertices]],
    }


# -- the law -------------------------------------------------------------------------------------------------------


def _pad(found: list[Curve]) -> dict[str, np.ndarray]:
    longest = max(len(curve.fx) for curve in found)
    out = {}
    for name, source in (("lx", "fx"), ("ly", "fy")):
        array = np.full((len(found), longest), np.nan)
        for i, curve in enumerate(found):
            values = getattr(curve, source)
            array[i, : len(values)] = values
        out[name] = array
    return out


@dataclass
class _Tangency:
    """Curves prepared for the solver."""

    law: _Envelope
    x: dict[str, np.ndarray]
    centre: float
    bounds: tuple[np.ndarray, np.ndarray]
    objective: Objective
    ends: np.ndarray  # [R, 2], first and last ln x
    clock: list[tuple[np.ndarray, np.ndarray]] = field(
        default_factory=list
    )  # ln x and ln D of each curve

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """[B, R]: the curve touches the frontier theta strictly inside its range."""
        value = FrontierFlops.residuals(
            self.law, theta, {self.law.x: self.x["lx"].ravel()}, np.zeros(1), False
        )[0]
        gap = self.x["ly"][None] - value.reshape(len(theta), *self.x["lx"].shape)
        at, _ = touch(self.x["lx"], gap)
        span = 0.02 * (self.ends[:, 1] - self.ends[:, 0])
        return (at > self.ends[:, 0] + span) & (at < self.ends[:, 1] - span)

    def settle(
        self, theta: np.ndarray, keep: np.ndarray, rounds: int = 12, damping: float = 0.1
    ) -> tuple[np.ndarray, np.ndarray]:
        """theta [B, P] fitted to the curves that touch it, until their set stands still; and that
        set [B, R]."""
        used = self.inside(theta) & keep
        zero = np.zeros(self.x["lx"].shape[0])
        theta, moving = theta.copy(), np.arange(len(theta))
        for _ in range(rounds):
            theta[moving] = solve(
                self.law,
                self.x,
                zero,
                used[moving].astype(float),
                self.objective,
                theta[moving],
                bounds=self.bounds,
                tolerance=1e-9,
                iterations=40,
                damping=damping,
            ).theta
            now = self.inside(theta[moving]) & keep[moving]
            changed = (now != used[moving]).any(axis=1)
            used[moving] = now
            moving = moving[changed]
            if not len(moving):
                break
        return theta, used

    def slopes(self, theta: np.ndarray, used: np.ndarray, ln_n: np.ndarray) -> np.ndarray:
        """[B, 2]: slopes of ln N* and ln D* against ln x through the tangents of each theta (NaN
        below three)."""
        value = FrontierFlops.residuals(
            self.law, theta, {self.law.x: self.x["lx"].ravel()}, np.zeros(1), False
        )[0]
        at, _ = touch(
            self.x["lx"], self.x["ly"][None] - value.reshape(len(theta), *self.x["lx"].shape)
        )
        out = np.full((len(theta), 2), np.nan)
        for b in range(len(theta)):
            on = np.flatnonzero(used[b])
            if len(on) < 3:
                continue
            ln_d = [
                np.interp(at[b, i] + self.centre, self.clock[i][0], self.clock[i][1]) for i in on
            ]
            out[b] = np.polyfit(at[b, on], np.stack([ln_n[on], ln_d], axis=1), 1)[0]
        return out


def _tangency(
    found: list[Curve], x: str, floor: Floor, objective: str, centre: float | None = None
) -> _Tangency:
    arrays = _pad(found)
    centre = float(np.nanmean(arrays["lx"])) if centre is None else centre
    arrays["lx"] = arrays["lx"] - centre
    law = _Envelope(floor, x=x)
    finite = arrays["ly"][np.isfinite(arrays["ly"])]
    bounds = law.all_bounds({}, finite)
    ends = np.stack([np.nanmin(arrays["lx"], axis=1), np.nanmax(arrays["lx"], axis=1)], axis=1)
    return _Tangency(
        law,
        arrays,
        centre,
        bounds,
        Objective(objective),
        ends,
        [(curve.lx, curve.ld) for curve in found],
    )


def _below_zero(tangency: _Tangency) -> tuple[np.ndarray, np.ndarray]:
    """The bounds with a floor that may be negative, for intervals."""
    low = tangency.bounds[0].copy()
    low[1] = -2.0 * float(np.exp(np.nanmin(tangency.x["ly"])))
    low[-1] = 1e-3
    return low, tangency.bounds[1]


def _first(tangency: _Tangency, found: list[Curve]) -> np.ndarray:
    """A start: the law through the hull's vertices."""
    lx = np.concatenate([curve.lx for curve in found]) - tangency.centre
    ly = np.concatenate([curve.ly for curve in found])
    vertices = lower_hull(lx, ly)
    law, x = tangency.law, {tangency.law.x: lx[vertices]}
    plain = FrontierFlops(law.floor, x=law.x)
    begin = starts(plain, x, ly[vertices], None, 4)
    solution = solve(
        plain,
        x,
        ly[vertices],
        None,
        Objective("log"),
        begin,
        bounds=tangency.bounds,
        tolerance=1e-10,
    )
    return solution.theta[np.argmin(solution.value)]


def _fit_tangents(
    runs: Runs,
    found: list[Curve],
    x: str,
    floor: Floor,
    objective: str,
    level: float,
    interval: str,
    smooth: bool,
) -> tuple[FitResult | None, dict[str, Any]]:
    """The law through the tangents; None if there are too few."""
    useful = [curve for curve in found if len(curve.lx) >= 3]
    empty = {
        "count": 0,
        "x": np.array([]),
        "loss": np.array([]),
        "n": np.array([]),
        "d": np.array([]),
        "run": [],
    }
    if len(useful) < LEAST_TANGENTS:
        return None, empty
    tangency = _tangency(useful, x, floor, objective)
    everyone = np.ones((1, len(useful)), bool)
    theta, used = tangency.settle(_first(tangency, useful)[None], everyone)
    tangents = _tangent_points(runs, tangency, useful, theta, used[0])
    if tangents["count"] < LEAST_TANGENTS or levels(tangents["n"]) < 3:
        return None, tangents
    result = _result(runs, tangency, theta, used, level, x)
    tangents["slopes"] = tangency.slopes(theta, used, _ln_n(useful))
    if interval != "none" and result.ok:
        more, there = _without_each(runs, useful, x, smooth)
        many = replace(
            _tangency(more, x, floor, objective, tangency.centre), bounds=tangency.bounds
        )
        draws, slopes = _deleted(many, there, theta[0], _ln_n(more))
        if (
            tangency.law.free_floor and (draws[:, 1] <= 0).any()
        ):  # as for any law: see intervals.below_zero
            lower = _below_zero(tangency)
            about, _ = replace(tangency, bounds=lower).settle(theta, everyone)
            result.free_theta = about[0]
            result.free_replicates, slopes = _deleted(
                replace(many, bounds=lower), there, about[0], _ln_n(more)
            )
        _attach(result, draws)
        tangents["slope_draws"] = slopes
    return result, tangents


def _ln_n(found: list[Curve]) -> np.ndarray:
    return np.log([curve.n for curve in found])


def _tangent_points(
    runs: Runs, tangency: _Tangency, useful: list[Curve], theta: np.ndarray, used: np.ndarray
) -> dict[str, Any]:
    lx = tangency.x["lx"]
    value = FrontierFlops.residuals(
        tangency.law, theta, {tangency.law.x: lx.ravel()}, np.zeros(1), False
    )[0]
    at, least = touch(lx, tangency.x["ly"][None] - value.reshape(1, *lx.shape))
    on = FrontierFlops.residuals(tangency.law, theta, {tangency.law.x: at[0]}, np.zeros(1), False)[
        0
    ][0]
    index = np.flatnonzero(used)
    ld = np.array(
        [np.interp(at[0, i] + tangency.centre, useful[i].lx, useful[i].ld) for i in index]
    )
    order = np.argsort(at[0, index])
    index = index[order]
    return {
        "count": len(index),
        "x": np.exp(at[0, index] + tangency.centre),
        "loss": np.exp(on[index] + least[0, index]),
        "n": np.array([useful[i].n for i in index]),
        "d": np.exp(ld[order]) if len(ld) else np.array([]),
        "run": [" ".join(runs.run_names[r] for r in useful[i].runs[:3]) for i in index],
    }


def _result(
    runs: Runs, tangency: _Tangency, theta: np.ndarray, used: np.ndarray, level: float, x: str
) -> FitResult:
    law = FrontierFlops(tangency.law.floor, x=x)
    gap = -tangency.law.residuals(theta, tangency.x, np.zeros(1), False)[0][0][used[0]]
    free = law.size
    sd = float(np.sqrt((gap**2).sum() / max(len(gap) - free, 1)))
    status, message, hit = OK, "", []
    if law.free_floor and theta[0, 1] < 1e-6 * np.exp(np.nanmin(tangency.x["ly"])):
        status, message, hit = (
            AT_BOUND,
            "the floor is at its bound of zero: the frontier shows no floor yet",
            ["E"],
        )
    if theta[0, -1] <= 1e-3 or theta[0, -1] >= tangency.bounds[1][-1] - 1e-6:
        status, message = NOT_IDENTIFIED, "the exponent of the frontier ran to a bound"
    values = law.natural(theta, {x: tangency.centre})
    if hit:
        values["E"] = np.zeros(1)
    parameters = {name: Estimate(float(value[0])) for name, value in values.items()}
    return FitResult(
        law,
        status,
        message,
        objective=float((gap**2).sum() / 2),
        objective_kind="log",
        parameters=parameters,
        derived={"gamma": Estimate(float(values["gamma"][0]))},
        diagnostics={
            "tangents": int(used.sum()),
            "residual_sd": sd,
            "sd_between_runs": sd,
            "sd_within_runs": 0.0,
            "bounds_hit": hit,
        },
        level=level,
        theta=theta[0],
        centre={x: tangency.centre},
        n_rows=int(used.sum()),
        n_runs=len(runs.run_names),
    )


def _without_each(
    runs: Runs, useful: list[Curve], x: str, smooth: bool, least: int = 3
) -> tuple[list[Curve], np.ndarray]:
    """The curves, and after them what is left of a curve when one of its runs is deleted (if that
    has ``least`` points or more); and which of them are there without each run in turn [G, curves].
    A run that is a curve by itself leaves nothing of it, one that was averaged with its seeds
    leaves the average of the others."""
    groups = len(runs.run_names)
    everything, there = list(useful), np.ones((groups, len(useful)), bool)
    added: list[int] = []  # the deleted run of each curve after the first ones
    for i, curve in enumerate(useful):
        for r in curve.runs:
            there[r, i] = False
            rest = np.isin(np.arange(groups), curve.runs)
            rest[r] = False
            if rest.any():
                left = [
                    one
                    for one in _pooled(runs, curves(runs, x, smooth, keep=rest))
                    if len(one.lx) >= least
                ]
                everything += left
                added += [r] * len(left)
    return everything, np.concatenate(
        [there, np.array(added, int)[None] == np.arange(groups)[:, None]], axis=1
    )


def _deleted(
    tangency: _Tangency, there: np.ndarray, theta: np.ndarray, ln_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits [G, P] and slopes of N* and D* [G, 2] to the curves that are there without each run in
    turn."""
    out, used = tangency.settle(np.tile(theta, (len(there), 1)), there, damping=1e-3)
    return out, tangency.slopes(out, used, ln_n)


def _attach(result: FitResult, draws: np.ndarray) -> None:
    from ..fit.fit import attach

    attach(result, draws, "jackknife")


def _fit_hull(
    runs: Runs,
    found: list[Curve],
    x: str,
    floor: Floor,
    level: float,
    interval: str,
    smooth: bool,
    points: dict[str, Any],
) -> FitResult:
    """The law through the hull's vertices: descriptive, used where there are too few tangents."""
    law = FrontierFlops(floor, x=x)
    base = FitResult(law, REFUSED, level=level, n_rows=len(points["x"]), n_runs=len(runs.run_names))
    need = law.size + 1
    if len(points["x"]) < need or len(runs.run_names) < 3:
        base.message = (
            f"{len(points['x'])} vertices of {len(runs.run_names)} runs on the frontier cannot"
            f" carry {law.size} parameters; add sizes and longer runs"
        )
        return base
    lx, ly = np.log(points["x"]), np.log(points["loss"])
    centre = float(lx.mean())
    bounds = law.all_bounds({}, ly)

    def one(vx: np.ndarray, vy: np.ndarray) -> np.ndarray:
        data = {x: vx - centre}
        begin = starts(law, data, vy, None, 4)
        solution = solve(
            law, data, vy, None, Objective("log"), begin, bounds=bounds, tolerance=1e-10
        )
        return solution.theta[np.argmin(solution.value)]

    theta = one(lx, ly)
    tangency = _Tangency(
        _Envelope(floor, x=x),
        {"lx": lx[None] - centre, "ly": ly[None]},
        centre,
        bounds,
        Objective("log"),
        np.zeros((1, 2)),
    )
    result = _result(runs, tangency, theta[None], np.ones((1, 1), bool), level, x)
    result.n_rows = len(lx)
    if interval != "none" and len(runs.run_names) <= 400:
        draws = np.tile(theta, (len(runs.run_names), 1))
        everything, there = _without_each(runs, found, x, smooth, least=1)
        for r in range(len(runs.run_names)):
            rest = [everything[i] for i in np.flatnonzero(there[r])]
            vx, vy = (
                np.concatenate([getattr(curve, name) for curve in rest]) for name in ("lx", "ly")
            )
            vertices = lower_hull(vx, vy)
            if len(vertices) > law.size:
                draws[r] = one(vx[vertices], vy[vertices])
        _attach(result, draws)
    return result


# -- compute-optimal sizes -----------------------------------------------------------------------------------------


def _optimum(
    points: dict[str, Any], tangents: dict[str, Any], found: list[Curve], level: float, groups: int
) -> Optimum:
    """N*(x), D*(x) by straight lines in log-log through the tangents, or through the middles of the
    hull's pieces."""
    sizes = np.array([curve.n for curve in found])
    lx = np.log(points["x"])
    share = 0.0
    for size in (sizes.min(), sizes.max()):
        on = points["n"] == size
        if on.any() and np.ptp(lx) > 0:
            share = max(share, float(np.ptp(lx[on]) / np.ptp(lx)))
    edge = share > 1 / 3
    if "slopes" in tangents:
        at, n, d, method = (
            np.log(tangents["x"]),
            np.log(tangents["n"]),
            np.log(tangents["d"]),
            "tangents",
        )
    else:
        inner = np.unique(points["n"])
        inner = inner[(inner > sizes.min()) & (inner < sizes.max())]
        at = np.array([lx[points["n"] == size].mean() for size in inner])
        n = np.log(inner)
        d = np.array([np.log(points["d"][points["n"] == size]).mean() for size in inner])
        method = "hull"
    if len(at) < 3 or np.ptp(at) <= 0:
        return Optimum(
            None,
            None,
            {"x": np.array([]), "n": np.array([]), "d": np.array([])},
            edge,
            method,
            "fewer than three sizes lie on the frontier inside the grid: no exponents of N* and D*",
        )
    value = (
        tangents["slopes"][0]
        if "slopes" in tangents
        else np.polyfit(at, np.stack([n, d], axis=1), 1)[0]
    )
    made = []
    for i in range(2):
        draws = tangents["slope_draws"][:, i] if "slope_draws" in tangents else np.array([np.nan])
        if np.isfinite(draws).all():
            made.append(
                intervals.estimate(
                    "slope",
                    float(value[i]),
                    draws,
                    method="jackknife",
                    level=level,
                    floor_name="slope",
                    reference=Student(groups - 1),
                )
            )
        else:
            made.append(Estimate(float(value[i])))
    grid = np.linspace(at.min(), at.max(), 25)
    table = {
        "x": np.exp(grid),
        "n": np.exp(np.polyval(np.polyfit(at, n, 1), grid)),
        "d": np.exp(np.polyval(np.polyfit(at, d, 1), grid)),
    }
    message = (
        "the best size is at the edge of the grid over a third of the range or more" if edge else ""
    )
    return Optimum(made[0], made[1], table, edge, method, message)
