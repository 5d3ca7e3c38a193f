"""Runs that start from other runs: from which weights, with which reference energies."""

import numpy as np
import pytest
from ase import Atoms

import forcelaw
from forcelaw.cli.main import main
from forcelaw.data.pack import Pack, PackWriter
from forcelaw.errors import DataError, StoreError, StudyError
from forcelaw.store.runs import RunDirectory
from forcelaw.table.directory import table
from tests.packs import write_pack
from tests.trained import run_directory

SHORT = {"epochs": 1, "evaluations": 2, "batch_molecules": 4, "validation_structures": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fine_tune")


@pytest.fixture(scope="module")
def base(folder):
    return run_directory(folder, write_pack(folder / "pack"), "painn", depth=1)


def relabelled(path, run, shifts, dtype="float64"):
    """A pack whose labels are the predictions of ``run`` plus ``shifts`` (eV by atomic number)."""
    plain = write_pack(path.with_name(f"{path.name}-plain"), seed=5)
    ends = plain.offsets[1:-1]
    structures = [
        Atoms(z, x) for z, x in zip(np.split(plain.numbers, ends), np.split(plain.positions, ends))
    ]
    found = run.predict(structures, dtype=dtype)
    more = [sum(shifts[z] for z in atoms.numbers) for atoms in structures]
    names = ("numbers", "positions", "groups", "split")
    with PackWriter(path) as writer:
        writer.append(
            np.diff(plain.offsets),
            **{name: getattr(plain, name) for name in names},
            forces=np.concatenate(found.forces),
            energies=found.energies + more,
        )
        manifest = {key: plain.manifest[key] for key in ("elements", "statistics", "split")}
        writer.finish({**manifest, "references": {"energies": {"1": 9.0, "6": 9.0, "8": 9.0}}})
    return Pack(path)


def test_it_starts_from_the_weights_and_finds_the_shifts(folder, base):
    """On labels that are the model's own but for a shift by element nothing is left to learn."""
    shifts = {1: 0.7, 6: -2.0, 8: 30.0}
    pack = relabelled(folder / "shifted", base, shifts)
    tuned = forcelaw.train(
        start=base, data=pack.path, learning_rate=1e-12, out=folder, precision="float32", **SHORT
    )
    assert tuned.metrics["loss"][0] < 1e-3  # eV/atom + eV/Angstrom; thousands of it from scratch
    kept = RunDirectory(tuned.path).references()
    for z, reference in ((1, 0.1), (6, 0.2), (8, 0.3)):
        assert kept[z] == pytest.approx(reference + shifts[z], abs=1e-3)
    assert tuned.evaluate(pack.path).as_json()["energy"]["mae"] < 1.0
    assert tuned.spec["model"] == base.spec["model"] and tuned.spec["start"]["run"] == base.id
    scratch = forcelaw.train(
        "painn", size=3e3, depth=1, cutoff=3.0, data=pack.path, out=folder, **SHORT
    )
    assert scratch.metrics["loss"][0] > 100 * tuned.metrics["loss"][0]
    assert "start" not in scratch.spec


def test_training_moves_the_weights_and_resumes_without_the_source(folder, tmp_path):
    base = run_directory(tmp_path, write_pack(tmp_path / "pack"), "mpnn", "direct", depth=1)
    pack = write_pack(tmp_path / "other", seed=3)
    given = {"data": pack.path, "out": tmp_path / "a", **SHORT}
    words = ["train", "--from", str(base.path), "--data", str(pack.path), "--epochs", "1"]
    words += ["--evaluations", "2", "--batch-molecules", "4", "--validation-structures", "8"]
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    tuned = forcelaw.train(start=base.path, **given)
    (other,) = (tmp_path / "b" / "runs").iterdir()
    assert tuned.id == other.name  # Python and the command line train the same run
    before, after = base.model().state_dict(), tuned.model().state_dict()
    assert all((before[name] != after[name]).any() for name in ("layers.0.out.weight",))
    for name in ("result.json", "metrics.jsonl", "last.json", "last.safetensors"):
        (tuned.path / name).unlink()
    (base.path / "last.safetensors").rename(base.path / "away")
    with pytest.raises(StoreError):
        forcelaw.train(start=base.path, **given)  # its weights are part of what a run is
    (base.path / "away").rename(base.path / "last.safetensors")
    again = forcelaw.train(start=base.path, **given)
    losses = [forcelaw.load_run(other).metrics["loss"].to_list(), again.metrics["loss"].to_list()]
    assert losses[0] == losses[1]


def test_flops_of_both_parts_are_kept_apart(folder, base):
    pack = write_pack(folder / "third", seed=4)
    first = forcelaw.train(start=base, data=pack.path, out=folder / "x", **SHORT)
    second = forcelaw.train(start=first, data=pack.path, out=folder / "x", **SHORT)
    spent = first.metrics["c"][-1]
    assert second.spec["start"]["flops"] == pytest.approx(spent)
    frame = table(folder / "x" / "runs").filter(run=second.id)
    assert set(frame["start"]) == {first.id} and set(frame["start_c"]) == {spent}
    assert frame["c"].max() == pytest.approx(second.metrics["c"][-1])


def test_mistakes(folder, base, tmp_path):
    pack = write_pack(tmp_path / "pack")
    for wrong in ({"size": 1e4}, {"architecture": "mpnn"}, {"forces": "conservative"}):
        with pytest.raises(StudyError):
            forcelaw.train(start=base, data=pack.path, **wrong, **SHORT)
    with pytest.raises(StudyError):
        forcelaw.train(data=pack.path, **SHORT)
    with pytest.raises(StoreError):
        forcelaw.train(start=tmp_path, data=pack.path, **SHORT)
    with pytest.raises(DataError):
        forcelaw.train(start=base, data="sample", **SHORT)  # elements that it has not seen
