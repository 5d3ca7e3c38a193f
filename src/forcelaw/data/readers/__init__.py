"""Readers: one file per format, one explicit table, one function that opens whatever it is
given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import DataError
from .base import Block, Source, SourceOptions

__all__ = ["READERS", "SUFFIXES", "Block", "Source", "SourceOptions", "open_source"]


def _extxyz(path: Path, options: SourceOptions) -> Source:
    from .extxyz import open_extxyz

    return open_extxyz(path, options)


def _ase_db(path: Path, options: SourceOptions) -> Source:
    from .ase_db import open_ase_db

    return open_ase_db(path, options)


def _hdf5(path: Path, options: SourceOptions) -> Source:
    from .hdf5 import open_hdf5

    return open_hdf5(path, options)


def _npz(path: Path, options: SourceOptions) -> Source:
    from .npz import open_npz

    return open_npz(path, options)


def _pack(path: Path, options: SourceOptions) -> Source:
    from .pack import open_pack

    return open_pack(path, options)


# a new format is a new file, a line here and its suffixes below; each imports its own heavy
# packages only when used
READERS: dict[str, Callable[[Path, SourceOptions], Source]] = {
    "extxyz": _extxyz,
    "ase": _ase_db,
    "hdf5": _hdf5,
    "npz": _npz,
    "pack": _pack,
}
SUFFIXES = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".extxyz.gz": "extxyz",
    ".xyz.gz": "extxyz",
    ".db": "ase",
    ".aselmdb": "ase",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".npz": "npz",
}


def reader_of(path: Path) -> str:
    """Name of the reader for a path, from its suffix or, for a folder, from what lies in it."""
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return "pack"
        if any(path.glob("*.aselmdb")):
            return "ase"
        raise DataError(
            "a folder that is neither a pack (manifest.json) nor holds .aselmdb files",
            where=str(path),
            remedy="name the files themselves",
        )
    for suffix, reader in SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return reader
    known = ", ".join(SUFFIXES)
    raise DataError(
        f"no reader for {path.name!r}",
        where=str(path),
        remedy=f"known suffixes are {known}; or name the reader: --reader {'|'.join(READERS)}",
    )


def open_source(path: str | Path, options: SourceOptions | None = None) -> Source:
    """Open a file or folder of labelled structures.

    Nothing but its head is read. Missing labels, undeclared units, unknown layouts and damaged
    files are DataErrors that say what was seen and which option to pass.
    """
    path, options = Path(path), options or SourceOptions()
    if not path.exists():
        raise DataError("no such file or folder", where=str(path))
    if path.is_file() and path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path))
    if options.reader and options.reader not in READERS:
        raise DataError(
            f"no reader called {options.reader!r}", remedy=f"use one of: {', '.join(READERS)}"
        )
    return READERS[options.reader or reader_of(path)](path, options)
