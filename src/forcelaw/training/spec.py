"""The resolved specification of one run: everything that decides its result, and nothing else. Its
hash is the run's id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationError

from .. import __version__
from ..data import splits
from ..data.pack import NO_CHARGE, NO_SPIN, Pack
from ..data.schedule import Plan, plan
from ..data.validate.kinds import kinds_among, mixed_kinds
from ..errors import DataError, StoreError, StudyError
from ..models import architecture, code, make_config
from ..models.base import Flops, ModelConfig
from ..models.latent import latent_flops
from ..models.sizing import count_flops, count_parameters
from ..plugins import code_changes
from ..settings import Recorded, Settings
from ..store.runs import RunDirectory
from .config import TrainOptions, cost_factor


class Start(Settings):
    """The run whose weights another one starts from: its id, the hash of the weights, and what was
    spent on them: FLOPs and atoms seen."""

    run: str
    weights: str
    flops: float
    atoms: int


class RunSpec(Recorded):
    """One run, resolved. start: None for fresh weights."""

    study: str
    kind: Literal["grid", "sweep", "single"]
    label: str
    model: dict[str, Any]
    symmetry: str
    n: int
    n_nonembedding: int
    flops_per_edge: float
    flops_per_atom: float
    cost_factor: float
    """training FLOPs over three forward passes, which is a plain step with direct forces"""
    data: dict[str, Any]
    seed: int
    lr: float = Field(gt=0)
    train: TrainOptions
    train_structures: int
    train_atoms: int
    atoms_total: float
    epochs: float
    steps: int
    batch_atoms: int
    version: str = __version__
    start: Start | None = None
    code: dict[str, str] | None = None
    """of an architecture from outside: package -> version and hash of its source"""

    LATER: ClassVar[tuple[str, ...]] = ("start", "code")

    def config(self) -> ModelConfig:
        """The model's configuration. StudyError where the architecture is not there, or has other
        options than when the run was planned."""
        name = self.model["architecture"]
        old = " ".join(f"{package} {which}" for package, which in (self.code or {}).items())
        try:
            with _told_where_it_moved(name):
                return make_config(self.model)
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
            raise StudyError(
                f"{name} has other options now than when the run was planned: {wrong}",
                where=name,
                remedy=f"restore its source of then ({old or __version__})",
            ) from error

    def flops(self) -> Flops:
        return Flops(self.flops_per_edge, self.flops_per_atom)

    def changed_code(self) -> str:
        """What has changed since the run was planned in the source of an architecture from outside;
        empty where nothing has."""
        name = self.model["architecture"]
        with _told_where_it_moved(name):
            return code_changes(self.code, code(name))

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


@contextlib.contextmanager
def _told_where_it_moved(name: str) -> Iterator[None]:
    """What to do, beside what an import path that leads nowhere asks for."""
    try:
        yield
    except StudyError as error:
        module, _, attribute = name.partition(":")
        absent = error.__cause__ is None or isinstance(error.__cause__, ModuleNotFoundError)
        if not attribute or not absent:
            raise
        file = f"{module.replace('.', '/')}.py"
        raise StudyError(
            error.what,
            where=error.where,
            remedy=f"{error.remedy}. Where it has another name now, a file {file} with `from"
            f" NEW_MODULE import NEW_NAME as {attribute}` lets its runs find it",
        ) from error


def read_spec(run: RunDirectory) -> RunSpec:
    """The specification of a run. StoreError where spec.json is none."""
    try:
        return RunSpec(**run.spec())
    except (TypeError, ValidationError) as error:
        raise StoreError(
            f"spec.json is not the specification of a run: {error}",
            where=str(run.path),
            remedy="restore this file, or delete this run directory",
        ) from error


def data_options(
    pack: Pack,
    *,
    cutoff: float = 6.0,
    mean_degree: float | None = None,
    charge_spin: bool = False,
) -> dict[str, Any]:
    """What a model configuration takes from the data: elements, force scale, mean degree, cutoff,
    and with ``charge_spin`` the total charges and spin multiplicities there are."""
    require_trainable(pack, charge_spin)
    states = charges_and_spins(pack) if charge_spin else {}
    return {
        **states,
        "elements": tuple(pack.elements),
        "cutoff": cutoff,
        "scale": float(f"{pack.manifest['statistics']['force_rms']:.4g}"),
        "mean_degree": mean_degree if mean_degree is not None else measured_degree(pack, cutoff),
    }


def require_trainable(pack: Pack, charge_spin: bool = False) -> None:
    """Refuse data that a model cannot represent, with charge and spin or without. What ``data
    check`` passes is not refused."""
    if not pack.manifest["statistics"]["force_rms"] > 0:
        raise DataError(
            "all forces of the training structures are zero: there is nothing to scale by",
            where=str(pack.path),
            remedy="prepare it again with the right --forces-key",
        )
    error = None if charge_spin else mixed_states(pack)
    if error:
        raise DataError(error.what, where=str(pack.path), remedy=error.remedy)


def mixed_states(pack: Pack) -> DataError | None:
    """What is wrong with a pack for models that see no charge and spin; None if nothing is."""
    if "charges" not in pack.manifest["arrays"]:
        return None
    return mixed_kinds(kinds_among(pack.charges, pack.spins))


def charges_and_spins(pack: Pack) -> dict[str, tuple[int, ...]]:
    """The total charges and spin multiplicities of a pack, ascending. DataError where it has none,
    or where some structures do not say."""
    found = {}
    for name, absent in (("charges", NO_CHARGE), ("spins", NO_SPIN)):
        array = getattr(pack, name)
        values = [] if array is None else np.unique(array).tolist()
        if values and values != [absent]:
            found[name] = tuple(values)
        if absent in found.get(name, ()):
            raise DataError(
                f"some structures of the pack do not say their {name.removesuffix('s')}",
                where=str(pack.path),
                remedy="prepare it from files where all do, or train without charge_spin",
            )
    if not found:
        raise DataError(
            "the pack has neither charges nor spins, and charge_spin asks for them",
            where=str(pack.path),
            remedy="train without charge_spin, or name them: --charge-key, --spin-key of `forcelaw"
            " data prepare`",
        )
    return found


def measured_degree(pack: Pack, cutoff: float, structures: int = 500) -> float:
    """Mean number of neighbours within ``cutoff`` over a fixed sample of training structures, to
    three digits."""
    import torch

    from ..data.device_dataset import Shard

    chosen = np.sort(_order(pack, "train")[:structures])
    shard = Shard(
        pack,
        chosen,
        cutoff=cutoff,
        elements=tuple(pack.elements),
        device="cpu",
        dtype=torch.float32,
    )
    return float(f"{max(shard.mean_degree, 1.0):.3g}")


def training_set(pack: Pack, structures: int | None = None) -> np.ndarray:
    """The first ``structures`` training structures in the pack's fixed random order (all by
    default): nested prefixes."""
    return _order(pack, "train")[:structures]


def validation_set(pack: Pack, structures: int) -> np.ndarray:
    """The first ``structures`` validation structures in the pack's fixed random order."""
    return _order(pack, "validation")[:structures]


