"""Which of many possible runs to make so that the loss in a region far away is known best: chosen
one after the other, each from the law fitted to those made before.

The law is linear about its optimum. With J the slopes of its predictions in its parameters at the
runs made, S = (J'J / s^2 + a weak prior)^-1 is the covariance of the parameters; a run with slopes
j takes sum_t (j_t S j)^2 / (s^2 + j S j) from the variance summed over the targets t (V-optimal
design). Where several optima describe the runs about as well, covariances are those of their
mixture, so that runs which tell them apart count as well. The run with the most of it per cost to
the power :data:`COST_POWER` is made next: power one would buy only small runs, zero only large
ones.

The variance s^2 has a prior at the variance of the pool's losses, as the law has them (an inverse
gamma one, of shape :data:`NOISE_SHAPE`). A law of many parameters passes through its first runs,
and that it does says nothing of how far off it is elsewhere; with the residuals alone every
parameter counts as known, and runs are scattered over the plane instead of made where they bear on
the target.

No law is the truth. Part of the variance (:func:`misfit_variance`) may be what the law gets wrong:
a smooth function of the runs' places (a Gaussian process) that near runs have in common. The law
will be fitted without it, and what counts is the error of that fit: its variance, and the square of
the bias that the misfit of the runs made and of the target leaves in it (Box and Draper 1959),
times the probability, from the residuals, that there is one (:func:`doubt`). So a run is worth less
at a corner that has others, and nothing for what it tells of the misfit alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import UNITS, FitResult, Result, named, note_lines
from ..forms import make
from ..forms.base import Law
from ..inputs import one_architecture
from .forecast import Planned

COST_POWER = 0.4
FIRST = 8  # runs made before any law is fitted, far apart among the cheap ones
REFIT = 12  # the law is fitted again after each run, later when they grew by one in so many
NOISE_SHAPE = 2.0
LEAST_SD = 1e-3  # of a loss (of its logarithm, in runs of ours): none is known better
PRIOR_SD = 2.0  # of the internal parameters about their optimum
MISFIT = 0.02  # of the pool's variance of losses: what a law gets wrong, and near runs share
MOST_MISFIT = 0.5  # of the variance of a loss
DOUBT = 0.5  # probability, before any residual, that a law gets something wrong
REACH = 0.3  # standard deviation of its kernel, in ranges of the pool
WAVES = 60  # random cosines that stand for it
FLAT = 1e-8  # of the largest singular value of the slopes: no parameter takes up such a residual
STEP = 1e-4  # of the finite differences
LEAST_GAIN = 0.02  # of the spread at the target, that runs at the end of a list must take together


@dataclass
class Belief:
    """A fitted law as the choice sees it: slopes in its P parameters of what the K possible runs
    would measure, pool [K, O, P] (O losses each), and of the targets [T, P] (the O of a place side
    by side); variance of a loss, noise, of which ``misfit`` is what the law gets wrong, if it does;
    residuals [n, O] of the first n runs of a choice, which it was fitted to. Where the runs leave
    several optima standing: the weight of this one, and its predictions, said [K, O] and said_there
    [T]."""

    pool: np.ndarray
    target: np.ndarray
    noise: float
    weight: float = 1.0
    said: np.ndarray | float = 0.0
    said_there: np.ndarray | float = 0.0
    misfit: float = 0.0
    residuals: np.ndarray | None = None


def noise_variance(squares: float, count: int, losses: np.ndarray) -> float:
    """Posterior mean of the variance of a loss: the sum of squared residuals of ``count`` runs,
    with the prior at the variance of ``losses`` (robust: a law may run away where it has no runs);
    never zero, which a flat law through its runs would have.
    """
    found = (NOISE_SHAPE * _variance(losses) + squares / 2) / (NOISE_SHAPE + count / 2 - 1)
    return max(found, LEAST_SD**2)


def misfit_variance(squares: float, count: int, losses: np.ndarray, noise: float) -> float:
    """Variance of what a law gets wrong: :data:`MISFIT` of that of ``losses`` and the mean squared
    residual, :data:`MOST_MISFIT` of the ``noise`` at most. Where few runs are made the noise is
    mostly its prior, which says nothing against the law."""
    return min(MOST_MISFIT * noise, MISFIT * _variance(losses) + squares / count)


def _variance(losses: np.ndarray) -> float:
    low, high = np.quantile(losses, [0.16, 0.84])
    return float((high - low) / 2) ** 2


def covariance(slopes: np.ndarray, noise: float, prior_sd: np.ndarray | float) -> np.ndarray:
    """Covariance [P, P] of the parameters after runs with ``slopes`` [K, P]: (J'J / s^2 + a prior
    of ``prior_sd`` about the optimum)^-1, from the singular values of J. Those of J'J would lose
    what the runs leave open, and call it known, beside one that the law is steep at."""
    sd = np.broadcast_to(np.asarray(prior_sd, float), slopes.shape[1:])
    scaled = slopes * sd / np.sqrt(noise)
    if len(scaled) > len(sd):
        scaled = np.linalg.qr(scaled, mode="r")
    _, values, axes = np.linalg.svd(scaled)
    left = np.ones(len(sd))
    left[: len(values)] = 1.0 / (1.0 + values**2)
    return sd[:, None] * ((axes.T * left) @ axes) * sd


def misfit(at: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functions of a place [K, WAVES], [T, WAVES] whose sum with independent weights of variance
    one is a smooth random function of variance one: random Fourier features of a Gaussian kernel
    (Rahimi and Recht 2007). at, there: places of the pool [K, d] and the targets [T, d], in ranges
    of the pool."""
    rng = np.random.default_rng(0)
    waves = rng.normal(0, 1 / REACH, (at.shape[1], WAVES))
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    here, away = (np.sqrt(2 / WAVES) * np.cos(one @ waves + phases) for one in (at, there))
    return here, away


