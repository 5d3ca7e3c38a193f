"""A trained run as a function of structures: it finds neighbours, makes batches, and adds the
reference energies of the atoms back.

Weights are the averaged ones of schedule-free AdamW, at which losses are measured.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from .data.device_dataset import state_index
from .data.pack import NO_CHARGE, NO_SPIN, Pack, sample_path
from .elements import SYMBOLS
from .errors import DataError, StoreError, UnseenStateWarning
from .graph import GraphBatch, build_graph, segment_sum
from .models import ForceField
from .models.frames import averaged, rotation_set
from .store.runs import RunDirectory
from .training.checkpoint import load_model
from .training.device import pick_device
from .training.loop import make_model
from .training.spec import RunSpec, read_spec

if TYPE_CHECKING:
    from ase import Atoms

DType = Literal["float32", "float64"]
BATCH_ATOMS = 4_000  # atoms of one batch


@dataclass(frozen=True)
class Predictions:
    """What a model says about s structures, in their order.

    energies (s,): total, in eV, reference energies included. forces: s arrays (n, 3) in
    eV/Angstrom. stresses (s, 3, 3) in eV/Angstrom^3, positive under tension as in ASE, NaN for
    structures without a volume; None where none were asked for.
    """

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.energies)


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Charges or spins (s,) as int64. DataError for what is not a whole number: a cast would make
    it one without a word."""
    for k, value in enumerate(values.tolist()):
        if not isinstance(value, int | float) or value != np.rint(value):
            raise DataError(
                f"{name} is not a whole number: {value!r}",
                where=f"structure {k}",
                remedy=f'correct atoms.info["{name}"], the '
                + ("multiplicity 2S+1" if name == "spin" else "total charge"),
            )
    return values.astype(np.int64)


def as_list(structures: Atoms | Iterable[Atoms]) -> list[Atoms]:
    """ASE structures as a list, a single one as a list of one. DataError for anything else."""
    from ase import Atoms

    many = isinstance(structures, Iterable) and not isinstance(structures, Atoms | str)
    found: list[Atoms] = list(structures) if many else [structures]
    for k, one in enumerate(found):
        if not isinstance(one, Atoms):
            raise DataError(
                f"expected structures of ASE (ase.Atoms), found {type(one).__name__}: {one!r:.60}",
                where=f"structure {k}",
                remedy='give a list of ase.Atoms; ase.io.read(FILE, ":") reads those of a file, and'
                " evaluate(FILE) compares with the labels in it",
            )
    return found


@dataclass(frozen=True)
class Structures:
    """s structures with a atoms together: counts (s,), numbers (a,), positions (a, 3) in Angstrom,
    cells (s, 3, 3) with lattice vectors as rows and pbc (s, 3), None where none is periodic.
    charges, spins (s,): total charge and spin multiplicity, None: 0 and 1."""

    counts: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    cells: np.ndarray | None = None
    pbc: np.ndarray | None = None
    charges: np.ndarray | None = None
    spins: np.ndarray | None = None

    @classmethod
    def of(cls, atoms: list[Atoms]) -> Structures:
        """Those of ASE; charge and spin multiplicity are ``info["charge"]``, ``info["spin"]``."""
        pbc = np.array([a.pbc for a in atoms], bool).reshape(-1, 3)
        return cls(
            np.array([len(a) for a in atoms], np.int64),
            np.concatenate([a.numbers for a in atoms]),
            np.concatenate([a.positions for a in atoms]),
            np.array([np.asarray(a.cell) for a in atoms]) if pbc.any() else None,
            pbc if pbc.any() else None,
            np.array([a.info.get("charge", 0) for a in atoms]),
            np.array([a.info.get("spin", 1) for a in atoms]),
        )

    def __len__(self) -> int:
        return len(self.counts)

    def batches(self, atoms: int) -> Iterator[Structures]:
        """The same in order, in parts of at most that many atoms, and at least one structure."""
        ends, low = np.cumsum(self.counts), 0
        while low < len(self):
            before = int(ends[low - 1]) if low else 0
            high = max(low + 1, int(np.searchsorted(ends, before + atoms, side="right")))
            rows, own = slice(low, high), slice(before, int(ends[high - 1]))
            optional = (self.cells, self.pbc, self.charges, self.spins)
            yield Structures(
                self.counts[rows],
                self.numbers[own],
                self.positions[own],
                *(None if array is None else array[rows] for array in optional),
            )
            low = high

    def volumes(self) -> np.ndarray:
        """(s,) Angstrom^3; NaN for structures that are not periodic or whose cell is flat."""
        if self.cells is None or self.pbc is None:
            return np.full(len(self), np.nan)
        volumes = np.abs(np.linalg.det(self.cells))
        return np.where(self.pbc.any(1) & (volumes > 0), volumes, np.nan)


