"""Exact-by-symmetry test of an exponent in paired designs: the labels of the architectures are
swapped within pairs.

Swapping the losses themselves would swap the prefactors too, and those differ. So each architecture
is first freed of all that is its own: the two are fitted with the one exponent in common, and each
pair of runs gives its contribution to the score of a difference in that exponent (the slope of the
objective, orthogonal to every fitted parameter). Swapping the labels of a pair flips the sign of
its contribution; under the null all signs are equally likely, whatever the errors look like
(Hemerik, Goeman & Finos 2020). Sums are divided by their standard deviation under each set of
signs, because fitted residuals lean on one another (De Santis et al. 2022); without it the test is
too timid with few pairs.
"""

from __future__ import annotations

import numpy as np

from ..fit.problem import Problem
from ..fit.small_sample import SD_RUN, SD_WITHIN

MOST_EXACT = 12  # pairs up to which every set of signs is taken


def signs(pairs: int, draws: int, seed: int) -> np.ndarray:
    """[R, pairs] of +1 and -1, the first row all +1: every set (up to the common sign) or ``draws``
    random ones."""
    if pairs <= MOST_EXACT:
        bits = (np.arange(2 ** (pairs - 1))[:, None] >> np.arange(pairs)[None]) & 1
        return 1.0 - 2.0 * bits
    flips = 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, (draws, pairs))
    return np.concatenate([np.ones((1, pairs)), flips])


def contributions(
    problem: Problem, theta: np.ndarray, extra: np.ndarray, run: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each cluster's contribution to the score in the direction ``extra`` [n] (dr/dparameter)
    beyond the parameters of ``problem`` fitted at theta [P], and their covariance up to a factor,
    errors being alike within ``run`` [n]."""
    r, jac = problem.law.residuals(theta[None], problem.x, problem.y)
    assert jac is not None
    psi, safe, newton = problem.objective.slopes(r[0])
    w = np.ones(len(r[0])) if problem.weights is None else problem.weights
    j = jac[0].T  # [n, P]
    curved = w * (safe if newton is None else 0.5 * (safe + newton))
    total = j.T @ (curved[:, None] * j)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(total), 1e-300))
    inverse = (
        scale[:, None]
        * np.linalg.pinv(total * scale[:, None] * scale, rcond=1e-12, hermitian=True)
        * scale
    )
    own = extra - j @ (inverse @ (j.T @ (curved * extra)))
    groups = problem.n_clusters

    def add(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Sums [labels, ...] of rows."""
        out = np.zeros((int(labels.max()) + 1, *values.shape[1:]))
        np.add.at(out, labels, values)
        return out

    pair = np.zeros(int(run.max()) + 1, int)
    pair[run] = problem.cluster
    wj, wx = w[:, None] * j, w * own
    run_j, run_x = add(wj, run), add(wx, run)
    a = SD_RUN**2 * add(run_x**2, pair) + SD_WITHIN**2 * add(wx**2, problem.cluster)
    y = SD_RUN**2 * add(run_x[:, None] * run_j, pair) + SD_WITHIN**2 * add(
        wx[:, None] * wj, problem.cluster
    )
    z = add((curved * own)[:, None] * j, problem.cluster) @ inverse
    s = SD_RUN**2 * run_j.T @ run_j + SD_WITHIN**2 * wj.T @ wj
    covariance = np.diag(a) - y @ z.T - z @ y.T + z @ s @ z.T
    return np.bincount(problem.cluster, wx * psi, groups), covariance


def sign_flip(score: np.ndarray, covariance: np.ndarray, draws: int, seed: int) -> float:
    """Two-sided p of the sum of ``score`` [pairs] among its sums under flipped signs."""
    flips = signs(len(score), draws, seed)
    variance = np.einsum("ri,ij,rj->r", flips, covariance, flips, optimize=True)
    ratio = np.abs(flips @ score) / np.sqrt(np.maximum(variance, 1e-12 * np.trace(covariance)))
    return float((ratio >= ratio[0] * (1 - 1e-9)).mean())
