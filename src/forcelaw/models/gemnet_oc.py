"""GemNet-OC (Gasteiger et al., arXiv 2204.02782): distances, angles and dihedrals; invariant
features, exact for E(3).

State h (n, A) on atoms, m (e, E) on directed edges c -> a. Every Dense is a matrix without bias,
then SiLU / 0.6; sums of J terms are divided by sqrt J; Res(x) = (x + Dense(Dense(x))) / sqrt 2. One
block (|h|, |m|: divided by their RMS over channels):

    x = (Dense|m| + e2e|m| + quad|m| + a2e|h|) / 2         messages to edges, of 3, 4 and 3 bodies
    h = Res^2((h + e2a|m| + a2a|h|) / sqrt 3)
    m = Res^2((m + Res^2(x)) / sqrt 2)
    h = (h + AtomUpdate|m|) / sqrt 2
    m = (m + Res(Dense[|h_c|, |h_a|, |m|])) / sqrt 2

    e2e   x_ca = up(sum_f W_f sum_b R_fl(r_ca) P_l(cos cab) y_ba)
          y_ba = down(Dense(m_ba) * V rbf(r_ba))
    quad  x_ca = up(sum_f W_f sum_{b,d} R_fpj(r_ca) Q_pjl(c, a, b, d) S_l(r_ba) y_db)

each added to the edge c -> a and, by a second "up", to its reverse. K + 1 output blocks read (h,
m); their sum goes through an MLP to site energies and to F_ca; f_a = sum_c F_ca r_hat_ca.

What differs from the published model, and why:
- sums over triplets and quadruplets are factorised (gemnet_basis.py): exact, linear in edges,
  nothing is listed;
- Q are products of associated Legendre functions of both angles with cos(j dihedral), j <= min(l,
  p). The published ones, Legendre functions of angle and of cos(dihedral), jump where three atoms
  are in line. So the quadruplet basis has S (S + 1) / 2 columns per radial function, not S^2 (S:
  ``spherical``);
- quadruplets go through all short edges (r < ``quad_cutoff``, enveloped), not the nearest 8: no
  neighbour cap, so all is smooth and symmetric under permutations; quadruplets with d = c are kept;
- states are normalised where they are read: SiLU / 0.6 keeps a variance of 1 but damps smaller and
  amplifies larger ones, so without it states shrink or grow with depth, depending on data and seed
  (``norm=False``, as published; RMS of h measured: 2, 4, 8, 38 after four blocks on the shipped
  sample, but 0.4, 0.16 after two on the molecules of the muP check);
- scale factors are closed formulas of degree and basis (:class:`Scales`), not fitted to data: they
  do not depend on the width;
- matrices on h_c and h_a are applied on atoms before they are gathered (exact algebra, fewer
  operations).

With weights and scale factors copied it agrees with fairchem-core's modules
(results/gemnet_parity.txt).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch, segment_sum
from .base import Architecture, ForceField
from .basis import safe_norm
from .gemnet_basis import EnvelopedBasis, Tables, envelope_share
from .gemnet_config import GemNetOCConfig, flops
from .gemnet_index import EdgeIndex, build_index
from .mup import Embedding, Linear, weightless

HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class Scales:
    """Factors that keep the variance of messages near one at the start; functions of degree and
    basis only.

    A sum of k terms, each the product of an activation x (mean 0.34, mean square 1) and functions
    of the geometry with mean square 1, has variance k for the independent parts; the part of the
    mean adds up coherently where the function has a mean itself (l = 0). Weights before the sum are
    random, so functions of r alone are partly coherent, too: COHERENT is the share that is,
    measured once on organic molecules and kept for all widths. Measured with it, at width 16 to 64:
    message over input variance 0.4 to 1.5, and states that stay within 0.1 to 10 through four
    blocks.
    """

    trip: float
    e2a: float
    a2a: float
    quad: float
    update: float

    COHERENT = 0.2

    @classmethod
    def of(cls, c: GemNetOCConfig) -> Scales:
        k, s = c.mean_degree * envelope_share(c.cutoff), c.spherical
        q = c.quad_degree * envelope_share(c.near)
        together = k * (
            1.0 + cls.COHERENT * k
        )  # sum over neighbours of a function of r with the mean of x
        products = sum((s - j) ** 2 for j in range(s))
        return cls(
            trip=1 / math.sqrt(s * k + cls.COHERENT * k * k),
            e2a=1 / (math.sqrt(s) * together),
            a2a=1 / math.sqrt(together),
            quad=1 / math.sqrt(products * k * q),
            update=1 / math.sqrt(together),
        )


def matrix(fan_in: int, fan_out: int, m: float, gain: float = 1.0) -> Linear:
    """A hidden matrix without bias, whose rows sum to zero at the start, as in the reference.

    Activations have a positive mean, the same in all channels. There is no LayerNorm: rows that see
    the mean let the variance grow by up to 1.4 per layer (measured: 1e12 after four blocks); rows
    that do not keep it at most constant.
    """
    linear = Linear(fan_in, fan_out, "hidden", m, bias=False, gain=gain)
    if weightless():
        return linear
    with torch.no_grad():
        linear.weight.sub_(linear.weight.mean(dim=1, keepdim=True)).mul_(
            math.sqrt(fan_in / (fan_in - 1))
        )
    return linear


class Dense(nn.Module):
    """(..., fan_in) -> (..., fan_out): a hidden matrix without bias, then SiLU / 0.6."""

    def __init__(self, fan_in: int, fan_out: int, m: float):
        super().__init__()
        self.linear = matrix(fan_in, fan_out, m)

    def forward(self, x: Tensor) -> Tensor:
        return ops.scaled_silu(self.linear(x))


class Residual(nn.Module):
    """(x + Dense(Dense(x))) / sqrt 2."""

    def __init__(self, width: int, m: float):
        super().__init__()
        self.first = Dense(width, width, m)
        self.second = Dense(width, width, m)

    def forward(self, x: Tensor) -> Tensor:
        return ops.residual(x, self.first.linear.weight, self.second.linear.weight)


def residuals(count: int, width: int, m: float) -> nn.Sequential:
    return nn.Sequential(*(Residual(width, m) for _ in range(count)))


def unit_of(c: GemNetOCConfig) -> Callable[[Tensor], Tensor]:
    """How states are read: divided by their RMS over channels, without weights, since a matrix
    follows wherever it is used; or as they are."""
    return ops.unit_rms if c.norm else nn.Identity()


def basis_matrix(fan_in: int, fan_out: int, c: GemNetOCConfig, gain: float = 1.0) -> Linear:
    """A matrix from a fixed number of basis functions."""
    return Linear(fan_in, fan_out, "input", c.m, bias=False, gain=gain)


@dataclass
class Bases:
    """Geometry of one batch, projected by the weights that all blocks share; computed once per
    forward."""

    radial: Tensor  # (e, radial)
    rbf: tuple[Tensor, ...]  # e2e, quad, a2e, e2a, update, out: each (e, rbf)
    angular: ops.Rows | ops.AngularEdges


class SharedBases(nn.Module):
    """Radial and angular bases with the down-projections that all blocks share."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.c, s = c, c.spherical
        self.main = EnvelopedBasis(c.basis, c.radial, c.cutoff)
        self.near = EnvelopedBasis(c.basis, c.radial, c.near)
        self.rbf = basis_matrix(c.radial, 7 * c.rbf, c)  # e2e, quad, a2e, e2a, update, out, a2a
        self.cbf = basis_matrix(c.radial, 3 * c.cbf * s, c)  # e2e, a2e, e2a
        self.cbf_quad = basis_matrix(c.radial, s * c.cbf, c)  # short edges
        self.sbf = basis_matrix(c.radial, c.sbf * c.pairs, c)
        self.tables = Tables(s)

    def forward(self, vec: Tensor, index: EdgeIndex) -> Bases:
        """vec (e, 3) in Angstrom, in the order of the index."""
        r = safe_norm(vec)
        norms = self.tables.norms.to(vec.dtype)
        y = ops.harmonics(vec / r.unsqueeze(-1), self.c.spherical, norms)
        g = self.main(vec, r)
        *rbf, a2a = self.rbf(g).split(self.c.rbf, dim=-1)
        geometry = ops.Geometry(vec, r, y, g, self.c.near)
        weights = self.cbf.weight, self.sbf.weight
        angular = ops.angular_bases(geometry, index, a2a, *weights, self.short, self.tables)
        return Bases(g, tuple(rbf), angular)

    def short(self, vec: Tensor, r: Tensor) -> Tensor:
        """Radial weights (q, S, cbf) of short edges from vec (q, 3), r (q,) in Angstrom."""
        return self.cbf_quad(self.near(vec, r)).unflatten(1, (self.c.spherical, self.c.cbf))


