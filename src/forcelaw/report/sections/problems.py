"""Runs that failed, diverged, or ended above their own lowest loss."""

from __future__ import annotations

from typing import Any

import polars as pl

from ...figures.text import decimal, names, pretty
from ...store.runs import BESIDE
from ..analysis import Analysis
from ..section import MISSING, Cell, Column, Part, Prose, Section, csv, entries, table

KEYS = ("run", "architecture", "kind", "n", "seed", "lr", "status", "step", "last_loss")
PROBLEMS, RISEN = entries(*KEYS, "message"), entries(*KEYS, "lowest_loss", "lowest_step")


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
    """Both lists, in full."""
    parts: list[Part] = []
    if analysis.problems:
        kind = _read("kind", "part", numeric=False)
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
    files = [csv("problems", PROBLEMS, analysis.problems), csv("risen", RISEN, analysis.risen)]
    return Section("problems", "Failed and diverged runs", parts, files)


def timing_words(analysis: Analysis) -> list[str]:
    """Runs whose device-hours are not those of a run alone on its device."""
    beside = analysis.frame.filter(pl.col("timing") == BESIDE)
    if not len(beside):
        return []
    who = names(beside["architecture"].unique(maintain_order=True).to_list())
    return [
        f"{beside['run'].n_unique()} run(s) of {who} were timed while other processes trained on"
        " their device: their device-hours are too long, and what is said of them at equal hours is"
        " no comparison."
    ]


def risen_words(analysis: Analysis) -> list[str]:
    """Runs that went wrong late and count all the same."""
    if not analysis.risen:
        return []
    most = max(row["last_loss"] / row["lowest_loss"] for row in analysis.risen) - 1
    who = names(list(dict.fromkeys(row["architecture"] for row in analysis.risen)))
    return [
        f"{len(analysis.risen)} run(s) of {who} end above their own lowest loss, by up to"
        f" {100 * most:.0f}%: unstable at their learning rate (a sweep with `within` chooses a"
        " smaller one), or data learnt by heart. They count in every fit; they are listed below."
    ]
