"""Panels as matplotlib figures for a paper: PNG, SVG and PDF, without titles, with a legend that
print needs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FitError, printable, require
from ..files import whole
from .spec import Figure, Panel, Series
from .text import pretty, round_numbers

DPI = 200
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FORMATS = ("png", "svg", "pdf")
DASHES = {"solid": "-", "dash": (0, (4, 2)), "dot": (0, (1, 1.5))}
LONGEST = 80  # characters of a title
WIDTH = {1: 3.6, 2: 7.0, 3: 7.2}  # inches: one column, or the width of the text
STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "legend.frameon": False,
    "svg.hashsalt": "forcelaw",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
}


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write ``figure`` as FOLDER/<name>.png, .svg and .pdf; returns the paths. The same table gives
    the same files."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{figure.name}.{suffix}" for suffix in FORMATS]
    with matplotlib.rc_context(STYLE):
        canvas = _canvas(figure)
        # each printed directly: savefig would draw everything once more for every format
        with whole(paths[0]) as path:
            FigureCanvasAgg(canvas).print_png(path, metadata={"Software": "forcelaw"})
        with whole(paths[1]) as path:
            FigureCanvasSVG(canvas).print_svg(path, metadata={"Date": None})
        with whole(paths[2]) as path:
            FigureCanvasPdf(canvas).print_pdf(path, metadata={"CreationDate": None})
    return paths


def check_path(path: str | Path) -> Path:
    """The path, if its suffix is a kind of figure and its directory can be made."""
    path = Path(path)
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise FitError(
            f"figures of kind {path.suffix or 'without suffix'!r} are not written",
            where=str(path),
            remedy=f"end the name in .{', .'.join(FORMATS)}",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FitError(
            f"the directory {path.parent} cannot be made: {error.strerror}",
            where=str(path),
            remedy="give another path",
        ) from error
    return path


def save_alone(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as one PNG, SVG or PDF, with its title above and its explanation below.

    Raises FitError for another kind of file, MissingPackageError without matplotlib.
    """
    require("matplotlib")
    import matplotlib

    path = check_path(path)
    with matplotlib.rc_context(STYLE), whole(path) as temporary:
        _canvas(figure, titled=True).savefig(temporary)
    return path


