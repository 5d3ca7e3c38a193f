"""How symmetric the trained models are."""

from __future__ import annotations

from typing import Any

import polars as pl

from ...figures.spec import Figure, Panel, Series, or_empty
from ...figures.text import pretty
from ..analysis import Analysis
from ..section import Section, csv, entries, illustrated

ZERO = 1e-8
# relative force error below which a symmetry counts as built in; TF32 rounding is up to 4e-4
# (results/symmetry_ladder, H100)
EXACT = 1e-3
COLUMNS = entries("architecture", "n", "d", "rotation_error", "inversion_error", "exact")


def section(analysis: Analysis) -> Section:
    """The figure, and the errors of every trained model as a file."""
    made = figure(analysis)
    files = [csv("symmetry", COLUMNS, tested(analysis))]
    return Section("symmetry", made.title, illustrated(made), files)


def tested(analysis: Analysis) -> list[dict[str, Any]]:
    """The last evaluation of every finished run that was tested. exact: the symmetries that are
    built in: "rotation and inversion", "rotation", "" (learned)."""
    frame = analysis.frame.filter(
        pl.col("final").fill_null(False)
        & (pl.col("rotation_error").is_not_null() | pl.col("inversion_error").is_not_null())
        & (pl.col("status") == "finished")
    )
    out = []
    for row in frame.iter_rows(named=True):
        errors = {name: row[f"{name}_error"] for name in ("rotation", "inversion")}
        exact = [name for name, error in errors.items() if error is not None and error < EXACT]
        out.append(row | {"d": row["d"] or 0, "exact": " and ".join(exact)})
    order = [arch.label for arch in analysis.architectures]
    return sorted(out, key=lambda row: (order.index(row["architecture"]), row["n"], row["d"]))


def figure(analysis: Analysis) -> Figure:
    """Relative force error under rotation and inversion of every trained model."""
    panels = []
    rows = tested(analysis)
    for kind, x, title in (
        ("rotation", "n", "parameters N"),
        ("rotation", "d", "atoms seen D"),
        ("inversion", "n", "parameters N"),
    ):
        panel = Panel(title, "relative force error", title=f"{kind}, against {x.upper()}")
        for arch in analysis.architectures:
            mine = [row for row in rows if row["architecture"] == arch.label and row[x] > 0]
            mine = [row for row in mine if row[f"{kind}_error"] is not None]
            if mine:
                xs = [row[x] for row in mine]
                ys = [max(row[f"{kind}_error"], ZERO) for row in mine]  # a log axis has no zero
                models = [f"N = {pretty(row['n'])}, D = {pretty(row['d'])}" for row in mine]
                own = {"hover": [f"{arch.label}, {text}" for text in models], **arch.look.marks}
                panel.series.append(Series(xs, ys, "points", opacity=0.8, **own))
        panels.append(or_empty(panel, "no trained model was tested"))
    return Figure(
        "symmetry",
        "How symmetric the trained models are",
        "Rotate a molecule and the forces should rotate with it: architectures that have the"
        " symmetry built in are wrong only by rounding (about 1e-6), the others must learn it, and"
        " the figure shows how far they came.",
        panels,
        "one mark for each trained model; an error of exactly zero is drawn at 1e-8",
    )
