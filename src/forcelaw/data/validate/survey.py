"""What is counted over a stream of structures, and what is wrong with them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .. import filters
from ..readers import Block, Source
from ..records import QUANTUM, Records
from ..reference import References, composition_of_present
from .copies import find_copies
from .findings import (
    ALONE,
    Finding,
    FormulaEnergies,
    copy_findings,
    energy_findings,
    energy_residuals,
    force_findings,
    left_together,
)
from .force_energy import FRAMES_IN_ALL, ConsistencyTest
from .kinds import kinds_of
from .units import bond_ratios, energy_doubt, free_atom_energies, length_doubt

_MEASURED = 2000  # structures whose bond lengths are looked at
LARGE_FORCE = 20.0  # eV/Angstrom


class Survey:
    """What is counted over a stream of usable structures, for ``data check`` and ``data prepare``
    alike. Memory does not grow with the stream.

    frames: structures of each source on which forces are compared with energies.
    """

    def __init__(
        self, records: Records, sources: list[Source], frames: int = FRAMES_IN_ALL
    ) -> None:
        self.records, self.sources = records, sources
        self.tests = [ConsistencyTest(frames) for _ in sources]
        self.element_counts = np.zeros(119, np.int64)
        self.atoms = 0
        self.sizes = [10**9, 0]
        self.large_forces = 0
        self.force_sums = np.zeros(3)  # squares, norms, largest norm
        self.net_sums = np.zeros(2)  # of squares of the net force per atom, and the largest
        self.kinds: Counter[tuple[int, int]] = Counter()  # (charge, spin)
        self.periodic = 0
        self.stress = np.zeros(3)  # structures that have one, those where it is zero, the largest
        self.bond_ratios: list[np.ndarray] = []
        self._unmeasured = _MEASURED
        self.unit_sums = np.zeros(2)  # energies, and sums of free-atom energies, eV
        self.formulas = FormulaEnergies()

    @property
    def structures(self) -> int:
        return self.records.structures

    def add(
        self,
        block: Block,
        *,
        source: int = 0,
        sides: np.ndarray | None = None,
        configs: np.ndarray | None = None,
    ) -> None:
        """Count a block of usable structures. sides, configs (s,): as in the pack."""
        if not len(block):
            return
        squares = np.einsum("ij,ij->i", block.forces, block.forces)
        self.records.add(block, squares, source=source, sides=sides, configs=configs)
        self.atoms += len(block.numbers)
        if source < len(self.tests):
            self.tests[source].add(block)
        self._forces(block, squares)
        self._energies(block, source)
        self._state(block)

    def _forces(self, block: Block, squares: np.ndarray) -> None:
        first = filters.starts(block.counts)
        norms = np.sqrt(squares)
        largest = np.maximum.reduceat(norms, first)
        self.large_forces += int((largest > LARGE_FORCE).sum())
        most = max(float(largest.max()), self.force_sums[2])
        self.force_sums += squares.sum(), norms.sum(), 0.0
        self.force_sums[2] = most
        net = np.add.reduceat(block.forces, first, axis=0) / block.counts[:, None]
        net = np.einsum("ij,ij->i", net, net)
        self.net_sums = np.array([self.net_sums[0] + net.sum(), max(self.net_sums[1], net.max())])

    def _energies(self, block: Block, source: int) -> None:
        elements, table = composition_of_present(block.counts, block.numbers)
        self.element_counts[elements] += table.sum(axis=0)
        free = free_atom_energies(elements, table)
        known = np.isfinite(free)
        self.unit_sums += block.energies[known].sum(), free[known].sum()
        if len(self.sources) > 1:
            self.formulas.add(source, elements, table, block.energies)

    def _state(self, block: Block) -> None:
        """Sizes, charges, spins, cells, stress and bond lengths."""
        least, most = int(block.counts.min()), int(block.counts.max())
        self.sizes = [min(self.sizes[0], least), max(self.sizes[1], most)]
        if block.pbc is not None:
            self.periodic += int(block.pbc.any(axis=1).sum())
        kinds = kinds_of(block.charges, block.spins, len(block)).view(np.int16)
        for code, number in zip(*np.unique(kinds, return_counts=True)):
            charge, spin = np.array([code]).view(np.int8).tolist()
            self.kinds[charge, spin] += int(number)
        if block.stresses is not None:
            sizes = np.abs(block.stresses).max(axis=(1, 2))
            given = sizes[np.isfinite(sizes)]
            most = max(self.stress[2], float(given.max(initial=0.0)))
            self.stress = np.array(
                [self.stress[0] + len(given), self.stress[1] + (given == 0).sum(), most]
            )
        if self._unmeasured > 0:
            counts = block.counts[: self._unmeasured]
            atoms = slice(int(counts.sum()))
            ratios = bond_ratios(counts, block.numbers[atoms], block.positions[atoms])
            self.bond_ratios.append(ratios)
            self._unmeasured -= len(counts)

    def place(self, record: np.void) -> str:
        """Where a structure is, for messages."""
        return f"{self.sources[int(record['source'])].path}, structure {int(record['index'])}"

    def findings(self, references: References) -> list[Finding]:
        """All that is wrong. References are filled in with what they leave by element."""
        found = force_findings(float(self.force_sums[2]), self.structures)
        self.verdicts = [test.verdict() for test in self.tests]
        for source, verdict in zip(self.sources, self.verdicts):
            if verdict.fatal and not found:
                found.append(Finding("forces", verdict.text, str(source.path), verdict.remedy))
        found += self._unit_findings()
        energies = energy_residuals(self.records, references)
        references.by_element = energies.by_element
        found += energy_findings(energies, self.place)
        found += self._level_findings(energies.by_element)
        self.copies = find_copies(self.records)
        return found + copy_findings(self.copies, self.place)

    def _level_findings(self, left: dict[int, float]) -> list[Finding]:
        """Sources of another level of theory: by the formulas that they have in common, or else by
        what reference energies leave. left: of each element, eV/atom, mean."""
        remedy = "merge sources of one level of theory only, in the same units"
        apart = self.formulas.apart()
        if apart:
            a, b = (str(self.sources[k].path) for k in apart[:2])
            what = (
                f"energies of the same formulas are {apart[2]:,.4g} eV/atom apart"
                f" (median of {apart[3]:,})"
            )
            return [Finding("levels", what, f"{a} and {b}", remedy)]
        if len(self.sources) < 2 or max(left.values(), default=0.0) < ALONE[0]:
            return []
        gross = left_together(self.records)
        if not gross:
            return []
        what = (
            f"reference energies of all sources together leave {gross[1]:,.4g} eV/atom (rms), of"
            f" each source alone {gross[0]:,.4g}"
        )
        names = [str(source.path) for source in self.sources[:3]]
        where = ", ".join(names) + (", ..." if len(self.sources) > len(names) else "")
        return [Finding("levels", what, where, remedy)]

    def _unit_findings(self) -> list[Finding]:
        used = {source.units.energy for source in self.sources}
        doubts = [length_doubt(self.bond_ratio)]
        if len(used) == 1:
            doubts.append(energy_doubt(self.energy_ratio, used.pop()))
        return [Finding("units", what, "", remedy) for what, remedy in filter(None, doubts)]

    @property
    def bond_ratio(self) -> float | None:
        """Median nearest-neighbour distance over the sum of covalent radii, of the first
        structures."""
        ratios = np.concatenate(self.bond_ratios) if self.bond_ratios else np.zeros(0)
        return float(np.median(ratios)) if len(ratios) else None

    @property
    def energy_ratio(self) -> float | None:
        """Energies over those of the free atoms."""
        return float(self.unit_sums[0] / self.unit_sums[1]) if self.unit_sums[1] else None

    def warnings(self) -> list[str]:
        """What does not forbid training and should be known."""
        out = []
        rms = (self.force_sums[0] / (3 * max(self.atoms, 1))) ** 0.5
        if self.large_forces:
            out.append(
                f"{self.large_forces:,} structures have a force above {LARGE_FORCE:.0f}"
                f" eV/Angstrom on an atom (max {self.force_sums[2]:.1f}); prepare --max-force"
                " leaves them out"
            )
        net = (self.net_sums[0] / max(self.structures, 1)) ** 0.5
        if net > 0.05 * rms:
            out.append(
                f"forces do not sum to zero: {net:.3f} eV/Angstrom per atom (rms); fixed atoms, an"
                " outer field, or atoms in another order than their forces do this"
            )
        if self.copies.duplicates:
            a, b = self.copies.first["duplicates"]
            where = f", for example {self.place(a)} and {self.place(b)}"
            out.append(
                f"{self.copies.duplicates:,} structures repeat another: same atoms, positions"
                f" (to {QUANTUM:g} Angstrom), cell and energy{where}; prepare --drop-duplicates"
                " keeps one of each"
            )
        if self.stress[0] and self.stress[1] > 0.01 * self.stress[0]:
            out.append(
                f"the stress of {int(self.stress[1]):,} of {int(self.stress[0]):,} structures is"
                " exactly zero, which may stand for a missing one; --no-stress leaves it out"
            )
        if self.stress[2] > 10.0:
            out.append(
                f"the largest stress is {self.stress[2]:.3g} eV/Angstrom^3"
                f" ({160 * self.stress[2]:,.0f} GPa): pass --stress-unit if that is another unit"
            )
        return out
