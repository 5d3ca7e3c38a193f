"""Files: JSON that is written whole or not at all, users' files that are read with a clear error,
and disks that are full or away."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ForcelawError, StorageError, StoreError, missing_package

# what to do about an operating system's refusal to write
_REMEDIES = {
    errno.ENOSPC: "make room on this disk and give the same command again; what was trained is"
    " kept",
    errno.EDQUOT: "make room within your quota and give the same command again; what was trained is"
    " kept",
    errno.EROFS: "give an output directory that can be written, or mount this one for writing",
    errno.EACCES: "give an output directory that you may write",
    errno.EPERM: "give an output directory that you may write",
}

# what to do about a path that cannot be what the command wants of it
_PATHS = {
    errno.ENOTDIR: "a part of this path is a file, not a folder: give another path",
    errno.EISDIR: "this is a folder, where a file is wanted: give another path",
    errno.EEXIST: "a file of that name is there already: give another path, or move it away",
    errno.ENOENT: "check the path; the file is not there, or the folder to write to cannot be made",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}

RESTORE = "restore it, or delete the directory it is in and make that again"
MOST_BYTES = 1 << 28  # of a file that is read whole

_STORAGE = {
    *_REMEDIES,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.ETIMEDOUT,
    errno.EFBIG,
}


def check_regular(path: Path, kind: type[ForcelawError]) -> None:
    """An error of ``kind`` for anything but a file: a device or pipe would be read without end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # it is not there, or its name holds a zero byte
        what = getattr(error, "strerror", None) or str(error)
        raise kind(f"cannot be read: {what}", where=str(path), remedy="check the path") from error
    if not stat.S_ISREG(mode):
        what = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise kind(
            f"this is a {what.get(stat.S_IFMT(mode), 'device')}, not a file",
            where=str(path),
            remedy="give a file in it"
            if stat.S_ISDIR(mode)
            else "write what it gives to a file, and give that",
        )


@contextlib.contextmanager
def reading(
    path: str | Path, kind: type[ForcelawError], *, remedy: str = "fetch or write the file again"
) -> Iterator[None]:
    """Whatever fails while a user's file is read is an error of ``kind`` that names the file and a
    remedy. path: the file, with the place in it where that is known."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except ForcelawError as error:
        if type(error) is not kind or error.where:
            raise
        raise kind(error.what, where=str(path), remedy=error.remedy or remedy) from error
    except OSError as error:
        if is_storage(error) and error.errno not in (errno.EACCES, errno.EPERM):
            raise storage_error(error, Path(path)) from error
        raise _unreadable(error, path, kind, remedy) from error
    except ModuleNotFoundError as error:  # the file is as it should be
        command = getattr(missing_package(error), "remedy", f"pip install {error.name}")
        raise kind(
            f"reading it takes the Python package {error.name}, which is not installed here",
            where=str(path),
            remedy=f"install it: {command}",
        ) from error
    # parsers raise what they like: KeyError, struct.error, RecursionError, MemoryError, and polars
    # a BaseException of its own
    except BaseException as error:
        raise _unreadable(error, path, kind, remedy) from error


def _unreadable(
    error: BaseException, path: str | Path, kind: type[ForcelawError], remedy: str
) -> ForcelawError:
    first = (str(error).splitlines() or [""])[0][:200]
    return kind(f"cannot be read: {type(error).__name__}: {first}", where=str(path), remedy=remedy)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames and new files in ``folder`` last through a loss of power, where the file system
    can."""
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """What the operating system refuses within is a StorageError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def is_storage(error: OSError) -> bool:
    """Whether the disk, a quota or a mount is what is wrong, and not what was asked for."""
    return error.errno in _STORAGE


def path_error(error: OSError) -> ForcelawError:
    """Any other OSError, about what was asked for, with a remedy."""
    return ForcelawError(
        f"cannot be read or written: {error.strerror or error}",
        where=str(error.filename or ""),
        remedy=_PATHS.get(error.errno or 0, "check the path"),
    )


def storage_error(error: OSError, path: Path | None = None) -> StorageError:
    """``error`` as a StorageError with a remedy. path: where, if the error does not say."""
    return StorageError(
        f"cannot write or read: {error.strerror or error}",
        where=str(error.filename or path or ""),
        remedy=_REMEDIES.get(
            error.errno or 0, "check the disk or mount, and give the same command again"
        ),
    )


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The path of a temporary file, of the same suffix, that becomes ``path`` by one rename once
    it is written: a reader sees the old file or the new one, never half of it, whatever ends this
    process. A device or a pipe is written to as it is, and a link stays one."""
    path = Path(path)
    if (path.exists() and not path.is_file()) or path.is_relative_to("/dev"):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename or temporary) == str(temporary):
            error.filename = str(path)  # a full disk says no name, the others one that nobody gave
        raise


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write JSON, :func:`whole`. durable: the new file is there after a loss of power, too."""
    with whole(path) as temporary, temporary.open("w") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    if durable:
        fsync_folder(path.parent)


def read_whole(path: Path) -> bytes:
    """The content of a file of a run or a study. StoreError for a pipe, a device, a folder, and a
    file that is far too large: these would be read without end, or fill the memory."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            check_regular(path, StoreError)
        if info.st_size > MOST_BYTES:
            raise StoreError(
                f"{path.name} has {info.st_size:,} bytes, more than {MOST_BYTES:,}",
                where=str(path),
                remedy=RESTORE,
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_storage(error):
            raise
        what = f"{path.name} cannot be read: {error.strerror or error}"
        raise StoreError(what, where=str(path), remedy=RESTORE) from error


def read_json(path: Path, *, remedy: str = RESTORE) -> dict[str, Any]:
    """The JSON object in a file. StoreError with ``remedy`` where it is not one."""
    try:
        content = json.loads(read_whole(path))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        what = f"{path.name} is not JSON: {error}"
        raise StoreError(what, where=str(path), remedy=remedy) from error
    if not isinstance(content, dict):
        what = f"{path.name} holds a {type(content).__name__}, not an object"
        raise StoreError(what, where=str(path), remedy=remedy)
    return content
