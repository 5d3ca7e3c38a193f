"""Stress, charge, spin and config type from files to packs, against ASE and finite differences."""

from __future__ import annotations

import io

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import GPa

from forcelaw.data.build import PrepareOptions
from forcelaw.data.pack import Pack
from forcelaw.data.prepare import prepare
from forcelaw.errors import DataError

from .files import read


def cells(number=6):
    """Sheared and strained copper with EMT's energies, forces and stress."""
    rng = np.random.default_rng(0)
    out = []
    for k in range(number):
        atoms = bulk("Cu", cubic=True)
        strain = np.eye(3) + 0.04 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=(4, 3))
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.info["config_type"] = ["bulk", "strained"][k % 2]
        out.append(atoms)
    return out


@pytest.fixture(scope="module")
def copper():
    return cells()


@pytest.fixture
def expected(copper):
    return np.stack([atoms.get_stress(voigt=False) for atoms in copper])


def test_sign_is_that_of_the_energy(copper, expected):
    """(1/V) dE/d(strain) by central differences is what is read."""
    atoms, step = copper[0], 1e-5
    for i, j in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            moved.calc = EMT()
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert slope == pytest.approx(expected[0, i, j], rel=2e-3, abs=1e-5)


def test_ase_extxyz_and_database(tmp_path, copper, expected):
    ase.io.write(tmp_path / "a.extxyz", copper)
    block = read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(block.stresses, expected, atol=2e-8)
    assert block.configs == ["bulk", "strained"] * 3
    with ase.db.connect(tmp_path / "a.db") as database:
        for atoms in copper:
            database.write(atoms, config_type=atoms.info["config_type"])
    block = read(tmp_path / "a.db")
    np.testing.assert_allclose(block.stresses, expected, atol=1e-12)
    assert block.configs == ["bulk", "strained"] * 3


def hand_written(path, copper, values, key="stress", skip=()):
    """Frames whose comment line holds ``key="values"``."""
    plain = [atoms.copy() for atoms in copper]
    for k, (atoms, made, numbers) in enumerate(zip(plain, copper, values)):
        atoms.info["energy"] = made.get_potential_energy()
        atoms.arrays["forces"] = made.get_forces()
        if k not in skip:
            atoms.info[key] = np.asarray(numbers)
    ase.io.write(path, plain, format="extxyz")
    return path


@pytest.mark.parametrize(
    ("convention", "order", "factor"),
    [
        ("ase", [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)], 1.0),
        ("vasp", [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)], -10 / GPa),
        ("lammps", [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)], -1e4 / GPa),
    ],
)
def test_conventions(tmp_path, copper, expected, convention, order, factor):
    values = [[t[i, j] * factor for i, j in order] for t in expected]
    path = hand_written(tmp_path / "a.xyz", copper, values, key="p")
    block = read(path, stress_key="p", stress_convention=convention)
    np.testing.assert_allclose(block.stresses, expected, rtol=1e-6, atol=1e-9)
    for before in ("", "converged "):  # a bare word: the line is read by ASE's own function
        text = path.read_text().replace(" p=", f" {before}stress=")
        (tmp_path / "b.xyz").write_text(text)  # ASE cannot read it: its "stress" has nine numbers
        block = read(tmp_path / "b.xyz", stress_convention=convention)
        np.testing.assert_allclose(block.stresses, expected, rtol=1e-6, atol=1e-9)


def test_six_numbers_of_a_virial_and_no_numbers(tmp_path, copper, expected):
    order = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    virials = [
        [-t[i, j] * atoms.get_volume() for i, j in order] for t, atoms in zip(expected, copper)
    ]
    path = hand_written(tmp_path / "a.xyz", copper, virials, key="p")
    path.write_text(path.read_text().replace(" p=", " virial="))
    np.testing.assert_allclose(read(path).stresses, expected, rtol=1e-6, atol=1e-9)
    path = hand_written(tmp_path / "b.xyz", copper, [[0.0]] * 6, key="p")
    path.write_text(path.read_text().replace(" p=", " stress="))
    assert read(path, no_stress=True).stresses is None
    with pytest.raises(DataError, match=r"frame 0") as caught:
        read(path)
    assert "--no-stress" in caught.value.remedy
    path.write_text(path.read_text().replace('Lattice="', 'Lattice="0 '))
    with pytest.raises(DataError, match=r"frame 0"):
        read(path, no_stress=True)


def test_virials_and_units(tmp_path, copper, expected):
    volumes = np.array([atoms.get_volume() for atoms in copper])
    virials = -expected * volumes[:, None, None]
    path = hand_written(tmp_path / "a.xyz", copper, virials, key="REF_virials", skip=(2,))
    block = read(path)
    assert np.isnan(block.stresses[2]).all()
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(block.stresses[rest], expected[rest], rtol=1e-6, atol=1e-9)
    path = hand_written(tmp_path / "b.xyz", copper, expected / GPa, key="p")
    block = read(path, stress_key="p", stress_unit="GPa")
    np.testing.assert_allclose(block.stresses, expected, rtol=1e-6, atol=1e-9)
    assert read(path).stresses is None
    assert read(path, stress_key="p", no_stress=True).stresses is None
    with pytest.raises(DataError):
        read(path, stress_key="absent")
    with pytest.raises(DataError):
        read(path, stress_key="p", stress_unit="eV")


@pytest.mark.parametrize("rotate", [None, True])
def test_packs_keep_them_and_turn_stress_with_the_cell(tmp_path, copper, expected, rotate):
    ase.io.write(tmp_path / "a.extxyz", copper)
    options = PrepareOptions(val_fraction=0.3, seed=1, group="frame", rotate=rotate)
    pack = Pack(
        prepare([tmp_path / "a.extxyz"], tmp_path / "p", options=options, say=io.StringIO())
    )
    assert [pack.config_types[k] for k in pack.configs] == ["bulk", "strained"] * 3
    for k, atoms in enumerate(copper):
        turn = np.linalg.solve(atoms.cell[:], np.asarray(pack.cells[k]))  # cell' = cell turn
        np.testing.assert_allclose(pack.stresses[k], turn.T @ expected[k] @ turn, atol=1e-7)
    again = prepare([pack.path], tmp_path / "q", options=options, say=io.StringIO())
    assert Pack(again).config_types == pack.config_types
    if rotate is None:
        np.testing.assert_array_equal(Pack(again).stresses, pack.stresses)
