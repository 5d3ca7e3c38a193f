"""Graphs and comparisons for the tests of kernels."""

from __future__ import annotations

import torch

from forcelaw.graph import GraphBatch, molecule_edges

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PADDING = 5  # edges more of a padded graph


def molecules(*sizes: int, pad: bool, spread: float = 1.5) -> GraphBatch:
    """Molecules of so many atoms, Gaussians of ``spread`` Angstrom; padded: two dummy atoms and
    some edges more."""
    torch.manual_seed(0)
    n, natoms = sum(sizes), torch.tensor(sizes)
    pos = torch.randn(n, 3, dtype=torch.float64) * spread
    sender, receiver = molecule_edges(pos, natoms, 3.0)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), natoms)
    if pad:
        pos, batch = (
            torch.cat([pos, torch.zeros(2, 3, dtype=torch.float64)]),
            torch.cat([batch, torch.tensor([len(sizes)] * 2)]),
        )
        ghost = torch.full((PADDING,), n + 1)
        sender, receiver = torch.cat([sender, ghost]), torch.cat([receiver, ghost])
    out = GraphBatch(torch.zeros_like(batch), batch, pos, sender, receiver, natoms, pad=pad)
    return GraphBatch(
        **{k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in vars(out).items()}
    )


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=DEVICE).requires_grad_(True)


def same(
    fast: tuple[torch.Tensor, ...],
    slow: tuple[torch.Tensor, ...],
    leaves: list[torch.Tensor],
    real: int,
) -> None:
    """Outputs agree on real atoms, and gradients of a random projection of them agree."""
    weights = [torch.randn_like(s[:real]) for s in slow]
    gradients = []
    for outputs in (fast, slow):
        loss = sum((w * o[:real]).sum() for w, o in zip(weights, outputs))
        gradients.append(torch.autograd.grad(loss, leaves))
    for f, s in zip(fast, slow):
        torch.testing.assert_close(f[:real], s[:real], rtol=1e-12, atol=1e-12)
    for f, s in zip(*gradients):
        torch.testing.assert_close(f, s, rtol=1e-12, atol=1e-12)


def sums(values: torch.Tensor, graph: GraphBatch) -> torch.Tensor:
    return values.new_zeros(len(graph.pos), *values.shape[1:]).index_add(0, graph.receiver, values)
