"""What prepare refuses, lets pass on demand, and finds in spoiled data; splits and reference
energies as they are given or found."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from ase.build import bulk
from scipy.optimize import minimize

from forcelaw.data import splits
from forcelaw.data.atomic_energies import AtomicEnergies
from forcelaw.data.build import PrepareOptions
from forcelaw.data.filters import Filter
from forcelaw.data.pack import Pack
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import SourceOptions
from forcelaw.data.reference import BEND
from forcelaw.data.validate.check import survey
from forcelaw.data.verify import verify
from forcelaw.errors import DataError
from forcelaw.training.spec import summarise

from . import files

# compositions of full rank, so that references are determined
KINDS = ("CH4", "H2O", "NH3", "CH3CH2OH", "CH3OH", "N2H4", "H2CO", "C2H6")


def pack_of(folder, frames, *, name="pack", **options):
    """A pack of frames, or of a dictionary of frames by side."""
    sides = frames if isinstance(frames, dict) else {"train": frames}
    paths = {
        side: [files.extxyz(folder / f"{name}-{side}.xyz", part)] for side, part in sides.items()
    }
    given = PrepareOptions(**{"group": "frame", "overwrite": True, **options})
    others = {side: files_ for side, files_ in paths.items() if side != "train"}
    return Pack(prepare(paths["train"], folder / name, **others, options=given, say=io.StringIO()))


def refusal(folder, frames, **options):
    with pytest.raises(DataError) as error:
        pack_of(folder, frames, **options)
    assert not (folder / options.get("name", "pack")).exists()
    return error.value


@pytest.fixture
def frames():
    return files.molecules(120, kinds=KINDS)


def findings(pack):
    return {finding["name"] for finding in pack.manifest["checks"]["findings"]}


# --- labels


def test_forces_of_the_wrong_sign(tmp_path, frames):
    for frame in frames:
        frame["forces"] = -frame["forces"]
    error = refusal(tmp_path, frames)
    assert "--gradient-key" in error.remedy and "--allow forces" in error.remedy
    pack = pack_of(tmp_path, frames, allow=frozenset({"forces"}))
    assert findings(pack) == {"forces"} and pack.manifest["checks"]["allowed"] == ["forces"]
    with pytest.raises(DataError):
        pack_of(tmp_path, frames, allow=frozenset({"force"}))


def test_forces_that_are_all_zero(tmp_path, frames):
    for frame in frames:
        frame["forces"] = 0 * frame["forces"]
    assert "--forces-key" in refusal(tmp_path, frames).remedy
    assert not survey([files.extxyz(tmp_path / "a.xyz", frames)])["trainable"]
    with pytest.raises(DataError):  # a pack made anyway does not train
        summarise(pack_of(tmp_path, frames, allow=frozenset({"forces"})))


def test_one_wrong_energy_is_named_and_moves_no_reference(tmp_path, frames):
    frames[17]["energy"] += 1e5
    error = refusal(tmp_path, frames)
    assert "structure 17" in error.where and "--allow energies" in error.remedy
    spoiled = pack_of(tmp_path, frames, allow=frozenset({"energies"}), val_fraction=0.0)
    got = spoiled.reference_energies()
    for z, energy in files.BASE.items():
        assert got[z] == pytest.approx(energy, abs=0.5)
    result = survey([tmp_path / "pack-train.xyz"])
    assert [problem["name"] for problem in result["problems"]] == ["energies"]


def test_compressed_structures_are_no_outliers(tmp_path):
    """An equation of state: high energies of crystals that have no forces, without a gap."""
    frames = []
    scales = np.concatenate([np.linspace(0.97, 1.2, 100), np.linspace(0.6, 0.97, 25)])
    for k, scale in enumerate(scales):
        atoms = bulk("Cu", cubic=True)
        cell = " ".join(map(str, (atoms.cell[:] * scale).reshape(-1)))
        forces = np.zeros((4, 3))
        forces[0, 0] = 1e-3 * (k % 3)
        energy = -14.0 + 400 * max(0.0, 1 - scale) ** 2
        frames.append(
            {
                "numbers": np.array([8] * 4),  # files.extxyz knows few symbols
                "positions": atoms.positions * scale,
                "energy": energy,
                "forces": forces,
                "header": f'Lattice="{cell}" pbc="T T T"',
            }
        )
    allow = frozenset({"forces", "units"})
    assert "energies" not in findings(pack_of(tmp_path, frames, allow=allow))
    frames[-1]["energy"] += 3000
    with pytest.raises(DataError, match="energies far from"):
        pack_of(tmp_path, frames, allow=allow)


def test_two_levels_of_theory(tmp_path, frames):
    other = files.molecules(120, seed=1, kinds=KINDS)
    for frame in other:
        frame["energy"] += 0.3 * len(frame["numbers"])
    paths = [files.extxyz(tmp_path / f"{k}.xyz", part) for k, part in enumerate((frames, other))]
    with pytest.raises(DataError) as error:
        prepare(paths, tmp_path / "pack", say=io.StringIO())
    assert "--allow levels" in error.value.remedy and "0.xyz" in error.value.where
    again = files.extxyz(tmp_path / "2.xyz", files.molecules(120, seed=2, kinds=KINDS))
    prepare([paths[0], again], tmp_path / "pack", say=io.StringIO())


def test_two_levels_of_theory_without_a_common_formula(tmp_path):
    """All electrons in one source, valence electrons in the other; other molecules in each."""
    core = {1: 0.0, 6: -890.0, 7: -1340.0, 8: -1940.0}
    parts = [
        files.molecules(60, seed=0, kinds=("CH4", "H2O", "NH3", "CH3CH2OH")),
        files.molecules(60, seed=1, kinds=("CH3OH", "N2H4", "H2CO", "C2H6")),
    ]
    paths = [files.extxyz(tmp_path / f"{k}.xyz", part) for k, part in enumerate(parts)]
    prepare(paths, tmp_path / "pack", say=io.StringIO())
    for frame in parts[1]:
        frame["energy"] += sum(core[int(z)] for z in frame["numbers"])
    paths[1] = files.extxyz(tmp_path / "all.xyz", parts[1])
    for how in ("fit", "H=-1,C=-2,N=-3,O=-4"):
        options = PrepareOptions(atomic_energies=AtomicEnergies.parse(how))
        with pytest.raises(DataError) as error:
            prepare(paths, tmp_path / "other", options=options, say=io.StringIO())
        assert "--allow levels" in error.value.remedy and "all.xyz" in error.value.where
    options = PrepareOptions(allow=frozenset({"levels"}))
    prepare(paths, tmp_path / "other", options=options, say=io.StringIO())


def test_isomers_are_no_other_level_of_theory(tmp_path):
    """Two halves of one data set: each has other isomers, so that single formulas are far apart,
    and all of them together are not."""
    rng = np.random.default_rng(0)
    halves = []
    for k in range(2):
        frames = files.molecules(120, seed=k, kinds=KINDS)
        for frame in frames:
            counts = np.unique(frame["numbers"], return_counts=True)
            isomer = np.random.default_rng([k, *np.concatenate(counts)]).normal(0, 0.2)
            frame["energy"] += len(frame["numbers"]) * (isomer + rng.normal(0, 0.001))
        halves.append(frames)
    paths = [files.extxyz(tmp_path / f"{k}.xyz", half) for k, half in enumerate(halves)]
    prepare(paths, tmp_path / "pack", say=io.StringIO())
    for frame in halves[1]:
        frame["energy"] += 3.0 * len(frame["numbers"])
    files.extxyz(paths[1], halves[1])
    with pytest.raises(DataError, match=r"eV/atom apart \(median of"):
        prepare(paths, tmp_path / "other", say=io.StringIO())


def test_copies_conflicts_and_leaks(tmp_path, frames):
    copied = [*frames, frames[3], {**frames[5], "energy": frames[5]["energy"] + 0.4}]
    error = refusal(tmp_path, copied, val_fraction=0.0)
    assert "structure 5" in error.where and "structure 121" in error.where
    pack = pack_of(tmp_path, copied, val_fraction=0.0, allow=frozenset({"conflicts"}))
    assert findings(pack) == {"conflicts"}
    assert any("--drop-duplicates" in text for text in pack.manifest["checks"]["warnings"])
    options = {"val_fraction": 0.0, "allow": frozenset({"conflicts"}), "drop_duplicates": True}
    pack = pack_of(tmp_path, copied, **options)
    assert len(pack) == 121 and pack.manifest["skipped"] == {"copy of an earlier one": 1}
    leaking = {"train": frames[:100], "validation": [*frames[100:], frames[7]]}
    error = refusal(tmp_path, leaking, name="other")
    assert "--allow leaks" in error.remedy and "structure 7" in error.where


def test_cells_tell_structures_apart(tmp_path):
    frames = []
    for k in range(20):
        edge = 8 + k % 10
        cell = f'Lattice="{edge} 0 0 0 9 0 0 0 9" pbc="T T T"'
        frames.append({**files.molecules(1)[0], "energy": -1.0 - 0.01 * (k % 10), "header": cell})
    result = survey([files.extxyz(tmp_path / "a.xyz", frames)])
    assert result["duplicates"] == 10 and result["conflicts"] == 0


def test_order_of_atoms_does_not_hide_a_copy(tmp_path, frames):
    last = {key: v[::-1] if key != "energy" else v for key, v in frames[0].items()}
    result = survey([files.extxyz(tmp_path / "a.xyz", [*frames, last])])
    assert result["duplicates"] == 1


# --- cells, charges and spins: what check passes trains


@pytest.mark.parametrize(
    ("cell", "good"),
    [
        ('Lattice="0 0 0 0 0 0 0 0 0" pbc="T T T"', False),
        ('Lattice="9 0 0 9 0 0 0 0 9" pbc="T T T"', False),
        ('Lattice="9 0 0 0 9 0 0 0 0" pbc="T T F"', True),
        ('Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"', True),
    ],
)
def test_cells_without_volume(tmp_path, frames, cell, good):
    for frame in frames:
        frame["header"] = cell
    assert survey([files.extxyz(tmp_path / "a.xyz", frames)])["trainable"] == good
    if good:
        summarise(pack_of(tmp_path, frames))
    else:
        error = refusal(tmp_path, frames)
        assert "cell without volume: 120 of 120" in error.what and "--skip-bad" in error.remedy


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        (["charge=0 spin=1"], True),
        (["charge=0", "charge=1"], False),
        (["charge=0 spin=1", "charge=0 spin=3"], False),
        ([""], True),
    ],
)
def test_check_and_train_agree_on_charges_and_spins(tmp_path, frames, headers, good):
    for k, frame in enumerate(frames):
        frame["header"] = headers[k % len(headers)]
    assert survey([files.extxyz(tmp_path / "a.xyz", frames)])["trainable"] == good
    pack = pack_of(tmp_path, frames)
    if good:
        summarise(pack)
        return
    with pytest.raises(DataError) as error:
        summarise(pack)
    keep = Filter(charge=0) if "--only-charge" in error.value.remedy else Filter(spin=1)
    kept = pack_of(tmp_path, frames, keep=keep)
    assert len(kept) == 60
    summarise(kept)


def test_a_pack_without_validation_is_refused_before_training(tmp_path, frames):
    with pytest.raises(DataError) as error:
        summarise(pack_of(tmp_path, frames, val_fraction=0.0))
    assert "--val-fraction" in error.value.remedy


def test_config_types_are_filtered(tmp_path, frames):
    for k, frame in enumerate(frames):
        frame["header"] = f"config_type=k{k % 3}"
    only = pack_of(tmp_path, frames, keep=Filter(config_types=frozenset({"k0", "k2"})))
    assert len(only) == 80 and set(only.config_types) == {"k0", "k2"}
    rest = pack_of(tmp_path, frames, keep=Filter(not_config_types=frozenset({"k0"})))
    assert set(rest.config_types) == {"k1", "k2"}


# --- splits


@pytest.mark.parametrize("seed", range(10))
def test_ten_groups_keep_their_share(tmp_path, seed):
    frames = files.molecules(100)
    for k, frame in enumerate(frames):
        frame["header"] = f"g=g{k % 10}"
    pack = pack_of(tmp_path, frames, group="key:g", seed=seed)
    assert pack.split[:].sum() == 10 and len(set(pack.groups[pack.split == 1].tolist())) == 1


def test_shares_of_uneven_groups_against_a_plain_loop():
    rng = np.random.default_rng(0)
    for seed in range(30):
        groups = np.unique(rng.integers(0, 2**63, 40).astype(np.uint64))
        sizes = rng.integers(1, 60, len(groups))
        held = splits.exact_split(groups, sizes, fraction=0.2, seed=seed)
        off = abs(sizes[held].sum() - 0.2 * sizes.sum())
        assert off <= sizes.max()
        by_hash = splits.split_of(groups, fraction=0.2, seed=seed) == 1
        plain = abs(sizes[by_hash].sum() - 0.2 * sizes.sum())
        assert off <= plain or (held == by_hash).all()


def test_one_dominant_group_is_refused_with_a_way_out(tmp_path):
    frames = files.molecules(100)
    for k, frame in enumerate(frames):
        frame["header"] = f"g={'small' if k == 0 else 'large'}"
    error = refusal(tmp_path, frames, group="key:g")
    assert "--validation" in error.remedy and "--group frame" in error.remedy


def test_split_by_hash_alone_is_as_before(tmp_path, frames):
    pack = pack_of(tmp_path, frames, group="frame", split="hash", val_fraction=0.2)
    expected = splits.split_of(pack.groups, fraction=0.2, seed=0)
    assert pack.split.tolist() == expected.tolist()


def test_files_as_published(tmp_path, frames):
    parts = {"train": frames[:90], "validation": frames[90:105], "test": frames[105:]}
    pack = pack_of(tmp_path, parts)
    assert pack.split.tolist() == [0] * 90 + [1] * 15 + [2] * 15
    assert pack.energies.tolist() == [frame["energy"] for frame in frames]
    entry = pack.manifest["split"]
    assert (entry["train_structures"], entry["val_structures"], entry["test_structures"]) == (
        90,
        15,
        15,
    )
    assert len(splits.order(pack, "test")) == 15
    verify(pack)  # as it is before it is trained on
    # without a validation file the training file is split, exactly, and the test file kept apart
    del parts["validation"]
    pack = pack_of(tmp_path, parts, name="two", val_fraction=0.1)
    assert np.bincount(pack.split).tolist() == [81, 9, 15] and pack.split[90:].tolist() == [2] * 15


def test_lists_of_structures(tmp_path, frames):
    source = files.extxyz(tmp_path / "a.xyz", frames)
    (tmp_path / "train.csv").write_text("\n".join(map(str, range(10, 100))))
    np.save(tmp_path / "val.npy", np.arange(100, 110))

    def make(**lists):
        path = prepare(
            [source],
            tmp_path / "p",
            indices=lists,
            say=io.StringIO(),
            options=PrepareOptions(overwrite=True),
        )
        return Pack(path)

    pack = make(train=tmp_path / "train.csv", validation=tmp_path / "val.npy")
    assert pack.energies.tolist() == [frame["energy"] for frame in frames[10:110]]
    assert np.bincount(pack.split).tolist() == [90, 10]
    assert pack.manifest["skipped"] == {"in no part of the split": 20}
    for text in ("105\n200", "one", "-1"):
        (tmp_path / "test.csv").write_text(text)
        with pytest.raises(DataError):
            make(
                train=tmp_path / "train.csv",
                validation=tmp_path / "val.npy",
                test=tmp_path / "test.csv",
            )


# --- reference energies


def design(frames):
    table = np.array([[(f["numbers"] == z).sum() for z in files.BASE] for f in frames], float)
    sizes = table.sum(axis=1)
    return table / sizes[:, None], np.array([f["energy"] for f in frames]) / sizes


def test_fit_is_least_squares_per_atom_where_nothing_stands_out(tmp_path, frames):
    pack = pack_of(tmp_path, frames, val_fraction=0.0)
    x, y = design(frames)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(pack.reference_energies()[list(files.BASE)], expected, rtol=1e-9)
    left = y - x @ expected
    fit = pack.manifest["references"]
    assert fit["rms_residual_ev_per_atom"] == pytest.approx(np.sqrt((left**2).mean()), rel=1e-6)
    mean = np.abs(left)[x[:, 1] > 0].mean()  # over structures with carbon
    assert fit["mean_residual_by_element"]["6"] == pytest.approx(mean, rel=1e-6)


def test_fit_minimises_hubers_loss(tmp_path, frames):
    rng = np.random.default_rng(0)
    for frame in frames[::9]:
        frame["energy"] += rng.uniform(-5, 5) * len(frame["numbers"])
    pack = pack_of(tmp_path, frames, val_fraction=0.0, allow=frozenset({"energies", "forces"}))
    got = pack.reference_energies()[list(files.BASE)]
    x, y = design(frames)
    scale = BEND * 1.4826 * np.median(np.abs(y - x @ got))

    def loss(e):
        r = np.abs(y - x @ e)
        return np.where(r < scale, r**2 / 2, scale * (r - scale / 2)).sum()

    best = minimize(
        loss, got, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    )
    assert loss(got) <= best.fun * (1 + 1e-3)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    assert loss(got) < 0.99 * loss(plain)


def test_plain_fit_is_as_before(tmp_path, frames):
    how = AtomicEnergies.parse("least-squares")
    pack = pack_of(tmp_path, frames, val_fraction=0.0, atomic_energies=how)
    table = np.array([[(f["numbers"] == z).sum() for z in files.BASE] for f in frames], float)
    expected = np.linalg.lstsq(table, [f["energy"] for f in frames], rcond=None)[0]
    np.testing.assert_allclose(pack.reference_energies()[list(files.BASE)], expected, rtol=1e-9)


def test_free_atoms_in_the_sources(tmp_path, frames):
    atoms = [files.free_atom(z) for z in files.BASE]
    how = AtomicEnergies.parse("isolated")
    pack = pack_of(tmp_path, [*atoms, *frames], atomic_energies=how)
    assert pack.reference_energies()[list(files.BASE)].tolist() == list(files.BASE.values())
    assert pack.manifest["skipped"] == {"isolated atom": 4}
    error = refusal(tmp_path, [*atoms[1:], *frames], name="other", atomic_energies=how)
    assert "H" in error.what and "--E0s H=" in error.remedy


@pytest.mark.parametrize("form", ["pairs", "mace", "json", "yaml"])
def test_given_energies(tmp_path, frames, form):
    values = {"H": -13.0, "C": -1030.5, "N": -1485.0, "O": -2040.25}
    text = {
        "pairs": ",".join(f"{k}={v}" for k, v in values.items()),
        "mace": "{1:-13.0, 6:-1030.5, 7:-1485.0, 8:-2040.25}",
        "json": json.dumps(values),
        "yaml": "\n".join(f"{k}: {v}" for k, v in values.items()),
    }[form]
    if form in ("json", "yaml"):
        (tmp_path / f"e.{form}").write_text(text)
        text = str(tmp_path / f"e.{form}")
    pack = pack_of(tmp_path, frames, atomic_energies=AtomicEnergies.parse(text))
    assert pack.reference_energies()[[1, 6, 7, 8]].tolist() == list(values.values())
    rms = pack.manifest["references"]["rms_residual_ev_per_atom"]
    x, y = design([f for f, s in zip(frames, pack.split, strict=True) if s == 0])
    expected = np.sqrt(((y - x @ list(values.values())) ** 2).mean())
    assert rms == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "text", ["H=-13", "average", "Q=1", "H=x", "__import__('os')", "absent.json"]
)
def test_energies_that_are_none(tmp_path, frames, text):
    with pytest.raises(DataError):
        pack_of(tmp_path, frames, atomic_energies=AtomicEnergies.parse(text))


def test_stated_units_are_checked_against_the_numbers(tmp_path, frames):
    source = files.extxyz(tmp_path / "a.xyz", frames)
    with pytest.raises(DataError):
        prepare(
            [source],
            tmp_path / "p",
            sources=SourceOptions(energy_unit="hartree"),
            options=PrepareOptions(group="frame"),
            say=io.StringIO(),
        )
