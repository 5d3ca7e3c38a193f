"""The unconstrained message passing network: relative positions enter raw, so nothing is symmetric
under rotation.

State h (n, d). Geometry of an edge, g = [r_ij / r_c (3), RBF(r), r_hat x RBF'(r)] times the
envelope. K pre-norm layers:

    s, t = W_s LN(h), W_t LN(h)                        on atoms (hoisted: exact algebra)
    gated:     m_ij = SiLU(s_j + t_i) * (W_g g_ij)
    additive:  m_ij = SiLU(s_j + t_i + W_g [r_ij / r_c, RBF]) u(r)
    h += W_o (sum_j m_ij) / sqrt(k)
    h += W_2 SiLU(W_1 LN(h))                           d -> 4d -> d

With ``feed_forward: edges`` the last line moves to the edges, m_ij += W_2 SiLU(W_1 m_ij) before the
sum, without biases so that messages still end at the cutoff: the same N at the same width and six
times the FLOPs, and no more symmetry. It is the control that separates symmetry from compute per
parameter.

Heads: e_i = MLP(h_i), f_i = MLP(h_i) in R^3. The gated message is the default: the additive one
sits on the plateau of the zero predictor until about a million atoms. Exact group: translations and
permutations.
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
from .basis import EdgeFeatures, ExponentialBasis, envelope, safe_norm
from .head import Head
from .mup import Embedding, LayerNorm, Linear


class MPNNConfig(ModelConfig):
    architecture: Literal["mpnn"] = "mpnn"
    base_width: int = 144
    message: Literal["gated", "additive"] = "gated"
    feed_forward: Literal["atoms", "edges"] = "atoms"
    radial: int = Field(32, ge=2, description="radial basis functions")
    angular: int = Field(32, ge=0)
    """radial functions multiplied with the unit vector (gated message only)"""

    @property
    def geometry(self) -> int:
        """Columns of W_g."""
        return 3 + self.radial + (3 * self.angular if self.message == "gated" else 0)


class Layer(nn.Module):
    """One layer; see the module's docstring."""

    def __init__(self, c: MPNNConfig):
        super().__init__()
        d, m = c.width, c.m
        self.gated, self.on_edges = c.message == "gated", c.feed_forward == "edges"
        self.sum_scale = 1.0 / math.sqrt(c.mean_degree)
        self.norm1 = LayerNorm(d, m)
        self.pair = Linear(d, 2 * d, "hidden", m)  # W_s and W_t side by side
        self.filter = Linear(c.geometry, d, "input", m, bias=False)
        self.out = Linear(d, d, "hidden", m)
        if not self.on_edges:
            self.norm2 = LayerNorm(d, m)
        self.up = Linear(d, 4 * d, "hidden", m, bias=not self.on_edges)
        self.down = Linear(4 * d, d, "hidden", m, bias=not self.on_edges)

    def forward(self, h: Tensor, g: Tensor, u: Tensor | None, graph: GraphBatch) -> Tensor:
        """h (n, d), g (e, geometry or more), u (e, 1) where messages are added -> h (n, d)."""
        pair = self.pair(self.norm1(h))
        padding = g.shape[1] - self.filter.weight.shape[1]
        w = nn.functional.linear(g, nn.functional.pad(self.filter.weight, (0, padding)))
        if self.gated and not self.on_edges:
            total = ops.gated_message(pair, w, graph, self.sum_scale)
        else:
            z, factor = (None, w) if self.gated else (w, u.expand_as(w))
            message = ops.edge_gate(pair, z, factor, graph)
            if self.on_edges:
                message = message + self.down(ops.silu(self.up(message)))
            total = ops.edge_sum(message, graph) * self.sum_scale
        h = h + self.out(total)
        if self.on_edges:
            return h
        return h + self.down(ops.silu(self.up(self.norm2(h))))


class MPNN(ForceField):
    config: MPNNConfig
    kernels_give_forces = True

    def __init__(self, config: MPNNConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), c.width, c.m)
        self.radial = ExponentialBasis(c.radial, c.cutoff)
        self.padding = -c.geometry % 4
        self.features = None
        if c.message == "gated":
            angular = ExponentialBasis(c.angular, c.cutoff) if c.angular > 1 else None
            self.features = EdgeFeatures(self.radial, angular, vectors=True, padding=self.padding)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.depth))
        self.norm = LayerNorm(c.width, c.m)
        self.energy = Head(c.width, 1, c.m)
        self.force = Head(c.width, 3, c.m) if c.forces == "direct" else None

    def geometry(self, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        """Edge features (e, geometry or more) from vectors (e, 3) in Angstrom. The envelope kills
        each message at the cutoff: it is in the features where they multiply, and comes by itself
        (e, 1) where they are added."""
        if self.features is not None:
            return self.features(vec), None
        r = safe_norm(vec)
        u = envelope(r / self.config.cutoff).unsqueeze(-1)
        columns = [vec / self.config.cutoff, self.radial(r)]
        if vec.is_cuda and self.padding:
            columns.append(vec.new_zeros(len(vec), self.padding))
        return torch.cat(columns, dim=-1), u

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        g, u = self.geometry(vec)
        h = self.embed(graph)
        for layer in self.layers:
            h = layer(h, g, u, graph)
        h = self.remember(self.norm(h))
        return self.energy(h).squeeze(-1), None if self.force is None else self.force(h)


def flops(c: MPNNConfig) -> Flops:
    """Forward FLOPs: per edge 2 K geometry d; per atom K (2 + 1 + 8) matrices d x d, and the two
    heads. The 8 may stand on the edges."""
    d, on_edges = c.width, c.feed_forward == "edges"
    heads = (d * d + d) + (d * d + 3 * d if c.forces == "direct" else 0)
    return Flops(
        per_edge=2.0 * c.depth * (c.geometry * d + (8 * d * d if on_edges else 0)),
        per_atom=2.0 * (c.depth * (3 if on_edges else 11) * d * d + heads),
    )


ARCHITECTURE = Architecture(
    name="mpnn",
    title="MPNN",
    config=MPNNConfig,
    model=MPNN,
    flops=flops,
    symmetry="none",
    base_width=144,
)
