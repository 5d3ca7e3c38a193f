"""The one switch between plain torch and kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from forcelaw import ops
from forcelaw.errors import ForcelawError
from forcelaw.models import ARCHITECTURES, build
from forcelaw.ops.switch import use_triton, use_triton_at
from tests.models.tools import make_graph
from tests.molecules import random_cluster

X = torch.zeros(3)


def test_auto_takes_torch_on_a_cpu_and_kernels_only_where_asked() -> None:
    assert not use_triton(X)
    with ops.using("torch"):
        assert not use_triton(X)
    if ops.AVAILABLE:
        with ops.using("triton"):
            assert use_triton(X)
            with ops.using("torch"):
                assert not use_triton(X)
            assert use_triton(X)
        assert not use_triton(X)


def test_an_unknown_mode_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ForcelawError, match="auto, torch, triton"), ops.using("cuda"):
        pass
    environment = {**os.environ, "FORCELAW_OPS": "fast"}
    done = subprocess.run(
        [sys.executable, "-c", "import forcelaw.ops"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0 and "FORCELAW_OPS" in done.stderr and "triton" in done.stderr


@pytest.mark.skipif(not ops.AVAILABLE, reason="needs Triton")
def test_kernels_refuse_geometry_that_wants_a_gradient() -> None:
    with ops.using("triton"), pytest.raises(RuntimeError, match="gradient by positions"):
        use_triton_at(torch.zeros(2, 3, requires_grad=True))


def small(name: str, **options: object) -> torch.nn.Module:
    config = ARCHITECTURES[name].config(
        width=8, depth=1, elements=(1, 6, 7, 8, 9, 16), mean_degree=4.0, **options
    )
    model = build(config, seed=0).double()
    torch.manual_seed(0)
    for parameter in model.parameters():  # the heads start at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.skipif(not ops.AVAILABLE, reason="needs Triton")
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_a_gradient_by_positions_is_the_same_in_every_mode(forces: str) -> None:
    """By plain torch for direct forces, and by kernels that were made for it for others."""
    model, graph = small("painn", forces=forces), make_graph([random_cluster(6, 5)])
    found = []
    for mode in ("torch", "triton"):
        moving = replace(graph, pos=graph.pos.clone().requires_grad_())
        with ops.using(mode):
            energy, force = model(moving)
        if forces == "direct":
            (force,) = torch.autograd.grad(energy.sum(), moving.pos)
        found.append(force.detach())
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["mpnn", "painn", "egnn", "esen", "gemnet_oc"])
def test_models_can_be_exported(name: str) -> None:
    """torch.export takes the plain operations, and what it makes gives the same numbers."""
    model = small(name).eval()
    graph = make_graph([random_cluster(6, 5)])
    degree = int(torch.bincount(graph.receiver).max())
    graph = replace(graph, max_degree=degree)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.model(replace(graph, pos=pos))

    exported = torch.export.export(Flat(), (graph.pos,)).module()
    for a, b in zip(exported(graph.pos), model(graph)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mpnn", "painn", "egnn", "gemnet_oc"])  # eSEN: tests/models
def test_models_are_one_graph_for_torch_compile(name: str) -> None:
    model = small(name).eval()
    graph = make_graph([random_cluster(6, 5)])
    graph = replace(graph, max_degree=int(torch.bincount(graph.receiver).max()))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(graph)
    torch._dynamo.reset()
    for a, b in zip(found, model(graph)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
