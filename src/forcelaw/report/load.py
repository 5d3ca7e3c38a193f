"""Read what a report is made of: a study directory, or a table of runs without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import StoreError, TableError
from ..files import read_json
from ..table.columns import ROLES, schema
from ..table.directory import locate, typed
from ..table.read import read
from ..table.roles import recognise

REQUIRED = ("run", "n", "d", "loss")


@dataclass
class Source:
    """A table of runs with the columns of :mod:`forcelaw.table.columns`, the resolved study (may be
    empty) and what failed runs said.

    path: the directory that the report belongs to. origin: the file or folder that the table was
    read from.
    """

    path: Path
    origin: Path
    frame: pl.DataFrame
    study: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(path: str | Path) -> Source:
    """Read a study directory, a directory of evidence or any other table
    (:mod:`forcelaw.table.read`). Raises TableError where there is none, or it lacks what a report
    needs."""
    path = Path(path)
    folder = path.parent if path.is_file() else path
    found = locate(path)
    is_study = found == path / "runs" or (found == path and (path / "study.json").exists())
    if is_study and not any(found.glob("*/spec.json")):  # only planned: the report says so
        return Source(path, path / "runs", pl.DataFrame(schema=schema()), _study(path))
    frame = complete(read(path).frame, found)
    return Source(folder, found, frame, _study(folder), _messages(frame))


def complete(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """All columns with their types, under our names; derived where a table does not have them and
    the meaning is plain."""
    taken = recognise(frame).taken
    ours = {name: ROLES[role].name for role, name in taken.items()}
    frame = frame.rename(
        {name: new for name, new in ours.items() if new == name or new not in frame.columns}
    )
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise TableError(
            f"the table lacks the column(s) {', '.join(missing)}; it has"
            f" {', '.join(frame.columns)}",
            where=str(path),
            remedy="rename its columns",
        )
    out = typed(frame, str(path)).with_columns(
        pl.col("kind").fill_null("grid"),
        pl.col("status").fill_null("finished"),
        pl.col("architecture").fill_null("(unnamed)"),
    )
    if out["final"].is_null().all():
        out = out.with_columns(final=pl.col("d") == pl.col("d").max().over("run"))
    return out


def _messages(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """What runs said that diverged or failed, and where, from the columns ``message`` and
    ``ended``."""
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
