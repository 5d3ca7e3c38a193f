"""SiLU(x) = x sigmoid(x): torch's own, but where its gradient is differentiated again. That takes
torch a dozen passes over its numbers, by :mod:`.twice` four, and the kernel one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import twice
from .register import Twice
from .switch import constexpr, derivatives, tl, triton, use_triton, use_twice
from .tiles import wide

FLAT = 2048  # numbers of a program


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)) of any shape."""
    if use_triton(x) and derivatives():
        return _SiLU.apply(x.contiguous())
    return twice.silu(x) if use_twice() else nn.functional.silu(x)


@triton.jit
def silu_curvature(x):
    """First and second derivative."""
    s = 1.0 / (1.0 + tl.exp(-x))
    return s * (1.0 + x * (1.0 - s)), s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


@triton.jit(do_not_specialize=["numbers"])
def _second(x, tangent, first, grad, dx, numbers, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    mask = i < numbers
    slope, curvature = silu_curvature(tl.load(x + i, mask=mask, other=0.0).to(WIDE))
    t = tl.load(tangent + i, mask=mask, other=0.0).to(WIDE)
    p = tl.load(first + i, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + i, mask=mask, other=0.0).to(WIDE)
    tl.store(dx + i, (g * slope + p * t * curvature).to(dx.dtype.element_ty), mask=mask)


class _SiLU(Twice):
    def value(ctx, x):
        return nn.functional.silu(x), (x,)

    def gradient(ctx, kept, grad):
        return torch.ops.aten.silu_backward(grad, kept[0])

    def push(ctx, kept, tangents):
        return (torch.ops.aten.silu_backward(tangents[0], kept[0]),), None

    def second(ctx, kept, tangents, first, grads, more):
        (x,), dx, numbers = kept, torch.empty_like(kept[0]), kept[0].numel()
        given = x, *(y.contiguous() for y in (tangents[0], first[0], grads[0])), dx
        _second[(triton.cdiv(numbers, FLAT),)](
            *given, numbers, WIDE=wide(x), FLAT=FLAT, num_warps=4
        )
        return dx
