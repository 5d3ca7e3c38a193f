"""GemNet-OC's sums over triplets and quadruplets, and the angular bases that they read.

They factorise, exactly, into sums over edges (models/gemnet_basis.py). Plain torch pads the edges
into each atom to rows of K slots and multiplies small matrices; kernels stay on edges and keep the
moments of an atom in registers (triplets.py, quadruplets.py).

Legend: n atoms, e edges, q short edges, K row width, s = S^2, w = 2S - 1, P = sum (p+1)(2p+1),
f = cbf; t and z channels of triplet and quadruplet messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import segment_sum
from ..switch import use_triton_at
from .harmonics import harmonics, rotations, turns
from .index import EdgeIndex
from .quadruplets import quad_read, short_sum
from .triplets import cosines, outer_sum, triplets

# kernels unroll over degrees, and spill and compile for minutes at the published 7
MOST_DEGREES = 5


@dataclass
class Rows:
    """Angular bases for plain torch."""

    a2a: Tensor  # (n, rbf, K)
    harmonics: Tensor  # (n, K, s) of the edges into each atom
    # (e, f, S + 1) radial weights, and minus the weight of the edge on itself, which is left out
    e2e: Tensor
    a2e: Tensor  # the same
    e2a: Tensor  # (n, f, s)
    e2a_self: Tensor  # (n, f, K)
    reverse: Tensor  # (q, s) harmonics of the reverse of each short edge
    enter: Tensor  # (q, S w, s) rotation into the frame of the short edge
    leave: Tensor  # (q, P, w) rotation back, per (degree p, order j)
    cbf: Tensor  # (q, S, f)
    quad: Tensor  # (e, sbf, S (S + 1) / 2) radial weights
    quad_self: Tensor  # (q, sbf)


@dataclass
class Edges:
    """The same for kernels, all of it on edges. Radial weights of P_l are those of :class:`Rows`
    over sqrt(2l + 1), since here whole sums over m leave out the edge itself, which is 2l + 1
    there."""

    a2a: Tensor  # (e, rbf)
    harmonics: Tensor  # (e, s)
    e2e: Tensor  # (e, f, S)
    a2e: Tensor  # (e, f, S)
    e2a: Tensor  # (e, f) weight of an edge's message in the sum over triplets at its receiver
    near: Tensor  # (e,) int32: 1 for short edges
    turns: Tensor  # (e, sum (2l + 1)^2) rotation into the frame of each edge
    cbf: Tensor  # (e, S, f)
    quad: Tensor  # (e, sbf, S (S + 1) / 2)
    quad_self: Tensor  # (e, sbf)


@dataclass(frozen=True)
class Geometry:
    """Edges in the order of the index: vec (e, 3) and r (e,) in Angstrom, harmonics y (e, s) of
    their directions, radial functions g (e, radial); near_cutoff of short edges."""

    vec: Tensor
    r: Tensor
    y: Tensor
    g: Tensor
    near_cutoff: float


def angular_bases(
    geometry: Geometry,
    index: EdgeIndex,
    a2a: Tensor,
    circular: Tensor,
    spherical: Tensor,
    near: Callable[[Tensor, Tensor], Tensor],
    tables: Any,
) -> Rows | Edges:
    """The bases of one batch, for :func:`triplet_quadruplet_sums`.

    a2a (e, rbf): radial weights of pairs. circular (3 f S, radial) and spherical (sbf S (S + 1) /
    2, radial) project g. near(vec, r) makes radial weights (any, S, f) of short edges. tables: the
    constants of ``models/gemnet_basis.Tables``.
    """
    if tables.degrees <= MOST_DEGREES and use_triton_at(geometry.vec):
        return _edge_bases(geometry, index, a2a, circular, spherical, near, tables)
    return _row_bases(geometry, index, a2a, circular, spherical, near, tables)


def triplet_quadruplet_sums(
    e2e: Tensor,
    a2e: Tensor,
    quad: Tensor,
    e2a: Tensor,
    a2a: Tensor,
    b: Rows | Edges,
    table: Tensor,
    index: EdgeIndex,
) -> tuple[Tensor, ...]:
    """Narrow messages (e, t), quad (e, z) -> what edges see of e2e and a2e (e, f, t) and of quad
    (e, sbf, z), and atoms of e2a (n, f, t) and a2a (n, rbf, t). table (z, f): from the basis of
    short edges to channels."""
    if isinstance(b, Rows):
        return _row_sums(e2e, a2e, quad, e2a, a2a, b, table, index)
    y, ptr = b.harmonics, index.ptr
    moments = outer_sum(y, quad, ptr)
    message, returned = short_sum(moments, quad, y, b.turns, b.cbf, table, b.near, index)
    return (
        triplets(b.e2e, y, e2e, ptr),
        triplets(b.a2e, y, a2e, ptr),
        quad_read(b.quad, b.quad_self, y, returned, message, ptr, quad.dtype),
        outer_sum(b.e2a, e2a, ptr),
        outer_sum(b.a2a, a2a, ptr),
    )


def _projected(spherical: Tensor, share: Tensor) -> Tensor:
    """(sbf, S (S + 1) / 2, radial): the weights of the quadruplet basis times its norms."""
    return spherical.unflatten(0, (-1, len(share))) * share.unsqueeze(-1)


def _edge_bases(
    geometry: Geometry,
    index: EdgeIndex,
    a2a: Tensor,
    circular: Tensor,
    spherical: Tensor,
    near: Callable[[Tensor, Tensor], Tensor],
    tables: Any,
) -> Edges:
    vec, r, y, g = geometry.vec, geometry.r, geometry.y, geometry.g
    root, degrees = tables.root.to(y).unsqueeze(-1), tables.degrees
    # factors and sums over degrees are taken on the weights: fewer passes over the edges
    parts = (circular.unflatten(0, (3, -1, degrees)) / root).flatten(1, 2).unbind(0)
    e2e, a2e, e2a = (nn.functional.linear(g, w).unflatten(1, (-1, degrees)) for w in parts)
    weight = _projected(spherical, tables.share.to(y))
    pole = (weight.index_select(1, tables.pole) * root).sum(1)
    unit = vec / r.unsqueeze(-1)
    constants = (t.to(vec.dtype) for t in (tables.points, tables.fit, tables.norms))
    return Edges(
        a2a=a2a.contiguous(),
        harmonics=y,
        e2e=e2e,
        a2e=a2e,
        e2a=cosines(e2a, y, index.ptr),
        near=(r < geometry.near_cutoff).to(torch.int32),
        turns=turns(unit, *constants),
        cbf=near(vec, r),
        quad=nn.functional.linear(g, weight.flatten(0, 1)).unflatten(1, weight.shape[:2]),
        quad_self=nn.functional.linear(g, pole),
    )


# ---- plain torch


def _row_bases(
    geometry: Geometry,
    index: EdgeIndex,
    a2a: Tensor,
    circular: Tensor,
    spherical: Tensor,
    near: Callable[[Tensor, Tensor], Tensor],
    tables: Any,
) -> Rows:
    y, g, degrees = geometry.y, geometry.g, tables.degrees
    root = tables.root.to(y)
    circular = nn.functional.linear(g, circular).unflatten(1, (3, -1, degrees))
    own = (circular * root).sum(-1)  # (e, 3, f)
    weight = _projected(spherical, tables.share.to(y))
    quad = nn.functional.linear(g, weight.flatten(0, 1)).unflatten(1, weight.shape[:2])
    pole = index.shorter(quad).index_select(-1, tables.pole)
    parts = [y, a2a, own[:, 2], circular[:, 2].flatten(1)]
    rows = index.rows(torch.cat(parts, dim=-1))
    rows_y, rows_a2a, rows_own, rows_e2a = rows.split([p.shape[1] for p in parts], dim=-1)
    # (S, n, f, K)
    rows_e2a = rows_e2a.unflatten(-1, (-1, degrees)).permute(3, 0, 2, 1).contiguous()
    e2a = [
        torch.bmm(rows_e2a[l], rows_y[..., l * l : (l + 1) ** 2]) / math.sqrt(2 * l + 1)
        for l in range(degrees)
    ]
    enter, leave, reverse, cbf = _quad_frames(
        index.shorter(geometry.vec), index.shorter(geometry.r), near, tables
    )
    return Rows(
        harmonics=rows_y,
        a2a=rows_a2a.transpose(1, 2),
        e2e=torch.cat([circular[:, 0], -own[:, 0].unsqueeze(-1)], dim=-1),
        a2e=torch.cat([circular[:, 1], -own[:, 1].unsqueeze(-1)], dim=-1),
        e2a=torch.cat(e2a, dim=-1),
        e2a_self=rows_own.transpose(1, 2),
        quad=quad,
        quad_self=(pole * root).sum(-1),
        enter=enter,
        leave=leave,
        reverse=reverse,
        cbf=cbf,
    )


def _quad_frames(
    vec: Tensor, r: Tensor, near: Callable[[Tensor, Tensor], Tensor], tables: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """enter, leave, reverse and cbf of :class:`Rows` from short edges: vec (q, 3), r (q,)."""
    q, degrees = vec.shape[0], tables.degrees
    s, w = degrees * degrees, 2 * degrees - 1
    unit = vec / r.unsqueeze(-1)
    d = rotations(unit, tables.points.to(vec.dtype), tables.fit.to(vec.dtype), degrees)
    d = torch.cat([d, d.new_zeros(q, 1)], dim=-1)
    enter = d.index_select(1, tables.enter).view(q, degrees * w, s)
    leave = d.index_select(1, tables.leave).unflatten(1, (-1, w))
    cbf = near(vec, r)
    return enter, leave, harmonics(-unit, degrees), cbf


def _row_sums(
    e2e: Tensor,
    a2e: Tensor,
    quad: Tensor,
    e2a: Tensor,
    a2a: Tensor,
    b: Rows,
    table: Tensor,
    index: EdgeIndex,
) -> tuple[Tensor, ...]:
    t, z = e2e.shape[1], quad.shape[1]
    rows = index.rows(torch.cat([e2e, a2e, e2a, quad, a2a], dim=-1))
    moments = torch.bmm(b.harmonics.transpose(1, 2), rows[..., : 3 * t + z])  # (n, s, 3t + z)
    message, returned = _through_short_edges(moments[..., 3 * t :], quad, b, table, index)
    # what each edge c -> a reads of the moments at a, for every degree
    e2e_l, a2e_l, quad_pj = _read(
        b.harmonics, moments[..., : 2 * t], returned, rows[..., : 2 * t], index
    )
    own = (b.quad_self.unsqueeze(-1) * message.unsqueeze(1)).to(e2e)
    x_quad = _small_products(b.quad, quad_pj)
    if index.short is None:
        x_quad = x_quad - own
    else:
        x_quad = x_quad.index_add(0, index.short, own, alpha=-1)
    h_e2a = torch.bmm(b.e2a, moments[..., 2 * t : 3 * t])
    h_e2a = h_e2a - torch.bmm(b.e2a_self, rows[..., 2 * t : 3 * t])
    h_a2a = torch.bmm(b.a2a, rows[..., 3 * t + z :])
    return _small_products(b.e2e, e2e_l), _small_products(b.a2e, a2e_l), x_quad, h_e2a, h_a2a


def _through_short_edges(
    moments: Tensor, x: Tensor, b: Rows, table: Tensor, index: EdgeIndex
) -> tuple[Tensor, Tensor]:
    """d -> b -> a, summed over d: moments (n, s, z) of the edges into each atom, x (e, z).

    Returns the part of order 0 of each short edge (q, z), and the sum over b at each atom (n, P,
    z).
    """
    receiver, degrees = index.shorter(index.receiver), b.cbf.shape[1]
    # at b: all d, less the edge that comes back from a; then turned into the frame of b -> a
    incoming = moments.index_select(0, index.shorter(index.sender))
    back = x.index_select(0, index.shorter(index.swap))
    turned = _small_products(b.enter, incoming - b.reverse.unsqueeze(-1) * back.unsqueeze(1))
    weights = nn.functional.linear(b.cbf, table).unsqueeze(2)
    turned = turned.view(len(receiver), degrees, 2 * degrees - 1, x.shape[1]) * weights
    message = turned.sum(1)  # (q, w, z)
    returned = segment_sum(_small_products(b.leave, message), receiver, index.atoms)
    return message[:, degrees - 1], returned


def _read(
    harmonics: Tensor, trip: Tensor, quad: Tensor, own: Tensor, index: EdgeIndex
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments at a, contracted with the harmonics of each edge c -> a degree by degree.

    harmonics (n, K, s), trip (n, s, 2t), quad (n, P, z), own (n, K, 2t) -> e2e and a2e (e, S + 1,
    t), whose last entry is the edge's own message, and quad (e, S (S + 1) / 2, z).
    """
    n, t, z, degrees = len(trip), trip.shape[2] // 2, quad.shape[2], math.isqrt(trip.shape[1])
    first, second, third, place = [], [], [], 0
    for l in range(degrees):
        size, block = 2 * l + 1, slice(l * l, (l + 1) ** 2)
        # (p, j, m) -> m rows, (j, z) columns
        part = quad[:, place : place + (l + 1) * size].view(n, l + 1, size, z)
        part = part.transpose(1, 2).flatten(2)
        place += (l + 1) * size
        columns = torch.cat([trip[:, block] * (1 / math.sqrt(size)), part], dim=-1)
        values = torch.bmm(harmonics[..., block], columns)
        first.append(values[..., :t])
        second.append(values[..., t : 2 * t])
        third.append(values[..., 2 * t :])
    values = index.edges(torch.cat([*first, own[..., :t], *second, own[..., t:], *third], dim=-1))
    shape, pairs = (degrees + 1, t), degrees * (degrees + 1) // 2
    e2e, a2e, quads = values.split([shape[0] * t, shape[0] * t, z * pairs], -1)
    return e2e.unflatten(1, shape), a2e.unflatten(1, shape), quads.unflatten(1, (pairs, z))


def _small_products(a: Tensor, b: Tensor) -> Tensor:
    """(e, i, k), (e, k, j) -> (e, i, j), one small product per edge."""
    if a.is_cuda and torch.compiler.is_compiling():
        # fused with what is around it; cuBLAS takes a block of threads for each of the e products
        return (a.unsqueeze(-1) * b.unsqueeze(1)).sum(2)
    return torch.bmm(a, b)
