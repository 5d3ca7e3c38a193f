"""What the certificates of the architectures say, and which have none."""

from __future__ import annotations

from typing import Any

from ...figures.text import names
from ..analysis import Analysis
from ..section import Cell, Column, Command, Part, Prose, Section, csv, entries, table

# lines of a certificate that a reader of the study needs
SHOWN = ("symmetry", "cutoff", "forces", "coordinates", "learning rate")
BADGES = {"holds": "yes", "fails": "no", "note": "unsure", "skipped": "unsure"}
COLUMNS = entries("architecture", "line", "verdict", "found", "date")


def recorded(analysis: Analysis) -> list[dict[str, Any]]:
    """The entries of the study's architectures."""
    return list(analysis.source.study.get("architectures") or [])


def without(analysis: Analysis) -> list[dict[str, Any]]:
    """Architectures from outside, which no test of forcelaw covers, without a certificate."""
    return [a for a in recorded(analysis) if a.get("code") and not a.get("certificate")]


def limits(analysis: Analysis) -> list[str]:
    """What is not known of architectures without a certificate, and what fails in the others."""
    out = []
    if missing := [str(a["label"]) for a in without(analysis)]:
        out.append(
            f"{names(missing)}: no certificate. That its symmetry is the declared one, that its"
            " energies are smooth and extensive and one learning rate serves all sizes was not"
            " measured."
        )
    for a in recorded(analysis):
        if failed := (a.get("certificate") or {}).get("failed"):
            out.append(f"{a['label']}: its certificate fails in {names(failed)}.")
            if "gradients" in failed:
                out.append(f"{a['label']}: {a['certificate']['lines']['gradients'][1]}.")
    return out


def _line(name: str) -> Column:
    def cell(entry: dict[str, Any]) -> Cell:
        verdict, found = entry["certificate"]["lines"].get(name, ("skipped", "not measured"))
        return Cell("", small=(str(found),), badge=(BADGES.get(verdict, "unsure"), str(verdict)))

    return Column("", name, cell=cell, numeric=False, wrap=True)


def section(analysis: Analysis) -> Section | None:
    """A table of the certificates; None for a study that has none and needs none."""
    having = [a for a in recorded(analysis) if a.get("certificate")]
    missing = without(analysis)
    if not having and not missing:
        return None
    parts: list[Part] = [
        Prose("What was measured of each model on a CPU, apart from this study: forcelaw certify.")
    ]
    if having:
        first = Column("", "architecture", cell=lambda a: Cell(str(a["label"])), numeric=False)
        parts.append(table([first, *map(_line, SHOWN)], having))
    if missing:
        parts.append(Prose(f"None: {names([str(a['label']) for a in missing])}.", ""))
        parts += [Command(f"forcelaw certify {a['architecture']}") for a in missing]
    rows = [
        {
            "architecture": a["label"],
            "line": name,
            "verdict": verdict,
            "found": found,
            "date": a["certificate"].get("date"),
        }
        for a in having
        for name, (verdict, found) in a["certificate"]["lines"].items()
    ]
    return Section("certificates", "Certificates", parts, [csv("certificates", COLUMNS, rows)])
