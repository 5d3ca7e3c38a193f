"""Damaged and wrong sources: each gets an error that says what was found, where, and what to do."""

from __future__ import annotations

import gc
import gzip
import zipfile

import h5py
import numpy as np
import pytest

from forcelaw.data.build import PrepareOptions
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import SourceOptions, open_source
from forcelaw.errors import DataError

from . import files

TOLD = {"energy_unit": "eV", "length_unit": "Angstrom"}


def refused(path, match=None, **options):
    """Preparing the source fails with these facts in its message, a place or a remedy, and leaves
    nothing behind."""
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=match) as error:
        prepare(
            [path],
            folder / "pack",
            sources=SourceOptions(**options),
            options=PrepareOptions(group="frame"),
        )
    assert error.value.where or error.value.remedy
    assert list(folder.iterdir()) == []
    return error.value


def spoil(path, old, new, count=1):
    path.write_text(path.read_text().replace(old, new, count))
    return path


@pytest.fixture
def xyz(tmp_path):
    return files.extxyz(tmp_path / "a.xyz", files.molecules(20))


@pytest.mark.parametrize("name", ["a.xyz", "a.npz", "a.h5", "a.db", "a.aselmdb", "a.xyz.gz"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert "empty" in refused(tmp_path / name).what


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.db", "a.aselmdb", "a.xyz.gz", "a.xyz"])
def test_garbage(tmp_path, name):
    (tmp_path / name).write_bytes(b"certainly not structures\n" * 400)
    refused(tmp_path / name)


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(DataError) as error:
        open_source(tmp_path / "no.xyz")
    assert "no.xyz" in error.value.where
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.pkl") as error:
        open_source(tmp_path / "a.pkl")
    assert ".extxyz" in error.value.remedy


def test_wrong_key_names_what_was_seen(xyz):
    error = refused(xyz, "'enrgy'", energy_key="enrgy")
    assert (
        "comment line: energy; column: forces" in error.what
        and "--energy-key energy" in error.remedy
    )


def test_unknown_unit(xyz):
    error = refused(xyz, "'kcal/mole'", energy_unit="kcal/mole")
    assert "kcal/mol" in error.remedy


def test_energy_given_as_a_length(xyz):
    refused(xyz, "'bohr'", energy_unit="bohr")


@pytest.mark.parametrize("lines", [1, 2, 4])
def test_truncated_extxyz(xyz, lines):
    text = xyz.read_text().splitlines()
    xyz.write_text("\n".join(text[:-lines]) + "\n")
    error = refused(xyz, "9 atoms")
    assert "frame 19" in error.where


def test_extxyz_cut_inside_a_line(xyz):
    xyz.write_text(xyz.read_text()[:-30])
    assert "frame 19" in refused(xyz).where


def test_truncated_gzip(xyz, tmp_path):
    path = tmp_path / "b.xyz.gz"
    data = gzip.compress(xyz.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refused(path).where


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_npz_and_hdf5(tmp_path, part):
    path = files.padded_npz(tmp_path / "a.npz", files.molecules(300))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert str(path) in refused(path, **TOLD).where
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for k in range(50):
            g = file.create_group(f"m{k}")
            g["species"], g["coordinates"] = [[1, 1]] * 50, np.zeros((50, 2, 3))
            g["energies"], g["forces"] = np.zeros(50), np.zeros((50, 2, 3))
    path = tmp_path / "a.h5"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert str(path) in refused(path).where


def test_npz_with_a_flipped_byte(tmp_path):
    path = files.padded_npz(tmp_path / "a.npz", files.molecules(300))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("F.npy").header_offset + 5000
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))
    assert str(path) in refused(path, **TOLD).where


def test_truncated_databases(tmp_path):
    for name in ("a.db", "a.aselmdb"):
        path = files.database(tmp_path / name, files.molecules(200))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        assert str(path) in refused(path).where


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_lmdb_file_is_an_error_without_a_traceback_beside_it(tmp_path):
    path = files.database(tmp_path / "a.aselmdb", files.molecules(20))
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF  # of the version
    path.write_bytes(content)
    refused(path)
    gc.collect()


def test_sqlite_file_of_another_kind(tmp_path):
    import sqlite3

    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.commit()
    connection.close()
    refused(tmp_path / "a.db", "systems.*songs")


@pytest.mark.parametrize("symbol", ["Xx", "X", "0", "119"])
def test_unknown_element_in_extxyz(xyz, symbol):
    error = refused(spoil(xyz, "\nO ", f"\n{symbol} "), "unknown element")
    assert "frame 1" in error.where


def test_unknown_element_in_npz(tmp_path):
    frames = files.molecules(20)
    frames[3]["numbers"] = frames[3]["numbers"] + 114
    error = refused(
        files.padded_npz(tmp_path / "a.npz", frames),
        "unknown element: atomic number 1(20|23|15)",
        **TOLD,
    )
    assert "frame 3" in error.where


def test_word_for_a_number(xyz):
    lines = xyz.read_text().splitlines()
    lines[20] = "H 0.0 oops 0.0 0 0 0"
    xyz.write_text("\n".join(lines) + "\n")
    error = refused(xyz, "pos .*oops")
    assert "line 21" in error.where


def test_charge_that_is_not_whole(tmp_path):
    path = files.extxyz(tmp_path / "a.xyz", files.molecules(8), header="charge=0.5")
    refused(path, r"charge 0\.5")


def test_pickled_npz_is_never_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        z=np.array([1, 1]),
        R=np.zeros((3, 2, 3)),
        E=np.zeros(3),
        F=np.array([{}, {}, {}], object),
    )
    refused(path, "array F .*pickled", **TOLD)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("F", np.zeros((4, 9, 3)), r"F has shape \(4, 9, 3\)"),
        ("E", np.zeros(4), r"E has shape \(4,\)"),
        ("z", np.ones((5, 8), int), r"z has shape \(5, 8\)"),
        ("R", np.zeros((5, 9)), r"R has shape \(5, 9\)"),
        ("z", np.ones(9), "z holds float64"),
    ],
)
def test_npz_arrays_that_disagree(tmp_path, name, value, match):
    arrays = {
        "z": np.ones(9, int),
        "R": np.ones((5, 9, 3)),
        "E": np.zeros(5),
        "F": np.zeros((5, 9, 3)),
        name: value,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", match, **TOLD)


def test_npz_in_fortran_order(tmp_path):
    positions = np.asfortranarray(np.ones((5, 9, 3)))
    arrays = {"z": np.ones(9, int), "R": positions, "E": np.zeros(5), "F": np.zeros((5, 9, 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", "array R .*Fortran", **TOLD)


def test_npz_units_are_never_guessed(tmp_path):
    error = refused(files.padded_npz(tmp_path / "a.npz", files.molecules(8)))
    assert "--energy-unit" in error.remedy and "--length-unit" in error.remedy


def test_hdf5_arrays_that_disagree(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        g = file.create_group("m")
        g["species"], g["coordinates"] = [[1, 1]] * 5, np.zeros((5, 2, 3))
        g["energies"], g["forces"] = np.zeros(5), np.zeros((5, 3, 3))
    refused(tmp_path / "a.h5", r"forces has shape \(5, 3, 3\)")


def test_flat_hdf5_whose_counts_do_not_add_up(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["natoms"], file["atomic_numbers"] = [2, 2], [1, 1, 1, 1, 1]
        for name, shape, unit in (
            ("positions", (5, 3), "Angstrom"),
            ("forces", (5, 3), "eV/Angstrom"),
            ("energy", 2, "eV"),
        ):
            file[name] = np.zeros(shape)
            file[name].attrs["units"] = unit
    refused(tmp_path / "a.h5", "natoms .*4.*atomic_numbers .*5")


def test_flat_hdf5_under_other_names_says_how_it_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["Z"], file["pos"] = [1] * 6, np.zeros((6, 3))
        file["natoms"], file["energy"], file["forces"] = [2] * 3, np.zeros(3), np.zeros((6, 3))
    units = {"energy_unit": "eV", "length_unit": "Angstrom"}
    error = refused(tmp_path / "a.h5", "do not belong together", **units)
    assert "natoms (s,)" in error.remedy and "atomic_numbers (a,)" in error.remedy


def test_unknown_hdf5_layout(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["stuff"] = np.zeros(3)
    refused(tmp_path / "a.h5", "stuff")


def test_both_forces_and_gradient(xyz):
    with pytest.raises(DataError, match=r"--forces-key.*--gradient-key"):
        SourceOptions(forces_key="a", gradient_key="b")
