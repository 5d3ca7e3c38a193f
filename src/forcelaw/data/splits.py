"""Splits by molecule and nested prefixes. Both are pure functions of hashes, so they stream and
never change.

A structure's side of the split is decided by the hash of its group label (the molecule) and the
seed alone: all frames of a molecule fall on the same side, in every pack and every source, whatever
the order. The mixing function is splitmix64 (Steele, Lea & Flood, OOPSLA 2014,
doi:10.1145/2660193.2660195), a bijection of 64 bits whose output passes BigCrush.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from .pack import Pack

TRAIN, VALIDATION, TEST = 0, 1, 2
SIDE_OF = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "test": TEST}
_AT_ONCE = 1 << 20  # structures whose keys are made together
EXACT_GROUPS = 10_000  # up to so many groups a split keeps its share to within one group


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit values: uint64 of any shape to uint64 of the same shape."""
    x = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed(values: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 of values under a seed: uint64 (n,) to uint64 (n,), independent streams for
    different seeds."""
    with np.errstate(over="ignore"):
        key = splitmix64(np.array([seed % 2**64], np.uint64))
        return splitmix64(splitmix64(values) ^ key)


def split_of(groups: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Side of the split of each structure: uint8 (n,), 0 train and 1 validation.

    groups: uint64 (n,) hashes of group labels. fraction: expected share of *groups* in validation,
    0 <= fraction < 1.
    """
    if not 0.0 <= fraction < 1.0:
        raise DataError(
            f"validation fraction {fraction} is not in [0, 1)",
            remedy="pass --val-fraction 0.1 or so",
        )
    threshold = np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    return (keyed(groups, seed) < threshold).astype(np.uint8)


def exact_split(groups: np.ndarray, sizes: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Which groups are validation so that its share of the *structures* is ``fraction`` to within
    one group: bool (g,).

    groups: uint64 (g,), distinct; sizes (g,): structures of each. Where the hashes alone
    (:func:`split_of`) keep the share, they decide; else groups are taken in the order of their
    keyed hashes, each if it brings the share nearer.
    """
    by_hash = split_of(groups, fraction=fraction, seed=seed) == VALIDATION
    target = fraction * float(sizes.sum())
    off = abs(float(sizes[by_hash].sum()) - target)
    if off <= max(0.5, min(float(sizes.max(initial=0)), 0.1 * target)):
        return by_hash
    chosen, taken = np.zeros(len(groups), bool), 0.0
    for k in np.argsort(keyed(groups, seed), kind="stable"):
        if taken + sizes[k] / 2 <= target:
            chosen[k] = True
            taken += float(sizes[k])
    return chosen


def order(pack: Pack, which: str, seed: int = 0) -> np.ndarray:
    """Structure indices of one side of a pack in a fixed random order: int64 (structures of that
    side,).

    which: "train", "validation" or "test". The order depends on the seed and the structure's place
    in the pack only; every smaller data set is a prefix of it, so data sets nest.
    """
    if which not in SIDE_OF:
        raise DataError(f"no split called {which!r}", remedy="use 'train', 'validation' or 'test'")
    members = narrow(np.flatnonzero(np.asarray(pack.split) == SIDE_OF[which]), len(pack.split))
    keys = np.empty(len(members), np.uint64)  # all different: keyed is a bijection
    for low in range(0, len(keys), _AT_ONCE):
        part = slice(low, low + _AT_ONCE)
        keys[part] = keyed(members[part].astype(np.uint64), seed)
    return members[np.argsort(keys)].astype(np.int64)


def narrow(values: np.ndarray, below: int) -> np.ndarray:
    """Whole numbers from 0, less than ``below``, in half of the memory where they fit."""
    return values.astype(np.int32 if below < 2**31 else np.int64, copy=False)


def prefix(order: np.ndarray, offsets: np.ndarray, atoms: int) -> np.ndarray:
    """The shortest prefix of ``order`` that holds at least ``atoms`` atoms.

    order: int64 structure indices, as :func:`order` gives. offsets: int64 (structures + 1,) of the
    pack. Asking for more atoms than there are is an error, never a silently smaller set.
    """
    return order[: prefix_length(offsets[order + 1] - offsets[order], atoms)]


def prefix_length(sizes: np.ndarray, atoms: float) -> int:
    """How many structures of ``sizes`` (s,), from the first on, hold at least ``atoms`` atoms."""
    if atoms <= 0:
        return 0
    total = np.cumsum(sizes)
    have = int(total[-1]) if len(total) else 0
    if have < atoms:
        raise DataError(
            f"{atoms} atoms asked for, the split holds {have}",
            remedy="use a smaller data size, or prepare a larger pack",
        )
    return int(np.searchsorted(total, atoms)) + 1
