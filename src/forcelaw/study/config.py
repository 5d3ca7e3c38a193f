"""A study: a grid of runs declared in one YAML file.

The learning-rate sweep at one size comes first and is part of the study; muP carries its optimum to
every other size. An entry of ``architectures`` may differ from the study in anything that its runs
are made of (length, data, batch, augmentation, symmetry loss, forces, depth, seeds, learning rate),
so two variants are compared under two labels; every difference is in the resolved specification of
the run and therefore in its id. :mod:`forcelaw.study.plan` turns a study into runs.

Importing this needs no torch; checking the names of architectures does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from ..data.options import DataFiles
from ..errors import StoreError, StudyError
from ..files import read_json, reading
from ..settings import Settings
from ..training.config import TrainOptions
from .slurm.options import Slurm
from .yaml_file import read_yaml

MOST_RUNS = 20_000  # of a study; the plan is made again at every poll
# keys of a model's configuration that come from the data, the size or the study
RESERVED = (
    "architecture",
    "width",
    "elements",
    "scale",
    "cutoff",
    "mean_degree",
    "stress",
    "forces",
    "charges",
    "spins",
)


class Replicates(Settings):
    """Further seeds at some of the sizes: what the spread between runs is measured from."""

    sizes: list[float] = Field(min_length=1, description="which of the sizes")
    seeds: list[int] = Field(min_length=1, description="seeds in addition to those of every size")
    atoms: float | None = Field(None, gt=0)
    """D of these runs; by default they are as long as the others"""


class RateLaw(Settings):
    """A learning rate that follows the size and the length of each run:

        rate = value (N / n)^n_exponent (D / d)^d_exponent, at most ``maximum``,

    rounded to two digits, so that a law refitted with hardly different exponents gives the same
    runs. N counts all parameters, D is the atoms seen by the end of the run.
    """

    value: float = Field(gt=0, description="the rate at N = n and D = d")
    n: float = Field(1e5, gt=0, description="parameters at which the rate is ``value``")
    d: float = Field(1e6, gt=0, description="atoms seen at which the rate is ``value``")
    n_exponent: float = Field(0.0, ge=-2, le=2)
    d_exponent: float = Field(0.0, ge=-2, le=2)
    maximum: float | None = Field(None, gt=0, description="no run has a larger rate")

    def rate(self, n: float, d: float) -> float:
        """The rate of a run of ``n`` parameters that sees ``d`` atoms."""
        rate = self.value * (n / self.n) ** self.n_exponent * (d / self.d) ** self.d_exponent
        return float(f"{min(rate, self.maximum or rate):.2g}")


@dataclass(frozen=True)
class SizeRates:
    """The best learning rates of sweeps at several sizes, as (N, rate) by ascending N: between
    them, and beyond, a rate is that of the straight line through the nearest two in log N and log
    rate."""

    points: tuple[tuple[float, float], ...]

    def rate(self, n: float, d: float) -> float:
        """The rate of a run of ``n`` parameters."""
        known = dict(self.points)
        if n in known:
            return known[n]
        sizes = [size for size, _ in self.points]
        k = min(max(1, bisect_left(sizes, n)), len(sizes) - 1)
        (n0, r0), (n1, r1) = self.points[k - 1 : k + 1]
        return float(f"{r0 * (r1 / r0) ** (math.log(n / n0) / math.log(n1 / n0)):.2g}")


class ArchitectureSpec(Settings):
    """One column of the comparison: an architecture with options. What is left out is as in the
    study."""

    name: str
    """mpnn, painn, ... (see: forcelaw models), or your own as module:NAME"""
    label: str | None = Field(None, max_length=200)
    """name in tables and figures; the architecture's title by default"""
    options: dict[str, Any] = Field(default_factory=dict)
    """extra keys of the model's configuration"""
    sizes: list[float] | None = Field(None, min_length=1, description="overrides the study's sizes")
    seeds: list[int] | None = Field(None, min_length=1, description="overrides the study's seeds")
    replicates: Replicates | None = Field(None, description="overrides the study's replicates")
    depth: int | None = Field(None, ge=1, description="overrides the study's depth")
    atoms: float | None = Field(None, gt=0)
    """overrides the length of the runs: D, atoms seen in training"""
    epochs: float | None = Field(None, gt=0)
    """overrides the length of the runs: passes over the training set"""
    distinct_atoms: list[float] | None = Field(None, min_length=1)
    """overrides the study's training sets"""
    forces: Literal["direct", "conservative"] | None = None
    """overrides the study's forces"""
    train: dict[str, Any] = Field(default_factory=dict)
    """overrides options of the training loop"""
    learning_rate: PositiveFloat | RateLaw | None = None
    """fixed, or a law of N and D: no sweep for this one"""
    sweep_around: float | None = Field(None, gt=0)
    """centre of its sweep; the architecture's default otherwise"""
    sweep_sizes: list[float] | None = Field(None, min_length=1)
    """its own sweep is at these sizes: for a model whose best rate depends on its size"""
    sweep_of: str | None = None
    """label of another entry whose learning rate it takes: no sweep of its own"""
    stage: int = Field(0, description="entries of a lower stage are trained first")
    start: str | None = Field(None, validation_alias="from")
    """fine-tune: the run, as OUT/runs/ID relative to the study file, whose model and weights its
    runs start from; its learning rate is a tenth of the architecture's by default"""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """study.json has the field under its name."""
        if isinstance(value, dict) and "start" in value and "from" not in value:
            value = {("from" if k == "start" else k): v for k, v in value.items()}
        return value

    @model_validator(mode="after")
    def _one_model(self) -> ArchitectureSpec:
        own = ("options", "sizes", "depth", "forces", "replicates")
        given = [name for name in own if getattr(self, name)]
        if self.start is not None and given:
            raise ValueError(f"the model is that of the run to start from: leave out {given[0]}")
        return self

    @model_validator(mode="after")
    def _at_most_one(self) -> ArchitectureSpec:
        for one, other in (
            ("atoms", "epochs"),
            ("learning_rate", "sweep_of"),
            ("sweep_around", "sweep_of"),
            ("sweep_sizes", "sweep_of"),
            ("learning_rate", "sweep_sizes"),
            ("learning_rate", "sweep_around"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {one} or {other}, not both")
        return self


class Sweep(Settings):
    """The learning-rate sweep: a few factors around each architecture's default at one size, which
    muP carries to the others, or at each of several; the lowest loss wins.

    Runs much longer than the swept ones can go unstable at the best rate of a sweep, which lies
    near the edge: ``within`` prefers a smaller rate that is hardly worse.
    """

    size: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)]
    """target N of the swept model; several: a sweep at each, rates between them by interpolation in
    log N"""
    factors: list[float] = Field(min_length=2)
    """learning rates, as multiples of the architecture's default"""
    atoms: float | None = Field(None, gt=0, description="D of a swept run")
    epochs: float | None = Field(None, gt=0)
    seeds: list[int] = Field(default=[0], min_length=1)
    extend: int = Field(0, ge=0, le=6)
    """further rates, at most that many, while the best is at an end"""
    within: float = Field(0.0, ge=0, lt=1)
    """take the smallest rate whose loss is within this share of the lowest"""


