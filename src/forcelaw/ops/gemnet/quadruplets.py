"""Kernels of GemNet-OC's sums over quadruplets d -> b -> a <- c, by way of the short edges b ->
a and from the moments of the edges into each atom (sums.py).

Legend as in triplets.py; nothing gets a gradient by y or by rotations.

    short_sum    every short edge turns the moments at its sender into its frame, weighs them and
                 turns them back
    quad_read    out[ca, f] = sum_pj b[ca, f, pj] sum_m y[ca, pm] returned[a, pj, m]
                              - own[ca, f] message[ca]

``returned`` has P = sum (p + 1)(2p + 1) rows (p, j, m), numbered by :func:`_row`; the D elements of
the rotations of an edge are numbered by :func:`_element`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..register import Differentiable
from ..switch import constexpr, tl, triton
from ..tiles import FILL, FILL_PROGRAMS, at_least_float32, put_rows, rows, zeros
from .index import EdgeIndex
from .triplets import _clear, _degrees, _jit, _lanes, _squashed, _tile


@triton.constexpr_function
def _row(p, j=0, m=0):
    """Number of row (p, j, m) of ``returned``; of (S, 0, 0) it is P, how many there are."""
    return p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m


@triton.constexpr_function
def _element(l):
    """Number of the first element of the rotation of degree l; of S it is D, how many there are in
    all."""
    return l * (2 * l - 1) * (2 * l + 1) // 3


@triton.constexpr_function
def _entry(l, j, m):
    """Where (j, m) is among the elements of degree l."""
    return j * (2 * l + 1) + m


@_jit
def _short(
    moments,
    x,
    y,
    turns,
    b,
    table,
    near,
    sender,
    swap,
    ptr,
    message,
    out,
    n,
    n_edges,
    F: constexpr,
    S: constexpr,
    C: constexpr,
    BC: constexpr,
):
    """turns (e, D) rotations row by row, degree by degree; b (e, S, F) table (F, C) radial weights;
    out (n, P, C), message (e, C): the part of order 0."""
    pid = tl.program_id(0)
    if pid >= n:
        _clear(message, ptr, n, n_edges, C)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, _lanes(F))
        mc, mf = c < C, f < F
        dtype = out.dtype.element_ty
        kind = message.dtype.element_ty
        weights = tl.load(
            table + f[:, None] * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0
        )
        total = zeros(_row(S), BC, dtype)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            if tl.load(near + e) != 0:
                at = moments + tl.load(sender + e).to(tl.int64) * S * S * C + c
                reverse = tl.load(swap + e).to(tl.int64)
                back = tl.load(x + reverse * C + c, mask=mc, other=0.0).to(dtype)
                turned = zeros(2 * S - 1, BC, dtype)  # orders -(S-1) .. S-1
                for l in tl.static_range(S):
                    frame = turns + e * _element(S) + _element(l)
                    row = tl.load(b + (e * S + l) * F + f, mask=mf, other=0.0)
                    radial = tl.sum(row[:, None] * weights, axis=0)
                    parts = ()
                    for m in tl.static_range(2 * l + 1):
                        harmonic = tl.load(y + e * S * S + l * l + m)
                        if l % 2 == 1:  # of the reverse edge
                            harmonic = -harmonic
                        row = tl.load(at + (l * l + m) * C, mask=mc, other=0.0)
                        parts = parts + ((row - harmonic * back) * radial,)
                    new = ()
                    for j in tl.static_range(2 * S - 1):
                        value = turned[j]
                        if j >= S - 1 - l and j <= S - 1 + l:
                            for m in tl.static_range(2 * l + 1):
                                value += tl.load(frame + _entry(l, j - S + 1 + l, m)) * parts[m]
                        new = new + (value,)
                    turned = new
                tl.store(message + e * C + c, turned[S - 1].to(kind), mask=mc)
                sums = ()
                for p in tl.static_range(S):
                    frame = turns + e * _element(S) + _element(p)
                    for j in tl.static_range(p + 1):
                        for m in tl.static_range(2 * p + 1):
                            value = total[_row(p, j, m)]
                            value += tl.load(frame + _entry(p, p + j, m)) * turned[S - 1 + j]
                            if j > 0:
                                value += tl.load(frame + _entry(p, p - j, m)) * turned[S - 1 - j]
                            sums = sums + (value,)
                total = sums
            else:
                tl.store(message + e * C + c, tl.zeros([BC], dtype).to(kind), mask=mc)
        put_rows(out, i * _row(S), c, mc, total, _row(S), C)


@_jit
def _short_grad_turned(
    turns, near, ptr, grad_message, grad, dturned, S: constexpr, C: constexpr, BC: constexpr
):
    """dturned (e, 2S - 1, C): the gradient in the frame of each short edge. One receiver."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = grad.dtype.element_ty
    g = rows(grad, i * _row(S), c, mc, _row(S), C)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        if tl.load(near + e) != 0:
            for j in tl.static_range(S):
                for sign in tl.static_range(2):
                    if j > 0 or sign == 0:
                        value = tl.zeros([BC], dtype)
                        if j == 0:
                            value += tl.load(grad_message + e * C + c, mask=mc, other=0.0).to(dtype)
                        for p in tl.static_range(j, S):
                            row = turns + e * _element(S) + _element(p)
                            row += _entry(p, p + j - 2 * sign * j, 0)
                            for m in tl.static_range(2 * p + 1):
                                value += tl.load(row + m) * g[_row(p, j, m)]
                        order = e * (2 * S - 1) + S - 1 + j - 2 * sign * j
                        tl.store(dturned + order * C + c, value, mask=mc)


