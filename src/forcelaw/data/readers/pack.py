"""A pack as a source: prepare it again with another split, filter or rotation, or merge it with
other sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..pack import Pack
from ..splits import TEST
from ..verify import verify
from .base import BLOCK_ATOMS, BLOCK_STRUCTURES, Block, Source, SourceOptions, Units


def open_pack(path: Path, options: SourceOptions) -> Source:
    """Open a pack. Its labels are in eV and Angstrom by definition, so no key or unit can be
    given."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in (
            "energy_key",
            "forces_key",
            "gradient_key",
            "charge_key",
            "spin_key",
            "group_key",
            "energy_unit",
            "length_unit",
            "force_unit",
            "stress_key",
            "virial_key",
            "stress_unit",
            "stress_convention",
            "config_key",
        )
        if getattr(options, name)
    ]
    if given:
        raise DataError(
            f"a pack defines its keys and units; {', '.join(given)} cannot apply",
            where=str(path),
            remedy="leave these options away, or prepare other sources in a call of their own",
        )
    pack = Pack(path)
    verify(pack)
    arrays = list(pack.manifest["arrays"])
    keys = {"energy": "energies", "forces": "forces"}
    if "charges" in arrays:
        keys |= {"charge": "charges", "spin": "spins"}
    keys |= {k: n for k, n in (("stress", "stresses"), ("config", "configs")) if n in arrays}
    apart = int(pack.manifest["split"].get("test_structures", 0))
    return Source(
        path,
        "pack",
        arrays,
        keys,
        Units("eV", "Angstrom", "eV/Angstrom", "defined by the pack"),
        stream=lambda: _blocks(pack),
        structures=len(pack),
        group_note="groups of the pack",
        notes=[f"its {apart:,} test structures stay test"] if apart else [],
        digest=_digest(pack),
    )


def _digest(pack: Pack) -> str:
    """SHA-256 of the list of the arrays' files, whether they are in shards or not; it was
    verified."""
    sums = {name: spec["sha256"] for name, spec in pack.manifest["arrays"].items()}
    lines = "".join(f"{name}.npy {sums[name]}\n" for name in sorted(sums))
    return hashlib.sha256(lines.encode()).hexdigest()


def _blocks(pack: Pack) -> Iterator[Block]:
    first, total = 0, len(pack)
    while first < total:
        limit = pack.offsets[first] + BLOCK_ATOMS
        last = (
            int(
                np.searchsorted(
                    pack.offsets[first : first + BLOCK_STRUCTURES + 1], limit, side="right"
                )
            )
            - 1
            + first
        )
        last = min(max(last, first + 1), total)
        rows, atoms = slice(first, last), slice(int(pack.offsets[first]), int(pack.offsets[last]))

        def place(k: int, first: int = first) -> str:
            return f"{pack.path}, structure {first + k}"

        optional = {
            name: None if (array := getattr(pack, name)) is None else np.array(array[rows])
            for name in ("charges", "spins", "cells", "pbc", "stresses")
        }
        labels = pack.config_types
        configs = None if pack.configs is None else [labels[k] for k in pack.configs[rows]]
        if optional["pbc"] is not None:
            optional["pbc"] = optional["pbc"].astype(bool)
        yield Block(
            np.diff(pack.offsets[first : last + 1]),
            np.array(pack.numbers[atoms]),
            pack.vectors("positions", atoms),
            np.array(pack.energies[rows]),
            pack.vectors("forces", atoms),
            first,
            place,
            np.array(pack.groups[rows]),
            configs=configs,
            test=np.array(pack.split[rows]) == TEST,
            **optional,
        )
        first = last
