"""Kernels of PaiNN's message that gradient forces need; see painn_message.py, also for the legend,
and :class:`forcelaw.ops.register.Twice` for the passes.

Filters depend on lengths alone, w = g(r) W, so their tangent is w' = (r' dg/dr) W: a product of the
same shape, and no pass over edges has more than a number each of length and unit vector to read or
write. slope (e, R) is dg/dr; names with t are tangents; those with p the gradients P of the first
backward pass.
"""

from __future__ import annotations

from .painn_factors import (
    GROUP,
    _factor,
    _plus,
    _product,
    _put_gradients,
    _put_sums,
    _put_weight,
    _radial,
    _weight,
)
from .switch import constexpr, tl, triton
from .tiles import three


@triton.jit(do_not_specialize=["n", "edges", "few"])
def _pull(
    v,
    x,
    g,
    slope,
    weight,
    unit,
    receiver,
    order,
    ptr,
    grad_h,
    grad_v,
    dx,
    dv,
    parts,
    n,
    edges,
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
    """dx (n, 3d), dv (n, 3, d) with the residual's, parts (blocks, edges, 4): the gradients of
    length and unit vector that come of some channels."""
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, RP)
    mc = c < d
    wa, wc = _weight(weight, 0, k, c, d, R, PRECISION), _weight(weight, 2, k, c, d, R, PRECISION)
    if HAS_V:
        wb = _weight(weight, 1, k, c, d, R, PRECISION)
    first = tl.program_id(0) * few
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
        j = tl.load(receiver + place, mask=me, other=-1).to(tl.int32)
        of = (atoms[:, None] == j[None, :]).to(WIDE)
        mask = me[:, None] & mc[None, :]
        at = i[:, None] * (3 * d) + c[None, :]
        own = j[:, None] * (3 * d) + c[None, :]
        rows = _radial(g, e, me, k, R, PRECISION)
        steep = _radial(slope, e, me, k, R, PRECISION)
        gh = tl.load(grad_h + i[:, None] * d + c[None, :], mask=mask, other=0.0)
        da = _plus(da, of, gh * _product(rows, wa, WIDE, PRECISION), WIDE, WIDE, PRECISION)
        xa = tl.load(x + own, mask=mask, other=0.0)
        by_r = gh * xa * _product(steep, wa, WIDE, PRECISION)
        g0, g1, g2 = three(grad_v + at, d, mask, WIDE)
        along = (
            g0 * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
            + g1 * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
            + g2 * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
        )
        fc = _product(rows, wc, WIDE, PRECISION)
        dc = _plus(dc, of, along * fc, WIDE, WIDE, PRECISION)
        xc = tl.load(x + own + 2 * d, mask=mask, other=0.0)
        by_r += along * xc * _product(steep, wc, WIDE, PRECISION)
        fc = fc * xc
        if HAS_V:
            fb = _product(rows, wb, WIDE, PRECISION)
            s0 = _plus(s0, of, g0 * fb, WIDE, WIDE, PRECISION)
            s1 = _plus(s1, of, g1 * fb, WIDE, WIDE, PRECISION)
            s2 = _plus(s2, of, g2 * fb, WIDE, WIDE, PRECISION)
            inner = (
                g0 * tl.load(v + own, mask=mask, other=0.0)
                + g1 * tl.load(v + own + d, mask=mask, other=0.0)
                + g2 * tl.load(v + own + 2 * d, mask=mask, other=0.0)
            )
            xb = tl.load(x + own + d, mask=mask, other=0.0)
            by_r += inner * xb * _product(steep, wb, WIDE, PRECISION)
        put = parts + (tl.program_id(1).to(tl.int64) * edges + e) * 4
        tl.store(put, tl.sum(by_r, axis=1) * scale, mask=me)
        tl.store(put + 1, tl.sum(g0 * fc, axis=1) * scale, mask=me)
        tl.store(put + 2, tl.sum(g1 * fc, axis=1) * scale, mask=me)
        tl.store(put + 3, tl.sum(g2 * fc, axis=1) * scale, mask=me)
    mask = (atoms < last)[:, None] & mc[None, :]
    own = atoms[:, None] * (3 * d) + c[None, :]
    _put_gradients(v, x, grad_v, dx, dv, da, dc, s0, s1, s2, own, mask, d, scale, HAS_V, WIDE)


