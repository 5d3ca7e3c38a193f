"""Read what a report is made of: a study directory, or a table of runs without one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import TableError
from ..progress import counted
from ..table.columns import ROLES, schema
from ..table.directory import locate, study_of, typed
from ..table.doubts import BURN_IN_STEPS, default_burn_in, doubts, of_a_study
from ..table.filter import where as passes
from ..table.read import read
from ..table.roles import name_runs, recognise
from ..table.runs import ALONE, Runs

REQUIRED = ("n", "d", "loss")
UNNAMED = "(unnamed)"  # the architecture of a table without a column of them


@dataclass
class Source:
    """A table of runs with the columns of :mod:`forcelaw.table.columns`, the resolved study (may be
    empty) and what failed runs said.

    path: the directory that the report belongs to. origin: the file or folder that the table was
    read from. burn_in_steps: what is left out where no one says otherwise. ours: whether a study
    wrote it; notes: what was assumed of a table of others, and what it may not mean
    (:mod:`forcelaw.table.doubts`); taken: role -> column of it. options: the columns and the choice
    of runs that were asked for, as options of a command; where: the filter.
    """

    path: Path
    origin: Path
    frame: pl.DataFrame
    study: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    burn_in_steps: int = BURN_IN_STEPS
    ours: bool = True
    notes: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    options: str = ""
    where: str | None = None


def load(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    best_of_sweep: bool = False,
) -> Source:
    """Read a study directory, a directory of evidence or any other table
    (:mod:`forcelaw.table.read`); columns: role -> column of such a table, others are recognised.
    where: a filter of its rows. best_of_sweep: of runs that differ in a learning rate alone the one
    that ends lowest. Raises TableError where there is none, or it lacks what a report needs."""
    path = Path(path)
    folder = path.parent if path.is_file() else path
    found = locate(path)
    is_study = found == path / "runs" or (found == path and (path / "study.json").exists())
    if is_study and not any(found.glob("*/spec.json")):  # only planned: the report says so
        return Source(path, path / "runs", pl.DataFrame(schema=schema()), study_of(path))
    raw, study = read(path).frame, study_of(folder)
    ours = is_study or bool(study) or of_a_study(raw.columns)
    if where is not None:
        every, raw = raw, raw.filter(passes(where, raw))
        study = _without(study, every, raw)
    frame = complete(raw, found, columns)
    notes = [] if ours else _notes(raw, columns)
    if best_of_sweep:
        swept = Runs.from_frame(frame.filter(pl.col("loss").is_finite()))
        others = set(swept.run_names) - set(swept.best_of_sweep().run_names)
        frame = frame.filter(~pl.col("run").is_in(others))
        notes = [note for note in notes if "--best-of-sweep" not in note]
    burn_in = default_burn_in(raw.columns, study)
    taken = {} if ours else recognise(raw, columns).taken
    given = ",".join(f"{role}={name}" for role, name in (columns or {}).items())
    options = [f"--columns {shlex.quote(given)}"] if given else []
    options += ["--best-of-sweep"] if best_of_sweep else []
    return Source(
        folder,
        found,
        frame,
        study,
        _messages(frame),
        burn_in,
        ours,
        notes,
        taken,
        " ".join(options),
        where,
    )


def label_in(entry: Mapping[str, Any]) -> str:
    """The label of an entry of the architectures in study.json."""
    return str(entry.get("label") or entry.get("architecture"))


def _without(study: dict[str, Any], every: pl.DataFrame, passed: pl.DataFrame) -> dict[str, Any]:
    """The study less the architectures of which a filter left no row: a page that was asked for
    others does not miss their runs."""
    if "architecture" not in every.columns:
        return study
    gone = set(every["architecture"]) - set(passed["architecture"])
    named, file = study.get("architectures") or [], study.get("study") or {}
    stays = [label_in(entry) not in gone for entry in named]
    if all(stays):
        return study
    # the entries of the file stand in the same order
    chosen = list(compress(file.get("architectures") or [], stays))
    file = {**file, "architectures": chosen}
    return {**study, "architectures": list(compress(named, stays)), "study": file}


def _notes(frame: pl.DataFrame, columns: Mapping[str, str] | None) -> list[str]:
    """Of a table of others; none where laws would refuse it, as its report says why."""
    try:
        runs = Runs.from_frame(frame, columns)
    except TableError:
        return []
    shared = "" if runs.independent else name_runs(frame, runs.taken)[1]
    assumed = [ALONE if runs.independent else "", shared]
    return [*recognise(frame, columns).notes, *filter(None, assumed), *doubts(runs)]


def complete(
    frame: pl.DataFrame, path: Path, columns: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """All columns with their types, under our names; derived where a table does not have them and
    the meaning is plain."""
    found = recognise(frame, columns)
    if "run" in found.taken:
        named, several = name_runs(frame, found.taken)
        frame = frame.with_columns(named.alias(found.taken["run"])) if several else frame
    ours = {name: ROLES[role].name for role, name in found.taken.items()}
    # a column of ours that another was named for gives way
    frame = frame.drop(new for name, new in ours.items() if new != name and new in frame.columns)
    frame = frame.rename(ours)
    if "run" not in frame.columns:  # every row is a run of its own
        frame = frame.with_columns(run=pl.int_range(1, frame.height + 1).cast(pl.String))
    if "d" not in frame.columns and {"n", "c"} <= set(frame.columns):
        frame = frame.with_columns(d=pl.col("c") / (6 * pl.col("n")))
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise TableError(
            f"the table lacks {counted(len(missing), 'column')}: {', '.join(missing)}; it has"
            f" {', '.join(frame.columns)}",
            where=str(path),
            remedy="name them: --columns n=..., d=..., loss=...",
        )
    out = typed(frame, str(path)).with_columns(
        pl.col("kind").fill_null("grid"),
        pl.col("status").fill_null("finished"),
        pl.col("architecture").fill_null(UNNAMED),
    )
    if found.flops_per_nd is not None:
        out = out.with_columns(c=found.flops_per_nd * pl.col("n") * pl.col("d"))
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
