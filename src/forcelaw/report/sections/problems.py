"""Runs that failed, diverged, ended above their own lowest loss, or learned a part of it only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl

from ...figures.text import decimal, names, pretty
from ...progress import counted
from ...store.runs import BESIDE
from ...store.unlearned import PARTS
from ..analysis import Analysis
from ..section import MISSING, Cell, Column, Part, Prose, Section, csv, entries, table

KEYS = ("run", "architecture", "kind", "n", "seed", "lr", "status", "step", "last_loss")
PROBLEMS, RISEN = entries(*KEYS, "message"), entries(*KEYS, "lowest_loss", "lowest_step")
UNLEARNED = entries(*KEYS, "unlearned", *PARTS)


def _read(key: str, heading: str, form: str = "", *, numeric: bool = True) -> Column:
    def cell(row: dict[str, Any]) -> Cell:
        value = row[key]
        return MISSING if value is None else Cell(format(value, form) if form else str(value))

    return Column("", heading, cell=cell, numeric=numeric, wrap=key == "message")


def _loss(key: str, heading: str) -> Column:
    return Column("", heading, cell=lambda row: Cell(decimal(row[key], 3)))


RUN = _read("run", "run", numeric=False)
ARCHITECTURE = _read("architecture", "architecture", numeric=False)
COMMON = [
    Column("", "N", cell=lambda row: Cell(pretty(row["n"]))),
    _read("seed", "seed"),
    _read("lr", "learning rate", "g"),
]
STATUS = Column("", "status", cell=lambda row: Cell("", badge=("no", row["status"])), numeric=False)


def section(analysis: Analysis) -> Section:
    """All lists, in full."""
    parts: list[Part] = []
    kind = _read("kind", "part", numeric=False)
    if analysis.problems:
        message = _read("message", "what happened", numeric=False)
        columns = [RUN, ARCHITECTURE, kind, *COMMON, STATUS, _read("step", "step"), message]
        explain = (
            "Nothing is dropped silently: these runs ended without a result and take no part in any"
            " fit."
        )
        parts += [Prose(explain), table(columns, analysis.problems)]
    else:
        parts.append(Prose("None: no run failed or diverged.", ""))
    if analysis.risen:
        columns = [
            RUN,
            ARCHITECTURE,
            *COMMON,
            _loss("lowest_loss", "lowest loss"),
            _read("lowest_step", "at step"),
            _loss("last_loss", "last loss"),
            _read("step", "at step"),
        ]
        explain = "These runs did not fail, and count, but end above their own lowest loss."
        parts += [Prose(explain), table(columns, analysis.risen)]
    if analysis.unlearned:
        columns = [
            RUN,
            ARCHITECTURE,
            kind,
            *COMMON,
            _read("unlearned", "not learned", numeric=False),
            _loss("loss_energy", "energy term"),
            _loss("loss_forces", "force term"),
            _read("step", "at step"),
        ]
        explain = (
            "These runs finished, and count, but one term of their loss ends where it began, or"
            " where no model is."
        )
        parts += [Prose(explain), table(columns, analysis.unlearned)]
    files = [
        csv("problems", PROBLEMS, analysis.problems),
        csv("risen", RISEN, analysis.risen),
        csv("unlearned", UNLEARNED, analysis.unlearned),
    ]
    return Section("problems", "Failed and diverged runs", parts, files)


def timing_words(analysis: Analysis) -> list[str]:
    """Runs whose device-hours are not those of a run alone on its device."""
    beside = analysis.frame.filter(pl.col("timing") == BESIDE)
    if not len(beside):
        return []
    who = names(beside["architecture"].unique(maintain_order=True).to_list())
    number = counted(beside["run"].n_unique())
    return [
        f"Timed while other processes trained on the same device: {number} of {who}. Those"
        " device-hours are too long, and what is said of them at equal hours is no comparison."
    ]


def risen_words(analysis: Analysis) -> list[str]:
    """Runs that went wrong late and count all the same."""
    if not analysis.risen:
        return []
    most = max(row["last_loss"] / row["lowest_loss"] for row in analysis.risen) - 1
    who = names(list(dict.fromkeys(row["architecture"] for row in analysis.risen)))
    return [
        f"{counted(len(analysis.risen))} of {who} ended above an earlier, lowest loss, by up to"
        f" {100 * most:.0f}%: unstable at that learning rate (a sweep with `within` chooses a"
        " smaller one), or data learnt by heart. Counted in every fit, and listed below."
    ]


def outlying_words(analysis: Analysis) -> list[str]:
    """Runs far off the surface of their architecture, and what they do to its exponents."""
    return [
        f"{arch.label}: {run}. It counts."
        for arch in analysis.architectures
        if arch.surface.ok and arch.surface.result is not None
        for run in arch.surface.result.outlying
    ]


def unlearned_words(analysis: Analysis) -> list[str]:
    """Runs that pass for poor ones and are dead in a part of the loss."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for row in analysis.unlearned:
        by_label.setdefault(row["architecture"], []).append(row)
    if not by_label:
        return []
    each = []
    for label, rows in by_label.items():
        parts = Counter(row["unlearned"] for row in rows)
        which = ", ".join(f"{number} of {part}" for part, number in sorted(parts.items()))
        sweeps = sum(row["kind"] == "sweep" for row in rows)
        of = "" if not sweeps else f"; {sweeps} in a sweep, whose best rate may be chance"
        each.append(f"{label} ({which}{of})")
    return [
        f"{counted(len(analysis.unlearned))} finished without having learned energies or forces, by"
        f" a learning rate that is too high or in too few steps: {names(each)}. Counted in every"
        " fit, and no measure of the architecture; listed below."
    ]
