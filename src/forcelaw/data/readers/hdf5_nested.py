"""HDF5 files whose structures or molecules are groups at any depth.

ANI-1, COMP6   /<set>/<molecule>/species (n,) symbols, coordinates (k, n, 3), energies (k,), forces
               (k, n, 3); Angstrom, hartree, hartree/Angstrom by definition (Smith et al. 2017, Sci.
               Data 4, 170193; 2018, J. Chem. Phys. 148, 241733). ANI-1 has no forces
others         any group with atomic numbers and positions, (n, 3) or (k, n, 3), as mace's and
               QM7-X's files; units from ``units`` attributes or from the user
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...elements import Z_OF
from ...errors import DataError
from .base import Block, Source, SourceOptions, Units, check_numbers, gather, small_ints, text_of
from .hdf5_objects import damaged, open_object, read
from .labels import choose_units, label_names, optional_keys, require_labels
from .stress import StressRule, stress_rule

NUMBERS = ("atomic_numbers", "numbers", "species", "Z", "z", "atNUM", "elements")
POSITIONS = ("positions", "coordinates", "coords", "R", "pos", "atXYZ", "geometry")
ENERGIES = ("energy", "energies", "properties/energy")
FORCES = ("forces", "properties/forces")
LAYOUT = (
    "a group holds the conformers of one molecule: atomic numbers (n,), positions and forces"
    " (k, n, 3), energies (k,); structures one after the other are read as natoms (s,), energy"
    " (s,), atomic_numbers (a,), positions (a, 3), forces (a, 3)"
)


def leaves(file: h5py.Group, met: set[int] | None = None) -> Iterator[h5py.Group]:
    """Groups that hold atomic numbers and positions, depth first, in the order of the file. met:
    the groups above and before this one; a file may link to one again and again."""
    met, address = set() if met is None else met, h5py.h5o.get_info(file.id).addr
    if address in met:
        raise DataError(f"group {file.name} is linked to more than once")
    met.add(address)
    names = set(file)
    if names & {*NUMBERS} and names & {*POSITIONS}:
        yield file
        return
    for name in file:
        item = open_object(file.id, name)
        if isinstance(item, h5py.h5g.GroupID):
            yield from leaves(h5py.Group(item), met)


def _names(group: h5py.Group) -> list[str]:
    """Data sets of a leaf, those one level down as "properties/energy"."""
    out = []
    for name in group:
        open_object(group.id, name)
        item = group[name]
        if isinstance(item, h5py.Group):
            out += [f"{name}/{inner}" for inner, d in item.items() if isinstance(d, h5py.Dataset)]
        else:
            out.append(name)
    return out


def open_nested(file: h5py.File, path: Path, options: SourceOptions) -> Source | None:
    """Open a file of this kind; None where no group holds atomic numbers and positions."""
    first = next(leaves(file), None)
    if first is None:
        return None
    seen = _names(first)
    roles = {
        "numbers": next(name for name in NUMBERS if name in seen),
        "positions": next(name for name in POSITIONS if name in seen),
        "energy": options.energy_key or _first(ENERGIES, seen),
        "forces": options.force_like or _first(FORCES, seen),
    }
    labels = [name for name in seen if name not in (roles["numbers"], roles["positions"])]
    require_labels(roles, options, {"energy": labels, "forces": labels}, labels, path)
    roles |= optional_keys(options, seen, seen, path)
    for kind in ("charge", "spin", "cell", "pbc"):
        if kind in seen:
            roles.setdefault(kind, kind)
    ani = roles["numbers"] == "species" and roles["positions"] == "coordinates"
    declared, origin = _declared(first, roles), "declared in the file's units attributes"
    if ani and not declared:
        declared = {"energy": "hartree", "length": "Angstrom", "force": "hartree/Angstrom"}
        origin = "defined by ANI-1 and COMP6"
    units = choose_units(options, declared, origin, path)
    stress = stress_rule(options, [*seen, *(name.rpartition("/")[2] for name in seen)], units.to_ev)
    if stress:
        roles["stress"] = _first((stress.key, f"properties/{stress.key}"), seen)
    keys = label_names(roles, bool(options.gradient_key))
    if stress:
        keys["stress"] = stress.text
    whole = _Nested(path, roles, units, options.sign, stress)
    return Source(
        path,
        "hdf5 (ANI-1, nested)" if ani else "hdf5 (a group for each structure or molecule)",
        seen,
        keys,
        units,
        stream=lambda: gather(whole.blocks()),
        group_note="name of the molecule's group, or formula where each structure has its own",
    )


def _first(names: tuple[str, ...], seen: list[str]) -> str:
    return next((name for name in names if name in seen), names[0])


def _declared(group: h5py.Group, roles: dict[str, str]) -> dict[str, str]:
    out = {}
    for name, kind in (("energy", "energy"), ("length", "positions"), ("force", "forces")):
        attributes = group[roles[kind]].attrs
        unit = attributes.get("units", attributes.get("unit"))
        if unit is not None:
            out[name] = text_of(unit)
    return out


@dataclass(frozen=True)
class _Nested:
    path: Path
    roles: dict[str, str]
    units: Units
    sign: float
    stress: StressRule | None

    def blocks(self) -> Iterator[Block]:
        first = 0
        try:
            with h5py.File(self.path, "r") as file:
                for group in leaves(file):
                    block = self.block(group, first)
                    first += len(block)
                    yield block
        except (OSError, RuntimeError, KeyError) as error:
            raise damaged(self.path, error) from error

    def block(self, group: h5py.Group, first: int) -> Block:
        """The conformers of one group."""
        where = f"{self.path}, group {group.name}"
        absent = [key for key in self.roles.values() if key not in group]
        if absent:
            raise DataError(
                f"no {' and no '.join(absent)} in this group", where=where, remedy=LAYOUT
            )
        numbers = _atomic_numbers(read(group, self.roles["numbers"]), where)
        positions = np.asarray(read(group, self.roles["positions"]), np.float64)
        single, n = positions.ndim == 2, len(numbers)
        positions = positions.reshape(-1, n, 3) if positions.size % (3 * n or 1) == 0 else positions
        k = len(positions)
        energy = np.asarray(read(group, self.roles["energy"]), np.float64).reshape(-1)
        forces = np.asarray(read(group, self.roles["forces"]), np.float64)
        if (
            n == 0
            or positions.shape != (k, n, 3)
            or energy.shape != (k,)
            or forces.size != 3 * k * n
        ):
            raise DataError(
                f"{n} atoms, positions {positions.shape}, energies {energy.shape}, forces"
                f" {forces.shape} do not belong together",
                where=where,
                remedy=LAYOUT,
            )
        counts = np.full(k, n, np.int64)

        def place(j: int) -> str:
            return where if single else f"{where}, conformer {j}"

        cells, pbc = self.cells(group, k)
        stresses = None
        if self.stress:
            values = np.asarray(read(group, self.roles["stress"]), np.float64).reshape(k, -1)
            stresses = self.stress.stacked(values, cells, place)
        label = None if single else group.name
        if "group" in self.roles:
            label = text_of(np.asarray(read(group, self.roles["group"])).reshape(-1)[0])
        return Block(
            counts,
            check_numbers(np.tile(numbers, k), place, counts),
            positions.reshape(-1, 3) * self.units.to_angstrom,
            energy * self.units.to_ev,
            forces.reshape(-1, 3) * (self.sign * self.units.to_ev_per_angstrom),
            first,
            place,
            groups=None if label is None else [label] * k,
            charges=self.small(group, "charge", k, place),
            spins=self.small(group, "spin", k, place),
            cells=cells,
            pbc=pbc,
            stresses=stresses,
        )

    def small(self, group: h5py.Group, kind: str, k: int, place: Any) -> np.ndarray | None:
        if kind not in self.roles:
            return None
        values = np.asarray(read(group, self.roles[kind])).reshape(-1)
        return np.broadcast_to(small_ints(values, kind, place), (k,))

    def cells(self, group: h5py.Group, k: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Cells in Angstrom and periodic flags; none of a group without both."""
        if not {"cell", "pbc"} <= self.roles.keys():
            return None, None
        pbc = np.asarray(read(group, self.roles["pbc"])).astype(bool).reshape(-1, 3)
        cells = np.asarray(read(group, self.roles["cell"]), np.float64).reshape(-1, 3, 3)
        return (
            np.broadcast_to(cells * self.units.to_angstrom, (k, 3, 3)),
            np.broadcast_to(pbc, (k, 3)),
        )


def _atomic_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """From numbers, or from symbols in any of HDF5's strings."""
    values = np.asarray(values).reshape(-1)
    if values.dtype.kind in "iu":
        return values
    symbols = [text_of(value).strip() for value in values.tolist()]
    unknown = sorted({name for name in symbols if name not in Z_OF})
    if unknown:
        raise DataError(f"unknown elements {', '.join(map(repr, unknown[:5]))}", where=where)
    return np.array([Z_OF[name] for name in symbols], np.int64)
