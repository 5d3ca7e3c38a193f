"""Whether a pack holds what its hash says. A flipped bit would otherwise be trained on under the
hash of the sound pack.

The arrays are hashed side by side, once for each study: what was found is remembered by size, time
and inode of each file. An array in shards is hashed as the one file that they would make; where it
is another, the shards are hashed one by one to say which.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..elements import MAX_Z
from ..errors import DataError, StoreError
from ..files import file_sha256, read_json, reading, write_json
from ..host import usable_cores
from .arrays import whole_sha256
from .pack import Pack, content_hash
from .splits import TEST

MEMORY = "verified.json"
_ROWS = 1 << 22  # of an array looked at together


def verify(pack: Pack, memory: Path | None = None) -> None:
    """DataError where an array is not the one that was written, or holds what no pack may. memory:
    a folder to remember it in (``verified.json``), so that the next call asks only whether the
    files are still the same."""
    stamps = _stamps(pack)
    remembered = _remembered(memory)
    key = str(pack.path.resolve())
    if remembered.get(key) == stamps:
        return
    with reading(pack.path, DataError, remedy="prepare the pack again"):
        _verify(pack)
    if memory is not None:
        with contextlib.suppress(OSError):  # then it is verified again
            memory.mkdir(parents=True, exist_ok=True)
            write_json(memory / MEMORY, {**remembered, key: stamps})


def _stamps(pack: Pack) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {"hash": [pack.hash]}
    for name in pack.manifest["arrays"]:
        for file in pack.files(name):
            status = file.stat()
            key = f"{file.parent.name}/{name}" if pack.shards else name
            found[key] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return found


def _remembered(memory: Path | None) -> dict[str, object]:
    try:
        return read_json(memory / MEMORY) if memory else {}
    except (OSError, StoreError):
        return {}


def _verify(pack: Pack) -> None:
    names = list(pack.manifest["arrays"])
    with ThreadPoolExecutor(min(8, usable_cores())) as threads:
        found = dict(zip(names, threads.map(lambda name: _sha256(pack, name), names)))
    for name in names:
        if found[name] != pack.manifest["arrays"][name]["sha256"]:
            damaged = ", ".join(_damaged(pack, name)) or f"{name}.npy"
            raise _wrong(pack, f"checksum mismatch: {damaged} is not what was written")
    if content_hash(found) != pack.hash:
        raise _wrong(pack, "checksum mismatch: the manifest's hash is not that of the arrays")
    fewest = min(
        np.diff(pack.offsets[low : low + _ROWS + 1]).min() for low in range(0, len(pack), _ROWS)
    )
    if pack.offsets[0] != 0 or pack.offsets[-1] != pack.atoms or fewest < 1:
        raise _wrong(pack, "offsets do not divide the atoms into structures")
    if pack.numbers.min() < 1 or pack.numbers.max() > MAX_Z:
        raise _wrong(pack, f"atomic numbers are not all from 1 to {MAX_Z}")
    if pack.split.max() > TEST:
        raise _wrong(pack, "split holds more than training, validation and test")
    for name in ("positions", "forces", "energies", "cells"):
        array = getattr(pack, name)
        if array is None or array.dtype.kind != "f":
            continue
        for first in range(0, len(array), _ROWS):
            if not np.isfinite(array[first : first + _ROWS]).all():
                raise _wrong(pack, f"{name} holds numbers that are not finite")


def _sha256(pack: Pack, name: str) -> str:
    """SHA-256 of an array, as of one file."""
    if not pack.shards:
        return file_sha256(pack.path / f"{name}.npy")
    array = getattr(pack, name)
    return whole_sha256(pack.files(name), array.dtype, array.shape)[0]


def _damaged(pack: Pack, name: str) -> list[str]:
    """Which files of an array in shards are not those that were written."""
    with ThreadPoolExecutor(min(8, usable_cores())) as threads:
        sums = list(threads.map(file_sha256, pack.files(name) if pack.shards else []))
    return [
        f"{shard.folder.name}/{name}.npy"
        for shard, found in zip(pack.shards, sums)
        if shard.sha256[name] != found
    ]


def _wrong(pack: Pack, what: str) -> DataError:
    return DataError(
        what,
        where=str(pack.path),
        remedy="restore the pack from where it came, or prepare it again",
    )
