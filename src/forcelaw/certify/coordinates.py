"""The muP coordinate check (Tensor Programs V, arXiv 2203.03466, appendix D.1), for any model.

Train models of several widths for a few Adam steps on one batch and look at how the size of every
layer's output, and of its change by training, goes with width: in muP the log-log slopes are about
0, in standard parametrisation not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..graph import GraphBatch
from ..models import ForceField
from ..models.mup import Linear, parameter_groups

Batch = tuple[GraphBatch, Tensor, Tensor]  # with energies (g,) in eV and forces (n, 3) in eV/A


@dataclass(frozen=True)
class Coordinate:
    """RMS of one output against width. kind: start (before training), change (by training), end
    (after it). error: standard error of the slope, from the scatter between seeds."""

    layer: str
    kind: str
    widths: tuple[int, ...]
    rms: tuple[float, ...]  # geometric means over seeds
    slope: float  # d log(rms) / d log(width)
    error: float = 0.0


def layer_outputs(model: ForceField, graph: GraphBatch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Outputs of every block (children of the model, items of its lists) by name, and energies and
    forces apart."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            for k, tensor in enumerate(tensors(output)):
                seen[name if k == 0 else f"{name}[{k}]"] = tensor

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in blocks(model)]
    energy, forces = model(graph)
    for handle in handles:
        handle.remove()
    # the energies are a few sums over atoms: too few numbers for an RMS, the head has them all
    seen["forces"] = forces
    return seen, energy, forces


def blocks(model: ForceField) -> Iterator[tuple[str, nn.Module]]:
    """The children of a model that have parameters, and the items of its lists, by name."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{k}", item) for k, item in enumerate(child))
        elif any(True for _ in child.parameters()):
            yield name, child


def tensors(output: object) -> list[Tensor]:
    """Floating-point tensors of a module's output, nested in tuples or alone."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, (tuple, list)):
        return [t for item in output for t in tensors(item)]
    return []


def train(
    model: ForceField, batch: Batch, steps: int, lr: float, standard: bool
) -> Iterator[dict[str, Tensor]]:
    """Layer outputs before and after ``steps`` steps of Adam on the loss of the laboratory."""
    graph, energy, forces = batch
    if standard:  # one learning rate for all, no output multiplier
        for module in model.modules():
            if isinstance(module, Linear):
                module.multiplier = 1.0
        groups = [{"params": list(model.parameters()), "lr": lr}]
    else:
        groups = [
            {"params": g["params"], "lr": lr * g["lr_scale"]} for g in parameter_groups(model)
        ]
    optimizer = torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.95))
    for step in range(steps + 1):
        seen, e, f = layer_outputs(model, graph)
        if step in (0, steps):
            yield {name: value.detach().clone() for name, value in seen.items()}
        if step < steps:
            loss = ((e - energy).abs() / graph.natoms).mean() + (f - forces).norm(dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def coordinate_check(
    make: Callable[[int, int], ForceField],
    batch: Batch,
    widths: Sequence[int],
    *,
    lr: float,
    seeds: int = 3,
    steps: int = 10,
    standard: bool = False,
) -> list[Coordinate]:
    """Slopes of every layer; see the module's docstring. make: (width, seed) -> model. lr: well
    below the best, or ten steps come near the labels, which hides the scaling. standard: in
    standard parametrisation instead."""
    logs: dict[tuple[str, str], list[list[float]]] = {}
    for width in widths:
        row: dict[tuple[str, str], list[float]] = {}
        for seed in range(seeds):
            start, end = train(make(width, seed), batch, steps, lr, standard)
            for layer in start:
                change = end[layer] - start[layer]
                for kind, value in (
                    ("start", start[layer]),
                    ("change", change),
                    ("end", end[layer]),
                ):
                    rms = float(value.double().square().mean().sqrt())
                    row.setdefault((layer, kind), []).append(
                        math.log(rms) if rms > 0 else -math.inf
                    )
        for key, values in row.items():
            logs.setdefault(key, []).append(values)
    out = []
    for (layer, kind), values in logs.items():
        means = np.array(values).mean(axis=1)
        if np.isfinite(means).all():  # zero at the start, or constant: nothing to scale
            slope = float(np.polyfit(np.log(widths), means, 1)[0])
            rms = tuple(np.exp(means).tolist())
            scatter = np.array(values).var(axis=1, ddof=1).mean() if seeds > 1 else 0.0
            spread = len(widths) * np.log(widths).var()
            error = math.sqrt(scatter / seeds / spread)
            out.append(Coordinate(layer, kind, tuple(widths), rms, slope, error))
    return out


def may_vanish(layer: str) -> bool:
    """Forces, and the further tensors "[k]" of a block in addition to its main stream,
    such as vectors read out of scalars."""
    return layer == "forces" or layer.endswith("]")


def failures(
    coordinates: list[Coordinate], limit: float, shrink: float | None = None, errors: float = 0.0
) -> list[str]:
    """Slopes of starts and changes that are out of bounds, a line each.

    Nothing may grow with width and the main stream may not shrink. Outputs, and what is made of
    readouts, may shrink like 1/sqrt(width): that is their random start, which training outgrows.
    shrink: another bound for the main stream. errors: how many standard errors a slope must be out
    of bounds.
    """
    bad = []
    for c in coordinates:
        low = -(limit if shrink is None else shrink) - (0.5 if may_vanish(c.layer) else 0.0)
        doubt = errors * c.error
        if c.kind in ("start", "change") and not low - doubt <= c.slope <= limit + doubt:
            bad.append(
                f"{c.layer} {c.kind}: slope {c.slope:+.2f}, RMS"
                f" {', '.join(f'{x:.3g}' for x in c.rms)}"
            )
    return bad
