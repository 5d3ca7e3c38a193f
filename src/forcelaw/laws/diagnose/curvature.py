"""Is there structure left in the residuals: curvature in ln N or ln D that the law does not
have?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.problem import levels
from ..fit.result import FitResult, spread
from .check import SIGNIFICANT, Check


def curvature(runs: Runs, result: FitResult) -> Check:
    """Regress the residuals on the cubic part of ln N and of ln D that the law's own parameters
    cannot take up; standard errors by deleting whole runs (with the law refitted without them)."""
    name = "curvature"
    y = np.log(runs["loss"])
    roles = [role for role in result.law.roles if levels(runs[role]) >= 5]
    if not roles or result.replicates is None or len(result.replicates) != result.n_runs:
        return Check(
            name,
            None,
            "fewer than five levels: no curvature can be seen",
            "add sizes or checkpoints in between",
        )
    cluster = runs.clusters("run")
    here = {role: runs[role] for role in result.law.roles}
    fitted = result.law.predict_log(
        np.concatenate([result.theta[None], result.replicates]), here, result.centre
    )
    jac = result.law.residuals(
        result.theta[None], result.law.prepare(here, result.centre)[0], np.zeros(len(y))
    )[1][0]
    lines, worst = [], (1.0, "")
    data = {}
    for role in roles:
        u = np.log(runs[role])
        u = (u - u.mean()) / u.std()
        # two shapes of what a law may miss: a bend and an S; what the law can absorb is projected
        # out
        extra = np.stack([u**2, u**3], axis=1)
        extra = extra - jac.T @ np.linalg.lstsq(jac.T, extra, rcond=None)[0]
        length = np.sqrt((extra**2).sum(axis=0))
        for k, shape in ((0, "a bend"), (1, "an S shape")):
            if length[k] < 1e-3 * np.sqrt(len(u)):
                continue
            e = extra[:, k]
            point = float(e @ (y - fitted[0]) / (e @ e))
            draws = np.array(
                [
                    e[cluster != g]
                    @ (y - fitted[1 + g])[cluster != g]
                    / (e[cluster != g] @ e[cluster != g])
                    for g in range(result.n_runs)
                ]
            )
            se = float(spread(draws, np.asarray(point), "jackknife"))
            p = float(2 * stats.t.sf(abs(point) / max(se, 1e-300), result.n_runs - 1))
            data[f"{shape} in {role}"] = {"coefficient": point, "se": se, "p": p}
            lines.append(p)
            if p < worst[0]:
                worst = (p, f"{shape} in {role}")
    if not lines:
        return Check(name, None, "the design leaves no curvature to be seen")
    p = min(1.0, worst[0] * len(lines))  # Bonferroni over the shapes
    if p < SIGNIFICANT:
        return Check(
            name,
            False,
            f"the residuals have {worst[1]} that the law has not (p = {p:.2g})",
            "drop the burn-in or the smallest runs, or fit a law with a break or a shift",
            p,
            data,
        )
    return Check(
        name, True, f"no curvature beyond the law (smallest corrected p = {p:.2f})", "", p, data
    )
