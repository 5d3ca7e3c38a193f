"""A table of runs, ready to be fitted: clean arrays, who belongs to which run, and what was used
and left out. One row is one evaluation (a checkpoint) of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TableError
from .columns import COLUMNS, ROLES, leaf, plain
from .doubts import doubts
from .filter import where as passes
from .read import read
from .roles import name_runs, recognise, unrecognised_loss
from .values import as_text, check_positive, numbers

if TYPE_CHECKING:
    import polars as pl

BAD_STATUS = ("diverged", "failed", "crashed", "nan", "oom", "killed", "error")
WAITING_STATUS = ("unfinished", "running", "pending")
ALONE = (
    "no run column: every row counts as a run of its own; if rows are checkpoints of one"
    " training, intervals come out too narrow: give --columns run=..."
)


@dataclass(frozen=True)
class Runs:
    """Checkpoints of runs. All arrays have one entry per row.

    values: role -> float64 [rows] for those of n, d, u, c, h, loss, step, weight that are there.
    run: int [rows], index into ``run_names``; group: int [rows], index into ``group_names``; seed:
    text [rows] or None. taken: role -> column of the source (or how it was derived). notes: what
    was dropped or assumed, in plain words. frame: the rows that were kept, as read, for other
    columns. independent: there is no run column, so every row is a run of its own.
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
    frame: Any = None
    independent: bool = False

    @classmethod
    def from_frame(
        cls, source: Any, columns: Mapping[str, str] | None = None, where: str | None = None
    ) -> Runs:
        """Read and check a table: a file or directory, a DataFrame (polars or pandas) or a dict of
        columns (:mod:`forcelaw.table.read`). ``columns`` maps roles (see
        :data:`forcelaw.table.columns.ROLES`) to column names, others are recognised; ``where`` is a
        filter (:mod:`forcelaw.table.filter`). TableError for what cannot be used."""
        table = read(source)
        frame = table.frame
        if frame.height == 0:
            raise TableError(
                "the table has no rows, only a header",
                where=table.name,
                remedy="give one row for each evaluation",
            )
        found = recognise(frame, columns)
        taken, notes = found.taken, [*table.notes, *found.notes]
        rows = np.arange(1, frame.height + 1)  # row numbers of the source, for messages
        if where:
            frame, rows = _filtered(frame, rows, where, notes)
        if "loss" not in taken:
            raise unrecognised_loss(frame)
        frame, rows = _drop_failed(frame, taken, rows, notes)
        frame, rows = _drop_early(frame, rows, notes)
        values = _values(frame, taken, rows, notes, chosen=columns or {})
        runs = _assemble(cls, frame, values, taken, notes, table.name)
        runs = _drop_copies(_derive_c(_derive_d(runs), found.flops_per_nd))
        return replace(runs, notes=[*runs.notes, *doubts(runs)])

    def __len__(self) -> int:
        return len(self.values["loss"])

    def __repr__(self) -> str:
        return self.describe()

    def __getitem__(self, role: str) -> np.ndarray:
        """The values of a role; TableError if the table has none."""
        if role not in self.values:
            there = ""
            if self.frame is not None:
                there = f"; columns are {', '.join(self.frame.columns[:40])}"
            left = [note for note in self.notes if f"(recognised as {role}) is left out" in note]
            raise TableError(
                f"the table has no {role} ({ROLES[role].meaning if role in ROLES else role})"
                + "".join(f": {n}" for n in left),
                where=self.source + there,
                remedy=f"name the column: --columns {role}=..." + self._made_of(role),
            )
        return self.values[role]

    def _made_of(self, role: str) -> str:
        """What could stand in for a role that no column has, as the end of a remedy."""
        if role == "c":
            return ", or let it be 6 N D: --columns c=6nd"
        if role == "d" and "step" in self:
            return f", or add one: {self.taken['step']!r} times the data of a step"
        return ""

    def __contains__(self, role: str) -> bool:
        return role in self.values

    def column(self, name: str) -> str | None:
        """The header of a column of the source that plays no role in a law: itself, or one of the
        spellings of a column of ours (:data:`forcelaw.table.columns.COLUMNS`)."""
        headers = [] if self.frame is None else self.frame.columns
        if name in headers:
            return name
        known = COLUMNS[name].spellings.split() if name in COLUMNS else []
        found = [header for header in headers if plain(header) in known]
        nested = [header for header in headers if leaf(header) in known]
        return next(iter(found or (nested if len(nested) == 1 else [])), None)

    def labels(self, name: str) -> np.ndarray | None:
        """The cells of such a column as text [rows]; None where there is no such column, or where
        cells are missing."""
        header = self.column(name)
        if header is None or self.frame[header].null_count():
            return None
        return as_text(self.frame[header]).to_numpy().astype(str)

    def numbers(self, name: str) -> np.ndarray | None:
        """Such a column as numbers [rows], NaN where a cell is none; None where there is no such
        column."""
        header = self.column(name)
        if header is None:
            return None
        import polars as pl

        return self.frame[header].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()

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
            both = np.column_stack([self.group, self["n"]])
            labels = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        elif by == "seed" and self.seed is not None:
            labels = self.seed
        else:
            raise TableError(
                f"rows cannot be clustered by {by!r}",
                where=self.source,
                remedy="use run, config, seed or none",
            )
        return np.unique(labels, return_inverse=True)[1].ravel()

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
            frame=None if self.frame is None else self._rows(index),
            notes=[*self.notes, note] if note else list(self.notes),
        )

    def _rows(self, index: np.ndarray) -> pl.DataFrame:
        """Rows of the frame; polars takes an empty list for one of columns."""
        return self.frame[index.tolist()] if len(index) else self.frame.head(0)

    def select(
        self,
        group: str | None = None,
        *,
        burn_in_steps: float = 0,
        burn_in_fraction: float = 0,
        last: bool = False,
        where: str | None = None,
    ) -> Runs:
        """Rows of one architecture, after the burn-in (steps, or a fraction of each run's last step
        or D), the last checkpoint of each run only, or by a filter. What was dropped goes to the
        notes."""
        mask = np.ones(len(self), bool)
        said = []
        if group is not None:
            if group not in self.group_names:
                raise TableError(
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
        if clock is not None and (burn_in_fraction or last):
            end = np.zeros(len(self.run_names))
            np.maximum.at(end, self.run, clock)
            if burn_in_fraction:
                mask &= clock >= burn_in_fraction * end[self.run]
                said.append(f"the first {burn_in_fraction:.0%} of each run dropped")
            if last:
                mask &= clock == end[self.run]
                said.append("last checkpoint of each run")
        if where:
            mask &= passes(where, self.frame)
            said.append(where)
        note = f"selected {int(mask.sum())} of {len(self)} rows: {', '.join(said)}" if said else ""
        return self.take(mask, note)

    def ends(self) -> np.ndarray:
        """The row of the last evaluation of every run [runs]."""
        order = np.lexsort((self["d"], self.run))
        return order[np.append(np.diff(self.run[order]) > 0, True)]

    def configurations(self, rows: np.ndarray) -> list[tuple[Any, ...]]:
        """What ``rows`` share with the other runs of a sweep: architecture, seed, and to 1% N, D,
        and (where the table has them) the distinct data."""
        seeds = [""] * len(self) if self.seed is None else self.seed
        sizes = [
            self.values[role] for role in ("n", "d", "u") if role in ("n", "d") or role in self
        ]
        same = [np.round(np.log(values) / 0.01) for values in sizes]
        return [(int(self.group[i]), str(seeds[i]), *(s[i] for s in same)) for i in rows]

    def best_of_sweep(self) -> Runs:
        """Of runs of one architecture, size, length, data and seed the one that ends lowest."""
        ends = self.ends()
        best: dict[tuple[Any, ...], int] = {}
        for i, key in zip(ends, self.configurations(ends)):
            if key not in best or self["loss"][i] < self["loss"][best[key]]:
                best[key] = int(i)
        kept = self.run[list(best.values())]
        note = f"best of each sweep: {len(kept)} of {len(ends)} runs"
        best_runs = self.take(np.isin(self.run, kept), note)
        said = [one for one in best_runs.notes if "--best-of-sweep" not in one]
        return replace(best_runs, notes=said)

    def with_loss(self, column: str) -> Runs:
        """The same runs with another column of the source as the loss (energy or force term)."""
        if self.frame is None or column not in self.frame.columns:
            raise TableError(
                f"there is no column {column!r} to take as the loss", where=self.source
            )
        values = numbers(self.frame[column], "loss")
        check_positive(values, "loss", column)
        return replace(
            self, values={**self.values, "loss": values}, taken={**self.taken, "loss": column}
        )

    def groups(self) -> dict[str, Runs]:
        """One :class:`Runs` per architecture, in the order of their names."""
        return {name: self.take(self.group == i) for i, name in enumerate(self.group_names)}

    def describe(self) -> str:
        """Which column is used for what, and the notes, one a line."""
        source = f" from {self.source}" if self.source else ""
        lines = [f"{len(self)} rows of {self.n_runs} runs{source}"]
        for role, column in self.taken.items():
            lines.append(f"  {role:<7} {column if '=' in column else repr(column)}")
        for role in ("n", "d", "c", "h", "loss"):
            if role in self.values and len(self):
                ends = f"{self[role].min():.4g} to {self[role].max():.4g}"
                lines.append(f"  {role} from {ends}, {len(np.unique(self[role]))} levels")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _filtered(
    frame: pl.DataFrame, rows: np.ndarray, where: str, notes: list[str]
) -> tuple[pl.DataFrame, np.ndarray]:
    """The rows that pass the filter, and their numbers."""
    mask = passes(where, frame)
    if not mask.any():
        raise TableError(
            f"no row of {frame.height} passes the filter",
            where=f"--where {where!r}",
            remedy="widen it, or look at the values of its columns",
        )
    notes.append(f"the filter {where!r} kept {int(mask.sum())} of {frame.height} rows")
    return frame.filter(mask), rows[mask]


def early(frame: pl.DataFrame) -> pl.Series:
    """Rows of runs whose learning rate falls at the end that are not their last: while the rate is
    high a run has a larger loss than one that was planned to end there."""
    import polars as pl

    if not {"decay", "final"} <= set(frame.columns):
        return pl.Series([False] * frame.height)
    falls = frame["decay"].cast(pl.Float64, strict=False).fill_null(0.0) > 0
    last = as_text(frame["final"]).fill_null("").str.to_lowercase().is_in(["true", "1"])
    return falls & ~last


def _drop_early(
    frame: pl.DataFrame, rows: np.ndarray, notes: list[str]
) -> tuple[pl.DataFrame, np.ndarray]:
    """Without the rows that :func:`early` finds, unless there are only such."""
    mask = early(frame)
    if not mask.any() or mask.all():
        return frame, rows
    notes.append(
        f"left out {int(mask.sum())} rows of runs whose learning rate falls at the end: only the"
        " last evaluation is that of a run of its length"
    )
    return frame.filter(~mask), rows[~mask.to_numpy()]


def _drop_failed(
    frame: pl.DataFrame, taken: dict[str, str], rows: np.ndarray, notes: list[str]
) -> tuple[pl.DataFrame, np.ndarray]:
    """Without the rows whose status says that the run failed, and without runs that have no
    evaluation yet."""
    if "status" not in taken:
        return frame, rows
    status = as_text(frame[taken["status"]]).fill_null("").str.strip_chars().str.to_lowercase()
    failed = status.is_in(BAD_STATUS)
    waiting = status.is_in(WAITING_STATUS) & frame[taken["loss"]].is_null()
    reasons = "that failed or diverged", "that have no evaluation yet"
    for mask, what in zip((failed, waiting), reasons, strict=True):
        if mask.any():
            names = as_text(frame[taken["run"]]).filter(mask) if "run" in taken else mask.arg_true()
            runs = sorted(map(str, names.unique()))
            some = ", ".join(runs[:8]) + (" ..." if len(runs) > 8 else "")
            notes.append(f"left out {int(mask.sum())} rows of {len(runs)} runs {what}: {some}")
    keep = ~(failed | waiting)
    if not keep.any():
        raise TableError(
            f"all {frame.height} rows are of runs that failed or diverged",
            where=f"column {taken['status']!r}",
            remedy="train again with a smaller learning rate",
        )
    return frame.filter(keep), rows[keep.to_numpy()]


def _values(
    frame: pl.DataFrame,
    taken: dict[str, str],
    rows: np.ndarray,
    notes: list[str],
    chosen: Mapping[str, str],
) -> dict[str, np.ndarray]:
    """Role -> numbers. A column of u, c or h that was only recognised and has holes is left out,
    and out of ``taken``."""
    values = {}
    for role, column in ROLES.items():
        if role not in taken or not column.numeric:
            continue
        cells = numbers(frame[taken[role]], role, rows)
        bad = int((~(np.isfinite(cells) & (cells > 0))).sum()) if column.positive else 0
        if bad and role in ("u", "c", "h") and role not in chosen:
            notes.append(
                f"column {taken[role]!r} (recognised as {role}) is left out: {bad} of"
                f" {len(cells)} values are missing, infinite or not positive"
            )
            del taken[role]
            continue
        if bad:
            check_positive(cells, role, taken[role], rows)
        values[role] = cells
    return values


def _labels(cells: pl.Series) -> tuple[np.ndarray, list[str]]:
    """Index [rows] of each cell in the sorted distinct cells of a column, and those."""
    import polars as pl

    text = as_text(cells).fill_null("")
    names = text.unique().sort()
    return text.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64), names.to_list()


