"""What gradient forces need of eSEN's message beside its value and gradient: gradients by frames
and scale, tangents, and second passes. See so2_message.py for the legend and
:class:`forcelaw.ops.register.Twice` for the passes.

Names with t are tangents; p and g are the gradients P of the first backward pass and G of the last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import GraphBatch
from ..silu import silu_curvature
from ..switch import constexpr, tl, triton
from ..tiles import FILL, FILL_PROGRAMS, PROGRAMS, added, tile, zeros
from .so2_layout import (
    TILES,
    Edges,
    Shape,
    _block,
    _constants,
    _factor,
    _one_edge,
    _place,
    _row,
)


@triton.jit(do_not_specialize=["n_edges", "blocks", "programs"])
def _turn_push(
    y,
    ty,
    frames,
    tframes,
    rad,
    trad,
    shift,
    sender,
    receiver,
    out,
    sums,
    n_edges,
    blocks,
    programs,
    C: constexpr,
    P: constexpr,
    S: constexpr,
    SM: constexpr,
    R: constexpr,
    L: constexpr,
    M: constexpr,
    FM: constexpr,
    SIDES: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Tangent of _turn. SIDES = 1: the receiver alone, with scale and its tangent in rad and trad,
    and sums as there: the second pass of turn_sum is that."""
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    side = tl.program_id(2)
    mc = c < C
    dtype = y.dtype.element_ty
    total = ()
    if SIDES == 1:
        for _ in tl.static_range(L + 1):
            total = total + (tl.zeros([BE, BC], dtype),)
    for at in range(tl.program_id(0), blocks, programs):
        e = tl.cast(at, tl.int64) * BE + tl.arange(0, BE)
        me = e < n_edges
        mask = me[:, None] & mc[None, :]
        if SIDES == 1 or side == 1:
            node = tl.load(receiver + e, mask=me, other=0)
        else:
            node = tl.load(sender + e, mask=me, other=0)
        source = node[:, None] * S * C + c[None, :]
        target = out + e[:, None] * SM * SIDES * C + side * C + c[None, :]
        rows, trows = (), ()
        for s in tl.static_range(S):
            rows = rows + (tl.load(y + source + s * C, mask=mask, other=0.0),)
            trows = trows + (tl.load(ty + source + s * C, mask=mask, other=0.0),)
        turned = ()  # in the order of _place
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m > 0 or sign == 0:
                    for l in tl.static_range(m, L + 1):
                        acc, tacc = tl.zeros([BE, BC], dtype), tl.zeros([BE, BC], dtype)
                        for j in tl.static_range(2 * l + 1):
                            entry = e * P + _block(l, FM) + _row(m, sign) * (2 * l + 1) + j
                            w = tl.load(frames + entry, mask=me, other=0.0)[:, None]
                            tw = tl.load(tframes + entry, mask=me, other=0.0)[:, None]
                            acc += w * rows[l * l + j]
                            tacc += w * trows[l * l + j] + tw * rows[l * l + j]
                        if SIDES == 2:
                            q = _factor(l, m, L) * 2 * C
                            column = e[:, None] * R * 2 * C + q + side * C + c[None, :]
                            factor = tl.load(rad + column, mask=mask, other=0.0).to(dtype)
                            moved = tl.load(shift + q + side * C + c, mask=mc, other=0.0)
                            factor += moved.to(dtype)[None, :]
                            tfactor = tl.load(trad + column, mask=mask, other=0.0).to(dtype)
                        else:
                            factor = tl.load(rad + e, mask=me, other=0.0)[:, None]
                            tfactor = tl.load(trad + e, mask=me, other=0.0)[:, None]
                        turned = turned + (tacc * factor + acc * tfactor,)
        if SIDES == 1:
            total = added(total, turned, 0, L + 1, L + 1)
        for p in tl.static_range(SM):
            tl.store(target + p * SIDES * C, turned[p].to(out.dtype.element_ty), mask=mask)
    if SIDES == 1:
        for l in tl.static_range(L + 1):
            at = sums + (tl.program_id(0) * (L + 1) + l) * C + c
            tl.store(at, tl.sum(total[l], axis=0), mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _turn_second(
    y,
    ty,
    frames,
    tframes,
    rad,
    trad,
    shift,
    first,
    grad,
    order,
    ptr,
    dy,
    drad,
    dshift,
    n,
    n_edges,
    C: constexpr,
    P: constexpr,
    S: constexpr,
    SM: constexpr,
    R: constexpr,
    L: constexpr,
    M: constexpr,
    BC: constexpr,
):
    """As _turn_grad, of <grad, z> + <first, z'>; degree by degree, so that few numbers are held."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    side = tl.program_id(2)
    mc = c < C
    dtype = y.dtype.element_ty
    if pid >= n:  # padding edges: no atom visits them
        for spare in range(tl.load(ptr + n) + pid - n, n_edges, FILL):
            e = tl.load(order + spare).to(tl.int64)
            zero = tl.zeros([BC], tl.float32).to(drad.dtype.element_ty)
            for q in tl.static_range(R):
                tl.store(drad + (e * R + q) * 2 * C + side * C + c, zero, mask=mc)
    else:
        i = pid.to(tl.int64)
        rows, trows = (), ()
        for j in tl.static_range(S):
            rows = rows + (tl.load(y + (i * S + j) * C + c, mask=mc, other=0.0),)
            trows = trows + (tl.load(ty + (i * S + j) * C + c, mask=mc, other=0.0),)
        total, dshifts = zeros(S, BC, dtype), zeros(R, BC, dtype)
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        for k in range(low, high):
            e = k
            if side == 0:
                e = tl.load(order + k).to(tl.int64)
            dfactors = ()
            for m in tl.static_range(M + 1):
                for l in tl.static_range(m, L + 1):
                    q = (e * R + _factor(l, m, L)) * 2 * C + side * C + c
                    moved = tl.load(
                        shift + _factor(l, m, L) * 2 * C + side * C + c, mask=mc, other=0.0
                    )
                    factor = tl.load(rad + q, mask=mc, other=0.0).to(dtype) + moved.to(dtype)
                    tfactor = tl.load(trad + q, mask=mc, other=0.0).to(dtype)
                    dfactor = tl.zeros([BC], dtype)
                    for sign in tl.static_range(2):
                        if m > 0 or sign == 0:
                            at = (e * SM + _place(l, m, sign, L)) * 2 * C + side * C + c
                            p = tl.load(first + at, mask=mc, other=0.0).to(dtype)
                            g = tl.load(grad + at, mask=mc, other=0.0).to(dtype)
                            by_frame, by_tangent = g * factor + p * tfactor, p * factor
                            turned, tturned = tl.zeros([BC], dtype), tl.zeros([BC], dtype)
                            part = ()
                            for j in tl.static_range(2 * l + 1):
                                entry = e * P + _block(l, M) + _row(m, sign) * (2 * l + 1) + j
                                w, tw = tl.load(frames + entry), tl.load(tframes + entry)
                                turned += w * rows[l * l + j]
                                tturned += w * trows[l * l + j] + tw * rows[l * l + j]
                                part = part + (w * by_frame + tw * by_tangent,)
                            dfactor += g * turned + p * tturned
                            total = added(total, part, l * l, 2 * l + 1, S)
                    dfactors = dfactors + (dfactor,)
            dshifts = added(dshifts, dfactors, 0, R, R)
            for q in tl.static_range(R):
                at = drad + (e * R + q) * 2 * C + side * C + c
                tl.store(at, dfactors[q].to(drad.dtype.element_ty), mask=mc)
        for j in tl.static_range(S):
            tl.store(dy + ((side * n + i) * S + j) * C + c, total[j], mask=mc)
        for q in tl.static_range(R):
            tl.store(dshift + (i * R + q) * 2 * C + side * C + c, dshifts[q], mask=mc)


@triton.jit(do_not_specialize=["n_edges"])
def _frames_of_turn(
    y,
    rad,
    shift,
    grad,
    sender,
    receiver,
    out,
    n_edges,
    C: constexpr,
    P: constexpr,
    S: constexpr,
    SM: constexpr,
    R: constexpr,
    L: constexpr,
    M: constexpr,
    BC: constexpr,
):
    """Gradient of the frames of one edge by _turn, from some channels: out (blocks, edges, P)."""
    e = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = y.dtype.element_ty
    put = out + (tl.program_id(1).to(tl.int64) * n_edges + e) * P
    for l in tl.static_range(L + 1):
        ends = ()
        for side in tl.static_range(2):
            node = tl.load((receiver if side else sender) + e)
            for j in tl.static_range(2 * l + 1):
                at = y + (node * S + l * l + j) * C + c
                ends = ends + (tl.load(at, mask=mc, other=0.0),)
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    slopes = ()
                    for side in tl.static_range(2):
                        q = _factor(l, m, L) * 2 * C + side * C + c
                        factor = tl.load(rad + e * R * 2 * C + q, mask=mc, other=0.0).to(dtype)
                        factor += tl.load(shift + q, mask=mc, other=0.0).to(dtype)
                        at = (e * SM + _place(l, m, sign, L)) * 2 * C + side * C + c
                        given = tl.load(grad + at, mask=mc, other=0.0).to(dtype)
                        slopes = slopes + (given * factor,)
                    for j in tl.static_range(2 * l + 1):
                        value = slopes[0] * ends[j] + slopes[1] * ends[2 * l + 1 + j]
                        entry = _block(l, M) + _row(m, sign) * (2 * l + 1) + j
                        tl.store(put + entry, tl.sum(value, axis=0))


@triton.jit(do_not_specialize=["n_edges"])
def _frames_of_sum(
    z,
    bias,
    frames,
    scale,
    grad,
    receiver,
    out,
    n_edges,
    C: constexpr,
    P: constexpr,
    S: constexpr,
    SM: constexpr,
    L: constexpr,
    M: constexpr,
    FM: constexpr,
    BC: constexpr,
):
    """Gradients of frames and, last, scale of one edge by _turn_sum, from some channels: out
    (blocks, edges, P + 1)."""
    e = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = frames.dtype.element_ty
    node = tl.load(receiver + e)
    factor = tl.load(scale + e)
    dscale = factor * 0.0
    put = out + (tl.program_id(1).to(tl.int64) * n_edges + e) * (P + 1)
    for l in tl.static_range(L + 1):
        given = ()
        for j in tl.static_range(2 * l + 1):
            at = grad + (node * S + l * l + j) * C + c
            given = given + (tl.load(at, mask=mc, other=0.0).to(dtype),)
        for m in tl.static_range(FM + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    row = _block(l, FM) + _row(m, sign) * (2 * l + 1)
                    if m <= M:
                        at = z + (e * SM + _place(l, m, sign, L)) * C + c
                        value = tl.load(at, mask=mc, other=0.0).to(dtype)
                        if m == 0:
                            value += tl.load(bias + l * C + c, mask=mc, other=0.0).to(dtype)
                        for j in tl.static_range(2 * l + 1):
                            inner = tl.sum(value * given[j], axis=0)
                            dscale += inner * tl.load(frames + e * P + row + j)
                            tl.store(put + row + j, inner * factor)
                    else:
                        for j in tl.static_range(2 * l + 1):
                            tl.store(put + row + j, factor * 0.0)
    tl.store(put + P, dscale)


@triton.jit(do_not_specialize=["n_edges"])
def _gate_push(
    a,
    ta,
    bias,
    out,
    n_edges,
    C: constexpr,
    SM: constexpr,
    L: constexpr,
    M: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Tangent of _gate."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (e < n_edges)[:, None] & (c < C)[None, :]
    source = e[:, None] * (L + SM) * C + c[None, :]
    target = out + e[:, None] * SM * C + c[None, :]
    kind = out.dtype.element_ty
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(a + source + L * C, mask=mask, other=0.0).to(wide)
    x += tl.load(bias + L * C + c, mask=c < C, other=0.0).to(wide)[None, :]
    slope, _ = silu_curvature(x)
    tx = tl.load(ta + source + L * C, mask=mask, other=0.0).to(wide)
    tl.store(target, (tx * slope).to(kind), mask=mask)
    for l in tl.static_range(1, L + 1):
        x = tl.load(a + source + (l - 1) * C, mask=mask, other=0.0).to(wide)
        x += tl.load(bias + (l - 1) * C + c, mask=c < C, other=0.0).to(wide)[None, :]
        s = 1.0 / (1.0 + tl.exp(-x))
        ts = s * (1.0 - s) * tl.load(ta + source + (l - 1) * C, mask=mask, other=0.0).to(wide)
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    at = source + (L + _place(l, m, sign, L)) * C
                    x = tl.load(a + at, mask=mask, other=0.0).to(wide)
                    if m == 0:
                        x += tl.load(bias + (L + l) * C + c, mask=c < C, other=0.0).to(wide)[
                            None, :
                        ]
                    value = tl.load(ta + at, mask=mask, other=0.0).to(wide) * s + x * ts
                    tl.store(target + _place(l, m, sign, L) * C, value.to(kind), mask=mask)


@triton.jit(do_not_specialize=["n_edges", "blocks", "programs"])
def _gate_second(
    a,
    ta,
    bias,
    first,
    grad,
    pa,
    ga,
    dbias,
    n_edges,
    blocks,
    programs,
    C: constexpr,
    SM: constexpr,
    L: constexpr,
    M: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """pa: gradient of _gate by a for ``first``; ga: that of <grad, g> + <first, g'>, and dbias
    (programs, 2L + 1, C) its sums, as in _gate_grad. Writes g in the place of ``grad`` and its
    tangent in that of ``first``."""
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    kind = ga.dtype.element_ty
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    total = ()
    for _ in tl.static_range(2 * L + 1):
        total = total + (tl.zeros([BE, BC], wide),)
    for block in range(tl.program_id(0), blocks, programs):
        e = tl.cast(block, tl.int64) * BE + tl.arange(0, BE)
        mask = (e < n_edges)[:, None] & mc[None, :]
        source = e[:, None] * (L + SM) * C + c[None, :]
        given = e[:, None] * SM * C + c[None, :]
        x = tl.load(a + source + L * C, mask=mask, other=0.0).to(wide)
        x += tl.load(bias + L * C + c, mask=mc, other=0.0).to(wide)[None, :]
        tx = tl.load(ta + source + L * C, mask=mask, other=0.0).to(wide)
        p = tl.load(first + given, mask=mask, other=0.0).to(wide)
        g = tl.load(grad + given, mask=mask, other=0.0).to(wide)
        # what a thread overwrites, another one may have to read
        tl.debug_barrier()
        slope, curvature = silu_curvature(x)
        scalar = g * slope + p * tx * curvature
        tl.store(pa + source + L * C, (p * slope).to(kind), mask=mask)
        tl.store(ga + source + L * C, scalar.to(kind), mask=mask)
        tl.store(grad + given, (x / (1.0 + tl.exp(-x))).to(kind), mask=mask)
        tl.store(first + given, (tx * slope).to(kind), mask=mask)
        ends, gates = (scalar,), ()
        for l in tl.static_range(1, L + 1):
            x = tl.load(a + source + (l - 1) * C, mask=mask, other=0.0).to(wide)
            x += tl.load(bias + (l - 1) * C + c, mask=mc, other=0.0).to(wide)[None, :]
            t = tl.load(ta + source + (l - 1) * C, mask=mask, other=0.0).to(wide)
            s = 1.0 / (1.0 + tl.exp(-x))
            ds = s * (1.0 - s)
            by_s, by_ts = tl.zeros([BE, BC], wide), tl.zeros([BE, BC], wide)
            end = tl.zeros([BE, BC], wide)
            for m in tl.static_range(M + 1):
                for sign in tl.static_range(2):
                    if m <= l and (m > 0 or sign == 0):
                        at = source + (L + _place(l, m, sign, L)) * C
                        own = given + _place(l, m, sign, L) * C
                        x = tl.load(a + at, mask=mask, other=0.0).to(wide)
                        if m == 0:
                            moved = tl.load(bias + (L + l) * C + c, mask=mc, other=0.0)
                            x += moved.to(wide)[None, :]
                        tx = tl.load(ta + at, mask=mask, other=0.0).to(wide)
                        p = tl.load(first + own, mask=mask, other=0.0).to(wide)
                        g = tl.load(grad + own, mask=mask, other=0.0).to(wide)
                        tl.debug_barrier()
                        by_s += g * x + p * tx
                        by_ts += p * x
                        dx = g * s + p * ds * t
                        if m == 0:
                            end = dx
                        tl.store(pa + at, (p * s).to(kind), mask=mask)
                        tl.store(ga + at, dx.to(kind), mask=mask)
                        tl.store(grad + own, (x * s).to(kind), mask=mask)
                        tl.store(first + own, (tx * s + x * ds * t).to(kind), mask=mask)
            ends = ends + (end,)
            dgate = ds * (by_s + (1.0 - 2.0 * s) * t * by_ts)
            tl.store(pa + source + (l - 1) * C, (ds * by_ts).to(kind), mask=mask)
            tl.store(ga + source + (l - 1) * C, dgate.to(kind), mask=mask)
            gates = gates + (dgate,)
        total = added(total, gates, 0, L, 2 * L + 1)
        total = added(total, ends, L, L + 1, 2 * L + 1)
    for k in tl.static_range(2 * L + 1):
        at = dbias + (tl.program_id(0) * (2 * L + 1) + k) * C + c
        tl.store(at, tl.sum(total[k], axis=0), mask=mc)


def turn_push(
    shape: Shape,
    y: Tensor,
    ty: Tensor,
    edges: Edges,
    tframes: Tensor,
    rad: Tensor,
    trad: Tensor,
    shift: Tensor,
) -> Tensor:
    """Tangent (e, S_m 2C) of turn, from those of y, frames and rad."""
    e, c, size = len(rad), y.shape[2], tile(TILES, "turn", y.shape[2])
    out, blocks, graph = rad.new_empty(e, shape.sm * 2 * c), triton.cdiv(e, size["BE"]), edges.graph
    given = y, ty, edges.frames, tframes, rad, trad, shift, graph.sender, graph.receiver
    _turn_push[blocks, triton.cdiv(c, size["BC"]), 2](
        *given, out, out, e, blocks, blocks, c, **_constants(shape, "SRMF"), SIDES=2, **size
    )
    return out


def turn_sum_second(
    shape: Shape,
    first: Tensor,
    grad: Tensor,
    edges: Edges,
    tframes: Tensor,
    tscale: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Gradients of z and bias of <grad, x> + <first, x'>, x of turn_sum."""
    receiver, c = edges.graph.receiver, grad.shape[2]
    e, size = len(receiver), tile(TILES, "turn_one", c)
    out, blocks = grad.new_empty(e, shape.sm * c, dtype=dtype), triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    sums = grad.new_empty(programs, (shape.l + 1) * c)
    given = first, grad, edges.frames, tframes, edges.scale, tscale, tscale, receiver, receiver
    _turn_push[programs, triton.cdiv(c, size["BC"]), 1](
        *given, out, sums, e, blocks, programs, c, **_constants(shape, "SRMF"), SIDES=1, **size
    )
    return out, sums.sum(0)


def turn_second(
    shape: Shape,
    y: Tensor,
    ty: Tensor,
    edges: Edges,
    tframes: Tensor,
    rad: Tensor,
    trad: Tensor,
    shift: Tensor,
    first: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, rad and shift of <grad, z> + <first, z'>, z of turn."""
    (n, _, c), (ptr, order), drad = y.shape, edges.graph.segments, torch.empty_like(rad)
    dy, dshift = y.new_empty(2, *y.shape), y.new_empty(n, shape.r * 2 * c)
    size = _one_edge("turn_grad", c)
    given = y, ty, edges.frames, tframes, rad, trad, shift, first, grad, order, ptr
    _turn_second[n + FILL_PROGRAMS, triton.cdiv(c, size["BC"]), 2](
        *given, dy, drad, dshift, n, len(order), c, **_constants(shape, "SRM"), **size
    )
    return dy.sum(0), drad, dshift.sum(0)


def frames_of_turn(
    shape: Shape, y: Tensor, rad: Tensor, shift: Tensor, grad: Tensor, graph: GraphBatch
) -> Tensor:
    """Gradient (e, P) of the frames by turn."""
    e, c, size = len(rad), y.shape[2], _one_edge("turn_grad", y.shape[2])
    blocks = triton.cdiv(c, size["BC"])
    out, given = (
        y.new_empty(blocks, e, shape.p),
        (y, rad, shift, grad, graph.sender, graph.receiver),
    )
    _frames_of_turn[e, blocks](*given, out, e, c, **_constants(shape, "SRM"), **size)
    return out[0] if blocks == 1 else out.sum(0)


def frames_of_sum(
    shape: Shape, z: Tensor, edges: Edges, bias: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of frames (e, P) and scale (e,) by turn_sum."""
    e, c, size = len(z), grad.shape[2], _one_edge("turn_grad", grad.shape[2])
    blocks, frames = triton.cdiv(c, size["BC"]), edges.frames
    out = frames.new_empty(blocks, e, shape.p + 1)
    given = z, bias, frames, edges.scale, grad, edges.graph.receiver, out
    _frames_of_sum[e, blocks](*given, e, c, **_constants(shape, "SMF"), **size)
    both = out[0] if blocks == 1 else out.sum(0)
    return both[:, :-1].contiguous(), both[:, -1].contiguous()


def gate_push(shape: Shape, a: Tensor, ta: Tensor, bias: Tensor) -> Tensor:
    """Tangent of gate."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    out, size = a.new_empty(e, shape.sm * c), tile(TILES, "gate", c)
    programs = triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"])
    _gate_push[programs](a, ta, bias, out, e, c, SM=shape.sm, L=shape.l, M=shape.m, **size)
    return out


def gate_second(
    shape: Shape, a: Tensor, ta: Tensor, bias: Tensor, first: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by a of <first, g> and of <grad, g> + <first, g'>, g of gate, and the second by
    bias; ``grad`` becomes g and ``first`` its tangent."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    (pa, ga), size = (torch.empty_like(a), torch.empty_like(a)), tile(TILES, "gate_second", c)
    blocks = triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    given, dbias = (a, ta, bias, first, grad, pa, ga), bias.new_empty(programs, len(bias))
    constants = {"SM": shape.sm, "L": shape.l, "M": shape.m}
    _gate_second[programs, triton.cdiv(c, size["BC"])](
        *given, dbias, e, blocks, programs, c, **constants, **size
    )
    return pa, ga, dbias.sum(0)