@_jit
def _short_grad(
    moments,
    x,
    y,
    turns,
    b,
    table,
    near,
    swap,
    ptr,
    dturned,
    dmoments,
    dx,
    db,
    dtable,
    n,
    n_edges,
    F: constexpr,
    S: constexpr,
    C: constexpr,
    BC: constexpr,
):
    """One sender: its edges out are the reverses e of its edges k in, whose x comes back. db
    (blocks, e, S, F), dtable (n, F, C) the part of each sender."""
    pid = tl.program_id(0)
    BF: constexpr = _lanes(F)
    f = tl.arange(0, BF)
    mf = f < F
    db += tl.program_id(1).to(tl.int64) * n_edges * S * F
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C)
        for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
            for l in tl.static_range(S):
                tl.store(db + (e * S + l) * F + f, tl.zeros([BF], db.dtype.element_ty), mask=mf)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        mc = c < C
        dtype = moments.dtype.element_ty
        tile = mf[:, None] & mc[None, :]
        weights = tl.load(table + f[:, None] * C + c[None, :], mask=tile, other=0.0)
        dweights = tl.zeros([BF, BC], dtype)
        at = moments + i * S * S * C + c
        total = zeros(S * S, BC, dtype)
        for k in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            e = tl.load(swap + k).to(tl.int64)
            if tl.load(near + e) != 0:
                back = tl.load(x + k * C + c, mask=mc, other=0.0).to(dtype)
                dback = tl.zeros([BC], dtype)
                g = rows(dturned, e * (2 * S - 1), c, mc, 2 * S - 1, C)
                new = ()
                for l in tl.static_range(S):
                    frame = turns + e * _element(S) + _element(l)
                    row = tl.load(b + (e * S + l) * F + f, mask=mf, other=0.0)
                    radial = tl.sum(row[:, None] * weights, axis=0)
                    dradial = tl.zeros([BC], dtype)
                    for m in tl.static_range(2 * l + 1):
                        d = tl.zeros([BC], dtype)
                        for j in tl.static_range(2 * l + 1):
                            d += tl.load(frame + j * (2 * l + 1) + m) * g[S - 1 - l + j]
                        harmonic = tl.load(y + e * S * S + l * l + m)
                        if l % 2 == 1:
                            harmonic = -harmonic
                        moment = tl.load(at + (l * l + m) * C, mask=mc, other=0.0)
                        dradial += d * (moment - harmonic * back)
                        dback -= harmonic * (d * radial)
                        new = new + (total[l * l + m] + d * radial,)
                    db_row = db + (e * S + l) * F + f
                    tl.store(db_row, tl.sum(weights * dradial[None, :], axis=1), mask=mf)
                    dweights += row[:, None] * dradial[None, :]
                total = new
                tl.store(dx + k * C + c, dback.to(dx.dtype.element_ty), mask=mc)
            else:
                tl.store(dx + k * C + c, tl.zeros([BC], dtype).to(dx.dtype.element_ty), mask=mc)
                for l in tl.static_range(S):
                    tl.store(db + (e * S + l) * F + f, tl.zeros([BF], dtype), mask=mf)
        put_rows(dmoments, i * S * S, c, mc, total, S * S, C)
        tl.store(dtable + (i * F + f[:, None]) * C + c[None, :], dweights, mask=tile)


@triton.jit
def _part(y, e, total, p: constexpr, j: constexpr, S: constexpr, BC: constexpr, dtype: constexpr):
    """sum_m y[e, pm] returned[a, pj, m], the rows of ``returned`` at a in ``total``."""
    part = tl.zeros([BC], dtype)
    for m in tl.static_range(2 * p + 1):
        part += tl.load(y + e * S * S + p * p + m) * total[_row(p, j, m)]
    return part


