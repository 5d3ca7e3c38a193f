"""One training: :func:`train` and :class:`Run`, the run that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ..errors import StoreError, require
from ..host import place, wanted_threads
from ..settings import Settings
from ..store.runs import RunDirectory, content_id
from ..training.config import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl
    from ase import Atoms

    from ..data.pack import Pack
    from ..data.readers import SourceOptions
    from ..evaluate import Evaluation
    from ..models.base import ForceField
    from ..predict import Predictions, Predictor
    from ..training.spec import RunSpec
    from ..training.team import Team

Say = Callable[[str], None]
SINGLE = Path("out/single")  # where runs outside of a study are written


class Training(Settings):
    """What is trained: the options of ``forcelaw train`` that are not :class:`TrainOptions`."""

    architecture: str | None = None
    """mpnn, painn, egnn, ... (see: forcelaw models), or your own as module:NAME"""
    size: float | None = Field(None, gt=0, title="N")
    """target number of parameters, for example 1e5"""
    start: Path | None = Field(None, title="RUN")
    """fine-tune: start from the weights of this run, whose model it is; architecture, size, depth,
    cutoff, forces and options are its own"""
    data: str = Field("sample", description='directory of a pack, or "sample"')
    epochs: float | None = Field(None, gt=0)
    """length of the run: passes over the training set"""
    atoms: float | None = Field(None, gt=0)
    """length of the run: D, atoms seen in training"""
    distinct_atoms: float | None = Field(None, gt=0)
    """train on a prefix of the training set with that many atoms"""
    learning_rate: float | None = Field(None, gt=0)
    """at the muP base width (default: the architecture's; a tenth of it with --from)"""
    seed: int = Field(0, description="of the weights and the order of the data (default: 0)")
    depth: int | None = Field(None, ge=1, description="layers (default: by size)")
    cutoff: float = Field(6.0, gt=0, description="in Angstrom")
    forces: Literal["direct", "conservative"] | None = None
    """an output of the model, or minus the gradient of its energy (default: direct, where the
    architecture has them)"""
    charge_spin: bool = False
    """embed the total charge and spin multiplicity of each structure"""
    options: dict[str, Any] = Field(default_factory=dict, title="KEY=VALUE")
    """an option of the architecture; `forcelaw models ARCHITECTURE` lists them"""

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.epochs is None) == (self.atoms is None):
            raise ValueError(
                "give the length of the run as epochs or as atoms (--epochs 20, --atoms 1e6), and"
                " not both"
            )
        return self

    @model_validator(mode="after")
    def _one_model(self) -> Training:
        named = ("architecture", "charge_spin", "cutoff", "depth", "forces", "options", "size")
        fields = type(self).model_fields
        given = [
            name
            for name in named
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        if self.start is not None and given:
            raise ValueError(f"the model is that of the run to start from: leave out {given[0]}")
        if self.start is None and (self.architecture is None or self.size is None):
            raise ValueError("give an architecture and a size, or a run to start from")
        return self

    def resolve(self, pack: Pack, options: TrainOptions) -> RunSpec:
        """The specification of the run on ``pack``."""
        from ..models import architecture
        from ..study.config import check_options
        from ..study.plan import sized_model
        from ..training.spec import resolve, summarise

        if self.start is not None:
            return self._resolve_start(pack, options)
        assert self.architecture is not None and self.size is not None  # _one_model
        where = f"options of {self.architecture}"
        check_options(self.architecture, self.options, where)
        data = summarise(pack, cutoff=self.cutoff, charge_spin=self.charge_spin)
        kind = architecture(self.architecture)
        config = sized_model(
            self.architecture,
            self.size,
            data,
            forces=self.forces or kind.config.model_fields["forces"].default,
            depth=self.depth,
            options=self.options,
            where=where,
            train=options,
        )
        return resolve(
            data,
            config,
            options,
            lr=self.learning_rate or kind.learning_rate,
            seed=self.seed,
            atoms=self.atoms,
            epochs=self.epochs,
            distinct_atoms=self.distinct_atoms,
        )

    def _resolve_start(self, pack: Pack, options: TrainOptions) -> RunSpec:
        """The same for a run that starts from another."""
        from ..models import architecture, make_config
        from ..training.fine_tune import check_elements, starting_point
        from ..training.spec import resolve, summarise

        start, content = starting_point(load_run(self.start or "").path)
        check_elements(content, pack, self.start or "")
        config = make_config(content)
        states = bool(config.charges or config.spins)
        return resolve(
            summarise(pack, cutoff=config.cutoff, charge_spin=states),
            config,
            options,
            lr=self.learning_rate or 0.1 * architecture(config.architecture).learning_rate,
            seed=self.seed,
            atoms=self.atoms,
            epochs=self.epochs,
            distinct_atoms=self.distinct_atoms,
            start=start,
        )

    def run(
        self,
        options: TrainOptions,
        *,
        out: str | Path = SINGLE,
        device: str = "auto",
        gpus: int = 1,
        compile: bool = False,
        threads: int | None = None,
        say: Say = lambda text: None,
        log: Sequence[str] = (),
        stop: Callable[[], bool] = lambda: False,
    ) -> Run:
        """Train to the end, resuming where an earlier call stopped, and return the run. gpus: as in
        :func:`train`. stop: asked after every step whether to leave early, with a checkpoint and
        without a result."""
        require("torch", "safetensors")
        from ..data.pack import Pack, sample_path
        from ..training.team import assembled

        pack = Pack(sample_path() if self.data == "sample" else self.data)
        spec = self.resolve(pack, options)
        with assembled(gpus, device, stop) as team:
            if team.first:
                run = RunDirectory.create(Path(out) / "runs", spec.as_json())
                count = wanted_threads(threads)
                self._train(run, pack, spec, options, out, team, compile, count, say, log, stop)
        return Run(Path(out) / "runs" / content_id(spec.as_json()))

    def _train(
        self,
        run: RunDirectory,
        pack: Pack,
        spec: RunSpec,
        options: TrainOptions,
        out: str | Path,
        team: Team,
        compile: bool,
        threads: int,
        say: Say,
        log: Sequence[str],
        stop: Callable[[], bool],
    ) -> None:
        """:meth:`run` in the process that writes."""
        from ..data.verify import verify
        from ..progress import Progress, count
        from ..store.beats import Beats
        from ..training.cooperative import drive
        from ..training.device import cpu_threads, device_memory
        from ..training.fine_tune import keep_start
        from ..training.tracking import tracked

        if self.start is not None:
            keep_start(run, self.start, spec)
        say(
            f"{spec.label}: N = {spec.n:,} (width"
            f" {spec.model['width']}, depth {spec.model['depth']}), symmetry {spec.symmetry};"
            f" {spec.steps:,} steps of {spec.batch_atoms} atoms, D ="
            f" {count(spec.steps * spec.batch_atoms)}; {run.path}"
        )
        if pack.stresses is not None and not options.stress:
            say("the stress in the data is not used: stress_weight is 0")
        if not run.done:
            verify(pack, Path(out))
            if not run.claim():
                raise StoreError(
                    "another process is training this run",
                    where=str(run.path),
                    remedy="wait for it, or stop it",
                )
            try:
                with (
                    tracked(run, log),
                    Progress("training", spec.steps, unit="steps") as progress,
                    cpu_threads(threads),
                ):
                    beats = Beats(Path(out) / "logs" / f"{place()}-{run.id}.jsonl")
                    progress.listener = lambda: beats.write(
                        lambda: {run.id: progress.state()}, lambda: device_memory(team.device)
                    )
                    how: dict[str, Any] = {
                        "compile_model": compile,
                        "progress": progress,
                        "stop": stop,
                    }
                    drive(team.training(run, pack, **how), team.device)
            finally:
                run.release()


def train(
    architecture: str | None = None,
    *,
    size: float | None = None,
    start: str | Path | Run | None = None,
    data: str | Path = "sample",
    epochs: float | None = None,
    atoms: float | None = None,
    distinct_atoms: float | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    depth: int | None = None,
    cutoff: float = 6.0,
    forces: Literal["direct", "conservative"] | None = None,
    charge_spin: bool = False,
    options: Mapping[str, Any] | None = None,
    out: str | Path = SINGLE,
    device: str = "auto",
    gpus: int = 1,
    compile: bool = False,
    threads: int | None = None,
    say: Say = lambda text: None,
    log: Sequence[str] = (),
    **training: Any,
) -> Run:
    """Train one model, as ``forcelaw train`` does, and return its :class:`Run`.

    architecture: its name (``forcelaw models`` lists them), or an import path ``module:NAME``.
    size: target number of parameters N; the nearest width is used. start: instead of both, a run to
    fine-tune: its model and weights are where training starts from. data: directory of a pack, or
    "sample". epochs, atoms: the length of the run as passes over the training set or as atoms seen
    in training, D; give one. distinct_atoms: train on a prefix of the training set with that many
    atoms. learning_rate: at the muP base width; by default the architecture's. depth: layers; by
    default they follow from the size. cutoff: in Angstrom. forces: "direct" or "conservative"
    (minus the gradient of the energy); by default direct, where the architecture has them.
    charge_spin: embed the total charge and spin multiplicity of each structure. options: of the
    architecture. out: the run is written to OUT/runs/ID, where ID is the hash of all that decides
    its result; a run that is finished there is not trained again, one that was stopped is resumed.
    device: "auto", "cpu" or "cuda".
    gpus: GPUs that train it together, a process each (on a CPU: processes); the numbers are those
    of one to rounding. compile: torch.compile the model. threads: of torch on a CPU, by default
    what OMP_NUM_THREADS says, else 1; results depend on it in the last digits, and it is recorded
    in the result. say: called with one line about the
    run, for example ``print``. log: trackers that get the evaluations too: "csv", "tensorboard",
    "wandb", "mlflow". training: any field of :class:`forcelaw.training.config.TrainOptions`
    (batch_molecules, beta1, weight_decay, precision, ...).

    Raises StudyError for options that are wrong, DataError for a pack that cannot be used, and
    MissingPackageError without torch.
    """
    from pydantic import ValidationError

    require("torch", "safetensors")
    from ..study.config import explain

    try:
        what = Training(
            architecture=architecture,
            size=size,
            start=start.path if isinstance(start, Run) else start,
            data=str(data),
            epochs=epochs,
            atoms=atoms,
            distinct_atoms=distinct_atoms,
            learning_rate=learning_rate,
            seed=seed,
            depth=depth,
            cutoff=cutoff,
            forces=forces,
            charge_spin=charge_spin,
            options=dict(options or {}),
        )
        how = TrainOptions(**training)
    except ValidationError as error:
        raise explain(error, "forcelaw.train") from error
    machine: dict[str, Any] = {"device": device, "gpus": gpus, "compile": compile}
    return what.run(how, out=out, threads=threads, say=say, log=log, **machine)


def load_run(path: str | Path) -> Run:
    """The run in directory ``path`` (OUT/runs/ID). Raises StoreError if there is none."""
    return Run(path)


class Run:
    """One run, read from its directory; nothing is written.

    path: the directory. id: its name, the hash of the specification.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        RunDirectory(self.path).require()

    def __repr__(self) -> str:
        status = (self.result or {}).get("status", "unfinished")
        return f"Run({str(self.path)!r}, {self.spec['label']}, N = {self.spec['n']:,}, {status})"

    def __fspath__(self) -> str:
        """A run stands for its directory: ``forcelaw.Calculator(run)``."""
        return str(self.path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def spec(self) -> dict[str, Any]:
        """The resolved specification: model, N, FLOPs per atom and edge, data, seed, learning rate,
        options of training."""
        return RunDirectory(self.path).spec()

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended: status ("finished", "diverged" or "failed"), seconds, device, symmetry
        errors. None while it has not ended."""
        return RunDirectory(self.path).result()

    @property
    def metrics(self) -> pl.DataFrame:
        """One row per evaluation, in the order of training: step, d (atoms seen), c (FLOPs), loss,
        loss_energy (eV/atom), loss_forces (eV/Angstrom), energy_mae (meV/atom), force_mae
        (meV/Angstrom) and more."""
        import polars as pl

        return pl.DataFrame(RunDirectory(self.path).metrics(), infer_schema_length=None)

    def model(self, device: str = "cpu") -> ForceField:
        """The trained model on ``device``, with the averaged weights, which are those that losses
        are measured at, in evaluation mode.

        It maps a :class:`forcelaw.graph.GraphBatch` to energies (g,) in eV, without the reference
        energies of the atoms, and forces (n, 3) in eV/Angstrom. Raises StoreError if the run has no
        checkpoint.
        """
        require("torch", "safetensors")
        import torch

        from ..training.checkpoint import load_model
        from ..training.device import pick_device
        from ..training.loop import make_model
        from ..training.spec import RunSpec

        model = make_model(RunSpec(**self.spec), torch.device(pick_device(device)))
        return load_model(self.path, model).eval()

    def predictor(
        self,
        *,
        device: str = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        data: str | Path | None = None,
        rotations: int = 0,
    ) -> Predictor:
        """The trained model as a function of structures, for many calls of its ``predict``.

        device: "auto", "cpu" or "cuda". data: the pack of a run that did not keep its reference
        energies. rotations: predictions are averaged over that many rotations of each structure
        (12, 24 and 60: a group, for whose elements the average is exact), at as many times the
        cost.
        Raises StoreError without a checkpoint or reference energies.
        """
        require("torch", "safetensors")
        from ..predict import Predictor

        return Predictor.load(self.path, device=device, dtype=dtype, data=data, rotations=rotations)

    def predict(
        self,
        structures: Atoms | Iterable[Atoms],
        *,
        stress: bool = False,
        batch_atoms: int = 4000,
        device: str = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        data: str | Path | None = None,
        rotations: int = 0,
    ) -> Predictions:
        """Energies (eV, reference energies included), forces (eV/Angstrom) and with ``stress``
        stresses (eV/Angstrom^3, models with gradient forces only) of ASE structures (or of one), in
        batches of ``batch_atoms`` atoms; see :meth:`predictor` for the rest."""
        predictor = self.predictor(device=device, dtype=dtype, data=data, rotations=rotations)
        return predictor.predict(structures, stress=stress, batch_atoms=batch_atoms)

    def evaluate(
        self,
        files: str | Path | Iterable[str | Path],
        options: SourceOptions | None = None,
        *,
        worst: int = 5,
        batch_atoms: int = 4000,
        device: str = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        data: str | Path | None = None,
        rotations: int = 0,
        progress: bool = False,
    ) -> Evaluation:
        """Errors on files of labelled structures, as ``forcelaw evaluate`` shows them
        (``as_json()``, ``summary()``, ``figure()``). options: keys and units where a format does
        not say. worst: structures with the largest errors that are named. progress: shown on
        stderr."""
        from ..evaluate import evaluate

        files = [files] if isinstance(files, str | Path) else list(files)
        predictor = self.predictor(device=device, dtype=dtype, data=data, rotations=rotations)
        return evaluate(
            predictor, files, options, batch_atoms=batch_atoms, worst=worst, progress=progress
        )

    def export(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: Literal["float32", "float64"] = "float32",
        data: str | Path | None = None,
    ) -> Path:
        """Write the model as one file that runs without forcelaw. FILE.pt2: by torch.export, for
        ``device`` (:func:`forcelaw.portable.export`). FILE.pt: for metatomic, with which LAMMPS,
        i-PI and other engines use it; models with gradient forces only."""
        if Path(path).suffix == ".pt":
            from ..metatomic import export_metatomic

            predictor = self.predictor(device="cpu", dtype=dtype, data=data)
            return export_metatomic(predictor, path, label=f"{self.spec['label']} {self.id}")
        from ..portable import export

        about = {"run": self.id, "label": self.spec["label"], "n": self.spec["n"]}
        return export(self.predictor(device=device, dtype=dtype, data=data), path, about=about)
