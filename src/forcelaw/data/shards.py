"""Packs in shards: folders of arrays that hold some of the structures each.

    manifest.json        that of an unsharded pack, and "shards": structures, atoms, bytes and the
                         SHA-256 of each array, shard by shard
    shard-00000/         the arrays (:mod:`.pack`) of the first structures; offsets are those of the
    shard-00001/         whole pack, and begin with 0 in the first shard only
    shard-00001/shard.json   which shard of which pack it is

The rows of the shards one after the other are the unsharded arrays; so is the pack's hash. A shard
may be a link to a folder anywhere, so that a pack lies on several disks: it is followed where that
folder's shard.json says that it is this shard of this pack, which travels with the folder. Nothing
else leads out of a pack, and no path is read from a manifest.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, StoreError
from ..files import fsync_folder, read_json, write_json
from ..host import allow_open_files
from .arrays import HEADER, ShardedStream, header

LABEL = "shard.json"
MOST = 10_000  # shards of a pack
_RESTORE = (
    "copy the shard again from where the pack came (manifest.json has its bytes and SHA-256), or"
    " prepare the pack again"
)


def name_of(k: int) -> str:
    return f"shard-{k:05d}"


@dataclass(frozen=True)
class Shard:
    """One shard of a pack that is read. sha256: of each array's file, by name."""

    folder: Path
    structures: int
    atoms: int
    bytes: int
    sha256: dict[str, str]

    def open(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        """One of its arrays, memory-mapped. DataError where the file is not what it must be."""
        file = self.folder / f"{name}.npy"
        expected = HEADER + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        try:
            info = file.lstat()
        except FileNotFoundError as error:
            raise self._wrong(file, f"is missing; it has {expected:,} bytes") from error
        if not stat.S_ISREG(info.st_mode):
            raise self._wrong(file, "is a link, folder, pipe or device, not a file")
        if info.st_size != expected:
            raise self._wrong(
                file, f"has {info.st_size:,} bytes, where {expected:,} bytes are expected"
            )
        with file.open("rb") as opened:
            if opened.read(HEADER) != header(dtype, shape):
                raise self._wrong(file, f"does not begin as {dtype} of shape {shape} does")
        return np.memmap(file, dtype, "r", HEADER, shape)

    def _wrong(self, file: Path, what: str) -> DataError:
        return DataError(f"{self.folder.name}/{file.name} {what}", where=str(file), remedy=_RESTORE)


def read_shards(path: Path, manifest: Mapping[str, Any]) -> list[Shard]:
    """The shards of a pack, [] where it has none. DataError where one is missing or leads
    elsewhere, ValueError where the manifest does not fit together."""
    listed = manifest.get("shards")
    if listed is None:
        return []
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST:
        raise ValueError(f"shards are a list of 1 to {MOST:,}")
    found = []
    for k, entry in enumerate(listed):
        numbers = [entry[key] for key in ("structures", "atoms", "bytes")]
        sums = entry["sha256"]
        if any(type(n) is not int or n < 1 for n in numbers) or set(sums) != set(
            manifest["arrays"]
        ):
            raise ValueError(f"{name_of(k)} has no sound numbers or not the arrays of the pack")
        found.append(Shard(path / name_of(k), *numbers, sums))
    for axis in ("structures", "atoms"):
        total = sum(getattr(shard, axis) for shard in found)
        if total != manifest[axis]:
            raise ValueError(f"the shards have {total:,} {axis}, the pack {manifest[axis]:,}")
    files = len(found) * len(manifest["arrays"])
    if len(found) > 1 and 2 * files > (most := allow_open_files()):
        raise DataError(
            f"the pack has {files:,} files, and a process may have {most:,} open here",
            remedy="raise the limit (ulimit -n), or prepare the pack with larger shards",
        )
    for k, shard in enumerate(found):
        _check_folder(shard, k, len(found), manifest["content_hash"])
    return found


def _check_folder(shard: Shard, k: int, number: int, content_hash: str) -> None:
    """DataError where a shard is not there, or is a link to what does not say that it is it."""
    folder, link = shard.folder, shard.folder.is_symlink()
    where = f"{folder} -> {folder.readlink()}" if link else str(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder.name} of {number:,} is missing: {shard.structures:,} structures,"
            f" {shard.bytes:,} bytes",
            where=where,
            remedy=f"mount the disk that it is on, or link to the folder where it is now; or"
            f" {_RESTORE}",
        )
    if not link:
        return
    try:
        label = read_json(folder / LABEL)
    except (OSError, StoreError) as error:
        label = {"error": str(error)}
    if label != {"pack": content_hash, "shard": k}:
        raise DataError(
            f"{folder.name} is a link to a folder that does not say it is shard {k} of the pack"
            f" {content_hash}",
            where=where,
            remedy=f"link to a folder that was moved or copied as a whole, with its {LABEL}",
        )