@_jit
def _read(
    b,
    own,
    y,
    returned,
    message,
    ptr,
    out,
    n,
    n_edges,
    F: constexpr,
    S: constexpr,
    C: constexpr,
    BC: constexpr,
):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F * C)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, _lanes(F))
        mc, mf = c < C, f < F
        dtype = returned.dtype.element_ty
        pairs: constexpr = S * (S + 1) // 2
        total = rows(returned, i * _row(S), c, mc, _row(S), C)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            first = tl.load(message + e * C + c, mask=mc, other=0.0).to(dtype)
            weight = tl.load(own + e * F + f, mask=mf, other=0.0).to(dtype)
            value = -weight[:, None] * first[None, :]
            for p in tl.static_range(S):
                for j in tl.static_range(p + 1):
                    part = _part(y, e, total, p, j, S, BC, dtype)
                    at = b + (e * F + f) * pairs + p * (p + 1) // 2 + j
                    value += tl.load(at, mask=mf, other=0.0).to(dtype)[:, None] * part[None, :]
            tl.store(
                out + (e * F + f[:, None]) * C + c[None, :],
                value.to(out.dtype.element_ty),
                mask=mf[:, None] & mc[None, :],
            )


@_jit
def _read_grad(
    own,
    y,
    returned,
    message,
    ptr,
    grad,
    db,
    down,
    dmessage,
    n,
    n_edges,
    F: constexpr,
    S: constexpr,
    C: constexpr,
    BC: constexpr,
):
    """Gradients that belong to an edge: db (blocks, e, F, pairs), down (blocks, e, F) of own,
    dmessage (e, C)."""
    pid = tl.program_id(0)
    pairs: constexpr = S * (S + 1) // 2
    block = tl.program_id(1).to(tl.int64) * n_edges * F
    db += block * pairs
    down += block
    BF: constexpr = _lanes(F)
    f = tl.arange(0, BF)
    mf = f < F
    if pid >= n:
        _clear(dmessage, ptr, n, n_edges, C)
        for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
            tl.store(down + e * F + f, tl.zeros([BF], down.dtype.element_ty), mask=mf)
            for k in tl.static_range(pairs):
                tl.store(db + (e * F + f) * pairs + k, tl.zeros([BF], db.dtype.element_ty), mask=mf)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        mc = c < C
        dtype = returned.dtype.element_ty
        total = rows(returned, i * _row(S), c, mc, _row(S), C)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            g = tl.load(
                grad + (e * F + f[:, None]) * C + c[None, :],
                mask=mf[:, None] & mc[None, :],
                other=0.0,
            ).to(dtype)
            first = tl.load(message + e * C + c, mask=mc, other=0.0).to(dtype)
            weight = tl.load(own + e * F + f, mask=mf, other=0.0).to(dtype)
            tl.store(down + e * F + f, -tl.sum(g * first[None, :], axis=1), mask=mf)
            at = dmessage + e * C + c
            dfirst = -tl.sum(weight[:, None] * g, axis=0)
            tl.store(at, dfirst.to(dmessage.dtype.element_ty), mask=mc)
            for p in tl.static_range(S):
                for j in tl.static_range(p + 1):
                    part = _part(y, e, total, p, j, S, BC, dtype)
                    at = db + (e * F + f) * pairs + p * (p + 1) // 2 + j
                    tl.store(at, tl.sum(g * part[None, :], axis=1), mask=mf)


