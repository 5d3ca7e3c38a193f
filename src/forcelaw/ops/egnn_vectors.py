"""MC-EGNN's change of the vectors, on edges: out_k = r_hat_k r + (dv_k / sqrt(1 + |dv|^2)) Phi, k =
x, y, z, in one pass.

Legend: e edges, M channels; dv (e, 3, M), |dv|^2 a sum over k for each channel; Phi (e, M, M), the
channels of dv in front; r_hat (e, 3), a constant for kernels; r (e, M). torch runs e products of
matrices of eight channels outside the tensor cores, at some twentieth of what the memory allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .register import Differentiable
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
        return _Mix.apply(at_least_float32(dv), phi.contiguous(), unit, radial.contiguous())
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
    dv, phi, unit, grad, d_dv, dphi, dradial, edges, M: constexpr, MP: constexpr, BE: constexpr
):
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


def _tile(edges: int, m: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid, and sizes of a program."""
    wide = triton.next_power_of_2(m)
    rows = max(1, NUMBERS // (wide * wide))
    return (triton.cdiv(edges, rows),), {"MP": wide, "BE": rows, "num_warps": 4}


class _Mix(Differentiable):
    def forward(ctx, dv, phi, unit, radial):
        (edges, _, m), out = dv.shape, torch.empty_like(dv)
        programs, sizes = _tile(edges, m)
        _forward[programs](dv, phi, unit, radial, out, edges, m, **sizes)
        ctx.save_for_backward(dv, phi, unit, radial)
        return out

    def backward(ctx, grad):
        dv, phi, unit, radial = ctx.saved_tensors
        edges, _, m = dv.shape
        d_dv, dphi, dradial = (torch.empty_like(x) for x in (dv, phi, radial))
        programs, sizes = _tile(edges, m)
        given = dv, phi, unit, grad.contiguous()
        _backward[programs](*given, d_dv, dphi, dradial, edges, m, **sizes)
        return d_dv, dphi, None, dradial
