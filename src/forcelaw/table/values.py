"""The cells of a column as numbers: nothing is guessed, and a cell that is wrong is shown."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TableError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "na", "n/a", "none", "null", "nan", "-", "#n/a")
SUFFIXES = {"%": "percent", "k": "thousands", "K": "thousands", "M": "millions"}
SUFFIXES |= {"B": "billions", "G": "billions", "T": "trillions"}


def as_text(series: pl.Series) -> pl.Series:
    """A column as text; missing cells stay missing."""
    import polars as pl

    if series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or series.dtype.is_numeric():
        return series.cast(pl.String)
    cells = [None if cell is None else str(cell) for cell in series.to_list()]
    return pl.Series(series.name, cells, dtype=pl.String)


def text_numbers(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The numbers that cells of text hold, null where there is none, and which cells are neither a
    number nor missing. Text is never evaluated; 1_000 and 0x10 are not numbers."""
    import polars as pl

    bare = text.str.strip_chars()
    found = bare.cast(pl.Float64, strict=False).fill_nan(None)
    wrong = found.is_null() & bare.is_not_null() & ~bare.str.to_lowercase().is_in(MISSING)
    return found, wrong


def holds_words_only(series: pl.Series) -> bool:
    """Whether a column is text of which not one cell is a number."""
    import polars as pl

    if series.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    found, wrong = text_numbers(as_text(series.unique()))
    return bool(wrong.any()) and found.null_count() == len(found)


def numbers(series: pl.Series, role: str, rows: np.ndarray | None = None) -> np.ndarray:
    """A column as float64 [rows], missing cells NaN. TableError shows the first cell that is
    neither. ``rows``: the row numbers to name in errors."""
    import polars as pl

    where = f"column {series.name!r} (taken as {role})"
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(float)
    if series.dtype not in (pl.String, pl.Null, pl.Object, pl.Categorical, pl.Enum):
        raise TableError(
            f"the cells are {series.dtype}, not numbers",
            where=where,
            remedy="give a column of numbers",
        )
    text = as_text(series)
    found, wrong = text_numbers(text)
    if wrong.any():
        row = int(wrong.arg_true()[0])
        cell = str(text[row]).strip()
        kind = "a formula" if cell[0] in "=@" else "text"
        count = int(wrong.sum())
        others = f" ({count} of {len(series)} rows do)" if count > 1 else ""
        raise TableError(
            f"row {row + 1 if rows is None else int(rows[row])} holds {kind}, {cell[:40]!r}, where"
            f" a number is needed{others}",
            where=where,
            remedy=_remedy(cell, role),
        )
    return found.fill_null(float("nan")).to_numpy().astype(float)


def _remedy(cell: str, role: str) -> str:
    """What to do about a cell that is not a number: 1,234 may be a thousand or one and a bit."""
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", cell):
        return f"write numbers without separators between thousands: {cell.replace(',', '')}"
    if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", cell):
        return (
            "decimal commas are not read: save the table with decimal points"
            f" ({cell.replace(',', '.')})"
        )
    if re.fullmatch(r"[-+]?\d+(\.\d+)?\s*[%kKMBGT]", cell):
        return f"write plain numbers, e.g. 1.5e6: {cell[-1]} ({SUFFIXES[cell[-1]]}) is not read"
    return (
        "nothing in a cell is ever evaluated: save the table with plain numbers, drop the rows"
        f" with --where, or name another column with --columns {role}=..."
    )


def quoted(column: str) -> str:
    """A column as a filter wants it written."""
    return column if re.fullmatch(r"[^\W\d][\w./]*", column) else f"`{column}`"


def where_option(text: str) -> str:
    """A filter as the option of a command line, for a shell: in backticks, which a filter has about
    a column such as `params (M)`, it would run what they hold. An exclamation mark before = or a
    space recalls no command."""
    safe = not re.search(r'[`"$\\]|!(?![= ])', text)
    return f'--where "{text}"' if safe else f"--where {shlex.quote(text)}"


def check_positive(
    values: np.ndarray, role: str, column: str, rows: np.ndarray | None = None
) -> None:
    """TableError unless every value is finite and positive: how many are not, the first of them
    (``rows``: the row numbers to name) and what to do."""
    name = quoted(column)
    for bad, what, remedy in (
        (np.isnan(values), "missing or NaN", f"keep the good rows: {where_option(f'{name} > 0')}"),
        (np.isinf(values), "infinite", f"keep the good rows: {where_option(f'{name} < 1e300')}"),
        (
            values <= 0,
            "zero or negative",
            "laws are fitted to logarithms: give positive values, or drop the rows: "
            + where_option(f"{name} > 0"),
        ),
    ):
        if not bad.any():
            continue
        every = f"{int(bad.sum())} of"
        if bad.all():
            every = "all"
            remedy = f"give positive numbers, or name another column: --columns {role}=..."
        if role == "loss":
            remedy += "; a status column that says diverged marks runs that failed"
        first = int(np.argmax(bad))
        shown = "" if np.isnan(values[first]) else f" ({values[first]:.6g})"
        raise TableError(
            f"{every} {len(values)} values are {what}, the first in row "
            f"{first + 1 if rows is None else int(rows[first])}{shown}",
            where=f"column {column!r} (taken as {role})",
            remedy=remedy,
        )
