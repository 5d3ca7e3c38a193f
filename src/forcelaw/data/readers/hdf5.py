"""HDF5 layouts: SPICE, ANI-1x, ANI-2x, and the flat one of ``xtb_molecules``; which one is seen
from the names inside.

SPICE   /<name>/atomic_numbers (n,), conformations (k, n, 3), dft_total_energy (k,),
        dft_total_gradient (k, n, 3), smiles; units in the ``units`` attributes (bohr, hartree,
        hartree/bohr); the gradient is minus the force (Eastman et al. 2023, Sci. Data 10, 11)
ANI-1x  /<formula>/atomic_numbers (n,), coordinates (k, n, 3), <level>.energy (k,),
        <level>.forces (k, n, 3); Angstrom, hartree, hartree/Angstrom by definition; NaN: not
        computed (Smith et al. 2020, Sci. Data 7, 134)
ANI-2x  /<atoms>/species (k, n), coordinates (k, n, 3), energies (k,), forces (k, n, 3); Angstrom,
        hartree, hartree/Angstrom by definition (Devereux et al. 2020, JCTC 16, 4192)
flat    natoms (s,), atomic_numbers (a,), positions (a, 3), forces (a, 3), energy (s,),
        molecule (s,) -> smiles (m,); units in the ``units`` attributes, with a number in front
        where integers are stored ("1e-4 Angstrom")
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...elements import formula
from ...errors import DataError
from ..pack import NO_CHARGE, group_hash
from .base import (
    BLOCK_STRUCTURES,
    MISSING_ENERGY,
    MISSING_FORCES,
    Block,
    Source,
    SourceOptions,
    Units,
    check_numbers,
    check_shapes,
    gather,
    rows_per_block,
    small_ints,
    text_of,
)
from .hdf5_nested import open_nested
from .hdf5_objects import damaged, open_object
from .labels import choose_units, label_names, optional_keys, require_labels

# layout: names of numbers, positions, and the energy and force-like keys that the format defines
# (None: must be given)
GROUPED = {
    "SPICE": ("atomic_numbers", "conformations", "dft_total_energy", "dft_total_gradient"),
    "ANI-1x": ("atomic_numbers", "coordinates", None, None),
    "ANI-2x": ("species", "coordinates", "energies", "forces"),
}
_ANI_UNITS = {"energy": "hartree", "length": "Angstrom", "force": "hartree/Angstrom"}
_FORMAL_CHARGE = re.compile(r"\[[^\]]*?([+-]+)(\d*)(?::\d+)?\]")


def formal_charge(smiles: str) -> int:
    """Total formal charge of a SMILES string, from its bracket atoms."""
    total = 0
    for signs, digits in _FORMAL_CHARGE.findall(smiles):
        total += (1 if signs[0] == "+" else -1) * (int(digits) if digits else len(signs))
    return total


def open_hdf5(path: Path, options: SourceOptions) -> Source:
    """Open a SPICE, ANI or flat HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            if "natoms" in file and "atomic_numbers" in file:
                return _open_flat(file, path, options)
            return _open_grouped(file, path, options)
    except OSError as error:
        raise DataError(
            f"not a readable HDF5 file: {error}",
            where=str(path),
            remedy="the file is damaged, truncated or of another format; fetch it again",
        ) from error


