"""What a model from outside must be and return, looked at once before it is trained: a wrong shape
would otherwise be broadcast, layers in a list stay as they began, and train to nonsense."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudyError
from ..graph import GraphBatch
from .base import ForceField
from .flops import cloud

_looked_at: set[tuple[str, str]] = set()


def look_at(model: Any, name: str) -> None:
    """StudyError where the model is none of ours, hides weights, fails on two molecules, changes
    them, or returns anything but energies (g,) and forces (n, 3). Once for each kind of forces and
    process."""
    if not isinstance(model, ForceField):
        raise StudyError(
            f"it makes a {type(model).__name__}",
            where=name,
            remedy="make it a subclass of forcelaw.models.ForceField",
        )
    key = (name, model.config.forces)
    if key in _looked_at:
        return
    _look_at_weights(model, name)
    graph = _molecule_and_atom(model)
    before = {k: v.clone() for k, v in vars(graph).items() if isinstance(v, Tensor)}
    was = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            found = model.eval()(graph)
            blind = _blind(model, replace(graph, **before))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise StudyError(
            f"the model fails on two molecules: {type(error).__name__}: {error}",
            where=f"{name}, {frame.filename}, line {frame.lineno}",
            remedy=f"repair it; `forcelaw certify {name}` checks all that a model has to do",
        ) from error
    finally:
        model.train(was)
    if blind:
        raise StudyError(
            "the energies of atoms do not depend on the vectors to neighbours, so they have no"
            " gradient forces",
            where=name,
            remedy="let atomwise take all geometry from its argument vec, not from graph.pos",
        )
    changed = [k for k, v in before.items() if not torch.equal(v, getattr(graph, k))]
    if changed:
        raise StudyError(
            f"the model changes its input: graph.{', graph.'.join(changed)}",
            where=name,
            remedy="make a new tensor (pos = graph.pos * 2) in the place of one that is changed"
            " (graph.pos *= 2): others read the same graph",
        )
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


def _look_at_weights(model: ForceField, name: str) -> None:
    """StudyError for weights that would not be trained."""
    hidden = {owner: n for owner, n in outside(model) if n}
    if hidden:
        listed = ", ".join(f"{owner} ({n:,} weights)" for owner, n in hidden.items())
        raise StudyError(
            f"layers that are no part of the model: {listed}; they would neither be trained, nor"
            " counted, nor kept",
            where=name,
            remedy="put them into torch.nn.ModuleList or ModuleDict instead of a list or dict",
        )
    fixed = [n for n, p in model.named_parameters() if not p.requires_grad]
    if fixed:
        raise StudyError(
            f"parameters that ask for no gradient: {', '.join(fixed[:5])}",
            where=name,
            remedy="register_buffer keeps what is not trained; N counts what is",
        )


def outside(model: nn.Module) -> Iterator[tuple[str, int]]:
    """What a model holds beside its parameters and buffers: attributes with tensors or with layers
    in lists and dictionaries, and the trainable weights in them."""
    known = {id(x) for x in (*model.parameters(), *model.buffers())}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            held = list(_held(value))
            if held and not known.issuperset(map(id, held)):
                weights = sum(
                    p.numel()
                    for p in held
                    if isinstance(p, nn.Parameter) and p.requires_grad and id(p) not in known
                )
                yield f"{prefix}.{key}".lstrip("."), weights


def _held(value: Any) -> Iterator[Tensor]:
    """Tensors in a value, in lists, tuples and dictionaries, and of layers there."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _held(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _held(item)


def _blind(model: ForceField, graph: GraphBatch) -> bool:
    """Whether a model whose forces we differentiate reads no vectors at all."""
    whole = type(model).forward is not ForceField.forward
    if whole or model.config.forces != "conservative":
        return False
    with torch.enable_grad():
        vec = graph.vectors().detach().requires_grad_(True)
        site, _ = model.atomwise(graph, vec)
        (slope,) = torch.autograd.grad(site.sum(), vec, allow_unused=True)
    return slope is None


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
