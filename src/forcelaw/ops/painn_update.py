"""PaiNN's update of atoms, around its matrix products, in two launches each way; torch takes some
forty a layer.

    pair       (U v | V v) and [a | sqrt(sum_k (V v_k)^2 + 1e-4)]
    update     h + p + q sum_k U v_k V v_k,   v_k + g U v_k

Legend: n atoms, d channels, k = x, y, z; pair (n, 3, 2d); a, h (n, d), v (n, 3, d), mixed (n, 3d) p
| q | g. The product is part of the first operation, so that the gradient of the pair, by far the
largest array here, is summed where it is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .register import Twice
from .switch import constexpr, tl, triton, use_triton
from .tiles import at_least_float32, grid, lowered, three, tile, wide

TILES = {"lengths": (4, 64, 4), "update": (4, 64, 4)}
# 1e-4, not the 1e-8 of the source: vectors vanish on sites of high symmetry (the carbon of CH4),
# where a root with curvature 1e4 makes conservative forces wrong by 1% in float32
SMALL = 1e-4
LEAST = constexpr(SMALL)


Pair = Tensor | tuple[Tensor, Tensor]  # (n, 3, 2d), or in plain torch its halves


def painn_pair(a: Tensor, v: Tensor, weight: Tensor) -> tuple[Pair, Tensor]:
    """a (n, d), v (n, 3, d), weight (2d, d) of U | V -> U v | V v, for :func:`painn_update`, and
    what is between, (n, 2d). By kernels the pair has the dtype that torch's own product would have,
    and the other one that of a. A weight (3, 2d, d), one for each component, takes plain torch."""
    if weight.dim() == 3:
        product = torch.bmm(v.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    elif use_triton(a):
        return _Pair.apply(a.contiguous(), v.contiguous(), lowered(weight).contiguous())
    else:
        product = nn.functional.linear(v, weight)
    uv, vv = product.chunk(2, dim=-1)
    return (uv, vv), torch.cat([a, (vv.square().sum(1) + SMALL).sqrt()], dim=-1)


def painn_update(h: Tensor, v: Tensor, pair: Pair, mixed: Tensor) -> tuple[Tensor, Tensor]:
    """h (n, d) and v (n, 3, d) of the next layer; by kernels at least in float32."""
    if isinstance(pair, Tensor):
        moved = at_least_float32(h), at_least_float32(v)
        return _Update.apply(*moved, pair.contiguous(), mixed.contiguous())
    uv, vv = pair
    p, q, gate = mixed.chunk(3, dim=-1)
    return h + p + q * (uv * vv).sum(1), v + gate.unsqueeze(1) * uv


@triton.jit
def _place(n, d: constexpr, BE: constexpr, BC: constexpr):
    """Atoms (BE, 1), channels (1, BC), and which of them there are."""
    i = (tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE))[:, None]
    c = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    return i, c, (i < n) & (c < d)


@triton.jit(do_not_specialize=["n"])
def _lengths(a, pair, out, n, d: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr):
    i, c, mask = _place(n, d, BE, BC)
    x, y, z = three(pair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    scalar = tl.load(a + i * d + c, mask=mask, other=0.0)
    tl.store(out + i * 2 * d + c, scalar, mask=mask)
    tl.store(out + i * 2 * d + d + c, tl.sqrt(x * x + y * y + z * z + LEAST), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _lengths_backward(
    pair, grad, grad_pair, da, dpair, n, d: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    """dpair: grad_pair and what comes by the lengths."""
    i, c, mask = _place(n, d, BE, BC)
    at = i * 6 * d + c
    x, y, z = three(pair + at + d, 2 * d, mask, WIDE)
    u0, u1, u2 = three(grad_pair + at, 2 * d, mask, WIDE)
    w0, w1, w2 = three(grad_pair + at + d, 2 * d, mask, WIDE)
    scalar = tl.load(grad + i * 2 * d + c, mask=mask, other=0.0)
    g = tl.load(grad + i * 2 * d + d + c, mask=mask, other=0.0).to(WIDE)
    g = g / tl.sqrt(x * x + y * y + z * z + LEAST)
    kind = dpair.dtype.element_ty
    tl.store(da + i * d + c, scalar, mask=mask)
    tl.store(dpair + at, u0.to(kind), mask=mask)
    tl.store(dpair + at + 2 * d, u1.to(kind), mask=mask)
    tl.store(dpair + at + 4 * d, u2.to(kind), mask=mask)
    tl.store(dpair + at + d, (w0 + g * x).to(kind), mask=mask)
    tl.store(dpair + at + 3 * d, (w1 + g * y).to(kind), mask=mask)
    tl.store(dpair + at + 5 * d, (w2 + g * z).to(kind), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update(
    h, v, pair, mixed, new_h, new_v, n, d: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    i, c, mask = _place(n, d, BE, BC)
    at, at3 = i * d + c, i * 3 * d + c
    u0, u1, u2 = three(pair + i * 6 * d + c, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    p, q, gate = three(mixed + at3, d, mask, WIDE)
    v0, v1, v2 = three(v + at3, d, mask, WIDE)
    scalar = tl.load(h + at, mask=mask, other=0.0).to(WIDE) + p + q * (u0 * w0 + u1 * w1 + u2 * w2)
    tl.store(new_h + at, scalar, mask=mask)
    tl.store(new_v + at3, v0 + gate * u0, mask=mask)
    tl.store(new_v + at3 + d, v1 + gate * u1, mask=mask)
    tl.store(new_v + at3 + 2 * d, v2 + gate * u2, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update_backward(
    pair,
    mixed,
    grad_h,
    grad_v,
    dpair,
    dmixed,
    n,
    d: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    i, c, mask = _place(n, d, BE, BC)
    at3, at6 = i * 3 * d + c, i * 6 * d + c
    u0, u1, u2 = three(pair + at6, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + at6 + d, 2 * d, mask, WIDE)
    q = tl.load(mixed + at3 + d, mask=mask, other=0.0).to(WIDE)
    gate = tl.load(mixed + at3 + 2 * d, mask=mask, other=0.0).to(WIDE)
    g0, g1, g2 = three(grad_v + at3, d, mask, WIDE)
    gh = tl.load(grad_h + i * d + c, mask=mask, other=0.0).to(WIDE)
    kind = dpair.dtype.element_ty
    small = dmixed.dtype.element_ty
    gq = gh * q
    tl.store(dmixed + at3, gh.to(small), mask=mask)
    tl.store(dmixed + at3 + d, (gh * (u0 * w0 + u1 * w1 + u2 * w2)).to(small), mask=mask)
    tl.store(dmixed + at3 + 2 * d, (g0 * u0 + g1 * u1 + g2 * u2).to(small), mask=mask)
    tl.store(dpair + at6, (gq * w0 + gate * g0).to(kind), mask=mask)
    tl.store(dpair + at6 + d, (gq * u0).to(kind), mask=mask)
    tl.store(dpair + at6 + 2 * d, (gq * w1 + gate * g1).to(kind), mask=mask)
    tl.store(dpair + at6 + 3 * d, (gq * u1).to(kind), mask=mask)
    tl.store(dpair + at6 + 4 * d, (gq * w2 + gate * g2).to(kind), mask=mask)
    tl.store(dpair + at6 + 5 * d, (gq * u2).to(kind), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _lengths_push(
    pair, ta, tpair, out, n, d: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    i, c, mask = _place(n, d, BE, BC)
    x, y, z = three(pair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    t0, t1, t2 = three(tpair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    scalar = tl.load(ta + i * d + c, mask=mask, other=0.0)
    length = tl.sqrt(x * x + y * y + z * z + LEAST)
    tl.store(out + i * 2 * d + c, scalar, mask=mask)
    tl.store(out + i * 2 * d + d + c, (x * t0 + y * t1 + z * t2) / length, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _lengths_second(
    pair,
    tpair,
    first_pair,
    first,
    grad_pair,
    grad,
    da,
    dpair,
    dtangent,
    n,
    d: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """da and dpair as in _lengths_backward, of <grad, y> + <first, y'>; dtangent: what goes to
    tpair."""
    i, c, mask = _place(n, d, BE, BC)
    at, of_length = i * 6 * d + c, i * 2 * d + d + c
    kind = dpair.dtype.element_ty
    for part in tl.static_range(3):  # U v: passed on
        u = tl.load(grad_pair + at + part * 2 * d, mask=mask, other=0.0)
        tl.store(dpair + at + part * 2 * d, u.to(kind), mask=mask)
        u = tl.load(first_pair + at + part * 2 * d, mask=mask, other=0.0)
        tl.store(dtangent + at + part * 2 * d, u.to(kind), mask=mask)
    at += d
    x, y, z = three(pair + at, 2 * d, mask, WIDE)
    t0, t1, t2 = three(tpair + at, 2 * d, mask, WIDE)
    w0, w1, w2 = three(grad_pair + at, 2 * d, mask, WIDE)
    inverse = 1.0 / tl.sqrt(x * x + y * y + z * z + LEAST)
    p = tl.load(first + of_length, mask=mask, other=0.0).to(WIDE) * inverse
    g = tl.load(grad + of_length, mask=mask, other=0.0).to(WIDE) * inverse
    g -= p * (x * t0 + y * t1 + z * t2) * inverse * inverse
    tl.store(dpair + at, (w0 + g * x + p * t0).to(kind), mask=mask)
    tl.store(dpair + at + 2 * d, (w1 + g * y + p * t1).to(kind), mask=mask)
    tl.store(dpair + at + 4 * d, (w2 + g * z + p * t2).to(kind), mask=mask)
    w0, w1, w2 = three(first_pair + at, 2 * d, mask, WIDE)
    tl.store(dtangent + at, (w0 + p * x).to(kind), mask=mask)
    tl.store(dtangent + at + 2 * d, (w1 + p * y).to(kind), mask=mask)
    tl.store(dtangent + at + 4 * d, (w2 + p * z).to(kind), mask=mask)
    scalar = tl.load(grad + i * 2 * d + c, mask=mask, other=0.0)
    tl.store(da + i * d + c, scalar, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update_push(
    pair,
    mixed,
    th,
    tv,
    tpair,
    tmixed,
    out_h,
    out_v,
    n,
    d: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    i, c, mask = _place(n, d, BE, BC)
    at, at3, at6 = i * d + c, i * 3 * d + c, i * 6 * d + c
    u0, u1, u2 = three(pair + at6, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + at6 + d, 2 * d, mask, WIDE)
    a0, a1, a2 = three(tpair + at6, 2 * d, mask, WIDE)
    b0, b1, b2 = three(tpair + at6 + d, 2 * d, mask, WIDE)
    q = tl.load(mixed + at3 + d, mask=mask, other=0.0).to(WIDE)
    gate = tl.load(mixed + at3 + 2 * d, mask=mask, other=0.0).to(WIDE)
    tp, tq, tgate = three(tmixed + at3, d, mask, WIDE)
    moved = a0 * w0 + a1 * w1 + a2 * w2 + u0 * b0 + u1 * b1 + u2 * b2
    scalar = tl.load(th + at, mask=mask, other=0.0).to(WIDE) + tp
    scalar += tq * (u0 * w0 + u1 * w1 + u2 * w2) + q * moved
    v0, v1, v2 = three(tv + at3, d, mask, WIDE)
    tl.store(out_h + at, scalar, mask=mask)
    tl.store(out_v + at3, v0 + tgate * u0 + gate * a0, mask=mask)
    tl.store(out_v + at3 + d, v1 + tgate * u1 + gate * a1, mask=mask)
    tl.store(out_v + at3 + 2 * d, v2 + tgate * u2 + gate * a2, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update_second(
    pair,
    mixed,
    tpair,
    tmixed,
    first_h,
    first_v,
    grad_h,
    grad_v,
    dpair,
    dmixed,
    n,
    d: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """As _update_backward, of <grad, y> + <first, y'>."""
    i, c, mask = _place(n, d, BE, BC)
    at3, at6 = i * 3 * d + c, i * 6 * d + c
    u0, u1, u2 = three(pair + at6, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + at6 + d, 2 * d, mask, WIDE)
    a0, a1, a2 = three(tpair + at6, 2 * d, mask, WIDE)
    b0, b1, b2 = three(tpair + at6 + d, 2 * d, mask, WIDE)
    g0, g1, g2 = three(grad_v + at3, d, mask, WIDE)
    p0, p1, p2 = three(first_v + at3, d, mask, WIDE)
    gh = tl.load(grad_h + i * d + c, mask=mask, other=0.0).to(WIDE)
    ph = tl.load(first_h + i * d + c, mask=mask, other=0.0).to(WIDE)
    q = tl.load(mixed + at3 + d, mask=mask, other=0.0).to(WIDE)
    gate = tl.load(mixed + at3 + 2 * d, mask=mask, other=0.0).to(WIDE)
    tq = tl.load(tmixed + at3 + d, mask=mask, other=0.0).to(WIDE)
    tgate = tl.load(tmixed + at3 + 2 * d, mask=mask, other=0.0).to(WIDE)
    kind = dpair.dtype.element_ty
    small = dmixed.dtype.element_ty
    moved = a0 * w0 + a1 * w1 + a2 * w2 + u0 * b0 + u1 * b1 + u2 * b2
    dq = gh * (u0 * w0 + u1 * w1 + u2 * w2) + ph * moved
    dgate = g0 * u0 + g1 * u1 + g2 * u2 + p0 * a0 + p1 * a1 + p2 * a2
    tl.store(dmixed + at3, gh.to(small), mask=mask)
    tl.store(dmixed + at3 + d, dq.to(small), mask=mask)
    tl.store(dmixed + at3 + 2 * d, dgate.to(small), mask=mask)
    gq, pq = gh * q + ph * tq, ph * q
    du = gq * w0 + pq * b0 + gate * g0 + tgate * p0
    tl.store(dpair + at6, du.to(kind), mask=mask)
    tl.store(dpair + at6 + d, (gq * u0 + pq * a0).to(kind), mask=mask)
    du = gq * w1 + pq * b1 + gate * g1 + tgate * p1
    tl.store(dpair + at6 + 2 * d, du.to(kind), mask=mask)
    tl.store(dpair + at6 + 3 * d, (gq * u1 + pq * a1).to(kind), mask=mask)
    du = gq * w2 + pq * b2 + gate * g2 + tgate * p2
    tl.store(dpair + at6 + 4 * d, du.to(kind), mask=mask)
    tl.store(dpair + at6 + 5 * d, (gq * u2 + pq * a2).to(kind), mask=mask)


