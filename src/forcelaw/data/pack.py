"""The pack: prepared data as memory-mapped arrays and one manifest.

    manifest.json   counts, elements, units, keys, source hashes, split, reference energies,
                    statistics
    numbers.npy     uint8   (atoms,)
    positions.npy   float32 or int16 (atoms, 3)   Angstrom = stored * arrays.positions.scale
    forces.npy      float32 or int16 (atoms, 3)   eV/Angstrom = stored * arrays.forces.scale
    energies.npy    float64 (structures,)         total, eV
    offsets.npy     int64   (structures + 1,)     structure k has atoms offsets[k]:offsets[k+1]
    groups.npy      uint64  (structures,)         hash of the group label (the molecule)
    split.npy       uint8   (structures,)         0 train, 1 validation, 2 test
    charges.npy     int8    (structures,)         only when the source says; 127: not given
    spins.npy       int8    (structures,)         likewise; 0: not given
    cells.npy       float64 (structures, 3, 3)    only when periodic
    pbc.npy         uint8   (structures, 3)       likewise
    stresses.npy    float64 (structures, 3, 3)    only when the source has them: (1/V) dE/d(strain),
                    eV/Angstrom^3, positive under tension (as ASE), NaN: not given
    configs.npy     uint16  (structures,)         only when the source has them: index into
                    manifest["config_types"], the labels called config_type in files; "" for none

A pack may be in shards (:mod:`.shards`): the arrays of its structures, some thousand or million
at a time, in folders shard-00000, shard-00001, ... Its hash is the same.

Writing is streaming and atomic: arrays grow in PACK.partial-*, and one rename makes the pack.
Memory does not grow with the number of structures.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..elements import MAX_Z, SYMBOLS
from ..errors import DataError
from ..files import (
    check_regular,
    fsync_folder,
    is_storage,
    reading,
    storage_error,
    write_json,
)
from ..host import usable_cores
from .arrays import NpyStream, ShardedArray, ShardedStream
from .shards import Shard, ShardWriter, read_shards, remove_shards, shards_text

FORMAT, VERSION = "forcelaw-pack", 1
NO_CHARGE, NO_SPIN = 127, 0
# array -> its types (the last with a quantum), what its rows are, and the shape of a row
_ARRAYS: dict[str, tuple[tuple[str, ...], str, tuple[int, ...]]] = {
    "numbers": (("uint8",), "atoms", ()),
    "positions": (("float32", "int16"), "atoms", (3,)),
    "forces": (("float32", "int16"), "atoms", (3,)),
    "energies": (("float64",), "structures", ()),
    "offsets": (("int64",), "structures", ()),
    "groups": (("uint64",), "structures", ()),
    "split": (("uint8",), "structures", ()),
    "charges": (("int8",), "structures", ()),
    "spins": (("int8",), "structures", ()),
    "cells": (("float64",), "structures", (3, 3)),
    "pbc": (("uint8",), "structures", (3,)),
    "stresses": (("float64",), "structures", (3, 3)),
    "configs": (("uint16",), "structures", ()),
}
_NEEDED = ("numbers", "positions", "forces", "energies", "offsets", "groups", "split")
_AT_ONCE = 1 << 20  # structures whose sizes are looked up together


def refuse_existing(path: Path, overwrite: bool) -> None:
    """DataError where a pack would be written over something unasked."""
    if path.exists() and not overwrite:
        raise DataError(
            f"{path} exists already", remedy="choose another --out, or pass --overwrite"
        )


class PackWriter:
    """Write a pack structure block by structure block; nothing appears at ``path`` before
    :meth:`finish`.

    quantum: when given, (positions quantum in Angstrom, forces quantum in eV/Angstrom); values are
    stored as int16 multiples of it. Positions must already be multiples of the quantum if labels
    are to be exact for them. shard_size: bytes of a shard at most, but for a structure that is
    larger; None: no shards. shard_folders: where shards are put, in turn, with links to them in the
    pack; by default into the pack.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        quantum: tuple[float, float] | None = None,
        periodic: bool = False,
        charges: bool = False,
        stresses: bool = False,
        configs: bool = False,
        overwrite: bool = False,
        shard_size: int | None = None,
        shard_folders: Sequence[Path] = (),
    ):
        self.path = Path(path)
        refuse_existing(self.path, overwrite)
        self.overwrite, self.quantum = overwrite, quantum
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(f"{self.path.name}.partial-{os.urandom(4).hex()}")
        self.partial.mkdir()
        wanted = dict.fromkeys(_NEEDED, True) | {
            **dict.fromkeys(("charges", "spins"), charges),
            **dict.fromkeys(("cells", "pbc"), periodic),
            "stresses": stresses,
            "configs": configs,
        }
        types = {
            name: (types[-1 if quantum else 0], row)
            for name, (types, _, row) in _ARRAYS.items()
            if wanted[name]
        }
        self.structures = self.atoms = 0
        self._shards: ShardWriter | None = None
        self._streams: dict[str, NpyStream] | dict[str, ShardedStream]
        if shard_size is None:
            self._streams = {
                name: NpyStream(self.partial / f"{name}.npy", *of) for name, of in types.items()
            }
        else:
            sharded = {name: ShardedStream(*of) for name, of in types.items()}
            sizes = {axis: _row_bytes(sharded, axis) for axis in ("atoms", "structures")}
            self._shards = ShardWriter(
                self.partial, self.path.name, sharded, shard_size, sizes, shard_folders
            )
            self._streams = sharded
        self._streams["offsets"].append(np.zeros(1, np.int64))

    def append(self, counts: np.ndarray, **arrays: np.ndarray) -> None:
        """Append a block of structures. counts (s,): atoms of each. arrays: those of the pack but
        for offsets, by name; those of atoms are concatenated, (sum(counts), ...)."""
        ends = np.cumsum(counts)
        rows = {**arrays, "offsets": self.atoms + ends}
        rows = {name: self._stored(name, rows[name]) for name in self._streams}
        first = 0
        for last in self._shards.cuts(np.asarray(counts)) if self._shards else [len(counts)]:
            part = slice(first, last)
            atoms = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]) if last else 0)
            for name, stream in self._streams.items():
                stream.append(rows[name][atoms if _ARRAYS[name][1] == "atoms" else part])
            first = last
        self.structures += len(counts)
        self.atoms += int(np.sum(counts))

    def _stored(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values as they are stored: positions and forces as multiples of the quantum."""
        if not self.quantum or name not in ("positions", "forces"):
            return values
        scaled = np.rint(np.asarray(values, np.float64) / self.quantum[name == "forces"])
        if np.abs(scaled).max(initial=0) > 32767:
            raise DataError(
                f"{name} too large to store in the compact encoding",
                remedy="prepare without quantum",
            )
        return scaled

    def read(self, name: str) -> Iterator[np.ndarray]:
        """Rows of an array as they were stored, some thousand at a time."""
        return self._streams[name].read()

    def rewrite(self, name: str, parts: Iterator[np.ndarray]) -> None:
        """Replace all rows of an array."""
        self._streams[name].rewrite(parts)

    def drop(self, *names: str) -> None:
        """Leave out optional arrays that turned out to say nothing (a stream is known only at its
        end)."""
        for name in names:
            self._streams.pop(name).discard()

    def finish(self, manifest: dict[str, Any]) -> Path:
        """Close the arrays, write the manifest, and rename the whole into place."""
        arrays = {}
        for stream in self._streams.values():
            stream.close()
        with ThreadPoolExecutor(min(8, usable_cores())) as threads:
            hashes = dict(
                zip(self._streams, threads.map(lambda s: s.sha256(), self._streams.values()))
            )
        for name, stream in self._streams.items():
            sha256, scale = hashes[name][0], 1.0
            if self.quantum and name in ("positions", "forces"):
                scale = self.quantum[name == "forces"]
            arrays[name] = {
                "dtype": stream.dtype.name,
                "scale": scale,
                "sha256": sha256,
            }
        full = {
            "format": FORMAT,
            "version": VERSION,
            "structures": self.structures,
            "atoms": self.atoms,
            "periodic": "pbc" in arrays,
            "arrays": arrays,
            **manifest,
        }
        full["content_hash"] = content_hash({n: a["sha256"] for n, a in arrays.items()})
        if self._shards:
            full["shards"] = self._shards.finish(
                full["content_hash"], {name: each for name, (_, each) in hashes.items()}
            )
        write_json(self.partial / "manifest.json", full, durable=True)
        if self.overwrite and self.path.exists():
            old = self.path.with_name(f"{self.path.name}.partial-old-{os.urandom(4).hex()}")
            self.path.rename(old)
            self.partial.rename(self.path)
            shutil.rmtree(old)
        else:
            self.partial.rename(self.path)
        fsync_folder(self.path.parent)
        return self.path

    def abort(self) -> None:
        """Remove everything written so far."""
        for stream in self._streams.values():
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        remove_shards(self.partial, self.path.name)
        shutil.rmtree(self.partial, ignore_errors=True)

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, *_: Any) -> None:
        """An OSError of a full disk, a quota or a mount becomes a StorageError of this pack."""
        if kind is not None:
            self.abort()
        if isinstance(error, OSError) and is_storage(error):
            raise storage_error(error, self.path) from error


def _row_bytes(streams: dict[str, ShardedStream], axis: str) -> int:
    """Bytes that an atom or a structure takes in all arrays."""
    of_axis = [stream for name, stream in streams.items() if _ARRAYS[name][1] == axis]
    return sum(s.dtype.itemsize * int(np.prod(s.row, dtype=np.int64)) for s in of_axis)


def _manifest(file: Path) -> dict[str, Any]:
    """A manifest, with all that is read of every pack."""
    manifest = json.loads(file.read_bytes())
    version = manifest.get("format"), manifest.get("version")
    if version != (FORMAT, VERSION):
        raise DataError(
            f"{file} is not a version-{VERSION} pack manifest",
            remedy="prepare it again with this version of forcelaw",
        )
    counts = [manifest["structures"], manifest["atoms"]]
    numbers = [*manifest["elements"], *map(int, manifest["references"]["energies"])]
    energies = manifest["references"]["energies"].values()
    if (
        any(not isinstance(count, int) or count < 1 for count in counts)
        or any(not isinstance(z, int) or not 1 <= z <= MAX_Z for z in numbers)
        or not all(math.isfinite(float(value)) for value in energies)
        or not isinstance(manifest["content_hash"], str)
        or not isinstance(manifest["statistics"], dict)
    ):
        raise ValueError(
            "counts, elements, reference energies, statistics or hash are not what they are for"
        )
    return manifest


class Pack:
    """A prepared pack, opened for reading; arrays are memory-mapped and nothing is loaded until it
    is touched."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "manifest.json").is_file():
            if not self.path.exists():
                raise DataError(
                    "there is no pack here",
                    where=str(self.path),
                    remedy="correct the path, or bring the pack back; one that was moved goes on"
                    " under its old name. To make one: forcelaw data prepare SOURCE --out PACK",
                )
            raise DataError(
                f"{self.path} is not a pack (no manifest.json)",
                remedy="make one with: forcelaw data prepare SOURCE --out PACK",
            )
        with reading(self.path, DataError, remedy="prepare the pack again"):
            self.manifest = _manifest(self.path / "manifest.json")
            self.shards = read_shards(self.path, self.manifest)
            for name, spec in self.manifest["arrays"].items():
                setattr(self, name, self._array(name, spec["dtype"]))
        if missing := [name for name in _NEEDED if name not in self.manifest["arrays"]]:
            raise self._wrong(f"the manifest names no array {', '.join(missing)}")

    def _array(self, name: str, dtype: str) -> np.ndarray:
        """An array of the pack, memory-mapped; an error where it is not of its kind."""
        if name not in _ARRAYS:
            raise self._wrong(f"a pack has no array {name[:40]!r}")
        if self.shards:
            return self._sharded(name, dtype)
        file = self.path / f"{name}.npy"
        check_regular(file, DataError)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        kinds, axis, row = _ARRAYS[name]
        rows = self.manifest[axis] + (name == "offsets")
        if array.dtype.name != dtype or dtype not in kinds or array.shape != (rows, *row):
            raise self._wrong(
                f"{name}.npy holds {array.dtype} of shape {array.shape}, not"
                f" {' or '.join(kinds)} of shape {(rows, *row)}"
            )
        return array

    def _sharded(self, name: str, dtype: str) -> Any:
        """An array of a pack in shards."""
        kinds, axis, row = _ARRAYS[name]
        if dtype not in kinds:
            raise self._wrong(f"{name} cannot be {dtype}, but {' or '.join(kinds)}")
        parts = []
        for k, shard in enumerate(self.shards):
            rows = getattr(shard, axis) + (name == "offsets" and k == 0)
            parts.append(shard.open(name, np.dtype(dtype), (rows, *row)))
        return ShardedArray(parts)

    def files(self, name: str) -> list[Path]:
        """The files of an array: one, or one in each shard."""
        return [folder / f"{name}.npy" for folder in self.folders]

    @property
    def folders(self) -> list[Path]:
        """Where the arrays lie: the pack, or its shards."""
        return [shard.folder for shard in self.shards] or [self.path]

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the pack."""
        folders = {self.path, *self.folders}
        files = (file for folder in folders for file in folder.iterdir())
        return sum(file.stat().st_size for file in files if file.is_file())

    def _wrong(self, what: str) -> DataError:
        return DataError(what, where=str(self.path), remedy="prepare the pack again")

    manifest: dict[str, Any]
    shards: list[Shard]
    numbers: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    offsets: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    charges: np.ndarray | None = None  # these six: None where the source says nothing
    spins: np.ndarray | None = None
    cells: np.ndarray | None = None
    pbc: np.ndarray | None = None
    stresses: np.ndarray | None = None
    configs: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.manifest["structures"])

    @property
    def atoms(self) -> int:
        return int(self.manifest["atoms"])

    @property
    def elements(self) -> list[int]:
        """Atomic numbers present, ascending."""
        return [int(z) for z in self.manifest["elements"]]

    @property
    def config_types(self) -> list[str]:
        """The labels that ``configs`` points at; empty where the source has none."""
        return [str(label) for label in self.manifest.get("config_types", [])]

    @property
    def hash(self) -> str:
        """Hash of the arrays' contents."""
        return str(self.manifest["content_hash"])

    def scale(self, name: str) -> float:
        """Stored value times this is in Angstrom (positions) or eV/Angstrom (forces)."""
        return float(self.manifest["arrays"][name]["scale"])

    def vectors(self, name: str, rows: slice | np.ndarray) -> np.ndarray:
        """Positions or forces of atom rows (a slice, numbers, or bool (atoms,)), decoded: float64
        (rows, 3)."""
        array = getattr(self, name)
        if isinstance(rows, slice) or rows.dtype == bool:
            stored = array[rows]
        else:
            stored = array.take(rows, axis=0)  # five times as fast as array[rows]
        return self.decoded(name, stored)

    def decoded(self, name: str, stored: np.ndarray) -> np.ndarray:
        """Positions or forces as they are stored, in Angstrom or eV/Angstrom: float64."""
        return np.asarray(stored, np.float64) * self.scale(name)

    def sizes(self, structures: np.ndarray) -> np.ndarray:
        """Atoms of structures (s,): int32 (s,). Memory is that of the result."""
        out = np.empty(len(structures), np.int32)
        for low in range(0, len(out), _AT_ONCE):
            rows = structures[low : low + _AT_ONCE].astype(np.int64)
            out[low : low + len(rows)] = self.offsets[rows + 1] - self.offsets[rows]
        return out

    def reference_energies(self) -> np.ndarray:
        """(119,) float64 eV, indexed by atomic number; zero for elements that are absent."""
        table = np.zeros(119)
        for z, value in self.manifest["references"]["energies"].items():
            table[int(z)] = value
        return table


def content_hash(hashes: dict[str, str]) -> str:
    """The hash of a pack, from the SHA-256 of each array."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=16_384)  # molecules of one block are often those of the block before
def group_hash(label: str) -> int:
    """Stable 64-bit hash of a group label."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little")


