"""PaiNN's message in one pass over the edges.

    dh_i = sum_j x_j^a w^a;   dv_i = sum_j (v_j x_j^b w^b + r_hat x_j^c w^c)

Legend: n atoms, e edges, d channels; x (n, 3d) and w (e, 3d) hold a | b | c; v (n, 3, d); unit (e, 3). The backward pass
goes over the edges of each sender: all its gradients are sums there, or belong to one edge.

Filters w are the largest arrays of a step. Those of the first layer are made again for its backward pass
(``filtered_vectors``), so that the gradient of the last layer's, the first to be made, takes no memory more. To write a
gradient over its filters saves as much, but needs a barrier between reading and writing: 1.34 times the step on an H100
(LABLOG, 2026-11-28).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dense import lowered
from .gated import FILL, at_least_float32, tile

TILES = {"vectors": (4, 64, 2), "vectors_grad": (4, 64, 2)}  # as in gated.py


@triton.jit
def _forward(x, v, w, unit, sender, ptr, out_h, out_v, d: tl.constexpr, scale: tl.constexpr,
             HAS_V: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    dtype = x.dtype.element_ty
    h = tl.zeros([BE, BC], dtype)  # summed over BE once: a sum waits for all warps
    v0, v1, v2 = tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype)
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = k + tl.arange(0, BE)
        me = e < high
        j = tl.load(sender + e, mask=me, other=0)
        e = e.to(tl.int64)
        mask = me[:, None] & mc[None, :]
        at = j[:, None] * 3 * d + c[None, :]
        row = e[:, None] * 3 * d + c[None, :]
        h += tl.load(x + at, mask=mask, other=0.0) * tl.load(w + row, mask=mask, other=0.0).to(dtype)
        u = tl.load(x + at + 2 * d, mask=mask, other=0.0) * tl.load(w + row + 2 * d, mask=mask, other=0.0).to(dtype)
        m0 = u * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
        m1 = u * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
        m2 = u * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
        if HAS_V:
            b = tl.load(x + at + d, mask=mask, other=0.0) * tl.load(w + row + d, mask=mask, other=0.0).to(dtype)
            m0 += b * tl.load(v + at, mask=mask, other=0.0)
            m1 += b * tl.load(v + at + d, mask=mask, other=0.0)
            m2 += b * tl.load(v + at + 2 * d, mask=mask, other=0.0)
        v0 += m0
        v1 += m1
        v2 += m2
    tl.store(out_h + i * d + c, tl.sum(h, axis=0) * scale, mask=mc)
    tl.store(out_v + i * 3 * d + c, tl.sum(v0, axis=0) * scale, mask=mc)
    tl.store(out_v + i * 3 * d + d + c, tl.sum(v1, axis=0) * scale, mask=mc)
    tl.store(out_v + i * 3 * d + 2 * d + c, tl.sum(v2, axis=0) * scale, mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _backward(x, v, w, unit, receiver, order, ptr, grad_h, grad_v, dx, dv, dw, n, n_edges,
              d: tl.constexpr, scale: tl.constexpr, HAS_V: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    dtype = x.dtype.element_ty
    kind = dw.dtype.element_ty
    if pid >= n:  # padding edges: no atom visits them
        for k in range(tl.load(ptr + n) + (pid - n) * BE, n_edges, FILL * BE):
            e = k + tl.arange(0, BE)
            mask = (e < n_edges)[:, None] & mc[None, :]
            row = tl.load(order + e, mask=e < n_edges, other=0).to(tl.int64)[:, None] * 3 * d + c[None, :]
            zero = tl.zeros([BE, BC], tl.float32).to(kind)
            tl.store(dw + row, zero, mask=mask)
            tl.store(dw + row + d, zero, mask=mask)
            tl.store(dw + row + 2 * d, zero, mask=mask)
    else:
        j = pid.to(tl.int64)
        own = j * 3 * d + c
        xa = tl.load(x + own, mask=mc, other=0.0) * scale
        xb = tl.load(x + own + d, mask=mc, other=0.0) * scale
        xc = tl.load(x + own + 2 * d, mask=mc, other=0.0) * scale
        da, db, dc = tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype)
        if HAS_V:
            v0 = tl.load(v + own, mask=mc, other=0.0)
            v1 = tl.load(v + own + d, mask=mc, other=0.0)
            v2 = tl.load(v + own + 2 * d, mask=mc, other=0.0)
        s0, s1, s2 = tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype)
        low, high = tl.load(ptr + j), tl.load(ptr + j + 1)
        for k in range(low, high, BE):
            me = k + tl.arange(0, BE) < high
            e = tl.load(order + k + tl.arange(0, BE), mask=me, other=0).to(tl.int64)
            i = tl.load(receiver + e, mask=me, other=0)
            mask = me[:, None] & mc[None, :]
            row = e[:, None] * 3 * d + c[None, :]
            at = i[:, None] * 3 * d + c[None, :]
            gh = tl.load(grad_h + i[:, None] * d + c[None, :], mask=mask, other=0.0)
            g0 = tl.load(grad_v + at, mask=mask, other=0.0)
            g1 = tl.load(grad_v + at + d, mask=mask, other=0.0)
            g2 = tl.load(grad_v + at + 2 * d, mask=mask, other=0.0)
            wa = tl.load(w + row, mask=mask, other=0.0).to(dtype)
            wc = tl.load(w + row + 2 * d, mask=mask, other=0.0).to(dtype)
            if HAS_V:  # before the first store, which no later load may overtake
                wb = tl.load(w + row + d, mask=mask, other=0.0).to(dtype)
            along = (g0 * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
                     + g1 * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
                     + g2 * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None])
            tl.store(dw + row, (gh * xa[None, :]).to(kind), mask=mask)
            tl.store(dw + row + 2 * d, (along * xc[None, :]).to(kind), mask=mask)
            da += gh * wa
            dc += along * wc
            if HAS_V:
                inner = g0 * v0[None, :] + g1 * v1[None, :] + g2 * v2[None, :]
                tl.store(dw + row + d, (inner * xb[None, :]).to(kind), mask=mask)
                db += inner * wb
                s0 += g0 * wb
                s1 += g1 * wb
                s2 += g2 * wb
            else:
                tl.store(dw + row + d, tl.zeros([BE, BC], tl.float32).to(kind), mask=mask)
        tl.store(dx + own, tl.sum(da, axis=0) * scale, mask=mc)
        tl.store(dx + own + d, tl.sum(db, axis=0) * scale, mask=mc)
        tl.store(dx + own + 2 * d, tl.sum(dc, axis=0) * scale, mask=mc)
        if HAS_V:
            tl.store(dv + own, tl.sum(s0, axis=0) * xb, mask=mc)
            tl.store(dv + own + d, tl.sum(s1, axis=0) * xb, mask=mc)
            tl.store(dv + own + 2 * d, tl.sum(s2, axis=0) * xb, mask=mc)


@torch.library.custom_op("forcelaw::vector_sum", mutates_args=())
def _vector_sum(x: Tensor, v: Tensor | None, w: Tensor, unit: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor,
                order: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    n, d = x.shape[0], x.shape[1] // 3
    h, dv = x.new_empty(n, d), x.new_empty(n, 3, d)
    size = tile(TILES, "vectors", d)
    _forward[n, triton.cdiv(d, size["BC"])](x, x if v is None else v, w, unit, sender, ptr, h, dv, d, scale, HAS_V=v is not None,
                                            **size)
    return h, dv


@_vector_sum.register_fake
def _(x, v, w, unit, sender, receiver, ptr, order, scale):
    n, d = x.shape[0], x.shape[1] // 3
    return x.new_empty(n, d), x.new_empty(n, 3, d)


@torch.library.custom_op("forcelaw::vector_sum_backward", mutates_args=())
def _vector_sum_backward(grad_h: Tensor, grad_v: Tensor, x: Tensor, v: Tensor | None, w: Tensor, unit: Tensor, receiver: Tensor,
                         ptr: Tensor, order: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape[0], x.shape[1] // 3
    dx, dw = torch.empty_like(x), torch.empty_like(w)
    dv = x.new_empty(0) if v is None else torch.empty_like(v)
    size = tile(TILES, "vectors_grad", d)
    _backward[n + FILL, triton.cdiv(d, size["BC"])](
        x, x if v is None else v, w, unit, receiver, order, ptr, grad_h.contiguous(), grad_v.contiguous(), dx, dv, dw, n,
        w.shape[0], d, scale, HAS_V=v is not None, FILL=FILL, **size)
    return dx, dv, dw


@_vector_sum_backward.register_fake
def _(grad_h, grad_v, x, v, w, unit, receiver, ptr, order, scale):
    return torch.empty_like(x), x.new_empty(0) if v is None else torch.empty_like(v), torch.empty_like(w)


def _save(ctx, inputs, output):
    x, v, w, unit, _, receiver, ptr, order, ctx.scale = inputs
    ctx.moving = v is not None
    ctx.save_for_backward(x, w, unit, receiver, ptr, order, *([v] if ctx.moving else []))


def _differentiate(ctx, grad_h, grad_v):
    x, w, unit, receiver, ptr, order, *rest = ctx.saved_tensors
    v = rest[0] if ctx.moving else None
    dx, dv, dw = _vector_sum_backward(grad_h, grad_v, x, v, w, unit, receiver, ptr, order, ctx.scale)
    return dx, dv if ctx.moving else None, dw, None, None, None, None, None, None


_vector_sum.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("forcelaw::filtered_vectors", mutates_args=())
def _filtered_vectors(x: Tensor, g: Tensor, weight: Tensor, unit: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor,
                      order: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _vector_sum(x, None, torch.mm(g, weight.t()), unit, sender, receiver, ptr, order, scale)


@_filtered_vectors.register_fake
def _(x, g, weight, unit, sender, receiver, ptr, order, scale):
    n, d = x.shape[0], x.shape[1] // 3
    return x.new_empty(n, d), x.new_empty(n, 3, d)


@torch.library.custom_op("forcelaw::filtered_vectors_backward", mutates_args=())
def _filtered_vectors_backward(grad_h: Tensor, grad_v: Tensor, x: Tensor, g: Tensor, weight: Tensor, unit: Tensor,
                               receiver: Tensor, ptr: Tensor, order: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    dx, _, dw = _vector_sum_backward(grad_h, grad_v, x, None, torch.mm(g, weight.t()), unit, receiver, ptr, order, scale)
    return dx, torch.mm(dw.t(), g)


@_filtered_vectors_backward.register_fake
def _(grad_h, grad_v, x, g, weight, unit, receiver, ptr, order, scale):
    return torch.empty_like(x), torch.empty_like(weight)


def _save_filtered(ctx, inputs, output):
    x, g, weight, unit, _, receiver, ptr, order, ctx.scale = inputs
    ctx.save_for_backward(x, g, weight, unit, receiver, ptr, order)


def _differentiate_filtered(ctx, grad_h, grad_v):
    dx, dweight = _filtered_vectors_backward(grad_h, grad_v, *ctx.saved_tensors, ctx.scale)
    return dx, None, dweight, None, None, None, None, None, None


_filtered_vectors.register_autograd(_differentiate_filtered, setup_context=_save_filtered)


def vector_sum(x: Tensor, v: Tensor, w: Tensor, unit: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor, order: Tensor,
               scale: float) -> tuple[Tensor, Tensor]:
    """scale times the two sums of the module's docstring: (n, d) and (n, 3, d).

    ptr (n + 1,) and order (e,) from ``GraphBatch.segments``. No gradient goes to ``unit``.
    """
    return _vector_sum(at_least_float32(x), at_least_float32(v), w.contiguous(), unit.contiguous(), sender, receiver, ptr, order,
                       scale)


def filtered_vectors(x: Tensor, g: Tensor, weight: Tensor, unit: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor,
                     order: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """vector_sum of w = g W^T while v is zero: g (e, B), weight W (3d, B). No gradient goes to ``g`` and ``unit``."""
    weight = lowered(weight)
    return _filtered_vectors(at_least_float32(x), g.to(weight.dtype), weight, unit.contiguous(), sender, receiver, ptr, order,
                             scale)
