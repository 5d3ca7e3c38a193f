"""A strong model without symmetry: attention between an atom and the edges into it, after the point
edge transformer (PET; Pozdnyakov and Ceriotti, arXiv 2305.19302, and metatrain's code).

State: a (n, 2d) of atoms, t (e, d) of edges j -> i, which begins as an embedding of the element of
j. K layers, each an exchange between the two directions of every pair:

    z = W_2 SiLU(F g_ij + N[species of j] + W_1 t + b)          g: what is known of the edge
    tokens [C a_i | z_ij of all j], and A times:
        o = W_o attention(W_qkv LN(tokens))       keys and values weigh with the envelope u(r_ij)
        a += E o_i;   a += GLU(LN(a))             2d -> 4d -> 2d
        z += o_ij;    z += GLU(LN(z))             d -> 2d -> d
    t += z_ij + W_4 SiLU(W_3 LN[z_ij | z_ji])

Outputs: MLP(a_i) + the sum over j of u(r_ij) MLP(t_ij), one number for the energy and three for the
force. Exact group: translations and permutations. Smooth: an edge at the cutoff weighs nothing in
attention, and nothing in the sums.

g has the components and the length of r_ij; with ``radial`` and ``angular`` Gaussians of the
length instead, alone and times the unit vector, as in our MPNN. Departures from PET with radial =
angular = 0, which benchmarks/pet_parity.py holds against metatrain's code: two linear maps that
follow each other are one (F; N); the neighbour's embedding goes through W once per element; our
envelope for its bump; our scale for the sum over edges; no bias of keys, which moves no output.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch
from .base import Architecture, Flops, ForceField, ModelConfig
from .basis import EdgeFeatures, ExponentialBasis, safe_norm
from .gemnet_index import build_index
from .mup import Embedding, LayerNorm, Linear, mark


class AttentionConfig(ModelConfig):
    architecture: Literal["attention"] = "attention"
    base_width: int = 72
    attention_layers: int = Field(1, ge=1)
    """attention layers between two exchanges of messages"""
    head_width: int = Field(8, ge=1, description="channels of an attention head")
    radial: int = Field(32, ge=0, description="radial basis functions; 0: the length itself")
    angular: int = Field(32, ge=0)
    """radial functions multiplied with the unit vector"""

    @property
    def embedding_width(self) -> int:
        return 2 * self.width

    @property
    def geometry(self) -> int:
        """Numbers that are known of an edge."""
        return 3 + self.radial + 3 * self.angular if self.radial else 4

    @model_validator(mode="after")
    def _consistent(self) -> AttentionConfig:
        if self.width % self.head_width:
            raise ValueError(
                f"width {self.width} is no multiple of head_width {self.head_width}: heads are"
                " whole"
            )
        if self.radial == 1 or self.angular == 1 or (self.angular and not self.radial):
            raise ValueError("radial and angular are 0 or at least 2, and angular needs radial")
        return self


class GLU(nn.Module):
    """d -> 2 x (2d) -> d: one half gated by the sigmoid of the other."""

    def __init__(self, d: int, m: float):
        super().__init__()
        self.up = Linear(d, 4 * d, "hidden", m)
        self.down = Linear(2 * d, d, "hidden", m)

    def gated(self, x: Tensor) -> Tensor:
        """What ``down`` takes."""
        return ops.linear_glu(x, *self.up.affine())


class AttentionLayer(nn.Module):
    """Attention among the tokens of each atom, and the feed-forward of atoms and of edges."""

    def __init__(self, c: AttentionConfig):
        super().__init__()
        d, m = c.width, c.m
        self.heads = d // c.head_width
        self.contract = Linear(2 * d, d, "hidden", m)
        self.expand = Linear(d, 2 * d, "hidden", m)
        self.norm1 = LayerNorm(d, m)
        self.qkv = Linear(d, 3 * d, "hidden", m, bias=False)
        # of queries and values: one of keys would shift all logits of a query alike
        self.bias = mark(nn.Parameter(torch.zeros(2, d)), "vector", m)
        self.out = Linear(d, d, "hidden", m)
        self.norm_atoms = LayerNorm(2 * d, m)
        self.atoms = GLU(2 * d, m)
        self.norm_edges = LayerNorm(d, m)
        self.edges = GLU(d, m)

    def forward(
        self, a: Tensor, z: Tensor, last: ops.Affine | None, rows: ops.Tokens, differentiable: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """a (n, 2d); z (e, d), where ``last`` is given before that linear layer -> a, z, and the
        gated rows (e, 2d) that ``edges.down`` has still to take, for a sum with z."""
        z, tokens = ops.token_norm(a, self.contract.affine(), z, last, self.norm1.affine())
        qkv = self.qkv.weight, self.bias
        o = ops.edge_attention(tokens, *qkv, rows, self.heads, differentiable)
        norms = self.norm_atoms.affine(), self.norm_edges.affine()
        linear = self.out.affine(), self.expand.affine()
        a, normed, z, normed_edges = ops.attended(o, a, z, *linear, *norms)
        a = a + self.atoms.down(self.atoms.gated(normed))
        return a, z, self.edges.gated(normed_edges)


class Layer(nn.Module):
    """One exchange; see the module's docstring."""

    def __init__(self, c: AttentionConfig, first: bool):
        super().__init__()
        d, m = c.width, c.m
        self.geometry = Linear(c.geometry, d, "input", m)
        self.neighbour = None if first else Embedding(len(c.elements), d, m)
        self.message1 = Linear(d, d, "hidden", m, bias=False)
        self.message2 = Linear(d, d, "hidden", m)
        self.attention = nn.ModuleList(AttentionLayer(c) for _ in range(c.attention_layers))
        self.norm = LayerNorm(2 * d, m)
        self.pair1 = Linear(2 * d, 2 * d, "hidden", m)
        self.pair2 = Linear(2 * d, d, "hidden", m)

    def forward(
        self, a: Tensor, t: Tensor, edges: Edges, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """a (n, 2d), t (e, d)."""
        table = None if self.neighbour is None else self.neighbour.weight
        geometry = self.geometry.affine()
        x = ops.edge_input(edges.known, *geometry, table, t, self.message1.weight)
        first, *others = self.attention
        a, z, x = first(a, x, self.message2.affine(), edges.rows, differentiable)
        down = first.edges.down
        for layer in others:
            a, z, x = layer(a, z + down(x), None, edges.rows, differentiable)
            down = layer.edges.down
        z, both = ops.pair_norm(z, x, *down.affine(), edges.swap, self.norm.affine())
        x = ops.linear_silu(both, *self.pair1.affine())
        return a, ops.linear_add(x, *self.pair2.affine(), t, z)


class Edges:
    """What layers need of the edges of a batch, in canonical order: what is known of them, swap
    (e,), u (e, 1), rows of tokens."""

    def __init__(self, graph: GraphBatch, vec: Tensor, features: Any, c: AttentionConfig):
        index = build_index(graph, vec, c.cutoff)
        vec = vec.index_select(0, index.order)
        if features is None:
            r = safe_norm(vec)
            # a padding edge is 1,000 Angstrom long
            near = (r < c.cutoff).to(r.dtype).unsqueeze(-1)
            g = torch.cat([vec, r.unsqueeze(-1)], dim=-1) * near
        else:
            g = features(vec)
        species = graph.species.index_select(0, index.sender)
        self.known = ops.edge_columns(g, species, len(c.elements))
        self.index, self.swap = index, index.swap
        u = ops.edge_envelope(vec, c.cutoff)
        self.u, self.rows = u.unsqueeze(-1), ops.token_rows(index, u)


class OutputHead(nn.Module):
    """MLP(a_i) + sum over j of u(r_ij) MLP(t_ij) / sqrt(k): (n, outputs), zero at the start."""

    def __init__(self, c: AttentionConfig, outputs: int):
        super().__init__()
        d, m = c.width, c.m
        self.sum_scale = 1.0 / math.sqrt(c.mean_degree)
        self.atoms = nn.ModuleList([Linear(2 * d, d, "hidden", m), Linear(d, d, "hidden", m)])
        self.edges = nn.ModuleList([Linear(d, d, "hidden", m), Linear(d, d, "hidden", m)])
        self.last_atoms = Linear(d, outputs, "output", m)
        self.last_edges = Linear(d, outputs, "output", m)

    def forward(self, a: Tensor, t: Tensor, edges: Edges) -> Tensor:
        for one, other in zip(self.atoms, self.edges):
            a = ops.linear_silu(a, *one.affine())
            t = ops.linear_silu(t, *other.affine())
        pairs = ops.edge_readout(t, edges.u, *self.last_edges.affine(), edges.index)
        return self.last_atoms(a) + pairs * self.sum_scale


class Attention(ForceField):
    config: AttentionConfig
    kernels_give_forces = True

    def __init__(self, config: AttentionConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), 2 * c.width, c.m)
        self.messages = Embedding(len(c.elements), c.width, c.m)
        self.features = None
        if c.radial:
            angular = ExponentialBasis(c.angular, c.cutoff) if c.angular else None
            self.features = EdgeFeatures(
                ExponentialBasis(c.radial, c.cutoff), angular, vectors=True
            )
        self.layers = nn.ModuleList(Layer(c, first=k == 0) for k in range(c.depth))
        self.energy = OutputHead(c, 1)
        self.force = OutputHead(c, 3) if c.forces == "direct" else None

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        edges = Edges(graph, vec, self.features, self.config)
        a, t = self.embed(graph), ops.edge_table(self.messages.weight, edges.known)
        for layer in self.layers:
            a, t = layer(a, t, edges, vec.requires_grad)
        energy = self.energy(self.remember(a), t, edges).squeeze(-1)
        return energy, None if self.force is None else self.force(a, t, edges)


