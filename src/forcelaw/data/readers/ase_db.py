"""ASE databases: sqlite ``.db`` (plain and SchNetPack), ``.json`` and ``.aselmdb`` (a file, or a
folder of them, as OMol25 comes).

Labels are the calculator's ``energy`` and ``forces`` in eV and eV/Angstrom (ASE's units). A
SchNetPack database keeps them in ``row.data`` and declares their units in its metadata
(``_property_unit_dict``, ``_distance_unit``). Total charge and multiplicity come from
``row.data["charge"]`` and ``row.data["spin"]`` (OMol25, Levine et al. 2025, arXiv:2505.08762). Rows
are stored as JSON; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..pack import NO_CHARGE, NO_SPIN
from .base import (
    MISSING_ENERGY,
    MISSING_FORCES,
    Block,
    Source,
    SourceOptions,
    Units,
    gather,
    join,
    need,
    one_structure,
)
from .labels import choose_units, config_key, label_names, optional_keys, require_labels
from .stress import StressRule, stress_rule

PAGE, PEEK = 256, 200
PIECE = 64 * PAGE  # rows of an .aselmdb file that are read by themselves
_CALCULATOR = ("energy", "forces", "stress")


def _connect(path: Path) -> Any:
    """Open a database read-only, without creating or locking anything."""
    import ase.db

    if path.suffix == ".aselmdb":
        need("ase-db-backends", "ase_db_backends", "aselmdb", path)
        import lmdb
        from ase_db_backends.aselmdb import LMDBDatabase

        _check_length(path)
        try:
            # an LMDBDatabase that cannot be opened prints a traceback when it is thrown away
            lmdb.open(str(path), subdir=False, readonly=True, lock=False).close()
            return LMDBDatabase(path, readonly=True, use_lock_file=False)
        except Exception as error:  # lmdb raises its own many kinds
            raise _unreadable(path, error) from error
    if path.suffix == ".json":
        return _connect_json(path)
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise _unreadable(path, "it is not an SQLite file")
    try:
        with _probe(path) as probe:
            tables = {
                name
                for (name,) in probe.execute("SELECT name FROM sqlite_master WHERE type='table'")
            }
        if "systems" not in tables:
            raise _unreadable(
                path, f"it has no table 'systems' (tables: {', '.join(sorted(tables)) or 'none'})"
            )
        return ase.db.connect(path, type="db", use_lock_file=False)
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error


def _probe(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """The SQLite file itself, read-only."""
    return contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A database for as long as it is read. ASE opens a connection to SQLite for each selection and
    closes none of them, but for one that it holds from ``__enter__`` to ``__exit__``."""
    database = _connect(path)
    one_connection = path.suffix not in (".aselmdb", ".json")
    with database if one_connection else contextlib.nullcontext():
        yield database


def _connect_json(path: Path) -> Any:
    """ASE's database in a JSON file, which must say that it is one."""
    import ase.db

    try:
        ids = json.loads(path.read_text()).get("ids")
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(ids, list):
        raise _unreadable(path, "a JSON file without the ids of an ASE database")
    return ase.db.connect(path, type="json", use_lock_file=False)


def _check_length(path: Path) -> None:
    """Refuse a truncated LMDB file: it is memory-mapped, and reading past its end would kill the
    process (SIGBUS).

    A file begins with two meta pages (lmdb.h, MDB_meta): 16 bytes of page header, magic, version,
    address, map size, two table records of 48 bytes (the first begins with the page size), the last
    page used, and the transaction.
    """
    with path.open("rb") as file:
        head = file.read(65536 + 152)
    size, last = 0, -1
    if len(head) >= 152 and int.from_bytes(head[16:20], sys.byteorder) == 0xBEEFC0DE:
        size = int.from_bytes(head[40:44], sys.byteorder)
        metas = [head[start : start + 152] for start in (0, size) if len(head) >= start + 152]
        newest = max(metas, key=lambda meta: int.from_bytes(meta[144:152], sys.byteorder))
        last = int.from_bytes(newest[136:144], sys.byteorder)
    if size == 0:
        raise _unreadable(path, "it is not an LMDB file")
    if path.stat().st_size < (last + 1) * size:
        raise _unreadable(
            path, f"it is truncated: {path.stat().st_size} of {(last + 1) * size} bytes"
        )


def _unreadable(path: Path, why: object) -> DataError:
    return DataError(
        f"not a readable ASE database: {why}", where=str(path), remedy="fetch the file again"
    )


