"""A trained model as a calculator of ASE: relaxations, molecular dynamics, whatever ASE drives."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import NotConservativeWarning, require
from .graph import GraphBatch, cell_list_edges
from .predict import DType, Predictor, Structures

require("ase")
from ase.calculators.calculator import (  # noqa: E402
    Calculator as ASECalculator,
)
from ase.calculators.calculator import PropertyNotImplementedError, all_changes  # noqa: E402
from ase.stress import full_3x3_to_voigt_6_stress  # noqa: E402

if TYPE_CHECKING:
    from ase import Atoms


class NeighbourList:
    """Edges inside a cutoff, found again only when an atom has moved by half of ``skin``
    (Angstrom), or when cell, boundary conditions or number of atoms have changed.

    The edges are exactly those of a fresh search, in the same order: pairs up to cutoff + skin are
    kept, and those beyond the cutoff are left out at every step.
    """

    def __init__(self, cutoff: float, skin: float, device: torch.device):
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.searches = 0
        self._made_for: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def edges(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """sender (e,), receiver (e,), shift (e, 3) in float64 of one structure: positions (n, 3)
        and cell (3, 3) in Angstrom, pbc (3,)."""
        if not self._holds(positions, cell, pbc):
            found = cell_list_edges(positions, self.cutoff + self.skin, cell, pbc)
            self._pairs = [torch.from_numpy(x).to(self.device) for x in found]
            self._made_for = positions.copy(), cell.copy(), pbc.copy()
            self.searches += 1
        sender, receiver, shift = self._pairs
        pos = torch.from_numpy(positions).to(self.device)
        vec = pos.index_select(0, sender) - pos.index_select(0, receiver) + shift
        near = vec.square().sum(-1) < self.cutoff**2
        return sender[near], receiver[near], shift[near]

    def _holds(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        if self._made_for is None:
            return False
        old, old_cell, old_pbc = self._made_for
        if old.shape != positions.shape or (old_pbc != pbc).any() or (old_cell != cell).any():
            return False
        return bool(np.square(positions - old).sum(1).max(initial=0) <= (self.skin / 2) ** 2)


class Calculator(ASECalculator):
    """ASE calculator of a run: energy (eV, reference energies included), forces (eV/Angstrom) and,
    for models with gradient forces and periodic structures, stress (eV/Angstrom^3).

    >>> atoms.calc = forcelaw.Calculator("out/single/runs/ID")        # doctest: +SKIP

    run: the run, or its directory. device: "auto", "cpu" or "cuda". dtype: "float32", or "float64"
    for vibrations and tight relaxations. skin: Angstrom by which the neighbour list reaches beyond
    the cutoff, so that it is not made anew at every step. data: the pack of a run that did not keep
    its reference energies. A model with charge_spin reads ``atoms.info["charge"]`` and ``["spin"]``
    (the multiplicity), 0 and 1 where they are missing.

    Warns (NotConservativeWarning) about a model with direct forces: they are not the gradient of
    its energy, so dynamics with them do not conserve energy.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: DType = "float32",
        skin: float = 1.0,
        data: str | Path | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.predictor = Predictor.load(run, device=device, dtype=dtype, data=data)
        self.neighbours = NeighbourList(self.predictor.config.cutoff, skin, self.predictor.device)
        if self.predictor.config.has_stress:
            self.implemented_properties = [*self.implemented_properties, "stress"]
        if not self.predictor.conservative:
            warnings.warn(
                "this model's forces are an output of their own, not the gradient of its energy:"
                " molecular dynamics will not conserve energy. Train with forces: conservative",
                NotConservativeWarning,
                stacklevel=2,
            )

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation. ASE does not compare ``atoms.info``: it
        would hand out the results of another charge or spin."""
        changes: list[str] = super().check_state(atoms, tol)
        known = (("charge", self.predictor.config.charges), ("spin", self.predictor.config.spins))
        if self.atoms is not None and any(
            seen and atoms.info.get(name) != self.atoms.info.get(name) for name, seen in known
        ):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Called by ASE."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        cell, pbc = np.array(self.atoms.cell), np.asarray(self.atoms.pbc, bool)
        volume = abs(np.linalg.det(cell)) if pbc.any() else 0.0
        stress = volume > 0 and "stress" in self.implemented_properties
        if "stress" in (properties or []) and not stress:
            raise PropertyNotImplementedError("stress needs a periodic cell")
        numbers = self.atoms.numbers
        energy, forces, virial = self.predictor.evaluate(self._graph(cell, pbc), numbers, stress)
        self.results = {
            "energy": float(energy[0]),
            "free_energy": float(energy[0]),
            "forces": forces,
        }
        if virial is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(virial[0] / volume)

    def _graph(self, cell: np.ndarray, pbc: np.ndarray) -> GraphBatch:
        """The structure as the model takes it."""
        positions = np.ascontiguousarray(self.atoms.positions, np.float64)
        sender, receiver, shift = self.neighbours.edges(positions, cell, pbc)
        n, device = len(positions), self.predictor.device
        graph = GraphBatch(
            torch.from_numpy(self.predictor.species(self.atoms.numbers)).to(device),
            torch.zeros(n, dtype=torch.int64, device=device),
            torch.from_numpy(positions).to(device),
            sender,
            receiver,
            torch.tensor([n], device=device),
            shift=shift if pbc.any() else None,
            **self.predictor.states(Structures.of([self.atoms])),
        )
        return self.predictor.rounded(graph)
