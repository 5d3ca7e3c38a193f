"""What a message knows of its edge, (e, columns): Gaussians in exp(-5 r / r_c), bare or times the
unit vector, and the vector itself, all times the envelope.

torch takes ten passes over the columns for it: exponents, squares, a product with each component, a
concatenation, the envelope. The kernel takes one. For gradient forces two more give the derivative
along a change of the vectors, and its transpose; nothing else is needed of it, as vectors depend on
no parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .register import Twice
from .switch import constexpr, derivatives, tl, triton, use_triton_at
from .tiles import envelope_at, three, wide

FLAT = 256  # edges of a program that has nothing but their lengths
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
        return _Features.apply(vec.contiguous(), centres, kinds, c)
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


class Lengths(NamedTuple):
    """Bare Gaussians g (e, columns) of lengths r (e,), and their derivative by r. For kernels that
    give the gradient by r, and take g itself as a constant."""

    g: Tensor
    slope: Tensor
    r: Tensor


def lengths_wanted(vec: Tensor) -> bool:
    """Whether kernels go through functions of the lengths of ``vec`` by positions."""
    return vec.requires_grad and use_triton_at(vec)


def length_features(
    vec: Tensor, r: Tensor, centres: Tensor, kinds: Tensor, c: Columns
) -> Tensor | Lengths:
    """:func:`edge_features` of bare Gaussians alone: as Lengths where kernels go through them by
    positions."""
    if not lengths_wanted(vec):
        return edge_features(vec, centres, kinds, c, r)
    at = vec.detach().contiguous()
    given = at, centres, kinds, c
    return Lengths(_by_kernel(*given), _along(*given, at / r.detach().unsqueeze(-1)), r)


def radial_features(
    vec: Tensor, r: Tensor, centres: Tensor, kinds: Tensor, c: Columns, norm: float
) -> Tensor:
    """(e, columns) times norm, where all columns are bare Gaussians; r (e,): the lengths of vec."""
    if use_triton_at(vec):
        return _by_kernel(vec.contiguous(), centres, kinds, c) * norm
    g = exponential_gaussians(r, centres, c.cutoff, c.beta)
    return g * (envelope(r / c.cutoff) * norm).unsqueeze(-1)


def edge_envelope(vec: Tensor, cutoff: float) -> Tensor:
    """(e,) of vec (e, 3) Angstrom: :func:`envelope` of the length over the cutoff."""
    if use_triton_at(vec) and not derivatives():
        out = vec.new_empty(len(vec))
        programs = (triton.cdiv(len(vec), FLAT),)
        _envelopes[programs](vec.contiguous(), out, len(vec), cutoff=cutoff, FLAT=FLAT, num_warps=4)
        return out
    return envelope(safe_norm(vec) / cutoff)


@triton.jit(do_not_specialize=["edges"])
def _envelopes(vec, out, edges, cutoff: constexpr, FLAT: constexpr):
    e = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    me = e < edges
    x, y, z = three(vec + e * 3, 1, me, vec.dtype.element_ty)
    s = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-14)) / cutoff
    tl.store(out + e, envelope_at(s), mask=me)


@triton.jit
def _parts(
    vec,
    centres,
    kinds,
    e,
    c,
    edges,
    columns: constexpr,
    cutoff: constexpr,
    beta: constexpr,
    beta_unit: constexpr,
    WIDE: constexpr,
):
    """A column is f(r) times 1, x, y or z: f (BE, BC), its derivative by r, which of the four (0 to
    3), and x, y, z, r (BE, 1)."""
    me, mc = (e < edges)[:, None], c < columns
    x, y, z = three(vec + e[:, None] * 3, 1, me, WIDE)
    kind = tl.load(kinds + c, mask=mc, other=7)[None, :]
    centre = tl.load(centres + c, mask=mc, other=0.0)[None, :].to(WIDE)
    r = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-14))
    s = r / cutoff
    s2 = s * s
    inside = s < 1.0
    u = envelope_at(s)
    du = tl.where(inside, s2 * s2 * (-105.0 + s * (210.0 - 105.0 * s)) / cutoff, 0.0)
    near = tl.exp(s * -5.0)
    off = near - centre
    bare, angular = tl.full([1, c.shape[0]], beta, WIDE), tl.full([1, c.shape[0]], beta_unit, WIDE)
    width = tl.where(kind == 0, bare, angular)  # not rounded to float32
    exponent = -width * off * off
    value = tl.exp(tl.maximum(exponent, -50.0))
    slope = tl.where(exponent > -50.0, value * width * off * near * (10.0 / cutoff), 0.0)
    is_unit, is_vector = (kind >= 1) & (kind <= 3), (kind >= 4) & (kind <= 6)
    slope = tl.where(is_unit, (slope - value / r) / r, slope)
    value = tl.where(is_unit, value / r, value)
    one = tl.full([1, 1], 1.0, WIDE)
    slope = tl.where(is_vector | (kind == 7), 0.0, slope)
    value = tl.where(is_vector, one / cutoff, tl.where(kind == 7, 0.0, value))
    which = tl.where(is_unit, kind, tl.where(is_vector, kind - 3, 0))
    return value * u, slope * u + value * du, which, x, y, z, r


@triton.jit(do_not_specialize=["edges"])
def _push(
    vec,
    centres,
    kinds,
    tangent,
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
    """Change of the columns with that of the vectors, tangent (e, 3)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    f, slope, which, x, y, z, r = _parts(
        vec, centres, kinds, e, c, edges, columns, cutoff, beta, beta_unit, WIDE
    )
    me = (e < edges)[:, None]
    t0, t1, t2 = three(tangent + e[:, None] * 3, 1, me, WIDE)
    component = tl.where(which == 1, x, tl.where(which == 2, y, tl.where(which == 3, z, 1.0)))
    moved = tl.where(which == 1, t0, tl.where(which == 2, t1, tl.where(which == 3, t2, 0.0)))
    along = (x * t0 + y * t1 + z * t2) / r
    value = slope * along * component + f * moved
    tl.store(out + e[:, None] * columns + c[None, :], value, mask=me & (c < columns)[None, :])


