"""One law on one table: its optimum, the verdict on it, estimates and intervals."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.runs import Runs
from ..forms.base import Law
from . import intervals
from . import problem as problems
from .break_test import not_shown
from .floor_profile import profile_of
from .multistart import optimise
from .objective import Objective
from .outlying import outlying
from .problem import Problem
from .residuals import residual_summary
from .result import (
    AT_BOUND,
    NOT_CONVERGED,
    NOT_IDENTIFIED,
    OK,
    REFUSED,
    Estimate,
    FitResult,
    spread,
)
from .small_sample import MOST_RUNS, SmallSample

# condition number of the scaled curvature beyond which parameters cannot be distinguished
SINGULAR = 1e13
# of the objective of a constant loss, below which a law says nothing about the table
LEAST_EXPLAINED = 0.2
# what a floor at its bound is
MISFIT, NOT_DETERMINED = "misfit", "not determined"
BOOTSTRAP_FROM = 50  # runs from which a nearly absolute loss gets bootstrap intervals


def fit_one(
    runs: Runs,
    law: Law,
    goal: Objective,
    *,
    cluster: str | None,
    weights: str | np.ndarray | None,
    interval: str,
    level: float,
    resamples: int = intervals.DRAWS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
) -> FitResult:
    """Fit ``law``; the settings are those of :func:`forcelaw.fit`."""
    if not 0.5 <= level < 1:
        raise FitError(
            f"the level of an interval is {level}", where="level", remedy="give e.g. 0.95"
        )
    problem = problems.build(runs, law, goal, cluster, weights, dict(fixed or {}))
    result = FitResult(
        law,
        REFUSED,
        objective_kind=goal.kind,
        delta=goal.delta,
        level=level,
        n_rows=len(runs),
        n_runs=problem.n_clusters if len(runs) else 0,
        centre=problem.centre,
        table={"source": runs.source, "taken": dict(runs.taken), "notes": list(runs.notes)},
    )
    result.message = problems.refusal(runs, law, problem.cluster, int(problem.free.sum()))
    if not result.message and law.size and not problem.free.any():
        result.message = "every parameter is fixed: there is nothing to fit"
    if not result.message:
        _solve(result, problem, runs, interval, resamples, seed)
    return result


def _solve(
    result: FitResult, problem: Problem, runs: Runs, interval: str, resamples: int, seed: int
) -> None:
    """The optimum, its verdict, estimates and intervals, put into ``result``."""
    result.context = result.law.context(runs)
    problem, theta, certificate = optimise(problem)
    result.theta, result.delta = theta, problem.objective.delta
    result.objective = certificate.pop("objective")
    result.status, result.message = _verdict(problem, theta, certificate)
    result.diagnostics = certificate | residual_summary(problem, theta)
    result.diagnostics["fixed"] = sorted(problem.fixed)
    values, derived = result.quantities(theta)
    if result.law.floor_name in certificate["bounds_hit"]:
        values[result.law.floor_name] = np.zeros(1)
    result.parameters = {name: Estimate(float(value[0])) for name, value in values.items()}
    result.derived = {name: Estimate(float(value[0])) for name, value in derived.items()}
    if interval != "none" and result.status != NOT_CONVERGED:
        _intervals(result, problem, runs, interval, resamples, seed)
        _judge_floor(result)
    if result.ok:
        draws = result.replicates if result.method == "jackknife" else None
        reason = not_shown(problem, theta, draws)
        if reason:
            result.status, result.message = NOT_IDENTIFIED, reason
    if result.ok and interval != "none":
        refits = result.replicates if result.method == "jackknife" else None
        result.outlying = outlying(problem, theta, _cluster_names(problem, runs), refits)


def _cluster_names(problem: Problem, runs: Runs) -> list[str]:
    """Of the units that are deleted: the run, or the first and the number of the others."""
    names = []
    for g in range(problem.n_clusters):
        rows = np.flatnonzero(problem.cluster == g)
        inside = [runs.run_names[i] for i in dict.fromkeys(runs.run[rows].tolist())]
        more = f" and {len(inside) - 1} more of its cluster" if len(inside) > 1 else ""
        names.append(inside[0] + more)
    return names


# -- status --------------------------------------------------------------------------------------


def _verdict(problem: Problem, theta: np.ndarray, certificate: dict[str, Any]) -> tuple[str, str]:
    """Status and message from the certificate."""
    law, hit = problem.law, certificate["bounds_hit"]
    floored = law.floor_name in hit
    exponents = [name for name in law.names if name in ("alpha", "beta", "gamma")]
    rising = [name for name in exponents if theta[law.names.index(name)] <= 1e-3]
    others = [name for name in hit if name != law.floor_name and name not in law.soft]
    condition, explained = certificate["condition_number"], certificate["explained"]
    if rising:
        names = ", ".join(rising)
        return NOT_IDENTIFIED, f"{names} is not positive: the loss does not fall as the law says"
    if not certificate["converged"] and certificate["gradient"] > 1e-5:
        gradient = certificate["gradient"]
        return NOT_CONVERGED, f"no optimum was reached (scaled gradient {gradient:.2g})"
    if others:
        names = ", ".join(dict.fromkeys(others))
        return NOT_IDENTIFIED, f"{names} ran to a bound: the table does not determine it"
    if condition > SINGULAR and not floored and not set(hit) & set(law.soft):
        return (
            NOT_IDENTIFIED,
            f"the parameters cannot be distinguished (condition number {condition:.1e})",
        )
    if explained < LEAST_EXPLAINED:
        return (
            NOT_IDENTIFIED,
            "the law describes the losses hardly better than a constant would (it takes off"
            f" {max(explained, 0.0):.0%} of the objective): they do not follow it",
        )
    said = []
    if floored:
        said.append("the floor is at its bound of zero: the losses show no floor yet")
    elif certificate["starts_agreeing"] < 2 and certificate["starts"] > 2:
        said.append(
            f"only {certificate['starts_agreeing']} of {certificate['starts']} starts reached the"
            " best optimum"
        )
    said += [
        f"{name} ran to its {_end(problem, theta, name)} end: the table does not bound it on"
        " that side"
        for name in hit
        if name in law.soft
    ]
    return AT_BOUND if floored else OK, "; ".join(said)


def _judge_floor(result: FitResult) -> None:
    """What a floor at its bound of zero means: that it is not determined, or, where it is surely
    negative without the bound, that the law does not fit (and zero is no estimate of it)."""
    law, name = result.law, result.law.floor_name
    if name not in result.diagnostics["bounds_hit"] or not result.method.startswith("jackknife"):
        return
    floor, k = result.parameters[name], law.n_coefficients
    below, draws = result.free_theta, result.free_replicates
    if below is not None and draws is not None:
        value, se = float(below[k]), float(spread(draws[:, k], below[k], "jackknife"))
        reach = stats.t.ppf(0.5 + result.level / 2, max(result.n_runs - 1, 1))
        result.diagnostics["floor_unbounded"] = {"value": value, "se": se}
        if value + reach * se < 0:
            said = f"it would be {value:.3g} +- {se:.2g} without it"
        else:
            said = ""
    else:
        said = "it runs away below zero without it"
    if said:
        result.diagnostics["floor"] = MISFIT
        floor.se = floor.low = floor.high = None
        floor.method = MISFIT
        text = f"the floor is at its bound of zero, and {said}: a misfit of this law, not a floor"
    else:
        result.diagnostics["floor"] = NOT_DETERMINED
        high = "?" if floor.high is None else f"{floor.high:.3g}"
        text = (
            f"the floor is at its bound of zero: not determined, anything up to {high} is as good"
        )
    first = result.message.split("; ")[1:] if result.status == AT_BOUND else [result.message]
    result.message = "; ".join([text, *filter(None, first)])


def _end(problem: Problem, theta: np.ndarray, name: str) -> str:
    i = problem.law.names.index(name)
    return "upper" if theta[i] > 0.5 * (problem.bounds[0][i] + problem.bounds[1][i]) else "lower"


# -- intervals -----------------------------------------------------------------------------------


def _intervals(
    result: FitResult, problem: Problem, runs: Runs, interval: str, resamples: int, seed: int
) -> None:
    law, groups, theta = result.law, problem.n_clusters, result.best()
    floored = law.floor_name in result.diagnostics["bounds_hit"]
    if interval == "auto":
        absolute = result.diagnostics["share_inside_delta"] < 0.4
        costly = len(runs) * resamples > 2e8
        resample = groups >= BOOTSTRAP_FROM and absolute and not costly
        interval = "bootstrap" if resample else "jackknife"
    if interval == "jackknife":
        draws, failed, method = intervals.jackknife(problem, theta)
        context = law.context(runs, problem.cluster)
        k = law.n_coefficients
        if law.free_floor and problem.free[k] and (floored or (draws[:, k] <= 0).any()):
            below, draws_below, _ = intervals.below_zero(problem, theta)
            if below is not None:
                result.free_theta, result.free_replicates = below, draws_below
    else:
        enough = _enough(problem, runs)
        draws, failed = intervals.bootstrap(problem, theta, resamples, seed, enough)
        unit = "rows" if groups == len(runs) else "runs"
        method = f"bootstrap of {groups} {unit}, {resamples} draws"
        context = result.context
    centre = theta if result.free_theta is None else result.free_theta
    if interval == "jackknife" and groups <= MOST_RUNS:
        result.small = SmallSample(problem, centre)
    ceiling = float(np.exp((problem.y - problem.residuals(centre)).min()))
    attach(result, draws, method, context, ceiling)
    result.diagnostics["refits_not_converged"] = failed
    floor = result.parameters[law.floor_name]
    if floored and result.ok and (floor.high is None or floor.high <= 0):
        floor.low, floor.method = 0.0, "profile"
        floor.high = profile_of(problem, result, result.level).high
    if groups < 8:
        result.diagnostics["warning"] = (
            f"only {groups} runs: intervals rest on {groups - 1} degrees of freedom or fewer"
        )


def attach(
    result: FitResult,
    draws: np.ndarray,
    method: str,
    context: dict[str, Any] | None = None,
    ceiling: float | None = None,
) -> None:
    """Put intervals made from the refits ``draws`` [R, P] into a result; ``context`` is the law's
    for each refit, ``ceiling`` the lowest fitted loss."""
    result.replicates, result.method = draws, method
    theta, draws = result.sample()
    values = result.law.natural(draws, result.centre)
    derived = result.law.derived(values, result.context if context is None else context)
    point, point_derived = result.quantities(theta)
    reference = intervals.references(result, lambda many: dict(ChainMap(*result.quantities(many))))
    own = {*result.law.names, *result.law.tied}
    held = set(values) - own | set(result.diagnostics.get("fixed", []))
    ends = set(result.diagnostics.get("bounds_hit", [])) & set(result.law.soft)
    for target, many, one in (
        (result.parameters, values, point),
        (result.derived, derived, point_derived),
    ):
        for name in target:
            constant = np.ptp(many[name]) == 0 and many[name][0] == one[name][0]
            if constant or name in held:  # it was fixed, or follows from what was
                target[name].method = "given"
                continue
            target[name] = intervals.estimate(
                name,
                target[name].value,
                many[name],
                method=method,
                level=result.level,
                floor_name=result.law.floor_name,
                reference=reference[name],
                about=float(one[name][0]),
                ceiling=ceiling,
            )
            # at its end a shape does not move when runs are deleted: that is no certainty
            if name in ends:
                target[name].se = None
                if method.startswith("jackknife"):
                    target[name] = replace(target[name], low=None, high=None)


def _enough(problem: Problem, runs: Runs) -> Callable[[np.ndarray], bool] | None:
    """Whether a draw of runs still has the least number of levels of each role."""
    tables = []
    for role in problem.law.roles:
        code = problems.level_of(runs[role])
        if code.max() >= 50:
            continue  # with so many levels no draw loses them
        table = np.zeros((problem.n_clusters, code.max() + 1), bool)
        table[problem.cluster, code] = True
        tables.append(table)

    def enough(counts: np.ndarray) -> bool:
        least = problem.law.levels
        return all(int(table[counts > 0].any(axis=0).sum()) >= least for table in tables)

    return enough if tables else None
