"""Structures that repeat another: exact copies, the same geometry with another energy, and copies
on two sides of the split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..records import QUANTUM, Records
from ..splits import TRAIN

_AT_ONCE = 4_000_000  # structures sorted together, in 100 MB
SAME = (1e-5, 1e-9)  # eV, and part of the energy: energies that agree to this are equal


@dataclass
class Copies:
    """duplicates: structures that repeat an earlier one, energy included. conflicts: geometries
    that come with different energies; ``apart`` is the largest difference, eV. leaks: structures of
    validation or test whose geometry is in training too. first: of each, the records of one pair.
    """

    duplicates: int = 0
    conflicts: int = 0
    leaks: int = 0
    apart: float = 0.0
    first: dict[str, tuple[np.void, np.void]] = field(default_factory=dict)


def find_copies(records: Records) -> Copies:
    """Look at all structures, in parts by hash so that memory is bounded: first at hashes alone,
    then at the structures that share one."""
    found = Copies()
    parts = max(1, -(-records.structures // _AT_ONCE))
    for part in range(parts):
        hashes = [
            chunk.records["geometry"][chunk.records["geometry"] % np.uint64(parts) == part]
            for chunk in records.chunks()
        ]
        ordered = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
        shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(shared):
            continue
        rows, sides = [], []
        for chunk in records.chunks():
            mine = np.isin(chunk.records["geometry"], shared)
            rows.append(chunk.records[mine])
            sides.append(chunk.sides[mine])
        _look(np.concatenate(rows), np.concatenate(sides), found)
    return found


def _look(rows: np.ndarray, sides: np.ndarray, found: Copies) -> None:
    """Structures that all share their geometry with another."""
    order = np.argsort(rows["geometry"], kind="stable")
    geometry = rows["geometry"][order]
    begins = np.flatnonzero(np.concatenate([[True], geometry[1:] != geometry[:-1]]))
    ends = np.concatenate([begins[1:], [len(order)]])
    for begin, end in zip(begins.tolist(), ends.tolist()):
        members = order[begin:end]
        energies = rows["energy"][members]
        spread = float(np.ptp(energies))
        # positions that agree to QUANTUM may differ by that much work
        work = 2 * QUANTUM * float(rows["norms"][members].max())
        limit = max(SAME[0], SAME[1] * float(np.abs(energies).max())) + work
        if spread > limit:
            far = rows[members[int(np.abs(energies - energies[0]).argmax())]]
            found.conflicts += 1
            found.apart = max(found.apart, spread)
            found.first.setdefault("conflicts", (rows[members[0]], far))
        again = int((np.diff(np.sort(energies)) <= limit).sum())
        if again:
            found.duplicates += again
            found.first.setdefault("duplicates", (rows[members[0]], rows[members[1]]))
        held = members[sides[members] != TRAIN]
        trained = members[sides[members] == TRAIN]
        if len(held) and len(trained):
            found.leaks += len(held)
            found.first.setdefault("leaks", (rows[trained[0]], rows[held[0]]))
