"""`forcelaw evaluate`, against sums over the frames of a file one by one."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from forcelaw.cli.main import main
from forcelaw.data.device_dataset import Targets
from forcelaw.errors import DataError
from forcelaw.evaluate import DRAWN, Sample
from forcelaw.progress import Progress
from forcelaw.training.loss import stress_sums
from tests.packs import write_pack
from tests.trained import run_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pack = write_pack(tmp_path_factory.mktemp("pack") / "pack")
    return run_directory(tmp_path_factory.mktemp("runs"), pack)


@pytest.fixture(scope="module")
def frames():
    """Labelled structures: energy and forces, with forces missing in one, and a free atom."""
    rng, made = np.random.default_rng(0), []
    for k in range(9):
        n = int(rng.integers(3, 7))
        atoms = Atoms(rng.choice([1, 6, 8], n), rng.normal(size=(n, 3)) * 1.5)
        labels = {"energy": rng.normal() * 2, "forces": rng.normal(size=(n, 3))}
        if k == 4:
            del labels["forces"]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    free = Atoms("H")
    free.calc = SinglePointCalculator(free, energy=-13.6, forces=np.zeros((1, 3)))
    return [*made, free]


@pytest.fixture(scope="module")
def file(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "test.extxyz"
    write(path, frames)
    return path


def by_hand(run, frames):
    """Errors frame by frame: energies per atom (meV), all force components (meV/Angstrom)."""
    found = run.predict(frames, dtype="float64")
    energy, forces = [], []
    for atoms, e, f in zip(frames, found.energies, found.forces):
        energy.append(1e3 * (e - atoms.calc.results["energy"]) / len(atoms))
        if "forces" in atoms.calc.results:
            forces.append(1e3 * (f - atoms.calc.results["forces"]))
    return np.array(energy), forces


def test_errors_are_those_summed_by_hand(run, frames, file):
    found = run.evaluate(file, dtype="float64").as_json()
    energy, forces = by_hand(run, frames[:-1])
    components = np.concatenate([f.ravel() for f in forces])
    assert (found["structures"], found["energies"], found["structures_with_forces"]) == (9, 9, 8)
    assert found["skipped"] == {"isolated atom": 1}
    assert found["energy"]["mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-6)
    assert found["energy"]["rmse"] == pytest.approx(np.sqrt((energy**2).mean()), rel=1e-6)
    assert found["energy"]["mean"] == pytest.approx(energy.mean(), rel=1e-6)
    assert found["energy"]["sd"] == pytest.approx(energy.std(), rel=1e-6)
    whole = energy * [len(a) for a in frames[:-1]]
    assert found["energy_total"]["mae"] == pytest.approx(np.abs(whole).mean(), rel=1e-6)
    assert found["forces"]["mae"] == pytest.approx(np.abs(components).mean(), rel=1e-6)
    assert found["forces"]["rmse"] == pytest.approx(np.sqrt((components**2).mean()), rel=1e-6)
    norms = np.linalg.norm(components.reshape(-1, 3), axis=1)
    assert found["forces"]["norm"] == pytest.approx(norms.mean(), rel=1e-6)


def test_no_model_means_reference_energies_and_no_forces(run, frames, file):
    found = run.evaluate(file).as_json()["no_model"]
    table = {1: 0.1, 6: 0.2, 8: 0.3}
    energy = [
        (sum(table[z] for z in a.numbers) - a.calc.results["energy"]) / len(a) for a in frames[:-1]
    ]
    labels = [a.calc.results["forces"].ravel() for a in frames[:-1] if "forces" in a.calc.results]
    assert found["energy"]["mae"] == pytest.approx(1e3 * np.abs(energy).mean(), rel=1e-6)
    assert found["forces"]["mae"] == pytest.approx(1e3 * np.abs(np.concatenate(labels)).mean())


def test_elements_and_the_worst_structures(run, frames, file):
    errors = run.evaluate([file, file], dtype="float64", worst=3)
    assert repr(errors) == errors.summary()
    found = errors.as_json()
    energy, forces = by_hand(run, frames[:-1])
    numbers = np.concatenate([a.numbers for a in frames[:-1] if "forces" in a.calc.results])
    errors = np.concatenate(forces)
    for symbol, z in (("H", 1), ("C", 6), ("O", 8)):
        part, entry = np.abs(errors[numbers == z]), found["by_element"][symbol]
        assert entry["atoms"] == 2 * (numbers == z).sum()
        assert entry["forces"]["mae"] == pytest.approx(part.mean(), rel=1e-6)
    order = np.argsort(-np.abs(energy))
    expected = [energy[k] for k in (order[0], order[0], order[1])]  # every frame is there twice
    assert [row["energy_error"] for row in found["worst"]["energy"]] == pytest.approx(expected)
    assert f"frame {order[0]}" in found["worst"]["energy"][0]["where"]
    rmse = sorted((np.sqrt((f**2).mean()) for f in forces), reverse=True)
    assert found["worst"]["forces"][2]["force_rmse"] == pytest.approx(rmse[1], rel=1e-6)


def test_stress_and_config_types(run, tmp_path):
    rng, made = np.random.default_rng(2), []
    for k in range(6):
        atoms = Atoms("CHOH", rng.uniform(0, 4, size=(4, 3)), cell=[4, 4.5, 5], pbc=True)
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(4, 3))}
        if k != 2:
            labels["stress"] = 0.1 * rng.normal(size=6)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["config_type"] = "even" if k % 2 == 0 else "odd"
        made.append(atoms)
    write(tmp_path / "crystals.extxyz", made)
    found = run.evaluate(tmp_path / "crystals.extxyz", dtype="float64").as_json()
    predicted = run.predict(made, stress=True, dtype="float64").stresses
    off = []
    for atoms, stress in zip(made, predicted):
        if "stress" in atoms.calc.results:
            xx, yy, zz, yz, xz, xy = atoms.get_stress()
            off.append(stress - [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    off = 1e3 * np.array(off)  # all nine components
    volume = torch.full((len(off),), 4 * 4.5 * 5.0, dtype=torch.float64)
    none = torch.zeros(len(off))
    labels = Targets(none, none, none, virial=torch.zeros(len(off), 3, 3), volume=volume)
    total, number = stress_sums(torch.from_numpy(off / 1e3) * volume.view(-1, 1, 1), labels)
    assert found["stress"]["mae"] == pytest.approx(1e3 * float(total / number))  # as in training
    assert found["structures_with_stress"] == 5
    assert found["stress"]["mae"] == pytest.approx(np.abs(off).mean(), rel=1e-5)
    assert found["stress"]["rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-5)
    kinds = found["by_config_type"]
    assert {name: kinds[name]["structures"] for name in kinds} == {"even": 3, "odd": 3}
    energy, _ = by_hand(run, made[::2])
    assert kinds["even"]["energy"]["mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-6)


def test_the_command_writes_json_and_a_figure(run, file, tmp_path, capsys):
    out, figure = tmp_path / "errors.json", tmp_path / "parity.png"
    words = ["evaluate", str(run.path), str(file), "--json", str(out), "--figure", str(figure)]
    assert main([*words, "--batch-atoms", "7", "--worst", "2"]) == 0
    text, content = capsys.readouterr().out, json.loads(out.read_text())
    assert content["run"] == run.id and content["files"] == [file.name]
    assert f"{content['energy']['mae']:.2f}" in text and figure.stat().st_size > 1000
    assert main(["evaluate", str(run.path), str(file), "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["forces"]["mae"] == pytest.approx(content["forces"]["mae"], rel=1e-5)
    assert main(["evaluate", str(tmp_path), str(file)]) == 2


def test_progress_counts_structures_within_a_block(run, frames, file, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "due", lambda bar: True)
    found = run.evaluate(file, batch_atoms=7, progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "evaluate:" in line]
    assert 1 < len(lines) <= len(frames) and "structures, " in lines[0]
    assert lines[-1].startswith(f"evaluate: {found.structures} ")
    run.evaluate(file)
    assert capsys.readouterr().err == ""


def test_files_without_structures_are_refused(run, tmp_path):
    empty = tmp_path / "empty.extxyz"
    empty.write_text("\n")
    with pytest.raises(DataError):
        run.evaluate(empty)


def test_a_sample_is_fair_and_bounded():
    sample = Sample()
    for block in range(20):
        values = np.full(2000, float(block))
        sample.add(values, values)
    assert len(sample.rows) == DRAWN
    share = np.bincount(sample.rows[:, 1].astype(int)) / DRAWN
    assert share.min() > 0.03 and share.max() < 0.07


@pytest.mark.filterwarnings("default::forcelaw.errors.ForcelawWarning")
def test_a_warning_of_the_command_is_one_line(run, frames, tmp_path, capsys):
    ion = frames[0].copy()
    ion.info["charge"] = 1
    ion.calc = frames[0].calc
    write(tmp_path / "ion.extxyz", ion)
    assert main(["evaluate", str(run.path), str(tmp_path / "ion.extxyz")]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "charge" in line]
    assert len(said) == 1 and said[0].startswith("forcelaw: warning: structures have a charge")
