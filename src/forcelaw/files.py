"""JSON files: written whole or not at all, read with a clear error."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import StorageError, StoreError

# what to do about an operating system's refusal to write
_REMEDIES = {
    errno.ENOSPC: "make room on this disk; the same command goes on from the last checkpoint",
    errno.EDQUOT: "make room within your quota; the same command goes on from the last checkpoint",
    errno.EROFS: "give an output directory that can be written, or mount this one for writing",
    errno.EACCES: "give an output directory that you may write",
    errno.EPERM: "give an output directory that you may write",
}

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


def storage_error(error: OSError, path: Path) -> StorageError:
    """``error`` as a StorageError with a remedy."""
    return StorageError(
        f"cannot write or read: {error.strerror or error}",
        where=str(error.filename or path),
        remedy=_REMEDIES.get(
            error.errno or 0, "check the disk or mount; the same command goes on from there"
        ),
    )


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it. durable: the
    new one is there after a loss of power, too."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. StoreError where it is not one."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise StoreError(
            f"{path.name} is not JSON: {error}",
            where=str(path),
            remedy="restore it, or delete the directory it is in and make that again",
        ) from error
    if not isinstance(content, dict):
        raise StoreError(
            f"{path.name} holds a {type(content).__name__}, not an object",
            where=str(path),
            remedy="restore it, or delete the directory it is in and make that again",
        )
    return content
