"""Building, randomising and evaluating models for the contract suite."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models import ForceField, build
from tests.models.configs import Variant, small_config
from tests.molecules import CUTOFF, Molecule


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Move every parameter away from its start: output layers begin at zero, and zeros pass any
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


def fresh_model(variant: Variant, dtype: torch.dtype = torch.float64, seed: int = 0) -> ForceField:
    """A randomised model of a variant, safe to change."""
    model = build(small_config(variant.name, **variant.options), seed=seed).to(dtype)
    randomise(model, seed)
    # muP divides the head's input by width / base width, which is below one here: undo its blow-up
    # of random heads
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.mup_kind == "output":
                parameter.mul_(model.config.m)
    return model.eval()


@lru_cache(maxsize=64)
def shared_model(variant: Variant, dtype: torch.dtype = torch.float64) -> ForceField:
    """The same model for all tests that do not change it."""
    return fresh_model(variant, dtype)


def make_graph(
    mols: list[Molecule], dtype: torch.dtype = torch.float64, cutoff: float = CUTOFF
) -> GraphBatch:
    """One batch; edges are found in float64, so that precision never decides which edges there
    are."""
    pos = torch.tensor(np.concatenate([m.pos for m in mols]))
    species = torch.tensor(np.concatenate([m.species for m in mols]))
    return build_graph(pos, species, torch.tensor([len(m) for m in mols]), cutoff).to(dtype)


def run(model: ForceField, graph: GraphBatch) -> tuple[np.ndarray, np.ndarray]:
    """Energies (g,) and forces (n, 3) as float64 arrays."""
    with torch.no_grad():
        energy, forces = model(graph)
    return energy.detach().double().numpy(), forces.detach().double().numpy()


def evaluate(model: ForceField, mols: list[Molecule]) -> tuple[np.ndarray, np.ndarray]:
    return run(model, make_graph(mols, next(model.parameters()).dtype))


def energy_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest abs(e' - e) / (abs(e) + 1)."""
    return float(np.max(np.abs(found - expected) / (np.abs(expected) + 1.0)))


def force_error(found: np.ndarray, expected: np.ndarray, mols: list[Molecule]) -> float:
    """Largest norm(f' - f) / norm(f) over molecules.

    A molecule whose forces cancel by symmetry (a single atom, CO2) is measured against the RMS of
    the batch instead.
    """
    rms = float(np.sqrt(np.mean(expected**2)))
    ends = np.cumsum([len(m) for m in mols])
    errors = []
    for low, high in zip(ends - [len(m) for m in mols], ends):
        size = max(np.linalg.norm(expected[low:high]), rms * np.sqrt(expected[low:high].size))
        errors.append(np.linalg.norm(found[low:high] - expected[low:high]) / size)
    return float(max(errors))


def random_rotation(seed: int) -> np.ndarray:
    """(3, 3) proper rotation, Haar distributed."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def moved(
    mols: list[Molecule], matrix: np.ndarray | None = None, shift: np.ndarray | None = None
) -> list[Molecule]:
    """x -> matrix x + shift for every atom."""
    matrix = np.eye(3) if matrix is None else matrix
    shift = np.zeros(3) if shift is None else shift
    return [replace(m, pos=m.pos @ matrix.T + shift) for m in mols]


def permuted(m: Molecule, order: np.ndarray) -> Molecule:
    return Molecule(m.name, m.numbers[order], m.pos[order])


def reverse_within_receivers(graph: GraphBatch) -> GraphBatch:
    """The same edges, still sorted by receiver, with the senders of each receiver in the opposite
    order."""
    slot = torch.arange(len(graph.receiver))
    order = np.lexsort((-slot.numpy(), graph.receiver.numpy()))
    keep = torch.from_numpy(order)
    shift = None if graph.shift is None else graph.shift[keep]
    return replace(graph, sender=graph.sender[keep], receiver=graph.receiver[keep], shift=shift)


def padded(graph: GraphBatch, atoms: int, edges: int, graphs: int) -> GraphBatch:
    """``graph`` filled up with padding: atoms at random places, edges from the last atom to itself,
    empty slots."""
    generator = torch.Generator().manual_seed(5)
    slots = graph.n_graphs + graphs
    noise = torch.randn(atoms, 3, generator=generator, dtype=torch.float64).to(graph.pos.dtype)
    last = torch.full((edges,), len(graph.pos) + atoms - 1, dtype=torch.int64)
    shift = (
        None if graph.shift is None else torch.cat([graph.shift, graph.shift.new_zeros(edges, 3)])
    )
    return GraphBatch(
        species=torch.cat([graph.species, graph.species.new_zeros(atoms)]),
        batch=torch.cat([graph.batch, torch.full((atoms,), slots, dtype=torch.int64)]),
        pos=torch.cat([graph.pos, noise]),
        sender=torch.cat([graph.sender, last]),
        receiver=torch.cat([graph.receiver, last]),
        natoms=torch.cat([graph.natoms, graph.natoms.new_zeros(graphs)]),
        shift=shift,
        pad=True,
    )
