"""A linear layer and the nonlinearity after it, SiLU or a gate (GLU, arXiv 1612.08083), in one pass
over the product each way, its bias included: torch takes a pass for each half of a gate, its
sigmoid and its product, four more for their gradients, and one for that of the bias.

By hand, y = a s with s = sigmoid(g): s' = s (1 - s) and s'' = s' (1 - 2 s).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .linear import linear
from .register import Twice
from .silu import silu, silu_curvature
from .switch import constexpr, tl, triton, use_triton
from .tiles import PROGRAMS, lowered, tile, wide

# tile of each kernel: rows, channels at most, warps
TILES = {"up": (16, 64, 4), "grad": (16, 64, 4), "second": (16, 64, 4)}


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU(x W^T + b): x (rows, in), W (w, in), b (w,) -> (rows, w)."""
    if use_triton(x):
        return _Act.apply(nn.functional.linear(x, lowered(weight)), bias, False)
    return silu(linear(x, weight, bias))


def linear_glu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The first half of x W^T + b times the sigmoid of the second: x (rows, in), W (2 w, in), b (2
    w,) -> (rows, w)."""
    if use_triton(x):
        return _Act.apply(nn.functional.linear(x, lowered(weight)), bias, True)
    value, gate = linear(x, weight, bias).chunk(2, dim=-1)
    return value * torch.sigmoid(gate)


@triton.jit
def _gate(g):
    """Sigmoid, and its first and second derivative."""
    s = 1.0 / (1.0 + tl.exp(-g))
    slope = s * (1.0 - s)
    return s, slope, slope * (1.0 - 2.0 * s)


@triton.jit
def _read(x, r, c, mask, step: constexpr, first: constexpr, WIDE: constexpr):
    at = x + r[:, None] * step + first + c[None, :]
    return tl.load(at, mask=mask, other=0.0).to(WIDE)


@triton.jit
def _write(x, r, c, mask, step: constexpr, first: constexpr, value):
    at = x + r[:, None] * step + first + c[None, :]
    tl.store(at, value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _biases(bias, c, w: constexpr, GLU: constexpr, WIDE: constexpr):
    first = tl.load(bias + c, mask=c < w, other=0.0).to(WIDE)[None, :]
    if GLU:
        return first, tl.load(bias + w + c, mask=c < w, other=0.0).to(WIDE)[None, :]
    return first, first


@triton.jit(do_not_specialize=["rows"])
def _up(
    x,
    bias,
    tangent,
    out,
    rows,
    GLU: constexpr,
    PUSH: constexpr,
    w: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """The value, or where PUSH its change along ``tangent``."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    step: constexpr = 2 * w if GLU else w
    first, second = _biases(bias, c, w, GLU, WIDE)
    a = _read(x, r, c, mask, step, 0, WIDE) + first
    if GLU:
        s, slope, _ = _gate(_read(x, r, c, mask, step, w, WIDE) + second)
        if PUSH:
            y = _read(tangent, r, c, mask, step, 0, WIDE) * s
            y += a * slope * _read(tangent, r, c, mask, step, w, WIDE)
        else:
            y = a * s
    elif PUSH:
        slope, _ = silu_curvature(a)
        y = _read(tangent, r, c, mask, step, 0, WIDE) * slope
    else:
        y = a / (1.0 + tl.exp(-a))
    _write(out, r, c, mask, w, 0, y)


@triton.jit(do_not_specialize=["rows", "programs"])
def _grad(
    x,
    bias,
    tangent,
    first,
    grad,
    dx,
    sums,
    rows,
    programs,
    GLU: constexpr,
    SECOND: constexpr,
    w: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Gradient of <grad, y>, and where SECOND of <first, y'> too; sums (programs, w or 2 w): of the
    biases, over the rows of a program."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    step: constexpr = 2 * w if GLU else w
    b0, b1 = _biases(bias, c, w, GLU, WIDE)
    sum0, sum1 = tl.zeros([BE, BC], WIDE), tl.zeros([BE, BC], WIDE)
    for low in range(pid * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        a = _read(x, r, c, mask, step, 0, WIDE) + b0
        dy = _read(grad, r, c, mask, w, 0, WIDE)
        if GLU:
            s, slope, curvature = _gate(_read(x, r, c, mask, step, w, WIDE) + b1)
            da, dg = dy * s, dy * a * slope
            if SECOND:
                p = _read(first, r, c, mask, w, 0, WIDE)
                ta = _read(tangent, r, c, mask, step, 0, WIDE)
                tg = _read(tangent, r, c, mask, step, w, WIDE)
                da += p * slope * tg
                dg += p * (ta * slope + a * curvature * tg)
            _write(dx, r, c, mask, step, w, dg)
            sum1 += dg
        else:
            slope, curvature = silu_curvature(a)
            da = dy * slope
            if SECOND:
                p = _read(first, r, c, mask, w, 0, WIDE)
                da += p * curvature * _read(tangent, r, c, mask, step, 0, WIDE)
        _write(dx, r, c, mask, step, 0, da)
        sum0 += da
    put = sums + pid.to(tl.int64) * step + c
    tl.store(put, tl.sum(sum0, axis=0), mask=mc)
    if GLU:
        tl.store(put + w, tl.sum(sum1, axis=0), mask=mc)


class _Act(Twice):
    """apply(x (rows, w or 2 w) without its bias, bias, whether it is a gate) -> (rows, w)."""

    def value(ctx, x, bias, glu):
        ctx.glu = glu
        return _forward(x, bias, x, glu, False), (x, bias)

    def gradient(ctx, kept, grad):
        x, bias = kept
        return *_backward(x, bias, x, grad, grad, ctx.glu, False), None

    def push(ctx, kept, tangents):
        x, bias = kept
        return (_forward(x, bias, tangents[0].contiguous(), ctx.glu, True),), None

    def second(ctx, kept, tangents, first, grads, more):
        x, bias = kept
        return *_backward(x, bias, tangents[0], first[0], grads[0], ctx.glu, True), None


def _sizes(x: Tensor, glu: bool, kernel: str) -> tuple[int, int, dict[str, Any]]:
    rows, width = x.shape
    w = width // 2 if glu else width
    return rows, w, {"w": w, "WIDE": wide(x), "GLU": glu, **tile(TILES, kernel, w)}


def _forward(x: Tensor, bias: Tensor, tangent: Tensor, glu: bool, push: bool) -> Tensor:
    rows, w, size = _sizes(x, glu, "up")
    out = x.new_empty(rows, w)
    programs = triton.cdiv(rows, size["BE"]), triton.cdiv(w, size["BC"])
    _up[programs](x, bias, tangent, out, rows, PUSH=push, **size)
    return out


def _backward(
    x: Tensor, bias: Tensor, tangent: Tensor, first: Tensor, grad: Tensor, glu: bool, second: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and its bias."""
    rows, w, size = _sizes(x, glu, "second" if second else "grad")
    blocks, dx = triton.cdiv(w, size["BC"]), torch.empty_like(x)
    programs = max(1, min(PROGRAMS // blocks, triton.cdiv(rows, size["BE"])))
    sums = bias.new_empty(programs, len(bias))
    given = (y.contiguous() for y in (tangent, first, grad))
    _grad[programs, blocks](x, bias, *given, dx, sums, rows, programs, SECOND=second, **size)
    return dx, sums.sum(0)
