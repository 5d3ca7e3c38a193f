"""``data check``: verdicts on real data, on data spoiled in known ways, and on springs with exact
forces."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from shared_data import SHIPPED

from forcelaw.data.build import PrepareOptions
from forcelaw.data.filters import select
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import SourceOptions, open_source
from forcelaw.data.validate import force_energy
from forcelaw.data.validate.check import check, survey
from forcelaw.data.validate.force_energy import ConsistencyTest, judge
from forcelaw.data.validate.units import bond_ratios

from . import files

KCAL = {"energy_unit": "kcal/mol", "length_unit": "Angstrom"}
EV = {"energy_unit": "eV", "length_unit": "Angstrom"}
XTB = {"energy_key": "energy_xtb", "forces_key": "forces_xtb"}
CLOSE = [
    ("rmd17_ethanol.npz", {}),
    ("sgdml_ethanol.npz", KCAL),
    ("gfn2_padded.npz", EV),
    ("relaxation.extxyz.gz", {}),
    ("ani2x.hdf5", {}),
    ("spice.hdf5", {}),
    ("acac_300K.xyz.gz", {}),
    ("solvent_xtb.xyz.gz", XTB),
]


def close_pairs(name, options):
    test = ConsistencyTest()
    for block in open_source(SHIPPED / name, SourceOptions(**options)).blocks():
        test.add(select(block, block.counts > 1))
    return test.pairs()


@pytest.mark.parametrize(("name", "options"), CLOSE)
def test_real_data_spoiled_in_known_ways(name, options):
    """Real forces are minus gradients; sign and unit mistakes are distinguished. (difference, work,
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
    pairs = close_pairs("alloys.db", {})
    assert judge(pairs).state == "not testable" and not judge(pairs).fatal


def test_energies_that_are_one_number_are_judged_without_a_warning():
    """Zeros, or the placeholder of a program: no unit explains them."""
    rng = np.random.default_rng(0)
    pairs = np.stack([np.zeros(40), rng.normal(size=40), np.full(40, 1e-3)], axis=1)
    assert judge(pairs).state in ("inconsistent", "not testable")


def far_apart(folder):
    """Frames of a hot ethanol molecule in kcal/mol, none near another."""
    with np.load(SHIPPED / "sgdml_ethanol.npz") as file:
        frames = [
            {"numbers": file["z"], "positions": x, "energy": float(e[0]), "forces": f}
            for x, e, f in zip(file["R"][::20], file["E"][::20], file["F"][::20])
        ]
    return files.extxyz(folder / "far.xyz", frames)


def test_frames_far_apart_are_not_judged(tmp_path):
    source = far_apart(tmp_path)
    result = survey([source], SourceOptions(**KCAL))
    assert result["consistency"][0]["state"] == "not testable" and result["trainable"]


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


@pytest.mark.parametrize(
    ("name", "options", "remedy"),
    [
        ("far apart", {}, "--energy-unit kcal/mol"),
        ("rmd17_ethanol.npz", {"energy_unit": "kJ/mol"}, "--energy-unit kcal/mol"),
        ("sgdml_ethanol.npz", {**KCAL, "energy_unit": "hartree"}, "--energy-unit kcal/mol"),
        ("gfn2_padded.npz", {**EV, "length_unit": "bohr"}, "--length-unit"),
        ("spice.hdf5", {"forces_key": "dft_total_gradient"}, "--gradient-key"),
        ("sgdml_ethanol.npz", {**KCAL, "force_unit": "eV/Angstrom"}, "--force-unit"),
        ("acac_dihedral.xyz", {}, "--forces-key"),
    ],
)
def test_wrong_units_and_signs_of_real_files(name, options, remedy, tmp_path, capsys):
    path = far_apart(tmp_path) if name == "far apart" else SHIPPED / name
    assert check([path], SourceOptions(**options), as_json=True) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any(remedy in problem["remedy"] for problem in problems)
    assert check([path], SourceOptions(**options)) == 1
    assert remedy in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options"),
    [*CLOSE[:4], ("gfn2_flat.h5", {}), ("alloys.db", {}), ("schnetpack.db", {})],
)
def test_right_units_pass(name, options, capsys):
    assert check([SHIPPED / name], SourceOptions(**options), as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trainable"] and not result["problems"]


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


def test_bond_ratios_against_plain_loops():
    radius = {1: 0.31, 6: 0.76, 8: 0.66}
    rng = np.random.default_rng(0)
    counts = np.array([3, 1, 7, 3, 5, 7])
    numbers, positions = rng.choice([1, 6, 8], counts.sum()), rng.normal(size=(counts.sum(), 3))
    numbers[15] = 2  # helium, of the fifth structure, has no radius here
    expected = []
    for k in (0, 2, 3, 5):
        atoms = range(counts[:k].sum(), counts[: k + 1].sum())
        for a in atoms:
            steps = ((np.linalg.norm(positions[a] - positions[b]), b) for b in atoms if b != a)
            expected.append(min(d / (radius[numbers[a]] + radius[numbers[b]]) for d, b in steps))
    found = bond_ratios(counts, numbers, positions)
    np.testing.assert_allclose(np.sort(found), np.sort(expected))


def test_bonds_of_a_very_large_structure_take_little_memory():
    """All its distances would take 21 GB."""
    grid = np.stack(np.meshgrid(*[np.arange(31.0)] * 3), axis=-1).reshape(-1, 3)
    numbers = np.ones(len(grid), np.uint8)
    tracemalloc.start()
    found = bond_ratios(np.array([len(grid)]), numbers, grid)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) and found == pytest.approx(1 / 0.62) and memory < 100e6


def test_pairs_of_frames_do_not_depend_on_the_other_molecules():
    """Of many molecules with as many atoms, each is judged as if it were alone."""

    def pairs(kinds):
        test = ConsistencyTest()
        for block in open_source(SHIPPED / "gfn2_padded.npz", SourceOptions(**EV)).blocks():
            first = np.cumsum(block.counts) - block.counts
            keys = [
                (int(count), bytes(block.numbers[a : a + count]))
                for a, count in zip(first, block.counts)
            ]
            chosen = sorted(set(keys)) if kinds is None else kinds
            test.add(select(block, np.array([key in chosen for key in keys])))
        return sorted(map(tuple, test.pairs().tolist())), set(keys)

    together, kinds = pairs(None)
    apart = [row for kind in kinds for row in pairs([kind])[0]]
    assert len(kinds) > 1 and together == pytest.approx(np.array(sorted(apart)))


def test_pairs_that_may_be_close_are_all_looked_at():
    """Distances change by at most twice of what the atom that moves most does: frames left out
    before they are turned onto each other are none of the close ones."""
    rng = np.random.default_rng(0)
    line = np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [1, 1, 5]])
    frames, apart = [], np.array([[-1.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    for k in range(60):
        moved = line + rng.normal(0, 0.02, line.shape) + 0.06 * (k % 30) * apart
        frames.append(
            force_energy._Frame(
                np.ones(4, np.uint8), moved, rng.normal(size=(4, 3)), float(k), None, None
            )
        )
    pairs = [(a, b) for a in range(60) for b in range(a + 1, 60)]
    prints = force_energy._fingerprints(np.stack([frame.positions for frame in frames]))
    kept = force_energy._perhaps_close(prints, pairs)
    rows = force_energy._free_works(frames, pairs)
    assert force_energy._free_works(frames, kept) == rows
    assert len(rows) < len(kept) < len(pairs)
