"""Predicted against reference labels, one panel a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .spec import Figure, Panel, Series, or_empty
from .style import GREY, PREFERRED

POINTS = "#0067a8"  # of a group without a colour of its own


@dataclass(frozen=True)
class Parity:
    """Labels and predictions of one quantity. name: with its unit, for the axes."""

    name: str
    reference: Sequence[float]
    predicted: Sequence[float]


def parity_figure(title: str, quantities: Sequence[Parity], *, group: str) -> Figure:
    """A panel for each quantity, with the line on which predictions are right."""
    panels = []
    for quantity in quantities:
        panel = Panel(f"reference {quantity.name}", f"predicted {quantity.name}", x_log=False)
        panel.y_log = False
        if len(quantity.reference):
            ends = [*quantity.reference, *quantity.predicted]
            ends = [min(ends), max(ends)]
            line = Series(ends, ends, kind="line", colour=GREY, dash="dash", width=1.2)
            points = Series(
                quantity.reference,
                quantity.predicted,
                kind="points",
                colour=PREFERRED.get(group, POINTS),
                group=group,
                size=3.0,
                opacity=0.4,
            )
            panel.series += [points, line]
        panels.append(or_empty(panel, "no labels"))
    explain = "Each point is a structure or a component; on the dashed line a prediction is right."
    return Figure("parity", title, explain, panels)
