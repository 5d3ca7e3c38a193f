"""Pairs: messages of distances and of one state for each atom, in muP, with a closed form of its
FLOPs. Forces are weighted sums of directions to neighbours, so that they rotate with the molecule.

From the root of the repository: PYTHONPATH=. forcelaw certify examples.pairs:ARCHITECTURE
"""

import math

import torch
from torch import nn

from forcelaw.graph import segment_sum
from forcelaw.models import Architecture, Flops, ForceField, ModelConfig
from forcelaw.models.basis import ExponentialBasis, envelope, safe_norm
from forcelaw.models.mup import Embedding, Linear


class PairsConfig(ModelConfig):
    base_width: int = 256
    radial: int = 16


class Pairs(ForceField):
    def __init__(self, config: PairsConfig):
        super().__init__(config)
        c, d, m = config, config.width, config.m
        # layers of mup carry their rule for initialisation and learning rate
        self.embedding = Embedding(len(c.elements), d, m)
        self.basis = ExponentialBasis(c.radial, c.cutoff)
        # without bias: a message of nothing is nothing, so that it ends at the cutoff
        self.filters = nn.ModuleList(
            Linear(c.radial, d, "input", m, bias=False) for _ in range(c.depth)
        )
        self.updates = nn.ModuleList(Linear(d, d, "hidden", m) for _ in range(c.depth))
        self.energy = Linear(d, 1, "output", m)
        self.force = Linear(d, 1, "output", m) if c.forces == "direct" else None

    def atomwise(self, graph, vec):
        """Energies of atoms (n,) and forces (n, 3) from edge vectors (e, 3), both unscaled."""
        r = safe_norm(vec)
        # messages end smoothly at the cutoff
        rbf = self.basis(r) * envelope(r / self.config.cutoff).unsqueeze(-1)
        h, n = self.embed(graph), len(graph.species)
        for make_filter, update in zip(self.filters, self.updates):
            message = make_filter(rbf) * h[graph.sender]
            total = segment_sum(message, graph.receiver, n) / math.sqrt(self.config.mean_degree)
            h = h + torch.nn.functional.silu(update(total))
        energy = self.energy(h).squeeze(-1)
        if self.force is None:
            return energy, None
        # one number for each edge, times its direction
        weight = self.force(h[graph.sender] * message) * envelope(r / self.config.cutoff)[:, None]
        return energy, segment_sum(weight * vec / r[:, None], graph.receiver, n)


def flops(c: PairsConfig) -> Flops:
    """Matrix products only; a multiply-add is 2."""
    direct = 2 * c.width if c.forces == "direct" else 0
    return Flops(
        per_edge=2 * c.depth * c.radial * c.width + direct,
        per_atom=2 * (c.depth * c.width**2 + c.width),
    )


ARCHITECTURE = Architecture(
    name="pairs",
    title="Pairs",
    config=PairsConfig,
    model=Pairs,
    flops=flops,
    symmetry="E(3)",  # of the forces; measured after every run
    base_width=256,
)
