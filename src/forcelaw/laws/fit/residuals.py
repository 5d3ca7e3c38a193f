"""What the residuals of a fit say about the noise: its size, between runs and within them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .problem import Problem


def residual_summary(problem: Problem, theta: np.ndarray) -> dict[str, Any]:
    """Size of the residuals of ln L, between and within runs, and how alike those of one run are.

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
    series about its own mean removed to first order (a white series of m points shows -1/m)."""
    order = np.argsort(cluster, kind="stable")
    r, cluster = r[order], cluster[order]
    next_to = cluster[1:] == cluster[:-1]
    total = float((r**2).sum())
    if next_to.sum() < 3 or total <= 0:
        return 0.0
    rho = float((r[1:] * r[:-1])[next_to].sum()) / total
    m = float(np.mean(size[size > 1]))
    return float(np.clip((rho + 1 / m) / max(1 - 3 / m, 0.3), 0.0, 0.95))