def doubt(residuals: np.ndarray, slopes: np.ndarray, waves: np.ndarray) -> float:
    """Probability that a law gets something wrong, from the residuals [n, O] of the runs that it
    was fitted to: :data:`MOST_MISFIT` of their variance is a function that near runs share, or
    nothing is. slopes: [n, O, P], waves: [n, WAVES] of :func:`misfit`.

    By the likelihood of what the parameters cannot take up, whatever its scale (restricted
    likelihood); :data:`DOUBT` where they take up all.
    """
    outputs = residuals.shape[1]
    made = slopes.reshape(residuals.size, -1)
    axes, values, _ = np.linalg.svd(made)
    open_to = axes[:, (values > FLAT * values.max(initial=0.0)).sum() :]
    left, shared = open_to.T @ residuals.ravel(), open_to.T @ np.kron(waves, np.eye(outputs))
    if not left.any():
        return DOUBT
    values, axes = np.linalg.eigh(shared @ shared.T)
    squares, size = (axes.T @ left) ** 2, 1 - MOST_MISFIT + MOST_MISFIT * values
    against = np.log(squares.sum()) - np.log((squares / size).sum())
    log_odds = 0.5 * (len(left) * against - np.log(size).sum())
    return float(DOUBT / (DOUBT + (1 - DOUBT) * np.exp(-np.clip(log_odds, -50, 50))))


