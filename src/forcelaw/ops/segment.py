"""Messages that stay on edges: SiLU(s_j + t_i + z_ij) * w_ij in one pass, v_j - v_i, and the sum of
edge rows at their receivers.

Legend: n atoms, e edges, d channels; pair (n, 2d) holds s | t; z and w (e, d). torch needs two
gathers, two sums, a SiLU and a product for the first, each a pass over the edges, and an index_add
for each gather on the way back, whose atomics take several times the memory traffic of a sum over
sorted rows. Padding edges get zero both ways.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import _silu, at_least_float32, tile, wide

# tile of each kernel: edges, channels at most, warps
TILES = {"gate": (16, 64, 4), "sum": (16, 64, 2)}


@triton.jit
def _gate_input(
    pair,
    z,
    sender,
    receiver,
    ptr,
    n,
    edges,
    d: tl.constexpr,
    Z: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    """s_j + t_i + z_ij of a tile; offsets of its numbers, which of them there are, and which belong
    to no padding edge."""
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    mask = inside & real[:, None]
    row = e.to(tl.int64)[:, None] * d + c[None, :]
    j = tl.load(sender + e, mask=real, other=0)[:, None] * 2 * d
    i = tl.load(receiver + e, mask=real, other=0)[:, None] * 2 * d + d
    a = tl.load(pair + j + c[None, :], mask=mask, other=0.0) + tl.load(
        pair + i + c[None, :], mask=mask, other=0.0
    )
    if Z:
        a += tl.load(z + row, mask=mask, other=0.0).to(a.dtype)
    return a, row, inside, mask


@triton.jit(do_not_specialize=["n", "edges"])
def _gate(
    pair,
    z,
    w,
    sender,
    receiver,
    ptr,
    out,
    n,
    edges,
    d: tl.constexpr,
    Z: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, _ = _silu(a)
    tl.store(
        out + row,
        (value * tl.load(w + row, mask=mask, other=0.0).to(a.dtype)).to(out.dtype.element_ty),
        mask=inside,
    )


@triton.jit(do_not_specialize=["n", "edges"])
def _gate_grad(
    pair,
    z,
    w,
    sender,
    receiver,
    ptr,
    grad,
    da,
    dw,
    n,
    edges,
    d: tl.constexpr,
    Z: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    a, row, inside, mask = _gate_input(pair, z, sender, receiver, ptr, n, edges, d, Z, BE, BC)
    value, slope = _silu(a)
    g = tl.load(grad + row, mask=mask, other=0.0).to(a.dtype)
    factor = tl.load(w + row, mask=mask, other=0.0).to(a.dtype)
    tl.store(dw + row, (g * value).to(dw.dtype.element_ty), mask=inside)
    tl.store(da + row, (g * factor * slope).to(da.dtype.element_ty), mask=inside)


@triton.jit
def _sum(
    x,
    order,
    ptr,
    out,
    w: tl.constexpr,
    ORDER: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    """Sums of x (e, w) over the edges into each atom, or out of it (ORDER): out (n, w)."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BE, BC], WIDE)  # summed over BE once: a sum waits for all warps
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        if ORDER:
            e = tl.load(order + e, mask=me, other=0).to(tl.int64)
        mask = me[:, None] & (c < w)[None, :]
        total += tl.load(x + e[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(out + i * w + c, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=c < w)


@triton.jit
def _sum_both(
    x, order, ptr, out, w: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    """Sums of x (e, w) over the edges out of each atom, and over those into it: out (n, 2w)."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    away, into = tl.zeros([BE, BC], WIDE), tl.zeros([BE, BC], WIDE)
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        mask = me[:, None] & mc[None, :]
        back = tl.load(order + e, mask=me, other=0).to(tl.int64)
        into += tl.load(x + e[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
        away += tl.load(x + back[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(out + i * 2 * w + c, tl.sum(away, axis=0).to(out.dtype.element_ty), mask=mc)
    tl.store(out + i * 2 * w + w + c, tl.sum(into, axis=0).to(out.dtype.element_ty), mask=mc)


@triton.jit(do_not_specialize=["n", "edges"])
def _spread(
    grad, receiver, ptr, out, n, edges, d: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    i = tl.load(receiver + e, mask=real, other=0)[:, None]
    x = tl.load(grad + i * d + c[None, :], mask=inside & real[:, None], other=0.0)
    tl.store(
        out + e.to(tl.int64)[:, None] * d + c[None, :], x.to(out.dtype.element_ty), mask=inside
    )


@triton.jit(do_not_specialize=["n", "edges"])
def _difference(
    v, sender, receiver, ptr, out, n, edges, d: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (e < edges)[:, None] & (c < d)[None, :]
    real = e < tl.load(ptr + n)
    mask = inside & real[:, None]
    j = tl.load(sender + e, mask=real, other=0)[:, None] * d
    i = tl.load(receiver + e, mask=real, other=0)[:, None] * d
    x = tl.load(v + j + c[None, :], mask=mask, other=0.0) - tl.load(
        v + i + c[None, :], mask=mask, other=0.0
    )
    tl.store(out + e.to(tl.int64)[:, None] * d + c[None, :], x, mask=inside)


def _grid(edges: int, d: int, size: dict[str, int]) -> tuple[int, int]:
    return max(1, triton.cdiv(edges, size["BE"])), triton.cdiv(d, size["BC"])


@torch.library.custom_op("forcelaw::edge_gate", mutates_args=())
def _edge_gate(
    pair: Tensor,
    z: Tensor | None,
    w: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
) -> Tensor:
    (edges, d), out, size = w.shape, torch.empty_like(w), tile(TILES, "gate", w.shape[1])
    _gate[_grid(edges, d, size)](
        pair,
        w if z is None else z,
        w,
        sender,
        receiver,
        ptr,
        out,
        len(pair),
        edges,
        d,
        z is not None,
        **size,
    )
    return out


@_edge_gate.register_fake
def _(pair, z, w, sender, receiver, ptr, order):
    return torch.empty_like(w)


@torch.library.custom_op("forcelaw::edge_gate_backward", mutates_args=())
def _edge_gate_backward(
    grad: Tensor,
    pair: Tensor,
    z: Tensor | None,
    w: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    (edges, d), n = w.shape, len(pair)
    da, dw, dpair = torch.empty_like(w), torch.empty_like(w), torch.empty_like(pair)
    size = tile(TILES, "gate", d)
    _gate_grad[_grid(edges, d, size)](
        pair,
        w if z is None else z,
        w,
        sender,
        receiver,
        ptr,
        grad.contiguous(),
        da,
        dw,
        n,
        edges,
        d,
        z is not None,
        **size,
    )
    size = tile(TILES, "sum", d)
    _sum_both[n, triton.cdiv(d, size["BC"])](da, order, ptr, dpair, d, WIDE=wide(dpair), **size)
    return dpair, da, dw


@_edge_gate_backward.register_fake
def _(grad, pair, z, w, sender, receiver, ptr, order):
    return torch.empty_like(pair), torch.empty_like(w), torch.empty_like(w)


def _save_gate(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_gate(ctx, grad):
    z = ctx.saved_tensors[1]
    dpair, da, dw = _edge_gate_backward(grad, *ctx.saved_tensors)
    return dpair, None if z is None else da, dw, None, None, None, None


_edge_gate.register_autograd(_differentiate_gate, setup_context=_save_gate)


@torch.library.custom_op("forcelaw::edge_sum", mutates_args=())
def _edge_sum(values: Tensor, receiver: Tensor, ptr: Tensor) -> Tensor:
    n, d = len(ptr) - 1, values.shape[1]
    out = values.new_empty(n, d, dtype=torch.promote_types(values.dtype, torch.float32))
    size = tile(TILES, "sum", d)
    _sum[n, triton.cdiv(d, size["BC"])](
        values, ptr, ptr, out, d, ORDER=False, WIDE=wide(values), **size
    )
    return out


@_edge_sum.register_fake
def _(values, receiver, ptr):
    return values.new_empty(
        ptr.shape[0] - 1, values.shape[1], dtype=torch.promote_types(values.dtype, torch.float32)
    )


@torch.library.custom_op("forcelaw::edge_sum_backward", mutates_args=())
def _edge_sum_backward(grad: Tensor, receiver: Tensor, ptr: Tensor, dtype: torch.dtype) -> Tensor:
    edges, d = len(receiver), grad.shape[1]
    out = grad.new_empty(edges, d, dtype=dtype)
    size = tile(TILES, "gate", d)
    _spread[_grid(edges, d, size)](
        grad.contiguous(), receiver, ptr, out, len(ptr) - 1, edges, d, **size
    )
    return out


@_edge_sum_backward.register_fake
def _(grad, receiver, ptr, dtype):
    return grad.new_empty(receiver.shape[0], grad.shape[1], dtype=dtype)


def _save_sum(ctx, inputs, output):
    values, receiver, ptr = inputs
    ctx.save_for_backward(receiver, ptr)
    ctx.dtype = values.dtype


def _differentiate_sum(ctx, grad):
    return _edge_sum_backward(grad, *ctx.saved_tensors, ctx.dtype), None, None


_edge_sum.register_autograd(_differentiate_sum, setup_context=_save_sum)


@torch.library.custom_op("forcelaw::edge_difference", mutates_args=())
def _edge_difference(
    v: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor, order: Tensor
) -> Tensor:
    (n, d), edges = v.shape, len(sender)
    out, size = v.new_empty(edges, d), tile(TILES, "gate", d)
    _difference[_grid(edges, d, size)](v, sender, receiver, ptr, out, n, edges, d, **size)
    return out


@_edge_difference.register_fake
def _(v, sender, receiver, ptr, order):
    return v.new_empty(sender.shape[0], v.shape[1])


@torch.library.custom_op("forcelaw::edge_difference_backward", mutates_args=())
def _edge_difference_backward(grad: Tensor, ptr: Tensor, order: Tensor) -> Tensor:
    n, d = len(ptr) - 1, grad.shape[1]
    out, grad, size = grad.new_empty(n, 2 * d), grad.contiguous(), tile(TILES, "sum", d)
    _sum_both[n, triton.cdiv(d, size["BC"])](grad, order, ptr, out, d, WIDE=wide(grad), **size)
    return out[:, :d] - out[:, d:]


@_edge_difference_backward.register_fake
def _(grad, ptr, order):
    return grad.new_empty(ptr.shape[0] - 1, grad.shape[1])


def _save_difference(ctx, inputs, output):
    ctx.save_for_backward(*inputs[3:])


def _differentiate_difference(ctx, grad):
    return _edge_difference_backward(grad, *ctx.saved_tensors), None, None, None, None


_edge_difference.register_autograd(_differentiate_difference, setup_context=_save_difference)


def edge_gate(
    pair: Tensor,
    z: Tensor | None,
    w: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
) -> Tensor:
    """SiLU(s_j + t_i + z_ij) * w_ij: (e, d) in the dtype of w.

    pair (n, 2d) s | t; z (e, d) or None, w (e, d), any float type; ptr and order from
    ``GraphBatch.segments``.
    """
    z = None if z is None else z.to(w.dtype).contiguous()
    return _edge_gate(at_least_float32(pair), z, w.contiguous(), sender, receiver, ptr, order)


def edge_sum(values: Tensor, receiver: Tensor, ptr: Tensor) -> Tensor:
    """(e, d) rows summed at their receivers: (n, d), at least in float32, the same bits every
    time."""
    return _edge_sum(values.contiguous(), receiver, ptr)


def edge_difference(
    v: Tensor, sender: Tensor, receiver: Tensor, ptr: Tensor, order: Tensor
) -> Tensor:
    """v_j - v_i (e, d) of rows v (n, d); ptr and order from ``GraphBatch.segments``."""
    return _edge_difference(v.contiguous(), sender, receiver, ptr, order)
