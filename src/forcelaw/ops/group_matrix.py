"""The matrix of a convolution over a finite group: blocks that are shared between its rows.

Legend: G elements; kernel (G, out, in).
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_matrix(kernel: Tensor, between: Tensor, columns: Tensor) -> Tensor:
    """(G out, G in): block (g, h) is the kernel of between[g, h] = g^-1 h; columns (G, G): where
    that element stands in row g."""
    if len(kernel) == 1:
        return kernel[0]
    return _Spread.apply(kernel, between, columns)


class _Spread(torch.autograd.Function):
    """Each block of the kernel stands once in each row of blocks, so its gradient is a gather and a
    sum over rows: no atomics, the same bits every time. Differentiable twice, being plain torch."""

    @staticmethod
    def forward(ctx, kernel, between, columns):
        ctx.save_for_backward(columns)
        ctx.shape = kernel.shape
        g, out, into = kernel.shape
        blocks = kernel.index_select(0, between.view(-1)).view(g, g, out, into)
        return blocks.transpose(1, 2).reshape(g * out, g * into)

    @staticmethod
    def backward(ctx, grad):
        (columns,), (g, out, into) = ctx.saved_tensors, ctx.shape
        blocks = grad.view(g, out, g, into).transpose(1, 2).reshape(g * g, out, into)
        first = torch.arange(g, device=grad.device).unsqueeze(1) * g
        picked = blocks.index_select(0, (first + columns).view(-1))
        return picked.view(g, g, out, into).sum(0), None, None
