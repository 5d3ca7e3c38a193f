"""Tests of the exponents of every pair, in the order of the study, with compute at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from ..errors import FitError
from ..laws.compare.compare import Comparison, PairComparison, compare
from ..laws.compare.multiplier import multiplier
from ..table.runs import Runs
from .architecture import Architecture
from .frontiers import runs_of
from .outcome import one_line


def compare_pairs(architectures: Sequence[Architecture], burn_in_steps: int) -> Comparison:
    """Ratios of every pair, and tests of those that have surfaces; without two of these, a note
    says why there are none."""
    if len(architectures) < 2:
        return Comparison("surface", {}, [], 0.95)
    usable = [arch for arch in architectures if arch.surface.ok]
    try:
        runs = runs_of(pl.concat([arch.frame for arch in architectures]), burn_in_steps)
        order = [arch.label for arch in architectures if arch.label in runs.group_names]
        found = compare(runs, law="surface", x=None, architectures=order)
    except FitError as error:
        return Comparison("surface", {}, [], 0.95, [one_line(error.what)])
    # why a surface is refused stands with the exponents
    known = {f"{name}:" for name, one in found.fits.items() if not one.ok}
    found.notes = [note for note in found.notes if not note.startswith(tuple(known))]
    if len(usable) < 2:
        found.notes.append(
            "fewer than two architectures have a fitted surface, so no exponents can be compared"
        )
    by_label = {arch.label: arch for arch in architectures}
    for pair in found.pairs:
        _add_multiplier(pair, runs, by_label)
    return replace(found, notes=[one_line(note) for note in found.notes])


def _add_multiplier(pair: PairComparison, runs: Runs, by_label: dict[str, Architecture]) -> None:
    """Compute at equal loss and loss at equal compute, from the frontiers that the page shows."""
    both = (by_label[pair.first].frontier_c, by_label[pair.second].frontier_c)
    if not all(one.ok for one in both):
        pair.notes.append("no compute multiplier: a frontier is missing")
        return
    parts = [runs.select(group=label) for label in (pair.first, pair.second)]
    frontiers = tuple(one.result for one in both)
    try:
        pair.multiplier = multiplier(
            *parts, "c", names=(pair.first, pair.second), frontiers=frontiers
        )
    except FitError as error:
        pair.notes.append(one_line(error.what))
