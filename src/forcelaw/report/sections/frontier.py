"""Loss against compute: frontiers with their fits, and the loss at equal compute."""

from __future__ import annotations

import math
from typing import Any

from ...figures.laws import FLOPS, HOURS
from ...figures.spec import Figure, Panel, or_empty
from ...figures.text import pretty
from ...progress import duration
from ..analysis import Analysis
from ..section import MISSING, Cell, Column, Section, csv, entries, illustrated, table
from ..series import frontier_series, refused, run_series, zoom

AXES = (("flops", "frontier_c"), ("hours", "frontier_h"))


def section(analysis: Analysis) -> Section:
    """The figure, the table of losses at equal compute, and both as files."""
    parts = illustrated(figure(analysis))
    levels = [
        (axis, level) for axis, attribute in AXES for level in equal_compute(analysis, attribute)
    ]
    compared = [pair for pair in levels if len(pair[1]["losses"]) > 1]
    if compared:
        labels = [arch.label for arch in analysis.architectures]
        columns = [Column("", "budget", cell=_budget, numeric=False), *map(_losses, labels)]
        caption = (
            "Loss at equal compute, read off the frontiers; the best of each budget in bold. It is"
            " known far better than any exponent."
        )
        parts.append(table(columns, compared, caption=caption))
    equal = [
        {"axis": axis, "budget": level["x"], "architecture": label, "loss": loss}
        for axis, level in levels
        for label, loss in level["losses"].items()
    ]
    points = [
        {"architecture": arch.label, "axis": axis} | point
        for arch in analysis.architectures
        for axis, attribute in AXES
        for point in getattr(arch, attribute).points
    ]
    files = [
        csv("frontier", entries("architecture", "axis", "x", "loss", "n", "d", "run"), points),
        csv("equal_compute", entries("axis", "budget", "architecture", "loss"), equal),
    ]
    return Section("frontier", "Loss against compute", parts, files)


def _budget(pair: tuple[str, dict[str, Any]]) -> Cell:
    axis, level = pair
    x = level["x"]
    return Cell(f"{pretty(x, 2)} FLOPs" if axis == "flops" else duration(3600 * x))


def _losses(label: str) -> Column:
    def cell(pair: tuple[str, dict[str, Any]]) -> Cell:
        losses = pair[1]["losses"]
        loss = losses.get(label)
        if loss is None:
            return MISSING
        least = min(other for other in losses.values() if other is not None)
        return Cell(f"{loss:.3g}", style="strong" if loss == least else "")

    return Column("", label, cell=cell)


def equal_compute(analysis: Analysis, attribute: str = "frontier_c") -> list[dict[str, Any]]:
    """Loss of every architecture at budgets that all of them cover: {x, losses: {label: loss}},
    small to large."""
    found = {
        arch.label: getattr(arch, attribute)
        for arch in analysis.architectures
        if getattr(arch, attribute).envelope
    }
    if not found:
        return []
    low = max(one.envelope[0][0] for one in found.values())
    high = min(one.envelope[-1][0] for one in found.values())
    if not high > low:
        return []
    count = 2 if math.log10(high / low) < 1 else 3
    xs = [low * (high / low) ** (k / (count - 1)) for k in range(count)]
    return [{"x": x, "losses": {k: one.loss_at(x) for k, one in found.items()}} for x in xs]


def figure(analysis: Analysis) -> Figure:
    """Loss against FLOPs and against hours, with frontiers and fits."""
    panels = []
    for x, title, attribute, name in (
        ("c", FLOPS, "frontier_c", "counted FLOPs"),
        ("h", HOURS, "frontier_h", "measured device-hours"),
    ):
        if x == "h" and not analysis.has_hours:
            continue
        panel = Panel(title, analysis.words.loss, title=f"against {name}")
        for arch in analysis.architectures:
            panel.series += run_series(arch, x, "loss")
        for arch in analysis.architectures:
            panel.series += frontier_series(arch, getattr(arch, attribute))
        zoom(panel, [getattr(arch, attribute) for arch in analysis.architectures])
        known = x == "h" or analysis.has_compute or not analysis.fitted
        empty = "no run has a positive loss yet" if known else "not in the table"
        panels.append(or_empty(panel, empty))
    return Figure(
        "frontier",
        "Loss against compute",
        "Each thin line is one training run; the marked points are the lowest loss that any run"
        " reached for that much compute, and the slope of the dashed line through them says how"
        " fast an architecture turns compute into accuracy: steeper is better.",
        panels,
        "thin: runs · marked: frontier · dashed: fitted law L = E + F·C⁻ᵞ",
        refused((arch.label, arch.frontier_c) for arch in analysis.architectures),
    )
