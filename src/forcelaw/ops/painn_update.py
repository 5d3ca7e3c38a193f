"""PaiNN's update of atoms, around its matrix products, in two launches each way; torch takes some
forty a layer.

    pair       (U v | V v) and [a | sqrt(sum_k (V v_k)^2 + 1e-4)]
    update     h + p + q sum_k U v_k V v_k,   v_k + g U v_k

Legend: n atoms, d channels, k = x, y, z; pair (n, 3, 2d); a, h (n, d), v (n, 3, d), mixed (n, 3d) p
| q | g. The product is part of the first operation, so that the gradient of the pair, by far the
largest array here, is summed where it is read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import at_least_float32, three, tile
from .gated_message import wide as _wide  # kernels here have a ``WIDE`` of their own
from .gemnet.residual import lowered

TILES = {"lengths": (4, 64, 4), "update": (4, 64, 4)}
LEAST = tl.constexpr(1e-4)  # see models/painn.py


@triton.jit
def _place(n, d: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr):
    """Atoms (BE, 1), channels (1, BC), and which of them there are."""
    i = (tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE))[:, None]
    c = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    return i, c, (i < n) & (c < d)


@triton.jit(do_not_specialize=["n"])
def _lengths(
    a, pair, out, n, d: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    i, c, mask = _place(n, d, BE, BC)
    x, y, z = three(pair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    scalar = tl.load(a + i * d + c, mask=mask, other=0.0)
    tl.store(out + i * 2 * d + c, scalar, mask=mask)
    tl.store(out + i * 2 * d + d + c, tl.sqrt(x * x + y * y + z * z + LEAST), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _lengths_backward(
    pair,
    grad,
    grad_pair,
    da,
    dpair,
    n,
    d: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    """dpair: grad_pair and what comes by the lengths."""
    i, c, mask = _place(n, d, BE, BC)
    at = i * 6 * d + c
    x, y, z = three(pair + at + d, 2 * d, mask, WIDE)
    u0, u1, u2 = three(grad_pair + at, 2 * d, mask, WIDE)
    w0, w1, w2 = three(grad_pair + at + d, 2 * d, mask, WIDE)
    scalar = tl.load(grad + i * 2 * d + c, mask=mask, other=0.0)
    g = tl.load(grad + i * 2 * d + d + c, mask=mask, other=0.0).to(WIDE) / tl.sqrt(
        x * x + y * y + z * z + LEAST
    )
    kind = dpair.dtype.element_ty
    tl.store(da + i * d + c, scalar, mask=mask)
    tl.store(dpair + at, u0.to(kind), mask=mask)
    tl.store(dpair + at + 2 * d, u1.to(kind), mask=mask)
    tl.store(dpair + at + 4 * d, u2.to(kind), mask=mask)
    tl.store(dpair + at + d, (w0 + g * x).to(kind), mask=mask)
    tl.store(dpair + at + 3 * d, (w1 + g * y).to(kind), mask=mask)
    tl.store(dpair + at + 5 * d, (w2 + g * z).to(kind), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update(
    h,
    v,
    pair,
    mixed,
    new_h,
    new_v,
    n,
    d: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i, c, mask = _place(n, d, BE, BC)
    at, at3 = i * d + c, i * 3 * d + c
    u0, u1, u2 = three(pair + i * 6 * d + c, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + i * 6 * d + d + c, 2 * d, mask, WIDE)
    p, q, gate = three(mixed + at3, d, mask, WIDE)
    v0, v1, v2 = three(v + at3, d, mask, WIDE)
    scalar = tl.load(h + at, mask=mask, other=0.0).to(WIDE) + p + q * (u0 * w0 + u1 * w1 + u2 * w2)
    tl.store(new_h + at, scalar, mask=mask)
    tl.store(new_v + at3, v0 + gate * u0, mask=mask)
    tl.store(new_v + at3 + d, v1 + gate * u1, mask=mask)
    tl.store(new_v + at3 + 2 * d, v2 + gate * u2, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _update_backward(
    pair,
    mixed,
    grad_h,
    grad_v,
    dpair,
    dmixed,
    n,
    d: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i, c, mask = _place(n, d, BE, BC)
    at3, at6 = i * 3 * d + c, i * 6 * d + c
    u0, u1, u2 = three(pair + at6, 2 * d, mask, WIDE)
    w0, w1, w2 = three(pair + at6 + d, 2 * d, mask, WIDE)
    q = tl.load(mixed + at3 + d, mask=mask, other=0.0).to(WIDE)
    gate = tl.load(mixed + at3 + 2 * d, mask=mask, other=0.0).to(WIDE)
    g0, g1, g2 = three(grad_v + at3, d, mask, WIDE)
    gh = tl.load(grad_h + i * d + c, mask=mask, other=0.0).to(WIDE)
    kind = dpair.dtype.element_ty
    small = dmixed.dtype.element_ty
    gq = gh * q
    tl.store(dmixed + at3, gh.to(small), mask=mask)
    tl.store(dmixed + at3 + d, (gh * (u0 * w0 + u1 * w1 + u2 * w2)).to(small), mask=mask)
    tl.store(dmixed + at3 + 2 * d, (g0 * u0 + g1 * u1 + g2 * u2).to(small), mask=mask)
    tl.store(dpair + at6, (gq * w0 + gate * g0).to(kind), mask=mask)
    tl.store(dpair + at6 + d, (gq * u0).to(kind), mask=mask)
    tl.store(dpair + at6 + 2 * d, (gq * w1 + gate * g1).to(kind), mask=mask)
    tl.store(dpair + at6 + 3 * d, (gq * u1).to(kind), mask=mask)
    tl.store(dpair + at6 + 4 * d, (gq * w2 + gate * g2).to(kind), mask=mask)
    tl.store(dpair + at6 + 5 * d, (gq * u2).to(kind), mask=mask)


def _launch(key: str, n: int, d: int) -> tuple[tuple[int, int], dict[str, int]]:
    size = tile(TILES, key, d)
    return (triton.cdiv(n, size["BE"]), triton.cdiv(d, size["BC"])), size


@torch.library.custom_op("forcelaw::painn_pair", mutates_args=())
def _painn_pair(a: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    (n, d), out = a.shape, a.new_empty(len(a), 2 * a.shape[1])
    pair = torch.mm(v.view(3 * n, d).to(weight.dtype), weight.t()).view(n, 3, 2 * d)
    grid, size = _launch("lengths", n, d)
    _lengths[grid](a, pair, out, n, d, WIDE=_wide(a), **size)
    return pair, out


@_painn_pair.register_fake
def _(a, v, weight):
    n, d = a.shape
    return weight.new_empty(n, 3, 2 * d), a.new_empty(n, 2 * d)


@torch.library.custom_op("forcelaw::painn_pair_backward", mutates_args=())
def _painn_pair_backward(
    grad_pair: Tensor, grad: Tensor, v: Tensor, weight: Tensor, pair: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, d = len(pair), pair.shape[2] // 2
    da, dpair = grad.new_empty(n, d), torch.empty_like(pair)
    grid, size = _launch("lengths", n, d)
    _lengths_backward[grid](
        pair, grad.contiguous(), grad_pair.contiguous(), da, dpair, n, d, WIDE=_wide(grad), **size
    )
    rows = dpair.view(3 * n, 2 * d)
    return (
        da,
        torch.mm(rows, weight).view(n, 3, d).to(v.dtype),
        torch.mm(rows.t(), v.view(3 * n, d).to(weight.dtype)),
    )


@_painn_pair_backward.register_fake
def _(grad_pair, grad, v, weight, pair):
    return (
        grad.new_empty(pair.shape[0], pair.shape[2] // 2),
        torch.empty_like(v),
        torch.empty_like(weight),
    )


def _save_pair(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:], output[0])


_painn_pair.register_autograd(
    lambda ctx, *grads: _painn_pair_backward(*grads, *ctx.saved_tensors), setup_context=_save_pair
)


@torch.library.custom_op("forcelaw::painn_update", mutates_args=())
def _painn_update(h: Tensor, v: Tensor, pair: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    (n, d), new_h, new_v = h.shape, torch.empty_like(h), torch.empty_like(v)
    grid, size = _launch("update", n, d)
    _update[grid](h, v, pair, mixed, new_h, new_v, n, d, WIDE=_wide(h), **size)
    return new_h, new_v


@_painn_update.register_fake
def _(h, v, pair, mixed):
    return torch.empty_like(h), torch.empty_like(v)


@torch.library.custom_op("forcelaw::painn_update_backward", mutates_args=())
def _painn_update_backward(
    grad_h: Tensor, grad_v: Tensor, pair: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor]:
    (n, d), dpair, dmixed = grad_h.shape, torch.empty_like(pair), torch.empty_like(mixed)
    grid, size = _launch("update", n, d)
    _update_backward[grid](
        pair,
        mixed,
        grad_h.contiguous(),
        grad_v.contiguous(),
        dpair,
        dmixed,
        n,
        d,
        WIDE=_wide(grad_h),
        **size,
    )
    return dpair, dmixed


@_painn_update_backward.register_fake
def _(grad_h, grad_v, pair, mixed):
    return torch.empty_like(pair), torch.empty_like(mixed)


def _save_update(ctx, inputs, output):
    ctx.save_for_backward(*inputs[2:])


def _differentiate_update(ctx, grad_h, grad_v):
    return grad_h, grad_v, *_painn_update_backward(grad_h, grad_v, *ctx.saved_tensors)


_painn_update.register_autograd(_differentiate_update, setup_context=_save_update)


def painn_pair(a: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """a (n, d), v (n, 3, d), weight (2d, d) of U | V -> pair (n, 3, 2d) in the dtype that torch's
    own product would have here, and (n, 2d) in that of a."""
    return _painn_pair(a.contiguous(), v.contiguous(), lowered(weight).contiguous())


def painn_update(h: Tensor, v: Tensor, pair: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    """h (n, d) and v (n, 3, d) of the next layer, at least in float32."""
    return _painn_update(
        at_least_float32(h), at_least_float32(v), pair.contiguous(), mixed.contiguous()
    )