def _open_grouped(file: h5py.File, path: Path, options: SourceOptions) -> Source:
    first = next(iter(file), None)
    if first is None:
        raise DataError("the HDF5 file is empty", where=str(path))
    open_object(file.id, first)
    grouped = isinstance(file[first], h5py.Group)
    seen = list(file[first] if grouped else file)
    layout = next(
        (name for name, keys in GROUPED.items() if grouped and {*keys[:2]} <= {*seen}), None
    )
    if layout is None:
        nested = open_nested(file, path, options)
        if nested is not None:
            return nested
        raise DataError(
            f"unknown HDF5 layout; names seen: {', '.join(seen)}",
            where=str(path),
            remedy=f"known are {', '.join([*GROUPED, 'flat'])} and groups with atomic numbers and"
            " positions; see forcelaw data prepare --help",
        )
    numbers, positions, energy, force_like = GROUPED[layout]
    wanted = {"energy": options.energy_key or energy, "forces": options.force_like or force_like}
    labels = [k for k in seen if k not in (numbers, positions)]
    if None in wanted.values():
        levels = sorted(k.removesuffix(".forces") for k in labels if k.endswith(".forces"))
        flags = " or ".join(f"--energy-key {k}.energy --forces-key {k}.forces" for k in levels)
        raise DataError(
            f"ANI-1x holds several levels of theory; keys seen: {', '.join(labels)}",
            where=str(path),
            remedy=f"say which: {flags}",
        )
    roles = {"numbers": numbers, "positions": positions, **wanted}
    require_labels(roles, options, {"energy": labels, "forces": labels}, labels, path)
    roles |= optional_keys(options, seen, seen, path)
    gradient = bool(options.gradient_key) or (layout == "SPICE" and not options.forces_key)
    units = choose_units(options, *_declared(file[first], roles, layout), path)
    keys = label_names(roles, gradient)
    note = f"dataset {options.group_key}" if options.group_key else "formula"
    if layout == "SPICE":
        if "smiles" in seen:
            roles["smiles"] = "smiles"
            keys.setdefault("charge", "formal charges in smiles")
        if not options.group_key:
            note = "smiles" if "smiles" in seen else "name of the HDF5 group"
    whole = _Grouped(path, layout, roles, units, -1.0 if gradient else 1.0)
    return Source(
        path,
        f"hdf5 ({layout})",
        seen,
        keys,
        units,
        stream=lambda: gather(whole.blocks()),
        group_note=note,
    )


def _declared(group: h5py.Group, roles: dict[str, str], layout: str) -> tuple[dict[str, str], str]:
    if layout != "SPICE":
        return _ANI_UNITS, f"defined by {layout}"
    declared = {}
    for name, kind in (("energy", "energy"), ("length", "positions"), ("force", "forces")):
        unit = group[roles[kind]].attrs.get("units")
        if unit is not None:
            declared[name] = text_of(unit)
    return declared, "declared in the file's units attributes"


class _Set:
    """A data set, opened without h5py's high-level objects: SPICE has 100,000 small ones, and those
    objects cost more than the reading."""

    def __init__(self, group: h5py.h5g.GroupID, name: str):
        self.id = open_object(group, name)
        self.shape: tuple[int, ...] = self.id.shape

    def read(self, rows: slice | None = None) -> np.ndarray:
        """Rows of the data set, all of them by default."""
        if rows is not None and (rows.start > 0 or rows.stop < self.shape[0]):
            return np.asarray(h5py.Dataset(self.id)[rows])
        out = np.empty(self.shape, self.id.dtype)
        if out.size:
            self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        return out

    def text(self) -> str:
        return text_of(self.read().reshape(-1)[0])


