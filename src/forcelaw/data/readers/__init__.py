"""Readers: one file per format, one table of them, one function that opens whatever it is given.

A reader is a function ``(path, options) -> Source``. One of ours is a file and a line in READERS
(and its suffixes in SUFFIXES); one of yours needs no line here: name it by its import path
(``--reader my_package.my_format:open_mine``), or declare an entry point in the group
``forcelaw.readers``; files whose suffix is the entry point's name then find it by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from ...errors import DataError
from ...files import check_regular, reading
from ...plugins import known, resolve
from .base import Block, Source, SourceOptions, Units, gather, one_structure, structures_in
from .labels import choose_units

__all__ = [
    "READERS",
    "SUFFIXES",
    "Block",
    "Source",
    "SourceOptions",
    "Units",
    "choose_units",
    "gather",
    "one_structure",
    "open_source",
    "structures_in",
]

GROUP = "forcelaw.readers"
Reader = Callable[[Path, SourceOptions], Source]
# import paths, because each format has heavy packages of its own
READERS = {
    "extxyz": "forcelaw.data.readers.extxyz:open_extxyz",
    "ase": "forcelaw.data.readers.ase_db:open_ase_db",
    "hdf5": "forcelaw.data.readers.hdf5:open_hdf5",
    "npz": "forcelaw.data.readers.npz:open_npz",
    "traj": "forcelaw.data.readers.trajectory:open_trajectory",
    "deepmd": "forcelaw.data.readers.deepmd:open_deepmd",
    "lmdb": "forcelaw.data.readers.trajectory:refuse_lmdb",
    "pack": "forcelaw.data.readers.pack:open_pack",
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
    ".traj": "traj",
    ".json": "ase",
    ".lmdb": "lmdb",
}


def reader_of(path: Path) -> str:
    """Name of the reader for a path, from its suffix or, for a folder, from what lies in it."""
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return "pack"
        if any(path.glob("*.aselmdb")):
            return "ase"
        if next(path.rglob("type.raw"), None):
            return "deepmd"
        raise DataError(
            "a folder that is no pack (manifest.json), holds no .aselmdb files and no deepmd system"
            " (type.raw)",
            where=str(path),
            remedy="name the files themselves",
        )
    added = {f".{point.name}": point.name for point in entry_points(group=GROUP)}
    suffixes = added | SUFFIXES
    for suffix, reader in suffixes.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise DataError(
        f"no reader for {path.name!r}",
        where=str(path),
        remedy=f"known suffixes are {', '.join(suffixes)}; or name the reader: --reader"
        f" {'|'.join(known(READERS, GROUP))}, or an import path, my_package.module:function",
    )


def open_source(path: str | Path, options: SourceOptions | None = None) -> Source:
    """Open a file or folder of labelled structures.

    Only its head is read. Missing labels, undeclared units, unknown layouts and damaged files are
    DataErrors that say what was seen and which option to pass.
    """
    path, options = Path(path), options or SourceOptions()
    if not path.exists():
        raise DataError(
            "no such file or folder", where=str(path), remedy="check the path of the source"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(
            "the file is empty", where=str(path), remedy="fetch or write the file again"
        )
    for file in path.rglob("*") if path.is_dir() else [path]:
        if not file.is_dir():
            check_regular(file, DataError)
    reader: Reader = resolve(options.reader or reader_of(path), READERS, GROUP, "reader", DataError)
    with reading(path, DataError):
        return reader(path, options)
