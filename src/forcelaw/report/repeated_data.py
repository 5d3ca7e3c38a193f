"""Runs on a smaller training set beside those of equal N on the largest one: what is data worth
that was seen again?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..laws.decide.repeats import PASSES
from .results import ArchitectureResult
from .series import loss_at_data


@dataclass(frozen=True)
class Repeated:
    """One evaluation. passes D/U; ratio: its loss over that of the runs on the largest set at equal
    N and D; worth: the passes of data never seen before after which those had its loss, at most
    ``passes``, None below their first evaluation."""

    passes: float
    ratio: float
    worth: float | None


def repeated_runs(arch: ArchitectureResult) -> list[tuple[dict[str, Any], list[Repeated]]]:
    """Last evaluation and course, from the second pass on, of each run that has others of equal N
    to be set beside."""
    out = []
    for _, rows in arch.repeated.group_by(["run"], maintain_order=True):
        rows = rows.sort("d")
        if course := _beside_fresh(arch, rows):
            out.append((rows.row(-1, named=True), course))
    return out


def _beside_fresh(arch: ArchitectureResult, rows: pl.DataFrame) -> list[Repeated]:
    others = [
        other.sort("d")
        for _, other in arch.frame.filter(pl.col("n") == rows["n"][0]).group_by(["run"])
    ]
    ds = sorted({d for other in others for d in other["d"].to_list()})
    lowest = np.minimum.accumulate([_mean_at(d, others) for d in ds]) if ds else []
    out = []
    for row in rows.filter(pl.col("d") > PASSES * pl.col("u")).iter_rows(named=True):
        fresh = _mean_at(row["d"], others)
        if fresh is None:
            continue
        new: float | None = row["d"]
        if row["loss"] > fresh:
            there = float(np.exp(np.interp(-np.log(row["loss"]), -np.log(lowest), np.log(ds))))
            new = None if row["loss"] > lowest[0] else min(row["d"], there)
        out.append(
            Repeated(
                row["d"] / row["u"], row["loss"] / fresh, None if new is None else new / row["u"]
            )
        )
    return out


def _mean_at(d: float, others: list[pl.DataFrame]) -> float | None:
    """Mean loss of runs at D = d; None where none has been."""
    found = [loss for other in others if (loss := loss_at_data(other, d)) is not None]
    return sum(found) / len(found) if found else None
