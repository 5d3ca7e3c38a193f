"""What several checks share: residuals of the fit and of its refits, shapes that a law cannot take
up, and the effect of a covariate of the runs."""

from __future__ import annotations

import numpy as np

from ...table.runs import Runs
from ..compare.slopes import Slope, estimate
from ..fit.result import FitResult, spread

LEFT = 1e-3  # share of a shape that must be left when the law has taken up what it can


def refitted(result: FitResult) -> bool:
    """Whether there is a refit without each run."""
    return result.replicates is not None and len(result.replicates) == result.n_runs


def residual_of(runs: Runs, result: FitResult) -> np.ndarray:
    """ln L - ln Lhat [n] of the fit."""
    return _residuals(runs, result, result.best()[None])[0]


def residuals_of(runs: Runs, result: FitResult) -> np.ndarray:
    """The same [1 + G, n], also of its refits without each run."""
    return _residuals(runs, result, np.concatenate([result.best()[None], result.refits()]))


def _residuals(runs: Runs, result: FitResult, thetas: np.ndarray) -> np.ndarray:
    here = {role: runs[role] for role in result.law.roles}
    return np.log(runs["loss"]) - result.law.predict_log(thetas, here, result.centre)


def jacobian_of(runs: Runs, result: FitResult) -> np.ndarray:
    """d ln Lhat / d theta [P, n]."""
    here = {role: runs[role] for role in result.law.roles}
    x = result.law.prepare(here, result.centre)[0]
    return result.law.jacobian(result.best(), x)


def beyond(shape: np.ndarray, jac: np.ndarray) -> np.ndarray | None:
    """The part of a shape [n] that the law (Jacobian [P, n]) cannot take up; None if there is
    hardly any."""
    rest = shape - jac.T @ np.linalg.lstsq(jac.T, shape, rcond=None)[0]
    return rest if np.std(rest) >= LEFT * max(np.std(shape), 1e-300) else None


def coefficient(
    shape: np.ndarray, residuals: np.ndarray, cluster: np.ndarray
) -> tuple[float, float]:
    """Coefficient of a shape [n] in the residuals [1 + G, n], and its standard error by deleting
    whole runs."""
    point = float(shape @ residuals[0] / (shape @ shape))
    draws = []
    for g in range(len(residuals) - 1):
        kept = cluster != g
        draws.append(shape[kept] @ residuals[1 + g][kept] / (shape[kept] @ shape[kept]))
    return point, float(spread(np.array(draws), point, "jackknife"))


def run_means(runs: Runs, values: np.ndarray) -> np.ndarray:
    """Means [..., G] over the rows of each run of values [..., n]."""
    cluster = runs.clusters("run")
    count = np.bincount(cluster)
    flat = np.atleast_2d(values)
    means = np.stack([np.bincount(cluster, row) / count for row in flat])
    return means if values.ndim > 1 else means[0]


def effect(runs: Runs, result: FitResult, covariate: np.ndarray, level: float) -> Slope | None:
    """d ln L / d covariate [n] at equal N and D, the law adjusting itself: least squares of the run
    means, runs being the independent units, with robust errors for few of them
    (:func:`forcelaw.laws.compare.slopes.estimate`). None where the law takes the covariate up:
    the two cannot be separated."""
    jac = run_means(runs, jacobian_of(runs, result))
    z = run_means(runs, covariate)
    if beyond(z, jac) is None:
        return None
    residual = run_means(runs, residual_of(runs, result))
    scale = np.maximum(np.abs(jac).max(axis=1), 1e-300)
    basis = np.column_stack([(jac / scale[:, None]).T, z])
    return estimate("covariate", basis, residual, basis.shape[1] - 1, level)
