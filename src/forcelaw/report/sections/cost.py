"""What a parameter costs: kappa and training speed."""

from __future__ import annotations

import polars as pl

from ...figures.spec import Figure, Panel, Series, or_empty
from ..analysis import Analysis
from ..architecture import Architecture
from ..section import Section, illustrated


def section(analysis: Analysis) -> Section:
    """The figure."""
    made = figure(analysis)
    return Section("cost", made.title, illustrated(made))


def figure(analysis: Analysis) -> Figure:
    """kappa and training speed against N."""
    words = analysis.words
    kappa = Panel(
        "parameters N", f"κ (FLOPs per parameter and {words.datum})", title="κ = C / (3 N D)"
    )
    speed = Panel("parameters N", f"{words.data} per second", title="training speed")
    for arch in analysis.architectures:
        line = _line(arch, "kappa")
        kappa.series += line + (_quoted(arch, line[0]) if line and arch.paper else [])
        speed.series += _line(arch, "throughput")
    return Figure(
        "cost",
        "What a parameter costs",
        f"κ counts how much arithmetic each parameter does for each {words.datum}: two"
        " architectures of equal κ differ only in symmetry, and two of unequal κ differ in compute"
        " per parameter as well; the speed on the right is what turns FLOPs into hours.",
        [or_empty(kappa, "not in the table"), or_empty(speed, "not in the table")],
        "dotted: κ in the paper",
    )


def _line(arch: Architecture, column: str) -> list[Series]:
    last = arch.frame.filter(pl.col("final") & (pl.col(column) > 0))
    ends = last.group_by("n").agg(pl.col(column).median()).sort("n")
    if not len(ends):
        return []
    xs, ys = ends["n"].to_list(), ends[column].to_list()
    return [Series(xs, ys, "both", hover=arch.label, **arch.look.marks)]


def _quoted(arch: Architecture, line: Series) -> list[Series]:
    own = {"hover": f"{arch.paper.name} in the paper: {arch.paper.kappa}", **arch.look.line}
    ends = [line.x[0], line.x[-1]]
    return [Series(ends, [arch.paper.kappa] * 2, "line", dash="dot", width=1.0, opacity=0.7, **own)]
