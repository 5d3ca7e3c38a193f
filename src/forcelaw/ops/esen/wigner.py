"""Edge frames of eSEN, (e, P) packed blocks of Wigner matrices, in one launch; see models/so3.py,
whose polynomials these are.

torch takes some fifty launches for them, most on arrays of one number an edge. Everything is
computed in float64, as there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_message import wide


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
    P: tl.constexpr,
    TOP: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BP: tl.constexpr,
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


@torch.library.custom_op("forcelaw::frames", mutates_args=())
def _frames_op(unit: Tensor, table: Tensor, lmax: int) -> Tensor:
    edges, numbers = len(unit), table.shape[1]
    out = unit.new_empty(edges, numbers)
    lanes = triton.next_power_of_2(numbers)
    rows = max(1, 512 // lanes)
    _frames[(triton.cdiv(edges, rows),)](
        unit,
        table,
        out,
        edges,
        P=numbers,
        TOP=2 * lmax,
        WIDE=wide(unit),
        BE=rows,
        BP=lanes,
        num_warps=4,
    )
    return out


@_frames_op.register_fake
def _(unit, table, lmax):
    return unit.new_empty(unit.shape[0], table.shape[1])


def edge_frames(unit: Tensor, table: Tensor, lmax: int) -> Tensor:
    """unit (e, 3), float64 coefficients table (monomials, P) -> (e, P) in the dtype of unit; no
    gradient."""
    return _frames_op(unit.contiguous(), table, lmax)
