"""From a table of runs to everything that the sections of a report are written from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from ..figures.style import looks
from ..laws.compare.compare import Comparison
from ..store.runs import COUNTED
from ..store.unlearned import PARTS, left, trained, unlearned
from .architecture import Architecture, Named, fit_architecture
from .comparison import compare_pairs
from .load import Source, label_in
from .words import OTHERS, OURS, Words

SWEEP = "sweep"
RISEN = 0.05  # evaluations of the averaged weights scatter by 1%
SYMMETRIES = {
    "E(3)": "E(3): rotation, inversion",
    "SE(3)": "SE(3): rotation",
    "none": "no rotation symmetry",
}


@dataclass
class Analysis:
    """A table of runs and the laws' results on it. frame: all evaluations, in order, without
    non-finite numbers. problems: runs that diverged or failed. risen: runs that count but end above
    their own lowest loss. left: run -> what is left of the parts of its loss, of runs that count.
    counts: runs by status. seconds: spent on fits."""

    source: Source
    frame: pl.DataFrame
    burn_in_steps: int
    architectures: list[Architecture]
    comparison: Comparison
    problems: list[dict[str, Any]]
    risen: list[dict[str, Any]]
    left: dict[str, dict[str, float]]
    counts: dict[str, int]
    seconds: float = 0.0

    @property
    def words(self) -> Words:
        """What the page calls things."""
        return OURS if self.source.ours else OTHERS

    @cached_property
    def unlearned(self) -> list[dict[str, Any]]:
        """The last evaluations of runs that count but have not learned their energies or forces."""
        dead = {run: " and ".join(unlearned(parts)) for run, parts in self.left.items()}
        seen = self.frame.filter(pl.col("loss").is_not_null()).sort("d", nulls_last=False)
        last = seen.unique("run", keep="last", maintain_order=True).iter_rows(named=True)
        return _by_run(
            row | {"last_loss": row["loss"], "unlearned": dead[row["run"]]}
            for row in last
            if dead.get(row["run"])
        )

    @property
    def fitted(self) -> list[Architecture]:
        """The architectures that have finished runs."""
        return [arch for arch in self.architectures if arch.runs]

    @property
    def has_hours(self) -> bool:
        """Whether any run has its device-hours in the table."""
        return bool((self.frame["h"] > 0).any())

    @property
    def has_compute(self) -> bool:
        """Whether any run has its FLOPs in the table."""
        return bool((self.frame["c"] > 0).any())

    @property
    def in_paper(self) -> bool:
        """Whether the paper reports one of the architectures."""
        return any(arch.paper for arch in self.architectures)

    @property
    def grid(self) -> pl.DataFrame:
        """Evaluations of the runs that are not part of a learning-rate sweep."""
        return self.frame.filter(pl.col("kind") != SWEEP)

    @property
    def name(self) -> str:
        """The study's name, or that of its directory; of another table that of its file."""
        study = self.source.study.get("name")
        if study:
            return str(study)
        found = [name for name in self.source.frame["study"].unique().to_list() if name]
        if len(found) == 1:
            return found[0]
        return self.source.path.resolve().name if self.source.ours else self.source.origin.stem

    def labelled(self, label: str) -> Architecture:
        """An architecture by its label."""
        return next(arch for arch in self.architectures if arch.label == label)


def analyse(
    source: Source,
    burn_in_steps: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Analysis:
    """Fit, compare and diagnose everything in ``source``. burn_in_steps: evaluations before this
    step are left out of the fits (default: ``source.burn_in_steps``). A refused fit becomes its
    reason."""
    started = time.monotonic()
    if burn_in_steps is None:
        burn_in_steps = source.burn_in_steps
    frame = _clean(source.frame)
    grid = frame.filter(pl.col("kind") != SWEEP)
    architectures = []
    for one in _labels(source, frame):
        progress(f"fitting {one.label}")
        mine = grid.filter(pl.col("architecture") == one.label)
        swept = pl.col("kind") == SWEEP
        sweep = frame.filter(swept & (pl.col("architecture") == one.label))
        architectures.append(fit_architecture(one, mine, burn_in_steps, sweep))
    progress("comparing architectures")
    comparison = compare_pairs([arch for arch in architectures if arch.runs], burn_in_steps)
    by_status = frame.group_by("status").agg(pl.col("run").n_unique()).sort("status")
    return Analysis(
        source=source,
        frame=frame,
        burn_in_steps=burn_in_steps,
        architectures=architectures,
        comparison=comparison,
        problems=_problems(source, frame),
        risen=_risen(grid),
        left=_left(source, frame),
        counts=dict(by_status.iter_rows()),
        seconds=time.monotonic() - started,
    )


def _clean(frame: pl.DataFrame) -> pl.DataFrame:
    """Non-finite numbers become missing ones; rows are ordered by run and progress."""
    floats = [name for name, kind in frame.schema.items() if kind == pl.Float64]
    frame = frame.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in floats
    )
    return frame.sort("architecture", "n", "seed", "run", "d", nulls_last=True, maintain_order=True)


