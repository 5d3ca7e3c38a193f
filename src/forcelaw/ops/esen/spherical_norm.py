"""eSEN's work on atoms, between its matrix products: norm, gates of the feed-forward, residual sum.
See models/so3.py.

    spherical_norm    SphericalNorm: y (n, S, C), and its scalars (n, C) once more, by themselves
    spherical_gate    v_0 = SiLU(u_0 + b), v_l = u_l sigmoid(SiLU(h_l)) for l > 0
    spherical_add     x + v^T, + b for l = 0
    by_degree         a matrix per degree -> one per coefficient

Legend: n atoms, S = (lmax + 1)^2 coefficients degree-major, C channels. x, y (n, S, C); u, v (S, n,
C), as the products of SO3Linear give them, so that nothing is copied between. degree (S,) of each
coefficient. Taken apart by torch, slices and concatenations cost more traffic, in the backward pass
above all, than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..linear import column_sums
from ..register import Differentiable, Twice
from ..silu import silu, silu_curvature
from ..switch import constexpr, tl, triton, use_triton
from ..tiles import PROGRAMS, at_least_float32, grid, tile, wide

TILES = {"gate": (4, 64, 4), "add": (4, 64, 4)}
SMALL = 1e-5  # added to the mean square
EPSILON = constexpr(SMALL)


# ---- spherical_norm


def spherical_norm(
    x: Tensor, gain: Tensor, bias: Tensor, weights: Tensor, degree: Tensor
) -> tuple[Tensor, Tensor]:
    """x (n, S, C), gain (lmax + 1, C), bias (C,), weights (S,) of each coefficient in the mean
    square -> y (n, S, C) and y[:, 0] (n, C)."""
    if use_triton(x):
        return _Norm.apply(at_least_float32(x), gain, bias, weights, degree)
    # split, not sliced: the gradients of two slices are five operations, of a split one
    scalars, rest = x.split([1, x.shape[1] - 1], dim=1)
    x = torch.cat([scalars - scalars.mean(-1, keepdim=True), rest], dim=1)
    scale = torch.rsqrt((x.square().sum(-1) * weights).sum(-1) + SMALL)
    x = x * scale[:, None, None] * gain.index_select(0, degree)
    scalars, rest = x.split([1, x.shape[1] - 1], dim=1)
    scalars = scalars + bias
    return torch.cat([scalars, rest], dim=1), scalars.squeeze(1)


@triton.jit
def _centred(x, weights, mask, s, C: constexpr, S: constexpr, WIDE: constexpr):
    """Coefficients (SP, BC) of an atom less the mean of the scalars; weights (SP, 1); 1 / RMS."""
    v = tl.load(x, mask=mask, other=0.0).to(WIDE)
    first = (s == 0)[:, None]
    mean = tl.sum(tl.sum(tl.where(first, v, 0.0), axis=1), axis=0) / C
    v = tl.where(first & mask, v - mean, v)
    w = tl.load(weights + s, mask=s < S, other=0.0)[:, None]
    return v, w, 1.0 / tl.sqrt(tl.sum(tl.sum(v * v * w, axis=1), axis=0) + EPSILON)


@triton.jit
def _norm(
    x,
    gain,
    bias,
    weights,
    degree,
    y,
    scalars,
    C: constexpr,
    S: constexpr,
    WIDE: constexpr,
    SP: constexpr,
    BC: constexpr,
):
    """One atom."""
    i = tl.program_id(0).to(tl.int64)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    v, _, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
    l = tl.load(degree + s, mask=s < S, other=0)
    g = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    first = (s == 0)[:, None]
    out = v * scale * g + tl.where(first, tl.load(bias + c, mask=c < C, other=0.0)[None, :], 0.0)
    tl.store(y + i * S * C + at, out, mask=mask)
    tl.store(scalars + i * C + c, tl.sum(tl.where(first, out, 0.0), axis=0), mask=c < C)


@triton.jit(do_not_specialize=["n", "programs"])
def _norm_backward(
    x,
    gain,
    weights,
    degree,
    dy,
    atom_stride,
    row_stride,
    dscalars,
    dx,
    dvectors,
    n,
    programs,
    L: constexpr,
    C: constexpr,
    S: constexpr,
    WIDE: constexpr,
    SP: constexpr,
    BC: constexpr,
):
    """Every ``programs``-th atom; dvectors (programs, lmax + 2, C) are its sums for gain and, last,
    bias. dy has strides of its own."""
    pid = tl.program_id(0)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    first = (s == 0)[:, None]
    l = tl.load(degree + s, mask=s < S, other=0)
    gains = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    sums, sum_bias = tl.zeros([SP, BC], WIDE), tl.zeros([SP, BC], WIDE)
    for k in range(pid, n, programs):
        i = tl.cast(k, tl.int64)
        v, w, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
        row = dy + i * atom_stride + s[:, None] * row_stride + c[None, :]
        g = tl.load(row, mask=mask, other=0.0).to(WIDE)
        scalar = tl.load(dscalars + i * C + c, mask=c < C, other=0.0).to(WIDE)
        g += tl.where(first, scalar[None, :], 0.0)
        sums += g * v * scale
        sum_bias += tl.where(first, g, 0.0)
        g = g * gains
        g = (g - v * w * (scale * scale * tl.sum(tl.sum(g * v, axis=1), axis=0))) * scale
        mean = tl.sum(tl.sum(tl.where(first, g, 0.0), axis=1), axis=0) / C
        tl.store(dx + i * S * C + at, tl.where(first, g - mean, g), mask=mask)
    for k in tl.static_range(L + 1):
        at = dvectors + (pid * (L + 2) + k) * C + c
        tl.store(at, tl.sum(tl.where((l == k)[:, None], sums, 0.0), axis=0), mask=c < C)
    tl.store(dvectors + (pid * (L + 2) + L + 1) * C + c, tl.sum(sum_bias, axis=0), mask=c < C)


@triton.jit
def _norm_push(
    x,
    gain,
    weights,
    degree,
    tx,
    ty,
    tscalars,
    C: constexpr,
    S: constexpr,
    WIDE: constexpr,
    SP: constexpr,
    BC: constexpr,
):
    """One atom: tangents of both outputs."""
    i = tl.program_id(0).to(tl.int64)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    v, w, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
    t, _, _ = _centred(tx + i * S * C + at, weights, mask, s, C, S, WIDE)
    l = tl.load(degree + s, mask=s < S, other=0)
    g = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    along = scale * scale * tl.sum(tl.sum(w * v * t, axis=1), axis=0)
    out = (t - v * along) * scale * g
    tl.store(ty + i * S * C + at, out, mask=mask)
    first = (s == 0)[:, None]
    tl.store(tscalars + i * C + c, tl.sum(tl.where(first, out, 0.0), axis=0), mask=c < C)


@triton.jit(do_not_specialize=["n", "programs"])
def _norm_second(
    x,
    gain,
    weights,
    degree,
    tx,
    py,
    pscalars,
    dy,
    dscalars,
    dx,
    dvectors,
    n,
    programs,
    L: constexpr,
    C: constexpr,
    S: constexpr,
    WIDE: constexpr,
    SP: constexpr,
    BC: constexpr,
):
    """As _norm_backward, of <d, y> + <p, y'>."""
    pid = tl.program_id(0)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    first = (s == 0)[:, None]
    l = tl.load(degree + s, mask=s < S, other=0)
    gains = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    sums, sum_bias = tl.zeros([SP, BC], WIDE), tl.zeros([SP, BC], WIDE)
    for k in range(pid, n, programs):
        i = tl.cast(k, tl.int64)
        v, w, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
        t, _, _ = _centred(tx + i * S * C + at, weights, mask, s, C, S, WIDE)
        g = tl.load(dy + i * S * C + at, mask=mask, other=0.0).to(WIDE)
        scalar = tl.load(dscalars + i * C + c, mask=c < C, other=0.0).to(WIDE)
        g += tl.where(first, scalar[None, :], 0.0)
        p = tl.load(py + i * S * C + at, mask=mask, other=0.0).to(WIDE)
        scalar = tl.load(pscalars + i * C + c, mask=c < C, other=0.0).to(WIDE)
        p += tl.where(first, scalar[None, :], 0.0)
        squared = scale * scale
        along = tl.sum(tl.sum(w * v * t, axis=1), axis=0)
        sums += (g * v + p * (t - v * along * squared)) * scale
        sum_bias += tl.where(first, g, 0.0)
        g, p = g * gains, p * gains
        gv = tl.sum(tl.sum(g * v, axis=1), axis=0)
        pv = tl.sum(tl.sum(p * v, axis=1), axis=0)
        pt = tl.sum(tl.sum(p * t, axis=1), axis=0)
        by_v = gv + pt - 3.0 * squared * along * pv
        d = g - squared * (w * v * by_v + w * t * pv + p * along)
        d = d * scale
        mean = tl.sum(tl.sum(tl.where(first, d, 0.0), axis=1), axis=0) / C
        tl.store(dx + i * S * C + at, tl.where(first, d - mean, d), mask=mask)
    for k in tl.static_range(L + 1):
        at = dvectors + (pid * (L + 2) + k) * C + c
        tl.store(at, tl.sum(tl.where((l == k)[:, None], sums, 0.0), axis=0), mask=c < C)
    tl.store(dvectors + (pid * (L + 2) + L + 1) * C + c, tl.sum(sum_bias, axis=0), mask=c < C)


