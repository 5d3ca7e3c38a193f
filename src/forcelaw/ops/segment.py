"""Messages that stay on edges: SiLU(s_j + t_i + z_ij) * w_ij in one pass, v_j - v_i, and the sum of
edge rows at their receivers.

Legend: n atoms, e edges, d channels; pair (n, 2d) holds s | t; z and w (e, d). torch needs two
gathers, two sums, a SiLU and a product for the first, each a pass over the edges, and an index_add
for each gather on the way back, whose atomics take several times the memory traffic of a sum over
sorted rows. By kernels padding edges get zero both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import GraphBatch, segment_sum
from .register import Twice
from .silu import silu_curvature
from .switch import constexpr, tl, triton, use_triton
from .tiles import _silu, at_least_float32, grid, tile, wide

# tile of each kernel: edges, channels at most, warps
TILES = {"gate": (16, 64, 4), "sum": (16, 64, 2)}


def edge_gate(pair: Tensor, z: Tensor | None, w: Tensor, graph: GraphBatch) -> Tensor:
    """SiLU(s_j + t_i + z_ij) * w_ij (e, d) of pair (n, 2d) s | t, z (e, d) or None, w (e, d); by
    kernels in the dtype of w."""
    if use_triton(pair):
        z = None if z is None else z.to(w.dtype).contiguous()
        return _EdgeGate.apply(at_least_float32(pair), z, w.contiguous(), graph)
    s, t = pair.chunk(2, dim=-1)
    a = s.index_select(0, graph.sender) + t.index_select(0, graph.receiver)
    return torch.nn.functional.silu(a if z is None else a + z) * w


def edge_sum(values: Tensor, graph: GraphBatch) -> Tensor:
    """Edge rows (e, d) summed at their receivers: (n, d). By kernels at least in float32, and the
    same bits every time."""
    if use_triton(values):
        return _EdgeSum.apply(values.contiguous(), graph)
    return segment_sum(values, graph.receiver, graph.species.shape[0])


def edge_difference(v: Tensor, graph: GraphBatch) -> Tensor:
    """v_j - v_i (e, d) of rows v (n, d)."""
    if use_triton(v):
        return _EdgeDifference.apply(v.contiguous(), graph)
    return v.index_select(0, graph.sender) - v.index_select(0, graph.receiver)


@triton.jit
def _gate_input(
    pair,
    z,
    sender,
    receiver,
    ptr,
    n,
    edges,
    d: constexpr,
    Z: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """s_j + t_i + z_ij of a tile; offsets of its numbers, which of them there are, and which belong
    to no padding edge."""
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    mask = inside & real[:, None]
    row = e.to(tl.int64)[:, None] * d + c[None, :]
    j = tl.load(sender + e, mask=real, other=0)[:, None] * 2 * d
    i = tl.load(receiver + e, mask=real, other=0)[:, None] * 2 * d + d
    a = tl.load(pair + j + c[None, :], mask=mask, other=0.0)
    a += tl.load(pair + i + c[None, :], mask=mask, other=0.0)
    if Z:
        a += tl.load(z + row, mask=mask, other=0.0).to(a.dtype)
    return a, row, inside, mask


@triton.jit(do_not_specialize=["n", "edges"])
def _gate(
    pair,
    z,
    w,
    sender,
    receiver,
    ptr,
    out,
    n,
    edges,
    d: constexpr,
    Z: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, _ = _silu(a)
    at = out + row
    value *= tl.load(w + row, mask=mask, other=0.0).to(a.dtype)
    tl.store(at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "edges"])
def _gate_grad(
    pair,
    z,
    w,
    sender,
    receiver,
    ptr,
    grad,
    da,
    dw,
    n,
    edges,
    d: constexpr,
    Z: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, slope = _silu(a)
    g = tl.load(grad + row, mask=mask, other=0.0).to(a.dtype)
    factor = tl.load(w + row, mask=mask, other=0.0).to(a.dtype)
    tl.store(dw + row, (g * value).to(dw.dtype.element_ty), mask=inside)
    tl.store(da + row, (g * factor * slope).to(da.dtype.element_ty), mask=inside)


@triton.jit
def _sum(
    x,
    order,
    ptr,
    out,
    w: constexpr,
    ORDER: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Sums of x (e, w) over the edges into each atom, or out of it (ORDER): out (n, w)."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BE, BC], WIDE)  # summed over BE once: a sum waits for all warps
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        if ORDER:
            e = tl.load(order + e, mask=me, other=0).to(tl.int64)
        mask = me[:, None] & (c < w)[None, :]
        total += tl.load(x + e[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(out + i * w + c, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=c < w)


@triton.jit
def _sum_both(x, order, ptr, out, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr):
    """Sums of x (e, w) over the edges out of each atom, and over those into it: out (n, 2w)."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    away, into = tl.zeros([BE, BC], WIDE), tl.zeros([BE, BC], WIDE)
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        mask = me[:, None] & mc[None, :]
        back = tl.load(order + e, mask=me, other=0).to(tl.int64)
        into += tl.load(x + e[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
        away += tl.load(x + back[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(out + i * 2 * w + c, tl.sum(away, axis=0).to(out.dtype.element_ty), mask=mc)
    tl.store(out + i * 2 * w + w + c, tl.sum(into, axis=0).to(out.dtype.element_ty), mask=mc)


@triton.jit(do_not_specialize=["n", "edges"])
def _spread(grad, receiver, ptr, out, n, edges, d: constexpr, BE: constexpr, BC: constexpr):
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    i = tl.load(receiver + e, mask=real, other=0)[:, None]
    x = tl.load(grad + i * d + c[None, :], mask=inside & real[:, None], other=0.0)
    at = out + e.to(tl.int64)[:, None] * d + c[None, :]
    tl.store(at, x.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "edges"])
def _difference(
    v, sender, receiver, ptr, out, n, edges, d: constexpr, BE: constexpr, BC: constexpr
):
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    mask = inside & real[:, None]
    j = tl.load(sender + e, mask=real, other=0)[:, None] * d
    i = tl.load(receiver + e, mask=real, other=0)[:, None] * d
    x = tl.load(v + j + c[None, :], mask=mask, other=0.0)
    x -= tl.load(v + i + c[None, :], mask=mask, other=0.0)
    tl.store(out + e.to(tl.int64)[:, None] * d + c[None, :], x, mask=inside)


@triton.jit(do_not_specialize=["n", "edges"])
def _gate_push(
    pair,
    z,
    w,
    tpair,
    tz,
    tw,
    sender,
    receiver,
    ptr,
    out,
    n,
    edges,
    d: constexpr,
    Z: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    ta, _, _, _ = _gate_input(tpair, tz, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, slope = _silu(a)
    factor = tl.load(w + row, mask=mask, other=0.0).to(a.dtype)
    value = value * tl.load(tw + row, mask=mask, other=0.0).to(a.dtype) + slope * ta * factor
    tl.store(out + row, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "edges"])
def _gate_second(
    pair,
    z,
    w,
    tpair,
    tz,
    tw,
    sender,
    receiver,
    ptr,
    first,
    grad,
    da,
    dw,
    n,
    edges,
    d: constexpr,
    Z: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """As _gate_grad, of <grad, y> + <first, y'>."""
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    ta, _, _, _ = _gate_input(tpair, tz, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, slope = _silu(a)
    _, curvature = silu_curvature(a)
    g = tl.load(grad + row, mask=mask, other=0.0).to(a.dtype)
    p = tl.load(first + row, mask=mask, other=0.0).to(a.dtype)
    factor = tl.load(w + row, mask=mask, other=0.0).to(a.dtype)
    moved = tl.load(tw + row, mask=mask, other=0.0).to(a.dtype)
    both = g * factor * slope + p * (curvature * ta * factor + slope * moved)
    tl.store(dw + row, (g * value + p * slope * ta).to(dw.dtype.element_ty), mask=inside)
    tl.store(da + row, both.to(da.dtype.element_ty), mask=inside)


class _EdgeGate(Twice):
    def value(ctx, pair, z, w, graph):
        (edges, d), out, size = w.shape, torch.empty_like(w), tile(TILES, "gate", w.shape[1])
        given = pair, w if z is None else z, w, graph.sender, graph.receiver, graph.segments[0]
        _gate[grid(edges, d, size)](*given, out, len(pair), edges, d, z is not None, **size)
        ctx.graph = graph
        return out, (pair, z, w)

    def gradient(ctx, kept, grad):
        (pair, z, w), graph = kept, ctx.graph
        given = pair, w if z is None else z, w, graph.sender, graph.receiver, graph.segments[0]
        return _of_gate(_gate_grad, ctx, kept, *given, grad.contiguous())

    def push(ctx, kept, tangents):
        (pair, z, w), graph, out = kept, ctx.graph, torch.empty_like(kept[2])
        (edges, d), size = w.shape, tile(TILES, "gate", w.shape[1])
        given = *_gate_given(kept, tangents), graph.sender, graph.receiver, graph.segments[0]
        _gate_push[grid(edges, d, size)](*given, out, len(pair), edges, d, z is not None, **size)
        return (out,), None

    def second(ctx, kept, tangents, first, grads, more):
        graph = ctx.graph
        given = *_gate_given(kept, tangents), graph.sender, graph.receiver, graph.segments[0]
        given = *given, first[0].contiguous(), grads[0].contiguous()
        return _of_gate(_gate_second, ctx, kept, *given)


def _gate_given(kept: Any, tangents: Any) -> tuple[Tensor, ...]:
    """pair, z, w and their tangents; anything in the place of z where there is none."""
    (pair, z, w), (tpair, tz, tw) = kept, (t if t is None else t.contiguous() for t in tangents[:3])
    return pair, w if z is None else z, w, tpair, tw if z is None else tz, tw


def _of_gate(kernel: Any, ctx: Any, kept: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of pair, z and w by a kernel that makes those of SiLU's argument and of w."""
    (pair, z, w), (ptr, order) = kept, ctx.graph.segments
    (edges, d), n, size = w.shape, len(pair), tile(TILES, "gate", w.shape[1])
    da, dw, dpair = torch.empty_like(w), torch.empty_like(w), torch.empty_like(pair)
    kernel[grid(edges, d, size)](*given, da, dw, n, edges, d, z is not None, **size)
    size = tile(TILES, "sum", d)
    _sum_both[n, triton.cdiv(d, size["BC"])](da, order, ptr, dpair, d, WIDE=wide(dpair), **size)
    return dpair, None if z is None else da, dw, None


def _sums(values: Tensor, graph: GraphBatch) -> Tensor:
    (ptr, _), d = graph.segments, values.shape[1]
    dtype = torch.promote_types(values.dtype, torch.float32)
    out, size = values.new_empty(len(ptr) - 1, d, dtype=dtype), tile(TILES, "sum", d)
    programs = len(ptr) - 1, triton.cdiv(d, size["BC"])
    _sum[programs](values, ptr, ptr, out, d, ORDER=False, WIDE=wide(values), **size)
    return out


def _differences(v: Tensor, graph: GraphBatch) -> Tensor:
    (n, d), edges, size = v.shape, len(graph.sender), tile(TILES, "gate", v.shape[1])
    out = v.new_empty(edges, d)
    given = v, graph.sender, graph.receiver, graph.segments[0]
    _difference[grid(edges, d, size)](*given, out, n, edges, d, **size)
    return out


class _EdgeSum(Twice):
    def value(ctx, values, graph):
        ctx.graph, ctx.dtype = graph, values.dtype
        return _sums(values, graph), ()

    def gradient(ctx, kept, grad):
        receiver, (ptr, _) = ctx.graph.receiver, ctx.graph.segments
        edges, d = len(receiver), grad.shape[1]
        out, size = grad.new_empty(edges, d, dtype=ctx.dtype), tile(TILES, "gate", d)
        given = grad.contiguous(), receiver, ptr
        _spread[grid(edges, d, size)](*given, out, len(ptr) - 1, edges, d, **size)
        return out, None

    def push(ctx, kept, tangents):
        return (_sums(tangents[0].contiguous(), ctx.graph),), None

    def second(ctx, kept, tangents, first, grads, more):
        return _EdgeSum.gradient(ctx, kept, *grads)


class _EdgeDifference(Twice):
    def value(ctx, v, graph):
        ctx.graph = graph
        return _differences(v, graph), ()

    def gradient(ctx, kept, grad):
        (ptr, order), d = ctx.graph.segments, grad.shape[1]
        n, grad, size = len(ptr) - 1, grad.contiguous(), tile(TILES, "sum", d)
        out = grad.new_empty(n, 2 * d)
        _sum_both[n, triton.cdiv(d, size["BC"])](grad, order, ptr, out, d, WIDE=wide(grad), **size)
        return out[:, :d] - out[:, d:], None

    def push(ctx, kept, tangents):
        return (_differences(tangents[0].contiguous(), ctx.graph),), None

    def second(ctx, kept, tangents, first, grads, more):
        return _EdgeDifference.gradient(ctx, kept, *grads)
