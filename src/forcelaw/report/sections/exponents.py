"""The exponents of every architecture, the paper's values, and which of them differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ...figures.laws import forest
from ...figures.spec import Figure
from ...figures.text import interval_text, pretty
from ...laws.compare.compare import NOT_SUPPORTED, Difference, PairComparison
from ...laws.fit.result import Estimate
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import ends, finite
from ..paper import CITATION
from ..section import (
    MISSING,
    Cell,
    Column,
    Csv,
    Details,
    Heading,
    Notes,
    Part,
    Prose,
    Section,
    Table,
    between,
    by_reason,
    csv,
    illustrated,
    number,
    p_value,
    table,
)

VERDICTS = {"holds": "holds", "trend": "a trend, not an exponent", "none": "cannot carry a fit"}
FEW_PAIRS = 6  # shown as a list; more of them are a matrix first


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
    explain = (
        "γ: how fast the best loss falls with compute; α and β: with parameters and with data; a"
        " and b: how the best size and the best amount of data grow with compute. Below each value"
        " its 95% interval, and the paper's value where it has one; ≈ marks a trend, not an"
        " exponent."
    )
    shown = table(columns(), analysis.architectures, "exponents-data")
    parts: list[Part] = [Prose(explain), shown]
    if reasons := grouped_reasons(analysis):
        parts.append(Notes(reasons))
    paper = (
        f"Paper: {CITATION}. It sets the floor to zero and gives no intervals for α and β; its"
        " models, data and budgets are far larger."
    )
    parts.append(Prose(paper, "key"))
    parts += illustrated(figure(analysis))
    parts += _pairs(analysis)
    files = [csv("exponents", columns(), analysis.architectures), _comparisons(analysis)]
    return Section("exponent-table", "Exponents and the paper's values", parts, files)


def grouped_reasons(analysis: Analysis) -> list[tuple[str, str]]:
    """Why numbers are missing or a trend, each reason once with its architectures."""
    return by_reason((arch.label, text) for arch in analysis.architectures for text in arch.reasons)


def figure(analysis: Analysis) -> Figure:
    """Forest plot of the exponents and the paper's."""
    panels = []
    for one in EXPONENTS:
        if one.figure:
            archs = analysis.architectures
            items = [(arch.label, arch.look, one.of(arch), one.trend(arch)) for arch in archs]
            panels.append(forest(one.figure, items, [_tick(one, arch) for arch in archs]))
    return Figure(
        "exponents",
        "Exponents with their intervals",
        "An exponent is the slope on these double-logarithmic figures; the bar is the range that"
        " would cover the true value in 19 of 20 repetitions of the study, so two architectures"
        " differ for sure only where a direct comparison says so.",
        panels,
        "filled: holds · hollow: a trend, not an exponent · grey tick: the paper's value",
    )


def _tick(one: Exponent, arch: Architecture) -> tuple[str, float] | None:
    quoted = one.quoted(arch)
    if quoted is None or arch.paper is None:
        return None
    return f"{arch.paper.name} in the paper: {quoted}", quoted


# -- pairs -----------------------------------------------------------------------------------------

TESTED = {"gamma": "difference in γ", "alpha": "in α", "beta": "in β"}


@dataclass(frozen=True)
class Reading:
    """What a multiplier says in the middle of its range: compute at equal loss, or loss at equal
    compute. trend: a frontier that it is read off describes a trend only."""

    value: Estimate
    at: float
    trend: bool

    @classmethod
    def of(cls, pair: PairComparison, what: str, analysis: Analysis) -> Reading | None:
        """what: "multiplier" (at equal loss) or "ratio" (at equal compute)."""
        found = pair.multiplier.middle(what) if pair.multiplier is not None else None
        value = finite(found[1]) if found is not None else None
        if found is None or value is None:
            return None
        archs = (analysis.labelled(label) for label in (pair.first, pair.second))
        return cls(value, found[0], any(arch.frontier_c.trend for arch in archs))

    def cell(self, digits: int, *small: str) -> Cell:
        """Bold where the interval excludes one."""
        text, value = pretty(self.value.value, digits), self.value
        lines = (*between(value, lambda end: pretty(end, digits)), *small)
        if self.trend:
            return Cell(f"≈ {text}", lines, "trend")
        sure = value.bounded and (value.low > 1 or value.high < 1)  # type: ignore[operator]
        return Cell(text, lines, "strong" if sure else "")


def _pairs(analysis: Analysis) -> list[Part]:
    pairs, notes = analysis.comparison.pairs, analysis.comparison.notes
    parts: list[Part] = []
    if pairs:
        explain = (
            "Overlapping intervals would not answer this; each pair is tested by itself, and the"
            " test is made stricter for the number of pairs (Holm). Bold differences are sure at 5%"
            " and not contradicted by ratios of losses, which need no law."
        )
        parts += [Heading("Do the exponents differ?"), Prose(explain)]
        full = table(_pair_columns(analysis), pairs, "comparisons")
        if len(pairs) > FEW_PAIRS:
            parts += [*_matrices(analysis), Details(f"All {len(pairs)} pairs in full", [full])]
        else:
            parts.append(full)
    return [*parts, Notes([("", note) for note in notes])] if notes else parts


