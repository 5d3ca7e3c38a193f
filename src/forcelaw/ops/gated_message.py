"""The MPNN's message in one pass over the edges: scale times the sum over j of SiLU(s_j + t_i) *
w_ij.

Legend: n atoms, e edges, d channels; pair (n, 2d) holds s | t; w (e, d) the filter of each edge.

The derivative by t needs sum_j SiLU'(s_j + t_i) w_ij, which the forward pass collects beside the
message; so the backward pass is one pass too, over the edges of each sender, where it writes the
gradient of w row by row. For gradient forces the pass of tangents collects what the last pass needs
in the same way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import GraphBatch
from .register import Twice
from .segment import edge_gate, edge_sum
from .silu import silu_curvature
from .switch import constexpr, tl, triton, use_triton
from .tiles import FILL, FILL_PROGRAMS, _silu, at_least_float32, tile

# tile of each kernel: edges, channels at most, warps; from benchmarks/kernel_tuning.py on an H200
TILES = {
    "gated": (32, 32, 2),
    "gated_grad": (16, 32, 2),
    "gated_push": (16, 32, 2),
    "gated_second": (16, 32, 2),
}


def gated_message(pair: Tensor, w: Tensor, graph: GraphBatch, scale: float) -> Tensor:
    """scale times the sum over edges j -> i of SiLU(s_j + t_i) * w_ij: (n, d), by kernels at least
    in float32. pair (n, 2d) s | t; w (e, d), any float type."""
    if use_triton(pair):
        return _GatedMessage.apply(at_least_float32(pair), w.contiguous(), graph, scale)
    return edge_sum(edge_gate(pair, None, w, graph), graph) * scale


@triton.jit
def _forward(
    pair, w, sender, ptr, out, slope, d: constexpr, scale: constexpr, BE: constexpr, BC: constexpr
):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    t = tl.load(pair + i * 2 * d + d + c, mask=mc, other=0.0)
    zero = tl.zeros([BE, BC], t.dtype)
    total, slopes = zero, zero  # summed over BE once: a sum waits for all warps
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = k + tl.arange(0, BE)
        me = e < high
        j = tl.load(sender + e, mask=me, other=0)
        mask = me[:, None] & mc[None, :]
        s = tl.load(pair + j[:, None] * 2 * d + c[None, :], mask=mask, other=0.0)
        x = tl.load(w + e.to(tl.int64)[:, None] * d + c[None, :], mask=mask, other=0.0).to(t.dtype)
        value, derivative = _silu(s + t[None, :])
        total += value * x
        slopes += derivative * x
    tl.store(out + i * d + c, tl.sum(total, axis=0) * scale, mask=mc)
    tl.store(slope + i * d + c, tl.sum(slopes, axis=0) * scale, mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _backward(
    pair,
    w,
    receiver,
    order,
    ptr,
    grad,
    slope,
    dpair,
    dw,
    n,
    n_edges,
    d: constexpr,
    scale: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    if pid >= n:  # padding edges: no atom visits them
        for k in range(tl.load(ptr + n) + (pid - n) * BE, n_edges, FILL * BE):
            e = k + tl.arange(0, BE)
            mask = (e < n_edges)[:, None] & mc[None, :]
            e = tl.load(order + e, mask=e < n_edges, other=0).to(tl.int64)
            at = dw + e[:, None] * d + c[None, :]
            tl.store(at, tl.zeros([BE, BC], tl.float32).to(dw.dtype.element_ty), mask=mask)
    else:
        j = pid.to(tl.int64)
        s = tl.load(pair + j * 2 * d + c, mask=mc, other=0.0)
        ds = tl.zeros([BE, BC], s.dtype)
        low, high = tl.load(ptr + j), tl.load(ptr + j + 1)
        for k in range(low, high, BE):
            me = k + tl.arange(0, BE) < high
            e = tl.load(order + k + tl.arange(0, BE), mask=me, other=0).to(tl.int64)
            i = tl.load(receiver + e, mask=me, other=0)
            mask = me[:, None] & mc[None, :]
            t = tl.load(pair + i[:, None] * 2 * d + d + c[None, :], mask=mask, other=0.0)
            g = tl.load(grad + i[:, None] * d + c[None, :], mask=mask, other=0.0) * scale
            x = tl.load(w + e[:, None] * d + c[None, :], mask=mask, other=0.0).to(s.dtype)
            value, derivative = _silu(s[None, :] + t)
            at = dw + e[:, None] * d + c[None, :]
            tl.store(at, (g * value).to(dw.dtype.element_ty), mask=mask)
            ds += g * x * derivative
        tl.store(dpair + j * 2 * d + c, tl.sum(ds, axis=0), mask=mc)
        g = tl.load(grad + j * d + c, mask=mc, other=0.0)
        own = g * tl.load(slope + j * d + c, mask=mc, other=0.0)
        tl.store(dpair + j * 2 * d + d + c, own, mask=mc)


@triton.jit
def _push(
    pair,
    w,
    tpair,
    tw,
    sender,
    ptr,
    out,
    bend,
    d: constexpr,
    scale: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """The tangent of the message, and the sum that the derivative of <P, tangent> by t needs."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    t = tl.load(pair + i * 2 * d + d + c, mask=mc, other=0.0)
    tt = tl.load(tpair + i * 2 * d + d + c, mask=mc, other=0.0)
    zero = tl.zeros([BE, BC], t.dtype)
    total, bends = zero, zero
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = k + tl.arange(0, BE)
        me = e < high
        j = tl.load(sender + e, mask=me, other=0)
        mask = me[:, None] & mc[None, :]
        at = j[:, None] * 2 * d + c[None, :]
        a = tl.load(pair + at, mask=mask, other=0.0) + t[None, :]
        ta = tl.load(tpair + at, mask=mask, other=0.0) + tt[None, :]
        row = e.to(tl.int64)[:, None] * d + c[None, :]
        x = tl.load(w + row, mask=mask, other=0.0).to(t.dtype)
        tx = tl.load(tw + row, mask=mask, other=0.0).to(t.dtype)
        value, _ = _silu(a)
        slope, curvature = silu_curvature(a)
        total += slope * ta * x + value * tx
        bends += curvature * ta * x + slope * tx
    tl.store(out + i * d + c, tl.sum(total, axis=0) * scale, mask=mc)
    tl.store(bend + i * d + c, tl.sum(bends, axis=0) * scale, mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _second(
    pair,
    w,
    tpair,
    tw,
    receiver,
    order,
    ptr,
    first,
    grad,
    slope,
    bend,
    dpair,
    dw,
    n,
    n_edges,
    d: constexpr,
    scale: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """As _backward, of <grad, y> + <first, y'>."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    if pid >= n:  # padding edges: no atom visits them
        for k in range(tl.load(ptr + n) + (pid - n) * BE, n_edges, FILL * BE):
            e = k + tl.arange(0, BE)
            mask = (e < n_edges)[:, None] & mc[None, :]
            e = tl.load(order + e, mask=e < n_edges, other=0).to(tl.int64)
            at = dw + e[:, None] * d + c[None, :]
            tl.store(at, tl.zeros([BE, BC], tl.float32).to(dw.dtype.element_ty), mask=mask)
    else:
        j = pid.to(tl.int64)
        s = tl.load(pair + j * 2 * d + c, mask=mc, other=0.0)
        ts = tl.load(tpair + j * 2 * d + c, mask=mc, other=0.0)
        ds = tl.zeros([BE, BC], s.dtype)
        low, high = tl.load(ptr + j), tl.load(ptr + j + 1)
        for k in range(low, high, BE):
            me = k + tl.arange(0, BE) < high
            e = tl.load(order + k + tl.arange(0, BE), mask=me, other=0).to(tl.int64)
            i = tl.load(receiver + e, mask=me, other=0)
            mask = me[:, None] & mc[None, :]
            at = i[:, None] * 2 * d + d + c[None, :]
            a = tl.load(pair + at, mask=mask, other=0.0) + s[None, :]
            ta = tl.load(tpair + at, mask=mask, other=0.0) + ts[None, :]
            of_atom = i[:, None] * d + c[None, :]
            g = tl.load(grad + of_atom, mask=mask, other=0.0) * scale
            p = tl.load(first + of_atom, mask=mask, other=0.0) * scale
            row = e[:, None] * d + c[None, :]
            x = tl.load(w + row, mask=mask, other=0.0).to(s.dtype)
            tx = tl.load(tw + row, mask=mask, other=0.0).to(s.dtype)
            value, _ = _silu(a)
            rise, curvature = silu_curvature(a)
            both = g * value + p * rise * ta
            tl.store(dw + row, both.to(dw.dtype.element_ty), mask=mask)
            ds += g * x * rise + p * (curvature * ta * x + rise * tx)
        tl.store(dpair + j * 2 * d + c, tl.sum(ds, axis=0), mask=mc)
        own = tl.load(grad + j * d + c, mask=mc, other=0.0)
        own = own * tl.load(slope + j * d + c, mask=mc, other=0.0)
        p = tl.load(first + j * d + c, mask=mc, other=0.0)
        own += p * tl.load(bend + j * d + c, mask=mc, other=0.0)
        tl.store(dpair + j * 2 * d + d + c, own, mask=mc)


class _GatedMessage(Twice):
    def value(ctx, pair, w, graph, scale):
        n, d = pair.shape[0], w.shape[1]
        ptr, _ = graph.segments
        out, slope, size = pair.new_empty(n, d), pair.new_empty(n, d), tile(TILES, "gated", d)
        programs = n, triton.cdiv(d, size["BC"])
        _forward[programs](pair, w, graph.sender, ptr, out, slope, d, scale, **size)
        ctx.graph, ctx.scale = graph, scale
        return out, (pair, w, slope)

    def gradient(ctx, kept, grad):
        (pair, w, slope), (ptr, order) = kept, ctx.graph.segments
        given = pair, w, ctx.graph.receiver, order, ptr, grad.contiguous(), slope
        return _over_senders(_backward, "gated_grad", ctx, pair, w, *given)

    def push(ctx, kept, tangents):
        (pair, w, slope), (ptr, _), d = kept, ctx.graph.segments, kept[1].shape[1]
        out, bend, size = (
            torch.empty_like(slope),
            torch.empty_like(slope),
            tile(TILES, "gated_push", d),
        )
        moved = tangents[0].contiguous(), tangents[1].contiguous()
        programs = len(pair), triton.cdiv(d, size["BC"])
        given = pair, w, *moved, ctx.graph.sender, ptr
        _push[programs](*given, out, bend, d, ctx.scale, **size)
        return (out,), bend

    def second(ctx, kept, tangents, first, grads, more):
        (pair, w, slope), (ptr, order) = kept, ctx.graph.segments
        moved = tangents[0].contiguous(), tangents[1].contiguous()
        given = pair, w, *moved, ctx.graph.receiver, order, ptr
        given = *given, first[0].contiguous(), grads[0].contiguous(), slope, more
        return _over_senders(_second, "gated_second", ctx, pair, w, *given)


def _over_senders(kernel: Any, name: str, ctx: Any, pair: Tensor, w: Tensor, *given: Tensor) -> Any:
    n, (edges, d) = len(pair), w.shape
    dpair, dw, size = torch.empty_like(pair), torch.empty_like(w), tile(TILES, name, d)
    programs = n + FILL_PROGRAMS, triton.cdiv(d, size["BC"])
    kernel[programs](*given, dpair, dw, n, edges, d, ctx.scale, **size)
    return dpair, dw, None, None
