"""What is wrong with labels: the rules that ``data check`` and ``data prepare`` share, each with
the name under which ``prepare --allow`` lets it pass."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...elements import SYMBOLS
from ..records import Records
from ..reference import (
    ReferenceAccumulator,
    References,
    composition_of_present,
    residuals,
)
from ..splits import TRAIN, splitmix64
from .copies import Copies

# Outliers: this many robust standard deviations, at least so many eV/atom, and more than the
# forces explain: a compressed structure has a high energy *and* large forces (eV/atom per
# eV/Angstrom). A compressed crystal has no forces to show it: there high energies are outliers only
# beyond a gap, where one is GAP times the next lower one.
OUTLIER = (30.0, 1.0, 0.5)
GAP = 5.0
# Levels of theory: between two sources the mean energies of formulas that both have differ by this
# many standard errors, and by at least so many eV/atom
LEVELS = (10.0, 0.05)
FORMULAS = 20_000  # that are compared between sources
# Sources without a common formula: reference energies fitted to all of them leave so many eV/atom
# (rms), and so many times what those fitted to each source alone leave. Chemistry alone leaves
# below 1; another code, pseudopotential or zero of energy some 10 to 1000.
ALONE = (2.0, 10.0)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. name: a key of :data:`forcelaw.data.validate.ALLOWED`."""

    name: str
    what: str
    where: str = ""
    remedy: str = ""

    def record(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class Energies:
    """What reference energies leave. outliers: how many, the worst of them (record, eV/atom), and
    the robust sd, eV/atom. by_element: mean absolute residual over the structures with it."""

    outliers: int
    worst: tuple[np.void, float] | None
    sd: float
    by_element: dict[int, float]


def energy_residuals(records: Records, references: References) -> Energies:
    """Residuals of all structures, of every side; those of training are noted in ``references``."""
    table, sample = references.table(), []
    moments = np.zeros(3)
    step = max(1, records.structures // 200_000)
    sums, counts = np.zeros(len(table)), np.zeros(len(table), np.int64)
    for chunk in records.chunks():
        left = residuals(chunk, table)
        sample.append(left[::step])
        mine = left[chunk.sides == TRAIN]
        moments += len(mine), mine.sum(), (mine**2).sum()
        elements, of_structure = composition_of_present(chunk.records["atoms"], chunk.numbers)
        has = of_structure > 0
        sums[elements] += np.abs(left) @ has
        counts[elements] += has.sum(axis=0)
    references.structures = int(moments[0])
    mean, square = moments[1:] / max(moments[0], 1.0)
    references.rms, references.sd = float(square) ** 0.5, max(float(square - mean**2), 0.0) ** 0.5
    values = np.concatenate(sample)
    middle = float(np.median(values))
    sd = 1.4826 * float(np.median(np.abs(values - middle)))
    number, worst, compressed = 0, None, []
    for chunk in records.chunks():
        off = residuals(chunk, table) - middle
        explained = np.where(off > 0, OUTLIER[2] * chunk.records["largest"], 0.0)
        judged = (chunk.records["atoms"] > 1) | (chunk.records["largest"] > 0)  # no free atoms
        if references.warnings:  # not determined: nothing is known of other compositions
            judged &= chunk.sides == TRAIN
        limit = np.maximum(max(OUTLIER[0] * sd, OUTLIER[1]), explained)
        crystal = judged & (off > limit) & (chunk.records["periodic"] > 0)
        compressed.append((off[crystal], chunk.records[crystal]))
        judged &= ~crystal
        bad = np.flatnonzero(judged & (np.abs(off) > limit))
        number += len(bad)
        if len(bad):
            k = bad[np.abs(off[bad]).argmax()]
            if worst is None or abs(off[k]) > abs(worst[1]):
                worst = chunk.records[k], float(off[k])
    apart, records_apart = beyond_gap(compressed, max(OUTLIER[0] * sd, OUTLIER[1]))
    number += len(apart)
    if len(apart) and (worst is None or apart[-1] > abs(worst[1])):
        worst = records_apart[-1], float(apart[-1])
    by_element = {int(z): float(sums[z] / counts[z]) for z in np.flatnonzero(counts)}
    return Energies(number, worst, sd, by_element)


def beyond_gap(
    parts: list[tuple[np.ndarray, np.ndarray]], limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of deviations above ``limit`` and their records, those beyond the first gap, ascending."""
    off, records = (np.concatenate(column) for column in zip(*parts))
    order = np.argsort(off)
    off, records = off[order], records[order]
    gaps = np.flatnonzero(off > GAP * np.concatenate([[limit], off[:-1]]))
    first = gaps[0] if len(gaps) else len(off)
    return off[first:], records[first:]


class FormulaEnergies:
    """Mean energies of formulas by source, to compare levels of theory; bounded memory."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], np.ndarray] = {}
        self._mixers = splitmix64(np.arange(119, dtype=np.uint64))

    def add(
        self, source: int, elements: np.ndarray, table: np.ndarray, energies: np.ndarray
    ) -> None:
        """table (s, k): atoms of each of the elements (k,); energies (s,) eV."""
        mixed = table.astype(np.uint64) * self._mixers[elements]
        hashes = mixed.sum(axis=1, dtype=np.uint64)
        keys, first, place = np.unique(hashes, return_index=True, return_inverse=True)
        per_atom = energies / table.sum(axis=1)
        entries = [self._entry(key, source, per_atom[k]) for key, k in zip(keys.tolist(), first)]
        # relative to the first energy of each formula, so that squares keep their digits
        off = per_atom - np.array([entry[3] for entry in entries])[place]
        sums = [np.bincount(place, values) for values in (np.ones(len(off)), off, off**2)]
        for entry, row in zip(entries, np.transpose(sums)):
            entry[:3] += row

    def _entry(self, key: int, source: int, shift: float) -> np.ndarray:
        """Number, sum and sum of squares of what is added, and the shift; a new one is forgotten
        where there are too many."""
        entry = self._sums.get((key, source), np.array([0.0, 0.0, 0.0, shift]))
        if len(self._sums) < FORMULAS:
            self._sums[key, source] = entry
        return entry

    def apart(self) -> tuple[int, int, float, int] | None:
        """(source, other source, eV/atom, formulas) of the pair that is furthest apart, if levels
        differ: the median over the formulas that both have.

        Another level moves all formulas. One formula alone may be far apart where each source has
        other isomers of it, so that single ones say nothing where there are many.
        """
        by_formula: dict[int, list[tuple[int, float, float]]] = {}
        for (key, source), (n, total, squares, shift) in self._sums.items():
            mean = total / n
            found = (source, shift + mean, max(squares / n - mean**2, 0.0))
            by_formula.setdefault(key, []).append(found)
        pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for entries in by_formula.values():
            for a, b in pairwise(entries):
                pairs.setdefault((a[0], b[0]), []).append((b[1] - a[1], (a[2] + b[2]) / 2))
        worst = None
        for (a, b), found in pairs.items():
            off, within = np.transpose(found)
            middle = float(np.median(off))
            between = 1.4826 * float(np.median(np.abs(off - middle)))
            sd = max(between, float(np.mean(within)) ** 0.5)
            least = max(LEVELS[0] * sd / len(off) ** 0.5, LEVELS[1])
            if abs(middle) > max(least, abs(worst[2]) if worst else 0.0):
                worst = a, b, middle, len(off)
        return worst


def left_together(records: Records) -> tuple[float, float] | None:
    """Of sources that do not fit together: what reference energies leave that are fitted to each
    source alone, and to all; rms, eV/atom. None if they may."""
    together, alone = (
        ReferenceAccumulator(),
        defaultdict[int, ReferenceAccumulator](ReferenceAccumulator),
    )
    for chunk in records.chunks():
        counts, energies = chunk.records["atoms"], chunk.records["energy"]
        together.add(counts, chunk.numbers, energies)
        for source in np.unique(chunk.records["source"]):
            of = chunk.records["source"] == source
            numbers = chunk.numbers[np.repeat(of, counts)]
            alone[int(source)].add(counts[of], numbers, energies[of])
    if len(alone) < 2:
        return None
    for sums in (together, *alone.values()):
        sums.solve()
    squares = sum(sums.structures * sums.rms_residual**2 for sums in alone.values())
    each = float(squares / together.structures) ** 0.5
    least, times = ALONE
    return (
        (each, together.rms_residual) if together.rms_residual > max(least, times * each) else None
    )


def energy_findings(energies: Energies, place: Any) -> list[Finding]:
    """place: of a record, for messages."""
    if energies.worst is None:
        return []
    record, off = energies.worst
    return [
        Finding(
            "energies",
            f"energies far from all others after reference energies: {energies.outliers:,}"
            f" structures, the worst by {off:,.4g} eV/atom (robust sd {energies.sd:.3g})",
            place(record),
            "correct or remove them; a wrong unit, a failed calculation or another level of theory"
            " does this",
        )
    ]


def copy_findings(copies: Copies, place: Any) -> list[Finding]:
    out = []
    for name, number, what, remedy in (
        (
            "conflicts",
            copies.conflicts,
            f"geometries come with different energies, up to {copies.apart:.4g} eV apart",
            "find out which energy is right; different charge, spin or settings do this",
        ),
        (
            "leaks",
            copies.leaks,
            "structures of validation or test have the geometry of a training structure",
            "pass --drop-duplicates",
        ),
    ):
        if number:
            a, b = copies.first[name]
            out.append(Finding(name, f"{number:,} {what}", f"{place(a)}, and {place(b)}", remedy))
    return out


def force_findings(largest: float, structures: int) -> list[Finding]:
    if structures and largest == 0.0:
        return [
            Finding(
                "forces",
                "all forces are zero",
                remedy="name the right key with --forces-key; zeros may stand for missing forces",
            )
        ]
    return []


def reference_text(references: References) -> str:
    """What references leave, in one line."""
    parts = ", ".join(
        f"{SYMBOLS[z]} {1000 * value:.1f}" for z, value in references.by_element.items()
    )
    return f"{1000 * references.rms:.1f} meV/atom (rms); by element, mean: {parts}"
