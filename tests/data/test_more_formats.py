"""Trajectories, JSON databases, deepmd systems and nested HDF5, written here by ASE or by hand, and
read back; units that files state; formats that are refused."""

from __future__ import annotations

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree, kcal, mol

from forcelaw.data.readers import open_source
from forcelaw.data.readers.base import join
from forcelaw.errors import DataError

from . import files
from .files import read


@pytest.fixture(scope="module")
def crystals():
    rng = np.random.default_rng(1)
    out = []
    for k in range(5):
        atoms = bulk("Cu", cubic=True) if k % 2 else bulk("Ni", cubic=True)
        atoms.rattle(0.05, rng=rng)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        calculator = EMT()
        atoms.calc = calculator
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"config_type": f"k{k % 2}", "charge": k % 2}
        out.append(atoms)
    return out


def same(block, frames):
    """A block holds what ASE holds."""
    np.testing.assert_allclose(
        block.energies, [a.get_potential_energy() for a in frames], atol=1e-8
    )
    np.testing.assert_allclose(
        block.forces, np.concatenate([a.get_forces() for a in frames]), atol=1e-7
    )
    np.testing.assert_allclose(
        block.positions, np.concatenate([a.positions for a in frames]), atol=1e-7
    )
    np.testing.assert_allclose(block.cells, np.stack([a.cell[:] for a in frames]), atol=1e-7)
    assert block.numbers.tolist() == np.concatenate([a.numbers for a in frames]).tolist()
    expected = np.stack([a.get_stress(voigt=False) for a in frames])
    np.testing.assert_allclose(block.stresses, expected, atol=1e-7)


def test_trajectory(tmp_path, crystals):
    ase.io.write(tmp_path / "a.traj", crystals)
    block = read(tmp_path / "a.traj")
    same(block, crystals)
    assert block.configs == ["k0", "k1", "k0", "k1", "k0"]
    assert block.charges.tolist() == [0, 1, 0, 1, 0]
    assert read(tmp_path / "a.traj", gradient_key="forces").forces[0] == pytest.approx(
        -block.forces[0]
    )


def test_json_database(tmp_path, crystals):
    with ase.db.connect(tmp_path / "a.json") as database:
        for atoms in crystals:
            database.write(atoms)
    same(read(tmp_path / "a.json"), crystals)
    (tmp_path / "b.json").write_text('{"a": 1}')
    with pytest.raises(DataError):
        open_source(tmp_path / "b.json")


def write_deepmd(folder, frames, *, mixed=False):
    """A system as deepmd documents it: two sets of frames of the same atoms."""
    symbols = sorted({s for a in frames for s in a.get_chemical_symbols()})
    types = np.array([[symbols.index(s) for s in a.get_chemical_symbols()] for a in frames])
    folder.mkdir()
    (folder / "type_map.raw").write_text("\n".join(symbols))
    (folder / "type.raw").write_text(" ".join(map(str, types[0] * 0 if mixed else types[0])))
    for k, part in enumerate((frames[:2], frames[2:])):
        (folder / f"set.{k:03d}").mkdir()
        arrays = {
            "coord": [a.positions.reshape(-1) for a in part],
            "energy": [a.get_potential_energy() for a in part],
            "force": [a.get_forces().reshape(-1) for a in part],
            "box": [a.cell[:].reshape(-1) for a in part],
            "virial": [(-a.get_volume() * a.get_stress(voigt=False)).reshape(-1) for a in part],
        }
        if mixed:
            arrays["real_atom_types"] = types[2 * k : 2 * k + len(part)]
        for name, values in arrays.items():
            np.save(folder / f"set.{k:03d}" / f"{name}.npy", np.array(values))
    return folder


def test_deepmd(tmp_path, crystals):
    copper = crystals[1::2]
    whole = [*copper, *copper]
    same(read(write_deepmd(tmp_path / "cu", whole)), whole)
    same(read(write_deepmd(tmp_path / "mixed", crystals, mixed=True)), crystals)
    source = open_source(tmp_path)  # a folder of systems
    assert source.structures == 9 and len(join(list(source.blocks()))) == 9
    (tmp_path / "cu" / "type_map.raw").unlink()
    with pytest.raises(DataError) as error:
        read(tmp_path / "cu")
    assert "type_map.raw" in error.value.remedy
    (tmp_path / "mixed" / "set.000" / "force.npy").unlink()
    with pytest.raises(DataError):
        open_source(tmp_path / "mixed")


def test_deepmd_of_molecules(tmp_path, crystals):
    folder = write_deepmd(tmp_path / "cu", crystals[1::2] * 2)
    (folder / "nopbc").touch()
    block = read(folder)
    assert block.pbc is None and np.isnan(block.stresses).all()  # no volume, no stress


