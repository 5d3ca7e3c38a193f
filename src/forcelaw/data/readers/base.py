"""What every reader is given and yields: options, blocks of structures, a source."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ... import units
from ...elements import MAX_Z
from ...errors import DataError
from ...files import file_sha256, reading
from ...host import usable_cores
from ..options import Source as SaidOfSources
from ..pack import NO_CHARGE, NO_SPIN

BLOCK_STRUCTURES, BLOCK_ATOMS = 4096, 131_072
DEFLATE = 1100  # bytes that one byte of a deflated file can stand for, and a little more
MOST_AT_ONCE = 1 << 28  # bytes of one array of one structure
MISSING_ENERGY, MISSING_FORCES = 1, 2  # bits of Block.missing


class SourceOptions(SaidOfSources):
    """What the user says about a source; None leaves it to the format. Keys are names in the file.
    group_key: where the label of a molecule is."""

    group_key: str | None = None

    def model_post_init(self, _: Any) -> None:
        if self.stress_key and self.virial_key:
            raise DataError(
                "both --stress-key and --virial-key were given",
                remedy="pass --virial-key if the file holds -V times the stress, --stress-key else",
            )
        if self.forces_key and self.gradient_key:
            raise DataError(
                "both --forces-key and --gradient-key were given",
                remedy=(
                    "pass --forces-key if the file holds forces, --gradient-key if it holds dE/dx"
                ),
            )

    @property
    def force_like(self) -> str | None:
        return self.forces_key or self.gradient_key

    @property
    def sign(self) -> float:
        """Multiply what the chosen key holds by this to get forces."""
        return -1.0 if self.gradient_key else 1.0


@dataclass(slots=True)
class Block:
    """Some thousand structures (s of them, a atoms together), in eV and Angstrom.

    counts    (s,) int64, atoms of each
    numbers   (a,) uint8; positions, forces (a, 3) float64; energies (s,) float64
    groups    one label for all, a list of s labels, uint64 (s,) hashes of labels, or None where the
              source names none
    missing   uint8 (s,): bit 1 no energy, bit 2 no forces (the arrays hold NaN there); None when
              every label is there
    charges, spins   int8 (s,) as in the pack, or None
    cells (s, 3, 3), pbc (s, 3) bool   None for molecules
    stresses  (s, 3, 3) eV/Angstrom^3, tension positive (:mod:`.stress`), NaN where a structure has
              none; or None
    configs   a list of s labels (``config_type``), "" where a structure has none; or None
    test      (s,) bool, structures that the source itself keeps apart for evaluation; or None
    first     index of the block's first structure in its source
    place(k)  where structure k of the block is, for messages
    """

    counts: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    first: int
    place: Callable[[int], str]
    groups: str | list[str] | np.ndarray | None = None
    missing: np.ndarray | None = None
    charges: np.ndarray | None = None
    spins: np.ndarray | None = None
    cells: np.ndarray | None = None
    pbc: np.ndarray | None = None
    stresses: np.ndarray | None = None
    configs: list[str] | None = None
    test: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.counts)


@dataclass
class Units:
    """Units of a source and factors to eV, Angstrom, eV/Angstrom; ``origin`` says who declared
    them."""

    energy: str
    length: str
    force: str
    origin: str

    def record(self) -> dict[str, str]:
        """The units as a manifest and ``data check`` keep them."""
        return {
            "energy": self.energy,
            "length": self.length,
            "forces": self.force,
            "origin": self.origin,
        }

    @property
    def to_ev(self) -> float:
        return units.energy_factor(self.energy)

    @property
    def to_angstrom(self) -> float:
        return units.length_factor(self.length)

    @property
    def to_ev_per_angstrom(self) -> float:
        return units.force_factor(self.force)


@dataclass
class Source:
    """An opened source: what was seen and chosen, and its blocks.

    keys: what each label was read from, for example {"energy": "energy (comment line)"}.
    structures: how many there are, None when that is only known at the end of the stream.
    pieces: where the source can be read in parts, the stream of each; in order, and gathered, they
    are ``stream``.
    """

    path: Path
    reader: str
    keys_seen: list[str]
    keys: dict[str, str]
    units: Units
    stream: Callable[[], Iterator[Block]]
    structures: int | None = None
    group_note: str = ""
    notes: list[str] = field(default_factory=list)
    hashed: list[Path] = field(default_factory=list)  # the files whose bytes make the source's hash
    digest: str | None = None
    pieces: list[Callable[[], Iterator[Block]]] = field(default_factory=list)

    def blocks(self, piece: int | None = None) -> Iterator[Block]:
        """All structures, in the order of the source, in blocks of at most a few thousand; or those
        of one piece, in blocks that are still to be gathered."""
        blocks, count = (self.stream if piece is None else self.pieces[piece])(), 0
        while True:
            with reading(f"{self.path}, after structure {count}", DataError):
                block = next(blocks, None)
            if block is None:
                return
            yield block
            count = block.first + len(block)

    def sha256(self) -> str:
        """SHA-256 of the file; of a folder, of the sorted list of its files' names and hashes."""
        if self.digest is None:
            files = self.hashed or [self.path]
            if files == [self.path]:
                self.digest = file_sha256(self.path)
            else:
                files = sorted(files)
                with ThreadPoolExecutor(min(8, usable_cores())) as threads:
                    hashes = list(threads.map(file_sha256, files))
                lines = "".join(f"{file.name} {sha}\n" for file, sha in zip(files, hashes))
                self.digest = hashlib.sha256(lines.encode()).hexdigest()
        return self.digest

    def describe(self) -> list[str]:
        """Lines for the user: reader, keys seen, keys and units chosen and why."""
        lines = [
            f"{self.path.name}: read as {self.reader}"
            + (f", {self.structures:,} structures" if self.structures is not None else "")
        ]
        lines.append(f"  {'keys seen':<12} {listed(self.keys_seen)}")
        lines += [f"  {name:<12} {text}" for name, text in self.keys.items()]
        unit = self.units
        lines.append(f"  {'units':<12} {unit.energy}, {unit.length}, {unit.force}  ({unit.origin})")
        if self.group_note:
            lines.append(f"  {'group':<12} {self.group_note}")
        lines += [f"  {'note':<12} {note}" for note in self.notes]
        return lines

    def record(self) -> dict[str, Any]:
        """The source's entry in a manifest (file name only, no path)."""
        return {
            "name": self.path.name,
            "sha256": self.sha256(),
            "reader": self.reader,
            "keys": self.keys,
            "units": self.units.record(),
        }


