"""The model of the examples, and the same with one thing broken in each: what a certificate must
catch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from examples.pairs import ARCHITECTURE, Pairs, PairsConfig
from forcelaw.models import ForceField
from forcelaw.models.flops import Flops
from forcelaw.models.mup import Linear


class Sound(Pairs):
    Config = PairsConfig
    symmetry = "E(3)"
    learning_rate = ARCHITECTURE.learning_rate


class Broken(Sound):
    """Adds something to the energies of atoms (n,)."""

    def more(self, graph, vec):
        raise NotImplementedError

    def atomwise(self, graph, vec):
        energy, forces = super().atomwise(graph, vec)
        return energy + self.more(graph, vec), forces


def smooth(vec):
    """(e, 1): something that ends at the cutoff."""
    return (1.0 - (vec.norm(dim=-1, keepdim=True) / 6.0).clamp_max(1.0)) ** 4


def summed(graph, values):
    return values.new_zeros(len(graph.pos), values.shape[1]).index_add(0, graph.receiver, values)


class Absolute(Broken):
    def more(self, graph, vec):
        return 0.01 * graph.pos.sum(-1).sin()


class Ordered(Broken):
    def more(self, graph, vec):
        return 0.01 * (torch.arange(len(graph.pos)) * graph.species).to(vec)


class Turned(Broken):
    def more(self, graph, vec):
        return summed(graph, vec * smooth(vec))[:, 0].square()


class Chiral(Broken):
    """A triple product changes sign under inversion, and under nothing else."""

    def more(self, graph, vec):
        a, b, c = (summed(graph, vec * smooth(vec) ** k) for k in (1, 2, 4))
        return (a * torch.linalg.cross(b, c)).sum(-1)


class Neighbourly(Broken):
    def more(self, graph, vec):
        return (0.01 * graph.n_graphs + torch.zeros(len(graph.pos))).to(vec)


class Padded(Broken):
    def more(self, graph, vec):
        dummies = (graph.batch >= graph.n_graphs).sum()
        return 0.01 * dummies * torch.ones(len(graph.pos)).to(vec)


class Intensive(Sound):
    def forward(self, graph):
        energy, forces = super().forward(graph)
        return energy / graph.natoms.clamp_min(1), forces


class Lonely(Broken):
    """Infinite for an atom without neighbours."""

    def more(self, graph, vec):
        return 1.0 / summed(graph, torch.ones_like(vec))[:, 0]


class Cut(Broken):
    def more(self, graph, vec):
        return 0.01 * summed(graph, torch.ones_like(vec))[:, 0]


class Kinked(Broken):
    def more(self, graph, vec):
        return summed(graph, 1.0 - vec.norm(dim=-1, keepdim=True) / 6.0)[:, 0]


class Capped(Broken):
    """Reads the nearest twelve neighbours."""

    def more(self, graph, vec):
        r = vec.norm(dim=-1)
        near = torch.zeros_like(r)
        for i in range(len(graph.pos)):
            k = (graph.receiver == i).nonzero()[:, 0]
            near[k[r[k].argsort()[:12]]] = 1.0
        weight = near * (1.0 + graph.species[graph.sender])
        return summed(graph, smooth(vec) * weight[:, None])[:, 0]


class Imageless(Broken):
    """Takes neighbours where they are in the cell, and not their images."""

    def more(self, graph, vec):
        vec = graph.pos[graph.sender] - graph.pos[graph.receiver]
        return summed(graph, smooth(vec))[:, 0]


class Normalised(Broken):
    """By the atoms of the batch, in training."""

    def __init__(self, config):
        super().__init__(config)
        self.norm = nn.BatchNorm1d(config.width)

    def more(self, graph, vec):
        return self.norm(self.embedding(graph.species)).sum(-1)


class Quotient(Broken):
    """0/0 on padding edges, which no output shows."""

    def more(self, graph, vec):
        near = torch.exp(-((vec.norm(dim=-1, keepdim=True) - torch.arange(6)) ** 2))
        share = near / near.sum(-1, keepdim=True)
        values = (share * self.energy.weight[0, 0])[:, :1] * smooth(vec)
        return summed(graph, values)[:, 0]


class Rough(Broken):
    """bfloat16 in part of it, where it trains."""

    def more(self, graph, vec):
        x = summed(graph, smooth(vec))[:, 0]
        return x if x.dtype == torch.float64 else x.bfloat16().to(x)


class Attending(Broken):
    """To the mean of all atoms of its structure."""

    def more(self, graph, vec):
        h = self.embedding(graph.species)
        g = graph.n_graphs + 1
        total = h.new_zeros(g, h.shape[1]).index_add(0, graph.batch, h)
        mean = total / torch.bincount(graph.batch, minlength=g)[:, None]
        return mean[graph.batch].square().sum(-1)


class Noisy(Broken):
    """Dropout that nobody switches off."""

    def more(self, graph, vec):
        return nn.functional.dropout(torch.ones(len(graph.pos)).to(vec), 0.2)


class Drawn(Broken):
    """Features that are neither parameters nor buffers."""

    def __init__(self, config):
        super().__init__(config)
        self.features = torch.randn(config.width)

    def more(self, graph, vec):
        return (self.embedding(graph.species) * self.features.to(vec)).sum(-1)


class Averaging(Broken):
    """A running mean that no checkpoint holds; the size of errors does not see a constant."""

    mean = 0.0

    def more(self, graph, vec):
        self.mean += 0.1 * self.training
        return torch.full((len(graph.pos),), self.mean).to(vec)


class Guessed(Broken):
    """Features that NumPy draws."""

    def __init__(self, config):
        super().__init__(config)
        self.features = torch.tensor(np.random.default_rng().normal(size=config.width))

    def more(self, graph, vec):
        return (self.embedding(graph.species) * self.features.to(vec)).sum(-1)


class Buffered(Broken):
    """Sound: what it draws and counts is in buffers."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("features", torch.randn(config.width))
        self.register_buffer("mean", torch.zeros(()))

    def more(self, graph, vec):
        if self.training:
            self.mean += 0.1
        return (self.embedding(graph.species) * self.features).sum(-1) + self.mean