@triton.jit(do_not_specialize=["n", "few"])
def _push(
    v,
    x,
    g,
    slope,
    weight,
    unit,
    sender,
    receiver,
    ptr,
    th,
    tv,
    tx,
    tr,
    tu,
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
    """Tangents of the message's outputs, from those of h, v, x, r and r_hat."""
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, RP)
    mc = c < d
    kind = g.dtype.element_ty
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
        moved = tl.load(tr + e, mask=me, other=0.0)[:, None]
        steep = _radial(slope, e, me, k, R, PRECISION).to(WIDE) * moved
        steep = _factor(steep, kind, PRECISION)
        xa = tl.load(x + at, mask=mask, other=0.0)
        m = xa * _product(steep, wa, WIDE, PRECISION)
        m += tl.load(tx + at, mask=mask, other=0.0) * _product(rows, wa, WIDE, PRECISION)
        s = _plus(s, of, m, WIDE, WIDE, PRECISION)
        xc = tl.load(x + at + 2 * d, mask=mask, other=0.0)
        fc = _product(rows, wc, WIDE, PRECISION)
        along = xc * _product(steep, wc, WIDE, PRECISION)
        along += tl.load(tx + at + 2 * d, mask=mask, other=0.0) * fc
        fc = fc * xc
        m0 = along * tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
        m1 = along * tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
        m2 = along * tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
        m0 += fc * tl.load(tu + e * 3, mask=me, other=0.0)[:, None]
        m1 += fc * tl.load(tu + e * 3 + 1, mask=me, other=0.0)[:, None]
        m2 += fc * tl.load(tu + e * 3 + 2, mask=me, other=0.0)[:, None]
        if HAS_V:
            xb = tl.load(x + at + d, mask=mask, other=0.0)
            fb = _product(rows, wb, WIDE, PRECISION)
            b = xb * _product(steep, wb, WIDE, PRECISION)
            b += tl.load(tx + at + d, mask=mask, other=0.0) * fb
            fb = fb * xb
            m0 += b * tl.load(v + at, mask=mask, other=0.0)
            m1 += b * tl.load(v + at + d, mask=mask, other=0.0)
            m2 += b * tl.load(v + at + 2 * d, mask=mask, other=0.0)
            m0 += fb * tl.load(tv + at, mask=mask, other=0.0)
            m1 += fb * tl.load(tv + at + d, mask=mask, other=0.0)
            m2 += fb * tl.load(tv + at + 2 * d, mask=mask, other=0.0)
        s0 = _plus(s0, of, m0, WIDE, WIDE, PRECISION)
        s1 = _plus(s1, of, m1, WIDE, WIDE, PRECISION)
        s2 = _plus(s2, of, m2, WIDE, WIDE, PRECISION)
    mask = (atoms < last)[:, None] & mc[None, :]
    _put_sums(th, tv, out_h, out_v, s, s0, s1, s2, atoms, c, mask, d, scale, HAS_V, WIDE)


