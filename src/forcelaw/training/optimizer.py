"""Schedule-free AdamW (Defazio et al., arXiv 2405.15682) on one flat vector of parameters.

The algorithm is that of the package ``schedulefree`` 1.4.1 (``AdamWScheduleFree``), which the tests
hold it to. Two things differ in form: all parameters are views into one vector, so a step is one
kernel on a GPU (some twenty of torch's elsewhere) whatever the number of layers; and the numbers
that depend on the step alone are tabulated before training, so that a step holds no Python number
and can be captured in a CUDA graph.

    y  the point where gradients are taken (what the model holds while it trains)
    z  the base sequence,   x = (y - (1 - beta1) z) / beta1  the average, where losses are evaluated
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..models.mup import parameter_groups


class ScheduleFreeAdamW:
    """Owns the parameters of ``model`` as one flat vector.

    lr: at muP scale 1; each parameter's own factor comes from its muP kind. steps: length of the
    table (the run). warmup, decay, power, shape: see :func:`step_table`. No weight decay by
    default; it acts on y, as in the package.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        steps: int,
        warmup: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: float | None = 100.0,
        decay: float = 0.0,
        power: float = 0.0,
        shape: str = "linear",
    ):
        self.params = [p for group in parameter_groups(model) for p in group["params"]]
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.lr = lr
        flat = torch.cat([p.detach().reshape(-1) for p in self.params])
        self.lr_scale = torch.cat(
            [torch.full_like(p.detach().reshape(-1), p.lr_scale) for p in self.params]
        )
        self.uniform_scale = bool((self.lr_scale == 1).all())
        self.y = flat
        self.z = flat.clone()
        self.v = torch.zeros_like(flat)
        self.offsets = np.concatenate([[0], np.cumsum([p.numel() for p in self.params])]).tolist()
        # from here on the parameters are views into y
        for p, offset in zip(self.params, self.offsets):
            p.data = self.y[offset : offset + p.numel()].view_as(p)
        table = step_table(lr, steps, warmup, betas, decay, power, shape)
        self.table = torch.from_numpy(table).to(flat)

    def update(self, gradients: list[Tensor], scalars: Tensor) -> tuple[Tensor, Tensor]:
        """One step from gradients in the order of ``params``; scalars (4,) is this step's row of
        ``table``.

        Returns the gradient norm before clipping, and 1 if clipping acted, 0 if not; both stay on
        the device.
        """
        return self.update_flat(torch.cat([x.reshape(-1) for x in gradients]), scalars)

    def update_flat(self, gradient: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """The same from one flat vector, in the order of ``y``."""
        norm = torch.linalg.vector_norm(gradient)
        clipped = ops.schedule_free(
            gradient,
            self.y,
            self.z,
            self.v,
            None if self.uniform_scale else self.lr_scale,
            scalars,
            norm,
            clip=self.clip,
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        return norm, clipped

    def averaged(self) -> Tensor:
        """The averaged weights x, flat."""
        return (self.y - (1.0 - self.betas[0]) * self.z) / self.betas[0]

    def swap_in(self, weights: Tensor) -> Tensor:
        """Put ``weights`` into the model and return an exact copy of what was there, to be swapped
        back."""
        kept = self.y.clone()
        self.y.copy_(weights)
        return kept


class PlainOptimizer(ScheduleFreeAdamW):
    """AdamW, or SGD with momentum, as torch.optim has them, on the same flat vectors: y are the
    weights, z the first moment (the momentum), v the second. Losses are evaluated at y."""

    def __init__(self, model: nn.Module, *, kind: str, **options: Any):
        super().__init__(model, **options)
        self.kind = kind
        self.z.zero_()
        # bias correction of the first moment, which schedule-free AdamW has none of
        k = torch.arange(1, len(self.table) + 1, dtype=torch.float64)
        self.table[:, 1] = 1.0 / (1.0 - self.betas[0] ** k)

    @torch.no_grad()
    def update_flat(self, gradient: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """One step; see :meth:`ScheduleFreeAdamW.update`."""
        norm = torch.linalg.vector_norm(gradient)
        clipped = torch.zeros_like(norm)
        if self.clip is not None:
            factor = (self.clip / (norm + 1e-6)).clamp_max(1.0)
            clipped, gradient = (factor < 1.0).to(norm), gradient * factor
        lr, first, _, second = scalars.unbind(0)
        rate = lr if self.uniform_scale else lr * self.lr_scale
        beta1, beta2 = self.betas
        if self.kind == "sgd":
            self.y.sub_(rate * self.z.mul_(beta1).add_(gradient))
            return norm, clipped
        self.z.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        self.v.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        if self.weight_decay:
            self.y.sub_(rate * self.weight_decay * self.y)
        self.y.sub_(rate * (self.z * first) / ((self.v * second).sqrt_().add_(self.eps)))
        return norm, clipped

    def averaged(self) -> Tensor:
        """The weights, which nothing is averaged into."""
        return self.y.clone()


def step_table(
    lr: float,
    steps: int,
    warmup: int,
    betas: tuple[float, float],
    decay: float = 0.0,
    power: float = 0.0,
    shape: str = "linear",
) -> np.ndarray:
    """(steps, 4) float64: learning rate, averaging coefficient c, factor of u in the update of y, 1
    / bias correction.

    warmup: steps over which the rate rises. decay: share of the steps, at the end, over which it
    falls, linearly or as a cosine (shape), to zero at the step after the last. With schedulefree's
    default weight_lr_power = 2 and its r = ``power``: the weight of step k is k^power times the
    square of the largest learning rate so far, which during warm-up is the present one.
    """
    k = np.arange(steps, dtype=np.float64)
    rate = lr * np.minimum(1.0, (k + 1) / warmup) if warmup else np.full(steps, lr)
    weight = np.square(np.maximum.accumulate(rate)) * ((k + 1) / steps) ** power
    if decay:
        left = np.minimum(1.0, (steps - k) / max(1.0, decay * steps))
        rate = rate * (left if shape == "linear" else 0.5 - 0.5 * np.cos(np.pi * left))
    averaging = weight / np.cumsum(weight)
    correction = 1.0 - betas[1] ** (k + 1)
    return np.stack(
        [rate, averaging, rate * (betas[0] * (1.0 - averaging) - 1.0), 1.0 / correction], axis=1
    )
