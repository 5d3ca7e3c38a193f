"""Which of many possible runs to make so that the loss in a region far away is known best: chosen
one after the other, each from the law fitted to those made before.

The law is linear about its optimum. With J the slopes of ln L in its parameters at the runs made,
S = (J'J / s^2 + a weak prior)^-1 is the covariance of the parameters; a run with slopes j takes
sum_t (j_t S j)^2 / (s^2 + j S j) from the variance summed over the targets t (V-optimal design).
The run with the most of it per cost to the power :data:`COST_POWER` is made next: power one would
buy only small runs, zero only large ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import FitResult
from ..forms import make
from ..forms.base import Law

COST_POWER = 0.4
FIRST = 8  # runs made before any law is fitted, far apart among the cheap ones
REFIT = 3  # runs after which the law is fitted again
LEAST_NOISE = 0.003  # sd of ln L
PRIOR_SD = 2.0  # of the internal parameters about their optimum
STEP = 1e-4  # of the finite differences


def select_runs(
    pool: Runs, target: Runs, budget: float, law: str | type[Law] | Law = "coupled", seed: int = 0
) -> np.ndarray:
    """Rows of ``pool`` [K], in the order in which they were chosen, of at most ``budget`` (unit of
    its c) together, for the losses at ``target``.

    pool: runs with n, d, c that could be made; the loss of a row is looked at only once it is
    chosen. target: n, d (and u) of what is to be known; its losses are not looked at. seed: of the
    first choice. FitError where the budget does not carry the first runs.
    """
    form, cost, rng = make(law), pool["c"], np.random.default_rng(seed)
    chosen = _first(pool, budget, rng)
    found: FitResult | None = None
    fitted = 0
    while True:
        spent = cost[chosen].sum()
        left = np.setdiff1d(np.flatnonzero(cost <= budget - spent), chosen)
        if not len(left):
            return np.array(chosen)
        if found is None or len(chosen) >= fitted + REFIT:
            again = fit(pool.take(np.array(chosen)), form, interval="none")
            found, fitted = (again if again.theta is not None else found), len(chosen)
        if found is None:  # the runs do not carry the law yet: the one that is furthest away
            chosen.append(_furthest(pool, chosen, left))
            continue
        gain = _gain(found, pool, target, np.array(chosen), left)
        chosen.append(int(left[np.argmax(gain / cost[left] ** COST_POWER)]))


def _plane(pool: Runs) -> np.ndarray:
    """ln N and ln D of the rows, each from 0 to 1."""
    logs = np.stack([np.log(pool[role]) for role in ("n", "d")], axis=1)
    return (logs - logs.min(axis=0)) / np.maximum(np.ptp(logs, axis=0), 1e-12)


def _furthest(pool: Runs, chosen: list[int], rows: np.ndarray) -> int:
    """Of ``rows`` the one whose nearest chosen run is furthest away."""
    plane = _plane(pool)
    away = np.linalg.norm(plane[rows][:, None] - plane[chosen][None], axis=2).min(axis=1)
    return int(rows[np.argmax(away)])


def _first(pool: Runs, budget: float, rng: np.random.Generator) -> list[int]:
    """The first runs: half the budget at most, far apart."""
    cheap = np.flatnonzero(pool["c"] <= budget / (2 * FIRST))
    if len(cheap) < FIRST:
        raise FitError(
            f"only {len(cheap)} runs cost less than a {2 * FIRST}th of the budget",
            where="select_runs",
            remedy="give a larger budget, or smaller runs to choose from",
        )
    chosen = [int(rng.choice(cheap))]
    while len(chosen) < FIRST:
        chosen.append(_furthest(pool, chosen, cheap))
    return chosen


def _slopes(found: FitResult, runs: Runs, rows: Any = slice(None)) -> np.ndarray:
    """d ln L / d theta [rows, P], by finite differences."""
    theta = found.best()
    moved = theta + STEP * np.concatenate([np.eye(len(theta)), -np.eye(len(theta))])
    at = {role: runs[role][rows] for role in found.law.roles}
    up, down = np.split(found.law.predict_log(moved, at, found.centre), 2)
    return ((up - down) / (2 * STEP)).T


def _gain(
    found: FitResult, pool: Runs, target: Runs, chosen: np.ndarray, left: np.ndarray
) -> np.ndarray:
    """What each row ``left`` takes from the summed variance at the targets."""
    made, new = _slopes(found, pool, chosen), _slopes(found, pool, left)
    there = _slopes(found, target)
    noise = max(found.noise, LEAST_NOISE) ** 2
    inverse = made.T @ made / noise + np.eye(made.shape[1]) / PRIOR_SD**2
    covariance = np.linalg.inv(inverse)
    moved = there @ covariance @ new.T
    return (moved**2).sum(axis=0) / (noise + np.einsum("ij,jk,ik->i", new, covariance, new))
