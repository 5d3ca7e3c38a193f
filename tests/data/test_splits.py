"""Splits and prefixes against plain-integer and brute-force versions."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from forcelaw.data import splits
from forcelaw.data.groups import formula_hashes
from forcelaw.data.pack import group_hash
from forcelaw.elements import SYMBOLS
from forcelaw.errors import DataError

MASK = 2**64 - 1


def mix(x: int) -> int:
    """splitmix64 with Python integers, as published."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def fake_pack(structures=1000, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 30, structures)
    groups = np.array(
        [group_hash(f"m{k}") for k in rng.integers(0, structures // 4, structures)], np.uint64
    )
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return SimpleNamespace(
        groups=groups, offsets=offsets, split=splits.split_of(groups, fraction=0.2, seed=seed)
    )


def test_splitmix64_matches_plain_integers_and_the_published_stream():
    values = [0, 1, 2**63, MASK, 0x9E3779B97F4A7C15, 12345678901234567890]
    assert splits.splitmix64(np.array(values, np.uint64)).tolist() == [mix(v) for v in values]
    # the reference implementation (Vigna, prng.di.unimi.it) seeded with 0 returns this first
    assert int(splits.splitmix64(np.array([0], np.uint64))[0]) == 0xE220A8397B1DCDAF


def test_split_is_a_pure_function_of_group_and_seed():
    pack = fake_pack()
    one_by_one = [
        int(splits.split_of(pack.groups[k : k + 1], fraction=0.2, seed=0)[0]) for k in range(1000)
    ]
    assert one_by_one == pack.split.tolist()
    expected = [int(mix(mix(int(g)) ^ mix(0)) < int(0.2 * 2**64)) for g in pack.groups]
    assert expected == one_by_one


def test_no_molecule_on_both_sides():
    pack = fake_pack(5000)
    train, validation = (
        set(pack.groups[pack.split == 0].tolist()),
        set(pack.groups[pack.split == 1].tolist()),
    )
    assert train and validation and not train & validation


def test_fraction_and_independence_of_seeds():
    groups = np.array([group_hash(str(k)) for k in range(20000)], np.uint64)
    sides = [splits.split_of(groups, fraction=0.1, seed=seed) for seed in range(4)]
    for side in sides:  # 5 standard deviations
        assert abs(side.mean() - 0.1) < 5 * np.sqrt(0.09 / 20000)
    assert abs((sides[0] & sides[1]).mean() - 0.01) < 5 * np.sqrt(0.0099 / 20000)
    assert not splits.split_of(groups, fraction=0.0, seed=0).any()


def test_larger_validation_contains_the_smaller():
    groups = fake_pack().groups
    small, large = (splits.split_of(groups, fraction=f, seed=1) for f in (0.1, 0.3))
    assert (large >= small).all() and large.sum() > small.sum()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_impossible_fraction(fraction):
    with pytest.raises(DataError, match=re.escape(str(fraction))):
        splits.split_of(np.zeros(1, np.uint64), fraction=fraction, seed=0)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_order_is_a_seeded_permutation_of_one_side(which):
    pack = fake_pack()
    order = splits.order(pack, which, seed=3)
    members = np.flatnonzero(pack.split == (which == "validation"))
    assert order.dtype == np.int64 and sorted(order) == members.tolist()
    assert order.tolist() == sorted(members.tolist(), key=lambda k: mix(mix(k) ^ mix(3)))
    assert order.tolist() != splits.order(pack, which, seed=4).tolist()


def test_prefix_is_the_shortest_and_nests():
    pack = fake_pack()
    order, last = splits.order(pack, "train"), np.zeros(0, np.int64)
    counts = np.diff(pack.offsets)
    for atoms in (1, 2, 57, 1000, 5000, int(counts[order].sum())):
        chosen = splits.prefix(order, pack.offsets, atoms)
        total, k = 0, 0
        while total < atoms:  # brute force
            total += counts[order[k]]
            k += 1
        assert chosen.tolist() == order[:k].tolist()
        assert chosen[: len(last)].tolist() == last.tolist()
        last = chosen


def test_prefix_edges():
    pack = fake_pack()
    order = splits.order(pack, "train")
    assert len(splits.prefix(order, pack.offsets, 0)) == 0
    held = int(np.diff(pack.offsets)[order].sum())
    with pytest.raises(DataError) as error:
        splits.prefix(order, pack.offsets, held + 1)
    assert {str(held + 1), str(held)} <= set(error.value.what.split())
    with pytest.raises(DataError, match="'trial'"):
        splits.order(pack, "trial")


@pytest.mark.parametrize("elements", [6, 50])
def test_formulas_against_one_structure_after_the_other(elements):
    """With compositions that fit into one number of 64 bits, and such as do not."""
    rng = np.random.default_rng(elements)
    pool = []
    for k in range(40):  # all alike but for one element
        counts = np.full(elements, 3)
        counts[k % elements] = k // elements % 3
        pool.append(np.repeat(np.arange(1, elements + 1), counts))
    drawn = [rng.permutation(pool[k]) for k in rng.integers(0, len(pool), 120)]

    def hill(numbers):
        words = [SYMBOLS[z] for z in numbers]
        first = ["C", "H"] if "C" in words else []
        order = [s for s in first if s in words] + sorted(set(words) - set(first))
        return "".join(s + (str(words.count(s)) if words.count(s) > 1 else "") for s in order)

    found = formula_hashes(np.array([len(z) for z in drawn]), np.concatenate(drawn))
    assert found.tolist() == [group_hash(hill(z)) for z in drawn]
