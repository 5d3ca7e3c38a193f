"""The floor by profile likelihood: its interval may be one-sided, and its upper end is the
informative one.

For each value of the floor everything else is refitted. The rise of the objective is scaled so that
its curvature agrees with the standard error from deleting runs (checkpoints are not independent;
cf. Kent 1982 for robust likelihood ratios), and compared with t(G-1) squared; at zero, a boundary,
the null is half a point mass and half that distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ..inputs import as_runs
from .objective import Objective
from .problem import Problem, build
from .result import FitResult, Result, records, spread

POINTS = 61
EXACT = 1e-24  # variance of ln L: losses made from the law without noise differ by rounding alone
FOLLOWED = (
    6.0  # the profile is followed until the statistic is this many times what bounds the interval
)


@dataclass
class Profile(Result):
    """The profile of a floor E.

    floor [P] (in the unit of the loss) and statistic [P], the rise of the objective in units of t
    squared; low (0 if zero is not excluded) and high; p_zero, of a floor of zero; gamma (or the
    law's exponent) with floor 0, free, and at the upper end. limit: the statistic at the ends of
    the interval.
    """

    floor: np.ndarray
    statistic: np.ndarray
    low: float
    high: float
    p_zero: float
    gamma_zero: float
    gamma_free: float
    gamma_high: float
    level: float
    limit: float
    also = ("excludes_zero",)

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0

    @property
    def rise(self) -> np.ndarray:
        """The statistic [P] in units of what bounds the interval: 1 at its ends."""
        return self.statistic / self.limit

    def rows(self) -> list[dict[str, Any]]:
        """One row for each value of the floor."""
        return records({"floor": self.floor, "statistic": self.statistic, "rise": self.rise})


def profile_floor(
    runs: Any,
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
    goal = Objective(result.objective_kind, result.delta)
    problem = build(as_runs(runs), law, goal, cluster, weights)
    return profile_of(problem, result, result.level if level is None else level)


def profile_of(problem: Problem, result: FitResult, level: float) -> Profile:
    """The profile where the problem is at hand."""
    k, theta = problem.law.n_coefficients, result.best()
    best, scale = float(theta[k]), max(_scale(problem, result), EXACT)
    free = problem.free.copy()
    free[k] = False
    held = replace(problem, free=free)

    def refit(start: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
        begin = start.copy()
        begin[k] = floor
        solution = held.solve(begin[None], tolerance=1e-10, iterations=100)
        return solution.theta[0], float(solution.value[0])

    df = max(result.n_runs - 1, 1)
    limit = float(stats.t.ppf(0.5 + level / 2, df) ** 2)
    # outward from the best on either side, each value starting where its neighbour ended, until far
    # outside the interval
    grid = _grid(best, float(np.exp(problem.y.min())))
    fitted, value = {}, {}
    for side in (grid[grid >= best], grid[grid < best][::-1]):
        start = theta
        for floor in side:
            start, value[floor] = refit(start, floor)
            fitted[floor] = start
            if 2 * (value[floor] - result.objective) / scale > FOLLOWED * limit:
                break
    grid = np.array(sorted(fitted))
    values = np.array([value[floor] for floor in grid])
    least = min(values.min(), result.objective)
    statistic = np.maximum(2 * (values - least) / scale, 0.0)
    low, high = _ends(grid, statistic, limit, best)
    at_zero, value_zero = refit(fitted[grid[0]], 0.0)
    drop = max(2 * (value_zero - least) / scale, 0.0)
    p_zero = 0.5 * float(stats.f.sf(drop, 1, df)) if drop > 0 else 1.0
    upper = refit(fitted[grid[int(np.argmin(np.abs(grid - high)))]], high)[0]
    zero, as_fitted, most = (_exponent(result, at) for at in (at_zero, theta, upper))
    return Profile(grid, statistic, low, high, p_zero, zero, as_fitted, most, level, limit)


def _grid(best: float, lowest: float) -> np.ndarray:
    """Values of the floor, closest together at the best one, which may be known very well."""
    middle = min(best, lowest)
    near = np.linspace(0.0, 1.0, POINTS // 2) ** 2
    if middle > 0:
        under = middle * (1.0 - near)
    else:  # the best floor is zero: the interval's upper end may be far below the lowest loss
        under = np.geomspace(lowest * 1e-3, lowest * 0.999, POINTS // 2)
    return np.unique(np.concatenate([middle + near * (lowest * 0.999 - middle), under]))


def _scale(problem: Problem, result: FitResult) -> float:
    """What twice the rise of the objective is divided by: var by deleted runs over var by the
    curvature alone."""
    local = problem.evaluate(result.best())
    naive = np.diag(np.linalg.pinv(0.5 * (local.safe + local.newton)[0]))
    if result.replicates is None:
        return float(2 * result.objective / max(result.n_rows - len(naive), 1))
    real = spread(result.replicates, result.best(), result.method) ** 2
    k = problem.law.n_coefficients
    if problem.law.floor_name in result.diagnostics.get("bounds_hit", []):
        # the floor itself is at its bound: take the others' ratio
        index = [i for i in range(len(naive)) if i != k]
        return float(np.median(real[index] / np.maximum(naive[index], 1e-300)))
    return float(real[k] / max(naive[k], 1e-300))


def _ends(
    grid: np.ndarray, statistic: np.ndarray, limit: float, best: float
) -> tuple[float, float]:
    inside = np.flatnonzero(statistic <= limit)
    if not len(inside):
        return best, best
    first, last = int(inside[0]), int(inside[-1])

    def cross(i: int, j: int) -> float:
        t = (limit - statistic[i]) / (statistic[j] - statistic[i])
        return float(grid[i] + t * (grid[j] - grid[i]))

    low = float(grid[0]) if first == 0 else cross(first - 1, first)
    high = float(grid[-1]) if last == len(grid) - 1 else cross(last, last + 1)
    return low, high


def _exponent(result: FitResult, theta: np.ndarray) -> float:
    values, derived = result.quantities(theta)
    name = "gamma" if "gamma" in derived else result.law.shapes[0]
    return float({**values, **derived}[name][0])