class LearningRate(Settings):
    """A sweep, or one value for all (architectures may override it); without either, the default
    of each architecture. A number stands for ``{value: NUMBER}``."""

    sweep: Sweep | None = None
    value: float | None = Field(None, gt=0, description="at the muP base width, for all entries")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"value": value} if isinstance(value, (int, float, str)) else value

    @model_validator(mode="after")
    def _at_most_one(self) -> LearningRate:
        if self.sweep is not None and self.value is not None:
            raise ValueError("give sweep or value, and not both")
        return self


class Study(Settings):
    """The whole file. Extra keys are errors."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    data: str | DataFiles = "sample"
    """ "sample", or the path of a pack, relative to the study file; or the files that a pack is
    made of: {train: FILE, validation: FILE, test: FILE, ...} with the options of `forcelaw data
    prepare` as keys"""
    architectures: list[ArchitectureSpec] = Field(min_length=1)
    """what is compared; any entry may differ in more"""
    sizes: list[float] = Field(min_length=1, description="target N")
    depth: int | None = Field(None, ge=1, description="layers of every model; by size when absent")
    seeds: list[int] = Field(default=[0], min_length=1)
    replicates: Replicates | None = None
    epochs: float | None = Field(None, gt=0, description="passes over the training set")
    atoms: float | None = Field(None, gt=0, description="or: D, atoms seen in training")
    distinct_atoms: list[float] | None = Field(None, min_length=1)
    """training sets: nested prefixes with that many atoms"""
    cutoff: float = Field(6.0, gt=0, description="Angstrom")
    forces: Literal["direct", "conservative"] = "direct"
    charge_spin: bool = False
    """embed the total charge and spin multiplicity of each structure"""
    train: TrainOptions = Field(default_factory=TrainOptions)
    """options of the training loop"""
    learning_rate: LearningRate = Field(default_factory=LearningRate)
    """by default that of each architecture, as in `forcelaw train`"""
    share: list[str] = Field(default_factory=list)
    """names of studies in the same output folder; finished runs of theirs that are the same are
    copied and not trained again"""
    slurm: Slurm | None = None
    """workers on a cluster; no part of what is trained, nor of the ids of runs"""

    def record(self) -> dict[str, Any]:
        """What is trained, as JSON: all but where."""
        return self.model_dump(mode="json", exclude={"slurm"})

    @model_validator(mode="before")
    @classmethod
    def _short_architectures(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("architectures"), list):
            value = dict(value)
            value["architectures"] = [
                {"name": a} if isinstance(a, str) else a for a in value["architectures"]
            ]
        return value

    @model_validator(mode="after")
    def _length(self) -> Study:
        if (self.epochs is None) == (self.atoms is None):
            raise ValueError("give the length of the runs as epochs or as atoms, and not both")
        count = sum(
            len(self.seeds_of(a, size)) * len(a.distinct_atoms or self.distinct_atoms or [None])
            for a in self.architectures
            for size in self.sizes_of(a)
        )
        if count > MOST_RUNS:
            raise ValueError(f"{count:,} runs; a study has at most {MOST_RUNS:,}")
        labels = [a.label or a.name for a in self.architectures]
        if len(set(labels)) != len(labels):
            raise ValueError(
                f"two architectures share a label: {labels}; give them different labels"
            )
        for entry in (None, *self.architectures):
            more = entry.replicates if entry else self.replicates
            sizes = self.sizes_of(entry) if entry else self.sizes
            if more and (absent := set(more.sizes) - set(sizes)):
                whose = f" of {entry.label or entry.name}" if entry else ""
                raise ValueError(
                    f"replicates{whose} at {sorted(absent)}, which are not among the sizes {sizes}"
                )
        return self

    def __hash__(self) -> int:  # pydantic's own cannot hash the lists
        return hash(self.model_dump_json())

    def sizes_of(self, entry: ArchitectureSpec) -> list[float]:
        """Target sizes of an entry; of one that starts from a run only their number, which is 1,
        counts."""
        return self.sizes[:1] if entry.start is not None else entry.sizes or self.sizes

    def rate_of(self, entry: ArchitectureSpec) -> float:
        """The rate of an entry where nothing else is said, and the centre of its sweep."""
        from ..models import architecture

        default = architecture(entry.name).learning_rate
        return entry.sweep_around or (0.1 * default if entry.start is not None else default)

    def seeds_of(self, entry: ArchitectureSpec, size: float) -> list[int]:
        """Seeds at one size, replicates last. Replicates of the study hold for an entry that has
        that size."""
        first, more = entry.seeds or self.seeds, entry.replicates or self.replicates
        if more is None or size not in more.sizes:
            return list(first)
        return [*first, *(seed for seed in more.seeds if seed not in first)]

    def length_of(self, entry: ArchitectureSpec, seed: int | None = None) -> dict[str, Any]:
        """Length of the runs of an entry, as atoms or epochs; that of seeds which only replicates
        have may be shorter."""
        more = entry.replicates or self.replicates
        if more and more.atoms and seed is not None and seed not in (entry.seeds or self.seeds):
            return {"atoms": more.atoms, "epochs": None}
        own = entry.atoms is not None or entry.epochs is not None
        source = entry if own else self
        return {"atoms": source.atoms, "epochs": source.epochs}

    def train_options(self, entry: ArchitectureSpec) -> TrainOptions:
        """Options of the training loop of an entry: its own keys over the study's. The two rules
        for the batch exclude each other, so an entry that gives one drops the other."""
        rules = {"batch_molecules", "batch_atoms"}
        dropped = rules if rules & entry.train.keys() else set()
        return TrainOptions(**{**self.train.model_dump(exclude=dropped), **entry.train})


SCHEMA = "correct these keys; `forcelaw run --schema` lists all that exist"


def explain(error: ValidationError, where: str, remedy: str = SCHEMA) -> StudyError:
    """A pydantic error as a list of wrong keys: what is wrong with each, and what was given."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        elif item["type"] == "missing":
            message = "required key is missing"
        given = (
            ""
            if item["type"] in ("missing", "value_error")
            else f" (given: {str(item['input'])[:60]!r})"
        )
        lines.append(f"{key}: {message}{given}")
    return StudyError(
        "the specification is wrong:\n  " + "\n  ".join(lines),
        where=where,
        remedy=remedy,
    )