def nested_ani(path, forces=True):
    """COMP6 and ANI-1: groups in a group, symbols as bytes, hartree."""
    rng = np.random.default_rng(0)
    arrays = {}
    with h5py.File(path, "w") as file:
        for name, kind in (("gdb-0", "CH4"), ("gdb-1", "H2O")):
            atoms = molecule(kind)
            x = atoms.positions + 0.05 * rng.normal(size=(3, len(atoms), 3))
            e, f = rng.normal(size=3) - 40, rng.normal(size=x.shape)
            group = file.create_group(f"set/{name}")
            group["species"] = np.array([s.encode() for s in atoms.get_chemical_symbols()])
            group["coordinates"], group["energies"] = x, e
            if forces:
                group["forces"] = f
            arrays[name] = (atoms.numbers, x, e, f)
    return arrays


def test_nested_ani(tmp_path):
    arrays = nested_ani(tmp_path / "a.h5")
    block = read(tmp_path / "a.h5")
    x, e, f = (
        np.concatenate([a[k].reshape(-1, 3) if k != 2 else a[k] for a in arrays.values()])
        for k in (1, 2, 3)
    )
    np.testing.assert_allclose(block.positions, x)
    np.testing.assert_allclose(block.energies, e * Hartree, rtol=1e-6)
    np.testing.assert_allclose(block.forces, f * Hartree, rtol=1e-6)
    assert block.groups == ["/set/gdb-0"] * 3 + ["/set/gdb-1"] * 3
    assert block.counts.tolist() == [5] * 3 + [3] * 3
    nested_ani(tmp_path / "b.h5", forces=False)  # ANI-1 itself
    with pytest.raises(DataError) as error:
        read(tmp_path / "b.h5")
    assert "force" in error.value.what


@pytest.mark.parametrize("inner", ["", "properties/"])
def test_a_group_for_each_structure(tmp_path, crystals, inner):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for k, atoms in enumerate(crystals):
            group = file.create_group(f"batch{k // 2}/config_{k}")
            group["atomic_numbers"], group["positions"] = atoms.numbers, atoms.positions
            group["cell"], group["pbc"] = atoms.cell[:], atoms.pbc
            group[inner + "energy"] = atoms.get_potential_energy()
            group[inner + "forces"] = atoms.get_forces()
            group[inner + "stress"] = atoms.get_stress(voigt=False)
    with pytest.raises(DataError) as error:  # nothing says the units
        read(tmp_path / "a.h5")
    assert "--energy-unit" in error.value.remedy
    block = read(tmp_path / "a.h5", energy_unit="eV", length_unit="Angstrom")
    same(block, crystals)
    assert block.groups is None
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["batch1/config_2/" + inner + "forces"]
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.h5", energy_unit="eV", length_unit="Angstrom")
    assert "config_2" in error.value.where


def test_units_that_a_comment_line_states(tmp_path):
    frames = files.molecules(8)
    plain = read(files.extxyz(tmp_path / "a.xyz", frames))
    stated = read(files.extxyz(tmp_path / "b.xyz", frames, header="energy_unit=kcal/mol"))
    np.testing.assert_allclose(stated.energies, plain.energies * kcal / mol, rtol=1e-6)
    np.testing.assert_allclose(stated.forces, plain.forces * kcal / mol, rtol=1e-6)
    told = read(tmp_path / "b.xyz", energy_unit="eV")  # the user comes first
    np.testing.assert_allclose(told.energies, plain.energies)
    frames[3]["header"] = "energy_unit=hartree"
    frames[4]["header"] = "energy_unit=eV"
    with pytest.raises(DataError):
        open_source(files.extxyz(tmp_path / "c.xyz", frames))


def test_free_atoms_need_no_forces(tmp_path):
    (tmp_path / "atoms.xyz").write_text(
        "".join(
            f"1\nProperties=species:S:1:pos:R:3 energy={e}\n{s} 0 0 0\n"
            for s, e in (("H", -13.6), ("C", -1028.0))
        )
    )
    block = read(tmp_path / "atoms.xyz")
    assert block.energies.tolist() == [-13.6, -1028.0] and (block.missing == 2).all()


def test_pickles_are_refused_with_a_way_out(tmp_path):
    (tmp_path / "a.lmdb").write_bytes(b"\x80\x04")
    with pytest.raises(DataError) as error:
        open_source(tmp_path / "a.lmdb")
    assert ".aselmdb" in error.value.remedy


@pytest.mark.parametrize("name", ["a.traj", "a.h5", "a.json"])
def test_damage(tmp_path, crystals, name):
    if name == "a.traj":
        ase.io.write(tmp_path / name, crystals)
    elif name == "a.json":
        with ase.db.connect(tmp_path / name) as database:
            database.write(crystals[0])
    else:
        nested_ani(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for size in (10, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(DataError):
            read(tmp_path / name)
