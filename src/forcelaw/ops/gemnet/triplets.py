"""Kernels of GemNet-OC's sums over triplets, which factorise into moments of the edges into each
atom (sums.py). Quadruplets: quadruplets.py.

Legend: n atoms, e edges c -> a in canonical order (EdgeIndex), ptr (n + 1,) the edges into each
atom; y (e, S^2) harmonics of mean square 1; f radial weights a degree; channels t or q. Nothing
gets a gradient by y: gradients by positions take plain torch.

    outer_sum    out[a, k] = sum_c w[ca, k] x[ca]                    moments, messages to atoms
    triplets     out[ca, f] = sum_l b[ca, f, l] sum_{b != c} P_l(cos cab) x[ba]
                 b counts (2l+1) P_l
    cosines      the same where x depends on f and l, and b is 1

One program per atom and block of channels, a channel a lane, harmonics unrolled: the moments of an
atom stay in registers from the loop over its edges that collects them to the one that reads them.
Sums over channels that end on an edge give a row for each block of channels. Edges of no atom
(padding) get zeros, in outputs and in gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..register import Differentiable
from ..switch import constexpr, tl, triton
from ..tiles import FILL, FILL_PROGRAMS, at_least_float32, zeros

# without vectors in wide loads and stores a lane has one channel; four would be four times the
# registers of the sums of an atom
_jit = triton.jit(do_not_specialize_on_alignment=["out", "grad", "table", "dtable"])

# channels, warps
TILES = dict.fromkeys(("outer", "triplets", "short", "read"), (32, 1)) | {"cosines": (16, 1)}


@triton.constexpr_function
def _lanes(number):
    """Lanes for so many radial weights."""
    return max(2, triton.next_power_of_2(number))


@triton.jit
def _clear(out, ptr, n, n_edges, COLUMNS: constexpr):
    """Zero the rows of padding edges in out (e, COLUMNS)."""
    share = (tl.program_id(0) - n) * tl.num_programs(1) + tl.program_id(1)
    for e in range(tl.load(ptr + n).to(tl.int64) + share, n_edges, tl.num_programs(1) * FILL):
        for k in tl.static_range(0, COLUMNS, 128):
            column = k + tl.arange(0, 128)
            tl.store(
                out + e * COLUMNS + column,
                tl.zeros([128], tl.float32).to(out.dtype.element_ty),
                mask=column < COLUMNS,
            )


@_jit
def _outer(w, x, ptr, out, K: constexpr, C: constexpr, BC: constexpr):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    BK: constexpr = _lanes(K)
    k = tl.arange(0, BK)
    dtype = out.dtype.element_ty
    total = tl.zeros([BK, BC], dtype)
    for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
        weight = tl.load(w + e * K + k, mask=k < K, other=0.0).to(dtype)
        total += weight[:, None] * tl.load(x + e * C + c, mask=c < C, other=0.0).to(dtype)[None, :]
    tl.store(
        out + (i * K + k[:, None]) * C + c[None, :], total, mask=(k < K)[:, None] & (c < C)[None, :]
    )


@_jit
def _outer_grad(
    w,
    x,
    ptr,
    grad,
    dw,
    dx,
    n,
    n_edges,
    K: constexpr,
    C: constexpr,
    BC: constexpr,
    WEIGHTS: constexpr,
):
    pid = tl.program_id(0)
    BK: constexpr = _lanes(K)
    dw += tl.program_id(1).to(tl.int64) * n_edges * K
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C)
        if WEIGHTS:
            k = tl.arange(0, BK)
            for e in range(tl.load(ptr + n).to(tl.int64) + pid - n, n_edges, FILL):
                tl.store(dw + e * K + k, tl.zeros([BK], dw.dtype.element_ty), mask=k < K)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        k = tl.arange(0, BK)
        dtype = grad.dtype.element_ty
        g = tl.load(
            grad + (i * K + k[:, None]) * C + c[None, :],
            mask=(k < K)[:, None] & (c < C)[None, :],
            other=0.0,
        )
        for e in range(tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)):
            weight = tl.load(w + e * K + k, mask=k < K, other=0.0).to(dtype)
            kind = dx.dtype.element_ty
            tl.store(dx + e * C + c, tl.sum(weight[:, None] * g, axis=0).to(kind), mask=c < C)
            if WEIGHTS:
                row = tl.load(x + e * C + c, mask=c < C, other=0.0).to(dtype)
                tl.store(dw + e * K + k, tl.sum(g * row[None, :], axis=1), mask=k < K)


@triton.jit
def _moments(x, y, low, high, c, mc, C: constexpr, S: constexpr, BC: constexpr):
    """sum over edges low .. high of y[e, s] x[e, c]: a tuple of S^2 vectors of BC channels."""
    dtype = y.dtype.element_ty
    total = zeros(S * S, BC, dtype)
    for e in range(low, high):
        row = tl.load(x + e * C + c, mask=mc, other=0.0).to(dtype)
        new = ()
        for s in tl.static_range(S * S):
            new = new + (total[s] + tl.load(y + e * S * S + s) * row,)
        total = new
    return total


@_jit
def _triplets(
    b, y, x, ptr, out, n, n_edges, F: constexpr, S: constexpr, C: constexpr, BC: constexpr
):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F * C)
    else:
        i = pid.to(tl.int64)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        BF: constexpr = _lanes(F)
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
            tl.store(
                out + (e * F + f[:, None]) * C + c[None, :],
                value.to(out.dtype.element_ty),
                mask=mf[:, None] & mc[None, :],
            )


@_jit
def _triplets_grad(
    b, y, x, ptr, grad, db, dx, n, n_edges, F: constexpr, S: constexpr, C: constexpr, BC: constexpr
):
    """db (blocks, e, F, S) and dx (e, C), both of the dtype of y."""
    pid = tl.program_id(0)
    BF: constexpr = _lanes(F)
    db += tl.program_id(1).to(tl.int64) * n_edges * F * S
    if pid >= n:
        _clear(dx, ptr, n, n_edges, C)
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
        dtotal = zeros(S * S, BC, dtype)
        for e in range(low, high):
            own = tl.load(x + e * C + c, mask=mc, other=0.0).to(dtype)
            g = tl.load(
                grad + (e * F + f[:, None]) * C + c[None, :],
                mask=mf[:, None] & mc[None, :],
                other=0.0,
            ).to(dtype)
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
def _cosines(b, y, ptr, out, n, n_edges, F: constexpr, S: constexpr, BC: constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(out, ptr, n, n_edges, F)
    else:
        i = pid.to(tl.int64)
        f = tl.program_id(1) * BC + tl.arange(0, BC)
        mf = f < F
        dtype = y.dtype.element_ty
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        total = zeros(S * S, BC, dtype)
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
                own = tl.load(b + (e * F + f) * S + l, mask=mf, other=0.0).to(dtype)
                value -= (2 * l + 1) * own
                for m in tl.static_range(2 * l + 1):
                    value += tl.load(y + e * S * S + l * l + m) * total[l * l + m]
            tl.store(out + e * F + f, value.to(out.dtype.element_ty), mask=mf)


@_jit
def _cosines_grad(y, ptr, grad, db, n, n_edges, F: constexpr, S: constexpr, BC: constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        _clear(db, ptr, n, n_edges, F * S)
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


def _tile(kernel: str, channels: int) -> tuple[int, dict[str, int]]:
    """Blocks of channels; BC and num_warps."""
    most, warps = TILES[kernel]
    size = min(most, max(16, triton.next_power_of_2(channels)))
    return triton.cdiv(channels, size), {"BC": size, "num_warps": warps}


def _degrees(y: Tensor) -> int:
    """S of harmonics (e, S^2)."""
    return round(y.shape[1] ** 0.5)


def _squashed(parts: Tensor) -> Tensor:
    """(blocks, ...) -> (...): the sum over blocks of channels."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)


