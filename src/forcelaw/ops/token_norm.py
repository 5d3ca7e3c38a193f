"""What stands around the attention among tokens (edge_attention.py): tokens made and normalised
before it, residual sums and norms after it. Legend: n atoms with 2 d channels, e edges with d;
tokens (n + e, d), atoms first.

By kernels tokens are written where they belong, without a concatenation or a slice of gradients,
and a sum and its LayerNorm are one pass each way, in which the gradients of all vectors are summed.
Where gradients are differentiated again the same is made of operations that can be.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .layer_norm import EPSILON, _forward, _normalised, _tile, layer_norm
from .linear import linear
from .register import Differentiable
from .switch import constexpr, derivatives, tl, triton, use_triton
from .tiles import PROGRAMS, lowered


class Affine(NamedTuple):
    """Weights (out, in) and bias (out,) of a linear layer, or gain and bias of a LayerNorm."""

    weight: Tensor
    bias: Tensor


def token_norm(
    a: Tensor, contract: Affine, z: Tensor, last: Affine | None, norm: Affine
) -> tuple[Tensor, Tensor]:
    """Tokens from atoms a (n, in) and from edges z (e, any), each by its linear layer (None: z as
    it is): those of the edges (e, d), and the LayerNorm of all (n + e, d)."""
    if last is not None and use_triton(a) and not derivatives():
        weights = lowered(contract.weight), contract.bias, lowered(last.weight), last.bias
        return _TokenNorm.apply(a.contiguous(), z.contiguous(), *weights, *norm)
    z = z if last is None else linear(z, *last)
    return z, layer_norm(torch.cat([linear(a, *contract), z]), *norm)


def attended(
    o: Tensor,
    a: Tensor,
    z: Tensor,
    out: Affine,
    expand: Affine,
    norm_atoms: Affine,
    norm_edges: Affine,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual sums after attention o (n + e, c): a (n, 2 d) + expand(out(o)) and its LayerNorm, z
    (e, d) + out(o) and its LayerNorm."""
    if use_triton(a) and not derivatives():
        given = o.contiguous(), a.contiguous(), z.contiguous()
        weights = lowered(out.weight), out.bias, lowered(expand.weight), expand.bias
        return _Attended.apply(*given, *weights, *norm_atoms, *norm_edges)
    of_atoms, of_edges = linear(o, *out).split([len(a), len(z)])  # back a concatenation
    a, z = a + linear(of_atoms, *expand), z + of_edges
    return a, layer_norm(a, *norm_atoms), z, layer_norm(z, *norm_edges)


@triton.jit(do_not_specialize=["rows"])
def _add_norm(
    x, skip, gain, bias, y, out, rows, w: constexpr, BE: constexpr, BC: constexpr
):  # fmt: skip
    """y = x + skip, which may lie in the place of x, and out, its LayerNorm."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mc = c < w
    mask = (r < rows)[:, None] & mc[None, :]
    wide = gain.dtype.element_ty
    at = r[:, None] * w + c[None, :]
    v = tl.load(x + at, mask=mask, other=0.0).to(wide)
    v += tl.load(skip + at, mask=mask, other=0.0).to(wide)
    tl.store(y + at, v.to(y.dtype.element_ty), mask=mask)
    v = tl.where(mask, v - (tl.sum(v, axis=1) / w)[:, None], 0.0)
    v = v * (1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON))[:, None]
    value = v * tl.load(gain + c, mask=mc, other=0.0)[None, :]
    value += tl.load(bias + c, mask=mc, other=0.0)[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "first", "programs"])
def _add_norm_grad(
    y,
    gain,
    grad_y,
    grad,
    dx,
    sums,
    rows,
    first,
    programs,
    SPLIT: constexpr,
    w: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Gradient of the rows y whose LayerNorm has gradient ``grad``; rows from ``first`` on have one
    of their own, grad_y (rows - first, w). sums (3 or 4, programs, w): of gain, of bias, of dx from
    row ``first`` on and, where SPLIT, of dx before it."""
    pid = tl.program_id(0)
    c = tl.arange(0, BC)
    mc = c < w
    wide = gain.dtype.element_ty
    g = tl.load(gain + c, mask=mc, other=0.0)[None, :]
    zero = tl.zeros([BE, BC], wide)
    sum_gain, sum_bias, sum_rest, sum_first = zero, zero, zero, zero
    moved = tl.zeros([1, BC], wide)
    for low in range(pid * BE, rows, programs * BE):
        r = (low + tl.arange(0, BE)).to(tl.int64)
        mask = (r < rows)[:, None] & mc[None, :]
        rest = mask & (r >= first)[:, None]
        at = r[:, None] * w + c[None, :]
        v, scale = _normalised(y, moved, r, c, mask, w, wide)
        dy = tl.load(grad + at, mask=mask, other=0.0).to(wide)
        own = tl.load(grad_y + at - first * w, mask=rest, other=0.0).to(wide)
        sum_gain += dy * v
        sum_bias += dy
        dv = dy * g
        centred = dv - (tl.sum(dv, axis=1) / w)[:, None]
        dv = (centred - v * (tl.sum(dv * v, axis=1) / w)[:, None]) * scale + own
        tl.store(dx + at, dv.to(dx.dtype.element_ty), mask=mask)
        sum_rest += tl.where(rest, dv, 0.0)
        if SPLIT:
            sum_first += tl.where(mask & (r < first)[:, None], dv, 0.0)
    put = sums + pid.to(tl.int64) * w + c
    part = programs.to(tl.int64) * w
    tl.store(put, tl.sum(sum_gain, axis=0), mask=mc)
    tl.store(put + part, tl.sum(sum_bias, axis=0), mask=mc)
    tl.store(put + 2 * part, tl.sum(sum_rest, axis=0), mask=mc)
    if SPLIT:
        tl.store(put + 3 * part, tl.sum(sum_first, axis=0), mask=mc)