class ShardWriter:
    """Cuts growing arrays into shards. folder: of the pack while it is written; name: of the pack;
    size: bytes of a shard at most; row_bytes: of "atoms" and "structures"; elsewhere: folders that
    shards are put into, in turn."""

    def __init__(
        self,
        folder: Path,
        name: str,
        streams: Mapping[str, ShardedStream],
        size: int,
        row_bytes: Mapping[str, int],
        elsewhere: Sequence[Path] = (),
    ):
        self.folder, self.streams, self.size = folder, streams, size
        self._row_bytes = row_bytes
        self._elsewhere = [Path(other).resolve() / _outside(folder, name) for other in elsewhere]
        self._counts: list[list[int]] = []  # structures and atoms of each shard
        self._begin()

    def _begin(self) -> None:
        k = len(self._counts)
        if k == MOST:
            raise DataError(
                f"shards of {self.size:,} bytes come to more than {MOST:,}",
                where="--shard-size",
                remedy="choose larger shards; of some GB they are easy to copy",
            )
        own = self.folder / name_of(k)
        if self._elsewhere:  # the link is first, so that nothing is left where nobody looks
            target = self._elsewhere[k % len(self._elsewhere)] / name_of(k)
            own.symlink_to(target)
            target.mkdir(parents=True)
        else:
            own.mkdir()
        for name, stream in self.streams.items():
            stream.begin(own / f"{name}.npy")
        self._counts.append([0, 0])
        self._used = HEADER * len(self.streams) + (8 if k == 0 else 0)  # offsets[0]

    def cuts(self, counts: np.ndarray) -> Iterator[int]:
        """Where a block of structures is cut: the end of each part, the shard of which is begun
        when the one before was taken. counts (s,): atoms of each."""
        sizes = self._row_bytes["atoms"] * counts.astype(np.int64) + self._row_bytes["structures"]
        low = 0
        while low < len(counts):
            fit = int(np.searchsorted(np.cumsum(sizes[low:]), self.size - self._used, "right"))
            if not fit and self._counts[-1][0]:
                self._begin()
                continue
            high = low + max(1, fit)
            self._used += int(sizes[low:high].sum())
            self._counts[-1][0] += high - low
            self._counts[-1][1] += int(counts[low:high].sum())
            yield high
            low = high

    def finish(self, content_hash: str, sums: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        """Label the shards; the manifest's entry. sums: array -> SHA-256 of each file."""
        entries = []
        for k, (structures, atoms) in enumerate(self._counts):
            folder = self.folder / name_of(k)
            size = sum((folder / f"{name}.npy").stat().st_size for name in sums)
            mine = {name: each[k] for name, each in sums.items()}
            entries.append({"structures": structures, "atoms": atoms, "bytes": size})
            entries[-1]["sha256"] = mine
            write_json(folder / LABEL, {"pack": content_hash, "shard": k}, durable=True)
            fsync_folder(folder.resolve().parent)
        return entries


def _outside(folder: Path, name: str) -> str:
    """The folder beside others' in which a pack's shards lie; ``folder``: NAME.partial-TOKEN."""
    return f"{name}.shards-{folder.name.rpartition('-')[2]}"


def remove_shards(folder: Path, name: str) -> None:
    """Remove what a writer put elsewhere. folder: NAME.partial-TOKEN, the token of which is in the
    name of what is removed."""
    for link in folder.glob("shard-*"):
        if link.is_symlink():
            home = link.readlink().parent
            if home.name == _outside(folder, name):
                shutil.rmtree(home, ignore_errors=True)


def homes(path: Path) -> list[Path]:
    """The folders outside of a pack that hold shards of it."""
    links = (link for link in sorted(path.glob("shard-*")) if link.is_symlink())
    return list(dict.fromkeys(link.readlink().parent for link in links))


def shards_text(shards: Sequence[Shard]) -> Iterator[tuple[str, str]]:
    """(name, text) for the description of a pack: how many shards, and where those lie that are not
    in it."""
    if shards:
        largest = max(shard.bytes for shard in shards)
        yield "shards", f"{len(shards):,}, at most {largest / 1e6:,.1f} MB each"
        yield from (("elsewhere", str(home)) for home in homes(shards[0].folder.parent))