class _Pair(Twice):
    def value(ctx, a, v, weight):
        (n, d), size = a.shape, tile(TILES, "lengths", a.shape[1])
        out = a.new_empty(n, 2 * d)
        pair = _Pair.product(v, weight)
        _lengths[grid(n, d, size)](a, pair, out, n, d, WIDE=wide(a), **size)
        return (pair, out), (v, weight, pair)

    @staticmethod
    def product(v, weight):
        """(n, 3, d) W^T -> (n, 3, 2d)."""
        n, _, d = v.shape
        return torch.mm(v.reshape(3 * n, d).to(weight.dtype), weight.t()).view(n, 3, 2 * d)

    def gradient(ctx, kept, grad_pair, grad):
        v, weight, _ = kept
        da, dv, rows = _Pair.of_atoms(kept, grad_pair, grad)
        return da, dv, torch.mm(rows.t(), v.view(3 * len(v), -1).to(weight.dtype))

    def pull(ctx, kept, grad_pair, grad):
        return *_Pair.of_atoms(kept, grad_pair, grad)[:2], None

    @staticmethod
    def of_atoms(kept, grad_pair, grad):
        """Gradients of a and v, and of the product (3n, 2d)."""
        v, weight, pair = kept
        n, d = len(pair), pair.shape[2] // 2
        da, dpair, size = grad.new_empty(n, d), torch.empty_like(pair), tile(TILES, "lengths", d)
        given = pair, grad.contiguous(), grad_pair.contiguous()
        _lengths_backward[grid(n, d, size)](*given, da, dpair, n, d, WIDE=wide(grad), **size)
        rows = dpair.view(3 * n, 2 * d)
        return da, torch.mm(rows, weight).view(n, 3, d).to(v.dtype), rows

    def push(ctx, kept, tangents):
        (_, weight, pair), (ta, tv, _) = kept, tangents
        n, d = len(pair), pair.shape[2] // 2
        tpair, out, size = (
            _Pair.product(tv, weight),
            ta.new_empty(n, 2 * d),
            tile(TILES, "lengths", d),
        )
        given = pair, ta.contiguous(), tpair, out
        _lengths_push[grid(n, d, size)](*given, n, d, WIDE=wide(ta), **size)
        return (tpair, out), tpair

    def second(ctx, kept, tangents, first, grads, more):
        v, weight, pair = kept
        n, d = len(pair), pair.shape[2] // 2
        da, size = grads[1].new_empty(n, d), tile(TILES, "lengths", d)
        dpair, dtangent = torch.empty_like(pair), torch.empty_like(pair)
        given = pair, more, *(y.contiguous() for y in (*first, *grads)), da, dpair, dtangent
        _lengths_second[grid(n, d, size)](*given, n, d, WIDE=wide(da), **size)
        rows, moved = dpair.view(3 * n, 2 * d), dtangent.view(3 * n, 2 * d)
        dweight = torch.mm(rows.t(), v.view(3 * n, d).to(weight.dtype))
        dweight.addmm_(moved.t(), tangents[1].reshape(3 * n, d).to(weight.dtype))
        return da, torch.mm(rows, weight).view(n, 3, d).to(v.dtype), dweight


