"""ASE trajectories (``.traj``): JSON and arrays, no pickle. Labels are the calculator's, in eV and
Angstrom; charge, spin and config_type are taken from ``atoms.info``."""

from __future__ import annotations

from collections.abc import Iterator
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
    one_structure,
)
from .labels import choose_units, config_key, label_names, optional_keys, require_labels
from .stress import StressRule, stress_rule


def _open(path: Path) -> Any:
    from ase.io.trajectory import Trajectory

    try:
        return Trajectory(str(path))
    except Exception as error:  # ulm raises many kinds
        raise DataError(
            f"not a readable ASE trajectory: {error}", where=str(path), remedy="fetch it again"
        ) from error


def open_trajectory(path: Path, options: SourceOptions) -> Source:
    """Open an ASE trajectory."""
    with _open(path) as file:
        structures = len(file)
        if not structures:
            raise DataError("the trajectory holds no frames", where=str(path))
        head = _frame(file, 0, path)
    results, info = list(head.calc.results) if head.calc else [], list(head.info)
    seen = [f"{name} (calculator)" for name in results] + [f"{name} (info)" for name in info]
    keys = {
        "energy": options.energy_key or "energy",
        "forces": options.force_like or "forces",
    }
    require_labels(keys, options, {"energy": results, "forces": results}, seen, path, " in frame 0")
    declared = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom"}
    units = choose_units(options, declared, "ASE's convention", path)
    stress = stress_rule(options, results, units.to_ev)
    roles = keys | {kind: kind for kind in ("charge", "spin") if kind in info}
    roles |= config_key(options, info) | optional_keys(options, info, seen, path)
    described = label_names(roles, bool(options.gradient_key))
    if stress:
        described["stress"] = stress.text
    return Source(
        path,
        "ASE trajectory",
        seen,
        described,
        units,
        structures=structures,
        group_note=roles.get("group", "formula"),
        stream=lambda: gather(_blocks(path, roles, options.sign, units, stress)),
    )


def _frame(file: Any, index: int, path: Path) -> Any:
    try:
        return file[index]
    except Exception as error:
        raise DataError(
            f"the trajectory is damaged or truncated: {error}",
            where=f"{path}, frame {index}",
            remedy="fetch it again",
        ) from error


def _blocks(
    path: Path, roles: dict[str, str], sign: float, units: Units, stress: StressRule | None
) -> Iterator[Block]:
    with _open(path) as file:
        for index in range(len(file)):
            atoms, where = _frame(file, index, path), f"{path}, frame {index}"
            results = atoms.calc.results if atoms.calc else {}
            energy, forces = results.get(roles["energy"]), results.get(roles["forces"])
            missing = (MISSING_ENERGY if energy is None else 0) | (
                MISSING_FORCES if forces is None else 0
            )
            forces = (
                np.full((len(atoms), 3), np.nan) if forces is None else np.asarray(forces, float)
            )
            cell = atoms.cell[:] * units.to_angstrom
            info = atoms.info
            yield one_structure(
                atoms.numbers,
                atoms.positions * units.to_angstrom,
                np.nan if energy is None else float(energy) * units.to_ev,
                forces * (sign * units.to_ev_per_angstrom),
                first=index,
                where=where,
                group=str(info.get(roles["group"])) if "group" in roles else None,
                missing=missing,
                charge=info.get(roles["charge"], NO_CHARGE) if "charge" in roles else None,
                spin=info.get(roles["spin"], NO_SPIN) if "spin" in roles else None,
                cell=cell * float(atoms.pbc.any()),
                pbc=atoms.pbc,
                stress=stress(results.get(stress.key), cell, lambda where=where: where)
                if stress
                else None,
                config=str(info.get(roles["config"], "")) if "config" in roles else None,
            )


def refuse_lmdb(path: Path, options: SourceOptions) -> Source:
    """fairchem's LMDB of the old kind holds pickled Python objects, which are never read."""
    raise DataError(
        "an LMDB of the old kind (OC20, OC22) holds pickled Python objects, and unpickling a file"
        " can run any code in it",
        where=str(path),
        remedy="convert it where you trust it: with fairchem and torch_geometric, write each sample"
        " as ase.Atoms(numbers, positions, cell, pbc) with its energy and forces to an .aselmdb"
        " (ase-db-backends) or an extxyz file",
    )
