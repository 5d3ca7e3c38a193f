"""Do N and D act on the loss together otherwise than the law says?

A surface whose terms are joined by another norm than its own (coupled for additive, or the other
way round) leaves a pattern: too high where N and D are both large or both small, too low where one
is large, or the reverse. Depth steps or learning rates that make whole sizes better or worse leave
none: they do not depend on D.
"""

from __future__ import annotations

import numpy as np

from ...table.runs import Runs
from ..fit.problem import levels
from ..fit.result import FitResult
from .check import Check, judge, t_test
from .score import beyond, coefficient, jacobian_of, refitted, residuals_of

LEVELS = 3  # of N and of D below which a product is not seen
NAME = "interaction of N and D"


def interaction(runs: Runs, result: FitResult) -> Check:
    """Regress the residuals on the part of ln N ln D that the law's parameters cannot take up;
    standard error by deleting whole runs (with the law refitted without them)."""
    if min(levels(runs[role]) for role in ("n", "d")) < LEVELS or not refitted(result):
        return Check(
            NAME, None, "too few levels of N or D", "add sizes, and evaluations in between"
        )
    u, v = (np.log(runs[role]) for role in ("n", "d"))
    product = ((u - u.mean()) / u.std()) * ((v - v.mean()) / v.std())
    shape = beyond(product, jacobian_of(runs, result))
    if shape is None:
        return Check(NAME, None, "the law takes up any interaction that this design could show")
    point, se = coefficient(shape, residuals_of(runs, result), runs.clusters("run"))
    p = t_test(point, se, result.n_runs - 1)
    way = "lower" if point < 0 else "higher"
    corner = f"large models with much data (and small ones with little) have {way} losses"
    return judge(
        NAME,
        p,
        f"N and D act together otherwise than the law says: {corner} ({{p}})",
        "N and D act together as the law says ({p})",
        remedy="let forms of law compete (law auto, which has a coupled surface), and compare"
        " architectures by ratios of their losses, not by exponents",
        data={"coefficient": point, "se": se},
    )