@_jit
def _read_grad_atoms(
    b, y, ptr, grad, dreturned, F: constexpr, S: constexpr, C: constexpr, BC: constexpr
):
    """The gradient of returned; apart from the others, since together they want more registers than
    there are."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    f = tl.arange(0, _lanes(F))
    mc, mf = c < C, f < F
    dtype = dreturned.dtype.element_ty
    pairs: constexpr = S * (S + 1) // 2
    total = zeros(_row(S), BC, dtype)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        g = tl.load(
            grad + (e * F + f[:, None]) * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0
        ).to(dtype)
        new = ()
        for p in tl.static_range(S):
            for j in tl.static_range(p + 1):
                at = b + (e * F + f) * pairs + p * (p + 1) // 2 + j
                weight = tl.load(at, mask=mf, other=0.0).to(dtype)
                part = tl.sum(weight[:, None] * g, axis=0)
                for m in tl.static_range(2 * p + 1):
                    harmonic = tl.load(y + e * S * S + p * p + m)
                    new = new + (total[_row(p, j, m)] + harmonic * part,)
        total = new
    put_rows(dreturned, i * _row(S), c, mc, total, _row(S), C)


# ---- short_sum


def short_sum(
    moments: Tensor,
    x: Tensor,
    y: Tensor,
    turns: Tensor,
    b: Tensor,
    weight: Tensor,
    near: Tensor,
    index: EdgeIndex,
) -> tuple[Tensor, Tensor]:
    """d -> b -> a, summed over d and short edges b -> a: message (e, q), the part of order 0, and
    its sum at a, (n, P, q). Both at least in float32, since parts of them cancel where they are
    read.

    moments (n, S^2, q) of the edges into each atom, x (e, q), turns (e, sum (2l+1)^2) from
    ``rotations``, b (e, S, f) and weight (q, f): radial weights b @ weight^T of every degree; near
    (e,) int32, 1 for short edges.
    """
    given = at_least_float32(moments), x.contiguous(), at_least_float32(y), turns.contiguous()
    tables = at_least_float32(b), at_least_float32(weight.t())
    return _ShortSum.apply(*given, *tables, near, index)


class _ShortSum(Differentiable):
    def forward(ctx, moments, x, y, turns, b, table, near, index):
        (n, _, c), (e, s, f) = moments.shape, b.shape
        message, out = moments.new_empty(e, c), moments.new_empty(n, _row(s), c)
        blocks, size = _tile("short", c)
        given = moments, x, y, turns, b, table, near, index.sender, index.swap, index.ptr
        _short[n + FILL_PROGRAMS, blocks](*given, message, out, n, e, f, s, c, **size)
        ctx.save_for_backward(moments, x, y, turns, b, table, near)
        ctx.index = index
        return message, out

    def backward(ctx, grad_message, grad):
        (moments, x, y, turns, b, table, near), index = ctx.saved_tensors, ctx.index
        (n, _, c), (e, s, f) = moments.shape, b.shape
        dturned, (blocks, size) = moments.new_empty(e, 2 * s - 1, c), _tile("short", c)
        dmoments, dx = torch.empty_like(moments), torch.empty_like(x)
        db, dtable = b.new_empty(blocks, e, s, f), b.new_empty(n, f, c)
        grads = grad_message.contiguous(), grad.contiguous()
        _short_grad_turned[n, blocks](turns, near, index.ptr, *grads, dturned, s, c, **size)
        given = moments, x, y, turns, b, table, near, index.swap, index.ptr, dturned
        made = dmoments, dx, db, dtable
        _short_grad[n + FILL_PROGRAMS, blocks](*given, *made, n, e, f, s, c, **size)
        return dmoments, dx, None, None, _squashed(db), dtable.sum(0), None, None


# ---- quad_read


def quad_read(
    b: Tensor,
    own: Tensor,
    y: Tensor,
    returned: Tensor,
    message: Tensor,
    ptr: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """sum_pj b[e, f, pj] sum_m y[e, pm] returned[a, (p, j, m)] - own[e, f] message[e]: (e, f, q) of
    ``dtype``.

    b (e, f, S (S + 1) / 2), own (e, f), y (e, S^2); returned (n, P, q), message (e, q) from
    :func:`short_sum`.
    """
    sums = at_least_float32(returned), at_least_float32(message)
    return _QuadRead.apply(b.contiguous(), own.contiguous(), at_least_float32(y), *sums, ptr, dtype)


class _QuadRead(Differentiable):
    def forward(ctx, b, own, y, returned, message, ptr, dtype):
        (n, _, c), (e, f, _), s = returned.shape, b.shape, _degrees(y)
        out, (blocks, size) = message.new_empty(e, f, c, dtype=dtype), _tile("read", c)
        given = b, own, y, returned, message, ptr
        _read[n + FILL_PROGRAMS, blocks](*given, out, n, e, f, s, c, **size)
        ctx.save_for_backward(b, own, y, returned, message, ptr)
        return out

    def backward(ctx, grad):
        b, own, y, returned, message, ptr = ctx.saved_tensors
        (n, _, c), (e, f, pairs), s = returned.shape, b.shape, _degrees(y)
        blocks, size = _tile("read", c)
        db, down = y.new_empty(blocks, e, f, pairs), y.new_empty(blocks, e, f)
        dreturned, dmessage = torch.empty_like(returned), torch.empty_like(message)
        grad, made = grad.contiguous(), (db, down, dmessage)
        given = own, y, returned, message, ptr, grad
        _read_grad[n + FILL_PROGRAMS, blocks](*given, *made, n, e, f, s, c, **size)
        _read_grad_atoms[n, blocks](b, y, ptr, grad, dreturned, f, s, c, **size)
        db, down = _squashed(db).to(b.dtype), _squashed(down).to(own.dtype)
        return db, down, None, dreturned, dmessage, None, None
