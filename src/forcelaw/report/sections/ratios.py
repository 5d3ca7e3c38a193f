"""How the losses of two architectures compare at equal N and D, equal compute and equal hours: no
law is needed, and a difference of exponents that is not seen here is not claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...figures.laws import FLOPS, HOURS, equal_loss, loss_ratios
from ...figures.spec import Figure
from ...figures.text import pretty
from ...laws.compare.equal_cost import CostRatio
from ...laws.compare.ratios import CONSTANT, Ratios
from ...laws.compare.slopes import Slope
from ..analysis import Analysis
from ..section import (
    MISSING,
    Cell,
    Column,
    Details,
    Part,
    Prose,
    Section,
    Table,
    csv,
    entries,
    illustrated,
    table,
)

FEW_PAIRS = 6  # shown as a list; more of them are a matrix
SLOPES = {"d": "in D", "n": "in N", "c": "in C", "h": "in hours"}


def section(analysis: Analysis) -> Section | None:
    """The figure, the pairs, the map of each to open, and the maps as a file."""
    found = analysis.comparison.ratios
    if not found:
        return None
    explain = (
        "Runs of one size and seed are compared at equal D. Extra slope: how much faster the loss"
        " of the first named falls, to be compared with a difference of exponents; where neither"
        " that in N nor that in D is seen, one is a constant factor from the other. 95% intervals,"
        " from sizes as independent units."
    )
    parts: list[Part] = [*illustrated(figure(analysis)), Prose(explain)]
    if len(found) > FEW_PAIRS:
        parts += _matrices(analysis, found)
    else:
        parts.append(table(_pair_columns(), found, "ratios"))
    maps = [Details(f"{_title(one)}: {one.words()}", [_map(one)]) for one in found]
    parts.append(Details(f"Ratios by N and D, {len(maps)} pairs", maps))
    keys = ("first", "second", "n", "n_first", "n_second", "d", "ratio")
    rows = [row for one in found for row in one.rows()]
    title = "Losses compared without a law"
    return Section("ratios", title, parts, [csv("ratios", entries(*keys), rows)])


def _title(found: Ratios) -> str:
    return f"{found.second} / {found.first}"


def slope_words(found: Ratios) -> str:
    """The verdict, or the extra slopes that are seen."""
    if found.verdict == CONSTANT:
        return found.verdict
    seen = [
        f"{slope.value:+.2f} {SLOPES[name]}"
        for name in ("d", "n")
        if (slope := found.slope(name)) is not None and slope.p is not None and slope.p < 0.05
    ]
    return ", ".join(seen) or found.verdict


# -- numbers -------------------------------------------------------------------------------------


def _factor(found: Ratios) -> Cell:
    """Mean ratio at equal N and D; bold where its interval excludes one."""
    low, high = found.factor_low, found.factor_high
    sure = low is not None and high is not None and (low > 1 or high < 1)
    small = () if low is None else (f"{pretty(low)} to {pretty(high)}",)
    return Cell(pretty(found.factor), small, "strong" if sure else "")


def _slope(slope: Slope | None) -> Cell:
    """An extra slope; bold where its interval excludes zero."""
    if slope is None:
        return MISSING
    if slope.low is None or slope.high is None:
        return Cell(f"{slope.value:+.3f}")
    sure = slope.low > 0 or slope.high < 0
    small = (f"{slope.low:+.3f} to {slope.high:+.3f}",)
    return Cell(f"{slope.value:+.3f}", small, "strong" if sure else "")


def _at_cost(cost: CostRatio | None) -> Cell:
    """Ratio of the frontiers in the middle of the common range."""
    if cost is None:
        return MISSING
    i = len(cost.at) // 2
    low, high = float(cost.low[i]), float(cost.high[i])
    sure = low > 1 or high < 1
    return Cell(pretty(cost.ratio[i]), (f"{pretty(low)} to {pretty(high)}",), "strong" * sure)


def _slope_in(name: str) -> Callable[[Ratios], Cell]:
    return lambda one: _slope(one.slope(name))


def _at_equal(name: str) -> Callable[[Ratios], Cell]:
    return lambda one: _at_cost(one.costs.get(name))


def _pair_columns() -> list[Column]:
    over = "extra slope"
    return [
        Column("", "pair", _title, numeric=False),
        Column("", "at equal N and D", cell=_factor, over="ratio of losses"),
        Column("", "equal FLOPs", cell=_at_equal("c"), over="ratio of losses"),
        Column("", "equal hours", cell=_at_equal("h"), over="ratio of losses"),
        *(Column("", text, cell=_slope_in(name), over=over) for name, text in SLOPES.items()),
        Column("", "verdict", lambda one: one.verdict, numeric=False),
    ]


def _matrices(analysis: Analysis, found: Sequence[Ratios]) -> list[Part]:
    """Row over column: at equal N and D with the verdict, at equal cost, and the extra slopes."""

    def level(one: Ratios) -> Cell:
        cell = _factor(one)
        return Cell(cell.text, (slope_words(one),), cell.style)

    of, below = "Loss of the row over that of the column", "in the middle of the common range."
    shown = (
        (
            level,
            "ratios",
            f"{of} at equal N and D, mean over sizes, and extra slopes that"
            " are seen; below one the row is better.",
        ),
        (_at_equal("c"), "ratios-c", f"{of} at equal FLOPs, {below}"),
    )
    hidden = (
        (_at_equal("h"), "ratios-h", f"{of} at equal device-hours, {below}"),
        *(
            (_slope_in(name), f"slope-{name}", f"Extra slope {text}.")
            for name, text in SLOPES.items()
        ),
    )
    tables = [matrix(analysis, found, cell, name, text) for cell, name, text in (*shown, *hidden)]
    first, rest = tables[: len(shown)], tables[len(shown) :]
    return [*first, Details("Equal hours, and extra slopes in D, N, C and hours", list(rest))]


def matrix(
    analysis: Analysis,
    pairs: Sequence[Any],
    cell: Callable[[Any], Cell],
    name: str,
    caption: str,
) -> Table:
    """One cell for each pair (objects with ``first`` and ``second``): row second, column first."""
    by = {(pair.second, pair.first): cell(pair) for pair in pairs}
    here = {label for key in by for label in key}
    archs = [arch for arch in analysis.architectures if arch.label in here]
    empty = Cell("")

    def column(label: str) -> Column:
        return Column("", label, cell=lambda arch: by.get((arch.label, label), empty))

    head = Column("", "", cell=lambda arch: Cell(arch.label, look=arch.look), numeric=False)
    columns = [head, *(column(arch.label) for arch in archs[:-1])]
    return table(columns, archs[1:], name, caption)


def _size_slope(row: tuple[Any, Any]) -> Cell:
    slope = row[0].slope
    return MISSING if slope is None else Cell(f"{slope:+.3f}")


def _map(found: Ratios) -> Table:
    """Ratio by N and D, and the extra slope in D of each size."""
    at, values = found.grid()
    rows = list(zip(found.sizes, values, strict=True))

    def column(i: int) -> Column:
        return Column("", pretty(at[i], 2), cell=lambda row: Cell(pretty(row[1][i])), over="D")

    return table(
        [
            Column("", "N", cell=lambda row: Cell(pretty(row[0].n))),
            *(column(i) for i in range(len(at))),
            Column("", "extra slope in D", cell=_size_slope),
        ],
        rows,
    )


# -- the figure ----------------------------------------------------------------------------------


def figure(analysis: Analysis) -> Figure:
    """Ratios of losses against the first architecture, and its compute at equal loss."""
    found = analysis.comparison.ratios
    first = found[0].first
    own = [one for one in found if one.first == first]
    items = [(analysis.labelled(one.second).look, one) for one in own]
    multipliers = [
        (analysis.labelled(pair.second).look, pair.multiplier)
        for pair in analysis.comparison.pairs
        if pair.first == first and pair.multiplier is not None
    ]
    panels = [
        loss_ratios(items, first, "d", f"{analysis.words.data} seen D"),
        loss_ratios(items, first, "c", FLOPS),
        *([loss_ratios(items, first, "h", HOURS)] if analysis.has_hours else []),
        equal_loss(multipliers, first, f"compute in units of {first}'s", analysis.words.loss),
    ]
    return Figure(
        "ratios",
        "Losses compared without a law",
        f"The loss of each architecture in units of {first}'s: a flat line is a constant factor,"
        " one that falls to the right gains; last, how many times the compute it needs for the"
        " same loss, read off the frontiers.",
        panels,
        "left: one line for each size, stronger for larger ones · shaded: 95% interval, deleting"
        f" whole sizes or runs · dotted: {first}",
        columns=2,
    )
