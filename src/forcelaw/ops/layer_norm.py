"""LayerNorm(x), by itself or with SiLU after it, in one pass each way: torch's own takes ten times
its memory traffic on rows this short.

x (rows, w), rows being atoms or edges; gain and bias (w,); shift (w,), added to x first: the bias
of the product that x comes from, whose gradient costs nothing here and a pass over all rows
elsewhere. The backward pass recomputes mean and scale, and sums the gradients of vectors in each
program before one small sum over programs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import twice
from .register import Differentiable
from .silu import silu
from .switch import constexpr, tl, triton, use_triton, use_twice
from .tiles import PROGRAMS

EPSILON = constexpr(1e-5)  # that of torch.nn.functional.layer_norm


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm(x) gain + bias over the last axis of x (rows, w); by kernels in the dtype of x."""
    if use_triton(x):
        return _Norm.apply(x.contiguous(), None, gain, bias, False)
    if use_twice():
        return twice.layer_norm(x, gain, bias)
    return nn.functional.layer_norm(x, x.shape[-1:], gain, bias)


def linear_norm_silu(
    x: Tensor, weight: Tensor, shift: Tensor, gain: Tensor, bias: Tensor
) -> Tensor:
    """SiLU(LayerNorm(x W^T + shift) gain + bias): x (rows, in), W (w, in), all others (w,) ->
    (rows, w)."""
    if use_triton(x):
        return _Norm.apply(nn.functional.linear(x, weight), shift, gain, bias, True)
    y = nn.functional.linear(x, weight, shift)
    return silu(layer_norm(y, gain, bias))


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x,
    shift,
    gain,
    bias,
    out,
    rows,
    SHIFT: constexpr,
    SILU: constexpr,
    w: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mc = c < w
    mask = (r < rows)[:, None] & mc[None, :]
    wide = gain.dtype.element_ty
    v = tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(wide)
    if SHIFT:
        v += tl.load(shift + c, mask=mc, other=0.0)[None, :]
    v = tl.where(mask, v - (tl.sum(v, axis=1) / w)[:, None], 0.0)
    v = v * (1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON))[:, None]
    y = v * tl.load(gain + c, mask=mc, other=0.0)[None, :]
    y += tl.load(bias + c, mask=mc, other=0.0)[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + r[:, None] * w + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "programs"])
def _backward(
    x,
    shift,
    gain,
    bias,
    grad,
    dx,
    sums,
    rows,
    programs,
    SHIFT: constexpr,
    SILU: constexpr,
    w: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """sums (2 or 3, programs, w): of gain, bias and shift, over the rows of a program."""
    pid = tl.program_id(0)
    c = tl.arange(0, BC)
    mc = c < w
    wide = gain.dtype.element_ty
    g = tl.load(gain + c, mask=mc, other=0.0)[None, :]
    b = tl.load(bias + c, mask=mc, other=0.0)[None, :]
    # summed over BE once, at the end: a sum waits for all warps
    zero = tl.zeros([BE, BC], wide)
    sum_gain, sum_bias, sum_shift = zero, zero, zero
    moved = tl.zeros([1, BC], wide)
    if SHIFT:
        moved = tl.load(shift + c, mask=mc, other=0.0)[None, :]
    for low in range(pid * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        v = tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(wide) + moved
        v = tl.where(mask, v - (tl.sum(v, axis=1) / w)[:, None], 0.0)
        scale = (1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON))[:, None]
        v = v * scale
        dy = tl.load(grad + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(wide)
        if SILU:
            y = v * g + b
            s = 1.0 / (1.0 + tl.exp(-y))
            dy = dy * s * (1.0 + y * (1.0 - s))
        sum_gain += dy * v
        sum_bias += dy
        dv = dy * g
        rest = dv - (tl.sum(dv, axis=1) / w)[:, None]
        dv = (rest - v * (tl.sum(dv * v, axis=1) / w)[:, None]) * scale
        tl.store(dx + r[:, None] * w + c[None, :], dv.to(dx.dtype.element_ty), mask=mask)
        if SHIFT:
            sum_shift += tl.where(mask, dv, 0.0)
    tl.store(sums + pid * w + c, tl.sum(sum_gain, axis=0), mask=mc)
    tl.store(sums + (programs + pid) * w + c, tl.sum(sum_bias, axis=0), mask=mc)
    if SHIFT:
        tl.store(sums + (2 * programs + pid) * w + c, tl.sum(sum_shift, axis=0), mask=mc)


def _tile(w: int) -> dict[str, int]:
    columns = max(16, triton.next_power_of_2(w))
    return {"BE": max(1, 1024 // columns), "BC": columns, "num_warps": 4}


class _Norm(Differentiable):
    def forward(ctx, x, shift, gain, bias, silu):
        (rows, w), size, moved = x.shape, _tile(x.shape[1]), shift is not None
        out = torch.empty_like(x)
        given = x, shift if moved else gain, gain, bias, out
        _forward[(triton.cdiv(rows, size["BE"]),)](*given, rows, moved, silu, w, **size)
        ctx.save_for_backward(x, shift, gain, bias)
        ctx.silu = silu
        return out

    def backward(ctx, grad):
        x, shift, gain, bias = ctx.saved_tensors
        (rows, w), size, moved = x.shape, _tile(x.shape[1]), shift is not None
        programs = min(PROGRAMS, triton.cdiv(rows, size["BE"]))
        dx, sums = torch.empty_like(x), gain.new_empty(3 if moved else 2, programs, w)
        given = x, shift if moved else gain, gain, bias, grad.contiguous()
        _backward[(programs,)](*given, dx, sums, rows, programs, moved, ctx.silu, w, **size)
        sums = sums.sum(1)
        return dx, sums[2] if moved else None, sums[0], sums[1], None
