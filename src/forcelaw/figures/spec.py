"""What a figure shows, apart from who draws it: the page (plotly) and the paper (matplotlib) draw
the same panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Series:
    """One set of marks. x and y have the panel's units; None and NaN break a line.

    kind: "line", "points", "both", or "band" (between ``low`` and ``high``). ``group`` is the
    architecture whose switch on the page shows and hides it (:class:`~.style.Look` gives it, with
    colour and marks). ``hover`` is one short text for each point, or one for all.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    kind: Literal["line", "points", "both", "band"] = "line"
    group: str = ""
    colour: str = "#6b7280"
    symbol: str = "circle"
    marker: str = "o"
    size: float = 7.0
    width: float = 1.5
    dash: Literal["solid", "dash", "dot"] = "solid"
    opacity: float = 1.0
    hollow: bool = False
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    horizontal: bool = False  # low and high are errors along x
    hover: str | Sequence[str] = ""


@dataclass
class Panel:
    """One pair of axes. ``empty`` says why there is nothing to draw; ``categories`` name integer
    positions on y."""

    x_title: str
    y_title: str
    series: list[Series] = field(default_factory=list)
    title: str = ""
    x_log: bool = True
    y_log: bool = True
    categories: list[str] | None = None
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    empty: str = ""


@dataclass
class Figure:
    """Panels that belong together. ``explain``: one plain sentence for a reader who never fitted a
    law. ``key`` says what the marks are. ``columns``: panels in a row (default: all of up to 4,
    else 3)."""

    name: str
    title: str
    explain: str
    panels: list[Panel]
    key: str = ""
    notes: list[str] = field(default_factory=list)
    columns: int | None = None


def or_empty(panel: Panel, why: str) -> Panel:
    """The panel; one without marks says why."""
    if not panel.series:
        panel.empty = why
    return panel
