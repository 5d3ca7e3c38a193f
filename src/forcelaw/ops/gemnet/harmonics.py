"""Real spherical harmonics, and rotations into the frames of edges for GemNet-OC.

harmonics    y (e, S^2) of mean square 1
rotations    of every degree; those of degree l come after l (2l - 1)(2l + 1) / 3 elements of lower
             degrees

By kernels nothing is differentiated by positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..switch import constexpr, tl, triton, use_triton_at
from .triplets import _jit


def harmonics(unit: Tensor, count: int, norms: Tensor | None = None) -> Tensor:
    """Real spherical harmonics of unit vectors (..., 3), degrees below ``count``: (..., count^2).

    Polynomials of x, y, z (smooth everywhere, the poles included), normalised to mean square 1 over
    the sphere: sum_m Y_lm(a) Y_lm(b) = (2l+1) P_l(a.b). Order m < 0 goes with sin(|m| phi), m > 0
    with cos(m phi), no sign (-1)^m. norms (count^2,): of ``harmonic_norms``, in the dtype of unit;
    without them no kernel runs.
    """
    if norms is not None and use_triton_at(unit):
        out = unit.new_empty(len(unit), len(norms))
        programs = (triton.cdiv(len(unit), 64),)
        _harmonics[programs](unit.contiguous(), norms, out, len(unit), count, BE=64, num_warps=2)
        return out
    x, y, z = unit.unbind(-1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]  # Re, Im of (x + i y)^m
    for m in range(1, count):
        cosine.append(x * cosine[m - 1] - y * sine[m - 1])
        sine.append(x * sine[m - 1] + y * cosine[m - 1])
    columns: list[Tensor | None] = [None] * (count * count)
    for m in range(count):
        previous, current = None, torch.full_like(x, float(math.prod(range(2 * m - 1, 0, -2))))
        for l in range(m, count):
            if l > m:
                following = (2 * l - 1) * z * current
                if previous is not None:
                    following = following - (l + m - 1) * previous
                previous, current = current, following / (l - m)
            norm = math.sqrt(
                (2 * l + 1) * (1 if m == 0 else 2) * math.factorial(l - m) / math.factorial(l + m)
            )
            columns[l * l + l + m] = norm * current * cosine[m]
            if m:
                columns[l * l + l - m] = norm * current * sine[m]
    return torch.stack(columns, dim=-1)  # type: ignore[arg-type]


def frames(unit: Tensor) -> Tensor:
    """(q, 3) unit vectors -> (q, 3, 3) right-handed frames whose third row is the vector (Duff et
    al., JCGT 2017).

    Differentiable; the frame turns suddenly at z = 0, which no invariant notices.
    """
    x, y, z = unit.unbind(-1)
    sign = torch.where(z >= 0, 1.0, -1.0).to(unit.dtype)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = torch.stack([1.0 + sign * x * x * a, sign * b, -sign * x], dim=-1)
    second = torch.stack([b, sign + y * y * a, -y], dim=-1)
    return torch.stack([first, second, unit], dim=-2)


def rotations(unit: Tensor, points: Tensor, fit: Tensor, count: int) -> Tensor:
    """Blocks D of degrees l below ``count``, (q, sum (2l+1)^2), each row-major: Y_l(F v) = D_l
    Y_l(v) for any v.

    F is the frame of each unit vector (q, 3); points (p, 3) and fit (p, count^2) are those of
    :func:`rotation_points`.
    """
    local = torch.einsum("qij,pj->qpi", frames(unit), points)
    values = harmonics(local, count).transpose(1, 2)
    blocks = [slice(l * l, (l + 1) ** 2) for l in range(count)]
    return torch.cat([(values[:, block] @ fit[:, block]).flatten(1) for block in blocks], dim=-1)


def turns(unit: Tensor, points: Tensor, fit: Tensor, norms: Tensor) -> Tensor:
    """:func:`rotations` by a kernel; norms (S^2,) of ``harmonic_norms``. No matrix product, which
    would have 11 bits in TF32."""
    e, s = len(unit), math.isqrt(fit.shape[1])
    out = unit.new_empty(e, s * (2 * s - 1) * (2 * s + 1) // 3)
    constants = points.contiguous(), fit.contiguous(), norms
    sizes = e, len(points), s, out.shape[1]
    _turns[(triton.cdiv(e, 32),)](unit.contiguous(), *constants, out, *sizes, BE=32, num_warps=1)
    return out


@triton.jit
def _harmonics_of(x, y, z, norms, S: constexpr):
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
                before = legendre[m * S - m * (m - 1) // 2 + l - 2 - m]
                value = (value - (l + m - 1) * before) / (l - m)
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
def _harmonics(unit, norms, out, n_edges, S: constexpr, BE: constexpr):
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
    POINTS: constexpr,
    S: constexpr,
    D: constexpr,
    BE: constexpr,
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
        px, py = tl.load(points + 3 * p), tl.load(points + 3 * p + 1)
        pz = tl.load(points + 3 * p + 2)
        u = (1.0 + sign * x * x * a) * px + sign * x * y * a * py - sign * x * pz
        v = x * y * a * px + (sign + y * y * a) * py - y * pz
        w = x * px + y * py + z * pz
        values = _harmonics_of(u, v, w, norms, S)
        new = ()
        for l in tl.static_range(S):
            for j in tl.static_range(2 * l + 1):
                for m in tl.static_range(2 * l + 1):
                    weight = tl.load(fit + p * S * S + l * l + m)
                    element = total[l * (2 * l - 1) * (2 * l + 1) // 3 + j * (2 * l + 1) + m]
                    new = new + (element + weight * values[l * l + j],)
        total = new
    for d in tl.static_range(D):
        tl.store(out + e * D + d, total[d], mask=me)
