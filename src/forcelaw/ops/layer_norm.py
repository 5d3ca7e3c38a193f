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
from .register import Twice
from .silu import silu, silu_curvature
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


@triton.jit
def _normalised(x, moved, r, c, mask, w: constexpr, WIDE: constexpr):
    """(x + shift - mean) / sigma of some rows, and 1 / sigma."""
    v = tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE) + moved
    v = tl.where(mask, v - (tl.sum(v, axis=1) / w)[:, None], 0.0)
    scale = (1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON))[:, None]
    return v * scale, scale


@triton.jit
def _put_sums(sums, sum_gain, sum_bias, sum_shift, programs, c, w: constexpr, SHIFT: constexpr):
    """Gradients of gain, bias and shift, as this program has them."""
    pid, mc = tl.program_id(0), c < w
    tl.store(sums + pid * w + c, tl.sum(sum_gain, axis=0), mask=mc)
    tl.store(sums + (programs + pid) * w + c, tl.sum(sum_bias, axis=0), mask=mc)
    if SHIFT:
        tl.store(sums + (2 * programs + pid) * w + c, tl.sum(sum_shift, axis=0), mask=mc)


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
        v, scale = _normalised(x, moved, r, c, mask, w, wide)
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
    _put_sums(sums, sum_gain, sum_bias, sum_shift, programs, c, w, SHIFT)


def _tile(w: int) -> dict[str, int]:
    columns = max(16, triton.next_power_of_2(w))
    return {"BE": max(1, 1024 // columns), "BC": columns, "num_warps": 4}


@triton.jit
def _across(d, v, scale, mask, w: constexpr):
    """The derivative of normalised rows v along d; its own transpose."""
    d = tl.where(mask, d - (tl.sum(d, axis=1) / w)[:, None], 0.0)
    return (d - v * (tl.sum(d * v, axis=1) / w)[:, None]) * scale


@triton.jit(do_not_specialize=["rows"])
def _push(
    x,
    shift,
    gain,
    bias,
    tangent,
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
    moved = tl.zeros([1, BC], wide)
    if SHIFT:
        moved = tl.load(shift + c, mask=mc, other=0.0)[None, :]
    v, scale = _normalised(x, moved, r, c, mask, w, wide)
    t = tl.load(tangent + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(wide)
    g = tl.load(gain + c, mask=mc, other=0.0)[None, :]
    y = _across(t, v, scale, mask, w) * g
    if SILU:
        slope, _ = silu_curvature(v * g + tl.load(bias + c, mask=mc, other=0.0)[None, :])
        y = y * slope
    tl.store(out + r[:, None] * w + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "programs"])
def _second(
    x,
    shift,
    gain,
    bias,
    tangent,
    first,
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
    """As _backward, of <grad, y> + <first, y'>."""
    pid = tl.program_id(0)
    c = tl.arange(0, BC)
    mc = c < w
    wide = gain.dtype.element_ty
    g = tl.load(gain + c, mask=mc, other=0.0)[None, :]
    b = tl.load(bias + c, mask=mc, other=0.0)[None, :]
    zero = tl.zeros([BE, BC], wide)
    sum_gain, sum_bias, sum_shift = zero, zero, zero
    moved = tl.zeros([1, BC], wide)
    if SHIFT:
        moved = tl.load(shift + c, mask=mc, other=0.0)[None, :]
    for low in range(pid * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        at = r[:, None] * w + c[None, :]
        v, scale = _normalised(x, moved, r, c, mask, w, wide)
        t = tl.load(tangent + at, mask=mask, other=0.0).to(wide)
        dy = tl.load(grad + at, mask=mask, other=0.0).to(wide)
        p = tl.load(first + at, mask=mask, other=0.0).to(wide)
        vt = _across(t, v, scale, mask, w)
        if SILU:
            slope, curvature = silu_curvature(v * g + b)
            dy = dy * slope + p * curvature * vt * g
            p = p * slope
        sum_gain += dy * v + p * vt
        sum_bias += dy
        # of <a, v'> = <a, _across(t)>: by v in the projection, and by 1 / sigma
        a = p * g
        t = tl.where(mask, t - (tl.sum(t, axis=1) / w)[:, None], 0.0)
        av, tv = (tl.sum(a * v, axis=1) / w)[:, None], (tl.sum(t * v, axis=1) / w)[:, None]
        at_scale = (tl.sum(a * t, axis=1) / w)[:, None] - av * tv
        dv = _across(dy * g - (tv * a + av * t) * scale, v, scale, mask, w)
        dv -= v * at_scale * scale * scale
        tl.store(dx + at, dv.to(dx.dtype.element_ty), mask=mask)
        if SHIFT:
            sum_shift += tl.where(mask, dv, 0.0)
    _put_sums(sums, sum_gain, sum_bias, sum_shift, programs, c, w, SHIFT)


class _Norm(Twice):
    def value(ctx, x, shift, gain, bias, silu):
        (rows, w), size, moved = x.shape, _tile(x.shape[1]), shift is not None
        out = torch.empty_like(x)
        given = x, shift if moved else gain, gain, bias, out
        _forward[(triton.cdiv(rows, size["BE"]),)](*given, rows, moved, silu, w, **size)
        ctx.silu = silu
        return out, (x, shift, gain, bias)

    def gradient(ctx, kept, grad):
        return _Norm.by(_backward, ctx, kept, grad)

    def push(ctx, kept, tangents):
        (x, shift, gain, bias), out = kept, torch.empty_like(kept[0])
        (rows, w), size, moved = x.shape, _tile(x.shape[1]), shift is not None
        given = x, shift if moved else gain, gain, bias, tangents[0].contiguous(), out
        _push[(triton.cdiv(rows, size["BE"]),)](*given, rows, moved, ctx.silu, w, **size)
        return (out,), None

    def second(ctx, kept, tangents, first, grads, more):
        return _Norm.by(_second, ctx, kept, tangents[0], first[0], grads[0])

    @staticmethod
    def by(kernel, ctx, kept, *more):
        """The gradients of all inputs by one of the kernels that sum them."""
        x, shift, gain, bias = kept
        (rows, w), size, moved = x.shape, _tile(x.shape[1]), shift is not None
        programs = min(PROGRAMS, triton.cdiv(rows, size["BE"]))
        dx, sums = torch.empty_like(x), gain.new_empty(3 if moved else 2, programs, w)
        given = x, shift if moved else gain, gain, bias, *(y.contiguous() for y in more)
        kernel[(programs,)](*given, dx, sums, rows, programs, moved, ctx.silu, w, **size)
        sums = sums.sum(1)
        return dx, sums[2] if moved else None, sums[0], sums[1], None
