"""Outputs of atoms from their edges: the sum over j of u_ij (W t_ij + b). Legend: n atoms, e edges.

By kernels the rows are summed before the product, which is the same and takes rows of atoms alone:
s_i = sum of u_ij t_ij, one program an atom, no atomics. By hand with cotangent G of s: dt = u G_i
and du = t . G_i; with tangents, s' = sum of u t' + u' t.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph import segment_sum
from .gemnet.index import EdgeIndex
from .linear import linear
from .register import Twice
from .switch import constexpr, tl, triton, use_triton_at
from .tiles import FILL, FILL_PROGRAMS, lowered, wide

TILE = (16, 128, 4)  # edges and channels at most, warps


def edge_readout(t: Tensor, u: Tensor, weight: Tensor, bias: Tensor, index: EdgeIndex) -> Tensor:
    """(n, outputs) of edges t (e, d) with weights u (e, 1), W (outputs, d), b (outputs,). The edges
    are in the order of ``index``."""
    if use_triton_at(u):
        ones = u.new_ones(u.shape)
        summed = _Sums.apply(t.contiguous(), u.contiguous(), index.ptr)
        return nn.functional.linear(summed, lowered(weight)) + bias * _Sums.apply(
            ones, u.contiguous(), index.ptr
        )
    return segment_sum(linear(t, weight, bias) * u, index.receiver, index.atoms)


@triton.jit
def _weighted(
    t,
    u,
    tt,
    tu,
    ptr,
    out,
    PUSH: constexpr,
    w: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Sums over the edges into each atom of u t, or where PUSH of u tt + tu t."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BE, BC], WIDE)
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        mask = me[:, None] & (c < w)[None, :]
        at = e[:, None] * w + c[None, :]
        factor = tl.load(u + e, mask=me, other=0.0).to(WIDE)[:, None]
        x = tl.load(t + at, mask=mask, other=0.0).to(WIDE)
        if PUSH:
            total += factor * tl.load(tt + at, mask=mask, other=0.0).to(WIDE)
            factor = tl.load(tu + e, mask=me, other=0.0).to(WIDE)[:, None]
        total += factor * x
    tl.store(out + i * w + c, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=c < w)


@triton.jit(do_not_specialize=["n", "edges"])
def _weighted_grad(
    t,
    u,
    tu,
    ptr,
    first,
    grad,
    dt,
    du,
    n,
    edges,
    SECOND: constexpr,
    U: constexpr,
    w: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """dt = u G, and where SECOND + tu P; where U, du = t . G, for which BC is all channels."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    if pid < n:
        i = pid.to(tl.int64)
        low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
        g = tl.load(grad + i * w + c, mask=mc, other=0.0).to(WIDE)[None, :]
        p = g
        if SECOND:
            p = tl.load(first + i * w + c, mask=mc, other=0.0).to(WIDE)[None, :]
        for k in range(low, high, BE):
            e = (k + tl.arange(0, BE)).to(tl.int64)
            me = e < high
            mask = me[:, None] & mc[None, :]
            at = e[:, None] * w + c[None, :]
            y = tl.load(u + e, mask=me, other=0.0).to(WIDE)[:, None] * g
            if SECOND:
                y += tl.load(tu + e, mask=me, other=0.0).to(WIDE)[:, None] * p
            tl.store(dt + at, y.to(dt.dtype.element_ty), mask=mask)
            if U:
                x = tl.load(t + at, mask=mask, other=0.0).to(WIDE)
                tl.store(du + e, tl.sum(x * g, axis=1), mask=me)
    else:
        zero = tl.zeros([BC], tl.float32)
        for spare in range(tl.load(ptr + n).to(tl.int64) + pid - n, edges, FILL):
            tl.store(dt + spare * w + c, zero.to(dt.dtype.element_ty), mask=mc)
            if U:
                tl.store(du + spare, tl.sum(zero, axis=0).to(du.dtype.element_ty))


class _Sums(Twice):
    """apply(t (e, w), u (e, 1), ptr) -> (n, w)."""

    def value(ctx, t, u, ptr):
        return _summed(t, u, t, u, ptr, False), (t, u, ptr)

    def gradient(ctx, kept, grad):
        return _spread(kept, kept[1], grad, grad, False, False)[0], None, None

    def pull(ctx, kept, grad):
        return *_spread(kept, kept[1], grad, grad, False, True), None

    def push(ctx, kept, tangents):
        (t, u, ptr), (tt, tu, _) = kept, tangents
        tt = torch.zeros_like(t) if tt is None else tt.contiguous()
        return (_summed(t, u, tt, tu.contiguous(), ptr, True),), None

    def second(ctx, kept, tangents, first, grads, more):
        return _spread(kept, tangents[1], first[0], grads[0], True, False)[0], None, None


def _size(t: Tensor, whole: bool = False) -> tuple[int, dict[str, int]]:
    """Blocks of channels, and sizes of a program."""
    edges, most, warps = TILE
    columns = max(16, triton.next_power_of_2(t.shape[1]))
    columns = columns if whole else min(most, columns)
    size = {"BE": edges, "BC": columns, "num_warps": warps}
    return triton.cdiv(t.shape[1], columns), {"w": t.shape[1], "WIDE": wide(t), **size}


def _summed(t: Tensor, u: Tensor, tt: Tensor, tu: Tensor, ptr: Tensor, push: bool) -> Tensor:
    n, (blocks, size) = len(ptr) - 1, _size(t)
    out = t.new_empty(n, t.shape[1], dtype=torch.promote_types(t.dtype, torch.float32))
    if n:
        _weighted[n, blocks](t, u, tt, tu, ptr, out, PUSH=push, **size)
    return out


def _spread(
    kept: tuple[Tensor, ...], tu: Tensor, first: Tensor, grad: Tensor, second: bool, by_u: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of t and, where by_u, of u."""
    (t, u, ptr), (blocks, size) = kept, _size(kept[0], by_u)
    n, dt, du = len(ptr) - 1, torch.empty_like(t), torch.empty_like(u)
    given = t, u, tu.contiguous(), ptr, first.contiguous(), grad.contiguous()
    flags = {"SECOND": second, "U": by_u}
    _weighted_grad[n + FILL_PROGRAMS, blocks](*given, dt, du, n, len(t), **flags, **size)
    return dt, du
