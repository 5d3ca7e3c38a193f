"""The matrix of an SO(2) convolution, [[W1, -W2], [W2, W1]], in one launch each way; torch takes
four and four, for each order of each convolution, and small models wait for launches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..register import Differentiable
from ..switch import constexpr, tl, triton, use_triton

FLAT = 1024  # numbers of a program


def so2_matrix(tied: Tensor) -> Tensor:
    """W1, W2 (2, out, in) -> [[W1, -W2], [W2, W1]] (2 out, 2 in)."""
    if use_triton(tied):
        return _Matrix.apply(tied.contiguous())
    a, c = tied.unbind(0)
    return torch.cat([torch.cat([a, -c], dim=1), torch.cat([c, a], dim=1)])


@triton.jit
def _build(tied, out, rows, columns, FLAT: constexpr):
    i = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = i < 4 * rows * columns
    row, column = i // (2 * columns), i % (2 * columns)
    top, left = row < rows, column < columns
    second = tl.where(top == left, 0, rows * columns)
    value = tl.load(tied + second + row % rows * columns + column % columns, mask=inside, other=0.0)
    tl.store(out + i, tl.where(top & (column >= columns), -value, value), mask=inside)


@triton.jit
def _gather(grad, out, rows, columns, FLAT: constexpr):
    i = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = i < rows * columns
    at = i // columns * 2 * columns + i % columns
    below = rows * 2 * columns
    left = tl.load(grad + at, mask=inside, other=0.0)
    right = tl.load(grad + at + columns, mask=inside, other=0.0)
    low_left = tl.load(grad + at + below, mask=inside, other=0.0)
    low_right = tl.load(grad + at + below + columns, mask=inside, other=0.0)
    tl.store(out + i, left + low_right, mask=inside)
    tl.store(out + rows * columns + i, low_left - right, mask=inside)


class _Matrix(Differentiable):
    def forward(ctx, tied):
        _, rows, columns = tied.shape
        out = tied.new_empty(2 * rows, 2 * columns)
        _build[(triton.cdiv(out.numel(), FLAT),)](tied, out, rows, columns, FLAT=FLAT, num_warps=4)
        return out

    def backward(ctx, grad):
        rows, columns = grad.shape[0] // 2, grad.shape[1] // 2
        out, programs = grad.new_empty(2, rows, columns), (triton.cdiv(rows * columns, FLAT),)
        _gather[programs](grad.contiguous(), out, rows, columns, FLAT=FLAT, num_warps=4)
        return out
