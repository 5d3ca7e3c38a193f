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
sits on the plateau of the zero predictor until about a million atoms (reference/feasibility.md, 0.1
and 0.2). Exact group: translations and permutations.
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
from .basis import ExponentialBasis, Features, envelope, safe_norm
from .mup import Embedding, LayerNorm, Linear


class MPNNConfig(ModelConfig):
    architecture: Literal["mpnn"] = "mpnn"
    base_width: int = 144
    message: Literal["gated", "additive"] = "gated"
    feed_forward: Literal["atoms", "edges"] = "atoms"
    radial: int = Field(32, ge=2, description="radial basis functions")
    angular: int = Field(
        32,
        ge=0,
        description="radial functions multiplied with the unit vector (gated message only)",
    )

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

    def forward(
        self,
        h: Tensor,
        g: Tensor,
        u: Tensor | None,
        graph: GraphBatch,
        segments: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """h (n, d), g (e, geometry or more), u (e, 1) if messages are added, segments of the graph
        if kernels may be used -> h (n, d)."""
        fused = segments is not None
        pair = self.pair(self.norm1(h, fused), fused)
        w = nn.functional.linear(
            g, nn.functional.pad(self.filter.weight, (0, g.shape[1] - self.filter.weight.shape[1]))
        )
        if self.gated and not self.on_edges and fused:
            total = ops.gated_sum(pair, w, graph.sender, graph.receiver, *segments, self.sum_scale)
        else:
            z, factor = (None, w) if self.gated else (w, u.expand_as(w))
            message = ops.gate(pair, z, factor, graph, segments)
            if self.on_edges:
                message = message + self.down(nn.functional.silu(self.up(message)))
            total = ops.row_sum(message, graph, segments) * self.sum_scale
        h = h + self.out(total, fused)
        if self.on_edges:
            return h
        return h + self.down(nn.functional.silu(self.up(self.norm2(h, fused), fused)), fused)


class Head(nn.Module):
    """MLP d -> d -> outputs, the last layer of kind output (zero at the start)."""

    def __init__(self, d: int, outputs: int, m: float):
        super().__init__()
        self.hidden = Linear(d, d, "hidden", m)
        self.last = Linear(d, outputs, "output", m)

    def forward(self, h: Tensor, fused: bool = False) -> Tensor:
        return self.last(nn.functional.silu(self.hidden(h, fused)), fused)


class MPNN(ForceField):
    config: MPNNConfig

    def __init__(self, config: MPNNConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), c.width, c.m)
        self.radial = ExponentialBasis(c.radial, c.cutoff)
        self.angular = (
            ExponentialBasis(c.angular, c.cutoff)
            if c.message == "gated" and c.angular > 1
            else None
        )
        self.padding = (
            -c.geometry % 4
        )  # zero columns on a GPU: rows that are not 16 bytes wide make its products 4 times slower
        self.features = Features(
            c.cutoff, self.radial, self.angular, vectors=True, padding=self.padding
        )
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.depth))
        self.norm = LayerNorm(c.width, c.m)
        self.energy = Head(c.width, 1, c.m)
        self.force = Head(c.width, 3, c.m) if c.forces == "direct" else None

    def geometry(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        """Edge features (e, geometry) and envelope (e, 1) from vectors (e, 3) in Angstrom."""
        r = safe_norm(vec)
        u = envelope(r / self.config.cutoff).unsqueeze(-1)
        columns = [vec / self.config.cutoff, self.radial(r)]
        if self.angular is not None:
            unit = vec / r.unsqueeze(-1)
            columns.append((unit.unsqueeze(-1) * self.angular(r).unsqueeze(-2)).flatten(1))
        if vec.is_cuda and self.padding:
            columns.append(vec.new_zeros(len(vec), self.padding))
        g = torch.cat(columns, dim=-1)
        # the envelope kills each message at the cutoff: inside g when g multiplies, outside when g
        # is added
        return (g * u if self.config.message == "gated" else g), u

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        segments = graph.segments() if ops.fused(vec) else None
        fused = segments is not None
        g, u = (
            (self.features(vec), None)
            if fused and self.config.message == "gated"
            else self.geometry(vec)
        )
        h = self.embedding(graph.species)
        for layer in self.layers:
            h = layer(h, g, u, graph, segments)
        h = self.norm(h, fused)
        return self.energy(h, fused).squeeze(-1), self.force(
            h, fused
        ) if self.force is not None else None


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
