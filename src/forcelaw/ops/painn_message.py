"""PaiNN's message and the residual around it, in one pass over the edges, with filters w = g W^T
that are never written.

    h_i + sum_j x_j^a w^a,   v_i + sum_j (v_j x_j^b w^b + r_hat x_j^c w^c)     (sums times a scale)

Legend: n atoms, e edges, d channels, R radial functions; x (n, 3d), w (e, 3d) and W (3d, R) hold a
| b | c; g (e, R); h (n, d), v (n, 3, d); unit (e, 3). Filters would be the largest arrays of a
step, and writing and reading them its largest part.

A program has some channels of a few consecutive atoms, goes over all edges of these in tiles, makes
the filters of a tile by a product on the tensor cores, and adds messages up by another one, with
the indicator of the edges of each atom. The backward pass does the same over the edges of each
sender, and makes the gradient of W on the way. Atoms of a program are few where atoms are (a step
must not wait for one program), 16 where there are many.

Products round their factors to TF32 here, half up: the tensor cores cut digits off, so that every
sum would come out too small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..graph import GraphBatch, segment_sum
from .edge_features import Lengths
from .painn_factors import (
    GROUP,
    MOST,
    _plus,
    _product,
    _put_gradients,
    _put_sums,
    _put_weight,
    _radial,
    _weight,
)
from .painn_forces import _pull, _push, _second
from .register import Twice
from .switch import constexpr, tl, triton, use_triton
from .tiles import at_least_float32, lowered, three, wide

# edges and channels of a tile, warps, stages of the pipeline of loads (LABLOG, 2026-11-28)
TILES = {
    "vectors": (32, 16, 1, 2),
    "vectors_grad": (32, 16, 1, 2),
    "pull": (16, 16, 1, 2),
    "push": (32, 16, 1, 2),
    "second": (16, 16, 1, 2),
}
ENOUGH = 1056  # programs that keep an H100 busy: as many as fit at a time
# of the backward pass at most: each writes a gradient of its rows of W, and torch sums them
PROGRAMS = 4608


def painn_message(
    h: Tensor,
    v: Tensor | None,
    x: Tensor,
    g: Tensor | Lengths,
    weight: Tensor,
    unit: Tensor,
    graph: GraphBatch,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """h and v with their messages: (n, d) and (n, 3, d), see the module's docstring. v None: zero.

    By kernels filters have the dtype that torch's own product would have, and a gradient goes to
    ``unit`` and to the lengths of ``g`` where it has them, else to neither; ValueError where n 3d
    or e R reaches 2^31.
    """
    if use_triton(h):
        weight = lowered(weight)
        h, x, v = at_least_float32(h), at_least_float32(x), v if v is None else at_least_float32(v)
        r = slope = None
        if isinstance(g, Lengths):
            g, slope, r = g
            slope = slope.to(weight.dtype)
        g = g.to(weight.dtype).contiguous()
        edges = g, slope, weight.contiguous(), r, unit.contiguous()
        return _Message.apply(h, v, x, *edges, graph, scale)
    assert isinstance(g, Tensor)
    n, filters = x.shape[0], nn.functional.linear(g, weight)
    a, b, c = (x.index_select(0, graph.sender) * filters).chunk(3, dim=-1)
    change = unit.unsqueeze(-1) * c.unsqueeze(1)
    if v is not None:
        change = change + v.index_select(0, graph.sender) * b.unsqueeze(1)
    h = h + segment_sum(a, graph.receiver, n) * scale
    change = segment_sum(change, graph.receiver, n) * scale
    return h, change if v is None else v + change


@triton.jit(do_not_specialize=["n", "few"])
def _forward(
    h,
    v,
    x,
    g,
    weight,
    unit,
    sender,
    receiver,
    ptr,
    out_h,
    out_v,
    n,
    few,
    d: constexpr,
    R: constexpr,
    scale: constexpr,
    HAS_V: constexpr,
    PRECISION: constexpr,
    WIDE: constexpr,
    RP: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, RP)
    mc = c < d
    wa, wc = _weight(weight, 0, k, c, d, R, PRECISION), _weight(weight, 2, k, c, d, R, PRECISION)
    if HAS_V:
        wb = _weight(weight, 1, k, c, d, R, PRECISION)
    first = tl.program_id(0) * few
    last = tl.minimum(first + few, n)
    atoms = first + tl.arange(0, GROUP)
    zero = tl.zeros([GROUP, BC], WIDE)
    s, s0, s1, s2 = zero, zero, zero, zero
    high = tl.load(ptr + last)
    for low in range(tl.load(ptr + first), high, BE):
        e = low + tl.arange(0, BE)
        me = e < high
        j = tl.load(sender + e, mask=me, other=0).to(tl.int32)
        i = tl.load(receiver + e, mask=me, other=-1).to(tl.int32)
        of = (atoms[:, None] == i[None, :]).to(WIDE)
        mask = me[:, None] & mc[None, :]
        at = j[:, None] * (3 * d) + c[None, :]
        rows = _radial(g, e, me, k, R, PRECISION)
        # loads stand where they are used: at the top they would hold registers
        m = tl.load(x + at, mask=mask, other=0.0) * _product(rows, wa, WIDE, PRECISION)
        along = tl.load(x + at + 2 * d, mask=mask, other=0.0) * _product(rows, wc, WIDE, PRECISION)
        m0 = along * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
        m1 = along * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
        m2 = along * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
        if HAS_V:
            b = tl.load(x + at + d, mask=mask, other=0.0) * _product(rows, wb, WIDE, PRECISION)
            m0 += b * tl.load(v + at, mask=mask, other=0.0)
            m1 += b * tl.load(v + at + d, mask=mask, other=0.0)
            m2 += b * tl.load(v + at + 2 * d, mask=mask, other=0.0)
        s = _plus(s, of, m, WIDE, WIDE, PRECISION)
        s0 = _plus(s0, of, m0, WIDE, WIDE, PRECISION)
        s1 = _plus(s1, of, m1, WIDE, WIDE, PRECISION)
        s2 = _plus(s2, of, m2, WIDE, WIDE, PRECISION)
    mask = (atoms < last)[:, None] & mc[None, :]
    _put_sums(h, v, out_h, out_v, s, s0, s1, s2, atoms, c, mask, d, scale, HAS_V, WIDE)


@triton.jit(do_not_specialize=["n", "few", "groups", "each"])
def _backward(
    v,
    x,
    g,
    weight,
    unit,
    receiver,
    order,
    ptr,
    grad_h,
    grad_v,
    dx,
    dv,
    dw,
    n,
    few,
    groups,
    each,
    d: constexpr,
    R: constexpr,
    scale: constexpr,
    HAS_V: constexpr,
    PRECISION: constexpr,
    WIDE: constexpr,
    RP: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """dx (n, 3d), dv (n, 3, d) with the residual's, dw (programs, 3d, R). A program has ``each``
    groups of ``few`` atoms."""
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, RP)
    mc = c < d
    kind = g.dtype.element_ty
    wa, wc = _weight(weight, 0, k, c, d, R, PRECISION), _weight(weight, 2, k, c, d, R, PRECISION)
    if HAS_V:
        wb = _weight(weight, 1, k, c, d, R, PRECISION)
    sum_a, sum_b = tl.zeros([RP, BC], WIDE), tl.zeros([RP, BC], WIDE)
    sum_c = tl.zeros([RP, BC], WIDE)
    start = tl.program_id(0) * each
    for group in range(start, tl.minimum(start + each, groups)):
        first = group * few
        last = tl.minimum(first + few, n)
        atoms = first + tl.arange(0, GROUP)
        da, dc = tl.zeros([GROUP, BC], WIDE), tl.zeros([GROUP, BC], WIDE)
        s0, s1 = tl.zeros([GROUP, BC], WIDE), tl.zeros([GROUP, BC], WIDE)
        s2 = tl.zeros([GROUP, BC], WIDE)
        high = tl.load(ptr + last)
        for low in range(tl.load(ptr + first), high, BE):
            place = low + tl.arange(0, BE)
            me = place < high
            e = tl.load(order + place, mask=me, other=0)
            i = tl.load(receiver + e, mask=me, other=0).to(tl.int32)
            # the sender: an atom has as many edges out as in
            j = tl.load(receiver + place, mask=me, other=-1).to(tl.int32)
            of = (atoms[:, None] == j[None, :]).to(WIDE)
            mask = me[:, None] & mc[None, :]
            at = i[:, None] * (3 * d) + c[None, :]
            rows = _radial(g, e, me, k, R, PRECISION)
            fa = _product(rows, wa, WIDE, PRECISION)
            fc = _product(rows, wc, WIDE, PRECISION)
            gh = tl.load(grad_h + i[:, None] * d + c[None, :], mask=mask, other=0.0)
            g0, g1, g2 = three(grad_v + at, d, mask, WIDE)
            along = (
                g0 * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
                + g1 * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
                + g2 * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
            )
            at = j[:, None] * (3 * d) + c[None, :]
            turned = tl.trans(rows)
            xa = tl.load(x + at, mask=mask, other=0.0)
            sum_a = _plus(sum_a, turned, gh * xa, kind, WIDE, PRECISION)
            if HAS_V:
                fb = _product(rows, wb, WIDE, PRECISION)
                inner = (
                    g0 * tl.load(v + at, mask=mask, other=0.0)
                    + g1 * tl.load(v + at + d, mask=mask, other=0.0)
                    + g2 * tl.load(v + at + 2 * d, mask=mask, other=0.0)
                )
                xb = tl.load(x + at + d, mask=mask, other=0.0)
                sum_b = _plus(sum_b, turned, inner * xb, kind, WIDE, PRECISION)
            xc = tl.load(x + at + 2 * d, mask=mask, other=0.0)
            sum_c = _plus(sum_c, turned, along * xc, kind, WIDE, PRECISION)
            da = _plus(da, of, gh * fa, WIDE, WIDE, PRECISION)
            dc = _plus(dc, of, along * fc, WIDE, WIDE, PRECISION)
            if HAS_V:
                s0 = _plus(s0, of, g0 * fb, WIDE, WIDE, PRECISION)
                s1 = _plus(s1, of, g1 * fb, WIDE, WIDE, PRECISION)
                s2 = _plus(s2, of, g2 * fb, WIDE, WIDE, PRECISION)
        mask = (atoms < last)[:, None] & mc[None, :]
        own = atoms[:, None] * (3 * d) + c[None, :]
        _put_gradients(v, x, grad_v, dx, dv, da, dc, s0, s1, s2, own, mask, d, scale, HAS_V, WIDE)
    _put_weight(dw, sum_a, sum_b, sum_c, k, c, d, R, scale)


def _shape(kernel: str, x: Tensor, g: Tensor) -> tuple[int, int, dict]:
    """Atoms of a program, blocks of channels, and the constants of a kernel."""
    (n, d), radial = (x.shape[0], x.shape[1] // 3), g.shape[1]
    if max(x.numel(), g.numel()) >= 1 << 31:
        raise ValueError(
            f"a step of {n:,} atoms and {g.shape[0]:,} edges is too large for {d} channels: kernels"
            " count in 32 bits; take fewer atoms a step"
        )
    edges, channels, warps, stages = TILES[kernel]
    blocks = triton.cdiv(d, channels)
    precision = "ieee" if x.dtype == torch.float64 else "tf32"
    if precision == "tf32" and not torch.backends.cuda.matmul.allow_tf32:
        # three products on the tensor cores that give float32's digits together
        precision = "tf32x3"
    if precision != "tf32":
        edges = min(edges, 16)  # several products for one take more registers
    constants = {"d": d, "R": radial, "PRECISION": precision, "WIDE": wide(x)}
    constants |= {"RP": max(16, triton.next_power_of_2(radial)), "BE": edges, "BC": channels}
    constants |= {"num_warps": warps, "num_stages": stages}
    return max(1, min(MOST, n * blocks // ENOUGH)), blocks, constants


class _Message(Twice):
    def value(ctx, h, v, x, g, slope, weight, r, unit, graph, scale):
        (n, d), (ptr, _) = h.shape, graph.segments
        new_h, new_v = torch.empty_like(h), h.new_empty(n, 3, d)
        few, blocks, constants = _shape("vectors", x, g)
        given = h, x if v is None else v, x, g, weight, unit, graph.sender, graph.receiver, ptr
        _forward[triton.cdiv(n, few), blocks](
            *given, new_h, new_v, n, few, scale=scale, HAS_V=v is not None, **constants
        )
        ctx.graph, ctx.scale = graph, scale
        return (new_h, new_v), (v, x, g, slope, weight, unit)

    def gradient(ctx, kept, grad_h, grad_v):
        (v, x, g, _, weight, unit), (ptr, order) = kept, ctx.graph.segments
        moving = v is not None
        given = v if moving else x, x, g, weight, unit, ctx.graph.receiver, order, ptr
        grads = grad_h.contiguous(), grad_v.contiguous()
        dx, dv, dweight = _with_weight(_backward, "vectors_grad", ctx, kept, *given, *grads)
        return grad_h, dv, dx, None, None, dweight, None, None, None, None

    def pull(ctx, kept, grad_h, grad_v):
        (v, x, g, slope, weight, unit), (ptr, order) = kept, ctx.graph.segments
        (n, moving), (few, blocks, constants) = (x.shape[0], v is not None), _shape("pull", x, g)
        dx, dv = torch.empty_like(x), torch.empty_like(v) if moving else x.new_empty(0)
        parts = x.new_zeros(blocks, len(g), 4)  # padding edges belong to nobody
        given = v if moving else x, x, g, slope, weight, unit, ctx.graph.receiver, order, ptr
        grads = grad_h.contiguous(), grad_v.contiguous(), dx, dv, parts
        _pull[triton.cdiv(n, few), blocks](
            *given, *grads, n, len(g), few, scale=ctx.scale, HAS_V=moving, **constants
        )
        of_edge = parts.sum(0)
        dv = dv if moving else None
        return grad_h, dv, dx, None, None, None, of_edge[:, 0], of_edge[:, 1:], None, None

    def push(ctx, kept, tangents):
        (v, x, g, slope, weight, unit), (ptr, _) = kept, ctx.graph.segments
        th, tv, tx, *_, tr, tu, _, _ = tangents
        (n, moving), (few, blocks, constants) = (x.shape[0], v is not None), _shape("push", x, g)
        new_h, new_v = torch.empty_like(th), th.new_empty(n, 3, th.shape[1])
        given = v if moving else x, x, g, slope, weight, unit, ctx.graph.sender, ctx.graph.receiver
        moved = th, tv if moving else tx, tx, tr, tu
        _push[triton.cdiv(n, few), blocks](
            *given,
            ptr,
            *(t.contiguous() for t in moved),
            new_h,
            new_v,
            n,
            few,
            scale=ctx.scale,
            HAS_V=moving,
            **constants,
        )
        return (new_h, new_v), None

    def second(ctx, kept, tangents, first, grads, more):
        (v, x, g, slope, weight, unit), (ptr, order) = kept, ctx.graph.segments
        _, tv, tx, *_, tr, tu, _, _ = tangents
        moving = v is not None
        given = v if moving else x, x, g, slope, weight, unit, ctx.graph.receiver, order, ptr
        given = *given, *(t.contiguous() for t in (tv if moving else tx, tx, tr, tu))
        given = *given, *(t.contiguous() for t in (*first, *grads))
        dx, dv, dweight = _with_weight(_second, "second", ctx, kept, *given)
        return grads[0], dv, dx, None, None, dweight, None, None, None, None


def _with_weight(
    kernel: Any, name: str, ctx: Any, kept: tuple[Tensor, ...], *given: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x, v and W by a kernel that sums those of W over groups of atoms."""
    v, x, g, _, weight, _ = kept
    n, moving = x.shape[0], v is not None
    few, blocks, constants = _shape(name, x, g)
    groups = triton.cdiv(n, few)
    each = triton.cdiv(groups * blocks, PROGRAMS)
    programs = triton.cdiv(groups, each)
    dx, dv = torch.empty_like(x), torch.empty_like(v) if moving else x.new_empty(0)
    dw = x.new_empty(programs, *weight.shape)
    sizes = n, few, groups, each
    kernel[programs, blocks](*given, dx, dv, dw, *sizes, scale=ctx.scale, HAS_V=moving, **constants)
    return dx, dv if moving else None, dw.sum(0).to(weight.dtype)
