"""PaiNN (Schuett et al., arXiv 2102.03150): scalars and vectors with exact E(3) symmetry; the
MPNN's twin at low kappa.

State h (n, d) and v (n, 3, d), v = 0 at the start. K layers of message and update:

    x = W_2 SiLU(W_1 LN(h))            (n, 3d), on atoms;   w_ij = W_r RBF(r) u(r)  (e, 3d)
    (a, b, c) = x_j * w_ij
    h += sum_j a / sqrt(k);            v += sum_j (v_j * b + r_hat c) / sqrt(k)
    Uv, Vv = v W;                      s = <Uv, Vv>
    (p, q, g) = W_4 SiLU(W_3 [LN(h), |Vv|]);   h += p + q * s;   v += g * Uv

Departures from the paper: LayerNorm on scalars, an envelope on the messages, and no 1/sqrt(d)
factors (both products are pointwise in the channel, so those factors would break muP). Forces: f_i
= sum_c w_c (gate_c(h) v_c).

Twin, one flag: ``untied`` with ``epsilon`` gives each Cartesian component of the vectors its own
matrix, W_k = (W + epsilon F_k) / sqrt(1 + epsilon^2): the same shapes and FLOPs, no rotations; at
epsilon = 0 PaiNN.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch
from .base import Architecture, Flops, ForceField, ModelConfig
from .basis import (
    BesselBasis,
    BesselFeatures,
    EdgeFeatures,
    ExponentialBasis,
    envelope,
    safe_norm,
)
from .head import Head
from .mup import Embedding, LayerNorm, Linear, mark, normal
from .painn_edges import EdgeMessage, RMSNorm, scalar_norm


class PaiNNConfig(ModelConfig):
    architecture: Literal["painn"] = "painn"
    base_width: int = 136
    radial: int = Field(32, ge=2, description="radial basis functions")
    basis: Literal["exponential", "bessel"] = "exponential"
    """bessel: as the paper's, which takes 20; smoother where data are few"""
    LATER: ClassVar[tuple[str, ...]] = (
        "basis",
        "untied",
        "epsilon",
        "filter",
        "ends",
        "gate",
        "norm",
        "vector_norm",
    )
    filter: Literal["radial", "pair"] = "radial"
    """pair: eSEN's radial network of the length and of both species"""
    ends: Literal["sender", "both"] = "sender"
    """both: messages see the states of both ends of their edge"""
    gate: bool = Field(False, description="a nonlinearity on edges, gates for vectors, as eSEN's")
    norm: Literal["layer", "rms", "none"] = "layer"
    """before scalars are read"""
    vector_norm: bool = Field(False, description="vectors are normalised before they are read")
    untied: bool = False
    """a matrix for each component of the vectors: breaks rotations when epsilon > 0"""
    epsilon: float = Field(1.0, ge=0.0, description="size of what the three matrices differ by")

    @property
    def streams(self) -> int:
        """Factors of a message, each of the width."""
        return 3 + (self.ends == "both") + self.gate

    @property
    def on_edges(self) -> bool:
        """Whether messages have parts of eSEN's (:mod:`.painn_edges`)."""
        plain = self.filter == "radial" and self.ends == "sender" and not self.gate
        return not plain or self.norm != "layer" or self.vector_norm

    @property
    def broken(self) -> bool:
        """Whether components have matrices of their own, which breaks rotations."""
        return self.untied and self.epsilon > 0


