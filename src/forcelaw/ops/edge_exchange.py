"""Messages on edges that know each other's reverse: what goes into them, and the exchange between
the two directions of a pair. Legend: e edges, d channels; swap (e,) the reverse of each edge, an
involution.

By kernels the element of an edge's neighbour is a few columns of zeros and a one beside its
geometry: a table of elements, and a bias, are then columns of a matrix, whose gradient is one
product and no atomic sum. A sum, the gather of the reverse and the LayerNorm of both are one pass
each way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layer_norm import EPSILON, _tile, layer_norm
from .linear import column_sums, linear
from .register import Differentiable
from .silu import silu
from .switch import constexpr, derivatives, tl, triton, use_triton, use_triton_at
from .tiles import PROGRAMS, lowered, wide

ALIGNED = 8  # columns: torch's product of rows that are not 16 bytes wide is 4 times slower
FLAT = 1024  # numbers of a program where the shape does not matter


@dataclass
class EdgeColumns:
    """What is known of edges: g (e, columns), species (e,) of the neighbour and, for kernels,
    joined (e, any), a one in the column of the element, then g; elements: columns of the former;
    blank (1, ALIGNED) zeros."""

    g: Tensor
    species: Tensor
    joined: Tensor | None = None
    blank: Tensor | None = None
    elements: int = 0


def edge_columns(g: Tensor, species: Tensor, elements: int) -> EdgeColumns:
    """g (e, columns), species (e,) below ``elements``; once per forward pass."""
    if not use_triton_at(g):
        return EdgeColumns(g, species)
    wide = -(-elements // ALIGNED) * ALIGNED
    one = species.unsqueeze(1) == torch.arange(wide, device=g.device)
    blank = g.new_zeros(1, ALIGNED)
    rest = blank.expand(len(g), -1)[:, : -g.shape[1] % ALIGNED]
    joined = torch.cat([one.to(g.dtype), g, rest], dim=1)
    return EdgeColumns(g, species, joined, blank, wide)


def edge_table(table: Tensor, known: EdgeColumns) -> Tensor:
    """Rows (e, d) of a table (elements, d), by the element of the neighbour."""
    if known.joined is None or derivatives():
        return table.index_select(0, known.species)
    return _Table.apply(table, known.species, known.joined[:, : known.elements].detach())


def edge_input(
    known: EdgeColumns,
    weight: Tensor,
    bias: Tensor,
    table: Tensor | None,
    t: Tensor,
    message: Tensor,
) -> Tensor:
    """SiLU(g W^T + b + table[species] + t M^T): W (d, columns), M (d, in), t (e, in) -> (e, d)."""
    if known.joined is None or known.blank is None:
        x = linear(known.g, weight, bias) + linear(t, message, None)
        return silu(x if table is None else x + table.index_select(0, known.species))
    rows = bias.expand(known.elements, -1) if table is None else table + bias
    absent = known.blank.expand(len(weight), -1)  # elements that are none, and columns of zeros
    rest = known.joined.shape[1] - known.elements - weight.shape[1]
    parts = rows.t(), absent[:, : known.elements - len(rows)], weight, absent[:, :rest]
    matrix = torch.cat(parts, dim=1)
    if derivatives():
        return silu(nn.functional.linear(known.joined, matrix) + linear(t, message, None))
    return _Input.apply(known.joined, lowered(matrix), t, lowered(message))


def pair_norm(
    skip: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    swap: Tensor,
    norm: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """z = skip (e, d) + x W^T + b, and LayerNorm([z | z of the reverse]) (e, 2 d)."""
    if use_triton(x) and not derivatives():
        product = nn.functional.linear(x, lowered(weight))
        return _Pair.apply(product, skip.contiguous(), bias, swap, *norm)
    z = skip + linear(x, weight, bias)
    return z, layer_norm(torch.cat([z, swapped(z, swap)], dim=-1), *norm)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """first + second + x W^T + b: x (e, in), all others (e, d)."""
    if use_triton(x) and not derivatives():
        product = nn.functional.linear(x, lowered(weight))
        return _Sum.apply(product, bias, first.contiguous(), second.contiguous())
    return first + second + linear(x, weight, bias)


def swapped(x: Tensor, swap: Tensor) -> Tensor:
    """Rows of x (e, d) by ``swap`` (e,): its own way back, without an atomic sum."""
    return _Swapped.apply(x, swap)


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, swap):
        ctx.save_for_backward(swap)
        return x.index_select(0, swap)

    @staticmethod
    def backward(ctx, grad):
        (swap,) = ctx.saved_tensors
        return _Swapped.apply(grad, swap), None


class _Table(Differentiable):
    def forward(ctx, table, species, one):
        ctx.elements = len(table)
        ctx.save_for_backward(one)
        return table.index_select(0, species)

    def backward(ctx, grad):
        (one,) = ctx.saved_tensors
        return torch.mm(one.t(), grad.to(one.dtype))[: ctx.elements], None, None


class _Input(Differentiable):
    def forward(ctx, known, matrix, t, message):
        known, t = known.to(matrix.dtype), t.to(message.dtype)
        x = torch.mm(known, matrix.t())
        x.addmm_(t, message.t())
        ctx.save_for_backward(known, t, message, x)
        return nn.functional.silu(x)

    def backward(ctx, grad):
        known, t, message, x = ctx.saved_tensors
        dx = torch.ops.aten.silu_backward(grad.to(x.dtype), x)
        return None, torch.mm(dx.t(), known), torch.mm(dx, message), torch.mm(dx.t(), t)


@triton.jit(do_not_specialize=["rows"])
def _pair(
    x,
    skip,
    shift,
    swap,
    gain,
    bias,
    z,
    out,
    rows,
    w: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mc = c < w
    mask = (r < rows)[:, None] & mc[None, :]
    wide = gain.dtype.element_ty
    back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
    here, there = r[:, None] * w + c[None, :], back[:, None] * w + c[None, :]
    moved = tl.load(shift + c, mask=mc, other=0.0)[None, :]
    a = tl.load(x + here, mask=mask, other=0.0).to(wide) + moved
    a += tl.load(skip + here, mask=mask, other=0.0).to(wide)
    tl.store(z + here, a.to(z.dtype.element_ty), mask=mask)
    b = tl.load(x + there, mask=mask, other=0.0).to(wide) + moved
    b += tl.load(skip + there, mask=mask, other=0.0).to(wide)
    a, b, _ = _normalised_pair(a, b, mask, w)
    put = out + r[:, None] * (2 * w) + c[None, :]
    a = a * tl.load(gain + c, mask=mc, other=0.0)[None, :]
    a += tl.load(bias + c, mask=mc, other=0.0)[None, :]
    tl.store(put, a.to(out.dtype.element_ty), mask=mask)
    b = b * tl.load(gain + w + c, mask=mc, other=0.0)[None, :]
    b += tl.load(bias + w + c, mask=mc, other=0.0)[None, :]
    tl.store(put + w, b.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _normalised_pair(a, b, mask, w: constexpr):
    """([a | b] - mean) / sigma, and 1 / sigma (rows, 1)."""
    mean = (tl.sum(a + b, axis=1) / (2 * w))[:, None]
    a, b = tl.where(mask, a - mean, 0.0), tl.where(mask, b - mean, 0.0)
    scale = (1.0 / tl.sqrt(tl.sum(a * a + b * b, axis=1) / (2 * w) + EPSILON))[:, None]
    return a * scale, b * scale, scale


@triton.jit(do_not_specialize=["rows", "programs"])
def _pair_grad(
    z,
    swap,
    gain,
    grad_z,
    grad,
    dz,
    sums,
    rows,
    programs,
    w: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """An edge is in its own row and in its reverse's, which have one mean and one sigma: what comes
    back from both is summed first and goes through the norm once. sums (5, programs, w): of gain
    and of bias, two halves each, and of dz."""
    pid = tl.program_id(0)
    c = tl.arange(0, BC)
    mc = c < w
    wide = gain.dtype.element_ty
    g0 = tl.load(gain + c, mask=mc, other=0.0)[None, :]
    g1 = tl.load(gain + w + c, mask=mc, other=0.0)[None, :]
    zero = tl.zeros([BE, BC], wide)
    gain0, gain1, bias0, bias1, shifts = zero, zero, zero, zero, zero
    for low in range(pid * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
        here, there = r[:, None] * w + c[None, :], back[:, None] * w + c[None, :]
        a = tl.load(z + here, mask=mask, other=0.0).to(wide)
        b = tl.load(z + there, mask=mask, other=0.0).to(wide)
        a, b, scale = _normalised_pair(a, b, mask, w)
        own = grad + r[:, None] * (2 * w) + c[None, :]
        other = grad + back[:, None] * (2 * w) + c[None, :]
        da, db = tl.load(own, mask=mask, other=0.0), tl.load(own + w, mask=mask, other=0.0)
        da, db = da.to(wide), db.to(wide)
        gain0 += da * a
        gain1 += db * b
        bias0 += da
        bias1 += db
        da = da * g0 + tl.load(other + w, mask=mask, other=0.0).to(wide) * g1
        db = db * g1 + tl.load(other, mask=mask, other=0.0).to(wide) * g0
        # two rows, so the means of both are summed, as da and db are
        mean = (tl.sum(da + db, axis=1) / (2 * w))[:, None]
        along = (tl.sum(da * a + db * b, axis=1) / (2 * w))[:, None]
        change = (da - mean - a * along) * scale
        change += tl.load(grad_z + here, mask=mask, other=0.0).to(wide)
        tl.store(dz + here, change.to(dz.dtype.element_ty), mask=mask)
        shifts += tl.where(mask, change, 0.0)
    put, part = sums + pid.to(tl.int64) * w + c, programs.to(tl.int64) * w
    tl.store(put, tl.sum(gain0, axis=0), mask=mc)
    tl.store(put + part, tl.sum(gain1, axis=0), mask=mc)
    tl.store(put + 2 * part, tl.sum(bias0, axis=0), mask=mc)
    tl.store(put + 3 * part, tl.sum(bias1, axis=0), mask=mc)
    tl.store(put + 4 * part, tl.sum(shifts, axis=0), mask=mc)


class _Pair(Differentiable):
    def forward(ctx, x, skip, shift, swap, gain, bias):
        (rows, w), size = x.shape, _tile(x.shape[1])
        kind = torch.promote_types(torch.promote_types(x.dtype, skip.dtype), torch.float32)
        z, out = torch.empty_like(x, dtype=kind), x.new_empty(rows, 2 * w)
        given = x, skip, shift, swap, gain, bias, z, out, rows
        _pair[(triton.cdiv(rows, size["BE"]),)](*given, w=w, **size)
        ctx.save_for_backward(z, swap, gain)
        return z, out

    def backward(ctx, grad_z, grad):
        z, swap, gain = ctx.saved_tensors
        (rows, w), size, dz = z.shape, _tile(z.shape[1]), torch.empty_like(z)
        programs = max(1, min(PROGRAMS, triton.cdiv(rows, size["BE"])))
        sums = gain.new_empty(5, programs, w)
        given = z, swap, gain, grad_z.contiguous(), grad.contiguous(), dz, sums, rows, programs
        _pair_grad[(programs,)](*given, w=w, **size)
        sums = sums.sum(1)
        return dz, dz, sums[4], None, sums[:2].view(-1), sums[2:4].view(-1)


@triton.jit(do_not_specialize=["numbers"])
def _sum(
    x, bias, first, second, out, numbers, w: constexpr, WIDE: constexpr, FLAT: constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    mask = i < numbers
    y = tl.load(x + i, mask=mask, other=0.0).to(WIDE)
    y += tl.load(first + i, mask=mask, other=0.0).to(WIDE)
    y += tl.load(second + i, mask=mask, other=0.0).to(WIDE)
    y += tl.load(bias + i % w, mask=mask, other=0.0).to(WIDE)
    tl.store(out + i, y.to(out.dtype.element_ty), mask=mask)


class _Sum(Differentiable):
    def forward(ctx, x, bias, first, second):
        ctx.kind, numbers = bias.dtype, x.numel()
        out = torch.empty_like(first, dtype=torch.promote_types(first.dtype, torch.float32))
        given, size = (x, bias, first, second, out, numbers), {"w": x.shape[1], "FLAT": FLAT}
        _sum[(triton.cdiv(numbers, FLAT),)](*given, WIDE=wide(x), num_warps=4, **size)
        return out

    def backward(ctx, grad):
        grad = grad.contiguous()
        return grad, column_sums(grad, ctx.kind), grad, grad
