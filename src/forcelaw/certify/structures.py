"""Structures to test a model on, moved, permuted, batched and padded; errors between what a model
says of two of them.

A structure has g = 1, n atoms: species (n,) as indices into the model's elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data import splits
from ..data.pack import Pack
from ..graph import GraphBatch, build_graph
from ..models.base import ForceField, ModelConfig

Outputs = tuple[np.ndarray, np.ndarray]  # energies (g,), forces (n, 3)


@dataclass(frozen=True)
class Structure:
    """species (n,), pos (n, 3) in Angstrom; cell (3, 3), rows are lattice vectors, None where it is
    not periodic."""

    species: np.ndarray
    pos: np.ndarray
    cell: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.species)

    def moved(self, matrix: np.ndarray, shift: np.ndarray | None = None) -> Structure:
        """x -> matrix x + shift, lattice included."""
        pos = self.pos @ matrix.T + (0.0 if shift is None else shift)
        cell = None if self.cell is None else self.cell @ matrix.T
        return Structure(self.species, pos, cell)

    def permuted(self, order: np.ndarray) -> Structure:
        """The atoms in another order."""
        return replace(self, species=self.species[order], pos=self.pos[order])


def of_pack(pack: Pack, most_atoms: int = 60, count: int = 5, seed: int = 0) -> list[Structure]:
    """Structures of the validation set with at most that many atoms (else its smallest ones), each
    atom displaced by about 0.05 Angstrom: in equilibrium they may be more symmetric than a test
    should be."""
    rng, elements = np.random.default_rng(seed), np.array(sorted(pack.elements))
    order = splits.order(pack, "validation")[:2000]
    sizes = np.diff(pack.offsets)[order]
    chosen = order[(sizes > 2) & (sizes <= most_atoms)]
    if not len(chosen):
        chosen = order[np.argsort(sizes, kind="stable")]
    periodic = bool(pack.manifest.get("periodic"))
    out = []
    for k in chosen[:count]:
        atoms = np.arange(*pack.offsets[k : k + 2])
        pos = pack.vectors("positions", atoms)
        species = np.searchsorted(elements, np.asarray(pack.numbers[atoms]))
        cell = np.array(pack.cells[k]) if periodic and np.asarray(pack.pbc[k]).all() else None
        out.append(Structure(species, pos + 0.05 * rng.normal(size=pos.shape), cell))
    return out


def cluster(atoms: int, elements: int, seed: int, spacing: float = 1.05) -> Structure:
    """Random atoms, none closer than ``spacing`` Angstrom: without any symmetry, hence chiral."""
    rng = np.random.default_rng(seed)
    radius = (60.0 * atoms / (4.0 * np.pi)) ** (1.0 / 3.0)
    points: list[np.ndarray] = []
    while len(points) < atoms:
        point = rng.uniform(-radius, radius, 3)
        near = any(np.linalg.norm(point - p) < spacing for p in points)
        if np.linalg.norm(point) < radius and not near:
            points.append(point)
    return Structure(rng.permutation(np.arange(atoms) % elements), np.array(points))


def graph_of(
    structures: list[Structure], config: ModelConfig, dtype: torch.dtype = torch.float64
) -> GraphBatch:
    """One batch; edges are found in float64, so that precision never decides which there are."""
    cells = pbc = None
    if any(s.cell is not None for s in structures):
        cells = np.array([np.zeros((3, 3)) if s.cell is None else s.cell for s in structures])
        pbc = np.array([[s.cell is not None] * 3 for s in structures])
    graph = build_graph(
        torch.tensor(np.concatenate([s.pos for s in structures])),
        torch.tensor(np.concatenate([s.species for s in structures])),
        torch.tensor([len(s) for s in structures]),
        config.cutoff,
        cells=cells,
        pbc=pbc,
    )
    zero = torch.zeros(len(structures), dtype=torch.int64)
    states = {"charge": config.charges, "spin": config.spins}
    return replace(graph, **{k: zero for k, known in states.items() if known}).to(dtype)


def reversed_edges(graph: GraphBatch) -> GraphBatch:
    """The same edges, still sorted by receiver, with the senders of each receiver in the opposite
    order."""
    slot = torch.arange(len(graph.receiver))
    keep = torch.from_numpy(np.lexsort((-slot.numpy(), graph.receiver.numpy())))
    shift = None if graph.shift is None else graph.shift[keep]
    return replace(graph, sender=graph.sender[keep], receiver=graph.receiver[keep], shift=shift)


def padded(graph: GraphBatch, atoms: int, edges: int, graphs: int) -> GraphBatch:
    """``graph`` filled up with padding: atoms at random places, edges from the last atom to itself,
    empty slots."""
    generator = torch.Generator().manual_seed(5)
    slots = graph.n_graphs + graphs
    noise = torch.randn(atoms, 3, generator=generator, dtype=torch.float64).to(graph.pos.dtype)
    last = torch.full((edges,), len(graph.pos) + atoms - 1, dtype=torch.int64)
    shift = graph.shift
    return GraphBatch(
        species=torch.cat([graph.species, graph.species.new_zeros(atoms)]),
        batch=torch.cat([graph.batch, torch.full((atoms,), slots, dtype=torch.int64)]),
        pos=torch.cat([graph.pos, noise]),
        sender=torch.cat([graph.sender, last]),
        receiver=torch.cat([graph.receiver, last]),
        natoms=torch.cat([graph.natoms, graph.natoms.new_zeros(graphs)]),
        shift=None if shift is None else torch.cat([shift, shift.new_zeros(edges, 3)]),
        pad=True,
        **{
            name: None if values is None else torch.cat([values, values.new_zeros(graphs)])
            for name, values in (("charge", graph.charge), ("spin", graph.spin))
        },
    )


def random_rotation(seed: int) -> np.ndarray:
    """(3, 3) proper rotation, Haar distributed."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Move every parameter away from its start: output layers may begin at zero, and zeros pass any
    symmetry test.

    Zero matrices become N(0, 1/fan_in), zero vectors N(0, 0.3^2); everything else gets noise of 0.3
    of its own RMS.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                parameter.dtype
            )
            rms = float(parameter.square().mean().sqrt())
            if rms == 0.0:
                step = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            else:
                step = 0.3 * rms
            parameter.add_(noise * step)


