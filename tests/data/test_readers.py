"""Readers against slow obvious ones (tests/reference/readers_slow.py), on shipped files and on
written ones."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3

import ase.db
import h5py
import numpy as np
import pytest
from ase.io.extxyz import SPECIAL_3_3_KEYS, key_val_str_to_dict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import readers_slow as slow
from shared_data import SHIPPED

from forcelaw.data import readers
from forcelaw.data.pack import group_hash
from forcelaw.data.readers import SourceOptions, ase_db, base, hdf5, open_source
from forcelaw.data.readers.extxyz_comment import comment
from forcelaw.errors import DataError

from . import files


def read(path, **options):
    return slow.split(open_source(path, SourceOptions(**options)).blocks())


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of at most 7 structures, so that every reader crosses block borders."""
    monkeypatch.setattr(base, "BLOCK_STRUCTURES", 7)
    monkeypatch.setattr(hdf5, "BLOCK_STRUCTURES", 7)


# --- shipped files


def test_rmd17(small_blocks):
    path = SHIPPED / "rmd17_ethanol.npz"
    source = open_source(path)
    got = slow.split(source.blocks())
    keys = ("nuclear_charges", "coords", "energies", "forces")
    slow.same(got, slow.npz(path, slow.KCAL, keys))
    assert len(got) == source.structures == 250
    assert (source.units.energy, source.units.force) == ("kcal/mol", "kcal/mol/Angstrom")
    slow.energies_are_those_of_molecules(np.array([s["energy"] for s in got]), got[0]["numbers"])


def test_sgdml_in_kcal_when_given():
    path = SHIPPED / "sgdml_ethanol.npz"
    got = read(path, energy_unit="kcal/mol", length_unit="Angstrom")
    slow.same(got, slow.npz(path, slow.KCAL, ("z", "R", "E", "F")))


def test_padded_sgdml(small_blocks):
    path = SHIPPED / "gfn2_padded.npz"
    got = read(path, energy_unit="eV", length_unit="Angstrom")
    slow.same(got, slow.npz(path, 1.0, ("z", "R", "E", "F")))
    assert len({len(s["numbers"]) for s in got}) > 8


def test_spice(small_blocks):
    path = SHIPPED / "spice.hdf5"
    slow.same(read(path), slow.spice(path), labels=True, rtol=1e-9)


def test_ani2x(small_blocks):
    path = SHIPPED / "ani2x.hdf5"
    slow.same(read(path), slow.ani(path, "species", "energies", "forces"))


def test_ani1x_asks_for_the_level_of_theory():
    path = SHIPPED / "ani1x.hdf5"
    with pytest.raises(DataError) as error:
        open_source(path)
    assert "wb97x_tz.forces" in error.value.what
    assert "--energy-key wb97x_dz.energy --forces-key wb97x_dz.forces" in error.value.remedy
    got = read(path, energy_key="wb97x_tz.energy", forces_key="wb97x_tz.forces")
    slow.same(got, slow.ani(path, "atomic_numbers", "wb97x_tz.energy", "wb97x_tz.forces"))


def test_flat_hdf5(small_blocks):
    path = SHIPPED / "gfn2_flat.h5"
    got, expected = read(path), slow.xtb(path, 0, 300)
    slow.same(got, expected)
    assert [s["group"] for s in got] == [group_hash(s["group"]) for s in expected]


@pytest.mark.parametrize("name", ["acac_300K.xyz.gz", "relaxation.extxyz.gz"])
def test_extxyz(name):
    slow.same(read(SHIPPED / name), slow.extxyz(SHIPPED / name), labels=True)


WORD = st.text(st.characters(exclude_characters="\n", max_codepoint=300), min_size=1, max_size=8)
NUMBER = st.one_of(st.integers(), st.floats()).map(str)
USUAL = st.sampled_from(
    ["T T F", "1,2", "1e5", "+.5", "-0", "_JSON [1]", "True", "1_0", "\u0663", "a b"]
)
QUOTED = st.lists(NUMBER, min_size=1, max_size=9).map(" ".join)
VALUE = st.one_of(NUMBER, USUAL, QUOTED, WORD)
PAIR = st.tuples(
    st.one_of(st.sampled_from(["energy", "uid", "pbc", "stress", "e-1"]), WORD),
    st.sampled_from(["{}={}", '{}="{}"', "{}='{}'", "{}={{{}}}", "{} = {}", "{}", '{}="{}"x']),
    VALUE,
).map(lambda pair: pair[1].format(pair[0], pair[2]))


