"""The calculator of ASE, against fresh neighbour searches and finite differences."""

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet

import forcelaw
from forcelaw.calculator import NeighbourList
from forcelaw.errors import DataError, NotConservativeWarning, StoreError
from forcelaw.graph import cell_list_edges
from tests.packs import write_pack
from tests.trained import run_directory


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("pack") / "pack")


@pytest.fixture(scope="module")
def run(pack, tmp_path_factory):
    return run_directory(tmp_path_factory.mktemp("runs"), pack)


def crystal(pbc=True):
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 5, size=(8, 3))
    return Atoms("CHOHCHOH", positions, cell=np.diag([4.0, 5.0, 5.5]) + 0.2, pbc=pbc)


def test_forces_and_stress_are_derivatives_of_the_energy(run):
    atoms = crystal()
    atoms.calc = forcelaw.Calculator(run, dtype="float64")
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    assert np.allclose(atoms.get_forces(), numerical, rtol=1e-5, atol=1e-6)
    assert np.allclose(
        atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), rtol=1e-5, atol=1e-7
    )
    assert np.abs(atoms.get_stress()).max() > 1e-3
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_it_agrees_with_predict(run):
    atoms = [crystal(), crystal(pbc=False), crystal(pbc=(True, False, True))]
    found = run.predict(atoms, dtype="float64")
    for k, each in enumerate(atoms):
        each.calc = forcelaw.Calculator(run.path, dtype="float64")
        assert each.get_potential_energy() == pytest.approx(found.energies[k], rel=1e-12)
        assert np.allclose(each.get_forces(), found.forces[k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_a_kept_neighbour_list_gives_the_same_edges(pbc):
    rng, atoms = np.random.default_rng(0), crystal(pbc)
    kept, fresh = (NeighbourList(3.0, skin, "cpu") for skin in (0.8, 0.0))
    searches = []
    for step in range(40):
        atoms.positions += rng.normal(scale=0.04, size=(8, 3))
        if step == 20:
            atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
        if step == 30:
            atoms.positions[0] += atoms.cell[0]  # as if wrapped
        given = atoms.positions.copy(), np.array(atoms.cell), np.array(atoms.pbc)
        for a, b in zip(kept.edges(*given), fresh.edges(*given)):
            assert a.shape == b.shape and (a == b).all()
        searches.append(kept.searches)
    assert fresh.searches == 40 and 2 < kept.searches < 20
    assert searches[20] > searches[19] and searches[30] > searches[29]


def test_atoms_may_be_added_and_exchanged(run):
    atoms = crystal()
    atoms.calc = forcelaw.Calculator(run.path)
    first = atoms.get_potential_energy()
    atoms.numbers[0] = 8
    second = atoms.get_potential_energy()
    atoms += Atoms("H", [[1.0, 1.0, 1.0]])
    assert len({first, second, atoms.get_potential_energy()}) == 3
    (fresh,) = run.predict([atoms]).energies
    assert atoms.get_potential_energy() == pytest.approx(fresh, abs=1e-4)


def test_a_molecule_has_no_stress(run):
    atoms = crystal(pbc=False)
    atoms.calc = forcelaw.Calculator(run.path)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def drift(run, steps=100):
    """Change of the total energy over some steps of NVE, eV."""
    atoms = Atoms("COH", [[0, 0, 0], [1.2, 0, 0], [0, 1.1, 0.3]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConservativeWarning)
        atoms.calc = forcelaw.Calculator(run.path, dtype="float64")
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.05 * units.fs).run(steps)
    return abs(atoms.get_total_energy() - before), atoms.get_kinetic_energy()


def test_direct_forces_warn_and_do_not_conserve_energy(pack, run, tmp_path):
    direct = run_directory(tmp_path, pack, forces="direct")
    with pytest.warns(NotConservativeWarning):
        calculator = forcelaw.Calculator(direct.path)
    assert "stress" not in calculator.implemented_properties
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forcelaw.Calculator(run.path)
    changed, kinetic = drift(run)
    assert changed < 1e-3 * kinetic
    changed, kinetic = drift(direct)
    assert changed > 1e-1 * kinetic


def test_no_cell_no_finite_positions_and_no_run_are_said_in_words(tmp_path):
    with pytest.raises(StoreError, match="not the directory of a run"):
        forcelaw.Calculator(tmp_path / "nowhere")
    with pytest.raises(DataError, match="pbc = False"):
        cell_list_edges(np.zeros((2, 3)), 5.0, np.zeros((3, 3)), np.ones(3, bool))
    with pytest.raises(DataError, match="blown up"):
        cell_list_edges(np.full((2, 3), np.nan), 5.0)
