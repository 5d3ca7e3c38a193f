"""Linear layers of atoms with the gradient of their bias by a kernel: torch's sum over thousands of
short rows takes as long as the matrix product beside it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import wide
from .gemnet.residual import lowered

# integers named in do_not_specialize, here and elsewhere, are counts: Triton would compile once
# more where 16 divides them
PROGRAMS = 64  # rows are dealt out to that many at most, and their sums added by torch
# up to so many rows one program sums all, of 16 columns: torch's sum would be a launch more
FEW = 1024


@triton.jit(do_not_specialize=["rows", "programs"])
def _column_sums(x, out, rows, programs, w, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr):
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    total = tl.zeros([BE, BC], WIDE)
    for low in range(tl.program_id(0) * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        total += tl.load(
            x + r[:, None] * w + c[None, :], mask=(r < rows)[:, None] & mc[None, :], other=0.0
        ).to(WIDE)
    tl.store(out + tl.program_id(0) * w + c, tl.sum(total, axis=0), mask=mc)


def column_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (rows, w) -> (w,), summed at least in float32."""
    rows, w = x.shape
    columns = 16 if rows <= FEW else min(64, max(16, triton.next_power_of_2(w)))
    height = 2048 // columns
    programs = 1 if rows <= FEW else min(PROGRAMS, triton.cdiv(rows, height))
    sums = torch.empty(
        programs, w, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
    )
    _column_sums[programs, triton.cdiv(w, columns)](
        x, sums, rows, programs, w, WIDE=wide(x), BE=height, BC=columns, num_warps=4
    )
    return (sums.view(w) if programs == 1 else sums.sum(0)).to(dtype)


@torch.library.custom_op("forcelaw::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias.to(weight.dtype), x.to(weight.dtype), weight.t())


@_linear.register_fake
def _(x, weight, bias):
    return weight.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("forcelaw::linear_backward", mutates_args=())
def _linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    return (
        torch.mm(grad, weight).to(x.dtype),
        torch.mm(grad.t(), x.to(weight.dtype)),
        column_sums(grad, bias.dtype),
    )


@_linear_backward.register_fake
def _(grad, x, weight, bias):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


_linear.register_autograd(
    lambda ctx, grad: _linear_backward(grad, *ctx.saved_tensors), setup_context=_save
)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b of x (rows, in), W (out, in), b (out,): (rows, out) in the dtype of autocast where
    it is on."""
    return _linear(x, lowered(weight), bias)
