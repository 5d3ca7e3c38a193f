"""The Platonic transformer (Islam et al., arXiv 2510.03511): a transformer over atoms whose
features stand in the frames of a finite point group and whose weights are shared between frames.

State x (n, D) = (n, G, C): C channels in each of the G frames of the group, D = G C the width.
Turn the molecule by an element u of the group, and the frames trade places, x_g -> x_{u^-1 g}. K
pre-norm layers:

    q, k, v = W LN(x)                                   three times (n, G, H, d), D = G H d
    o       = rotary attention in each frame and head   frame g has the frequencies R_g w
    x += W o;    x += W SiLU(W LN(x))                   D -> 4 D -> D

W x at frame g is the sum over h of K_{g^-1 h} x_h, a convolution over the group: a full D x D
matrix of which only D^2 / G numbers are free. Heads: e = sum_g w . y_g and f = sum_g R_g (M y_g)
with y = SiLU(W LN(x)).

So width and FLOPs are the same whatever the group, and only the sharing changes: that is the dial.
N falls like 1 / G at equal width; ``C1`` is the plain transformer. Exact for the elements of the
group (and translations and permutations), approximate for other rotations. The group is an option,
by its Schoenflies symbol: C1, T, O, I (1, 12, 24, 60 rotations), with inversion Ci, Th, Oh, Ih, and
Td.

Departures from the authors' code: attention ends smoothly at the cutoff, as all our columns do (a
larger cutoff gives the whole molecule); LayerNorm takes its mean and variance over all D channels,
so that it does not change along the dial (theirs: over the C of one frame, four at 60 frames of
240); attention falls with the distance unless ``decay`` is 0 (without, a model of 20k parameters
sits at forces of zero for 400 steps of 8 molecules at every learning rate that was tried,
LABLOG.md, 2026-11-29); keys are projected (theirs, by default, are ones); values turn with the
positions, an option there; SiLU for GELU; the last layers sum over frames instead of averaging, so
that they have one muP scale along the dial.
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
from .mup import Embedding, Linear, mark, normal
from .point_groups import ORDERS, PointGroupName, point_group


class PlatonicConfig(ModelConfig):
    architecture: Literal["platonic"] = "platonic"
    base_width: int = 480
    group: PointGroupName = "C1"
    """point group whose elements are the frames: C1 is the plain transformer"""
    head_width: int = Field(4, ge=2, description="channels of an attention head, even")
    frequency: float = Field(1.5, gt=0)
    """standard deviation of the rotary frequencies at the start, rad per Angstrom"""
    decay: float = Field(2.0, ge=0)
    """attention falls like exp(-decay r), 1/Angstrom, the heads of a frame around that by root 2;
    0: not, as in the paper"""
    turn_values: bool = Field(True, description="rotary embeddings on values too")

    @property
    def order(self) -> int:
        """G: elements of the group."""
        return ORDERS[self.group]

    @property
    def channels(self) -> int:
        """C: channels of one frame."""
        return self.width // self.order

    @property
    def embedding_width(self) -> int:
        return self.channels

    @model_validator(mode="after")
    def _whole_heads(self) -> PlatonicConfig:
        step = width_step(self.model_dump())
        if self.head_width % 2 or self.width % step:
            raise ValueError(
                f"width {self.width} of group {self.group} must be a multiple of"
                f" {self.order} frames x {self.head_width} channels of a head = {step}, and a head"
                " have an even number of channels"
            )
        return self


def width_step(options: dict[str, Any]) -> int:
    """Widths of these options are multiples of it."""
    fields = PlatonicConfig.model_fields
    group = options.get("group", fields["group"].default)
    return ORDERS.get(group, 1) * options.get("head_width", fields["head_width"].default)


def narrowest_width(options: dict[str, Any]) -> int:
    """Width at which each frame has eight channels: fewer are too few for the averages that muP
    rests on (of two, four and eight in 60 frames, the norm's change falls as width^-.45)."""
    return 8 * ORDERS.get(options.get("group", PlatonicConfig.model_fields["group"].default), 1)


class GroupLinear(nn.Module):
    """Linear map (n, G fan_in) -> (n, G fan_out) that commutes with the group: the kernel (G,
    fan_out, fan_in) is spread over a matrix of G^2 blocks, and the bias is the same in all
    frames."""

    def __init__(self, c: PlatonicConfig, fan_in: int, fan_out: int):
        super().__init__()
        g = c.order
        std = 1.0 / math.sqrt(g * fan_in)
        self.kernel = mark(nn.Parameter(normal(g, fan_out, fan_in, std=std)), "hidden", c.m)
        self.bias = mark(nn.Parameter(torch.zeros(fan_out)), "vector", c.m)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        weight = ops.group_matrix(self.kernel, frames.between, frames.columns)
        return ops.linear(x, weight, frames.spread(self.bias))


class GroupNorm(nn.Module):
    """LayerNorm over all channels of all frames, with gain and bias (C,) the same in each."""

    def __init__(self, c: PlatonicConfig):
        super().__init__()
        self.weight = mark(nn.Parameter(torch.ones(c.channels)), "vector", c.m)
        self.bias = mark(nn.Parameter(torch.zeros(c.channels)), "vector", c.m)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        return ops.layer_norm(x, frames.spread(self.weight), frames.spread(self.bias))


class Frames(nn.Module):
    """The group's matrices and products; without parameters."""

    def __init__(self, name: PointGroupName):
        super().__init__()
        group = point_group(name)
        self.order = len(group)
        matrices = torch.from_numpy(group.matrices.copy())
        # bits, so that model.to(float32) and back rounds nothing
        self.register_buffer("bits", matrices.view(torch.int64), persistent=False)
        between = torch.from_numpy(group.between)
        self.register_buffer("between", between, persistent=False)
        # row g, column k: the h with g^-1 h = k
        self.register_buffer("columns", torch.argsort(between, dim=1), persistent=False)

    def matrices(self, like: Tensor) -> Tensor:
        """(G, 3, 3) in the dtype of ``like``."""
        return self.bits.view(torch.float64).to(like.dtype)

    def spread(self, x: Tensor) -> Tensor:
        """(C,) of a frame -> (G C,) of all frames."""
        return x.repeat(self.order)

    def turned(self, vectors: Tensor) -> Tensor:
        """R_g v for all g: vectors (..., 3) -> (G, ..., 3)."""
        matrices = self.matrices(vectors).view(self.order, *[1] * (vectors.dim() - 1), 3, 3)
        return (matrices * vectors.unsqueeze(-2)).sum(-1)


class Layer(nn.Module):
    """Attention and feed-forward; see the module's docstring."""

    def __init__(self, c: PlatonicConfig):
        super().__init__()
        w, heads = c.channels, c.channels // c.head_width
        self.heads, self.head_width, self.turn_values = heads, c.head_width, c.turn_values
        self.norm1 = GroupNorm(c)
        self.project = GroupLinear(c, w, 3 * w)  # queries, keys and values side by side
        self.frequencies = mark(
            nn.Parameter(normal(heads, c.head_width // 2, 3, std=c.frequency)), "input", c.m
        )
        self.out = GroupLinear(c, w, w)
        self.norm2 = GroupNorm(c)
        self.up = GroupLinear(c, w, 4 * w)
        self.down = GroupLinear(c, 4 * w, w)

    def forward(self, x: Tensor, pairs: ops.Pairs, frames: Frames) -> Tensor:
        """x (n, D) -> (n, D)."""
        parts = self.project(self.norm1(x, frames), frames)
        parts = parts.view(len(x), frames.order, 3, self.heads, self.head_width)
        qkv = parts.transpose(1, 2).reshape(len(x), 3, -1, self.head_width)
        w = frames.turned(self.frequencies).flatten(0, 1)  # (G H, d / 2, 3)
        o = ops.rotary_attention(qkv, w, pairs, self.turn_values)
        x = x + self.out(o.reshape(len(x), -1), frames)
        hidden = ops.silu(self.up(self.norm2(x, frames), frames))
        return x + self.down(hidden, frames)


class GroupHead(nn.Module):
    """SiLU(W x), then one linear map in every frame, summed over frames: (n, G C) -> numbers (n,),
    or vectors (n, 3), which are turned back before; zero at the start."""

    def __init__(self, c: PlatonicConfig, *, vectors: bool):
        super().__init__()
        self.vectors = vectors
        self.hidden = GroupLinear(c, c.channels, c.channels)
        self.last = Linear(c.channels, 3 if vectors else 1, "output", c.m, bias=False)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        y = ops.silu(self.hidden(x, frames))
        parts = self.last(y.view(len(x), frames.order, -1))
        if not self.vectors:
            return parts.sum((1, 2))
        return (frames.matrices(parts) * parts.unsqueeze(2)).sum((1, 3))


class Platonic(ForceField):
    config: PlatonicConfig

    def __init__(self, config: PlatonicConfig):
        super().__init__(config)
        c = config
        self.frames = Frames(c.group)
        self.embedding = Embedding(len(c.elements), c.channels, c.m)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.depth))
        heads = c.channels // c.head_width
        slopes = [c.decay * 2.0 ** ((h + 0.5) / heads - 0.5) for h in range(heads)]
        self.register_buffer("slopes", torch.tensor(slopes * c.order), persistent=False)
        self.norm = GroupNorm(c)
        self.energy = GroupHead(c, vectors=False)
        self.shift = mark(nn.Parameter(torch.zeros(1)), "vector", c.m)  # bias of the energy
        self.force = GroupHead(c, vectors=True) if c.forces == "direct" else None

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        frames = self.frames
        slopes = self.slopes if self.config.decay else None
        c = self.config
        pairs = ops.attention_pairs(graph, vec, c.cutoff, slopes, channels=c.head_width)
        x = self.embed(graph).repeat(1, frames.order)
        for layer in self.layers:
            x = layer(x, pairs, frames)
        x = self.norm(x, frames)
        if self._keeping:
            self.remember(x.view(len(x), frames.order, -1).mean(1))
        energy = self.energy(x, frames) + self.shift
        return energy, None if self.force is None else self.force(x, frames)


def flops(c: PlatonicConfig) -> Flops:
    """Per pair of atoms 2 K 2 D, logit and sum, and an atom is a pair with itself; per atom K 12
    D^2 and the heads 2 D^2 + 4 D: the same for every group. The empty slots of padded molecules are
    left out."""
    d = c.width
    heads = d * d + d + (d * d + 3 * d if c.forces == "direct" else 0)
    return Flops(
        per_edge=4.0 * c.depth * d, per_atom=2.0 * (c.depth * (12 * d * d + 2 * d) + heads)
    )


ARCHITECTURE = Architecture(
    name="platonic",
    title="Platonic transformer",
    config=PlatonicConfig,
    model=Platonic,
    flops=flops,
    symmetry="none",
    base_width=480,
    learning_rate=5e-4,
    step_of=width_step,
    narrowest=narrowest_width,
)
