"""Attention among the tokens of an atom as one kernel each way: see edge_attention.py.

A program has one head of one atom, whose tokens are few: it reads them where they lie, the atom
first and then its edges ptr[i]:ptr[i + 1], keeps all weights on chip and writes rows of tokens. No
padded rows, no array of pairs, no atomics. The last programs zero the rows of padding edges.

Logits are l = scale q . k + log u; kept are outputs o and z = log of the sum of exp(l). By hand,
with a = exp(l - z), b = a / u and cotangents G of o (pull: P):

    dv = a^T G      dl = a (G v^T - G . o)      dq = scale dl k      dk = scale dl^T q
    du = sum over queries of b (G v^T - G . o)

With tangents q', k', v', u', scores l' = scale (q' k^T + q k'^T) and r = a l' + b u',

    o' = r v + a v' - rho o                     rho = sum over keys of r

and for A = P v^T, alpha = P . o, the gradients of <G, o> + <P, o'> are

    F = a (G v^T + P v'^T - rho A) + r (A - alpha) - a (G . o + P . o' - rho alpha)
    E = a (A - alpha)
    dq = scale (F k + E k')      dk = scale (F^T q + E^T q')      dv = a^T G + (r - a rho)^T P
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .painn_factors import _factor
from .register import Twice
from .switch import constexpr, tl, triton
from .tiles import FILL, FILL_PROGRAMS, SMALLEST, wide

# queries and keys of a tile, most atoms having 10 to 30 tokens; one warp, so that nothing waits for
# another, and one stage: loops take one or two turns, there is nothing to read ahead for
TILES = {name: (16, 32, 1, 1) for name in ("attend", "attend_grad", "attend_push", "attend_second")}
LARGEST = constexpr(80.0)  # of an exponent


@triton.jit
def _dot(a, b, WIDE: constexpr, PRECISION: constexpr):
    a, b = _factor(a, WIDE, PRECISION), _factor(b, WIDE, PRECISION)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=WIDE)


@triton.jit
def _tokens(t, i, low, count, n):
    """Rows of the tokens t of atom i, and which of them there are."""
    return tl.where(t == 0, i, n + low + t - 1).to(tl.int64), t < count


@triton.jit
def _part(x, row, c, mask, step: constexpr, first, WIDE: constexpr):
    """Channels first + c of some rows of x (any, step)."""
    return tl.load(x + row[:, None] * step + (first + c)[None, :], mask=mask, other=0.0).to(WIDE)


@triton.jit
def _envelopes(u, t, low, mt, WIDE: constexpr):
    """log u of tokens, 0 for the atom, minus infinity where u is zero or there is no token."""
    ut = tl.load(u + low + t - 1, mask=mt & (t > 0), other=0.0).to(WIDE)
    ut = tl.where(t == 0, tl.full(t.shape, 1.0, WIDE), ut)
    return tl.where(mt & (ut > 0.0), tl.log(tl.maximum(ut, SMALLEST)), -float("inf"))


@triton.jit
def _zero_padding(out, ptr, n, edges, first, c, mc, step: constexpr):
    """Zeros in the rows of padding edges; this program has every FILL-th of them."""
    for e in range(tl.load(ptr + n).to(tl.int64) + first, edges, FILL):
        tl.store(
            out + (n + e) * step + c, tl.zeros(c.shape, tl.float32).to(out.dtype.element_ty), mc
        )


@triton.jit(do_not_specialize=["n", "edges"])
def _attend(
    qkv,
    bias,
    u,
    ptr,
    out,
    norm,
    n,
    edges,
    scale: constexpr,
    HEADS: constexpr,
    d: constexpr,
    WIDE: constexpr,
    PRECISION: constexpr,
    BQ: constexpr,
    BK: constexpr,
    BD: constexpr,
    BC: constexpr,
):
    """out (n + e, c) and norm (n + e, heads), z of each query."""
    pid = tl.program_id(0)
    C: constexpr = HEADS * d
    if pid < n * HEADS:
        i, h = pid // HEADS, pid % HEADS
        c = tl.arange(0, BD)
        mc = (c < d)[None, :]
        at, low = h * d, tl.load(ptr + i)
        count = tl.load(ptr + i + 1) - low + 1
        bq = tl.load(bias + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        bv = tl.load(bias + C + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        for f in range(0, count, BQ):
            rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
            mask = mq[:, None] & mc
            q = _part(qkv, rq, c, mask, 3 * C, at, WIDE) + bq
            top = tl.full([BQ], -float("inf"), WIDE)
            total = tl.zeros([BQ], WIDE)
            summed = tl.zeros([BQ, BD], WIDE)
            for g in range(0, count, BK):
                t = g + tl.arange(0, BK)
                rk, mk = _tokens(t, i, low, count, n)
                k = _part(qkv, rk, c, mk[:, None] & mc, 3 * C, C + at, WIDE)
                v = _part(qkv, rk, c, mk[:, None] & mc, 3 * C, 2 * C + at, WIDE) + bv
                logit = _dot(q, tl.trans(k), WIDE, PRECISION) * scale
                logit += _envelopes(u, t, low, mk, WIDE)[None, :]
                new = tl.maximum(top, tl.max(logit, axis=1))  # finite: the atom is in the first
                weight, less = tl.exp(logit - new[:, None]), tl.exp(top - new)
                total = total * less + tl.sum(weight, axis=1)
                summed = summed * less[:, None] + _dot(weight, v, WIDE, PRECISION)
                top = new
            o = (summed / total[:, None]).to(out.dtype.element_ty)
            tl.store(out + rq[:, None] * C + (at + c)[None, :], o, mask=mask)
            tl.store(norm + rq * HEADS + h, top + tl.log(total), mask=mq)
    else:
        every = tl.arange(0, BC)
        _zero_padding(out, ptr, n, edges, pid - n * HEADS, every, every < C, C)


@triton.jit
def _put_queries(dqkv, dq, rq, at, c, mask, C: constexpr):
    """Stores gradients of queries, and returns their sum."""
    put = dqkv + rq[:, None] * (3 * C) + (at + c)[None, :]
    tl.store(put, dq.to(dqkv.dtype.element_ty), mask=mask)
    return tl.sum(tl.where(mask, dq, 0.0), axis=0)


@triton.jit(do_not_specialize=["n", "edges"])
def _attend_grad(
    qkv,
    bias,
    u,
    ptr,
    out,
    norm,
    grad,
    dqkv,
    dbias,
    du,
    n,
    edges,
    scale: constexpr,
    U: constexpr,
    HEADS: constexpr,
    d: constexpr,
    WIDE: constexpr,
    PRECISION: constexpr,
    BQ: constexpr,
    BK: constexpr,
    BD: constexpr,
    BC: constexpr,
):
    """dqkv (n + e, 3 c); dbias (n, 2 c), of queries and values, over the tokens of an atom; where U
    du (heads, e)."""
    pid = tl.program_id(0)
    C: constexpr = HEADS * d
    if pid < n * HEADS:
        i, h = pid // HEADS, pid % HEADS
        c = tl.arange(0, BD)
        mc = (c < d)[None, :]
        at, low = h * d, tl.load(ptr + i)
        count = tl.load(ptr + i + 1) - low + 1
        bq = tl.load(bias + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        bv = tl.load(bias + C + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        kind: constexpr = dqkv.dtype.element_ty
        sum_q, sum_v = tl.zeros([BD], WIDE), tl.zeros([BD], WIDE)
        for g in range(0, count, BK):
            t = g + tl.arange(0, BK)
            rk, mk = _tokens(t, i, low, count, n)
            mask = mk[:, None] & mc
            k = _part(qkv, rk, c, mask, 3 * C, C + at, WIDE)
            v = _part(qkv, rk, c, mask, 3 * C, 2 * C + at, WIDE) + bv
            lu = _envelopes(u, t, low, mk, WIDE)
            dk, dv = tl.zeros([BK, BD], WIDE), tl.zeros([BK, BD], WIDE)
            by_u = tl.zeros([BK], WIDE)
            for f in range(0, count, BQ):
                rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
                inside = mq[:, None] & mc
                q = _part(qkv, rq, c, inside, 3 * C, at, WIDE) + bq
                go = _part(grad, rq, c, inside, C, at, WIDE)
                own = tl.sum(go * _part(out, rq, c, inside, C, at, WIDE), axis=1)
                z = tl.load(norm + rq * HEADS + h, mask=mq, other=0.0)
                logit = _dot(k, tl.trans(q), WIDE, PRECISION) * scale - z[None, :]
                a = tl.where(mq[None, :], tl.exp(logit + lu[:, None]), 0.0)
                change = _dot(v, tl.trans(go), WIDE, PRECISION) - own[None, :]
                dl = a * change
                dv += _dot(a, go, WIDE, PRECISION)
                dk += _dot(dl, q, WIDE, PRECISION)
                if count <= BK:  # these are all keys, as for most atoms
                    dq = _dot(tl.trans(dl), k, WIDE, PRECISION) * scale
                    sum_q += _put_queries(dqkv, dq, rq, at, c, inside, C)
                if U:
                    b = tl.where(mq[None, :], tl.exp(tl.minimum(logit, LARGEST)), 0.0)
                    by_u += tl.sum(b * change, axis=1)
            here = dqkv + rk[:, None] * (3 * C) + (at + c)[None, :]
            tl.store(here + C, (dk * scale).to(kind), mask=mask)
            tl.store(here + 2 * C, dv.to(kind), mask=mask)
            sum_v += tl.sum(tl.where(mask, dv, 0.0), axis=0)
            if U:
                own_edges = du + h.to(tl.int64) * edges + low + t - 1
                tl.store(own_edges, by_u, mask=mk & (t > 0))
        if count > BK:
            for f in range(0, count, BQ):
                rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
                mask = mq[:, None] & mc
                q = _part(qkv, rq, c, mask, 3 * C, at, WIDE) + bq
                go = _part(grad, rq, c, mask, C, at, WIDE)
                own = tl.sum(go * _part(out, rq, c, mask, C, at, WIDE), axis=1)
                z = tl.load(norm + rq * HEADS + h, mask=mq, other=0.0)
                dq = tl.zeros([BQ, BD], WIDE)
                for g in range(0, count, BK):
                    t = g + tl.arange(0, BK)
                    rk, mk = _tokens(t, i, low, count, n)
                    k = _part(qkv, rk, c, mk[:, None] & mc, 3 * C, C + at, WIDE)
                    v = _part(qkv, rk, c, mk[:, None] & mc, 3 * C, 2 * C + at, WIDE) + bv
                    logit = _dot(q, tl.trans(k), WIDE, PRECISION) * scale
                    logit += _envelopes(u, t, low, mk, WIDE)[None, :] - z[:, None]
                    a = tl.where(mq[:, None], tl.exp(logit), 0.0)
                    by_logit = a * (_dot(go, tl.trans(v), WIDE, PRECISION) - own[:, None])
                    dq += _dot(by_logit, k, WIDE, PRECISION)
                sum_q += _put_queries(dqkv, dq * scale, rq, at, c, mask, C)
        put = dbias + i.to(tl.int64) * (2 * C) + at + c
        tl.store(put, sum_q, mask=c < d)
        tl.store(put + C, sum_v, mask=c < d)
    else:
        every = tl.arange(0, BC)
        _zero_padding(dqkv, ptr, n, edges, pid - n * HEADS, every, every < 3 * C, 3 * C)
        if U:
            for e in range(tl.load(ptr + n).to(tl.int64) + pid - n * HEADS, edges, FILL):
                row = du + every.to(tl.int64) * edges + e
                tl.store(row, tl.zeros(every.shape, WIDE), mask=every < HEADS)


@triton.jit(do_not_specialize=["n", "edges"])
def _attend_push(
    qkv,
    bias,
    u,
    ptr,
    out,
    norm,
    tqkv,
    tu,
    tout,
    rho,
    n,
    edges,
    scale: constexpr,
    HEADS: constexpr,
    d: constexpr,
    WIDE: constexpr,
    PRECISION: constexpr,
    BQ: constexpr,
    BK: constexpr,
    BD: constexpr,
    BC: constexpr,
):
    """Tangent of out, and rho (n + e, heads)."""
    pid = tl.program_id(0)
    C: constexpr = HEADS * d
    if pid < n * HEADS:
        i, h = pid // HEADS, pid % HEADS
        c = tl.arange(0, BD)
        mc = (c < d)[None, :]
        at, low = h * d, tl.load(ptr + i)
        count = tl.load(ptr + i + 1) - low + 1
        bq = tl.load(bias + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        bv = tl.load(bias + C + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        for f in range(0, count, BQ):
            rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
            mask = mq[:, None] & mc
            q = _part(qkv, rq, c, mask, 3 * C, at, WIDE) + bq
            tq = _part(tqkv, rq, c, mask, 3 * C, at, WIDE)
            z = tl.load(norm + rq * HEADS + h, mask=mq, other=0.0)
            total, summed = tl.zeros([BQ], WIDE), tl.zeros([BQ, BD], WIDE)
            for g in range(0, count, BK):
                t = g + tl.arange(0, BK)
                rk, mk = _tokens(t, i, low, count, n)
                inside = mk[:, None] & mc
                k = tl.trans(_part(qkv, rk, c, inside, 3 * C, C + at, WIDE))
                v = _part(qkv, rk, c, inside, 3 * C, 2 * C + at, WIDE) + bv
                tk = tl.trans(_part(tqkv, rk, c, inside, 3 * C, C + at, WIDE))
                tv = _part(tqkv, rk, c, inside, 3 * C, 2 * C + at, WIDE)
                by = tl.load(tu + low + t - 1, mask=mk & (t > 0), other=0.0).to(WIDE)
                logit = _dot(q, k, WIDE, PRECISION) * scale - z[:, None]
                a = tl.exp(logit + _envelopes(u, t, low, mk, WIDE)[None, :])
                b = tl.exp(tl.minimum(logit, LARGEST))
                moved = _dot(tq, k, WIDE, PRECISION) + _dot(q, tk, WIDE, PRECISION)
                r = a * moved * scale + b * by[None, :]
                total += tl.sum(r, axis=1)
                summed += _dot(r, v, WIDE, PRECISION) + _dot(a, tv, WIDE, PRECISION)
            o = _part(out, rq, c, mask, C, at, WIDE)
            here = tout + rq[:, None] * C + (at + c)[None, :]
            tl.store(here, (summed - total[:, None] * o).to(tout.dtype.element_ty), mask=mask)
            tl.store(rho + rq * HEADS + h, total, mask=mq)
    else:
        every = tl.arange(0, BC)
        _zero_padding(tout, ptr, n, edges, pid - n * HEADS, every, every < C, C)


@triton.jit
def _second_rows(
    qkv,
    tqkv,
    out,
    tout,
    norm,
    rho,
    first,
    grad,
    rq,
    mq,
    c,
    mask,
    bq,
    at,
    h,
    HEADS: constexpr,
    C: constexpr,
    WIDE: constexpr,
):
    """What the second gradient needs of some queries: q, q', G, P, z, rho, alpha and the mean."""
    q = _part(qkv, rq, c, mask, 3 * C, at, WIDE) + bq
    tq = _part(tqkv, rq, c, mask, 3 * C, at, WIDE)
    go = _part(grad, rq, c, mask, C, at, WIDE)
    po = _part(first, rq, c, mask, C, at, WIDE)
    o = _part(out, rq, c, mask, C, at, WIDE)
    z = tl.load(norm + rq * HEADS + h, mask=mq, other=0.0)
    total = tl.load(rho + rq * HEADS + h, mask=mq, other=0.0)
    alpha = tl.sum(po * o, axis=1)
    mean = tl.sum(go * o + po * _part(tout, rq, c, mask, C, at, WIDE), axis=1) - total * alpha
    return q, tq, go, po, z, total, alpha, mean