class Interaction(nn.Module):
    """The messages of one block: (n, A), (e, E) -> x of the module's docstring (e, E), and what is
    added to atoms (n, A)."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.c, self.scale = c, Scales.of(c)
        a, e, t, q = c.width, c.edge, c.trip, c.quad
        self.from_edges = Dense(
            e, 4 * e, c.m
        )  # skip, e2e, quad, e2a: four matrices E x E side by side
        self.from_atoms = Dense(a, a, c.m)
        self.rbf_e2e = basis_matrix(c.rbf, e, c)
        self.rbf_quad = basis_matrix(c.rbf, e, c)
        self.rbf_e2a = basis_matrix(c.rbf, e, c)
        self.rbf_a2e = basis_matrix(c.rbf, a, c)
        self.cbf_quad = basis_matrix(c.cbf, q, c)
        self.down_e2e = Dense(e, t, c.m)
        self.down_quad = Dense(e, q, c.m)
        self.down_e2a = Dense(e, t, c.m)
        self.down_a2e = Dense(a, t, c.m)
        self.down_a2a = Dense(a, t, c.m)
        self.bilinear_e2e = matrix(c.cbf * t, t, c.m)
        self.bilinear_quad = matrix(c.sbf * q, q, c.m)
        self.bilinear_a2e = matrix(c.cbf * t, t, c.m)
        self.bilinear_e2a = matrix(c.cbf * t, t, c.m)
        self.bilinear_a2a = matrix(c.rbf * t, t, c.m)
        self.up_e2e = Dense(t, 2 * e, c.m)  # to c -> a and to a -> c
        self.up_quad = Dense(q, 2 * e, c.m)
        self.up_a2e = Dense(t, 2 * e, c.m)
        self.up_e2a = Dense(t, a, c.m)
        self.up_a2a = Dense(t, a, c.m)

    def forward(self, h: Tensor, m: Tensor, b: Bases, index: EdgeIndex) -> tuple[Tensor, Tensor]:
        scale = self.scale
        skip, *messages = self.down(h, m, b, index)
        sums = ops.triplet_quadruplet_sums(*messages, b.angular, self.cbf_quad.weight, index)
        e2e, a2e, quad, e2a, a2a = (x.flatten(1) for x in sums)
        e2e = ops.scaled_linear(e2e, self.bilinear_e2e.weight, scale.trip)
        a2e = ops.scaled_linear(a2e, self.bilinear_a2e.weight, scale.trip)
        quad = ops.scaled_linear(quad, self.bilinear_quad.weight, scale.quad)
        # given to their edge and to its reverse
        ups = self.up_e2e.linear.weight, self.up_a2e.linear.weight, self.up_quad.linear.weight
        edges = ops.merge(skip, index, *zip((e2e, a2e, quad), ups))
        atoms = self.up_e2a(ops.scaled_linear(e2a, self.bilinear_e2a.weight, scale.e2a))
        a2a = ops.scaled_linear(a2a, self.bilinear_a2a.weight, scale.a2a)
        return edges, atoms + self.up_a2a(a2a)

    def down(self, h: Tensor, m: Tensor, b: Bases, index: EdgeIndex) -> tuple[Tensor, ...]:
        """Half of the skip connection (e, E), and the narrow messages e2e (e, t), a2e (e, t), quad
        (e, q), e2a (e, t), a2a (e, t)."""
        atoms = self.from_atoms(h)
        parts = (
            (0, self.rbf_e2e, self.down_e2e),
            (1, self.rbf_quad, self.down_quad),
            (3, self.rbf_e2a, self.down_e2a),
        )
        filters = ((b.rbf[k], v.weight, d.linear.weight) for k, v, d in parts)
        skip, *read = ops.read_edges(m, self.from_edges.linear.weight, *filters)
        weights = self.rbf_a2e.weight, self.down_a2e.linear.weight
        a2e = ops.scaled_silu(ops.gathered_linear(atoms, b.rbf[2], *weights, index))
        e2e, quad, e2a = (ops.scaled_silu(x) for x in read)
        return skip, e2e, a2e, quad, e2a, ops.gathered(self.down_a2a(h), index)


class AtomUpdate(nn.Module):
    """(e, E) -> (n, A): Res^j(Dense(scale sum_c m_ca * V rbf)); without the Dense where A = E, as
    in the reference."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.scale = Scales.of(c).update
        self.rbf = basis_matrix(c.rbf, c.edge, c)
        self.dense = Dense(c.edge, c.width, c.m) if c.edge != c.width else nn.Identity()
        self.layers = residuals(c.update_layers, c.width, c.m)

    def forward(self, m: Tensor, rbf: Tensor, index: EdgeIndex) -> Tensor:
        return self.layers(self.dense(ops.filter_sum(m, rbf, self.rbf.weight, index, self.scale)))


