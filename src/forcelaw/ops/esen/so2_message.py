"""eSEN's edge-wise work: gather and turn into edge frames, gates, turn back and sum. See
models/esen.py for the equations.

Legend: n atoms, e edges, C channels, S = (lmax + 1)^2 coefficients degree-major, S_m order-major
(models/so3.py).

    turn        z[e, p, side, c] = (rad + shift)[e, q(p), side, c] sum_j D[e, p, j] y[node, j, c]      side 0 sender, 1 receiver
    turn_sum    x[i, j, c] = sum_e scale_e sum_p D[e, p, j] z[e, p, c]                        over edges into i
    gate        SiLU for l = 0, a[e, p, c] sigmoid(gate[e, l, c]) for l > 0

D is block-diagonal in the degree: frames (e, P) hold its blocks alone, 35 numbers for lmax = 2 and
115 for lmax = 4, mmax = 2, in place of 81 and 475. They are constants here: nothing is
differentiated by positions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_message import FILL, tile, zeros
from ..layer_norm import PROGRAMS

MANY = 30_000  # edges from which a product takes longer than a launch

# as in gated.py; the kernels that sum over the edges of an atom take one edge at a time
TILES = {
    "turn": (4, 64, 4),
    "turn_one": (4, 64, 4),
    "turn_grad": (1, 64, 1),
    "turn_sum": (1, 64, 1),
    "gate": (4, 64, 4),
    "gate_grad": (4, 64, 4),
}


@triton.constexpr_function
def _place(l, m, sign, lmax):
    """Position among the S_m coefficients: m = 0, then for each m > 0 first +m (sign 0), then -m;
    degrees ascending."""
    return l if m == 0 else (lmax + 1) * (2 * m - 1) - m * (m - 1) + sign * (lmax - m + 1) + l - m


@triton.constexpr_function
def _factor(l, m, lmax):
    """Position among the R radial factors: order by order, degrees ascending."""
    return m * (lmax + 1) - m * (m - 1) // 2 + l - m


@triton.constexpr_function
def _block(l, top):
    """Where the block of degree l begins in frames that hold orders up to top."""
    return sum((2 * min(k, top) + 1) * (2 * k + 1) for k in range(l))


@triton.constexpr_function
def _row(m, sign):
    """Row of a block."""
    return 0 if m == 0 else 2 * m - 1 + sign


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
    C: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    SM: tl.constexpr,
    R: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    FM: tl.constexpr,
    SIDES: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
            shifts = shifts + (
                tl.load(shift + number * 2 * C + side * C + c, mask=mc, other=0.0).to(dtype)[
                    None, :
                ],
            )
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
                factor = tl.load(
                    rad + e[:, None] * R * 2 * C + q * 2 * C + side * C + c[None, :],
                    mask=mask,
                    other=0.0,
                ).to(dtype)
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
                            entry = tl.load(
                                entries + _block(l, FM) + _row(m, sign) * (2 * l + 1) + j,
                                mask=me,
                                other=0.0,
                            )
                            acc += entry[:, None] * rows[l * l + j]
                        turned = turned + (acc * factors[_factor(l, m, L) if SIDES == 2 else 0],)
        if SIDES == 1:
            new = ()
            for l in tl.static_range(L + 1):
                new = new + (total[l] + turned[l],)
            total = new
        for p in tl.static_range(SM):
            tl.store(target + p * SIDES * C, turned[p].to(out.dtype.element_ty), mask=mask)
    if SIDES == 1:
        for l in tl.static_range(L + 1):
            tl.store(
                sums + (tl.program_id(0) * (L + 1) + l) * C + c, tl.sum(total[l], axis=0), mask=mc
            )


@triton.jit
def _turn_sum(
    z,
    bias,
    frames,
    scale,
    ptr,
    out,
    C: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    SM: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    FM: tl.constexpr,
    BC: tl.constexpr,
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
                        value = tl.load(
                            z + (e * SM + _place(l, m, sign, L)) * C + c, mask=mc, other=0.0
                        ).to(dtype)
                        if m == 0:
                            value += shifts[l]
                        rows = rows + (value * factor,)
            for j in tl.static_range(2 * l + 1):
                value = total[l * l + j]
                for row in tl.static_range(2 * M + 1):
                    if row < 2 * l + 1:
                        value += (
                            tl.load(frames + e * P + _block(l, FM) + row * (2 * l + 1) + j)
                            * rows[row]
                        )
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
    C: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    SM: tl.constexpr,
    R: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    BC: tl.constexpr,
    FILL: tl.constexpr,
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
            shifts = shifts + (
                tl.load(shift + q * 2 * C + side * C + c, mask=mc, other=0.0).to(dtype),
            )
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
                factor = tl.load(rad + (e * R + q) * 2 * C + side * C + c, mask=mc, other=0.0).to(
                    dtype
                )
                factors = factors + (factor + shifts[q],)
            given = ()
            for p in tl.static_range(SM):
                given = given + (
                    tl.load(grad + (e * SM + p) * 2 * C + side * C + c, mask=mc, other=0.0).to(
                        dtype
                    ),
                )
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
                                w = tl.load(
                                    frames + e * P + _block(l, M) + _row(m, sign) * (2 * l + 1) + j
                                )
                                turned += w * rows[l * l + j]
                                part = part + (w * slope,)
                            dfactor += given[_place(l, m, sign, L)] * turned
                            new = ()
                            for s in tl.static_range(S):
                                if s >= l * l and s < (l + 1) * (l + 1):
                                    new = new + (total[s] + part[s - l * l],)
                                else:
                                    new = new + (total[s],)
                            total = new
                    dfactors = dfactors + (dfactor,)
            new = ()
            for q in tl.static_range(R):
                new = new + (dshifts[q] + dfactors[q],)
            dshifts = new
            for q in tl.static_range(R):
                tl.store(
                    drad + (e * R + q) * 2 * C + side * C + c,
                    dfactors[q].to(drad.dtype.element_ty),
                    mask=mc,
                )
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
    C: tl.constexpr,
    SM: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
    C: tl.constexpr,
    SM: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
                        tl.store(
                            target + (L + _place(l, m, sign, L)) * C,
                            (slope * s).to(kind),
                            mask=mask,
                        )
                        tl.store(given + _place(l, m, sign, L) * C, (x * s).to(kind), mask=mask)
            ends = ends + (slopes[l] * s,)
            ds = ds * s * (1.0 - s)
            tl.store(target + (l - 1) * C, ds.to(kind), mask=mask)
            gates = gates + (ds,)
        new = ()
        for k in tl.static_range(L):
            new = new + (total[k] + gates[k],)
        for k in tl.static_range(L + 1):
            new = new + (total[L + k] + ends[k],)
        total = new
    for k in tl.static_range(2 * L + 1):
        tl.store(
            dbias + (tl.program_id(0) * (2 * L + 1) + k) * C + c, tl.sum(total[k], axis=0), mask=mc
        )


class Shape:
    """Sizes that follow from lmax and mmax. frame_mmax: orders held by the frames, which may be
    more than are used."""

    def __init__(self, lmax: int, mmax: int, frame_mmax: int | None = None):
        self.l, self.m, self.fm = lmax, mmax, mmax if frame_mmax is None else frame_mmax
        self.degrees = [lmax - m + 1 for m in range(mmax + 1)]
        self.s, self.r = (lmax + 1) ** 2, sum(self.degrees)
        self.sm = self.degrees[0] + 2 * sum(self.degrees[1:])
        self.p = sum((2 * min(l, self.fm) + 1) * (2 * l + 1) for l in range(lmax + 1))


def turn(
    shape: Shape,
    y: Tensor,
    frames: Tensor,
    rad: Tensor,
    shift: Tensor,
    sender: Tensor,
    receiver: Tensor,
) -> Tensor:
    """y (n, S, C), frames (e, P), rad (e, R 2C) and shift (R 2C,) to be added to it -> z (e, S_m
    2C) in the dtype of rad."""
    e, c = len(sender), y.shape[2]
    out = rad.new_empty(e, shape.sm * 2 * c)
    size = tile(TILES, "turn", c)
    blocks = triton.cdiv(e, size["BE"])
    _turn[blocks, triton.cdiv(c, size["BC"]), 2](
        y,
        frames,
        rad,
        shift,
        frames,
        sender,
        receiver,
        out,
        out,
        e,
        blocks,
        blocks,
        c,
        P=shape.p,
        S=shape.s,
        SM=shape.sm,
        R=shape.r,
        L=shape.l,
        M=shape.m,
        FM=shape.fm,
        SIDES=2,
        **size,
    )
    return out


def turn_grad(
    shape: Shape,
    y: Tensor,
    frames: Tensor,
    rad: Tensor,
    shift: Tensor,
    grad: Tensor,
    ptr: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`turn` for y, rad and shift."""
    n, _, c = y.shape
    dy, drad, dshift = (
        y.new_empty(2, *y.shape),
        torch.empty_like(rad),
        y.new_empty(n, shape.r * 2 * c),
    )
    size = tile(TILES, "turn_grad", c)
    _turn_grad[n + FILL, triton.cdiv(c, size["BC"]), 2](
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
        len(order),
        c,
        P=shape.p,
        S=shape.s,
        SM=shape.sm,
        R=shape.r,
        L=shape.l,
        M=shape.m,
        BC=size["BC"],
        FILL=FILL,
        num_warps=size["num_warps"],
    )
    return dy.sum(0), drad, dshift.sum(0)


