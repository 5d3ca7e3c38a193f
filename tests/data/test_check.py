"""``data check``: verdicts on real data, on data spoiled in known ways, and on springs with exact
forces."""

from __future__ import annotations

import json

import numpy as np
import pytest
from shared_data import shared

from forcelaw.data.filters import select
from forcelaw.data.prepare import PrepareOptions, prepare
from forcelaw.data.readers import SourceOptions, open_source
from forcelaw.data.validate.force_energy import ConsistencyTest, judge
from forcelaw.data.validate.survey import check, survey

from . import files

ETHANOL = "metatrain_resources/ethanol_reduced_100.xyz"
SPICE = "hdf5_spice_ani_format/SPICE-1.1.4_n2.hdf5"
MD17, QM7X, XTB = (
    "md17_ethanol_npz/ethanol.npz",
    "qm7x_250/qm7x_250_small.npz",
    "xtb_molecules/xtb_molecules.h5",
)

KCAL = {"energy_unit": "kcal/mol", "length_unit": "Angstrom"}
EV = {"energy_unit": "eV", "length_unit": "Angstrom"}
CLOSE = [
    ("rmd17_unique/rmd17_ethanol.npz", {}), ("rmd17_unique/rmd17_paracetamol.npz", {}), (MD17, KCAL),
    ("asedb_samples/toy_c3h8_relax.extxyz", {}), ("hdf5_spice_ani_format/ani2x_minimal.hdf5", {}),
    (SPICE, {}), (QM7X, EV),
    ("botnet_acac/train_300K.xyz", {}),
    ("solvent_xtb/solvent_xtb_train_200.xyz", {"energy_key": "energy_xtb", "forces_key": "forces_xtb"}),
]  # fmt: skip


def close_pairs(name, options):
    test = ConsistencyTest()
    for block in open_source(shared(name), SourceOptions(**options)).blocks():
        test.add(select(block, block.counts > 1))
    return test.pairs()


@pytest.mark.parametrize(("name", "options"), CLOSE)
def test_real_data_spoiled_in_known_ways(name, options):
    """Real forces are minus gradients; sign and unit mistakes are told apart. (difference, work,
    error) are columns."""
    pairs = close_pairs(name, options)
    verdict = judge(pairs)
    assert verdict.state == "consistent", verdict.text
    assert abs(verdict.slope - 1) < max(0.1, 3 * verdict.error)
    assert judge(pairs * [1, -1, 1]).state == "gradients"
    hartree, kcal = judge(pairs / [27.2114, 1, 1]), judge(pairs * [1, 23.0605, 23.0605])
    assert hartree.state == kcal.state == "units"
    if verdict.error < 0.01:
        assert "one hartree in eV" in hartree.text and "one eV in kcal/mol" in kcal.text
    bohr = judge(pairs * [1, 0.529177, 0.529177])
    assert bohr.state == "units"
    shuffled = pairs.copy()
    shuffled[:, 0] = np.random.default_rng(0).permutation(shuffled[:, 0])
    assert judge(shuffled).state in ("inconsistent", "not testable")


def test_no_close_pairs_is_not_testable():
    assert judge(np.zeros((0, 3))).state == "not testable"
    pairs = close_pairs("asedb_samples/oxides.db", {})
    assert judge(pairs).state == "not testable" and not judge(pairs).fatal


def test_frames_far_apart_are_not_judged():
    assert judge(close_pairs(ETHANOL, KCAL)).state == "not testable"


def test_exact_forces_give_slope_one_even_after_rotation(tmp_path):
    frames = files.molecules(200)
    source = files.extxyz(tmp_path / "a.xyz", frames)
    plain = survey([source])["consistency"][0]
    assert plain["state"] == "consistent" and plain["slope"] == pytest.approx(1, abs=0.02)
    pack = prepare([source], tmp_path / "pack", options=PrepareOptions(group="frame"))
    turned = survey([pack])["consistency"][0]
    assert turned["state"] == "consistent" and turned["slope"] == pytest.approx(
        plain["slope"], abs=0.01
    )