class Join(nn.Module):
    """Dense[h_c, h_a, x] on edges, with the atoms' part applied before gathering; x has ``fan_in``
    columns.

    kind: of the matrix on x: "input" for basis functions, "hidden" for edge embeddings.
    """

    def __init__(self, fan_in: int, kind: Literal["input", "hidden"], c: GemNetOCConfig):
        super().__init__()
        # variance: a quarter from h_c, a quarter from h_a, half from x, as with one matrix on [h_c,
        # h_a, m] and E = 2A; one matrix on [h_c, h_a, basis] would let the share of the basis fall
        # with width
        self.atoms = matrix(c.width, 2 * c.edge, c.m, 0.5)
        self.other = (
            basis_matrix(fan_in, c.edge, c, HALF)
            if kind == "input"
            else matrix(fan_in, c.edge, c.m, HALF)
        )

    def forward(self, h: Tensor, x: Tensor, index: EdgeIndex) -> Tensor:
        return ops.join(self.atoms(h), x, self.other.weight, index)


class Block(nn.Module):
    """One block; see the module's docstring."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.interaction = Interaction(c)
        self.before = residuals(c.before_skip, c.edge, c.m)
        self.after = residuals(c.after_skip, c.edge, c.m)
        self.atoms = residuals(c.atom_layers, c.width, c.m)
        self.update = AtomUpdate(c)
        self.join = Join(c.edge, "hidden", c)
        self.joined = residuals(c.concat, c.edge, c.m)
        self.unit = unit_of(c)

    def forward(
        self, h: Tensor, m: Tensor, read: tuple[Tensor, Tensor], b: Bases, index: EdgeIndex
    ) -> tuple[Tensor, Tensor]:
        """read: |h| and |m|."""
        edges, atoms = self.interaction(*read, b, index)
        h = self.atoms(ops.blend(h, atoms, 1 / math.sqrt(3.0)))
        m = self.after(ops.blend(m, self.before(edges), HALF))
        x = self.unit(m)
        h = ops.blend(h, self.update(x, b.rbf[4], index), HALF)
        return h, ops.blend(m, self.joined(self.join(self.unit(h), x, index)), HALF)


class Output(nn.Module):
    """(|h|, |m|, m) -> contributions to the first layer of the last MLPs: atoms (n, A), edges (e,
    E) (direct forces only)."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        share = 1.0 / math.sqrt(c.depth + 1)
        self.update = AtomUpdate(c)
        self.after = residuals(c.after_atom, c.width, c.m)
        self.to_energy = matrix(c.width, c.width, c.m, share)
        self.direct = c.forces == "direct"
        if self.direct:
            self.force = residuals(c.update_layers, c.edge, c.m)
            self.rbf = basis_matrix(c.rbf, c.edge, c)
            self.to_force = matrix(c.edge, c.edge, c.m, share)

    def forward(
        self, h: Tensor, read: Tensor, m: Tensor, b: Bases, index: EdgeIndex
    ) -> tuple[Tensor, Tensor | float]:
        x = ops.blend(h, self.update(read, b.rbf[5], index), HALF)
        x = self.to_energy(self.after(x))
        if not self.direct:
            return x, 0.0
        y, weights = self.force(m), (self.rbf.weight, self.to_force.weight)
        return x, ops.filtered_linear(y, b.rbf[5], *weights)


