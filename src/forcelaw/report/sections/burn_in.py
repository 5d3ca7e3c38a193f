"""What the burn-in does to the compute exponent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..analysis import Analysis
from ..outcome import row_of
from ..section import (
    ARCHITECTURE,
    MISSING,
    Cell,
    Column,
    Prose,
    Section,
    csv,
    entries,
    number,
    table,
)

COLUMNS = entries("architecture", "burn_in_steps", "chosen", "gamma", "low", "high", "reason")


def section(analysis: Analysis) -> Section:
    """A row for each architecture, a column for each number of steps left out."""
    rows: list[dict[str, Any]] = [
        {"architecture": arch.label, "burn_in_steps": steps, "reason": found.message}
        | {"chosen": steps == analysis.burn_in_steps}
        | row_of(found.get("gamma"), "gamma")
        for arch in analysis.fitted
        for steps, found in arch.burn_in.items()
    ]

    def cell(steps: int) -> Callable[[Any], Cell]:
        return lambda arch: (
            number(arch.burn_in[steps].get("gamma"), 3) if steps in arch.burn_in else MISSING
        )

    columns = [ARCHITECTURE]
    for steps in sorted({row["burn_in_steps"] for row in rows}):
        heading = "all steps" if steps == 0 else f"from step {steps}"
        small = "used here" if steps == analysis.burn_in_steps else ""
        columns.append(Column("", heading, cell=cell(steps), small=small))
    explain = (
        "Young models learn faster than any law says; leaving out their first steps is a choice,"
        " and this is what it does to the compute exponent γ. If γ drifts along a row, the runs are"
        " too short."
    )
    parts = [Prose(explain), table(columns, analysis.fitted)] if rows else []
    return Section("burn-in", "What the burn-in does", parts, [csv("burn_in", COLUMNS, rows)])