def flops(c: AttentionConfig) -> Flops:
    """Per edge K (B d + 2 d^2 + A (10 d^2 + 2 (k + 1) d) + 6 d^2) and heads 2 d^2 + d; per atom K A
    (32 d^2 + 2 (k + 1) d) and heads 3 d^2 + d. Attention sees k + 1 tokens, k the mean degree;
    empty slots of its rows are left out."""
    d, tokens = c.width, c.mean_degree + 1.0
    outputs = 4 if c.forces == "direct" else 1
    heads = 2 if c.forces == "direct" else 1
    attention = 2.0 * tokens * d
    edge = c.geometry * d + 8 * d * d + c.attention_layers * (10 * d * d + attention)
    atom = c.attention_layers * (32 * d * d + attention)
    return Flops(
        per_edge=2.0 * (c.depth * edge + heads * 2 * d * d + outputs * d),
        per_atom=2.0 * (c.depth * atom + heads * 3 * d * d + outputs * d),
    )


def width_step(options: dict[str, Any]) -> int:
    return options.get("head_width", AttentionConfig.model_fields["head_width"].default)


ARCHITECTURE = Architecture(
    name="attention",
    title="PET-like transformer",
    config=AttentionConfig,
    model=Attention,
    flops=flops,
    symmetry="none",
    base_width=72,
    step=8,
    smallest_width=8,
    step_of=width_step,
)
