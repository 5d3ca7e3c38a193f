"""Kernels of rotary attention (attention.py) between the atoms of molecules, for heads of few
channels.

A program is an atom and a block of heads, one head a lane, and goes through the atoms of its
molecule: no sum crosses lanes, and nothing of the size of pairs is written. Torch's fused attention
works on tiles of 64 atoms and 32 channels, of which heads of four channels and molecules of twenty
atoms fill a twentieth, and reads a bias of every pair and head: half of a step of the Platonic
transformer (LABLOG.md, 2026-11-29). Tiles of all pairs of a molecule, in these kernels' place,
took twice its time: their sums over atoms cross lanes.

The turned rows stand with heads innermost, (n, 3, d, h), so that lanes read them side by side; the
origin of turns is the first atom of a molecule. The backward pass makes the weights of each pair
again, once with the atom as the one that looks and once as the one that is looked at.

Legend: n atoms, g structures, h heads, d channels of a head, of which c and c + d / 2 turn
together. Rows of padding atoms, which belong to no structure, are zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graph import GraphBatch
from .register import Differentiable
from .switch import constexpr, tl, triton
from .tiles import SMALLEST, envelope_at, rows, three, wide, zeros

MOST_CHANNELS = 8  # of a head: rows of more take many registers, and half a minute to compile
LANES = 128  # heads of a program, at most


@dataclass
class MoleculePairs:
    """All pairs within molecules: positions x (n, 3) from the first atom of the molecule, Angstrom,
    owner (n,) the structure of each atom, first and natoms (g,) of each structure; decay c (h or
    1,), 1/Angstrom."""

    x: Tensor
    owner: Tensor
    first: Tensor
    natoms: Tensor
    cutoff: float
    decay: Tensor

    @classmethod
    def of(cls, graph: GraphBatch, cutoff: float, decay: Tensor) -> MoleculePairs:
        first = torch.cumsum(graph.natoms, 0) - graph.natoms
        owner = graph.batch.clamp_max(max(0, graph.n_graphs - 1))  # of padding atoms: any
        x = graph.pos - graph.pos.index_select(0, first.index_select(0, owner))
        return cls(x, graph.batch, first, graph.natoms, cutoff, decay)


def molecule_attention(
    qkv: Tensor, frequencies: Tensor, pairs: MoleculePairs, turn_values: bool
) -> Tensor:
    """o (n, h, d); see :func:`forcelaw.ops.rotary_attention`."""
    return _Attention.apply(qkv.contiguous(), frequencies.contiguous(), pairs, turn_values)


@triton.jit
def _program(x, H: constexpr, BH: constexpr, WIDE: constexpr):
    """An atom, its position, some heads, and which of them there are."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BH + tl.arange(0, BH)
    return i, three(x + 3 * i, 1, True, WIDE), c, c < H


@triton.jit
def _molecule(owner, firsts, natoms, i, structures):
    """First atom and atoms of the molecule of atom i: none of a padding atom."""
    g = tl.load(owner + i)
    real = g < structures
    g = tl.where(real, g, 0)
    return tl.load(firsts + g), tl.where(real, tl.load(natoms + g), 0)


@triton.jit
def _angle(w, place, mask):
    """Cosine and sine of w . x: sums of products, since TF32 would lose the phase."""
    angle = place[0] * tl.load(w, mask=mask, other=0.0)
    angle += place[1] * tl.load(w + 1, mask=mask, other=0.0)
    angle += place[2] * tl.load(w + 2, mask=mask, other=0.0)
    return tl.cos(angle), tl.sin(angle)


@triton.jit
def _dot(a, b, COUNT: constexpr):
    total = a[0] * b[0]
    for k in tl.static_range(COUNT - 1):
        total += a[k + 1] * b[k + 1]
    return total


@triton.jit
def _plus(total, factor, row, COUNT: constexpr):
    """total + factor row, a tuple."""
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (total[k] + factor * row[k],)
    return out


