"""Fit a law to a table of runs: starts, refinement, proof of the optimum, intervals."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..forms import make
from ..forms.base import Floor, Law
from . import intervals
from . import problem as problems
from .break_test import not_shown
from .floor_profile import profile_of
from .multistart import optimise
from .objective import ALIASES, Objective
from .problem import Problem
from .result import AT_BOUND, NOT_CONVERGED, NOT_IDENTIFIED, OK, REFUSED, Estimate, FitResult
from .small_sample import MOST_RUNS, SmallSample

SINGULAR = (
    1e13  # condition number of the scaled curvature beyond which parameters are not told apart
)
LEAST_EXPLAINED = (
    0.2  # of the objective of a constant loss, below which a law says nothing about the table
)
BOOTSTRAP_FROM = 50  # runs from which a nearly absolute loss gets bootstrap intervals


def fit(
    runs: Runs | Any,
    law: str | Law = "surface",
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
) -> FitResult:
    """Fit ``law`` to ``runs``.

    objective: huber (``delta`` None: 1.345 robust standard deviations of the residuals), log,
    relative or linear. cluster: what is deleted or resampled for the intervals: run, config, seed
    or None (every row). floor: "free", "zero" or a value. weights: None, "run", "column" or an
    array [rows]. interval: auto, jackknife, bootstrap or none. fixed: parameters held at values.
    options: those of the law (x="d").

    A design that cannot carry the fit gives status "refused" with the reason; unknown names raise
    FitError.
    """
    if not isinstance(runs, Runs):
        runs = Runs.from_frame(runs)
    if not 0.5 <= level < 1:
        raise FitError(
            f"the level of an interval is {level}", where="level", remedy="give e.g. 0.95"
        )
    form = make(law, floor, **options)
    goal = _objective(objective, delta)
    problem = problems.build(runs, form, goal, cluster, weights, dict(fixed or {}))
    base = FitResult(
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
    reason = problems.refusal(runs, form, problem.cluster, int(problem.free.sum()))
    if reason:
        return replace(base, message=reason)
    if form.size and not problem.free.any():
        return replace(base, message="every parameter is fixed: there is nothing to fit")
    base.context = form.context(runs)
    problem, theta, certificate = optimise(problem)
    result = replace(
        base, theta=theta, delta=problem.objective.delta, objective=certificate["objective"]
    )
    _judge(result, problem, certificate)
    result.diagnostics |= residual_summary(problem, theta) | {"fixed": sorted(problem.fixed)}
    _point_estimates(result)
    _intervals(result, problem, runs, interval, resamples, seed)
    if result.ok:
        reason = not_shown(
            problem, theta, result.replicates if result.method == "jackknife" else None
        )
        if reason:
            result.status, result.message = NOT_IDENTIFIED, reason
    return result


def _objective(objective: str | Objective, delta: float | None) -> Objective:
    if isinstance(objective, Objective):
        return objective
    kind = objective.strip().lower().replace("-", "_")
    return Objective(ALIASES.get(kind, kind), delta)


# -- status ----------------------------------------------------------------------------------------------------------


def _judge(result: FitResult, problem: Problem, certificate: dict[str, Any]) -> None:
    """Status and message from the certificate."""
    law, theta = problem.law, result.theta
    hit = certificate["bounds_hit"]
    result.diagnostics.update(
        {key: value for key, value in certificate.items() if key != "objective"}
    )
    rising = [
        name
        for i, name in enumerate(law.names)
        if name in ("alpha", "beta", "gamma") and theta[i] <= 1e-3
    ]
    others = [name for name in hit if name != law.floor_name and name not in law.soft]
    floored = law.floor_name in hit
    if rising:
        result.status = NOT_IDENTIFIED
        result.message = (
            f"{', '.join(rising)} is not positive: the loss does not fall as the law says"
        )
    elif not certificate["converged"] and certificate["gradient"] > 1e-5:
        result.status = NOT_CONVERGED
        result.message = f"no optimum was reached (scaled gradient {certificate['gradient']:.2g})"
    elif others:
        result.status = NOT_IDENTIFIED
        names = ", ".join(dict.fromkeys(others))
        result.message = f"{names} ran to a bound: the table does not determine it"
    elif (
        certificate["condition_number"] > SINGULAR and not floored and not set(hit) & set(law.soft)
    ):
        result.status = NOT_IDENTIFIED
        result.message = (
            "the parameters cannot be told apart (condition number "
            f"{certificate['condition_number']:.1e})"
        )
    elif certificate["explained"] < LEAST_EXPLAINED:
        result.status = NOT_IDENTIFIED
        result.message = (
            "the law describes the losses hardly better than a constant would (it takes off "
            f"{max(certificate['explained'], 0.0):.0%} of the objective): they do not follow it"
        )
    elif floored:
        result.status = AT_BOUND
        result.message = "the floor is at its bound of zero: the losses show no floor yet"
    else:
        result.status = OK
        if certificate["starts_agreeing"] < 2 and certificate["starts"] > 2:
            result.message = (
                f"only {certificate['starts_agreeing']} of {certificate['starts']} starts reached"
                " the best optimum"
            )
    if result.ok:
        ends = [
            f"{name} ran to its {_end(problem, theta, name)} end: the table does not bound it on"
            " that side"
            for name in hit
            if name in law.soft
        ]
        result.message = "; ".join(filter(None, [result.message, *ends]))


def _end(problem: Problem, theta: np.ndarray, name: str) -> str:
    i = problem.law.names.index(name)
    return "upper" if theta[i] > 0.5 * (problem.bounds[0][i] + problem.bounds[1][i]) else "lower"


# -- estimates -----------------------------------------------------------------------------------------------------


def quantities(
    result: FitResult, theta: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Named parameters and derived quantities [B] of theta [B, P]."""
    values = result.law.natural(theta, result.centre)
    return values, result.law.derived(values, result.context)


