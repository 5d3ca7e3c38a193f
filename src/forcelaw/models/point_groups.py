"""Finite point groups by their Schoenflies symbols: matrices and products.

The rotation groups of the Platonic solids are T (12 rotations, tetrahedron), O (24, octahedron and
cube) and I (60, icosahedron and dodecahedron); C1 is the identity alone. With inversion they become
Ci, Th, Oh and Ih, of twice the order; Td is the full group of the tetrahedron, 12 rotations and 12
improper ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

PointGroupName = Literal["C1", "T", "O", "I", "Ci", "Th", "Td", "Oh", "Ih"]
ORDERS = {"C1": 1, "T": 12, "O": 24, "I": 60, "Ci": 2, "Th": 24, "Td": 24, "Oh": 48, "Ih": 120}
GOLDEN = (1.0 + 5.0**0.5) / 2.0
ENTRIES = np.array([0.0, 0.5, 1.0, GOLDEN / 2.0, 0.5 / GOLDEN])


@dataclass(frozen=True)
class PointGroup:
    """matrices (G, 3, 3) float64, the identity first; between (G, G) int64: the element g^-1 h at
    row g and column h."""

    matrices: np.ndarray
    between: np.ndarray

    def __len__(self) -> int:
        return len(self.matrices)


def _turn(axis: tuple[float, float, float], fold: int) -> np.ndarray:
    """The rotation by 2 pi / fold about an axis (Rodrigues)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = 2.0 * np.pi / fold
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def _generators(name: str) -> list[np.ndarray]:
    third = _turn((1.0, 1.0, 1.0), 3)
    rotations = {
        "C": [],
        "T": [third, _turn((0.0, 0.0, 1.0), 2)],
        "O": [third, _turn((0.0, 0.0, 1.0), 4)],
        "I": [third, _turn((0.0, 0.0, 1.0), 2), _turn((0.0, 1.0, GOLDEN), 5)],
    }[name[0]]
    mirror = np.eye(3)[[1, 0, 2]]  # x and y exchanged
    improper = {"i": [-np.eye(3)], "h": [-np.eye(3)], "d": [mirror]}.get(name[1:], [])
    return rotations + improper


@lru_cache(maxsize=16)
def point_group(name: PointGroupName) -> PointGroup:
    """The group of a Schoenflies symbol, closed under products of its generators. KeyError where
    there is none of that name."""
    if name not in get_args(PointGroupName):
        raise KeyError(name)
    found = {np.eye(3).tobytes(): np.eye(3)}
    frontier = list(found.values())
    while frontier:
        products = [_exact(a @ b) for a in _generators(name) for b in frontier]
        fresh = {m.tobytes(): m for m in products if m.tobytes() not in found}
        found |= fresh
        frontier = list(fresh.values())
    matrices, where = np.array(list(found.values())), {key: k for k, key in enumerate(found)}
    if len(matrices) != ORDERS[name]:
        raise AssertionError(f"{name} has {len(matrices)} elements")
    between = [[where[_exact(g.T @ h).tobytes()] for h in matrices] for g in matrices]
    return PointGroup(matrices, np.array(between, np.int64))


def _exact(matrix: np.ndarray) -> np.ndarray:
    """Without rounding: every entry of these groups is 0, 1/2, 1, or half the golden ratio or its
    inverse, but for the sign."""
    near = np.abs(np.abs(matrix)[..., None] - ENTRIES).argmin(-1)
    return np.where(near == 0, 0.0, np.sign(matrix) * ENTRIES[near])
