"""Test structures: atomic numbers (n,) and positions (n, 3) in Angstrom, with the shapes that break
careless models.

Linear (CO2, C2H2), planar (benzene), highly symmetric (CH4, SF6), a single atom, a pair, two
fragments beyond any cutoff, and random clusters without any symmetry, which are chiral.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ELEMENTS = (1, 6, 7, 8, 9, 16)
CUTOFF = 6.0


@dataclass(frozen=True)
class Molecule:
    name: str
    numbers: np.ndarray  # (n,) int
    pos: np.ndarray  # (n, 3) float64, Angstrom

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def species(self) -> np.ndarray:
        """(n,) index into ELEMENTS."""
        return np.searchsorted(ELEMENTS, self.numbers)


def named(name: str) -> Molecule:
    """A molecule of ASE's G2 collection."""
    from ase.build import (
        molecule,
    )  # here, so that a lent GPU without ASE can run the tests of the kernels

    atoms = molecule(name)
    return Molecule(name, atoms.numbers.copy(), atoms.positions.copy())


def single_atom(number: int = 6) -> Molecule:
    return Molecule("single atom", np.array([number]), np.array([[0.3, -0.2, 0.1]]))


def linear() -> Molecule:
    """Three atoms in line, as in CO2."""
    return Molecule(
        "linear",
        np.array([6, 8, 8]),
        np.array([[0.0, 0.0, 0.0], [0.7, 0.0, 0.93], [-0.7, 0.0, -0.93]]),
    )


def random_cluster(
    atoms: int, seed: int, *, spacing: float = 1.05, density: float = 0.05
) -> Molecule:
    """``atoms`` random atoms, none closer than ``spacing`` Angstrom, in a ball of ``density``
    atoms/Angstrom^3."""
    rng = np.random.default_rng(seed)
    radius = (3.0 * atoms / (4.0 * np.pi * density)) ** (1.0 / 3.0)
    points: list[np.ndarray] = []
    while len(points) < atoms:
        point = rng.uniform(-radius, radius, 3)
        if np.linalg.norm(point) < radius and all(
            np.linalg.norm(point - p) > spacing for p in points
        ):
            points.append(point)
    numbers = rng.choice(ELEMENTS, size=atoms, p=(0.45, 0.3, 0.08, 0.12, 0.03, 0.02))
    numbers[: len(ELEMENTS)] = ELEMENTS[
        :atoms
    ]  # every element appears in clusters of six atoms and more
    return Molecule(f"cluster of {atoms}, seed {seed}", numbers, np.array(points))


def far_fragments(distance: float = 25.0) -> tuple[Molecule, Molecule, Molecule]:
    """Two fragments and their union, with ``distance`` Angstrom between them: no edge joins
    them."""
    a, b = random_cluster(7, 11), named("CH3OH")
    moved = b.pos + np.array([0.0, distance, 0.0])
    both = Molecule(
        "two far fragments", np.concatenate([a.numbers, b.numbers]), np.concatenate([a.pos, moved])
    )
    return a, b, both


def all_molecules() -> list[Molecule]:
    """The ten molecules of the symmetry tests, and three random clusters."""
    names = ("CO2", "C2H2", "C6H6", "CH4", "H2O", "CH3OH")
    return [
        *(named(name) for name in names),
        sulfur_hexafluoride(),
        pair(),
        single_atom(),
        far_fragments()[2],
        random_cluster(6, 1),
        random_cluster(13, 2),
        random_cluster(20, 3),
    ]


def pair() -> Molecule:
    return Molecule("HF", np.array([1, 9]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.917]]))


def sulfur_hexafluoride() -> Molecule:
    """Octahedral, S-F 1.56 Angstrom: the receiver's neighbours are all at one distance."""
    axes = np.concatenate([np.eye(3), -np.eye(3)]) * 1.56
    return Molecule("SF6", np.array([16] + [9] * 6), np.concatenate([np.zeros((1, 3)), axes]))