@triton.jit
def _put_turned(
    to, kept, c, mask, w, place, H: constexpr, D: constexpr, TURN: constexpr, WIDE: constexpr
):  # fmt: skip
    """A row ``kept`` (h, d) turned, with heads innermost: to (d, h)."""
    for p in tl.static_range(D // 2):
        a = tl.load(kept + c * D + p, mask=mask, other=0.0).to(WIDE)
        b = tl.load(kept + c * D + p + D // 2, mask=mask, other=0.0).to(WIDE)
        if TURN:
            cos, sin = _angle(w + (c * (D // 2) + p) * 3, place, mask)
            a, b = a * cos - b * sin, a * sin + b * cos
        tl.store(to + p * H + c, a, mask=mask)
        tl.store(to + (p + D // 2) * H + c, b, mask=mask)


@triton.jit
def _turn(
    qkv, w, x, turned,
    H: constexpr, D: constexpr, BH: constexpr, TURN: constexpr, WIDE: constexpr,
):  # fmt: skip
    """turned (n, 3, d, h) of qkv (n, 3, h, d)."""
    i, place, c, mask = _program(x, H, BH, WIDE)
    at = 3 * i * D * H
    _put_turned(turned + at, qkv + at, c, mask, w, place, H, D, True, WIDE)
    at += D * H
    _put_turned(turned + at, qkv + at, c, mask, w, place, H, D, True, WIDE)
    at += D * H
    _put_turned(turned + at, qkv + at, c, mask, w, place, H, D, TURN, WIDE)


@triton.jit
def _pair(x, j, place, cutoff, WIDE: constexpr):
    """Distance from a place to atom j, and log u."""
    x1, y1, z1 = three(x + 3 * j, 1, True, WIDE)
    x1, y1, z1 = x1 - place[0], y1 - place[1], z1 - place[2]
    r = tl.sqrt(x1 * x1 + y1 * y1 + z1 * z1)
    return r, tl.log(tl.maximum(envelope_at(r / cutoff), SMALLEST))


@triton.jit(do_not_specialize=["structures"])
def _attend(
    turned, w, decay, x, owner, firsts, natoms, out, lse, structures, cutoff, scale,
    H: constexpr, D: constexpr, BH: constexpr, DECAYS: constexpr, TURN: constexpr,
    WIDE: constexpr,
):  # fmt: skip
    """out (n, h, d), and lse (n, h): the logarithm of the sum that weights are divided by."""
    i, place, c, mask = _program(x, H, BH, WIDE)
    first, count = _molecule(owner, firsts, natoms, i, structures)
    slope = tl.load(decay + c % DECAYS, mask=mask, other=0.0)
    q = rows(turned, 3 * i * D, c, mask, D, H)
    own = rows(turned, (3 * i + 1) * D, c, mask, D, H)
    top = _dot(q, own, D) * scale  # an atom sees itself
    total = tl.full([BH], 1.0, WIDE)
    summed = rows(turned, (3 * i + 2) * D, c, mask, D, H)
    for j in range(first, first + count):
        r, u = _pair(x, j, place, cutoff, WIDE)
        if (j != i) & (r < cutoff):
            k = rows(turned, (3 * j + 1) * D, c, mask, D, H)
            v = rows(turned, (3 * j + 2) * D, c, mask, D, H)
            s = _dot(q, k, D) * scale + u - slope * r
            most = tl.maximum(top, s)
            less, weight = tl.exp(top - most), tl.exp(s - most)
            total = total * less + weight
            summed = _plus(zeros(D, BH, WIDE), less, summed, D)
            summed = _plus(summed, weight, v, D)
            top = most
    part = tl.where(count > 0, 1.0 / total, 0.0)
    tl.store(lse + i * H + c, top + tl.log(total), mask=mask)
    for p in tl.static_range(D // 2):
        a, b = summed[p] * part, summed[p + D // 2] * part
        if TURN:
            cos, sin = _angle(w + (c * (D // 2) + p) * 3, place, mask)
            a, b = a * cos + b * sin, b * cos - a * sin
        at = out + (i * H + c) * D + p
        tl.store(at, a.to(out.dtype.element_ty), mask=mask)
        tl.store(at + D // 2, b.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _turn_grad(
    grad, out, w, x, turned, delta,
    H: constexpr, D: constexpr, BH: constexpr, TURN: constexpr, WIDE: constexpr,
):  # fmt: skip
    """turned (n, d, h) of the gradient of out, and delta (n, h): its product with out."""
    i, place, c, mask = _program(x, H, BH, WIDE)
    at = i * D * H
    _put_turned(turned + at, grad + at, c, mask, w, place, H, D, TURN, WIDE)
    total = tl.zeros([BH], WIDE)
    for k in tl.static_range(D):
        o = tl.load(out + at + c * D + k, mask=mask, other=0.0).to(WIDE)
        total += o * tl.load(grad + at + c * D + k, mask=mask, other=0.0).to(WIDE)
    tl.store(delta + i * H + c, total, mask=mask)


@triton.jit(do_not_specialize=["structures"])
def _attend_grad(
    turned, back, lse, delta, w, decay, x, owner, firsts, natoms, out, grad, dqkv, angles,
    structures, cutoff, scale,
    H: constexpr, D: constexpr, BH: constexpr, DECAYS: constexpr, TURN: constexpr,
    WIDE: constexpr,
):  # fmt: skip
    """dqkv (n, 3, h, d), and angles (n, d / 2, h): gradients by the angles of each atom."""
    i, place, c, mask = _program(x, H, BH, WIDE)
    first, count = _molecule(owner, firsts, natoms, i, structures)
    slope = tl.load(decay + c % DECAYS, mask=mask, other=0.0)
    q = rows(turned, 3 * i * D, c, mask, D, H)
    k = rows(turned, (3 * i + 1) * D, c, mask, D, H)
    v = rows(turned, (3 * i + 2) * D, c, mask, D, H)
    g = rows(back, i * D, c, mask, D, H)
    mine = tl.load(lse + i * H + c, mask=mask, other=0.0)
    less = tl.load(delta + i * H + c, mask=mask, other=0.0)
    weight = tl.exp(_dot(q, k, D) * scale - mine)  # of the atom itself
    s = weight * (_dot(g, v, D) - less) * scale
    dq = _plus(zeros(D, BH, WIDE), s, k, D)
    dk = _plus(zeros(D, BH, WIDE), s, q, D)
    dv = _plus(zeros(D, BH, WIDE), weight, g, D)
    for j in range(first, first + count):
        r, u = _pair(x, j, place, cutoff, WIDE)
        if (j != i) & (r < cutoff):
            bias = u - slope * r
            other_k = rows(turned, (3 * j + 1) * D, c, mask, D, H)
            other = rows(turned, (3 * j + 2) * D, c, mask, D, H)
            weight = tl.exp(_dot(q, other_k, D) * scale + bias - mine)
            dq = _plus(dq, weight * (_dot(g, other, D) - less) * scale, other_k, D)
            # and as it is seen by j
            other_q = rows(turned, 3 * j * D, c, mask, D, H)
            other = rows(back, j * D, c, mask, D, H)
            theirs = tl.load(lse + j * H + c, mask=mask, other=0.0)
            weight = tl.exp(_dot(other_q, k, D) * scale + bias - theirs)
            theirs = tl.load(delta + j * H + c, mask=mask, other=0.0)
            s = weight * (_dot(other, v, D) - theirs) * scale
            dk = _plus(dk, s, other_q, D)
            dv = _plus(dv, weight, other, D)
    o: constexpr = D // 2
    for p in tl.static_range(o):
        cos, sin = _angle(w + (c * (D // 2) + p) * 3, place, mask)
        angle = dq[p + o] * q[p] - dq[p] * q[p + o] + dk[p + o] * k[p] - dk[p] * k[p + o]
        at = dqkv + (3 * i * H + c) * D + p
        _put_back(at, o, dq[p], dq[p + o], cos, sin, count, mask)
        _put_back(at + H * D, o, dk[p], dk[p + o], cos, sin, count, mask)
        if TURN:  # values are turned there, their sums back
            angle += dv[p + o] * v[p] - dv[p] * v[p + o]
            of = (i * H + c) * D + p
            ga = tl.load(grad + of, mask=mask, other=0.0).to(WIDE)
            gb = tl.load(grad + of + o, mask=mask, other=0.0).to(WIDE)
            angle += ga * tl.load(out + of + o, mask=mask, other=0.0).to(WIDE)
            angle -= gb * tl.load(out + of, mask=mask, other=0.0).to(WIDE)
        else:
            cos, sin = cos * 0.0 + 1.0, sin * 0.0
        _put_back(at + 2 * H * D, o, dv[p], dv[p + o], cos, sin, count, mask)
        angle = tl.where(count > 0, angle, 0.0)
        tl.store(angles + (i * (D // 2) + p) * H + c, angle, mask=mask)


@triton.jit
def _put_back(at, other: constexpr, a, b, cos, sin, count, mask):
    """Stores a pair of channels turned back: zero for a padding atom."""
    first, second = a * cos + b * sin, b * cos - a * sin
    first, second = tl.where(count > 0, first, 0.0), tl.where(count > 0, second, 0.0)
    tl.store(at, first.to(at.dtype.element_ty), mask=mask)
    tl.store(at + other, second.to(at.dtype.element_ty), mask=mask)


class _Attention(Differentiable):
    def forward(ctx, qkv, w, pairs, turn_values):
        n, _, h, d = qkv.shape
        run = _Launch(pairs, n, h, d, turn_values, qkv)
        out, lse = qkv.new_empty(n, h, d), run.new(n, h)
        turned = run.new(n, 3, d, h)
        run(_turn, (qkv, w), (turned,))
        run(_attend, (turned, w, pairs.decay), (out, lse), pairs.cutoff, len(pairs.decay))
        ctx.pairs, ctx.turn_values = pairs, turn_values
        ctx.save_for_backward(qkv, w, out, turned, lse)
        return out

    def backward(ctx, grad):
        qkv, w, out, turned, lse = ctx.saved_tensors
        n, _, h, d = qkv.shape
        p, grad = ctx.pairs, grad.contiguous()
        run = _Launch(p, n, h, d, ctx.turn_values, qkv)
        back, delta, angles = run.new(n, d, h), run.new(n, h), run.new(n, d // 2, h)
        dqkv = torch.empty_like(qkv)
        run(_turn_grad, (grad, out, w), (back, delta))
        given = turned, back, lse, delta, w, p.decay
        run(_attend_grad, given, (out, grad, dqkv, angles), p.cutoff, len(p.decay))
        dw = (angles.unsqueeze(-1) * p.x.to(angles.dtype).view(n, 1, 1, 3)).sum(0)
        return dqkv, dw.transpose(0, 1).to(w.dtype), None, None


@dataclass
class _Launch:
    """Runs kernels over atoms and blocks of heads."""

    pairs: MoleculePairs
    n: int
    h: int
    d: int
    turn_values: bool
    like: Tensor

    def new(self, *shape: int) -> Tensor:
        kind = torch.promote_types(self.like.dtype, torch.float32)
        return torch.empty(shape, dtype=kind, device=self.like.device)

    def __call__(self, kernel: Any, given: Any, results: Any, *more: Any) -> None:
        """more: the cutoff and how many decays there are, of kernels for pairs."""
        if not self.n or not len(self.pairs.natoms):
            return
        p, lanes = self.pairs, min(LANES, max(16, triton.next_power_of_2(self.h)))
        if more:
            given = *given, p.x, p.owner, p.first, p.natoms
            numbers = len(p.natoms), more[0], 1.0 / math.sqrt(self.d)
        else:
            given, numbers = (*given, p.x), ()
        kernel[(self.n, triton.cdiv(self.h, lanes))](
            *given, *results, *numbers,
            self.h, self.d, lanes, *more[1:], self.turn_values, wide(self.like),
            num_warps=max(1, lanes // 32),
        )  # fmt: skip