class Unfaithful(Sound):
    """Gradient forces that are a little too large."""

    def forward(self, graph):
        energy, forces = super().forward(graph)
        return energy, 1.01 * forces


class Disguised(Sound):
    """Always the gradient, also where direct forces are asked for and paid for."""

    def forward(self, graph):
        return self._conservative(graph)[:2]


class Stressed(Sound):
    def with_virial(self, graph):
        energy, forces, virial = super().with_virial(graph)
        return energy, forces, -virial


class Rigid(Sound):
    """One width whatever is asked for."""

    def __init__(self, config):
        super().__init__(config.model_copy(update={"width": 32}))


class Dead(Sound):
    def __init__(self, config):
        super().__init__(config)
        self.unused = Linear(config.width, config.width, "hidden", config.m)


class Infinite(Broken):
    """The root of zero has no gradient."""

    def more(self, graph, vec):
        return (self.embedding(graph.species).sum(-1) * 0.0).clamp_min(0.0).sqrt()


class Unseeded(Sound):
    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            self.embedding.weight += np.random.rand()


class Forgetful(Broken):
    """Counts its calls in what no checkpoint holds."""

    calls = 0

    def more(self, graph, vec):
        self.calls += self.training
        return 0.01 * self.calls * torch.ones(len(graph.pos)).to(vec)


class Misparametrised(Sound):
    """Layers that grow with the width at the learning rate of those that do not."""

    def __init__(self, config):
        super().__init__(config)
        d, m = config.width, config.m
        self.updates = nn.ModuleList(Linear(d, d, "input", m) for _ in range(config.depth))
        self.energy.multiplier = 1.0


class Exploding(Broken):
    """Trains at no rate."""

    def more(self, graph, vec):
        if not self.training:
            return torch.zeros(len(graph.pos)).to(vec)
        return torch.full((len(graph.pos),), torch.inf).to(vec)


class Synchronising(Broken):
    """Asks the device for a number, which no graph can hold."""

    def more(self, graph, vec):
        return torch.zeros(len(graph.pos)).to(vec) + float(vec.detach().sum())


class Raising(ForceField):
    Config = PairsConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.width, config.width))

    def forward(self, graph):
        raise ZeroDivisionError("as it must")


CHEAP = replace(
    ARCHITECTURE,
    name="cheap",
    model=Sound,
    flops=lambda c: Flops(c.depth * c.radial * c.width, 1.2 * c.depth * c.width**2),
)