@lru_cache(maxsize=8)
def _order(pack: Pack, side: str) -> np.ndarray:
    """One array for all who ask, which therefore cannot be written to: sorting it again for each
    run would slow planning down."""
    found = splits.narrow(splits.order(pack, side), len(pack))
    found.setflags(write=False)
    return found


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What planning needs of a pack: once it is read, plans need neither the pack nor the disk.

    natoms: atoms of each training structure in the pack's fixed order, (structures,). options: what
    a model configuration takes from the data (:func:`data_options`). validation: structures of the
    validation set, None where nobody counted them. starts: label -> the run that an entry of a
    study starts from (:mod:`forcelaw.study.starts`).
    """

    name: str
    hash: str
    natoms: np.ndarray
    options: dict[str, Any]
    validation: int | None = None
    starts: Mapping[str, Any] = field(default_factory=dict)

    def prefix(self, distinct_atoms: float | None) -> np.ndarray:
        """Sizes of the shortest training set with at least ``distinct_atoms`` atoms; None: all."""
        return _prefix(self, distinct_atoms)


@lru_cache(maxsize=64)
def _prefix(data: DataSummary, distinct_atoms: float | None) -> np.ndarray:
    if distinct_atoms is None:
        return data.natoms
    return data.natoms[: splits.prefix_length(data.natoms, distinct_atoms)]


def require_sides(pack: Pack) -> None:
    """DataError for a pack that has nothing to train on, or nothing to validate with."""
    for side, found in (("training", training_set(pack)), ("validation", validation_set(pack, 1))):
        if not len(found):
            raise DataError(
                f"the pack has no {side} structures",
                where=str(pack.path),
                remedy="prepare it with --val-fraction above 0, or with --train and --validation",
            )


def summarise(pack: Pack, *, cutoff: float = 6.0, charge_spin: bool = False) -> DataSummary:
    """Read what planning needs of a pack."""
    require_sides(pack)
    natoms = pack.sizes(training_set(pack))
    options = data_options(pack, cutoff=cutoff, charge_spin=charge_spin)
    validation = len(_order(pack, "validation"))
    return DataSummary(pack.path.name, pack.hash, natoms, options, validation)


def shard_options(config: ModelConfig) -> dict[str, Any]:
    """What a shard has to know of the model (options of
    :class:`forcelaw.data.device_dataset.Shard`)."""
    names = ("cutoff", "elements", "charges", "spins")
    return {name: getattr(config, name) for name in names}


def resolve(
    data: DataSummary,
    config: ModelConfig,
    options: TrainOptions,
    *,
    lr: float,
    seed: int,
    atoms: float | None = None,
    epochs: float | None = None,
    distinct_atoms: float | None = None,
    study: str = "single",
    kind: Literal["grid", "sweep", "single"] = "single",
    label: str | None = None,
    start: Start | None = None,
) -> RunSpec:
    """The resolved run. Length: ``atoms`` seen in training (D) or ``epochs`` of the training set,
    which is the shortest prefix with at least ``distinct_atoms`` atoms (all of it by default)."""
    if (atoms is None) == (epochs is None):
        raise StudyError("give the length of training as atoms or as epochs, and not both")
    if options.stress and not config.has_stress:
        raise StudyError(
            "stress_weight is given, and the model to start from has no stress: its forces are"
            " direct, and it was trained without one",
            remedy="leave stress_weight out, or start from a model that has a stress",
        )
    if options.latent and not config.latent:
        raise StudyError(
            "symmetry_penalty is latent, and the model to start from has no network for it",
            remedy="use symmetry_penalty: square, or start from a model that was trained with it",
        )
    natoms = data.prefix(distinct_atoms)
    distinct = int(natoms.sum())
    total = float(atoms) if atoms is not None else float(epochs or 0.0) * distinct
    steps, seen = _steps_and_atoms(data, distinct_atoms, total, seed, options)
    entry = architecture(config.architecture)
    n, n_nonembedding = count_parameters(config)
    flops = count_flops(config)
    return RunSpec(
        study=study,
        kind=kind,
        label=label or entry.title,
        model=config.model_dump(mode="json"),
        symmetry=entry.symmetry_for(config),
        n=n,
        n_nonembedding=n_nonembedding,
        flops_per_edge=flops.per_edge,
        flops_per_atom=flops.per_atom + latent_share(config, options),
        cost_factor=cost_factor(config.forces, options.symmetry_rotations),
        data={"name": data.name, "hash": data.hash},
        seed=seed,
        lr=lr,
        train=options,
        train_structures=len(natoms),
        train_atoms=distinct,
        atoms_total=total,
        epochs=round(seen / float(distinct), 4),
        steps=steps,
        batch_atoms=round(seen / steps),
        start=start,
        code=code(config.architecture),
    )


def latent_share(config: ModelConfig, options: TrainOptions) -> float:
    """FLOPs an atom of the map of states, used once for each rotated copy: as a share of the
    structure and its copies, which the cost factor counts alike."""
    if not options.latent:
        return 0.0
    copies = options.symmetry_rotations
    return latent_flops(config.embedding_width) * copies / (copies + 1)


@lru_cache(maxsize=512)
def _steps_and_atoms(
    data: DataSummary, distinct_atoms: float | None, total: float, seed: int, options: TrainOptions
) -> tuple[int, float]:
    """Steps and atoms of a schedule. Runs of a study share few, and one takes as long as all else
    about a specification."""
    made = plan_for(data.prefix(distinct_atoms), total, seed, options)
    return made.steps, float(made.atoms.sum())


def plan_for(natoms: np.ndarray, atoms_total: float, seed: int, options: TrainOptions) -> Plan:
    """The steps of a run over training structures of sizes ``natoms``."""
    return plan(
        natoms,
        atoms_total=atoms_total,
        seed=seed,
        molecules=options.batch_molecules,
        atoms=options.batch_atoms,
    )
