"""Can these structures be trained on? One pass over the sources, a verdict, and the numbers behind
it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...elements import SYMBOLS
from ...errors import DataError
from ...progress import Progress
from .. import filters
from ..groups import GroupCounter, group_hashes
from ..pack import NO_CHARGE, NO_SPIN
from ..readers import Block, Source, SourceOptions, open_source, structures_in
from ..records import Records
from ..reference import References, fit_references
from .findings import Finding, reference_text
from .kinds import mixed_kinds
from .survey import Survey


class Check:
    """Everything that is counted over the stream; ``seen`` counts what can be used."""

    def __init__(self, records: Records, opened: list[Source]) -> None:
        self.seen = Survey(records, opened)
        self.structures = self.atoms = 0
        self.refused: Counter[str] = Counter()
        self.first_refused: dict[str, str] = {}
        self.element_counts = np.zeros(119, np.int64)
        self.groups = GroupCounter()

    def add(self, block: Block, source: int) -> None:
        why = filters.reasons(block, filters.Filter())
        for reason in np.unique(why[why != filters.KEEP]):
            name, rows = filters.REASONS[reason], np.flatnonzero(why == reason)
            self.refused[name] += len(rows)
            self.first_refused.setdefault(name, block.place(int(rows[0])))
        self.structures += len(block)
        self.atoms += len(block.numbers)
        self.element_counts += np.bincount(block.numbers, minlength=119)
        block = filters.select(block, why == filters.KEEP)
        if len(block):
            self.seen.add(block, source=source)
            self.groups.add(group_hashes(block))


def check(
    paths: Iterable[str | Path],
    sources: SourceOptions | None = None,
    *,
    limit: int | None = None,
    as_json: bool = False,
) -> int:
    """Print what the sources hold and whether they can be trained on. 0: yes; 1: no, and why."""
    try:
        result = survey(paths, sources, limit=limit)
    except DataError as error:
        problem = Finding("", error.what, error.where, error.remedy).record()
        result = {"trainable": False, "problems": [problem], "warnings": []}
    print(json.dumps(result, indent=1) if as_json else "\n".join(text(result)))
    return 0 if result["trainable"] else 1


def survey(
    paths: Iterable[str | Path], sources: SourceOptions | None = None, *, limit: int | None = None
) -> dict[str, Any]:
    """Read everything (or the first ``limit`` structures) and return all findings as plain JSON
    values."""
    opened = [open_source(path, sources) for path in paths]
    total = structures_in(opened)
    with contextlib.closing(Records()) as records:
        work = Check(records, opened)
        with Progress(
            "check",
            min(total, limit) if total and limit else total,
            unit="structures",
            stream=sys.stderr,
        ) as progress:
            for k, source in enumerate(opened):
                for block in source.blocks():
                    if limit is not None and work.structures + len(block) > limit:
                        met = np.arange(len(block)) < limit - work.structures
                        block = filters.select(block, met)
                    if not len(block):
                        break
                    work.add(block, k)
                    progress.update(work.structures, source.path.name)
        return _result(work)


def _result(work: Check) -> dict[str, Any]:
    seen = work.seen
    result: dict[str, Any] = {
        "sources": [
            {
                "name": s.path.name,
                "reader": s.reader,
                "keys_seen": s.keys_seen,
                "keys": s.keys,
                "group": s.group_note,
                "units": s.units.record(),
                "described": s.describe(),
            }
            for s in seen.sources
        ],
        "structures": work.structures,
        "atoms": work.atoms,
        "usable": seen.structures,
        "refused": dict(work.refused),
        "first_refused": work.first_refused,
        "element_counts": {
            SYMBOLS[z]: int(work.element_counts[z]) for z in np.flatnonzero(work.element_counts)
        },
        "consistency": [],
        "warnings": [],
    }
    problems = _refusals(result)
    if seen.structures:
        references = fit_references(seen.records.chunks)
        problems += seen.findings(references)
        result |= _measured(seen, references) | {"groups": work.groups.number}
        result["warnings"] = references.warnings + seen.warnings()
        problems += _kinds_problem(seen)
        if seen.structures == 1:
            result["warnings"].append(
                "there is one structure: training needs others to validate with (prepare --train,"
                " --validation)"
            )
        elif work.groups.number == 1:
            result["warnings"].append(
                "all structures belong to one molecule: only a split by frame is possible (prepare"
                " --group frame)"
            )
    result["problems"] = [finding.record() for finding in problems]
    result["trainable"] = not problems
    return result


def _measured(seen: Survey, references: References) -> dict[str, Any]:
    charges: Counter[int] = Counter()
    spins: Counter[int] = Counter()
    for (charge, spin), number in seen.kinds.items():
        charges[charge] += number
        spins[spin] += number
    squares, norms, largest = seen.force_sums
    return {
        "atoms_min": seen.sizes[0],
        "atoms_max": seen.sizes[1],
        "periodic": seen.periodic,
        "references": {
            "energies": {SYMBOLS[z]: e for z, e in references.energies.items()},
            "method": references.method,
            "rms_ev_per_atom": references.rms,
            "sd_ev_per_atom": references.sd,
            "by_element": {SYMBOLS[z]: v for z, v in references.by_element.items()},
            "described": reference_text(references),
            "warnings": references.warnings,
        },
        "forces": {
            "rms": float(squares / (3 * seen.atoms)) ** 0.5,
            "norm_mean": float(norms / seen.atoms),
            "norm_max": float(largest),
            "structures_above_20": seen.large_forces,
        },
        "net_force": {
            "rms_per_atom": float(seen.net_sums[0] / seen.structures) ** 0.5,
            "max_per_atom": float(seen.net_sums[1]) ** 0.5,
        },
        "stress": {"structures": int(seen.stress[0]), "largest": float(seen.stress[2])},
        "duplicates": seen.copies.duplicates,
        "conflicts": seen.copies.conflicts,
        "charges": {
            "not given" if q == NO_CHARGE else str(q): n for q, n in sorted(charges.items())
        },
        "spins": {"not given" if s == NO_SPIN else str(s): n for s, n in sorted(spins.items())},
        "bond_ratio": seen.bond_ratio,
        "energy_over_free_atoms": seen.energy_ratio,
        "consistency": [
            {
                "source": source.path.name,
                "state": v.state,
                "pairs": v.pairs,
                "slope": v.slope,
                "error": v.error,
                "text": v.text,
            }
            for source, v in zip(seen.sources, seen.verdicts)
        ],
    }


def _refusals(result: dict[str, Any]) -> list[Finding]:
    """Structures that cannot be used at all, by reason."""
    problems = []
    if not result["usable"]:
        problems.append(Finding("", "no structure has energy and forces that can be used"))
    for name, number in result["refused"].items():
        index = filters.REASONS.index(name)
        if index in filters.UNLABELLED + filters.BAD:
            flag = "--skip-unlabelled" if index in filters.UNLABELLED else "--skip-bad"
            what = f"{name}: {number:,} of {result['structures']:,} structures"
            remedy = f"correct them, or leave them out with: forcelaw data prepare {flag}"
            first = f"first: {result['first_refused'][name]}"
            problems.append(Finding("", what, first, remedy))
    return problems


def _kinds_problem(seen: Survey) -> list[Finding]:
    """Charges and spins that training refuses."""
    error = mixed_kinds(seen.kinds)
    return [Finding("", error.what, "", error.remedy)] if error else []


def text(result: dict[str, Any]) -> list[str]:
    """The findings for people."""
    lines = [line for source in result.get("sources", []) for line in source["described"]]
    if "structures" in result:
        lines += ["", *(f"{name:<14} {value}" for name, value in _rows(result)), ""]
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    for problem in result["problems"]:
        lines.append(f"problem: {problem['what']}")
        lines += [
            f"  {name + ':':<8}{problem[name]}" for name in ("where", "remedy") if problem[name]
        ]
    if result["trainable"]:
        return [*lines, "These structures can be trained on."]
    return [*lines, "These structures cannot be trained on as they are."]


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, finding) for the table of :func:`text`."""
    unusable = result["structures"] - result["usable"]
    note = f", {result['usable']:,} usable" if unusable else ""
    yield "structures", f"{result['structures']:,} with {result['atoms']:,} atoms{note}"
    yield (
        "elements",
        ", ".join(f"{symbol} {number:,}" for symbol, number in result["element_counts"].items()),
    )
    for name, number in result["refused"].items():
        yield "left out", f"{number:,}: {name} (first: {result['first_refused'][name]})"
    if result["usable"]:
        many, least, most = result["groups"], result["atoms_min"], result["atoms_max"]
        groups = (
            "more than a million groups"
            if many is None
            else "1 group"
            if many == 1
            else f"{many:,} groups"
        )
        size = f"{least} atoms each" if least == most else f"{least} to {most} atoms"
        yield (
            "molecules",
            f"{groups}, {size}"
            + (f", {result['periodic']:,} periodic" if result["periodic"] else ""),
        )
        fit, f, net = result["references"], result["forces"], result["net_force"]
        yield (
            "references",
            ", ".join(f"{symbol} {energy:.3f}" for symbol, energy in fit["energies"].items())
            + " eV",
        )
        yield (
            "energies",
            f"spread (sd) {1000 * fit['sd_ev_per_atom']:.1f} meV/atom after reference energies",
        )
        moments = f"norm mean {f['norm_mean']:.3f}, max {f['norm_max']:.2f}"
        yield "forces", f"rms {f['rms']:.3f} eV/Angstrom per component, {moments}"
        yield (
            "net force",
            f"rms {net['rms_per_atom']:.2g} eV/Angstrom per atom, max {net['max_per_atom']:.2g}",
        )
        yield "", "what is left: " + fit["described"]
        yield "duplicates", f"{result['duplicates']:,}"
        for name in ("charges", "spins"):
            yield name, ", ".join(f"{value}: {number:,}" for value, number in result[name].items())
    for item in result["consistency"]:
        yield (
            "consistency",
            item["text"] + (f" [{item['source']}]" if len(result["consistency"]) > 1 else ""),
        )
