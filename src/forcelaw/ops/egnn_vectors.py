"""MC-EGNN's change of the vectors, on edges: out_k = r_hat_k r + (dv_k / sqrt(1 + |dv|^2)) Phi, k =
x, y, z, in one pass.

Legend: e edges, M channels; dv (e, 3, M), |dv|^2 a sum over k for each channel; Phi (e, M, M), the
channels of dv in front; r_hat (e, 3), a constant for kernels; r (e, M). torch runs e products of
matrices of eight channels outside the tensor cores, at some twentieth of what the memory allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .register import Twice
from .switch import constexpr, tl, triton, use_triton
from .tiles import at_least_float32, three

NUMBERS = 1024  # of Phi in a program


def egnn_vectors(
    unit: Tensor, radial: Tensor, dv: Tensor | None, square: Tensor | None, phi: Tensor | None
) -> Tensor:
    """The change (e, 3, M) from unit (e, 3) and radial (e, M), and unless they are None dv (e, 3,
    M), its square (e, M) = |dv|^2 (kernels take it from dv) and phi (e, M, M)."""
    if dv is None or square is None or phi is None:
        return unit.unsqueeze(-1) * radial.unsqueeze(1)
    if use_triton(dv):
        given = at_least_float32(dv), phi.contiguous(), unit.contiguous(), radial.contiguous()
        return _Mix.apply(*given)
    along = unit.unsqueeze(-1) * radial.unsqueeze(1)
    return along + torch.bmm(dv * torch.rsqrt(1.0 + square).unsqueeze(1), phi)


@triton.jit
def _edges(dv, phi, unit, edges, M: constexpr, MP: constexpr, BE: constexpr):
    """Of a block of edges: offsets and masks of (BE, M) and (BE, M, M), dv, 1 / sqrt(1 + |dv|^2),
    Phi, r_hat (BE, 1)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    a = tl.arange(0, MP)
    me, mm = e < edges, a < M
    mask = me[:, None] & mm[None, :]
    at = e[:, None] * M + a[None, :]
    full = me[:, None, None] & mm[None, :, None] & mm[None, None, :]
    square = e[:, None, None] * M * M + a[None, :, None] * M + a[None, None, :]
    v0, v1, v2 = three(dv + at + e[:, None] * 2 * M, M, mask, dv.dtype.element_ty)
    f = tl.load(phi + square, mask=full, other=0.0).to(v0.dtype)
    x0, x1, x2 = three(unit + e[:, None] * 3, 1, me[:, None], unit.dtype.element_ty)
    s = 1.0 / tl.sqrt(1.0 + v0 * v0 + v1 * v1 + v2 * v2)
    return at, at + e[:, None] * 2 * M, mask, square, full, v0, v1, v2, s, f, x0, x1, x2


@triton.jit(do_not_specialize=["edges"])
def _forward(dv, phi, unit, radial, out, edges, M: constexpr, MP: constexpr, BE: constexpr):
    at, at3, mask, _, _, v0, v1, v2, s, f, x0, x1, x2 = _edges(dv, phi, unit, edges, M, MP, BE)
    r = tl.load(radial + at, mask=mask, other=0.0).to(v0.dtype)
    y0 = x0 * r + tl.sum((v0 * s)[:, :, None] * f, axis=1)
    y1 = x1 * r + tl.sum((v1 * s)[:, :, None] * f, axis=1)
    y2 = x2 * r + tl.sum((v2 * s)[:, :, None] * f, axis=1)
    tl.store(out + at3, y0, mask=mask)
    tl.store(out + at3 + M, y1, mask=mask)
    tl.store(out + at3 + 2 * M, y2, mask=mask)