class GemNetOC(ForceField):
    """See the module's docstring. With conservative forces the force branch is left out, as in the
    reference."""

    config: GemNetOCConfig

    def __init__(self, config: GemNetOCConfig):
        super().__init__(config)
        c = config
        self.embedding = Embedding(len(c.elements), c.width, c.m)
        self.bases = SharedBases(c)
        self.join = Join(c.radial, "input", c)
        self.unit = unit_of(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.outputs = nn.ModuleList(Output(c) for _ in range(c.depth + 1))
        self.energy_layers = residuals(c.final_layers, c.width, c.m)
        self.energy = Linear(c.width, 1, "output", c.m, bias=False)
        if c.forces == "direct":
            self.force_layers = residuals(c.final_layers, c.edge, c.m)
            self.force = Linear(c.edge, 1, "output", c.m, bias=False)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor]:
        index = build_index(graph, vec, self.config.near)
        vec = vec.index_select(0, index.order)
        # geometry in full precision whatever the matrices have
        with torch.autocast(vec.device.type, enabled=False):
            b = self.bases(vec, index)
        h = self.embed(graph)
        m = self.join(h, b.radial, index)
        read = self.unit(h), self.unit(m)
        site, pair = self.outputs[0](*read, m, b, index)
        for block, output in zip(self.blocks, self.outputs[1:]):
            h, m = block(h, m, read, b, index)
            read = self.unit(h), self.unit(m)
            more_site, more_pair = output(*read, m, b, index)
            site, pair = site + more_site, pair + more_pair
        states = self.remember(self.energy_layers(ops.scaled_silu(site)))
        energies = self.energy(states).squeeze(-1)
        if self.config.forces != "direct":
            return energies, torch.zeros_like(graph.pos)
        strength = self.force(self.force_layers(ops.scaled_silu(pair)))
        unit = vec / safe_norm(vec).unsqueeze(-1)
        return energies, segment_sum(strength * unit, index.receiver, index.atoms)


ARCHITECTURE = Architecture(
    name="gemnet_oc",
    title="GemNet-OC",
    config=GemNetOCConfig,
    model=GemNetOC,
    flops=flops,
    symmetry="E(3)",
    base_width=40,
    learning_rate=3e-3,
    narrowest=32,  # quadruplet messages have a quarter of the channels
)
