"""Graphs of atoms: receiver-sorted directed edges inside one cutoff, without any cap on neighbours.

Legend: n atoms, e directed edges, g structures in the batch. Edge k goes from ``sender[k]`` (j) to
``receiver[k]`` (i); ``vec`` is x_j - x_i (plus the lattice shift), in Angstrom. Edges are sorted by
receiver, then by sender.

A strict cap on neighbours would break permutation symmetry on symmetric molecules and smoothness,
so there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

ALL_PAIRS_MAX_ATOMS = 256  # above this a cell list (vesin) beats all pairs
_PAIR_CHUNK = 8_000_000  # pairs tested at once: bounds the memory of graph building


@dataclass
class GraphBatch:
    """A batch of structures.

    species  (n,)   int64    index into the model's element list
    batch    (n,)   int64    structure of each atom
    pos      (n, 3) float    Angstrom
    sender   (e,)   int64    j
    receiver (e,)   int64    i, ascending
    shift    (e, 3) float    lattice shift of the sender, Angstrom; None for molecules
    natoms   (g,)   int64    atoms of each structure (0 in padding slots)
    pad      bool            True when the last atom is a dummy that takes all padding
    transposed (e,) int64    edges sorted by sender; None: found by sorting when needed
    max_degree int           neighbours of an atom but the dummy, at most; None: not known without
                             asking the device
    max_atoms int            atoms of a structure, at most; None likewise
    ptr      (n + 1,) int32  where the edges into each atom begin; None: found when needed
    charge, spin (g,) int64  total charge and spin multiplicity of each structure, as indices into
                             the model's lists; None for models that see neither
    """

    species: Tensor
    batch: Tensor
    pos: Tensor
    sender: Tensor
    receiver: Tensor
    natoms: Tensor
    shift: Tensor | None = None
    pad: bool = False
    transposed: Tensor | None = None
    max_degree: int | None = None
    max_atoms: int | None = None
    ptr: Tensor | None = None
    charge: Tensor | None = None
    spin: Tensor | None = None

    @property
    def n_graphs(self) -> int:
        return self.natoms.shape[0]

    def vectors(self, pos: Tensor | None = None) -> Tensor:
        """(e, 3) x_j - x_i in Angstrom. Padding edges (dummy to dummy) get a vector far outside any
        cutoff."""
        pos = self.pos if pos is None else pos
        return self.completed(pos.index_select(0, self.sender) - pos.index_select(0, self.receiver))

    def completed(self, vec: Tensor) -> Tensor:
        """:meth:`vectors` from the differences of positions, (e, 3)."""
        if self.shift is not None:
            vec = vec + self.shift
        if self.pad:
            dummy = (self.receiver == self.species.shape[0] - 1).unsqueeze(-1)
            vec = torch.where(dummy, vec.new_full((), 1e3), vec)
        return vec

    @cached_property
    def segments(self) -> tuple[Tensor, Tensor]:
        """ptr (n + 1,) int32 and order (e,) int32 for sums without atomics; kept once made.

        Edges ptr[i]:ptr[i + 1] are those into atom i, and order[ptr[i]:ptr[i + 1]] those out of it:
        a neighbour is one both ways, so one ptr serves both. Padding edges, all of the dummy atom,
        belong to nobody.
        """
        ptr, order = self.ptr, self.transposed
        if ptr is None:
            ptr = segment_bounds(self.receiver, self.pos.shape[0], self.pad)
        if order is None:
            order = torch.sort(self.sender, stable=True).indices
        return ptr, order.to(torch.int32)

    def to(self, dtype: torch.dtype) -> GraphBatch:
        """The same graph with floating-point arrays in ``dtype``."""
        return replace(
            self, pos=self.pos.to(dtype), shift=None if self.shift is None else self.shift.to(dtype)
        )


def segment_bounds(receiver: Tensor, atoms: int, pad: bool) -> Tensor:
    """ptr (atoms + 1,) int32: edges ptr[i]:ptr[i + 1] are those into atom i, of an ascending
    receiver. pad: those of the last atom, the dummy, belong to nobody."""
    ptr = torch.searchsorted(
        receiver, torch.arange(atoms + 1, device=receiver.device), out_int32=True
    )
    return torch.minimum(ptr, ptr[-2]) if pad else ptr


def segment_sum(values: Tensor, index: Tensor, segments: int) -> Tensor:
    """(e, ...) summed over equal ``index`` (e,): (segments, ...)."""
    out = values.new_zeros((segments, *values.shape[1:]))
    return out.index_add(0, index, values)


def molecule_edges(pos: Tensor, natoms: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """All directed pairs within ``cutoff`` (Angstrom) inside each molecule, on the device of
    ``pos``.

    pos (n, 3), natoms (g,) -> sender (e,), receiver (e,), int64, sorted by receiver then sender.
    Every pair of atoms of a molecule is tested, in chunks, without padding: sum of natoms squared
    tests.
    """
    device = pos.device
    start = torch.cumsum(natoms, 0) - natoms
    mine = torch.repeat_interleave(natoms, natoms)  # (n,) atoms in the molecule of each atom
    first = torch.repeat_interleave(start, natoms)  # (n,) first atom of it
    ends = torch.cumsum(mine, 0)
    total = int(ends[-1]) if len(ends) else 0
    senders, receivers = [], []
    low = 0
    n = pos.shape[0]
    while low < n:
        base = int(ends[low - 1]) if low else 0
        high = (
            n
            if total - base <= _PAIR_CHUNK
            else max(
                low + 1,
                int(
                    torch.searchsorted(
                        ends, torch.tensor(base + _PAIR_CHUNK, device=device), right=True
                    )
                ),
            )
        )
        count = mine[low:high]
        receiver = torch.repeat_interleave(torch.arange(low, high, device=device), count)
        slot = torch.arange(receiver.shape[0], device=device)
        row_start = torch.cumsum(count, 0) - count
        sender = slot - torch.repeat_interleave(row_start - first[low:high], count)
        near = ((pos[sender] - pos[receiver]).square().sum(-1) < cutoff * cutoff) & (
            sender != receiver
        )
        senders.append(sender[near])
        receivers.append(receiver[near])
        low = high
    if not senders:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty
    return torch.cat(senders), torch.cat(receivers)


def cell_list_edges(
    pos: np.ndarray, cutoff: float, cell: np.ndarray | None = None, pbc: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of one large or periodic structure by vesin, double precision, on the CPU.

    pos (n, 3), cell (3, 3) rows are lattice vectors, pbc (3,) -> sender (e,), receiver (e,), shift
    (e, 3) Angstrom; sorted by receiver, then sender, then shift. Cells smaller than the cutoff give
    several edges between the same two atoms, and edges from an atom to its own image. DataError for
    positions that are not finite and periodic directions without a cell.
    """
    from vesin import NeighborList

    periodic = np.zeros(3, bool) if pbc is None or cell is None else np.asarray(pbc, bool)
    box = np.zeros((3, 3)) if cell is None else np.array(cell, np.float64)
    if not periodic.any():
        box = np.zeros((3, 3))
    points = np.ascontiguousarray(pos, np.float64)
    try:
        receiver, sender, images, distance = NeighborList(cutoff=cutoff, full_list=True).compute(
            points=points, box=box, periodic=periodic, quantities="ijSd"
        )
    except RuntimeError as error:
        finite = bool(np.isfinite(points).all())
        raise DataError(
            f"no neighbours can be found: {error}",
            remedy="give periodic directions a cell, or switch them off (atoms.pbc = False)"
            if finite
            else "look at the positions: a relaxation or a simulation may have blown up",
        ) from error
    keep = distance < cutoff
    receiver, sender, images = receiver[keep], sender[keep], images[keep]
    order = np.lexsort((images[:, 2], images[:, 1], images[:, 0], sender, receiver))
    shift = images[order].astype(np.float64) @ box
    return sender[order].astype(np.int64), receiver[order].astype(np.int64), shift