@triton.jit(do_not_specialize=["edges"])
def _backward(
    dv,
    phi,
    unit,
    radial,
    grad,
    d_dv,
    dphi,
    dradial,
    dunit,
    edges,
    M: constexpr,
    MP: constexpr,
    BE: constexpr,
    UNIT: constexpr,
):
    """UNIT: r_hat has a gradient too."""
    at, at3, mask, square, full, v0, v1, v2, s, f, x0, x1, x2 = _edges(
        dv, phi, unit, edges, M, MP, BE
    )
    g0, g1, g2 = three(grad + at3, M, mask, grad.dtype.element_ty)
    outer = (
        (v0 * s)[:, :, None] * g0[:, None, :]
        + (v1 * s)[:, :, None] * g1[:, None, :]
        + (v2 * s)[:, :, None] * g2[:, None, :]
    )
    u0 = tl.sum(f * g0[:, None, :], axis=2)
    u1 = tl.sum(f * g1[:, None, :], axis=2)
    u2 = tl.sum(f * g2[:, None, :], axis=2)
    along = (u0 * v0 + u1 * v1 + u2 * v2) * s * s
    tl.store(dphi + square, outer.to(dphi.dtype.element_ty), mask=full)
    tl.store(dradial + at, (x0 * g0 + x1 * g1 + x2 * g2).to(dradial.dtype.element_ty), mask=mask)
    tl.store(d_dv + at3, s * (u0 - v0 * along), mask=mask)
    tl.store(d_dv + at3 + M, s * (u1 - v1 * along), mask=mask)
    tl.store(d_dv + at3 + 2 * M, s * (u2 - v2 * along), mask=mask)
    if UNIT:
        e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
        r = tl.load(radial + at, mask=mask, other=0.0).to(v0.dtype)
        tl.store(dunit + e * 3, tl.sum(g0 * r, axis=1), mask=e < edges)
        tl.store(dunit + e * 3 + 1, tl.sum(g1 * r, axis=1), mask=e < edges)
        tl.store(dunit + e * 3 + 2, tl.sum(g2 * r, axis=1), mask=e < edges)


@triton.jit
def _tangents(tdv, tphi, tunit, v0, v1, v2, s, edges, M: constexpr, MP: constexpr, BE: constexpr):
    """Tangents of dv, of dv s, of Phi and of r_hat; <v, tangent of v>."""
    _, _, _, _, _, t0, t1, t2, _, tf, y0, y1, y2 = _edges(tdv, tphi, tunit, edges, M, MP, BE)
    m = v0 * t0 + v1 * t1 + v2 * t2
    w0, w1, w2 = s * t0, s * t1, s * t2
    cubed = s * s * s * m
    return t0, t1, t2, w0 - cubed * v0, w1 - cubed * v1, w2 - cubed * v2, tf, y0, y1, y2, m


@triton.jit(do_not_specialize=["edges"])
def _push(
    dv,
    phi,
    unit,
    radial,
    tdv,
    tphi,
    tunit,
    tradial,
    out,
    edges,
    M: constexpr,
    MP: constexpr,
    BE: constexpr,
):
    at, at3, mask, _, _, v0, v1, v2, s, f, x0, x1, x2 = _edges(dv, phi, unit, edges, M, MP, BE)
    _, _, _, w0, w1, w2, tf, y0, y1, y2, _ = _tangents(
        tdv, tphi, tunit, v0, v1, v2, s, edges, M, MP, BE
    )
    r = tl.load(radial + at, mask=mask, other=0.0).to(v0.dtype)
    tr = tl.load(tradial + at, mask=mask, other=0.0).to(v0.dtype)
    y0, y1, y2 = y0 * r + x0 * tr, y1 * r + x1 * tr, y2 * r + x2 * tr
    y0 += tl.sum(w0[:, :, None] * f + (v0 * s)[:, :, None] * tf, axis=1)
    y1 += tl.sum(w1[:, :, None] * f + (v1 * s)[:, :, None] * tf, axis=1)
    y2 += tl.sum(w2[:, :, None] * f + (v2 * s)[:, :, None] * tf, axis=1)
    tl.store(out + at3, y0, mask=mask)
    tl.store(out + at3 + M, y1, mask=mask)
    tl.store(out + at3 + 2 * M, y2, mask=mask)