def _point_estimates(result: FitResult) -> None:
    values, derived = quantities(result, result.theta)
    if result.law.floor_name in result.diagnostics["bounds_hit"]:
        values[result.law.floor_name] = np.zeros(1)
    result.parameters = {name: Estimate(float(value[0])) for name, value in values.items()}
    result.derived = {name: Estimate(float(value[0])) for name, value in derived.items()}


def _intervals(
    result: FitResult, problem: Problem, runs: Runs, interval: str, resamples: int, seed: int
) -> None:
    if interval not in ("auto", "jackknife", "bootstrap", "none"):
        raise FitError(
            f"intervals by {interval!r} are not known",
            where="interval",
            remedy="use auto, jackknife, bootstrap or none",
        )
    if interval == "none" or result.status == NOT_CONVERGED:
        return
    groups = problem.n_clusters
    if interval == "auto":
        inside = result.diagnostics["share_inside_delta"]
        costly = len(runs) * resamples > 2e8
        interval = (
            "bootstrap" if groups >= BOOTSTRAP_FROM and inside < 0.4 and not costly else "jackknife"
        )
    if interval == "jackknife":
        draws, failed, method = intervals.jackknife(problem, result.theta)
    else:
        draws, failed = intervals.bootstrap(
            problem, result.theta, resamples, seed, _enough(problem, runs)
        )
        method = (
            f"bootstrap of {groups} {'rows' if groups == len(runs) else 'runs'}, {resamples} draws"
        )
    context = (
        result.law.context(runs, problem.cluster) if interval == "jackknife" else result.context
    )
    k, floored = (
        result.law.n_coefficients,
        result.law.floor_name in result.diagnostics["bounds_hit"],
    )
    if (
        interval == "jackknife"
        and result.law.free_floor
        and problem.free[k]
        and (floored or (draws[:, k] <= 0).any())
    ):
        below, draws_below, _ = intervals.below_zero(problem, result.theta)
        if below is not None:
            result.free_theta, result.free_replicates = below, draws_below
    centre = result.theta if result.free_theta is None else result.free_theta
    if interval == "jackknife" and groups <= MOST_RUNS:
        result.small = SmallSample(problem, centre)
    attach(
        result, draws, method, context, float(np.exp((problem.y - problem.residuals(centre)).min()))
    )
    result.diagnostics["refits_not_converged"] = failed
    floor = result.parameters[result.law.floor_name]
    if floored and result.ok and (floor.high is None or floor.high <= 0):
        floor.low, floor.high, floor.method = (
            0.0,
            profile_of(problem, result, result.level).high,
            "profile",
        )
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
    point, point_derived = quantities(result, theta)
    kind = "jackknife" if method.startswith("jackknife") else method
    reference = intervals.references(result, lambda many: dict(ChainMap(*quantities(result, many))))
    named = {*result.law.names, *result.law.tied}
    held = set(values) - named | set(result.diagnostics.get("fixed", []))
    ends = set(result.diagnostics.get("bounds_hit", [])) & set(result.law.soft)
    for target, many, one in (
        (result.parameters, values, point),
        (result.derived, derived, point_derived),
    ):
        for name in target:
            if float(np.ptp(many[name])) == 0 and float(many[name][0]) == float(one[name][0]):
                target[name].method = "given"  # follows from what was fixed
                continue
            if name in held:
                target[name].method = "given"
                continue
            target[name] = intervals.estimate(
                name,
                target[name].value,
                many[name],
                method=kind,
                level=result.level,
                floor_name=result.law.floor_name,
                reference=reference[name],
                about=float(one[name][0]),
                ceiling=ceiling,
            )
            if (
                name in ends
            ):  # at its end a shape does not move when runs are deleted: that is no certainty
                target[name] = replace(
                    target[name],
                    se=None,
                    **({"low": None, "high": None} if kind == "jackknife" else {}),
                )