def bare(key: str) -> str:
    """ "energy (comment line)" -> "energy"."""
    return key[: -len(key[key.rindex(" (") :])] if key.endswith(")") and " (" in key else key


def listed(keys: list[str]) -> str:
    """Keys by place: "comment line: energy, charge; column: forces"; keys without a place as a
    plain list."""
    places: dict[str, list[str]] = {}
    for key in keys:
        places.setdefault(key[len(bare(key)) :].strip(" ()"), []).append(bare(key))
    return "; ".join(
        f"{place}: {', '.join(names)}" if place else ", ".join(names)
        for place, names in places.items()
    )


def text_of(value: Any) -> str:
    """A string of a file, which may come as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def check_shapes(
    shapes: dict[str, tuple[int, ...]], names: dict[str, str], where: str
) -> tuple[int, int]:
    """(frames, atoms) of arrays by role that describe the same frames.

    positions and forces (frames, atoms, 3), numbers (atoms,) or (frames, atoms), all others
    (frames,) or (frames, 1).
    """
    positions = shapes["positions"]
    if len(positions) != 3 or positions[2] != 3:
        raise DataError(
            f"{names['positions']} has shape {positions}, expected (frames, atoms, 3)", where=where
        )
    frames, atoms, _ = positions
    allowed: dict[str, list[tuple[int, ...]]] = {
        "positions": [positions],
        "forces": [positions],
        "numbers": [(atoms,), (frames, atoms)],
    }
    for kind, shape in shapes.items():
        expected = allowed.get(kind, [(frames,), (frames, 1)])
        if shape not in expected:
            raise DataError(
                f"{names[kind]} has shape {shape}; {names['positions']} has {positions}, so"
                f" {' or '.join(map(str, expected))} was expected",
                where=where,
                remedy="the arrays of one source must describe the same frames",
            )
    return frames, atoms


def check_numbers(
    numbers: np.ndarray, place: Callable[[int], str], counts: np.ndarray
) -> np.ndarray:
    """Atomic numbers as uint8; anything outside 1..118 is an error that names the structure."""
    numbers = np.asarray(numbers)
    bad = np.flatnonzero((numbers < 1) | (numbers > MAX_Z))
    if len(bad):
        owner = int(np.searchsorted(np.cumsum(counts), bad[0], side="right"))
        raise DataError(
            f"unknown element: atomic number {numbers[bad[0]]}",
            where=place(owner),
            remedy=f"atomic numbers run from 1 to {MAX_Z}; correct or remove the frame",
        )
    return numbers.astype(np.uint8)


def small_ints(values: np.ndarray, name: str, place: Callable[[int], str]) -> np.ndarray:
    """Charges or spins as int8; fractions and values beyond int8 are errors."""
    values = np.asarray(values, np.float64).reshape(-1)
    bad = np.flatnonzero(~(np.abs(values) < 127) | (values != np.rint(values)))
    if len(bad):
        raise DataError(
            f"{name} {values[bad[0]]} is not a whole number within +-126",
            where=place(int(bad[0])),
            remedy=f"correct the frame, or choose another key with --{name}-key",
        )
    return values.astype(np.int8)


def one_structure(
    numbers: np.ndarray,
    positions: np.ndarray,
    energy: float,
    forces: np.ndarray,
    *,
    first: int,
    where: str,
    group: str | None = None,
    missing: int = 0,
    charge: float | None = None,
    spin: float | None = None,
    cell: np.ndarray | None = None,
    pbc: np.ndarray | None = None,
    stress: np.ndarray | None = None,
    config: str | None = None,
) -> Block:
    """A block of one structure, for formats that are read one by one; :func:`gather` joins them.

    numbers (n,); positions (n, 3) Angstrom; energy eV; forces (n, 3) eV/Angstrom; first: index in
    the source; where: file and frame, for messages. Charge and spin are whole numbers: where one
    structure of a source gives them, all give them or NO_CHARGE, NO_SPIN. stress (3, 3):
    eV/Angstrom^3, tension positive. config: the label called ``config_type`` in files.
    """

    def place(_: int) -> str:
        return where

    counts = np.array([len(numbers)], np.int64)
    absent = {"charge": NO_CHARGE, "spin": NO_SPIN}
    small = {
        kind: None
        if value is None
        else np.full(1, value, np.int8)
        if value == absent[kind]
        else small_ints(np.array([value]), kind, place)
        for kind, value in (("charge", charge), ("spin", spin))
    }
    return Block(
        counts,
        check_numbers(numbers, place, counts),
        positions,
        np.array([energy], np.float64),
        forces,
        first,
        place,
        None if group is None else [group],
        np.array([missing], np.uint8),
        small["charge"],
        small["spin"],
        None if cell is None else cell.reshape(1, 3, 3),
        None if pbc is None else pbc.reshape(1, 3),
        None if stress is None else np.asarray(stress, np.float64).reshape(1, 3, 3),
        None if config is None else [config],
    )


def rows_per_block(atoms: int) -> int:
    """Structures of ``atoms`` atoms that make one block."""
    return max(1, min(BLOCK_STRUCTURES, BLOCK_ATOMS // max(1, atoms)))


# value, shape of a row, and type of an optional array where a structure says nothing
ABSENT: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "missing": (0, (), np.uint8),
    "charges": (NO_CHARGE, (), np.int8),
    "spins": (NO_SPIN, (), np.int8),
    "cells": (0.0, (3, 3), np.float64),
    "pbc": (False, (3,), bool),
    "stresses": (np.nan, (3, 3), np.float64),
    "test": (False, (), bool),
}


def filled(block: Block, name: str) -> np.ndarray:
    """An optional array of a block, "not given" for every structure where the block has none."""
    array: np.ndarray | None = getattr(block, name)
    if array is not None:
        return array
    value, row, dtype = ABSENT[name]
    return np.full((len(block), *row), value, dtype)


def join(blocks: list[Block]) -> Block:
    """Consecutive blocks of one source as one. Where only some have an optional array, the others
    say "not given"."""
    if len(blocks) == 1:
        return blocks[0]
    starts = np.cumsum([0, *(len(b) for b in blocks)])

    def place(k: int) -> str:
        which = int(np.searchsorted(starts, k, side="right")) - 1
        return blocks[which].place(k - int(starts[which]))

    def optional(name: str) -> np.ndarray | None:
        if all(getattr(b, name) is None for b in blocks):
            return None
        return np.concatenate([filled(b, name) for b in blocks])

    needed = ("counts", "numbers", "positions", "energies", "forces")
    groups: Any = None
    if blocks[0].groups is not None:
        if isinstance(blocks[0].groups, np.ndarray):
            groups = np.concatenate([b.groups for b in blocks])
        else:
            groups = [
                g
                for b in blocks
                for g in ([b.groups] * len(b) if isinstance(b.groups, str) else b.groups)
            ]
    configs = None
    if any(b.configs is not None for b in blocks):
        configs = [c for b in blocks for c in (b.configs or [""] * len(b))]
    return Block(
        *(np.concatenate([getattr(b, name) for b in blocks]) for name in needed),
        first=blocks[0].first,
        place=place,
        groups=groups,
        configs=configs,
        **{name: optional(name) for name in ABSENT},
    )


def structures_in(sources: Iterable[Source]) -> int | None:
    """How many structures sources hold together; None where one does not know it yet."""
    known = [source.structures for source in sources]
    return None if None in known else sum(filter(None, known))


def gather(parts: Iterator[Block]) -> Iterator[Block]:
    """Join small consecutive blocks into blocks of the usual size."""
    waiting: list[Block] = []
    structures = atoms = 0
    for part in parts:
        size = int(part.counts.sum())
        if waiting and (structures + len(part) > BLOCK_STRUCTURES or atoms + size > BLOCK_ATOMS):
            yield join(waiting)
            waiting, structures, atoms = [], 0, 0
        waiting.append(part)
        structures, atoms = structures + len(part), atoms + size
    if waiting:
        yield join(waiting)


def need(package: str, module: str, extra: str, path: Path) -> None:
    """Say which optional package a format needs, before an ImportError does."""
    if importlib.util.find_spec(module) is None:
        raise DataError(
            f"reading this needs the package {package}, which is not installed",
            where=str(path),
            remedy=f"pip install 'forcelaw[{extra}]'",
        )
