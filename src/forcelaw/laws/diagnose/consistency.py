"""Two ways to the same number: gamma read off the frontier, and alpha beta/(alpha + beta) from the
surface."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ..decide.allocation import Allocation
from ..fit.result import spread
from ..frontier.frontier import Frontier
from .check import SIGNIFICANT, Check


def consistency(found: Frontier, allocation: Allocation) -> Check:
    """t test of the difference, each run deleted from both."""
    name = "two gammas"
    surface = allocation.surface
    one, two = found.fit, allocation.gamma
    if (
        found.method != "tangents"
        or not one.ok
        or one.replicates is None
        or surface.replicates is None
    ):
        return Check(
            name,
            None,
            f"no gamma from the frontier to compare with {two.value:.3f} from the surface: "
            f"{found.message or one.message}",
            "add sizes that touch the frontier",
        )
    theta, many = surface.sample()
    values = surface.law.natural(np.concatenate([theta[None], many]), surface.centre)
    alpha, beta = values["alpha"], values["beta"]
    below = alpha * beta / (beta * allocation.cost.p + alpha * allocation.cost.q)
    theta, many = one.sample()
    above = one.law.natural(np.concatenate([theta[None], many]), one.centre)["gamma"]
    gamma, draws, other = one.parameters["gamma"].value, below[1:], above[1:]
    difference = float(above[0] - below[0])
    if len(draws) == len(other):
        se = float(spread(other - draws, np.asarray(difference), "jackknife"))
    else:
        se = float(np.hypot(one.parameters["gamma"].se or 0.0, two.se or 0.0))
    p = float(2 * stats.t.sf(abs(difference) / max(se, 1e-300), one.n_runs - 1))
    data = {"frontier": gamma, "surface": two.value, "difference": difference, "se": se}
    text = (
        f"gamma is {gamma:.3f} on the frontier and {two.value:.3f} = alpha beta/(alpha + beta) on"
        " the surface"
    )
    if p < SIGNIFICANT:
        return Check(
            name,
            False,
            f"{text}; they differ (p = {p:.2g})",
            "one of the two laws does not describe the study: see the other checks; fit energy and"
            " force terms apart, or a narrower range",
            p,
            data,
        )
    return Check(name, True, f"{text} (p = {p:.2f})", "", p, data)
