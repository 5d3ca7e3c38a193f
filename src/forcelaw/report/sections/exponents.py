"""The exponents of every architecture, the paper's values, and which of them differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

from ...figures.laws import forest
from ...figures.spec import Figure
from ...figures.text import interval_text
from ...laws.fit.result import Estimate
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import ends
from ..paper import CITATION
from ..section import (
    Cell,
    Column,
    Notes,
    Part,
    Prose,
    Section,
    by_reason,
    csv,
    illustrated,
    number,
    table,
)
from .pairs import comparisons, pair_parts

VERDICTS = {"holds": "holds", "trend": "a trend, not an exponent", "none": "cannot carry a fit"}


@dataclass(frozen=True)
class Exponent:
    """A number of the table: its key in exponents.csv, the result and the name there, its heading,
    and the attribute of the paper's numbers."""

    key: str
    source: str  # surface, frontier_c, frontier_h or allocation
    name: str
    heading: str
    paper: str = ""
    compact: str = ""  # heading in the terminal's table, empty if it is not there
    figure: str = ""  # title of its panel, empty if it has none

    def of(self, arch: Architecture) -> Estimate | None:
        """The estimate; None where its fit was refused."""
        return getattr(arch, self.source).get(self.name)

    def trend(self, arch: Architecture) -> bool:
        """Whether the number describes a trend only."""
        source = "surface" if self.source == "allocation" else self.source
        return bool(getattr(arch, source).trend)

    def quoted(self, arch: Architecture) -> float | None:
        """The paper's value."""
        return getattr(arch.paper, self.paper) if self.paper and arch.paper else None


EXPONENTS = [
    Exponent(
        "gamma_c",
        "frontier_c",
        "gamma",
        "γ FLOPs",
        "gamma_c",
        "gamma (FLOPs)",
        "γ, compute (FLOPs)",
    ),
    Exponent("gamma_surface", "surface", "gamma", "αβ/(α+β)"),
    Exponent(
        "gamma_h", "frontier_h", "gamma", "γ hours", "gamma_h", "gamma (hours)", "γ, device-hours"
    ),
    Exponent("alpha", "surface", "alpha", "α params", "alpha", "alpha", "α, parameters"),
    Exponent("beta", "surface", "beta", "β data", "beta", "beta", "β, data"),
    Exponent("a", "allocation", "a", "a: N* ~ C^a"),
    Exponent("b", "allocation", "b", "b: D* ~ C^b"),
    Exponent("floor", "surface", "E", "floor E"),
]


def columns() -> list[Column]:
    """The columns of exponents.csv and of the table on the page."""
    return [
        Column("architecture", "architecture", lambda arch: arch.label, _head, numeric=False),
        Column("symmetry", value=lambda arch: arch.symmetry),
        Column("runs", value=lambda arch: arch.runs),
        Column("sizes", value=lambda arch: len(arch.sizes)),
        Column("seeds", value=lambda arch: arch.seeds),
        *chain.from_iterable(_exponent_columns(one) for one in EXPONENTS),
        Column("kappa", value=lambda arch: arch.kappa),
        Column("kappa_paper", value=lambda arch: arch.paper.kappa if arch.paper else None),
        Column("decades_c", value=lambda arch: arch.frontier_c.decades),
        Column("verdict", value=lambda arch: VERDICTS[arch.verdict]),
        Column("reasons", value=lambda arch: "; ".join(arch.reasons)),
    ]


def _exponent_columns(one: Exponent) -> list[Column]:
    def part(index: int) -> Callable[[Architecture], float | None]:
        return lambda arch: ends(one.of(arch))[index]

    def cell(arch: Architecture) -> Cell:
        shown = number(one.of(arch), 3, trend=one.trend(arch))
        quoted = one.quoted(arch)
        return (
            shown if quoted is None else replace(shown, small=(*shown.small, f"paper {quoted:.2f}"))
        )

    made = [
        Column(one.key, one.heading, part(0), cell),
        Column(f"{one.key}_low", value=part(1)),
        Column(f"{one.key}_high", value=part(2)),
    ]
    return [*made, Column(f"{one.key}_paper", value=one.quoted)] if one.paper else made


