"""Readers and ``data check`` on whole data sets, collected only where they are at hand. Every kind
of assertion here is made in test_readers, test_check and test_prepare on shipped files as well."""

from __future__ import annotations

import numpy as np
import pytest
from reference import readers_slow as slow
from shared_data import shared

from forcelaw.data.pack import group_hash
from forcelaw.data.readers import SourceOptions, open_source
from forcelaw.data.validate.check import survey
from forcelaw.data.validate.force_energy import ConsistencyTest

KCAL = {"energy_unit": "kcal/mol", "length_unit": "Angstrom"}
EV = {"energy_unit": "eV", "length_unit": "Angstrom"}
XTB = {"energy_key": "energy_xtb", "forces_key": "forces_xtb"}
HDF5, BOTNET = "hdf5_spice_ani_format", "botnet_acac"
SGDML = ("z", "R", "E", "F")
RMD17 = [
    "aspirin",
    "azobenzene",
    "benzene",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "paracetamol",
    "salicylic",
    "toluene",
    "uracil",
]


def read(name, **options):
    return slow.split(open_source(shared(name), SourceOptions(**options)).blocks())


@pytest.mark.parametrize("name", RMD17)
def test_rmd17(name):
    blocks = list(open_source(shared(f"rmd17_unique/rmd17_{name}.npz")).blocks())
    assert sum(map(len, blocks)) == 9633
    slow.energies_are_those_of_molecules(
        np.concatenate([b.energies for b in blocks]), blocks[0].numbers[: blocks[0].counts[0]]
    )


@pytest.mark.parametrize(
    ("name", "options", "oracle"),
    [
        ("qm7x_250/qm7x_250_small.npz", EV, lambda p: slow.npz(p, 1.0, SGDML)),
        ("md17_ethanol_npz/ethanol.npz", KCAL, lambda p: slow.npz(p, slow.KCAL, SGDML)),
        ("botnet_acac/train_300K.xyz", {}, slow.extxyz),
        ("botnet_acac/test_MD_600K.xyz", {}, slow.extxyz),
        ("botnet_3bpa/train_mixedT.xyz", {}, slow.extxyz),
        ("asedb_samples/toy_c3h8_relax.extxyz", {}, slow.extxyz),
        (
            "metatrain_resources/carbon_reduced_100.xyz",
            {"forces_key": "force"},
            lambda p: slow.extxyz(p, "energy", "force"),
        ),
        ("solvent_xtb/solvent_xtb_train_200.xyz", XTB, lambda p: slow.extxyz(p, *XTB.values())),
        ("asedb_samples/oxides.db", {}, slow.ase_db),
        (
            "asedb_samples/test_database.db",
            {},
            lambda p: slow.ase_db(p, slow.HARTREE, data=True),
        ),
    ],
)
def test_readers_against_slow_ones(name, options, oracle):
    slow.same(read(name, **options), oracle(shared(name)))


def test_spice():
    path = shared(f"{HDF5}/SPICE-1.1.4_n2.hdf5")
    slow.same(read(path), slow.spice(path), labels=True, rtol=1e-9)


def test_xtb_molecules():
    path = shared("xtb_molecules/xtb_molecules.h5")
    got = slow.split([next(iter(open_source(path).blocks()))])
    expected = slow.xtb(path, 0, 35)
    slow.same(got[:35], expected)
    assert [s["group"] for s in got[:35]] == [group_hash(s["group"]) for s in expected]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rmd17_unique/rmd17_ethanol.npz", {}),
        ("rmd17_unique/rmd17_paracetamol.npz", {}),
        ("md17_ethanol_npz/ethanol.npz", KCAL),
        ("asedb_samples/toy_c3h8_relax.extxyz", {}),
        (f"{HDF5}/ani2x_minimal.hdf5", {}),
        (f"{HDF5}/SPICE-1.1.4_n2.hdf5", {}),
        ("qm7x_250/qm7x_250_small.npz", EV),
        ("botnet_acac/train_300K.xyz", {}),
        ("solvent_xtb/solvent_xtb_train_200.xyz", XTB),
    ],
)
def test_forces_are_minus_gradients(name, options):
    test = ConsistencyTest()
    for block in open_source(shared(name), SourceOptions(**options)).blocks():
        test.add(block)
    assert test.verdict().state == "consistent"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xtb_molecules/xtb_molecules.h5", {}),
        ("asedb_samples/oxides.db", {}),
        ("asedb_samples/test_database.db", {}),
        ("metatrain_resources/ethanol_reduced_100.xyz", KCAL),
        ("botnet_3bpa/train_300K.xyz", {}),
    ],
)
def test_right_units_pass(name, options):
    assert survey([shared(name)], SourceOptions(**options), limit=3000)["trainable"]
