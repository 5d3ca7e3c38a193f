"""Atomic reference energies by least squares, over a stream of structures; memory does not grow
with their number.

The model is E = sum over elements of n_z e_z, no intercept. :func:`fit_references` counts errors
per atom, as the loss does, and bounds the pull of outliers; ReferenceAccumulator is the least
squares beneath it. Rather than normal equations, whose condition number is the square, it carries
the triangular factor R of [counts | energies] along, block by block (sequential TSQR; Golub & Van
Loan, *Matrix Computations*, 5.2 and 6.5): that holds everything that least squares needs, to full
float64 precision even when energies are -1e5 eV and residuals meV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..elements import MAX_Z, SYMBOLS
from ..errors import DataError
from .records import Chunk
from .splits import TRAIN

if TYPE_CHECKING:
    from .pack import Pack

# Singular values below this, relative to the largest, count as zero. Exact collinearity shows as
# 1e-15; an element that occurs once in a billion structures shows as 1e-6.
RANK_TOLERANCE = 1e-11
# Errors beyond this many robust standard deviations count linearly (Huber 1964, Ann. Math. Stat.
# 35, 73): far enough out to leave ordinary data to least squares, and one wrong energy cannot pull
BEND = 5.0
SAMPLE = 20_000  # structures that the bend is found on


def composition(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Atoms of each element in each structure: int64 (structures, 119).

    counts: (structures,) atoms of each; numbers: (sum(counts),) atomic numbers, concatenated.
    """
    elements, table = composition_of_present(counts, numbers)
    out = np.zeros((len(counts), MAX_Z + 1), np.int64)
    out[:, elements] = table
    return out


