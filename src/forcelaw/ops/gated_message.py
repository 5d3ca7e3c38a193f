"""The MPNN's message in one pass over the edges: scale times the sum over j of SiLU(s_j + t_i) *
w_ij.

Legend: n atoms, e edges, d channels; pair (n, 2d) holds s | t; w (e, d) the filter of each edge.

The derivative by t needs sum_j SiLU'(s_j + t_i) w_ij, which the forward pass collects beside the
message; so the backward pass is one pass too, over the edges of each sender, where it writes the
gradient of w row by row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FILL = 128  # programs that zero the gradient of padding edges


@triton.jit
def three(x, step: tl.constexpr, mask, WIDE: tl.constexpr):
    """Numbers at x, x + step and x + 2 step: three components, or three parts of a row."""
    return (
        tl.load(x, mask=mask, other=0.0).to(WIDE),
        tl.load(x + step, mask=mask, other=0.0).to(WIDE),
        tl.load(x + 2 * step, mask=mask, other=0.0).to(WIDE),
    )


@triton.jit
def zeros(COUNT: tl.constexpr, BC: tl.constexpr, dtype: tl.constexpr):
    """A tuple of vectors of BC zeros."""
    total = ()
    for _ in tl.static_range(COUNT):
        total = total + (tl.zeros([BC], dtype),)
    return total


@triton.jit
def rows(x, first, c, mask, COUNT: tl.constexpr, C: tl.constexpr):
    """A tuple: channels c of COUNT rows of x (any, C) from row ``first`` on."""
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (tl.load(x + (first + k) * C + c, mask=mask, other=0.0),)
    return out


@triton.jit
def _silu(x):
    s = 1.0 / (1.0 + tl.exp(-x))
    return x * s, s * (1.0 + x * (1.0 - s))


@triton.jit
def _forward(
    pair,
    w,
    sender,
    ptr,
    out,
    slope,
    d: tl.constexpr,
    scale: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    t = tl.load(pair + i * 2 * d + d + c, mask=mc, other=0.0)
    total, slopes = (
        tl.zeros([BE, BC], t.dtype),
        tl.zeros([BE, BC], t.dtype),
    )  # summed over BE once: a sum waits for all warps
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = k + tl.arange(0, BE)
        me = e < high
        j = tl.load(sender + e, mask=me, other=0)
        mask = me[:, None] & mc[None, :]
        s = tl.load(pair + j[:, None] * 2 * d + c[None, :], mask=mask, other=0.0)
        x = tl.load(w + e.to(tl.int64)[:, None] * d + c[None, :], mask=mask, other=0.0).to(t.dtype)
        value, derivative = _silu(s + t[None, :])
        total += value * x
        slopes += derivative * x
    tl.store(out + i * d + c, tl.sum(total, axis=0) * scale, mask=mc)
    tl.store(slope + i * d + c, tl.sum(slopes, axis=0) * scale, mask=mc)


@triton.jit(do_not_specialize=["n", "n_edges"])
def _backward(
    pair,
    w,
    receiver,
    order,
    ptr,
    grad,
    slope,
    dpair,
    dw,
    n,
    n_edges,
    d: tl.constexpr,
    scale: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
    FILL: tl.constexpr,
):
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < d
    if pid >= n:  # padding edges: no atom visits them
        for k in range(tl.load(ptr + n) + (pid - n) * BE, n_edges, FILL * BE):
            e = k + tl.arange(0, BE)
            mask = (e < n_edges)[:, None] & mc[None, :]
            e = tl.load(order + e, mask=e < n_edges, other=0).to(tl.int64)
            tl.store(
                dw + e[:, None] * d + c[None, :],
                tl.zeros([BE, BC], tl.float32).to(dw.dtype.element_ty),
                mask=mask,
            )
    else:
        j = pid.to(tl.int64)
        s = tl.load(pair + j * 2 * d + c, mask=mc, other=0.0)
        ds = tl.zeros([BE, BC], s.dtype)
        low, high = tl.load(ptr + j), tl.load(ptr + j + 1)
        for k in range(low, high, BE):
            me = k + tl.arange(0, BE) < high
            e = tl.load(order + k + tl.arange(0, BE), mask=me, other=0).to(tl.int64)
            i = tl.load(receiver + e, mask=me, other=0)
            mask = me[:, None] & mc[None, :]
            t = tl.load(pair + i[:, None] * 2 * d + d + c[None, :], mask=mask, other=0.0)
            g = tl.load(grad + i[:, None] * d + c[None, :], mask=mask, other=0.0) * scale
            x = tl.load(w + e[:, None] * d + c[None, :], mask=mask, other=0.0).to(s.dtype)
            value, derivative = _silu(s[None, :] + t)
            tl.store(
                dw + e[:, None] * d + c[None, :], (g * value).to(dw.dtype.element_ty), mask=mask
            )
            ds += g * x * derivative
        tl.store(dpair + j * 2 * d + c, tl.sum(ds, axis=0), mask=mc)
        own = tl.load(grad + j * d + c, mask=mc, other=0.0) * tl.load(
            slope + j * d + c, mask=mc, other=0.0
        )
        tl.store(dpair + j * 2 * d + d + c, own, mask=mc)


# tile of each kernel: edges, channels at most, warps; from benchmarks/kernel_tuning.py on an H200
TILES = {"gated": (32, 32, 2), "gated_grad": (16, 32, 2)}


def tile(tiles: dict[str, tuple[int, int, int]], kernel: str, channels: int) -> dict[str, int]:
    """BE, BC, num_warps of a kernel; no more lanes than the channels need."""
    edges, most, warps = tiles[kernel]
    return {
        "BE": edges,
        "BC": min(most, max(16, triton.next_power_of_2(channels))),
        "num_warps": warps,
    }


def wide(x: Tensor) -> tl.dtype:
    """What kernels compute in for numbers like x."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def at_least_float32(x: Tensor) -> Tensor:
    """Contiguous, and no bf16: sums over neighbours keep their digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


@torch.library.custom_op("forcelaw::gated_sum", mutates_args=())
def _gated_sum(
    pair: Tensor,
    w: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    n, d = pair.shape[0], w.shape[1]
    out, slope = pair.new_empty(n, d), pair.new_empty(n, d)
    size = tile(TILES, "gated", d)
    _forward[n, triton.cdiv(d, size["BC"])](pair, w, sender, ptr, out, slope, d, scale, **size)
    return out, slope


@_gated_sum.register_fake
def _(pair, w, sender, receiver, ptr, order, scale):
    shape = pair.shape[0], w.shape[1]
    return pair.new_empty(shape), pair.new_empty(shape)


@torch.library.custom_op("forcelaw::gated_sum_backward", mutates_args=())
def _gated_sum_backward(
    grad: Tensor,
    pair: Tensor,
    w: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    slope: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    n, (edges, d) = pair.shape[0], w.shape
    dpair, dw = torch.empty_like(pair), torch.empty_like(w)
    size = tile(TILES, "gated_grad", d)
    _backward[n + FILL, triton.cdiv(d, size["BC"])](
        pair,
        w,
        receiver,
        order,
        ptr,
        grad.contiguous(),
        slope,
        dpair,
        dw,
        n,
        edges,
        d,
        scale,
        FILL=FILL,
        **size,
    )
    return dpair, dw


@_gated_sum_backward.register_fake
def _(grad, pair, w, receiver, ptr, order, slope, scale):
    return torch.empty_like(pair), torch.empty_like(w)


def _save(ctx, inputs, output):
    pair, w, _, receiver, ptr, order, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else torch fills an array of its size with zeros
    ctx.save_for_backward(pair, w, receiver, ptr, order, output[1])


def _differentiate(ctx, grad, _):
    dpair, dw = _gated_sum_backward(grad, *ctx.saved_tensors, ctx.scale)
    return dpair, dw, None, None, None, None, None


_gated_sum.register_autograd(_differentiate, setup_context=_save)


def gated_sum(
    pair: Tensor,
    w: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    order: Tensor,
    scale: float,
) -> Tensor:
    """scale times the sum over edges j -> i of SiLU(s_j + t_i) * w_ij: (n, d), at least in float32.

    pair (n, 2d) s | t; w (e, d), any float type; ptr (n + 1,) and order (e,) from
    ``GraphBatch.segments``.
    """
    return _gated_sum(at_least_float32(pair), w.contiguous(), sender, receiver, ptr, order, scale)[
        0
    ]
