"""Fit a law to a table of runs: starts, refinement, proof of the optimum, intervals."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..forms import make
from ..forms.base import Floor, Law
from ..inputs import as_runs
from . import intervals
from . import problem as problems
from .break_test import not_shown
from .floor_profile import profile_of
from .multistart import optimise
from .objective import Objective, objective_of
from .problem import Problem
from .residuals import residual_summary
from .result import AT_BOUND, NOT_CONVERGED, NOT_IDENTIFIED, OK, REFUSED, Estimate, FitResult
from .small_sample import MOST_RUNS, SmallSample

if TYPE_CHECKING:
    from .averaging import Averaged

# condition number of the scaled curvature beyond which parameters cannot be told apart
SINGULAR = 1e13
# of the objective of a constant loss, below which a law says nothing about the table
LEAST_EXPLAINED = 0.2
BOOTSTRAP_FROM = 50  # runs from which a nearly absolute loss gets bootstrap intervals
METHODS = ("auto", "jackknife", "bootstrap", "none")


@overload
def fit(runs: Any, law: Literal["auto"], **settings: Any) -> Averaged: ...


@overload
def fit(
    runs: Any,
    law: str | type[Law] | Law = ...,
    objective: str | Objective = ...,
    delta: float | None = ...,
    **settings: Any,
) -> FitResult: ...


def fit(
    runs: Any,
    law: str | type[Law] | Law = "surface",
    objective: str | Objective = "huber",
    delta: float | None = None,
    *,
    cluster: str | None = "run",
    floor: Floor | None = None,
    weights: str | np.ndarray | None = None,
    interval: str = "auto",
    level: float = 0.95,
    resamples: int = intervals.DRAWS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    **options: Any,
) -> FitResult | Averaged:
    """Fit ``law`` to a table of runs; with "auto" the forms compete, and numbers are averaged over
    those that stand (:func:`forcelaw.laws.fit.averaging.average`).

    runs: :class:`forcelaw.Runs`, a path, a DataFrame or a dict of columns; one row is one
        evaluation. All architectures of it are fitted as one.
    law: a name (see :data:`forcelaw.laws.forms.LAWS`), an import path ``module:Class``, or a law.
    objective: of r = ln Lhat - ln L: huber, log, relative or linear. delta: where Huber's loss
        turns linear, in ln L; None: 1.345 robust standard deviations of the residuals.
    cluster: what is deleted or resampled for the intervals: run, config, seed or None (every row).
    floor: "free", "zero" or a value in the unit of the loss; None: the law's own default.
    weights: None, "run" (every run counts the same), "column", or an array [rows].
    interval: auto, jackknife, bootstrap or none; level: of the intervals.
    resamples, seed: of the bootstrap. fixed: parameters held at values. options: those of the law,
        e.g. ``x="d"``.

    A design that cannot carry the fit gives status "refused" with the reason. Unknown names, and
    tables that cannot be read, raise FitError.

    Source: Huber's loss on ln L follows Hoffmann et al. (2022), arXiv 2203.15556, appendix D.2.
    """
    runs = as_runs(runs)
    if not 0.5 <= level < 1:
        raise FitError(
            f"the level of an interval is {level}", where="level", remedy="give e.g. 0.95"
        )
    if interval not in METHODS:
        raise FitError(
            f"intervals by {interval!r} are not known",
            where="interval",
            remedy=f"use {', '.join(METHODS)}",
        )
    if law == "auto":
        from .averaging import average  # which fits each form with this function

        if fixed:
            raise FitError("parameters of forms that compete cannot be fixed", where="law auto")
        settings: dict[str, Any] = {"objective": objective, "delta": delta}
        settings |= {"cluster": cluster, "weights": weights}
        return average(runs, floor=floor, level=level, seed=seed, **settings, **options)
    form = make(law, floor, **options)
    goal = objective_of(objective, delta)
    problem = problems.build(runs, form, goal, cluster, weights, dict(fixed or {}))
    result = FitResult(
        form,
        REFUSED,
        objective_kind=goal.kind,
        delta=goal.delta,
        level=level,
        n_rows=len(runs),
        n_runs=problem.n_clusters if len(runs) else 0,
        centre=problem.centre,
        table={"source": runs.source, "taken": dict(runs.taken), "notes": list(runs.notes)},
    )
    result.message = problems.refusal(runs, form, problem.cluster, int(problem.free.sum()))
    if not result.message and form.size and not problem.free.any():
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
    if result.ok:
        draws = result.replicates if result.method == "jackknife" else None
        reason = not_shown(problem, theta, draws)
        if reason:
            result.status, result.message = NOT_IDENTIFIED, reason


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
            f"the parameters cannot be told apart (condition number {condition:.1e})",
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
        level = np.round(np.log(runs[role]) / problems.SAME_LEVEL)
        code = np.unique(level, return_inverse=True)[1].ravel()
        if len(np.unique(code)) > 50:
            continue  # with so many levels no draw loses them
        table = np.zeros((problem.n_clusters, code.max() + 1), bool)
        table[problem.cluster, code] = True
        tables.append(table)

    def enough(counts: np.ndarray) -> bool:
        least = problem.law.levels
        return all(int(table[counts > 0].any(axis=0).sum()) >= least for table in tables)

    return enough if tables else None