def composition_of_present(
    counts: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same of the elements that occur alone, which are few: their atomic numbers, ascending
    (k,), and atoms, int64 (structures, k)."""
    elements = np.flatnonzero(np.bincount(numbers, minlength=MAX_Z + 1))
    width, column = len(elements), np.zeros(MAX_Z + 1, np.int64)
    column[elements] = np.arange(width)
    cells = np.repeat(np.arange(len(counts), dtype=np.int64) * width, counts)
    cells += column[numbers]
    table = np.bincount(cells, minlength=len(counts) * width)
    return elements, table.reshape(len(counts), width)


class ReferenceAccumulator:
    """Fit atomic reference energies to a stream of structures.

    add(...) as often as needed, then solve() -> {atomic number: eV}. After solve():
    warnings          list of sentences for the user; empty when the fit is well determined
    rms_residual      root mean square of (E - sum e_z)/n over structures, eV/atom
    sd_per_atom       standard deviation of the same, eV/atom
    """

    def __init__(self) -> None:
        self.structures = 0
        self.element_counts = np.zeros(MAX_Z + 1, np.int64)
        self.warnings: list[str] = []
        self.rms_residual = self.sd_per_atom = float("nan")
        self._elements = np.zeros(0, np.int64)  # columns of the factors, in order of appearance
        self._total = np.zeros((0, 1))  # R of [counts | E]
        self._per_atom = np.zeros((0, 1))  # R of [counts/n | E/n]
        self._sums = np.zeros(1)  # column sums of [counts/n | E/n]

    def add(
        self,
        counts: np.ndarray,
        numbers: np.ndarray,
        energies: np.ndarray,
        scales: np.ndarray | None = None,
    ) -> None:
        """Add structures. counts (s,) atoms of each, numbers (sum(counts),), energies (s,) total in
        eV. scales (s,): what each one's error is multiplied by before it is squared, 1 by
        default."""
        if not len(counts):
            return
        elements, table = composition_of_present(counts, numbers)
        self.element_counts[elements] += table.sum(axis=0)
        new = np.setdiff1d(elements, self._elements)
        if len(new):
            self._elements = np.concatenate([self._elements, new])
            self._total, self._per_atom = (
                _widen(r, len(new)) for r in (self._total, self._per_atom)
            )
            self._sums = np.concatenate([self._sums[:-1], np.zeros(len(new)), self._sums[-1:]])
        rows = np.zeros((len(counts), len(self._elements) + 1))
        order = np.argsort(self._elements)
        rows[:, order[np.searchsorted(self._elements, elements, sorter=order)]] = table
        rows[:, -1] = energies
        scaled = rows if scales is None else rows * scales[:, None]
        self._total = np.linalg.qr(np.vstack([self._total, scaled]), mode="r")
        rows /= np.asarray(counts, np.float64)[:, None]
        self._per_atom = np.linalg.qr(np.vstack([self._per_atom, rows]), mode="r")
        self._sums += rows.sum(axis=0)
        self.structures += len(counts)

    def solve(self) -> dict[int, float]:
        """Least-squares reference energies in eV by atomic number, for the elements that occurred,
        ascending.

        Where the compositions do not determine them (one molecule only; elements that always come
        together in the same ratio) the solution of minimum norm is used, and ``warnings`` says so
        and what it means.
        """
        if not self.structures:
            raise DataError("no structures to fit reference energies to")
        factor, width = self._total, len(self._elements)
        solution, _, rank, _ = np.linalg.lstsq(
            factor[:, :width], factor[:, width], rcond=RANK_TOLERANCE
        )
        self.warnings = []
        if rank < width:
            names = ", ".join(SYMBOLS[z] for z in sorted(self._elements))
            self.warnings.append(
                f"these compositions do not determine the reference energies of {names} (rank"
                f" {rank} of {width}): the minimum-norm solution was used; it centres these"
                " compositions and says nothing about others"
            )
        residual = self._per_atom[:, width] - self._per_atom[:, :width] @ solution
        square = float(residual @ residual) / self.structures
        mean = float(self._sums[width] - self._sums[:width] @ solution) / self.structures
        self.rms_residual = square**0.5
        self.sd_per_atom = max(square - mean**2, 0.0) ** 0.5
        by_z = sorted(zip(self._elements.tolist(), solution.tolist()))
        return {int(z): float(value) for z, value in by_z}


@dataclass
class References:
    """Reference energies, and what they leave.

    energies: eV by atomic number. method: how they were found, in words. What they leave is filled
    in by :meth:`forcelaw.data.validate.survey.Survey.findings`, wherever they come from: rms, sd of
    (E - sum e_z)/n over the training structures, eV/atom, and their number; by_element: the mean of
    its absolute value over the structures with each element.
    """

    energies: dict[int, float]
    method: str
    warnings: list[str] = field(default_factory=list)
    rms: float = float("nan")
    sd: float = float("nan")
    by_element: dict[int, float] = field(default_factory=dict)
    structures: int = 0

    def table(self) -> np.ndarray:
        """(119,) eV by atomic number; zero where there is none."""
        out = np.zeros(MAX_Z + 1)
        out[list(self.energies)] = list(self.energies.values())
        return out


def residuals(chunk: Chunk, references: np.ndarray) -> np.ndarray:
    """(E - sum e_z)/n of each structure of a chunk, eV/atom. references: (119,) eV."""
    counts = chunk.records["atoms"]
    ends = np.cumsum(counts)
    sums = np.add.reduceat(references[chunk.numbers], ends - counts)
    out: np.ndarray = (chunk.records["energy"] - sums) / counts
    return out


def fit_references(chunks: Callable[[], Iterator[Chunk]], *, plain: bool = False) -> References:
    """Reference energies from the training structures of a stream that can be read again.

    Minimises the sum over structures of Huber's loss of the error per atom, which bends at BEND
    robust standard deviations. The bend is found on a sample of at most SAMPLE structures by
    iterated weights, then one pass over all makes the least squares with these weights. plain: the
    least squares of total energies instead, each structure counted once (packs before 2026-11-29).
    """
    if plain:
        return _solved(chunks, None, "least squares on total energies, float64")
    guide = _guide(chunks)
    text = f"Huber's loss of the error per atom, bent at {BEND:g} robust sd, float64"
    return _solved(chunks, guide, text)


def _solved(
    chunks: Callable[[], Iterator[Chunk]], guide: tuple[np.ndarray, float] | None, method: str
) -> References:
    sums = ReferenceAccumulator()
    for chunk in map(training, chunks()):
        counts = chunk.records["atoms"]
        scales = None
        if guide:
            far = (
                np.abs(residuals(chunk, guide[0])) / guide[1] if guide[1] else np.zeros(len(counts))
            )
            scales = np.sqrt(_weights(far)) / counts
        sums.add(counts, chunk.numbers, chunk.records["energy"], scales)
    return References(sums.solve(), method, sums.warnings)


def training(chunk: Chunk) -> Chunk:
    """The training structures of a chunk."""
    keep = chunk.sides == TRAIN
    if keep.all():
        return chunk
    atoms = np.repeat(keep, chunk.records["atoms"])
    return Chunk(chunk.records[keep], chunk.sides[keep], chunk.numbers[atoms])


def _guide(chunks: Callable[[], Iterator[Chunk]]) -> tuple[np.ndarray, float]:
    """Reference energies (119,) and robust standard deviation of the error per atom, of a sample of
    the training structures, by iteratively reweighted least squares."""
    table, energies, present = _sample(chunks)
    design = table / table.sum(axis=1)[:, None]
    per_atom = energies / table.sum(axis=1)
    weights, solution, scale = np.ones(len(design)), np.zeros(len(present)), 0.0
    for _ in range(50):
        root = np.sqrt(weights)
        before = solution
        solution = np.linalg.lstsq(design * root[:, None], per_atom * root, rcond=RANK_TOLERANCE)[0]
        left = np.abs(per_atom - design @ solution)
        scale = 1.4826 * float(np.median(left))
        if scale <= 1e-12 * float(np.abs(per_atom).max(initial=1.0)):
            scale = 0.0  # exact for half of the structures or more: nothing to weigh by
            break
        weights = _weights(left / scale)
        if np.abs(design @ (solution - before)).max(initial=0.0) < 1e-3 * scale:
            break
    references = np.zeros(MAX_Z + 1)
    references[present] = solution
    return references, scale


def _weights(far: np.ndarray) -> np.ndarray:
    """Huber's weights of errors in robust standard deviations."""
    return np.minimum(1.0, BEND / np.maximum(far, BEND))


def _sample(
    chunks: Callable[[], Iterator[Chunk]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every so-manieth training structure: its atoms of each element (m, k) and energy (m,); the
    elements (k,)."""
    elements = np.zeros(0, np.int64)
    table, energies = np.zeros((0, 0), np.int32), np.zeros(0)
    step, seen = 1, 0
    for chunk in map(training, chunks()):
        counts = chunk.records["atoms"]
        take = (seen + np.arange(len(counts))) % step == 0
        seen += len(counts)
        numbers = chunk.numbers if take.all() else chunk.numbers[np.repeat(take, counts)]
        present, more = composition_of_present(counts[take], numbers)
        elements = np.concatenate([elements, np.setdiff1d(present, elements)])
        before, table = table, np.zeros((len(table) + len(more), len(elements)), np.int32)
        table[: len(before), : before.shape[1]] = before
        order = np.argsort(elements)
        table[len(before) :, order[np.searchsorted(elements, present, sorter=order)]] = more
        energies = np.concatenate([energies, chunk.records["energy"][take]])
        while len(energies) > SAMPLE:  # keep every second one, and read on at that step
            table, energies, step = table[::2], energies[::2], 2 * step
    if not seen:
        raise DataError("no structures to fit reference energies to")
    return table, energies, elements


def _widen(factor: np.ndarray, columns: int) -> np.ndarray:
    """Insert zero columns for new elements before the last column (the energies)."""
    return np.column_stack([factor[:, :-1], np.zeros((len(factor), columns)), factor[:, -1:]])


def baseline(counts: np.ndarray, numbers: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Sum of reference energies of each structure: float64 (structures,) eV. references: (119,) eV
    by atomic number."""
    return composition(counts, numbers) @ np.asarray(references, np.float64)


def without_model(pack: Pack, rows: np.ndarray) -> dict[str, float]:
    """Errors of the reference energies of ``pack`` alone, with zero forces, on structures ``rows``,
    in the columns of a run's evaluations: loss_energy (eV/atom), loss_forces (eV/Angstrom),
    energy_mae (meV/atom), force_mae (meV/Angstrom, mean over components)."""
    table, (energy, norms, components, atoms) = pack.reference_energies(), (0.0, 0.0, 0.0, 0)
    for row in np.sort(rows):
        part = slice(int(pack.offsets[row]), int(pack.offsets[row + 1]))
        forces, count = pack.vectors("forces", part), part.stop - part.start
        base = table[pack.numbers[part]].sum()
        energy += abs(float(pack.energies[row]) - base) / count
        norms += float(np.linalg.norm(forces, axis=1).sum())
        components += float(np.abs(forces).sum())
        atoms += count
    energy, count = energy / max(1, len(rows)), max(1, atoms)
    return {
        "loss_energy": energy,
        "loss_forces": norms / count,
        "energy_mae": 1e3 * energy,
        "force_mae": 1e3 * components / (3 * count),
    }
