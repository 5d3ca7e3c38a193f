"""Schedule-free AdamW on flat vectors, and the books of a step: a launch each by kernels, some
twenty by torch. See training/optimizer.py for the algorithm, training/step.py for the books.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .switch import constexpr, tl, triton, use_triton
from .tiles import wide

FLAT = 1024  # numbers of a program


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

    gradient, y, z, v and scale (the learning-rate factors) are flat; scalars (4,) the step's row of
    the table; norm () of the gradient.
    """
    if use_triton(y):
        numbers, clipped = y.numel(), torch.empty_like(norm)
        given = gradient, y, z, v, y if scale is None else scale, scalars, norm, clipped, numbers
        constants = {"CLIP": clip is not None, "SCALE": scale is not None, "WIDE": wide(y)}
        sizes = clip or 0.0, beta2, 1.0 - beta2, eps, weight_decay
        _update[(triton.cdiv(numbers, FLAT),)](*given, *sizes, **constants, FLAT=FLAT, num_warps=4)
        return clipped
    clipped = torch.zeros_like(norm)
    if clip is not None:
        factor = (clip / (norm + 1e-6)).clamp_max(1.0)
        clipped = (factor < 1.0).to(norm)
        gradient = gradient * factor
    lr, averaging, y_step, inverse_correction = scalars.unbind(0)
    v.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    u = gradient / (v.mul(inverse_correction).sqrt_().add_(eps))
    if weight_decay:
        u = u + weight_decay * y
    if scale is not None:
        u = u * scale
    y.add_((z - y) * averaging).add_(u * y_step)
    z.sub_(u * lr)
    return clipped


@torch.no_grad()
def record(
    stats: Tensor, value: Tensor, loss: Tensor, norm: Tensor, clipped: Tensor, step: Tensor | int
) -> None:
    """Adds a step to stats (5,) float64: sums of value, norm, clipped and steps; the first step
    whose loss or norm was not finite. All others have no dimension."""
    if use_triton(value) and isinstance(step, Tensor):
        _record[(1,)](stats, value, loss, norm, clipped, step, num_warps=1)
        return
    value = value.double()
    finite = torch.isfinite(loss) & torch.isfinite(norm)
    at = torch.as_tensor(step, device=value.device, dtype=torch.float64)
    stats[:4] += torch.stack([value, norm.double(), clipped.double(), torch.ones_like(value)])
    stats[4] = torch.where(finite, stats[4], torch.minimum(stats[4], at))


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
    clip: constexpr,
    beta2: constexpr,
    rest: constexpr,
    eps: constexpr,
    decay: constexpr,
    CLIP: constexpr,
    SCALE: constexpr,
    WIDE: constexpr,
    FLAT: constexpr,
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