def predict(model: ForceField, graph: GraphBatch) -> Outputs:
    """Energies (g,) and forces (n, 3) as float64 arrays."""
    with torch.no_grad():
        energy, forces = model(graph)
    return energy.detach().double().numpy(), forces.detach().double().numpy()


def energy_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest abs(e' - e) / (abs(e) + 1)."""
    return float(np.max(np.abs(found - expected) / (np.abs(expected) + 1.0)))


def force_error(found: np.ndarray, expected: np.ndarray, sizes: list[int]) -> float:
    """Largest norm(f' - f) / norm(f) over structures of ``sizes`` atoms.

    One whose forces cancel by symmetry (a single atom, CO2) is measured against the RMS of the
    batch instead.
    """
    rms = float(np.sqrt(np.mean(expected**2))) or 1.0
    ends = np.cumsum(sizes)
    errors = []
    for low, high in zip(ends - sizes, ends):
        size = max(np.linalg.norm(expected[low:high]), rms * np.sqrt(expected[low:high].size))
        errors.append(np.linalg.norm(found[low:high] - expected[low:high]) / size)
    return float(max(errors))


def output_error(found: Outputs, expected: Outputs, sizes: list[int]) -> float:
    """The larger of the errors of energies and forces."""
    return max(energy_error(found[0], expected[0]), force_error(found[1], expected[1], sizes))


def scatter(structures: list[Structure], model: ForceField) -> float:
    """Error of a second call on ``structures`` against the first: of what is random, or changes."""
    graph = graph_of(structures, model.config)
    first, second = predict(model, graph), predict(model, graph)
    return output_error(second, first, [len(s) for s in structures])
