"""Is there structure left in the residuals: curvature in ln N or ln D that the law does not
have?"""

from __future__ import annotations

import numpy as np

from ...table.runs import Runs
from ..fit.problem import levels
from ..fit.result import FitResult
from .check import Check, judge, t_test
from .score import coefficient, jacobian_of, refitted, residuals_of


def curvature(runs: Runs, result: FitResult) -> Check:
    """Regress the residuals on the cubic part of ln N and of ln D that the law's own parameters
    cannot take up; standard errors by deleting whole runs (with the law refitted without them)."""
    name = "curvature"
    roles = [role for role in result.law.roles if levels(runs[role]) >= 5]
    if not roles or not refitted(result):
        return Check(
            name,
            None,
            "fewer than five levels: no curvature can be seen",
            "add sizes or checkpoints in between",
        )
    residuals, jac = residuals_of(runs, result), jacobian_of(runs, result)
    data = {}
    for role in roles:
        for shape, missed in _shapes(runs[role], jac).items():
            point, se = coefficient(missed, residuals, runs.clusters("run"))
            p = t_test(point, se, result.n_runs - 1)
            data[f"{shape} in {role}"] = {"coefficient": point, "se": se, "p": p}
    if not data:
        return Check(name, None, "the design leaves no curvature to be seen")
    worst = min(data, key=lambda what: data[what]["p"])
    return judge(
        name,
        min(1.0, data[worst]["p"] * len(data)),  # Bonferroni over the shapes
        f"the residuals have {worst} that the law does not have ({{p}})",
        "no curvature beyond the law (smallest corrected {p})",
        remedy="drop the burn-in or the smallest runs, or fit a law with a break or a shift",
        data=data,
    )


def _shapes(values: np.ndarray, jac: np.ndarray) -> dict[str, np.ndarray]:
    """Two shapes [n] of what a law may miss, a bend and an S; what the law (Jacobian [P, n]) can
    absorb is projected out, and a shape of which nothing is left is left out."""
    u = np.log(values)
    u = (u - u.mean()) / u.std()
    extra = np.stack([u**2, u**3], axis=1)
    extra = extra - jac.T @ np.linalg.lstsq(jac.T, extra, rcond=None)[0]
    left = np.sqrt((extra**2).sum(axis=0)) >= 1e-3 * np.sqrt(len(u))
    return {name: extra[:, k] for k, name in enumerate(("a bend", "an S shape")) if left[k]}
