"""Conformers away from equilibrium: ETKDG, a partial MMFF relaxation, a normal displacement, a
random rotation.

Distribution (:class:`.Distribution`, written to the manifest): of the conformers of ETKDGv3,
``unrelaxed`` stay as embedded, ``partly`` take ``partly_steps`` to 20 MMFF94 steps and the rest up
to 200 (UFF where MMFF has no parameters); then every atom is moved by a normal of standard
deviation uniform in 0 to ``displacement`` Angstrom (one for the structure); then the centre of the
positions goes to the origin and the structure gets a rotation uniform on SO(3). Embedders align
molecules with their principal axes: without the rotation an unconstrained model would read that
frame for free. Last, positions are rounded to the quantum in which they are stored, before they are
labelled, so that labels are exact for what a reader gets.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from .options import Distribution

POSITION_QUANTUM = 1e-3  # Angstrom
PARTLY_MOST = 20  # MMFF steps


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix (3, 3) uniform on SO(3), from a normalised quaternion of four normals
    (Shoemake 1992)."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def embed(mol: Chem.Mol, count: int, seed: int) -> list[int]:
    """Add up to ``count`` ETKDGv3 conformers to ``mol`` (with hydrogens); their ids, empty where
    none can be found.

    A second try starts from random coordinates: cages and crowded rings need it.
    """
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    parameters.maxIterations = 20
    ids = list(rdDistGeom.EmbedMultipleConfs(mol, count, parameters))
    if not ids:
        parameters.useRandomCoords = True
        ids = list(rdDistGeom.EmbedMultipleConfs(mol, count, parameters))
    return ids


def _force_field(mol: Chem.Mol, properties: object, conformer: int) -> object:
    if properties is not None:
        return rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conformer)
    return rdForceFieldHelpers.UFFGetMoleculeForceField(mol, confId=conformer)


def conformers(
    smiles: str, rng: np.random.Generator, d: Distribution
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Atomic numbers (n,) uint8 and positions, one (n, 3) float64 in Angstrom per conformer found,
    rounded and rotated.

    Every random number comes from ``rng``; the list is empty when the molecule cannot be embedded.
    """
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()], np.uint8)
    ids = embed(mol, d.conformers, int(rng.integers(1, 2**31 - 1)))
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    found = []
    for index in ids:
        kind, steps = rng.random(), int(rng.integers(d.partly_steps, PARTLY_MOST + 1))
        if kind >= d.unrelaxed + d.partly:
            steps = d.relaxed_steps
        field = _force_field(mol, properties, index) if kind >= d.unrelaxed else None
        if field is not None:
            field.Initialize()
            field.Minimize(maxIts=steps)
        positions = mol.GetConformer(index).GetPositions()
        positions = positions + rng.normal(size=positions.shape) * (d.displacement * rng.random())
        positions -= positions.mean(axis=0)
        positions = positions @ random_rotation(rng).T
        found.append(np.rint(positions / POSITION_QUANTUM) * POSITION_QUANTUM)
    return numbers, found
