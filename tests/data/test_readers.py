"""Readers against slow obvious ones (tests/reference/readers_slow.py), on the real files and on
written ones."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest
from reference import readers_slow as slow
from shared_data import shared

from forcelaw.data import readers
from forcelaw.data.readers import SourceOptions, base, hdf5, open_source
from forcelaw.errors import DataError

from . import files


def read(path, **options):
    return slow.split(open_source(path, SourceOptions(**options)).blocks())


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of at most 7 structures, so that every reader crosses block borders."""
    monkeypatch.setattr(base, "BLOCK_STRUCTURES", 7)
    monkeypatch.setattr(hdf5, "BLOCK_STRUCTURES", 7)


# --- real files -------------------------------------------------------------------------------------------------------


def test_rmd17(small_blocks):
    path = shared("rmd17_unique/rmd17_ethanol.npz")
    source = open_source(path)
    got = slow.split([block for block, _ in zip(source.blocks(), range(40))])
    keys = ("nuclear_charges", "coords", "energies", "forces")
    slow.same(got, slow.npz(path, slow.KCAL, keys)[: len(got)])
    assert len(got) == 280 and source.structures == 9633
    assert (source.units.energy, source.units.force) == ("kcal/mol", "kcal/mol/Angstrom")


RMD17 = (
    "aspirin azobenzene benzene ethanol malonaldehyde naphthalene paracetamol salicylic toluene"
    " uracil"
)


@pytest.mark.parametrize("name", RMD17.split())
def test_rmd17_energies_are_sensible_in_ev(name):
    energies = np.concatenate(
        [b.energies for b in open_source(shared(f"rmd17_unique/rmd17_{name}.npz")).blocks()]
    )
    block = next(iter(open_source(shared(f"rmd17_unique/rmd17_{name}.npz")).blocks()))
    atom = {1: -0.5, 6: -37.69, 7: -54.40, 8: -74.81}
    free = sum(atom[z] for z in block.numbers[: block.counts[0]].tolist()) * slow.HARTREE
    assert len(energies) == 9633
    assert 1.0 < energies.mean() / free < 1.02
    # potential energy of 3N classical oscillators fluctuates by sqrt(3N/2) kT; kT = 0.043 eV at 500
    # K
    expected = np.sqrt(1.5 * block.counts[0]) * 0.0431
    assert 0.3 * expected < energies.std() < 1.6 * expected


def test_padded_qm7x(small_blocks):
    path = shared("qm7x_250/qm7x_250_small.npz")
    got = read(path, energy_unit="eV", length_unit="Angstrom")
    slow.same(got, slow.npz(path, 1.0, ("z", "R", "E", "F")))
    assert len({len(s["numbers"]) for s in got}) > 10


def test_md17():
    path = shared("md17_ethanol_npz/ethanol.npz")
    got = read(path, energy_unit="kcal/mol", length_unit="Angstrom")
    slow.same(got, slow.npz(path, slow.KCAL, ("z", "R", "E", "F")))


def test_spice(small_blocks):
    path = shared("hdf5_spice_ani_format/SPICE-1.1.4_n2.hdf5")
    slow.same(read(path), slow.spice(path), labels=True, rtol=1e-9)


def test_ani2x(small_blocks):
    path = shared("hdf5_spice_ani_format/ani2x_minimal.hdf5")
    source = open_source(path)
    got = slow.split([block for block, _ in zip(source.blocks(), range(10))])
    slow.same(got, slow.ani(path, "species", "energies", "forces", most=len(got)))
    assert len(got) == 70


def test_ani1x_asks_for_the_level_of_theory():
    path = shared("hdf5_spice_ani_format/ani1_n5.hdf5")
    with pytest.raises(DataError, match=r"several levels of theory.*wb97x_tz\.forces") as error:
        open_source(path)
    assert "--energy-key wb97x_dz.energy --forces-key wb97x_dz.forces" in error.value.remedy
    got = read(path, energy_key="wb97x_tz.energy", forces_key="wb97x_tz.forces")
    slow.same(got, slow.ani(path, "atomic_numbers", "wb97x_tz.energy", "wb97x_tz.forces"))


def test_xtb_molecules(small_blocks):
    path = shared("xtb_molecules/xtb_molecules.h5")
    source = open_source(path)
    got = slow.split([block for block, _ in zip(source.blocks(), range(5))])
    expected = slow.xtb(path, 0, 35)
    slow.same(got, expected)
    from forcelaw.data.pack import group_hash

    assert [s["group"] for s in got] == [group_hash(s["group"]) for s in expected]


@pytest.mark.parametrize("name", ["botnet_acac/train_300K.xyz", "botnet_acac/test_MD_600K.xyz",
                                  "botnet_3bpa/train_mixedT.xyz", "asedb_samples/toy_c3h8_relax.extxyz"])  # fmt: skip
