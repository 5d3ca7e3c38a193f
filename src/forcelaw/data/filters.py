"""Which structures of a block are kept, and why the others are not. Nothing is dropped without a
count and a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pack import NO_CHARGE
from .readers.base import MISSING_ENERGY, MISSING_FORCES, Block

KEEP = 0
# in the order in which they are asked; the first that applies is the reason
REASONS = (
    "",
    "isolated atom",
    "no energy",
    "no forces",
    "energy not finite",
    "forces not finite",
    "positions not finite",
    "other elements",
    "charged",
    "charge not given",
    "force above the limit",
)
UNLABELLED, BAD = (2, 3), (4, 5, 6)


@dataclass(frozen=True)
class Filter:
    """What to leave out. elements: allowed atomic numbers, None for all. max_force: eV/Angstrom,
    norm on any atom.

    keep_isolated_atoms: single free atoms carry no forces to learn, and their energies (open
    shells) would pull the reference energies of molecules by eV, so they are left out unless asked
    for.
    """

    only_neutral: bool = False
    max_force: float | None = None
    elements: frozenset[int] | None = None
    keep_isolated_atoms: bool = False


def starts(counts: np.ndarray) -> np.ndarray:
    """First atom of each structure, for reduceat: int64 (s,). Every count is at least one."""
    return np.cumsum(counts) - counts


def reasons(block: Block, rule: Filter) -> np.ndarray:
    """Index into REASONS for every structure: uint8 (s,), 0 to keep it."""
    first = starts(block.counts)
    out = np.zeros(len(block), np.uint8)

    def mark(which: np.ndarray, reason: str) -> None:
        out[which & (out == KEEP)] = REASONS.index(reason)

    if not rule.keep_isolated_atoms:
        free = block.counts == 1
        if block.pbc is not None:
            free &= ~block.pbc.any(axis=1)
        mark(free, "isolated atom")
    if block.missing is not None:
        mark((block.missing & MISSING_ENERGY) > 0, "no energy")
        mark((block.missing & MISSING_FORCES) > 0, "no forces")
    mark(~np.isfinite(block.energies), "energy not finite")
    squares = np.einsum("ij,ij->i", block.forces, block.forces)
    mark(~np.isfinite(np.add.reduceat(squares, first)), "forces not finite")
    mark(~np.isfinite(np.add.reduceat(block.positions.sum(axis=1), first)), "positions not finite")
    if rule.elements is not None:
        allowed = np.zeros(256, bool)
        allowed[list(rule.elements)] = True
        mark(~np.logical_and.reduceat(allowed[block.numbers], first), "other elements")
    if rule.only_neutral:
        charges = (
            block.charges if block.charges is not None else np.full(len(block), NO_CHARGE, np.int8)
        )
        mark(charges == NO_CHARGE, "charge not given")
        mark(charges != 0, "charged")
    if rule.max_force is not None:
        with np.errstate(invalid="ignore"):
            mark(np.maximum.reduceat(squares, first) > rule.max_force**2, "force above the limit")
    return out


def select(block: Block, keep: np.ndarray) -> Block:
    """The structures of a block where ``keep`` (bool (s,)) is true, in order."""
    if keep.all():
        return block
    atoms = np.repeat(keep, block.counts)
    kept = np.flatnonzero(keep)
    place = block.place
    groups = block.groups
    if isinstance(groups, list):
        groups = [groups[k] for k in kept]
    elif isinstance(groups, np.ndarray):
        groups = groups[keep]
    configs = None if block.configs is None else [block.configs[k] for k in kept]
    optional = {
        name: None if (value := getattr(block, name)) is None else value[keep]
        for name in ("missing", "charges", "spins", "cells", "pbc", "stresses")
    }
    return Block(
        block.counts[keep],
        block.numbers[atoms],
        block.positions[atoms],
        block.energies[keep],
        block.forces[atoms],
        block.first,
        lambda k: place(int(kept[k])),
        groups,
        configs=configs,
        **optional,
    )
