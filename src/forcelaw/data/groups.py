"""Groups: what a molecule is. Frames of one group never straddle the split."""

from __future__ import annotations

import numpy as np

from ..elements import formulas
from .pack import group_hash
from .readers import Block
from .reference import composition_of_present

COUNTED_GROUPS = 1_000_000  # distinct groups are counted up to here, so that memory stays bounded


def formula_hashes(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Hash of the Hill formula of each structure: uint64 (s,)."""
    present, rows = composition_of_present(counts, numbers)
    digits = rows.max(axis=0) + 1
    # compositions as numbers whose digits are their counts: sorted much faster than rows
    fits = digits.prod(dtype=np.float64) < 2**62
    keys = rows @ np.cumprod([1, *digits[:-1]]) if fits else rows
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    hashes = [group_hash(text) for text in formulas(present.tolist(), rows[first].tolist())]
    return np.array(hashes, np.uint64)[place.reshape(-1)]


def group_hashes(block: Block) -> np.ndarray:
    """Hash of the group label of each structure, of its formula where the source names no group:
    uint64 (s,)."""
    if block.groups is None:
        return formula_hashes(block.counts, block.numbers)
    if isinstance(block.groups, np.ndarray):
        return block.groups
    labels = [block.groups] * len(block) if isinstance(block.groups, str) else block.groups
    table = {label: group_hash(label) for label in set(labels)}
    return np.array([table[label] for label in labels], np.uint64)


class GroupCounter:
    """Distinct group hashes and their structures, in bounded memory: beyond ``limit`` groups only
    that there are more is known (``number`` is None)."""

    def __init__(self, limit: int = COUNTED_GROUPS) -> None:
        self.limit, self.overflow = limit, False
        self._known, self._sizes = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows = 0

    def add(self, groups: np.ndarray) -> None:
        if self.overflow:
            return
        self._waiting.append(np.unique(groups, return_counts=True))
        self._rows += len(self._waiting[-1][0])
        if self._rows > min(131_072, 4 * self.limit):
            self._merge()

    def _merge(self) -> None:
        known = np.concatenate([self._known, *(groups for groups, _ in self._waiting)])
        sizes = np.concatenate([self._sizes, *(counts for _, counts in self._waiting)])
        self._known, place = np.unique(known, return_inverse=True)
        self._sizes = np.zeros(len(self._known), np.int64)
        np.add.at(self._sizes, place, sizes)
        self._waiting, self._rows = [], 0
        if len(self._known) > self.limit:
            self.overflow, self._known, self._sizes = True, self._known[:2], self._sizes[:2]

    @property
    def number(self) -> int | None:
        return None if self.table() is None else len(self._known)

    def table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Hashes (g,), ascending, and structures (g,) of all groups; None where there are more than
        ``limit``."""
        if not self.overflow:
            self._merge()
        return None if self.overflow else (self._known, self._sizes)
