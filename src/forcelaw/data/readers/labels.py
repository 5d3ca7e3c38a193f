"""How keys and units are chosen: from the format, or given by the user, never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ... import units
from ...errors import DataError
from .base import SourceOptions, Units, bare, listed


def choose_units(
    options: SourceOptions, declared: dict[str, str], origin: str, path: Path
) -> Units:
    """Units given by the user, else declared by the file or defined by its format; otherwise an
    error.

    declared: any of "energy", "length", "force". The force unit follows as energy/length when
    nobody names it.
    """
    given = {
        "energy": options.energy_unit,
        "length": options.length_unit,
        "force": options.force_unit,
    }
    given = {name: unit for name, unit in given.items() if unit}
    absent = [name for name in ("energy", "length") if name not in given and name not in declared]
    if absent:
        flags = " ".join(f"--{name}-unit UNIT" for name in absent)
        raise DataError(
            f"neither the file nor its format says in which unit {' and '.join(absent)} are",
            where=str(path),
            remedy=f"pass {flags}; for example --energy-unit eV --length-unit Angstrom",
        )
    merged = {**declared, **given}
    names = {name: units.canonical(merged[name]) for name in ("energy", "length")}
    # a declared force unit no longer holds once the user corrects the energy or length it is made
    # of
    stale = "force" not in given and (given.keys() & {"energy", "length"})
    force = (
        names["energy"] + "/" + names["length"]
        if stale or "force" not in merged
        else merged["force"]
    )
    units.force_factor(force)
    energy, _, length = force.rpartition("/")
    said = [f"{name} given" for name in given]
    if declared and declared.keys() - given.keys():
        said.append(origin if not given else f"the rest {origin}")
    if given and declared:
        overruled = [f"{name} {declared[name]}" for name in given if name in declared]
        if overruled:
            said.append("overruling " + ", ".join(overruled))
    return Units(
        names["energy"],
        names["length"],
        f"{units.canonical(energy)}/{units.canonical(length)}",
        ", ".join(said) or origin,
    )


def suggest(kind: str, keys: list[str]) -> str:
    """A remedy for a missing label: the option to pass, with the keys that look like it."""
    names = [bare(key) for key in keys]
    if kind == "energy":
        alike = [k for k in names if "energ" in k.lower() or k in ("E", "U0", "U")]
        flags = [f"--energy-key {k}" for k in alike]
        that, option = "that is the energy", "--energy-key NAME"
    else:
        alike = [k for k in names if any(w in k.lower() for w in ("forc", "grad")) or k == "F"]
        flags = [f"--{'gradient' if 'grad' in k.lower() else 'forces'}-key {k}" for k in alike]
        that, option = "those are the forces", "--forces-key NAME (or --gradient-key for dE/dx)"
    if flags:
        return f"pass {' or '.join(flags)} if {that}"
    return f"no key looks like the {kind}; if there is one, name it with {option}"


def require_labels(
    keys: dict[str, str],
    options: SourceOptions,
    among: dict[str, list[str]],
    seen: list[str],
    path: Path,
    extra: str = "",
) -> None:
    """Fail unless the energy and the forces are there; the error names every key seen and the
    options to pass.

    keys: the key that "energy" and "forces" would be read from. among: for both, the keys that are
    there. extra: where they were looked for.
    """
    given = {"energy": options.energy_key, "forces": options.force_like}
    absent = [kind for kind in given if keys[kind] not in among[kind]]
    if not absent:
        return
    found = " and ".join(
        f"no key {given[kind]!r} for the {kind}"
        if given[kind]
        else f"no {kind} under the name that the format defines"
        for kind in absent
    )
    raise DataError(
        f"{found}{extra}; keys seen: {listed(seen) or 'none'}",
        where=str(path),
        remedy="; ".join(suggest(kind, seen) for kind in absent)
        # a named key holds for every source of a call
        + (
            "; sources with other keys or units: prepare each alone, then merge the packs (forcelaw"
            " data prepare PACK PACK --out NEW)"
            if any(given[kind] for kind in absent)
            else ""
        ),
    )


def optional_keys(
    options: SourceOptions, among: Iterable[str], seen: list[str], path: Path
) -> dict[str, str]:
    """The keys that the user names for charge, spin, group and config type; each must be there."""
    flags = {
        "charge": "--charge-key",
        "spin": "--spin-key",
        "group": "--group key:NAME",
        "config": "--config-key",
    }
    given = {kind: getattr(options, f"{kind}_key") for kind in flags}
    given = {kind: key for kind, key in given.items() if key}
    for kind, key in given.items():
        if key not in among:
            raise DataError(
                f"no key {key!r} for the {kind}; keys seen: {listed(seen) or 'none'}",
                where=str(path),
                remedy=f"pass {flags[kind]} with one of these keys",
            )
    return given


def config_key(options: SourceOptions, among: Iterable[str]) -> dict[str, str]:
    """{"config": key} of the label of a structure's kind: ``config_type`` (the convention of
    training sets) where the user names no other; empty where there is none."""
    key = options.config_key or "config_type"
    return {"config": key} if key in among else {}


def label_names(roles: dict[str, str], gradient: bool) -> dict[str, str]:
    """What each label is read from, as :attr:`Source.keys` says it."""
    forces = f"minus {roles['forces']} (a gradient)" if gradient else roles["forces"]
    optional = {kind: roles[kind] for kind in ("charge", "spin", "config") if kind in roles}
    return {"energy": roles["energy"], "forces": forces, **optional}
