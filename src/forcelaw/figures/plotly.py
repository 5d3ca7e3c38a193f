"""Panels as plotly figures (plain JSON objects; plotly.js draws them in the page)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .spec import Figure, Panel, Series
from .text import pretty, round_numbers


def _number(value: float | None) -> float | None:
    """Five digits are more than a screen shows, and keep the page small."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    return [_number(value) for value in values]


def inert(text: str) -> str:
    """Text that plotly shows as it is: it reads tags in what it draws, and %{...} in templates."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("%{", "%&#123;")


def draw(figure: Figure) -> list[dict[str, Any]]:
    """One {data, layout} object for each panel."""
    return [
        {"data": [_trace(s, panel) for s in panel.series], "layout": _layout(panel)}
        for panel in figure.panels
    ]


def _band(series: Series) -> dict[str, Any]:
    """The area between low and high, as one closed outline."""
    x, low, high = _numbers(series.x), _numbers(series.low or []), _numbers(series.high or [])
    return {
        "type": "scatter",
        "x": x + x[::-1],
        "y": high + low[::-1],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": series.colour,
        "line": {"width": 0, "color": series.colour},
        "opacity": round(series.opacity, 2),
        "meta": series.group,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _trace(series: Series, panel: Panel) -> dict[str, Any]:
    if series.kind == "band":
        return _band(series)
    x, y = _numbers(series.x), _numbers(series.y)
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": x,
        "y": y,
        "meta": series.group,
        "opacity": round(series.opacity, 2),
        "mode": {"line": "lines", "points": "markers", "both": "lines+markers"}[series.kind],
        "showlegend": False,
    }
    if series.kind != "points":
        trace["line"] = {"color": series.colour, "width": series.width, "dash": series.dash}
    if series.kind in ("points", "both"):
        symbol = series.symbol
        if series.hollow and not symbol.endswith("-open"):
            symbol += "-open"
        thin = symbol.startswith("line-") or symbol.endswith(("-thin", "-open"))
        trace["marker"] = {
            "color": series.colour,
            "symbol": symbol,
            "size": series.size,
            "line": {"color": series.colour, "width": 2 if thin else 0},
        }
    if series.low is not None and series.high is not None:
        middle = series.x if series.horizontal else series.y
        trace["error_x" if series.horizontal else "error_y"] = {
            "type": "data",
            "symmetric": False,
            "thickness": 1.6,
            "width": 3 if not series.horizontal else 0,
            "array": _numbers([h - m for h, m in zip(series.high, middle, strict=True)]),
            "arrayminus": _numbers([m - lo for lo, m in zip(series.low, middle, strict=True)]),
            "color": series.colour,
        }
    if panel.categories is not None:
        trace["hovertemplate"] = "%{hovertext}<extra></extra>"
    else:
        x_name, y_name = inert(_short(panel.x_title)), inert(_short(panel.y_title))
        values = f"{x_name} %{{x:.3s}}, {y_name} %{{y:.3~g}}"
        trace["hovertemplate"] = f"%{{hovertext}}<br>{values}<extra></extra>"
    several = not isinstance(series.hover, str)
    trace["hovertext"] = [inert(text) for text in series.hover] if several else inert(series.hover)
    if not series.hover:
        trace["hoverinfo"] = "skip"
    return trace


def _short(title: str) -> str:
    """The symbol of an axis for hover texts: "training compute C (FLOPs)" -> "C"."""
    words = title.split(" (")[0].split()
    last = words[-1] if words else ""
    return last if len(last) <= 2 else title.split(" (")[0].split(",")[0]


def _layout(panel: Panel) -> dict[str, Any]:
    axes = {}
    for axis, title, log, wanted in (
        ("xaxis", panel.x_title, panel.x_log, panel.x_range),
        ("yaxis", panel.y_title, panel.y_log, panel.y_range),
    ):
        entry: dict[str, Any] = {
            "title": {"text": inert(title), "standoff": 8},
            "type": "log" if log else "linear",
            "automargin": True,
            "zeroline": False,
        }
        if wanted is not None:
            entry["range"] = [round(math.log10(v), 4) for v in wanted] if log else list(wanted)
        every = (v for s in panel.series for v in getattr(s, axis[0]))
        values = [v for v in every if v is not None and v > 0]
        if log and values:
            entry |= _log_ticks(wanted or (min(values), max(values)))
        axes[axis] = entry
    if panel.categories is not None:
        axes["yaxis"] |= {
            "tickvals": list(range(len(panel.categories))),
            "ticktext": [inert(name) for name in panel.categories],
            "showgrid": False,
        }
        axes["xaxis"]["title"] = {"text": ""}
        axes["yaxis"]["title"] = {"text": ""}
    margin = {"l": 56, "r": 12, "t": 8, "b": 44}
    layout: dict[str, Any] = {**axes, "hovermode": "closest", "margin": margin}
    if panel.empty:
        middle = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        layout["annotations"] = [{"text": inert(panel.empty), "showarrow": False, **middle}]
        bare = {"showticklabels": False, "showgrid": False, "ticks": ""}
        for axis in ("xaxis", "yaxis"):
            layout[axis] |= {**bare, "range": [0, 1], "type": "linear"}
            layout[axis].pop("dtick", None)
    return layout


def _log_ticks(ends: tuple[float, float]) -> dict[str, Any]:
    """Powers of ten on a long axis, 1-2-5 on a short one (also beyond its ends, for a reader who
    zooms out)."""
    decades = math.log10(ends[1] / ends[0]) if ends[1] > ends[0] > 0 else 0.0
    if decades > 2.2:
        return {"dtick": 1 if decades < 8 else 2, "exponentformat": "power"}
    ticks = round_numbers(*ends, beyond=1)
    return {"tickvals": _numbers(ticks), "ticktext": [pretty(tick) for tick in ticks]}
