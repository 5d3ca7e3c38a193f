"""A study: a grid of runs declared in one YAML file, and how it unfolds into run specifications.

The learning-rate sweep at one size comes first and is part of the study; muP carries its optimum to every other size.
"""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import __version__
from .data.pack import Pack, write_json
from .errors import StudyError
from .store import RunDirectory, content_id, read_json

FORBID = ConfigDict(extra="forbid", frozen=True)


class ArchitectureSpec(BaseModel):
    """One column of the ladder: an architecture of the dictionary, with options."""

    model_config = FORBID

    name: str = Field(description="key of forcelaw.models.ARCHITECTURES")
    label: str | None = Field(None, description="name in tables and figures; the architecture's title by default")
    options: dict[str, Any] = Field(default_factory=dict, description="extra keys of the model's configuration")
    sizes: list[float] | None = Field(None, description="overrides the study's sizes")
    seeds: list[int] | None = Field(None, description="overrides the study's seeds")
    depth: int | None = Field(None, ge=1, description="overrides the study's depth")
    atoms: float | None = Field(None, gt=0, description="overrides the length of the runs: D, atoms seen in training")
    learning_rate: float | None = Field(None, gt=0, description="fixed: no sweep for this one")
    sweep_around: float | None = Field(None, gt=0, description="centre of its sweep; the architecture's default otherwise")


class Sweep(BaseModel):
    """The learning-rate sweep: one size, a few factors around each architecture's default, the lowest loss wins."""

    model_config = FORBID

    size: float = Field(gt=0, description="target N of the swept model")
    factors: list[float] = Field(min_length=2, description="learning rates, as multiples of the architecture's default")
    atoms: float | None = Field(None, gt=0, description="D of a swept run")
    epochs: float | None = Field(None, gt=0)
    seeds: list[int] = Field(default=[0], min_length=1)


class LearningRate(BaseModel):
    """Either a sweep, or one value for all (architectures may override it)."""

    model_config = FORBID

    sweep: Sweep | None = None
    value: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> LearningRate:
        if (self.sweep is None) == (self.value is None):
            raise ValueError("give sweep or value, and not both")
        return self