@triton.jit(do_not_specialize=["n", "few", "groups", "each"])
def _second(
    v,
    x,
    g,
    slope,
    weight,
    unit,
    receiver,
    order,
    ptr,
    tv,
    tx,
    tr,
    tu,
    first_h,
    first_v,
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
    """As _backward, of <grad, y> + <first, y'>: edges carry grad w + first w' and first w."""
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
        begin = group * few
        last = tl.minimum(begin + few, n)
        atoms = begin + tl.arange(0, GROUP)
        da, dc = tl.zeros([GROUP, BC], WIDE), tl.zeros([GROUP, BC], WIDE)
        s0, s1 = tl.zeros([GROUP, BC], WIDE), tl.zeros([GROUP, BC], WIDE)
        s2 = tl.zeros([GROUP, BC], WIDE)
        q0, q1 = tl.zeros([GROUP, BC], WIDE), tl.zeros([GROUP, BC], WIDE)
        q2 = tl.zeros([GROUP, BC], WIDE)
        high = tl.load(ptr + last)
        for low in range(tl.load(ptr + begin), high, BE):
            place = low + tl.arange(0, BE)
            me = place < high
            e = tl.load(order + place, mask=me, other=0)
            i = tl.load(receiver + e, mask=me, other=0).to(tl.int32)
            j = tl.load(receiver + place, mask=me, other=-1).to(tl.int32)
            of = (atoms[:, None] == j[None, :]).to(WIDE)
            mask = me[:, None] & mc[None, :]
            at = i[:, None] * (3 * d) + c[None, :]
            own = j[:, None] * (3 * d) + c[None, :]
            rows = _radial(g, e, me, k, R, PRECISION)
            moved = tl.load(tr + e, mask=me, other=0.0)[:, None]
            steep = _radial(slope, e, me, k, R, PRECISION).to(WIDE) * moved
            steep = _factor(steep, kind, PRECISION)
            turned, turned_steep = tl.trans(rows), tl.trans(steep)
            gh = tl.load(grad_h + i[:, None] * d + c[None, :], mask=mask, other=0.0)
            ph = tl.load(first_h + i[:, None] * d + c[None, :], mask=mask, other=0.0)
            both = gh * _product(rows, wa, WIDE, PRECISION)
            both += ph * _product(steep, wa, WIDE, PRECISION)
            da = _plus(da, of, both, WIDE, WIDE, PRECISION)
            xa = tl.load(x + own, mask=mask, other=0.0)
            both = gh * xa + ph * tl.load(tx + own, mask=mask, other=0.0)
            sum_a = _plus(sum_a, turned, both, kind, WIDE, PRECISION)
            sum_a = _plus(sum_a, turned_steep, ph * xa, kind, WIDE, PRECISION)
            g0, g1, g2 = three(grad_v + at, d, mask, WIDE)
            p0, p1, p2 = three(first_v + at, d, mask, WIDE)
            x0 = tl.load(unit + e * 3, mask=me, other=0.0)[:, None]
            x1 = tl.load(unit + e * 3 + 1, mask=me, other=0.0)[:, None]
            x2 = tl.load(unit + e * 3 + 2, mask=me, other=0.0)[:, None]
            along = p0 * x0 + p1 * x1 + p2 * x2
            both = g0 * x0 + g1 * x1 + g2 * x2
            both += p0 * tl.load(tu + e * 3, mask=me, other=0.0)[:, None]
            both += p1 * tl.load(tu + e * 3 + 1, mask=me, other=0.0)[:, None]
            both += p2 * tl.load(tu + e * 3 + 2, mask=me, other=0.0)[:, None]
            fc = both * _product(rows, wc, WIDE, PRECISION)
            fc += along * _product(steep, wc, WIDE, PRECISION)
            dc = _plus(dc, of, fc, WIDE, WIDE, PRECISION)
            xc = tl.load(x + own + 2 * d, mask=mask, other=0.0)
            both = both * xc + along * tl.load(tx + own + 2 * d, mask=mask, other=0.0)
            sum_c = _plus(sum_c, turned, both, kind, WIDE, PRECISION)
            sum_c = _plus(sum_c, turned_steep, along * xc, kind, WIDE, PRECISION)
            if HAS_V:
                fb = _product(rows, wb, WIDE, PRECISION)
                sb = _product(steep, wb, WIDE, PRECISION)
                s0 = _plus(s0, of, g0 * fb + p0 * sb, WIDE, WIDE, PRECISION)
                s1 = _plus(s1, of, g1 * fb + p1 * sb, WIDE, WIDE, PRECISION)
                s2 = _plus(s2, of, g2 * fb + p2 * sb, WIDE, WIDE, PRECISION)
                q0 = _plus(q0, of, p0 * fb, WIDE, WIDE, PRECISION)
                q1 = _plus(q1, of, p1 * fb, WIDE, WIDE, PRECISION)
                q2 = _plus(q2, of, p2 * fb, WIDE, WIDE, PRECISION)
                v0, v1, v2 = three(v + own, d, mask, WIDE)
                along = p0 * v0 + p1 * v1 + p2 * v2
                both = g0 * v0 + g1 * v1 + g2 * v2
                v0, v1, v2 = three(tv + own, d, mask, WIDE)
                both += p0 * v0 + p1 * v1 + p2 * v2
                xb = tl.load(x + own + d, mask=mask, other=0.0)
                both = both * xb + along * tl.load(tx + own + d, mask=mask, other=0.0)
                sum_b = _plus(sum_b, turned, both, kind, WIDE, PRECISION)
                sum_b = _plus(sum_b, turned_steep, along * xb, kind, WIDE, PRECISION)
        mask = (atoms < last)[:, None] & mc[None, :]
        own = atoms[:, None] * (3 * d) + c[None, :]
        tl.store(dx + own, da * scale, mask=mask)
        tl.store(dx + own + 2 * d, dc * scale, mask=mask)
        if HAS_V:
            v0, v1, v2 = three(v + own, d, mask, WIDE)
            t0, t1, t2 = three(tv + own, d, mask, WIDE)
            db = s0 * v0 + s1 * v1 + s2 * v2 + q0 * t0 + q1 * t1 + q2 * t2
            tl.store(dx + own + d, db * scale, mask=mask)
            xb = tl.load(x + own + d, mask=mask, other=0.0) * scale
            tb = tl.load(tx + own + d, mask=mask, other=0.0) * scale
            g0, g1, g2 = three(grad_v + own, d, mask, WIDE)
            tl.store(dv + own, g0 + s0 * xb + q0 * tb, mask=mask)
            tl.store(dv + own + d, g1 + s1 * xb + q1 * tb, mask=mask)
            tl.store(dv + own + 2 * d, g2 + s2 * xb + q2 * tb, mask=mask)
        else:
            tl.store(dx + own + d, tl.zeros([GROUP, BC], WIDE), mask=mask)
    _put_weight(dw, sum_a, sum_b, sum_c, k, c, d, R, scale)
