"""Read what a report is made of: a study directory, or a committed table of runs alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import StoreError
from ..files import read_json
from ..store.runs import COLUMNS, runs, table

REQUIRED = ("run", "architecture", "n", "d", "loss")
TABLES = ("runs.parquet", "runs.csv")
POLARS = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}


@dataclass
class Source:
    """A table of runs with :data:`forcelaw.store.runs.COLUMNS`, the resolved study (may be empty)
    and what failed runs said.

    path: the directory that the report belongs to. origin: the file or folder that the table was
    read from.
    """

    path: Path
    origin: Path
    frame: pl.DataFrame
    study: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(path: str | Path) -> Source:
    """Read a study directory (``runs/<id>/`` or else ``runs.parquet`` / ``runs.csv`` inside) or a
    table file.

    Raises StoreError where there is nothing to report on, or a table lacks what a report needs.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(
            "there is no such study or table",
            where=str(path),
            remedy=(
                "give the output directory of `forcelaw run`, or a table of runs (.csv, .parquet)"
            ),
        )
    if path.is_file():
        return _of_table(path.parent, path)
    folder = path / "runs"
    if folder.is_dir() and any(folder.glob("*/spec.json")):
        messages = {
            run.id: result
            for run in runs(folder)
            if (result := run.result()) and "message" in result
        }
        return Source(path, folder, _complete(table(folder), folder), _study(path), messages)
    for name in TABLES:
        if (path / name).exists():
            return _of_table(path, path / name)
    if (
        folder.is_dir() or (path / "study.json").exists()
    ):  # a study that has only been planned: an empty report says so
        empty = pl.DataFrame(schema={name: POLARS[kind] for name, kind in COLUMNS.items()})
        return Source(path, folder, empty, _study(path))
    raise StoreError(
        f"no runs here: neither runs/<id>/spec.json nor {' nor '.join(TABLES)}",
        where=str(path),
        remedy="give the output directory of `forcelaw run`, or a table of runs (.csv, .parquet)",
    )


def _of_table(folder: Path, path: Path) -> Source:
    frame = read_table(path)
    return Source(folder, path, frame, _study(folder), _messages(frame))


def _messages(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """What runs said that diverged or failed, and where, from the columns ``message`` and ``ended``
    of a table."""
    said = frame.filter(pl.col("message").is_not_null()).unique(
        "run", keep="last", maintain_order=True
    )
    return {
        row["run"]: (
            {"message": row["message"]} | ({} if row["ended"] is None else {"step": row["ended"]})
        )
        for row in said.iter_rows(named=True)
    }


def _study(folder: Path) -> dict[str, Any]:
    path = folder / "study.json"
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


def read_table(path: Path) -> pl.DataFrame:
    """A table of runs from CSV or Parquet, completed to :data:`forcelaw.store.runs.COLUMNS`."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif suffix == ".csv":
            frame = pl.read_csv(
                path, infer_schema=False
            )  # text; _complete converts, and names the column that cannot
        else:
            raise StoreError(
                f"unknown kind of table {suffix!r}", where=str(path), remedy="use .csv or .parquet"
            )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(f"cannot be read as a table: {error}", where=str(path)) from error
    return _complete(frame, path)


def _complete(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """All columns, with their types; derived where a table does not have them and the meaning is
    plain."""
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise StoreError(
            f"the table lacks the column(s) {', '.join(missing)}; it has"
            f" {', '.join(frame.columns)}",
            where=str(path),
            remedy="rename its columns to those of forcelaw.store.runs.COLUMNS",
        )
    columns = []
    for name, kind in COLUMNS.items():
        if name not in frame.columns:
            columns.append(pl.Series(name, [None] * len(frame), dtype=POLARS[kind]))
            continue
        columns.append(_cast(frame[name], kind, path))
    out = pl.DataFrame(columns)
    out = out.with_columns(
        pl.col("kind").fill_null("grid"),
        pl.col("status").fill_null("finished"),
        pl.col("architecture").fill_null("(unnamed)"),
    )
    if out["final"].is_null().all():
        out = out.with_columns(final=pl.col("d") == pl.col("d").max().over("run"))
    return out


def _cast(column: pl.Series, kind: type, path: Path) -> pl.Series:
    name = column.name
    try:
        if kind is bool and column.dtype == pl.String:
            lower = column.str.to_lowercase()
            return lower.is_in(["true", "1"]).alias(name)
        if kind is int and column.dtype == pl.String:
            return column.cast(pl.Float64).round(0).cast(pl.Int64)  # "1e6" is a count, too
        return column.cast(POLARS[kind])
    except pl.exceptions.PolarsError as error:
        raise StoreError(
            f"column {name!r} holds something that is not a {kind.__name__}:"
            f" {str(error).splitlines()[0]}",
            where=str(path),
        ) from error