def build_graph(
    pos: Tensor,
    species: Tensor,
    natoms: Tensor,
    cutoff: float,
    *,
    cells: np.ndarray | None = None,
    pbc: np.ndarray | None = None,
) -> GraphBatch:
    """The graph of a batch of structures: all pairs for molecules, vesin for large or periodic
    structures.

    pos (n, 3) Angstrom, species (n,), natoms (g,), cells (g, 3, 3), pbc (g, 3).
    """
    batch = torch.repeat_interleave(torch.arange(len(natoms), device=pos.device), natoms)
    periodic = pbc is not None and np.asarray(pbc).any()
    if not periodic and (len(natoms) == 0 or int(natoms.max()) <= ALL_PAIRS_MAX_ATOMS):
        sender, receiver = molecule_edges(pos, natoms, cutoff)
        most = int(natoms.max()) if len(natoms) else 0
        return GraphBatch(species, batch, pos, sender, receiver, natoms, max_atoms=most)
    parts, start = [], 0
    host = pos.detach().cpu().double().numpy()
    for k, count in enumerate(natoms.tolist()):
        cell = cells[k] if periodic and cells is not None else None
        sender, receiver, shift = cell_list_edges(
            host[start : start + count],
            cutoff,
            cell,
            pbc[k] if periodic and pbc is not None else None,
        )
        parts.append((sender + start, receiver + start, shift))
        start += count
    sender, receiver, shift = (np.concatenate(p) for p in zip(*parts))
    return GraphBatch(
        species,
        batch,
        pos,
        torch.from_numpy(sender).to(pos.device),
        torch.from_numpy(receiver).to(pos.device),
        natoms,
        shift=torch.from_numpy(shift).to(pos) if periodic else None,
    )
