"""The matrix of an SO(2) convolution, [[W1, -W2], [W2, W1]], in one launch each way; torch takes
four and four, for each order of each convolution, and small models wait for launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FLAT = 1024  # numbers of a program


@triton.jit
def _build(tied, out, rows, columns, FLAT: tl.constexpr):
    i = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = i < 4 * rows * columns
    row, column = i // (2 * columns), i % (2 * columns)
    top, left = row < rows, column < columns
    second = tl.where(top == left, 0, rows * columns)
    value = tl.load(tied + second + row % rows * columns + column % columns, mask=inside, other=0.0)
    tl.store(out + i, tl.where(top & (column >= columns), -value, value), mask=inside)


@triton.jit
def _gather(grad, out, rows, columns, FLAT: tl.constexpr):
    i = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    inside = i < rows * columns
    at = i // columns * 2 * columns + i % columns
    below = rows * 2 * columns
    left, right = (
        tl.load(grad + at, mask=inside, other=0.0),
        tl.load(grad + at + columns, mask=inside, other=0.0),
    )
    low_left = tl.load(grad + at + below, mask=inside, other=0.0)
    low_right = tl.load(grad + at + below + columns, mask=inside, other=0.0)
    tl.store(out + i, left + low_right, mask=inside)
    tl.store(out + rows * columns + i, low_left - right, mask=inside)


@torch.library.custom_op("forcelaw::so2_block", mutates_args=())
def _so2_block(tied: Tensor) -> Tensor:
    _, rows, columns = tied.shape
    out = tied.new_empty(2 * rows, 2 * columns)
    _build[(triton.cdiv(out.numel(), FLAT),)](tied, out, rows, columns, FLAT=FLAT, num_warps=4)
    return out


@_so2_block.register_fake
def _(tied):
    return tied.new_empty(2 * tied.shape[1], 2 * tied.shape[2])


@torch.library.custom_op("forcelaw::so2_block_backward", mutates_args=())
def _so2_block_backward(grad: Tensor) -> Tensor:
    rows, columns = grad.shape[0] // 2, grad.shape[1] // 2
    out = grad.new_empty(2, rows, columns)
    _gather[(triton.cdiv(rows * columns, FLAT),)](
        grad.contiguous(), out, rows, columns, FLAT=FLAT, num_warps=4
    )
    return out


@_so2_block_backward.register_fake
def _(grad):
    return grad.new_empty(2, grad.shape[0] // 2, grad.shape[1] // 2)


_so2_block.register_autograd(lambda ctx, grad: _so2_block_backward(grad))


def so2_block(tied: Tensor) -> Tensor:
    """W1, W2 (2, out, in) -> [[W1, -W2], [W2, W1]] (2 out, 2 in)."""
    return _so2_block(tied.contiguous())
