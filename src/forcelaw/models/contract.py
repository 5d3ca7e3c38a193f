"""What a model from outside must return, looked at once before it is trained: a wrong shape would
otherwise be broadcast, and train to nonsense."""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any

import torch

from ..errors import StudyError
from ..graph import GraphBatch
from .base import ForceField
from .flops import cloud

_looked_at: set[tuple[str, str]] = set()


def look_at(model: Any, name: str) -> None:
    """StudyError where the model is none of ours, fails on two molecules, or returns anything but
    energies (g,) and forces (n, 3). Once for each kind of forces and process."""
    if not isinstance(model, ForceField):
        raise StudyError(
            f"it makes a {type(model).__name__}",
            where=name,
            remedy="make it a subclass of forcelaw.models.ForceField",
        )
    key = (name, model.config.forces)
    if key in _looked_at:
        return
    graph = _molecule_and_atom(model)
    was = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            found = model.eval()(graph)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise StudyError(
            f"the model fails on two molecules: {type(error).__name__}: {error}",
            where=f"{name}, {frame.filename}, line {frame.lineno}",
            remedy=f"repair it; `forcelaw certify {name}` checks all that a model has to do",
        ) from error
    finally:
        model.train(was)
    wanted = [(graph.n_graphs,), tuple(graph.pos.shape)]
    pair = found if isinstance(found, tuple | list) else [found]
    shapes = [tuple(t.shape) if isinstance(t, torch.Tensor) else type(t).__name__ for t in pair]
    if shapes != wanted:
        raise StudyError(
            f"for {graph.n_graphs} structures of {len(graph.pos)} atoms the model returns"
            f" {', '.join(map(str, shapes))}",
            where=name,
            remedy=f"return energies {wanted[0]} in eV and forces {wanted[1]} in eV/Angstrom",
        )
    _looked_at.add(key)


def _molecule_and_atom(model: ForceField) -> GraphBatch:
    """A molecule, and an atom without neighbours, in the type of the model's parameters."""
    one = cloud(model.config.model_copy(update={"mean_degree": 3.0}))
    two = torch.zeros(2, dtype=torch.int64)
    graph = replace(
        one,
        species=torch.cat([one.species, one.species[:1]]),
        pos=torch.cat([one.pos, one.pos[:1] + 1e2]),
        batch=torch.cat([one.batch, torch.ones(1, dtype=torch.int64)]),
        natoms=torch.tensor([len(one.pos), 1]),
        charge=None if one.charge is None else two,
        spin=None if one.spin is None else two,
    )
    return graph.to(next((p.dtype for p in model.parameters()), torch.float32))