@triton.jit(do_not_specialize=["n", "edges"])
def _attend_second(
    qkv,
    bias,
    u,
    ptr,
    out,
    norm,
    tqkv,
    tu,
    tout,
    rho,
    first,
    grad,
    dqkv,
    dbias,
    n,
    edges,
    scale: constexpr,
    HEADS: constexpr,
    d: constexpr,
    WIDE: constexpr,
    PRECISION: constexpr,
    BQ: constexpr,
    BK: constexpr,
    BD: constexpr,
    BC: constexpr,
):
    """As _attend_grad, of <grad, out> + <first, tout>; nobody asks for du."""
    pid = tl.program_id(0)
    C: constexpr = HEADS * d
    if pid < n * HEADS:
        i, h = pid // HEADS, pid % HEADS
        c = tl.arange(0, BD)
        mc = (c < d)[None, :]
        at, low = h * d, tl.load(ptr + i)
        count = tl.load(ptr + i + 1) - low + 1
        bq = tl.load(bias + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        bv = tl.load(bias + C + at + c, mask=c < d, other=0.0).to(WIDE)[None, :]
        kind: constexpr = dqkv.dtype.element_ty
        sum_q, sum_v = tl.zeros([BD], WIDE), tl.zeros([BD], WIDE)
        for g in range(0, count, BK):
            t = g + tl.arange(0, BK)
            rk, mk = _tokens(t, i, low, count, n)
            mask = mk[:, None] & mc
            k = _part(qkv, rk, c, mask, 3 * C, C + at, WIDE)
            v = _part(qkv, rk, c, mask, 3 * C, 2 * C + at, WIDE) + bv
            tk = _part(tqkv, rk, c, mask, 3 * C, C + at, WIDE)
            tv = _part(tqkv, rk, c, mask, 3 * C, 2 * C + at, WIDE)
            by = tl.load(tu + low + t - 1, mask=mk & (t > 0), other=0.0).to(WIDE)
            lu = _envelopes(u, t, low, mk, WIDE)
            dk, dv = tl.zeros([BK, BD], WIDE), tl.zeros([BK, BD], WIDE)
            for f in range(0, count, BQ):
                rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
                inside = mq[:, None] & mc
                q, tq, go, po, z, total, alpha, mean = _second_rows(
                    qkv, tqkv, out, tout, norm, rho, first, grad, rq, mq, c, inside, bq, at, h,
                    HEADS, C, WIDE,
                )  # fmt: skip
                logit = _dot(k, tl.trans(q), WIDE, PRECISION) * scale - z[None, :]
                a = tl.where(mq[None, :], tl.exp(logit + lu[:, None]), 0.0)
                b = tl.where(mq[None, :], tl.exp(tl.minimum(logit, LARGEST)), 0.0)
                moved = _dot(k, tl.trans(tq), WIDE, PRECISION)
                moved += _dot(tk, tl.trans(q), WIDE, PRECISION)
                r = a * moved * scale + b * by[:, None]
                along = _dot(v, tl.trans(po), WIDE, PRECISION)
                both = _dot(v, tl.trans(go), WIDE, PRECISION)
                both += _dot(tv, tl.trans(po), WIDE, PRECISION)
                left = along - alpha[None, :]
                by_logit = a * (both - total[None, :] * along - mean[None, :]) + r * left
                left = a * left
                dk += _dot(by_logit, q, WIDE, PRECISION)
                dk += _dot(left, tq, WIDE, PRECISION)
                dv += _dot(a, go, WIDE, PRECISION)
                dv += _dot(r - a * total[None, :], po, WIDE, PRECISION)
                if count <= BK:
                    dq = _dot(tl.trans(by_logit), k, WIDE, PRECISION)
                    dq += _dot(tl.trans(left), tk, WIDE, PRECISION)
                    sum_q += _put_queries(dqkv, dq * scale, rq, at, c, inside, C)
            here = dqkv + rk[:, None] * (3 * C) + (at + c)[None, :]
            tl.store(here + C, (dk * scale).to(kind), mask=mask)
            tl.store(here + 2 * C, dv.to(kind), mask=mask)
            sum_v += tl.sum(tl.where(mask, dv, 0.0), axis=0)
        if count > BK:
            for f in range(0, count, BQ):
                rq, mq = _tokens(f + tl.arange(0, BQ), i, low, count, n)
                mask = mq[:, None] & mc
                q, tq, go, po, z, total, alpha, mean = _second_rows(
                    qkv, tqkv, out, tout, norm, rho, first, grad, rq, mq, c, mask, bq, at, h,
                    HEADS, C, WIDE,
                )  # fmt: skip
                dq = tl.zeros([BQ, BD], WIDE)
                for g in range(0, count, BK):
                    t = g + tl.arange(0, BK)
                    rk, mk = _tokens(t, i, low, count, n)
                    inside = mk[:, None] & mc
                    k = _part(qkv, rk, c, inside, 3 * C, C + at, WIDE)
                    v = _part(qkv, rk, c, inside, 3 * C, 2 * C + at, WIDE) + bv
                    tk = _part(tqkv, rk, c, inside, 3 * C, C + at, WIDE)
                    tv = _part(tqkv, rk, c, inside, 3 * C, 2 * C + at, WIDE)
                    by = tl.load(tu + low + t - 1, mask=mk & (t > 0), other=0.0).to(WIDE)
                    logit = _dot(q, tl.trans(k), WIDE, PRECISION) * scale - z[:, None]
                    a = tl.exp(logit + _envelopes(u, t, low, mk, WIDE)[None, :])
                    a = tl.where(mq[:, None], a, 0.0)
                    b = tl.where(mq[:, None], tl.exp(tl.minimum(logit, LARGEST)), 0.0)
                    moved = _dot(tq, tl.trans(k), WIDE, PRECISION)
                    moved += _dot(q, tl.trans(tk), WIDE, PRECISION)
                    r = a * moved * scale + b * by[None, :]
                    along = _dot(po, tl.trans(v), WIDE, PRECISION)
                    both = _dot(go, tl.trans(v), WIDE, PRECISION)
                    both += _dot(po, tl.trans(tv), WIDE, PRECISION)
                    left = along - alpha[:, None]
                    by_logit = a * (both - total[:, None] * along - mean[:, None]) + r * left
                    dq += _dot(by_logit, k, WIDE, PRECISION)
                    dq += _dot(a * left, tk, WIDE, PRECISION)
                sum_q += _put_queries(dqkv, dq * scale, rq, at, c, mask, C)
        put = dbias + i.to(tl.int64) * (2 * C) + at + c
        tl.store(put, sum_q, mask=c < d)
        tl.store(put + C, sum_v, mask=c < d)
    else:
        every = tl.arange(0, BC)
        _zero_padding(dqkv, ptr, n, edges, pid - n * HEADS, every, every < 3 * C, 3 * C)


class Attend(Twice):
    """apply(qkv (n + e, 3 c), bias (2, c) of queries and values, u (e,), ptr (n + 1,), heads) -> (n
    + e, c); zeros in the rows of padding edges."""

    def value(ctx, qkv, bias, u, ptr, heads):
        ctx.heads = heads
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        norm = u.new_empty(len(qkv), heads)
        _launch(_attend, ctx, qkv, bias, u, ptr, out, norm)
        return out, (qkv, bias, u, ptr, out, norm)

    def gradient(ctx, kept, grad):
        return _by(_attend_grad, ctx, kept, grad.contiguous())

    def pull(ctx, kept, grad):
        (qkv, _, u, *_), dqkv = kept, torch.empty_like(kept[0])
        parts, du = u.new_empty(_atoms(kept), 2 * qkv.shape[1] // 3), u.new_empty(ctx.heads, len(u))
        _launch(_attend_grad, ctx, *kept, grad.contiguous(), dqkv, parts, du, U=True)
        return dqkv, None, du.sum(0), None, None

    def push(ctx, kept, tangents):
        *_, out, norm = kept
        moved, rho = torch.empty_like(out), torch.empty_like(norm)
        given = (x.contiguous() for x in (tangents[0], tangents[2]))
        _launch(_attend_push, ctx, *kept, *given, moved, rho)
        return (moved,), (moved, rho)

    def second(ctx, kept, tangents, first, grads, more):
        given = (x.contiguous() for x in (tangents[0], tangents[2], *more, first[0], grads[0]))
        return _by(_attend_second, ctx, kept, *given)


def _atoms(kept: tuple[Tensor, ...]) -> int:
    return len(kept[3]) - 1


def _by(kernel: Any, ctx: Any, kept: tuple[Tensor, ...], *given: Tensor) -> tuple[Any, ...]:
    """Gradients of qkv and its biases."""
    (qkv, bias, u, *_), dqkv = kept, torch.empty_like(kept[0])
    parts = u.new_empty(_atoms(kept), 2 * qkv.shape[1] // 3)
    if kernel is _attend_grad:
        _launch(kernel, ctx, *kept, *given, dqkv, parts, parts, U=False)
    else:
        _launch(kernel, ctx, *kept, *given, dqkv, parts)
    return dqkv, parts.sum(0).view_as(bias).to(bias.dtype), None, None, None


def _launch(kernel: Any, ctx: Any, qkv: Tensor, bias: Tensor, u: Tensor, *given: Any, **more: Any):
    ptr, (tokens, width) = given[0], qkv.shape
    n, c = len(ptr) - 1, width // 3
    d = c // ctx.heads
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    most = width if kernel in (_attend_grad, _attend_second) else c
    lanes = triton.next_power_of_2(max(16, d))
    queries, keys, warps, stages = TILES[kernel.fn.__name__.lstrip("_")]
    kernel[(n * ctx.heads + FILL_PROGRAMS,)](
        qkv,
        bias,
        u,
        *given,
        n,
        tokens - n,
        scale=1.0 / math.sqrt(d),
        HEADS=ctx.heads,
        d=d,
        WIDE=wide(u),
        PRECISION="ieee" if u.dtype == torch.float64 else precision,
        BQ=queries,
        BK=keys,
        BD=lanes,
        BC=triton.next_power_of_2(most),
        num_warps=warps,
        num_stages=stages,
        **more,
    )