# ---- outer_sum


def outer_sum(w: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    """sum over the edges into each atom of w (e, k) times x (e, c): (n, k, c), at least in
    float32."""
    return _OuterSum.apply(at_least_float32(w), x.contiguous(), ptr)


class _OuterSum(Differentiable):
    def forward(ctx, w, x, ptr):
        n, k, c = len(ptr) - 1, w.shape[1], x.shape[1]
        out, (blocks, size) = w.new_empty(n, k, c), _tile("outer", c)
        _outer[n, blocks](w, x, ptr, out, k, c, **size)
        ctx.save_for_backward(w, x, ptr)
        return out

    def backward(ctx, grad):
        (w, x, ptr), weights = ctx.saved_tensors, ctx.needs_input_grad[0]
        n, (e, k), c = len(ptr) - 1, w.shape, x.shape[1]
        blocks, size = _tile("outer", c)
        dw, dx = w.new_empty(blocks, e if weights else 0, k), torch.empty_like(x)
        given = w, x, ptr, grad.contiguous(), dw, dx
        _outer_grad[n + FILL_PROGRAMS, blocks](*given, n, e, k, c, WEIGHTS=weights, **size)
        return _squashed(dw) if weights else None, dx, None


# ---- triplets


def triplets(b: Tensor, y: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    """sum_l b[e, f, l] (sum_m y[e, lm] sum_{e'} y[e', lm] x[e'] - (2l+1) x[e]) over edges e' into
    the atom of e: (e, f, t).

    b (e, f, S), y (e, S^2), x (e, t), whose dtype the result has.
    """
    return _Triplets.apply(b.contiguous(), at_least_float32(y), x.contiguous(), ptr)


class _Triplets(Differentiable):
    def forward(ctx, b, y, x, ptr):
        n, (e, f, s), c = len(ptr) - 1, b.shape, x.shape[1]
        out, (blocks, size) = x.new_empty(e, f, c), _tile("triplets", c)
        _triplets[n + FILL_PROGRAMS, blocks](b, y, x, ptr, out, n, e, f, s, c, **size)
        ctx.save_for_backward(b, y, x, ptr)
        return out

    def backward(ctx, grad):
        b, y, x, ptr = ctx.saved_tensors
        n, (e, f, s), c = len(ptr) - 1, b.shape, x.shape[1]
        blocks, size = _tile("triplets", c)
        db, dx = y.new_empty(blocks, e, f, s), y.new_empty(e, c)
        given = b, y, x, ptr, grad.contiguous(), db, dx
        _triplets_grad[n + FILL_PROGRAMS, blocks](*given, n, e, f, s, c, **size)
        return _squashed(db).to(b.dtype), None, dx.to(x.dtype), None


# ---- cosines


def cosines(b: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    """sum_l (sum_m y[e, lm] sum_{e'} y[e', lm] b[e', f, l] - (2l+1) b[e, f, l]) over edges e' into
    the atom of e: (e, f)."""
    return _Cosines.apply(b.contiguous(), at_least_float32(y), ptr)


class _Cosines(Differentiable):
    def forward(ctx, b, y, ptr):
        n, (e, f, s), (blocks, size) = len(ptr) - 1, b.shape, _tile("cosines", b.shape[1])
        out = b.new_empty(e, f)
        _cosines[n + FILL_PROGRAMS, blocks](b, y, ptr, out, n, e, f, s, **size)
        ctx.save_for_backward(y, ptr)
        return out

    def backward(ctx, grad):
        y, ptr = ctx.saved_tensors
        n, (e, f), s = len(ptr) - 1, grad.shape, _degrees(y)
        db, (blocks, size) = grad.new_empty(e, f, s), _tile("cosines", f)
        given = y, ptr, grad.contiguous(), db, n, e, f, s
        _cosines_grad[n + FILL_PROGRAMS, blocks](*given, **size)
        return db, None, None