class Study(BaseModel):
    """The whole file. Extra keys are errors."""

    model_config = FORBID

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    data: str = Field("sample", description='"sample", or the path of a pack, relative to the study file')
    architectures: list[ArchitectureSpec] = Field(min_length=1)
    sizes: list[float] = Field(min_length=1, description="target N")
    depth: int | None = Field(None, ge=1, description="layers of every model; by size when absent")
    seeds: list[int] = Field(default=[0], min_length=1)
    epochs: float | None = Field(None, gt=0, description="passes over the training set")
    atoms: float | None = Field(None, gt=0, description="or: D, atoms seen in training")
    distinct_atoms: list[float] | None = Field(None, description="training sets: nested prefixes with that many atoms")
    cutoff: float = Field(6.0, gt=0, description="Angstrom")
    forces: Literal["direct", "conservative"] = "direct"
    train: dict[str, Any] = Field(description="options of the training loop")
    learning_rate: LearningRate

    @model_validator(mode="before")
    @classmethod
    def _short_architectures(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("architectures"), list):
            value = dict(value)
            value["architectures"] = [{"name": a} if isinstance(a, str) else a for a in value["architectures"]]
        return value

    @model_validator(mode="after")
    def _length(self) -> Study:
        if (self.epochs is None) == (self.atoms is None):
            raise ValueError("give the length of the runs as epochs or as atoms, and not both")
        labels = [a.label or a.name for a in self.architectures]
        if len(set(labels)) != len(labels):
            raise ValueError(f"two architectures share a label: {labels}; give them different labels")
        return self


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, instead of keeping the last one."""


def _unique(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
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
        given = "" if item["type"] in ("missing", "value_error") else f" (given: {str(item['input'])[:60]!r})"
        lines.append(f"{key}: {message}{given}")
    return StudyError("the specification is wrong:\n  " + "\n  ".join(lines), where=where,
                      remedy="correct these keys; `forcelaw run --schema` lists all that exist")


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
        raise StudyError("a study file is a mapping of keys", where=str(path), remedy="start from studies/quickstart.yaml")
    try:
        study = Study(**content)
    except ValidationError as error:
        raise explain(error, str(path)) from error
    _check_contents(study, str(path))
    return study


def _check_contents(study: Study, where: str) -> None:
    """Names of architectures and options of models and training: checked here, so that nothing fails hours later."""
    from .models import ARCHITECTURES
    from .train.spec import TrainOptions

    try:
        TrainOptions(**study.train)
    except ValidationError as error:
        raise explain(error, f"{where}, key train") from error
    for k, a in enumerate(study.architectures):
        if a.name not in ARCHITECTURES:
            raise StudyError(f"unknown architecture {a.name!r}", where=f"{where}, key architectures.{k}",
                             remedy=f"use one of: {', '.join(ARCHITECTURES)}")
        fields = ARCHITECTURES[a.name].config.model_fields
        for option in a.options:
            if option not in fields or option in ("architecture", "width", "elements", "scale", "cutoff", "mean_degree"):
                free = [f for f in fields if f not in ("architecture", "width", "elements", "scale", "cutoff",
                                                       "mean_degree", "depth")]
                raise StudyError(f"{a.name} has no option {option!r}", where=f"{where}, key architectures.{k}.options",
                                 remedy=f"its options are: {', '.join(free)}")


def find_pack(study: Study, directory: str | Path) -> Pack:
    """The pack of a study; ``directory`` is that of the study file."""
    if study.data == "sample":
        from .data.sample import sample_path

        return Pack(sample_path())
    path = Path(study.data).expanduser()
    return Pack(path if path.is_absolute() else Path(directory) / path)


class Planner:
    """Unfolds a study over a pack into run specifications."""

    def __init__(self, study: Study, pack: Pack):
        from .train.spec import TrainOptions, data_options

        self.study, self.pack = study, pack
        self.options = TrainOptions(**study.train)
        self.data = data_options(pack, cutoff=study.cutoff)
        self._configs: dict[tuple[str, float], Any] = {}
        self._specs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}  # planning is pure, and asked for at every poll

    def config(self, a: ArchitectureSpec, size: float) -> Any:
        from .models.sizing import size as size_model

        key = (a.label or a.name, size)
        if key not in self._configs:
            options = {**self.data, "forces": self.study.forces, **a.options}
            depth = options.pop("depth", None) or a.depth or self.study.depth
            try:
                self._configs[key] = size_model(a.name, size, depth=depth, **options)
            except ValidationError as error:
                raise explain(error, f"study {self.study.name}, architecture {a.name}") from error
        return self._configs[key]

    def label(self, a: ArchitectureSpec) -> str:
        from .models import ARCHITECTURES

        return a.label or ARCHITECTURES[a.name].title

    def sweep(self, a: ArchitectureSpec) -> list[dict[str, Any]]:
        """Specifications of the learning-rate sweep of one architecture, empty when its rate is given."""
        key = ("sweep", self.label(a))
        if key not in self._specs:
            self._specs[key] = self._plan_sweep(a)
        return self._specs[key]

    def _plan_sweep(self, a: ArchitectureSpec) -> list[dict[str, Any]]:
        from .models import ARCHITECTURES
        from .train.spec import resolve

        rule = self.study.learning_rate.sweep
        if rule is None or a.learning_rate is not None:
            return []
        centre = a.sweep_around or ARCHITECTURES[a.name].learning_rate
        length = {"atoms": rule.atoms, "epochs": rule.epochs}
        if rule.atoms is None and rule.epochs is None:
            length = {"atoms": self.study.atoms, "epochs": self.study.epochs}
        return [resolve(self.pack, self.config(a, rule.size), self.options, lr=float(f"{centre * factor:.3g}"), seed=seed,
                        study=self.study.name, kind="sweep", label=self.label(a), **length).as_json()
                for factor in rule.factors for seed in rule.seeds]

    def grid(self, a: ArchitectureSpec, lr: float) -> list[dict[str, Any]]:
        """Specifications of the grid of one architecture at its learning rate."""
        key = ("grid", self.label(a), lr)
        if key not in self._specs:
            self._specs[key] = self._plan_grid(a, lr)
        return self._specs[key]

    def _plan_grid(self, a: ArchitectureSpec, lr: float) -> list[dict[str, Any]]:
        from .train.spec import resolve

        out = []
        for size in a.sizes or self.study.sizes:
            for distinct in self.study.distinct_atoms or [None]:
                for seed in a.seeds or self.study.seeds:
                    out.append(resolve(self.pack, self.config(a, size), self.options, lr=lr, seed=seed,
                                       study=self.study.name, kind="grid", label=self.label(a),
                                       atoms=a.atoms or self.study.atoms, epochs=None if a.atoms else self.study.epochs,
                                       distinct_atoms=distinct).as_json())
        return out

    def learning_rate(self, a: ArchitectureSpec, runs: Path) -> float | None:
        """The rate to use for an architecture: given, or the best of its finished sweep; None while that is running."""
        if a.learning_rate is not None:
            return a.learning_rate
        if self.study.learning_rate.value is not None:
            return self.study.learning_rate.value
        return best_rate(self.sweep(a), runs)


def best_rate(specs: list[dict[str, Any]], runs: Path) -> float | None:
    """The learning rate with the lowest mean final loss over seeds; None while a swept run is not over.

    A rate at which any seed diverged is out. If all did, the error says so.
    """
    losses: dict[float, list[float]] = {}
    for spec in specs:
        run = RunDirectory(runs / content_id(spec))
        result = run.result() if run.path.exists() else None
        if result is None:
            return None
        metrics = run.metrics()
        good = result["status"] == "finished" and metrics
        losses.setdefault(spec["lr"], []).append(metrics[-1]["loss"] if good else float("inf"))
    means = {lr: sum(values) / len(values) for lr, values in losses.items()}
    best = min(means, key=lambda lr: means[lr])
    if means[best] == float("inf"):
        raise StudyError(f"every learning rate of the sweep failed: {sorted(means)}", where=str(runs),
                         remedy="lower learning_rate.sweep.factors, or set sweep_around for this architecture")
    return best


def write_study(planner: Planner, out: Path, command: str) -> None:
    """OUT/study.json: the resolved study and where it comes from. A different study in the same place is an error."""
    import torch

    from .models import ARCHITECTURES

    study, pack = planner.study, planner.pack
    content = study.model_dump(mode="json")
    path = out / "study.json"
    if path.exists():
        old = read_json(path)
        if old["study"] != content or old["data"]["hash"] != pack.hash:
            changed = sorted(k for k in content if old["study"].get(k) != content[k]) or ["data"]
            raise StudyError(f"this directory holds another study (different: {', '.join(changed)})", where=str(out),
                             remedy="choose another --out, or delete that directory to start anew")
        return
    out.mkdir(parents=True, exist_ok=True)
    m = pack.manifest
    write_json(path, {
        "name": study.name, "description": study.description, "study": content, "command": command,
        "created": datetime.date.today().isoformat(),
        "versions": {"forcelaw": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "architectures": [{"label": planner.label(a), "architecture": a.name,
                           "symmetry": ARCHITECTURES[a.name].symmetry_for(planner.config(a, (a.sizes or study.sizes)[0]))}
                          for a in study.architectures],
        "data": {"name": pack.path.name, "hash": pack.hash, "structures": m["structures"], "atoms": m["atoms"],
                 "elements": m["elements"], "command": m.get("command", ""), "split": m.get("split", {}),
                 "statistics": m["statistics"]},
    })
