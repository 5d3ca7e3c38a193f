"""The fixed random rotation of every structure, a pure function of (seed, place in the pack).

Embedders align molecules with their principal axes, and an unconstrained model would read that
frame for free; one rotation, uniform on SO(3), takes it away without changing what is learned.
"""

from __future__ import annotations

import numpy as np

from .splits import keyed

_STREAM = 0x726F746174696F6E  # "rotation": keeps these numbers apart from those of the split


def uniform(indices: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (n, draws), each a function of (index, draw, seed)
    alone."""
    counters = indices.astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(
        draws, dtype=np.uint64
    )
    return (keyed(counters, seed ^ _STREAM) >> np.uint64(11)) * 2.0**-53


def rotations(indices: np.ndarray, seed: int) -> np.ndarray:
    """Rotation matrices, float64 (n, 3, 3), uniform on SO(3) (quaternions: Shoemake 1992, Graphics
    Gems III)."""
    u, v, w = uniform(indices, seed, 3).T
    a, b = np.sqrt(1 - u), np.sqrt(u)
    x, y = a * np.sin(2 * np.pi * v), a * np.cos(2 * np.pi * v)
    z, t = b * np.sin(2 * np.pi * w), b * np.cos(2 * np.pi * w)
    return np.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - z * t),
            2 * (x * z + y * t),
            2 * (x * y + z * t),
            1 - 2 * (x * x + z * z),
            2 * (y * z - x * t),
            2 * (x * z - y * t),
            2 * (y * z + x * t),
            1 - 2 * (x * x + y * y),
        ],
        axis=1,
    ).reshape(-1, 3, 3)


def turn(
    vectors: tuple[np.ndarray, ...], matrices: np.ndarray, counts: np.ndarray
) -> list[np.ndarray]:
    """R v for every atom: vectors (a, 3) each, matrices (s, 3, 3) of the structures, counts
    (s,)."""
    if len(counts) and (counts == counts[0]).all():
        back, shape = matrices.transpose(0, 2, 1), (len(counts), -1, 3)
        return [np.matmul(v.reshape(shape), back).reshape(-1, 3) for v in vectors]
    rows = np.repeat(matrices, counts, axis=0)
    return [np.einsum("aij,aj->ai", rows, v) for v in vectors]