@settings(max_examples=600, derandomize=True, deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=4).map(" ".join).filter(str.strip))
@example('stress=0 stress="0 0 0 0 0 0 0 0 1"')
@example('stress="_JSON [1]"  =0')
@example('energy=0 stress=0 "=0 stress=0')
@example('a="b stress=0 c" stress=0')
def test_a_comment_line_is_read_as_ase_reads_it(line) -> None:
    def what(read):
        try:
            return {k: (type(v), shown(repr(v))) for k, v in read(line + "\n").items()}
        except Exception as error:
            return type(error)

    def shown(text):
        return re.sub(f"({'|'.join(SPECIAL_3_3_KEYS)})_", r"\1", text)

    def with_any_matrix(text):
        """ASE, where a stress that is not nine numbers is read as under any other name."""
        try:
            return key_val_str_to_dict(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            hidden = re.sub("|".join(SPECIAL_3_3_KEYS), r"\g<0>_", text)
        found = {shown(key): value for key, value in key_val_str_to_dict(hidden).items()}
        for key in SPECIAL_3_3_KEYS:
            if np.size(found.get(key)) == 9:  # another one was the wrong one
                found[key] = found[key].reshape((3, 3), order="F")
        return found

    assert what(comment) == what(with_any_matrix)


def test_what_comment_lines_share_is_not_shared_between_frames() -> None:
    first, second = comment('pbc="T T F" a="1 2"'), comment('pbc="T T F" a="1 2"')
    first["pbc"][0], first["a"][0] = False, 7
    assert second["pbc"] == [True, True, False] and second["a"].tolist() == [1, 2]


def test_extxyz_with_odd_keys():
    path = SHIPPED / "solvent_xtb.xyz.gz"
    with pytest.raises(DataError) as error:
        open_source(path)
    for flag, key in (("--energy-key", "energy_xtb"), ("--forces-key", "forces_xtb")):
        assert key in error.value.what and f"{flag} {key}" in error.value.remedy
    slow.same(
        read(path, energy_key="energy_xtb", forces_key="forces_xtb"),
        slow.extxyz(path, "energy_xtb", "forces_xtb"),
    )


def test_extxyz_force_is_not_forces(tmp_path):
    path = files.extxyz(tmp_path / "a.xyz", files.molecules(8), forces="force")
    with pytest.raises(DataError) as error:
        open_source(path)
    assert "--forces-key force " in error.value.remedy
    slow.same(read(path, forces_key="force"), slow.extxyz(path, "energy", "force"))


def test_extxyz_in_kcal_when_given():
    path = SHIPPED / "acac_300K.xyz.gz"
    source = open_source(path, SourceOptions(energy_unit="kcal/mol"))
    assert source.units.force == "kcal/mol/Angstrom"
    assert "energy given" in source.units.origin and "eV" in source.units.origin
    slow.same(slow.split(source.blocks()), slow.extxyz(path, unit=slow.KCAL))


def test_extxyz_without_forces_is_refused(tmp_path):
    written = files.extxyz(tmp_path / "a.xyz", files.molecules(8), energy="U0", forces=None)
    for path, flags in (
        (SHIPPED / "acac_dihedral.xyz", ["--forces-key", "--gradient-key"]),
        (written, ["--energy-key U0", "--forces-key"]),
    ):
        with pytest.raises(DataError) as error:
            open_source(path)
        assert all(flag in error.value.remedy for flag in flags)


def test_ase_database(small_blocks):
    slow.same(read(SHIPPED / "alloys.db"), slow.ase_db(SHIPPED / "alloys.db"))


def test_schnetpack_database(small_blocks):
    path = SHIPPED / "schnetpack.db"
    source = open_source(path)
    assert (source.units.energy, source.units.force) == ("hartree", "hartree/Angstrom")
    slow.same(slow.split(source.blocks()), slow.ase_db(path, slow.HARTREE, data=True))
    with ase.db.connect(path) as database:
        smiles = [row.key_value_pairs["smiles"] for row in database.select()]
    assert [s["group"] for s in read(path, group_key="smiles")] == smiles


def test_a_database_is_closed_after_reading(monkeypatch, small_blocks):
    """ASE closes no connection by itself; Python 3.13 complains of each."""
    monkeypatch.setattr(ase_db, "PAGE", 5)
    opened = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def close(self):
            opened.remove(self)
            super().close()

    def recorded(*args, **kwargs):
        opened.append(connect(*args, factory=Connection, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    source = open_source(SHIPPED / "schnetpack.db")
    assert opened == []
    blocks = source.blocks()
    next(blocks)
    assert opened  # read as it goes
    assert len(list(blocks)) and opened == []
    abandoned = source.blocks()
    next(abandoned)
    abandoned.close()
    assert opened == []


# --- written files


def charged(frames):
    """Frames with charge and spin in row.data, as OMol25 has them."""
    return [
        {
            **f,
            "data": {"charge": k % 3 - 1, "spin": k % 2 + 1},
            "charge": k % 3 - 1,
            "spin": k % 2 + 1,
        }
        for k, f in enumerate(frames)
    ]


def test_aselmdb_with_charge_and_spin(tmp_path, small_blocks):
    frames = charged(files.molecules(30))
    path = files.database(tmp_path / "data0000.aselmdb", frames)
    source = open_source(path)
    assert source.structures == 30 and source.keys["charge"] == "charge (data)"
    expected = [
        slow.structure(
            f["numbers"],
            f["positions"],
            f["energy"],
            f["forces"],
            charge=f["charge"],
            spin=f["spin"],
        )
        for f in frames
    ]
    slow.same(slow.split(source.blocks()), expected, labels=True)


def test_folder_of_aselmdb_is_one_source(tmp_path):
    frames = charged(files.molecules(30))
    for k in range(3):
        files.database(tmp_path / f"data{k:04d}.aselmdb", frames[10 * k : 10 * k + 10])
    source = open_source(tmp_path)
    assert source.structures == 30 and "folder of 3 files" in source.reader
    expected = [
        slow.structure(f["numbers"], f["positions"], f["energy"], f["forces"]) for f in frames
    ]
    slow.same(slow.split(source.blocks()), expected)
    before = open_source(tmp_path).sha256()
    files.database(tmp_path / "data0003.aselmdb", frames[:1])
    assert open_source(tmp_path).sha256() != before


def test_reading_leaves_a_database_untouched(tmp_path):
    path = files.database(tmp_path / "a.db", files.molecules(5))
    before = path.read_bytes()
    read(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("energy", "forces", "given"),
    [
        ("energy", "forces", {}),
        ("REF_energy", "REF_forces", {}),
        ("dft", "gradients", {"energy_key": "dft", "gradient_key": "gradients"}),
        ("dft", "f_dft", {"energy_key": "dft", "forces_key": "f_dft"}),
    ],
)
@pytest.mark.parametrize("suffix", [".xyz", ".extxyz.gz"])
def test_extxyz_keys(tmp_path, energy, forces, given, suffix):
    frames = files.molecules(12)
    path = files.extxyz(tmp_path / "a.xyz", frames, energy, forces)
    if suffix.endswith("gz"):
        text, path = path.read_bytes(), tmp_path / f"b{suffix}"
        path.write_bytes(gzip.compress(text))
    sign = -1 if "gradient_key" in given else 1
    expected = [
        slow.structure(f["numbers"], f["positions"], f["energy"], sign * f["forces"])
        for f in frames
    ]
    slow.same(read(path, **given), expected)


def test_extxyz_two_sets_of_labels_are_ambiguous(tmp_path):
    frames = files.molecules(4)
    path = files.extxyz(tmp_path / "a.xyz", frames, header="REF_energy=1.5")
    text = path.read_text().replace("forces:R:3", "forces:R:3:REF_forces:R:3")
    rows = [
        line + " 1 2 3" if len(line.split()) == 7 and "=" not in line else line
        for line in text.splitlines()
    ]
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError) as error:
        open_source(path)
    assert "REF_energy" in error.value.what and "--energy-key" in error.value.remedy
    got = read(path, energy_key="REF_energy", forces_key="REF_forces")
    assert all(s["energy"] == 1.5 and (s["forces"] == [1, 2, 3]).all() for s in got)


def test_extxyz_charge_spin_and_group(tmp_path):
    frames = [
        {**f, "header": f"charge={k % 3 - 1} spin={k % 2 + 1} mol=m{k % 5}"}
        for k, f in enumerate(files.molecules(20))
    ]
    got = read(files.extxyz(tmp_path / "a.xyz", frames), group_key="mol")
    assert [(s["charge"], s["spin"], s["group"]) for s in got] == [
        (k % 3 - 1, k % 2 + 1, f"m{k % 5}") for k in range(20)
    ]


def test_extxyz_cells(tmp_path):
    frames = files.molecules(3)
    lattice = 'Lattice="9 0 0 1 8 0 0 2 7"'
    for frame, extra in zip(frames, (lattice, lattice + ' pbc="T F T"', lattice + ' pbc="F F F"')):
        frame["header"] = extra
    path = files.extxyz(tmp_path / "a.xyz", frames)
    slow.same(read(path), slow.extxyz(path))
    first = next(iter(open_source(path).blocks()))
    assert first.cells[0].tolist() == [[9, 0, 0], [1, 8, 0], [0, 2, 7]]  # rows are the vectors
    assert first.pbc.tolist() == [[True] * 3, [True, False, True], [False] * 3]


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_streams_both_encodings(tmp_path, compressed, small_blocks):
    frames = files.molecules(50)
    path = files.padded_npz(tmp_path / "a.npz", frames, compressed=compressed)
    expected = [
        slow.structure(f["numbers"], f["positions"], f["energy"], f["forces"]) for f in frames
    ]
    slow.same(read(path, energy_unit="eV", length_unit="Angstrom"), expected)


def test_npz_padding_in_the_middle(tmp_path):
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez(
        path,
        z=[[8, 0, 1, 1], [0, 7, 1, 0]],
        R=rng.normal(size=(2, 4, 3)),
        F=rng.normal(size=(2, 4, 3)),
        E=[1.0, 2.0],
    )
    got = read(path, energy_unit="eV", length_unit="Angstrom")
    slow.same(got, slow.npz(path, 1.0, ("z", "R", "E", "F")))
    assert [s["numbers"].tolist() for s in got] == [[8, 1, 1], [7, 1]]


def test_npz_units_declared_in_the_file(tmp_path):
    frames = files.molecules(8)
    path = files.padded_npz(
        tmp_path / "a.npz",
        frames,
        unit=1 / slow.KCAL,
        e_unit=np.array("kcal/mol"),
        r_unit=np.array("Ang"),
    )
    source = open_source(path)
    assert source.units.origin == "declared in the file by e_unit and r_unit"
    for got, frame in zip(slow.split(source.blocks()), frames):
        np.testing.assert_allclose(got["forces"], frame["forces"], rtol=1e-12, atol=1e-12)
        assert got["energy"] == pytest.approx(frame["energy"], rel=1e-12)


def write_spice(path, frames, units=True):
    """One group per frame, two conformers each, in atomic units with the gradient."""
    with h5py.File(path, "w") as file:
        for k, f in enumerate(frames):
            g = file.create_group(f"mol{k}")
            g["atomic_numbers"], g["smiles"] = f["numbers"], np.array([f"[Na+:{k}].[O-2]".encode()])
            for name, value, unit in (
                ("conformations", f["positions"] / slow.BOHR, "bohr"),
                ("dft_total_energy", f["energy"] / slow.HARTREE, "hartree"),
                ("dft_total_gradient", -f["forces"] * slow.BOHR / slow.HARTREE, "hartree/bohr"),
            ):
                g[name] = np.stack([value, value])
                if units:
                    g[name].attrs["units"] = unit
    return path


def test_spice_sign_and_units(tmp_path):
    frames = files.molecules(10)
    got = read(write_spice(tmp_path / "a.hdf5", frames))
    expected = [
        slow.structure(
            f["numbers"],
            f["positions"],
            f["energy"],
            f["forces"],
            charge=-1,
            group=f"[Na+:{k}].[O-2]",
        )
        for k, f in enumerate(frames)
        for _ in range(2)
    ]
    order = sorted(range(20), key=lambda k: f"mol{k // 2}")  # HDF5 lists names alphabetically
    slow.same(got, [expected[k] for k in order], labels=True, rtol=1e-12)


def test_spice_without_units_must_be_told(tmp_path):
    path = write_spice(tmp_path / "a.hdf5", files.molecules(2), units=False)
    with pytest.raises(DataError) as error:
        open_source(path)
    assert "--energy-unit" in error.value.remedy and "--length-unit" in error.value.remedy


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [
        ("CCO", 0),
        ("[NH4+]", 1),
        ("[N+:9]([H:25])C(=O)[O-:3]", 0),
        ("[Ca+2].[Cl-]", 1),
        ("[Fe+++]", 3),
        ("[O--]", -2),
        ("[13CH3:1][C@@H:2]([2H])N", 0),
        ("C[N-][N+]#N", 0),
    ],
)
def test_formal_charge(smiles, charge):
    assert hdf5.formal_charge(smiles) == charge


def test_ani1x_nan_means_not_computed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        g = file.create_group("H2O1")
        g["atomic_numbers"], g["coordinates"] = [8, 1, 1], np.arange(18.0).reshape(2, 3, 3)
        g["x.energy"], g["x.forces"] = (
            [1.0, np.nan],
            np.array([np.ones((3, 3)), np.full((3, 3), np.nan)]),
        )
    block = next(
        iter(
            open_source(
                tmp_path / "a.h5", SourceOptions(energy_key="x.energy", forces_key="x.forces")
            ).blocks()
        )
    )
    assert block.missing.tolist() == [0, base.MISSING_ENERGY | base.MISSING_FORCES]


def test_every_reader_is_reachable_by_suffix_and_name():
    folders = {"pack", "deepmd"}  # found by what lies in them
    assert set(readers.SUFFIXES.values()) | folders == set(readers.READERS)
