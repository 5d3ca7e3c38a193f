"""Sums over a stream of structures: atomic reference energies by least squares, and sizes of
forces. Memory does not grow with the number of structures.

The model is E = sum over elements of n_z e_z (no intercept), every structure with weight one.
Rather than normal equations, whose condition number is the square, the triangular factor R of
[counts | energies] is carried along and updated block by block (sequential TSQR; Golub & Van Loan,
*Matrix Computations*, 5.2 and 6.5): it holds everything that least squares needs, to full float64
precision even when energies are -1e5 eV and residuals meV.
"""

from __future__ import annotations

import numpy as np

from ..elements import MAX_Z, SYMBOLS
from ..errors import DataError

# Singular values below this, relative to the largest, count as zero. Exact collinearity shows as
# 1e-15; an element that occurs once in a billion structures shows as 1e-6.
RANK_TOLERANCE = 1e-11


def composition(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Atoms of each element in each structure: int64 (structures, 119).

    counts: (structures,) atoms of each; numbers: (sum(counts),) atomic numbers, concatenated.
    """
    width = MAX_Z + 1
    owner = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return np.bincount(owner * width + numbers, minlength=len(counts) * width).reshape(-1, width)


class ForceAccumulator:
    """Root mean square of force components, mean and largest norm, of a stream; eV/Angstrom."""

    def __init__(self) -> None:
        self.atoms = 0
        self._squares = self._norms = self.norm_max = 0.0

    def add(self, forces: np.ndarray) -> np.ndarray:
        """Add forces (a, 3); returns their squared norms (a,)."""
        squares = np.einsum("ij,ij->i", forces, forces)
        norms = np.sqrt(squares)
        self.atoms += len(forces)
        self._squares += float(squares.sum())
        self._norms += float(norms.sum())
        self.norm_max = max(self.norm_max, float(norms.max()))
        return squares

    @property
    def rms(self) -> float:
        """Root mean square of a component."""
        return (self._squares / (3 * max(self.atoms, 1))) ** 0.5

    @property
    def norm_mean(self) -> float:
        return self._norms / max(self.atoms, 1)


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

    def add(self, counts: np.ndarray, numbers: np.ndarray, energies: np.ndarray) -> None:
        """Add structures. counts (s,) atoms of each, numbers (sum(counts),), energies (s,) total in
        eV."""
        if not len(counts):
            return
        table = composition(counts, numbers)
        seen = table.sum(axis=0)
        self.element_counts += seen
        new = np.setdiff1d(np.flatnonzero(seen), self._elements)
        if len(new):
            self._elements = np.concatenate([self._elements, new])
            self._total, self._per_atom = (
                _widen(r, len(new)) for r in (self._total, self._per_atom)
            )
            self._sums = np.concatenate([self._sums[:-1], np.zeros(len(new)), self._sums[-1:]])
        rows = np.column_stack(
            [table[:, self._elements].astype(np.float64), np.asarray(energies, np.float64)]
        )
        self._total = np.linalg.qr(np.vstack([self._total, rows]), mode="r")
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


def _widen(factor: np.ndarray, columns: int) -> np.ndarray:
    """Insert zero columns for new elements before the last column (the energies)."""
    return np.column_stack([factor[:, :-1], np.zeros((len(factor), columns)), factor[:, -1:]])


def baseline(counts: np.ndarray, numbers: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Sum of reference energies of each structure: float64 (structures,) eV. references: (119,) eV
    by atomic number."""
    return composition(counts, numbers) @ np.asarray(references, np.float64)
