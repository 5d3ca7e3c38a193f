"""The sums of GemNet-OC over triplets and quadruplets, which factorise into moments of the edges into each atom.

Legend: n atoms, e edges c -> a in canonical order (EdgeIndex), ptr (n + 1,) the edges into each atom; y (e, S^2) harmonics of
mean square 1; f radial weights a degree; channels t or q. Nothing gets a gradient by y or by rotations: gradients by
positions take the plain path.

    outer_sum    out[a, k] = sum_c w[ca, k] x[ca]                                         moments, messages to atoms
    triplets     out[ca, f] = sum_l b[ca, f, l] sum_{b != c} P_l(cos cab) x[ba]           b counts (2l+1) P_l
    cosines      the same where x depends on f and l, and b is 1
    turns        rotations into the frames of edges
    short_sum    every short edge turns the moments at its sender into its frame, weighs and turns back
    quad_read    out[ca, f] = sum_pj b[ca, f, pj] sum_m y[ca, pm] returned[a, pj, m] - own[ca, f] message[ca]

One program per atom and block of channels, a channel a lane, harmonics unrolled: the moments of an atom stay in registers from
the loop over its edges that collects them to the one that reads them. Sums over channels that end on an edge give a row for
each block of channels. Edges of no atom (padding) get zeros, in outputs and in gradients.

Row (p, j, m) of the P = sum (p + 1)(2p + 1) rows of ``returned`` is number p (p + 1)(4p - 1) / 6 + j (2p + 1) + m. Rotations of
degree l come after l (2l - 1)(2l + 1) / 3 elements of lower degrees.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated import FILL, at_least_float32

# without vectors in wide loads and stores a lane has one channel; four would be four times the registers of the sums of an atom
_jit = triton.jit(do_not_specialize_on_alignment=["out", "grad", "table", "dtable"])

TILES = {"outer": (32, 1), "triplets": (32, 1), "cosines": (16, 1), "short": (32, 1), "read": (32, 1)}  # channels, warps


@triton.jit
def _clear(out, ptr, n, n_edges, COLUMNS: tl.constexpr, FILL: tl.constexpr):
    """Zero the rows of padding edges in out (e, COLUMNS)."""
    share = (tl.program_id(0) - n) * tl.num_programs(1) + tl.program_id(1)
    for e in range(tl.load(ptr + n).to(tl.int64) + share, n_edges, FILL * tl.num_programs(1)):
        for k in tl.static_range(0, COLUMNS, 128):
            column = k + tl.arange(0, 128)
            tl.store(out + e * COLUMNS + column, tl.zeros([128], tl.float32).to(out.dtype.element_ty), mask=column < COLUMNS)


@_jit
def _outer(w, x, ptr, out, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, BK)
    dtype = out.dtype.element_ty
    total = tl.zeros([BK, BC], dtype)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        weight = tl.load(w + e * K + k, mask=k < K, other=0.0).to(dtype)
        total += weight[:, None] * tl.load(x + e * C + c, mask=c < C, other=0.0).to(dtype)[None, :]
    tl.store(out + (i * K + k[:, None]) * C + c[None, :], total, mask=(k < K)[:, None] & (c < C)[None, :])


@_jit
def _outer_grad(w, x, ptr, grad, dw, dx, n, n_edges, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr,
                WEIGHTS: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    dw += tl.program_id(1).to(tl.int64) * n_edges * K
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C, FILL)
        if WEIGHTS:
            for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
                tl.store(dw + e * K + tl.arange(0, BK), tl.zeros([BK], dw.dtype.element_ty), mask=tl.arange(0, BK) < K)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        k = tl.arange(0, BK)
        dtype = grad.dtype.element_ty
        g = tl.load(grad + (i * K + k[:, None]) * C + c[None, :], mask=(k < K)[:, None] & (c < C)[None, :], other=0.0)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            weight = tl.load(w + e * K + k, mask=k < K, other=0.0).to(dtype)
            tl.store(dx + e * C + c, tl.sum(weight[:, None] * g, axis=0).to(dx.dtype.element_ty), mask=c < C)
            if WEIGHTS:
                row = tl.load(x + e * C + c, mask=c < C, other=0.0).to(dtype)
                tl.store(dw + e * K + k, tl.sum(g * row[None, :], axis=1), mask=k < K)


@triton.jit
def _moments(x, y, low, high, c, mc, C: tl.constexpr, S: tl.constexpr, BC: tl.constexpr):
    """sum over edges low .. high of y[e, s] x[e, c]: a tuple of S^2 vectors of BC channels."""
    dtype = y.dtype.element_ty
    total = ()
    for _ in tl.static_range(S * S):
        total = total + (tl.zeros([BC], dtype),)
    for e in range(low, high):
        row = tl.load(x + e * C + c, mask=mc, other=0.0).to(dtype)
        new = ()
        for s in tl.static_range(S * S):
            new = new + (total[s] + tl.load(y + e * S * S + s) * row,)
        total = new
    return total


@_jit
def _triplets(b, y, x, ptr, out, n, n_edges, F: tl.constexpr, S: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
              BC: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F * C, FILL)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, BF)
        mc, mf = c < C, f < F
        dtype = y.dtype.element_ty
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        total = _moments(x, y, low, high, c, mc, C, S, BC)
        for e in range(low, high):
            own = tl.load(x + e * C + c, mask=mc, other=0.0).to(dtype)
            value = tl.zeros([BF, BC], dtype)
            for l in tl.static_range(S):
                part = -(2 * l + 1) * own  # the edge itself: the sum of its squared harmonics
                for m in tl.static_range(2 * l + 1):
                    part += tl.load(y + e * S * S + l * l + m) * total[l * l + m]
                weight = tl.load(b + (e * F + f) * S + l, mask=mf, other=0.0).to(dtype)
                value += weight[:, None] * part[None, :]
            tl.store(out + (e * F + f[:, None]) * C + c[None, :], value.to(out.dtype.element_ty), mask=mf[:, None] & mc[None, :])


@_jit
def _triplets_grad(b, y, x, ptr, grad, db, dx, n, n_edges, F: tl.constexpr, S: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
                   BC: tl.constexpr, FILL: tl.constexpr):
    """db (blocks, e, F, S) and dx (e, C), both of the dtype of y."""
    pid = tl.program_id(0)
    db += tl.program_id(1).to(tl.int64) * n_edges * F * S
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C, FILL)
        for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
            for l in tl.static_range(S):
                f = tl.arange(0, BF)
                tl.store(db + (e * F + f) * S + l, tl.zeros([BF], db.dtype.element_ty), mask=f < F)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, BF)
        mc, mf = c < C, f < F
        dtype = y.dtype.element_ty
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        total = _moments(x, y, low, high, c, mc, C, S, BC)
        dtotal = ()
        for _ in tl.static_range(S * S):
            dtotal = dtotal + (tl.zeros([BC], dtype),)
        for e in range(low, high):
            own = tl.load(x + e * C + c, mask=mc, other=0.0).to(dtype)
            g = tl.load(grad + (e * F + f[:, None]) * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0).to(dtype)
            down = tl.zeros([BC], dtype)
            new = ()
            for l in tl.static_range(S):
                weight = tl.load(b + (e * F + f) * S + l, mask=mf, other=0.0).to(dtype)
                dpart = tl.sum(weight[:, None] * g, axis=0)
                down -= (2 * l + 1) * dpart
                part = -(2 * l + 1) * own
                for m in tl.static_range(2 * l + 1):
                    harmonic = tl.load(y + e * S * S + l * l + m)
                    part += harmonic * total[l * l + m]
                    new = new + (dtotal[l * l + m] + harmonic * dpart,)
                tl.store(db + (e * F + f) * S + l, tl.sum(g * part[None, :], axis=1), mask=mf)
            dtotal = new
            tl.store(dx + e * C + c, down, mask=mc)
        tl.debug_barrier()  # dx is read back, perhaps by other lanes
        for e in range(low, high):
            down = tl.load(dx + e * C + c, mask=mc, other=0.0)
            for s in tl.static_range(S * S):
                down += tl.load(y + e * S * S + s) * dtotal[s]
            tl.store(dx + e * C + c, down, mask=mc)


@_jit
def _cosines(b, y, ptr, out, n, n_edges, F: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F, FILL)
    else:
        i = pid.to(tl.int64)
        f = tl.program_id(1) * BC + tl.arange(0, BC)
        mf = f < F
        dtype = y.dtype.element_ty
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        total = ()
        for _ in tl.static_range(S * S):
            total = total + (tl.zeros([BC], dtype),)
        for e in range(low, high):
            new = ()
            for l in tl.static_range(S):
                row = tl.load(b + (e * F + f) * S + l, mask=mf, other=0.0).to(dtype)
                for m in tl.static_range(2 * l + 1):
                    new = new + (total[l * l + m] + tl.load(y + e * S * S + l * l + m) * row,)
            total = new
        for e in range(low, high):
            value = tl.zeros([BC], dtype)
            for l in tl.static_range(S):
                value -= (2 * l + 1) * tl.load(b + (e * F + f) * S + l, mask=mf, other=0.0).to(dtype)
                for m in tl.static_range(2 * l + 1):
                    value += tl.load(y + e * S * S + l * l + m) * total[l * l + m]
            tl.store(out + e * F + f, value.to(out.dtype.element_ty), mask=mf)


@_jit
def _cosines_grad(y, ptr, grad, db, n, n_edges, F: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(db, ptr, n, n_edges, F * S, FILL)
    else:
        i = pid.to(tl.int64)
        f = tl.program_id(1) * BC + tl.arange(0, BC)
        mf = f < F
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        total = _moments(grad, y, low, high, f, mf, F, S, BC)
        for e in range(low, high):
            g = tl.load(grad + e * F + f, mask=mf, other=0.0).to(y.dtype.element_ty)
            for l in tl.static_range(S):
                value = -(2 * l + 1) * g
                for m in tl.static_range(2 * l + 1):
                    value += tl.load(y + e * S * S + l * l + m) * total[l * l + m]
                tl.store(db + (e * F + f) * S + l, value.to(db.dtype.element_ty), mask=mf)


@_jit
def _short(moments, x, y, turns, b, table, near, sender, swap, ptr, message, out, n, n_edges, F: tl.constexpr, S: tl.constexpr,
           D: tl.constexpr, P: tl.constexpr, C: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    """turns (e, D) rotations row by row, degree by degree; b (e, S, F) table (F, C) radial weights; out (n, P, C), message
    (e, C): the part of order 0."""
    pid = tl.program_id(0)
    if pid >= n:
        _clear(message, ptr, n, n_edges, C, FILL)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, BF)
        mc, mf = c < C, f < F
        dtype = out.dtype.element_ty
        kind = message.dtype.element_ty
        weights = tl.load(table + f[:, None] * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0)
        total = ()
        for _ in tl.static_range(P):
            total = total + (tl.zeros([BC], dtype),)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            if tl.load(near + e) != 0:
                at = moments + tl.load(sender + e).to(tl.int64) * S * S * C + c
                back = tl.load(x + tl.load(swap + e).to(tl.int64) * C + c, mask=mc, other=0.0).to(dtype)
                turned = ()  # orders -(S-1) .. S-1
                for _ in tl.static_range(2 * S - 1):
                    turned = turned + (tl.zeros([BC], dtype),)
                for l in tl.static_range(S):
                    frame = turns + e * D + l * (2 * l - 1) * (2 * l + 1) // 3
                    radial = tl.sum(tl.load(b + (e * S + l) * F + f, mask=mf, other=0.0)[:, None] * weights, axis=0)
                    rows = ()
                    for m in tl.static_range(2 * l + 1):
                        harmonic = tl.load(y + e * S * S + l * l + m)
                        if l % 2 == 1:  # of the reverse edge
                            harmonic = -harmonic
                        row = tl.load(at + (l * l + m) * C, mask=mc, other=0.0)
                        rows = rows + ((row - harmonic * back) * radial,)
                    new = ()
                    for j in tl.static_range(2 * S - 1):
                        value = turned[j]
                        if j >= S - 1 - l and j <= S - 1 + l:
                            for m in tl.static_range(2 * l + 1):
                                value += tl.load(frame + (j - S + 1 + l) * (2 * l + 1) + m) * rows[m]
                        new = new + (value,)
                    turned = new
                tl.store(message + e * C + c, turned[S - 1].to(kind), mask=mc)
                sums = ()
                for p in tl.static_range(S):
                    frame = turns + e * D + p * (2 * p - 1) * (2 * p + 1) // 3
                    for j in tl.static_range(p + 1):
                        for m in tl.static_range(2 * p + 1):
                            value = total[p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m]
                            value += tl.load(frame + (p + j) * (2 * p + 1) + m) * turned[S - 1 + j]
                            if j > 0:
                                value += tl.load(frame + (p - j) * (2 * p + 1) + m) * turned[S - 1 - j]
                            sums = sums + (value,)
                total = sums
            else:
                tl.store(message + e * C + c, tl.zeros([BC], dtype).to(kind), mask=mc)
        for p in tl.static_range(P):
            tl.store(out + (i * P + p) * C + c, total[p], mask=mc)


@_jit
def _short_grad_turned(turns, near, ptr, grad_message, grad, dturned, S: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
                       C: tl.constexpr, BC: tl.constexpr):
    """dturned (e, 2S - 1, C): the gradient in the frame of each short edge. One receiver."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = grad.dtype.element_ty
    g = ()
    for p in tl.static_range(P):
        g = g + (tl.load(grad + (i * P + p) * C + c, mask=mc, other=0.0),)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        if tl.load(near + e) != 0:
            for j in tl.static_range(S):
                for sign in tl.static_range(2):
                    if j > 0 or sign == 0:
                        value = tl.zeros([BC], dtype)
                        if j == 0:
                            value += tl.load(grad_message + e * C + c, mask=mc, other=0.0).to(dtype)
                        for p in tl.static_range(j, S):
                            row = turns + e * D + p * (2 * p - 1) * (2 * p + 1) // 3 + (p + j - 2 * sign * j) * (2 * p + 1)
                            for m in tl.static_range(2 * p + 1):
                                value += tl.load(row + m) * g[p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m]
                        tl.store(dturned + (e * (2 * S - 1) + S - 1 + j - 2 * sign * j) * C + c, value, mask=mc)


