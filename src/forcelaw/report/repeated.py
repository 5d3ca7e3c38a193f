"""Runs on a smaller training set beside those of equal N on the largest one: what is data worth that was seen again?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ..laws.repeats import PASSES
from .marks import loss_at_data
from .results import ArchitectureResult


@dataclass(frozen=True)
class Repeated:
    """One evaluation. passes D/U; ratio: its loss over that of the runs on the largest set at equal N and D; worth: the passes
    of data never seen before after which those had its loss, at most ``passes``, None below their first evaluation."""

    passes: float
    ratio: float
    worth: float | None


def beside_fresh(arch: ArchitectureResult, rows: pl.DataFrame) -> list[Repeated]:
    """The course of one run from its second pass on; empty without a run of equal N to set it beside."""
    others = [other.sort("d") for _, other in arch.frame.filter(pl.col("n") == rows["n"][0]).group_by(["run"])]
    out = []
    for row in rows.sort("d").filter(pl.col("d") > PASSES * pl.col("u")).iter_rows(named=True):
        fresh = [loss for other in others if (loss := loss_at_data(other, row["d"])) is not None]
        if fresh:
            ratio = row["loss"] * len(fresh) / sum(fresh)
            new = row["d"] if ratio <= 1 else _data_of(row["loss"], others, row["d"])
            out.append(Repeated(row["d"] / row["u"], ratio, None if new is None else new / row["u"]))
    return out


def _data_of(loss: float, others: list[pl.DataFrame], most: float) -> float | None:
    """D at which the mean of ``others`` first had ``loss``, at most ``most``; None where their first evaluation is lower."""
    ds = sorted({d for other in others for d in other["d"].to_list()})
    means = [float(np.mean(found)) for d in ds if (found := [x for o in others if (x := loss_at_data(o, d)) is not None])]
    lowest = np.minimum.accumulate(means)
    if not len(lowest) or loss > lowest[0]:
        return None
    return min(most, float(np.exp(np.interp(-np.log(loss), -np.log(lowest), np.log(ds)))))
