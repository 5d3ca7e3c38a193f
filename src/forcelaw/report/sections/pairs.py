"""Which exponents differ, and how losses compare at equal compute: every pair of architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...figures.text import pretty
from ...laws.compare.compare import NOT_SUPPORTED, Difference, PairComparison
from ...laws.fit.result import Estimate
from ..analysis import Analysis
from ..outcome import ends, finite
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
    Table,
    between,
    p_value,
    table,
)

FEW_PAIRS = 6  # shown as a list; more of them are a matrix first
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


def pair_parts(analysis: Analysis) -> list[Part]:
    """Tests of every pair for the page; many of them as matrices, the list to open."""
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


def comparisons(analysis: Analysis) -> Csv:
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