@dataclass(frozen=True)
class _Grouped:
    """A file whose groups are molecules. roles: names of numbers, positions, energy, forces
    (charge, spin, group)."""

    path: Path
    layout: str
    roles: dict[str, str]
    units: Units
    sign: float

    def blocks(self) -> Iterator[Block]:
        """The conformers of all molecules, molecule by molecule."""
        first = 0
        try:
            with h5py.File(self.path, "r") as file:
                for name in file:
                    for block in self.molecule(name, open_object(file.id, name)):
                        block.first = first
                        first += len(block)
                        yield block
        except (OSError, RuntimeError) as error:  # the low-level interface raises both
            raise damaged(self.path, error) from error

    def molecule(self, name: str, group: h5py.h5g.GroupID) -> Iterator[Block]:
        """The conformers of one molecule (ANI-2x: of all molecules with one number of atoms), in
        blocks."""
        where = f"{self.path}, group {name}"
        sets = {kind: _Set(group, key) for kind, key in self.roles.items() if key.encode() in group}
        absent = [
            key
            for kind, key in self.roles.items()
            if kind not in sets and kind not in ("energy", "forces", "smiles")
        ]
        if absent:
            raise DataError(f"no {' and no '.join(absent)} in this group", where=where)
        checked = ("numbers", "positions", "energy", "forces")
        shapes = {kind: sets[kind].shape for kind in checked if kind in sets}
        frames, atoms = check_shapes(shapes, self.roles, where)
        shared = sets["numbers"].read() if len(sets["numbers"].shape) == 1 else None
        smiles = sets["smiles"].text() if "smiles" in sets else None
        label: str | None = smiles or name if self.layout == "SPICE" else None
        if "group" in sets:
            label = sets["group"].text()
        elif label is None and shared is not None:
            label = formula(check_numbers(shared, lambda _: where, np.array([atoms])))
        for start in range(0, frames, rows_per_block(atoms)):
            rows = slice(start, min(start + rows_per_block(atoms), frames))
            yield self.conformers(sets, rows, atoms, shared, smiles, label, where)

    def conformers(
        self,
        sets: dict[str, _Set],
        rows: slice,
        atoms: int,
        shared: np.ndarray | None,
        smiles: str | None,
        label: str | None,
        where: str,
    ) -> Block:
        """One block of conformers of one molecule."""
        size = rows.stop - rows.start

        def place(k: int) -> str:
            return f"{where}, conformer {rows.start + k}"

        counts = np.full(size, atoms, np.int64)
        if shared is not None:
            numbers = np.tile(check_numbers(shared, place, counts), size)
        else:
            numbers = check_numbers(sets["numbers"].read(rows).reshape(-1), place, counts)
        missing = np.zeros(size, np.uint8)
        if "energy" in sets:
            energies = sets["energy"].read(rows).reshape(-1) * np.float64(self.units.to_ev)
        else:
            energies, missing = np.full(size, np.nan), missing | MISSING_ENERGY
        if "forces" in sets:
            forces = sets["forces"].read(rows).reshape(-1, 3) * np.float64(
                self.sign * self.units.to_ev_per_angstrom
            )
        else:
            forces, missing = np.full((size * atoms, 3), np.nan), missing | MISSING_FORCES
        if (
            self.layout == "ANI-1x"
        ):  # NaN is how ANI-1x says that a level was not computed for a conformer
            missing[np.isnan(energies)] |= MISSING_ENERGY
            missing[np.isnan(forces).reshape(size, -1).all(axis=1)] |= MISSING_FORCES
        charges = None
        if "charge" in sets:
            charges = _whole(sets["charge"], rows, size, "charge", place)
        elif "smiles" in self.roles:
            charges = np.full(size, NO_CHARGE if smiles is None else formal_charge(smiles), np.int8)
        positions = sets["positions"].read(rows).reshape(-1, 3) * np.float64(self.units.to_angstrom)
        return Block(
            counts,
            numbers,
            positions,
            energies,
            forces,
            0,
            place,
            groups=None if label is None else [label] * size,
            missing=missing,
            charges=charges,
            spins=_whole(sets["spin"], rows, size, "spin", place) if "spin" in sets else None,
        )


def _whole(data: _Set, rows: slice, size: int, name: str, place: Any) -> np.ndarray:
    """Charges or spins of conformers, one for all or one for each: int8 (size,)."""
    values = data.read() if math.prod(data.shape) == 1 else data.read(rows)
    return np.broadcast_to(small_ints(values, name, place), (size,))


def _scaled_unit(data: h5py.Dataset) -> tuple[float, str] | None:
    """("1e-4 Angstrom") -> (1e-4, "Angstrom"); None where the data set declares no unit."""
    text = data.attrs.get("units")
    if text is None:
        return None
    text = text_of(text)
    number, space, unit = text.partition(" ")
    try:
        return (float(number), unit) if space else (1.0, text)
    except ValueError:
        return 1.0, text


