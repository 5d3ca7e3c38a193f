"""Are the forces minus the gradient of the energies? Tested on pairs of frames that lie close
together.

For two frames a, b of the same atoms in the same order, the trapezoid rule gives

    E_b - E_a  =  -(F_a + F_b)/2 . (x_b - x_a)  +  O(|x_b - x_a|^3)

exact for a harmonic surface. Frame b is first moved onto a by the best translation and rotation
(Kabsch 1976, Acta Cryst. A32, 922), its forces with it: energies do not change, and frames that
were rotated at random become comparable. The slope of left over right is 1 for forces; -1 for
gradients stored as forces; something else for wrong units. Pairs are weighted by how far the
trapezoid can be trusted, which the forces themselves say: the one-sided estimates -F_a.dx and
-F_b.dx differ by the curvature term, and the error is a small part of that difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ... import units
from ..filters import starts
from ..readers import Block
from ..splits import splitmix64

FRAMES_PER_MOLECULE, FRAMES_IN_ALL, ATOMS_IN_ALL = 400, 20_000, 400_000
LEAST_PAIRS = 5
NEAR, FAR = 1e-6, 0.6  # Angstrom: how far the atom that moves most has moved in a close pair
TOLERANCE = 0.15  # slopes within 1 +- this are consistent
SHARP = 0.08  # largest standard error of the slope with which a verdict is worth giving
# Error of the trapezoid rule as a part of |F_a.dx - F_b.dx|: on rMD17, ANI-2x, QM7-X, GFN2-xTB and
# relaxation data the median of the true error is 0.005 to 0.04 of it, the 90th percentile 0.03 to
# 0.1
_ANHARMONIC = 0.05
_NOISE = (
    3e-4,
    0.01,
)  # eV, and part of the work: convergence of the calculation, rounding of what is printed


@dataclass(frozen=True)
class Verdict:
    """state: consistent, gradients, units, inconsistent, or not testable. slope and its standard
    error; pairs used."""

    state: str
    pairs: int
    slope: float | None
    error: float | None
    text: str
    remedy: str = ""

    @property
    def fatal(self) -> bool:
        return self.state in ("gradients", "units", "inconsistent")


@dataclass
class _Frame:
    numbers: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    energy: float
    cell: np.ndarray | None  # None for a molecule
    pbc: np.ndarray | None


class ConsistencyTest:
    """Collect frames of a stream (bounded memory), then judge. frames: at most that many."""

    def __init__(self, frames: int = FRAMES_IN_ALL) -> None:
        self._limit = frames
        self._molecules: dict[bytes, list[_Frame]] = {}
        self._frames = self._atoms = 0

    def add(self, block: Block) -> None:
        """Keep frames of the block: at most FRAMES_PER_MOLECULE for the same atoms in the same
        order."""
        first = starts(block.counts)
        for k, (start, count) in enumerate(zip(first.tolist(), block.counts.tolist())):
            if self._frames >= self._limit or self._atoms >= ATOMS_IN_ALL:
                return
            if count < 2:
                continue
            rows = slice(start, start + count)
            frames = self._molecules.setdefault(block.numbers[rows].tobytes(), [])
            if len(frames) >= FRAMES_PER_MOLECULE:
                continue
            periodic = block.pbc is not None and bool(block.pbc[k].any())
            frames.append(
                _Frame(
                    block.numbers[rows].copy(),
                    block.positions[rows].copy(),
                    block.forces[rows].copy(),
                    float(block.energies[k]),
                    block.cells[k].copy() if periodic else None,
                    block.pbc[k].copy() if periodic else None,
                )
            )
            self._frames += 1
            self._atoms += count

    def pairs(self) -> np.ndarray:
        """float64 (pairs, 3): energy difference, work by the trapezoid rule, estimated error of the
        latter; eV."""
        by_size: dict[int, list[list[_Frame]]] = {}
        for frames in self._molecules.values():
            if len(frames) > 1:
                by_size.setdefault(len(frames[0].numbers), []).append(frames)
        rows = [row for molecules in by_size.values() for row in _pairs(molecules)]
        return np.array(rows).reshape(-1, 3)

    def verdict(self) -> Verdict:
        """The judgement over all close pairs."""
        return judge(self.pairs())


def _pairs(molecules: list[list[_Frame]]) -> list[tuple[float, float, float]]:
    """Close pairs of frames of the same molecule. All molecules have as many atoms, so that one
    call of NumPy does for all of them."""
    frames = [frame for molecule in molecules for frame in molecule]
    prints = _fingerprints(np.stack([frame.positions for frame in frames]))
    found, first = [], 0
    for molecule in molecules:
        pairs = _neighbours(prints[first : first + len(molecule)])
        found += [(first + a, first + b) for a, b in pairs]
        first += len(molecule)
    free = [(a, b) for a, b in found if frames[a].cell is None and frames[b].cell is None]
    rest = [_work(frames[a], frames[b]) for a, b in sorted(set(found) - set(free))]
    works = _free_works(frames, _perhaps_close(prints, free))
    return works + [row for row in rest if row is not None]


def _perhaps_close(prints: np.ndarray, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of which no distance differs by so much that an atom must move by FAR: most are not,
    and turning one frame onto the other is dear."""
    if not pairs:
        return []
    first, second = np.array(pairs).T
    apart = np.abs(prints[first] - prints[second]).max(axis=1)
    return [pair for pair, far in zip(pairs, apart.tolist()) if far <= 2 * FAR + 1e-9]


