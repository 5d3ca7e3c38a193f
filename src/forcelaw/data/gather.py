"""Chosen structures of a pack, read from the disk without what lies between them.

A page that is not in the system's cache is fetched together with its neighbours, from 128 KB to
many MB of them, which for one structure in hundreds is the whole pack. So the system is told which
bytes will be wanted, a block of structures ahead, and where they lie far apart nothing else is
fetched.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import ShardedArray, parts_of

if TYPE_CHECKING:
    from .pack import Pack

# Bytes. Structures that lie nearer are read with what is between them. Of 4, 16, 32 and 128 KB the
# first two were the fastest where structures lie far apart (results/scale/cold.txt).
GAP = 1 << 14
AT_ONCE = 1 << 17  # bytes asked for in one call: systems cut longer wishes short
IN_ORDER, SCATTERED = 1 << 14, 1 << 20  # structures asked for, and held, together
_OF_ATOMS = ("numbers", "positions", "forces")
_OF_STRUCTURES = ("energies", "cells", "pbc")


class Gather:
    """Reads ``structures`` (s,) of a pack, in that order, from the first on. Where it is not that
    of the pack, blocks of them are read in the order of the pack and held. poll: called before each
    reading. Used as a context."""

    def __init__(self, pack: Pack, structures: np.ndarray, poll: Callable[[], None] = lambda: None):
        self.pack, self._structures, self._poll = pack, structures, poll
        self._ascending = bool((structures[1:] >= structures[:-1]).all())
        self._asked = self._ready = 0
        self._thread = ThreadPoolExecutor(1, "gather")
        self._next: Future[None] | None = None
        self._held = _Held(0, {}, *(np.zeros(0, np.int64) for _ in range(3)))
        self._names = [n for n in (*_OF_ATOMS, *_OF_STRUCTURES) if getattr(pack, n) is not None]
        self._alone: dict[str, np.ndarray | ShardedArray] = {}
        for name in self._names if self._ascending and _ADVICE else ():
            array = getattr(pack, name)
            if array.nbytes / max(1, len(structures)) > GAP:
                self._alone[name] = _read_alone(array)

    def __enter__(self) -> Gather:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def read(self, low: int, high: int) -> dict[str, np.ndarray]:
        """Arrays of structures low:high, as they are stored: numbers, positions, forces of their
        atoms, one structure after the other; energies, cells, pbc."""
        self._poll()
        if self._ascending:
            self.reach(high)
            rows = self._structures[low:high].astype(np.int64)
            first = self.pack.offsets[rows]
            return self._taken(self.take, rows, first, self.pack.offsets[rows + 1] - first)
        found = []
        while low < high:
            if low >= self._held.first + len(self._held.place):
                self._held = self._hold(low)
            held = self._held
            rows = held.place[low - held.first : high - held.first]
            take = held.take
            found.append(self._taken(take, rows, held.first_atom[rows], held.counts[rows]))
            low += len(rows)
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([part[name] for part in found]) for name in self._names}

    def _taken(
        self,
        take: Callable[[str, np.ndarray], np.ndarray],
        rows: np.ndarray,
        first: np.ndarray,
        counts: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Arrays of structures, by ``take`` of their rows (s,) and of those of their atoms."""
        atoms = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return {name: take(name, atoms if name in _OF_ATOMS else rows) for name in self._names}

    def _hold(self, low: int) -> _Held:
        """The structures from number ``low`` on, read in the order of the pack."""
        structures = self._structures[low : low + SCATTERED]
        order = np.argsort(structures)
        counts = self.pack.sizes(structures[order]).astype(np.int64)
        first = np.cumsum(counts) - counts
        arrays = {}
        for name in self._names:
            stored, rows = getattr(self.pack, name), len(counts)
            number = int(counts.sum()) if name in _OF_ATOMS else rows
            arrays[name] = np.empty((number, *stored.shape[1:]), stored.dtype)
        with Gather(self.pack, structures[order], self._poll) as in_order:
            for begin in range(0, len(order), IN_ORDER):
                end = min(begin + IN_ORDER, len(order))
                for name, rows in in_order.read(begin, end).items():
                    at = int(first[begin]) if name in _OF_ATOMS else begin
                    arrays[name][at : at + len(rows)] = rows
        return _Held(low, arrays, np.argsort(order), first, counts)

    def reach(self, number: int) -> None:
        """Wait until the first ``number`` structures were asked for; those of the block that
        follows are asked for meanwhile."""
        while self._ready < min(number, len(self._structures)):
            if self._next is None:
                self._next = self._thread.submit(self._ask)
            self._next.result()
            self._ready = self._asked
            self._next = self._thread.submit(self._ask)

    def _ask(self) -> None:
        """Ask the system for the next block."""
        low, self._asked = self._asked, min(self._asked + IN_ORDER, len(self._structures))
        rows = self._structures[low : self._asked].astype(np.int64)
        if not len(rows) or not _ADVICE:
            return
        first, last = self.pack.offsets[rows], self.pack.offsets[rows + 1]
        for name in self._names:
            wanted = (first, last) if name in _OF_ATOMS else (rows, rows + 1)
            ask_for(getattr(self.pack, name), *wanted)

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of an array by their numbers in the pack."""
        array = self._alone.get(name, getattr(self.pack, name))
        return np.asarray(array.take(rows, axis=0))


@dataclass
class _Held:
    """Structures in the order of the pack. first: number of the first of them; arrays: of all;
    place: where each, in the order wanted, stands; first_atom, counts: of each as they stand."""

    first: int
    arrays: dict[str, np.ndarray]
    place: np.ndarray
    first_atom: np.ndarray
    counts: np.ndarray

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        return self.arrays[name].take(rows, axis=0)


_ADVICE = hasattr(os, "posix_fadvise") and hasattr(mmap, "MADV_RANDOM")  # not on macOS, Windows


def ask_for(array: np.memmap | ShardedArray, low: np.ndarray, high: np.ndarray) -> None:
    """Tell the system that rows low:high (r,), ascending, will be read; it begins to, and this
    returns as soon as the disk has so much to do."""
    for first, part in parts_of(array):
        begin, end = (np.clip(rows - first, 0, len(part)) for rows in (low, high))
        mine, size = begin < end, part[:1].nbytes
        if not mine.any():
            continue
        with contextlib.suppress(OSError):  # a file system that takes no advice
            handle = os.open(Path(part.filename), os.O_RDONLY)
            try:
                ends = (part.offset + size * rows[mine] for rows in (begin, end))
                for at, length in stretches(*ends):
                    os.posix_fadvise(handle, at, length, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)


def stretches(low: np.ndarray, high: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first byte, length) that cover the bytes low:high (r,), ascending: across gaps of less than
    GAP, at most AT_ONCE long."""
    begins = np.concatenate([[True], low[1:] - high[:-1] > GAP])
    ends = np.append(np.flatnonzero(begins)[1:] - 1, len(low) - 1)
    for first, last in zip(low[begins].tolist(), high[ends].tolist()):
        for at in range(first, last, AT_ONCE):
            yield at, min(AT_ONCE, last - at)


def _read_alone(array: Any) -> np.ndarray | ShardedArray:
    """The same rows in a mapping of their own, of which a page is fetched without its
    neighbours."""
    if isinstance(array, ShardedArray):
        return ShardedArray([_read_alone(part) for part in array.parts])
    with Path(array.filename).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    memory.madvise(mmap.MADV_RANDOM)
    rows = np.frombuffer(memory, array.dtype, array.size, array.offset)
    return rows.reshape(array.shape)
