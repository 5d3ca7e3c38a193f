"""What a pack holds, from its manifest."""

from __future__ import annotations

import json
from pathlib import Path

from ..elements import SYMBOLS
from .pack import Pack


def describe(path: Path, *, as_json: bool = False) -> str:
    """The manifest of a pack as text for people, or as JSON."""
    pack = Pack(path)
    m = pack.manifest
    if as_json:
        return json.dumps(m, indent=1)
    size = sum(f.stat().st_size for f in pack.path.iterdir())
    lines = [
        f"{pack.path.name}: {len(pack):,} structures, {pack.atoms:,} atoms, {size / 1e6:.1f} MB,"
        f" hash {pack.hash}"
    ]

    def row(name: str, text: str) -> None:
        lines.append(f"  {name:<12} {text}")

    row(
        "elements",
        ", ".join(
            f"{SYMBOLS[int(z)]} {count:,}" for z, count in m.get("element_counts", {}).items()
        ),
    )
    if split := m.get("split"):
        groups = f", {split['groups']:,} groups" if split.get("groups") else ""
        row(
            "split",
            f"{split.get('rule', '')}{groups}: train {split['train_structures']:,}"
            f" ({split['train_atoms']:,} atoms), validation {split['val_structures']:,}"
            f" ({split['val_atoms']:,} atoms)",
        )
    if fit := m.get("references"):
        row(
            "references",
            ", ".join(f"{SYMBOLS[int(z)]} {e:.3f}" for z, e in fit["energies"].items()) + " eV",
        )
        for text in fit.get("warnings", []):
            row("warning", text)
    if stats := m.get("statistics"):
        row("energies", f"sd {1000 * stats['energy_per_atom_sd']:.1f} meV/atom after references")
        row(
            "forces",
            f"rms {stats['force_rms']:.3f} eV/Angstrom per component, norm mean"
            f" {stats['force_norm_mean']:.3f}, max {stats['force_norm_max']:.2f}",
        )
        row(
            "molecules", f"{stats['atoms_mean']:.1f} atoms on average, at most {stats['atoms_max']}"
        )
    row("rotated", "every structure by a fixed random rotation" if m.get("rotated") else "no")
    if m.get("periodic"):
        row("periodic", "some or all structures")
    for source in m.get("sources", []):
        row(
            "source",
            ", ".join(str(source[k]) for k in ("name", "reader") if k in source)
            + (f", {source['structures']:,} structures" if "structures" in source else ""),
        )
    for reason, count in m.get("skipped", {}).items():
        row("skipped", f"{count:,}: {reason}")
    if m.get("command"):
        row("made by", f"{m['command']}" + (f" ({m['created']})" if m.get("created") else ""))
    return "\n".join(lines)
