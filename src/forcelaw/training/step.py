"""One training step: assemble the batch, predict, differentiate, update. Eager on a CPU; on a GPU
the whole step, batch assembly included, is one launch of a CUDA graph, because at 16 to 64
molecules a step launches would cost several times the arithmetic.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.device_dataset import Targets, longer
from ..data.schedule import Plan, Window
from ..graph import GraphBatch
from ..models import ForceField
from ..ops import random_rotations, record
from .config import TrainOptions, weights_table
from .loss import NORM, LossShape, loss_terms, virial_term
from .optimizer import ScheduleFreeAdamW
from .ranks import ALONE, Ranks
from .symmetry_loss import latent_penalty, penalty

NEVER = 2.0**53  # "no step": larger than any, and exact in float64

# Steps differ in size, a graph does not: one graph for all would be as large as the largest step.
# Steps are sorted by edges and cut here, and each class has its own graph. Empty edge slots on the
# sample: 67% with one graph, 11% with these four at 16 structures a step; 29% and 5% at 64.
CLASSES = (0.3, 0.65, 0.92, 1.0)
# Windows of one run differ by few per cent in all they hold. Room for so much more (twice as much
# in the largest size of step) lets all of them use the graphs of the first
ROOM = 0.05


def new_stats(device: torch.device) -> Tensor:
    """(5,) float64: sums of loss, gradient norm, clipped steps, steps; first non-finite step (NEVER
    if none)."""
    return torch.tensor([0.0, 0.0, 0.0, 0.0, NEVER], dtype=torch.float64, device=device)


class Step:
    """Common part of both steppers."""

    def __init__(
        self,
        model: ForceField,
        optimizer: ScheduleFreeAdamW,
        options: TrainOptions,
        seed: int,
        stats: Tensor,
        forward: Any = None,
        ranks: Ranks = ALONE,
    ):
        self.model, self.optimizer, self.options = model, optimizer, options
        self.seed, self.stats = seed, stats
        table = weights_table(len(optimizer.table), options)
        self.weights = None if table is None else torch.from_numpy(table).to(optimizer.table)
        self.forward = model if forward is None else forward
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.ranks, self.low = ranks, 0
        self.start: Tensor | int = 0  # ``low``, where the device has to know it
        self.numbers: Tensor | None = None
        self.shares: Tensor | None = None
        if ranks.size > 1:
            # the gradient of this rank's part and then of the step; the value of the data; the loss
            self.flat = optimizer.y.new_zeros(optimizer.y.numel() + 2)

    def begin(self, plan: Plan, window: Window) -> None:
        """Get ready for the steps of ``window``, of which this rank takes what ``plan`` says."""
        self.numbers, self.shares = self._count(plan, window)
        self.start = window.low

    def _count(self, plan: Plan, window: Window) -> tuple[Tensor | None, Tensor | None]:
        """Count what is in the steps of ``window``; the numbers of its structures that random
        rotations go by, and the shares of this rank in each step, both where they are needed."""
        self.plan, self.window, self.low = plan, window, window.low
        numbers = shares = None
        rotated = self.options.augment or self.options.symmetry_rotations
        if rotated and window.numbers is not None:
            numbers = torch.from_numpy(window.numbers).to(window.shard.device)
        mine = counts_of_steps(plan, window)
        total = self.ranks.total(mine)
        self.edges = total[:, 1]  # of each step, of all ranks
        # one size for all ranks, so that they have the same graphs
        self.atoms_needed, self.edges_needed = self.ranks.largest(mine[:, :2]).astype(np.int64).T
        if self.ranks.size > 1:
            # a mean over a step is the sum of the means over its parts, times their shares
            shares = torch.from_numpy(mine / np.maximum(total, 1.0)).to(self.optimizer.table)
        return numbers, shares

    def go_on(self, plan: Plan, window: Window) -> bool:
        """Get ready for ``window``, which follows another, as that one left things; False where
        only :meth:`begin` can."""
        return False

    @staticmethod
    def _at(table: Tensor, step: Tensor | int) -> Tensor:
        """The row of a step, which on a GPU only the device knows."""
        if isinstance(step, int):
            return table[step]
        return table.index_select(0, step.view(1)).squeeze(0)

    def release(self) -> None:
        """Give back what CUDA graphs hold."""
        while self.graphs:
            self.graphs.pop().reset()

    def _autocast(self, device: torch.device) -> Any:
        if self.options.precision == "bf16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _predict(self, graph: GraphBatch, target: Targets) -> tuple[Tensor, ...]:
        """Energies, forces, and virials where they are trained on or states where their symmetry
        is, in the precision of the labels, whatever the model computes in."""
        call = self.model.with_virial if self.options.stress else self.forward
        if self.options.latent:
            call = self.model.with_states
        with self._autocast(target.energy.device):
            energy, forces, *virial = call(graph)
        return energy.to(target.energy), forces.to(target.forces), *virial

    def _minimised(self, terms: tuple[Tensor, ...], row: Tensor) -> Tensor:
        """The weighted sum of the energy, force and, where it is trained on, virial term; row (3,)
        is that of the step in ``weights``."""
        return sum((weight * term for weight, term in zip(row.unbind(), terms)), row.new_zeros(()))

    def _advance(
        self,
        window: Window,
        rows: Tensor,
        sizes: tuple[int, int],
        pad: bool,
        step: Tensor | int,
        scalars: Tensor,
    ) -> None:
        """The step itself; no synchronisation with the host in it."""
        if self.ranks.size == 1:
            gradients, value, loss = self._differentiate(window, rows, sizes, pad, step)
            norm, clipped = self.optimizer.update(gradients, scalars)
            record(self.stats, value, loss, norm, clipped, step)
            return
        self._collect(window, rows, sizes, pad, step)
        self.ranks.sum_(self.flat)
        self._apply(scalars, step)

    def _collect(
        self,
        window: Window,
        rows: Tensor,
        sizes: tuple[int, int],
        pad: bool,
        step: Tensor | int,
    ) -> None:
        """Put this rank's part of gradient, value and loss into ``flat``."""
        if not len(rows):
            self.flat.zero_()
            return
        gradients, value, loss = self._differentiate(window, rows, sizes, pad, step)
        torch.cat([x.reshape(-1) for x in (*gradients, value, loss)], out=self.flat)

    def _apply(self, scalars: Tensor, step: Tensor | int) -> None:
        """Update from the sum over all ranks in ``flat``."""
        norm, clipped = self.optimizer.update_flat(self.flat[:-2], scalars)
        record(self.stats, self.flat[-2], self.flat[-1], norm, clipped, step)

    def _differentiate(
        self,
        window: Window,
        rows: Tensor,
        sizes: tuple[int, int],
        pad: bool,
        step: Tensor | int,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The gradients, the value of the data, which is comparable whatever the penalty, and the
        loss; of several ranks this one's part of each."""
        shard = window.shard
        numbers, rotation = rows, None
        if self.numbers is not None:
            numbers = self.numbers.index_select(0, rows.clamp_min(0))
        if self.options.augment:
            rotation = random_rotations(numbers, step, self.seed, shard.dtype)
        graph, target = shard.batch(rows, *sizes, pad=pad, rotation=rotation)
        outputs = self._predict(graph, target)
        energy, forces = outputs[:2]
        virial = () if self.options.latent else outputs[2:]
        shape, shares = LossShape.of(self.options), None
        if self.shares is not None:
            of_atoms, _, of_structures, of_stress = self._at(
                self.shares, step - self.start
            ).unbind()
            shares = of_structures, of_atoms, of_stress
        terms = self._terms(NORM, energy, forces, virial, target, shares)
        loss = value = terms[0] + terms[1]
        if shape.name != "norm":
            terms = self._terms(shape, energy, forces, virial, target, shares)
            loss = terms[0] + terms[1]
        if self.weights is not None:
            loss = self._minimised(terms, self._at(self.weights, step))
        if self.options.symmetry_rotations:
            of_data = None if shares is None else shares[:2]
            asymmetry = self._asymmetry(graph, outputs, target, numbers, step, of_data)
            loss = loss + self.options.symmetry_weight * asymmetry
        # without a direct head some weights of a last layer reach no output (eSEN's l > 0 channels
        # there, as in fairchem); the certificate names those of a model from outside
        gradients = torch.autograd.grad(
            loss, self.optimizer.params, allow_unused=True, materialize_grads=True
        )
        return list(gradients), value.detach(), loss.detach()

    @staticmethod
    def _terms(
        shape: LossShape,
        energy: Tensor,
        forces: Tensor,
        virial: tuple[Tensor, ...],
        target: Targets,
        shares: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, ...]:
        """Energy, force and, where it is trained on, virial term; shares: of this rank in what
        each is a mean over."""
        terms = loss_terms(energy, forces, target, shape)
        terms += tuple(virial_term(v, target, shape) for v in virial)
        return terms if shares is None else tuple(x * s for x, s in zip(terms, shares))

    def _asymmetry(
        self,
        graph: GraphBatch,
        outputs: tuple[Tensor, ...],
        target: Targets,
        numbers: Tensor,
        step: Tensor | int,
        shares: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """The symmetry loss of a batch before its weight; outputs: energies, forces, and states
        where it is one of states; numbers (g,): of its structures."""
        rotations = self.options.symmetry_rotations
        if self.options.latent:
            return latent_penalty(
                self.model,
                lambda turned: self._predict(turned, target)[2],
                graph,
                outputs[2],
                target.real,
                numbers,
                step,
                self.seed,
                rotations=rotations,
                share=None if shares is None else shares[1],
            )
        scale = self.model.config.scale if self.options.symmetry_penalty == "square" else None
        return penalty(
            lambda turned: self._predict(turned, target)[:2],
            graph,
            *outputs[:2],
            target,
            numbers,
            step,
            self.seed,
            rotations=rotations,
            scale=scale,
            shares=shares,
        )


class EagerStep(Step):
    """Exact shapes, no padding: the right way on a CPU."""

    def begin(self, plan: Plan, window: Window) -> None:
        super().begin(plan, window)
        rows = window.local
        self._edges = np.concatenate([[0], np.cumsum(window.shard.host_nedges[rows])])
        self._rows = torch.from_numpy(rows).to(window.shard.device)

    def run(self, step: int) -> None:
        low, high = (int(p) - self.window.first for p in self.plan.ptr[step : step + 2])
        sizes = int(self.plan.atoms[step]), int(self._edges[high] - self._edges[low])
        self._advance(
            self.window, self._rows[low:high], sizes, False, step, self.optimizer.table[step]
        )


def counts_of_steps(plan: Plan, window: Window) -> np.ndarray:
    """Atoms, edges, structures and structures with a stress of each step of a window, (steps, 4)
    float64."""
    ptr = plan.ptr[window.low : window.high + 1] - window.first

    def of_steps(of_row: np.ndarray) -> np.ndarray:
        ends = np.concatenate([[0], np.cumsum(of_row[window.local])])
        return ends[ptr[1:]] - ends[ptr[:-1]]

    counts = np.zeros((len(ptr) - 1, 4))
    counts[:, 0] = plan.atoms[window.low : window.high]
    counts[:, 1] = of_steps(window.shard.host_nedges)
    counts[:, 2] = np.diff(ptr)
    if window.shard.virial is not None:
        known = window.shard.virial.isfinite().all(-1).all(-1)
        counts[:, 3] = of_steps(known.cpu().numpy())
    return counts


def rows_of_steps(plan: Plan, window: Window) -> np.ndarray:
    """Rows of the shard that make each step of a window, int64 (steps, most of them, or most of any
    step where other windows follow); -1 behind them."""
    widths = np.diff(plan.ptr[window.low : window.high + 1])
    most = widths.max() if window.last else np.diff(plan.ptr).max()
    out = np.full((len(widths), max(1, int(most))), -1, np.int64)
    first, last = plan.ptr[[window.low, window.high]] - window.first
    out[np.arange(out.shape[1])[None, :] < widths[:, None]] = window.local[first:last]
    return out


def smallest_class(
    atoms: np.ndarray, edges: np.ndarray, sizes: list[tuple[int, int]]
) -> np.ndarray:
    """The first of ``sizes`` (atoms, edges) that holds each step, int64 (steps,); -1 where none
    does. atoms, edges (steps,): true sizes, beside which there is a dummy atom."""
    member = np.full(len(atoms), -1)
    for number, (most_atoms, most_edges) in reversed(list(enumerate(sizes))):
        member[(atoms < most_atoms) & (edges <= most_edges)] = number
    return member


def size_classes(
    atoms: np.ndarray, edges: np.ndarray, classes: tuple[float, ...]
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Fixed sizes (atoms, edges) that hold the steps of each class, and the class of every step.

    atoms, edges (steps,): true sizes. Sizes are multiples of 16 and 64, with room for a dummy atom.
    """
    order = np.argsort(edges, kind="stable")
    ends = sorted({max(1, round(fraction * len(order))) for fraction in classes} | {len(order)})
    member, sizes = np.empty(len(order), np.int64), []
    for number, (low, high) in enumerate(zip([0, *ends[:-1]], ends)):
        steps = order[low:high]
        member[steps] = number
        most_atoms, most_edges = int(atoms[steps].max()), int(edges[steps].max())
        sizes.append((_round_up(most_atoms + 1, 16), _round_up(max(1, most_edges), 64)))
    return sizes, member


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class GraphStep(Step):
    """The whole step as one CUDA graph for each size class; the batch of each step is looked up on
    the device.

    Graphs are captured on the current stream (one of their own if that is the default stream) and
    must be replayed on the same one: the work space of cuBLAS belongs to the stream, and graphs
    that run side by side must not share it. torch may drop that work space when any graph of the
    stream is reset (pytorch issue 193402), so all graphs of a stream are released together, by
    :meth:`release`, before the stream serves another run.

    Of several ranks all have the same sizes, and hence the same graphs in the same order. Their sum
    is either part of the graph or stands between two, the second of which serves all sizes.
    """

    @property
    def split(self) -> bool:
        return self.ranks.size > 1 and not self.ranks.in_graph

    def begin(self, plan: Plan, window: Window) -> None:
        super().begin(plan, window)
        device = window.shard.device
        self.matrix = torch.from_numpy(rows_of_steps(plan, window)).to(device)
        self.sizes, member = size_classes(self.atoms_needed, self.edges_needed, CLASSES)
        self.member = member.tolist()
        firsts = (np.flatnonzero(member == k)[0] for k in range(len(self.sizes)))
        self.first_of = [int(first) + window.low for first in firsts]
        self.counter, self.start = (
            torch.full((), value, dtype=torch.int64, device=device) for value in (0, window.low)
        )
        self.held = window.shard
        if not window.last:
            self._give_room()
        self._capture()

    def _give_room(self) -> None:
        """Let the graphs that are captured now hold later windows too."""
        self.held.give_room(ROOM)
        more = math.ceil((1 + ROOM) * len(self.matrix))
        self.matrix = longer(self.matrix, more, fill=-1)
        if self.numbers is not None:
            self.numbers = longer(self.numbers, len(self.held.natoms))
        if self.shares is not None:
            self.shares = longer(self.shares, more)
        atoms, edges = self.sizes[-1]
        self.sizes[-1] = (
            _round_up(math.ceil((1 + 2 * ROOM) * atoms), 16),
            _round_up(math.ceil((1 + 2 * ROOM) * edges), 64),
        )

    def go_on(self, plan: Plan, window: Window) -> bool:
        """Put ``window`` where the graphs look, if it fits there. Capturing them anew would take as
        long as some hundred steps."""
        if not self.graphs:
            return False
        numbers, shares = self._count(plan, window)
        member = smallest_class(self.atoms_needed, self.edges_needed, self.sizes)
        rows = torch.from_numpy(rows_of_steps(plan, window)).to(self.matrix.device)
        fits = (
            (member >= 0).all()
            and all(a <= b for a, b in zip(rows.shape, self.matrix.shape))
            and self.held.has_room_for(window.shard)
        )
        if self.ranks.largest(np.array([float(not fits)]))[0]:
            return False
        self.held.take(window.shard)
        self.matrix.fill_(-1)
        self.matrix[: len(rows), : rows.shape[1]] = rows
        for held, new in ((self.numbers, numbers), (self.shares, shares)):
            if held is not None and new is not None:
                held[: len(new)] = new
        self.start.fill_(window.low)
        if self.matrix.device.type == "cuda":  # what was copied is given back on other streams
            torch.cuda.current_stream().synchronize()
        window.shard = self.held
        self.member, self._next = member.tolist(), -1
        return True

    def _rows(self) -> Tensor:
        return self._at(self.matrix, self.counter - self.start)

    def _body(self, sizes: tuple[int, int]) -> None:
        scalars = self._at(self.optimizer.table, self.counter)
        self._advance(self.window, self._rows(), sizes, True, self.counter, scalars)
        self.counter += 1

    def _before_sum(self, sizes: tuple[int, int]) -> None:
        self._collect(self.window, self._rows(), sizes, True, self.counter)

    def _after_sum(self) -> None:
        self._apply(self._at(self.optimizer.table, self.counter), self.counter)
        self.counter += 1

    def _capture(self) -> None:
        """Warm up (allocations, autotuning), capture, and undo what that changed."""
        o, current = self.optimizer, torch.cuda.current_stream()
        kept = [t.clone() for t in (o.y, o.z, o.v, self.stats)]
        stream = torch.cuda.Stream() if current == torch.cuda.default_stream() else current
        stream.wait_stream(current)
        self.graphs = []
        with torch.cuda.stream(stream):
            # the largest first: the others then fit into the memory that it has taken. All are
            # warmed up before the first is captured: what a warm-up needs and what the graphs hold
            # would otherwise have to be there at once
            largest_first = list(zip(self.sizes, self.first_of))[::-1]
            for sizes, step in largest_first[:1] + largest_first:
                self.counter.fill_(step)
                self._body(sizes)
            make_room()
            body = self._before_sum if self.split else self._body
            for sizes, _ in largest_first:
                self.graphs.append(capture(lambda sizes=sizes: body(sizes), self.pool))
            self.graphs.reverse()
            if self.split:
                self.graphs.append(capture(self._after_sum, self.pool))
        current.wait_stream(stream)
        for tensor, old in zip((o.y, o.z, o.v, self.stats), kept):
            tensor.copy_(old)
        self._next = -1

    @property
    def pool(self) -> Any:
        """Memory that graphs of this run share: they never run at the same time."""
        return self.graphs[0].pool() if self.graphs else None

    def run(self, step: int) -> None:
        if step != self._next:
            self.counter.fill_(step)
        self.graphs[self.member[step - self.low]].replay()
        if self.split:
            self.ranks.sum_(self.flat)
            self.graphs[-1].replay()
        self._next = step + 1


def make_room() -> None:
    """Before a capture: a graph wants about the memory that its warm-up has left in torch's cache,
    and cannot take it from there. Handing it back to the driver waits for the device, so only when
    the card is too full without that."""
    if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - torch.cuda.memory_allocated():
        torch.cuda.empty_cache()


def capture(body: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """A CUDA graph of ``body``, captured on the current stream, while other threads go on using the
    device.

    torch's own context manager waits for the whole device and hands memory back to the driver,
    which would stop the other runs on it.
    """
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        body()
    except BaseException:
        # the stream must leave the capture; the first error is the one to tell
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        raise
    graph.capture_end()
    return graph
