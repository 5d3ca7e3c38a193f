"""The tables of a report as files and as text: CSV, Markdown, the terminal."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ..files import whole
from .analysis import Analysis
from .section import Csv, Section
from .sections import exponents

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell
MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
    | {character: f"\\{character}" for character in "\\`*_[]|"}
)


def write_all(analysis: Analysis, sections: Sequence[Section], folder: Path) -> list[Path]:
    """Every table of the report under ``folder``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [write_csv(folder, file) for section in sections for file in section.files]
    with whole(folder / "exponents.md") as path:
        path.write_text(markdown(analysis), encoding="utf-8")
    frame = analysis.source.frame
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    starts = "^[" + "".join(f"\\{start}" for start in "=+-@") + "\t\r]"
    spreadsheet = frame.with_columns(
        pl.when(pl.col(name).str.contains(starts))
        .then("'" + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in texts
    )
    with whole(folder / "runs.csv") as path:
        spreadsheet.write_csv(path)
    return [*paths, folder / "exponents.md", folder / "runs.csv"]


def write_csv(folder: Path, table: Csv) -> Path:
    """One file, with a header even when there is no row. Text that a spreadsheet would run as a
    formula gets an apostrophe in front."""
    path = folder / f"{table.name}.csv"
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows([_safe(value) for value in row] for row in table.rows)
    return path


def _safe(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return "'" + value
    return value


def markdown(analysis: Analysis) -> str:
    """The exponent table in Markdown. Labels and reasons cannot add markup or HTML."""
    head, rows = exponents.rows_of_text(analysis)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([row[0].translate(MARKDOWN), *row[1:]]) + " |" for row in rows]
    text = "\n".join(lines) + "\n\nValue [95% interval]. "
    text += f"Burn-in: evaluations before step {analysis.burn_in_steps} are left out.\n"
    notes = [
        f"* {arch.label.translate(MARKDOWN)}: {reason.translate(MARKDOWN)}"
        for arch in analysis.architectures
        for reason in arch.reasons
    ]
    return text + ("\n" + "\n".join(notes) + "\n" if notes else "")


def terminal(analysis: Analysis) -> str:
    """The compact exponent table that `forcelaw report` prints."""
    table = exponents.compact(analysis)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
