"""The stream of batches of a run: which structures make which step, and the shard they are read
from.

When the training set fits on the device it is loaded once and stays. When it does not, it is loaded
in windows of whole batches, the next one read ahead by a thread; the batches are the same ones, so
the results do not change.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import StudyError
from ..host import usable_memory
from .device_dataset import Shard, epoch_order, plan_epoch
from .pack import Pack
from .splits import narrow

# arrays of an atom and its 20 edges on the device, measured: 28 + 20 * 4 and slack while loading
BYTES_PER_ATOM = 240
MOST_STRUCTURES = 500_000_000  # of a run, repeats counted: 2 GB of order
FEW = 0.25  # share of a training set below which a run loads what it sees, and no more
_DEALT_STEPS = 100_000  # dealt out to ranks at once: bounds the memory that sorting takes


@dataclass
class Plan:
    """All steps of a run, fixed before it starts.

    order: structures (positions in the training set) of every epoch, concatenated, (epochs *
    structures,), int32 where that holds them; ptr: step k takes ``order[ptr[k]:ptr[k + 1]]``; atoms
    (steps,) int64, their atoms; epoch (steps,) int64
    """

    order: np.ndarray
    ptr: np.ndarray
    atoms: np.ndarray
    epoch: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.ptr) - 1

    def part(self, natoms: np.ndarray, rank: int, ranks: int) -> Plan:
        """What ``rank`` of ``ranks`` processes takes of every step, in the order of the plan; it
        may be nothing. natoms (structures,): sizes of the training structures.

        Structures are dealt out by size, largest first, there and back, so that all have nearly
        the same atoms to work on.
        """
        if ranks == 1:
            return self
        mine = np.zeros(len(self.order), bool)
        for low in range(0, self.steps, _DEALT_STEPS):
            ptr = self.ptr[low : low + _DEALT_STEPS + 1]
            step = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
            by_size = np.lexsort((-natoms[self.order[ptr[0] : ptr[-1]]], step))
            turn, place = np.divmod(np.arange(len(step)) - (ptr[:-1] - ptr[0])[step], ranks)
            owner = np.where(turn % 2, ranks - 1 - place, place)
            mine[ptr[0] + by_size[owner == rank]] = True
        order = self.order[mine]
        ptr = np.concatenate([[0], np.cumsum(mine)])[self.ptr]
        ends = np.concatenate([[0], np.cumsum(natoms[order])])
        return Plan(order, ptr, ends[ptr[1:]] - ends[ptr[:-1]], self.epoch)


def plan(
    natoms: np.ndarray, *, atoms_total: float, seed: int, molecules: int | None, atoms: int | None
) -> Plan:
    """Steps until at least ``atoms_total`` atoms have been seen, in as many epochs as that takes.

    natoms (structures,): sizes of the training structures.
    """
    if atoms_total / natoms.mean() > MOST_STRUCTURES:
        raise StudyError(
            f"a run of {atoms_total:.3g} atoms sees {atoms_total / natoms.mean():.3g} structures;"
            f" its steps are laid out before it starts, for at most {MOST_STRUCTURES:.3g}",
            remedy="choose a shorter run",
        )
    orders, ptrs, sizes, epochs = [], [np.zeros(1, np.int64)], [], []
    seen, epoch, offset = 0, 0, 0
    while seen < atoms_total:
        order = narrow(epoch_order(len(natoms), seed, epoch), len(natoms))
        ptr = plan_epoch(natoms, order, molecules=molecules, atoms=atoms)
        size = np.add.reduceat(natoms[order], ptr[:-1], dtype=np.int64)
        keep = min(
            len(size), int(np.searchsorted(seen + np.cumsum(size), atoms_total, side="left")) + 1
        )
        orders.append(order[: ptr[keep]])
        ptrs.append(offset + ptr[1 : keep + 1])
        sizes.append(size[:keep])
        epochs.append(np.full(keep, epoch))
        seen += int(size[:keep].sum())
        offset += int(ptr[keep])
        epoch += 1
    # one epoch, which may be the longest that memory holds, is not copied
    order = orders[0] if len(orders) == 1 else np.concatenate(orders)
    return Plan(order, np.concatenate(ptrs), np.concatenate(sizes), np.concatenate(epochs))


@dataclass
class Window:
    """Steps low:high of the plan and the shard that holds their structures; local maps plan order
    to shard rows. numbers: of each row the position in the training set, which random rotations go
    by; None where that is the row itself."""

    low: int
    high: int
    shard: Shard
    local: np.ndarray  # (plan.order length of the window,) rows of the shard
    first: int  # position in plan.order where ``local`` begins
    numbers: np.ndarray | None = None
    last: bool = True  # no other window follows

    def rows(self, plan: Plan, step: int) -> np.ndarray:
        """Rows of the shard that make ``step``."""
        return self.local[plan.ptr[step] - self.first : plan.ptr[step + 1] - self.first]


def load_shard(pack: Pack, indices: np.ndarray, **options: Any) -> Shard:
    """A shard that any stream may read: its arrays are complete when this returns."""
    shard = Shard(pack, indices, **options)
    if shard.device.type == "cuda":
        torch.cuda.current_stream(shard.device).synchronize()
    return shard


class Shards:
    """Shards that the runs of one process share. Training sets are nested prefixes of one order, so
    a shard serves every set that it begins with: rows keep their numbers."""

    def __init__(self) -> None:
        self._held: dict[Any, list[Shard]] = {}
        self._lock = threading.Lock()

    def get(
        self,
        pack: Pack,
        indices: np.ndarray,
        *,
        poll: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> Shard:
        """A shard whose first rows are ``indices``; loaded when there is none yet. Options as for
        :class:`Shard`."""
        key = (pack.hash, *(str(options[name]) for name in sorted(options)))
        with self._lock:
            held = self._held.setdefault(key, [])
            found = next((s for s in held if _begins_with(s.indices, indices)), None)
            if found is None:
                held[:] = [s for s in held if not _begins_with(indices, s.indices)]
                found = load_shard(pack, indices, poll=poll, **options)
                held.append(found)
            return found


def _begins_with(longer: np.ndarray, shorter: np.ndarray) -> bool:
    return len(longer) >= len(shorter) and np.array_equal(longer[: len(shorter)], shorter)


class Feed:
    """Windows over a plan. ``capacity`` is the number of atoms that may live on the device at once;
    without one, all.

    With ``shards`` all structures are loaded, for other runs too; without, no more than the plan
    comes to. rank, ranks: of several processes this one, which takes its part of every step
    (``plan``). Windows end at the same steps in all of them, given the same capacity. poll: as for
    :class:`Shard`; what it raises, the windows raise.
    """

    def __init__(
        self,
        pack: Pack,
        indices: np.ndarray,
        schedule: Plan,
        *,
        cutoff: float,
        elements: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        capacity: float = math.inf,
        shards: Shards | None = None,
        rank: int = 0,
        ranks: int = 1,
        poll: Callable[[], None] = lambda: None,
        **labels: Any,
    ):
        self.pack, self.indices, self.shards = pack, indices, shards
        shared = {"cutoff": cutoff, "elements": elements, "device": device, "dtype": dtype}
        self.options = {**shared, **labels, "poll": poll}  # all as for Shard
        natoms = pack.sizes(indices)
        self.resident = natoms.sum() <= capacity
        self.plan = schedule.part(natoms, rank, ranks)
        self._atoms, self.capacity = schedule.atoms, capacity * ranks  # of all ranks

    def windows(self, start: int = 0) -> Iterator[Window]:
        """Windows that cover the steps from ``start`` to the end, in order."""
        plan = self.plan
        if self.resident:
            if start < plan.steps:
                yield self._rest(start)
            return
        bounds = self._bounds(start)
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Window] | None = None
            for k, (low, high) in enumerate(bounds):
                window = ahead.result() if ahead else self._window(low, high)
                if k + 1 < len(bounds):
                    ahead = reader.submit(self._window, *bounds[k + 1])
                yield window

    def _rest(self, start: int) -> Window:
        """All steps from ``start`` on."""
        left = self.plan.ptr[-1] - self.plan.ptr[start]
        # nothing is gained by sharing what others hardly need
        if left < len(self.indices) * (FEW if self.shards is not None else 1.0):
            return self._window(start, self.plan.steps)
        shard = (self.shards or Shards()).get(self.pack, self.indices, **self.options)
        return Window(start, self.plan.steps, shard, self.plan.order.astype(np.int64), 0)

    def whole(self) -> Window:
        """All steps in one window; ValueError where there are none, or where capacity parts
        them."""
        if not self.resident or not self.plan.steps:
            raise ValueError(
                f"{self.plan.steps} steps of {len(self.indices)} structures are not one window of "
                f"{self.capacity:g} atoms"
            )
        return self._rest(0)

    def _bounds(self, start: int) -> list[tuple[int, int]]:
        ends = np.concatenate([[0], np.cumsum(self._atoms)])
        budget = max(self.capacity / 2, 1)  # the next window is read while this one is used
        bounds, low = [], start
        while low < self.plan.steps:
            high = max(low + 1, int(np.searchsorted(ends, ends[low] + budget, side="right")) - 1)
            bounds.append((low, min(high, self.plan.steps)))
            low = bounds[-1][1]
        return bounds

    def _window(self, low: int, high: int) -> Window:
        first, last = int(self.plan.ptr[low]), int(self.plan.ptr[high])
        wanted = self.plan.order[first:last]
        unique, local = np.unique(wanted.astype(np.int64), return_inverse=True)
        if not len(unique):  # a part of a few last steps: empty slots are read from somewhere
            unique = np.zeros(1, np.int64)
        by_place = np.argsort(self.indices[unique])  # the disk is read in one pass
        unique, local = unique[by_place], np.argsort(by_place)[local]
        shard = load_shard(self.pack, self.indices[unique], **self.options)
        return Window(low, high, shard, local, first, unique, last=high == self.plan.steps)


def device_capacity(device: torch.device) -> float:
    """Atoms that may live on ``device``: half of the free memory of a GPU, a quarter of the memory
    that this process may take of a CPU machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free / 2 / BYTES_PER_ATOM
    return usable_memory() / 4 / BYTES_PER_ATOM
