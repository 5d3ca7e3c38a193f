"""Which exponents of the surfaces differ, and compute at equal loss: every pair of
architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...figures.text import pretty
from ...laws.compare.compare import RATIO_OF, SUPPORTED, Difference, PairComparison
from ...laws.fit.result import Estimate
from ..analysis import Analysis
from ..outcome import finite, row_of
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
    between,
    csv,
    entries,
    p_value,
    table,
)
from .ratios import FEW_PAIRS, matrix

TESTED = {"gamma": "difference in γ", "alpha": "in α", "beta": "in β"}


# of comparisons.csv
KEYS = (
    *("first", "second", "quantity", "value", "low", "high", "p_holm", "verdict", "ratio_slope"),
    *("at_loss", "at_compute", "paired_runs"),
)
# reading of the multiplier, its name, and the column that says where it is taken
READINGS = (
    ("multiplier", "compute at equal loss", "at_loss"),
    ("ratio", "loss at equal compute", "at_compute"),
)


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
    """Tests of every pair for the page; many of them as matrices, most of them to open."""
    pairs, notes = analysis.comparison.pairs, analysis.comparison.notes
    parts: list[Part] = []
    if pairs:
        explain = (
            "Each pair is fitted on the ranges of N and D that both cover, and tested by itself"
            " (95% interval; p by Holm's rule for the number of pairs). A difference belongs to the"
            " form of the law: it is bold where it is sure at 5% and the ratios of losses, which"
            " need no law, show it too."
        )
        parts += [Heading("Do the exponents differ?"), Prose(explain)]
        if len(pairs) > FEW_PAIRS:
            parts += _matrices(analysis)
        else:
            parts.append(table(_pair_columns(analysis), pairs, "comparisons"))
    return [*parts, Notes([("", note) for note in notes])] if notes else parts


def _pair_columns(analysis: Analysis) -> list[Column]:
    surfaces = {"gamma": "αβ/(α+β) of the surfaces"}
    return [
        Column("", "pair", lambda pair: f"{pair.second} against {pair.first}", numeric=False),
        *(
            Column("", text, cell=_tester(name), small=surfaces.get(name, ""))
            for name, text in TESTED.items()
        ),
        Column(
            "", "compute for equal loss", cell=_compute(analysis), small="times the second named's"
        ),
    ]


def _tester(name: str) -> Callable[[PairComparison], Cell]:
    return lambda pair: _test(pair.tests.get(name))


def _test(test: Difference | None) -> Cell:
    if test is None:
        return MISSING
    small = (f"{test.low:+.3f} to {test.high:+.3f}", f"p {p_value(test.p_holm)}")
    if test.p_holm < 0.05 and test.quantity in RATIO_OF and test.verdict != SUPPORTED:
        small += (test.verdict or "no ratios to tell",)
    return Cell(f"{test.difference:+.3f}", small, "strong" if test.sure else "")


def _compute(analysis: Analysis) -> Callable[[PairComparison], Cell]:
    """Compute at equal loss."""

    def cell(pair: PairComparison) -> Cell:
        found = Reading.of(pair, "multiplier", analysis)
        if found is None:
            return MISSING
        crossing = pair.multiplier.crossing if pair.multiplier else None
        small = [f"equal at {pretty(float(crossing), 2)} FLOPs"] if crossing else []
        return found.cell(2, f"at loss {pretty(found.at)}", *small)

    return cell


def _matrices(analysis: Analysis) -> list[Part]:
    """Differences in gamma, then to open those in alpha and beta, and compute at equal loss; row
    against column."""
    pairs = analysis.comparison.pairs
    gamma, *others = (
        matrix(
            analysis, pairs, _tester(name), f"pair-{name}", f"{text} of the row less the column."
        )
        for name, text in (("gamma", "γ = αβ/(α+β)"), ("alpha", "α"), ("beta", "β"))
    )
    caption = "Compute of the row over that of the column for equal loss, read off the frontiers."
    compute = matrix(analysis, pairs, _compute(analysis), "pair-compute", caption)
    return [
        gamma,
        Details("Differences in α and β, and compute for equal loss", [*others, compute]),
    ]


def comparisons(analysis: Analysis) -> Csv:
    """Differences of exponents (second minus first), then compute and loss (second / first)."""
    rows: list[dict[str, Any]] = []
    for pair in analysis.comparison.pairs:
        runs = pair.n_pairs if pair.paired else 0
        head = {"first": pair.first, "second": pair.second, "paired_runs": runs}
        for name in TESTED:
            if (test := pair.tests.get(name)) is not None:
                rows.append({**vars(test), **head, "quantity": name, "value": test.difference})
        for what, text, at in READINGS:
            if (found := Reading.of(pair, what, analysis)) is not None:
                rows.append({**head, "quantity": text, **row_of(found.value), at: found.at})
    return csv("comparisons", entries(*KEYS), rows)
