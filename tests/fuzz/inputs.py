"""Sound files of every kind that a user can give, and how each is read."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from forcelaw.cli.main import main
from forcelaw.data.pack import Pack
from forcelaw.data.prepare import PrepareOptions, prepare
from forcelaw.data.readers import SourceOptions
from forcelaw.data.verify import verify
from forcelaw.store.runs import RunDirectory
from forcelaw.study.config import load
from forcelaw.study.export import import_evidence, write_evidence
from forcelaw.study.plan import plan
from forcelaw.table.read import read
from forcelaw.training.spec import summarise
from tests.data import files
from tests.packs import write_pack

OPTIONS = PrepareOptions(group="frame", val_fraction=0.3)
EV = 27.211386  # in a hartree
TOLD = SourceOptions(energy_unit="eV", length_unit="Angstrom")
STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, {name: painn, label: two, sizes: [4e3], options: {radial: 8}}]
sizes: [3e3]
depth: 1
seeds: [0, 1]
epochs: 2
train: &t {batch_molecules: 4, evaluations: 3}
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}
"""


@dataclass(frozen=True)
class Input:
    """One kind of input: the sound files, made in a folder; and what reads that folder. A reading
    may raise ForcelawError, and nothing else."""

    make: Callable[[Path], None]
    use: Callable[[Path], None]


def _prepare(folder: Path) -> None:
    """A pack that is made holds finite numbers only."""
    source = next(p for p in sorted(folder.iterdir()) if p.name != "out")
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            prepare([source], out, sources=_told(source), options=OPTIONS)
        finally:
            assert out.exists() == (out / "manifest.json").exists()
    pack = Pack(out)
    verify(pack)
    for name in ("positions", "forces", "energies"):
        assert np.isfinite(getattr(pack, name)).all()


def _told(source: Path) -> SourceOptions:
    return TOLD if source.suffix == ".npz" else SourceOptions()


def _hdf5(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        for k, frame in enumerate(files.molecules(6)):
            group = file.create_group(f"m{k}")
            group["species"], group["coordinates"] = [frame["numbers"]], [frame["positions"]]
            group["energies"], group["forces"] = [frame["energy"] / EV], [frame["forces"] / EV]


def _packed(folder: Path) -> None:
    import gzip

    text = files.extxyz(folder / "a.xyz", files.molecules(6)).read_bytes()
    (folder / "a.xyz").unlink()
    (folder / "a.xyz.gz").write_bytes(gzip.compress(text, mtime=0))


def _use_pack(folder: Path) -> None:
    verify(Pack(folder / "pack"))


def _use_study(folder: Path) -> None:
    study = load(folder / "t.yaml")
    plan(study, summarise(Pack(folder.parent / "sound"), cutoff=study.cutoff), {})


def _table(name: str) -> Input:
    def make(folder: Path) -> None:
        import polars as pl

        n, d = [1e3, 1e3, 1e4, 1e4] * 2, [1e5, 1e6] * 4
        loss = [0.1 + x**-0.3 + y**-0.3 for x, y in zip(n, d)]
        frame = pl.DataFrame({"n": n, "d": d, "loss": loss, "run": list("aabbccdd")})
        writers = {".csv": "write_csv", ".json": "write_json", ".parquet": "write_parquet"}
        getattr(frame, writers[Path(name).suffix])(folder / name)

    return Input(make, lambda folder: read(folder / name) and None)


def _runs(folder: Path) -> None:
    for seed in (0, 1):
        spec = {"study": "s", "kind": "grid", "label": "MPNN", "seed": seed, "lr": 1e-3, "n": 100}
        spec |= {"steps": 9, "model": {"architecture": "mpnn", "width": 8, "depth": 2}}
        run = RunDirectory.create(folder / "out" / "runs", spec)
        for step in (3, 9):
            run.append_metric({"step": step, "d": step * 80, "c": 1e6, "h": 0.1, "loss": 1 / step})
        run.finish({"status": "finished", "device": "CPU", "seconds": 1.0, "flops": 1e6})
    (folder / "out" / "pieces").mkdir()
    (folder / "out" / "pieces" / "a.json").write_text(
        '{"seconds": 9.0, "devices": 1, "device": "CPU"}'
    )


def _use_runs(folder: Path) -> None:
    """Every command on a study directory ends with a code."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        for command in (["status"], ["fit", "--law", "power"]):
            code = main([command[0], str(folder / "out"), *command[1:]])
            assert code in (0, 1, 2, 3), code
        shutil.rmtree(folder / "exported", ignore_errors=True)
        exported = str(folder / "exported")
        assert main(["export", str(folder / "out"), "--table", exported]) in (0, 2)


def _evidence(folder: Path) -> None:
    _runs(folder)
    write_evidence(folder / "out", folder / "evidence", "csv")
    shutil.rmtree(folder / "out")


def _use_evidence(folder: Path) -> None:
    shutil.rmtree(folder / "imported", ignore_errors=True)
    import_evidence(folder / "evidence", folder / "imported")


INPUTS = {
    "extxyz": Input(
        lambda folder: files.extxyz(folder / "a.xyz", files.molecules(6)) and None, _prepare
    ),
    "extxyz.gz": Input(_packed, _prepare),
    "npz": Input(
        lambda folder: files.padded_npz(folder / "a.npz", files.molecules(6)) and None, _prepare
    ),
    "hdf5": Input(_hdf5, _prepare),
    "db": Input(
        lambda folder: files.database(folder / "a.db", files.molecules(6)) and None, _prepare
    ),
    "aselmdb": Input(
        lambda folder: files.database(folder / "a.aselmdb", files.molecules(6)) and None, _prepare
    ),
    "pack": Input(lambda folder: write_pack(folder / "pack") and None, _use_pack),
    "shards": Input(
        lambda folder: write_pack(folder / "pack", 12, shard_size=1800) and None, _use_pack
    ),
    "study": Input(lambda folder: (folder / "t.yaml").write_text(STUDY) and None, _use_study),
    "csv": _table("t.csv"),
    "json": _table("t.json"),
    "parquet": _table("t.parquet"),
    "runs": Input(_runs, _use_runs),
    "evidence": Input(_evidence, _use_evidence),
}