def _add_normed(x: Tensor, skip: Tensor, norm: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """x + skip, in the place of x where it has the dtype, and its LayerNorm in the dtype of x."""
    (rows, w), size, out = x.shape, _tile(x.shape[1]), torch.empty_like(x)
    kind = torch.promote_types(torch.promote_types(x.dtype, skip.dtype), torch.float32)
    y = x if x.dtype == kind else torch.empty_like(x, dtype=kind)
    _add_norm[(triton.cdiv(rows, size["BE"]),)](x, skip, *norm, y, out, rows, w=w, **size)
    return y, out


def _norm_gradients(
    y: Tensor, gain: Tensor, grad_y: Tensor, grad: Tensor, dx: Tensor, first: int = 0
) -> Tensor:
    """Fills dx; the sums of :func:`_add_norm_grad`."""
    (rows, w), size = y.shape, _tile(y.shape[1])
    programs = max(1, min(PROGRAMS, triton.cdiv(rows, size["BE"])))
    sums = gain.new_empty(4 if first else 3, programs, w)
    given = y, gain, grad_y.contiguous(), grad.contiguous(), dx, sums, rows, first, programs
    _add_norm_grad[(programs,)](*given, SPLIT=first > 0, w=w, **size)
    return sums.sum(1)


class _TokenNorm(Differentiable):
    def forward(ctx, a, z, contract, contract_bias, last, last_bias, gain, bias):
        kind, n = contract.dtype, len(a)
        a, z = a.to(kind), z.to(kind)
        tokens = a.new_empty(n + len(z), len(last))
        torch.addmm(contract_bias.to(kind), a, contract.t(), out=tokens[:n])
        torch.addmm(last_bias.to(kind), z, last.t(), out=tokens[n:])
        out, size = torch.empty_like(tokens), _tile(tokens.shape[1])
        given = tokens, gain, gain, bias, out, len(tokens), False, False, tokens.shape[1]
        _forward[(triton.cdiv(len(tokens), size["BE"]),)](*given, **size)
        ctx.save_for_backward(a, z, contract, last, tokens, gain)
        return tokens[n:], out

    def backward(ctx, grad_z, grad):
        a, z, contract, last, tokens, gain = ctx.saved_tensors
        n, dx = len(a), torch.empty_like(tokens)
        sums = _norm_gradients(tokens, gain, grad_z, grad, dx, n)
        of_atoms = sums[3] if n else torch.zeros_like(sums[2])
        da, dz = torch.mm(dx[:n], contract), torch.mm(dx[n:], last)
        dcontract, dlast = torch.mm(dx[:n].t(), a), torch.mm(dx[n:].t(), z)
        return da, dz, dcontract, of_atoms, dlast, sums[2], sums[0], sums[1]


class _Attended(Differentiable):
    def forward(ctx, o, a, z, out, out_bias, expand, expand_bias, *norms):
        n, kind = len(a), out.dtype
        o, bias = o.to(kind), out_bias.to(kind)
        of_atoms = torch.addmm(bias, o[:n], out.t())
        change = torch.addmm(expand_bias.to(kind), of_atoms, expand.t())
        a, normed_a = _add_normed(change, a, norms[:2])
        z, normed_z = _add_normed(torch.addmm(bias, o[n:], out.t()), z, norms[2:])
        ctx.save_for_backward(o, of_atoms, a, z, out, expand, norms[0], norms[2])
        return a, normed_a, z, normed_z

    def backward(ctx, grad_a, grad_normed_a, grad_z, grad_normed_z):
        o, of_atoms, a, z, out, expand, gain_a, gain_z = ctx.saved_tensors
        n, kind = len(a), out.dtype
        da, do = torch.empty_like(a, dtype=kind), torch.empty_like(o[:, : len(out)])
        sums_a = _norm_gradients(a, gain_a, grad_a, grad_normed_a, da)
        sums_z = _norm_gradients(z, gain_z, grad_z, grad_normed_z, do[n:])
        torch.mm(da, expand, out=do[:n])
        # out's bias is also in what expand reads
        by_bias = torch.addmv(sums_z[2], expand.to(sums_a.dtype).t(), sums_a[2])
        return (
            torch.mm(do, out),
            da,
            do[n:],
            torch.mm(do.t(), o),
            by_bias,
            torch.mm(da.t(), of_atoms),
            sums_a[2],
            *sums_a[:2],
            *sums_z[:2],
        )
