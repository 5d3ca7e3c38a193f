"""A batch of molecules out of a shard: three launches by kernels, some sixty of index arithmetic by
torch. No host work, no synchronisation.

Legend: as in data/device_dataset.py: s structures, a atoms, e edges of the shard; g slots, n atoms,
m edges of the batch. A slot of -1 is empty; atoms and edges beyond those of the structures are
padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .switch import constexpr, tl, triton, use_triton
from .tiles import three, wide

ROWS = 256  # atoms or edges of a program


def assemble(
    shard: Any, chosen: Tensor, n: int, m: int, pad: bool, rotation: Tensor | None
) -> dict[str, Any]:
    """species, batch (n,), pos, forces (n, 3), sender, receiver, transposed (m,), natoms, energy
    (g,); shift (m, 3), real (n,) and ptr (n + 1,) or None.

    shard: natoms, nedges, first_atom, first_edge, energy (s,); species, first_of (a,), pos, forces
    (a, 3); sender, receiver, transposed (e,), the last three local to the structure, first_of the
    first edge of an atom in its structure; shift (e, 3) or None. chosen (g,), rotation (g, 3, 3).
    """
    if pad and shard.shift is None and use_triton(shard.pos):
        return _by_kernels(shard, chosen, n, m, rotation)
    slots, device = chosen.shape[0], chosen.device
    if pad:
        valid = chosen >= 0
        chosen = chosen.clamp_min(0)
        natoms, nedges = shard.natoms[chosen] * valid, shard.nedges[chosen] * valid
    else:
        natoms, nedges = shard.natoms[chosen], shard.nedges[chosen]
    atom_end, edge_end = torch.cumsum(natoms, 0), torch.cumsum(nedges, 0)
    atom_slot, edge_slot = torch.arange(n, device=device), torch.arange(m, device=device)
    owner = torch.searchsorted(atom_end, atom_slot, right=True)  # == slots for padding
    edge_owner = torch.searchsorted(edge_end, edge_slot, right=True)
    real, held, edge_held = None, owner, edge_owner
    if pad:
        real = owner < slots
        held, edge_held = owner.clamp_max(slots - 1), edge_owner.clamp_max(slots - 1)
    atom = atom_slot + (shard.first_atom[chosen] - atom_end + natoms).index_select(0, held)
    edge = edge_slot + (shard.first_edge[chosen] - edge_end + nedges).index_select(0, edge_held)
    if pad:
        atom, edge = torch.where(real, atom, 0), torch.where(edge_owner < slots, edge, 0)
    base = (atom_end - natoms).index_select(0, edge_held)
    sender = shard.sender.index_select(0, edge) + base
    receiver = shard.receiver.index_select(0, edge) + base
    edges_before = (edge_end - nedges).index_select(0, edge_held)
    transposed = shard.transposed.index_select(0, edge) + edges_before
    pos, forces = shard.pos.index_select(0, atom), shard.forces.index_select(0, atom)
    shift = shard.shift.index_select(0, edge) if shard.shift is not None else None
    if pad:
        ghost = edge_owner >= slots
        sender, receiver = torch.where(ghost, n - 1, sender), torch.where(ghost, n - 1, receiver)
        transposed = torch.where(ghost, edge_slot, transposed)
        real = real.to(pos.dtype)
    if rotation is not None:
        of_atom = rotation.index_select(0, held)
        pos, forces = turned(of_atom, pos), turned(of_atom, forces)
        if shift is not None:
            shift = turned(rotation.index_select(0, edge_held), shift)
    return {
        "species": shard.species.index_select(0, atom),
        "batch": owner,
        **{"pos": pos, "forces": forces, "real": real, "ptr": None, "shift": shift},
        **{"sender": sender, "receiver": receiver, "transposed": transposed},
        **{"natoms": natoms, "energy": shard.energy.index_select(0, chosen)},
    }


def turned(rotation: Tensor, vectors: Tensor) -> Tensor:
    """(n, 3, 3), (n, 3) -> (n, 3)."""
    return (rotation * vectors.unsqueeze(1)).sum(-1)


@triton.jit(do_not_specialize=["g"])
def _slots(
    chosen,
    natoms,
    nedges,
    first_atom,
    first_edge,
    energy,
    held,
    atom_end,
    edge_end,
    atom_source,
    edge_source,
    label,
    g,
    GP: constexpr,
):
    """One program: of each slot its atoms, where its atoms and edges end in the batch and begin in
    the shard, its label."""
    k = tl.arange(0, GP)
    inside = k < g
    row = tl.load(chosen + k, mask=inside, other=-1)
    valid = row >= 0
    row = tl.maximum(row, 0)
    atoms = tl.where(valid, tl.load(natoms + row, mask=inside, other=0), 0)
    edges = tl.where(valid, tl.load(nedges + row, mask=inside, other=0), 0)
    a_end, e_end = tl.cumsum(atoms, axis=0), tl.cumsum(edges, axis=0)
    tl.store(held + k, atoms, mask=inside)
    tl.store(atom_end + k, a_end, mask=inside)
    tl.store(edge_end + k, e_end, mask=inside)
    # what has to be added to a number in the batch to give that in the shard
    at = atom_source + k
    tl.store(at, tl.load(first_atom + row, mask=inside, other=0) - (a_end - atoms), mask=inside)
    at = edge_source + k
    tl.store(at, tl.load(first_edge + row, mask=inside, other=0) - (e_end - edges), mask=inside)
    tl.store(label + k, tl.load(energy + row, mask=inside, other=0.0), mask=inside)


@triton.jit
def _owner(i, end, g, LOG: constexpr):
    """How many slots have ended at or before i: the slot of i, or g for padding."""
    found = i * 0
    for level in tl.static_range(LOG):
        more = found + (1 << (LOG - 1 - level))
        last = tl.load(end + tl.minimum(more, g) - 1)
        found = tl.where((more <= g) & (last <= i), more, found)
    return found


@triton.jit(do_not_specialize=["n", "g"])
def _atoms(
    atom_end,
    edge_end,
    atom_source,
    species,
    pos,
    forces,
    first_of,
    rotation,
    batch,
    kind,
    new_pos,
    new_forces,
    real,
    ptr,
    n,
    g,
    LOG: constexpr,
    TURN: constexpr,
    WIDE: constexpr,
    ROWS: constexpr,
):
    i = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    mask = i < n
    owner = _owner(i, atom_end, g, LOG)
    is_real = owner < g
    slot = tl.minimum(owner, g - 1)
    source = tl.where(is_real, i + tl.load(atom_source + slot), 0)
    previous = tl.maximum(slot - 1, 0)
    edges_before = tl.where(slot > 0, tl.load(edge_end + previous), 0)
    begin = edges_before + tl.load(first_of + source, mask=mask, other=0).to(tl.int64)
    tl.store(ptr + i, tl.where(is_real, begin, tl.load(edge_end + g - 1)).to(tl.int32), mask=i <= n)
    tl.store(batch + i, owner, mask=mask)
    tl.store(kind + i, tl.load(species + source, mask=mask, other=0), mask=mask)
    tl.store(real + i, tl.where(is_real, 1.0, 0.0).to(WIDE), mask=mask)
    x0, x1, x2 = three(pos + source * 3, 1, mask, WIDE)
    f0, f1, f2 = three(forces + source * 3, 1, mask, WIDE)
    if TURN:
        for row in tl.static_range(3):
            r0 = tl.load(rotation + slot * 9 + row * 3)
            r1 = tl.load(rotation + slot * 9 + row * 3 + 1)
            r2 = tl.load(rotation + slot * 9 + row * 3 + 2)
            tl.store(new_pos + i * 3 + row, r0 * x0 + r1 * x1 + r2 * x2, mask=mask)
            tl.store(new_forces + i * 3 + row, r0 * f0 + r1 * f1 + r2 * f2, mask=mask)
    else:
        tl.store(new_pos + i * 3, x0, mask=mask)
        tl.store(new_pos + i * 3 + 1, x1, mask=mask)
        tl.store(new_pos + i * 3 + 2, x2, mask=mask)
        tl.store(new_forces + i * 3, f0, mask=mask)
        tl.store(new_forces + i * 3 + 1, f1, mask=mask)
        tl.store(new_forces + i * 3 + 2, f2, mask=mask)


@triton.jit(do_not_specialize=["n", "m", "g"])
def _edges(
    atom_end,
    edge_end,
    held,
    edge_source,
    sender,
    receiver,
    transposed,
    new_sender,
    new_receiver,
    order,
    n,
    m,
    g,
    LOG: constexpr,
    ROWS: constexpr,
):
    i = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    mask = i < m
    owner = _owner(i, edge_end, g, LOG)
    ghost = owner >= g
    slot = tl.minimum(owner, g - 1)
    source = tl.where(ghost, 0, i + tl.load(edge_source + slot))
    base = tl.load(atom_end + slot) - tl.load(held + slot)
    before = tl.where(slot > 0, tl.load(edge_end + tl.maximum(slot - 1, 0)), 0)
    mask_real = mask & (owner < g)
    j = tl.load(sender + source, mask=mask_real, other=0).to(tl.int64) + base
    k = tl.load(receiver + source, mask=mask_real, other=0).to(tl.int64) + base
    back = tl.load(transposed + source, mask=mask_real, other=0).to(tl.int64) + before
    dummy = i * 0 + n - 1
    tl.store(new_sender + i, tl.where(ghost, dummy, j), mask=mask)
    tl.store(new_receiver + i, tl.where(ghost, dummy, k), mask=mask)
    tl.store(order + i, tl.where(ghost, i, back), mask=mask)


def _by_kernels(
    shard: Any, chosen: Tensor, n: int, m: int, rotation: Tensor | None
) -> dict[str, Any]:
    g, device, dtype = len(chosen), chosen.device, shard.pos.dtype
    whole, number = {"dtype": torch.int64, "device": device}, {"dtype": dtype, "device": device}
    held, atom_end, edge_end, atom_source, edge_source = torch.empty(5, g, **whole).unbind(0)
    energy, log = torch.empty(g, **number), max(1, g.bit_length())
    given = shard.natoms, shard.nedges, shard.first_atom, shard.first_edge, shard.energy
    made = held, atom_end, edge_end, atom_source, edge_source, energy
    lanes = max(2, triton.next_power_of_2(g))
    _slots[(1,)](chosen.contiguous(), *given, *made, g, GP=lanes, num_warps=4)
    batch, kind = torch.empty(n, **whole), torch.empty(n, **whole)
    pos, forces = torch.empty(n, 3, **number), torch.empty(n, 3, **number)
    real, ptr = torch.empty(n, **number), torch.empty(n + 1, dtype=torch.int32, device=device)
    turn = shard.pos if rotation is None else rotation.contiguous()
    given = shard.species, shard.pos, shard.forces, shard.first_of, turn
    made = batch, kind, pos, forces, real, ptr
    constants = {"LOG": log, "ROWS": ROWS, "num_warps": 4}
    turning = {"TURN": rotation is not None, "WIDE": wide(pos)}
    _atoms[(triton.cdiv(n + 1, ROWS),)](
        atom_end, edge_end, atom_source, *given, *made, n, g, **turning, **constants
    )
    sender, receiver, order = torch.empty(3, m, **whole).unbind(0)
    given, made = (shard.sender, shard.receiver, shard.transposed), (sender, receiver, order)
    _edges[(triton.cdiv(m, ROWS),)](
        atom_end, edge_end, held, edge_source, *given, *made, n, m, g, **constants
    )
    return {
        **{"species": kind, "batch": batch, "pos": pos, "forces": forces, "real": real},
        **{"sender": sender, "receiver": receiver, "transposed": order, "ptr": ptr},
        **{"natoms": held, "energy": energy, "shift": None},
    }
