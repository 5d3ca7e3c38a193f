"""What a message knows of its edge, (e, columns) in one pass: Gaussians in exp(-5 r / r_c), bare or
times the unit vector, and the vector itself, all times the envelope. See models/basis.py; nothing
is differentiated by positions.

torch takes ten passes over the columns for it: exponents, squares, a product with each component, a
concatenation, the envelope.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import wide

# kinds of columns: 0 a Gaussian; 1, 2, 3 one times a component of the unit vector; 4, 5, 6 a
# component of vec / r_c; 7 zero


@triton.jit(do_not_specialize=["edges"])
def _features(
    vec,
    centres,
    kinds,
    out,
    edges,
    columns: tl.constexpr,
    cutoff: tl.constexpr,
    beta: tl.constexpr,
    beta_unit: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    me, mc = e < edges, c < columns
    x = tl.load(vec + e * 3, mask=me, other=0.0)
    y = tl.load(vec + e * 3 + 1, mask=me, other=0.0)
    z = tl.load(vec + e * 3 + 2, mask=me, other=0.0)
    kind = tl.load(kinds + c, mask=mc, other=7)[None, :]
    centre = tl.load(centres + c, mask=mc, other=0.0)[None, :]
    r = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-14))
    s = r / cutoff
    s2 = s * s
    u = tl.where(s < 1.0, 1.0 + s2 * s2 * s * (-21.0 + s * (35.0 - 15.0 * s)), 0.0)
    off = tl.exp(s * -5.0)[:, None] - centre
    width = tl.where(
        kind == 0, tl.full([1, BC], beta, WIDE), tl.full([1, BC], beta_unit, WIDE)
    )  # not rounded to float32
    value = tl.exp(tl.maximum(-width * off * off, -50.0))
    is_unit, is_vector = (kind >= 1) & (kind <= 3), (kind >= 4) & (kind <= 6)
    component = tl.where(kind % 3 == 1, x[:, None], tl.where(kind % 3 == 2, y[:, None], z[:, None]))
    value = tl.where(is_unit, value * (component / r[:, None]), value)
    value = tl.where(is_vector, component / cutoff, value)
    value = tl.where(kind == 7, 0.0, value) * u[:, None]
    tl.store(out + e[:, None] * columns + c[None, :], value, mask=me[:, None] & mc[None, :])


@torch.library.custom_op("forcelaw::edge_features", mutates_args=())
def _edge_features(
    vec: Tensor, centres: Tensor, kinds: Tensor, cutoff: float, beta: float, beta_unit: float
) -> Tensor:
    edges, columns = len(vec), len(kinds)
    out = vec.new_empty(edges, columns)
    lanes = triton.next_power_of_2(columns)
    rows = max(1, 2048 // lanes)
    _features[(triton.cdiv(edges, rows),)](
        vec,
        centres,
        kinds,
        out,
        edges,
        columns,
        cutoff,
        beta,
        beta_unit,
        WIDE=wide(vec),
        BE=rows,
        BC=lanes,
        num_warps=4,
    )
    return out


@_edge_features.register_fake
def _(vec, centres, kinds, cutoff, beta, beta_unit):
    return vec.new_empty(vec.shape[0], kinds.shape[0])


def edge_features(
    vec: Tensor, centres: Tensor, kinds: Tensor, cutoff: float, beta: float, beta_unit: float
) -> Tensor:
    """(e, columns) of vectors vec (e, 3): for each column its kind and centre; beta of Gaussians,
    bare and times unit vectors."""
    return _edge_features(vec.contiguous(), centres, kinds, cutoff, beta, beta_unit)
