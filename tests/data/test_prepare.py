"""Preparing packs: contents, rotations, filters, splits, references, determinism, and nothing
half-written."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write
from reference import readers_slow as slow
from scipy.spatial.transform import Rotation
from shared_data import SHIPPED

from forcelaw.data import splits
from forcelaw.data.build import PrepareOptions
from forcelaw.data.filters import Filter
from forcelaw.data.pack import NO_CHARGE, Pack, group_hash
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import SourceOptions, base
from forcelaw.data.rotation import rotations, uniform
from forcelaw.errors import DataError

from . import files

FORMULAS = ["CH4", "H2O", "H3N", "C2H6O"]  # of files.molecules, in turn


def seed_with(sides):
    """A seed that puts these formulas on these sides at a validation fraction of 0.3."""
    groups = np.array([group_hash(label) for label in FORMULAS], np.uint64)
    return next(
        s for s in range(999) if splits.split_of(groups, fraction=0.3, seed=s).tolist() == sides
    )


GOOD, OTHER = seed_with([0, 0, 0, 1]), seed_with([1, 0, 0, 0])  # every element occurs in training
TOLD = {"energy_unit": "eV", "length_unit": "Angstrom"}
ARRAYS = ("numbers", "positions", "forces", "energies", "offsets", "groups", "split")


def make(tmp_path, source, *, out="pack", sources=None, **options):
    say = io.StringIO()
    path = prepare(
        [source] if isinstance(source, Path) else source,
        tmp_path / out,
        sources=sources,
        options=PrepareOptions(**{"val_fraction": 0.3, "seed": GOOD, **options}),
        say=say,
    )
    assert [p.name for p in path.parent.glob(f"{out}.partial*")] == []
    return Pack(path)


def structures(pack):
    for k in range(len(pack)):
        rows = slice(int(pack.offsets[k]), int(pack.offsets[k + 1]))
        yield (
            pack.numbers[rows],
            pack.vectors("positions", rows),
            pack.vectors("forces", rows),
            float(pack.energies[k]),
        )


@pytest.fixture
def frames():
    return files.molecules(40)


@pytest.fixture
def xyz(tmp_path, frames):
    return files.extxyz(tmp_path / "a.xyz", frames)


# --- contents


def test_every_structure_is_centred_and_turned_as_a_whole(tmp_path, xyz, frames):
    pack = make(tmp_path, xyz)
    turns = []
    for (numbers, x, f, energy), frame in zip(structures(pack), frames, strict=True):
        assert numbers.tolist() == frame["numbers"].tolist() and energy == frame["energy"]
        centred = frame["positions"] - frame["positions"].mean(axis=0)
        turn, error = Rotation.align_vectors(
            np.vstack([x, f]), np.vstack([centred, frame["forces"]])
        )
        assert error < 1e-4  # float32
        turns.append(turn)
    angles = [(a.inv() * b).magnitude() for a, b in pairwise(turns)]
    assert min(angles) > 0.01, "every structure has a rotation of its own"
    assert pack.manifest["rotated"] is True


def test_rotations_match_scipy_and_depend_on_index_and_seed_alone():
    index = np.array([7, 0, 123456789], np.uint64)
    u, v, w = uniform(index, 3, 3).T
    a, b, v, w = np.sqrt(1 - u), np.sqrt(u), 2 * np.pi * v, 2 * np.pi * w
    quaternion = np.stack([a * np.sin(v), a * np.cos(v), b * np.sin(w), b * np.cos(w)], axis=1)
    expected = Rotation.from_quat(quaternion).as_matrix()
    np.testing.assert_allclose(rotations(index, 3), expected, atol=1e-14)
    np.testing.assert_array_equal(rotations(index[::-1], 3)[::-1], rotations(index, 3))
    assert np.abs(rotations(index, 4) - rotations(index, 3)).max() > 0.1


def test_rotations_are_uniform_on_so3():
    r = rotations(np.arange(40000, dtype=np.uint64), 0)
    np.testing.assert_allclose(np.linalg.det(r), 1.0, atol=1e-12)
    assert np.abs(r.mean(axis=0)).max() < 5 * np.sqrt(1 / 3 / 40000)  # E[R] = 0
    assert np.abs((r**2).mean(axis=0) - 1 / 3).max() < 5 * 0.3 / 200  # E[R_ij^2] = 1/3
    angle = np.arccos(np.clip((np.trace(r, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert angle.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)  # density (1 - cos)/pi


def test_no_rotate(tmp_path, xyz, frames):
    pack = make(tmp_path, xyz, rotate=False)
    for (_, x, f, _), frame in zip(structures(pack), frames, strict=True):
        np.testing.assert_allclose(
            x, frame["positions"] - frame["positions"].mean(axis=0), atol=1e-6
        )
        np.testing.assert_allclose(f, frame["forces"], rtol=1e-6, atol=1e-6)
    assert pack.manifest["rotated"] is False


@pytest.mark.parametrize("rotate", [None, True])
def test_periodic_structures_stay_or_turn_with_their_cell(tmp_path, frames, rotate):
    cell = np.array([[9.0, 0, 0], [1, 8, 0], [0, 2, 7]])
    for frame in frames:
        frame["header"] = 'Lattice="9 0 0 1 8 0 0 2 7" pbc="T T T"'
    frames[1]["header"] = ""
    pack = make(tmp_path, files.extxyz(tmp_path / "a.xyz", frames), rotate=rotate)
    assert (
        pack.manifest["periodic"]
        and pack.pbc[0].all()
        and not pack.pbc[1].any()
        and not pack.cells[1].any()
    )
    for k, ((_, x, f, _), frame) in enumerate(zip(structures(pack), frames, strict=True)):
        if k == 1:
            continue
        if rotate is None:
            np.testing.assert_array_equal(pack.cells[k], cell)
            np.testing.assert_allclose(x, frame["positions"], atol=1e-6)  # not even centred
        else:
            matrix = np.linalg.solve(cell, np.asarray(pack.cells[k])).T  # cell' = cell R^T
            assert (
                np.linalg.det(matrix) == pytest.approx(1, abs=1e-9)
                and np.abs(matrix - np.eye(3)).max() > 0.01
            )
            np.testing.assert_allclose(x, frame["positions"] @ matrix.T, atol=1e-5)
            np.testing.assert_allclose(f, frame["forces"] @ matrix.T, atol=1e-4)


def test_molecules_have_no_cells_or_charges_on_disk(tmp_path, xyz):
    pack = make(tmp_path, xyz)
    assert set(pack.manifest["arrays"]) == set(ARRAYS)
    assert {p.name for p in pack.path.iterdir()} == {
        "manifest.json",
        *(f"{name}.npy" for name in ARRAYS),
    }


def test_charges_and_spins_are_kept(tmp_path, frames):
    for k, frame in enumerate(frames):
        frame["header"] = f"charge={k % 3 - 1} spin={k % 2 + 1}" if k else ""
    pack = make(tmp_path, files.extxyz(tmp_path / "a.xyz", frames))
    assert pack.charges.tolist() == [NO_CHARGE] + [k % 3 - 1 for k in range(1, 40)]
    assert pack.spins.tolist() == [0] + [k % 2 + 1 for k in range(1, 40)]


def test_manifest_numbers_against_plain_loops(tmp_path, xyz, frames):
    pack = make(tmp_path, xyz)
    m, side = pack.manifest, pack.split.tolist()
    train = [f for f, s in zip(frames, side) if s == 0]
    assert m["elements"] == [1, 6, 7, 8]
    assert m["element_counts"] == {
        str(z): sum((f["numbers"] == z).sum() for f in frames) for z in (1, 6, 7, 8)
    }
    assert m["split"]["train_structures"] == len(train) and m["split"][
        "val_structures"
    ] == 40 - len(train)
    assert m["split"]["train_atoms"] == sum(len(f["numbers"]) for f in train)
    assert m["split"]["groups"] == 4 and m["split"]["seed"] == GOOD
    table = np.array([[(f["numbers"] == z).sum() for z in (1, 6, 7, 8)] for f in train], float)
    energies, sizes = (
        np.array([f["energy"] for f in train]),
        np.array([len(f["numbers"]) for f in train]),
    )
    expected = np.linalg.lstsq(table, energies, rcond=None)[0]
    residual = (energies - table @ expected) / sizes
    assert m["statistics"]["energy_per_atom_sd"] == pytest.approx(residual.std(), rel=1e-6)
    assert m["references"]["rms_residual_ev_per_atom"] == pytest.approx(
        np.sqrt((residual**2).mean()), rel=1e-6
    )
    np.testing.assert_allclose(pack.reference_energies()[[1, 6, 7, 8]], expected, rtol=1e-8)
    forces = np.concatenate([f["forces"] for f in train])
    norms = np.linalg.norm(forces, axis=1)
    stats = m["statistics"]
    assert stats["force_rms"] == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-9)
    assert stats["force_norm_mean"] == pytest.approx(norms.mean()) and stats[
        "force_norm_max"
    ] == pytest.approx(norms.max())
    assert stats["atoms_mean"] == pytest.approx(sizes.mean()) and stats["atoms_max"] == sizes.max()
    import hashlib

    assert m["sources"][0]["sha256"] == hashlib.sha256(xyz.read_bytes()).hexdigest()
    assert m["sources"][0]["name"] == "a.xyz" and m["sources"][0]["structures"] == 40
    assert str(tmp_path) not in json.dumps(m)


def test_groups_are_formulas_and_the_split_follows_them(tmp_path, xyz):
    pack = make(tmp_path, xyz)
    assert pack.groups.tolist() == [group_hash(FORMULAS[k % 4]) for k in range(40)]
    assert pack.split.tolist() == splits.split_of(pack.groups, fraction=0.3, seed=GOOD).tolist()


def test_group_by_key(tmp_path, frames):
    for k, frame in enumerate(frames):
        frame["header"] = f"batch=b{k // 8}"
    pack = make(tmp_path, files.extxyz(tmp_path / "a.xyz", frames), group="key:batch")
    assert pack.groups.tolist() == [group_hash(f"b{k // 8}") for k in range(40)]


# --- filters and policies


def refuse(tmp_path, source, *facts, **options):
    """What is refused, and leaves nothing; its text holds these counts and names."""
    with pytest.raises(DataError) as error:
        make(tmp_path, source, **options)
    assert [fact for fact in facts if fact not in str(error.value)] == []
    assert not (tmp_path / "pack").exists() and not list(tmp_path.glob("pack.partial*"))
    return error.value


def test_energy_only_frames_are_refused_or_skipped_with_a_count(tmp_path, frames):
    for k in (3, 17):
        frames[k]["without"] = "forces"
    frames[20]["without"] = "energy"
    source = files.extxyz(tmp_path / "a.xyz", frames)
    error = refuse(tmp_path, source, "no energy: 1", "no forces: 2", "of 40")
    assert (
        "frame 3" in error.where
        and "frame 20" in error.where
        and "--skip-unlabelled" in error.remedy
    )
    pack = make(tmp_path, source, skip_unlabelled=True)
    assert len(pack) == 37 and pack.manifest["skipped"] == {"no forces": 2, "no energy": 1}
    kept = [f["energy"] for k, f in enumerate(frames) if k not in (3, 17, 20)]
    assert pack.energies.tolist() == kept


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["energy", "forces", "positions"])
def test_labels_that_are_not_finite(tmp_path, frames, value, where):
    if where == "energy":
        frames[5]["energy"] = value
    else:
        frames[5][where][0, 1] = value
    source = files.padded_npz(tmp_path / "a.npz", frames)
    told = SourceOptions(**TOLD)
    error = refuse(tmp_path, source, f"{where} not finite: 1 of 40", sources=told)
    assert "frame 5" in error.where and "--skip-bad" in error.remedy
    pack = make(tmp_path, source, sources=told, skip_bad=True)
    assert len(pack) == 39 and pack.manifest["skipped"] == {f"{where} not finite": 1}
    assert all(
        np.isfinite(pack.vectors(name, slice(None))).all() for name in ("positions", "forces")
    )


def test_isolated_atoms_are_left_out_and_counted(tmp_path):
    path = SHIPPED / "solvent_xtb.xyz.gz"
    keys = SourceOptions(energy_key="energy_xtb", forces_key="forces_xtb")
    pack = make(tmp_path, path, sources=keys)
    assert len(pack) == 117 and pack.manifest["skipped"] == {"isolated atom": 3}
    kept = make(tmp_path, path, out="all", sources=keys, keep=Filter(keep_isolated_atoms=True))
    assert len(kept) == 120 and np.diff(kept.offsets).min() == 1


def test_filters(tmp_path, frames):
    for k, frame in enumerate(frames):
        frame["header"] = f"charge={k % 2}"
    source = files.extxyz(tmp_path / "a.xyz", frames)
    neutral = make(tmp_path, source, out="a", val_fraction=0.0, keep=Filter(only_neutral=True))
    assert (
        len(neutral) == 20
        and neutral.manifest["skipped"] == {"charged": 20}
        and not neutral.charges[:].any()
    )
    no_carbon = make(
        tmp_path, source, out="b", val_fraction=0.0, keep=Filter(elements=frozenset({1, 7, 8}))
    )
    assert len(no_carbon) == 20 and no_carbon.elements == [1, 7, 8]
    largest = np.array([np.linalg.norm(f["forces"], axis=1).max() for f in frames])
    limit = float(np.median(largest))
    gentle = make(tmp_path, source, out="c", val_fraction=0.0, keep=Filter(max_force=limit))
    assert gentle.energies.tolist() == [
        f["energy"] for f, top in zip(frames, largest) if top <= limit
    ]
    assert len(make(tmp_path, source, out="d", val_fraction=0.0, limit=13)) == 13


def test_only_neutral_needs_charges(tmp_path, xyz):
    error = refuse(tmp_path, xyz, "charge not given: 40 of 40", keep=Filter(only_neutral=True))
    assert "--charge-key" in error.remedy


def test_nothing_left(tmp_path, xyz):
    refuse(tmp_path, xyz, "40", keep=Filter(max_force=1e-9))


# --- splits


def test_one_molecule_needs_a_split_by_frame(tmp_path):
    source = files.extxyz(tmp_path / "a.xyz", files.molecules(40)[::4])
    error = refuse(tmp_path, source)
    assert "--group frame" in error.remedy
    pack = make(tmp_path, source, group="frame")
    assert 0 < pack.split[:].sum() < 10 and "on both sides" in pack.manifest["split"]["groups_note"]
    assert "rank 1 of 2" in pack.manifest["references"]["warnings"][0]


def test_empty_validation_is_an_error(tmp_path, xyz):
    refuse(tmp_path, xyz, "4", "--val-fraction", val_fraction=1e-6)


def test_element_in_validation_only(tmp_path, xyz):
    error = refuse(tmp_path, xyz, seed=seed_with([0, 0, 1, 0]))
    assert "N" in error.what.split() and "--seed" in error.remedy


def test_no_leak_on_real_molecules(tmp_path):
    pack = make(tmp_path, SHIPPED / "gfn2_flat.h5", val_fraction=0.1)
    train, held = (
        set(pack.groups[pack.split == 0].tolist()),
        set(pack.groups[pack.split == 1].tolist()),
    )
    assert not train & held and len(train | held) == pack.manifest["split"]["groups"]
    expected = slow.xtb(SHIPPED / "gfn2_flat.h5", 100, 3)
    for k, reference in zip(range(100, 103), expected):
        rows = slice(int(pack.offsets[k]), int(pack.offsets[k + 1]))
        x = reference["positions"] - reference["positions"].mean(axis=0)
        _, error = Rotation.align_vectors(pack.vectors("positions", rows), x)
        assert error < 1e-4 and pack.energies[k] == reference["energy"]
        assert pack.groups[k] == group_hash(reference["group"])


# --- determinism, merging, atomicity


def same_arrays(a: Path, b: Path) -> bool:
    names = {p.name for p in a.glob("*.npy")}
    return names == {p.name for p in b.glob("*.npy")} and all(
        (a / n).read_bytes() == (b / n).read_bytes() for n in names
    )


def test_same_input_same_bytes_whatever_the_blocks(tmp_path, xyz, monkeypatch):
    first = make(tmp_path, xyz, out="a")
    monkeypatch.setattr(base, "BLOCK_STRUCTURES", 3)
    second = make(tmp_path, xyz, out="b")
    assert same_arrays(first.path, second.path) and first.hash == second.hash
    third = make(tmp_path, xyz, out="c", seed=OTHER)
    assert not same_arrays(first.path, third.path)


def test_formats_agree(tmp_path, frames):
    told = SourceOptions(**TOLD)
    one = make(tmp_path, files.extxyz(tmp_path / "a.xyz", frames), out="a")
    two = make(tmp_path, files.padded_npz(tmp_path / "a.npz", frames), out="b", sources=told)
    three = make(tmp_path, files.database(tmp_path / "a.aselmdb", frames), out="c")
    assert same_arrays(one.path, two.path) and same_arrays(one.path, three.path)


def test_several_sources_are_one_pack_in_their_order(tmp_path, frames):
    a, b = (
        files.extxyz(tmp_path / "a.xyz", frames[:15]),
        files.extxyz(tmp_path / "b.xyz", frames[15:]),
    )
    whole = make(tmp_path, files.extxyz(tmp_path / "c.xyz", frames), out="whole")
    both = make(tmp_path, [a, b], out="both")
    assert same_arrays(whole.path, both.path)
    assert [s["structures"] for s in both.manifest["sources"]] == [15, 25]


def test_pack_as_a_source(tmp_path, frames):
    for k, frame in enumerate(frames):
        frame["header"] = f"charge={k % 2}"
    first = make(tmp_path, files.extxyz(tmp_path / "a.xyz", frames), rotate=False)
    again = make(tmp_path, first.path, out="again", rotate=False)
    for name in (*ARRAYS, "charges", "spins"):
        np.testing.assert_allclose(getattr(again, name), getattr(first, name), rtol=1e-6, atol=1e-6)
    with pytest.raises(DataError) as error:
        make(tmp_path, first.path, out="no", sources=SourceOptions(energy_unit="hartree"))
    assert "--energy-unit" in error.value.what and error.value.where == str(first.path)


def test_existing_pack_is_not_touched_without_overwrite(tmp_path, xyz):
    before = make(tmp_path, xyz).hash
    with pytest.raises(DataError) as error:
        make(tmp_path, xyz, seed=OTHER)
    assert str(tmp_path / "pack") in error.value.what and "--overwrite" in error.value.remedy
    assert Pack(tmp_path / "pack").hash == before
    assert make(tmp_path, xyz, seed=OTHER, overwrite=True).hash != before


def test_failure_while_overwriting_keeps_the_old_pack(tmp_path, xyz, frames):
    before = make(tmp_path, xyz).hash
    frames[30]["without"] = "forces"
    with pytest.raises(DataError, match="no forces: 1"):
        make(tmp_path, files.extxyz(tmp_path / "b.xyz", frames), overwrite=True)
    assert Pack(tmp_path / "pack").hash == before and not list(tmp_path.glob("pack.partial*"))


def test_leftovers_of_a_killed_call_are_removed(tmp_path, xyz):
    left = tmp_path / "pack.partial-0123abcd"
    left.mkdir()
    (left / f"writer-{socket.gethostname()}-999999999").touch()
    keep = tmp_path / "pack.partial-generate"
    keep.mkdir()
    with pytest.raises(
        AssertionError
    ):  # make() looks for leftovers: the foreign folder is still there
        make(tmp_path, xyz)
    assert (tmp_path / "pack").exists() and not left.exists() and keep.exists()


def test_pack_moved_aside_by_a_killed_overwrite_comes_back(tmp_path, xyz):
    before = make(tmp_path, xyz).hash
    (tmp_path / "pack").rename(tmp_path / "pack.partial-old-01234567")
    with pytest.raises(DataError) as error:
        make(tmp_path, xyz, seed=OTHER)
    assert "--overwrite" in error.value.remedy
    assert Pack(tmp_path / "pack").hash == before


def test_a_living_writer_is_not_disturbed(tmp_path, xyz):
    left = tmp_path / "pack.partial-0123abcd"
    left.mkdir()
    (left / f"writer-{socket.gethostname()}-{os.getppid()}").touch()
    with pytest.raises(DataError) as error:
        make(tmp_path, xyz)
    assert str(os.getppid()) in error.value.what and error.value.where == str(left)
    assert left.exists()


def test_kill_and_rerun_gives_the_same_pack(tmp_path):
    told = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
    source = files.padded_npz(tmp_path / "a.npz", files.molecules(40) * 500)
    words = [
        sys.executable,
        "-m",
        "forcelaw.cli",
        "data",
        "prepare",
        str(source),
        "--val-fraction",
        "0.3",
        "--seed",
        str(GOOD),
        *told,
        "--out",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    subprocess.run([*words, str(tmp_path / "whole")], check=True, timeout=60, **quiet)
    process = subprocess.Popen([*words, str(tmp_path / "pack")], **quiet)
    while not list(tmp_path.glob("pack.partial-*/positions.npy")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (tmp_path / "pack").exists() and len(list(tmp_path.glob("pack.partial-*"))) == 1
    subprocess.run([*words, str(tmp_path / "pack")], check=True, timeout=60, **quiet)
    assert same_arrays(tmp_path / "whole", tmp_path / "pack") and not list(
        tmp_path.glob("pack.partial-*")
    )


def test_peak_memory_does_not_grow_with_the_source(tmp_path):
    """Python's and NumPy's allocations for 9,000 and 36,000 structures (2 and 8 MB of arrays),
    compressed."""
    import tracemalloc

    def peak(n):
        rng = np.random.default_rng(0)
        numbers = np.tile(np.array([[8, 1, 1, 0], [7, 1, 1, 1]]), (n // 2, 1))
        vectors = {key: rng.normal(size=(n, 4, 3)).round(2) for key in "RF"}
        np.savez_compressed(tmp_path / "a.npz", z=numbers, E=rng.normal(size=n), **vectors)
        tracemalloc.start()
        told = {"sources": SourceOptions(**TOLD), "allow": frozenset({"units"})}  # random positions
        make(tmp_path, tmp_path / "a.npz", out=str(n), group="frame", **told)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    small, large = peak(9_000), peak(36_000)
    assert large < 1.1 * small


def test_a_share_within_one_structure_is_that_share(tmp_path):
    """1 of 3 is what .34 and .5 of them ask for."""
    frames = [molecule("H2O") for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
    write(tmp_path / "three.extxyz", frames)
    for fraction in (0.34, 0.5):
        pack = make(
            tmp_path,
            tmp_path / "three.extxyz",
            out=f"of {fraction}",
            group="frame",
            val_fraction=fraction,
        )
        assert (np.asarray(pack.split) != 0).sum() == 1


@pytest.mark.parametrize("group", ["auto", "frame"])
def test_test_structures_of_a_pack_are_never_trained_on(tmp_path, group):
    """A pack with a test set that is prepared again, or merged: its test structures stay test, and
    take no part in the split of the others."""
    paths = [files.extxyz(tmp_path / f"{k}.xyz", files.molecules(40, seed=k)) for k in (1, 2)]
    say, options = io.StringIO(), PrepareOptions(val_fraction=0.3, group=group, rotate=False)
    first = prepare([paths[0]], tmp_path / "first", test=[paths[1]], options=options, say=say)
    again = Pack(prepare([first], tmp_path / "again", options=options, say=say))
    assert "its 40 test structures stay test" in say.getvalue()
    held = np.asarray(Pack(first).energies)[np.asarray(Pack(first).split) == splits.TEST]
    kept = np.asarray(again.energies)[np.asarray(again.split) == splits.TEST]
    np.testing.assert_array_equal(held, kept)
    assert (
        again.manifest["split"]["train_structures"]
        == 40 - again.manifest["split"]["val_structures"]
    )
    assert again.manifest["split"]["groups"] == (None if group == "frame" else len(FORMULAS))
