"""Files that travel: one archive cut into parts of a given size, put together and checked at the
other end.

    NAME.tar.gz.1-of-3 ...    a tar whose first member, index.json, names every file with its size
                              and SHA-256; without .gz where compression gains nothing

The same files make the same bytes (no dates, owners or machine in it), and `cat NAME.tar.gz.* | tar
xz` works too.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from forcelaw.errors import StoreError
from forcelaw.files import file_sha256

INDEX, MOST_INDEX = "index.json", 1 << 27  # bytes
PART = re.compile(r"^(?P<name>.+\.tar(\.gz)?)\.(?P<k>\d+)-of-(?P<n>\d+)$")
MB = 1_000_000


class _Cut(io.RawIOBase):
    """A stream that is written as files of at most ``size`` bytes."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size, self.token = folder, size, secrets.token_hex(4)
        self.paths: list[Path] = []
        self._file: BinaryIO | None = None
        self._room = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        while len(view):
            if not self._room:
                self._end()
                self.paths.append(self.folder / f".{self.token}.{len(self.paths)}")
                self._file, self._room = self.paths[-1].open("wb"), self.size
            piece = view[: self._room]
            assert self._file is not None
            self._file.write(piece)
            self._room -= len(piece)
            view = view[len(piece) :]
        return memoryview(data).nbytes

    def _end(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._end()
        super().close()


class _Chain(io.RawIOBase):
    """Several files read as one stream."""

    def __init__(self, paths: list[Path]):
        self._left, self._file = list(paths), None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                if not self._left:
                    return 0
                self._file = self._left.pop(0).open("rb")
            got = self._file.readinto(buffer)
            if got:
                return got
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


def write(
    files: dict[str, Path],
    folder: Path,
    name: str,
    *,
    size: int,
    compress: bool,
    about: dict[str, Any],
) -> list[Path]:
    """Write ``files`` (name inside -> path) into FOLDER/NAME.tar[.gz].K-of-N, parts of at most
    ``size`` bytes. ``about`` goes into the index. Older parts of that name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {
        inside: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for inside, path in sorted(files.items())
    }
    head = (json.dumps(about | {"files": listed}, indent=1) + "\n").encode()
    cut = _Cut(folder, size)
    try:
        with contextlib.ExitStack() as stack:
            sink: Any = stack.enter_context(io.BufferedWriter(cut, 1 << 20))
            if compress:
                sink = stack.enter_context(gzip.GzipFile("", "wb", 6, sink, mtime=0))
            archive = stack.enter_context(
                tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT)
            )
            _member(archive, INDEX, len(head), io.BytesIO(head))
            for inside in listed:
                with files[inside].open("rb") as file:
                    _member(archive, inside, listed[inside]["bytes"], file)
    except BaseException:
        for path in cut.paths:
            path.unlink(missing_ok=True)
        raise
    suffix = ".tar.gz" if compress else ".tar"
    for old in folder.iterdir():
        match = PART.match(old.name)
        if match and match["name"] in (f"{name}.tar.gz", f"{name}.tar"):
            old.unlink()
    width = len(str(len(cut.paths)))
    done = []
    for k, path in enumerate(cut.paths, start=1):
        done.append(path.rename(folder / f"{name}{suffix}.{k:0{width}}-of-{len(cut.paths)}"))
    return done


def _member(archive: tarfile.TarFile, name: str, size: int, file: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, file)


def find(given: list[Path]) -> list[Path]:
    """The parts of one archive, in order, from some or all of them or from their folder. StoreError
    if any is missing."""
    paths = [p for g in given for p in (sorted(g.iterdir()) if g.is_dir() else [g])]
    parts = {p: m for p in paths if (m := PART.match(p.name))}
    where = ", ".join(map(str, given))
    names = {(m["name"], int(m["n"])) for m in parts.values()}
    if len(names) != 1:
        what = (
            "several archives: " + ", ".join(sorted(f"{n} of {k} parts" for n, k in names))
            if names
            else "no archive parts"
        )
        raise StoreError(
            f"there are {what}", where=where, remedy="give the files NAME.tar.K-of-N of one archive"
        )
    name, total = names.pop()
    by_number = {int(m["k"]): p for p, m in parts.items()}
    missing = [k for k in range(1, total + 1) if k not in by_number]
    if missing:
        raise StoreError(
            f"{name} has {total} parts; missing: {', '.join(map(str, missing))}",
            where=where,
            remedy="copy the missing parts",
        )
    return [by_number[k] for k in range(1, total + 1)]


def read(parts: list[Path], folder: Path) -> dict[str, Any]:
    """Unpack an archive into the empty ``folder``, check every file against the index, and return
    the index."""
    where = str(parts[0])
    index: dict[str, Any] | None = None
    seen = set()
    try:
        with contextlib.ExitStack() as stack:
            source: Any = stack.enter_context(io.BufferedReader(_Chain(parts), 1 << 20))
            if ".tar.gz." in parts[0].name:
                source = stack.enter_context(gzip.GzipFile(fileobj=source))
            archive = stack.enter_context(tarfile.open(fileobj=source, mode="r|"))
            for member in archive:
                file = archive.extractfile(member)
                if index is None:
                    if member.name != INDEX or file is None:
                        raise StoreError(
                            "this is not an archive of `travel.py export`", where=where
                        )
                    index = json.loads(file.read(MOST_INDEX))
                    continue
                _check_name(member.name if file else "", index, where)
                seen.add(member.name)
                _copy(file, folder / member.name, index["files"][member.name], where)
    except (tarfile.TarError, EOFError, OSError, json.JSONDecodeError, ValueError) as error:
        raise StoreError(
            f"the archive is damaged: {error}", where=where, remedy="copy its parts again"
        ) from error
    if index is None or seen != set(index["files"]):
        absent = sorted(set(index["files"]) - seen)[:3] if index else [INDEX]
        raise StoreError(
            f"the archive is incomplete: {', '.join(absent)} is not in it",
            where=where,
            remedy="copy its parts again",
        )
    return index


def _check_name(name: str, index: dict[str, Any], where: str) -> None:
    path = PurePosixPath(name)
    if name not in index["files"] or path.is_absolute() or ".." in path.parts:
        raise StoreError(
            f"the archive holds a file {name!r} that its index does not name", where=where
        )


def _copy(source: Any, target: Path, expected: dict[str, Any], where: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = int(expected["bytes"])
    with target.open("wb") as file:
        for block in iter(lambda: source.read(1 << 20), b""):
            size -= len(block)
            if size < 0:  # before it fills the disk
                raise StoreError(
                    f"{target.name} is longer than the index of the archive says",
                    where=where,
                    remedy="copy its parts again",
                )
            file.write(block)
    if file_sha256(target) != expected["sha256"]:
        raise StoreError(
            f"checksum mismatch: {target.name} is not the file that was exported",
            where=where,
            remedy="copy its parts again",
        )


def under(root: Path) -> Iterator[tuple[str, Path]]:
    """(name inside, path) of every file of a folder, or of a single file; hidden and
    half-written ones left out."""
    if root.is_file():
        yield root.name, root
        return
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and not any(
            part.startswith(".") or ".partial" in part for part in inside.parts
        ):
            yield inside.as_posix(), path
