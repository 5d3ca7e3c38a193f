"""The floor by profile likelihood: its interval may be one-sided, and its upper end is the
informative one.

For each value of the floor everything else is refitted. The rise of the objective is scaled so that
its curvature agrees with the standard error from deleting runs (checkpoints are not independent;
cf. Kent 1982 for robust likelihood ratios), and compared with t(G-1) squared; at zero, a boundary,
the null is half a point mass and half that distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.runs import Runs
from .objective import Objective
from .problem import Problem, build
from .result import FitResult, clean, spread
from .solver import evaluate

POINTS = 61
FAR = 6.0  # the profile is followed until the statistic is this many times what bounds the interval


@dataclass
class Profile:
    """floor [P] and statistic [P] (in units of t squared); low (0 if zero is not excluded) and
    high; p_zero, of a floor of zero; gamma (or the law's exponent) with floor 0, free, and at the
    upper end."""

    floor: np.ndarray
    statistic: np.ndarray
    low: float
    high: float
    p_zero: float
    gamma_zero: float
    gamma_free: float
    gamma_high: float
    level: float
    notes: list[str] = field(default_factory=list)

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0

    def to_dict(self) -> dict[str, Any]:
        return clean(vars(self) | {"excludes_zero": self.excludes_zero})


def profile_floor(
    runs: Runs,
    result: FitResult,
    *,
    level: float | None = None,
    cluster: str | None = "run",
    weights: Any = None,
) -> Profile:
    """Profile of the floor of a fitted law. FitError if its floor was not free."""
    law = result.law
    if not law.free_floor or result.theta is None:
        raise FitError(
            "the floor was not free in this fit",
            where=f"law {law.name}",
            remedy='fit with floor="free"',
        )
    problem = build(runs, law, Objective(result.objective_kind, result.delta), cluster, weights)
    return profile_of(problem, result, result.level if level is None else level)


def profile_of(problem: Problem, result: FitResult, level: float) -> Profile:
    """The profile where the problem is at hand."""
    k = problem.law.n_coefficients
    best = float(result.theta[k])
    lowest = float(np.exp(problem.y.min()))
    scale = _scale(problem, result)
    middle = min(best, lowest)
    near = (
        np.linspace(0.0, 1.0, POINTS // 2) ** 2
    )  # closest together at the best floor, which may be known very well
    parts = [middle + near * (lowest * 0.999 - middle)]
    if middle > 0:
        parts.append(middle * (1.0 - near))
    else:  # the best floor is zero: the interval's upper end may be far below the lowest loss
        parts.append(np.geomspace(lowest * 1e-3, lowest * 0.999, POINTS // 2))
    grid = np.unique(np.concatenate(parts))
    free = problem.free.copy()
    free[k] = False
    problem = replace(problem, free=free)

    def refit(start: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
        theta = start.copy()
        theta[k] = floor
        solution = problem.solve(theta[None], tolerance=1e-10, iterations=100)
        return solution.theta[0], float(solution.value[0])

    df = max(result.n_runs - 1, 1)
    limit = stats.t.ppf(0.5 + level / 2, df) ** 2
    # outward from the best on either side, each value starting where its neighbour ended, until far
    # outside the interval
    fitted, value = {}, {}
    for side in (grid[grid >= best], grid[grid < best][::-1]):
        start = result.theta
        for floor in side:
            start, value[floor] = refit(start, floor)
            fitted[floor] = start
            if 2 * (value[floor] - result.objective) / scale > FAR * limit:
                break
    grid = np.array(sorted(fitted))
    values = np.array([value[floor] for floor in grid])
    statistic = np.maximum(2 * (values - min(values.min(), result.objective)) / scale, 0.0)
    at_low, at_high = _ends(grid, statistic, limit, best)
    at_zero, value_zero = refit(fitted[grid[0]], 0.0)
    drop = max(2 * (value_zero - min(values.min(), result.objective)) / scale, 0.0)
    p_zero = 0.5 * float(stats.f.sf(drop, 1, df)) if drop > 0 else 1.0
    upper = refit(fitted[grid[int(np.argmin(np.abs(grid - at_high)))]], at_high)[0]
    return Profile(
        grid,
        statistic,
        at_low,
        at_high,
        p_zero,
        _exponent(result, at_zero),
        _exponent(result, result.theta),
        _exponent(result, upper),
        level,
    )


def _scale(problem, result: FitResult) -> float:
    """What twice the rise of the objective is divided by: var by deleted runs over var by the
    curvature alone."""
    local = evaluate(
        problem.law,
        problem.x,
        problem.y,
        problem.weights,
        problem.objective,
        result.theta[None],
        problem.free,
    )
    h = 0.5 * (local.safe + local.newton)[0]
    naive = np.diag(np.linalg.pinv(h))
    if result.replicates is None:
        return float(2 * result.objective / max(result.n_rows - len(naive), 1))
    real = spread(result.replicates, result.theta, result.method) ** 2
    k = problem.law.n_coefficients
    if problem.law.floor_name in result.diagnostics.get("bounds_hit", []):
        index = [
            i for i in range(len(naive)) if i != k
        ]  # the floor itself is at its bound: take the others' ratio
        return float(np.median(real[index] / np.maximum(naive[index], 1e-300)))
    return float(real[k] / max(naive[k], 1e-300))


def _ends(
    grid: np.ndarray, statistic: np.ndarray, limit: float, best: float
) -> tuple[float, float]:
    below = np.flatnonzero(statistic <= limit)
    if not len(below):
        return best, best
    first, last = int(below[0]), int(below[-1])

    def cross(i: int, j: int) -> float:
        t = (limit - statistic[i]) / (statistic[j] - statistic[i])
        return float(grid[i] + t * (grid[j] - grid[i]))

    low = float(grid[0]) if first == 0 else cross(first - 1, first)
    high = float(grid[-1]) if last == len(grid) - 1 else cross(last, last + 1)
    return low, high


def _exponent(result: FitResult, theta: np.ndarray) -> float:
    values = result.law.natural(theta, result.centre)
    derived = result.law.derived(values, result.context)
    name = "gamma" if "gamma" in derived else result.law.shapes[0]
    return float({**values, **derived}[name][0])
