"""Kernels of eSEN's turns between the frames of nodes and of edges, and of its gates. The legend is
that of so2_message.py: D's blocks are packed as frames (e, P).

Each function here has its plain form in :func:`forcelaw.ops.so2_message`, and its gradient beside
it; what gradient forces need besides is in so2_forces.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import GraphBatch
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
def _turn(
    y,
    frames,
    rad,
    shift,
    scale,
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
    """Every ``programs``-th block of edges, some channels and one side.

    SIDES = 1: the receiver alone, with scale (e,) in place of rad; what the program wrote for m =
    0, summed over its edges, goes to sums (programs, L + 1, C). All loads come before the first
    store, which no later load may overtake.
    """
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    side = tl.program_id(2)
    mc = c < C
    dtype = y.dtype.element_ty
    shifts = ()
    if SIDES == 2:
        for number in tl.static_range(R):
            moved = tl.load(shift + number * 2 * C + side * C + c, mask=mc, other=0.0)
            shifts = shifts + (moved.to(dtype)[None, :],)
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
        source = y + node[:, None] * S * C + c[None, :]
        entries = frames + e * P
        target = out + e[:, None] * SM * SIDES * C + side * C + c[None, :]
        rows = ()
        for s in tl.static_range(S):
            rows = rows + (tl.load(source + s * C, mask=mask, other=0.0),)
        factors = ()
        if SIDES == 2:
            for q in tl.static_range(R):
                column = rad + e[:, None] * R * 2 * C + q * 2 * C + side * C + c[None, :]
                factor = tl.load(column, mask=mask, other=0.0).to(dtype)
                factors = factors + (factor + shifts[q],)
        else:
            factors = factors + (tl.load(scale + e, mask=me, other=0.0)[:, None],)
        turned = ()  # in the order of _place
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m > 0 or sign == 0:
                    for l in tl.static_range(m, L + 1):
                        acc = tl.zeros([BE, BC], dtype)
                        for j in tl.static_range(2 * l + 1):
                            row = _block(l, FM) + _row(m, sign) * (2 * l + 1)
                            entry = tl.load(entries + row + j, mask=me, other=0.0)
                            acc += entry[:, None] * rows[l * l + j]
                        turned = turned + (acc * factors[_factor(l, m, L) if SIDES == 2 else 0],)
        if SIDES == 1:
            total = added(total, turned, 0, L + 1, L + 1)
        for p in tl.static_range(SM):
            tl.store(target + p * SIDES * C, turned[p].to(out.dtype.element_ty), mask=mask)
    if SIDES == 1:
        for l in tl.static_range(L + 1):
            at = sums + (tl.program_id(0) * (L + 1) + l) * C + c
            tl.store(at, tl.sum(total[l], axis=0), mask=mc)


@triton.jit
def _turn_sum(
    z,
    bias,
    frames,
    scale,
    ptr,
    out,
    C: constexpr,
    P: constexpr,
    S: constexpr,
    SM: constexpr,
    L: constexpr,
    M: constexpr,
    FM: constexpr,
    BC: constexpr,
):
    """One atom and block of channels; bias (L + 1, C) is added to z for m = 0."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = out.dtype.element_ty
    low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
    shifts = ()
    for l in tl.static_range(L + 1):
        shifts = shifts + (tl.load(bias + l * C + c, mask=mc, other=0.0).to(dtype),)
    total = zeros(S, BC, dtype)
    for e in range(low, high):
        factor = tl.load(scale + e)
        new = ()
        for l in tl.static_range(L + 1):
            rows = ()
            for m in tl.static_range(M + 1):
                for sign in tl.static_range(2):
                    if m <= l and (m > 0 or sign == 0):
                        at = z + (e * SM + _place(l, m, sign, L)) * C + c
                        value = tl.load(at, mask=mc, other=0.0).to(dtype)
                        if m == 0:
                            value += shifts[l]
                        rows = rows + (value * factor,)
            for j in tl.static_range(2 * l + 1):
                value = total[l * l + j]
                for row in tl.static_range(2 * M + 1):
                    if row < 2 * l + 1:
                        entry = frames + e * P + _block(l, FM) + row * (2 * l + 1) + j
                        value += tl.load(entry) * rows[row]
                new = new + (value,)
        total = new
    for j in tl.static_range(S):
        tl.store(out + (i * S + j) * C + c, total[j], mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _turn_grad(
    y,
    frames,
    rad,
    shift,
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
    """Gradients of _turn for one atom, block of channels and side: its edges out (side 0, through
    ``order``) or in (1).

    dshift (n, R 2C) is drad summed over these edges. Within an edge all loads come first, and the
    number of the next edge is fetched ahead: a warp that waits for one load after the other spends
    most of its time so.
    """
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
        rows = ()
        for j in tl.static_range(S):
            rows = rows + (tl.load(y + (i * S + j) * C + c, mask=mc, other=0.0),)
        shifts = ()
        for q in tl.static_range(R):
            moved = tl.load(shift + q * 2 * C + side * C + c, mask=mc, other=0.0)
            shifts = shifts + (moved.to(dtype),)
        total, dshifts = zeros(S, BC, dtype), zeros(R, BC, dtype)
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        ahead = low
        if side == 0:
            ahead = tl.load(order + low, mask=low < high, other=0).to(tl.int64)
        for k in range(low, high):
            e = ahead
            if side == 0:
                ahead = tl.load(order + k + 1, mask=k + 1 < high, other=0).to(tl.int64)
            else:
                ahead = e + 1
            factors = ()
            for q in tl.static_range(R):
                factor = tl.load(rad + (e * R + q) * 2 * C + side * C + c, mask=mc, other=0.0)
                factors = factors + (factor.to(dtype) + shifts[q],)
            given = ()
            for p in tl.static_range(SM):
                value = tl.load(grad + (e * SM + p) * 2 * C + side * C + c, mask=mc, other=0.0)
                given = given + (value.to(dtype),)
            dfactors = ()
            for m in tl.static_range(M + 1):
                for l in tl.static_range(m, L + 1):
                    dfactor = tl.zeros([BC], dtype)
                    for sign in tl.static_range(2):
                        if m > 0 or sign == 0:
                            slope = given[_place(l, m, sign, L)] * factors[_factor(l, m, L)]
                            turned = tl.zeros([BC], dtype)
                            part = ()
                            for j in tl.static_range(2 * l + 1):
                                row = _block(l, M) + _row(m, sign) * (2 * l + 1)
                                w = tl.load(frames + e * P + row + j)
                                turned += w * rows[l * l + j]
                                part = part + (w * slope,)
                            dfactor += given[_place(l, m, sign, L)] * turned
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
def _gate(
    a,
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
    """a (e, (L + S_m) C): gates, then coefficients, both without bias (2L + 1, C) of gates and m =
    0 -> out (e, S_m C)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (e < n_edges)[:, None] & (c < C)[None, :]
    source = a + e[:, None] * (L + SM) * C + c[None, :]
    target = out + e[:, None] * SM * C + c[None, :]
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    values = ()
    for k in tl.static_range(L + SM):
        value = tl.load(source + k * C, mask=mask, other=0.0).to(wide)
        if k < 2 * L + 1:
            value += tl.load(bias + k * C + c, mask=c < C, other=0.0).to(wide)[None, :]
        values = values + (value,)
    x = values[L]
    tl.store(target, (x / (1.0 + tl.exp(-x))).to(out.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        s = 1.0 / (1.0 + tl.exp(-values[l - 1]))
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    gated = (values[L + _place(l, m, sign, L)] * s).to(out.dtype.element_ty)
                    tl.store(target + _place(l, m, sign, L) * C, gated, mask=mask)


@triton.jit(do_not_specialize=["n_edges", "blocks", "programs"])
def _gate_grad(
    a,
    bias,
    grad,
    da,
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
    """Gradient of _gate, every ``programs``-th block of edges; dbias (programs, 2L + 1, C) is its
    sums of da for gates and m = 0.

    Writes what _gate had written in the place of ``grad``. Loads come before stores, as in _turn.
    """
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    kind = da.dtype.element_ty
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    shifts = ()
    total = ()
    for k in tl.static_range(2 * L + 1):
        shifts = shifts + (tl.load(bias + k * C + c, mask=mc, other=0.0).to(wide)[None, :],)
        total = total + (tl.zeros([BE, BC], wide),)
    for at in range(tl.program_id(0), blocks, programs):
        e = tl.cast(at, tl.int64) * BE + tl.arange(0, BE)
        mask = (e < n_edges)[:, None] & mc[None, :]
        source = a + e[:, None] * (L + SM) * C + c[None, :]
        target = da + e[:, None] * (L + SM) * C + c[None, :]
        given = grad + e[:, None] * SM * C + c[None, :]
        values = ()
        for k in tl.static_range(L + SM):
            value = tl.load(source + k * C, mask=mask, other=0.0).to(wide)
            if k < 2 * L + 1:
                value += shifts[k]
            values = values + (value,)
        slopes = ()
        for p in tl.static_range(SM):
            slopes = slopes + (tl.load(given + p * C, mask=mask, other=0.0).to(wide),)
        # what a thread overwrites, another one may have to read: which thread has which number is
        # Triton's choice
        tl.debug_barrier()
        x = values[L]
        s = 1.0 / (1.0 + tl.exp(-x))
        scalar = slopes[0] * s * (1.0 + x * (1.0 - s))
        tl.store(target + L * C, scalar.to(kind), mask=mask)
        tl.store(given, (x * s).to(kind), mask=mask)
        ends = (scalar,)  # da for m = 0
        gates = ()  # da of the gates
        for l in tl.static_range(1, L + 1):
            s = 1.0 / (1.0 + tl.exp(-values[l - 1]))
            ds = tl.zeros([BE, BC], wide)
            for m in tl.static_range(M + 1):
                for sign in tl.static_range(2):
                    if m <= l and (m > 0 or sign == 0):
                        x = values[L + _place(l, m, sign, L)]
                        slope = slopes[_place(l, m, sign, L)]
                        ds += slope * x
                        at = target + (L + _place(l, m, sign, L)) * C
                        tl.store(at, (slope * s).to(kind), mask=mask)
                        tl.store(given + _place(l, m, sign, L) * C, (x * s).to(kind), mask=mask)
            ends = ends + (slopes[l] * s,)
            ds = ds * s * (1.0 - s)
            tl.store(target + (l - 1) * C, ds.to(kind), mask=mask)
            gates = gates + (ds,)
        total = added(total, gates, 0, L, 2 * L + 1)
        total = added(total, ends, L, L + 1, 2 * L + 1)
    for k in tl.static_range(2 * L + 1):
        at = dbias + (tl.program_id(0) * (2 * L + 1) + k) * C + c
        tl.store(at, tl.sum(total[k], axis=0), mask=mc)


def turn(
    shape: Shape, y: Tensor, frames: Tensor, rad: Tensor, shift: Tensor, graph: GraphBatch
) -> Tensor:
    """y (n, S, C), frames (e, P), rad (e, R 2C) and shift (R 2C,) to be added to it -> z (e, S_m
    2C) in the dtype of rad."""
    e, c, size = len(graph.sender), y.shape[2], tile(TILES, "turn", y.shape[2])
    out, blocks = rad.new_empty(e, shape.sm * 2 * c), triton.cdiv(e, size["BE"])
    given = y, frames, rad, shift, frames, graph.sender, graph.receiver
    _turn[blocks, triton.cdiv(c, size["BC"]), 2](
        *given, out, out, e, blocks, blocks, c, **_constants(shape, "SRMF"), SIDES=2, **size
    )
    return out


def turn_grad(
    shape: Shape,
    y: Tensor,
    frames: Tensor,
    rad: Tensor,
    shift: Tensor,
    grad: Tensor,
    graph: GraphBatch,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`turn` for y, rad and shift."""
    (n, _, c), (ptr, order), drad = y.shape, graph.segments, torch.empty_like(rad)
    dy, dshift = y.new_empty(2, *y.shape), y.new_empty(n, shape.r * 2 * c)
    size = _one_edge("turn_grad", c)
    given = y, frames, rad, shift, grad, order, ptr, dy, drad, dshift
    _turn_grad[n + FILL_PROGRAMS, triton.cdiv(c, size["BC"]), 2](
        *given, n, len(order), c, **_constants(shape, "SRM"), **size
    )
    return dy.sum(0), drad, dshift.sum(0)


def turn_sum(shape: Shape, z: Tensor, edges: Edges, bias: Tensor) -> Tensor:
    """z (e, S_m C), bias ((lmax + 1) C,) of m = 0 -> x (n, S, C) in the dtype of frames."""
    (ptr, _), c, frames = edges.graph.segments, z.shape[1] // shape.sm, edges.frames
    n, size = len(ptr) - 1, _one_edge("turn_sum", c)
    out = frames.new_empty(n, shape.s, c)
    _turn_sum[n, triton.cdiv(c, size["BC"])](
        z, bias, frames, edges.scale, ptr, out, c, **_constants(shape, "SMF"), **size
    )
    return out


def turn_sum_grad(
    shape: Shape, grad: Tensor, edges: Edges, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`turn_sum` for z (gather, turn, scale) and bias."""
    receiver, frames = edges.graph.receiver, edges.frames
    e, c, size = len(receiver), grad.shape[2], tile(TILES, "turn_one", grad.shape[2])
    out, blocks = grad.new_empty(e, shape.sm * c, dtype=dtype), triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    sums = grad.new_empty(programs, (shape.l + 1) * c)
    given = grad, frames, frames, frames, edges.scale, receiver, receiver, out, sums
    _turn[programs, triton.cdiv(c, size["BC"]), 1](
        *given, e, blocks, programs, c, **_constants(shape, "SRMF"), SIDES=1, **size
    )
    return out, sums.sum(0)


def gate(shape: Shape, a: Tensor, bias: Tensor) -> Tensor:
    """a (e, (lmax + S_m) C): lmax gates, then coefficients; bias ((2 lmax + 1) C,) of gates and m =
    0 -> (e, S_m C)."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    out, size = a.new_empty(e, shape.sm * c), tile(TILES, "gate", c)
    programs = triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"])
    _gate[programs](a, bias, out, e, c, SM=shape.sm, L=shape.l, M=shape.m, **size)
    return out


def gate_grad(shape: Shape, a: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`gate` for a and bias; ``grad`` becomes what gate gives."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    da, size = torch.empty_like(a), tile(TILES, "gate_grad", c)
    blocks = triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    given, dbias = (a, bias, grad, da), bias.new_empty(programs, len(bias))
    constants = {"SM": shape.sm, "L": shape.l, "M": shape.m}
    _gate_grad[programs, triton.cdiv(c, size["BC"])](
        *given, dbias, e, blocks, programs, c, **constants, **size
    )
    return da, dbias.sum(0)