def _head(arch: Architecture) -> Cell:
    small = (arch.symmetry, f"{arch.runs} runs, {len(arch.sizes)} sizes")
    badge = (arch.verdict, VERDICTS[arch.verdict])
    return Cell(arch.label, small, look=arch.look, badge=badge)


def section(analysis: Analysis) -> Section:
    """Exponents, their reasons and figure, then the pairs."""
    quoted = ", and the paper's value where it has one" if analysis.in_paper else ""
    explain = (
        "γ: how fast the best loss falls with compute; α and β: with parameters and with data; a"
        " and b: how the best size and the best amount of data grow with compute. Below each value"
        f" its 95% interval{quoted}; ≈ marks a trend, not an exponent."
    )
    shown = table(columns(), analysis.architectures, "exponents-data")
    parts: list[Part] = [Prose(explain), shown]
    if reasons := grouped_reasons(analysis):
        parts.append(Notes(reasons))
    title = "Exponents"
    if analysis.in_paper:
        title += " and the paper's values"
        paper = (
            f"Paper: {CITATION}. It sets the floor to zero and gives no intervals for α and β; its"
            " models, data and budgets are far larger."
        )
        parts.append(Prose(paper, "key"))
    parts += illustrated(figure(analysis))
    parts += pair_parts(analysis)
    files = [csv("exponents", columns(), analysis.architectures), comparisons(analysis)]
    return Section("exponent-table", title, parts, files)


def grouped_reasons(analysis: Analysis) -> list[tuple[str, str]]:
    """Why numbers are missing or a trend, each reason once with its architectures."""
    return by_reason((arch.label, text) for arch in analysis.architectures for text in arch.reasons)


def figure(analysis: Analysis) -> Figure:
    """Forest plot of the exponents and the paper's."""
    panels = []
    for one in EXPONENTS:
        if one.figure and (one.key != "gamma_h" or analysis.has_hours):
            archs = analysis.architectures
            items = [(arch.look, one.of(arch), one.trend(arch)) for arch in archs]
            panels.append(forest(one.figure, items, [_tick(one, arch) for arch in archs]))
    return Figure(
        "exponents",
        "Exponents with their intervals",
        "An exponent is the slope on these double-logarithmic figures; the bar is the range that"
        " would cover the true value in 19 of 20 repetitions of the study, so two architectures"
        " differ for sure only where a direct comparison says so.",
        panels,
        "filled: holds · hollow: a trend, not an exponent"
        + (" · grey tick: the paper's value" if analysis.in_paper else ""),
    )


def _tick(one: Exponent, arch: Architecture) -> tuple[str, float] | None:
    quoted = one.quoted(arch)
    if quoted is None or arch.paper is None:
        return None
    return f"{arch.paper.name} in the paper: {quoted}", quoted


# -- the same table for a paper and for the terminal -----------------------------------------------


def rows_of_text(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Header and rows: value [95% interval], the paper's number in brackets after it."""
    head = ["architecture", "runs", *(one.heading for one in EXPONENTS), "verdict"]
    rows = []
    for arch in analysis.architectures:
        cells = [arch.label, str(arch.runs)]
        for one in EXPONENTS:
            quoted = one.quoted(arch)
            paper = "" if quoted is None else f" (paper {quoted:.2f})"
            cells.append(interval_text(one.of(arch), 3) + paper)
        rows.append([*cells, VERDICTS[arch.verdict]])
    return head, rows


def compact(analysis: Analysis) -> list[list[str]]:
    """The table that `forcelaw report` prints, with the paper's values in a row of their own."""
    shown = [one for one in EXPONENTS if one.compact]
    rows = [["architecture", "runs", *(one.compact for one in shown), "verdict"]]
    for arch in analysis.architectures:
        values = [interval_text(one.of(arch), 2) for one in shown]
        rows.append([arch.label, str(arch.runs), *values, VERDICTS[arch.verdict]])
        if arch.paper:
            quoted = [one.quoted(arch) for one in shown]
            rows.append(["  paper", "", *("" if v is None else f"{v:.2f}" for v in quoted), ""])
    return rows
