"""Where the page comes from, and what its words mean."""

from __future__ import annotations

from typing import Any

from ...elements import MAX_Z, SYMBOLS
from ..analysis import Analysis
from ..section import Command, Details, Facts, Heading, Part, Section


def section(analysis: Analysis) -> Section:
    """Data, versions, table, command, and a glossary."""
    parts: list[Part] = [Facts(provenance(analysis))]
    if command := str(analysis.source.study.get("command") or ""):
        parts += [Heading("Command"), Command(command)]
    parts.append(Details("Words on this page", [Facts(analysis.words.meanings)]))
    return Section("provenance", "Where this comes from", parts)


def provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """What made the page, as (name, text): data, versions, table."""
    source = analysis.source
    study = source.study
    out = [(key, str(study[key])) for key in ("name", "created") if study.get(key)]
    out = [("study" if key == "name" else key, text) for key, text in out]
    data, versions = study.get("data"), study.get("versions")
    if isinstance(data, dict):
        out += [(f"data: {name}", text) for name, text in _flat(data)]
    if isinstance(versions, dict) and versions:
        out.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    devices = [d for d in source.frame["device"].drop_nulls().unique().sort().to_list() if d]
    if devices:
        out.append(("devices", ", ".join(devices)))
    runs = ", ".join(f"{count} {status}" for status, count in analysis.counts.items())
    out += [
        ("runs", runs or "none"),
        ("table", f"{source.origin.name}, {len(source.frame)} evaluations"),
        *[("columns", _columns(source.taken))] * bool(source.taken),
        ("burn-in", f"{analysis.burn_in_steps} steps"),
    ]
    if not study:
        out.append(("study.json", "not there: this page was made from the table only"))
    return out


def _columns(taken: dict[str, str]) -> str:
    """Which column of a table of others was taken for what."""
    return ", ".join(f"{role}: {name}" for role, name in taken.items())


def _flat(value: dict[str, Any], head: str = "") -> list[tuple[str, str]]:
    """Nested values as "outer inner: text"; lists on one line."""
    out = []
    for name, item in value.items():
        label = f"{head}{str(name).replace('_', ' ')}"
        if isinstance(item, dict):
            out += _flat(item, f"{label} ")
        elif item is not None:
            out.append((label, _text(name, item)))
    return out


def _text(name: str, item: Any) -> str:
    if isinstance(item, list):
        known = all(isinstance(z, int) and 0 < z <= MAX_Z for z in item)
        if name == "elements" and known:
            return ", ".join(SYMBOLS[z] for z in item)
        return ", ".join(str(entry) for entry in item[:40]) + (" …" if len(item) > 40 else "")
    if isinstance(item, float):
        return f"{item:.6g}"
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else str(item)