class Layer(nn.Module):
    """Message and update; see the module's docstring."""

    def __init__(self, c: PaiNNConfig):
        super().__init__()
        d, m = c.width, c.m
        self.sum_scale = 1.0 / math.sqrt(c.mean_degree)
        self.norm1 = LayerNorm(d, m)
        self.node1 = Linear(d, d, "hidden", m)
        self.node2 = Linear(d, 3 * d, "hidden", m)
        self.filter = Linear(c.radial, 3 * d, "input", m, bias=False)
        self.vectors = Linear(d, 2 * d, "hidden", m, bias=False)  # U and V
        self.norm2 = LayerNorm(d, m)
        self.update1 = Linear(2 * d, d, "hidden", m)
        self.update2 = Linear(d, 3 * d, "hidden", m)
        self.epsilon, self.free = c.epsilon, None

    def untie(self, m: float) -> None:
        """Give the components of the vectors matrices of their own."""
        rows, d = self.vectors.weight.shape
        std = 1.0 / math.sqrt(d)
        self.free = mark(nn.Parameter(normal(3, rows, d, std=std)), "hidden", m)

    def matrix(self) -> Tensor:
        """Of U and V, (2d, d), or (3, 2d, d) one for each component."""
        if self.free is None:
            return self.vectors.weight
        return (self.vectors.weight + self.epsilon * self.free) / math.sqrt(1 + self.epsilon**2)

    def forward(
        self,
        h: Tensor,
        v: Tensor | None,
        g: Tensor | ops.Lengths,
        unit: Tensor,
        graph: GraphBatch,
    ) -> tuple[Tensor, Tensor]:
        """h (n, d), v (n, 3, d) or None while it is zero, g (e, radial), unit (e, 3)."""
        x = self.node2(ops.silu(self.node1(self.norm1(h))))
        h, v = ops.painn_message(h, v, x, g, self.filter.weight, unit, graph, self.sum_scale)
        return self.update(h, v, self.norm2(h), v)

    def update(self, h: Tensor, v: Tensor, read: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """h, v after the update; read (n, d) and seen (n, 3, d): what it reads of them."""
        pair, mixed = ops.painn_pair(read, seen, self.matrix())
        mixed = self.update2(ops.silu(self.update1(mixed)))
        return ops.painn_update(h, v, pair, mixed)


class EdgeLayer(Layer):
    """A layer whose messages have parts of eSEN's (:mod:`.painn_edges`)."""

    def __init__(self, c: PaiNNConfig, first: bool):
        super().__init__(c)
        del self.node1, self.node2, self.filter
        d, m = c.width, c.m
        self.norm1, self.norm2 = scalar_norm(c.norm, d, m), scalar_norm(c.norm, d, m)
        # vectors are zero before the first layer
        self.seen1 = RMSNorm(d, m, axes=2) if c.vector_norm and not first else nn.Identity()
        self.seen2 = RMSNorm(d, m, axes=2) if c.vector_norm else nn.Identity()
        self.message = EdgeMessage(c)

    def pass_on(
        self, h: Tensor, v: Tensor | None, known: tuple[Tensor, ...], graph: GraphBatch
    ) -> tuple[Tensor, Tensor]:
        """known: basis (e, B), envelope (e, 1), unit vectors (e, 3)."""
        seen = None if v is None else self.seen1(v)
        dh, dv = self.message(self.norm1(h), seen, *known, graph)
        h, v = h + dh, dv if v is None else v + dv
        return self.update(h, v, self.norm2(h), self.seen2(v))


class VectorHead(nn.Module):
    """Forces (n, 3) from scalars (n, d) and vectors (n, 3, d): gate the channels, then sum them
    with output weights."""

    def __init__(self, d: int, m: float):
        super().__init__()
        self.gate1 = Linear(d, d, "hidden", m)
        self.gate2 = Linear(d, d, "hidden", m)
        self.last = Linear(d, 1, "output", m, bias=False)

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        gate = self.gate2(ops.silu(self.gate1(h)))
        return self.last(v * gate.unsqueeze(1)).squeeze(-1)


class PaiNN(ForceField):
    config: PaiNNConfig
    kernels_give_forces = True

    def __init__(self, config: PaiNNConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), c.width, c.m)
        self.basis: BesselBasis | ExponentialBasis
        self.features: BesselFeatures | EdgeFeatures
        if c.basis == "bessel":
            self.basis = BesselBasis(c.radial, c.cutoff)
            self.features = BesselFeatures(self.basis, c.cutoff)
        else:
            self.basis = ExponentialBasis(c.radial, c.cutoff)
            self.features = EdgeFeatures(self.basis)
        self.layers = nn.ModuleList(
            EdgeLayer(c, first=k == 0) if c.on_edges else Layer(c) for k in range(c.depth)
        )
        self.kernels_give_forces = not c.on_edges
        self.norm = LayerNorm(c.width, c.m)
        self.energy = Head(c.width, 1, c.m)
        self.force = VectorHead(c.width, c.m) if c.forces == "direct" else None
        if c.broken:  # last, so that the other weights of a seed are those of PaiNN
            for layer in self.layers:
                layer.untie(c.m)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        r = safe_norm(vec)
        unit = vec / r.unsqueeze(-1)
        h, v = self.embed(graph), None
        if self.config.on_edges:
            known = self.basis(r), envelope(r / self.config.cutoff).unsqueeze(-1), unit
            for layer in self.layers:
                h, v = layer.pass_on(h, v, known, graph)
        else:
            g = self.features.of_length(vec, r)
            for layer in self.layers:
                h, v = layer(h, v, g, unit, graph)
        h = self.remember(self.norm(h))
        return self.energy(h).squeeze(-1), None if self.force is None else self.force(h, v)


def flops(c: PaiNNConfig) -> Flops:
    """Per edge 2 K 3 B d; per atom K (4 + 6 + 5) d^2 (vectors count three times), heads 3 d^2 + d +
    3 d. With parts of eSEN's, S streams in the place of 3, a filter of K (B d + d^2 + S d^2) an
    edge, S d^2 an atom for the other end, and 4 d^2 after a gate."""
    d, s = c.width, c.streams
    heads = (d * d + d) + (2 * d * d + 3 * d if c.forces == "direct" else 0)
    edge = c.radial * s * d
    if c.filter == "pair":
        edge = c.radial * d + (1 + s) * d * d
    atom = (1 + s + 11 + (s if c.ends == "both" else 0) + (4 if c.gate else 0)) * d * d
    return Flops(per_edge=2.0 * c.depth * edge, per_atom=2.0 * (c.depth * atom + heads))


ARCHITECTURE = Architecture(
    name="painn",
    title="PaiNN",
    config=PaiNNConfig,
    model=PaiNN,
    flops=flops,
    symmetry="E(3)",
    base_width=136,
    symmetry_of=lambda c: "none" if c.broken else "E(3)",
)
