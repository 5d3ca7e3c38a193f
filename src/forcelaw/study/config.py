"""A study: a grid of runs declared in one YAML file, and how it unfolds into run specifications.

The learning-rate sweep at one size comes first and is part of the study; muP carries its optimum to
every other size. An entry of ``architectures`` may differ from the study in anything that its runs
are made of (length, data, batch, augmentation, symmetry loss, forces, depth, seeds, learning rate),
so what is compared stands side by side under two labels; every difference is in the resolved
specification of the run and therefore in its id.
"""

from __future__ import annotations

import datetime
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import __version__
from ..data.pack import Pack
from ..errors import StudyError
from ..files import read_json, write_json
from ..store import sweep as sweeps
from ..store.runs import RunDirectory, content_id, runs
from .reuse import Shared

if TYPE_CHECKING:
    from ..training.config import TrainOptions

FORBID = ConfigDict(extra="forbid", frozen=True)
# keys of a model's configuration that come from the data, the size or the study
RESERVED = ("architecture", "width", "elements", "scale", "cutoff", "mean_degree", "forces")


class Replicates(BaseModel):
    """Further seeds at some of the sizes: what the spread between runs is measured from."""

    model_config = FORBID

    sizes: list[float] = Field(min_length=1, description="which of the sizes")
    seeds: list[int] = Field(min_length=1, description="seeds beside those of every size")
    atoms: float | None = Field(
        None, gt=0, description="D of these runs; by default they are as long as the others"
    )


