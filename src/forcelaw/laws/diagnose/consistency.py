"""Two ways to the same number: gamma read off the frontier, and alpha beta/(alpha + beta) from the
surface."""

from __future__ import annotations

import numpy as np

from ..decide.allocation import Allocation
from ..fit.result import spread
from ..forms.surface import optimal_exponents
from ..frontier.frontier import Frontier
from .check import Check, judge, t_test


def consistency(found: Frontier, allocation: Allocation) -> Check:
    """t test of the difference, each run deleted from both."""
    name = "two gammas"
    surface, cost = allocation.surface, allocation.cost
    one, two = found.fit, allocation.gamma
    refitted = one.replicates is not None and surface.replicates is not None
    if found.method != "tangents" or not one.ok or not refitted:
        return Check(
            name,
            None,
            f"no gamma from the frontier to compare with {two.value:.3f} from the surface: "
            f"{found.message or one.message}",
            "add sizes that touch the frontier",
        )
    theta, many = surface.sample()
    values = surface.law.natural(np.concatenate([theta[None], many]), surface.centre)
    below = optimal_exponents(values, cost.p, cost.q)["gamma"]
    theta, many = one.sample()
    above = one.law.natural(np.concatenate([theta[None], many]), one.centre)["gamma"]
    difference = float(above[0] - below[0])
    if len(below) == len(above):
        se = float(spread(above[1:] - below[1:], difference, "jackknife"))
    else:
        se = float(np.hypot(one.parameters["gamma"].se or 0.0, two.se or 0.0))
    gamma = one.parameters["gamma"].value
    text = (
        f"gamma is {gamma:.3f} on the frontier and {two.value:.3f} = alpha beta/(alpha + beta) on"
        " the surface"
    )
    return judge(
        name,
        t_test(difference, se, one.n_runs - 1),
        f"{text}; they differ ({{p}})",
        f"{text} ({{p}})",
        remedy="one of the two laws does not describe the study: see the other checks; fit energy"
        " and force terms apart, or a narrower range",
        data={"frontier": gamma, "surface": two.value, "difference": difference, "se": se},
    )