def turn_sum(
    shape: Shape, z: Tensor, frames: Tensor, scale: Tensor, ptr: Tensor, bias: Tensor
) -> Tensor:
    """z (e, S_m C), scale (e,), bias ((lmax + 1) C,) of m = 0 -> x (n, S, C) in the dtype of
    frames."""
    n, c = len(ptr) - 1, z.shape[1] // shape.sm
    out = frames.new_empty(n, shape.s, c)
    size = tile(TILES, "turn_sum", c)
    _turn_sum[n, triton.cdiv(c, size["BC"])](
        z,
        bias,
        frames,
        scale,
        ptr,
        out,
        c,
        P=shape.p,
        S=shape.s,
        SM=shape.sm,
        L=shape.l,
        M=shape.m,
        FM=shape.fm,
        BC=size["BC"],
        num_warps=size["num_warps"],
    )
    return out


def turn_sum_grad(
    shape: Shape, grad: Tensor, frames: Tensor, scale: Tensor, receiver: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`turn_sum` for z (gather, turn, scale) and bias."""
    e, c = len(receiver), grad.shape[2]
    out = grad.new_empty(e, shape.sm * c, dtype=dtype)
    size = tile(TILES, "turn_one", c)
    blocks = triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    sums = grad.new_empty(programs, (shape.l + 1) * c)
    _turn[programs, triton.cdiv(c, size["BC"]), 1](
        grad,
        frames,
        frames,
        frames,
        scale,
        receiver,
        receiver,
        out,
        sums,
        e,
        blocks,
        programs,
        c,
        P=shape.p,
        S=shape.s,
        SM=shape.sm,
        R=shape.r,
        L=shape.l,
        M=shape.m,
        FM=shape.fm,
        SIDES=1,
        **size,
    )
    return out, sums.sum(0)


def gate(shape: Shape, a: Tensor, bias: Tensor) -> Tensor:
    """a (e, (lmax + S_m) C): lmax gates, then coefficients; bias ((2 lmax + 1) C,) of gates and m =
    0 -> (e, S_m C)."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    out = a.new_empty(e, shape.sm * c)
    size = tile(TILES, "gate", c)
    _gate[triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"])](
        a, bias, out, e, c, SM=shape.sm, L=shape.l, M=shape.m, **size
    )
    return out


def gate_grad(shape: Shape, a: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`gate` for a and bias; ``grad`` becomes what gate gives."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    da = torch.empty_like(a)
    size = tile(TILES, "gate_grad", c)
    blocks = triton.cdiv(e, size["BE"])
    programs = max(1, min(PROGRAMS, blocks))
    dbias = bias.new_empty(programs, len(bias))
    _gate_grad[programs, triton.cdiv(c, size["BC"])](
        a, bias, grad, da, dbias, e, blocks, programs, c, SM=shape.sm, L=shape.l, M=shape.m, **size
    )
    return da, dbias.sum(0)


def _convolve(
    x: Tensor, weights: list[Tensor], columns_in: list[int], columns_out: list[int], out: Tensor
) -> None:
    """One product per order on slices of one buffer, written in place of a concatenation. weights
    (out, in). No bias: torch would first write it, then read it."""
    for k, w in enumerate(weights):
        torch.mm(
            x[:, columns_in[k] : columns_in[k + 1]],
            w.t(),
            out=out[:, columns_out[k] : columns_out[k + 1]],
        )


def _transposed(weights: list[Tensor], edges: int) -> list[Tensor]:
    """Copies where they pay for their launches: tensor cores take TF32 only where the summed axis
    is contiguous."""
    return [w.t().contiguous() if edges > MANY else w.t() for w in weights]


def _columns(
    shape: Shape, weights1: list[Tensor], weights2: list[Tensor]
) -> tuple[list[int], list[int], list[int]]:
    """Column bounds of the orders in z, in conv1's output (gates with m = 0), and after the
    gates."""

    def bounds(sizes: list[int]) -> list[int]:
        out = [0]
        for s in sizes:
            out.append(out[-1] + s)
        return out

    return (
        bounds([w.shape[1] for w in weights1]),
        bounds([w.shape[0] for w in weights1]),
        bounds([w.shape[0] for w in weights2]),
    )


@torch.library.custom_op("forcelaw::so2_message", mutates_args=())
def _so2_message(
    y: Tensor,
    frames: Tensor,
    scale: Tensor,
    rad: Tensor,
    shift: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    lmax: int,
    mmax: int,
    weights1: list[Tensor],
    bias1: Tensor,
    weights2: list[Tensor],
    bias2: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = Shape(lmax, mmax)
    z_at, a_at, q_at = _columns(shape, weights1, weights2)
    z = turn(shape, y, frames, rad, shift, sender, receiver)
    a = z.new_empty(len(sender), a_at[-1])
    _convolve(z, weights1, z_at, a_at, a)
    g = gate(shape, a, bias1)
    q = g.new_empty(len(sender), q_at[-1])
    _convolve(g, weights2, q_at, q_at, q)
    return turn_sum(shape, q, frames, scale, ptr, bias2), a


@_so2_message.register_fake
def _(
    y,
    frames,
    scale,
    rad,
    shift,
    sender,
    receiver,
    ptr,
    order,
    lmax,
    mmax,
    weights1,
    bias1,
    weights2,
    bias2,
):
    return torch.empty_like(y), rad.new_empty(rad.shape[0], sum(w.shape[0] for w in weights1))


@torch.library.custom_op("forcelaw::so2_message_backward", mutates_args=())
def _so2_message_backward(
    grad: Tensor,
    a: Tensor,
    y: Tensor,
    frames: Tensor,
    scale: Tensor,
    rad: Tensor,
    shift: Tensor,
    bias1: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    lmax: int,
    mmax: int,
    weights1: list[Tensor],
    weights2: list[Tensor],
) -> list[Tensor]:
    shape = Shape(lmax, mmax)
    z_at, a_at, q_at = _columns(shape, weights1, weights2)
    dq, dbias2 = turn_sum_grad(shape, grad.contiguous(), frames, scale, receiver, rad.dtype)
    g = torch.empty_like(dq)
    _convolve(
        dq, _transposed(weights2, len(dq)), q_at, q_at, g
    )  # the gradient of the gated numbers
    da, dbias1 = gate_grad(
        shape, a, bias1, g
    )  # g is the gated numbers, again: cheaper than to keep them
    d2 = [
        dq[:, q_at[k] : q_at[k + 1]].t() @ g[:, q_at[k] : q_at[k + 1]] for k in range(len(weights2))
    ]
    del dq, g
    z = turn(shape, y, frames, rad, shift, sender, receiver)
    d1 = [
        da[:, a_at[k] : a_at[k + 1]].t() @ z[:, z_at[k] : z_at[k + 1]] for k in range(len(weights1))
    ]
    _convolve(da, _transposed(weights1, len(da)), a_at, z_at, z)  # now the gradient of z
    del da
    dy, drad, dshift = turn_grad(shape, y, frames, rad, shift, z, ptr, order)
    return [dy, drad, dshift, dbias1, dbias2, *d1, *d2]


@_so2_message_backward.register_fake
def _(
    grad,
    a,
    y,
    frames,
    scale,
    rad,
    shift,
    bias1,
    sender,
    receiver,
    ptr,
    order,
    lmax,
    mmax,
    weights1,
    weights2,
):
    return [
        torch.empty_like(y),
        torch.empty_like(rad),
        torch.empty_like(shift),
        torch.empty_like(bias1),
        bias1.new_empty(weights2[0].shape[0]),
        *(rad.new_empty(w.shape) for w in (*weights1, *weights2)),
    ]


def _save(ctx, inputs, output):
    (
        y,
        frames,
        scale,
        rad,
        shift,
        sender,
        receiver,
        ptr,
        order,
        lmax,
        mmax,
        weights1,
        bias1,
        weights2,
        _,
    ) = inputs
    ctx.sizes = lmax, mmax, len(weights1)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else torch fills an array of its size with zeros
    ctx.save_for_backward(
        output[1],
        y,
        frames,
        scale,
        rad,
        shift,
        bias1,
        sender,
        receiver,
        ptr,
        order,
        *weights1,
        *weights2,
    )


def _differentiate(ctx, grad, _):
    lmax, mmax, count = ctx.sizes
    *tensors, weights = *ctx.saved_tensors[:11], ctx.saved_tensors[11:]
    dy, drad, dshift, db1, db2, *dw = _so2_message_backward(
        grad, *tensors, lmax, mmax, weights[:count], weights[count:]
    )
    return (
        dy,
        None,
        None,
        drad,
        dshift,
        None,
        None,
        None,
        None,
        None,
        None,
        dw[:count],
        db1,
        dw[count:],
        db2,
    )


_so2_message.register_autograd(_differentiate, setup_context=_save)


def so2_message(
    y: Tensor,
    frames: Tensor,
    scale: Tensor,
    rad: Tensor,
    shift: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    lmax: int,
    mmax: int,
    weights1: list[Tensor],
    bias1: Tensor,
    weights2: list[Tensor],
    bias2: Tensor,
) -> Tensor:
    """A whole eSEN message (n, S, C): turn, convolve, gate, convolve, turn back, sum. Gradients for
    y, rad, weights, biases.

    y (n, S, C); frames (e, P); scale (e,) envelope times 1/sqrt(k); rad (e, R 2C), whose dtype is
    that of the products, and its bias shift (R 2C,); weights1, weights2 one matrix (out, in) per
    order, biases for m = 0; ptr, order from ``GraphBatch.segments``. Biases are added, and their
    gradients summed, by kernels that pass there anyway.
    """
    kind = rad.dtype
    out, _ = _so2_message(
        y,
        frames,
        scale,
        rad.contiguous(),
        shift,
        sender,
        receiver,
        ptr,
        order,
        lmax,
        mmax,
        [w.to(kind) for w in weights1],
        bias1,
        [w.to(kind) for w in weights2],
        bias2,
    )
    return out


@torch.library.custom_op("forcelaw::spread", mutates_args=())
def _spread(
    z: Tensor,
    bias: Tensor,
    frames: Tensor,
    scale: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    lmax: int,
    mmax: int,
    frame_mmax: int,
) -> Tensor:
    return turn_sum(Shape(lmax, mmax, frame_mmax), z, frames, scale, ptr, bias)


@_spread.register_fake
def _(z, bias, frames, scale, receiver, ptr, lmax, mmax, frame_mmax):
    shape = Shape(lmax, mmax, frame_mmax)
    return frames.new_empty(ptr.shape[0] - 1, shape.s, z.shape[1] // shape.sm)


@torch.library.custom_op("forcelaw::spread_backward", mutates_args=())
def _spread_backward(
    grad: Tensor,
    z: Tensor,
    frames: Tensor,
    scale: Tensor,
    receiver: Tensor,
    lmax: int,
    mmax: int,
    frame_mmax: int,
) -> tuple[Tensor, Tensor]:
    return turn_sum_grad(
        Shape(lmax, mmax, frame_mmax), grad.contiguous(), frames, scale, receiver, z.dtype
    )


@_spread_backward.register_fake
def _(grad, z, frames, scale, receiver, lmax, mmax, frame_mmax):
    return torch.empty_like(z), grad.new_empty((lmax + 1) * grad.shape[2])


def _save_spread(ctx, inputs, output):
    z, _, frames, scale, receiver, _, *ctx.sizes = inputs
    ctx.save_for_backward(z, frames, scale, receiver)


def _differentiate_spread(ctx, grad):
    return (
        *_spread_backward(grad, *ctx.saved_tensors, *ctx.sizes),
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    )


_spread.register_autograd(_differentiate_spread, setup_context=_save_spread)


def spread(
    z: Tensor,
    bias: Tensor,
    frames: Tensor,
    scale: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    lmax: int,
    mmax: int,
    frame_mmax: int,
) -> Tensor:
    """Sum over edges of turned-back z (e, S_m C), with bias ((lmax + 1) C,) of m = 0: (n, S, C).
    frames hold orders up to frame_mmax >= mmax."""
    return _spread(z.contiguous(), bias, frames, scale, receiver, ptr, lmax, mmax, frame_mmax)