def _pair_columns(analysis: Analysis) -> list[Column]:
    def test(name: str) -> Callable[[PairComparison], Cell]:
        return lambda pair: _test(pair.tests.get(name))

    def multiplier(pair: PairComparison) -> Cell:
        found = Reading.of(pair, "multiplier", analysis)
        if found is None:
            return MISSING
        crossing = pair.multiplier.crossing if pair.multiplier else None
        small = [f"equal at {pretty(float(crossing), 2)} FLOPs"] if crossing else []
        return found.cell(2, f"at loss {pretty(found.at)}", *small)

    def ratio(pair: PairComparison) -> Cell:
        found = Reading.of(pair, "ratio", analysis)
        return MISSING if found is None else found.cell(3, f"at {pretty(found.at, 2)} FLOPs")

    times = "times the second named's"
    surfaces = {"gamma": "αβ/(α+β) of the surfaces"}
    return [
        Column("", "pair", lambda pair: f"{pair.second} against {pair.first}", numeric=False),
        *(
            Column("", text, cell=test(name), small=surfaces.get(name, ""))
            for name, text in TESTED.items()
        ),
        Column("", "compute for equal loss", cell=multiplier, small=times),
        Column("", "loss at equal compute", cell=ratio, small=times),
    ]


def _test(test: Difference | None) -> Cell:
    if test is None:
        return MISSING
    small = (f"{test.low:+.3f} to {test.high:+.3f}", f"p {p_value(test.p_holm)}")
    if test.verdict == NOT_SUPPORTED:
        small += ("the ratios of losses do not show it",)
    return Cell(f"{test.difference:+.3f}", small, "strong" if test.sure else "")


def _matrices(analysis: Analysis) -> list[Part]:
    """Difference in gamma, and loss at equal compute, of the row against the column."""

    def difference(pair: PairComparison) -> Cell:
        return replace(_test(pair.tests.get("gamma")), small=())

    def ratio(pair: PairComparison) -> Cell:
        found = Reading.of(pair, "ratio", analysis)
        return MISSING if found is None else replace(found.cell(3), small=())

    return [
        _matrix(
            analysis,
            ratio,
            "pair-ratios",
            "Loss of the row over that of the column, at equal compute in the middle of the range"
            " that both cover; below one the row is better. Bold: the interval excludes one.",
        ),
        _matrix(
            analysis,
            difference,
            "pair-differences",
            "γ of the row minus γ of the column, αβ/(α+β) of the surfaces.",
        ),
    ]


def _matrix(
    analysis: Analysis, cell: Callable[[PairComparison], Cell], name: str, caption: str
) -> Table:
    by = {(pair.second, pair.first): cell(pair) for pair in analysis.comparison.pairs}
    labels = list(dict.fromkeys(label for key in by for label in reversed(key)))
    archs = [analysis.labelled(label) for label in labels]
    empty = Cell("")

    def column(label: str) -> Column:
        return Column("", label, cell=lambda arch: by.get((arch.label, label), empty))

    head = Column("", "", cell=lambda arch: Cell(arch.label, look=arch.look), numeric=False)
    return table([head, *(column(label) for label in labels[:-1])], archs[1:], name, caption)


def _comparisons(analysis: Analysis) -> Csv:
    """Differences of exponents (second minus first), then compute and loss (second / first)."""
    keys = (
        "first",
        "second",
        "quantity",
        "value",
        "low",
        "high",
        "p_holm",
        "at_loss",
        "at_compute",
        "paired_runs",
    )
    rows: list[dict[str, Any]] = []
    for pair in analysis.comparison.pairs:
        head = {
            "first": pair.first,
            "second": pair.second,
            "paired_runs": pair.n_pairs if pair.paired else 0,
        }
        for name in TESTED:
            if (test := pair.tests.get(name)) is not None:
                values = {
                    "value": test.difference,
                    "low": test.low,
                    "high": test.high,
                    "p_holm": test.p_holm,
                }
                rows.append({**head, "quantity": name, **values})
        for what, text, at in (
            ("multiplier", "compute at equal loss", "at_loss"),
            ("ratio", "loss at equal compute", "at_compute"),
        ):
            if (found := Reading.of(pair, what, analysis)) is not None:
                value, low, high = ends(found.value)
                rows.append(
                    {
                        **head,
                        "quantity": text,
                        "value": value,
                        "low": low,
                        "high": high,
                        at: found.at,
                    }
                )
    return Csv("comparisons", list(keys), [[row.get(key) for key in keys] for row in rows])


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
