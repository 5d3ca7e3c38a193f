"""eSEN's edge-wise work: gather and turn into edge frames, gates, turn back and sum. See models/esen.py for the equations.

Legend: n atoms, e edges, C channels, S = (lmax + 1)^2 coefficients degree-major, S_m order-major (models/so3.py).

    turn        z[e, p, side, c] = rad[e, q(p), side, c] sum_j D[e, p, j] y[node, j, c]      side 0 sender, 1 receiver
    turn_sum    x[i, j, c] = sum_e scale_e sum_p D[e, p, j] z[e, p, c]                        over edges into i
    gate        SiLU for l = 0, a[e, p, c] sigmoid(gate[e, l, c]) for l > 0

D is block-diagonal in the degree: frames (e, P) hold its blocks alone, 35 numbers for lmax = 2 and 115 for lmax = 4,
mmax = 2, in place of 81 and 475. They are constants here: nothing is differentiated by positions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated import FILL, tile

# as in gated.py; the kernels that sum over the edges of an atom take one edge at a time
TILES = {"turn": (4, 64, 4), "turn_one": (4, 64, 4), "turn_grad": (1, 64, 1), "turn_sum": (1, 64, 1), "gate": (4, 64, 4)}


@triton.jit
def _turn(y, frames, rad, scale, sender, receiver, out, n_edges, C: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
          SM: tl.constexpr, R: tl.constexpr, L: tl.constexpr, M: tl.constexpr, FM: tl.constexpr, SIDES: tl.constexpr,
          BE: tl.constexpr, BC: tl.constexpr):
    """One block of edges, channels and one side; SIDES = 1: the receiver alone, with scale (e,) in place of rad."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    side = tl.program_id(2)
    me = e < n_edges
    mask = me[:, None] & (c < C)[None, :]
    if SIDES == 1 or side == 1:
        node = tl.load(receiver + e, mask=me, other=0)
    else:
        node = tl.load(sender + e, mask=me, other=0)
    dtype = y.dtype.element_ty
    y += node[:, None] * S * C + c[None, :]
    frames += e * P
    out += e[:, None] * SM * SIDES * C + side * C + c[None, :]
    if SIDES == 2:
        rad += e[:, None] * R * 2 * C + side * C + c[None, :]
    else:
        factor = tl.load(scale + e, mask=me, other=0.0)[:, None]
    for l in tl.static_range(L + 1):
        rows = ()
        for j in tl.static_range(2 * l + 1):
            rows = rows + (tl.load(y + (l * l + j) * C, mask=mask, other=0.0),)
        block = l * (2 * l - 1) * (2 * l + 1) // 3
        if l > FM:
            block = (FM + 1) * (2 * FM + 1) * (2 * FM + 3) // 3 + (2 * FM + 1) * (l * l - (FM + 1) * (FM + 1))
        for m in tl.static_range(M + 1):
            if m <= l:
                if SIDES == 2:
                    q = m * (L + 1) - m * (m - 1) // 2 + l - m
                    factor = tl.load(rad + q * SIDES * C, mask=mask, other=0.0).to(dtype)
                for sign in tl.static_range(2):
                    if m > 0 or sign == 0:
                        p = l
                        row = 0
                        if m > 0:
                            p = (L + 1) * (2 * m - 1) - m * (m - 1) + sign * (L - m + 1) + l - m
                            row = 2 * m - 1 + sign
                        acc = tl.zeros([BE, BC], dtype)
                        for j in tl.static_range(2 * l + 1):
                            acc += tl.load(frames + block + row * (2 * l + 1) + j, mask=me, other=0.0)[:, None] * rows[j]
                        tl.store(out + p * SIDES * C, (acc * factor).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _turn_sum(z, frames, scale, ptr, out, C: tl.constexpr, P: tl.constexpr, S: tl.constexpr, SM: tl.constexpr, L: tl.constexpr,
              M: tl.constexpr, FM: tl.constexpr, BC: tl.constexpr):
    """One atom and block of channels."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < C
    dtype = out.dtype.element_ty
    low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
    total = ()
    for _ in tl.static_range(S):
        total = total + (tl.zeros([BC], dtype),)
    for e in range(low, high):
        factor = tl.load(scale + e)
        new = ()
        for l in tl.static_range(L + 1):
            block = l * (2 * l - 1) * (2 * l + 1) // 3
            if l > FM:
                block = (FM + 1) * (2 * FM + 1) * (2 * FM + 3) // 3 + (2 * FM + 1) * (l * l - (FM + 1) * (FM + 1))
            rows = ()
            for m in tl.static_range(M + 1):
                for sign in tl.static_range(2):
                    if m <= l and (m > 0 or sign == 0):
                        p = l
                        if m > 0:
                            p = (L + 1) * (2 * m - 1) - m * (m - 1) + sign * (L - m + 1) + l - m
                        rows = rows + (tl.load(z + (e * SM + p) * C + c, mask=mc, other=0.0).to(dtype) * factor,)
            for j in tl.static_range(2 * l + 1):
                value = total[l * l + j]
                for row in tl.static_range(2 * M + 1):
                    if row < 2 * l + 1:
                        value += tl.load(frames + e * P + block + row * (2 * l + 1) + j) * rows[row]
                new = new + (value,)
        total = new
    for j in tl.static_range(S):
        tl.store(out + (i * S + j) * C + c, total[j], mask=mc)


@triton.jit
def _turn_grad(y, frames, rad, grad, order, ptr, dy, drad, n, n_edges, C: tl.constexpr, P: tl.constexpr,
               S: tl.constexpr, SM: tl.constexpr, R: tl.constexpr, L: tl.constexpr, M: tl.constexpr,
               BC: tl.constexpr, FILL: tl.constexpr):
    """Gradients of _turn for one atom, block of channels and side: its edges out (side 0, through ``order``) or in (1)."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    side = tl.program_id(2)
    mc = c < C
    dtype = y.dtype.element_ty
    if pid >= n:  # padding edges: no atom visits them
        for k in range(tl.load(ptr + n) + pid - n, n_edges, FILL):
            e = tl.load(order + k).to(tl.int64)
            for q in tl.static_range(R):
                tl.store(drad + (e * R + q) * 2 * C + side * C + c, tl.zeros([BC], tl.float32).to(drad.dtype.element_ty), mask=mc)
    else:
        i = pid.to(tl.int64)
        rows = ()
        total = ()
        for j in tl.static_range(S):
            rows = rows + (tl.load(y + (i * S + j) * C + c, mask=mc, other=0.0),)
            total = total + (tl.zeros([BC], dtype),)
        low, high = tl.load(ptr + i).to(tl.int64), tl.load(ptr + i + 1).to(tl.int64)
        for e in range(low, high):
            if side == 0:
                e = tl.load(order + e).to(tl.int64)
            new = ()
            for l in tl.static_range(L + 1):
                block = l * (2 * l - 1) * (2 * l + 1) // 3
                if l > M:
                    block = (M + 1) * (2 * M + 1) * (2 * M + 3) // 3 + (2 * M + 1) * (l * l - (M + 1) * (M + 1))
                part = ()
                for j in tl.static_range(2 * l + 1):
                    part = part + (total[l * l + j],)
                for m in tl.static_range(M + 1):
                    if m <= l:
                        q = m * (L + 1) - m * (m - 1) // 2 + l - m
                        at = (e * R + q) * 2 * C + side * C + c
                        factor = tl.load(rad + at, mask=mc, other=0.0).to(dtype)
                        dfactor = tl.zeros([BC], dtype)
                        for sign in tl.static_range(2):
                            if m > 0 or sign == 0:
                                p = l
                                row = 0
                                if m > 0:
                                    p = (L + 1) * (2 * m - 1) - m * (m - 1) + sign * (L - m + 1) + l - m
                                    row = 2 * m - 1 + sign
                                g = tl.load(grad + (e * SM + p) * 2 * C + side * C + c, mask=mc, other=0.0).to(dtype)
                                turned = tl.zeros([BC], dtype)
                                next_part = ()
                                for j in tl.static_range(2 * l + 1):
                                    w = tl.load(frames + e * P + block + row * (2 * l + 1) + j)
                                    turned += w * rows[l * l + j]
                                    next_part = next_part + (part[j] + w * (g * factor),)
                                part = next_part
                                dfactor += g * turned
                        tl.store(drad + at, dfactor.to(drad.dtype.element_ty), mask=mc)
                new = new + part
            total = new
        for j in tl.static_range(S):
            tl.store(dy + ((side * n + i) * S + j) * C + c, total[j], mask=mc)


@triton.jit
def _gate(a, out, n_edges, C: tl.constexpr, SM: tl.constexpr, L: tl.constexpr, M: tl.constexpr, BE: tl.constexpr,
          BC: tl.constexpr):
    """a (e, (L + S_m) C): gates, then coefficients -> out (e, S_m C)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (e < n_edges)[:, None] & (c < C)[None, :]
    gates = a + e[:, None] * (L + SM) * C + c[None, :]
    values = gates + L * C
    out += e[:, None] * SM * C + c[None, :]
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(values, mask=mask, other=0.0).to(wide)
    tl.store(out, (x / (1.0 + tl.exp(-x))).to(out.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        s = 1.0 / (1.0 + tl.exp(-tl.load(gates + (l - 1) * C, mask=mask, other=0.0).to(wide)))
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    p = l
                    if m > 0:
                        p = (L + 1) * (2 * m - 1) - m * (m - 1) + sign * (L - m + 1) + l - m
                    x = tl.load(values + p * C, mask=mask, other=0.0).to(wide)
                    tl.store(out + p * C, (x * s).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gate_grad(a, grad, da, n_edges, C: tl.constexpr, SM: tl.constexpr, L: tl.constexpr, M: tl.constexpr, BE: tl.constexpr,
               BC: tl.constexpr):
    """Gradient of _gate; writes what _gate had written in the place of ``grad``."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (e < n_edges)[:, None] & (c < C)[None, :]
    gates = a + e[:, None] * (L + SM) * C + c[None, :]
    values = gates + L * C
    dgates = da + e[:, None] * (L + SM) * C + c[None, :]
    dvalues = dgates + L * C
    grad += e[:, None] * SM * C + c[None, :]
    kind = da.dtype.element_ty
    wide = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(values, mask=mask, other=0.0).to(wide)
    s = 1.0 / (1.0 + tl.exp(-x))
    g = tl.load(grad, mask=mask, other=0.0).to(wide)
    tl.store(dvalues, (g * s * (1.0 + x * (1.0 - s))).to(kind), mask=mask)
    tl.store(grad, (x * s).to(kind), mask=mask)
    for l in tl.static_range(1, L + 1):
        s = 1.0 / (1.0 + tl.exp(-tl.load(gates + (l - 1) * C, mask=mask, other=0.0).to(wide)))
        ds = tl.zeros([BE, BC], wide)
        for m in tl.static_range(M + 1):
            for sign in tl.static_range(2):
                if m <= l and (m > 0 or sign == 0):
                    p = l
                    if m > 0:
                        p = (L + 1) * (2 * m - 1) - m * (m - 1) + sign * (L - m + 1) + l - m
                    g = tl.load(grad + p * C, mask=mask, other=0.0).to(wide)
                    x = tl.load(values + p * C, mask=mask, other=0.0).to(wide)
                    ds += g * x
                    tl.store(dvalues + p * C, (g * s).to(kind), mask=mask)
                    tl.store(grad + p * C, (x * s).to(kind), mask=mask)
        tl.store(dgates + (l - 1) * C, (ds * s * (1.0 - s)).to(kind), mask=mask)


class Shape:
    """Sizes that follow from lmax and mmax. frame_mmax: orders held by the frames, which may be more than are used."""

    def __init__(self, lmax: int, mmax: int, frame_mmax: int | None = None):
        self.l, self.m, self.fm = lmax, mmax, mmax if frame_mmax is None else frame_mmax
        self.degrees = [lmax - m + 1 for m in range(mmax + 1)]
        self.s, self.r = (lmax + 1) ** 2, sum(self.degrees)
        self.sm = self.degrees[0] + 2 * sum(self.degrees[1:])
        self.p = sum((2 * min(l, self.fm) + 1) * (2 * l + 1) for l in range(lmax + 1))
        # columns of the orders m: in z (per channel), and rows of conv1's output after the gates
        self.bounds = [0]
        for m, count in enumerate(self.degrees):
            self.bounds.append(self.bounds[-1] + count * (1 if m == 0 else 2))


def turn(shape: Shape, y: Tensor, frames: Tensor, rad: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
    """y (n, S, C), frames (e, P), rad (e, R 2C) -> z (e, S_m 2C) in the dtype of rad."""
    e, c = len(sender), y.shape[2]
    out = rad.new_empty(e, shape.sm * 2 * c)
    size = tile(TILES, "turn", c)
    _turn[triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"]), 2](
        y, frames, rad, frames, sender, receiver, out, e, c, P=shape.p, S=shape.s, SM=shape.sm, R=shape.r, L=shape.l, M=shape.m,
        FM=shape.fm, SIDES=2, **size)
    return out


def turn_grad(shape: Shape, y: Tensor, frames: Tensor, rad: Tensor, grad: Tensor, ptr: Tensor,
              order: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`turn` for y and rad."""
    n, _, c = y.shape
    dy, drad = y.new_empty(2, *y.shape), torch.empty_like(rad)
    size = tile(TILES, "turn_grad", c)
    _turn_grad[n + FILL, triton.cdiv(c, size["BC"]), 2](
        y, frames, rad, grad, order, ptr, dy, drad, n, len(order), c, P=shape.p, S=shape.s, SM=shape.sm, R=shape.r, L=shape.l,
        M=shape.m, BC=size["BC"], FILL=FILL, num_warps=size["num_warps"])
    return dy.sum(0), drad


def turn_sum(shape: Shape, z: Tensor, frames: Tensor, scale: Tensor, ptr: Tensor) -> Tensor:
    """z (e, S_m C), scale (e,) -> x (n, S, C) in the dtype of frames."""
    n, c = len(ptr) - 1, z.shape[1] // shape.sm
    out = frames.new_empty(n, shape.s, c)
    size = tile(TILES, "turn_sum", c)
    _turn_sum[n, triton.cdiv(c, size["BC"])](z, frames, scale, ptr, out, c, P=shape.p, S=shape.s, SM=shape.sm, L=shape.l,
                                             M=shape.m, FM=shape.fm, BC=size["BC"], num_warps=size["num_warps"])
    return out


def turn_sum_grad(shape: Shape, grad: Tensor, frames: Tensor, scale: Tensor, receiver: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of :func:`turn_sum` for z: gather, turn, scale."""
    e, c = len(receiver), grad.shape[2]
    out = grad.new_empty(e, shape.sm * c, dtype=dtype)
    size = tile(TILES, "turn_one", c)
    _turn[triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"]), 1](
        grad, frames, frames, scale, receiver, receiver, out, e, c, P=shape.p, S=shape.s, SM=shape.sm, R=shape.r, L=shape.l,
        M=shape.m, FM=shape.fm, SIDES=1, **size)
    return out


def gate(shape: Shape, a: Tensor) -> Tensor:
    """a (e, (lmax + S_m) C): lmax gates, then coefficients -> (e, S_m C)."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    out = a.new_empty(e, shape.sm * c)
    size = tile(TILES, "gate", c)
    _gate[triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"])](a, out, e, c, SM=shape.sm, L=shape.l, M=shape.m, **size)
    return out


def gate_grad(shape: Shape, a: Tensor, grad: Tensor) -> Tensor:
    """Gradient of :func:`gate` for a; ``grad`` becomes gate(a)."""
    e, c = a.shape[0], a.shape[1] // (shape.l + shape.sm)
    da = torch.empty_like(a)
    size = tile(TILES, "gate", c)
    _gate_grad[triton.cdiv(e, size["BE"]), triton.cdiv(c, size["BC"])](a, grad, da, e, c, SM=shape.sm, L=shape.l, M=shape.m,
                                                                       **size)
    return da


def _convolve(x: Tensor, weights: list[Tensor], columns_in: list[int], columns_out: list[int], out: Tensor,
              bias: Tensor | None = None) -> None:
    """One product per order on slices of one buffer, written in place of a concatenation; bias for m = 0."""
    for k, w in enumerate(weights):
        part, to = x[:, columns_in[k] : columns_in[k + 1]], out[:, columns_out[k] : columns_out[k + 1]]
        if k == 0 and bias is not None:
            torch.addmm(bias, part, w.t(), out=to)
        else:
            torch.mm(part, w.t(), out=to)


def _columns(shape: Shape, weights1: list[Tensor], weights2: list[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Column bounds of the orders in z, in conv1's output (gates with m = 0), and after the gates."""
    def bounds(sizes: list[int]) -> list[int]:
        out = [0]
        for s in sizes:
            out.append(out[-1] + s)
        return out

    return bounds([w.shape[1] for w in weights1]), bounds([w.shape[0] for w in weights1]), bounds([w.shape[0] for w in weights2])


@torch.library.custom_op("forcelaw::so2_message", mutates_args=())
def _so2_message(y: Tensor, frames: Tensor, scale: Tensor, rad: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor,
                 order: Tensor, lmax: int, mmax: int, weights1: list[Tensor], bias1: Tensor, weights2: list[Tensor],
                 bias2: Tensor) -> tuple[Tensor, Tensor]:
    shape = Shape(lmax, mmax)
    z_at, a_at, q_at = _columns(shape, weights1, weights2)
    z = turn(shape, y, frames, rad, sender, receiver)
    a = z.new_empty(len(sender), a_at[-1])
    _convolve(z, weights1, z_at, a_at, a, bias1)
    g = gate(shape, a)
    q = g.new_empty(len(sender), q_at[-1])
    _convolve(g, weights2, q_at, q_at, q, bias2)
    return turn_sum(shape, q, frames, scale, ptr), a


@_so2_message.register_fake
def _(y, frames, scale, rad, sender, receiver, ptr, order, lmax, mmax, weights1, bias1, weights2, bias2):
    return torch.empty_like(y), rad.new_empty(rad.shape[0], sum(w.shape[0] for w in weights1))


@torch.library.custom_op("forcelaw::so2_message_backward", mutates_args=())
def _so2_message_backward(grad: Tensor, a: Tensor, y: Tensor, frames: Tensor, scale: Tensor, rad: Tensor, sender: Tensor,
                          receiver: Tensor, ptr: Tensor, order: Tensor, lmax: int, mmax: int, weights1: list[Tensor],
                          weights2: list[Tensor]) -> list[Tensor]:
    shape = Shape(lmax, mmax)
    z_at, a_at, q_at = _columns(shape, weights1, weights2)
    dq = turn_sum_grad(shape, grad.contiguous(), frames, scale, receiver, rad.dtype)
    g = torch.empty_like(dq)
    _convolve(dq, [w.t() for w in weights2], q_at, q_at, g)  # the gradient of gate(a)
    da = gate_grad(shape, a, g)  # g is gate(a), again: cheaper than to keep it
    d2 = [dq[:, q_at[k] : q_at[k + 1]].t() @ g[:, q_at[k] : q_at[k + 1]] for k in range(len(weights2))]
    dbias2 = dq[:, : q_at[1]].sum(0)
    del dq, g
    z = turn(shape, y, frames, rad, sender, receiver)
    d1 = [da[:, a_at[k] : a_at[k + 1]].t() @ z[:, z_at[k] : z_at[k + 1]] for k in range(len(weights1))]
    dbias1 = da[:, : a_at[1]].sum(0)
    _convolve(da, [w.t() for w in weights1], a_at, z_at, z)  # now the gradient of z
    del da
    dy, drad = turn_grad(shape, y, frames, rad, z, ptr, order)
    return [dy, drad, dbias1, dbias2, *d1, *d2]


@_so2_message_backward.register_fake
def _(grad, a, y, frames, scale, rad, sender, receiver, ptr, order, lmax, mmax, weights1, weights2):
    new = rad.new_empty
    return [torch.empty_like(y), torch.empty_like(rad), new(weights1[0].shape[0]), new(weights2[0].shape[0]),
            *(new(w.shape) for w in weights1), *(new(w.shape) for w in weights2)]


def _save(ctx, inputs, output):
    *tensors, lmax, mmax, weights1, _, weights2, _ = inputs
    ctx.sizes = lmax, mmax, len(weights1)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else torch fills an array of its size with zeros
    ctx.save_for_backward(output[1], *tensors, *weights1, *weights2)


def _differentiate(ctx, grad, _):
    lmax, mmax, count = ctx.sizes
    a, y, frames, scale, rad, sender, receiver, ptr, order, *weights = ctx.saved_tensors
    dy, drad, db1, db2, *dw = _so2_message_backward(grad, a, y, frames, scale, rad, sender, receiver, ptr, order, lmax, mmax,
                                                    weights[:count], weights[count:])
    return dy, None, None, drad, None, None, None, None, None, None, dw[:count], db1, dw[count:], db2


_so2_message.register_autograd(_differentiate, setup_context=_save)


def so2_message(y: Tensor, frames: Tensor, scale: Tensor, rad: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor,
                order: Tensor, lmax: int, mmax: int, weights1: list[Tensor], bias1: Tensor, weights2: list[Tensor],
                bias2: Tensor) -> Tensor:
    """A whole eSEN message (n, S, C): turn, convolve, gate, convolve, turn back, sum. Gradients for y, rad, weights, biases.

    y (n, S, C); frames (e, P); scale (e,) envelope times 1/sqrt(k); rad (e, R 2C), whose dtype is that of the products;
    weights1, weights2 one matrix (out, in) per order, biases for m = 0; ptr, order from ``GraphBatch.segments``.
    """
    kind = rad.dtype
    out, _ = _so2_message(y, frames, scale, rad.contiguous(), sender, receiver, ptr, order, lmax, mmax,
                          [w.to(kind) for w in weights1], bias1.to(kind), [w.to(kind) for w in weights2], bias2.to(kind))
    return out


@torch.library.custom_op("forcelaw::turn_sum", mutates_args=())
def _turn_sum_op(z: Tensor, frames: Tensor, scale: Tensor, receiver: Tensor, ptr: Tensor, lmax: int, mmax: int,
                 frame_mmax: int) -> Tensor:
    return turn_sum(Shape(lmax, mmax, frame_mmax), z, frames, scale, ptr)


@_turn_sum_op.register_fake
def _(z, frames, scale, receiver, ptr, lmax, mmax, frame_mmax):
    shape = Shape(lmax, mmax, frame_mmax)
    return frames.new_empty(ptr.shape[0] - 1, shape.s, z.shape[1] // shape.sm)


@torch.library.custom_op("forcelaw::turn_sum_backward", mutates_args=())
def _turn_sum_backward(grad: Tensor, frames: Tensor, scale: Tensor, receiver: Tensor, z: Tensor, lmax: int, mmax: int,
                       frame_mmax: int) -> Tensor:
    return turn_sum_grad(Shape(lmax, mmax, frame_mmax), grad.contiguous(), frames, scale, receiver, z.dtype)


@_turn_sum_backward.register_fake
def _(grad, frames, scale, receiver, z, lmax, mmax, frame_mmax):
    return torch.empty_like(z)


def _save_sum(ctx, inputs, output):
    z, frames, scale, receiver, _, *ctx.sizes = inputs
    ctx.save_for_backward(frames, scale, receiver, z)


def _differentiate_sum(ctx, grad):
    return _turn_sum_backward(grad, *ctx.saved_tensors, *ctx.sizes), None, None, None, None, None, None, None


_turn_sum_op.register_autograd(_differentiate_sum, setup_context=_save_sum)


def spread(z: Tensor, frames: Tensor, scale: Tensor, receiver: Tensor, ptr: Tensor, lmax: int, mmax: int,
           frame_mmax: int) -> Tensor:
    """Sum over edges of turned-back z (e, S_m C): (n, S, C). frames hold orders up to frame_mmax >= mmax."""
    return _turn_sum_op(z.contiguous(), frames, scale, receiver, ptr, lmax, mmax, frame_mmax)
