"""Kernels of the Platonic transformer's attention, interpreted on a CPU, against the same sum over
edges by plain torch: float64 and float32, lone atoms, empty slots, padding."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.graph import GraphBatch, build_graph
from forcelaw.ops import attention
from forcelaw.ops.molecule_attention import MOST_CHANNELS, MoleculePairs
from tests.molecules import random_cluster

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUTOFF = 4.0  # not all pairs are within it
SIZES = (3, 1, 8, 0)


def leaf(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE).requires_grad_(True)


def batch(sizes: tuple[int, ...], dtype: torch.dtype, padding: int = 0) -> GraphBatch:
    clusters = [random_cluster(size, size) for size in sizes if size]
    pos = torch.cat([torch.tensor(c.pos) for c in clusters]).to(DEVICE, dtype)
    species = torch.zeros(len(pos), dtype=torch.long, device=DEVICE)
    graph = build_graph(pos, species, torch.tensor(sizes, device=DEVICE), CUTOFF)
    if padding:  # atoms of no structure, as batches of fixed shape have them
        graph.pos = torch.cat([graph.pos, graph.pos.new_full((padding, 3), 7.0)])
        graph.batch = torch.cat([graph.batch, graph.batch.new_full((padding,), len(sizes))])
    return graph


def attended(mode: str, graph: GraphBatch, qkv, w, decay, turn_values: bool):
    """Outputs, and gradients of a random projection of those that are no padding."""
    real = int(graph.natoms.sum())
    with ops.using(mode):
        vec = graph.vectors()
        pairs = ops.attention_pairs(graph, vec, CUTOFF, decay, channels=qkv.shape[-1])
        assert isinstance(pairs, MoleculePairs if mode == "triton" else attention.EdgePairs)
        out = ops.rotary_attention(qkv, w, pairs, turn_values)
    torch.manual_seed(1)
    loss = (out[:real] * torch.randn_like(out[:real])).sum()
    return out, *torch.autograd.grad(loss, [qkv, w])


@pytest.mark.parametrize("turn_values", [True, False])
@pytest.mark.parametrize("channels", [2, 6])
def test_as_over_edges(channels: int, turn_values: bool) -> None:
    torch.manual_seed(0)
    graph, heads = batch(SIZES, torch.float64, padding=4), 3
    qkv = leaf(len(graph.pos), 3, heads, channels, dtype=torch.float64)
    w = leaf(heads, channels // 2, 3, dtype=torch.float64)
    decay = torch.rand(heads, dtype=torch.float64, device=DEVICE)
    found = attended("triton", graph, qkv, w, decay, turn_values)
    expected = attended("torch", graph, qkv, w, decay, turn_values)
    real = int(graph.natoms.sum())
    torch.testing.assert_close(found[0][:real], expected[0][:real], rtol=1e-11, atol=1e-11)
    for fast, slow in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
    assert not found[0][real:].any() and not found[1][real:].any()


def test_in_float32_without_decay_and_with_more_heads_than_a_program_takes() -> None:
    torch.manual_seed(0)
    graph, heads = batch((7, 5), torch.float32), 11
    qkv = leaf(len(graph.pos), 3, heads, 4, dtype=torch.float32)
    w = leaf(heads, 2, 3, dtype=torch.float32)
    found = attended("triton", graph, qkv, w, None, True)
    expected = attended("torch", graph, qkv, w, None, True)
    for fast, slow in zip(found, expected, strict=True):
        assert fast.dtype == torch.float32
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_wide_heads_go_another_way() -> None:
    graph = batch((5,), torch.float32)
    with ops.using("triton"):
        for channels in (0, MOST_CHANNELS + 2):
            pairs = ops.attention_pairs(graph, graph.vectors(), CUTOFF, channels=channels)
            assert isinstance(pairs, attention.PaddedPairs)
