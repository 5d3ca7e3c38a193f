"""Do the exponents stand still when the smallest sizes, or the early part of every run, are
dropped?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.fit import fit, quantities
from ..fit.problem import levels
from ..fit.result import FitResult, spread
from .check import SIGNIFICANT, Check

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
MANY = 20  # sizes beyond which the smallest are dropped by fractions
MATTERS = 0.1  # a change of the exponent by less than this fraction is not held against it


def stability(
    runs: Runs, result: FitResult, quantity: str = "gamma", settings: dict[str, Any] | None = None
) -> list[Check]:
    """Two checks: dropping the smallest 1, 2, ... sizes (while three are left; 5 to 40% of many),
    and dropping the first 5 to 40% of every run. A change counts if it is over 10% and more than
    deleting runs explains (each run deleted from both fits). A refit whose floor stops at zero
    where that of the whole did not (or the other way round) is shown but does not count."""
    settings = settings or {}
    sizes = np.unique(runs["n"])
    steps = []
    if len(sizes) > MANY:  # one size of many says nothing
        lowest = sizes[[int(fraction * len(sizes)) for fraction in FRACTIONS]]
    else:
        lowest = sizes[1 : max(1, min(len(sizes) - 3, 4))]
    for size in lowest:
        part = runs.take(runs["n"] >= size)
        if levels(part["n"]) >= 4:
            steps.append((f"N from {size:.3g}", part))
    early = []
    if not runs.independent and ("step" in runs or "d" in runs):
        for fraction in FRACTIONS:
            part = runs.select(burn_in_fraction=fraction)
            if len(part) < len(runs) and part.n_runs == runs.n_runs:
                early.append((f"first {fraction:.0%} dropped", part))
    return [
        _judge(
            "smallest sizes",
            steps,
            runs,
            result,
            quantity,
            settings,
            "the smallest models are not in the power-law range: add sizes at the upper end and"
            " leave them out",
        ),
        _judge(
            "early checkpoints",
            early,
            runs,
            result,
            quantity,
            settings,
            "the early part of the runs is a transient: set a burn-in, and train the runs longer",
        ),
    ]


def _judge(
    name: str,
    parts: list[tuple[str, Runs]],
    runs: Runs,
    result: FitResult,
    quantity: str,
    settings: dict[str, Any],
    remedy: str,
) -> Check:
    theta, many = result.sample()
    point = _value(result, quantity, theta[None])[0]
    rows = [{"what": "everything", "value": float(point), "p": None, "status": result.status}]
    draws = _value(result, quantity, many)
    failed, smallest = "", 1.0
    for what, part in parts:
        other = fit(part, result.law, interval="jackknife", **settings)
        if not other.ok or other.replicates is None:
            rows.append({"what": what, "value": None, "p": None, "status": other.status})
            continue
        at, deleted = other.sample()
        value = _value(other, quantity, at[None])[0]
        mine = np.full(
            result.n_runs, value
        )  # a run that the part lacks changes nothing in it when it is deleted
        position = {run: i for i, run in enumerate(runs.run_names)}
        mine[[position[run] for run in part.run_names]] = _value(other, quantity, deleted)
        se = float(spread(mine - draws, np.asarray(value - point), "jackknife"))
        p = float(2 * stats.t.sf(abs(value - point) / max(se, 1e-300), result.n_runs - 1))
        rows.append({"what": what, "value": float(value), "p": p, "status": other.status})
        if other.status != result.status:
            # the floor went to zero, or left it: the exponent moved with it, whatever the dropped
            # part was like
            continue
        smallest = min(smallest, p)
        if p < SIGNIFICANT / len(parts) and abs(value / point - 1) > MATTERS:
            failed = (
                failed
                or f"{quantity} moves from {point:.3f} to {value:.3f} with {what} (p = {p:.2g})"
            )
    data = {"rows": rows, "quantity": quantity}
    if len(rows) == 1:
        return Check(
            name, None, "too few to drop any", "add sizes" if "sizes" in name else "", None, data
        )
    if failed:
        return Check(name, False, failed, remedy, smallest, data)
    values = [row["value"] for row in rows if row["value"] is not None]
    return Check(
        name,
        True,
        f"{quantity} stays within {min(values):.3f} to {max(values):.3f}",
        "",
        smallest,
        data,
    )


def _value(result: FitResult, name: str, theta: np.ndarray) -> np.ndarray:
    values, derived = quantities(result, theta)
    return derived[name] if name in derived else values[name]