def _norm_tile(s: int, c: int) -> dict[str, int]:
    rows, columns = triton.next_power_of_2(s), max(16, triton.next_power_of_2(c))
    return {"SP": rows, "BC": columns, "num_warps": min(8, max(1, rows * columns // 512))}


class _Norm(Twice):
    def value(ctx, x, gain, bias, weights, degree):
        (n, s, c), y = x.shape, torch.empty_like(x)
        scalars, given = x.new_empty(n, c), (x, gain, bias, weights, degree)
        _norm[(n,)](*given, y, scalars, c, s, WIDE=wide(x), **_norm_tile(s, c))
        return (y, scalars), (x, gain, weights, degree)

    def gradient(ctx, kept, dy, dscalars):
        dy = dy if dy.stride(2) == 1 else dy.contiguous()
        more = dy, dy.stride(0), dy.stride(1), dscalars.contiguous()
        return _with_vectors(_norm_backward, kept, *more)

    def push(ctx, kept, tangents):
        (n, s, c), ty = kept[0].shape, torch.empty_like(kept[0])
        tscalars = ty.new_empty(n, c)
        given = *kept, tangents[0].contiguous(), ty, tscalars
        _norm_push[(n,)](*given, c, s, WIDE=wide(ty), **_norm_tile(s, c))
        return (ty, tscalars), None

    def second(ctx, kept, tangents, first, grads, more):
        given = (y.contiguous() for y in (tangents[0], *first, *grads))
        return _with_vectors(_norm_second, kept, *given)


def _with_vectors(kernel: Any, kept: Any, *more: Any) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs by a kernel that sums those of gain and bias over atoms."""
    x, gain, _, _ = kept
    (n, s, c), degrees = x.shape, len(gain)
    programs = max(1, min(PROGRAMS, n))
    # sums of gain and bias, one below the other
    dx, sums = torch.empty_like(x), x.new_empty(programs, degrees + 1, c)
    sizes = n, programs, degrees - 1, c, s
    kernel[(programs,)](*kept, *more, dx, sums, *sizes, WIDE=wide(x), **_norm_tile(s, c))
    sums = sums.sum(0)
    return dx, sums[:-1], sums[-1], None, None


# ---- spherical_gate


def spherical_gate(h: Tensor, u: Tensor, bias: Tensor, degree: Tensor) -> Tensor:
    """u (S, n, C), gates h (n, lmax C) of l = 1, 2, ..., bias (C,) -> v (S, n, C); by kernels in
    the dtype of u."""
    if use_triton(u):
        return _Gate.apply(h.contiguous(), u.contiguous(), bias)
    gates = torch.sigmoid(silu(h)).unflatten(1, (-1, u.shape[2]))
    scalars, rest = u.split([1, u.shape[0] - 1], dim=0)
    gates = gates.index_select(1, degree[1:] - 1).transpose(0, 1)
    return torch.cat([silu(scalars + bias), rest * gates], dim=0)


@triton.jit
def _scalars(u, bias, n, C: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr):
    """Of a block of atoms: their numbers (BE, 1), channels (1, BC), which there are, offsets, u_0 +
    b."""
    i = (tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE))[:, None]
    c = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    mask = (i < n) & (c < C)
    at = i * C + c
    x = tl.load(u + at, mask=mask, other=0.0).to(WIDE) + tl.load(bias + c, mask=c < C, other=0.0)
    return i, c, mask, at, x


@triton.jit(do_not_specialize=["n"])
def _gate(
    h, u, bias, v, n, C: constexpr, L: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    tl.store(v + at, (x / (1.0 + tl.exp(-x))).to(v.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        z = tl.load(h + i * L * C + (l - 1) * C + c, mask=mask, other=0.0).to(WIDE)
        gate = 1.0 / (1.0 + tl.exp(-z / (1.0 + tl.exp(-z))))
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            to = v + row
            y = tl.load(u + row, mask=mask, other=0.0).to(WIDE) * gate
            tl.store(to, y.to(v.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _gate_backward(
    h,
    u,
    bias,
    grad,
    dh,
    du,
    n,
    C: constexpr,
    L: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    s = 1.0 / (1.0 + tl.exp(-x))
    g = tl.load(grad + at, mask=mask, other=0.0).to(WIDE)
    tl.store(du + at, (g * s * (1.0 + x * (1.0 - s))).to(du.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        hidden = i * L * C + (l - 1) * C + c
        z = tl.load(h + hidden, mask=mask, other=0.0).to(WIDE)
        s = 1.0 / (1.0 + tl.exp(-z))
        gate = 1.0 / (1.0 + tl.exp(-z * s))
        dgate = tl.zeros([BE, BC], WIDE)
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            g = tl.load(grad + row, mask=mask, other=0.0).to(WIDE)
            dgate += g * tl.load(u + row, mask=mask, other=0.0).to(WIDE)
            tl.store(du + row, (g * gate).to(du.dtype.element_ty), mask=mask)
        dz = dgate * gate * (1.0 - gate) * s * (1.0 + z * (1.0 - s))
        tl.store(dh + hidden, dz.to(dh.dtype.element_ty), mask=mask)


@triton.jit
def _sigmoid_silu(z):
    """sigmoid(SiLU(z)), and its first and second derivative."""
    s = 1.0 / (1.0 + tl.exp(-z))
    gate = 1.0 / (1.0 + tl.exp(-z * s))
    slope, curvature = silu_curvature(z)
    rise = gate * (1.0 - gate)
    return gate, rise * slope, rise * ((1.0 - 2.0 * gate) * slope * slope + curvature)


@triton.jit(do_not_specialize=["n"])
def _gate_push(
    h,
    u,
    bias,
    th,
    tu,
    tv,
    n,
    C: constexpr,
    L: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    slope, _ = silu_curvature(x)
    t = tl.load(tu + at, mask=mask, other=0.0).to(WIDE)
    tl.store(tv + at, (t * slope).to(tv.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        hidden = i * L * C + (l - 1) * C + c
        gate, dgate, _ = _sigmoid_silu(tl.load(h + hidden, mask=mask, other=0.0).to(WIDE))
        tgate = dgate * tl.load(th + hidden, mask=mask, other=0.0).to(WIDE)
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            y = tl.load(tu + row, mask=mask, other=0.0).to(WIDE) * gate
            y += tl.load(u + row, mask=mask, other=0.0).to(WIDE) * tgate
            tl.store(tv + row, y.to(tv.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _gate_second(
    h,
    u,
    bias,
    th,
    tu,
    first,
    grad,
    dh,
    du,
    n,
    C: constexpr,
    L: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """As _gate_backward, of <grad, v> + <first, v'>."""
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    slope, curvature = silu_curvature(x)
    g = tl.load(grad + at, mask=mask, other=0.0).to(WIDE)
    p = tl.load(first + at, mask=mask, other=0.0).to(WIDE)
    t = tl.load(tu + at, mask=mask, other=0.0).to(WIDE)
    tl.store(du + at, (g * slope + p * t * curvature).to(du.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        hidden = i * L * C + (l - 1) * C + c
        z = tl.load(h + hidden, mask=mask, other=0.0).to(WIDE)
        gate, rise, bend = _sigmoid_silu(z)
        tz = tl.load(th + hidden, mask=mask, other=0.0).to(WIDE)
        by_gate, by_tangent = tl.zeros([BE, BC], WIDE), tl.zeros([BE, BC], WIDE)
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            g = tl.load(grad + row, mask=mask, other=0.0).to(WIDE)
            p = tl.load(first + row, mask=mask, other=0.0).to(WIDE)
            y = tl.load(u + row, mask=mask, other=0.0).to(WIDE)
            t = tl.load(tu + row, mask=mask, other=0.0).to(WIDE)
            by_gate += g * y + p * t
            by_tangent += p * y
            tl.store(du + row, (g * gate + p * rise * tz).to(du.dtype.element_ty), mask=mask)
        dz = rise * by_gate + bend * tz * by_tangent
        tl.store(dh + hidden, dz.to(dh.dtype.element_ty), mask=mask)


class _Gate(Twice):
    def value(ctx, h, u, bias):
        v = torch.empty_like(u)
        _by_atoms(_gate, h, h, u, bias, v)
        return v, (h, u, bias)

    def gradient(ctx, kept, grad):
        h, u, bias = kept
        dh, du = torch.empty_like(h), torch.empty_like(u)
        _by_atoms(_gate_backward, h, *kept, grad.contiguous(), dh, du)
        return dh, du, column_sums(du[0], bias.dtype)

    def push(ctx, kept, tangents):
        tv = torch.empty_like(kept[1])
        moved = tangents[0].contiguous(), tangents[1].contiguous()
        _by_atoms(_gate_push, kept[0], *kept, *moved, tv)
        return (tv,), None

    def second(ctx, kept, tangents, first, grads, more):
        h, u, bias = kept
        dh, du = torch.empty_like(h), torch.empty_like(u)
        given = (y.contiguous() for y in (*tangents[:2], first[0], grads[0]))
        _by_atoms(_gate_second, h, *kept, *given, dh, du)
        return dh, du, column_sums(du[0], bias.dtype)


def _by_atoms(kernel: Any, h: Tensor, *given: Tensor) -> None:
    """Launches for blocks of atoms; ``given`` begins with h and u."""
    _, n, c = given[1].shape
    size = tile(TILES, "gate", c)
    kernel[grid(n, c, size)](*given, n, c, L=h.shape[1] // c, WIDE=wide(h), **size)


# ---- spherical_add


def spherical_add(x: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """x (n, S, C), v (S, n, C), bias (C,) of l = 0 -> (n, S, C); by kernels at least in float32."""
    if use_triton(x):
        return _Add.apply(at_least_float32(x), v.contiguous(), bias)
    scalars, rest = v.split([1, v.shape[0] - 1], dim=0)
    return x + torch.cat([scalars + bias, rest], dim=0).transpose(0, 1)


@triton.jit(do_not_specialize=["n"])
def _add(
    x, v, bias, out, n, C: constexpr, S: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    i = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (i < n)[:, None] & (c < C)[None, :]
    step = tl.program_id(0).to(tl.int64) * 0 + n * C
    for s in tl.static_range(S):
        at = i[:, None] * S * C + s * C + c[None, :]
        y = tl.load(v + s * step + i[:, None] * C + c[None, :], mask=mask, other=0.0).to(WIDE)
        if s == 0:
            y += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
        tl.store(out + at, tl.load(x + at, mask=mask, other=0.0) + y, mask=mask)


class _Add(Twice):
    def value(ctx, x, v, bias):
        ctx.kind = v.dtype
        return _added(x, v, bias), (bias,)

    def gradient(ctx, kept, grad):
        return grad, grad.transpose(0, 1).to(ctx.kind), grad[:, 0].sum(0)

    def push(ctx, kept, tangents):
        tx, tv, _ = (t.contiguous() for t in tangents)
        return (_added(tx, tv, torch.zeros_like(kept[0])),), None

    def second(ctx, kept, tangents, first, grads, more):
        return _Add.gradient(ctx, kept, *grads)


def _added(x: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    (n, s, c), out, size = x.shape, torch.empty_like(x), tile(TILES, "add", x.shape[2])
    _add[grid(n, c, size)](x, v, bias, out, n, c, s, WIDE=wide(x), **size)
    return out


# ---- by_degree


def by_degree(weight: Tensor, degree: Tensor) -> Tensor:
    """weight (lmax + 1, ...) -> (S, ...); by kernels the gradient is the same every time."""
    if use_triton(weight):
        return _ByDegree.apply(weight.contiguous(), degree)
    return weight.index_select(0, degree)


@triton.jit
def _degree_sums(x, out, numbers, FLAT: constexpr):
    """Sums of rows of x ((lmax + 1)^2, numbers) over the orders of a degree: out (lmax + 1,
    numbers)."""
    l = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    total = tl.zeros([FLAT], x.dtype.element_ty)
    for s in range(l * l, (l + 1) * (l + 1)):
        total += tl.load(x + s * numbers + i, mask=i < numbers, other=0.0)
    tl.store(out + l * numbers + i, total, mask=i < numbers)


class _ByDegree(Differentiable):
    def forward(ctx, weight, degree):
        ctx.degrees = len(weight)
        return weight.index_select(0, degree)

    def backward(ctx, grad):
        out = grad.new_empty(ctx.degrees, *grad.shape[1:])
        numbers = out[0].numel()
        programs = triton.cdiv(numbers, 1024), ctx.degrees
        _degree_sums[programs](grad.contiguous(), out, numbers, FLAT=1024, num_warps=4)
        return out, None