def _canvas(figure: Figure, *, titled: bool = False) -> Any:
    """The drawn figure. Margins are set in inches by hand: automatic layouts cost more than all the
    drawing."""
    from matplotlib.figure import Figure as Canvas

    count = len(figure.panels)
    columns = figure.columns or (count if count <= 4 else 3)
    rows = -(-count // columns)
    categories = [panel.categories or [] for panel in figure.panels]
    forests = all(categories)
    most = max(len(named) for named in categories)
    entries = _entries(figure)
    width = WIDTH.get(columns, 7.2) + (1.6 if titled else 0.0)
    longest = min(int(14 * width) - 6, max((len(label) for label in entries), default=1))
    per_line = 3 if columns == 1 else max(1, min(6, int(14 * width / (longest + 6))))
    left, right, gap = 0.56, 0.08, 0.6 if columns < 3 else 0.46
    # the names of rows leave two fifths of the width to the panels, however long they are
    fitting = int((0.6 * width / (1 if forests else columns) - 0.2) / 0.07)
    names = min(fitting, max((len(name) for named in categories for name in named), default=0))
    room = 0.2 + 0.07 * names
    if forests:
        left, right, gap = room, 0.1, 0.16
    elif any(named for i, named in enumerate(categories) if i % columns == 0):
        left = max(left, room)
    if not forests and any(named for i, named in enumerate(categories) if i % columns):
        gap = max(gap, room)
    title = _wrapped(figure.title, width) if titled else []
    caption = _wrapped(figure.explain, width) if titled else []
    inner = 0.3 + 0.28 * most if forests else max(1.75, 0.2 * most)
    above = 0.16 * len(title) + 0.08 + 0.17 * -(-len(entries) // per_line)
    top, bottom, between = 0.22, 0.28 if forests else 0.42, 0.68
    below = bottom + (0.15 * len(caption) + 0.1 if caption else 0.0)
    height = above + top + rows * inner + (rows - 1) * between + below
    canvas = Canvas(figsize=(width, height), dpi=DPI)
    each = (width - left - right - (columns - 1) * gap) / columns
    shared = len({panel.y_title for panel in figure.panels}) == 1
    for index, panel in enumerate(figure.panels):
        row, column = divmod(index, columns)
        x = left + column * (each + gap)
        y = height - above - top - inner - row * (inner + between)
        ax = canvas.add_axes((x / width, y / height, each / width, inner / height))
        _panel(ax, panel, names, first=column == 0 or not forests, shared=shared)
    _legend(canvas, entries, longest, per_line, 1 - (0.02 + 0.16 * len(title)) / height)
    canvas.text(0.5, 1 - 0.03 / height, "\n".join(title), ha="center", va="top")
    canvas.text(0.02, 0.05 / height, "\n".join(caption), va="bottom", fontsize=7, color="0.3")
    return canvas


def _wrapped(text: str, width: float) -> list[str]:
    lines = printable(text).split("\n")
    return [part for line in lines for part in textwrap.wrap(line, int(17 * width))]


def _cut(text: str, most: int) -> str:
    """A label in at most so many characters, both of its ends among them."""
    text = printable(text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def _panel(ax: Any, panel: Panel, names: int, *, first: bool, shared: bool) -> None:
    """names: characters that there is room for beside rows."""
    from matplotlib.ticker import NullLocator

    if panel.empty:
        middle = {"ha": "center", "va": "center", "transform": ax.transAxes, "wrap": True}
        ax.text(0.5, 0.5, printable(panel.empty), color="#6b7280", **middle)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(_cut(panel.title, LONGEST))
        return
    if panel.x_log:
        ax.set_xscale("log")
    if panel.y_log:
        ax.set_yscale("log")
    for order, series in enumerate(panel.series):
        _series(ax, series, order)
    if panel.x_range:
        ax.set_xlim(*panel.x_range)
    if panel.y_range:
        ax.set_ylim(*panel.y_range)
    if panel.categories is not None:
        shown = [_cut(name, names) if first else "" for name in panel.categories]
        ax.set_yticks(range(len(shown)), shown)
        ax.grid(False, axis="y")
        ax.set_title(_cut(panel.title, LONGEST), fontsize=8)
    else:
        ax.set_xlabel(_cut(panel.x_title, LONGEST))
        if first or not shared:
            ax.set_ylabel(_cut(panel.y_title, LONGEST))
        ax.set_title(_cut(panel.title, LONGEST), fontsize=8)
    for axis, log in ((ax.xaxis, panel.x_log), (ax.yaxis, panel.y_log)):
        if log:
            axis.set_ticks(*log_ticks(*axis.get_view_interval()))
            axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks inside [low, high] and their labels: powers of ten on a long axis, 1-2-5 on a short
    one. Plain text, since typeset exponents take longer than the figure."""
    decades = math.log10(high / low)
    if decades > 2:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [10.0**power for power in powers if power % (1 if decades < 6 else 2) == 0]
    else:
        values = round_numbers(low, high)
    inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
    if decades <= 2:
        return inside, [pretty(value) for value in inside]
    powers = (str(round(math.log10(value))) for value in inside)
    return inside, ["10" + power.translate(SUPERSCRIPT) for power in powers]


def _series(ax: Any, series: Series, order: int) -> None:
    x, y, low, high = map(_gaps, (series.x, series.y, series.low, series.high))
    if series.kind == "band":
        style = {"color": series.colour, "alpha": series.opacity, "linewidth": 0, "zorder": 1.5}
        ax.fill_between(x, low, high, **style)
        return
    line = DASHES[series.dash] if series.kind != "points" else "none"
    marker = series.marker if series.kind in ("points", "both") else "none"
    thin = marker in ("|", "x")
    face = "none" if series.hollow else series.colour
    options = {
        "color": series.colour,
        "linestyle": line,
        "linewidth": 0.62 * series.width,
        "marker": marker,
        "markersize": 0.55 * series.size,
        "markerfacecolor": face,
        "markeredgewidth": 1.0 if thin or series.hollow else 0.0,
        "alpha": series.opacity,
        "zorder": 2 + order * 1e-3 + (1 if series.width > 2 or series.kind == "points" else 0),
    }
    if series.low is None or series.high is None:
        ax.plot(x, y, **options)
        return
    middle = x if series.horizontal else y
    # a minimum may be the mean but for rounding
    below = [max(0.0, m - end) for end, m in zip(low, middle, strict=True)]
    above = [max(0.0, end - m) for end, m in zip(high, middle, strict=True)]
    options["xerr" if series.horizontal else "yerr"] = [below, above]
    ax.errorbar(x, y, elinewidth=0.8, capsize=0, **options)


def _gaps(values: Sequence[float | None] | None) -> list[float]:
    """Numbers, NaN where there is none."""
    return [math.nan if value is None else value for value in values or []]


def _entries(figure: Figure) -> dict[str, tuple[str, str]]:
    """Colour and marker of every group, in order of appearance. A panel with categories names its
    own rows."""
    out: dict[str, tuple[str, str]] = {}
    panels = [panel for panel in figure.panels if not panel.categories]
    for series in (series for panel in panels for series in panel.series):
        known = out.get(series.group, (series.colour, ""))
        marked = series.kind in ("points", "both") and not known[1]
        out[series.group] = (known[0], series.marker if marked else known[1])
    return {group: look for group, look in out.items() if group}


def _legend(
    canvas: Any, entries: dict[str, tuple[str, str]], longest: int, per_line: int, top: float
) -> None:
    from matplotlib.lines import Line2D

    style = {"linestyle": "-", "linewidth": 1.2, "markersize": 4}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=_cut(label, longest), **style)
        for label, (colour, marker) in entries.items()
    ]
    if handles:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, top), "borderaxespad": 0}
        room = {"ncols": min(per_line, len(handles)), "handlelength": 1.8, "columnspacing": 1.4}
        canvas.legend(handles=handles, **place, **room)
