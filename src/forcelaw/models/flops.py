"""FLOPs of a model: closed forms where an architecture has them, else counted on two graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..graph import GraphBatch

if TYPE_CHECKING:
    from .base import ModelConfig


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs (a multiply-add is 2), linear in edges and atoms: closed forms, checked against
    torch's counter.

    Only matrix products count, as in the paper; pointwise work and sums are left out.
    """

    per_edge: float
    per_atom: float

    def forward(self, edges: float, atoms: float) -> float:
        return self.per_edge * edges + self.per_atom * atoms

    def training(self, edges: float, atoms: float) -> float:
        """Forward and backward with direct forces: three forward passes (the paper's C = 3 kappa N
        D)."""
        return 3.0 * self.forward(edges, atoms)


@lru_cache(maxsize=256)
def counted(build: Callable[[Any], Any], config: ModelConfig) -> Flops:
    """FLOPs as torch's counter finds them (:meth:`ForceField.count_flops`) on two graphs of the
    same atoms, with as many neighbours as the data have on average and with fewer.

    Work that grows faster than the edges, such as triplets, is right at that number of neighbours.
    Products of weights alone are made once a step, whatever is in it, and are left out: they are
    what two structures together take less than twice.
    Kernels that the counter does not know count nothing, unless they are declared to it
    (torch.utils.flop_counter.register_flop_formula). Of one pass, as closed forms are: frames of
    whole structures (``canonical``) are left to :meth:`Architecture.flops_for`.
    """
    config = config.model_copy(update={"canonical": "none"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(config)
        graphs = [cloud(config, share) for share in (1.0, 0.7)]
        first, second = (model.count_flops(graph) for graph in graphs)
        try:
            both = model.count_flops(together([graphs[0], graphs[0]]))
        except Exception:  # a model that two structures break: its contract is tested elsewhere
            both = 2 * first
        once = max(0.0, 2 * first - both)
    edges, fewer = (len(graph.sender) for graph in graphs)
    per_edge = max(0.0, (first - second) / (edges - fewer))
    per_atom = max(0.0, (first - once - per_edge * edges) / len(graphs[0].pos))
    # six digits: torch counts whole operations, and run ids should not hang on one
    return Flops(*(float(f"{value:.6g}") for value in (per_edge, per_atom)))


def counter() -> Any:
    """Torch's counter, with attention on a CPU: its own formulas are for kernels on a GPU, which do
    the same products."""
    from torch.utils.flop_counter import (  # here: with this module every process would import it
        FlopCounterMode,
        sdpa_backward_flop_count,
        sdpa_flop_count,
    )

    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {
        forward: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v),
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def cloud(config: ModelConfig, share: float = 1.0, seed: int = 0) -> GraphBatch:
    """One structure of random atoms, in float32, that have ``share`` of the mean number of
    neighbours of ``config`` within its cutoff."""
    n = math.ceil(config.mean_degree) + 1  # as in a molecule, nearly all of which is in reach
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    apart = torch.cdist(pos, pos) + torch.eye(n) * 1e9
    pairs = max(1, min(round(share * config.mean_degree * n / 2), n * (n - 1) // 2))
    upper = torch.triu_indices(n, n, 1)
    near = torch.sort(apart[upper[0], upper[1]]).values
    receiver, sender = torch.nonzero(apart <= near[pairs - 1], as_tuple=True)
    pos = pos * (0.999 * config.cutoff / near[pairs - 1])
    species = torch.randint(len(config.elements), (n,), generator=generator)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = torch.zeros(n, dtype=torch.int64)
    graph = GraphBatch(species, batch, pos.float(), sender, receiver, torch.tensor([n]))
    states = {"charge": config.charges, "spin": config.spins}
    return replace(graph, **{name: zero for name, known in states.items() if known})


def together(graphs: list[GraphBatch]) -> GraphBatch:
    """One batch of several structures."""
    atoms = [len(g.pos) for g in graphs]
    starts = [sum(atoms[:k]) for k in range(len(graphs))]

    def joined(name: str, add: list[int] | range | None = None) -> Tensor:
        parts = [getattr(g, name) for g in graphs]
        return torch.cat([x + a for x, a in zip(parts, add)] if add is not None else parts)

    found = GraphBatch(
        joined("species"),
        joined("batch", range(len(graphs))),
        joined("pos"),
        joined("sender", starts),
        joined("receiver", starts),
        joined("natoms"),
    )
    states = {
        name: joined(name) for name in ("charge", "spin") if getattr(graphs[0], name) is not None
    }
    return replace(found, **states)
