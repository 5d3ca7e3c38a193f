"""Do the data show what a law has beyond a plainer one, as a break? If they do not, its parameters
mean nothing.

Where there is no break its place and width can be anything, so that neither the curvature at the
optimum nor an interval of the usual kind says that it is absent: the optimum follows the noise
(Davies 1987). Three things are asked instead, of which all must hold: the break lies inside the
data; its change of slope differs from zero beyond its jackknife error; and the law predicts runs
that it was not fitted to better than the plainer law does (each run is left out in turn, which is
what the jackknife does anyway), by more than chance between runs would give.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from ..forms.base import Law
from . import intervals
from .multistart import optimise
from .problem import Problem
from .result import spread

LEVEL = 0.95


def not_shown(problem: Problem, theta: np.ndarray, draws: np.ndarray | None = None) -> str:
    """Why what ``problem.law`` has beyond its plainer law is not shown by the data; empty if it is,
    or if there is no such law, or if it was given (fixed). ``draws``: refits [G, P] without each
    run, if there are any already."""
    law = problem.law
    found = law.plainer()
    if found is None or not law.change or law.change in problem.fixed:
        return ""
    simple, names = found
    reason = law.unseen(theta, problem.x)
    if reason:
        return reason
    if draws is None:
        draws = intervals.jackknife(problem, theta)[0]
    k = law.names.index(law.change)
    se = float(spread(draws[:, k], theta[k], "jackknife"))
    beyond = stats.t.ppf(0.5 + LEVEL / 2, problem.n_clusters - 1)
    if not abs(theta[k]) > beyond * se:
        return (
            f"{law.change} = {theta[k]:.3g} with a standard error of {se:.2g}: the data do not show"
            f" that the slope changes, so its break is not known; fit {simple.name}, or add runs on"
            " both sides of where it should be"
        )
    gain = _predicted_better(problem, draws, simple, names)
    if not gain.sum() > beyond * np.sqrt(len(gain)) * gain.std(ddof=1):
        return (
            "left-out runs are not predicted surely better with the change of slope than by"
            f" {simple.name} without it: the data do not show it; fit {simple.name}, or add runs on"
            " both sides of where it should be"
        )
    return ""


def _predicted_better(
    problem: Problem, draws: np.ndarray, simple: Law, names: dict[str, str]
) -> np.ndarray:
    """For each run [G], by how much the objective of its points is lower by the law fitted without
    the run than by the plainer law fitted without it."""
    fixed = {names[name]: value for name, value in problem.fixed.items() if name in names}
    other = replace(
        problem,
        law=simple,
        bounds=simple.all_bounds(problem.x, problem.y),
        fixed=fixed,
        free=np.array([name not in fixed for name in simple.names]),
    )
    if any(name in simple.coefficients for name in fixed):  # as in problem.build
        other.bounds[0][0], other.bounds[1][0] = -1000.0, 1000.0
    other, best, _ = optimise(other)
    refits = intervals.jackknife(other, best)[0]
    gain = np.zeros(problem.n_clusters)
    order = np.argsort(problem.cluster, kind="stable")
    for g, rows in enumerate(
        np.split(order, np.searchsorted(problem.cluster[order], np.arange(1, len(gain))))
    ):
        x = {role: value[rows] for role, value in problem.x.items()}
        rho = [
            problem.objective.rho(
                law.residuals(theta[None], x, problem.y[rows], jacobian=False)[0][0]
            )
            for law, theta in ((simple, refits[g]), (problem.law, draws[g]))
        ]
        gain[g] = float(
            ((rho[0] - rho[1]) * (1.0 if problem.weights is None else problem.weights[rows])).sum()
        )
    return gain
