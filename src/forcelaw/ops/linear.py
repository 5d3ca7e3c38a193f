"""Linear layers of atoms with the gradient of their bias by a kernel: torch's sum over thousands of
short rows takes as long as the matrix product beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .register import Twice
from .switch import constexpr, tl, triton, use_triton
from .tiles import lowered, wide

# integers named in do_not_specialize, here and elsewhere, are counts: Triton would compile once
# more where 16 divides them
PROGRAMS = 64  # rows are dealt out to that many at most, and their sums added by torch
# up to so many rows one program sums all, of 16 columns: torch's sum would be a launch more
FEW = 1024


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b of x (..., in), W (out, in), b (out,): (..., out) in the dtype of autocast where it
    is on."""
    if bias is not None and x.dim() == 2 and use_triton(x):
        return _Linear.apply(x, lowered(weight), bias)
    return nn.functional.linear(x, weight, bias)


@triton.jit(do_not_specialize=["rows", "programs"])
def _column_sums(x, out, rows, programs, w, WIDE: constexpr, BE: constexpr, BC: constexpr):
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    total = tl.zeros([BE, BC], WIDE)
    for low in range(tl.program_id(0) * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        total += tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(out + tl.program_id(0) * w + c, tl.sum(total, axis=0), mask=mc)


def column_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (rows, w) -> (w,), summed at least in float32."""
    rows, w = x.shape
    columns = 16 if rows <= FEW else min(64, max(16, triton.next_power_of_2(w)))
    height = 2048 // columns
    programs = 1 if rows <= FEW else min(PROGRAMS, triton.cdiv(rows, height))
    sums = x.new_empty(programs, w, dtype=torch.promote_types(x.dtype, torch.float32))
    size = {"BE": height, "BC": columns, "num_warps": 4}
    grid = programs, triton.cdiv(w, columns)
    _column_sums[grid](x, sums, rows, programs, w, WIDE=wide(x), **size)
    return (sums.view(w) if programs == 1 else sums.sum(0)).to(dtype)


class _Linear(Twice):
    def value(ctx, x, weight, bias):
        ctx.kind = bias.dtype
        return torch.addmm(bias.to(weight.dtype), x.to(weight.dtype), weight.t()), (x, weight)

    def gradient(ctx, kept, grad):
        (x, weight), grad = kept, grad.contiguous()
        dweight = torch.mm(grad.t(), x.to(weight.dtype))
        return torch.mm(grad, weight).to(x.dtype), dweight, column_sums(grad, ctx.kind)

    def pull(ctx, kept, grad):
        x, weight = kept
        return torch.mm(grad, weight).to(x.dtype), None, None

    def push(ctx, kept, tangents):
        _, weight = kept
        return (torch.mm(tangents[0].to(weight.dtype), weight.t()),), None

    def second(ctx, kept, tangents, first, grads, more):
        dx, dweight, dbias = _Linear.gradient(ctx, kept, *grads)
        dweight.addmm_(first[0].t(), tangents[0].to(dweight.dtype))
        return dx, dweight, dbias
