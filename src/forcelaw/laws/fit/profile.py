"""Intervals by profile over runs, beside the jackknife.

For each value of a parameter everything else is refitted, and every run counts as one observation:
the relative rise of the objective times G - P (runs less parameters) is compared with t(G - P)
squared (cf. Venzon & Moolgavkar 1988). So the scale of the errors is the misfit of the law itself,
what its form does not describe included. Quantities that follow from the parameters have the range
that they take along the profiles of all of them.

The jackknife asks how much an estimate hangs on single runs, the profile how much worse the law
describes the runs elsewhere. It need not be symmetric, and does not become short by luck; for what
is read within runs (beta) it is several times too wide where the form is right, because it takes
nothing from the number of checkpoints.
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
from .result import FitResult, Result

SPAN = 6.0  # exponents are followed from 1/SPAN to SPAN times the estimate
POINTS = 61
NO_BOUND = None  # an end where the profile leaves the grid inside the limit


@dataclass
class RunProfile(Result):
    """Intervals of the exponents, the floor and what follows from them: name -> low and high, None
    where the table does not bound it on that side. df: degrees of freedom of the limit."""

    intervals: dict[str, tuple[float | None, float | None]]
    level: float
    df: float

    def __str__(self) -> str:
        parts = []
        for name, ends in self.intervals.items():
            low, high = ("?" if end is None else f"{end:.4g}" for end in ends)
            parts.append(f"{name} [{low}, {high}]")
        return ", ".join(parts)


def profile(
    runs: Any,
    result: FitResult,
    *,
    level: float | None = None,
    cluster: str | None = "run",
    weights: Any = None,
) -> RunProfile:
    """Profile over runs of a fitted law; the settings are those of the fit. FitError where there
    are no more runs than parameters."""
    goal = Objective(result.objective_kind, result.delta)
    problem = build(as_runs(runs), result.law, goal, cluster, weights)
    return profile_over_runs(problem, result, result.level if level is None else level)


def profile_over_runs(problem: Problem, result: FitResult, level: float) -> RunProfile:
    """The profile where the problem is at hand."""
    df = problem.n_clusters - int(problem.free.sum())
    if df < 1:
        raise FitError(
            f"{problem.n_clusters} runs leave no degrees of freedom for a profile",
            where="profile",
            remedy="add runs",
        )
    law, limit = result.law, float(stats.t.ppf(0.5 + level / 2, df) ** 2)
    paths = [
        _path(problem, result.best(), k, df)
        for k in range(law.n_coefficients, law.size)
        if problem.free[k]
    ]
    return RunProfile(_ranges(result, paths, limit), level, df)


@dataclass
class _Path:
    """Optima [P, size] with parameter k held at each of a row of values, and the statistic [P]."""

    k: int
    theta: np.ndarray
    statistic: np.ndarray


def _path(problem: Problem, best: np.ndarray, k: int, df: int) -> _Path:
    """The relative rise of the objective times the degrees of freedom, along parameter k."""
    grid = _grid(problem, best, k)
    free = problem.free.copy()
    free[k] = False
    start = np.tile(best, (len(grid), 1))
    start[:, k] = grid
    found = replace(problem, free=free).solve(start, tolerance=1e-9, iterations=200)
    least = min(float(problem.evaluate(best).value[0]), float(found.value.min()))
    return _Path(k, found.theta, df * (found.value / max(least, 1e-300) - 1.0))


def _grid(problem: Problem, best: np.ndarray, k: int) -> np.ndarray:
    """Internal values of the parameter, the estimate among them."""
    law, value = problem.law, float(best[k])
    low, high = (float(bound[k]) for bound in problem.bounds)
    if law.names[k] == law.floor_name:
        top = 0.999 * float(np.exp(problem.y.min()))
        grid = np.concatenate([np.linspace(0.0, top, POINTS), [value]])
    elif law.names[k] in law.logs or value <= 0:
        grid = value + np.linspace(-3.0, 3.0, POINTS)
    else:
        grid = value * np.geomspace(1 / SPAN, SPAN, POINTS)
    return np.unique(np.clip(grid, low, high))


def _ranges(
    result: FitResult, paths: list[_Path], limit: float
) -> dict[str, tuple[float | None, float | None]]:
    """The range of each quantity over the parts of the paths inside the limit."""
    law = result.law
    seen: dict[str, list[tuple[float | None, float | None]]] = {}
    for path in paths:
        values, derived = result.quantities(path.theta)
        inside, open_ends = _inside(path.statistic, limit)
        for name, many in {**values, **derived}.items():
            if name in law.coefficients or not np.isfinite(many).all():
                continue
            ends = np.interp(inside, np.arange(len(many)), many)
            between = many[int(np.ceil(inside[0])) : int(np.floor(inside[1])) + 1]
            low, high = float(min(*ends, *between)), float(max(*ends, *between))
            own = name == law.names[path.k]
            seen.setdefault(name, []).append(
                (
                    NO_BOUND if own and open_ends[0] else low,
                    NO_BOUND if own and open_ends[1] else high,
                )
            )
    out: dict[str, tuple[float | None, float | None]] = {}
    for name, ends in seen.items():
        lows, highs = zip(*ends)
        out[name] = (
            NO_BOUND if NO_BOUND in lows else min(lows),
            NO_BOUND if NO_BOUND in highs else max(highs),
        )
    if law.floor_name in out:  # the grid of a floor begins at zero
        out[law.floor_name] = out[law.floor_name][0] or 0.0, out[law.floor_name][1]
    return out


def _inside(statistic: np.ndarray, limit: float) -> tuple[np.ndarray, tuple[bool, bool]]:
    """Fractional indices of the two ends of the part of a path inside the limit, and whether it
    goes on beyond the grid there."""
    root, best = np.sqrt(np.maximum(statistic, 0.0)), int(np.argmin(statistic))
    ends, beyond = [], []
    for step in (-1, 1):
        i = best
        while 0 <= i + step < len(statistic) and statistic[i + step] <= limit:
            i += step
        j = i + step
        outside = not 0 <= j < len(statistic)
        beyond.append(outside)
        t = 0.0 if outside else (np.sqrt(limit) - root[i]) / max(root[j] - root[i], 1e-300)
        ends.append(i + step * min(t, 1.0))
    return np.array(ends, float), (beyond[0], beyond[1])