def load(path: str | Path) -> Study:
    """Read and validate a study file."""
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise StudyError(
            f"a study file is a mapping of keys to values, and this is a {type(content).__name__}",
            where=str(path),
            remedy="start from one that is written for you: forcelaw init PACK (or: sample)",
        )
    try:
        study = Study(**content)
    except ValidationError as error:
        raise explain(error, str(path)) from error
    with reading(path, StudyError, remedy="correct the file"):
        _check_contents(study, str(path))
    return study


def label_of(a: ArchitectureSpec) -> str:
    """The label that an entry carries in tables and figures."""
    from ..models import architecture

    return a.label or architecture(a.name).title


def _check_contents(study: Study, where: str) -> None:
    """Names of architectures and options of models and training: checked here, so that nothing
    fails hours later."""
    from ..models import architecture

    for k, a in enumerate(study.architectures):
        try:
            study.train_options(a)
        except ValidationError as error:
            raise explain(error, f"{where}, key architectures.{k}.train") from error
        at = f"{where}, key architectures.{k}"
        try:
            architecture(a.name)
        except StudyError as error:
            raise StudyError(error.what, where=at, remedy=error.remedy) from error
        check_options(a.name, a.options, f"{at}.options")
    _check_labels(study, where)


def check_options(name: str, options: Collection[str], where: str) -> None:
    """StudyError for an option that architecture ``name`` does not have, or that is not free: one
    that follows from the size or the data."""
    from ..models import architecture

    fields = architecture(name).config.model_fields
    for option in options:
        if option not in fields or option in RESERVED:
            free = [field for field in fields if field not in (*RESERVED, "depth")]
            elsewhere = option in ArchitectureSpec.model_fields and option != "name"
            raise StudyError(
                f"{name} has no option {option!r}",
                where=where,
                remedy=f"write it beside name and options ({option}: ...)"
                if elsewhere and where.endswith(".options")
                else f"its options are: {', '.join(free)}",
            )


