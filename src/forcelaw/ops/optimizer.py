"""Schedule-free AdamW on flat vectors in one launch, where torch takes some twenty, and the books of a step in another; see
train/optimizer.py for the algorithm, train/step.py for the books.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import wide

FLAT = 1024  # numbers of a program


@triton.jit
def _update(
    gradient,
    y,
    z,
    v,
    scale,
    scalars,
    norm,
    clipped,
    numbers,
    clip: tl.constexpr,
    beta2: tl.constexpr,
    rest: tl.constexpr,
    eps: tl.constexpr,
    decay: tl.constexpr,
    CLIP: tl.constexpr,
    SCALE: tl.constexpr,
    WIDE: tl.constexpr,
    FLAT: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    mask = i < numbers
    rate, averaging = tl.load(scalars).to(WIDE), tl.load(scalars + 1).to(WIDE)
    y_step, correction = tl.load(scalars + 2).to(WIDE), tl.load(scalars + 3).to(WIDE)
    g = tl.load(gradient + i, mask=mask, other=0.0).to(WIDE)
    old_y = tl.load(y + i, mask=mask, other=0.0)
    old_z = tl.load(z + i, mask=mask, other=0.0)
    old_v = tl.load(v + i, mask=mask, other=0.0)
    factor = tl.full([], 1.0, WIDE)
    if CLIP:
        factor = tl.minimum(clip / (tl.load(norm).to(WIDE) + 1e-6), 1.0)
        g = g * factor
    if tl.program_id(0) == 0:
        tl.store(clipped, tl.where(factor < 1.0, 1.0, 0.0).to(clipped.dtype.element_ty))
    new_v = old_v * beta2 + rest * (g * g)
    u = g / (tl.sqrt(new_v * correction) + eps)
    if decay != 0.0:
        u = u + decay * old_y
    if SCALE:
        u = u * tl.load(scale + i, mask=mask, other=0.0)
    tl.store(v + i, new_v, mask=mask)
    tl.store(y + i, old_y + (old_z - old_y) * averaging + u * y_step, mask=mask)
    tl.store(z + i, old_z - u * rate, mask=mask)


def schedule_free(
    gradient: Tensor,
    y: Tensor,
    z: Tensor,
    v: Tensor,
    scale: Tensor | None,
    scalars: Tensor,
    norm: Tensor,
    *,
    clip: float | None,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Tensor:
    """Updates y, z and v in place; returns (), 1 if clipping acted, else 0.

    gradient, y, z, v and scale (the learning-rate factors) are flat; scalars (4,); norm () of the
    gradient.
    """
    numbers, clipped = y.numel(), torch.empty_like(norm)
    _update[(triton.cdiv(numbers, FLAT),)](
        gradient,
        y,
        z,
        v,
        y if scale is None else scale,
        scalars,
        norm,
        clipped,
        numbers,
        clip or 0.0,
        beta2,
        1.0 - beta2,
        eps,
        weight_decay,
        CLIP=clip is not None,
        SCALE=scale is not None,
        WIDE=wide(y),
        FLAT=FLAT,
        num_warps=4,
    )
    return clipped


@triton.jit
def _record(stats, value, loss, norm, clipped, step):
    """One program."""
    wide = stats.dtype.element_ty
    loss_now, norm_now = tl.load(loss).to(wide), tl.load(norm).to(wide)
    tl.store(stats, tl.load(stats) + tl.load(value).to(wide))
    tl.store(stats + 1, tl.load(stats + 1) + norm_now)
    tl.store(stats + 2, tl.load(stats + 2) + tl.load(clipped).to(wide))
    tl.store(stats + 3, tl.load(stats + 3) + 1.0)
    finite = (tl.abs(loss_now) < float("inf")) & (tl.abs(norm_now) < float("inf"))
    first = tl.load(stats + 4)
    tl.store(stats + 4, tl.where(finite, first, tl.minimum(first, tl.load(step).to(wide))))


def record(
    stats: Tensor, value: Tensor, loss: Tensor, norm: Tensor, clipped: Tensor, step: Tensor
) -> None:
    """Adds a step to stats (5,) float64 (train/step.py): all others have no dimension; step is an
    int64."""
    _record[(1,)](stats, value, loss, norm, clipped, step, num_warps=1)
