"""Small packs for tests, made of random labels or of a pair potential with exact forces."""

from pathlib import Path
from typing import Any

import numpy as np

from forcelaw.data.pack import Pack, PackWriter, group_hash

STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, painn]
sizes: [3e3]
depth: 1
epochs: 4
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6}
learning_rate: 1e-3
"""
"""two runs on the pack ``pack`` of :func:`write_pack`, a second each"""


def pair_energy(pos: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum over pairs of exp(-r^2 / 2): energy and exact forces (n, 3)."""
    d = pos[:, None] - pos[None]
    w = np.exp(-0.5 * (d**2).sum(-1))
    np.fill_diagonal(w, 0.0)
    return 0.5 * w.sum(), (w[..., None] * d).sum(1)


def write_pack(
    path: Path, structures: int = 40, seed: int = 0, periodic: bool = False, **writing: Any
) -> Pack:
    """A pack of small random clusters of H, C, O with labels from :func:`pair_energy`; a fifth of
    the groups is validation. writing: further options of the writer."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1 if not periodic else 4, 9, structures)
    rows = {"numbers": [], "positions": [], "forces": [], "energies": []}
    for n in counts:
        pos = rng.normal(size=(n, 3)) * 1.3
        energy, forces = pair_energy(pos)
        rows["numbers"].append(rng.choice([1, 6, 8], n).astype(np.uint8))
        rows["positions"].append(pos)
        rows["forces"].append(forces)
        rows["energies"].append(energy)
    groups = np.array([group_hash(str(k // 2)) for k in range(structures)], np.uint64)
    split = (np.arange(structures) // 2 % 5 == 4).astype(np.uint8)
    extra = {}
    if periodic:
        extra = {
            "cells": np.repeat(np.diag([4.0, 5.0, 9.0])[None], structures, 0),
            "pbc": np.tile(np.array([1, 1, 0], np.uint8), (structures, 1)),
        }
    forces = np.concatenate(rows["forces"])
    with PackWriter(path, periodic=periodic, **writing) as writer:
        writer.append(
            counts,
            numbers=np.concatenate(rows["numbers"]),
            positions=np.concatenate(rows["positions"]),
            forces=forces,
            energies=np.array(rows["energies"]),
            groups=groups,
            split=split,
            **extra,
        )
        writer.finish(
            {
                "elements": [1, 6, 8],
                "references": {"energies": {"1": 0.1, "6": 0.2, "8": 0.3}},
                "statistics": {"force_rms": float(np.sqrt((forces**2).mean()))},
                "split": {},
                "command": "test",
            }
        )
    return Pack(path)
