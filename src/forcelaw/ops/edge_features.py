"""What a message knows of its edge, (e, columns): Gaussians in exp(-5 r / r_c), bare or times the
unit vector, and the vector itself, all times the envelope.

torch takes ten passes over the columns for it: exponents, squares, a product with each component, a
concatenation, the envelope. The kernel takes one; nothing is differentiated by positions there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .switch import constexpr, tl, triton, use_triton_at
from .tiles import three, wide

RATE = 5.0  # Gaussians are those of exp(-RATE r / r_c)


@dataclass(frozen=True)
class Columns:
    """In this order: vec / r_c where ``vectors``, ``radial`` Gaussians, three times ``angular`` of
    them times x, y, z of the unit vector, ``padding`` columns of zeros (on a GPU; rows that are not
    16 bytes wide make its products 4 times slower)."""

    vectors: bool
    radial: int
    angular: int
    padding: int
    cutoff: float  # Angstrom
    beta: float
    beta_angular: float

    def kinds(self) -> list[int]:
        """Of each column: 0 a Gaussian; 1, 2, 3 one times a component of the unit vector; 4, 5, 6 a
        component of vec / r_c; 7 zero."""
        angular = [k for k in (1, 2, 3) for _ in range(self.angular)]
        vectors = [4, 5, 6] if self.vectors else []
        return [*vectors, *[0] * self.radial, *angular, *[7] * self.padding]


def safe_norm(vec: Tensor) -> Tensor:
    """(..., 3) -> (...,): the length, with a finite gradient at zero. Never returns less than 1e-7
    Angstrom."""
    return vec.square().sum(-1).clamp_min(1e-14).sqrt()


def envelope(x: Tensor) -> Tensor:
    """Polynomial envelope with p = 5 of x = r / r_c: 1 - 21 x^5 + 35 x^6 - 15 x^7, zero for x >= 1.

    Value, slope and curvature vanish at x = 1 (DimeNet, arXiv 2003.03123, eq. 8).
    """
    x2 = x * x
    value = 1.0 + x2 * x2 * x * (-21.0 + x * (35.0 - 15.0 * x))
    return torch.where(x < 1.0, value, torch.zeros_like(value))


def exponential_gaussians(r: Tensor, centres: Tensor, cutoff: float, beta: float) -> Tensor:
    """(...,) Angstrom -> (..., count): exp(-beta (exp(-5 r / r_c) - centre)^2)."""
    exponent = -beta * (torch.exp(-(RATE / cutoff) * r).unsqueeze(-1) - centres).square()
    # exp(-50) = 2e-22 is nothing, but below exp(-87) float32 has denormals, which slow a CPU down
    # tenfold
    return torch.exp(exponent.clamp_min(-50.0))


def edge_features(
    vec: Tensor, centres: Tensor, kinds: Tensor, c: Columns, r: Tensor | None = None
) -> Tensor:
    """vec (e, 3) Angstrom -> (e, columns); centres (columns,), zero where a column has none; kinds
    (columns,) int32 are those of c; r (e,): the lengths, where they are known."""
    if use_triton_at(vec):
        return _by_kernel(vec.contiguous(), centres, kinds, c)
    r, first = safe_norm(vec) if r is None else r, 3 * c.vectors
    u, bare = envelope(r / c.cutoff).unsqueeze(-1), centres[first : first + c.radial]
    columns = [exponential_gaussians(r, bare, c.cutoff, c.beta)]
    if c.vectors:
        columns.insert(0, vec / c.cutoff)
    if c.angular:
        unit, own = vec / r.unsqueeze(-1), centres[first + c.radial :][: c.angular]
        angular = exponential_gaussians(r, own, c.cutoff, c.beta_angular)
        columns.append((unit.unsqueeze(-1) * angular.unsqueeze(-2)).flatten(1))
    if vec.is_cuda and c.padding:
        columns.append(vec.new_zeros(len(vec), c.padding))
    g = torch.cat(columns, dim=-1) if len(columns) > 1 else columns[0]
    return g * u


def radial_features(
    vec: Tensor, r: Tensor, centres: Tensor, kinds: Tensor, c: Columns, norm: float
) -> Tensor:
    """(e, columns) times norm, where all columns are bare Gaussians; r (e,): the lengths of vec."""
    if use_triton_at(vec):
        return _by_kernel(vec.contiguous(), centres, kinds, c) * norm
    g = exponential_gaussians(r, centres, c.cutoff, c.beta)
    return g * (envelope(r / c.cutoff) * norm).unsqueeze(-1)


@triton.jit(do_not_specialize=["edges"])
def _features(
    vec,
    centres,
    kinds,
    out,
    edges,
    columns: constexpr,
    cutoff: constexpr,
    beta: constexpr,
    beta_unit: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    me, mc = e < edges, c < columns
    x, y, z = three(vec + e * 3, 1, me, vec.dtype.element_ty)
    kind = tl.load(kinds + c, mask=mc, other=7)[None, :]
    centre = tl.load(centres + c, mask=mc, other=0.0)[None, :]
    r = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-14))
    s = r / cutoff
    s2 = s * s
    u = tl.where(s < 1.0, 1.0 + s2 * s2 * s * (-21.0 + s * (35.0 - 15.0 * s)), 0.0)
    off = tl.exp(s * -5.0)[:, None] - centre
    bare, angular = tl.full([1, BC], beta, WIDE), tl.full([1, BC], beta_unit, WIDE)
    width = tl.where(kind == 0, bare, angular)  # not rounded to float32
    value = tl.exp(tl.maximum(-width * off * off, -50.0))
    is_unit, is_vector = (kind >= 1) & (kind <= 3), (kind >= 4) & (kind <= 6)
    component = tl.where(kind % 3 == 1, x[:, None], tl.where(kind % 3 == 2, y[:, None], z[:, None]))
    value = tl.where(is_unit, value * (component / r[:, None]), value)
    value = tl.where(is_vector, component / cutoff, value)
    value = tl.where(kind == 7, 0.0, value) * u[:, None]
    tl.store(out + e[:, None] * columns + c[None, :], value, mask=me[:, None] & mc[None, :])


def _by_kernel(vec: Tensor, centres: Tensor, kinds: Tensor, c: Columns) -> Tensor:
    edges, columns = len(vec), len(kinds)
    out, lanes = vec.new_empty(edges, columns), triton.next_power_of_2(columns)
    size = {"BE": max(1, 2048 // lanes), "BC": lanes, "num_warps": 4}
    constants = columns, c.cutoff, c.beta, c.beta_angular
    programs = (triton.cdiv(edges, size["BE"]),)
    _features[programs](vec, centres, kinds, out, edges, *constants, WIDE=wide(vec), **size)
    return out