@triton.jit(do_not_specialize=["edges"])
def _pull(
    vec,
    centres,
    kinds,
    grad,
    dvec,
    edges,
    columns: constexpr,
    cutoff: constexpr,
    beta: constexpr,
    beta_unit: constexpr,
    WIDE: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Gradient of the vectors from that of the columns."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    f, slope, which, x, y, z, r = _parts(
        vec, centres, kinds, e, c, edges, columns, cutoff, beta, beta_unit, WIDE
    )
    me = (e < edges)[:, None]
    at = grad + e[:, None] * columns + c[None, :]
    g = tl.load(at, mask=me & (c < columns)[None, :], other=0.0).to(WIDE)
    component = tl.where(which == 1, x, tl.where(which == 2, y, tl.where(which == 3, z, 1.0)))
    along = tl.sum(g * slope * component, axis=1)[:, None] / r
    own = g * f
    d0 = along * x + tl.sum(tl.where(which == 1, own, 0.0), axis=1)[:, None]
    d1 = along * y + tl.sum(tl.where(which == 2, own, 0.0), axis=1)[:, None]
    d2 = along * z + tl.sum(tl.where(which == 3, own, 0.0), axis=1)[:, None]
    to = dvec + e[:, None] * 3
    tl.store(to, d0, mask=me)
    tl.store(to + 1, d1, mask=me)
    tl.store(to + 2, d2, mask=me)


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
    u = envelope_at(s)
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


def _launch(kernel: Any, vec: Tensor, kinds: Tensor, c: Columns, *given: Tensor) -> None:
    edges, columns = len(vec), len(kinds)
    lanes = triton.next_power_of_2(columns)
    size = {"BE": max(1, 2048 // lanes), "BC": lanes, "num_warps": 4}
    constants = columns, c.cutoff, c.beta, c.beta_angular
    programs = (triton.cdiv(edges, size["BE"]),)
    kernel[programs](vec, *given, edges, *constants, WIDE=wide(vec), **size)


def _by_kernel(vec: Tensor, centres: Tensor, kinds: Tensor, c: Columns) -> Tensor:
    out = vec.new_empty(len(vec), len(kinds))
    _launch(_features, vec, kinds, c, centres, kinds, out)
    return out


def _along(vec: Tensor, centres: Tensor, kinds: Tensor, c: Columns, tangent: Tensor) -> Tensor:
    """Derivative (e, columns) along a change (e, 3) of the vectors."""
    out = vec.new_empty(len(vec), len(kinds))
    _launch(_push, vec, kinds, c, centres, kinds, tangent.contiguous(), out)
    return out


class _Features(Twice):
    def value(ctx, vec, centres, kinds, c):
        ctx.columns = c
        return _by_kernel(vec, centres, kinds, c), (vec, centres, kinds)

    def gradient(ctx, kept, grad):
        (vec, centres, kinds), dvec = kept, torch.empty_like(kept[0])
        _launch(_pull, vec, kinds, ctx.columns, centres, kinds, grad.contiguous(), dvec)
        return dvec, None, None, None

    def push(ctx, kept, tangents):
        return (_along(*kept, ctx.columns, tangents[0]),), None

    def second(ctx, kept, tangents, first, grads, more):
        return None, None, None, None
