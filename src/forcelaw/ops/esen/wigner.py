"""Edge frames of eSEN, (e, P) packed blocks of Wigner matrices, in one launch; see models/so3.py,
which makes the tables of these polynomials.

torch takes some fifty launches for them, most on arrays of one number an edge. Everything is
computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..switch import constexpr, tl, triton, use_triton_at
from ..tiles import wide


def edge_frames(unit: Tensor, powers: Tensor, table: Tensor, lmax: int) -> Tensor:
    """unit (e, 3), powers (monomials, 3) of (w, a, c), float64 coefficients table (monomials, P) ->
    (e, P) in the dtype of unit; by kernels without a gradient."""
    if not use_triton_at(unit):
        arc = shortest_arc(*unit.double().unbind(-1))
        return wigner_polynomials(*arc, powers, table, lmax).to(unit.dtype)
    edges, numbers = len(unit), table.shape[1]
    out, lanes = unit.new_empty(edges, numbers), triton.next_power_of_2(numbers)
    size = {"BE": max(1, 512 // lanes), "BP": lanes, "num_warps": 4}
    _frames[(triton.cdiv(edges, size["BE"]),)](
        unit.contiguous(), table, out, edges, P=numbers, TOP=2 * lmax, WIDE=wide(unit), **size
    )
    return out


def wigner_polynomials(
    w: Tensor, a: Tensor, c: Tensor, powers: Tensor, table: Tensor, lmax: int
) -> Tensor:
    """Quaternion parts (e,) x 3, powers (monomials, 3), table (monomials, any) -> (e, any),
    float64."""

    def all_powers(v: Tensor) -> Tensor:
        out = [torch.ones_like(v)]
        for _ in range(2 * lmax):
            out.append(out[-1] * v)
        return torch.stack(out, dim=-1)

    first, second, third = powers.unbind(-1)
    monomials = (
        all_powers(w).index_select(1, first)
        * all_powers(a).index_select(1, second)
        * all_powers(c).index_select(1, third)
    )
    return monomials @ table


def arc_from_above(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quaternion parts (w, a, c) of the shortest arc from the unit vector (x, y, z), y >= 0, to +y;
    smooth."""
    w = ((1.0 + y) * 0.5).sqrt()
    half = 0.5 / w
    return w, -z * half, x * half


def shortest_arc(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for any unit vector, without cancellation near -y; at -y exactly, a half turn about
    z."""
    upper = arc_from_above(x, y.clamp_min(0.0), z)
    s2 = x * x + z * z
    at_pole = s2 < 1e-60
    s = torch.where(at_pole, torch.ones_like(s2), s2).sqrt()
    n = ((1.0 - y.clamp_max(0.0)) * 0.5).sqrt()  # length of the vector part
    zero = torch.zeros_like(s)
    lower = (
        torch.where(at_pole, zero, 0.5 * s / n),
        torch.where(at_pole, zero, -z / s * n),
        torch.where(at_pole, n, x / s * n),
    )
    w, a, c = (torch.where(y < 0, low, up) for low, up in zip(lower, upper))
    return w, a, c


@triton.constexpr_function
def _monomial(i, j, top):
    """Position of w^(top - i - j) a^i c^j in the table."""
    return i * (top + 1) - i * (i - 1) // 2 + j


@triton.jit(do_not_specialize=["edges"])
def _frames(
    unit,
    table,
    out,
    edges,
    P: constexpr,
    TOP: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BP: constexpr,
):
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    p = tl.arange(0, BP)
    me, mp = e < edges, p < P
    x = tl.load(unit + e * 3, mask=me, other=0.0).to(tl.float64)
    y = tl.load(unit + e * 3 + 1, mask=me, other=1.0).to(tl.float64)
    z = tl.load(unit + e * 3 + 2, mask=me, other=0.0).to(tl.float64)
    # the shortest arc to +y: quaternion (w, a, 0, c), without cancellation near -y; at -y exactly a
    # half turn about z
    w = tl.sqrt((1.0 + tl.maximum(y, 0.0)) * 0.5)
    a, c = -z * (0.5 / w), x * (0.5 / w)
    s2 = x * x + z * z
    at_pole = s2 < 1e-60
    s = tl.sqrt(tl.where(at_pole, 1.0, s2))
    n = tl.sqrt((1.0 - tl.minimum(y, 0.0)) * 0.5)
    below = y < 0
    w = tl.where(below, tl.where(at_pole, 0.0, 0.5 * s / n), w)
    a = tl.where(below, tl.where(at_pole, 0.0, -z / s * n), a)
    c = tl.where(below, tl.where(at_pole, n, x / s * n), c)
    one = w * 0.0 + 1.0
    powers = (one,)
    for k in tl.static_range(TOP):
        powers = powers + (powers[k] * w,)
    total = tl.zeros([BE, BP], tl.float64)
    first = one
    for i in tl.static_range(TOP + 1):
        both = first
        for j in tl.static_range(TOP + 1 - i):
            factor = tl.load(table + _monomial(i, j, TOP) * P + p, mask=mp, other=0.0)
            total += (powers[TOP - i - j] * both)[:, None] * factor[None, :]
            both = both * c
        first = first * a
    tl.store(out + e[:, None] * P + p[None, :], total.to(WIDE), mask=me[:, None] & mp[None, :])
