"""eSEN's edge-wise work: gather and turn into edge frames, convolve, gate, convolve, turn back and
sum. See models/esen.py for the equations.

Legend: n atoms, e edges, C channels, S = (lmax + 1)^2 coefficients degree-major, S_m order-major
(models/so3.py).

    turn        z[e, p, side, c] = (rad + shift)[e, q(p), side, c] sum_j D[e, p, j] y[node, j, c]
                side 0 sender, 1 receiver
    turn_sum    x[i, j, c] = sum_e scale_e sum_p D[e, p, j] z[e, p, c]        over edges into i
    gate        SiLU for l = 0, a[e, p, c] sigmoid(gate[e, l, c]) for l > 0

D is block-diagonal in the degree: for kernels frames (e, P) hold its blocks and no zeros, 35
numbers for lmax = 2 and 115 for lmax = 4, mmax = 2, in place of 81 and 475. The kernels are in
so2_turn.py; gradients by frames, and what else gradient forces need, in so2_forces.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from ...graph import GraphBatch, segment_sum
from ..register import Twice
from ..silu import silu
from ..switch import use_triton, use_triton_at
from .so2_forces import (
    frames_of_sum,
    frames_of_turn,
    gate_push,
    gate_second,
    turn_push,
    turn_second,
    turn_sum_second,
)
from .so2_layout import Edges, Shape
from .so2_turn import gate, gate_grad, turn, turn_grad, turn_sum, turn_sum_grad

MANY = 30_000  # edges from which a product takes longer than a launch


def so2_edges(
    graph: GraphBatch,
    unit: Tensor,
    scale: Tensor,
    lmax: int,
    mmax: int,
    dense: Callable[[Tensor], Tensor],
    packed: Callable[[Tensor], Tensor],
) -> Edges:
    """The edges of a batch from unit vectors (e, 3) and scale (e,), envelope times 1 / sqrt(k).
    dense and packed make frames (e, S_m, S) or their blocks (e, P) of unit vectors."""
    shape = Shape(lmax, mmax)
    if use_triton_at(unit):
        return Edges(graph, shape, scale, packed(unit))
    frames = dense(unit)
    back = frames.transpose(1, 2) * scale[:, None, None]
    both = torch.stack([graph.sender, graph.receiver], dim=1).flatten()
    return Edges(graph, shape, scale, frames, back, both)


def so2_message(
    y: Tensor,
    h: Tensor,
    radial: nn.Module,
    edges: Edges,
    first: tuple[list[Tensor], Tensor],
    second: tuple[list[Tensor], Tensor],
) -> Tensor:
    """A whole eSEN message (n, S, C) of y (n, S, C).

    h (e, any) and the layer ``radial`` (weight and bias) give the radial factors (e, R 2C). first,
    second: the convolutions, a matrix (out, in) per order and the bias of m = 0; one of half the
    size serves +m and -m both. By kernels products have the dtype that torch's own would have, and
    biases are added, and their gradients summed, where kernels pass anyway.
    """
    (weights1, bias1), (weights2, bias2) = first, second
    if use_triton(y):
        rad = nn.functional.linear(h, radial.weight)
        c, degrees = y.shape[2], edges.shape.degrees
        counts = [2 * count if m else count for m, count in enumerate(degrees)]
        whole = [_whole(w, 2 * c * k) for w, k in zip(weights1, counts)]
        whole += [_whole(w, c * k) for w, k in zip(weights2, counts)]
        weights = [w.to(rad.dtype) for w in whole]
        given = y.contiguous(), rad.contiguous(), radial.bias, bias1, bias2
        return _Message.apply(*given, edges.frames, edges.scale, edges, *weights)
    (n, s, w), e, degrees = (
        y.shape,
        h.shape[0],
        edges.shape.degrees,
    )  # len() would fix e in an export
    rad = nn.functional.linear(h, radial.weight, radial.bias)
    z = y.flatten(1).index_select(0, edges.both).view(e, 2, s, w)
    # both ends side by side: half as many small products, which cost a CPU more than their
    # arithmetic
    z = torch.bmm(edges.frames, z.transpose(1, 2).reshape(e, s, 2 * w))  # (e, S_m, 2C)
    sizes = [2 * w * count for count in degrees]
    factors = rad.split(sizes, dim=1)
    both = [size * (1 if m == 0 else 2) for m, size in enumerate(sizes)]
    blocks = z.flatten(1).split(both, dim=1)
    parts = [factors[0] * blocks[0]]
    parts += [
        (factor.unsqueeze(1) * block.unflatten(1, (2, factor.shape[1]))).flatten(1)
        for factor, block in zip(factors[1:], blocks[1:])
    ]
    parts = _gated(_convolved(parts, weights1, bias1), w, degrees)
    parts = _convolved(parts, weights2, bias2)
    z = torch.bmm(edges.back, torch.cat(parts, dim=1).view(e, z.shape[1], w))
    # never summed in bf16
    return segment_sum(z.flatten(1).to(y.dtype), edges.graph.receiver, n).view(n, s, w)


def spread(h: Tensor, last: nn.Module, edges: Edges) -> Tensor:
    """Sum over the edges into each atom of m = 0 coefficients, turned back: (n, S, C) of h (e, any)
    through the layer ``last``, (lmax + 1) C wide."""
    if use_triton(h):
        z = nn.functional.linear(h, last.weight)
        return _Spread.apply(z.contiguous(), last.bias, edges.frames, edges.scale, edges)
    n0, receiver = edges.shape.degrees[0], edges.graph.receiver
    start = nn.functional.linear(h, last.weight, last.bias).unflatten(1, (n0, -1))
    x = torch.bmm(edges.back[:, :, :n0], start)
    n, kind = edges.graph.species.shape[0], edges.frames.dtype
    return segment_sum(x.flatten(1).to(kind), receiver, n).unflatten(1, x.shape[1:])


def _convolved(parts: list[Tensor], weights: list[Tensor], bias: Tensor) -> list[Tensor]:
    out = [nn.functional.linear(parts[0], weights[0], bias)]
    for x, weight in zip(parts[1:], weights[1:]):
        if x.shape[1] == weight.shape[1]:
            out.append(nn.functional.linear(x, weight))
        else:  # one matrix for +m and -m
            y = nn.functional.linear(x.view(2 * x.shape[0], weight.shape[1]), weight)
            out.append(y.view(x.shape[0], 2 * weight.shape[0]))
    return out


def _gated(parts: list[Tensor], w: int, degrees: list[int]) -> list[Tensor]:
    """SiLU for l = 0, sigmoid gates for l > 0; the first lmax C columns of m = 0 are the gates."""
    lmax = degrees[0] - 1
    gates, scalars, rest = parts[0].split([lmax * w, w, lmax * w], dim=1)
    gates = torch.sigmoid(gates)
    out = [torch.cat([silu(scalars), rest * gates], dim=1)]
    for m, part in enumerate(parts[1:], start=1):
        gate = gates if m == 1 else gates[:, (m - 1) * w :]  # degrees l >= m
        out.append((part.unflatten(1, (2, degrees[m] * w)) * gate.unsqueeze(1)).flatten(1))
    return out


def _whole(weight: Tensor, columns: int) -> Tensor:
    """The matrix of an order with so many columns; one of half the size serves +m and -m both."""
    return weight if weight.shape[1] == columns else torch.block_diag(weight, weight)


def _convolve(
    x: Tensor, weights: list[Tensor], columns_in: list[int], columns_out: list[int], out: Tensor
) -> None:
    """One product per order on slices of one buffer, written in place of a concatenation. weights
    (out, in). No bias: torch would first write it, then read it."""
    for k, w in enumerate(weights):
        target = out[:, columns_out[k] : columns_out[k + 1]]
        torch.mm(x[:, columns_in[k] : columns_in[k + 1]], w.t(), out=target)


def _transposed(weights: list[Tensor], edges: int) -> list[Tensor]:
    """Copies where they pay for their launches: tensor cores take TF32 only where the summed axis
    is contiguous."""
    return [w.t().contiguous() if edges > MANY else w.t() for w in weights]


def _products(
    x: Tensor,
    x_at: list[int],
    y: Tensor,
    y_at: list[int],
    more: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """x^T y of the columns of each order, plus those of another pair."""
    out = []
    for k in range(len(x_at) - 1):
        xs, ys = slice(x_at[k], x_at[k + 1]), slice(y_at[k], y_at[k + 1])
        out.append(x[:, xs].t() @ y[:, ys])
        if more is not None:
            out[k].addmm_(more[0][:, xs].t(), more[1][:, ys])
    return out


def _columns(weights1: list[Tensor], weights2: list[Tensor]) -> tuple[list[int], ...]:
    """Column bounds of the orders in z, in conv1's output (gates with m = 0), and after the
    gates."""
    sizes = [w.shape[1] for w in weights1], [w.shape[0] for w in weights1]
    return tuple([0, *accumulate(s)] for s in (*sizes, [w.shape[0] for w in weights2]))


def _sum_push(
    shape: Shape, z: Tensor, tangent: Tensor, edges: Edges, bias: Tensor, moved: tuple[Tensor, ...]
) -> Tensor:
    """The tangent of :func:`turn_sum`; moved: those of frames and scale."""
    tframes, tscale = moved
    frames = edges.frames * tscale.unsqueeze(1) + tframes * edges.scale.unsqueeze(1)
    other = replace(edges, frames=frames, scale=torch.ones_like(edges.scale))
    out = turn_sum(shape, tangent, edges, torch.zeros_like(bias))
    return out.add_(turn_sum(shape, z, other, bias))


class _Message(Twice):
    def value(ctx, y, rad, shift, bias1, bias2, frames, scale, edges, *weights):
        shape, half = edges.shape, len(weights) // 2
        z_at, a_at, q_at = _columns(weights[:half], weights[half:])
        z = turn(shape, y, frames, rad, shift, edges.graph)
        a = z.new_empty(len(rad), a_at[-1])
        _convolve(z, weights[:half], z_at, a_at, a)
        g = gate(shape, a, bias1)
        q = g.new_empty(len(rad), q_at[-1])
        _convolve(g, weights[half:], q_at, q_at, q)
        ctx.graph, ctx.shape = edges.graph, shape
        out = turn_sum(shape, q, replace(edges, frames=frames, scale=scale), bias2)
        return out, (a, y, rad, shift, bias1, bias2, frames, scale, *weights)

    @staticmethod
    def parts(ctx, kept):
        """What ``value`` keeps, with edges and the columns of orders."""
        a, y, rad, shift, bias1, bias2, frames, scale, *weights = kept
        half = len(weights) // 2
        first, second = weights[:half], weights[half:]
        edges = Edges(ctx.graph, ctx.shape, scale, frames)
        return a, y, rad, shift, (bias1, bias2), edges, (first, second), _columns(first, second)

    def gradient(ctx, kept, grad):
        a, y, rad, shift, (bias1, _), edges, (first, second), at = _Message.parts(ctx, kept)
        shape, (z_at, a_at, q_at) = edges.shape, at
        dq, dbias2 = turn_sum_grad(shape, grad.contiguous(), edges, rad.dtype)
        g = torch.empty_like(dq)  # the gradient of the gated numbers
        _convolve(dq, _transposed(second, len(dq)), q_at, q_at, g)
        # g is the gated numbers, again: cheaper than to keep them
        da, dbias1 = gate_grad(shape, a, bias1, g)
        d2 = _products(dq, q_at, g, q_at)
        del dq, g
        z = turn(shape, y, edges.frames, rad, shift, edges.graph)
        d1 = _products(da, a_at, z, z_at)
        # now the gradient of z
        _convolve(da, _transposed(first, len(da)), a_at, z_at, z)
        del da
        dy, drad, dshift = turn_grad(shape, y, edges.frames, rad, shift, z, edges.graph)
        return dy, drad, dshift, dbias1, dbias2, None, None, None, *d1, *d2

    def pull(ctx, kept, grad):
        a, y, rad, shift, (bias1, bias2), edges, (first, second), at = _Message.parts(ctx, kept)
        shape, (z_at, a_at, q_at), grad = edges.shape, at, grad.contiguous()
        dq, _ = turn_sum_grad(shape, grad, edges, rad.dtype)
        g = torch.empty_like(dq)
        _convolve(dq, _transposed(second, len(dq)), q_at, q_at, g)
        da, _ = gate_grad(shape, a, bias1, g)
        _convolve(g, second, q_at, q_at, dq)  # what turn_sum was given
        dframes, dscale = frames_of_sum(shape, dq, edges, bias2, grad)
        del dq, g
        z = da.new_empty(len(da), z_at[-1])  # its gradient
        _convolve(da, _transposed(first, len(da)), a_at, z_at, z)
        dframes += frames_of_turn(shape, y, rad, shift, z, edges.graph)
        dy, drad, _ = turn_grad(shape, y, edges.frames, rad, shift, z, edges.graph)
        return dy, drad, None, None, None, dframes, dscale, *[None] * (1 + len(first + second))

    def push(ctx, kept, tangents):
        a, y, rad, shift, (bias1, bias2), edges, (first, second), at = _Message.parts(ctx, kept)
        shape, (z_at, a_at, q_at) = edges.shape, at
        ty, trad, _, _, _, tframes, tscale, *_ = (
            t if t is None else t.contiguous() for t in tangents
        )
        tz = turn_push(shape, y, ty, edges, tframes, rad, trad, shift)
        ta = torch.empty_like(a)
        _convolve(tz, first, z_at, a_at, ta)
        del tz
        g, q = gate_push(shape, a, ta, bias1), a.new_empty(len(a), q_at[-1])
        _convolve(g, second, q_at, q_at, q)
        g, value = gate(shape, a, bias1), g
        _convolve(g, second, q_at, q_at, value)
        return (_sum_push(shape, value, q, edges, bias2, (tframes, tscale)),), ta

    def second(ctx, kept, tangents, first, grads, more):
        a, y, rad, shift, (bias1, _), edges, weights, at = _Message.parts(ctx, kept)
        shape, (z_at, a_at, q_at), ta = edges.shape, at, more
        ty, trad, _, _, _, *moved = (t if t is None else t.contiguous() for t in tangents[:7])
        px, gx = first[0].contiguous(), grads[0].contiguous()
        pq, _ = turn_sum_grad(shape, px, edges, rad.dtype)
        gq, dbias2 = turn_sum_second(shape, px, gx, edges, *moved, rad.dtype)
        back = _transposed(weights[1], len(pq))
        pg, gg = torch.empty_like(pq), torch.empty_like(gq)
        _convolve(pq, back, q_at, q_at, pg)
        _convolve(gq, back, q_at, q_at, gg)
        # pg and gg are the gated numbers' tangents and values after it
        pa, ga, dbias1 = gate_second(shape, a, ta, bias1, pg, gg)
        d2 = _products(gq, q_at, gg, q_at, (pq, pg))
        del gq, gg, pq, pg
        z = turn(shape, y, edges.frames, rad, shift, edges.graph)
        tz = turn_push(shape, y, ty, edges, moved[0], rad, trad, shift)
        d1 = _products(ga, a_at, z, z_at, (pa, tz))
        back = _transposed(weights[0], len(ga))
        _convolve(ga, back, a_at, z_at, z)
        _convolve(pa, back, a_at, z_at, tz)
        del ga, pa
        dy, drad, dshift = turn_second(shape, y, ty, edges, moved[0], rad, trad, shift, tz, z)
        return dy, drad, dshift, dbias1, dbias2, None, None, None, *d1, *d2


class _Spread(Twice):
    def value(ctx, z, bias, frames, scale, edges):
        ctx.graph, ctx.shape = edges.graph, Shape(edges.shape.l, 0, edges.shape.m)
        edges = replace(edges, frames=frames, scale=scale)
        return turn_sum(ctx.shape, z, edges, bias), (z, bias, frames, scale)

    @staticmethod
    def edges(ctx, kept):
        return Edges(ctx.graph, ctx.shape, kept[3], kept[2])

    def gradient(ctx, kept, grad):
        edges, kind = _Spread.edges(ctx, kept), kept[0].dtype
        return *turn_sum_grad(ctx.shape, grad.contiguous(), edges, kind), None, None, None

    def pull(ctx, kept, grad):
        edges, grad = _Spread.edges(ctx, kept), grad.contiguous()
        dz, _ = turn_sum_grad(ctx.shape, grad, edges, kept[0].dtype)
        return dz, None, *frames_of_sum(ctx.shape, kept[0], edges, kept[1], grad), None

    def push(ctx, kept, tangents):
        z, bias, *_ = kept
        tz, _, tframes, tscale, _ = tangents
        moved = tframes.contiguous(), tscale.contiguous()
        edges = _Spread.edges(ctx, kept)
        return (_sum_push(ctx.shape, z, tz.contiguous(), edges, bias, moved),), None

    def second(ctx, kept, tangents, first, grads, more):
        moved = tangents[2].contiguous(), tangents[3].contiguous()
        given = first[0].contiguous(), grads[0].contiguous(), _Spread.edges(ctx, kept)
        return *turn_sum_second(ctx.shape, *given, *moved, kept[0].dtype), None, None, None
