"""A table of runs, ready to be fitted: clean arrays, who belongs to which run, and what was taken
and left out.

Sources are a file (:mod:`forcelaw.table.read`), a directory of runs of :mod:`forcelaw.store.runs`,
a DataFrame (polars or pandas) or a dict of columns. One row is one evaluation (a checkpoint) of one
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from . import columns as col
from .filter import where as filter_rows
from .read import KINDS, read_file

if TYPE_CHECKING:
    import polars as pl

BAD_STATUS = ("diverged", "failed", "crashed", "nan", "oom", "killed", "error")


@dataclass(frozen=True)
class Runs:
    """Checkpoints of runs. All arrays have one entry per row.

    values: role -> float64 [rows] for those of n, d, u, c, h, loss, step, weight that are there
    run: int [rows], index into ``run_names``; group: int [rows], index into ``group_names``; seed:
    text [rows] or None taken: role -> column of the source (or how it was derived); notes: what was
    dropped or assumed, in plain words
    """

    values: dict[str, np.ndarray]
    run: np.ndarray
    run_names: list[str]
    group: np.ndarray
    group_names: list[str]
    seed: np.ndarray | None
    taken: dict[str, str]
    notes: list[str] = field(default_factory=list)
    source: str = ""
    frame: Any = None  # the rows that were kept, as read, for other columns
    independent: bool = False  # no run column: every row is a run of its own

    @classmethod
    def from_frame(
        cls, source: Any, columns: Mapping[str, str] | None = None, where: str | None = None
    ) -> Runs:
        """Read and check a table. ``columns`` maps roles (see :data:`forcelaw.table.columns.ROLES`)
        to column names, others are recognised; ``where`` is a filter
        (:mod:`forcelaw.table.filter`). FitError for what cannot be used."""
        frame, name, notes = read(source)
        if frame.height == 0:
            raise FitError(
                "the table has no rows, only a header",
                where=name,
                remedy="give one row for each evaluation",
            )
        taken, seen = col.recognise(frame.columns, dict(columns or {}))
        notes += [
            f"{taken[role]!r} was taken as {role}, although {', '.join(map(repr, others))} would"
            f" have fitted too: --columns {role}=... chooses"
            for role, others in seen.items()
            if role != "step"
        ]
        _weak_names(frame, taken, dict(columns or {}), notes)
        if (
            "loss" in taken
            and col.is_training_loss(taken["loss"])
            and "loss" not in (columns or {})
        ):
            notes.append(
                f"{taken['loss']!r} looks like a training loss: laws are about loss on data not"
                " trained on"
            )
        rows = np.arange(1, frame.height + 1)  # row numbers of the source, for messages
        if where:
            mask = filter_rows(where, frame)
            if not mask.any():
                raise FitError(
                    f"no row of {frame.height} passes the filter",
                    where=f"--where {where!r}",
                    remedy="widen it, or look at the values of its columns",
                )
            notes.append(f"the filter {where!r} kept {int(mask.sum())} of {frame.height} rows")
            frame, rows = frame.filter(mask), rows[mask]
        if "loss" not in taken:
            raise FitError(
                "no column is recognised as the loss",
                where=f"columns are {', '.join(frame.columns[:40])}",
                remedy="name it: --columns loss=...",
            )
        frame, rows = _drop_failed(frame, taken, rows, notes)
        values = {
            role: col.numbers(frame[taken[role]], role, rows)
            for role in col.NUMERIC
            if role in taken
        }
        for role in col.REQUIRED_POSITIVE:
            if role in values:
                bad = ~np.isfinite(values[role]) | (values[role] <= 0)
                if role in ("u", "c", "h") and role not in (columns or {}) and bad.any():
                    notes.append(
                        f"column {taken[role]!r} (recognised as {role}) is left out:"
                        f" {int(bad.sum())} of {len(bad)} values are missing, infinite or not"
                        " positive"
                    )
                    del values[role], taken[role]
                    continue
                col.check_values(values[role], role, taken[role], rows)
        runs = _assemble(cls, frame, values, taken, notes, name)
        return _drop_copies(_derive_d(runs))

    # -- shape -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.values["loss"])

    def __getitem__(self, role: str) -> np.ndarray:
        """The values of a role; FitError if the table has none."""
        if role not in self.values:
            there = (
                f"; columns are {', '.join(self.frame.columns[:40])}"
                if self.frame is not None
                else ""
            )
            left = [note for note in self.notes if f"(recognised as {role}) is left out" in note]
            raise FitError(
                f"the table has no {role} ({col.ROLES.get(role, role)})"
                + "".join(f": {n}" for n in left),
                where=self.source + there,
                remedy=f"name the column: --columns {role}=...",
            )
        return self.values[role]

    def __contains__(self, role: str) -> bool:
        return role in self.values

    @property
    def n_runs(self) -> int:
        return len(np.unique(self.run))

    def clusters(self, by: str | None = "run") -> np.ndarray:
        """Integer labels [rows], 0..G-1, of the units that are resampled: "run", "config"
        (architecture, N and every other thing but the seed: runs that share data order), "seed", or
        None for rows."""
        if by is None or by in ("none", "row", "rows", "point"):
            return np.arange(len(self))
        if by == "run":
            labels = self.run
        elif by == "config":
            labels = np.unique(
                np.column_stack([self.group, self["n"]]), axis=0, return_inverse=True
            )[1].ravel()
        elif by == "seed" and self.seed is not None:
            labels = self.seed
        else:
            raise FitError(
                f"rows cannot be clustered by {by!r}",
                where=self.source,
                remedy="use run, config, seed or none",
            )
        return np.unique(labels, return_inverse=True)[1].ravel()

    # -- parts -------------------------------------------------------------------------------------------------

    def take(self, mask: np.ndarray, note: str = "") -> Runs:
        """The rows where ``mask`` (bool or index [rows]) is true."""
        index = np.flatnonzero(mask) if np.asarray(mask).dtype == bool else np.asarray(mask)
        run_used, run = np.unique(self.run[index], return_inverse=True)
        group_used, group = np.unique(self.group[index], return_inverse=True)
        return replace(
            self,
            values={role: value[index] for role, value in self.values.items()},
            run=run.ravel(),
            run_names=[self.run_names[i] for i in run_used],
            group=group.ravel(),
            group_names=[self.group_names[i] for i in group_used],
            seed=None if self.seed is None else self.seed[index],
            frame=(
                None
                if self.frame is None
                else self.frame[index.tolist()]
                if len(index)
                else self.frame.head(0)
            ),
            notes=[*self.notes, note] if note else list(self.notes),
        )

    def select(
        self,
        group: str | None = None,
        *,
        burn_in_steps: float = 0,
        burn_in_fraction: float = 0,
        last: bool = False,
        n_min: float = 0,
        n_max: float = np.inf,
        d_min: float = 0,
        d_max: float = np.inf,
        where: str | None = None,
    ) -> Runs:
        """Rows of one architecture, after the burn-in (steps, or a fraction of each run's last step
        or D), inside ranges of N and D, the last checkpoint of each run only, or by a filter. What
        was dropped goes to the notes."""
        mask = np.ones(len(self), bool)
        said = []
        if group is not None:
            if group not in self.group_names:
                raise FitError(
                    f"there is no architecture {group!r}",
                    where=self.source,
                    remedy=f"there are {', '.join(self.group_names)}",
                )
            mask &= self.group == self.group_names.index(group)
            said.append(f"architecture {group}")
        if burn_in_steps:
            mask &= self["step"] >= burn_in_steps
            said.append(f"steps from {burn_in_steps:g}")
        clock = self.values.get("step", self.values.get("d"))
        if burn_in_fraction and clock is not None:
            end = np.zeros(len(self.run_names))
            np.maximum.at(end, self.run, clock)
            mask &= clock >= burn_in_fraction * end[self.run]
            said.append(f"the first {burn_in_fraction:.0%} of each run dropped")
        if last and clock is not None:
            end = np.zeros(len(self.run_names))
            np.maximum.at(end, self.run, clock)
            mask &= clock == end[self.run]
            said.append("last checkpoint of each run")
        for role, low, high in (("n", n_min, n_max), ("d", d_min, d_max)):
            if low > 0 or high < np.inf:
                mask &= (self[role] >= low) & (self[role] <= high)
                said.append(f"{role} in [{low:g}, {high:g}]")
        if where:
            mask &= filter_rows(where, self.frame)
            said.append(where)
        note = f"selected {int(mask.sum())} of {len(self)} rows: {', '.join(said)}" if said else ""
        return self.take(mask, note)

    def with_loss(self, column: str) -> Runs:
        """The same runs with another column of the source as the loss (energy or force term)."""
        if self.frame is None or column not in self.frame.columns:
            raise FitError(f"there is no column {column!r} to take as the loss", where=self.source)
        values = col.numbers(self.frame[column], "loss")
        col.check_values(values, "loss", column)
        return replace(
            self, values={**self.values, "loss": values}, taken={**self.taken, "loss": column}
        )

    def groups(self) -> dict[str, Runs]:
        """One :class:`Runs` per architecture, in the order of their names."""
        return {name: self.take(self.group == i) for i, name in enumerate(self.group_names)}

    def describe(self) -> str:
        """What was taken from which column, and the notes, one a line."""
        lines = [
            f"{len(self)} rows of {self.n_runs} runs"
            + (f" from {self.source}" if self.source else "")
        ]
        lines += [
            f"  {role:<7} {column!r}" if "=" not in column else f"  {role:<7} {column}"
            for role, column in self.taken.items()
        ]
        for role in ("n", "d", "c", "h", "loss"):
            if role in self.values and len(self):
                lines.append(
                    f"  {role} from {self[role].min():.4g} to {self[role].max():.4g}, "
                    f"{len(np.unique(self[role]))} levels"
                )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def read(source: Any) -> tuple[pl.DataFrame, str, list[str]]:
    """A polars DataFrame, a name for messages and notes, from a path, a directory of runs, a
    DataFrame or a dict."""
    import polars as pl

    if isinstance(source, Runs):
        return source.frame, source.source, []
    if isinstance(source, pl.DataFrame):
        return source, "the data frame", []
    if isinstance(source, pl.LazyFrame):
        return source.collect(), "the data frame", []
    if isinstance(source, Mapping):
        lengths = {name: len(value) for name, value in source.items()}
        if len(set(lengths.values())) > 1:
            raise FitError(f"columns differ in length: {lengths}", where="the table")
        return (
            pl.DataFrame(
                {
                    str(name): list(value) if not isinstance(value, np.ndarray) else value
                    for name, value in source.items()
                },
                strict=False,
            ),
            "the table",
            [],
        )
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas, without importing it
        return (
            pl.DataFrame(
                {str(name): source[name].tolist() for name in source.columns}, strict=False
            ),
            "the data frame",
            [],
        )
    path = Path(source)
    if not path.exists():
        raise FitError("there is no such table", where=str(path), remedy=f"give {KINDS}")
    if path.is_dir():
        from ..store import runs as store

        for inside in ("runs.parquet", "runs.csv"):  # a study's folder, or a committed table
            if not (path / "runs").is_dir() and (path / inside).is_file():
                return _named(read_file(path / inside), str(path / inside))
        folder = path / "runs" if (path / "runs").is_dir() else path
        frame = store.table(folder)
        if frame.height == 0:
            raise FitError(
                "the directory holds no runs",
                where=str(path),
                remedy="give the output directory of `forcelaw run`, or a table of runs",
            )
        return frame, str(path), []
    return _named(read_file(path), str(path))


def _named(found: tuple[pl.DataFrame, list[str]], name: str) -> tuple[pl.DataFrame, str, list[str]]:
    return found[0], name, found[1]


def _weak_names(
    frame: pl.DataFrame, taken: dict[str, str], given: dict[str, str], notes: list[str]
) -> None:
    """Take a column called model as the architecture, or one called name as the run, where the
    table bears it out.

    A model may be an architecture ("painn", with several sizes) or a size ("7B"); only the first is
    a group.
    """
    import polars as pl

    for role, names in col.WEAK.items():
        found = next(
            (n for n in frame.columns if col.plain(n) in names and n not in taken.values()), None
        )
        if role in taken or role in given or found is None:
            continue
        text = frame[found].cast(pl.String, strict=False)
        if role == "group" and "n" in taken:
            sizes = frame.select(
                key=text, n=pl.col(taken["n"]).cast(pl.String, strict=False)
            ).group_by("key")
            if (
                frame[taken["n"]].n_unique() > 1
                and sizes.agg(pl.col("n").n_unique())["n"].max() < 2
            ):
                notes.append(
                    f"column {found!r} is not taken: each of its values has one size, so it names"
                    f" sizes or runs; --columns run={found} or architecture={found} if it should be"
                )
                continue
        taken[role] = found


def _drop_failed(
    frame: pl.DataFrame, taken: dict[str, str], rows: np.ndarray, notes: list[str]
) -> tuple[pl.DataFrame, np.ndarray]:
    """Without the rows whose status says that the run failed, and without runs that have no
    evaluation yet."""
    if "status" not in taken:
        return frame, rows
    status = [str(value or "").strip().lower() for value in frame[taken["status"]].to_list()]
    failed = np.array([value in BAD_STATUS for value in status])
    loss_missing = frame[taken["loss"]].is_null().to_numpy()
    waiting = (
        ~failed
        & loss_missing
        & np.array([value in ("unfinished", "running", "pending") for value in status])
    )
    names = frame[taken["run"]].to_list() if "run" in taken else list(range(frame.height))
    for mask, what in (
        (failed, "that failed or diverged"),
        (waiting, "that have no evaluation yet"),
    ):
        if mask.any():
            runs = sorted({str(names[i]) for i in np.flatnonzero(mask)})
            notes.append(
                f"left out {int(mask.sum())} rows of {len(runs)} runs {what}: {', '.join(runs[:8])}"
                + (" ..." if len(runs) > 8 else "")
            )
    keep = ~(failed | waiting)
    if not keep.any():
        raise FitError(
            f"all {frame.height} rows are of runs that failed or diverged",
            where=f"column {taken['status']!r}",
            remedy="train again with a smaller learning rate",
        )
    return frame.filter(keep), rows[keep]


def _labels(frame: pl.DataFrame, name: str) -> tuple[np.ndarray, list[str]]:
    import polars as pl

    text = frame[name].cast(pl.String, strict=False).fill_null("")
    codes = text.rank("dense").to_numpy().astype(np.int64) - 1
    names = text.unique().sort().to_list()
    return codes, names


def _assemble(
    cls: type[Runs],
    frame: pl.DataFrame,
    values: dict[str, np.ndarray],
    taken: dict[str, str],
    notes: list[str],
    source: str,
) -> Runs:
    rows = frame.height
    if "group" in taken:
        group, group_names = _labels(frame, taken["group"])
    else:
        group, group_names = np.zeros(rows, np.int64), [""]
    seed = (
        np.array(frame[taken["seed"]].to_list(), dtype=object).astype(str)
        if "seed" in taken
        else None
    )
    independent = "run" not in taken
    if independent:
        run, run_names = np.arange(rows), [str(i + 1) for i in range(rows)]
        notes.append(
            "no run column: every row counts as a run of its own; if rows are checkpoints of one"
            " training, intervals come out too narrow: give --columns run=..."
        )
    else:
        run, run_names = _labels(frame, taken["run"])
        if len(run_names) == 1 and rows > 1:
            notes.append(f"all rows are of one run ({run_names[0]})")
    return cls(
        values=values,
        run=run,
        run_names=run_names,
        group=group,
        group_names=group_names,
        seed=seed,
        taken=taken,
        notes=notes,
        source=source,
        frame=frame,
        independent=independent,
    )


def _derive_d(runs: Runs) -> Runs:
    """D = C / (6 N) where the table has N and C but no D: the language-model convention, said
    aloud."""
    if "d" in runs.values or "n" not in runs.values or "c" not in runs.values:
        return runs
    d = runs["c"] / (6 * runs["n"])
    note = (
        "there is no D: it is derived as C/(6 N), the language-model convention; for force fields"
        " give --columns d="
    )
    return replace(
        runs,
        values={**runs.values, "d": d},
        taken={**runs.taken, "d": "= c / (6 n)"},
        notes=[*runs.notes, note],
    )


def _drop_copies(runs: Runs) -> Runs:
    """One of each set of identical checkpoints (same run, N, D, step and loss). Without a run
    column none is dropped."""
    if runs.independent:
        return runs
    parts = [
        runs.run,
        *(runs.values[role] for role in ("n", "d", "step", "c", "loss") if role in runs.values),
    ]
    with np.errstate(over="ignore"):
        mixed = np.zeros(len(runs), np.uint64)
        for i, part in enumerate(
            parts
        ):  # equal rows have equal sums, so a table whose sums differ has no copies
            mixed = (mixed + part.astype(float).view(np.uint64)) * np.uint64(
                0x9E3779B97F4A7C15 + 2 * i
            )
    if len(np.unique(mixed)) == len(runs):
        return runs
    key = np.column_stack(parts)
    order = np.lexsort(key.T[::-1])
    same = np.zeros(len(key), bool)
    same[order[1:]] = (key[order[1:]] == key[order[:-1]]).all(axis=1)
    if not same.any():
        return runs
    return runs.take(
        ~same,
        f"dropped {int(same.sum())} rows that are exact copies of another row of the same run",
    )