def test_numbers_against_plain_loops(tmp_path):
    frames = files.molecules(41)
    frames[40] = frames[0]
    for k, frame in enumerate(frames):
        frame["header"] = f"charge={k % 2} spin=1"
    frames[40] = {**frames[0], "header": "charge=0 spin=1"}
    result = survey([files.extxyz(tmp_path / "a.xyz", frames)])
    forces = np.concatenate([f["forces"] for f in frames])
    assert result["structures"] == result["usable"] == 41 and result["atoms"] == len(forces)
    assert result["forces"]["rms"] == pytest.approx(np.sqrt((forces**2).mean()))
    assert result["forces"]["norm_max"] == pytest.approx(np.linalg.norm(forces, axis=1).max())
    assert result["duplicates"] == 1 and any("repeat another" in w for w in result["warnings"])
    assert result["charges"] == {"0": 21, "1": 20} and result["spins"] == {"1": 41}
    assert result["net_force"]["max_per_atom"] < 1e-6
    assert result["groups"] == 4 and (result["atoms_min"], result["atoms_max"]) == (3, 9)
    table = np.array([[(f["numbers"] == z).sum() for z in (1, 6, 7, 8)] for f in frames], float)
    expected = np.linalg.lstsq(table, [f["energy"] for f in frames], rcond=None)[0]
    np.testing.assert_allclose(
        [result["references"]["energies"][s] for s in "HCNO"], expected, rtol=1e-9
    )


def test_net_force_is_noticed(tmp_path):
    frames = files.molecules(40)
    for frame in frames:
        frame["forces"] = frame["forces"] + [0.3, 0, 0]
    result = survey([files.extxyz(tmp_path / "a.xyz", frames)])
    assert result["net_force"]["rms_per_atom"] == pytest.approx(0.3, rel=1e-6)
    assert any("do not sum to zero" in w for w in result["warnings"])


@pytest.mark.parametrize(("name", "options", "problem"), [
    (ETHANOL, {}, "energies look like kcal/mol, not eV"),
    ("rmd17_unique/rmd17_uracil.npz", {"energy_unit": "kJ/mol"}, "energies look like kcal/mol, not kJ/mol"),
    (MD17, {"energy_unit": "hartree", "length_unit": "Angstrom"}, "kcal/mol, not hartree"),
    (QM7X, {"energy_unit": "eV", "length_unit": "bohr"}, "length unit looks wrong"),
    (SPICE, {"forces_key": "dft_total_gradient"}, "wrong sign: they are gradients"),
    (MD17, {**KCAL, "force_unit": "eV/Angstrom"}, "energies and forces are in different units"),
    ("botnet_acac/test_dihedral.xyz", {}, "no forces under the name"),
])  # fmt: skip
def test_wrong_units_and_signs_of_real_files(name, options, problem, capsys):
    assert check([shared(name)], SourceOptions(**options)) == 1
    out = capsys.readouterr().out
    assert problem in out and "cannot be trained on" in out and "remedy:" in out


@pytest.mark.parametrize(("name", "options"), [
    *CLOSE[:3], (XTB, {}), ("asedb_samples/oxides.db", {}), ("asedb_samples/test_database.db", {}), (ETHANOL, KCAL),
    ("botnet_3bpa/train_300K.xyz", {}),
])  # fmt: skip
def test_right_units_pass(name, options, capsys):
    assert check([shared(name)], SourceOptions(**options), limit=3000) == 0
    assert "These structures can be trained on." in capsys.readouterr().out


def test_unlabelled_and_bad_frames_are_counted(tmp_path, capsys):
    frames = files.molecules(40)
    frames[3]["without"], frames[8]["energy"] = "forces", np.nan
    source = files.extxyz(tmp_path / "a.xyz", frames)
    assert check([source]) == 1
    out = capsys.readouterr().out
    assert "no forces: 1 of 40" in out and "frame 3" in out and "--skip-unlabelled" in out
    assert "energy not finite: 1 of 40" in out and "frame 8" in out and "--skip-bad" in out


def test_json(tmp_path, capsys):
    source = files.extxyz(tmp_path / "a.xyz", files.molecules(40))
    assert check([source], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["structures"] == 40
    (tmp_path / "b.xyz").touch()
    assert check([tmp_path / "b.xyz"], as_json=True) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["trainable"] is False and result["problems"][0]["what"] == "the file is empty"


def test_limit(tmp_path):
    assert (
        survey([files.extxyz(tmp_path / "a.xyz", files.molecules(40))], limit=13)["structures"]
        == 13
    )
