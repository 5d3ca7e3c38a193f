"""PaiNN's message with the parts of eSEN's, one at a time: what is known of an edge beyond the
sender's state and a basis of its length.

    a = SiLU(W_1 norm(h));   x = W_2 a,  t = W_3 a             on atoms; t with ``ends: both``
    w_ij = W_r RBF(r) u(r)                                     ``filter: radial``, PaiNN's
    w_ij = W_5 MLP(RBF(r), species of j, species of i) u(r)    ``filter: pair``, eSEN's
    (s, b, c, b', g) = (x_j + t_i) * w_ij                      b' with both ends, g with a gate
    vector = v_j * b + r_hat c + v_i * b'
    gate: s -> SiLU(s), vector -> vector sigmoid(g), and a matrix for each after the sum

``norm`` says what stands before h is read, ``vector_norm`` whether vectors are divided by their
root mean square over components and channels before they are read. By plain torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch, segment_sum
from .mup import Embedding, LayerNorm, Linear, mark

EPSILON = 1e-5


class RMSNorm(nn.Module):
    """x / rms(x) over the last ``axes`` axes, with a gain for each channel."""

    def __init__(self, d: int, m: float, axes: int = 1):
        super().__init__()
        self.weight = mark(nn.Parameter(torch.ones(d)), "vector", m)
        self.axes = tuple(range(-axes, 0))

    def forward(self, x: Tensor) -> Tensor:
        square = x.square().mean(self.axes, keepdim=True)
        return x * torch.rsqrt(square + EPSILON) * self.weight


def scalar_norm(kind: str, d: int, m: float) -> nn.Module:
    """ "layer", "rms" or "none"."""
    return {"layer": LayerNorm, "rms": RMSNorm}[kind](d, m) if kind != "none" else nn.Identity()


class PairFilter(nn.Module):
    """MLP of the basis of an edge and of both its species, with LayerNorm as eSEN's: (e, out)."""

    def __init__(self, c: Any, outputs: int):
        super().__init__()
        d, m = c.width, c.m
        self.basis = Linear(c.radial, d, "input", m)
        self.source, self.target = (Embedding(len(c.elements), d, m) for _ in range(2))
        self.norm1, self.norm2 = LayerNorm(d, m), LayerNorm(d, m)
        self.hidden = Linear(d, d, "hidden", m)
        self.last = Linear(d, outputs, "hidden", m)

    def forward(self, basis: Tensor, graph: GraphBatch) -> Tensor:
        species = graph.species
        z = self.basis(basis) + self.source(species.index_select(0, graph.sender))
        z = z + self.target(species.index_select(0, graph.receiver))
        z = ops.silu(self.norm2(self.hidden(ops.silu(self.norm1(z)))))
        return self.last(z)


class EdgeMessage(nn.Module):
    """h (n, d), v (n, 3, d) -> their changes by messages; see the module's docstring."""

    def __init__(self, c: Any):
        super().__init__()
        d, m = c.width, c.m
        self.gated, self.both = c.gate, c.ends == "both"
        outputs = c.streams * d
        self.sum_scale = 1.0 / math.sqrt(c.mean_degree)
        self.node1 = Linear(d, d, "hidden", m)
        self.node2 = Linear(d, outputs, "hidden", m)
        self.other = Linear(d, outputs, "hidden", m, bias=False) if self.both else None
        self.filter = (
            PairFilter(c, outputs)
            if c.filter == "pair"
            else Linear(c.radial, outputs, "input", m, bias=False)
        )
        self.out = self.out_vectors = None
        if c.gate:
            self.out = Linear(d, d, "hidden", m)
            self.out_vectors = Linear(d, d, "hidden", m, bias=False)

    def forward(
        self,
        h: Tensor,
        v: Tensor | None,
        basis: Tensor,
        u: Tensor,
        unit: Tensor,
        graph: GraphBatch,
    ) -> tuple[Tensor, Tensor]:
        """h and v normalised, basis (e, B), u (e, 1), unit (e, 3)."""
        sender, receiver, n = graph.sender, graph.receiver, len(h)
        a = ops.silu(self.node1(h))
        edge = self.node2(a).index_select(0, sender)
        if self.other is not None:
            edge = edge + self.other(a).index_select(0, receiver)
        if isinstance(self.filter, PairFilter):
            edge = edge * self.filter(basis, graph) * u
        else:
            edge = edge * self.filter(basis) * u
        s, b, c, *more = edge.split(h.shape[1], dim=1)
        vector = c.unsqueeze(1) * unit.unsqueeze(2)
        if v is not None:
            vector = vector + b.unsqueeze(1) * v.index_select(0, sender)
            if self.both:
                vector = vector + more[0].unsqueeze(1) * v.index_select(0, receiver)
        if self.gated:
            s, vector = ops.silu(s), vector * torch.sigmoid(more[-1]).unsqueeze(1)
        dh = segment_sum(s, receiver, n) * self.sum_scale
        dv = segment_sum(vector, receiver, n) * self.sum_scale
        if self.out is not None and self.out_vectors is not None:
            dh, dv = self.out(dh), self.out_vectors(dv)
        return dh, dv