def test_extxyz(name):
    path = shared(name)
    slow.same(read(path), slow.extxyz(path), labels=True)


@pytest.mark.parametrize(
    "name", ["solvent_xtb/solvent_xtb_train_50.xyz", "solvent_xtb/solvent_xtb_train_200.xyz"]
)
def test_extxyz_with_odd_keys(name):
    path = shared(name)
    with pytest.raises(DataError) as error:
        open_source(path)
    assert "energy_xtb" in error.value.what and "forces_xtb" in error.value.what
    assert (
        "--energy-key energy_xtb" in error.value.remedy
        and "--forces-key forces_xtb" in error.value.remedy
    )
    slow.same(
        read(path, energy_key="energy_xtb", forces_key="forces_xtb"),
        slow.extxyz(path, "energy_xtb", "forces_xtb"),
    )


def test_extxyz_force_is_not_forces():
    path = shared("metatrain_resources/carbon_reduced_100.xyz")
    with pytest.raises(DataError, match="no forces under the name") as error:
        open_source(path)
    assert error.value.remedy == "pass --forces-key force if that is the forces"
    slow.same(read(path, forces_key="force"), slow.extxyz(path, "energy", "force"))


def test_extxyz_in_kcal_when_told():
    path = shared("metatrain_resources/ethanol_reduced_100.xyz")
    source = open_source(path, SourceOptions(energy_unit="kcal/mol"))
    assert source.units.force == "kcal/mol/Angstrom"
    assert "energy given" in source.units.origin and "overruling energy eV" in source.units.origin
    slow.same(slow.split(source.blocks()), slow.extxyz(path, unit=slow.KCAL))


@pytest.mark.parametrize("name", ["metatrain_resources/qm9_reduced_100.xyz", "metatrain_resources/qm7x_reduced_100.xyz",
                                  "botnet_acac/test_dihedral.xyz", "botnet_acac/test_H_transfer.xyz",
                                  "botnet_3bpa/iso_atoms.xyz"])  # fmt: skip
def test_files_without_forces_are_refused(name):
    with pytest.raises(
        DataError, match=r"no .*forces under the name that the format defines.*keys seen"
    ):
        open_source(shared(name))


def test_ase_database(small_blocks):
    path = shared("asedb_samples/oxides.db")
    slow.same(read(path), slow.ase_db(path))


def test_schnetpack_database(small_blocks):
    path = shared("asedb_samples/test_database.db")
    source = open_source(path)
    assert source.units.energy == "hartree" and source.units.force == "hartree/Angstrom"
    slow.same(slow.split(source.blocks()), slow.ase_db(path, slow.HARTREE, data=True))
    grouped = read(path, group_key="smiles")
    assert grouped[0]["group"] == "CC(C)C(=O)N1CCN(S(=O)(=O)c2ccc(Cl)cc2)CC1"


# --- written files ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("energy", "forces", "given"), [
    ("energy", "forces", {}), ("REF_energy", "REF_forces", {}),
    ("dft", "gradients", {"energy_key": "dft", "gradient_key": "gradients"}),
    ("dft", "f_dft", {"energy_key": "dft", "forces_key": "f_dft"})])  # fmt: skip
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
    with pytest.raises(DataError, match="two complete sets of labels"):
        open_source(path)
    got = read(path, energy_key="REF_energy", forces_key="REF_forces")
    assert all(s["energy"] == 1.5 and (s["forces"] == [1, 2, 3]).all() for s in got)


def test_extxyz_charge_spin_and_group(tmp_path):
    frames = [{**f, "header": f"charge={k % 3 - 1} spin={k % 2 + 1} mol=m{k % 5}"}
              for k, f in enumerate(files.molecules(20))]  # fmt: skip
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
    expected = [slow.structure(f["numbers"], f["positions"], f["energy"], f["forces"], charge=-1,
                               group=f"[Na+:{k}].[O-2]") for k, f in enumerate(frames) for _ in range(2)]  # fmt: skip
    order = sorted(range(20), key=lambda k: f"mol{k // 2}")  # HDF5 lists names alphabetically
    slow.same(got, [expected[k] for k in order], labels=True, rtol=1e-12)


def test_spice_without_units_must_be_told(tmp_path):
    path = write_spice(tmp_path / "a.hdf5", files.molecules(2), units=False)
    with pytest.raises(DataError, match="in which unit energy and length are"):
        open_source(path)


@pytest.mark.parametrize(("smiles", "charge"), [
    ("CCO", 0), ("[NH4+]", 1), ("[N+:9]([H:25])C(=O)[O-:3]", 0), ("[Ca+2].[Cl-]", 1), ("[Fe+++]", 3), ("[O--]", -2),
    ("[13CH3:1][C@@H:2]([2H])N", 0), ("C[N-][N+]#N", 0)])  # fmt: skip
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
    assert set(readers.SUFFIXES.values()) | {"pack"} == set(readers.READERS)