class _Update(Twice):
    def value(ctx, h, v, pair, mixed):
        (n, d), new_h, new_v = h.shape, torch.empty_like(h), torch.empty_like(v)
        size = tile(TILES, "update", d)
        _update[grid(n, d, size)](h, v, pair, mixed, new_h, new_v, n, d, WIDE=wide(h), **size)
        return (new_h, new_v), (pair, mixed)

    def gradient(ctx, kept, grad_h, grad_v):
        pair, mixed = kept
        (n, d), dpair, dmixed = grad_h.shape, torch.empty_like(pair), torch.empty_like(mixed)
        size = tile(TILES, "update", d)
        given = pair, mixed, grad_h.contiguous(), grad_v.contiguous()
        _update_backward[grid(n, d, size)](*given, dpair, dmixed, n, d, WIDE=wide(grad_h), **size)
        return grad_h, grad_v, dpair, dmixed

    def push(ctx, kept, tangents):
        (n, d), size = tangents[0].shape, tile(TILES, "update", tangents[0].shape[1])
        th, tv, *_ = moved = [t.contiguous() for t in tangents]
        new_h, new_v = torch.empty_like(th), torch.empty_like(tv)
        given = *kept, *moved, new_h, new_v
        _update_push[grid(n, d, size)](*given, n, d, WIDE=wide(th), **size)
        return (new_h, new_v), None

    def second(ctx, kept, tangents, first, grads, more):
        pair, mixed = kept
        (n, d), dpair, dmixed = grads[0].shape, torch.empty_like(pair), torch.empty_like(mixed)
        size = tile(TILES, "update", d)
        given = pair, mixed, *(y.contiguous() for y in (*tangents[2:], *first, *grads))
        _update_second[grid(n, d, size)](*given, dpair, dmixed, n, d, WIDE=wide(grads[0]), **size)
        return *grads, dpair, dmixed