@triton.jit(do_not_specialize=["edges"])
def _second(
    dv,
    phi,
    unit,
    tdv,
    tphi,
    tunit,
    first,
    grad,
    d_dv,
    dphi,
    dradial,
    edges,
    M: constexpr,
    MP: constexpr,
    BE: constexpr,
):
    """As _backward, of <grad, y> + <first, y'>, without r_hat."""
    at, at3, mask, square, full, v0, v1, v2, s, f, x0, x1, x2 = _edges(
        dv, phi, unit, edges, M, MP, BE
    )
    t0, t1, t2, w0, w1, w2, tf, y0, y1, y2, m = _tangents(
        tdv, tphi, tunit, v0, v1, v2, s, edges, M, MP, BE
    )
    g0, g1, g2 = three(grad + at3, M, mask, grad.dtype.element_ty)
    p0, p1, p2 = three(first + at3, M, mask, first.dtype.element_ty)
    dr = x0 * g0 + x1 * g1 + x2 * g2 + y0 * p0 + y1 * p1 + y2 * p2
    tl.store(dradial + at, dr.to(dradial.dtype.element_ty), mask=mask)
    outer = (v0 * s)[:, :, None] * g0[:, None, :] + w0[:, :, None] * p0[:, None, :]
    outer += (v1 * s)[:, :, None] * g1[:, None, :] + w1[:, :, None] * p1[:, None, :]
    outer += (v2 * s)[:, :, None] * g2[:, None, :] + w2[:, :, None] * p2[:, None, :]
    tl.store(dphi + square, outer.to(dphi.dtype.element_ty), mask=full)
    u0 = tl.sum(f * g0[:, None, :] + tf * p0[:, None, :], axis=2)
    u1 = tl.sum(f * g1[:, None, :] + tf * p1[:, None, :], axis=2)
    u2 = tl.sum(f * g2[:, None, :] + tf * p2[:, None, :], axis=2)
    c0 = tl.sum(f * p0[:, None, :], axis=2)
    c1 = tl.sum(f * p1[:, None, :], axis=2)
    c2 = tl.sum(f * p2[:, None, :], axis=2)
    square_s = s * s
    cv, ct = c0 * v0 + c1 * v1 + c2 * v2, c0 * t0 + c1 * t1 + c2 * t2
    along = (u0 * v0 + u1 * v1 + u2 * v2 + ct - 3.0 * square_s * m * cv) * square_s
    cv, m = cv * square_s, m * square_s
    tl.store(d_dv + at3, s * (u0 - v0 * along - t0 * cv - c0 * m), mask=mask)
    tl.store(d_dv + at3 + M, s * (u1 - v1 * along - t1 * cv - c1 * m), mask=mask)
    tl.store(d_dv + at3 + 2 * M, s * (u2 - v2 * along - t2 * cv - c2 * m), mask=mask)


def _tile(edges: int, m: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid, and sizes of a program."""
    wide = triton.next_power_of_2(m)
    rows = max(1, NUMBERS // (wide * wide))
    return (triton.cdiv(edges, rows),), {"MP": wide, "BE": rows, "num_warps": 4}


class _Mix(Twice):
    def value(ctx, dv, phi, unit, radial):
        (edges, _, m), out = dv.shape, torch.empty_like(dv)
        programs, sizes = _tile(edges, m)
        _forward[programs](dv, phi, unit, radial, out, edges, m, **sizes)
        return out, (dv, phi, unit, radial)

    def gradient(ctx, kept, grad):
        dv, phi, unit, radial = kept
        edges, _, m = dv.shape
        d_dv, dphi, dunit, dradial = (torch.empty_like(x) for x in kept)
        programs, sizes = _tile(edges, m)
        given, moving = (dv, phi, unit, radial, grad.contiguous()), ctx.derivatives > 0
        made = d_dv, dphi, dradial, dunit
        _backward[programs](*given, *made, edges, m, **sizes, UNIT=moving)
        return d_dv, dphi, dunit if moving else None, dradial

    def push(ctx, kept, tangents):
        (edges, _, m), out = kept[0].shape, torch.empty_like(kept[0])
        programs, sizes = _tile(edges, m)
        moved = (t.contiguous() for t in tangents)
        _push[programs](*kept, *moved, out, edges, m, **sizes)
        return (out,), None

    def second(ctx, kept, tangents, first, grads, more):
        dv, phi, unit, radial = kept
        edges, _, m = dv.shape
        d_dv, dphi, dradial = (torch.empty_like(x) for x in (dv, phi, radial))
        programs, sizes = _tile(edges, m)
        moved = (t.contiguous() for t in tangents[:3])
        given = dv, phi, unit, *moved, first[0].contiguous(), grads[0].contiguous()
        _second[programs](*given, d_dv, dphi, dradial, edges, m, **sizes)
        return d_dv, dphi, None, dradial
