"""The frontier law as the envelope of curves: each curve touches it where its gap ln L_run(C) -
ln L*(C) is smallest, and the fit makes these smallest gaps as small as possible in the
least-squares sense."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit.initial import starts
from ..fit.objective import Objective
from ..fit.problem import levels
from ..fit.result import AT_BOUND, NOT_IDENTIFIED, OK, Estimate, FitResult
from ..fit.single import attach
from ..fit.solver import solve
from ..forms.base import Floor
from ..forms.frontier import FrontierFlops
from .curves import Curve, curves, lower_hull, pooled

LEAST_TANGENTS = 5


class Envelope(FrontierFlops):
    """The frontier law whose residuals are the smallest gaps of curves, not of points.

    x holds "lx" and "ly" [R, M] (padded with NaN) of the curves; a residual is -min over the curve
    of ln L - ln L*, the minimum of a parabola through the three points around the lowest gap.
    """

    def value(self, theta: np.ndarray, lx: np.ndarray) -> np.ndarray:
        """ln L* of theta [B, P] at ln x of any shape: [B, *shape]."""
        flat = super().residuals(theta, {self.x: lx.ravel()}, np.zeros(1), jacobian=False)[0]
        return flat.reshape(len(theta), *lx.shape)

    def residuals(
        self,
        theta: np.ndarray,
        x: dict[str, np.ndarray],
        y: np.ndarray | float,
        jacobian: bool = True,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        where, least = touch(x["lx"], x["ly"][None] - self.value(theta, x["lx"]))
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


@dataclass
class Tangency:
    """Curves prepared for the solver. ends [R, 2]: first and last ln x; clock: ln x and ln D of
    each curve; ln_n [R]: its size."""

    law: Envelope
    x: dict[str, np.ndarray]
    centre: float
    bounds: tuple[np.ndarray, np.ndarray]
    ends: np.ndarray
    clock: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    ln_n: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def touch(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each curve is closest to the frontier theta, and its gap there: [B, R] each."""
        lx = self.x["lx"]
        return touch(lx, self.x["ly"][None] - self.law.value(theta, lx))

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """[B, R]: the curve touches the frontier theta strictly inside its range."""
        at, _ = self.touch(theta)
        span = 0.02 * (self.ends[:, 1] - self.ends[:, 0])
        return (at > self.ends[:, 0] + span) & (at < self.ends[:, 1] - span)

    def settle(
        self, theta: np.ndarray, keep: np.ndarray, damping: float = 0.1
    ) -> tuple[np.ndarray, np.ndarray]:
        """theta [B, P] fitted to the curves that touch it, until their set no longer changes; and
        that set [B, R]."""
        used = self.inside(theta) & keep
        zero = np.zeros(self.x["lx"].shape[0])
        theta, moving = theta.copy(), np.arange(len(theta))
        for _ in range(12):
            theta[moving] = solve(
                self.law,
                self.x,
                zero,
                used[moving].astype(float),
                Objective("log"),
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

    def ln_d(self, at: np.ndarray, index: np.ndarray) -> np.ndarray:
        """ln D of the curves ``index`` where they touch (at [R])."""
        return np.array([np.interp(at[i] + self.centre, *self.clock[i]) for i in index])

    def slopes(self, theta: np.ndarray, used: np.ndarray) -> np.ndarray:
        """[B, 2]: slopes of ln N* and ln D* against ln x through the tangents of each theta (NaN
        below three)."""
        at, _ = self.touch(theta)
        out = np.full((len(theta), 2), np.nan)
        for b in range(len(theta)):
            on = np.flatnonzero(used[b])
            if len(on) >= 3:
                both = np.stack([self.ln_n[on], self.ln_d(at[b], on)], axis=1)
                out[b] = np.polyfit(at[b, on], both, 1)[0]
        return out

    def deleted(self, there: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fits [G, P] and slopes of N* and D* [G, 2] to the curves that are there without each run
        in turn."""
        out, used = self.settle(np.tile(theta, (len(there), 1)), there, damping=1e-3)
        return out, self.slopes(out, used)


def tangency(found: list[Curve], x: str, floor: Floor, centre: float | None = None) -> Tangency:
    """The curves [R] padded with NaN to one length, about one centre of ln x."""
    longest = max(len(curve.fx) for curve in found)
    lx, ly = (np.full((len(found), longest), np.nan) for _ in range(2))
    for i, curve in enumerate(found):
        lx[i, : len(curve.fx)], ly[i, : len(curve.fy)] = curve.fx, curve.fy
    centre = float(np.nanmean(lx)) if centre is None else centre
    lx = lx - centre
    law = Envelope(floor, x=x)
    return Tangency(
        law,
        {"lx": lx, "ly": ly},
        centre,
        law.all_bounds({}, ly[np.isfinite(ly)]),
        np.stack([np.nanmin(lx, axis=1), np.nanmax(lx, axis=1)], axis=1),
        [(curve.lx, curve.ld) for curve in found],
        np.log([curve.n for curve in found]),
    )


def through(
    law: FrontierFlops, lx: np.ndarray, ly: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """theta [P] of the law through points (centred ln x, ln L)."""
    x = {law.x: lx}
    begin = starts(law, x, ly, None, 4)
    solution = solve(law, x, ly, None, Objective("log"), begin, bounds=bounds, tolerance=1e-10)
    return solution.theta[np.argmin(solution.value)]


@dataclass
class Tangents:
    """Points of tangency (arrays x, loss, n, d, run); the law through them, None where they are too
    few; slopes [1, 2] of ln N* and ln D* through them, and [G, 2] without each run."""

    points: dict[str, Any]
    fit: FitResult | None = None
    slopes: np.ndarray | None = None
    slope_draws: np.ndarray | None = None

    @property
    def count(self) -> int:
        return len(self.points["x"])


def fit_tangents(
    runs: Runs,
    found: list[Curve],
    x: str,
    floor: Floor,
    level: float,
    interval: str,
) -> Tangents:
    """The tangents of the frontier of ``found``, and the law through them."""
    useful = [curve for curve in found if len(curve.lx) >= 3]
    if len(useful) < LEAST_TANGENTS:
        nothing = np.array([])
        return Tangents({"x": nothing, "loss": nothing, "n": nothing, "d": nothing, "run": []})
    prepared = tangency(useful, x, floor)
    everyone = np.ones((1, len(useful)), bool)
    theta, used = prepared.settle(_first(prepared, useful)[None], everyone)
    made = Tangents(_tangent_points(runs, prepared, useful, theta, used[0]))
    if made.count < LEAST_TANGENTS or levels(made.points["n"]) < 3:
        return made
    result = made.fit = law_result(runs, prepared, theta, used, level)
    made.slopes = prepared.slopes(theta, used)
    if interval == "none" or not result.ok:
        return made
    more, there = without_each(runs, useful, x)
    many = replace(tangency(more, x, floor, prepared.centre), bounds=prepared.bounds)
    draws, made.slope_draws = many.deleted(there, theta[0])
    if result.law.free_floor and (draws[:, 1] <= 0).any():  # as in intervals.below_zero
        lower = _below_zero(prepared)
        about, _ = replace(prepared, bounds=lower).settle(theta, everyone)
        many = replace(many, bounds=lower)
        result.free_theta = about[0]
        result.free_replicates, made.slope_draws = many.deleted(there, about[0])
    attach(result, draws, "jackknife")
    return made


def _first(prepared: Tangency, found: list[Curve]) -> np.ndarray:
    """A start: the law through the hull's vertices."""
    lx = np.concatenate([curve.lx for curve in found]) - prepared.centre
    ly = np.concatenate([curve.ly for curve in found])
    vertices = lower_hull(lx, ly)
    plain = FrontierFlops(prepared.law.floor, x=prepared.law.x)
    return through(plain, lx[vertices], ly[vertices], prepared.bounds)


def _below_zero(prepared: Tangency) -> tuple[np.ndarray, np.ndarray]:
    """The bounds with a floor that may be negative, for intervals."""
    low = prepared.bounds[0].copy()
    low[1] = -2.0 * float(np.exp(np.nanmin(prepared.x["ly"])))
    low[-1] = 1e-3
    return low, prepared.bounds[1]


def _tangent_points(
    runs: Runs, prepared: Tangency, useful: list[Curve], theta: np.ndarray, used: np.ndarray
) -> dict[str, Any]:
    at, least = (array[0] for array in prepared.touch(theta))
    on = prepared.law.value(theta, at)[0]
    index = np.flatnonzero(used)
    index = index[np.argsort(at[index])]
    return {
        "x": np.exp(at[index] + prepared.centre),
        "loss": np.exp(on[index] + least[index]),
        "n": np.array([useful[i].n for i in index]),
        "d": np.exp(prepared.ln_d(at, index)) if len(index) else np.array([]),
        "run": [useful[i].names(runs) for i in index],
    }


def law_result(
    runs: Runs, prepared: Tangency, theta: np.ndarray, used: np.ndarray, level: float
) -> FitResult:
    """The law theta [1, P] of the frontier as a fit, without intervals."""
    x = prepared.law.x
    law = FrontierFlops(prepared.law.floor, x=x)
    gap = prepared.touch(theta)[1][0][used[0]]
    sd = float(np.sqrt((gap**2).sum() / max(len(gap) - law.size, 1)))
    status, message, hit = OK, "", []
    if law.free_floor and theta[0, 1] < 1e-6 * np.exp(np.nanmin(prepared.x["ly"])):
        status, hit = AT_BOUND, ["E"]
        message = "the floor is at its bound of zero: the frontier shows no floor yet"
    if theta[0, -1] <= 1e-3 or theta[0, -1] >= prepared.bounds[1][-1] - 1e-6:
        status, message = NOT_IDENTIFIED, "the exponent of the frontier ran to a bound"
    values = law.natural(theta, {x: prepared.centre})
    if hit:
        values["E"] = np.zeros(1)
    return FitResult(
        law,
        status,
        message,
        objective=float((gap**2).sum() / 2),
        objective_kind="log",
        parameters={name: Estimate(float(value[0])) for name, value in values.items()},
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
        centre={x: prepared.centre},
        n_rows=int(used.sum()),
        n_runs=len(runs.run_names),
    )


def without_each(
    runs: Runs, useful: list[Curve], x: str, least: int = 3
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
                left = pooled(curves(runs, x, keep=rest))
                left = [one for one in left if len(one.lx) >= least]
                everything += left
                added += [r] * len(left)
    return everything, np.concatenate(
        [there, np.array(added, int)[None] == np.arange(groups)[:, None]], axis=1
    )
