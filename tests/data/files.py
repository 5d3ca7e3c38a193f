"""Small sources written for tests, with labels from a known harmonic force field."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forcelaw.data.readers import Block, SourceOptions, open_source
from forcelaw.data.readers.base import join

BASE = {1: -13.0, 6: -1030.0, 7: -1485.0, 8: -2040.0}  # eV, of the free atoms
SPRING = 30.0  # eV/Angstrom^2 between all pairs, rest lengths from a reference geometry


def read(path: Path, **options: str | bool) -> Block:
    """All of a source as one block."""
    return join(list(open_source(path, SourceOptions(**options)).blocks()))


def molecules(
    structures: int = 40,
    seed: int = 0,
    step: float = 0.02,
    kinds: tuple[str, ...] = ("CH4", "H2O", "NH3", "CH3CH2OH"),
) -> list[dict]:
    """Molecules of ASE's collection in turn, displaced; energies and forces (exact) of springs
    between all pairs."""
    from ase.build import molecule

    rng = np.random.default_rng(seed)
    made = [molecule(name) for name in kinds]
    out = []
    for k in range(structures):
        z, x0 = made[k % len(made)].numbers, made[k % len(made)].positions
        x = x0 + step * rng.normal(size=x0.shape)
        energy, forces = springs(x, x0)
        out.append(
            {
                "numbers": z.copy(),
                "positions": x,
                "energy": energy + sum(BASE[n] for n in z),
                "forces": forces,
            }
        )
    return out


def free_atom(z: int) -> dict:
    """A single atom with the energy that it has in :func:`molecules`."""
    return {
        "numbers": np.array([z]),
        "positions": np.zeros((1, 3)),
        "energy": BASE[z],
        "forces": np.zeros((1, 3)),
    }


def springs(x: np.ndarray, x0: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of springs between all pairs."""
    energy, forces = 0.0, np.zeros_like(x)
    for i in range(len(x)):
        for j in range(i):
            d, d0 = x[i] - x[j], np.linalg.norm(x0[i] - x0[j])
            r = np.linalg.norm(d)
            energy += SPRING / 2 * (r - d0) ** 2
            forces[i] -= SPRING * (r - d0) * d / r
            forces[j] += SPRING * (r - d0) * d / r
    return energy, forces


SYMBOL = {1: "H", 6: "C", 7: "N", 8: "O"}


def extxyz(
    path: Path,
    frames: list[dict],
    energy: str | None = "energy",
    forces: str | None = "forces",
    header: str = "",
) -> Path:
    """Write frames by hand. "header" of a frame adds to its comment line, "without" names labels to
    leave out."""
    lines = []
    for frame in frames:
        without = frame.get("without", "")
        columns = "species:S:1:pos:R:3" + (
            f":{forces}:R:3" if forces and "forces" not in without else ""
        )
        comment = f"Properties={columns}" + (
            f" {energy}={float(frame['energy'])!r}" if energy and "energy" not in without else ""
        )
        lines += [
            str(len(frame["numbers"])),
            f"{comment} {header} {frame.get('header', '')}".rstrip(),
        ]
        for z, x, f in zip(frame["numbers"], frame["positions"], frame["forces"]):
            row = [*x, *f] if forces and "forces" not in without else [*x]
            lines.append(" ".join([SYMBOL.get(int(z), str(z)), *(repr(float(v)) for v in row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def padded_npz(
    path: Path,
    frames: list[dict],
    *,
    unit: float = 1.0,
    compressed: bool = False,
    **more: np.ndarray,
) -> Path:
    """Write frames as a zero-padded sGDML archive."""
    most = max(len(frame["numbers"]) for frame in frames)
    arrays = {
        "z": np.zeros((len(frames), most), np.int64),
        "R": np.zeros((len(frames), most, 3)),
        "F": np.zeros((len(frames), most, 3)),
        "E": np.zeros((len(frames), 1)),
    }
    for k, frame in enumerate(frames):
        n = len(frame["numbers"])
        arrays["z"][k, :n], arrays["R"][k, :n], arrays["F"][k, :n] = (
            frame["numbers"],
            frame["positions"],
            frame["forces"],
        )
        arrays["E"][k] = frame["energy"]
    arrays["F"] *= unit
    arrays["E"] *= unit
    (np.savez_compressed if compressed else np.savez)(path, **arrays, **more)
    return path


def database(path: Path, frames: list[dict]) -> Path:
    """Write frames as an ASE database; .aselmdb goes through ase-db-backends. "data" of a frame
    becomes row.data."""
    import ase.db
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    if path.suffix == ".aselmdb":
        from ase_db_backends.aselmdb import LMDBDatabase

        db = LMDBDatabase(path, use_lock_file=False)
    else:
        db = ase.db.connect(path, use_lock_file=False)
    with db:  # one transaction
        for frame in frames:
            atoms = Atoms(numbers=frame["numbers"], positions=frame["positions"])
            labels = {
                k: frame[k] for k in ("energy", "forces") if k not in frame.get("without", "")
            }
            if labels:
                atoms.calc = SinglePointCalculator(atoms, **labels)
            db.write(atoms, data=frame.get("data", {}), **frame.get("pairs", {}))
    return path
