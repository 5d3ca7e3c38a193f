"""Run directories and their committed evidence as a table of the columns of
:mod:`forcelaw.table.columns`. A table is only ever read from run directories, never the other way
round. Nothing but :func:`frame`, :func:`table` and :func:`typed` needs polars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, TableError
from ..files import read_json
from ..store.runs import runs
from .columns import COLUMNS, measured, schema
from .values import as_text, numbers

if TYPE_CHECKING:
    import polars as pl

EVIDENCE = {"parquet": "runs.parquet", "csv": "runs.csv"}  # the table of a directory of evidence


def rows(root: str | Path) -> list[dict[str, Any]]:
    """One row per evaluation over all run directories under ``root``; the keys are the columns.
    A run without any evaluation still gives one row (losses None), so that a run that diverged at
    once stays in the table, and so does one whose files are damaged, as failed."""
    out = []
    for run in runs(root):
        try:
            result, metrics = run.outcome()
        except StoreError as error:
            result, metrics = {"status": "failed", "message": f"damaged: {error.what}"}, []
        files = {"spec": run.spec(), "result": result or {}, "last": {}}
        head = _entries(files) | {
            "run": run.id,
            "status": (result or {}).get("status", "unfinished"),
            "ended": (result or {}).get("step", (result or {}).get("steps")),
            "final": False,
        }
        rows_of_run = [
            head | {name: metric[name] for name in measured() if name in metric}
            for metric in metrics or [{}]
        ]
        if result is not None:
            last = {k: v for k, v in _entries({"last": result}).items() if v is not None}
            rows_of_run[-1] |= last | {"final": True}
        out += rows_of_run
    return out


def _entries(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Column -> what the entry that it is declared with holds; None where there is none."""
    out = {}
    for name, column in COLUMNS.items():
        value: Any = files
        for key in column.source.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        out[name] = value
    return out


def frame(content: list[dict[str, Any]], where: str = "the run directories") -> pl.DataFrame:
    """Rows as :func:`rows` gives them, as a polars DataFrame."""
    import polars as pl

    made = []
    for name, kind in schema().items():
        cells = [row.get(name) for row in content]
        try:
            made.append(pl.Series(name, cells, dtype=kind))
        except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
            raise TableError(
                f"column {name!r} holds something that is not {COLUMNS[name].type.__name__}:"
                f" {str(error).splitlines()[0]}",
                where=where,
                remedy="delete the run directories that were changed, and train them again",
            ) from error
    return pl.DataFrame(made)


def table(root: str | Path) -> pl.DataFrame:
    """The run directories under ``root`` as a polars DataFrame; one row per evaluation."""
    return frame(rows(root), str(root))


def typed(content: pl.DataFrame, where: str) -> pl.DataFrame:
    """All columns with their types, of a table that may lack some of them or hold them as text;
    other columns are dropped. TableError names the column that holds something else."""
    import polars as pl

    made = []
    for name, kind in schema().items():
        if name not in content.columns:
            made.append(pl.Series(name, [None] * content.height, dtype=kind))
            continue
        series = content[name]
        try:
            if kind == pl.String:
                series = as_text(series)
            elif kind == pl.Boolean and not series.dtype.is_numeric() and series.dtype != kind:
                series = as_text(series).str.to_lowercase().is_in(["true", "1"])
            elif kind.is_numeric() and not series.dtype.is_numeric():
                series = pl.Series(name, numbers(series, name)).fill_nan(None)
            if kind == pl.Int64 and series.dtype.is_float():
                series = series.round(0)  # 1e6 is a count, too
            made.append(series.cast(kind).alias(name))
        except (TableError, pl.exceptions.PolarsError) as error:
            what, remedy = str(error).splitlines()[0], f"give a column of {kind} values"
            if isinstance(error, TableError):
                what, remedy = error.what, error.remedy
            raise TableError(f"column {name!r}: {what}", where=where, remedy=remedy) from error
    return pl.DataFrame(made)


def locate(path: Path) -> Path:
    """Where the runs of ``path`` are: a table, or a directory of run directories. A study directory
    holds them in runs/, a directory of evidence in runs.parquet or runs.csv."""
    if path.is_dir():
        if any((path / "runs").glob("*/spec.json")):
            return path / "runs"
        for name in EVIDENCE.values():
            if (path / name).is_file():
                return path / name
        if (path / "runs").is_dir():
            return path / "runs"
    return path


def study_of(path: Path) -> dict[str, Any]:
    """The resolved study beside the table at ``path``, or in that directory; empty where there is
    none."""
    path = (path if path.is_dir() else path.parent) / "study.json"
    if not path.exists():
        return {}
    study = read_json(path)
    if not isinstance(study, dict):
        raise StoreError(
            "study.json is not an object",
            where=str(path),
            remedy="let `forcelaw run` write it again",
        )
    return study