def _open_flat(file: h5py.File, path: Path, options: SourceOptions) -> Source:
    seen = list(file)
    for name in seen:
        open_object(file.id, name)
    roles = {
        "numbers": "atomic_numbers",
        "positions": "positions",
        "energy": options.energy_key or "energy",
        "forces": options.force_like or "forces",
    }
    if "positions" not in seen:
        raise DataError(
            f"flat HDF5 layout without positions; names seen: {', '.join(seen)}", where=str(path)
        )
    require_labels(roles, options, {"energy": seen, "forces": seen}, seen, path)
    roles |= optional_keys(options, seen, seen, path)
    scale, declared = {}, {}
    for kind, name in (("energy", "energy"), ("positions", "length"), ("forces", "force")):
        found = _scaled_unit(file[roles[kind]])
        scale[kind] = found[0] if found else 1.0
        if found:
            declared[name] = found[1]
    units = choose_units(options, declared, "declared in the file's units attributes", path)
    structures, atoms = len(file["natoms"]), len(file["atomic_numbers"])
    shapes = {"positions": (atoms, 3), "forces": (atoms, 3), "energy": (structures,)}
    for kind, shape in shapes.items():
        if file[roles[kind]].shape != shape:
            raise DataError(
                f"{roles[kind]} has shape {file[roles[kind]].shape}, expected {shape}",
                where=str(path),
                remedy="the arrays of one file must describe the same structures",
            )
    if structures == 0:
        raise DataError("the HDF5 file holds no structures", where=str(path))
    by_smiles = "group" not in roles and "molecule" in seen and "smiles" in seen
    note = (
        f"dataset {roles['group']}"
        if "group" in roles
        else "smiles of the molecule"
        if by_smiles
        else "formula"
    )
    return Source(
        path,
        "hdf5 (flat)",
        seen,
        label_names(roles, bool(options.gradient_key)),
        units,
        structures=structures,
        group_note=note,
        stream=lambda: _flat(path, roles, scale, options.sign, units, by_smiles),
    )


def _flat(
    path: Path,
    roles: dict[str, str],
    scale: dict[str, float],
    sign: float,
    units: Units,
    by_smiles: bool,
) -> Iterator[Block]:
    factor = {
        "positions": scale["positions"] * units.to_angstrom,
        "energy": scale["energy"] * units.to_ev,
        "forces": scale["forces"] * sign * units.to_ev_per_angstrom,
    }
    try:
        with h5py.File(path, "r") as file:
            names = _smiles_hashes(file["smiles"]) if by_smiles else None
            start, structures = 0, len(file["natoms"])
            for first in range(0, structures, BLOCK_STRUCTURES):
                rows = slice(first, min(first + BLOCK_STRUCTURES, structures))
                counts = file["natoms"][rows].astype(np.int64)

                def place(k: int, first: int = first) -> str:
                    return f"{path}, structure {first + k}"

                if (counts < 1).any():
                    raise DataError(
                        "a structure without atoms", where=place(int(np.argmin(counts)))
                    )
                atoms = slice(start, start + int(counts.sum()))
                start = atoms.stop
                have = len(file["atomic_numbers"])
                if start > have or (rows.stop == structures and start != have):
                    raise DataError(
                        f"natoms adds up to {start} or more, atomic_numbers holds {have}",
                        where=str(path),
                    )
                small = {
                    kind: small_ints(file[roles[kind]][rows], kind, place)
                    for kind in ("charge", "spin")
                    if kind in roles
                }
                yield Block(
                    counts,
                    check_numbers(file["atomic_numbers"][atoms], place, counts),
                    file[roles["positions"]][atoms] * factor["positions"],
                    file[roles["energy"]][rows] * factor["energy"],
                    file[roles["forces"]][atoms] * factor["forces"],
                    first,
                    place,
                    _flat_groups(file, roles, rows, names, path),
                    charges=small.get("charge"),
                    spins=small.get("spin"),
                )
    except OSError as error:
        raise damaged(path, error) from error


def _smiles_hashes(smiles: h5py.Dataset) -> np.ndarray:
    """uint64 (molecules,): eight bytes a molecule, whatever the length of its SMILES."""
    parts = [np.zeros(0, np.uint64)]
    for start in range(0, len(smiles), 8192):
        hashes = [group_hash(text_of(s)) for s in smiles[start : start + 8192].tolist()]
        parts.append(np.array(hashes, np.uint64))
    return np.concatenate(parts)


def _flat_groups(
    file: h5py.File, roles: dict[str, str], rows: slice, names: np.ndarray | None, path: Path
) -> list[str] | np.ndarray | None:
    if "group" in roles:
        return [text_of(v) for v in file[roles["group"]][rows].tolist()]
    if names is None:
        return None
    molecule = file["molecule"][rows]
    if molecule.min() < 0 or molecule.max() >= len(names):
        raise DataError(
            f"molecule {molecule.max()} has no entry in smiles ({len(names)} entries)",
            where=str(path),
        )
    return names[molecule]