def _neighbours(prints: np.ndarray) -> list[tuple[int, int]]:
    """Each frame of a molecule with its nearest by internal distances (f, d), and with the next of
    a trajectory."""
    found = {(a, a + 1) for a in range(len(prints) - 1)}
    if len(prints) > 2:
        squares = (prints**2).sum(axis=1)
        distance = squares[:, None] + squares[None, :] - 2 * prints @ prints.T
        np.fill_diagonal(distance, np.inf)
        nearest = distance.argmin(axis=1).tolist()
        found |= {(min(a, b), max(a, b)) for a, b in enumerate(nearest)}
    return sorted(found)


def _fingerprints(positions: np.ndarray) -> np.ndarray:
    """Distances to a few atoms, unchanged by translation and rotation: float64 (f, n * anchors), of
    frames (f, n, 3)."""
    count = positions.shape[1]
    anchors = np.linspace(0, count - 1, min(6, count)).astype(int)
    step = positions[:, :, None] - positions[:, None, anchors]
    return np.sqrt(np.einsum("fnak,fnak->fna", step, step)).reshape(len(positions), -1)


def _free_works(
    frames: list[_Frame], pairs: list[tuple[int, int]]
) -> list[tuple[float, float, float]]:
    """:func:`_row` of the close ones of ``pairs`` of frames without cells, the second frame of each
    turned onto the first."""
    if not pairs:
        return []
    first, second = np.array(pairs).T
    positions = np.stack([frame.positions for frame in frames])
    forces = np.stack([frame.forces for frame in frames])
    energies = np.array([frame.energy for frame in frames])
    centred = positions - positions.mean(axis=1, keepdims=True)
    xa, xb = centred[first], centred[second]
    left, _, right = np.linalg.svd(xb.transpose(0, 2, 1) @ xa)
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]  # no mirror images
    turn = left @ right
    step = xb @ turn - xa
    far = np.linalg.norm(step, axis=2).max(axis=1)
    one = -(forces[first] * step).sum(axis=(1, 2))
    two = -((forces[second] @ turn) * step).sum(axis=(1, 2))
    return [
        _row(float(energies[second[k]] - energies[first[k]]), float(one[k]), float(two[k]))
        for k in np.flatnonzero((far > NEAR) & (far < FAR))
    ]


def _work(a: _Frame, b: _Frame) -> tuple[float, float, float] | None:
    """:func:`_row` of two frames of which one has a cell, or None where they are not close or not
    comparable."""
    if a.cell is None or b.cell is None:
        return None
    if not (np.allclose(a.cell, b.cell, atol=1e-6) and (a.pbc == b.pbc).all()):
        return None
    step = b.positions - a.positions
    if abs(np.linalg.det(a.cell)) > 1e-9:
        fractional = step @ np.linalg.inv(a.cell)
        fractional -= np.rint(fractional) * a.pbc
        step = fractional @ a.cell
    if not NEAR < np.linalg.norm(step, axis=1).max() < FAR:
        return None
    work = -float((a.forces * step).sum()), -float((b.forces * step).sum())
    return _row(b.energy - a.energy, *work)


def _row(difference: float, one: float, two: float) -> tuple[float, float, float]:
    """(E_b - E_a, trapezoid work, its error), from the work by the forces of either frame."""
    error = _ANHARMONIC * abs(one - two) + _NOISE[0] + _NOISE[1] * abs(one + two) / 2
    return difference, (one + two) / 2, error