def _check_labels(study: Study, where: str) -> None:
    """No two entries have one label, default titles included; ``sweep_of`` names an entry that has
    a rate of its own."""
    entries: dict[str, ArchitectureSpec] = {}
    for k, a in enumerate(study.architectures):
        if label_of(a) in entries:
            raise StudyError(
                f"two architectures share a label: {label_of(a)!r}",
                where=f"{where}, key architectures.{k}",
                remedy="give one of them another label",
            )
        entries[label_of(a)] = a
    for k, a in enumerate(study.architectures):
        if a.sweep_of is None:
            continue
        giver = entries.get(a.sweep_of)
        if giver is None or giver.sweep_of is not None:
            own = [label for label, other in entries.items() if other.sweep_of is None]
            raise StudyError(
                f"no entry labelled {a.sweep_of!r} has a learning rate of its own",
                where=f"{where}, key architectures.{k}.sweep_of",
                remedy=f"use one of: {', '.join(own)}",
            )


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Keys in which two resolved studies differ. A key that one of them is too old to have counts
    as its default."""
    a, b = _completed(a), _completed(b)
    return sorted(key for key in {*a, *b} if a.get(key) != b.get(key))


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    try:
        return Study.model_validate(content).record()
    except ValidationError:  # of another version: compared as it is
        return content


def is_later_stage(theirs: Path, ours: Path) -> bool:
    """Whether the study.json ``theirs`` is a later stage of ``ours``: a study may grow, and each
    remembers what it was (``grown``). False where either is missing; StoreError if they are of
    different studies."""
    if not theirs.exists() or not ours.exists():
        return False
    a, b = ({"study": {}, "data": {}} | read_json(path) for path in (theirs, ours))
    different = differences(a["study"], b["study"])
    stages = [content.get("grown", []) for content in (a, b)]
    shorter, longer = sorted(stages, key=len)
    since = {key for stage in longer[len(shorter) :] for key in stage["keys"]}
    if longer[: len(shorter)] == shorter and set(different) <= since:
        different = []
    if a["data"].get("hash") != b["data"].get("hash"):
        different.append(f"data ({a['data'].get('hash')} and {b['data'].get('hash')})")
    if different:
        raise StoreError(
            f"{theirs.parent} holds another study (different: {', '.join(different)})",
            where=str(ours.parent),
            remedy="import it into a directory of its own",
        )
    return len(stages[0]) > len(stages[1])
