"""What is remembered of every structure while a stream is read: a few numbers each, in two scratch
files, so that what needs a second look (reference energies, outliers, copies) gets one and memory
does not grow with the data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .filters import starts
from .readers.base import Block
from .splits import splitmix64

# one structure. squares, norms, largest: of its forces, in (eV/Angstrom)^2, eV/Angstrom
STRUCTURE = np.dtype(
    [
        ("atoms", "i8"),
        ("energy", "f8"),
        ("squares", "f8"),
        ("norms", "f8"),
        ("largest", "f8"),
        ("geometry", "u8"),
        ("index", "u8"),  # in its source
        ("source", "u2"),
        ("config", "u2"),
        ("periodic", "u1"),
    ]
)
CHUNK = 4096  # structures looked at together
# of numbers and coordinates in the hash of a geometry; odd, else arbitrary
_MIX = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
QUANTUM = 1e-5  # Angstrom; positions and cells that agree to this are equal


def geometry_hashes(block: Block) -> np.ndarray:
    """Hash of atomic numbers, positions and, where periodic, the cell, of each structure: uint64
    (s,). The order of the atoms does not matter."""
    with np.errstate(invalid="ignore"):
        steps = np.rint(block.positions * (1 / QUANTUM)).astype(np.int64).view(np.uint64)
    atoms = steps[:, 0] * _MIX[0]
    atoms += steps[:, 1] * _MIX[1]
    atoms += steps[:, 2] * _MIX[2]
    atoms += block.numbers.astype(np.uint64) * _MIX[3]
    out = np.add.reduceat(splitmix64(atoms), starts(block.counts))
    if block.cells is not None and block.pbc is not None and block.pbc.any():
        cells = np.rint(block.cells.reshape(-1, 9) * (1 / QUANTUM)).astype(np.int64)
        parts = np.column_stack([cells, block.pbc]).view(np.uint64)
        places = splitmix64(np.arange(parts.shape[1], dtype=np.uint64))
        turned = splitmix64((parts * places).sum(axis=1, dtype=np.uint64))
        out = np.where(block.pbc.any(axis=1), out ^ turned, out)
    return out


@dataclass
class Chunk:
    """Consecutive structures: records (s,), side of the split (s,) and atomic numbers (a,)."""

    records: np.ndarray
    sides: np.ndarray
    numbers: np.ndarray


class Records:
    """The records of a stream, on disk. ``side`` of each may be changed until they are read."""

    def __init__(self, folder: Path | None = None):
        """folder: where the scratch files lie; a temporary one by default."""
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="forcelaw-")
        folder = folder or Path(self._own.name)  # type: ignore[union-attr]
        self._files = {
            name: (folder / f"scratch.{name}") for name in ("records", "numbers", "sides")
        }
        self._open = {name: path.open("w+b") for name, path in self._files.items()}
        self.structures = 0

    def add(
        self,
        block: Block,
        squares: np.ndarray,
        *,
        source: int = 0,
        sides: np.ndarray | None = None,
        configs: np.ndarray | None = None,
    ) -> None:
        """Remember a block. squares (a,): squared norms of the forces. sides, configs: (s,)."""
        first, rows = starts(block.counts), np.zeros(len(block), STRUCTURE)
        norms = np.sqrt(squares)
        rows["atoms"], rows["energy"] = block.counts, block.energies
        rows["squares"] = np.add.reduceat(squares, first)
        rows["norms"], rows["largest"] = (
            np.add.reduceat(norms, first),
            np.maximum.reduceat(norms, first),
        )
        rows["geometry"], rows["source"] = geometry_hashes(block), source
        rows["index"] = block.first + np.arange(len(block))
        if block.pbc is not None:
            rows["periodic"] = block.pbc.any(axis=1)
        if configs is not None:
            rows["config"] = configs
        self._open["records"].write(rows.tobytes())
        self._open["numbers"].write(block.numbers.tobytes())
        self._open["sides"].write(
            (np.zeros(len(block)) if sides is None else sides).astype("u1").tobytes()
        )
        self.structures += len(block)

    def set_sides(self, parts: Iterator[np.ndarray]) -> None:
        """Replace the side of every structure, in order."""
        self._open["sides"].seek(0)
        for part in parts:
            self._open["sides"].write(part.astype("u1").tobytes())

    def chunks(self) -> Iterator[Chunk]:
        """Everything, CHUNK structures at a time."""
        for file in self._open.values():
            file.flush()
            file.seek(0)
        first = 0
        while first < self.structures:
            size = min(CHUNK, self.structures - first)
            records = np.frombuffer(
                self._open["records"].read(size * STRUCTURE.itemsize), STRUCTURE
            )
            sides = np.frombuffer(self._open["sides"].read(size), np.uint8)
            numbers = np.frombuffer(
                self._open["numbers"].read(int(records["atoms"].sum())), np.uint8
            )
            yield Chunk(records, sides, numbers)
            first += size
        for file in self._open.values():
            file.seek(0, 2)

    def close(self) -> None:
        """Remove the scratch files."""
        for name, file in self._open.items():
            file.close()
            self._files[name].unlink(missing_ok=True)
        if self._own:
            self._own.cleanup()