@_jit
def _short_grad(moments, x, y, turns, b, table, near, swap, ptr, dturned, dmoments, dx, db, dtable, n, n_edges,
                F: tl.constexpr, S: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
                FILL: tl.constexpr):
    """One sender: its edges out are the reverses e of its edges k in, whose x comes back. db (blocks, e, S, F), dtable
    (n, F, C) the part of each sender."""
    pid = tl.program_id(0)
    f = tl.arange(0, BF)
    mf = f < F
    db += tl.program_id(1).to(tl.int64) * n_edges * S * F
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C, FILL)
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
        total = ()
        for _ in tl.static_range(S * S):
            total = total + (tl.zeros([BC], dtype),)
        for k in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            e = tl.load(swap + k).to(tl.int64)
            if tl.load(near + e) != 0:
                back = tl.load(x + k * C + c, mask=mc, other=0.0).to(dtype)
                dback = tl.zeros([BC], dtype)
                g = ()
                for j in tl.static_range(2 * S - 1):
                    g = g + (tl.load(dturned + (e * (2 * S - 1) + j) * C + c, mask=mc, other=0.0),)
                new = ()
                for l in tl.static_range(S):
                    frame = turns + e * D + l * (2 * l - 1) * (2 * l + 1) // 3
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
                        dradial += d * (tl.load(at + (l * l + m) * C, mask=mc, other=0.0) - harmonic * back)
                        dback -= harmonic * (d * radial)
                        new = new + (total[l * l + m] + d * radial,)
                    tl.store(db + (e * S + l) * F + f, tl.sum(weights * dradial[None, :], axis=1), mask=mf)
                    dweights += row[:, None] * dradial[None, :]
                total = new
                tl.store(dx + k * C + c, dback.to(dx.dtype.element_ty), mask=mc)
            else:
                tl.store(dx + k * C + c, tl.zeros([BC], dtype).to(dx.dtype.element_ty), mask=mc)
                for l in tl.static_range(S):
                    tl.store(db + (e * S + l) * F + f, tl.zeros([BF], dtype), mask=mf)
        for s in tl.static_range(S * S):
            tl.store(dmoments + (i * S * S + s) * C + c, total[s], mask=mc)
        tl.store(dtable + (i * F + f[:, None]) * C + c[None, :], dweights, mask=tile)


