"""Slow obvious readers, one structure at a time, as oracles for forcelaw.data.readers.

They share no code with it: extxyz goes through ase.io.read, npz through np.load, HDF5 through plain
h5py loops, databases through ase.db rows; conversion factors are written out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HARTREE, KCAL, BOHR = 27.211386245988, 0.0433641153087705, 0.529177210903


def structure(
    numbers, positions, energy, forces, cell=None, pbc=None, charge=None, spin=None, group=None
) -> dict:
    periodic = pbc is not None and any(pbc)
    return {
        "numbers": np.asarray(numbers, int),
        "positions": np.asarray(positions, float),
        "energy": float(energy),
        "forces": np.asarray(forces, float),
        "cell": np.asarray(cell, float) if periodic else None,
        "pbc": np.asarray(pbc, bool) if periodic else None,
        "charge": charge,
        "spin": spin,
        "group": group,
    }


def extxyz(
    path: Path, energy: str = "energy", forces: str = "forces", unit: float = 1.0
) -> list[dict]:
    import ase.io

    out = []
    for atoms in ase.io.read(path, ":"):
        known = dict(atoms.calc.results) if atoms.calc else {}
        e = known[energy] if energy in known else atoms.info[energy]
        f = known[forces] if forces in known else atoms.arrays[forces]
        out.append(
            structure(
                atoms.numbers,
                atoms.positions,
                e * unit,
                f * unit,
                atoms.cell[:],
                atoms.pbc,
                atoms.info.get("charge"),
                atoms.info.get("spin"),
            )
        )
    return out


def npz(path: Path, unit: float, keys: tuple[str, str, str, str]) -> list[dict]:
    with np.load(path, allow_pickle=False) as archive:
        z, r, e, f = (archive[key] for key in keys)
    out = []
    for k in range(len(r)):
        numbers = z if z.ndim == 1 else z[k]
        real = [i for i, number in enumerate(numbers) if number != 0]
        out.append(structure(numbers[real], r[k][real], e.reshape(-1)[k] * unit, f[k][real] * unit))
    return out


def spice(path: Path) -> list[dict]:
    import h5py

    out = []
    with h5py.File(path) as file:
        for name in file:
            g = file[name]
            for k in range(len(g["conformations"])):
                out.append(
                    structure(
                        g["atomic_numbers"][()],
                        g["conformations"][k].astype(float) * BOHR,
                        g["dft_total_energy"][k] * HARTREE,
                        -g["dft_total_gradient"][k].astype(float) * HARTREE / BOHR,
                        charge=1,
                        group=g["smiles"][0].decode(),
                    )
                )
    return out


def ani(path: Path, numbers: str, energy: str, forces: str, most: int = 10**9) -> list[dict]:
    import h5py

    out = []
    with h5py.File(path) as file:
        for name in file:
            g = file[name]
            for k in range(min(most, len(g["coordinates"]))):
                z = g[numbers][()] if g[numbers].ndim == 1 else g[numbers][k]
                out.append(
                    structure(
                        z,
                        g["coordinates"][k],
                        g[energy][k] * HARTREE,
                        g[forces][k].astype(float) * HARTREE,
                    )
                )
    return out


def xtb(path: Path, first: int, count: int) -> list[dict]:
    import h5py

    out = []
    with h5py.File(path) as file:
        natoms = file["natoms"][()].astype(int)
        for k in range(first, first + count):
            rows = slice(natoms[:k].sum(), natoms[: k + 1].sum())
            smiles = file["smiles"][file["molecule"][k]].decode()
            out.append(
                structure(
                    file["atomic_numbers"][rows],
                    file["positions"][rows] * 1e-4,
                    file["energy"][k],
                    file["forces"][rows] * 1e-4,
                    group=smiles,
                )
            )
    return out


def ase_db(path: Path, unit: float = 1.0, data: bool = False) -> list[dict]:
    import ase.db

    out = []
    with ase.db.connect(path) as database:
        rows = list(database.select())
    for row in rows:
        labels: Any = row.data if data else row
        out.append(
            structure(
                row.numbers,
                row.positions,
                np.asarray(labels["energy"]).item() * unit,
                np.asarray(labels["forces"]) * unit,
                row.cell,
                row.pbc,
            )
        )
    return out


def energies_are_those_of_molecules(energies: np.ndarray, numbers: np.ndarray) -> None:
    """All-electron energies in eV of frames of one molecule at 500 K: their mean lies within 2% of
    the free atoms' (Hartree-Fock, in hartree), their spread near that of classical oscillators."""
    atom = {1: -0.5, 6: -37.69, 7: -54.40, 8: -74.81}
    free = sum(atom[int(z)] for z in numbers) * HARTREE
    assert 1.0 < energies.mean() / free < 1.02
    # potential energy of 3N classical oscillators fluctuates by sqrt(3N/2) kT
    expected = np.sqrt(1.5 * len(numbers)) * 0.0431
    assert 0.3 * expected < energies.std() < 1.6 * expected


def split(blocks: Any) -> list[dict]:
    """Blocks of a source taken apart into the same dictionaries, by a plain loop."""
    out = []
    for block in blocks:
        start = 0
        for k in range(len(block)):
            stop = start + int(block.counts[k])
            pbc = None if block.pbc is None else block.pbc[k]
            charge = (
                None if block.charges is None or block.charges[k] == 127 else int(block.charges[k])
            )
            spin = None if block.spins is None or block.spins[k] == 0 else int(block.spins[k])
            groups = block.groups
            group = groups if groups is None or isinstance(groups, str) else groups[k]
            out.append(
                structure(
                    block.numbers[start:stop],
                    block.positions[start:stop],
                    block.energies[k],
                    block.forces[start:stop],
                    None if block.cells is None else block.cells[k],
                    pbc,
                    charge,
                    spin,
                    group,
                )
            )
            assert block.first + k == len(out) - 1, "blocks must say where they start"
            start = stop
        assert start == len(block.numbers) == len(block.positions) == len(block.forces)
    return out


def same(
    got: list[dict], expected: list[dict], *, labels: bool = False, rtol: float = 1e-13
) -> None:
    """Assert that two lists of structures agree; labels: charge, spin and group as well."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        assert (a["numbers"] == b["numbers"]).all()
        for key in ("positions", "energy", "forces"):
            np.testing.assert_allclose(a[key], b[key], rtol=rtol, atol=1e-12)
        assert (a["cell"] is None) == (b["cell"] is None)
        if a["cell"] is not None:
            np.testing.assert_allclose(a["cell"], b["cell"], atol=1e-12)
            assert (a["pbc"] == b["pbc"]).all()
        if labels:
            assert (a["charge"], a["spin"], a["group"]) == (b["charge"], b["spin"], b["group"])