def choose(
    cost: np.ndarray,
    budget: float,
    first: list[int],
    believe: Callable[[list[int]], list[Belief]],
    prior_sd: np.ndarray | float,
    otherwise: Callable[[list[int], np.ndarray], int],
    places: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[int]:
    """Rows of the pool, of ``cost`` [K], in the order of their choice, of at most ``budget``
    together.

    first: rows to begin with. believe: the fitted law (or several optima) after the given rows were
    made; none where they do not carry it. prior_sd: of the parameters, [P]. otherwise: the next row
    where nothing is believed, from the rows made and those that can be afforded. places: of the
    pool [K, d] and the targets, for what the law gets wrong; without them it is taken for right.
    """
    chosen, fitted = list(first), 0
    waves = None if places is None else misfit(*places)
    beliefs: list[Belief] = []
    while True:
        left = np.setdiff1d(np.flatnonzero(cost <= budget - cost[chosen].sum()), chosen)
        if not len(left):
            return chosen
        if not beliefs or len(chosen) >= fitted + max(1, fitted // REFIT):
            beliefs, fitted = (
                _doubted(believe(chosen), chosen, prior_sd, waves) or beliefs,
                len(chosen),
            )
        if beliefs:
            gain = _gain(beliefs, prior_sd, chosen, left, waves)
            chosen.append(int(left[np.argmax(gain / cost[left] ** COST_POWER)]))
        else:
            chosen.append(otherwise(chosen, left))


def _doubted(
    beliefs: list[Belief],
    chosen: list[int],
    prior_sd: np.ndarray | float,
    waves: tuple[np.ndarray, np.ndarray] | None,
) -> list[Belief]:
    """The beliefs with their misfit times the probability that there is one: squared errors are
    linear in its variance."""
    out = []
    for one in beliefs:
        if waves is not None and one.residuals is not None:
            made = chosen[: len(one.residuals)]
            wrong = doubt(one.residuals, one.pool[made] * prior_sd, waves[0][made])
            one = replace(one, misfit=one.misfit * wrong)
        out.append(one)
    return out


def _gain(
    beliefs: list[Belief],
    prior_sd: np.ndarray | float,
    chosen: list[int],
    left: np.ndarray,
    waves: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """What each row ``left`` takes from the squared error summed over the targets: from the
    variance, when these are told by the best linear estimate from it, and from the bias of the
    law's fit. Covariances are those of the mixture of the beliefs: the mean of those within each,
    and that of their predictions, so that runs which tell the optima apart count as well."""
    weight = np.array([one.weight for one in beliefs]) / sum(one.weight for one in beliefs)
    outputs = beliefs[0].pool.shape[1]
    here = np.stack([np.broadcast_to(one.said, one.pool.shape[:2])[left] for one in beliefs])
    there = np.stack([np.broadcast_to(one.said_there, len(one.target)) for one in beliefs])
    here = here - np.tensordot(weight, here, 1)  # [beliefs, rows, O]
    there = there - weight @ there  # [beliefs, T]
    spread = np.einsum("b,bro,brp->rop", weight, here, here)
    both = np.einsum("b,bt,bro->tro", weight, there, here)
    unbiased = np.zeros(len(left))
    for share, belief in zip(weight, beliefs):
        made, new = belief.pool[chosen], belief.pool[left]
        known = covariance(made.reshape(-1, made.shape[-1]), belief.noise, prior_sd)
        away = new @ known
        own = away @ new.transpose(0, 2, 1) + belief.noise * np.eye(outputs)
        spread += share * own
        both += share * np.einsum("tp,rop->tro", belief.target, away)
        if waves is not None and belief.misfit:
            unbiased += share * belief.misfit * _bias_taken(belief, known, own, chosen, left, waves)
    taken = np.einsum("tro,trp->rop", both, both)
    return np.trace(np.linalg.solve(spread, taken), axis1=1, axis2=2) + unbiased


def _bias(
    belief: Belief, known: np.ndarray, rows: list[int], here: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a misfit of variance one at the pool, here [K, O, waves], does to the law's fit to the
    ``rows``: to its parameters [P, waves], and to the targets [T, waves], where it is ``there``.
    known: covariance of the parameters."""
    pull = known @ np.einsum("rop,row->pw", belief.pool[rows], here[rows]) / belief.noise
    return pull, belief.target @ pull - there


def _bias_taken(
    belief: Belief,
    known: np.ndarray,
    own: np.ndarray,
    chosen: list[int],
    left: np.ndarray,
    waves: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """What each row ``left`` takes from the squared bias of the law's fit, summed over the targets,
    for a misfit of variance one. It may be below zero, and so may the whole gain: rarely (one step
    in a thousand of selection_misfit.py), and the budget is spent all the same.

    With slopes J, j, T of the runs made, a new one and the targets, F, f, G the :func:`misfit`
    there and S = ``known``, the fit is off by B = T S J'F / s^2 - G for each wave. The new run adds
    T S j' (V^-1 f - V^-1 j S J'F / s^2), V = ``own`` = j S j' + s^2.
    """
    outputs = belief.pool.shape[1]
    here, there = (np.kron(one, np.eye(outputs)) for one in waves)
    here = here.reshape(len(waves[0]), outputs, -1)  # [K, O, waves of each output]
    new = belief.pool[left]
    pull, bias = _bias(belief, known, chosen, here, there)
    surprise = np.linalg.solve(own, here[left] - new @ pull)  # [rows, O, waves]
    moved = np.einsum("tp,rop->rto", belief.target @ known, new)
    crossed = np.einsum("tw,row->rto", bias, surprise)
    square = np.einsum("row,rpw->rop", surprise, surprise)
    return -(2 * crossed * moved).sum(axis=(1, 2)) - np.einsum(
        "rto,rop,rtp->r", moved, square, moved
    )


def select_runs(
    pool: Runs, target: Runs, budget: float, law: str | type[Law] | Law = "coupled", seed: int = 0
) -> np.ndarray:
    """Rows of ``pool`` [K], in the order in which they were chosen, of at most ``budget`` (unit of
    its c) together, for the losses at ``target``: what would have been chosen of runs that were
    made already.

    pool: runs with n, d, c; the loss of a row is looked at only once it is chosen. target: n, d
    (and u) of what is to be known; its losses are not looked at. seed: of the first choice.
    FitError where the budget does not carry the first runs.
    """
    form, rng = make(law), np.random.default_rng(seed)

    def believe(chosen: list[int]) -> list[Belief]:
        made = pool.take(np.array(chosen))
        found = fit(made, form, interval="none")
        return [] if found.theta is None else [_belief(found, made, pool.values, target.values)]

    def otherwise(chosen: list[int], left: np.ndarray) -> int:
        return furthest(at, chosen, left)

    at = plane(pool.values)
    places = at, plane(target.values, pool.values)
    first = first_runs(at, pool["c"], budget, rng)
    return np.array(choose(pool["c"], budget, first, believe, PRIOR_SD, otherwise, places))


def _belief(found: FitResult, made: Runs, pool: Any, target: Any) -> Belief:
    """Of a law fitted to the runs ``made``, for the roles -> values of the pool and the target."""
    y, said = np.log(made["loss"]), np.log(found.predict(**made.values))
    losses = np.log(found.predict(**{role: pool[role] for role in found.law.roles}))
    residuals = y - said
    squares = float(residuals @ residuals)
    noise = noise_variance(squares, len(y), losses)
    return Belief(
        _slopes(found, pool)[:, None],
        _slopes(found, target),
        noise,
        misfit=misfit_variance(squares, len(y), losses, noise),
        residuals=residuals[:, None],
    )


def plane(values: Any, unit: Any = None) -> np.ndarray:
    """ln N and ln D of the rows [K, 2], each from 0 to 1 over the rows of ``unit``, or these."""
    logs, all_logs = (
        np.stack([np.log(one[role]) for role in ("n", "d")], axis=1)
        for one in (values, values if unit is None else unit)
    )
    return (logs - all_logs.min(axis=0)) / np.maximum(np.ptp(all_logs, axis=0), 1e-12)


def furthest(at: np.ndarray, chosen: list[int], rows: np.ndarray) -> int:
    """Of ``rows`` the one whose nearest chosen run is furthest away, by their places ``at``."""
    away = np.linalg.norm(at[rows][:, None] - at[chosen][None], axis=2).min(axis=1)
    return int(rows[np.argmax(away)])


def first_runs(
    at: np.ndarray, cost: np.ndarray, budget: float, rng: np.random.Generator
) -> list[int]:
    """The first runs: half the budget at most, far apart."""
    cheap = np.flatnonzero(cost <= budget / (2 * FIRST))
    if len(cheap) < FIRST:
        raise FitError(
            f"only {len(cheap)} runs cost less than a {2 * FIRST}th of the budget",
            where="select_runs",
            remedy="give a larger budget, or smaller runs to choose from",
        )
    chosen = [int(rng.choice(cheap))]
    while len(chosen) < FIRST:
        chosen.append(furthest(at, chosen, cheap))
    return chosen


def _slopes(found: FitResult, values: Any) -> np.ndarray:
    """d ln L / d theta [rows, P], by finite differences."""
    theta = found.best()
    moved = theta + STEP * np.concatenate([np.eye(len(theta)), -np.eye(len(theta))])
    at = {role: values[role] for role in found.law.roles}
    up, down = np.split(found.law.predict_log(moved, at, found.centre), 2)
    return ((up - down) / (2 * STEP)).T


# -- the next runs of a study -------------------------------------------------------------------


@dataclass
class Selection(Result):
    """Runs to make next, chosen from a pool, in the order of their choice; ``spread``: error of
    ln L at the target that is left with each (and all above it), by the law that was fitted and
    what it may get wrong (:func:`doubt`); None where the runs carry no law yet. before: the same
    with the runs there are."""

    group: str
    law: str
    budget: float
    unit: str
    chosen: list[Planned]
    before: float | None = None
    spread: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    also = ("status",)
    status = "ok"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run."""
        left: list[Any] = [*self.spread] or [None] * len(self.chosen)
        return [
            {"run": one.run, "n": one.n, "d": one.d, "c": one.c, "spread": sd}
            for one, sd in zip(self.chosen, left)
        ]

    def summary(self) -> str:
        """For a terminal."""
        rows = self.rows()
        total = sum(one.c for one in self.chosen)
        told = "" if self.before is None else f"; ln loss at the target +- {self.before:.3g} now"
        lines = [
            f"{named(self.group)}{len(rows)} runs of the pool, {total:.3g} of {self.budget:.3g}"
            f" {self.unit}, law {self.law}{told}",
            f"{'add':>3} {'N':>9} {'D':>9} {self.unit:>10} {'then +-':>9}  run",
        ]
        for i, row in enumerate(rows):
            sd = "-" if row["spread"] is None else f"{row['spread']:.3g}"
            lines.append(
                f"{i + 1:>3} {row['n']:9.3g} {row['d']:9.3g} {row['c']:10.3g} {sd:>9}  {row['run']}"
            )
        return "\n".join([*lines, *note_lines(self.notes)])


def next_runs(
    runs: Any,
    pool: list[Planned],
    target: dict[str, float],
    budget: float,
    *,
    law: str = "coupled",
    seed: int = 0,
    **settings: Any,
) -> Selection:
    """Which runs of a pool to make next, within a budget, for the loss at a target.

    runs: those that were made, of one architecture. pool: runs that could be made. target: n and d.
    budget: in the unit of the pool's c. settings: those of :func:`forcelaw.fit`. All are chosen
    from the law as it is now; make some, add them to the table and ask again. Where the runs carry
    no law yet, the runs are those furthest from what there is. FitError where the budget buys none.
    """
    runs = one_architecture(runs, "design", "a design")
    pool = [one for one in pool if not one.run or one.run not in runs.run_names]
    found = fit(runs, law, **{**settings, "interval": "none"})
    if not found.ok and law == "coupled":
        found = fit(runs, "surface", **{**settings, "interval": "none"})
    cost = np.array([one.c for one in pool])
    if not (budget > 0 and (cost <= budget).any()):
        least = f", the cheapest costs {cost.min():.3g}" if len(pool) else ""
        raise FitError(
            f"the budget of {budget:.3g} buys no run of the pool{least}",
            where="design --pool",
            remedy="raise --budget, or give smaller runs",
        )
    roles = {role: [getattr(one, role) for one in pool] for role in ("n", "d")}
    both = {role: np.concatenate([runs[role], roles[role]]) for role in roles}
    at, made = plane(both), list(range(len(runs)))
    price = np.concatenate([np.zeros(len(runs)), cost])  # what there is costs nothing any more
    there = {role: np.array([value]) for role, value in target.items()}
    beliefs = [_belief(found, runs, both, there)] if found.ok else []
    places = at, plane(there, both)
    waves = misfit(*places)
    order = choose(
        price,
        budget,
        made,
        lambda _: beliefs,
        PRIOR_SD,
        lambda chosen, left: furthest(at, chosen, left),
        places,
    )[len(made) :]
    out = Selection(
        runs.group_names[0],
        found.law.name,
        budget,
        UNITS["c"],
        [pool[k - len(made)] for k in order],
    )
    if beliefs:
        out.before, *spread = _spreads(beliefs[0], made, order, waves)
        enough = int(np.argmax(np.array(spread) <= (1 + LEAST_GAIN) * spread[-1])) + 1
        out.chosen, out.spread = out.chosen[:enough], spread[:enough]
        if enough < len(order):
            out.notes.append(
                f"{len(order) - enough} more runs that the budget would buy shorten it by less than"
                f" {LEAST_GAIN:.0%} together"
            )
    else:
        out.notes.append(
            "the runs do not carry a law yet: these are the furthest from them; make some,"
            f" add them to the table and ask again ({found.reason})"
        )
    return out


def _spreads(
    belief: Belief, made: list[int], order: list[int], waves: tuple[np.ndarray, np.ndarray]
) -> list[float]:
    """Error of ln L at the target with the runs ``made``, and with each of ``order`` on top: the
    root of its variance and, as far as there is a misfit, the squared bias that it leaves.

    The variance of a loss is here that of the residuals. With the prior that keeps the choice from
    taking the law for known these would be 3 to 20 times as large, and not those of the fits that
    follow (benchmarks/selection_spread.py).
    """
    out, slopes = [], belief.pool[:, 0]
    residuals = np.zeros(0) if belief.residuals is None else belief.residuals
    free = max(residuals.size - slopes.shape[1], 1)
    noise = max(float((residuals**2).sum()) / free, LEAST_SD**2)
    (belief,) = _doubted([replace(belief, noise=noise, misfit=noise)], made, PRIOR_SD, waves)
    for k in range(len(order) + 1):
        rows = [*made, *order[:k]]
        left = covariance(slopes[rows], noise, PRIOR_SD)
        variance = np.einsum("ij,jk,ik->i", belief.target, left, belief.target)
        _, bias = _bias(belief, left, rows, waves[0][:, None], waves[1])
        out.append(float(np.sqrt((variance + belief.misfit * (bias**2).sum(axis=1)).mean())))
    return out