class ArchitectureSpec(BaseModel):
    """One column of the ladder: an architecture of the dictionary, with options. What is left out
    is as in the study."""

    model_config = FORBID

    name: str = Field(description="key of forcelaw.models.ARCHITECTURES")
    label: str | None = Field(
        None, description="name in tables and figures; the architecture's title by default"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="extra keys of the model's configuration"
    )
    sizes: list[float] | None = Field(None, min_length=1, description="overrides the study's sizes")
    seeds: list[int] | None = Field(None, min_length=1, description="overrides the study's seeds")
    replicates: Replicates | None = Field(None, description="overrides the study's replicates")
    depth: int | None = Field(None, ge=1, description="overrides the study's depth")
    atoms: float | None = Field(
        None, gt=0, description="overrides the length of the runs: D, atoms seen in training"
    )
    epochs: float | None = Field(
        None, gt=0, description="overrides the length of the runs: passes over the training set"
    )
    distinct_atoms: list[float] | None = Field(
        None, min_length=1, description="overrides the study's training sets"
    )
    forces: Literal["direct", "conservative"] | None = Field(
        None, description="overrides the study's forces"
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="overrides options of the training loop"
    )
    learning_rate: float | None = Field(None, gt=0, description="fixed: no sweep for this one")
    sweep_around: float | None = Field(
        None, gt=0, description="centre of its sweep; the architecture's default otherwise"
    )
    sweep_of: str | None = Field(
        None, description="label of another entry whose learning rate it takes: no sweep of its own"
    )
    stage: int = Field(0, description="entries of a lower stage are trained first")

    @model_validator(mode="after")
    def _at_most_one(self) -> ArchitectureSpec:
        for one, other in (
            ("atoms", "epochs"),
            ("learning_rate", "sweep_of"),
            ("sweep_around", "sweep_of"),
            ("learning_rate", "sweep_around"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {one} or {other}, and not both")
        return self


class Sweep(BaseModel):
    """The learning-rate sweep: one size, a few factors around each architecture's default, the
    lowest loss wins.

    Runs much longer than the swept ones can go unstable at the best rate of a sweep, which lies
    near the edge: ``within`` prefers a smaller rate that is hardly worse.
    """

    model_config = FORBID

    size: float = Field(gt=0, description="target N of the swept model")
    factors: list[float] = Field(
        min_length=2, description="learning rates, as multiples of the architecture's default"
    )
    atoms: float | None = Field(None, gt=0, description="D of a swept run")
    epochs: float | None = Field(None, gt=0)
    seeds: list[int] = Field(default=[0], min_length=1)
    extend: int = Field(
        0, ge=0, le=6, description="further rates, at most that many, while the best is at an end"
    )
    within: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="take the smallest rate whose loss is within this share of the lowest",
    )


class LearningRate(BaseModel):
    """A sweep, or one value for all (architectures may override it); without either, the default
    of each architecture. A number stands for ``{value: NUMBER}``."""

    model_config = FORBID

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


class Study(BaseModel):
    """The whole file. Extra keys are errors."""

    model_config = FORBID

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    data: str = Field(
        "sample", description='"sample", or the path of a pack, relative to the study file'
    )
    architectures: list[ArchitectureSpec] = Field(
        min_length=1, description="what is compared; any entry may differ in more"
    )
    sizes: list[float] = Field(min_length=1, description="target N")
    depth: int | None = Field(None, ge=1, description="layers of every model; by size when absent")
    seeds: list[int] = Field(default=[0], min_length=1)
    replicates: Replicates | None = None
    epochs: float | None = Field(None, gt=0, description="passes over the training set")
    atoms: float | None = Field(None, gt=0, description="or: D, atoms seen in training")
    distinct_atoms: list[float] | None = Field(
        None, min_length=1, description="training sets: nested prefixes with that many atoms"
    )
    cutoff: float = Field(6.0, gt=0, description="Angstrom")
    forces: Literal["direct", "conservative"] = "direct"
    train: dict[str, Any] = Field(default_factory=dict, description="options of the training loop")
    learning_rate: LearningRate = Field(
        default_factory=LearningRate,
        description="by default that of each architecture, as in `forcelaw train`",
    )
    share: list[str] = Field(
        default_factory=list,
        description=(
            "names of studies, trained beside this one, whose finished runs "
            "are taken over where they are the same"
        ),
    )

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
        labels = [a.label or a.name for a in self.architectures]
        if len(set(labels)) != len(labels):
            raise ValueError(
                f"two architectures share a label: {labels}; give them different labels"
            )
        for one in (self, *self.architectures):
            sizes, more = one.sizes or self.sizes, one.replicates
            if more and (absent := set(more.sizes) - set(sizes)):
                whose = "" if one is self else f" of {one.label or one.name}"
                raise ValueError(
                    f"replicates{whose} at {sorted(absent)}, which are not among the sizes {sizes}"
                )
        return self


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, instead of keeping the last one."""


def _unique(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def explain(error: ValidationError, where: str) -> StudyError:
    """A pydantic error in words: each wrong key, what is wrong with it, and what was given."""
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
        remedy="correct these keys; `forcelaw run --schema` lists all that exist",
    )


def load(path: str | Path) -> Study:
    """Read and validate a study file."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(), Loader=_UniqueKeys)  # a SafeLoader: data only
    except FileNotFoundError as error:
        raise StudyError("no such study file", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"not valid YAML: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise StudyError(
            "a study file is a mapping of keys",
            where=str(path),
            remedy="start from studies/quickstart.yaml",
        )
    try:
        study = Study(**content)
    except ValidationError as error:
        raise explain(error, str(path)) from error
    _check_contents(study, str(path))
    return study


def label_of(a: ArchitectureSpec) -> str:
    """The label that an entry carries in tables and figures."""
    from ..models import ARCHITECTURES

    return a.label or ARCHITECTURES[a.name].title


def train_options(study: Study, a: ArchitectureSpec | None = None) -> TrainOptions:
    """Options of the training loop of an entry (of the study without one): its own keys over the
    study's. The two rules for the batch exclude each other, so an entry that gives one takes back
    the other."""
    from ..training.config import TrainOptions

    own = a.train if a is not None else {}
    rules = {"batch_molecules", "batch_atoms"}
    kept = {k: v for k, v in study.train.items() if not (k in rules and rules & own.keys())}
    return TrainOptions(**{**kept, **own})


def _check_contents(study: Study, where: str) -> None:
    """Names of architectures and options of models and training: checked here, so that nothing
    fails hours later."""
    from ..models import ARCHITECTURES

    for k, a in enumerate([None, *study.architectures], start=-1):
        try:
            train_options(study, a)
        except ValidationError as error:
            raise explain(
                error, f"{where}, key {'train' if a is None else f'architectures.{k}.train'}"
            ) from error
    for k, a in enumerate(study.architectures):
        if a.name not in ARCHITECTURES:
            raise StudyError(
                f"unknown architecture {a.name!r}",
                where=f"{where}, key architectures.{k}",
                remedy=f"use one of: {', '.join(ARCHITECTURES)}",
            )
        fields = ARCHITECTURES[a.name].config.model_fields
        for option in a.options:
            if option not in fields or option in RESERVED:
                free = [f for f in fields if f not in (*RESERVED, "depth")]
                raise StudyError(
                    f"{a.name} has no option {option!r}",
                    where=f"{where}, key architectures.{k}.options",
                    remedy=f"its options are: {', '.join(free)}",
                )
    _check_labels(study, where)


def _check_labels(study: Study, where: str) -> None:
    """Labels tell entries apart, also where one is a default title; an entry takes its rate from
    one that has its own."""
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


def find_pack(study: Study, directory: str | Path) -> Pack:
    """The pack of a study; ``directory`` is that of the study file."""
    if study.data == "sample":
        from ..data.pack import sample_path

        return Pack(sample_path())
    path = Path(study.data).expanduser()
    return Pack(path if path.is_absolute() else Path(directory) / path)


class Planner:
    """Unfolds a study over a pack into run specifications."""

    def __init__(self, study: Study, pack: Pack):
        from ..training.spec import data_options

        self.study, self.pack = study, pack
        self.options = train_options(study)  # of the study; those of an entry are train_options(a)
        self.data = data_options(pack, cutoff=study.cutoff)
        self.entries = {label_of(a): a for a in study.architectures}
        self._shared: Shared | None = None
        self._configs: dict[tuple[str, float], Any] = {}
        self._specs: dict[
            tuple[Any, ...], list[dict[str, Any]]
        ] = {}  # planning is pure, and asked for at every poll

    def train_options(self, a: ArchitectureSpec) -> TrainOptions:
        return train_options(self.study, a)

    def label(self, a: ArchitectureSpec) -> str:
        return label_of(a)

    def place(self, runs: Path, spec: dict[str, Any]) -> RunDirectory:
        """The directory of a run; one that a study under ``share`` has trained already is there,
        finished."""
        if self._shared is None:  # OUT/runs here is beside OTHER/runs there
            self._shared = Shared([runs.parent.parent / name / "runs" for name in self.study.share])
        return self._shared.place(runs, spec)

    def sizes(self, a: ArchitectureSpec) -> list[float]:
        return a.sizes or self.study.sizes

    def seeds(self, a: ArchitectureSpec, size: float) -> list[int]:
        """Seeds at one size, replicates last. Those of the study hold for an entry that has that
        size."""
        more = a.replicates or self.study.replicates
        first = a.seeds or self.study.seeds
        return (
            [*first, *(s for s in more.seeds if s not in first)]
            if more and size in more.sizes
            else list(first)
        )

    def config(self, a: ArchitectureSpec, size: float) -> Any:
        from ..models.sizing import size as size_model

        key = (self.label(a), size)
        if key not in self._configs:
            options = {**self.data, "forces": a.forces or self.study.forces, **a.options}
            depth = options.pop("depth", None) or a.depth or self.study.depth
            try:
                self._configs[key] = size_model(a.name, size, depth=depth, **options)
            except ValidationError as error:
                raise explain(error, f"study {self.study.name}, architecture {a.name}") from error
        return self._configs[key]

    def _resolve(
        self, a: ArchitectureSpec, size: float, kind: Literal["grid", "sweep"], **how: Any
    ) -> dict[str, Any]:
        from ..training.spec import resolve

        return resolve(
            self.pack,
            self.config(a, size),
            self.train_options(a),
            study=self.study.name,
            kind=kind,
            label=self.label(a),
            **how,
        ).as_json()

    def _length(self, a: ArchitectureSpec, seed: int | None = None) -> dict[str, float | None]:
        """How long the runs of an entry are; those of a seed that only replicates have may be
        shorter."""
        more = a.replicates or self.study.replicates
        if (
            more
            and more.atoms is not None
            and seed is not None
            and seed not in (a.seeds or self.study.seeds)
        ):
            return {"atoms": more.atoms, "epochs": None}
        of = self.study if a.atoms is None and a.epochs is None else a
        return {"atoms": of.atoms, "epochs": of.epochs}

    def sweep(self, a: ArchitectureSpec) -> list[dict[str, Any]]:
        """Specifications of the learning-rate sweep of one entry, empty when its rate is given or
        another's."""
        key = ("sweep", self.label(a))
        if key not in self._specs:
            self._specs[key] = self._plan_sweep(a)
        return self._specs[key]

    def swept(self, a: ArchitectureSpec, runs: Path) -> list[dict[str, Any]]:
        """The sweep of an entry as it stands: with further rates where all is over and the best one
        is at an end."""
        specs, rule = self.sweep(a), self.study.learning_rate.sweep
        factors = sorted(rule.factors) if rule else []
        for _ in range(rule.extend if rule and specs else 0):
            means = mean_losses(specs, runs)
            beyond = (
                None if means is None else further(factors, [means[lr] for lr in sorted(means)])
            )
            if beyond is None:
                break
            key = ("sweep", self.label(a), beyond)
            if key not in self._specs:
                self._specs[key] = self._plan_sweep(a, [beyond])
            factors, specs = sorted([*factors, beyond]), [*specs, *self._specs[key]]
        return specs

    def _plan_sweep(
        self, a: ArchitectureSpec, factors: list[float] | None = None
    ) -> list[dict[str, Any]]:
        from ..models import ARCHITECTURES

        rule = self.study.learning_rate.sweep
        if rule is None or a.learning_rate is not None or a.sweep_of is not None:
            return []
        centre = a.sweep_around or ARCHITECTURES[a.name].learning_rate
        length = {"atoms": rule.atoms, "epochs": rule.epochs}
        if rule.atoms is None and rule.epochs is None:
            length = self._length(a)
        return [
            self._resolve(
                a, rule.size, "sweep", lr=float(f"{centre * factor:.3g}"), seed=seed, **length
            )
            for factor in factors or rule.factors
            for seed in rule.seeds
        ]

    def grid(self, a: ArchitectureSpec, lr: float) -> list[dict[str, Any]]:
        """Specifications of the grid of one entry at its learning rate."""
        key = ("grid", self.label(a), lr)
        if key not in self._specs:
            self._specs[key] = [
                self._resolve(
                    a,
                    size,
                    "grid",
                    lr=lr,
                    seed=seed,
                    distinct_atoms=distinct,
                    **self._length(a, seed),
                )
                for size in self.sizes(a)
                for distinct in a.distinct_atoms or self.study.distinct_atoms or [None]
                for seed in self.seeds(a, size)
            ]
        return self._specs[key]

    def urgency(self, a: ArchitectureSpec, spec: dict[str, Any]) -> tuple[int, int]:
        """What is trained first: lower stages; in a stage sweeps (grids wait for them), then first
        seeds, then replicates."""
        first = spec["seed"] in (a.seeds or self.study.seeds)
        return a.stage, 0 if spec["kind"] == "sweep" else 1 if first else 2

    def learning_rate(self, a: ArchitectureSpec, runs: Path) -> float | None:
        """The rate to use for an entry: given, or the best of its finished sweep; None while that
        is running."""
        from ..models import ARCHITECTURES

        if a.sweep_of is not None:
            return self.learning_rate(self.entries[a.sweep_of], runs)
        if a.learning_rate is not None:
            return a.learning_rate
        if self.study.learning_rate.value is not None:
            return self.study.learning_rate.value
        rule = self.study.learning_rate.sweep
        if rule is None:
            return ARCHITECTURES[a.name].learning_rate
        return best_rate(self.swept(a, runs), runs, rule.within)

    def waits(self, a: ArchitectureSpec, runs: Path) -> bool:
        """Whether the grid of an entry cannot be planned yet because a sweep is not over."""
        try:
            return self.learning_rate(a, runs) is None
        except StudyError:  # every rate failed: there will be no grid
            return False


def best_rate(specs: list[dict[str, Any]], runs: Path, within: float = 0.0) -> float | None:
    """The learning rate with the lowest mean final loss over seeds, or the smallest ``within`` that
    share of it; None while a swept run is not over.

    A rate at which any seed diverged is out. If all did, the error says so.
    """
    means = mean_losses(specs, runs)
    if means is None:
        return None
    best = sweeps.best_rate(means, within)
    if best is None:
        raise StudyError(
            f"every learning rate of the sweep failed: {sorted(means)}",
            where=str(runs),
            remedy="lower learning_rate.sweep.factors, or set sweep_around for this architecture",
        )
    return best


def further(factors: list[float], losses: list[float]) -> float | None:
    """The factor to try beyond a sweep whose best one is the first or the last; None where it lies
    inside, or nothing trained. factors ascending, losses of the same (infinite: diverged)."""
    best = min(range(len(losses)), key=losses.__getitem__)
    if losses[best] == float("inf") or 0 < best < len(losses) - 1:
        return None
    end, inner = (factors[0], factors[1]) if best == 0 else (factors[-1], factors[-2])
    return float(f"{end * end / inner:.3g}")


def mean_losses(specs: list[dict[str, Any]], runs: Path) -> dict[float, float] | None:
    """Learning rate -> mean final loss over seeds, infinite where one diverged; None while a run is
    not over."""
    points: list[tuple[float, float | None]] = []
    for spec in specs:
        run = RunDirectory(runs / content_id(spec))
        result = run.result() if run.path.exists() else None
        if result is None:
            return None
        metrics = run.metrics()
        good = result["status"] == "finished" and metrics
        points.append((spec["lr"], metrics[-1]["loss"] if good else None))
    return sweeps.mean_losses(points)


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Keys in which two resolved studies differ. A key that one of them is too old to have stands
    for its default."""
    a, b = _completed(a), _completed(b)
    return sorted(key for key in {*a, *b} if a.get(key) != b.get(key))


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    try:
        return Study.model_validate(content).model_dump(mode="json")
    except ValidationError:  # of another version: compared as it is
        return content


def write_study(planner: Planner, out: Path, command: str) -> str:
    """OUT/study.json: the resolved study and where it comes from. A study that has only grown (more
    sizes, seeds, columns ...) takes the place of the smaller one, and what changed is told; one
    that leaves out what was trained there is an error."""
    import torch

    from ..models import ARCHITECTURES

    study, pack = planner.study, planner.pack
    content = study.model_dump(mode="json")
    path, old, changed = out / "study.json", {}, []
    if path.exists():
        old = read_json(path)
        changed = differences(old["study"], content) or (
            ["data"] if old["data"]["hash"] != pack.hash else []
        )
        if not changed:
            return ""
        _forget_plans(planner, out, changed, same_data=old["data"]["hash"] == pack.hash)
    out.mkdir(parents=True, exist_ok=True)
    m, today = pack.manifest, datetime.date.today().isoformat()
    grown = (
        [*old.get("grown", []), {"date": today, "command": command, "keys": changed}] if old else []
    )
    write_json(
        path,
        {
            "name": study.name,
            "description": study.description,
            "study": content,
            "command": old.get("command", command),
            "created": old.get("created", today),
            **({"grown": grown} if grown else {}),
            "versions": {
                "forcelaw": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "architectures": [
                {
                    "label": planner.label(a),
                    "architecture": a.name,
                    "symmetry": (
                        ARCHITECTURES[a.name].symmetry_for(planner.config(a, planner.sizes(a)[0]))
                    ),
                }
                for a in study.architectures
            ],
            "data": {
                "name": pack.path.name,
                "hash": pack.hash,
                "structures": m["structures"],
                "atoms": m["atoms"],
                "elements": m["elements"],
                "command": m.get("command", ""),
                "split": m.get("split", {}),
                "statistics": m["statistics"],
            },
        },
    )
    return (
        f"{out}: the study has changed ({', '.join(changed)}); all that was trained is still part"
        " of it"
        if changed
        else ""
    )


def _forget_plans(planner: Planner, out: Path, changed: list[str], *, same_data: bool) -> None:
    """Remove the directories of runs that a changed study does not plan any more; an error if any
    of them was trained."""
    folder, planned = out / "runs", set()
    for a in planner.study.architectures:
        planned |= {content_id(spec) for spec in planner.swept(a, folder)}
        try:
            lr = planner.learning_rate(a, folder)
        except StudyError:  # every rate of its sweep failed
            continue
        planned |= {content_id(spec) for spec in planner.grid(a, lr)} if lr is not None else set()
    left_out = [run for run in runs(folder) if run.id not in planned]
    trained = [run for run in left_out if run.done or run.held or run.position() or run.metrics()]
    if trained or not same_data:
        what = (
            f"; {len(trained)} runs that were trained there are not part of this one"
            if trained and same_data
            else ""
        )
        raise StudyError(
            f"this directory holds another study (different: {', '.join(changed)}{what})",
            where=str(out),
            remedy=(
                "choose another --out (with `share: [NAME]` it takes over the runs that are the"
                " same), or delete that directory to start anew"
            ),
        )
    for run in left_out:
        shutil.rmtree(run.path)