def rows(path: Path, part: slice | None = None) -> Iterator[Any]:
    """Rows of one database in the order of their ids, a page at a time (ASE would fetch a whole
    selection at once). part: which of them, of an ``.aselmdb`` file."""
    try:
        with _opened(path) as database:
            if part:
                yield from map(database._get_row, database.ids[part])
            elif path.suffix in (".aselmdb", ".json"):
                yield from database.select()
            else:
                for first, last in _pages(path):
                    yield from database.select(f"id>={first},id<={last}")
    except DataError:
        raise
    except Exception as error:  # a damaged database fails in sqlite3, lmdb, zlib, json or numpy
        raise _unreadable(path, error) from error


def _pages(path: Path) -> Iterator[tuple[int, int]]:
    """First and last id of every PAGE rows that there are; ids may have gaps of any size."""
    with _probe(path) as probe:
        command = f"SELECT id FROM systems WHERE id > ? ORDER BY id LIMIT {PAGE}"
        ids = probe.execute(command, (-(2**63),)).fetchall()
        while ids:
            first, last = int(ids[0][0]), int(ids[-1][0])
            yield first, last
            ids = probe.execute(command, (last,)).fetchall()


def _lookup(row: Any, key: str, place: str) -> Any:
    if place == "calculator":
        return row.get(key)
    return (row.data if place == "data" else row.key_value_pairs).get(key)


def open_ase_db(path: Path, options: SourceOptions) -> Source:
    """Open an ASE database, or a folder of ``.aselmdb`` files as one source in the order of their
    names."""
    files = sorted(path.glob("*.aselmdb")) if path.is_dir() else [path]
    metadata: dict[str, Any] = {}
    structures, parts = 0, []
    for file in files:
        with _opened(file) as database:
            metadata = metadata or dict(database.metadata or {})
            number = database.count()
        cuts = range(0, number, PIECE) if file.suffix == ".aselmdb" else [None]
        for low in cuts:
            part = None if low is None else slice(low, low + PIECE)
            parts.append((file, part, structures + (low or 0)))
        structures += number
        if hasattr(database, "close"):
            database.close()
    if not structures:
        raise DataError("the database holds no rows", where=str(path))
    seen: dict[tuple[str, str], None] = {}
    for _, row in zip(range(PEEK), (row for file in files for row in rows(file))):
        seen |= dict.fromkeys(
            (name, "calculator") for name in _CALCULATOR if row.get(name) is not None
        )
        seen |= dict.fromkeys((name, "data") for name in (row.data or {}))
        seen |= dict.fromkeys((name, "key-value pair") for name in row.key_value_pairs)
    declared_units = metadata.get("_property_unit_dict")
    schnetpack = isinstance(declared_units, dict)
    named = [f"{name} ({place})" for name, place in seen]
    roles = _labels(options, seen, named, path, schnetpack)
    names = [name for name, _ in seen]
    given = config_key(options, names) | optional_keys(options, names, named, path)
    for kind in ("charge", "spin", "group", "config"):
        if kind in given:
            roles[kind] = next(role for role in seen if role[0] == given[kind])
        elif kind in ("charge", "spin") and (kind, "data") in seen:
            roles[kind] = (kind, "data")
    units = choose_units(options, *_declared(metadata, roles, schnetpack), path)
    stress = stress_rule(options, names, units.to_ev)
    if stress:
        roles["stress"] = next(role for role in seen if role[0] == stress.key)
    placed = {kind: f"{name} ({place})" for kind, (name, place) in roles.items()}
    keys = label_names(placed, bool(options.gradient_key))
    if stress:
        keys["stress"] = f"{stress.text} ({roles['stress'][1]})"
    kind = (
        "aselmdb"
        if files[0].suffix == ".aselmdb"
        else "ase db (SchNetPack)"
        if schnetpack
        else "ase db"
    )
    if len(files) > 1 or path.is_dir():
        kind += f", folder of {len(files)} files"
    pieces = [partial(_blocks, *part, roles, options.sign, units, stress) for part in parts]
    return Source(
        path,
        kind,
        named,
        keys,
        units,
        structures=structures,
        hashed=files,
        group_note="{} ({})".format(*roles["group"]) if "group" in roles else "formula",
        stream=lambda: gather(block for piece in pieces for block in piece()),
        pieces=pieces,
    )


