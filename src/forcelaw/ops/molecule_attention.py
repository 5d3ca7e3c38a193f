"""Kernels of rotary attention (attention.py) for molecules of up to 64 atoms: all pairs of a
molecule in the registers of one program, several heads one after the other.

Turns, distances, envelope and softmax are made where they are used. Torch's fused attention, which
is for heads of 16 channels or more, reads a bias of every pair and head instead, and takes five
times as long for the four channels that a head of the Platonic transformer has. The backward pass
makes the weights of all pairs again; nothing of the size of pairs is written.

Legend: g structures, h heads, d channels of a head, channel c and c + d / 2 being a pair that turns
together; x (n, 3) positions. A program is a structure and a few heads. Rows of padding atoms are
zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .register import Differentiable
from .switch import constexpr, tl, triton
from .tiles import wide

MOST_ATOMS = 64  # all pairs of more do not fit into registers
MOST_CHANNELS = 16  # of a head: above it, matrix units are faster
SMALL = 32  # molecules up to it take a quarter of the pairs
HEADS = 8  # of a program
SMALLEST = constexpr(1e-30)  # of an envelope in a logarithm


@dataclass
class MoleculePairs:
    """All pairs within molecules: positions x (n, 3) Angstrom, first and natoms (g,) of each,
    ``most`` atoms at most; decay c (h or 1,), 1/Angstrom."""

    x: Tensor
    first: Tensor
    natoms: Tensor
    most: int
    cutoff: float
    decay: Tensor


def molecule_attention(
    qkv: Tensor, frequencies: Tensor, pairs: MoleculePairs, turn_values: bool
) -> Tensor:
    """o (n, h, d); see :func:`forcelaw.ops.rotary_attention`."""
    return _Attention.apply(qkv.contiguous(), frequencies.contiguous(), pairs, turn_values)


@triton.jit
def _turned(at, other: constexpr, mask, cos, sin, WIDE: constexpr):
    """A pair of channels at ``at`` and ``at + other``, turned."""
    a = tl.load(at, mask=mask, other=0.0).to(WIDE)
    b = tl.load(at + other, mask=mask, other=0.0).to(WIDE)
    return a * cos - b * sin, a * sin + b * cos


@triton.jit
def _put_back(at, other: constexpr, mask, a, b, cos, sin):
    """Stores a pair of channels turned back."""
    tl.store(at, (a * cos + b * sin).to(at.dtype.element_ty), mask=mask)
    tl.store(at + other, (b * cos - a * sin).to(at.dtype.element_ty), mask=mask)


@triton.jit
def _angle(w, x, y, z, mask):
    """Cosine and sine of w . x: sums of products, since TF32 would lose the phase."""
    angle = x * tl.load(w) + y * tl.load(w + 1) + z * tl.load(w + 2)
    return tl.cos(angle), tl.sin(angle)


@triton.jit
def _geometry(x, first, count, cutoff, S: constexpr, WIDE: constexpr):
    """Rows of the molecule's atoms, which of them there are, their positions from the middle,
    distances (S, S), and log u (S, S): zero from an atom to itself, and so for an empty slot."""
    i = tl.arange(0, S)
    mask = i < count
    row = (first + i).to(tl.int64)
    x0 = tl.load(x + row * 3, mask=mask, other=0.0).to(WIDE)
    x1 = tl.load(x + row * 3 + 1, mask=mask, other=0.0).to(WIDE)
    x2 = tl.load(x + row * 3 + 2, mask=mask, other=0.0).to(WIDE)
    x0 -= tl.sum(x0, axis=0) / count
    x1 -= tl.sum(x1, axis=0) / count
    x2 -= tl.sum(x2, axis=0) / count
    d0, d1, d2 = x0[:, None] - x0[None, :], x1[:, None] - x1[None, :], x2[:, None] - x2[None, :]
    r = tl.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
    t = r / cutoff
    t2 = t * t
    u = 1.0 + t2 * t2 * t * (-21.0 + t * (35.0 - 15.0 * t))
    u = tl.log(tl.maximum(u, SMALLEST))
    near = mask[:, None] & mask[None, :] & (t < 1.0)
    u = tl.where(near, u, float("-inf"))
    return row, mask, x0, x1, x2, r, tl.where(i[:, None] == i[None, :], 0.0, u)


@triton.jit
def _weights(
    q, k, w, u, r, slope, mask, x0, x1, x2, scale, D: constexpr, S: constexpr, WIDE: constexpr
):
    """a (S, S) of one head; q and k: where its first channel stands, (S,)."""
    s = u - slope * r
    for p in tl.static_range(D // 2):
        cos, sin = _angle(w + 3 * p, x0, x1, x2, mask)
        qa, qb = _turned(q + p, D // 2, mask, cos, sin, WIDE)
        ka, kb = _turned(k + p, D // 2, mask, cos, sin, WIDE)
        s += scale * (qa[:, None] * ka[None, :] + qb[:, None] * kb[None, :])
    s = tl.exp(s - tl.max(s, axis=1)[:, None])
    return s / tl.sum(s, axis=1)[:, None]


@triton.jit
def _attend_all(
    qkv, w, decay, x, out, first, count, cutoff, scale, low, high,
    heads: constexpr, DECAYS: constexpr, TURN: constexpr, D: constexpr, S: constexpr,
    WIDE: constexpr,
):  # fmt: skip
    row, mask, x0, x1, x2, r, u = _geometry(x, first, count, cutoff, S, WIDE)
    for h in range(low, high):
        q = qkv + (row * 3 * heads + h) * D
        slope = tl.load(decay + h % DECAYS)
        at = w + h * (D // 2 * 3)
        k = q + heads * D
        a = _weights(q, k, at, u, r, slope, mask, x0, x1, x2, scale, D, S, WIDE)
        v, o = q + 2 * heads * D, out + (row * heads + h) * D
        for p in tl.static_range(D // 2):
            cos, sin = _angle(at + 3 * p, x0, x1, x2, mask)
            if not TURN:
                cos, sin = cos * 0.0 + 1.0, sin * 0.0
            va, vb = _turned(v + p, D // 2, mask, cos, sin, WIDE)
            oa, ob = tl.sum(a * va[None, :], axis=1), tl.sum(a * vb[None, :], axis=1)
            _put_back(o + p, D // 2, mask, oa, ob, cos, sin)


@triton.jit
def _attend(
    qkv, w, decay, x, firsts, natoms, out, cutoff, scale,
    heads: constexpr, DECAYS: constexpr, TURN: constexpr, D: constexpr, S: constexpr,
    FEW: constexpr, HB: constexpr, WIDE: constexpr,
):  # fmt: skip
    g, low = tl.program_id(0), tl.program_id(1) * HB
    first, count = tl.load(firsts + g), tl.load(natoms + g)
    high = tl.minimum(low + HB, heads)
    if count > 0:
        if count > FEW:
            _attend_all(
                qkv, w, decay, x, out, first, count, cutoff, scale, low, high,
                heads, DECAYS, TURN, D, S, WIDE,
            )  # fmt: skip
        else:
            _attend_all(
                qkv, w, decay, x, out, first, count, cutoff, scale, low, high,
                heads, DECAYS, TURN, D, FEW, WIDE,
            )  # fmt: skip


@triton.jit
def _put_frequency(to, angle, x0, x1, x2):
    """Gradient by a frequency of gradients by the atoms' angles."""
    tl.store(to, tl.sum(angle * x0, axis=0))
    tl.store(to + 1, tl.sum(angle * x1, axis=0))
    tl.store(to + 2, tl.sum(angle * x2, axis=0))


