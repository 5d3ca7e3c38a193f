"""Structures read from a pack larger than memory: what is asked of the disk, and what is read."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from forcelaw.data import gather
from forcelaw.data.gather import AT_ONCE, GAP, Gather, stretches
from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed, plan
from tests.packs import write_pack


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A pack of 20,000 structures."""
    return write_pack(tmp_path_factory.mktemp("large") / "pack", 20_000).path


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int, int]]:
    """(file, first byte, length) that the system was asked for."""
    found: list[tuple[str, int, int]] = []

    def advise(handle: int, at: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((Path(f"/proc/self/fd/{handle}").readlink().stem, at, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def test_stretches_cover_what_is_wanted_and_little_else() -> None:
    rng = np.random.default_rng(0)
    low = np.sort(rng.choice(100_000_000, 2000, replace=False)).astype(np.int64)
    high = np.minimum(low + rng.integers(1, 2 * GAP, 2000), np.append(low[1:], 1 << 40))
    found = list(stretches(low, high))
    at, end = np.array([(first, first + length) for first, length in found]).T
    assert (at[1:] >= end[:-1]).all() and max(length for _, length in found) <= AT_ONCE
    for begin, stop in zip(low, high):
        held = np.clip(np.minimum(end, stop) - np.maximum(at, begin), 0, None)
        assert held.sum() == stop - begin
    gaps = low[1:] - high[:-1]
    assert (end - at).sum() == (high - low).sum() + gaps[gaps <= GAP].sum()


@pytest.mark.parametrize("shard_size", [None, 2500])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("ascending", [True, False])
def test_what_is_read_is_what_the_arrays_hold(
    tmp_path, monkeypatch, ascending, alone, shard_size
) -> None:
    monkeypatch.setattr(gather, "GAP", 0 if alone else 1 << 40)
    monkeypatch.setattr(gather, "IN_ORDER", 7)
    monkeypatch.setattr(gather, "SCATTERED", 7)
    pack = write_pack(tmp_path / "pack", periodic=True, shard_size=shard_size)
    rows = np.random.default_rng(1).permutation(len(pack))[:25]
    rows = np.sort(rows) if ascending else rows
    with Gather(pack, rows) as stored:
        for low, high in ((0, 1), (1, 9), (9, 25)):
            found = stored.read(low, high)
            atoms = [np.arange(*pack.offsets[k : k + 2]) for k in rows[low:high]]
            atoms = np.concatenate([*atoms, np.zeros(0, int)])
            for name in ("numbers", "positions", "forces"):
                assert (found[name] == np.asarray(getattr(pack, name))[atoms]).all()
            for name in ("energies", "cells", "pbc"):
                assert (found[name] == np.asarray(getattr(pack, name))[rows[low:high]]).all()
            assert len(found["forces"]) == len(atoms) and len(found["pbc"]) == high - low


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells")
@pytest.mark.parametrize(("step", "alone"), [(500, True), (1, False)])
def test_only_structures_far_apart_are_read_without_their_neighbours(large, step, alone) -> None:
    """The flag "rr" of a mapping: random reads."""
    pack, file = Pack(large), str(large / "forces.npy")
    with Gather(pack, np.arange(0, 20_000, step)):
        mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
        flags = [after for before, after in pairwise(mappings) if file in before]
    assert [" rr " in text.partition("\n")[0] for text in flags].count(True) == alone


def test_of_structures_far_apart_little_else_is_asked_for(large, asked) -> None:
    """40 of 20,000: a stretch for each."""
    pack = Pack(large)
    rows = np.arange(0, 20_000, 500)
    with Gather(pack, rows) as stored:
        stored.reach(40)
    for name in ("positions", "forces"):
        parts = [(at, length) for file, at, length in asked if file == name]
        counts = np.diff(pack.offsets)[rows]
        assert sum(length for _, length in parts) == 12 * counts.sum() and len(parts) == 40
        assert [at for at, _ in parts] == (128 + 12 * pack.offsets[rows]).tolist()


def test_of_shards_only_those_that_hold_structures_are_asked(tmp_path, asked) -> None:
    pack = write_pack(tmp_path / "pack", shard_size=2500)
    rows = np.array([1, 2, 30])
    with Gather(pack, rows) as stored:
        stored.reach(3)
    first = np.cumsum([0] + [shard.structures for shard in pack.shards])
    atoms = np.cumsum([0] + [shard.atoms for shard in pack.shards])
    shards = np.unique(np.searchsorted(first, rows, side="right") - 1)
    parts = [(at, length) for file, at, length in asked if file == "positions"]
    assert len(parts) == len(shards) == 2
    for (at, length), k, (low, high) in zip(parts, shards, ((1, 3), (30, 31)), strict=True):
        assert at == 128 + 12 * (pack.offsets[low] - atoms[k])
        assert length == 12 * (pack.offsets[high] - pack.offsets[low])


def test_a_block_is_asked_for_before_it_is_reached(tmp_path, asked, monkeypatch) -> None:
    monkeypatch.setattr(gather, "IN_ORDER", 10)
    pack = write_pack(tmp_path / "pack")
    with Gather(pack, np.arange(40)) as stored:
        assert not asked
        stored.reach(1)
        stored._next.result()
        assert max(at + n for file, at, n in asked if file == "numbers") == 128 + pack.offsets[20]


def test_windows_are_read_in_the_order_of_the_pack(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    indices = np.random.default_rng(2).permutation(len(pack))
    schedule = plan(pack.sizes(indices), atoms_total=400, seed=0, molecules=5, atoms=None)
    options = {"cutoff": 3.0, "elements": (1, 6, 8), "dtype": torch.float32}
    feed = Feed(pack, indices, schedule, capacity=80, device=torch.device("cpu"), **options)
    windows = list(feed.windows())
    assert len(windows) > 3
    for window in windows:
        assert (np.diff(window.shard.indices) > 0).all()
        assert (indices[window.numbers] == window.shard.indices).all()
        for step in range(window.low, window.high):
            wanted = indices[schedule.order[schedule.ptr[step] : schedule.ptr[step + 1]]]
            assert (window.shard.indices[window.rows(schedule, step)] == wanted).all()


def test_offsets_that_lead_nowhere_are_not_followed(tmp_path, asked) -> None:
    """Of a pack that nobody has verified."""
    pack = write_pack(tmp_path / "pack")
    pack.offsets = np.array(pack.offsets)
    pack.offsets[3:6] = [-(2**60), 2**62, 2**60]
    with Gather(pack, np.arange(40)) as stored:
        stored.reach(40)
    assert all(at >= 0 and at + n <= 128 + 12 * pack.atoms for _, at, n in asked)
