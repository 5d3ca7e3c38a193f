"""Can these structures be trained on? One pass over the sources, a verdict, and the numbers behind
it."""

from __future__ import annotations

import hashlib
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
from ..readers import Block, Source, SourceOptions, open_source
from ..reference import ForceAccumulator, ReferenceAccumulator, composition
from .force_energy import ConsistencyTest, Verdict
from .units import bond_ratios, energy_doubt, free_atoms, length_doubt

_MEASURED = 2000  # structures whose bond lengths are looked at
LARGE_FORCE = 20.0  # eV/Angstrom


class Survey:
    """Everything that is counted over the stream."""

    def __init__(self) -> None:
        self.structures = self.atoms = self.usable = 0
        self.refused: Counter[str] = Counter()
        self.first_refused: dict[str, str] = {}
        self.references = ReferenceAccumulator()
        self.groups = GroupCounter()
        self.element_counts = np.zeros(119, np.int64)
        self.sizes = [10**9, 0]
        self.forces = ForceAccumulator()
        self.large_forces = 0
        self.net: list[np.ndarray] = []
        self.charges: Counter[int] = Counter()
        self.spins: Counter[int] = Counter()
        self.periodic = 0
        self.hashes: list[np.ndarray] = []
        self.bond_ratios: list[np.ndarray] = []
        self.unit_sums = np.zeros(2)  # energies, and sums of free-atom energies, eV

    def add(self, block: Block) -> Block:
        """Count a block; returns the structures of it that can be used."""
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
            self.usable += len(block)
            self._labels(block)
            self._geometry(block)
        return block

    def _labels(self, block: Block) -> None:
        self.references.add(block.counts, block.numbers, block.energies)
        first = filters.starts(block.counts)
        largest = np.sqrt(np.maximum.reduceat(self.forces.add(block.forces), first))
        self.large_forces += int((largest > LARGE_FORCE).sum())
        net = np.add.reduceat(block.forces, first, axis=0) / block.counts[:, None]
        self.net.append(np.linalg.norm(net, axis=1).astype(np.float32))
        for name, counter, absent in (
            ("charges", self.charges, NO_CHARGE),
            ("spins", self.spins, NO_SPIN),
        ):
            values = getattr(block, name)
            values = np.full(len(block), absent, np.int8) if values is None else values
            counter.update(dict(zip(*(x.tolist() for x in np.unique(values, return_counts=True)))))
        free = free_atoms(composition(block.counts, block.numbers))
        known = np.isfinite(free)
        self.unit_sums += block.energies[known].sum(), free[known].sum()

    def _geometry(self, block: Block) -> None:
        self.sizes = [
            min(self.sizes[0], int(block.counts.min())),
            max(self.sizes[1], int(block.counts.max())),
        ]
        if block.pbc is not None:
            self.periodic += int(block.pbc.any(axis=1).sum())
        self.groups.add(group_hashes(block))
        rounded = np.rint(block.positions * 1e4).astype(np.int64)
        ends = np.cumsum(block.counts).tolist()
        rows = list(map(slice, filters.starts(block.counts).tolist(), ends))
        hashes = [_hash(block.numbers[r].tobytes() + rounded[r].tobytes()) for r in rows]
        self.hashes.append(np.array(hashes, np.uint64))
        for r in rows[: max(0, _MEASURED - len(self.bond_ratios))]:
            self.bond_ratios.append(bond_ratios(block.numbers[r], block.positions[r]))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


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
        problem = _problem(error.what, error.remedy, error.where)
        result = {"trainable": False, "problems": [problem], "warnings": []}
    print(json.dumps(result, indent=1) if as_json else "\n".join(text(result)))
    return 0 if result["trainable"] else 1


def survey(
    paths: Iterable[str | Path], sources: SourceOptions | None = None, *, limit: int | None = None
) -> dict[str, Any]:
    """Read everything (or the first ``limit`` structures) and return all findings as plain JSON
    values."""
    opened = [open_source(path, sources) for path in paths]
    seen, verdicts = Survey(), []
    known = [source.structures for source in opened]
    total = None if None in known else sum(known)
    with Progress(
        "check",
        min(total, limit) if total and limit else total,
        unit="structures",
        stream=sys.stderr,
    ) as progress:
        for source in opened:
            test = ConsistencyTest()
            for block in source.blocks():
                if limit is not None and seen.structures + len(block) > limit:
                    block = filters.select(block, np.arange(len(block)) < limit - seen.structures)
                if not len(block):
                    break
                test.add(seen.add(block))
                progress.update(seen.structures, source.path.name)
            verdicts.append(
                test.verdict()
                if seen.usable
                else Verdict("not testable", 0, None, None, "nothing to test")
            )
    return _result(opened, seen, verdicts)


