"""Do the exponents stay the same when the smallest sizes, or the early part of every run, are
dropped, and when they are read in another window of N or D?"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.problem import levels
from ..fit.result import FitResult, spread
from .check import SIGNIFICANT, Check, t_test

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
MANY = 20  # sizes beyond which the smallest are dropped by fractions
MATTERS = 0.1  # a change of the exponent by less than this fraction does not count
LEFT_OUT = 3.0  # windows leave out this factor of N or of D at either end
LEAST_LEVELS = 3  # of each variable that a window must leave
Parts = list[tuple[str, Runs]]  # what was dropped, and what is left


def stability(
    runs: Runs, result: FitResult, quantity: str = "gamma", settings: dict[str, Any] | None = None
) -> list[Check]:
    """Two checks: dropping the smallest 1, 2, ... sizes (while three are left; 5 to 40% of many),
    and dropping the first 5 to 40% of every run. A change counts if it is over 10% and more than
    deleting runs explains (each run deleted from both fits). A refit whose floor stops at zero
    where that of the whole did not (or the other way round) is shown but does not count."""
    settings = settings or {}
    sizes = _judge(runs, result, quantity, settings, _larger(runs))
    sizes.name = "smallest sizes"
    if sizes.passed is None:
        sizes.remedy = "add sizes"
    elif not sizes.passed:
        sizes.remedy = (
            "the smallest models are not in the power-law range: add sizes at the upper end and"
            " leave them out"
        )
    early = _judge(runs, result, quantity, settings, _later(runs))
    early.name = "early checkpoints"
    if early.passed is False:
        early.remedy = (
            "the early part of the runs is a transient: set a burn-in, and train the runs longer"
        )
    return [sizes, early]


def windows(runs: Runs, result: FitResult, settings: dict[str, Any] | None = None) -> list[Check]:
    """For the exponent of each variable of the law: the same law without the lowest, and without
    the highest, factor of three of that variable. A change counts as in :func:`stability`. Where
    the form is right the exponent does not know the window; where it is not, it is an average over
    it."""
    out = []
    law = result.law
    for role in law.roles:
        # the laws in one variable begin with their exponent
        quantity = {"n": "alpha", "d": "beta"}.get(role, law.shapes[0])
        quantity = quantity if quantity in result.parameters else law.shapes[0]
        check = _judge(runs, result, quantity, settings or {}, _windows(runs, law.roles, role))
        check.name = f"window of {role.upper()}"
        if check.passed is False:
            check.remedy = (
                f"{quantity} is that of its window: quote it with the range, compare architectures"
                " in one window, and extend the study"
            )
        out.append(check)
    return out


def _windows(runs: Runs, roles: tuple[str, ...], role: str) -> Parts:
    """The table without either end of a role, where enough levels are left."""
    values = runs[role]
    low, high = values.min() * LEFT_OUT, values.max() / LEFT_OUT
    parts = [
        (f"{role.upper()} from {low:.3g}", runs.take(values >= low)),
        (f"{role.upper()} up to {high:.3g}", runs.take(values <= high)),
    ]
    return [
        (what, part)
        for what, part in parts
        if len(part) and min(levels(part[one]) for one in roles) >= LEAST_LEVELS
    ]


def _larger(runs: Runs) -> Parts:
    """The table without its smallest sizes."""
    if "n" not in runs:
        return []
    sizes = np.unique(runs["n"])
    if len(sizes) > MANY:  # one size of many says nothing
        lowest = sizes[[int(fraction * len(sizes)) for fraction in FRACTIONS]]
    else:
        lowest = sizes[1 : max(1, min(len(sizes) - 3, 4))]
    parts = [(f"N from {size:.3g}", runs.take(runs["n"] >= size)) for size in lowest]
    return [(what, part) for what, part in parts if levels(part["n"]) >= 4]


def _later(runs: Runs) -> Parts:
    """The table without the first part of its runs."""
    if runs.independent or not ("step" in runs or "d" in runs):
        return []
    parts = [
        (f"first {fraction:.0%} dropped", runs.select(burn_in_fraction=fraction))
        for fraction in FRACTIONS
    ]
    return [
        (what, part) for what, part in parts if len(part) < len(runs) and part.n_runs == runs.n_runs
    ]


def _judge(
    runs: Runs, result: FitResult, quantity: str, settings: dict[str, Any], parts: Parts
) -> Check:
    theta, many = result.sample()
    point, draws = (result.quantity(quantity, at) for at in (theta[None], many))
    rows: list[dict[str, Any]] = [
        {"what": "everything", "value": float(point[0]), "p": None, "status": result.status}
    ]
    failed, smallest = "", 1.0
    for what, part in parts:
        other = fit(part, result.law, interval="jackknife", **settings)
        if not other.ok or other.replicates is None:
            rows.append({"what": what, "value": None, "p": None, "status": other.status})
            continue
        at, deleted = other.sample()
        value = other.quantity(quantity, at[None])[0]
        # a run that the part lacks changes nothing in it when it is deleted
        mine = np.full(result.n_runs, value)
        position = {run: i for i, run in enumerate(runs.run_names)}
        mine[[position[run] for run in part.run_names]] = other.quantity(quantity, deleted)
        se = float(spread(mine - draws, value - point[0], "jackknife"))
        p = t_test(value - point[0], se, result.n_runs - 1)
        rows.append({"what": what, "value": float(value), "p": p, "status": other.status})
        if other.status != result.status:
            # the floor went to zero, or left it: the exponent moved with it, whatever the dropped
            # part was like
            continue
        smallest = min(smallest, p)
        if p < SIGNIFICANT / len(parts) and abs(value / point[0] - 1) > MATTERS and not failed:
            failed = (
                f"{quantity} moves from {point[0]:.3f} to {value:.3f} with {what} (p = {p:.2g})"
            )
    data = {"rows": rows, "quantity": quantity}
    if len(rows) == 1:
        return Check("", None, "too few to drop any", "", None, data)
    values = [row["value"] for row in rows if row["value"] is not None]
    stays = f"{quantity} stays within {min(values):.3f} to {max(values):.3f}"
    return Check("", not failed, failed or stays, "", smallest, data)
