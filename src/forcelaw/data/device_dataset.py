"""Batches built where the data lives: a shard of the pack sits on the device, edges included, and a
step assembles its batch from it by index arithmetic alone. No loader, no host work, fixed shapes
when asked for (CUDA graphs).

Legend: s structures, a atoms, e edges of the shard; g structures, n atoms, m edges of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..elements import SYMBOLS
from ..errors import DataError
from ..graph import ALL_PAIRS_MAX_ATOMS, GraphBatch, build_graph, molecule_edges
from ..ops import assemble
from .gather import Gather
from .pack import Pack

# atoms read from the memory map and turned into edges at once: enough to fill a GPU; few enough for
# the caches of a CPU, which is 2.6 times as fast so (530k atoms/s for 202k with 20 edges an atom)
_LOAD_ATOMS = {"cuda": 500_000, "cpu": 10_000}


@dataclass
class Targets:
    """Labels of a batch. energy (g,) eV relative to the reference energies; forces (n, 3)
    eV/Angstrom; natoms (g,).

    real (n,) is 1 for atoms and 0 for padding, None when there is no padding. virial (g, 3, 3) eV,
    stress times volume, NaN where a structure has none; volume (g,) Angstrom^3; weight (g,),
    atom_weight (n,): in the loss, of a structure and of its atoms; None unless asked for.
    """

    energy: Tensor
    forces: Tensor
    natoms: Tensor
    real: Tensor | None = None
    virial: Tensor | None = None
    volume: Tensor | None = None
    weight: Tensor | None = None
    atom_weight: Tensor | None = None


class Shard:
    """Structures of a pack on one device, with their edges.

    stress: whether labels of the stress are loaded too. charges, spins: those that the model tells
    apart, if it does. references (119,): reference energies in eV instead of the pack's. poll:
    called again and again meanwhile (minutes for some 1e8 atoms); what it raises ends the loading.

    natoms, nedges (s,) int64; species (a,); pos, forces (a, 3); energy (s,); sender, receiver,
    transposed (e,) local to the structure, the last one being its edges in the order of their
    senders; first_of (a,) the first edge into each atom, likewise.
    """

    def __init__(
        self,
        pack: Pack,
        indices: np.ndarray,
        *,
        cutoff: float,
        elements: tuple[int, ...],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        stress: bool = False,
        charges: tuple[int, ...] = (),
        spins: tuple[int, ...] = (),
        references: tuple[float, ...] | None = None,
        config_weights: tuple[tuple[str, float], ...] = (),
        poll: Callable[[], None] = lambda: None,
    ):
        self.device, self.dtype, self.cutoff = torch.device(device), dtype, cutoff
        self.indices = np.asarray(indices, np.int64)
        self.weight: Tensor | None = None
        if config_weights:
            self.weight = _weights(pack, self.indices, dict(config_weights)).to(self.device, dtype)
        self.virial: Tensor | None = None
        self.states = {
            name: torch.from_numpy(
                state_index(getattr(pack, f"{name}s")[self.indices], known, name)
            ).to(self.device)
            for name, known in (("charge", charges), ("spin", spins))
            if known
        }
        if stress:
            self.virial, self.volume = _virials(pack, self)
        self.max_degree = 1  # neighbours of an atom, at most
        lookup = np.full(256, -1, np.int64)
        lookup[list(elements)] = np.arange(len(elements))
        table = pack.reference_energies() if references is None else np.array(references)
        counts = pack.sizes(self.indices).astype(np.int64)
        parts: dict[str, list[Tensor]] = {
            k: []
            for k in (
                "species",
                "pos",
                "forces",
                "energy",
                "nedges",
                "sender",
                "receiver",
                "transposed",
                "first_of",
                "shift",
            )
        }
        ends = np.cumsum(counts)
        low, at_once = 0, _LOAD_ATOMS.get(self.device.type, 500_000)
        with Gather(pack, self.indices, poll) as stored:
            while low < len(self.indices):
                before = ends[low - 1] if low else 0
                high = max(low + 1, int(np.searchsorted(ends, before + at_once, side="right")))
                self._load(pack, stored.read(low, high), counts[low:high], lookup, table, parts)
                low = high
        empty = {
            "species": (0,),
            "pos": (0, 3),
            "forces": (0, 3),
            "energy": (0,),
            "nedges": (0,),
            "sender": (0,),
            "receiver": (0,),
            "transposed": (0,),
            "first_of": (0,),
        }
        for name, shape in empty.items():
            setattr(
                self,
                name,
                torch.cat(parts[name]) if parts[name] else torch.zeros(shape, device=self.device),
            )
        self.shift = torch.cat(parts["shift"]) if parts["shift"] else None
        self.natoms = torch.from_numpy(counts.astype(np.int64)).to(self.device)
        self.first_atom = torch.cumsum(self.natoms, 0) - self.natoms
        self.first_edge = torch.cumsum(self.nedges, 0) - self.nedges
        self.max_atoms = int(counts.max(initial=1))  # of a structure
        # host copies: planning and counting never touch the device
        self.host_natoms = counts.astype(np.int64)
        self.host_nedges = self.nedges.cpu().numpy().astype(np.int64)

    species: Tensor
    pos: Tensor
    forces: Tensor
    energy: Tensor
    nedges: Tensor
    sender: Tensor
    receiver: Tensor
    transposed: Tensor
    first_of: Tensor

    def _load(
        self,
        pack: Pack,
        stored: dict[str, np.ndarray],
        counts: np.ndarray,
        lookup: np.ndarray,
        references: np.ndarray,
        parts: dict[str, list[Tensor]],
    ) -> None:
        numbers = stored["numbers"]
        species = lookup[numbers]
        if (species < 0).any():
            absent = ", ".join(SYMBOLS[z] for z in sorted(set(numbers[species < 0].tolist())))
            raise DataError(
                f"the pack holds {absent}, which the model does not know",
                where=str(pack.path),
            )
        structure = np.repeat(np.arange(len(counts)), counts)
        energy = stored["energies"] - np.bincount(structure, references[numbers], len(counts))
        to = {"device": self.device, "dtype": self.dtype}
        pos64 = torch.from_numpy(pack.decoded("positions", stored["positions"]))
        pos = pos64.to(**to)
        natoms = torch.from_numpy(counts.astype(np.int64)).to(self.device)
        shift = None
        if pack.manifest.get("periodic") or counts.max(initial=0) > ALL_PAIRS_MAX_ATOMS:
            cells = stored["cells"] if pack.manifest.get("periodic") else None
            pbc = stored["pbc"].astype(bool) if cells is not None else None
            graph = build_graph(
                pos64, torch.from_numpy(species), natoms.cpu(), self.cutoff, cells=cells, pbc=pbc
            )
            sender, receiver = graph.sender.to(self.device), graph.receiver.to(self.device)
            if pack.manifest.get("periodic"):
                shift = (
                    graph.shift if graph.shift is not None else torch.zeros(len(sender), 3)
                ).to(**to)
        else:
            sender, receiver = molecule_edges(pos, natoms, self.cutoff)
        owner = torch.from_numpy(structure).to(self.device)
        start = torch.cumsum(natoms, 0) - natoms
        edge_owner = owner[receiver]
        small = torch.int16 if counts.max(initial=0) < 32768 else torch.int32
        nedges = torch.bincount(edge_owner, minlength=len(counts))
        degree = torch.bincount(receiver, minlength=len(owner))
        if len(receiver):
            self.max_degree = max(self.max_degree, int(degree.max()))
        first_edge = torch.cumsum(nedges, 0) - nedges
        by_sender = torch.sort(sender, stable=True).indices
        most = int(nedges.max()) if len(nedges) else 0
        parts["species"].append(torch.from_numpy(species).to(self.device))
        parts["pos"].append(pos)
        parts["forces"].append(torch.from_numpy(pack.decoded("forces", stored["forces"])).to(**to))
        parts["energy"].append(torch.from_numpy(energy).to(**to))
        parts["nedges"].append(nedges)
        few = torch.int16 if most < 32768 else torch.int32
        parts["transposed"].append((by_sender - first_edge[owner[sender[by_sender]]]).to(few))
        parts["first_of"].append((torch.cumsum(degree, 0) - degree - first_edge[owner]).to(few))
        parts["sender"].append((sender - start[edge_owner]).to(small))
        parts["receiver"].append((receiver - start[edge_owner]).to(small))
        if shift is not None:
            parts["shift"].append(shift)

    def __len__(self) -> int:
        return len(self.indices)

    def _arrays(self) -> list[tuple[dict[str, Tensor], str]]:
        """Where each tensor is held: a dictionary and its key there."""
        places = ((held, name) for held in (vars(self), self.states) for name in held)
        return [(held, name) for held, name in places if isinstance(held[name], Tensor)]

    def give_room(self, share: float) -> None:
        """Move all arrays to where there is room for ``share`` more rows, so that :meth:`take` can
        put other structures in their place."""
        for held, name in self._arrays():
            moved = longer(held[name], math.ceil((1 + share) * len(held[name])))
            if moved.is_cuda:  # what is given back may be taken by a reader on another stream
                torch.cuda.current_stream(moved.device).synchronize()
            held[name] = moved
        self.max_degree, self.max_atoms = (
            -(-most // 16) * 16 for most in (self.max_degree, self.max_atoms)
        )

    def has_room_for(self, other: Shard) -> bool:
        """Whether :meth:`take` can take the structures of ``other``."""
        mine, theirs = self._arrays(), other._arrays()
        if [name for _, name in mine] != [name for _, name in theirs]:
            return False
        pairs = [(a[name], b[name]) for (a, name), (b, _) in zip(mine, theirs)]
        return (
            all(len(a) >= len(b) and a.dtype == b.dtype for a, b in pairs)
            and self.max_degree >= other.max_degree
            and self.max_atoms >= other.max_atoms
        )

    def take(self, other: Shard) -> None:
        """Hold the structures of ``other`` instead, at the same addresses. What lies behind them is
        of others, and nothing looks there."""
        for (mine, name), (theirs, _) in zip(self._arrays(), other._arrays()):
            mine[name][: len(theirs[name])] = theirs[name]
        self.indices = other.indices
        self.host_natoms, self.host_nedges = other.host_natoms, other.host_nedges

    @property
    def mean_degree(self) -> float:
        """Mean number of neighbours of an atom."""
        return float(self.host_nedges.sum() / max(1, self.host_natoms.sum()))

    def batch(
        self,
        chosen: Tensor,
        n_atoms: int,
        n_edges: int,
        *,
        pad: bool = False,
        rotation: Tensor | None = None,
    ) -> tuple[GraphBatch, Targets]:
        """The batch of structures ``chosen`` (g,), indices into the shard; -1 marks an empty slot.

        n_atoms, n_edges: totals of the batch, or with ``pad`` the fixed sizes to fill up to, where
        n_atoms leaves room for at least one dummy atom; padding edges go from the last (dummy) atom
        to itself. rotation (g, 3, 3) turns positions and forces. Contains no synchronisation with
        the host.
        """
        part = assemble(self, chosen, n_atoms, n_edges, pad, rotation)
        graph = GraphBatch(
            *(part[k] for k in ("species", "batch", "pos", "sender", "receiver", "natoms")),
            shift=part["shift"],
            pad=pad,
            transposed=part["transposed"],
            max_degree=self.max_degree if pad else None,
            max_atoms=self.max_atoms,
            ptr=part["ptr"],
            **{k: v.index_select(0, chosen.clamp_min(0)) for k, v in self.states.items()},
        )
        target = Targets(part["energy"], part["forces"], part["natoms"], part["real"])
        if self.virial is not None:
            held = chosen.clamp_min(0)
            virial = self.virial.index_select(0, held)
            if rotation is not None:
                virial = rotation @ virial @ rotation.transpose(1, 2)
            empty = (chosen < 0).view(-1, 1, 1)
            target.virial = virial.masked_fill(empty, torch.nan)
            target.volume = self.volume.index_select(0, held)
        if self.weight is not None:
            target.weight = self.weight.index_select(0, chosen.clamp_min(0))
            owner = part["batch"].clamp_max(len(chosen) - 1)  # dummy atoms count nothing anyway
            target.atom_weight = target.weight.index_select(0, owner)
        return graph, target


def longer(tensor: Tensor, rows: int, fill: int = 0) -> Tensor:
    """A copy of a tensor (r, ...) with ``fill`` behind its rows, (rows, ...)."""
    out = tensor.new_full((rows, *tensor.shape[1:]), fill)
    out[: len(tensor)] = tensor
    return out


def _weights(pack: Pack, indices: np.ndarray, by_type: dict[str, float]) -> Tensor:
    """Weight of each structure in the loss, float64 (s,): that of its config type, else 1."""
    unknown = [name for name in by_type if name not in pack.config_types]
    if pack.configs is None or unknown:
        have = ", ".join(pack.config_types[:10]) or "none"
        raise DataError(
            f"config_weights name {', '.join(map(repr, unknown))}; the pack has: {have}",
            where=str(pack.path),
            remedy="correct the names; `forcelaw data info PACK` lists them",
        )
    table = np.array([by_type.get(name, 1.0) for name in pack.config_types])
    return torch.from_numpy(table[np.asarray(pack.configs)[indices]])


def state_index(values: np.ndarray, known: tuple[int, ...], name: str) -> np.ndarray:
    """(s,) int64: where charges or spin multiplicities stand in those that a model tells apart.
    DataError for one that it does not."""
    values = np.asarray(values, np.int64)
    found = np.minimum(np.searchsorted(known, values), len(known) - 1)
    strange = sorted(set(values[np.asarray(known)[found] != values].tolist()))
    if strange:
        raise DataError(
            f"structures of {name} {', '.join(map(str, strange))}; the model was trained on"
            f" {', '.join(map(str, known))}",
            remedy=f"leave those structures out, or train on data with that {name}",
        )
    return found


def _virials(pack: Pack, shard: Shard) -> tuple[Tensor, Tensor]:
    """Labels of the virial (s, 3, 3) in eV, NaN where a structure has none, and volumes (s,)."""
    if pack.stresses is None or pack.cells is None:
        raise DataError(
            "the pack has no stress, and stress_weight asks for it",
            where=str(pack.path),
            remedy="train with stress_weight 0, or prepare the pack from files with stress",
        )
    volume = np.abs(np.linalg.det(np.asarray(pack.cells[shard.indices])))
    virial = np.asarray(pack.stresses[shard.indices]) * volume[:, None, None]
    to = {"device": shard.device, "dtype": shard.dtype}
    return torch.from_numpy(virial).to(**to), torch.from_numpy(volume).to(**to)


def plan_epoch(
    natoms: np.ndarray, order: np.ndarray, *, molecules: int | None = None, atoms: int | None = None
) -> np.ndarray:
    """Boundaries of the batches of one epoch: batch k is ``order[ptr[k]:ptr[k + 1]]``; ptr (batches
    + 1,) int64.

    molecules: that many structures a batch (the last may be smaller). atoms: as many as fit into
    that budget, at least one. The batches depend on the data and the order alone, never on the
    architecture.
    """
    total = len(order)
    if (molecules is None) == (atoms is None):
        raise ValueError("give molecules or atoms, and not both")
    if molecules is not None:
        return np.append(np.arange(0, total, molecules), total).astype(np.int64)
    ends = np.cumsum(natoms[order])
    ptr = [0]
    while ptr[-1] < total:
        before = ends[ptr[-1] - 1] if ptr[-1] else 0
        ptr.append(max(ptr[-1] + 1, int(np.searchsorted(ends, before + atoms, side="right"))))
    return np.asarray(ptr, np.int64)


def epoch_order(structures: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the training structures in one epoch, (structures,) int64; the same for every
    architecture."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(structures)
