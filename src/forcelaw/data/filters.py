"""Which structures of a block are kept, and why the others are not. Nothing is dropped without a
count and a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pack import NO_CHARGE, NO_SPIN
from .readers.base import ABSENT, MISSING_ENERGY, MISSING_FORCES, Block, filled

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
    "cell without volume",
    "other charge",
    "spin not given",
    "other spin",
    "other config type",
    "copy of an earlier one",
    "in no part of the split",
)
UNLABELLED, BAD = (2, 3), (4, 5, 6, 11)
FREE_ATOMS = ("IsolatedAtom", "isolated_atom")  # config types that say so


@dataclass(frozen=True)
class Filter:
    """What to leave out. elements: allowed atomic numbers, None for all. max_force: eV/Angstrom,
    norm on any atom. charge, spin: the only ones kept. config_types: the only ones kept;
    not_config_types: those left out.

    keep_isolated_atoms: single free atoms carry no forces to learn, and their energies (open
    shells) would pull the reference energies of molecules by eV, so they are left out unless asked
    for.
    """

    only_neutral: bool = False
    max_force: float | None = None
    elements: frozenset[int] | None = None
    keep_isolated_atoms: bool = False
    charge: int | None = None
    spin: int | None = None
    config_types: frozenset[str] | None = None
    not_config_types: frozenset[str] = frozenset()


def free_atoms(block: Block) -> np.ndarray:
    """Which structures are single free atoms: bool (s,). One in a periodic cell is a crystal,
    unless its config type says that it is free."""
    one: np.ndarray = block.counts == 1
    if block.pbc is not None and one.any():
        said = np.array([c in FREE_ATOMS for c in block.configs or [""] * len(block)])
        one = one & (said | ~block.pbc.any(axis=1))
    return one


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
        mark(free_atoms(block), "isolated atom")
    if block.missing is not None:
        mark((block.missing & MISSING_ENERGY) > 0, "no energy")
        mark((block.missing & MISSING_FORCES) > 0, "no forces")
    mark(~np.isfinite(block.energies), "energy not finite")
    squares = np.einsum("ij,ij->i", block.forces, block.forces)
    mark(~np.isfinite(np.add.reduceat(squares, first)), "forces not finite")
    sums = np.add.reduceat(block.positions, first, axis=0)
    mark(~np.isfinite(sums).all(axis=1), "positions not finite")
    if block.cells is not None and block.pbc is not None:
        mark(block.pbc.any(axis=1) & flat(block.cells, block.pbc), "cell without volume")
    if rule.elements is not None:
        allowed = np.zeros(256, bool)
        allowed[list(rule.elements)] = True
        mark(~np.logical_and.reduceat(allowed[block.numbers], first), "other elements")
    kept_charge = 0 if rule.only_neutral else rule.charge
    for kept, name, absent, other in (
        (kept_charge, "charge", NO_CHARGE, "other charge" if kept_charge else "charged"),
        (rule.spin, "spin", NO_SPIN, "other spin"),
    ):
        if kept is not None:
            values = filled(block, f"{name}s")
            mark(values == absent, f"{name} not given")
            mark(values != kept, other)
    if rule.config_types is not None or rule.not_config_types:
        labels = block.configs or [""] * len(block)
        wanted = rule.config_types
        out_of = rule.not_config_types
        keep = [(wanted is None or c in wanted) and c not in out_of for c in labels]
        mark(~np.array(keep), "other config type")
    if rule.max_force is not None:
        with np.errstate(invalid="ignore"):
            mark(np.maximum.reduceat(squares, first) > rule.max_force**2, "force above the limit")
    return out


def flat(cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Which cells (s, 3, 3) have no volume in their periodic directions, or are not finite: bool
    (s,)."""
    gram = cells @ cells.transpose(0, 2, 1)
    both = pbc[:, :, None] & pbc[:, None, :]
    gram = np.where(both, gram, np.eye(3))
    scale = np.where(pbc, np.linalg.norm(cells, axis=2), 1.0).prod(axis=1)
    with np.errstate(invalid="ignore"):
        out: np.ndarray = ~(np.linalg.det(gram) > (1e-6 * np.maximum(scale, 1e-6)) ** 2)
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
        name: None if (value := getattr(block, name)) is None else value[keep] for name in ABSENT
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
