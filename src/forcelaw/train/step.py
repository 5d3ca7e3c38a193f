"""One training step: assemble the batch, predict, differentiate, update. Eager on a CPU; on a GPU the whole step, batch
assembly included, is one CUDA graph, because at 16 to 64 molecules a step launches would cost several times the arithmetic.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.feed import Plan, Window, random_rotations
from ..models import ForceField
from .loss import loss_terms
from .optimizer import ScheduleFreeAdamW
from .spec import TrainOptions

# what a step adds to the running statistics: loss, gradient norm, clipped, steps; and the first step without a finite loss
STATS = 5
NEVER = 2.0**53


def new_stats(device: torch.device) -> Tensor:
    """(5,) float64: sums of loss, gradient norm, clipped steps, steps; first non-finite step (NEVER if none)."""
    return torch.tensor([0.0, 0.0, 0.0, 0.0, NEVER], dtype=torch.float64, device=device)


class Step:
    """Common part of both steppers."""

    def __init__(self, model: ForceField, optimizer: ScheduleFreeAdamW, options: TrainOptions, seed: int, stats: Tensor,
                 forward: Any = None):
        self.model, self.optimizer, self.options, self.seed, self.stats = model, optimizer, options, seed, stats
        self.forward = model if forward is None else forward

    def _autocast(self, device: torch.device) -> Any:
        if self.options.precision == "bf16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _advance(self, window: Window, rows: Tensor, sizes: tuple[int, int], pad: bool, step: Tensor | int,
                 scalars: Tensor) -> None:
        """The step itself; no synchronisation with the host in it."""
        shard = window.shard
        rotation = None
        if self.options.augment:
            rotation = random_rotations(rows.clamp_min(0), step, self.seed, shard.dtype)
        graph, target = shard.batch(rows, *sizes, pad=pad, rotation=rotation)
        with self._autocast(shard.device):
            energy, forces = self.forward(graph)
        term_e, term_f = loss_terms(energy.to(target.energy), forces.to(target.forces), target)
        loss = term_e + term_f
        # without a direct head some weights of a last layer reach no output (eSEN's l > 0 channels there, as in fairchem)
        conservative = self.model.config.forces == "conservative"
        gradients = torch.autograd.grad(loss, self.optimizer.params, allow_unused=conservative,
                                        materialize_grads=conservative)
        norm, clipped = self.optimizer.update(list(gradients), scalars)
        with torch.no_grad():
            value = loss.detach().double()
            finite = torch.isfinite(value) & torch.isfinite(norm)
            at = torch.as_tensor(step, device=value.device, dtype=torch.float64)
            self.stats[:4] += torch.stack([value, norm.double(), clipped.double(), torch.ones_like(value)])
            self.stats[4] = torch.where(finite, self.stats[4], torch.minimum(self.stats[4], at))


class EagerStep(Step):
    """Exact shapes, no padding: the right way on a CPU."""

    def begin(self, plan: Plan, window: Window) -> None:
        self.plan, self.window = plan, window
        rows = window.local
        self._edges = np.concatenate([[0], np.cumsum(window.shard.host_nedges[rows])])
        self._rows = torch.from_numpy(rows).to(window.shard.device)

    def run(self, step: int) -> None:
        low, high = (int(p) - self.window.first for p in self.plan.ptr[step : step + 2])
        sizes = int(self.plan.atoms[step]), int(self._edges[high] - self._edges[low])
        self._advance(self.window, self._rows[low:high], sizes, False, step, self.optimizer.table[step])


class GraphStep(Step):
    """The whole step as one CUDA graph over fixed shapes; the batch of each step is looked up on the device."""

    def begin(self, plan: Plan, window: Window) -> None:
        steps = np.arange(window.low, window.high)
        widths = np.diff(plan.ptr)[steps]
        matrix = np.full((len(steps), int(widths.max())), -1, np.int64)
        columns = np.arange(matrix.shape[1])[None, :] < widths[:, None]
        matrix[columns] = window.local[plan.ptr[window.low] - window.first : plan.ptr[window.high] - window.first]
        device = window.shard.device
        self.matrix, self.low = torch.from_numpy(matrix).to(device), window.low
        edges = np.add.reduceat(window.shard.host_nedges[window.local], plan.ptr[window.low : window.high] - window.first)
        self.sizes = int(plan.atoms[steps].max()) + 1, max(1, int(edges.max()))
        self.window = window
        self.counter = torch.zeros((), dtype=torch.int64, device=device)
        self._capture()

    def _body(self) -> None:
        rows = self.matrix.index_select(0, (self.counter - self.low).view(1)).squeeze(0)
        scalars = self.optimizer.table.index_select(0, self.counter.view(1)).squeeze(0)
        self._advance(self.window, rows, self.sizes, True, self.counter, scalars)
        self.counter += 1

    def _capture(self) -> None:
        """Warm up on a side stream (allocations, autotuning), undo what that changed, and capture."""
        o = self.optimizer
        kept = [t.clone() for t in (o.y, o.z, o.v, self.stats)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.counter.fill_(self.low)
                self._body()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._body()
        for tensor, old in zip((o.y, o.z, o.v, self.stats), kept):
            tensor.copy_(old)
        self.counter.fill_(self.low)
        self._next = self.low

    def run(self, step: int) -> None:
        if step != self._next:
            self.counter.fill_(step)
        self.graph.replay()
        self._next = step + 1
