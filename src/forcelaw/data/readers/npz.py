"""NumPy archives: sGDML (z, R, E, F), also zero-padded (QM7-X), and rMD17 (nuclear_charges, coords,
energies, forces).

    z  (n,) shared by all frames, or (frames, n) with 0 for padding     R, coords  (frames, n, 3)
    E, energies  (frames,) or (frames, 1)                               F, forces  (frames, n, 3)

Members are streamed from the archive in rows, compressed or not, so that memory does not grow with
the file. Units: rMD17 (recognised by its ``old_indices``) is defined in kcal/mol and Angstrom
(Christensen & von Lilienfeld 2020, arXiv:2007.09593); official sGDML files carry ``e_unit`` and
``r_unit`` (sgdml.org); for all others the user must name them.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import DataError
from .base import (
    DEFLATE,
    MOST_AT_ONCE,
    Block,
    Source,
    SourceOptions,
    Units,
    check_numbers,
    check_shapes,
    rows_per_block,
    small_ints,
    text_of,
)
from .labels import choose_units, label_names, optional_keys, require_labels

LAYOUTS = {
    "sgdml": ("z", "R", "E", "F"),
    "rmd17": ("nuclear_charges", "coords", "energies", "forces"),
}
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


def _damaged(path: Path, what: object) -> DataError:
    return DataError(
        f"the archive is damaged or truncated: {what}",
        where=str(path),
        remedy="fetch or write the file again",
    )


class Member:
    """One array of a .npz, read row by row. rows is the length of the first axis, row the shape of
    the others."""

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path):
        self.name, self.path = name, path
        try:
            self._info = archive.getinfo(name + ".npy")
            self._file: IO[bytes] = archive.open(name + ".npy")
        except (*_DAMAGED, KeyError) as error:
            raise _damaged(path, f"array {name}: {error}") from error
        try:
            self._read_header()
        except DataError:
            self.close()
            raise

    def _read_header(self) -> None:
        name, path = self.name, self.path
        try:
            version = np.lib.format.read_magic(self._file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, self.dtype = header(self._file)
        except (*_DAMAGED, KeyError) as error:
            raise _damaged(path, f"array {name}: {error}") from error
        if self.dtype.hasobject:
            raise DataError(
                f"array {name} holds pickled Python objects, which are never read",
                where=str(path),
                remedy="save it as a plain numeric array",
            )
        self.shape = shape
        self.rows, self.row = (shape[0] if shape else 1), tuple(shape[1:])
        if fortran and len(shape) > 1:
            raise DataError(
                f"array {name} is in Fortran order, which cannot be streamed by frame",
                where=str(path),
                remedy="save it again after np.ascontiguousarray",
            )
        self._row_bytes = self.dtype.itemsize * math.prod(self.row)
        stored, packed = self._info.file_size, self._info.compress_size
        if (
            min((0, *shape)) < 0
            or self.rows * self._row_bytes > stored
            or stored > (DEFLATE * packed + (1 << 20))
        ):
            raise _damaged(path, f"array {name} of shape {shape} has {packed} bytes of {stored}")
        if self._row_bytes > MOST_AT_ONCE:
            raise _damaged(path, f"array {name} has {self._row_bytes:,} bytes in one frame")

    def read(self, rows: int) -> np.ndarray:
        """The next ``rows`` rows: (rows, ...) of the member's dtype."""
        want, parts, have = rows * self._row_bytes, [], 0
        try:
            while have < want:
                part = self._file.read(want - have)
                if not part:
                    raise EOFError(f"{self.name} ends early")
                parts.append(part)
                have += len(part)
        except _DAMAGED as error:
            raise _damaged(self.path, error) from error
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, self.dtype).reshape(rows, *self.row)

    def all(self) -> np.ndarray:
        if self.rows * self._row_bytes > MOST_AT_ONCE:
            raise _damaged(self.path, f"array {self.name} of shape {self.shape} for all frames")
        return self.read(self.rows).reshape(self.shape)

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _members(path: Path, roles: dict[str, str]) -> Iterator[dict[str, Member]]:
    """The arrays of an archive by role, open for reading."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        yield {
            kind: stack.enter_context(contextlib.closing(Member(archive, key, path)))
            for kind, key in roles.items()
        }


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")
            ]
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _declared(
    archive: zipfile.ZipFile, layout: str, seen: list[str], path: Path
) -> tuple[dict[str, str], str]:
    if layout == "rmd17" and "old_indices" in seen:
        return (
            {"energy": "kcal/mol", "length": "Angstrom", "force": "kcal/mol/Angstrom"},
            "defined by rMD17, recognised by old_indices",
        )
    declared = {}
    for name, key in (("energy", "e_unit"), ("length", "r_unit")):
        if key in seen:
            with contextlib.closing(Member(archive, key, path)) as member:
                declared[name] = text_of(member.all().reshape(-1)[0])
    return declared, "declared in the file by e_unit and r_unit"


def _keys(seen: list[str], options: SourceOptions, path: Path) -> tuple[str, dict[str, str]]:
    """The layout, and the array of each role: numbers, positions, energy, forces; charge, spin,
    group if asked for."""
    layout = next((name for name, keys in LAYOUTS.items() if {*keys[:2]} <= {*seen}), None)
    if layout is None:
        raise DataError(
            f"not an sGDML or rMD17 archive; arrays seen: {', '.join(seen) or 'none'}",
            where=str(path),
            remedy="it needs z and R, or nuclear_charges and coords, with energies and forces",
        )
    roles = dict(zip(("numbers", "positions", "energy", "forces"), LAYOUTS[layout]))
    given = {"energy": options.energy_key, "forces": options.force_like}
    roles |= {kind: key for kind, key in given.items() if key}
    require_labels(roles, options, {"energy": seen, "forces": seen}, seen, path)
    return layout, roles | optional_keys(options, seen, seen, path)


def open_npz(path: Path, options: SourceOptions) -> Source:
    """Open an sGDML or rMD17 archive."""
    seen = _names(path)
    layout, roles = _keys(seen, options, path)
    if "lattice" in seen:
        raise DataError(
            "this sGDML archive is periodic (it has a lattice)",
            where=str(path),
            remedy="convert it to extxyz, where cell and periodicity are well defined",
        )
    with zipfile.ZipFile(path) as archive:
        declared, origin = _declared(archive, layout, seen, path)
    with _members(path, roles) as members:
        shapes = {kind: member.shape for kind, member in members.items()}
        frames, _ = check_shapes(shapes, roles, str(path))
        kind = members["numbers"].dtype
    if kind.kind not in "iu":
        raise DataError(f"{roles['numbers']} holds {kind}, expected whole numbers", where=str(path))
    if frames == 0:
        raise DataError("the archive holds no frames", where=str(path))
    keys = label_names(roles, bool(options.gradient_key))
    if "group" in roles:
        keys["group"] = roles["group"]
    units = choose_units(options, declared, origin, path)
    padded = ", padded" if len(shapes["numbers"]) == 2 else ""
    return Source(
        path,
        f"npz ({'rMD17' if layout == 'rmd17' else 'sGDML'}{padded})",
        seen,
        keys,
        units,
        stream=lambda: _blocks(path, roles, options.sign, units),
        structures=frames,
        group_note=f"array {roles['group']}" if "group" in roles else "",
    )


def _blocks(path: Path, roles: dict[str, str], sign: float, units: Units) -> Iterator[Block]:
    factor = {"positions": units.to_angstrom, "forces": sign * units.to_ev_per_angstrom}
    with _members(path, roles) as members:
        frames, atoms, _ = members["positions"].shape
        shared = members["numbers"].all() if len(members["numbers"].shape) == 1 else None
        for first in range(0, frames, rows_per_block(atoms)):
            rows = min(rows_per_block(atoms), frames - first)
            raw = {
                kind: m.read(rows)
                for kind, m in members.items()
                if kind != "numbers" or shared is None
            }

            def place(k: int, first: int = first) -> str:
                return f"{path}, frame {first + k}"

            if shared is None:
                numbers = raw["numbers"]
                real = numbers != 0
            else:
                numbers = np.broadcast_to(shared, (rows, atoms))
                real = np.ones((rows, atoms), bool)
            counts = real.sum(axis=1)
            if not counts.all():
                raise DataError("a frame without atoms", where=place(int(np.argmin(counts))))
            full = bool(real.all())
            atoms_held = slice(None) if full else np.flatnonzero(real)
            vectors = {
                kind: raw[kind].reshape(-1, 3)[atoms_held] * np.float64(f)
                for kind, f in factor.items()
            }
            groups = None
            if "group" in raw:
                groups = [text_of(v) for v in raw["group"].reshape(rows).tolist()]
            yield Block(
                counts,
                check_numbers(numbers.reshape(-1)[atoms_held], place, counts),
                vectors["positions"],
                raw["energy"].reshape(rows) * np.float64(units.to_ev),
                vectors["forces"],
                first,
                place,
                groups,
                charges=small_ints(raw["charge"], "charge", place) if "charge" in raw else None,
                spins=small_ints(raw["spin"], "spin", place) if "spin" in raw else None,
            )
