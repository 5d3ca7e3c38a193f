"""Real spherical harmonics and rotations into the frames of edges for GemNet-OC; nothing is
differentiated by positions.

harmonics    y (e, S^2) of mean square 1
turns        rotations of every degree; those of degree l come after l (2l - 1)(2l + 1) / 3 elements of lower degrees
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triplets import _degrees, _jit


@triton.jit
def _harmonics_of(x, y, z, norms, S: tl.constexpr):
    """``harmonics`` of gemnet_basis.py at unit vectors, a lane each: a tuple of S^2."""
    one, zero = tl.full(x.shape, 1.0, x.dtype), tl.zeros(x.shape, x.dtype)
    cosine, sine = (one,), (zero,)
    for m in tl.static_range(1, S):
        c, s = x * cosine[m - 1] - y * sine[m - 1], x * sine[m - 1] + y * cosine[m - 1]
        cosine, sine = cosine + (c,), sine + (s,)
    legendre = ()  # (m, l), l >= m
    for m in tl.static_range(S):
        for l in tl.static_range(m, S):
            value = one
            if l > m:
                value = (2 * l - 1) * z * legendre[m * S - m * (m - 1) // 2 + l - 1 - m]
            if l > m + 1:
                value = (value - (l + m - 1) * legendre[m * S - m * (m - 1) // 2 + l - 2 - m]) / (
                    l - m
                )
            legendre = legendre + (value,)
    out = ()
    for l in tl.static_range(S):
        for j in tl.static_range(2 * l + 1):
            value = tl.load(norms + l * l + j) * one
            if j < l:
                value *= legendre[(l - j) * S - (l - j) * (l - j - 1) // 2 + j] * sine[l - j]
            if j == l:
                value *= legendre[l]
            if j > l:
                value *= (
                    legendre[(j - l) * S - (j - l) * (j - l - 1) // 2 + 2 * l - j] * cosine[j - l]
                )
            out = out + (value,)
    return out


@_jit
def _harmonics(unit, norms, out, n_edges, S: tl.constexpr, BE: tl.constexpr):
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    me = e < n_edges
    x = tl.load(unit + e * 3, mask=me, other=0.0)
    y = tl.load(unit + e * 3 + 1, mask=me, other=0.0)
    values = _harmonics_of(x, y, tl.load(unit + e * 3 + 2, mask=me, other=1.0), norms, S)
    for s in tl.static_range(S * S):
        tl.store(out + e * S * S + s, values[s], mask=me)


@_jit
def _turns(
    unit,
    points,
    fit,
    norms,
    out,
    n_edges,
    POINTS: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    BE: tl.constexpr,
):
    """``rotations`` of gemnet_basis.py, an edge a lane."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    me = e < n_edges
    x = tl.load(unit + e * 3, mask=me, other=0.0)
    y = tl.load(unit + e * 3 + 1, mask=me, other=0.0)
    z = tl.load(unit + e * 3 + 2, mask=me, other=1.0)
    one, zero = tl.full([BE], 1.0, x.dtype), tl.zeros([BE], x.dtype)
    sign = tl.where(z >= 0, one, -one)
    a = -1.0 / (sign + z)
    total = ()
    for _ in tl.static_range(D):
        total = total + (zero,)
    for p in range(POINTS):
        px, py, pz = (
            tl.load(points + 3 * p),
            tl.load(points + 3 * p + 1),
            tl.load(points + 3 * p + 2),
        )
        u = (1.0 + sign * x * x * a) * px + sign * x * y * a * py - sign * x * pz
        v = x * y * a * px + (sign + y * y * a) * py - y * pz
        w = x * px + y * py + z * pz
        values = _harmonics_of(u, v, w, norms, S)
        new = ()
        for l in tl.static_range(S):
            for j in tl.static_range(2 * l + 1):
                for m in tl.static_range(2 * l + 1):
                    weight = tl.load(fit + p * S * S + l * l + m)
                    new = new + (
                        total[l * (2 * l - 1) * (2 * l + 1) // 3 + j * (2 * l + 1) + m]
                        + weight * values[l * l + j],
                    )
        total = new
    for d in tl.static_range(D):
        tl.store(out + e * D + d, total[d], mask=me)


@torch.library.custom_op("forcelaw::harmonics", mutates_args=())
def harmonics(unit: Tensor, norms: Tensor) -> Tensor:
    """``harmonics`` of gemnet_basis.py of unit vectors (e, 3), (e, S^2), without gradients; norms
    (S^2,) from ``harmonic_norms`` there."""
    e, out = len(unit), unit.new_empty(len(unit), len(norms))
    _harmonics[(triton.cdiv(e, 64),)](
        unit.contiguous(), norms, out, e, math.isqrt(len(norms)), BE=64, num_warps=2
    )
    return out


@harmonics.register_fake
def _(unit, norms):
    return unit.new_empty(unit.shape[0], norms.shape[0])


@torch.library.custom_op("forcelaw::turns", mutates_args=())
def turns(unit: Tensor, points: Tensor, fit: Tensor, norms: Tensor) -> Tensor:
    """``rotations`` of gemnet_basis.py, (e, sum (2l+1)^2), without gradients; norms (S^2,) from
    ``harmonic_norms`` there.

    No matrix product, which would have 11 bits in TF32.
    """
    e, s = len(unit), _degrees(fit)
    out = unit.new_empty(e, s * (2 * s - 1) * (2 * s + 1) // 3)
    constants = points.contiguous(), fit.contiguous(), norms
    _turns[(triton.cdiv(e, 32),)](
        unit.contiguous(), *constants, out, e, len(points), s, out.shape[1], BE=32, num_warps=1
    )
    return out


@turns.register_fake
def _(unit, points, fit, norms):
    s = _degrees(fit)
    return unit.new_empty(unit.shape[0], s * (2 * s - 1) * (2 * s + 1) // 3)