def _labels(source: Source, frame: pl.DataFrame) -> list[Named]:
    """The architectures in the study's order, then whatever else the table has."""
    found: dict[str, tuple[str, str]] = {}
    for entry in source.study.get("architectures") or []:
        label = label_in(entry)
        architecture = str(entry.get("architecture", label))
        found.setdefault(label, (architecture, _symmetry_words(entry.get("symmetry"))))
    for label in frame["architecture"].unique(maintain_order=True).to_list():
        if label not in found:
            mine = frame.filter(pl.col("architecture") == label)["variant"].drop_nulls()
            found[label] = (mine[0] if len(mine) else label, "")
    look = looks([(label, architecture) for label, (architecture, _) in found.items()])
    return [Named(label, *found[label], look[label]) for label in found]


def _symmetry_words(value: Any) -> str:
    """The symmetry entry of study.json: text, or an object such as {"rotation": true, "inversion":
    false}."""
    if isinstance(value, dict):
        exact = [name for name, has in value.items() if has]
        return ", ".join(exact) if exact else SYMMETRIES["none"]
    return "" if value is None else SYMMETRIES.get(str(value), str(value))


def _problems(source: Source, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Every run that diverged or failed, whatever its kind."""
    out = []
    bad = frame.filter(~pl.col("status").is_in([*COUNTED, "unfinished"]))
    for (run,), rows in bad.group_by(["run"], maintain_order=True):
        said = source.messages.get(str(run), {})
        seen = rows.filter(pl.col("loss").is_not_null())
        reached = (
            f"last evaluated at step {seen['step'][-1]}"
            if len(seen)
            else "no evaluation was reached"
        )
        last = rows.row(-1, named=True)
        out.append(
            last
            | {name: said.get(name, last[name]) for name in ("lr", "step")}
            | {"last_loss": seen["loss"][-1] if len(seen) else None}
            | {"message": said.get("message") or reached}
        )
    return out


def _risen(grid: pl.DataFrame) -> list[dict[str, Any]]:
    """Runs that count although they end more than RISEN above their own lowest loss: a law takes
    them for noise.

    Either the learning rate is too large for runs of that length (a spike, which the averaged
    weights of the evaluation show late), or data seen many times have been learnt by heart.
    """
    seen = grid.filter(pl.col("loss").is_not_null() & pl.col("status").is_in(COUNTED))
    out = []
    for _, rows in seen.sort("d", nulls_last=False).group_by(["run"], maintain_order=True):
        last, least = rows.row(-1, named=True), rows.row(rows["loss"].arg_min(), named=True)
        if last["loss"] > (1.0 + RISEN) * least["loss"]:
            lowest = {"lowest_loss": least["loss"], "lowest_step": least["step"]}
            out.append(last | {"last_loss": last["loss"]} | lowest)
    return _by_run(out)


def _by_run(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["architecture"], row["n"] or 0, row["run"]))


def _left(source: Source, frame: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Run -> what is left of energies and forces at its end, of runs that count, also of sweeps;
    those that began from other weights are not asked."""
    none = (source.study.get("data") or {}).get("no_model")
    settings = _settings(source.study)
    fresh = pl.col("start").is_null() | (pl.col("start") == "")
    seen = frame.filter(fresh, pl.col("status").is_in(COUNTED), pl.col("loss").is_not_null())
    seen = seen.filter(pl.any_horizontal(pl.col(column).is_not_null() for column in PARTS))
    out = {}
    for _, rows in seen.sort("d", nulls_last=False).group_by(["run"], maintain_order=True):
        shares = left(rows.select("step", *PARTS).to_dicts(), none)
        out[rows["run"][0]] = trained(shares, settings.get(rows["architecture"][0], {}))
    return out


def _settings(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each label of a study is trained with, as far as its study.json says it."""
    file = study.get("study") or {}
    entries = zip(study.get("architectures") or [], file.get("architectures") or [])
    return {
        label_in(named): {
            **(file.get("train") or {}),
            **(entry.get("train") or {}),
        }
        for named, entry in entries  # one for each entry of the file, with the label that it has
    }