def _result(opened: list[Source], seen: Survey, verdicts: list[Verdict]) -> dict[str, Any]:
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
            for s in opened
        ],
        "structures": seen.structures,
        "atoms": seen.atoms,
        "usable": seen.usable,
        "refused": dict(seen.refused),
        "first_refused": seen.first_refused,
        "element_counts": {
            SYMBOLS[z]: int(seen.element_counts[z]) for z in np.flatnonzero(seen.element_counts)
        },
    }
    if seen.usable:
        energies = seen.references.solve()
        net, hashes = np.concatenate(seen.net).astype(np.float64), np.concatenate(seen.hashes)
        ratios = np.concatenate(seen.bond_ratios) if seen.bond_ratios else np.zeros(0)
        result |= {
            "groups": seen.groups.number,
            "atoms_min": seen.sizes[0],
            "atoms_max": seen.sizes[1],
            "periodic": seen.periodic,
            "references": {
                "energies": {SYMBOLS[z]: e for z, e in energies.items()},
                "sd_ev_per_atom": seen.references.sd_per_atom,
                "warnings": seen.references.warnings,
            },
            "forces": {
                "rms": seen.forces.rms,
                "norm_mean": seen.forces.norm_mean,
                "norm_max": seen.forces.norm_max,
                "structures_above_20": seen.large_forces,
            },
            "net_force": {
                "rms_per_atom": float(np.sqrt((net**2).mean())),
                "max_per_atom": float(net.max()),
            },
            "duplicates": len(hashes) - len(np.unique(hashes)),
            "charges": {
                "not given" if q == NO_CHARGE else str(q): n
                for q, n in sorted(seen.charges.items())
            },
            "spins": {
                "not given" if s == NO_SPIN else str(s): n for s, n in sorted(seen.spins.items())
            },
            "bond_ratio": float(np.median(ratios)) if len(ratios) else None,
            "energy_over_free_atoms": (
                float(seen.unit_sums[0] / seen.unit_sums[1]) if seen.unit_sums[1] else None
            ),
        }
    result["consistency"] = [
        {
            "source": s.path.name,
            "state": v.state,
            "pairs": v.pairs,
            "slope": v.slope,
            "error": v.error,
            "text": v.text,
        }
        for s, v in zip(opened, verdicts)
    ]
    result["problems"] = _problems(result, opened, verdicts)
    result["warnings"] = _warnings(result) if seen.usable else []
    result["trainable"] = not result["problems"]
    return result


def _problem(what: str, remedy: str = "", where: str = "") -> dict[str, str]:
    return {"what": what, "where": where, "remedy": remedy}


def _problems(
    result: dict[str, Any], opened: list[Source], verdicts: list[Verdict]
) -> list[dict[str, str]]:
    """What stands in the way of training: what, where, remedy."""
    problems = []
    if not result["usable"]:
        problems.append(_problem("no structure has energy and forces that can be used"))
    for name, number in result["refused"].items():
        index = filters.REASONS.index(name)
        if index in filters.UNLABELLED + filters.BAD:
            flag = "--skip-unlabelled" if index in filters.UNLABELLED else "--skip-bad"
            what = f"{name}: {number:,} of {result['structures']:,} structures"
            remedy = f"correct them, or leave them out with: forcelaw data prepare {flag}"
            first = f"first: {result['first_refused'][name]}"
            problems.append(_problem(what, remedy, first))
    for source, verdict in zip(opened, verdicts):
        if verdict.fatal:
            problems.append(_problem(verdict.text, verdict.remedy, str(source.path)))
    used = {source.units.energy for source in opened}
    doubts = [length_doubt(result.get("bond_ratio"))]
    if len(used) == 1:
        doubts.append(energy_doubt(result.get("energy_over_free_atoms"), used.pop()))
    problems += [_problem(*doubt) for doubt in doubts if doubt]
    return problems


def _warnings(result: dict[str, Any]) -> list[str]:
    """What does not forbid training and should be known."""
    out, forces = list(result["references"]["warnings"]), result["forces"]
    if result["groups"] == 1:
        out.append(
            "all structures belong to one molecule: only a split by frame is possible (prepare"
            " --group frame)"
        )
    if forces["structures_above_20"]:
        out.append(
            f"{forces['structures_above_20']:,} structures have a force above {LARGE_FORCE:.0f}"
            f" eV/Angstrom on an atom (max {forces['norm_max']:.1f}); prepare --max-force leaves"
            " them out"
        )
    if result["net_force"]["rms_per_atom"] > 0.05 * forces["rms"]:
        out.append(
            f"forces do not sum to zero: {result['net_force']['rms_per_atom']:.3f} eV/Angstrom per"
            " atom (rms); fixed atoms, an outer field, or atoms in another order than their forces"
            " do this"
        )
    if result["duplicates"]:
        out.append(
            f"{result['duplicates']:,} structures repeat another (same atoms, same positions to"
            " 0.0001 Angstrom)"
        )
    if len(result["charges"]) > 1:
        out.append(
            "structures of different charge are mixed: a model that does not see the charge cannot"
            " distinguish them (prepare --only-neutral keeps the neutral ones)"
        )
    return out


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
        yield "duplicates", f"{result['duplicates']:,}"
        for name in ("charges", "spins"):
            yield name, ", ".join(f"{value}: {number:,}" for value, number in result[name].items())
    for item in result["consistency"]:
        yield (
            "consistency",
            item["text"] + (f" [{item['source']}]" if len(result["consistency"]) > 1 else ""),
        )
