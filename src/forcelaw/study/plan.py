"""The plan of a study: all of its runs, most urgent first.

:func:`plan` is a pure function of the study, a summary of the data and the final losses of the runs
that are over. It reads no disk, and several workers that ask at once get the same answer. Grids
wait for their learning-rate sweep: as long as it is not over their runs have no rate, hence no id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import ValidationError

from ..models.base import ModelConfig
from ..models.sizing import size as size_model
from ..store import sweep
from ..store.runs import content_id, planned_flops
from ..training.config import TrainOptions
from ..training.spec import DataSummary, resolve
from .config import ArchitectureSpec, RateLaw, SizeRates, Study, Sweep, explain, label_of

UNKNOWN_RATE = 1.0  # stands for the rate of runs whose sweep is not over; sizes do not depend on it


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan. urgency: lower is trained first. held: it waits for a forecast."""

    id: str
    spec: dict[str, Any]
    flops: float
    urgency: tuple[int, int]
    held: bool = False

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def label(self) -> str:
        return str(self.spec["label"])


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` says, each list most urgent first.

    runs: those that can be trained, finished ones and held ones included. waiting: runs of grids
    whose sweep is not over, at :data:`UNKNOWN_RATE`. failed: label -> why it has no grid.
    """

    runs: tuple[PlannedRun, ...]
    waiting: tuple[PlannedRun, ...]
    failed: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether every run of the study has its id: no sweep is under way."""
        return not self.waiting

    @property
    def active(self) -> list[PlannedRun]:
        """Runs that are not held back."""
        return [run for run in self.runs if not run.held]


def plan(
    study: Study,
    data: DataSummary,
    finished: Mapping[str, float | None],
    *,
    hold: float | None = None,
    left: Mapping[str, Mapping[str, float]] | None = None,
) -> Plan:
    """All runs of a study.

    finished: id -> final loss of the runs that are over, None where one diverged or failed; only
    runs of sweeps matter. left: id -> what such a run has left of the parts of its loss. hold: runs
    of a grid that plan at least this share of its largest compute are marked as held, so that a
    forecast can come first.

    Order: lower stages; in a stage sweeps (grids wait for them), then first seeds, then replicates;
    then by compute, largest first, so that no long run is left for the end.
    """
    catalogue = _catalogue(study, data)
    losses = _Losses(finished, left or {})
    sweeps = {label_of(a): _run_sweep(catalogue, a, losses) for a in study.architectures}
    runs: list[PlannedRun] = []
    waiting: list[PlannedRun] = []
    failed: dict[str, str] = {}
    for entry in study.architectures:
        label = label_of(entry)
        runs += sweeps[label].runs
        source = sweeps[entry.sweep_of or label]
        if source.failure:
            failed[label] = source.failure
        elif source.rate is None:
            waiting += catalogue.grid(entry, UNKNOWN_RATE)
        else:
            runs += _held(catalogue.grid(entry, source.rate), hold)
    return Plan(_sorted(runs), _sorted(waiting), failed)


def model_config(study: Study, data: DataSummary, entry: ArchitectureSpec, n: float) -> ModelConfig:
    """The model of an entry at target size ``n``."""
    return _catalogue(study, data).model(entry, n)


def sized_model(
    name: str,
    n: float,
    data: DataSummary,
    *,
    forces: str,
    depth: int | None,
    options: Mapping[str, Any],
    where: str,
    train: TrainOptions,
) -> ModelConfig:
    """Architecture ``name`` at target size ``n``. depth: None: by the size; an option ``depth``
    comes first. where: for errors. train: how it is trained, which decides whether it has a head
    for the stress (direct forces) and a map of its states."""
    given = {**data.options, "forces": forces, **options}
    if train.stress and forces == "direct":
        given["stress"] = True
    if train.latent:
        given["latent"] = True
    depth = given.pop("depth", None) or depth
    try:
        return size_model(name, n, depth=depth, **given)
    except ValidationError as error:
        raise explain(error, where, _remedy(name, forces, error)) from error


def _remedy(name: str, forces: str, error: ValidationError) -> str:
    """What to do about options that architecture ``name`` does not take."""
    if {item["loc"] for item in error.errors()} == {("forces",)}:
        other = "direct" if forces == "conservative" else "conservative"
        return f"ask for its own kind: --forces {other}, or in a study forces: {other}"
    return f"correct these keys; `forcelaw models {name}` lists its options"


def _sorted(runs: list[PlannedRun]) -> tuple[PlannedRun, ...]:
    return tuple(sorted(runs, key=lambda run: (run.urgency, -run.flops, run.id)))


def _once(runs: list[PlannedRun]) -> list[PlannedRun]:
    """Each run once: target sizes that lie near each other may be the same model."""
    return list({run.id: run for run in runs}.values())


def _held(grid: list[PlannedRun], hold: float | None) -> list[PlannedRun]:
    if not hold:
        return grid
    limit = hold * max(run.flops for run in grid)
    return [replace(run, held=True) if run.flops >= limit else run for run in grid]


@dataclass(frozen=True)
class _Losses:
    """Final losses by id, and what is left of their parts."""

    finished: Mapping[str, float | None]
    left: Mapping[str, Mapping[str, float]]

    def means(self, runs: list[PlannedRun]) -> dict[float, float] | None:
        """Learning rate -> mean final loss over seeds; None while a run is not over."""
        if any(run.id not in self.finished for run in runs):
            return None
        return sweep.mean_losses(
            (run.spec["lr"], self.finished[run.id], self.left.get(run.id, {})) for run in runs
        )


@dataclass(frozen=True)
class _SweepState:
    """Where the rate of an entry stands: None while runs of its sweep are not over, and for ever if
    there is a ``failure``."""

    runs: list[PlannedRun]
    rate: float | RateLaw | SizeRates | None = None
    failure: str = ""


def _run_sweep(catalogue: _Catalogue, entry: ArchitectureSpec, losses: _Losses) -> _SweepState:
    """The sweep of an entry as far as it can be planned: with further rates where all are over and
    the best is at an end."""
    given, rule = catalogue.study.learning_rate.value, catalogue.study.learning_rate.sweep
    if entry.sweep_of is not None:
        return _SweepState([])
    if entry.learning_rate is not None or rule is None:
        default = catalogue.study.rate_of(entry)
        return _SweepState([], entry.learning_rate or given or default)
    sizes = entry.sweep_sizes or (rule.size if isinstance(rule.size, list) else [rule.size])
    sizes = sizes[:1] if entry.start is not None else sizes  # its model has one size
    found = [_swept(catalogue, entry, rule, n, losses) for n in sorted(set(sizes))]
    runs = [run for state in found for run in state.runs]
    failures = [state.failure for state in found if state.failure]
    if failures or any(state.rate is None for state in found):
        return _SweepState(runs, failure="; ".join(failures))
    if len(found) == 1:
        return found[0]
    points = [(float(state.runs[0].spec["n"]), state.rate) for state in found]
    return _SweepState(runs, SizeRates(tuple(points)))  # type: ignore[arg-type]


def _swept(
    catalogue: _Catalogue,
    entry: ArchitectureSpec,
    rule: Sweep,
    n: float,
    losses: _Losses,
) -> _SweepState:
    """The sweep of an entry at target size ``n``."""
    factors = sorted(rule.factors)
    runs = catalogue.sweep(entry, rule, n, rule.factors)
    means = losses.means(runs)
    for _ in range(rule.extend):
        if means is None:
            break
        factor = sweep.next_factor(factors, [means[rate] for rate in sorted(means)])
        if factor is None:
            break
        factors = sorted([*factors, factor])
        runs = [*runs, *catalogue.sweep(entry, rule, n, [factor])]
        means = losses.means(runs)
    if means is None:
        return _SweepState(runs)
    rate = sweep.best_rate(means, rule.within)
    if rate is None:
        rates = ", ".join(f"{rate:g}" for rate in sorted(means))
        return _SweepState(
            runs,
            failure=f"every learning rate of the sweep at N = {n:,.0f} failed ({rates}): lower"
            " learning_rate.sweep.factors, or set sweep_around for this architecture",
        )
    return _SweepState(runs, rate)


@lru_cache(maxsize=8)
def _catalogue(study: Study, data: DataSummary) -> _Catalogue:
    return _Catalogue(study, data)


class _Catalogue:
    """Runs of a study, each resolved once: a plan is asked for at every poll."""

    def __init__(self, study: Study, data: DataSummary):
        self.study, self.data = study, data
        self._models: dict[tuple[str, float], ModelConfig] = {}
        self._runs: dict[tuple[Any, ...], list[PlannedRun]] = {}

    def model(self, entry: ArchitectureSpec, n: float) -> ModelConfig:
        key = (label_of(entry), n)
        if entry.start is not None:
            return self.data.starts[label_of(entry)].config()
        if key not in self._models:
            self._models[key] = sized_model(
                entry.name,
                n,
                self.data,
                forces=entry.forces or self.study.forces,
                depth=entry.depth or self.study.depth,
                options=entry.options,
                where=f"study {self.study.name}, architecture {entry.name}",
                train=self.study.train_options(entry),
            )
        return self._models[key]

    def sweep(
        self, entry: ArchitectureSpec, rule: Sweep, n: float, factors: list[float]
    ) -> list[PlannedRun]:
        """The sweep of one entry at target size ``n`` over learning rates ``factors`` times its
        centre."""
        key = ("sweep", label_of(entry), n, *factors)
        if key not in self._runs:
            centre = self.study.rate_of(entry)
            length = {"atoms": rule.atoms, "epochs": rule.epochs}
            if rule.atoms is None and rule.epochs is None:
                length = self.study.length_of(entry)
            self._runs[key] = [
                self._planned(
                    entry,
                    n,
                    "sweep",
                    lr=float(f"{centre * factor:.3g}"),
                    seed=seed,
                    **length,
                )
                for factor in factors
                for seed in rule.seeds
            ]
            self._runs[key] = _once(self._runs[key])
        return self._runs[key]

    def grid(self, entry: ArchitectureSpec, lr: float | RateLaw | SizeRates) -> list[PlannedRun]:
        """The grid of one entry at its learning rate."""
        key = ("grid", label_of(entry), repr(lr))
        if key not in self._runs:
            study = self.study
            training_sets: Sequence[float | None] = (
                entry.distinct_atoms or study.distinct_atoms or [None]
            )
            self._runs[key] = [
                self._planned(
                    entry,
                    n,
                    "grid",
                    lr=lr,
                    seed=seed,
                    distinct_atoms=distinct,
                    **study.length_of(entry, seed),
                )
                for n in study.sizes_of(entry)
                for distinct in training_sets
                for seed in study.seeds_of(entry, n)
            ]
            self._runs[key] = _once(self._runs[key])
        return self._runs[key]

    def _planned(
        self,
        entry: ArchitectureSpec,
        n: float,
        kind: Literal["grid", "sweep"],
        *,
        lr: float | RateLaw | SizeRates,
        **how: Any,
    ) -> PlannedRun:
        resolved = resolve(
            self.data,
            self.model(entry, n),
            self.study.train_options(entry),
            study=self.study.name,
            kind=kind,
            label=label_of(entry),
            lr=lr if isinstance(lr, float) else UNKNOWN_RATE,
            start=self.data.starts[label_of(entry)].start if entry.start is not None else None,
            **how,
        )
        if not isinstance(lr, float):  # N and D are known only now
            rate = lr.rate(resolved.n, resolved.atoms_total)
            resolved = resolved.model_copy(update={"lr": rate})
        spec = resolved.as_json()
        first = spec["seed"] in (entry.seeds or self.study.seeds)
        rank = 0 if kind == "sweep" else 1 if first else 2
        return PlannedRun(content_id(spec), spec, planned_flops(spec), (entry.stage, rank))