def _labels(
    options: SourceOptions,
    seen: dict[tuple[str, str], None],
    named: list[str],
    path: Path,
    schnetpack: bool,
) -> dict[str, tuple[str, str]]:
    """(key, place) of energy and forces. A SchNetPack database defines row.data, a plain one the
    calculator."""
    defined = ("data", "calculator", "key-value pair") if schnetpack else ("calculator",)
    anywhere = ("data", "calculator", "key-value pair")
    keys, roles, among = {}, {}, {}
    for kind, given in (("energy", options.energy_key), ("forces", options.force_like)):
        keys[kind] = given or kind
        found = [(keys[kind], place) for place in (anywhere if given else defined)]
        roles[kind] = next((role for role in found if role in seen), None)
        among[kind] = [keys[kind]] if roles[kind] else []
    require_labels(keys, options, among, named, path, f" in the first {PEEK} rows")
    return roles


def _declared(
    metadata: dict[str, Any], roles: dict[str, tuple[str, str]], schnetpack: bool
) -> tuple[dict[str, str], str]:
    if not schnetpack:
        if any(place != "calculator" for place in (roles["energy"][1], roles["forces"][1])):
            return {"length": "Angstrom"}, "ASE's convention for positions"
        units = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom"}
        return units, "ASE's convention for its databases"
    table = metadata["_property_unit_dict"]
    declared = {
        name: str(table[roles[kind][0]])
        for name, kind in (("energy", "energy"), ("force", "forces"))
        if roles[kind][0] in table
    }
    if metadata.get("_distance_unit"):
        declared["length"] = str(metadata["_distance_unit"])
    return declared, "declared in the database's metadata"


def _blocks(
    file: Path,
    part: slice | None,
    index: int,
    roles: dict[str, tuple[str, str]],
    sign: float,
    units: Units,
    stress: StressRule | None,
) -> Iterator[Block]:
    """A file or a part of it, the first row of which is structure ``index``."""
    found = rows(file, part)
    while page := list(islice(found, PAGE)):
        yield _parse(file, page, index, roles, sign, units, stress)
        index += len(page)


def _parse(
    path: Path,
    page: list[Any],
    first: int,
    roles: dict[str, tuple[str, str]],
    sign: float,
    units: Units,
    stress: StressRule | None,
) -> Block:
    return join(
        [
            _one(row, f"{path}, row id {row.id}", first + k, roles, sign, units, stress)
            for k, row in enumerate(page)
        ]
    )


def _one(
    row: Any,
    where: str,
    first: int,
    roles: dict[str, tuple[str, str]],
    sign: float,
    units: Units,
    stress: StressRule | None,
) -> Block:
    numbers = np.asarray(row.numbers)
    n = len(numbers)
    if n == 0:
        raise DataError("a row without atoms", where=where)
    energy, forces = (_lookup(row, *roles[kind]) for kind in ("energy", "forces"))
    missing = (MISSING_ENERGY if energy is None else 0) | (MISSING_FORCES if forces is None else 0)
    energy = np.nan if energy is None else _single(energy, roles["energy"][0], where)
    forces = np.full((n, 3), np.nan) if forces is None else np.asarray(forces, np.float64)
    if forces.shape != (n, 3):
        raise DataError(
            f"{roles['forces'][0]} has shape {forces.shape}, the structure has {n} atoms",
            where=where,
        )
    small: dict[str, int | None] = {"charge": None, "spin": None}
    for kind, absent in (("charge", NO_CHARGE), ("spin", NO_SPIN)):
        if kind in roles:
            value = _lookup(row, *roles[kind])
            small[kind] = absent if value is None else _single(value, kind, where)
    group = None
    if "group" in roles:
        value = _lookup(row, *roles["group"])
        if value is None:
            raise DataError(
                f"no group key {roles['group'][0]!r}", where=where, remedy="or pass --group formula"
            )
        group = str(value)
    pbc = np.asarray(row.pbc, bool)
    cell = np.asarray(row.cell, np.float64) * units.to_angstrom
    tensor = config = None
    if stress:
        tensor = stress(_lookup(row, *roles["stress"]), cell, lambda: where)
    if "config" in roles:
        config = str(_lookup(row, *roles["config"]) or "")
    return one_structure(
        numbers,
        np.asarray(row.positions, np.float64) * units.to_angstrom,
        energy * units.to_ev,
        forces * (sign * units.to_ev_per_angstrom),
        first=first,
        where=where,
        group=group,
        missing=missing,
        charge=small["charge"],
        spin=small["spin"],
        cell=cell * float(pbc.any()),
        pbc=pbc,
        stress=tensor,
        config=config,
    )


def _single(value: Any, key: str, where: str) -> float:
    array = np.asarray(value, np.float64)
    if array.size != 1:
        raise DataError(f"{key} is not one number: shape {array.shape}", where=where)
    return float(array.reshape(()))