def judge(pairs: np.ndarray) -> Verdict:
    """Verdict from pairs (p, 3) as :meth:`ConsistencyTest.pairs` gives them."""
    if len(pairs) < LEAST_PAIRS:
        return Verdict(
            "not testable",
            len(pairs),
            None,
            None,
            f"not testable: {len(pairs)} close pairs of frames; trajectories and relaxations have"
            " them",
        )
    difference, work, error = pairs.T
    information = max(float(((work / error) ** 2).sum()), 1e-12)
    # of the slope, if forces and energies do belong together
    expected = 1.25 / information**0.5
    if expected > SHARP:
        return Verdict(
            "not testable",
            len(pairs),
            None,
            None,
            f"not testable: {len(pairs)} pairs of frames, none close enough; trajectories and"
            " relaxations are",
        )
    slope = _slope(difference, work, error)
    # a hash of the numbers is random enough, and numpy.random takes as long to import as this test
    draws = (splitmix64(np.arange(100 * len(pairs))) % np.uint64(len(pairs))).astype(np.int64)
    draws = draws.reshape(100, len(pairs))
    spread = max(
        float(np.std([_slope(difference[d], work[d], error[d]) for d in draws])),
        abs(slope) * float(expected),
    )
    scale = f"slope {slope:.3g} +- {spread:.1g} over {len(pairs)} close pairs"
    size = len(pairs), slope, spread
    if spread < TOLERANCE and abs(abs(slope) - 1) <= max(TOLERANCE, 3 * spread):
        if slope > 0:
            return Verdict(
                "consistent", *size, f"forces are minus the gradient of the energies ({scale})"
            )
        return Verdict(
            "gradients",
            *size,
            f"the forces have the wrong sign: they are gradients ({scale})",
            "pass --gradient-key with that key instead of --forces-key",
        )
    before = np.median(np.abs(difference) / error)  # nothing, where all energies are one number
    left = np.median(np.abs(difference - slope * work) / error) / before if before else math.inf
    if left < 0.5 and spread < 0.2 * abs(slope) and abs(abs(slope) - 1) > 0.25:
        return Verdict(
            "units",
            *size,
            f"energies and forces are in different units ({scale}){_named(abs(slope), spread)}",
            "give --energy-unit, --length-unit and --force-unit as they really are",
        )
    if abs(abs(slope) - 1) > max(3 * spread, TOLERANCE):
        return Verdict(
            "inconsistent",
            *size,
            f"energy differences do not follow the forces ({scale})",
            "check that energies and forces come from the same calculation and the same frames",
        )
    return Verdict(
        "not testable", *size, f"not testable: the pairs of frames lie too far apart ({scale})"
    )


def _slope(difference: np.ndarray, work: np.ndarray, error: np.ndarray) -> float:
    """Slope s that minimises sum |difference - s work| / error: the weighted median of the
    ratios."""
    usable = work != 0
    ratio, weight = difference[usable] / work[usable], np.abs(work[usable]) / error[usable]
    order = np.argsort(ratio)
    share = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(share, share[-1] / 2)])


def _named(slope: float, spread: float) -> str:
    """What the size of the slope points to, if it is sharp and a ratio of well-known units."""
    hartree, kcal, kj = (units.ENERGY[name] for name in ("hartree", "kcal/mol", "kJ/mol"))
    bohr = units.LENGTH["bohr"]
    known = {
        hartree: "one hartree in eV",
        1 / kcal: "one eV in kcal/mol",
        1 / kj: "one eV in kJ/mol",
        hartree / kcal: "one hartree in kcal/mol",
        hartree / kj: "one hartree in kJ/mol",
        kcal / kj: "one kcal in kJ",
        1 / bohr: "one Angstrom in bohr",
        hartree / bohr: "one hartree/bohr in eV/Angstrom",
        10.0: "one nm in Angstrom",
        2.0: "one hartree in rydberg",
        1000.0: "one eV in meV",
    }
    ratio = max(slope, 1 / slope)
    best = min(known, key=lambda value: abs(np.log(value / ratio)))
    if spread > 0.03 * slope or abs(np.log(best / ratio)) > 0.04:
        return ""
    return f"; the factor {ratio:.3g} is near {known[best]} ({best:.4g})"
