"""What a figure shows, apart from who draws it: the page (plotly) and the paper (matplotlib) draw
the same panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Series:
    """One set of marks. x and y have the panel's units; None and NaN break a line.

    kind: "line", "points", "both", or "band" (between ``low`` and ``high``). ``group`` is the
    architecture whose switch on the page shows and hides it. ``hover`` is one short text for each
    point, or one for all.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    kind: Literal["line", "points", "both", "band"] = "line"
    name: str = ""
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
    law. ``key`` says what the marks are."""

    name: str
    title: str
    explain: str
    panels: list[Panel]
    key: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def drawable(self) -> bool:
        """Whether any panel has anything to show."""
        return any(panel.series for panel in self.panels)


def finite(values: Sequence[float | None]) -> list[float]:
    """The finite numbers among ``values``."""
    return [v for v in values if v is not None and math.isfinite(v)]


def pretty(value: float | None, digits: int = 3) -> str:
    """A number for people, to ``digits`` significant digits: 0.123, 45.6, 12.3k, 4.56M, 7.8e12; "-"
    for none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # rounded first, so that 999,999 is 1M and not 1000k
    size = abs(value)
    if size >= 1e9 or size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    scale, unit = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e3 else (1.0, "")
    shown = value / scale
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(shown))))
    text = f"{shown:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def decimal(value: float, digits: int) -> str:
    """With ``digits`` decimals; from 100 on, where an exponent says nothing any more, as
    :func:`pretty` writes it."""
    return f"{value:.{digits}f}" if abs(value) < 100 else pretty(value, 2)


def interval_text(value: Any, digits: int) -> str:
    """ "value [low, high]" of an Estimate; "-" for none."""
    if value is None:
        return "-"
    text = decimal(value.value, digits)
    return (
        f"{text} [{decimal(value.low, digits)}, {decimal(value.high, digits)}]"
        if value.bounded
        else text
    )


def names(items: list[str]) -> str:
    """A, B and C."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
