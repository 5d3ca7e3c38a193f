"""Intervals that hold when the checkpoints of a run are not independent: whole runs are deleted or
resampled.

The default is the delete-one-run jackknife with Student's t: of the methods tried on simulated
studies the only one that keeps its coverage down to six runs (benchmarks/law_coverage.py measures
it). Degrees of freedom and bias of its variance follow from the design (:mod:`.small_sample`).
Exponents and coefficients are taken on a logarithmic scale, a and b on a logit scale, the floor by
the logarithm of its distance below the lowest fitted loss: there their distribution is close to
symmetric. The run-cluster bootstrap serves large, independent tables under a nearly absolute loss
(where deleting one point says too little), and asymmetric quantities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from ..forms.base import Arrays
from .problem import Problem
from .result import Estimate, FitResult, spread
from .small_sample import Reference, Student

# residuals (runs times rows) up to which every deletion is refitted; beyond, one Newton step each
EXACT_LIMIT = 4e7
DRAWS = 1000


def jackknife(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, int, str]:
    """Refits [G, P] without each run in turn, how many did not converge, and the method's name."""
    start = one_step(problem, theta)
    groups, n = problem.n_clusters, len(problem.y)
    if groups * n > EXACT_LIMIT:
        return start, 0, "jackknife (one step)"
    rows = max(1, int(2e7 // n))
    out, failed = np.empty((groups, len(theta))), 0
    for first in range(0, groups, rows):
        index = np.arange(first, min(first + rows, groups))
        weights = (problem.cluster[None, :] != index[:, None]).astype(float)
        solution = problem.solve(start[index], weights, tolerance=1e-11, damping=1e-3)
        out[index] = solution.theta
        failed += int((~solution.converged).sum())
    return out, failed, "jackknife"


def below_zero(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, int]:
    """The fit [P] and the delete-one refits [G, P] with a floor that may be negative: the usual way
    to an interval near a boundary is the unconstrained estimate and its error, cut at the boundary
    afterwards. No fit (None) where the floor runs away to its bound even then."""
    law, k = problem.law, problem.law.n_coefficients
    low, high = (bound.copy() for bound in problem.bounds)
    low[k] = -2.0 * float(np.exp(problem.y.min()))
    for i, name in enumerate(law.names):
        if name in ("alpha", "beta", "gamma"):
            low[i] = 1e-3  # L = E - A ln x is the limit; beyond it the law turns round
    free = replace(problem, bounds=(low, high))
    solution = free.solve(np.clip(theta, low, high)[None], tolerance=1e-12)
    if solution.theta[0, k] <= low[k]:
        return None, np.empty((0, len(theta))), 0
    draws, failed, _ = jackknife(free, solution.theta[0])
    return solution.theta[0], draws, failed


def one_step(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """theta without each run [G, P], by one Newton step from the full fit."""
    groups = problem.n_clusters
    free = np.flatnonzero(problem.free)
    order = np.argsort(problem.cluster, kind="stable")
    starts = np.searchsorted(problem.cluster[order], np.arange(groups))
    r, jac = problem.law.residuals(theta[None], problem.x, problem.y)
    assert jac is not None
    psi, safe, newton = problem.objective.slopes(r[0])
    curvature = safe if newton is None else 0.5 * (safe + newton)
    w = np.ones(len(r[0])) if problem.weights is None else problem.weights
    j = jac[0][free][:, order]
    slope = np.add.reduceat(j * (psi * w)[order], starts, axis=1).T  # [G, F]
    h = np.empty((groups, len(free), len(free)))
    for a in range(len(free)):
        for b in range(a + 1):
            h[:, a, b] = h[:, b, a] = np.add.reduceat(j[a] * j[b] * (curvature * w)[order], starts)
    rest = h.sum(axis=0) - h
    scale = 1.0 / np.sqrt(np.maximum(np.einsum("gii->gi", rest), 1e-300))
    scaled = rest * scale[:, :, None] * scale[:, None, :] + 1e-9 * np.eye(len(free))
    step = scale * np.linalg.solve(scaled, (scale * slope)[..., None])[..., 0]
    names = getattr(problem.law, "names", ())
    # a joint law of several tables has more parameters than names; this is a start only, so its
    # floors may be clipped too
    floor = [
        i
        for i, k in enumerate(free)
        if len(names) == len(theta) and names[k] == problem.law.floor_name
    ]
    limit = np.full(len(free), 0.5)
    limit[floor] = np.inf  # the floor is in units of the loss, and has its bounds
    step = np.clip(step, -limit, limit)
    out = np.tile(theta, (groups, 1))
    out[:, free] = np.clip(theta[free] + step, problem.bounds[0][free], problem.bounds[1][free])
    return out


def bootstrap(
    problem: Problem,
    theta: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    enough: Callable[[np.ndarray], bool] | None = None,
) -> tuple[np.ndarray, int]:
    """Refits [draws, P] on runs drawn with replacement, and how many did not converge. A draw for
    which ``enough`` (given the counts of the runs [G]) is false, for instance with two sizes only,
    is drawn again."""
    rng = np.random.default_rng(seed)
    groups, n = problem.n_clusters, len(problem.y)
    rows = max(1, int(2e7 // n))
    out, failed = np.empty((draws, len(theta))), 0
    for first in range(0, draws, rows):
        size = min(rows, draws - first)
        counts = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)
        if enough is not None:
            for i in range(size):
                for _ in range(1000):
                    if enough(counts[i]):
                        break
                    counts[i] = rng.multinomial(groups, np.full(groups, 1.0 / groups))
        solution = problem.solve(
            np.tile(theta, (size, 1)),
            counts[:, problem.cluster].astype(float),
            tolerance=1e-9,
            damping=0.03,
        )
        out[first : first + size] = solution.theta
        failed += int((~solution.converged).sum())
    return out, failed


# -- scales --------------------------------------------------------------------------------------

Scale = tuple[Callable[..., Any], Callable[..., Any]]  # there and back
LINEAR: Scale = (lambda v: v, lambda v: v)
LOG: Scale = (lambda v: np.log(np.maximum(v, 1e-300)), np.exp)
LOGIT: Scale = (lambda v: logit(np.clip(v, 1e-12, 1 - 1e-12)), expit)
# changes that may be zero or negative: on a logarithmic scale their intervals could not say so
SIGNED = ("c1", "rho")


def below(ceiling: float) -> Scale:
    """The logarithm of the distance below ``ceiling``: the scale of a floor, which the lowest loss
    bounds from above while it is known poorly from below."""
    return (lambda v: -np.log(np.maximum(ceiling - v, 1e-300)), lambda z: ceiling - np.exp(-z))


def scale_of(
    name: str, floor_name: str, lowest: float, highest: float, ceiling: float | None = None
) -> Scale:
    """The scale on which the interval of a quantity is made whose values lie between ``lowest`` and
    ``highest``."""
    if name == floor_name:
        return below(ceiling) if ceiling is not None and highest < ceiling else LINEAR
    if name in ("a", "b") and lowest > 0 and highest < 1:
        return LOGIT  # either may be larger than one where cost is not N D
    return LINEAR if name in SIGNED or lowest <= 0 else LOG


def estimate(
    name: str,
    value: float,
    draws: np.ndarray,
    *,
    method: str,
    level: float,
    reference: Student,
    floor_name: str = "E",
    about: float | None = None,
    ceiling: float | None = None,
) -> Estimate:
    """Interval of one quantity from its replicates [R].

    method: of the replicates ("jackknife ..." or what a bootstrap calls itself). reference:
    distribution of error / standard error of a jackknife. about: the estimate they belong to, where
    it is not the value (an unconstrained floor); the interval then holds both. ceiling: the lowest
    fitted loss, for a floor.
    """
    draws = np.asarray(draws, float)
    about = value if about is None else about
    method = "jackknife" if method.startswith("jackknife") else method
    se = float(spread(draws, about, method))
    if not np.isfinite(draws).all():
        return Estimate(value, None, None, None, f"{method}: a refit failed")
    if method != "jackknife":
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
        return Estimate(value, se, float(low), float(high), method)
    ends = min(about, float(draws.min())), max(about, float(draws.max()))
    there, back = scale_of(name, floor_name, *ends, ceiling)
    centre = there(about)
    moved = there(draws)
    half = reference.half_width(moved, centre, level)
    reach = half / max(float(spread(moved, centre, method)), 1e-300)
    with np.errstate(over="ignore"):
        low, high = float(back(centre - half)), float(back(centre + half))
    if name == floor_name:
        low = max(low, 0.0)
    low, high = min(low, value), max(high, value)
    return Estimate(value, se, low, high, f"{method}, {reach:.3g} standard errors")


def estimates(
    result: FitResult,
    function: Callable[[np.ndarray], Arrays],
    level: float,
    constrained: bool = False,
) -> dict[str, Estimate]:
    """Estimates of what ``function`` gives (name -> [B]) for theta [B, P]; they have intervals
    where the fit has refits. constrained: from refits whose floor is no less than zero."""
    point = {name: float(value[0]) for name, value in function(result.best()[None]).items()}
    if result.replicates is None:
        return {name: Estimate(value) for name, value in point.items()}
    theta, refits = (result.best(), result.replicates) if constrained else result.sample()
    about, draws, reference = function(theta[None]), function(refits), references(result, function)
    return {
        name: estimate(
            name,
            value,
            draws[name],
            method=result.method,
            level=level,
            reference=reference[name],
            about=float(about[name][0]),
        )
        for name, value in point.items()
    }


def slope_estimates(
    values: np.ndarray, draws: np.ndarray, level: float, groups: int, lost: str = ""
) -> list[Estimate]:
    """Estimates of the slopes ``values`` [K] of straight lines from their delete-one refits
    ``draws`` [G, K]. Where a refit gives no slope there is no interval; ``lost`` says why."""
    return [
        estimate(
            "slope",
            float(value),
            draws[:, i],
            method="jackknife",
            level=level,
            floor_name="slope",
            reference=Student(groups - 1),
        )
        if np.isfinite(draws[:, i]).all()
        else Estimate(float(value), method=lost)
        for i, value in enumerate(values)
    ]


def references(result: FitResult, function: Callable[[np.ndarray], Arrays]) -> dict[str, Student]:
    """Distribution of error / standard error of each quantity that ``function`` gives (name -> [B])
    for theta [B, P]."""
    theta = result.sample()[0]
    if result.small is None:
        return dict.fromkeys(function(theta[None]), Student(result.n_runs - 1))
    return {
        name: Reference(result.small.forms(slope))
        for name, slope in slopes(function, theta).items()
    }


def slopes(function: Callable[[np.ndarray], Arrays], theta: np.ndarray) -> Arrays:
    """Gradients [P] at theta of the quantities of ``function``, by central differences."""
    count = len(theta)
    step = 1e-5 * np.maximum(np.abs(theta), 0.01)
    moved = np.concatenate([theta + np.diag(step), theta - np.diag(step)])
    return {
        name: (value[:count] - value[count:]) / (2 * step)
        for name, value in function(moved).items()
    }