class Predictor:
    """A model with what it needs to be asked about structures.

    model: in evaluation mode, on its device. references (119,): reference energies in eV by atomic
    number. rotations: predictions are averaged over that many rotations, in as many passes.
    """

    def __init__(self, model: ForceField, references: np.ndarray, rotations: int = 0):
        self.model, self.references = model.requires_grad_(False), references
        self.turns = rotation_set(rotations) if rotations else None
        self.config = model.config
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.index = np.full(len(SYMBOLS), -1, np.int64)
        self.index[list(self.config.elements)] = np.arange(len(self.config.elements))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: DType = "float32",
        data: str | Path | None = None,
        rotations: int = 0,
    ) -> Predictor:
        """The model of a run directory. data: its pack, for runs that did not keep their reference
        energies. Raises StoreError where there is no run, checkpoint or reference energies."""
        run = RunDirectory(path)
        run.require()
        spec = read_spec(run)
        model = load_model(Path(path), make_model(spec, torch.device("cpu"))).eval()
        model.to(device=pick_device(device), dtype=getattr(torch, dtype))
        return cls(model, references_of(path, spec, data), rotations)

    @property
    def conservative(self) -> bool:
        """Whether forces are minus the gradient of the energy."""
        return self.config.forces == "conservative"

    def species(self, numbers: np.ndarray) -> np.ndarray:
        """Index into the model's elements of atomic numbers. DataError for one it has not seen."""
        found = self.index[np.asarray(numbers, np.int64)]
        if (found < 0).any():
            strange = sorted({SYMBOLS[z] for z in np.asarray(numbers)[found < 0].tolist()})
            known = ", ".join(SYMBOLS[z] for z in self.config.elements)
            raise DataError(
                f"the structures hold {', '.join(strange)}; the model was trained on {known}",
                remedy="leave those structures out, or train on data with these elements",
            )
        return found

    def graph(self, structures: Structures) -> GraphBatch:
        """The batch of structures as the model takes it; neighbours are found in float64."""
        graph = build_graph(
            torch.from_numpy(np.asarray(structures.positions, np.float64)).to(self.device),
            torch.from_numpy(self.species(structures.numbers)).to(self.device),
            torch.from_numpy(np.asarray(structures.counts, np.int64)).to(self.device),
            self.config.cutoff,
            cells=structures.cells,
            pbc=structures.pbc,
        )
        return self.rounded(replace(graph, **self.states(structures)))

    def states(self, structures: Structures) -> dict[str, Tensor]:
        """Fields ``charge`` and ``spin`` of a batch, for a model that tells them apart; another
        one warns (UnseenStateWarning) of structures that are charged or no singlets."""
        found = {}
        for name, known, absent, unsaid in (
            ("charge", self.config.charges, 0, NO_CHARGE),
            ("spin", self.config.spins, 1, NO_SPIN),
        ):
            values = getattr(structures, f"{name}s")
            if not known and values is not None and not np.isin(values, (absent, unsaid)).all():
                warnings.warn(
                    f"structures have a {name} other than {absent}, which this model does not see:"
                    " it predicts what it was trained on. Train with charge_spin",
                    UnseenStateWarning,
                    stacklevel=2,
                )
            if known:
                values = (
                    np.full(len(structures), absent) if values is None else _whole(values, name)
                )
                found[name] = torch.from_numpy(state_index(values, known, name)).to(self.device)
        return found

    def rounded(self, graph: GraphBatch) -> GraphBatch:
        """A graph in float64 as the model takes it: in its precision, each structure centred first,
        so that float32 is not spent on where it stands."""
        total = segment_sum(graph.pos, graph.batch, graph.n_graphs)
        centre = total / graph.natoms.clamp_min(1).unsqueeze(1)
        centred = replace(graph, pos=graph.pos - centre.index_select(0, graph.batch))
        return centred.to(self.dtype)

    def evaluate(
        self, graph: GraphBatch, numbers: np.ndarray, stress: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Energies (g,) eV with reference energies, forces (n, 3), and virials (g, 3, 3) eV with
        ``stress``; float64."""
        with torch.no_grad():
            call = self.model.with_virial if stress else self.model
            if self.turns is None:
                found = call(graph)
            else:
                found = averaged(call, graph, self.turns.to(graph.pos.device))
            energy, forces, *virial = (x.double().cpu().numpy() for x in found)
        owner = graph.batch.cpu().numpy()
        base = np.bincount(owner, self.references[np.asarray(numbers)], graph.n_graphs)
        return energy + base, forces, virial[0] if virial else None

    def arrays(
        self,
        structures: Structures,
        *,
        stress: bool = False,
        batch_atoms: int = BATCH_ATOMS,
        predicted: Callable[[int], None] = lambda structures: None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Energies (s,), forces (a, 3), and stresses (s, 3, 3) with ``stress``; see
        :class:`Predictions`. predicted: called after each batch with its number of structures."""
        parts = []
        for part in structures.batches(batch_atoms):
            energy, forces, virial = self.evaluate(self.graph(part), part.numbers, stress)
            per_volume = None if virial is None else virial / part.volumes()[:, None, None]
            parts.append((energy, forces, per_volume))
            predicted(len(part))
        energies, forces, stresses = zip(*parts)
        return (
            np.concatenate(energies),
            np.concatenate(forces),
            np.concatenate(stresses) if stress else None,
        )

    def predict(
        self,
        structures: Atoms | Iterable[Atoms],
        *,
        stress: bool = False,
        batch_atoms: int = BATCH_ATOMS,
    ) -> Predictions:
        """Energies, forces and, with ``stress``, stresses of ASE structures (or of one), in batches
        of ``batch_atoms`` atoms."""
        atoms = as_list(structures)
        if not atoms:
            return Predictions(np.zeros(0), [], np.zeros((0, 3, 3)) if stress else None)
        arrays = Structures.of(atoms)
        energies, forces, stresses = self.arrays(arrays, stress=stress, batch_atoms=batch_atoms)
        return Predictions(energies, np.split(forces, np.cumsum(arrays.counts)[:-1]), stresses)


def references_of(
    path: str | os.PathLike[str], spec: RunSpec, data: str | Path | None
) -> np.ndarray:
    """(119,) reference energies in eV of a run: those it kept, else those of its pack."""
    run = RunDirectory(path)
    if run.references() is not None:
        return np.array(run.reference_table())
    pack = Pack(sample_path() if data is None or str(data) == "sample" else data)
    if pack.hash != spec.data["hash"]:
        raise StoreError(
            "the run did not keep its reference energies"
            + ("" if data is None else f", and {data} is not the pack it was trained on"),
            where=os.fspath(path),
            remedy=f"give the pack {spec.data['name']}, hash {spec.data['hash']}: data=PACK, on the"
            " command line --data PACK",
        )
    return pack.reference_energies()
