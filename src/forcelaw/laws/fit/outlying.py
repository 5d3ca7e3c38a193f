"""Runs far off the law: named, with what they do to the exponents, and left in.

A run is held against the law that is fitted without it: the mean of its errors, over what a run's
mean error is expected to be there (its own, and that of the law, under the working model of
:mod:`.small_sample`), over a robust scale of the other runs (Huber's proposal 2). It is named
beyond Student's t at :data:`ALARM` over the number of runs, on the degrees of freedom that the fit
leaves the runs: with six runs of a surface these are two or three, and only a gross error is seen.
False alarms and power are measured in benchmarks/outlying_runs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .problem import Problem
from .result import Result
from .small_sample import MOST_RUNS, SD_RUN, SD_WITHIN, SmallSample

ALARM = 0.02  # share of tables of Gaussian noise in which some run is named, about
MOST = 3  # runs that are looked at, the farthest off
LOOKED_AT = 2.0  # robust standard deviations from which a run is looked at
CUT = 1.5  # robust standard deviations at which Huber's proposal 2 cuts a run's error
EFFICIENCY = 0.75  # of its degrees of freedom
LEAST_DF = 1.0  # degrees of freedom of the runs below which none can be called far off
# of the variance of a run's error that the fit leaves: with less the law goes where the run is
LEAST_LEFT = 0.02
OTHER_LAW = 4.0  # factor by which a shape that moves more belongs to another law, or to none


@dataclass
class OutlyingRun(Result):
    """A run far off the law: its mean error in robust standard deviations (positive: a higher loss
    than the law's without it), and the law's shapes without it and with it."""

    run: str
    sd: float
    without: dict[str, float]
    instead_of: dict[str, float]

    def __str__(self) -> str:
        side = "above" if self.sd > 0 else "below"
        moved = ", ".join(
            f"{name} is {value:.4g} instead of {self.instead_of[name]:.4g}"
            for name, value in self.without.items()
        )
        said = f"run {self.run} is {abs(self.sd):.1f} robust standard deviations {side} the law"
        return f"{said}; without it {moved}" if moved else said


def outlying(
    problem: Problem, theta: np.ndarray, names: list[str], refits: np.ndarray | None = None
) -> list[OutlyingRun]:
    """The runs (clusters) that are far off the law fitted at ``theta`` [P], the farthest first, in
    tables of up to :data:`MOST_RUNS`. names: of the clusters [G]; refits [G, P]: the law without
    each, where they are there already.
    """
    if problem.n_clusters > MOST_RUNS:
        return []
    small = SmallSample(problem, theta)
    off, left = mean_errors(problem, theta, small)
    if left.sum() - 1 < LEAST_DF:
        return []
    size = np.where(left > LEAST_LEFT, np.abs(off), 0.0)
    size = size / max(scale(off, left), 1e-300)
    found, own = [], _shapes(problem, theta)
    for g in np.argsort(-size)[:MOST]:
        if size[g] < LOOKED_AT:
            break
        rows = problem.cluster == g
        if refits is None:
            start = problem.solve(theta[None], (~rows)[None].astype(float), damping=1e-2)
            without = start.theta[0]
        else:
            without = refits[g]
        shapes = _shapes(problem, without)
        if any(abs(shapes[name]) > OTHER_LAW * abs(own[name]) for name in own):
            continue  # the others do not determine the law
        sd = _without(problem, rows, without)
        if sd is not None:
            found.append(OutlyingRun(names[g], sd, shapes, own))
    return sorted(found, key=lambda one: -abs(one.sd))


def _without(problem: Problem, rows: np.ndarray, theta: np.ndarray) -> float | None:
    """Mean error of the run of ``rows`` under the law fitted without it, in robust standard
    deviations; None where it is not far off."""
    rest = problem.subset(~rows)
    small = SmallSample(rest, theta)
    off, left = mean_errors(rest, theta, small)
    df = EFFICIENCY * float(left.sum())
    if df < LEAST_DF * EFFICIENCY:
        return None
    own = problem.subset(rows)
    jac = own.law.jacobian(theta, own.x, own.y)[own.free].mean(axis=1)
    reach = small.inverse @ jac
    variance = _variance(rows.sum()) + reach @ small.noise.sum(axis=0) @ reach
    unit = scale(off, left)
    sd = float(own.residuals(theta).mean() / np.sqrt(variance)) / max(unit, 1e-300)
    limit = stats.t.isf(ALARM / 2 / problem.n_clusters, df)
    return sd if abs(sd) > limit and unit > 1e-9 else None


def mean_errors(
    problem: Problem, theta: np.ndarray, small: SmallSample
) -> tuple[np.ndarray, np.ndarray]:
    """Mean error of ln L of every run over its standard deviation in the working model [G], and the
    share of its variance that the fit leaves [G]."""
    groups, labels = problem.n_clusters, problem.cluster
    count = np.bincount(labels, minlength=groups)
    jac = problem.law.jacobian(theta, problem.x, problem.y)[problem.free]
    weighted = jac if problem.weights is None else jac * problem.weights
    summed, total = (
        np.stack([np.bincount(labels, row, groups) for row in rows], axis=1)
        for rows in (jac, weighted)
    )
    reach = summed / count[:, None] @ small.inverse  # [G, F]
    variance = _variance(count)
    law = np.einsum("gf,fk,gk->g", reach, small.noise.sum(axis=0), reach)
    left = np.maximum(variance - 2 * variance * (reach * total).sum(axis=1) + law, 1e-12)
    error = np.bincount(labels, problem.residuals(theta), groups) / count
    return error / np.sqrt(left), np.clip(left / variance, 0.0, 1.0)


def _variance(count: Any) -> Any:
    """Of the mean error of runs of ``count`` checkpoints, in the working model."""
    return SD_RUN**2 + SD_WITHIN**2 / count


def scale(off: np.ndarray, left: np.ndarray) -> float:
    """Standard deviation of ``off`` [G] by Huber's proposal 2, runs counting by what the fit leaves
    of them."""
    weight = left / left.sum()
    inside = 2 * stats.norm.cdf(CUT) - 1
    mean = inside - 2 * CUT * stats.norm.pdf(CUT) + CUT**2 * (1 - inside)
    square = off**2
    value = float(weight @ square)
    for _ in range(50):
        value = float(weight @ np.minimum(square, CUT**2 * value)) / mean
    return float(np.sqrt(value))


def _shapes(problem: Problem, theta: np.ndarray) -> dict[str, float]:
    """The free shapes of the law, as they are quoted."""
    values = problem.law.natural(theta[None], problem.centre)
    names = [name for name in problem.law.shapes if name not in problem.fixed]
    return {name: float(values[name][0]) for name in names}
