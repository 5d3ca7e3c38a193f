"""eSEN: SO(2) convolutions in edge-aligned frames (Fu et al., arXiv 2502.12147; eSCN, arXiv
2302.03655).

State x (n, S, C), S = (lmax + 1)^2 spherical coefficients; e directed edges j -> i; frames D turn
r_ij onto the polar axis, where a rotation-equivariant kernel is a linear map that mixes degrees but
not orders |m|. K layers:

    z = D [y_j | y_i],  y = SphericalNorm(x)             (e, S_m, 2C), only orders |m| <= mmax
    z0 = W_0 (z_0 * rad_0) + b;  z_m = [[W1, -W2], [W2, W1]] (z_m * rad_m)
                                                         conv1, with lmax extra scalars as gates
    z0, z_m gated per degree: SiLU for l = 0, times sigmoid(gate_l) for l > 0
    z = conv2(z), the same without rad;  x += sum_j D^T z u(r) / sqrt(k)
    x += SO3Linear(gate(SO3Linear(y))),  y = SphericalNorm(x), gates from its scalars
                                                         ("spectral" feed-forward)

rad = radial network of [RBF(r), species of j, species of i]; the degree embedding (its own radial
network, m = 0) gives x its first l > 0 parts. Energies: MLP of the scalars; forces: one l = 1
output channel. Exact group SE(3).

Twins, one flag each: ``parity`` (W2 = 0 in every block: E(3)); ``untied`` with ``epsilon`` (each m
> 0 block becomes (tied + epsilon * free) / sqrt(1 + epsilon^2), free being the complement [[P, Q],
[Q, -P]], so that epsilon = 0 is eSEN and epsilon = 1 an unconstrained block; the roll of the
frames, which then matters, is the fixed shortest arc, or with ``roll: random`` a fast function of
the direction, which is a new one in every step of a run with rotations); ``frames: global`` (D = 1
in all layers; directions enter by the degree embedding and, as spherical harmonics, by the radial
network: all three angles are broken); ``carried`` (degrees above it are dropped between layers:
same shapes, exact symmetry, a lower tensor order). ``broken_layers`` keeps what ``untied`` and
``frames: global`` break to the last or first layers. ``norm``, ``feed_forward`` and ``head``: see
esen_parts.py.

Against fairchem's eSEN (gate, spectral, envelope on; benchmarks/esen_parity.py): sums over
neighbours carry 1/sqrt(k) (there 1/5 in the degree embedding, 1 in the layers); the l = 0 row of
its force head, which reaches no output, is left out unless ``reference_heads``; only the elements
present have an embedding row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch
from .base import Architecture, Flops, ForceField, ModelConfig
from .basis import BesselBasis, ExponentialBasis, GaussianBasis, envelope, safe_norm
from .esen_parts import FreeHead, GridFeedForward, grid_flops, spherical_norm
from .mup import Embedding, LayerNorm, Linear, mark, normal, weightless
from .so3 import EdgeFrames, SO3Linear, degree_index, n_coefficients

FAST = 100.0  # of a roll, rad: a turn for 4 degrees of direction
BASES = {"exponential": ExponentialBasis, "gaussian": GaussianBasis, "bessel": BesselBasis}
SPREAD = 2.0  # Gaussians overlap: width of two spacings, as in the reference


class ESENConfig(ModelConfig):
    architecture: Literal["esen"] = "esen"
    LATER: ClassVar[tuple[str, ...]] = (
        *("roll", "frames", "carried", "norm", "feed_forward", "head", "broken_layers"),
    )
    base_width: int = 52
    lmax: int = Field(2, ge=1, le=8, description="highest degree of the spherical features")
    mmax: int = Field(2, ge=1)
    """highest order in the edge frames; min(2, lmax) when left out"""
    radial: int = Field(32, ge=2, description="radial basis functions")
    basis: Literal["exponential", "gaussian", "bessel"] = "exponential"
    """gaussian: equally spaced, as fairchem's; bessel: as nequip's and mace's, which take 8"""
    parity: bool = False
    """W2 = 0 in every SO(2) block: exact E(3) instead of SE(3)"""
    untied: bool = False
    """free the m > 0 blocks from SO(2): breaks rotations when epsilon > 0"""
    epsilon: float = Field(1.0, ge=0.0)
    """size of the free part of untied blocks; 0 is eSEN, without one"""
    roll: Literal["shortest", "random"] = "shortest"
    """roll of the frames about their edges: the shortest arc, or as good as random; it matters to
    untied blocks alone"""
    frames: Literal["edge", "global"] = "edge"
    """global: one frame for all edges instead of their own, and the radial network sees directions;
    breaks rotations"""
    carried: int | None = Field(None, ge=0)
    """highest degree that a layer hands on to the next; all of them when left out"""
    norm: Literal["joint", "rms", "separable", "degrees", "none"] = "joint"
    """scales of degrees: one for all, without a centre (rms), scalars apart, all apart, none"""
    feed_forward: Literal["spectral", "grid"] = "spectral"
    """grid: an MLP on points of a sphere, as fairchem's; rotations are then approximate"""
    head: Literal["equivariant", "free"] = "equivariant"
    """free: energies and forces from MLPs of all coefficients; breaks rotations"""
    broken_layers: int | None = None
    """how many layers at the end (below zero: at the beginning) have what ``untied`` and ``frames:
    global`` break; all of them when left out"""
    reference_heads: bool = False
    """carry the l = 0 row and the bias of fairchem's force head, which reach no output, so that N
    is the published one"""

    @model_validator(mode="before")
    @classmethod
    def _order(cls, data: Any) -> Any:
        if isinstance(data, dict) and "mmax" not in data and isinstance(data.get("lmax"), int):
            data = {**data, "mmax": min(2, data["lmax"])}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> ESENConfig:
        if self.mmax > self.lmax:
            raise ValueError(
                f"mmax ({self.mmax}) is larger than lmax ({self.lmax}): no coefficient has such an"
                " order"
            )
        if self.broken_layers is not None:
            if not (self.free or self.frames == "global"):
                raise ValueError("broken_layers goes with untied or frames: global")
            if not 0 < abs(self.broken_layers) <= self.depth:
                raise ValueError(
                    f"broken_layers is 1 to {self.depth}, the depth, or -1 to minus it"
                )
        if self.reference_heads and self.head == "free":
            raise ValueError("reference_heads and head: free are two different heads")
        if self.parity and self.untied:
            raise ValueError("parity and untied are two different twins: choose one")
        return self

    @property
    def degrees(self) -> list[int]:
        """n_m for m = 0..mmax: how many degrees have that order."""
        return [self.lmax - m + 1 for m in range(self.mmax + 1)]

    @property
    def free(self) -> bool:
        """Whether blocks have a free part, which breaks rotations."""
        return self.untied and self.epsilon > 0

    @property
    def broken(self) -> bool:
        """Whether anything breaks rotations."""
        parts = self.head == "free" or self.feed_forward == "grid"
        return self.free or self.frames == "global" or parts

    def breaks(self, layer: int) -> bool:
        """Whether a layer has what ``untied`` and ``frames: global`` break."""
        if self.broken_layers is None:
            return True
        k = self.broken_layers
        return layer >= self.depth - k if k > 0 else layer < -k

    def directions(self, layer: int) -> int:
        """Harmonics of the direction that the radial network of a layer sees."""
        seen = self.frames == "global" and self.breaks(layer)
        return (self.lmax + 1) ** 2 - 1 if seen else 0


class SiLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class RadialNetwork(nn.Module):
    """Invariant edge network: Linear, LayerNorm, SiLU, Linear, LayerNorm, SiLU on [RBF(r), Emb_j,
    Emb_i]; its last Linear is taken where its outputs are used.

    The first Linear comes in three blocks, since only RBF has a fixed number of columns (muP). Emb
    W is formed once per element (Z rows) and picked by one-hot columns instead of being multiplied
    on every edge.
    """

    def __init__(self, c: ESENConfig, outputs: int, layer: int):
        super().__init__()
        w, m, known = c.width, c.m, c.radial + c.directions(layer)
        # the squares of the basis functions sum to sqrt(pi) SPREAD: unit variance after the first
        # product
        self.basis = Linear(
            known, w, "input", m, gain=math.sqrt(known / (math.sqrt(math.pi) * SPREAD))
        )
        self.source = Linear(w, w, "hidden", m, bias=False)
        self.target = Linear(w, w, "hidden", m, bias=False)
        self.norm1 = LayerNorm(w, m)
        self.hidden = Linear(w, w, "hidden", m)
        self.norm2 = LayerNorm(w, m)
        self.last = Linear(w, outputs, "hidden", m)

    def forward(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """features (e, B + 2Z or more) basis and one-hot columns, source and target (Z, C)
        embeddings -> (e, C), to go through ``last``."""
        # distances keep their precision under bf16
        with torch.autocast(features.device.type, enabled=False):
            columns = self._columns(features, source, target).T
            h = ops.linear_norm_silu(
                features, columns, self.basis.bias, self.norm1.weight, self.norm1.bias
            )
        weight, shift = self.hidden.weight, self.hidden.bias
        return ops.linear_norm_silu(h, weight, shift, self.norm2.weight, self.norm2.bias)

    def _columns(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        columns = torch.cat([self.basis.weight.T, self.source(source), self.target(target)])
        more = features.shape[1] - len(columns)
        return nn.functional.pad(columns, (0, 0, 0, more)) if more else columns


class SO2Linear(nn.Module):
    """Linear maps in the edge frame, one per order m, each mixing all degrees that have it.

    They map (e, n_0, C) for m = 0 and (e, 2, n_m, C) for m > 0, flattened after e, the axis of two
    being +m and -m; input channels count ``copies`` times, 2 where sender and receiver stand side
    by side. The outputs of m = 0 begin with ``extra`` more.
    """

    def __init__(self, c: ESENConfig, *, copies: int, extra: int):
        super().__init__()
        self.parity, self.epsilon = c.parity, None
        w, n0 = c.width, c.degrees[0]
        self.zero = Linear(copies * n0 * w, n0 * w + extra, "hidden", c.m)
        self.tied = nn.ParameterList()
        for n in c.degrees[1:]:
            fan_in = copies * n * w * (1 if c.parity else 2)
            shape = (1 if c.parity else 2, n * w, copies * n * w)
            weight = normal(*shape)
            if not weightless():
                weight /= math.sqrt(fan_in)
            self.tied.append(mark(nn.Parameter(weight), "hidden", c.m))

    def untie(self, epsilon: float, m: float) -> None:
        """Add the free complement of each tied block."""
        self.epsilon = epsilon
        std = [1.0 / math.sqrt(2 * w.shape[2]) for w in self.tied]
        self.free = nn.ParameterList(
            mark(nn.Parameter(normal(*w.shape, std=s)), "hidden", m) for w, s in zip(self.tied, std)
        )

    def matrices(self) -> tuple[list[Tensor], Tensor]:
        """One matrix (out, in) per order, +m and -m together, and the bias of m = 0. With parity
        the same matrix serves +m and -m, and comes once."""
        orders = range(len(self.tied))
        if self.parity:
            others = [self.tied[k][0] for k in orders]
        elif self.epsilon is None:
            others = [ops.so2_matrix(self.tied[k]) for k in orders]
        else:
            others = [self._untied(k) for k in orders]
        return [self.zero.weight, *others], self.zero.bias

    def _untied(self, k: int) -> Tensor:
        """(tied + epsilon * free) / sqrt(1 + epsilon^2) of order m = k + 1."""
        (a, c), (p, q) = self.tied[k].unbind(0), self.free[k].unbind(0)
        b, d = -c, a
        eps, norm = self.epsilon, 1.0 / math.sqrt(1.0 + self.epsilon**2)
        top = torch.cat([(a + eps * p) * norm, (b + eps * q) * norm], dim=1)
        return torch.cat([top, torch.cat([(c + eps * q) * norm, (d - eps * p) * norm], dim=1)])


class Layer(nn.Module):
    """One layer; see the module's docstring."""

    def __init__(self, c: ESENConfig, number: int):
        super().__init__()
        w, m, lmax = c.width, c.m, c.lmax
        self.norm1 = spherical_norm(c.norm, lmax, w, m)
        self.radial = RadialNetwork(c, 2 * w * sum(c.degrees), number)
        self.conv1 = SO2Linear(c, copies=2, extra=lmax * w)
        self.conv2 = SO2Linear(c, copies=1, extra=0)
        self.norm2 = spherical_norm(c.norm, lmax, w, m)
        self.grid = GridFeedForward(lmax, w, m) if c.feed_forward == "grid" else None
        if self.grid is not None:
            return
        self.gates = Linear(w, lmax * w, "hidden", m)
        self.up = SO3Linear(w, w, lmax, "hidden", m)
        self.down = SO3Linear(w, w, lmax, "hidden", m)

    def forward(self, x: Tensor, h: Tensor, edges: ops.Edges) -> Tensor:
        """x (n, S, C), h (e, C) of :attr:`radial` -> x (n, S, C)."""
        y, _ = self.norm1(x)
        first, second = self.conv1.matrices(), self.conv2.matrices()
        x = x + ops.so2_message(y, h, self.radial.last, edges, first, second)
        y, scalars = self.norm2(x)
        if self.grid is not None:
            return x + self.grid(y)
        u = self.up.product(y.transpose(0, 1))
        v = ops.spherical_gate(self.gates(scalars), u, self.up.bias, self.up.degree)
        return ops.spherical_add(x, self.down.product(v), self.down.bias)


class ESEN(ForceField):
    config: ESENConfig
    kernels_give_forces = True

    def __init__(self, config: ESENConfig):
        super().__init__(config)
        c = config
        w, m = c.width, c.m
        self.embedding = Embedding(len(c.elements), w, m)
        self.frames = EdgeFrames(c.lmax, c.mmax)
        self.source = Embedding(len(c.elements), w, m)
        self.target = Embedding(len(c.elements), w, m)
        spread = (SPREAD,) if c.basis == "gaussian" else ()
        self.basis = BASES[c.basis](c.radial, c.cutoff, *spread)
        identity = torch.eye(len(c.elements), dtype=torch.get_default_dtype(), device="cpu")
        self.register_buffer("one_hot", identity, persistent=False)
        self.degree = RadialNetwork(c, c.degrees[0] * w, 0)
        self.layers = nn.ModuleList(Layer(c, k) for k in range(c.depth))
        self.norm = spherical_norm(c.norm, c.lmax, w, m)
        self.kernels_give_forces = c.norm == "joint" and c.feed_forward == "spectral"
        self.energy, self.force = self._heads()
        kept = None
        if c.carried is not None:
            kept = (degree_index(c.lmax) <= c.carried).to(torch.get_default_dtype()).unsqueeze(1)
        self.register_buffer("carry", kept, persistent=False)
        if c.free:  # last, so that the other weights of a seed are those of eSEN
            for k, layer in enumerate(self.layers):
                if c.breaks(k):
                    layer.conv1.untie(c.epsilon, m)
                    layer.conv2.untie(c.epsilon, m)

    def _heads(self) -> tuple[nn.Module, nn.Module | None]:
        """Of energies, and of forces where they are direct."""
        c = self.config
        w, m, direct = c.width, c.m, c.forces == "direct"
        if c.head == "free":
            return FreeHead(c.lmax, w, 1, m), FreeHead(c.lmax, w, 3, m) if direct else None
        energy = nn.Sequential(
            *(Linear(w, w, "hidden", m), SiLU(), Linear(w, w, "hidden", m), SiLU()),
            Linear(w, 1, "output", m),
        )
        if not direct:
            return energy, None
        if c.reference_heads:
            return energy, SO3Linear(w, 1, 1, "output", m)
        return energy, Linear(w, 1, "output", m, bias=False)

    def turn(self, unit: Tensor) -> Tensor:
        """Frames (e, S_m, S) of unit vectors (e, 3). Autograd records nothing unless ``unit`` asks
        for a gradient."""
        return self._rolled(self.frames(unit, smooth=self._smooth(unit)), unit)

    def _smooth(self, unit: Tensor) -> bool:
        return unit.requires_grad and not self.config.broken

    def packed(self, unit: Tensor) -> Tensor:
        """The same as blocks (e, P), by kernels."""
        return self._rolled(self.frames.packed(unit, smooth=self._smooth(unit)), unit)

    def _rolled(self, frames: Tensor, unit: Tensor) -> Tensor:
        if self.config.roll == "shortest":
            return frames
        x, y, z = unit.double().unbind(-1)
        angle = FAST * (0.6 * x + 0.64 * y + 0.48 * z)
        return self.frames.rolled(frames, angle.to(unit.dtype))

    def edges(self, graph: GraphBatch, unit: Tensor, r: Tensor) -> tuple[ops.Edges, ops.Edges]:
        """Frames and indices of a batch, once per forward: of the degree embedding and whole
        layers, and of broken ones."""
        c = self.config
        given = graph, unit, envelope(r / c.cutoff) / math.sqrt(c.mean_degree), c.lmax, c.mmax
        own = ops.so2_edges(*given, self.turn, self.packed)
        if c.frames == "edge":
            return own, own
        fixed = (lambda u, packed=packed: self.frames.unturned(u, packed) for packed in (0, 1))
        return own, ops.so2_edges(*given, *fixed)

    def features(
        self, graph: GraphBatch, r: Tensor, frames: Tensor
    ) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
        """Of a layer, what its radial network reads: (e, B + 2Z or more) basis functions, harmonics
        of the direction where it has no frames of edges, and one-hot columns of both species; then
        the embeddings of these."""
        basis, known = self.basis(r), {}
        species = [
            self.one_hot.index_select(0, graph.species.index_select(0, end))
            for end in (graph.sender, graph.receiver)
        ]

        def of_layer(k: int) -> tuple[Tensor, Tensor, Tensor]:
            directions = self.config.directions(k)
            if directions not in known:
                columns = [basis, *species]
                if directions:
                    columns.insert(1, self.frames.harmonics(frames)[:, 1:])
                # zero columns on a GPU, for rows of 16 bytes, as the MPNN's
                padding = -sum(x.shape[1] for x in columns) % 4
                if r.is_cuda and padding:
                    columns.append(r.new_zeros(len(r), padding))
                known[directions] = torch.cat(columns, dim=1)
            return known[directions], self.source.weight, self.target.weight

        return of_layer

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        r = safe_norm(vec)
        unit = vec / r.unsqueeze(-1)
        own, fixed = self.edges(graph, unit, r)
        known = self.features(graph, r, own.frames)
        x = ops.spread(self.degree(*known(0)), self.degree.last, own)
        scalars = self.embed(graph).unsqueeze(1)
        x = torch.cat([x[:, :1] + scalars, x[:, 1:]], dim=1)
        for k, layer in enumerate(self.layers):
            x = x if self.carry is None else x * self.carry
            edges = fixed if self.config.breaks(k) else own
            x = layer(x, layer.radial(*known(k)), edges)
        with torch.autocast(x.device.type, enabled=False):
            x, _ = self.norm(x)
            scalars = self.remember(x[:, 0])
            free = self.config.head == "free"
            energy = self.energy(x if free else scalars).squeeze(-1)
            if self.force is None:
                return energy, None
            if free:
                return energy, self.force(x)
            if self.config.reference_heads:
                return energy, self.force(x[:, :4])[:, 1:].squeeze(-1)
            return energy, self.force(x[:, 1:4]).squeeze(-1)


def flops(c: ESENConfig) -> Flops:
    """Forward FLOPs as run: frames once, then per layer radial network, conv1, conv2 and both
    rotations (dense S_m x S, as batched products); per atom feed-forward and heads. The 4 (K + 1) Z
    C^2 of the element tables, once per batch whatever its size, are left out."""
    w, n = c.width, c.degrees
    n0, s, sm = n[0], (c.lmax + 1) ** 2, n_coefficients(c.lmax, c.mmax)
    frames = (c.lmax + 1) * (2 * c.lmax + 1) * sm * s
    radial = (c.radial + 2 * len(c.elements)) * w + w * w
    orders = sum(k * k for k in n[1:]) * (0.5 if c.parity else 1.0)
    conv = (2 * n0 * (n0 + c.lmax) + 8 * orders + n0 * n0 + 4 * orders) * w * w
    layer = radial + 2 * sum(n) * w * w + conv + 3 * sm * s * w
    seen = sum(c.directions(k) for k in range(c.depth)) + c.directions(0)  # all layers' together
    degree = radial + n0 * w * w + s * n0 * w + seen * w
    atom = c.lmax * w * w + 2 * s * w * w
    if c.feed_forward == "grid":
        atom = grid_flops(c.lmax, w)
    heads = 2 * w * w + w
    if c.forces == "direct":
        heads += 4 * w if c.reference_heads else 3 * w
    if c.head == "free":
        heads = (s * w * w + w) + (s * w * w + 3 * w if c.forces == "direct" else 0)
    return Flops(
        per_edge=2.0 * (frames + degree + c.depth * layer), per_atom=2.0 * (c.depth * atom + heads)
    )


def symmetry_of(c: ESENConfig) -> Literal["E(3)", "SE(3)", "none"]:
    """The group for which this configuration is exactly equivariant."""
    if c.broken:
        return "none"
    return "E(3)" if c.parity else "SE(3)"


ARCHITECTURE = Architecture(
    name="esen",
    title="eSEN",
    config=ESENConfig,
    model=ESEN,
    flops=flops,
    symmetry="SE(3)",
    base_width=52,
    symmetry_of=symmetry_of,
)
