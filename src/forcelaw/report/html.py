"""The page: one self-contained HTML file that opens offline and asks nothing of the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..figures import plotly
from ..figures.spec import Figure
from ..figures.style import DARK, Look
from . import summary
from .analysis import Analysis
from .section import Section

# outlines in a 14 x 14 box for the symbols of style.SYMBOLS
MARKS = {
    "circle": "M7 2a5 5 0 1 0 .01 0z",
    "square": "M2.5 2.5h9v9h-9z",
    "diamond": "M7 .8 13.2 7 7 13.2 .8 7z",
    "triangle-up": "M7 1.5 13 12.2H1z",
    "star": "M7 .6l1.9 4.2 4.6.5-3.4 3.1.9 4.5L7 10.6l-4 2.3.9-4.5L.5 5.3l4.6-.5z",
    "cross": "M5 1h4v4h4v4H9v4H5V9H1V5h4z",
    "x": "M3.5 1 7 4.5 10.5 1 13 3.5 9.5 7l3.5 3.5-2.5 2.5L7 9.500 3.5 13 1 10.5 4.5 7 1 3.5z",
    "triangle-down": "M7 12.5 1 1.800h12z",
    "pentagon": "M7 1l6 4.400-2.300 7.100H3.300L1 5.400z",
    "hexagon": "M4 1.800h6L13 7l-3 5.200H4L1 7z",
}


def render(analysis: Analysis, sections: Sequence[Section]) -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    study = analysis.source.study
    figures = [figure for section in sections for figure in section.figures]
    looks = [arch.look for arch in analysis.architectures]
    return environment.get_template("template.html.j2").render(
        analysis=analysis,
        description=study.get("description", ""),
        created=str(study.get("created") or "")[:10],
        version=__version__,
        headline=summary.headline(analysis),
        tiles=summary.tiles(analysis),
        findings=summary.findings(analysis),
        limits=[*analysis.source.notes, *summary.limits(analysis)],
        sections=[section for section in sections if section.parts],
        mark=_mark,
        layouts={figure.name: _layout(figure, i) for i, figure in enumerate(figures)},
        dark_colours=_script(DARK | {look.colour: look.dark for look in looks}),
        figure_data=_script([plotly.draw(figure) for figure in figures]),
        plotly=Markup(get_plotlyjs()),
    )


def _mark(look: Look) -> Markup:
    outline = MARKS.get(look.symbol, MARKS["circle"])
    return Markup(
        f'<svg class="mark" viewBox="0 0 14 14" aria-hidden="true" style="color:{look.colour}"'
        f' data-light="{look.colour}" data-dark="{look.dark}"><path fill="currentColor"'
        f' d="{outline}"/></svg>'
    )


def _script(value: Any) -> Markup:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "&<>\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _layout(figure: Figure, index: int) -> dict[str, Any]:
    """Where a figure's data lie, how many panels stand side by side, and how high a forest is."""
    rows = max((len(panel.categories or []) for panel in figure.panels), default=0)
    count = len(figure.panels)
    forest = any(panel.categories is not None for panel in figure.panels)
    columns = figure.columns or (count if count < 3 or forest else 3)
    return {"index": index, "forest": forest, "height": 64 + 46 * rows, "columns": columns}