@triton.jit
def _grad_all(
    qkv, w, decay, x, out, grad, dqkv, dw, first, count, cutoff, scale, low, high,
    heads: constexpr, DECAYS: constexpr, TURN: constexpr, D: constexpr, S: constexpr,
    WIDE: constexpr,
):  # fmt: skip
    row, mask, x0, x1, x2, r, u = _geometry(x, first, count, cutoff, S, WIDE)
    for h in range(low, high):
        start = (row * 3 * heads + h) * D
        part: constexpr = heads * D
        slope = tl.load(decay + h % DECAYS)
        at, to = w + h * (D // 2 * 3), dw + h * (D // 2 * 6)
        q, k, v = qkv + start, qkv + start + part, qkv + start + 2 * part
        a = _weights(q, k, at, u, r, slope, mask, x0, x1, x2, scale, D, S, WIDE)
        o, go = out + (row * heads + h) * D, grad + (row * heads + h) * D
        da = tl.zeros([S, S], WIDE)
        for p in tl.static_range(D // 2):
            cos, sin = _angle(at + 3 * p, x0, x1, x2, mask)
            if not TURN:
                cos, sin = cos * 0.0 + 1.0, sin * 0.0
            va, vb = _turned(v + p, D // 2, mask, cos, sin, WIDE)
            ga, gb = _turned(go + p, D // 2, mask, cos, sin, WIDE)
            da += ga[:, None] * va[None, :] + gb[:, None] * vb[None, :]
            ha, hb = tl.sum(a * ga[:, None], axis=0), tl.sum(a * gb[:, None], axis=0)
            _put_back(dqkv + start + 2 * part + p, D // 2, mask, ha, hb, cos, sin)
            if TURN:  # values are turned there, their sums back
                ya, yb = _turned(o + p, D // 2, mask, cos, sin, WIDE)
                angle = hb * va - ha * vb + ga * yb - gb * ya
            else:
                angle = x0 * 0.0
            _put_frequency(to + 6 * p, angle, x0, x1, x2)
        da = scale * a * (da - tl.sum(a * da, axis=1)[:, None])
        for p in tl.static_range(D // 2):
            cos, sin = _angle(at + 3 * p, x0, x1, x2, mask)
            qa, qb = _turned(q + p, D // 2, mask, cos, sin, WIDE)
            ka, kb = _turned(k + p, D // 2, mask, cos, sin, WIDE)
            ea, eb = tl.sum(da * ka[None, :], axis=1), tl.sum(da * kb[None, :], axis=1)
            fa, fb = tl.sum(da * qa[:, None], axis=0), tl.sum(da * qb[:, None], axis=0)
            _put_back(dqkv + start + p, D // 2, mask, ea, eb, cos, sin)
            _put_back(dqkv + start + part + p, D // 2, mask, fa, fb, cos, sin)
            angle = eb * qa - ea * qb + fb * ka - fa * kb
            _put_frequency(to + 6 * p + 3, angle, x0, x1, x2)


@triton.jit
def _attend_grad(
    qkv, w, decay, x, firsts, natoms, out, grad, dqkv, dw, cutoff, scale,
    heads: constexpr, DECAYS: constexpr, TURN: constexpr, D: constexpr, S: constexpr,
    FEW: constexpr, HB: constexpr, WIDE: constexpr,
):  # fmt: skip
    """dw (g, h, d / 2, 2, 3): by values and sums, and by queries and keys."""
    g, low = tl.program_id(0), tl.program_id(1) * HB
    first, count = tl.load(firsts + g), tl.load(natoms + g)
    high = tl.minimum(low + HB, heads)
    dw += g.to(tl.int64) * (heads * D // 2 * 6)
    if count > 0:
        if count > FEW:
            _grad_all(
                qkv, w, decay, x, out, grad, dqkv, dw, first, count, cutoff, scale, low, high,
                heads, DECAYS, TURN, D, S, WIDE,
            )  # fmt: skip
        else:
            _grad_all(
                qkv, w, decay, x, out, grad, dqkv, dw, first, count, cutoff, scale, low, high,
                heads, DECAYS, TURN, D, FEW, WIDE,
            )  # fmt: skip


class _Attention(Differentiable):
    def forward(ctx, qkv, w, pairs, turn_values):
        ctx.pairs, ctx.turn_values = pairs, turn_values
        out = qkv.new_zeros(qkv.shape[0], *qkv.shape[2:])
        _launch(_attend, ctx, qkv, w, out)
        ctx.save_for_backward(qkv, w, out)
        return out

    def backward(ctx, grad):
        qkv, w, out = ctx.saved_tensors
        dqkv = torch.zeros_like(qkv)
        dw = w.new_zeros(len(ctx.pairs.natoms), *w.shape[:2], 2, 3)
        _launch(_attend_grad, ctx, qkv, w, out, grad.contiguous(), dqkv, dw)
        return dqkv, dw.sum((0, 3)), None, None


def _launch(kernel: Any, ctx: Any, qkv: Tensor, w: Tensor, *results: Tensor) -> None:
    p, (n, _, heads, d) = ctx.pairs, qkv.shape
    if not n or not len(p.natoms):
        return
    slots = max(16, triton.next_power_of_2(p.most))
    kernel[(len(p.natoms), triton.cdiv(heads, HEADS))](
        qkv, w, p.decay, p.x, p.first, p.natoms, *results, p.cutoff, 1.0 / math.sqrt(d),
        heads, len(p.decay), ctx.turn_values, d, slots, min(slots, SMALL), HEADS, wide(qkv),
        num_warps=8 if slots > 32 else 4,
    )  # fmt: skip