def sample_path() -> Path:
    """The folder of the shipped pack: some 250,000 atoms with GFN2-xTB labels, made by the command
    that its manifest quotes."""
    return Path(__file__).parent / "sample"


def describe(path: Path, *, as_json: bool = False) -> str:
    """The manifest of a pack as text for people, or as JSON."""
    pack = Pack(path)
    m = pack.manifest
    if as_json:
        return json.dumps(m, indent=1)
    head = (
        f"{pack.path.name}: {len(pack):,} structures, {pack.atoms:,} atoms,"
        f" {pack.nbytes / 1e6:.1f} MB,"
        f" hash {pack.hash}"
    )
    with reading(pack.path / "manifest.json", DataError, remedy="prepare the pack again"):
        rows = [*_rows(m), *shards_text(pack.shards)]
    return "\n".join([head, *(f"  {name:<12} {text}" for name, text in rows)])


def _rows(m: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) for :func:`describe`."""
    counts = m.get("element_counts", {})
    yield "elements", ", ".join(f"{SYMBOLS[int(z)]} {n:,}" for z, n in counts.items())
    if m.get("split"):
        yield "split", split_text(m["split"])
    if fit := m.get("references"):
        energies = ", ".join(f"{SYMBOLS[int(z)]} {e:.3f}" for z, e in fit["energies"].items())
        yield "references", energies + " eV"
        yield from (("warning", text) for text in fit.get("warnings", []))
        if "described" in fit:
            yield "leave", fit["described"]
    if stats := m.get("statistics"):
        spread = 1000 * stats["energy_per_atom_sd"]
        yield "energies", f"sd {spread:.1f} meV/atom after references"
        yield "forces", forces_text(stats)
        mean, most = stats["atoms_mean"], stats["atoms_max"]
        yield "molecules", f"{mean:.1f} atoms on average, at most {most}"
    yield "rotated", "every structure by a fixed random rotation" if m.get("rotated") else "no"
    if m.get("periodic"):
        yield "periodic", "some or all structures"
    if labels := m.get("config_types"):
        yield "config_type", f"{len(labels)}: {', '.join(labels[:8])}{', ...' * (len(labels) > 8)}"
    if "stresses" in m.get("arrays", {}):
        yield "stress", "eV/Angstrom^3, positive under tension"
    for source in m.get("sources", []):
        text = ", ".join(str(source[k]) for k in ("name", "reader") if k in source)
        number = f", {source['structures']:,} structures" if "structures" in source else ""
        yield "source", text + number
    checks = m.get("checks", {})
    yield from (("allowed", finding["what"]) for finding in checks.get("findings", []))
    yield from (("warning", text) for text in checks.get("warnings", []))
    for reason, count in m.get("skipped", {}).items():
        yield "skipped", f"{count:,}: {reason}"
    if m.get("command"):
        yield "made by", m["command"] + (f" ({m['created']})" if m.get("created") else "")


def split_text(split: dict[str, Any]) -> str:
    """A manifest's split in one line."""
    groups = f" ({split['groups']:,} groups)" if split.get("groups") else ""
    sides = {"train": "train", "val": "validation", "test": "test"}
    parts = [
        f"{text} {split[f'{side}_structures']:,} ({split[f'{side}_atoms']:,} atoms)"
        for side, text in sides.items()
        if f"{side}_structures" in split
    ]
    return f"{split.get('rule', '')}{groups}: {', '.join(parts)}"


def forces_text(statistics: dict[str, Any]) -> str:
    """A manifest's forces in one line."""
    return (
        f"rms {statistics['force_rms']:.3f} eV/Angstrom per component, norm mean"
        f" {statistics['force_norm_mean']:.3f}, max {statistics['force_norm_max']:.2f}"
    )
