"""Kernels under gradient forces, interpreted on a CPU in float64, against torch's double backward
of plain operations."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.graph import GraphBatch
from forcelaw.models import build, make_config
from forcelaw.models.base import ForceField
from tests.ops.graphs import DEVICE, molecules

MODELS = {
    "painn": {"architecture": "painn", "width": 6, "depth": 2, "radial": 5},
    "painn-bessel": {
        "architecture": "painn",
        "width": 6,
        "depth": 2,
        "radial": 5,
        "basis": "bessel",
    },
    "mpnn": {"architecture": "mpnn", "width": 6, "depth": 2, "radial": 4, "angular": 3},
    "additive": {
        "architecture": "mpnn",
        "width": 6,
        "depth": 1,
        "radial": 4,
        "message": "additive",
    },
    "egnn": {"architecture": "egnn", "width": 6, "depth": 3, "radial": 5, "channels": 3},
    "esen": {"architecture": "esen", "width": 4, "depth": 1, "radial": 4, "lmax": 1},
    "attention": {
        "architecture": "attention",
        "width": 8,
        "depth": 2,
        "head_width": 4,
        "radial": 4,
        "angular": 3,
    },
}


def shaken(spec: dict, elements: int) -> ForceField:
    """A model none of whose weights is zero."""
    config = make_config(
        {**spec, "elements": range(1, elements + 1), "cutoff": 3.0, "forces": "conservative"}
    )
    model = build(config, 0).double().to(DEVICE)
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.5)
    return model


def wanted(model: ForceField, graph: GraphBatch, real: int) -> dict[str, torch.Tensor]:
    """Energies, forces and virials of training and evaluation, and the gradients of a loss of
    them."""
    torch.manual_seed(2)
    energy, forces, virial = model.train().with_virial(graph)
    loss = (energy * torch.randn_like(energy)).sum() + virial.square().sum()
    loss = loss + (forces - torch.randn_like(forces))[:real].square().sum()
    names, parameters = zip(*model.named_parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    again, other = model.eval()(graph)
    return {
        **{"energy": energy, "forces": forces[:real], "virial": virial},
        **{"energy of evaluation": again, "forces of evaluation": other[:real]},
        **dict(zip(names, gradients)),
    }


@pytest.mark.parametrize("name", MODELS)
def test_same_as_double_backward(name: str, few_programs_for_padding: None) -> None:
    graph = molecules(3, 1, 4, pad=True)
    graph.species = torch.arange(len(graph.species), device=DEVICE) % 3
    model = shaken(MODELS[name], 3)
    assert model.kernels_give_forces
    with ops.using("torch"):
        slow = wanted(model, graph, 8)
    with ops.using("triton"):
        fast = wanted(model, graph, 8)
    assert slow["forces"].abs().max() > 1e-3 and slow["virial"].abs().max() > 1e-3
    for key, value in slow.items():
        torch.testing.assert_close(
            fast[key], value, rtol=1e-10, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_geometry_has_no_gradient_outside() -> None:
    """A part of a model that is called by itself says so, and does not give zero."""
    graph = molecules(3, pad=False)
    model = shaken(MODELS["painn"], 3)
    with ops.using("triton"), pytest.raises(RuntimeError):
        model.atomwise(graph, graph.vectors().requires_grad_(True))


def test_a_step_leaves_nothing_behind() -> None:
    """The passes hold on to each other only until the last of them is over."""
    model, graph = shaken(MODELS["additive"], 3), molecules(3, pad=False)
    alive = weakref.ref(graph)
    with ops.using("triton"):
        energy, forces = model(graph)
        torch.autograd.grad(energy.sum() + forces.square().sum(), list(model.parameters()))
    del graph, energy, forces
    gc.collect()
    assert alive() is None
