"""deepmd systems: a folder with ``type.raw``, ``type_map.raw`` and ``set.*/{coord,energy,force,box,
virial}.npy``, in eV and Angstrom by definition (Wang et al. 2018, Comput. Phys. Commun. 228, 178).

A virial is -V times the stress; ``nopbc`` marks molecules; ``real_atom_types.npy`` (mixed type)
gives each frame elements of its own. A folder of such folders is one source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...elements import Z_OF
from ...errors import DataError
from .base import Block, Source, SourceOptions, Units, check_numbers, gather, rows_per_block
from .labels import choose_units
from .stress import StressRule, stress_rule


def systems(path: Path) -> list[Path]:
    """The deepmd systems in a folder, itself included."""
    return sorted(raw.parent for raw in path.rglob("type.raw"))


def open_deepmd(path: Path, options: SourceOptions) -> Source:
    """Open a deepmd system, or a folder of them."""
    folders = systems(path)
    sets = [part for folder in folders for part in sorted(folder.glob("set.*"))]
    if not sets:
        raise DataError(
            "no type.raw with set.* folders beside it",
            where=str(path),
            remedy="a deepmd system has type.raw and set.000/coord.npy, energy.npy, force.npy",
        )
    files = [file for part in sets for file in sorted(part.glob("*.npy"))]
    seen = list(dict.fromkeys(file.stem for file in files))
    for name, flag in (("energy", options.energy_key), ("force", options.force_like)):
        if flag or not all((part / f"{name}.npy").is_file() for part in sets):
            raise DataError(
                f"deepmd keeps {name} in {name}.npy of every set; arrays seen: {', '.join(seen)}",
                where=str(path),
                remedy="leave --energy-key and --forces-key away, and label all sets",
            )
    declared = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom"}
    units = choose_units(options, declared, "defined by deepmd", path)
    stress = stress_rule(options, seen, units.to_ev)
    keys = {"energy": "energy.npy", "forces": "force.npy"}
    if stress:
        keys["stress"] = stress.text
    structures = sum(len(_load(part, "energy")) for part in sets)
    return Source(
        path,
        f"deepmd ({len(folders)} systems)",
        seen,
        keys,
        units,
        structures=structures,
        group_note="formula",
        hashed=files,
        stream=lambda: gather(_blocks(folders, options.sign, units, stress)),
    )


def _load(folder: Path, name: str) -> np.ndarray:
    file = folder / f"{name}.npy"
    try:
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the array cannot be read: {error}", where=str(file), remedy="write it again"
        ) from error


def _types(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atomic number of each type, and the types of ``type.raw`` (n,)."""
    names = folder / "type_map.raw"
    if not names.is_file():
        raise DataError(
            "no type_map.raw, so that nothing says which element a type is",
            where=str(folder),
            remedy="write type_map.raw: one symbol a line, in the order of the types",
        )
    symbols = names.read_text().split()
    unknown = [name for name in symbols if name not in Z_OF]
    if unknown:
        raise DataError(f"unknown elements {', '.join(unknown[:5])}", where=str(names))
    try:
        types = np.array((folder / "type.raw").read_text().split(), np.int64)
    except ValueError as error:
        raise DataError(
            f"types are whole numbers: {error}", where=str(folder / "type.raw")
        ) from None
    return np.array([Z_OF[name] for name in symbols]), types


def _blocks(
    folders: list[Path], sign: float, units: Units, stress: StressRule | None
) -> Iterator[Block]:
    first = 0
    for folder in folders:
        table, types = _types(folder)
        periodic = not (folder / "nopbc").exists()
        for part in sorted(folder.glob("set.*")):
            for block in _set(part, table, types, periodic, sign, units, stress):
                block.first = first
                first += len(block)
                yield block


def _set(
    folder: Path,
    table: np.ndarray,
    types: np.ndarray,
    periodic: bool,
    sign: float,
    units: Units,
    stress: StressRule | None,
) -> Iterator[Block]:
    n = len(types)
    energy = _load(folder, "energy").reshape(-1)
    vectors = {}
    for name in ("coord", "force"):
        vectors[name] = _load(folder, name)
        if vectors[name].size != 3 * n * len(energy):
            raise DataError(
                f"{name}.npy has shape {vectors[name].shape} for {len(energy)} frames of {n} atoms",
                where=str(folder),
            )
    mixed = (folder / "real_atom_types.npy").is_file()
    kinds = _load(folder, "real_atom_types") if mixed else np.broadcast_to(types, (len(energy), n))
    if kinds.shape != (len(energy), n) or kinds.max(initial=0) >= len(table):
        raise DataError("types and type_map.raw do not belong together", where=str(folder))
    boxes = _load(folder, "box").reshape(-1, 3, 3) if periodic else None
    tensors = (
        _load(folder, stress.key) if stress and (folder / f"{stress.key}.npy").is_file() else None
    )
    for start in range(0, len(energy), rows_per_block(n)):
        rows = slice(start, min(start + rows_per_block(n), len(energy)))
        size = rows.stop - start

        def place(k: int, start: int = start) -> str:
            return f"{folder}, frame {start + k}"

        real = np.asarray(kinds[rows]) >= 0  # mixed type pads with -1
        counts = real.sum(axis=1)
        cells = None if boxes is None else np.float64(boxes[rows]) * units.to_angstrom
        stresses = None
        if stress and tensors is not None:
            stresses = stress.stacked(tensors[rows].reshape(size, -1), cells, place)
        parts = {
            name: np.float64(values.reshape(len(energy), n, 3)[rows])[real]
            for name, values in vectors.items()
        }
        yield Block(
            counts,
            check_numbers(table[np.asarray(kinds[rows])[real]], place, counts),
            parts["coord"] * units.to_angstrom,
            np.float64(energy[rows]) * units.to_ev,
            parts["force"] * (sign * units.to_ev_per_angstrom),
            0,
            place,
            cells=cells,
            pbc=None if cells is None else np.ones((size, 3), bool),
            stresses=stresses,
        )
