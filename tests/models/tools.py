"""Building, randomising and evaluating models for the contract suite."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from forcelaw.certify.structures import energy_error, padded, random_rotation, randomise
from forcelaw.certify.structures import force_error as by_sizes
from forcelaw.certify.structures import predict as run
from forcelaw.certify.structures import reversed_edges as reverse_within_receivers
from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models import ForceField, build
from tests.models.configs import Variant, small_config
from tests.molecules import CUTOFF, Molecule

__all__ = [
    "energy_error",
    "padded",
    "random_rotation",
    "randomise",
    "reverse_within_receivers",
    "run",
]


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


def evaluate(model: ForceField, mols: list[Molecule]) -> tuple[np.ndarray, np.ndarray]:
    return run(model, make_graph(mols, next(model.parameters()).dtype))


def force_error(found: np.ndarray, expected: np.ndarray, mols: list[Molecule]) -> float:
    """Largest norm(f' - f) / norm(f) over molecules."""
    return by_sizes(found, expected, [len(m) for m in mols])


def moved(
    mols: list[Molecule], matrix: np.ndarray | None = None, shift: np.ndarray | None = None
) -> list[Molecule]:
    """x -> matrix x + shift for every atom."""
    matrix = np.eye(3) if matrix is None else matrix
    shift = np.zeros(3) if shift is None else shift
    return [replace(m, pos=m.pos @ matrix.T + shift) for m in mols]


def permuted(m: Molecule, order: np.ndarray) -> Molecule:
    return Molecule(m.name, m.numbers[order], m.pos[order])