def _enough(problem: Problem, runs: Runs):
    """Whether a draw of runs still has the least number of levels of each role."""
    tables = []
    for role in problem.law.roles:
        code = np.unique(np.round(np.log(runs[role]) / problems.SAME_LEVEL), return_inverse=True)[
            1
        ].ravel()
        if len(np.unique(code)) > 50:
            continue  # with so many levels no draw loses them
        table = np.zeros((problem.n_clusters, code.max() + 1), bool)
        table[problem.cluster, code] = True
        tables.append(table)

    def enough(counts: np.ndarray) -> bool:
        return all(
            int(table[counts > 0].any(axis=0).sum()) >= problem.law.levels for table in tables
        )

    return enough if tables else None


def residual_summary(problem: Problem, theta: np.ndarray) -> dict[str, Any]:
    """Size of the residuals, between and within runs, and how alike those of one run are.

    The two variances are those of the one-way analysis (method of moments), with the parameters
    charged to the runs.
    """
    r = problem.residuals(theta)
    groups, n = problem.n_clusters, len(r)
    size = np.bincount(problem.cluster, minlength=groups)
    mean = np.bincount(problem.cluster, r, groups) / size
    free = int(problem.free.sum())
    delta = problem.objective.delta
    out: dict[str, Any] = {
        "residual_sd": float(np.sqrt((r**2).sum() / max(n - free, 1))),
        "residual_mad_sd": float(1.4826 * np.median(np.abs(r))),
        "share_inside_delta": float((np.abs(r) <= delta).mean()) if delta else 1.0,
    }
    if groups == n:
        return out | {
            "sd_between_runs": 0.0,
            "sd_within_runs": out["residual_sd"],
            "residual_correlation": 0.0,
            "autocorrelation": 0.0,
        }
    within = float(((r - mean[problem.cluster]) ** 2).sum()) / max(n - groups, 1)
    between = float((size * mean**2).sum()) / max(groups - free, 1)
    typical = (n - float((size**2).sum()) / n) / max(groups - 1, 1)
    var_run = max((between - within) / max(typical, 1e-12), 0.0)
    return out | {
        "sd_between_runs": float(np.sqrt(var_run)),
        "sd_within_runs": float(np.sqrt(within)),
        "residual_correlation": float(var_run / max(var_run + within, 1e-300)),
        "autocorrelation": _autocorrelation(r - mean[problem.cluster], problem.cluster, size),
    }


def _autocorrelation(r: np.ndarray, cluster: np.ndarray, size: np.ndarray) -> float:
    """Lag-one autocorrelation within runs, in the order of the rows, with the bias of a short
    series about its own mean taken off to first order (a white series of m points shows -1/m)."""
    order = np.argsort(cluster, kind="stable")
    r, cluster = r[order], cluster[order]
    next_to = cluster[1:] == cluster[:-1]
    total = float((r**2).sum())
    if next_to.sum() < 3 or total <= 0:
        return 0.0
    rho = float((r[1:] * r[:-1])[next_to].sum()) / total
    m = float(np.mean(size[size > 1]))
    return float(np.clip((rho + 1 / m) / max(1 - 3 / m, 0.3), 0.0, 0.95))
