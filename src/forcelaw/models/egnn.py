"""MC-EGNN: E(3)-equivariant with M Cartesian vector channels per atom (Levy, Kaba et al., arXiv
2309.03139).

State h (n, d) and V (n, 3, M), V = 0 at the start; the geometry r, r_hat stays that of the input. K
layers:

    s, t = W_s LN(h), W_t LN(h)                               on atoms (hoisted)
    dV = V_j - V_i,  q = |dV|^2 per channel,  q~ = q / (1 + q)
    x = SiLU(s_j + t_i + W_q q~) * (W_r RBF(r) u(r))          filter-type message
    m = SiLU(W_b x)                                           (e, d)
    Phi = W_d SiLU(W_c m)  (e, M, M),   gamma = W_g m  (e, M)
    V += sum_j (Phi dV / sqrt(1 + q) + gamma r_hat) / sqrt(k)
    h += W_f SiLU(W_e [LN(h), sum_j m / sqrt(k)])

Departures, and why: the filter-type message replaces the additive one of the original, which starts
slowly; sums are divided by sqrt(k), never by the actual
degree; layers after the envelope have no bias, so that a message vanishes smoothly with its edge.
Forces: f_i = sum_c w_c(h_i) V_i^c.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch
from .base import Architecture, Flops, ForceField, ModelConfig
from .basis import EdgeFeatures, ExponentialBasis, safe_norm
from .head import Head
from .mup import Embedding, LayerNorm, Linear


class EGNNConfig(ModelConfig):
    architecture: Literal["egnn"] = "egnn"
    base_width: int = 176
    channels: int = Field(8, ge=1)
    """vector channels M, fixed along a ladder so that muP is clean"""
    radial: int = Field(32, ge=2, description="radial basis functions")


class Layer(nn.Module):
    """One layer; see the module's docstring."""

    def __init__(self, c: EGNNConfig):
        super().__init__()
        d, m, ch = c.width, c.m, c.channels
        self.channels = ch
        self.sum_scale = 1.0 / math.sqrt(c.mean_degree)
        self.norm = LayerNorm(d, m)
        self.pair = Linear(d, 2 * d, "hidden", m)
        self.lengths = Linear(ch, d, "input", m, bias=False)
        self.filter = Linear(c.radial, d, "input", m, bias=False)
        self.message = Linear(d, d, "hidden", m, bias=False)
        self.mix1 = Linear(d, d, "hidden", m, bias=False)
        self.mix2 = Linear(d, ch * ch, "readout", m, bias=False)
        self.radiate = Linear(d, ch, "readout", m, bias=False)
        self.node1 = Linear(2 * d, d, "hidden", m)
        self.node2 = Linear(d, d, "hidden", m)

    def forward(
        self, h: Tensor, v: Tensor | None, g: Tensor, unit: Tensor, graph: GraphBatch
    ) -> tuple[Tensor, Tensor | None]:
        """h (n, d), v (n, 3, M) or None while it is zero, g (e, radial), unit (e, 3)."""
        n, a = h.shape[0], self.norm(h)
        dv = q = lengths = phi = None
        if v is not None:
            dv = ops.edge_difference(v.flatten(1), graph).view(-1, *v.shape[1:])
            q = dv.square().sum(1)
            lengths = self.lengths(q / (1.0 + q))
        gated = ops.edge_gate(self.pair(a), lengths, self.filter(g), graph)
        message = ops.silu(self.message(gated))
        total = ops.edge_sum(message, graph) * self.sum_scale
        h = h + self.node2(ops.silu(self.node1(torch.cat([a, total], dim=-1))))
        if self.radiate is None:
            return h, v
        radial = self.radiate(message)
        if v is not None:
            phi = self.mix2(ops.silu(self.mix1(message)))
            phi = phi.view(-1, self.channels, self.channels)
        change = ops.egnn_vectors(unit, radial, dv, q, phi)
        change = ops.edge_sum(change.flatten(1), graph).view(n, 3, -1) * self.sum_scale
        return h, change if v is None else v + change


class EGNN(ForceField):
    config: EGNNConfig
    kernels_give_forces = True

    def __init__(self, config: EGNNConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), c.width, c.m)
        self.features = EdgeFeatures(ExponentialBasis(c.radial, c.cutoff))
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.depth))
        # weights that could never receive a gradient are left out: the first layer has no vectors
        # to mix yet, and without a direct head nobody reads the vectors of the last
        for name in ("lengths", "mix1", "mix2"):
            delattr(self.layers[0], name)
        if c.forces == "conservative":
            for name in ("mix1", "mix2", "radiate"):
                setattr(self.layers[-1], name, None)
        self.norm = LayerNorm(c.width, c.m)
        self.energy = Head(c.width, 1, c.m)
        self.force = Head(c.width, c.channels, c.m) if c.forces == "direct" else None

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        r = safe_norm(vec)
        unit = vec / r.unsqueeze(-1)
        g = self.features(vec, r)
        h, v = self.embed(graph), None
        for layer in self.layers:
            h, v = layer(h, v, g, unit, graph)
        h = self.remember(self.norm(h))
        if self.force is None:
            return self.energy(h).squeeze(-1), None
        forces = (v * self.force(h).unsqueeze(1)).sum(-1)
        return self.energy(h).squeeze(-1), forces


def flops(c: EGNNConfig) -> Flops:
    """Per edge and layer: filter, message, radiate; from the second layer on also lengths, mix1,
    mix2 and the product Phi dV. Per atom: K (2 + 2 + 1) d^2 and heads."""
    d, m = c.width, c.channels
    every, lengths = c.radial * d + d * d, m * d
    radiate, mix = d * m, d * d + d * m * m + 3 * m * m
    moving = c.depth if c.forces == "direct" else c.depth - 1  # layers that change V
    edge = c.depth * every + (c.depth - 1) * lengths + moving * radiate + max(0, moving - 1) * mix
    heads = (d * d + d) + (d * d + d * m if c.forces == "direct" else 0)
    return Flops(per_edge=2.0 * edge, per_atom=2.0 * (c.depth * 5 * d * d + heads))


ARCHITECTURE = Architecture(
    name="egnn",
    title="MC-EGNN",
    config=EGNNConfig,
    model=EGNN,
    flops=flops,
    symmetry="E(3)",
    base_width=176,
)