def _assemble(
    cls: type[Runs],
    frame: pl.DataFrame,
    values: dict[str, np.ndarray],
    taken: dict[str, str],
    notes: list[str],
    source: str,
) -> Runs:
    rows = frame.height
    group, group_names = np.zeros(rows, np.int64), [""]
    if "group" in taken:
        group, group_names = _labels(frame[taken["group"]])
    seed = None
    if "seed" in taken:
        seed = as_text(frame[taken["seed"]]).fill_null("None").to_numpy().astype(str)
    if "run" in taken:
        named, said = name_runs(frame, taken)
        notes += filter(None, [said])
        run, run_names = _labels(named)
        if len(run_names) == 1 and rows > 1:
            notes.append(f"all rows are of one run ({run_names[0]})")
    else:
        run, run_names = np.arange(rows), [str(i + 1) for i in range(rows)]
        notes.append(ALONE)
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
        independent="run" not in taken,
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


def _derive_c(runs: Runs, k: float | None) -> Runs:
    """C = k N D where it was given so."""
    if k is None:
        return runs
    c = k * runs["n"] * runs["d"]
    return replace(runs, values={**runs.values, "c": c}, taken={**runs.taken, "c": f"= {k:g} n d"})


def _drop_copies(runs: Runs) -> Runs:
    """One of each set of identical checkpoints (same run, N, D, step and loss). Without a run
    column none is dropped."""
    if runs.independent:
        return runs
    roles = [role for role in ("n", "d", "step", "c", "loss") if role in runs]
    parts = [runs.run, *(runs[role] for role in roles)]
    with np.errstate(over="ignore"):
        mixed = np.zeros(len(runs), np.uint64)
        # equal rows have equal sums, so a table whose sums differ has no copies
        for i, part in enumerate(parts):
            factor = np.uint64(0x9E3779B97F4A7C15 + 2 * i)
            mixed = (mixed + part.astype(float).view(np.uint64)) * factor
    if len(np.unique(mixed)) == len(runs):
        return runs
    key = np.column_stack(parts)
    order = np.lexsort(key.T[::-1])
    same = np.zeros(len(key), bool)
    same[order[1:]] = (key[order[1:]] == key[order[:-1]]).all(axis=1)
    if not same.any():
        return runs
    copies = f"dropped {int(same.sum())} rows that are exact copies of another row of the same run"
    return runs.take(~same, copies)
