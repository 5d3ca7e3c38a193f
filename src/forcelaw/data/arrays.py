"""The arrays of a pack as files: .npy of rows, one for the whole pack or one for each shard.

The rows of the shards, one shard after the other, are those of the unsharded array, and so is the
SHA-256: that of the one file that they would make.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import file_sha256

HEADER = 128  # bytes; every array header is rewritten in place when the final length is known


def header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The first HEADER bytes of the .npy file of an array (format 1.0)."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}"
    body = text.encode() + b" " * (HEADER - 10 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + body


class NpyStream:
    """A growing .npy file: rows are appended, the header is corrected on close. Memory use is one
    row block."""

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...] = ()):
        self.path, self.dtype, self.row, self.rows = path, np.dtype(dtype), row, 0
        self._file = path.open("wb", buffering=1 << 20)
        self._file.write(self._header())

    def _header(self) -> bytes:
        return header(self.dtype, (self.rows, *self.row))

    def append(self, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row:
            raise ValueError(
                f"{self.path.name}: rows of shape {rows.shape[1:]}, expected {self.row}"
            )
        self._file.write(rows.data if rows.size else b"")
        self.rows += len(rows)

    def read(self, rows: int = 65_536) -> Iterator[np.ndarray]:
        """What was appended so far, ``rows`` rows at a time."""
        if not self._file.closed:
            self._file.flush()
        size = int(np.prod(self.row, dtype=np.int64))
        with self.path.open("rb") as file:
            file.seek(HEADER)
            for first in range(0, self.rows, rows):
                part = np.fromfile(file, self.dtype, min(rows, self.rows - first) * size)
                yield part.reshape(-1, *self.row)

    def rewrite(self, parts: Iterator[np.ndarray]) -> None:
        """Replace all rows by as many others."""
        if self._file.closed:
            self._file = self.path.open("r+b", buffering=1 << 20)
        self._file.seek(HEADER)
        rows, self.rows = self.rows, 0
        for part in parts:
            self.append(part)
        if self.rows != rows:
            raise ValueError(f"{self.path.name}: {self.rows} rows for {rows}")

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def sha256(self) -> tuple[str, list[str]]:
        """SHA-256 of the array; and of each of its files, where it has shards."""
        return file_sha256(self.path), []

    def discard(self) -> None:
        """Remove the file, which nobody has read: it need not reach the disk first."""
        self._file.close()
        self.path.unlink()


class ShardedStream:
    """A growing array in several .npy files, of which the last one grows."""

    def __init__(self, dtype: Any, row: tuple[int, ...] = ()):
        self.dtype, self.row = np.dtype(dtype), row
        self.parts: list[NpyStream] = []

    def begin(self, path: Path) -> None:
        """Close the last file and go on in ``path``."""
        if self.parts:
            self.parts[-1].close()
        self.parts.append(NpyStream(path, self.dtype, self.row))

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def append(self, rows: np.ndarray) -> None:
        self.parts[-1].append(rows)

    def read(self, rows: int = 65_536) -> Iterator[np.ndarray]:
        """What was appended so far, at most ``rows`` rows at a time."""
        for part in self.parts:
            yield from part.read(rows)

    def rewrite(self, parts: Iterator[np.ndarray]) -> None:
        """Replace all rows by as many others."""
        left = np.zeros((0, *self.row), self.dtype)
        for stream in self.parts:
            taken, missing = [], stream.rows
            while missing:
                while not len(left):
                    if (more := next(parts, None)) is None:
                        raise ValueError(f"{stream.path.name}: {missing} rows too few")
                    left = more
                taken.append(left[:missing])
                left, missing = left[missing:], missing - len(taken[-1])
            stream.rewrite(iter(taken))
            stream.close()
        if len(left) or any(len(more) for more in parts):
            raise ValueError(f"{self.parts[0].path.name}: too many rows")

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def sha256(self) -> tuple[str, list[str]]:
        """SHA-256 of the array, as of one file; and of each of its files."""
        files = [part.path for part in self.parts]
        return whole_sha256(files, self.dtype, (self.rows, *self.row), also_each=True)

    def discard(self) -> None:
        for part in self.parts:
            part.discard()


def whole_sha256(
    files: Sequence[Path], dtype: np.dtype, shape: tuple[int, ...], *, also_each: bool = False
) -> tuple[str, list[str]]:
    """SHA-256 of the one .npy file of an array of ``shape`` that lies in several; and of each of
    them, if wanted."""
    whole, each = hashlib.sha256(header(dtype, shape)), []
    for file in files:
        one = hashlib.sha256()
        with file.open("rb") as handle:
            one.update(handle.read(HEADER))
            while block := handle.read(1 << 20):
                whole.update(block)
                if also_each:
                    one.update(block)
        if also_each:
            each.append(one.hexdigest())
    return whole.hexdigest(), each


class ShardedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of a pack in several memory-mapped files (``parts``), read as one. Slices within one
    file are views of it; all else is copied. ``np.asarray`` reads the whole."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = list(parts)
        self.dtype = parts[0].dtype
        self.first = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        """row at which each part begins, and at the end the number of rows"""
        self.shape = (int(self.first[-1]), *parts[0].shape[1:])

    ndim = property(lambda self: len(self.shape))
    nbytes = property(lambda self: sum(part.nbytes for part in self.parts))

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: Any, axis: int = 0) -> np.ndarray:
        """Rows by their numbers, of any shape; negative ones count from the end."""
        if axis:
            return np.asarray(self).take(rows, axis)
        rows = np.asarray(rows, np.int64)
        flat = np.where(rows < 0, rows + len(self), rows).ravel()
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"a row is not among the {len(self)} of the array")
        out = np.empty((flat.size, *self.shape[1:]), self.dtype)
        found: list[tuple[int, Any]]
        if (flat[1:] >= flat[:-1]).all():
            bounds = np.searchsorted(flat, self.first)
            found = [(k, slice(*bounds[k : k + 2])) for k in np.flatnonzero(np.diff(bounds))]
        else:
            which = np.searchsorted(self.first, flat, side="right") - 1
            found = [(k, which == k) for k in np.unique(which)]
        for k, mine in found:
            out[mine] = self.parts[k].take(flat[mine] - self.first[k], axis=0)
        return out.reshape((*rows.shape, *self.shape[1:]))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            if not key or key[0] is Ellipsis:
                return np.asarray(self)[key]
            found = self[key[0]]
            whole = np.ndim(key[0]) == 0 and not isinstance(key[0], slice)
            return found[key[1:] if whole else (slice(None), *key[1:])]
        if isinstance(key, slice):
            low, high, step = key.indices(len(self))
            if step != 1:
                return self.take(np.arange(low, high, step))
            return self._stretch(low, max(low, high))
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"{rows.shape} truth values for {len(self)} rows")
            rows = np.flatnonzero(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError("rows are chosen by whole numbers, slices or truth values")
        return self.take(rows)[()]

    def _stretch(self, low: int, high: int) -> np.ndarray:
        """Rows low:high."""
        k = max(0, int(np.searchsorted(self.first, low, side="right")) - 1)
        k = min(k, len(self.parts) - 1)
        found = []
        while not found or (k < len(self.parts) and self.first[k] < high):
            found.append(self.parts[k][low - int(self.first[k]) : high - int(self.first[k])])
            low, k = max(low, int(self.first[k + 1])), k + 1
        return found[0] if len(found) == 1 else np.concatenate(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in several files cannot be seen as one without a copy")
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        given = (np.asarray(x) if isinstance(x, ShardedArray) else x for x in inputs)
        return getattr(ufunc, method)(*given, **options)

    def min(self) -> Any:
        return min(part.min() for part in self.parts)

    def max(self) -> Any:
        return max(part.max() for part in self.parts)


def parts_of(array: Any) -> list[tuple[int, np.memmap]]:
    """(first row, rows) of each file of an array of a pack."""
    if isinstance(array, ShardedArray):
        return list(zip(array.first.tolist(), array.parts))
    return [(0, array)]
