"""What repeats cost: runs on a smaller training set against those of equal N on the largest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ...figures.spec import Figure, Panel, Series, or_empty
from ...figures.text import pretty
from ...laws.decide.repeats import PASSES
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import ends, row_of
from ..section import Section, csv, entries, illustrated
from ..series import loss_at_data
from ..words import Words


@dataclass(frozen=True)
class Repeated:
    """One evaluation. passes D/U; ratio: its loss over that of the runs on the largest set at equal
    N and D; worth: the passes of data never seen before after which those had its loss, at most
    ``passes``, None below their first evaluation."""

    passes: float
    ratio: float
    worth: float | None


def _row(arch: Architecture) -> dict[str, Any]:
    """The line of an architecture in repeats.csv."""
    found, law = arch.repeats.get("R_D"), arch.repeats.result
    out = {"architecture": arch.label, "runs": arch.repeated["run"].n_unique()}
    out |= row_of(found if found and found.bounded else None, "R_D")
    for name in ("rho", "p"):
        values = ends(arch.repeats.get(name))
        out |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return out | {"law": law.law.name if law else None, "reason": arch.repeats.message}


COLUMNS = entries(
    "architecture",
    "runs",
    "R_D",
    "low",
    "high",
    "rho",
    "rho_low",
    "rho_high",
    "p",
    "p_low",
    "p_high",
    "law",
    "reason",
)
RUNS = entries(
    "architecture", "n", "seed", "u", "d", "passes", "loss", "loss_over_new", "worth_passes", "run"
)


def section(analysis: Analysis) -> Section:
    """The figure where there are such runs; the files always."""
    measured = [arch for arch in analysis.architectures if arch.repeats is not None]
    runs = [
        last
        | {"architecture": arch.label, "passes": course[-1].passes}
        | {"loss_over_new": course[-1].ratio, "worth_passes": course[-1].worth}
        for arch in measured
        for last, course in repeated_runs(arch)
    ]
    made = figure(measured, analysis.words)
    parts = illustrated(made) if measured else []
    files = [csv("repeats", COLUMNS, map(_row, measured)), csv("repeated_runs", RUNS, runs)]
    return Section("repeats", made.title, parts, files)


def repeated_runs(arch: Architecture) -> list[tuple[dict[str, Any], list[Repeated]]]:
    """Last evaluation and course, from the second pass on, of each run that can be compared with
    others of equal N."""
    out = []
    fresh: dict[float, _Fresh] = {}
    for _, rows in arch.repeated.group_by(["run"], maintain_order=True):
        rows, n = rows.sort("d"), rows["n"][0]
        if n not in fresh:  # runs of one size are compared with the same others
            fresh[n] = _Fresh(arch.frame.filter(pl.col("n") == n))
        if course := _against(fresh[n], rows):
            out.append((rows.row(-1, named=True), course))
    return out


class _Fresh:
    """Runs of one size on the largest training set. ds: where they were evaluated; lowest: their
    mean loss up to there."""

    def __init__(self, rows: pl.DataFrame):
        self._runs = [run.sort("d") for _, run in rows.group_by(["run"], maintain_order=True)]
        self._means: dict[float, float | None] = {}
        self.ds = sorted({d for run in self._runs for d in run["d"].to_list()})
        means = [self.mean_at(d) for d in self.ds]
        self.lowest = np.minimum.accumulate(means) if means else []

    def mean_at(self, d: float) -> float | None:
        """Mean loss at D = d; None where none has been."""
        if d not in self._means:
            losses = (loss_at_data(run, d) for run in self._runs)
            found = [loss for loss in losses if loss is not None]
            self._means[d] = sum(found) / len(found) if found else None
        return self._means[d]


def _against(others: _Fresh, rows: pl.DataFrame) -> list[Repeated]:
    out = []
    for row in rows.filter(pl.col("d") > PASSES * pl.col("u")).iter_rows(named=True):
        fresh = others.mean_at(row["d"])
        if fresh is None:
            continue
        new: float | None = row["d"]
        if row["loss"] > fresh:
            lowest, ds = np.log(others.lowest), np.log(others.ds)
            there = float(np.exp(np.interp(-np.log(row["loss"]), -lowest, ds)))
            new = None if row["loss"] > others.lowest[0] else min(row["d"], there)
        worth = None if new is None else new / row["u"]
        out.append(Repeated(row["d"] / row["u"], row["loss"] / fresh, worth))
    return out


def figure(archs: list[Architecture], words: Words) -> Figure:
    """What seeing the same data again costs, and what it is worth."""
    seen = f"times each {words.datum} was seen, D / U"
    cost = Panel(seen, "loss / loss on the largest training set", y_log=False)
    value = Panel(seen, "worth so many passes of new data")
    most = 1.0
    for arch in archs:
        last: list[tuple[Repeated, str]] = []
        for end, course in repeated_runs(arch):
            passes = [point.passes for point in course]
            line = {"opacity": 0.4, **arch.look.line}
            cost.series.append(Series(passes, [point.ratio for point in course], "line", **line))
            value.series.append(Series(passes, [point.worth for point in course], "line", **line))
            hover = (
                f"{arch.label}, N = {pretty(end['n'])}, U = {pretty(end['u'])}, run {end['run']}"
            )
            last.append((course[-1], hover))
        if last:
            xs = [end.passes for end, _ in last]
            most = max(most, *xs)
            hovers = [hover for _, hover in last]
            points = {"kind": "points", "hover": hovers, **arch.look.marks}
            ratios, worths = [end.ratio for end, _ in last], [end.worth for end, _ in last]
            cost.series.append(Series(xs, ratios, **points))
            value.series.append(Series(xs, worths, **points))
    if value.series:
        as_good = {"width": 1.0, "dash": "dot", "hover": "as good as new data"}
        value.series.append(Series([1.0, most], [1.0, most], "line", **as_good))
    nothing = "no pair of runs of equal size and length on two training sets"
    return Figure(
        "repeats",
        "What repeats cost",
        "Some runs went over a smaller training set several times: a ratio of one means that"
        f" {words.data} seen again were as good as new ones, and above it that distinct data have"
        " run out.",
        [or_empty(cost, nothing), or_empty(value, nothing)],
        "line: a run on a smaller training set, from its second pass on · mark: its end · right:"
        " passes of new data after which the same model had that loss; dotted: as good as new · R_D"
        " is fitted to all runs, the other laws without these",
        [_note(arch) for arch in archs],
    )


def _note(arch: Architecture) -> str:
    """How often data can be repeated with profit."""
    label, fitted = arch.label, arch.repeats
    found, rho, norm = (fitted.get(name) for name in ("R_D", "rho", "p"))
    if not fitted.ok:
        return f"{label}: R_D, how often repeating helps, cannot be fitted: {fitted.reason}"
    if found is None or not found.bounded:
        return (
            f"{label}: repeats hardly cost anything here, so R_D (how often repeating helps) is not"
            " bounded"
        )
    words = (
        f"{label}: R_D = {pretty(found.value)} [{pretty(found.low)}, {pretty(found.high)}]: after"
        " so many repeats one more pass is worth 1/e of as many fresh data"
    )
    if norm is not None:
        return f"{words}, by a law whose terms are coupled (p = {pretty(norm.value)})"
    if rho is None:
        return words
    small, large = (pretty(ends(fitted.get(f"R_D_{end}"))[0]) for end in ("smallest", "largest"))
    return (
        f"{words}; so for a model in the middle of the sizes, and sooner for larger ones, as"
        f" N^-{pretty(rho.value)} [{pretty(rho.low)}, {pretty(rho.high)}]: {small} at N ="
        f" {pretty(arch.sizes[0])}, {large} at {pretty(arch.sizes[-1])}"
    )
