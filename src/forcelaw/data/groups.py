"""Groups: what a molecule is. Frames of one group never straddle the split."""

from __future__ import annotations

import numpy as np

from ..elements import formula
from .pack import group_hash
from .readers import Block
from .reference import composition

COUNTED_GROUPS = 1_000_000  # distinct groups are counted up to here, so that memory stays bounded


def formula_hashes(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Hash of the Hill formula of each structure: uint64 (s,)."""
    table = composition(counts, numbers)
    present = np.flatnonzero(table.any(axis=0))
    rows, inverse = np.unique(table[:, present], axis=0, return_inverse=True)
    hashes = np.array([group_hash(formula(np.repeat(present, row))) for row in rows], np.uint64)
    return hashes[inverse.reshape(-1)]


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
    """Count distinct group hashes in bounded memory; ``number`` is None beyond COUNTED_GROUPS."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.uint64)
        self._waiting: list[np.ndarray] = []
        self._rows = 0
        self.overflow = False

    def add(self, groups: np.ndarray) -> None:
        if self.overflow:
            return
        self._waiting.append(np.unique(groups))
        self._rows += len(self._waiting[-1])
        if self._rows > 131_072:
            self._merge()

    def _merge(self) -> None:
        self._known = np.unique(np.concatenate([self._known, *self._waiting]))
        self._waiting, self._rows = [], 0
        if len(self._known) > COUNTED_GROUPS:
            self.overflow, self._known = True, self._known[:2]

    @property
    def number(self) -> int | None:
        if not self.overflow:
            self._merge()
        return None if self.overflow else len(self._known)
