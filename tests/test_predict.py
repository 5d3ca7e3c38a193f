"""A run as a function of structures, against its bare model asked about one structure at a time."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

import forcelaw
from forcelaw.errors import DataError, StoreError, StudyError, UnseenStateWarning
from forcelaw.graph import GraphBatch
from forcelaw.models.frames import rotation_set
from forcelaw.store.runs import RunDirectory
from tests.packs import write_pack
from tests.trained import run_directory

REFERENCES = {1: 0.1, 6: 0.2, 8: 0.3}  # of write_pack, eV


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("pack") / "pack", periodic=True)


@pytest.fixture(scope="module")
def run(pack, tmp_path_factory):
    return run_directory(tmp_path_factory.mktemp("runs"), pack)


def structures(seed=0):
    """Molecules, a slab, a crystal smaller than the cutoff, one atom in space."""
    rng = np.random.default_rng(seed)
    cell = np.diag([2.5, 4.0, 9.0]) + 0.3 * rng.normal(size=(3, 3))
    made = [Atoms("CHOH", rng.normal(size=(4, 3)) * 1.2 + 40.0), Atoms("C", [[0.1, 0.2, 0.3]])]
    made += [Atoms("OCH2", rng.normal(size=(4, 3)), cell=cell, pbc=p) for p in (True, (1, 1, 0))]
    return made


def one(run, atoms):
    """Energy and forces of one structure by ASE's neighbours and the bare model in float64."""
    model = run.model().double()
    i, j, shift = neighbor_list("ijS", atoms, model.config.cutoff)
    order = np.lexsort((j, i))
    i, j, shift = (torch.from_numpy(x[order]) for x in (i, j, shift @ np.asarray(atoms.cell)))
    elements = list(model.config.elements)
    species = torch.tensor([elements.index(z) for z in atoms.numbers])
    pos = torch.from_numpy(atoms.positions)
    batch, natoms = torch.zeros(len(atoms), dtype=torch.int64), torch.tensor([len(atoms)])
    energy, forces = model(GraphBatch(species, batch, pos, j, i, natoms, shift=shift))
    return float(energy.detach()) + sum(
        REFERENCES[z] for z in atoms.numbers
    ), forces.detach().numpy()


@pytest.mark.parametrize("batch_atoms", [1, 6, 4000])
def test_predictions_are_those_of_the_model_one_by_one(run, batch_atoms):
    found = run.predict(structures(), dtype="float64", batch_atoms=batch_atoms)
    assert len(found) == 4 and found.stresses is None
    for k, atoms in enumerate(structures()):
        energy, forces = one(run, atoms)
        assert found.energies[k] == pytest.approx(energy, rel=1e-10)
        assert np.allclose(found.forces[k], forces, rtol=1e-9, atol=1e-10)
    assert np.ptp(found.energies) > 0.1  # they are not all alike


def test_float32_is_float64_but_for_rounding(run):
    double = run.predict(structures(), dtype="float64", stress=True)
    single = run.predict(structures(), stress=True)
    assert np.allclose(single.energies, double.energies, rtol=1e-5, atol=1e-5)
    assert np.allclose(np.concatenate(single.forces), np.concatenate(double.forces), atol=2e-4)
    assert np.allclose(single.stresses, double.stresses, atol=1e-4, equal_nan=True)


def test_stress_is_the_derivative_of_the_energy_by_strain(run):
    found = run.predict(structures(), dtype="float64", stress=True).stresses
    periodic = [bool(atoms.pbc.any()) for atoms in structures()]
    assert np.isfinite(found).all((1, 2)).tolist() == periodic
    step, predictor = 1e-5, run.predictor(dtype="float64")
    for atoms, stress in zip(structures()[2:], found[2:]):
        for a, b in ((0, 0), (1, 2), (0, 1)):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[a, b] += sign * step / 2
                strain[b, a] += sign * step / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
                energies.append(predictor.predict([moved]).energies[0])
            slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
            assert stress[a, b] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_no_structures_no_predictions(run):
    assert len(run.predict([])) == 0


def test_one_structure_is_a_list_of_one_and_other_things_are_said(run):
    first = structures()[0]
    found = run.predict(first)
    assert len(found) == 1 and found.forces[0].shape == (4, 3)
    assert found.energies == run.predict([first]).energies
    for wrong in ("file.xyz", ["file.xyz"], [first, first.positions], first[0]):
        with pytest.raises(DataError, match=r"ase\.Atoms"):
            run.predict(wrong)


def test_elements_and_outputs_that_the_model_lacks(pack, run, tmp_path):
    with pytest.raises(DataError, match="Fe"):
        run.predict([Atoms("FeO", [[0, 0, 0], [0, 0, 1.6]])])
    direct = run_directory(tmp_path, pack, forces="direct")
    with pytest.raises(StudyError):
        direct.predict(structures(), stress=True)


def test_a_run_without_reference_energies_takes_those_of_its_pack(pack, tmp_path):
    run = run_directory(tmp_path / "runs", pack)
    before = run.predict(structures())
    (run.path / "references.json").unlink()
    again = run.predict(structures(), data=pack.path)
    assert (again.energies == before.energies).all()
    other = write_pack(tmp_path / "other", seed=1)
    for data in (None, other.path):
        with pytest.raises(StoreError) as caught:
            run.predict(structures(), data=data)
        assert pack.hash in caught.value.remedy


def test_training_keeps_the_reference_energies(tmp_path):
    pack = write_pack(tmp_path / "pack")
    made = forcelaw.train(
        "mpnn", size=2e3, data=pack.path, epochs=1, cutoff=3.0, depth=1, out=tmp_path
    )
    assert RunDirectory(made.path).references() == REFERENCES
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    assert made.predict([atoms]).energies[0] == pytest.approx(one(made, atoms)[0], abs=1e-4)


def test_predictions_averaged_over_rotations_are_means_over_turned_structures(tmp_path, pack):
    """By predictions of structures that ASE has turned, cells with them."""
    run = run_directory(tmp_path, pack, "mpnn", "direct")
    made, plain = structures(), run.predictor(dtype="float64")
    found = run.predict(made, dtype="float64", rotations=12)
    energies, forces = np.zeros(len(made)), [np.zeros((len(a), 3)) for a in made]
    for matrix in rotation_set(12).numpy():
        turned = [a.copy() for a in made]
        for a in turned:
            a.set_cell(np.asarray(a.cell) @ matrix.T)
            a.set_positions(a.positions @ matrix.T)
        part = plain.predict(turned)
        energies += part.energies / 12
        forces = [total + f @ matrix / 12 for total, f in zip(forces, part.forces)]
    np.testing.assert_allclose(found.energies, energies, rtol=1e-9)
    for got, wanted in zip(found.forces, forces):
        np.testing.assert_allclose(got, wanted, atol=1e-8)
    assert abs(plain.predict(made).energies - energies).max() > 1e-4


@pytest.mark.parametrize(("name", "value"), [("charge", 1), ("spin", 3)])
def test_a_charge_that_the_model_does_not_see_is_a_warning(run, name, value):
    predictor = forcelaw.load_run(run.path).predictor()
    ion = structures()[0]
    ion.info[name] = value
    with pytest.warns(UnseenStateWarning, match=name):
        charged = predictor.predict([ion])
    ion.info = {"charge": 0, "spin": 1}
    assert np.array_equal(predictor.predict([ion]).energies, charged.energies)  # and no warning