@_jit
def _read(b, own, y, returned, message, ptr, out, n, n_edges, F: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
          C: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F * C, FILL)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        f = tl.arange(0, BF)
        mc, mf = c < C, f < F
        dtype = returned.dtype.element_ty
        pairs: tl.constexpr = S * (S + 1) // 2
        total = ()
        for p in tl.static_range(P):
            total = total + (tl.load(returned + (i * P + p) * C + c, mask=mc, other=0.0),)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            first = tl.load(message + e * C + c, mask=mc, other=0.0).to(dtype)
            value = -tl.load(own + e * F + f, mask=mf, other=0.0).to(dtype)[:, None] * first[None, :]
            for p in tl.static_range(S):
                for j in tl.static_range(p + 1):
                    part = tl.zeros([BC], dtype)
                    for m in tl.static_range(2 * p + 1):
                        part += tl.load(y + e * S * S + p * p + m) * total[p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m]
                    weight = tl.load(b + (e * F + f) * pairs + p * (p + 1) // 2 + j, mask=mf, other=0.0).to(dtype)
                    value += weight[:, None] * part[None, :]
            tl.store(out + (e * F + f[:, None]) * C + c[None, :], value.to(out.dtype.element_ty), mask=mf[:, None] & mc[None, :])


@_jit
def _read_grad(own, y, returned, message, ptr, grad, db, down, dmessage, n, n_edges, F: tl.constexpr, S: tl.constexpr,
               P: tl.constexpr, C: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr, FILL: tl.constexpr):
    """Gradients that belong to an edge: db (blocks, e, F, pairs), down (blocks, e, F) of own, dmessage (e, C)."""
    pid = tl.program_id(0)
    pairs: tl.constexpr = S * (S + 1) // 2
    block = tl.program_id(1).to(tl.int64) * n_edges * F
    db += block * pairs
    down += block
    f = tl.arange(0, BF)
    mf = f < F
    if pid >= n:
        _clear(dmessage, ptr, n, n_edges, C, FILL)
        for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
            tl.store(down + e * F + f, tl.zeros([BF], down.dtype.element_ty), mask=mf)
            for k in tl.static_range(pairs):
                tl.store(db + (e * F + f) * pairs + k, tl.zeros([BF], db.dtype.element_ty), mask=mf)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        mc = c < C
        dtype = returned.dtype.element_ty
        total = ()
        for p in tl.static_range(P):
            total = total + (tl.load(returned + (i * P + p) * C + c, mask=mc, other=0.0),)
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            g = tl.load(grad + (e * F + f[:, None]) * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0).to(dtype)
            first = tl.load(message + e * C + c, mask=mc, other=0.0).to(dtype)
            weight = tl.load(own + e * F + f, mask=mf, other=0.0).to(dtype)
            tl.store(down + e * F + f, -tl.sum(g * first[None, :], axis=1), mask=mf)
            tl.store(dmessage + e * C + c, (-tl.sum(weight[:, None] * g, axis=0)).to(dmessage.dtype.element_ty), mask=mc)
            for p in tl.static_range(S):
                for j in tl.static_range(p + 1):
                    part = tl.zeros([BC], dtype)
                    for m in tl.static_range(2 * p + 1):
                        part += tl.load(y + e * S * S + p * p + m) * total[p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m]
                    tl.store(db + (e * F + f) * pairs + p * (p + 1) // 2 + j, tl.sum(g * part[None, :], axis=1), mask=mf)


@_jit
def _read_grad_atoms(b, y, ptr, grad, dreturned, F: tl.constexpr, S: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
                     BF: tl.constexpr, BC: tl.constexpr):
    """The gradient of returned; apart from the others, since together they want more registers than there are."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    f = tl.arange(0, BF)
    mc, mf = c < C, f < F
    dtype = dreturned.dtype.element_ty
    pairs: tl.constexpr = S * (S + 1) // 2
    total = ()
    for _ in tl.static_range(P):
        total = total + (tl.zeros([BC], dtype),)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        g = tl.load(grad + (e * F + f[:, None]) * C + c[None, :], mask=mf[:, None] & mc[None, :], other=0.0).to(dtype)
        new = ()
        for p in tl.static_range(S):
            for j in tl.static_range(p + 1):
                weight = tl.load(b + (e * F + f) * pairs + p * (p + 1) // 2 + j, mask=mf, other=0.0).to(dtype)
                part = tl.sum(weight[:, None] * g, axis=0)
                for m in tl.static_range(2 * p + 1):
                    harmonic = tl.load(y + e * S * S + p * p + m)
                    new = new + (total[p * (p + 1) * (4 * p - 1) // 6 + j * (2 * p + 1) + m] + harmonic * part,)
        total = new
    for p in tl.static_range(P):
        tl.store(dreturned + (i * P + p) * C + c, total[p], mask=mc)


@triton.jit
def _harmonics_of(x, y, z, norms, S: tl.constexpr):
    """``harmonics`` of gemnet_basis.py at unit vectors, a lane each: a tuple of S^2."""
    one, zero = tl.full(x.shape, 1.0, x.dtype), tl.zeros(x.shape, x.dtype)
    cosine, sine = (one,), (zero,)
    for m in tl.static_range(1, S):
        c, s = x * cosine[m - 1] - y * sine[m - 1], x * sine[m - 1] + y * cosine[m - 1]
        cosine, sine = cosine + (c,), sine + (s,)
    legendre = ()  # (m, l), l >= m
    for m in tl.static_range(S):
        for l in tl.static_range(m, S):
            value = one
            if l > m:
                value = (2 * l - 1) * z * legendre[m * S - m * (m - 1) // 2 + l - 1 - m]
            if l > m + 1:
                value = (value - (l + m - 1) * legendre[m * S - m * (m - 1) // 2 + l - 2 - m]) / (l - m)
            legendre = legendre + (value,)
    out = ()
    for l in tl.static_range(S):
        for j in tl.static_range(2 * l + 1):
            value = tl.load(norms + l * l + j) * one
            if j < l:
                value *= legendre[(l - j) * S - (l - j) * (l - j - 1) // 2 + j] * sine[l - j]
            if j == l:
                value *= legendre[l]
            if j > l:
                value *= legendre[(j - l) * S - (j - l) * (j - l - 1) // 2 + 2 * l - j] * cosine[j - l]
            out = out + (value,)
    return out


@_jit
def _harmonics(unit, norms, out, n_edges, S: tl.constexpr, BE: tl.constexpr):
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    me = e < n_edges
    x = tl.load(unit + e * 3, mask=me, other=0.0)
    y = tl.load(unit + e * 3 + 1, mask=me, other=0.0)
    values = _harmonics_of(x, y, tl.load(unit + e * 3 + 2, mask=me, other=1.0), norms, S)
    for s in tl.static_range(S * S):
        tl.store(out + e * S * S + s, values[s], mask=me)


@_jit
def _turns(unit, points, fit, norms, out, n_edges, POINTS: tl.constexpr, S: tl.constexpr, D: tl.constexpr, BE: tl.constexpr):
    """``rotations`` of gemnet_basis.py, an edge a lane."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    me = e < n_edges
    x = tl.load(unit + e * 3, mask=me, other=0.0)
    y = tl.load(unit + e * 3 + 1, mask=me, other=0.0)
    z = tl.load(unit + e * 3 + 2, mask=me, other=1.0)
    one, zero = tl.full([BE], 1.0, x.dtype), tl.zeros([BE], x.dtype)
    sign = tl.where(z >= 0, one, -one)
    a = -1.0 / (sign + z)
    total = ()
    for _ in tl.static_range(D):
        total = total + (zero,)
    for p in range(POINTS):
        px, py, pz = tl.load(points + 3 * p), tl.load(points + 3 * p + 1), tl.load(points + 3 * p + 2)
        u = (1.0 + sign * x * x * a) * px + sign * x * y * a * py - sign * x * pz
        v = x * y * a * px + (sign + y * y * a) * py - y * pz
        w = x * px + y * py + z * pz
        values = _harmonics_of(u, v, w, norms, S)
        new = ()
        for l in tl.static_range(S):
            for j in tl.static_range(2 * l + 1):
                for m in tl.static_range(2 * l + 1):
                    weight = tl.load(fit + p * S * S + l * l + m)
                    new = new + (total[l * (2 * l - 1) * (2 * l + 1) // 3 + j * (2 * l + 1) + m]
                                 + weight * values[l * l + j],)
        total = new
    for d in tl.static_range(D):
        tl.store(out + e * D + d, total[d], mask=me)


def _tile(kernel: str, channels: int) -> tuple[int, dict[str, int]]:
    """Blocks of channels; BC and num_warps."""
    most, warps = TILES[kernel]
    size = min(most, max(16, triton.next_power_of_2(channels)))
    return triton.cdiv(channels, size), {"BC": size, "num_warps": warps}


def _power(number: int) -> int:
    """Lanes for so many radial weights."""
    return max(2, triton.next_power_of_2(number))


def _degrees(y: Tensor) -> int:
    """S of harmonics (e, S^2)."""
    return round(y.shape[1] ** 0.5)


def _squashed(parts: Tensor) -> Tensor:
    """(blocks, ...) -> (...): the sum over blocks of channels."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)


def _columns(count: int) -> int:
    """P: sum of (p + 1)(2p + 1) below ``count``."""
    return count * (count + 1) * (4 * count - 1) // 6


# ---- outer_sum


@torch.library.custom_op("forcelaw::outer_sum", mutates_args=())
def _outer_sum(w: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    n, k, c = len(ptr) - 1, w.shape[1], x.shape[1]
    out = w.new_empty(n, k, c)
    blocks, size = _tile("outer", c)
    _outer[n, blocks](w, x, ptr, out, k, c, BK=_power(k), **size)
    return out


@_outer_sum.register_fake
def _(w, x, ptr):
    return w.new_empty(ptr.shape[0] - 1, w.shape[1], x.shape[1])


@torch.library.custom_op("forcelaw::outer_sum_backward", mutates_args=())
def _outer_sum_backward(grad: Tensor, w: Tensor, x: Tensor, ptr: Tensor, weights: bool) -> tuple[Tensor, Tensor]:
    n, (e, k), c = len(ptr) - 1, w.shape, x.shape[1]
    blocks, size = _tile("outer", c)
    dw, dx = w.new_empty(blocks, e if weights else 0, k), torch.empty_like(x)
    _outer_grad[n + FILL, blocks](w, x, ptr, grad.contiguous(), dw, dx, n, e, k, c, BK=_power(k), WEIGHTS=weights, FILL=FILL,
                                  **size)
    return _squashed(dw), dx


@_outer_sum_backward.register_fake
def _(grad, w, x, ptr, weights):
    return w.new_empty(w.shape[0] if weights else 0, w.shape[1]), torch.empty_like(x)


def _save_outer(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_outer(ctx, grad):
    dw, dx = _outer_sum_backward(grad, *ctx.saved_tensors, ctx.needs_input_grad[0])
    return dw if ctx.needs_input_grad[0] else None, dx, None


_outer_sum.register_autograd(_differentiate_outer, setup_context=_save_outer)


def outer_sum(w: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    """sum over the edges into each atom of w (e, k) times x (e, c): (n, k, c), at least in float32."""
    return _outer_sum(at_least_float32(w), x.contiguous(), ptr)


# ---- triplets


@torch.library.custom_op("forcelaw::triplets", mutates_args=())
def _triplet_sum(b: Tensor, y: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    n, (e, f, s), c = len(ptr) - 1, b.shape, x.shape[1]
    out = x.new_empty(e, f, c)
    blocks, size = _tile("triplets", c)
    _triplets[n + FILL, blocks](b, y, x, ptr, out, n, e, f, s, c, BF=_power(f), FILL=FILL, **size)
    return out


@_triplet_sum.register_fake
def _(b, y, x, ptr):
    return x.new_empty(b.shape[0], b.shape[1], x.shape[1])


@torch.library.custom_op("forcelaw::triplets_backward", mutates_args=())
def _triplet_sum_backward(grad: Tensor, b: Tensor, y: Tensor, x: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    n, (e, f, s), c = len(ptr) - 1, b.shape, x.shape[1]
    blocks, size = _tile("triplets", c)
    db, dx = y.new_empty(blocks, e, f, s), y.new_empty(e, c)
    _triplets_grad[n + FILL, blocks](b, y, x, ptr, grad.contiguous(), db, dx, n, e, f, s, c, BF=_power(f), FILL=FILL, **size)
    return _squashed(db), dx


@_triplet_sum_backward.register_fake
def _(grad, b, y, x, ptr):
    return y.new_empty(b.shape), y.new_empty(x.shape)


def _differentiate_triplets(ctx, grad):
    b, _, x, _ = ctx.saved_tensors
    db, dx = _triplet_sum_backward(grad, *ctx.saved_tensors)
    return db.to(b.dtype), None, dx.to(x.dtype), None


_triplet_sum.register_autograd(_differentiate_triplets, setup_context=_save_outer)


def triplets(b: Tensor, y: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    """sum_l b[e, f, l] (sum_m y[e, lm] sum_{e'} y[e', lm] x[e'] - (2l+1) x[e]) over edges e' into the atom of e: (e, f, t).

    b (e, f, S), y (e, S^2), x (e, t), whose dtype the result has.
    """
    return _triplet_sum(b.contiguous(), at_least_float32(y), x.contiguous(), ptr)


# ---- cosines


@torch.library.custom_op("forcelaw::cosines", mutates_args=())
def _cosine_sum(b: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    n, (e, f, s) = len(ptr) - 1, b.shape
    out = b.new_empty(e, f)
    blocks, size = _tile("cosines", f)
    _cosines[n + FILL, blocks](b, y, ptr, out, n, e, f, s, FILL=FILL, **size)
    return out


@_cosine_sum.register_fake
def _(b, y, ptr):
    return b.new_empty(b.shape[:2])


@torch.library.custom_op("forcelaw::cosines_backward", mutates_args=())
def _cosine_sum_backward(grad: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    n, (e, f), s = len(ptr) - 1, grad.shape, _degrees(y)
    db = grad.new_empty(e, f, s)
    blocks, size = _tile("cosines", f)
    _cosines_grad[n + FILL, blocks](y, ptr, grad.contiguous(), db, n, e, f, s, FILL=FILL, **size)
    return db


@_cosine_sum_backward.register_fake
def _(grad, y, ptr):
    return grad.new_empty(*grad.shape, _degrees(y))


def _save_cosines(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


def _differentiate_cosines(ctx, grad):
    return _cosine_sum_backward(grad, *ctx.saved_tensors), None, None


_cosine_sum.register_autograd(_differentiate_cosines, setup_context=_save_cosines)


def cosines(b: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    """sum_l (sum_m y[e, lm] sum_{e'} y[e', lm] b[e', f, l] - (2l+1) b[e, f, l]) over edges e' into the atom of e: (e, f)."""
    return _cosine_sum(b.contiguous(), at_least_float32(y), ptr)


# ---- harmonics, turns


@torch.library.custom_op("forcelaw::harmonics", mutates_args=())
def harmonics(unit: Tensor, norms: Tensor) -> Tensor:
    """``harmonics`` of gemnet_basis.py of unit vectors (e, 3), (e, S^2), without gradients; norms (S^2,) from
    ``harmonic_norms`` there."""
    e, out = len(unit), unit.new_empty(len(unit), len(norms))
    _harmonics[(triton.cdiv(e, 64),)](unit.contiguous(), norms, out, e, math.isqrt(len(norms)), BE=64, num_warps=2)
    return out


@harmonics.register_fake
def _(unit, norms):
    return unit.new_empty(unit.shape[0], norms.shape[0])


@torch.library.custom_op("forcelaw::turns", mutates_args=())
def turns(unit: Tensor, points: Tensor, fit: Tensor, norms: Tensor) -> Tensor:
    """``rotations`` of gemnet_basis.py, (e, sum (2l+1)^2), without gradients; norms (S^2,) from ``harmonic_norms`` there.

    No matrix product, which would have 11 bits in TF32.
    """
    e, s = len(unit), _degrees(fit)
    out = unit.new_empty(e, s * (2 * s - 1) * (2 * s + 1) // 3)
    constants = points.contiguous(), fit.contiguous(), norms
    _turns[(triton.cdiv(e, 32),)](unit.contiguous(), *constants, out, e, len(points), s, out.shape[1], BE=32, num_warps=1)
    return out


@turns.register_fake
def _(unit, points, fit, norms):
    s = _degrees(fit)
    return unit.new_empty(unit.shape[0], s * (2 * s - 1) * (2 * s + 1) // 3)


# ---- short_sum


@torch.library.custom_op("forcelaw::short_sum", mutates_args=())
def _short_sum(moments: Tensor, x: Tensor, y: Tensor, turns: Tensor, b: Tensor, table: Tensor, near: Tensor, sender: Tensor,
               swap: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    (n, _, c), (e, s, f) = moments.shape, b.shape
    message, out = moments.new_empty(e, c), moments.new_empty(n, _columns(s), c)
    blocks, size = _tile("short", c)
    _short[n + FILL, blocks](moments, x, y, turns, b, table, near, sender, swap, ptr, message, out, n, e, f, s, turns.shape[1],
                             _columns(s), c, BF=_power(f), FILL=FILL, **size)
    return message, out


@_short_sum.register_fake
def _(moments, x, y, turns, b, table, near, sender, swap, ptr):
    return moments.new_empty(x.shape), moments.new_empty(moments.shape[0], _columns(b.shape[1]), moments.shape[2])


@torch.library.custom_op("forcelaw::short_sum_backward", mutates_args=())
def _short_sum_backward(grad_message: Tensor, grad: Tensor, moments: Tensor, x: Tensor, y: Tensor, turns: Tensor, b: Tensor,
                        table: Tensor, near: Tensor, swap: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, _, c), (e, s, f), d = moments.shape, b.shape, turns.shape[1]
    dturned = moments.new_empty(e, 2 * s - 1, c)
    blocks, size = _tile("short", c)
    dmoments, dx, db, dtable = torch.empty_like(moments), torch.empty_like(x), b.new_empty(blocks, e, s, f), b.new_empty(n, f, c)
    _short_grad_turned[n, blocks](turns, near, ptr, grad_message.contiguous(), grad.contiguous(), dturned, s, d, _columns(s), c,
                                  **size)
    _short_grad[n + FILL, blocks](moments, x, y, turns, b, table, near, swap, ptr, dturned, dmoments, dx, db, dtable, n, e, f, s,
                                  d, c, BF=_power(f), FILL=FILL, **size)
    return dmoments, dx, _squashed(db), dtable.sum(0)


@_short_sum_backward.register_fake
def _(grad_message, grad, moments, x, y, turns, b, table, near, swap, ptr):
    return torch.empty_like(moments), torch.empty_like(x), torch.empty_like(b), torch.empty_like(table)


def _save_short(ctx, inputs, output):
    moments, x, y, turns, b, table, near, _, swap, ptr = inputs
    ctx.save_for_backward(moments, x, y, turns, b, table, near, swap, ptr)


def _differentiate_short(ctx, grad_message, grad):
    dmoments, dx, db, dtable = _short_sum_backward(grad_message, grad, *ctx.saved_tensors)
    return dmoments, dx, None, None, db, dtable, None, None, None, None


_short_sum.register_autograd(_differentiate_short, setup_context=_save_short)


def short_sum(moments: Tensor, x: Tensor, y: Tensor, turns: Tensor, b: Tensor, weight: Tensor, near: Tensor, sender: Tensor,
              swap: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """d -> b -> a, summed over d and short edges b -> a: message (e, q), the part of order 0, and its sum at a, (n, P, q).
    Both at least in float32, since parts of them cancel where they are read.

    moments (n, S^2, q) of the edges into each atom, x (e, q), turns (e, sum (2l+1)^2) from ``rotations``, b (e, S, f) and
    weight (q, f): radial weights b @ weight^T of every degree; near (e,) int32, 1 for short edges; swap (e,) an involution.
    """
    return _short_sum(at_least_float32(moments), x.contiguous(), at_least_float32(y), turns.contiguous(), at_least_float32(b),
                      at_least_float32(weight.t()), near, sender, swap, ptr)


# ---- quad_read


@torch.library.custom_op("forcelaw::quad_read", mutates_args=())
def _quad_read(b: Tensor, own: Tensor, y: Tensor, returned: Tensor, message: Tensor, ptr: Tensor, dtype: torch.dtype) -> Tensor:
    (n, p, c), (e, f, _), s = returned.shape, b.shape, _degrees(y)
    out = message.new_empty(e, f, c, dtype=dtype)
    blocks, size = _tile("read", c)
    _read[n + FILL, blocks](b, own, y, returned, message, ptr, out, n, e, f, s, p, c, BF=_power(f), FILL=FILL, **size)
    return out


@_quad_read.register_fake
def _(b, own, y, returned, message, ptr, dtype):
    return message.new_empty(b.shape[0], b.shape[1], message.shape[1], dtype=dtype)


@torch.library.custom_op("forcelaw::quad_read_backward", mutates_args=())
def _quad_read_backward(grad: Tensor, b: Tensor, own: Tensor, y: Tensor, returned: Tensor, message: Tensor,
                        ptr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, p, c), (e, f, pairs), s = returned.shape, b.shape, _degrees(y)
    blocks, size = _tile("read", c)
    db, down = y.new_empty(blocks, e, f, pairs), y.new_empty(blocks, e, f)
    dreturned, dmessage = torch.empty_like(returned), torch.empty_like(message)
    grad = grad.contiguous()
    _read_grad[n + FILL, blocks](own, y, returned, message, ptr, grad, db, down, dmessage, n, e, f, s, p, c, BF=_power(f),
                                 FILL=FILL, **size)
    _read_grad_atoms[n, blocks](b, y, ptr, grad, dreturned, f, s, p, c, BF=_power(f), **size)
    return _squashed(db), _squashed(down), dreturned, dmessage


@_quad_read_backward.register_fake
def _(grad, b, own, y, returned, message, ptr):
    return y.new_empty(b.shape), y.new_empty(own.shape), torch.empty_like(returned), torch.empty_like(message)


def _save_read(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:-1])


def _differentiate_read(ctx, grad):
    b, own = ctx.saved_tensors[:2]
    db, down, dreturned, dmessage = _quad_read_backward(grad, *ctx.saved_tensors)
    return db.to(b.dtype), down.to(own.dtype), None, dreturned, dmessage, None, None


_quad_read.register_autograd(_differentiate_read, setup_context=_save_read)


def quad_read(b: Tensor, own: Tensor, y: Tensor, returned: Tensor, message: Tensor, ptr: Tensor, dtype: torch.dtype) -> Tensor:
    """sum_pj b[e, f, pj] sum_m y[e, pm] returned[a, (p, j, m)] - own[e, f] message[e]: (e, f, q) of ``dtype``.

    b (e, f, S (S + 1) / 2), own (e, f), y (e, S^2); returned (n, P, q), message (e, q) from :func:`short_sum`.
    """
    sums = at_least_float32(returned), at_least_float32(message)
    return _quad_read(b.contiguous(), own.contiguous(), at_least_float32(y), *sums, ptr, dtype)
