"""Neighbour lists by the definition: loops over pairs of atoms and over lattice images. Slow and
obvious."""

from __future__ import annotations

import itertools

import numpy as np


def slow_edges(
    pos: np.ndarray,
    cutoff: float,
    cell: np.ndarray | None = None,
    pbc: tuple[bool, bool, bool] | None = None,
    images: int = 4,
) -> list[tuple[int, int, tuple[int, int, int]]]:
    """All (receiver i, sender j, image S) with 0 < |x_j + S cell - x_i| < cutoff, sorted.

    pos (n, 3) and cell (3, 3) in Angstrom. images: how far to look along each periodic lattice
    vector.
    """
    flags = pbc if cell is not None and pbc is not None else (False, False, False)
    lattice = np.zeros((3, 3)) if cell is None else np.asarray(cell, float)
    ranges = [range(-images, images + 1) if flag else (0,) for flag in flags]
    edges = []
    for i in range(len(pos)):
        for j in range(len(pos)):
            for image in itertools.product(*ranges):
                if i == j and image == (0, 0, 0):
                    continue
                distance = np.linalg.norm(pos[j] + np.array(image, float) @ lattice - pos[i])
                if distance < cutoff:
                    edges.append((i, j, image))
    return sorted(edges)
