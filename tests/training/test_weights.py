"""Weights of the loss and the virial term, against plain numpy and what they must lead to."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones

import forcelaw
from forcelaw.data.device_dataset import Shard, Targets
from forcelaw.data.pack import Pack, PackWriter
from forcelaw.errors import DataError, StudyError
from forcelaw.ops import random_rotations
from forcelaw.training.config import TrainOptions, weights_table
from forcelaw.training.loss import stress_sums, virial_term
from tests.packs import write_pack

SMALL = {"size": 3e3, "depth": 1, "cutoff": 3.0, "batch_molecules": 4, "validation_structures": 8}


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """Strained argon-like crystals with the stress of a Lennard-Jones potential; one in eight has
    no stress."""
    rng, count = np.random.default_rng(0), 64
    rows = {name: [] for name in ("positions", "forces", "energies", "cells", "stresses")}
    for k in range(count):
        atoms = Atoms("H4", cell=np.eye(3) * 2.6, pbc=True)
        atoms.set_scaled_positions([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        strain = 0.06 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += 0.08 * rng.normal(size=(4, 3))
        atoms.calc = LennardJones(sigma=1.6, epsilon=0.1, rc=2.9, smooth=True)
        rows["positions"].append(atoms.positions)
        rows["forces"].append(atoms.get_forces())
        rows["energies"].append(atoms.get_potential_energy())
        rows["cells"].append(np.array(atoms.cell))
        stress = atoms.get_stress(voigt=False)
        rows["stresses"].append(stress if k % 8 else np.full((3, 3), np.nan))
    forces = np.concatenate(rows["forces"])
    energies = np.array(rows["energies"])
    path = tmp_path_factory.mktemp("crystals") / "pack"
    with PackWriter(path, periodic=True, stresses=True) as writer:
        writer.append(
            np.full(count, 4),
            numbers=np.ones(4 * count, np.uint8),
            positions=np.concatenate(rows["positions"]),
            forces=forces,
            energies=energies,
            groups=np.arange(count, dtype=np.uint64),
            split=(np.arange(count) % 5 == 4).astype(np.uint8),
            cells=np.array(rows["cells"]),
            pbc=np.ones((count, 3), np.uint8),
            stresses=np.array(rows["stresses"]),
        )
        mean = float(energies.mean() / 4)
        statistics = {"force_rms": float(np.sqrt((forces**2).mean()))}
        manifest = {"elements": [1], "references": {"energies": {"1": mean}}, "split": {}}
        writer.finish(manifest | {"statistics": statistics, "command": "test"})
    return Pack(path)


def test_default_weights_leave_the_run_as_it_was(tmp_path):
    plain = TrainOptions(batch_molecules=4).model_dump(mode="json")
    assert not {"decay", "average_power"} & plain.keys()
    assert not [key for key in plain if key.endswith(("weight", "end")) and "symmetry" not in key]
    given = TrainOptions(batch_molecules=4, energy_weight=1.0, stress_weight=0.0)
    assert given.model_dump(mode="json") == plain and weights_table(10, given) is None
    changed = TrainOptions(energy_weight=2.0).model_dump(mode="json")
    assert changed["energy_weight"] == 2.0 and "forces_weight" not in changed
    assert TrainOptions(**changed).energy_weight == 2.0


def test_weights_move_linearly():
    table = weights_table(5, TrainOptions(energy_weight=1, energy_weight_end=9, forces_weight=0.5))
    assert table.tolist() == [[e, 0.5, 0.0] for e in (1, 3, 5, 7, 9)]


def test_a_term_of_weight_zero_trains_nothing(tmp_path):
    """Outputs are zero at the start: what is not trained stays there, exactly."""
    pack = write_pack(tmp_path / "pack")
    given = {"data": pack.path, "epochs": 2, "out": tmp_path, "evaluations": 2, **SMALL}
    atoms = [Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])]
    forces_only = forcelaw.train("mpnn", energy_weight=0.0, **given)
    found = forces_only.predict(atoms, dtype="float64")
    assert found.energies[0] == pytest.approx(0.5, abs=1e-12) and np.abs(found.forces[0]).max() > 0
    energy_only = forcelaw.train("mpnn", forces_weight=0.0, **given).predict(atoms)
    assert np.abs(energy_only.forces[0]).max() == 0 and abs(energy_only.energies[0] - 0.5) > 1e-4
    with pytest.raises(StudyError):
        forcelaw.train("mpnn", energy_weight=0.0, forces_weight=0.0, **given)


def test_what_is_minimised_changes_the_weights_and_not_what_is_told(tmp_path):
    """The first step's loss is told before any update, so it is the size of the errors whatever is
    minimised; the weights then part."""
    pack = write_pack(tmp_path / "pack")
    given = {"data": pack.path, "epochs": 2, "evaluations": 2, "first_evaluation": 1, **SMALL}
    runs = {
        name: forcelaw.train("painn", loss=name, out=tmp_path / name, **given)
        for name in ("norm", "square", "huber")
    }
    first = [run.metrics["train_loss"][0] for run in runs.values()]
    assert first == pytest.approx([first[0]] * 3, rel=1e-6)
    ends = [run.metrics["loss"][-1] for run in runs.values()]
    assert len({round(end, 6) for end in ends}) == 3
    assert (
        "loss" not in runs["norm"].spec["train"] and runs["huber"].spec["train"]["loss"] == "huber"
    )


def test_the_virial_term_by_hand():
    rng = np.random.default_rng(0)
    label, virial = rng.normal(size=(2, 4, 3, 3))
    label[1], natoms, volume = np.nan, np.array([3, 2, 5, 0]), np.array([20.0, 1.0, 30.0, 1.0])
    label[3] = np.nan
    expected = [np.linalg.norm(virial[k] - label[k]) / natoms[k] for k in (0, 2)]
    found = torch.tensor(virial, requires_grad=True)
    tensors = (torch.tensor(x) for x in (natoms, label, volume))
    target = Targets(torch.zeros(4), torch.zeros(10, 3), next(tensors), None, *tensors)
    term = virial_term(found, target)
    assert float(term.detach()) == pytest.approx(np.mean(expected), rel=1e-9)
    (gradient,) = torch.autograd.grad(term, found)
    assert (
        gradient.isfinite().all() and (gradient[[1, 3]] == 0).all() and gradient[0].abs().min() > 0
    )
    off = np.stack([(virial[k] - label[k]) / volume[k] for k in (0, 2)])
    assert stress_sums(found.detach(), target).tolist() == pytest.approx([np.abs(off).sum(), 18.0])


def test_labels_of_a_shard_turn_with_its_structures(crystals):
    given = {"cutoff": 3.0, "elements": (1,), "dtype": torch.float64, "stress": True}
    shard = Shard(crystals, np.arange(6), **given)
    rows = torch.tensor([3, 0, -1, 5])
    atoms, edges = 12, int(shard.host_nedges[[3, 0, 5]].sum())
    turn = random_rotations(rows, 0, 7, torch.float64)
    _, target = shard.batch(rows, atoms + 4, edges + 8, pad=True, rotation=turn)
    for slot, row in ((0, 3), (3, 5)):
        stress, volume = crystals.stresses[row], abs(np.linalg.det(crystals.cells[row]))
        r = turn[slot].numpy()
        assert np.allclose(target.virial[slot], volume * r @ stress @ r.T)
        assert float(target.volume[slot]) == pytest.approx(volume)
    assert target.virial[[1, 2]].isnan().all()  # without a label; an empty slot
    plain = Shard(crystals, np.arange(6), **{**given, "stress": False})
    assert plain.batch(rows[:2], 8, int(shard.host_nedges[[3, 0]].sum()))[1].virial is None


@pytest.mark.parametrize("forces,rate", [("conservative", 1e-2), ("direct", 5e-2)])
def test_stress_is_learned_where_it_has_a_weight(crystals, tmp_path, forces, rate):
    given = {"data": crystals.path, "epochs": 12, "forces": forces, "out": tmp_path}
    given |= SMALL | {"learning_rate": rate, "first_evaluation": 2, "evaluations": 4}
    alone = {"energy_weight": 0.0, "forces_weight": 0.0, "stress_weight": 1.0}
    with_stress = forcelaw.train("painn", **given, **alone)
    errors = with_stress.metrics["stress_mae"].to_list()
    assert errors[-1] < 0.6 * errors[0]
    without = forcelaw.train("painn", **given)
    assert "stress_mae" not in without.metrics.columns
    assert "stress" not in without.spec["model"]
    assert ("stress" in with_stress.spec["model"]) == (forces == "direct")
    # the labels' own stress, read by another path
    found = with_stress.evaluate(crystals.path).as_json()
    assert found["structures_with_stress"] == 56
    assert found["stress"]["mae"] < 0.75 * found["no_model"]["stress"]["mae"]


def test_stress_needs_labels_and_a_model_that_has_one(crystals, tmp_path):
    given = {"epochs": 1, "stress_weight": 1.0, "out": tmp_path, **SMALL}
    direct = forcelaw.train("painn", data=crystals.path, **{**given, "stress_weight": 0.0})
    with pytest.raises(StudyError):
        direct.predict([Atoms("H4", np.eye(4, 3), cell=np.eye(3) * 2.6, pbc=True)], stress=True)
    again = {key: given[key] for key in ("epochs", "out", "batch_molecules")}
    with pytest.raises(StudyError):
        forcelaw.train(start=direct, data=crystals.path, stress_weight=1.0, **again)
    has_one = forcelaw.train("painn", data=crystals.path, **given)
    forcelaw.train(start=has_one, data=crystals.path, **again)  # its head is left alone
    pack = write_pack(tmp_path / "pack", periodic=True)
    with pytest.raises(DataError):
        forcelaw.train("painn", data=pack.path, forces="conservative", **given)
