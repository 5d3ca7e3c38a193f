"""GemNet-OC (Gasteiger et al., arXiv 2204.02782): distances, angles and dihedrals; invariant
features, exact for E(3).

State h (n, A) on atoms, m (e, E) on directed edges c -> a. Every Dense is a matrix without bias,
then SiLU / 0.6; sums of J terms are divided by sqrt J; Res(x) = (x + Dense(Dense(x))) / sqrt 2. One
block (|h|, |m|: divided by their RMS over channels):

    x = (Dense|m| + e2e|m| + quad|m| + a2e|h|) / 2            messages to edges, of 3, 4 and 3 bodies
    h = Res^2((h + e2a|m| + a2a|h|) / sqrt 3)
    m = Res^2((m + Res^2(x)) / sqrt 2)
    h = (h + AtomUpdate|m|) / sqrt 2
    m = (m + Res(Dense[|h_c|, |h_a|, |m|])) / sqrt 2

    e2e   x_ca = up(sum_f W_f sum_b R_fl(r_ca) P_l(cos cab) y_ba),  y_ba = down(Dense(m_ba) * V rbf(r_ba))
    quad  x_ca = up(sum_f W_f sum_{b,d} R_fpj(r_ca) Q_pjl(c, a, b, d) S_l(r_ba) y_db)

each added to the edge c -> a and, by a second "up", to its reverse. K + 1 output blocks read (h,
m); their sum goes through an MLP to site energies and to F_ca; f_a = sum_c F_ca r_hat_ca.

What differs from the published model, and why:
- sums over triplets and quadruplets are factorised (gemnet_basis.py): exact, linear in edges, nothing is listed;
- Q are products of associated Legendre functions of both angles with cos(j dihedral), j <= min(l, p). The published ones,
  Legendre functions of angle and of cos(dihedral), jump where three atoms are in line. So the quadruplet basis has
  S (S + 1) / 2 columns per radial function, not S^2 (S: ``spherical``);
- quadruplets go through all short edges (r < ``quad_cutoff``, enveloped), not the nearest 8: no
neighbour cap, so all is
  smooth and symmetric under permutations; quadruplets with d = c are kept;
- states are normalised where they are read: SiLU / 0.6 keeps a variance of 1 but damps smaller and
amplifies larger ones, so
  that without it states shrink or grow with depth as data and seed have it (``norm=False``, as published; RMS of h measured:
  2, 4, 8, 38 after four blocks on the shipped sample, but 0.4, 0.16 after two on the molecules of the muP check);
- scale factors are closed formulas of degree and basis (:class:`Scales`), not fitted to data: they do not know the width;
- matrices on h_c and h_a are applied on atoms before they are gathered (exact algebra, fewer operations).

With weights and scale factors copied it agrees with fairchem-core's modules
(results/gemnet_parity.txt).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch, segment_sum
from .base import Architecture, Flops, ForceField, ModelConfig
from .basis import ExponentialBasis, Features, envelope, safe_norm
from .gemnet_basis import (
    BASES,
    envelope_share,
    harmonic_norms,
    harmonics,
    quad_layout,
    radial_norm,
    rotation_points,
    rotations,
)
from .gemnet_index import EdgeIndex, build_index
from .mup import Embedding, Linear, weightless

HALF = math.sqrt(0.5)
GAIN = 1 / 0.6  # ScaledSiLU
# of the kernels: they unroll over degrees, and spill and compile for minutes at the published 7
MOST_DEGREES = 5


class GemNetOCConfig(ModelConfig):
    """width is A. Basis sizes, the same along a ladder, and message widths default to small models;
    see :func:`published`."""

    architecture: Literal["gemnet_oc"] = "gemnet_oc"
    base_width: int = 40
    basis: Literal["exponential", "gaussian"] = Field(
        "exponential", description="radial functions (published: gaussian)"
    )
    radial: int = Field(32, ge=2, description="radial basis functions")
    spherical: int = Field(
        4, ge=1, le=10, description="degrees of angular functions, S: l = 0 .. S - 1"
    )
    rbf: int = Field(8, ge=1, description="radial functions after the shared projection")
    cbf: int = Field(
        8, ge=1, description="circular functions (one angle) after the shared projection"
    )
    sbf: int = Field(
        8, ge=1, description="spherical functions (angle and dihedral) after the shared projection"
    )
    quad_cutoff: float = Field(
        3.5, gt=0, description="Angstrom; middle edges of quadruplets are shorter"
    )
    quad_degree: float = Field(
        10.0, gt=0, description="mean number of neighbours within quad_cutoff"
    )
    edge_ratio: int = Field(2, ge=1, description="E / A")
    triplet_divisor: int = Field(
        2, ge=1, description="A / width of triplet and pair messages (published: 4)"
    )
    quad_divisor: int = Field(
        4, ge=1, description="A / width of quadruplet messages (published: 8)"
    )
    before_skip: int = Field(
        2, ge=0, description="residual layers of a block on edges, before its skip connection"
    )
    after_skip: int = Field(2, ge=0)
    concat: int = Field(1, ge=0, description="residual layers after joining atoms and edges")
    atom_layers: int = Field(2, ge=0, description="residual layers on atoms in a block")
    update_layers: int = Field(
        3, ge=0, description="residual layers of an atom update and of the force branch"
    )
    after_atom: int = Field(
        3, ge=1, description="residual layers of an output block after adding h"
    )
    final_layers: int = Field(2, ge=0, description="residual layers of the last MLPs")
    norm: bool = Field(
        True,
        description=(
            "blocks read states divided by their RMS over channels (published: as they are)"
        ),
    )

    @property
    def near(self) -> float:
        """Cutoff of the middle edges of quadruplets, Angstrom: an edge must have vanished where it
        ends."""
        return min(self.quad_cutoff, self.cutoff)

    @property
    def edge(self) -> int:
        """E."""
        return self.edge_ratio * self.width

    @property
    def trip(self) -> int:
        """Width of triplet and pair messages."""
        return max(2, round(self.width / self.triplet_divisor))

    @property
    def pairs(self) -> int:
        """Number of (degree p, order j <= p) in the quadruplet basis."""
        return self.spherical * (self.spherical + 1) // 2

    @property
    def quad(self) -> int:
        """Width of quadruplet messages; at least 2, which only matters below width 8."""
        return max(2, round(self.width / self.quad_divisor))


def published(elements: tuple[int, ...] = tuple(range(1, 84)), **options: object) -> GemNetOCConfig:
    """The configuration of the paper's GemNet-OC (OC20: 83 elements, 12 Angstrom)."""
    sizes = {
        "width": 256,
        "depth": 4,
        "basis": "gaussian",
        "radial": 128,
        "spherical": 7,
        "rbf": 16,
        "cbf": 16,
        "sbf": 32,
        "cutoff": 12.0,
        "base_width": 256,
        "norm": False,
        "triplet_divisor": 4,
        "quad_divisor": 8,
    }
    return GemNetOCConfig(elements=elements, **{**sizes, **options})  # type: ignore[arg-type]


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


def act(x: Tensor, fused: bool = False) -> Tensor:
    """SiLU / 0.6: about unit variance from unit variance. fused, here and below: whether kernels
    may be used."""
    return ops.scaled_silu(x) if fused else nn.functional.silu(x) * GAIN


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


def small_products(a: Tensor, b: Tensor) -> Tensor:
    """(e, i, k), (e, k, j) -> (e, i, j), one small product per edge."""
    if a.is_cuda and torch.compiler.is_compiling():
        # fused with what is around it; cuBLAS takes a block of threads for each of the e products
        return (a.unsqueeze(-1) * b.unsqueeze(1)).sum(2)
    return torch.bmm(a, b)


class Dense(nn.Module):
    """(..., fan_in) -> (..., fan_out): a hidden matrix without bias, then :func:`act`."""

    def __init__(self, fan_in: int, fan_out: int, m: float):
        super().__init__()
        self.linear = matrix(fan_in, fan_out, m)

    def forward(self, x: Tensor, fused: bool = False) -> Tensor:
        return act(self.linear(x), fused)


class Residual(nn.Module):
    """(x + Dense(Dense(x))) / sqrt 2."""

    def __init__(self, width: int, m: float):
        super().__init__()
        self.first = Dense(width, width, m)
        self.second = Dense(width, width, m)

    def forward(self, x: Tensor, fused: bool = False) -> Tensor:
        if fused:
            return ops.residual(x, self.first.linear.weight, self.second.linear.weight)
        # the two factors 1 / 0.6 go into a matrix and into the sum: two passes less over the edges
        y = nn.functional.silu(self.first.linear(x))
        y = nn.functional.silu(nn.functional.linear(y, self.second.linear.weight * GAIN))
        return torch.add(x, y, alpha=GAIN) * HALF


def normalised(x: Tensor, fused: bool = False) -> Tensor:
    """(rows, channels) divided by its RMS over channels; without weights, since a matrix follows
    wherever it is used."""
    return ops.unit_rms(x) if fused else nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)


class Unchanged(nn.Module):
    def forward(self, x: Tensor, fused: bool = False) -> Tensor:
        return x


def blend(x: Tensor, y: Tensor, scale: float, fused: bool = False) -> Tensor:
    """(x + y) * scale."""
    return ops.blend(x, y, scale) if fused else (x + y) * scale


class Residuals(nn.Sequential):
    """Residual layers, one after the other."""

    def forward(self, x: Tensor, fused: bool = False) -> Tensor:
        for layer in self:
            x = layer(x, fused)
        return x


def scaled(linear: Linear, x: Tensor, scale: float, fused: bool) -> Tensor:
    """``linear(x) * scale``; fused: the factor is applied to the matrix, a pass less over the
    edges."""
    return (
        nn.functional.linear(x, linear.weight * (scale * linear.multiplier))
        if fused
        else linear(x) * scale
    )


def residuals(count: int, width: int, m: float) -> Residuals:
    return Residuals(*(Residual(width, m) for _ in range(count)))


def basis_matrix(fan_in: int, fan_out: int, c: GemNetOCConfig, gain: float = 1.0) -> Linear:
    """A matrix from a fixed number of basis functions."""
    return Linear(fan_in, fan_out, "input", c.m, bias=False, gain=gain)


@dataclass
class Bases:
    """Geometry of one batch, projected by the weights that all blocks share. n atoms, K row width,
    s = S^2, w = 2S - 1, P = sum (p+1)(2p+1), f = cbf, q short edges. All of it is computed once per
    forward."""

    radial: Tensor  # (e, radial)
    rbf: tuple[Tensor, ...]  # e2e, quad, a2e, e2a, update, out: each (e, rbf)
    a2a: Tensor  # (n, rbf, K)
    harmonics: Tensor  # (n, K, s) of the edges into each atom
    # (e, f, S + 1) radial weights, and minus the weight of the edge on itself, which is left out
    e2e: Tensor
    a2e: Tensor  # the same
    e2a: Tensor  # (n, f, s)
    e2a_self: Tensor  # (n, f, K)
    reverse: Tensor  # (q, s) harmonics of the reverse of each short edge
    enter: Tensor  # (q, S w, s) rotation into the frame of the short edge
    leave: Tensor  # (q, P, w) rotation back, per (degree p, order j)
    cbf: Tensor  # (q, S, f)
    quad: Tensor  # (e, sbf, S (S + 1) / 2) radial weights
    quad_self: Tensor  # (q, sbf)


@dataclass
class FusedBases:
    """The same for kernels, all of it on edges, without rows. Radial weights of P_l are those of
    :class:`Bases` over sqrt(2l + 1), since here whole sums over m leave out the edge itself, which
    is 2l + 1 there."""

    radial: Tensor  # (e, radial)
    rbf: tuple[Tensor, ...]  # e2e, quad, a2e, e2a, update, out: each (e, rbf)
    a2a: Tensor  # (e, rbf)
    harmonics: Tensor  # (e, s)
    e2e: Tensor  # (e, f, S)
    a2e: Tensor  # (e, f, S)
    e2a: Tensor  # (e, f) weight of an edge's message in the sum over triplets at its receiver
    near: Tensor  # (e,) int32: 1 for short edges
    turns: Tensor  # (e, sum (2l + 1)^2) rotation into the frame of each edge
    cbf: Tensor  # (e, S, f)
    quad: Tensor  # (e, sbf, S (S + 1) / 2)
    quad_self: Tensor  # (e, sbf)


def enveloped(basis: nn.Module, r: Tensor, cutoff: float, norm: float) -> Tensor:
    """Radial functions of r (e,), times norm and the envelope: (e, count)."""
    return basis(r) * (envelope(r / cutoff) * norm).unsqueeze(-1)


class SharedBases(nn.Module):
    """Radial and angular bases with the down-projections that all blocks share."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.c = c
        s = c.spherical
        self.main, self.near = (BASES[c.basis](c.radial, cutoff) for cutoff in (c.cutoff, c.near))
        self.main_norm, self.near_norm = (
            radial_norm(c.basis, c.radial, r) for r in (c.cutoff, c.near)
        )
        self.main_fused, self.near_fused = (
            Features(cutoff, basis) if isinstance(basis, ExponentialBasis) else None
            for cutoff, basis in ((c.cutoff, self.main), (c.near, self.near))
        )
        self.rbf = basis_matrix(c.radial, 7 * c.rbf, c)  # e2e, quad, a2e, e2a, update, out, a2a
        self.cbf = basis_matrix(c.radial, 3 * c.cbf * s, c)  # e2e, a2e, e2a
        self.cbf_quad = basis_matrix(c.radial, s * c.cbf, c)  # short edges
        self.sbf = basis_matrix(c.radial, c.sbf * c.pairs, c)
        points, fit = rotation_points(s)
        enter, leave, share = quad_layout(s)
        self.columns = len(leave) // (2 * s - 1)  # P
        # float64 whatever the default: D is a rotation only to the precision of these
        for name, value in {
            "points": points,
            "fit": fit,
            "enter": enter,
            "leave": leave,
            "share": share,
            "root": np.sqrt(2.0 * np.arange(s) + 1),
            "norms": harmonic_norms(s),
            "pole": np.array([p * (p + 1) // 2 for p in range(s)]),
        }.items():
            self.register_buffer(name, torch.as_tensor(value), persistent=False)

    def forward(self, vec: Tensor, index: EdgeIndex) -> Bases | FusedBases:
        """vec (e, 3) in Angstrom, in the order of the index."""
        if index.ptr is not None:
            return self.fused(vec, index.ptr)
        c, e = self.c, vec.shape[0]
        r = safe_norm(vec)
        y = harmonics(vec / r.unsqueeze(-1), c.spherical)
        g = enveloped(self.main, r, c.cutoff, self.main_norm)
        *rbf, a2a = self.rbf(g).split(c.rbf, dim=-1)
        root = self.root.to(y)
        circular = self.cbf(g).view(e, 3, c.cbf, c.spherical)
        own = (circular * root).sum(-1)  # (e, 3, f)
        weight = self.sbf.weight.view(c.sbf, c.pairs, c.radial) * self.share.to(y).unsqueeze(-1)
        spherical = nn.functional.linear(g, weight.flatten(0, 1)).view(e, c.sbf, c.pairs)
        pole = index.shorter(spherical).index_select(-1, self.pole)
        rows = index.rows(torch.cat([y, a2a, own[:, 2], circular[:, 2].flatten(1)], dim=-1))
        rows_y, rows_a2a, rows_own, rows_e2a = rows.split(
            [y.shape[1], c.rbf, c.cbf, c.cbf * c.spherical], dim=-1
        )
        rows_e2a = (
            rows_e2a.unflatten(-1, (c.cbf, c.spherical)).permute(3, 0, 2, 1).contiguous()
        )  # (S, n, f, K)
        e2a = [
            torch.bmm(rows_e2a[l], rows_y[..., l * l : (l + 1) ** 2]) / math.sqrt(2 * l + 1)
            for l in range(c.spherical)
        ]
        enter, leave, reverse, cbf = self.quad_frames(index.shorter(vec), index.shorter(r))
        return Bases(
            radial=g,
            rbf=tuple(rbf),
            harmonics=rows_y,
            a2a=rows_a2a.transpose(1, 2),
            e2e=torch.cat([circular[:, 0], -own[:, 0].unsqueeze(-1)], dim=-1),
            a2e=torch.cat([circular[:, 1], -own[:, 1].unsqueeze(-1)], dim=-1),
            e2a=torch.cat(e2a, dim=-1),
            e2a_self=rows_own.transpose(1, 2),
            quad=spherical,
            quad_self=(pole * root).sum(-1),
            enter=enter,
            leave=leave,
            reverse=reverse,
            cbf=cbf,
        )

    def fused(self, vec: Tensor, ptr: Tensor) -> FusedBases:
        """Without a gradient by vec (e, 3)."""
        c, e = self.c, vec.shape[0]
        r = safe_norm(vec)
        unit = vec / r.unsqueeze(-1)
        norms = self.norms.to(vec.dtype)
        y = ops.harmonics(unit, norms)
        if self.main_fused is not None:
            g, near = self.main_fused(vec) * self.main_norm, self.near_fused(vec) * self.near_norm
        else:
            g = enveloped(self.main, r, c.cutoff, self.main_norm)
            near = enveloped(self.near, r, c.near, self.near_norm)
        *rbf, a2a = self.rbf(g).split(c.rbf, dim=-1)
        root = self.root.to(y).unsqueeze(-1)
        # factors and sums over degrees are taken on the weights: fewer passes over the edges
        circular = (self.cbf.weight.view(3, c.cbf, c.spherical, c.radial) / root).flatten(1, 2)
        e2e, a2e, e2a = (
            nn.functional.linear(g, w).view(e, c.cbf, c.spherical) for w in circular.unbind(0)
        )
        weight = self.sbf.weight.view(c.sbf, c.pairs, c.radial) * self.share.to(y).unsqueeze(-1)
        return FusedBases(
            radial=g,
            rbf=tuple(rbf),
            a2a=a2a.contiguous(),
            harmonics=y,
            e2e=e2e,
            a2e=a2e,
            e2a=ops.cosines(e2a, y, ptr),
            near=(r < c.near).to(torch.int32),
            turns=ops.turns(unit, self.points.to(vec.dtype), self.fit.to(vec.dtype), norms),
            cbf=self.cbf_quad(near).view(e, c.spherical, c.cbf),
            quad=nn.functional.linear(g, weight.flatten(0, 1)).view(e, c.sbf, c.pairs),
            quad_self=nn.functional.linear(g, (weight.index_select(1, self.pole) * root).sum(1)),
        )

    def quad_frames(self, vec: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """enter, leave, reverse and cbf of :class:`Bases` from short edges: vec (q, 3), r (q,) in
        Angstrom."""
        c, q = self.c, vec.shape[0]
        s, w = c.spherical * c.spherical, 2 * c.spherical - 1
        unit = vec / r.unsqueeze(-1)
        d = rotations(unit, self.points.to(vec.dtype), self.fit.to(vec.dtype), c.spherical)
        d = torch.cat([d, d.new_zeros(q, 1)], dim=-1)
        enter = d.index_select(1, self.enter).view(q, c.spherical * w, s)
        leave = d.index_select(1, self.leave).view(q, self.columns, w)
        near = enveloped(self.near, r, c.near, self.near_norm)
        return (
            enter,
            leave,
            harmonics(-unit, c.spherical),
            self.cbf_quad(near).view(q, c.spherical, c.cbf),
        )


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

    def forward(
        self, h: Tensor, m: Tensor, b: Bases | FusedBases, index: EdgeIndex
    ) -> tuple[Tensor, Tensor]:
        scale = self.scale
        skip, e2e, quad, a2e, e2a = self.down(h, m, b, index)
        a2a = self.down_a2a(h, index.fused)
        if index.ptr is not None:
            a2a = ops.gathered(a2a, index.sender, index.ptr, index.swap)
        else:
            a2a = a2a.index_select(0, index.sender)
        sums = self.fused_sums if isinstance(b, FusedBases) else self.sums
        x_e2e, x_a2e, x_quad, h_e2a, h_a2a = sums(e2e, a2e, quad, e2a, a2a, b, index)
        edges = self.up(
            skip,
            (
                scaled(self.bilinear_e2e, x_e2e.flatten(1), scale.trip, index.fused),
                scaled(self.bilinear_a2e, x_a2e.flatten(1), scale.trip, index.fused),
                scaled(self.bilinear_quad, x_quad.flatten(1), scale.quad, index.fused),
            ),
            index,
        )
        atoms = self.up_e2a(
            scaled(self.bilinear_e2a, h_e2a.flatten(1), scale.e2a, index.fused), index.fused
        )
        return edges, atoms + self.up_a2a(
            scaled(self.bilinear_a2a, h_a2a.flatten(1), scale.a2a, index.fused), index.fused
        )

    def down(self, h: Tensor, m: Tensor, b: Bases, index: EdgeIndex) -> tuple[Tensor, ...]:
        """Half of the skip connection (e, E), and the narrow messages e2e (e, t), quad (e, q), a2e
        (e, t), e2a (e, t)."""
        atoms = self.from_atoms(h, index.fused)
        if index.ptr is not None:
            parts = (
                (self.rbf_e2e, self.down_e2e),
                (self.rbf_quad, self.down_quad),
                (self.rbf_e2a, self.down_e2a),
            )
            filters = ((b.rbf[k], v.weight, d.linear.weight) for k, (v, d) in zip((0, 1, 3), parts))
            skip, e2e, quad, e2a = ops.read_edges(m, self.from_edges.linear.weight, *filters)
            a2e = ops.gathered_linear(
                atoms,
                b.rbf[2],
                self.rbf_a2e.weight,
                self.down_a2e.linear.weight,
                index.sender,
                index.ptr,
                index.swap,
            )
            return skip, *(act(x, True) for x in (e2e, quad, a2e, e2a))
        skip, e2e, quad, e2a = self.from_edges(m).chunk(4, dim=-1)
        e2e = self.down_e2e(e2e * self.rbf_e2e(b.rbf[0]))
        quad = self.down_quad(quad * self.rbf_quad(b.rbf[1]))
        a2e = self.down_a2e(atoms.index_select(0, index.sender) * self.rbf_a2e(b.rbf[2]))
        return skip * 0.5, e2e, quad, a2e, self.down_e2a(e2a * self.rbf_e2a(b.rbf[3]))

    def up(self, skip: Tensor, messages: tuple[Tensor, Tensor, Tensor], index: EdgeIndex) -> Tensor:
        """Messages of e2e, a2e (e, t) and quad (e, q), given to their edge and to its reverse: half
        of all (e, E)."""
        ups = self.up_e2e, self.up_a2e, self.up_quad
        if index.ptr is not None:
            return ops.merge(
                skip, index.swap, *((x, u.linear.weight) for x, u in zip(messages, ups))
            )
        ca, ac = sum(u(x) for x, u in zip(messages, ups)).chunk(2, dim=-1)
        return skip + (ca + ac.index_select(0, index.swap)) * (0.5 * HALF)

    def sums(
        self,
        e2e: Tensor,
        a2e: Tensor,
        quad: Tensor,
        e2a: Tensor,
        a2a: Tensor,
        b: Bases,
        index: EdgeIndex,
    ) -> tuple[Tensor, ...]:
        """Narrow messages (e, t), quad (e, q) -> what edges see of e2e and a2e (e, f, t) and of
        quad (e, sbf, q), and atoms of e2a (n, f, t) and a2a (n, rbf, t)."""
        t = self.c.trip
        rows = index.rows(torch.cat([e2e, a2e, e2a, quad, a2a], dim=-1))
        moments = torch.bmm(
            b.harmonics.transpose(1, 2), rows[..., : 3 * t + self.c.quad]
        )  # (n, s, 3t + q)
        message, returned = self.through_short_edges(moments[..., 3 * t :], quad, b, index)
        # what each edge c -> a reads of the moments at a, for every degree
        e2e_l, a2e_l, quad_pj = self.read(
            b.harmonics, moments[..., : 2 * t], returned, rows[..., : 2 * t], index
        )
        own = (b.quad_self.unsqueeze(-1) * message.unsqueeze(1)).to(e2e)
        x_quad = small_products(b.quad, quad_pj)
        x_quad = (
            x_quad - own if index.short is None else x_quad.index_add(0, index.short, own, alpha=-1)
        )
        h_e2a = torch.bmm(b.e2a, moments[..., 2 * t : 3 * t]) - torch.bmm(
            b.e2a_self, rows[..., 2 * t : 3 * t]
        )
        h_a2a = torch.bmm(b.a2a, rows[..., 3 * t + self.c.quad :])
        return small_products(b.e2e, e2e_l), small_products(b.a2e, a2e_l), x_quad, h_e2a, h_a2a

    def fused_sums(
        self,
        e2e: Tensor,
        a2e: Tensor,
        quad: Tensor,
        e2a: Tensor,
        a2a: Tensor,
        b: FusedBases,
        index: EdgeIndex,
    ) -> tuple[Tensor, ...]:
        """:meth:`sums` in kernels: no rows, no moments or values of degrees on edges."""
        y, ptr = b.harmonics, index.ptr
        message, returned = ops.short_sum(
            ops.outer_sum(y, quad, ptr),
            quad,
            y,
            b.turns,
            b.cbf,
            self.cbf_quad.weight,
            b.near,
            index.sender,
            index.swap,
            ptr,
        )
        return (
            ops.triplets(b.e2e, y, e2e, ptr),
            ops.triplets(b.a2e, y, a2e, ptr),
            ops.quad_read(b.quad, b.quad_self, y, returned, message, ptr, quad.dtype),
            ops.outer_sum(b.e2a, e2a, ptr),
            ops.outer_sum(b.a2a, a2a, ptr),
        )

    def through_short_edges(
        self, moments: Tensor, x: Tensor, b: Bases, index: EdgeIndex
    ) -> tuple[Tensor, Tensor]:
        """d -> b -> a, summed over d: moments (n, s, q) of the edges into each atom, x (e, q).

        Returns the part of order 0 of each short edge (short, q), and the sum over b at each atom
        (n, P, q).
        """
        c, w, receiver = self.c, 2 * self.c.spherical - 1, index.shorter(index.receiver)
        # at b: all d, less the edge that comes back from a; then turned into the frame of b -> a
        incoming = moments.index_select(0, index.shorter(index.sender))
        back = x.index_select(0, index.shorter(index.swap))
        turned = small_products(b.enter, incoming - b.reverse.unsqueeze(-1) * back.unsqueeze(1))
        turned = turned.view(len(receiver), c.spherical, w, c.quad) * self.cbf_quad(
            b.cbf
        ).unsqueeze(2)
        message = turned.sum(1)  # (short, w, q)
        returned = segment_sum(small_products(b.leave, message), receiver, index.atoms)
        return message[:, w // 2], returned

    def read(
        self, harmonics: Tensor, trip: Tensor, quad: Tensor, own: Tensor, index: EdgeIndex
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moments at a, contracted with the harmonics of each edge c -> a degree by degree.

        harmonics (n, K, s), trip (n, s, 2t), quad (n, P, q), own (n, K, 2t) -> e2e and a2e (e, S +
        1, t), whose last entry is the edge's own message, and quad (e, S (S + 1) / 2, q).
        """
        c, t, n = self.c, self.c.trip, trip.shape[0]
        first, second, third, place = [], [], [], 0
        for l in range(c.spherical):
            size = 2 * l + 1
            # (p, j, m) -> m rows, (j, q) columns
            part = (
                quad[:, place : place + (l + 1) * size]
                .view(n, l + 1, size, c.quad)
                .transpose(1, 2)
                .flatten(2)
            )
            place += (l + 1) * size
            columns = torch.cat(
                [trip[:, l * l : (l + 1) ** 2] * (1 / math.sqrt(size)), part], dim=-1
            )
            values = torch.bmm(harmonics[..., l * l : (l + 1) ** 2], columns)
            first.append(values[..., :t])
            second.append(values[..., t : 2 * t])
            third.append(values[..., 2 * t :])
        values = index.edges(
            torch.cat([*first, own[..., :t], *second, own[..., t:], *third], dim=-1)
        )
        shape = (c.spherical + 1, t)
        e2e, a2e, quads = values.split([shape[0] * t, shape[0] * t, c.quad * c.pairs], -1)
        return (
            e2e.unflatten(1, shape),
            a2e.unflatten(1, shape),
            quads.unflatten(1, (c.pairs, c.quad)),
        )


class AtomUpdate(nn.Module):
    """(e, E) -> (n, A): Res^j(Dense(scale sum_c m_ca * V rbf)); without the Dense where A = E, as
    in the reference."""

    def __init__(self, c: GemNetOCConfig):
        super().__init__()
        self.scale = Scales.of(c).update
        self.rbf = basis_matrix(c.rbf, c.edge, c)
        self.dense = Dense(c.edge, c.width, c.m) if c.edge != c.width else Unchanged()
        self.layers = residuals(c.update_layers, c.width, c.m)

    def forward(self, m: Tensor, rbf: Tensor, index: EdgeIndex) -> Tensor:
        if index.ptr is not None:
            total = ops.filter_sum(m, rbf, self.rbf.weight, index.receiver, index.ptr, self.scale)
        else:
            total = segment_sum(m * self.rbf(rbf), index.receiver, index.atoms) * self.scale
        return self.layers(self.dense(total, index.fused), index.fused)


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
        pair = self.atoms(h)
        if index.ptr is not None:
            return ops.join(
                pair, x, self.other.weight, index.sender, index.receiver, index.ptr, index.swap
            )
        sender, receiver = pair.chunk(2, dim=-1)
        return act(
            sender.index_select(0, index.sender)
            + receiver.index_select(0, index.receiver)
            + self.other(x)
        )


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
        self.unit = normalised if c.norm else Unchanged()

    def forward(
        self, h: Tensor, m: Tensor, read: tuple[Tensor, Tensor], b: Bases, index: EdgeIndex
    ) -> tuple[Tensor, Tensor]:
        """read: |h| and |m|."""
        f = index.fused
        edges, atoms = self.interaction(*read, b, index)
        h = self.atoms(blend(h, atoms, 1 / math.sqrt(3.0), f), f)
        m = self.after(blend(m, self.before(edges, f), HALF, f), f)
        x = self.unit(m, f)
        h = blend(h, self.update(x, b.rbf[4], index), HALF, f)
        return h, blend(m, self.joined(self.join(self.unit(h, f), x, index), f), HALF, f)


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
        f = index.fused
        x = self.to_energy(self.after(blend(h, self.update(read, b.rbf[5], index), HALF, f), f))
        if not self.direct:
            return x, 0.0
        y = self.force(m, f)
        if f:
            return x, ops.filtered_linear(y, b.rbf[5], self.rbf.weight, self.to_force.weight)
        return x, self.to_force(y * self.rbf(b.rbf[5]))


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
        self.unit = normalised if c.norm else Unchanged()
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.outputs = nn.ModuleList(Output(c) for _ in range(c.depth + 1))
        self.energy_layers = residuals(c.final_layers, c.width, c.m)
        self.energy = Linear(c.width, 1, "output", c.m, bias=False)
        if c.forces == "direct":
            self.force_layers = residuals(c.final_layers, c.edge, c.m)
            self.force = Linear(c.edge, 1, "output", c.m, bias=False)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor]:
        index = build_index(graph, vec, self.config.near)
        if ops.fused(vec) and self.config.spherical <= MOST_DEGREES:
            index = replace(index, ptr=index.segments(graph.pad))
        vec = vec.index_select(0, index.order)
        with torch.autocast(
            vec.device.type, enabled=False
        ):  # geometry in full precision whatever the matrices have
            b = self.bases(vec, index)
        h = self.embedding(graph.species)
        m = self.join(h, b.radial, index)
        read = self.unit(h, index.fused), self.unit(m, index.fused)
        site, pair = self.outputs[0](*read, m, b, index)
        for block, output in zip(self.blocks, self.outputs[1:]):
            h, m = block(h, m, read, b, index)
            read = self.unit(h, index.fused), self.unit(m, index.fused)
            more_site, more_pair = output(*read, m, b, index)
            site, pair = site + more_site, pair + more_pair
        f = index.fused
        energies = self.energy(self.energy_layers(act(site, f), f)).squeeze(-1)
        if self.config.forces != "direct":
            return energies, torch.zeros_like(graph.pos)
        strength = self.force(self.force_layers(act(pair, f), f))
        unit = vec / safe_norm(vec).unsqueeze(-1)
        return energies, segment_sum(strength * unit, index.receiver, index.atoms)


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of a forward pass per edge, padded row slot, atom and short edge; exact for the
    code above."""

    edge: float
    row: float
    atom: float
    short: float

    def flops(self, edges: int, rows: int, atoms: int, short_edges: int) -> float:
        """Forward FLOPs of one batch; rows: atoms times row width, as the padded products really
        run."""
        return 2.0 * (
            self.edge * edges + self.row * rows + self.atom * atoms + self.short * short_edges
        )


def operations(c: GemNetOCConfig) -> Operations:
    """Closed form, term by term in the order of the code; A, E, t, q as in the configuration, f =
    cbf."""
    a, e, t, q, s = c.width, c.edge, c.trip, c.quad, c.spherical
    side, wide, pairs = s * s, 2 * s - 1, c.pairs
    columns = sum((p + 1) * (2 * p + 1) for p in range(s))
    points = 2 * s + 3
    update = (e * a if e != a else 0) + 2 * a * a * c.update_layers
    direct = c.forces == "direct"
    edge = c.radial * (7 * c.rbf + 3 * c.cbf * s + c.sbf * pairs) + c.radial * e
    atom = 2.0 * a * e
    short = 9 * points + points * sum((2 * l + 1) ** 2 for l in range(s)) + c.radial * s * c.cbf
    row = float(c.cbf * side)
    for _ in range(c.depth):
        edge += 4 * e * e + c.rbf * (3 * e + a) + t * (2 * e + a) + e * q
        edge += (
            2 * c.cbf * (s + 1) * t
            + c.sbf * pairs * q
            + 2 * c.cbf * t * t
            + c.sbf * q * q
            + 2 * e * (2 * t + q)
        )
        edge += 2 * e * e * (c.before_skip + c.after_skip + c.concat) + c.rbf * e + e * e
        row += side * (3 * t + q) + 2 * t * side + q * columns + (c.cbf + c.rbf) * t
        atom += a * a + a * t + c.cbf * side * t + (c.cbf + c.rbf) * t * t + 2 * t * a
        atom += 2 * a * a * c.atom_layers + update + 2 * a * e
        short += s * wide * side * q + s * c.cbf * q + columns * wide * q
    for _ in range(c.depth + 1):
        edge += c.rbf * e + (2 * e * e * c.update_layers + c.rbf * e + e * e if direct else 0)
        atom += update + 2 * a * a * c.after_atom + a * a
    edge += 2 * e * e * c.final_layers + e if direct else 0
    atom += 2 * a * a * c.final_layers + a
    return Operations(edge, row, atom, short)


def flops(c: GemNetOCConfig) -> Flops:
    """Without padding: a row slot per edge; and ``quad_degree`` short edges per atom. Both are a
    few percent of all."""
    count = operations(c)
    return Flops(
        per_edge=2.0 * (count.edge + count.row),
        per_atom=2.0 * (count.atom + c.quad_degree * count.short),
    )


ARCHITECTURE = Architecture(
    name="gemnet_oc",
    title="GemNet-OC",
    config=GemNetOCConfig,
    model=GemNetOC,
    flops=flops,
    symmetry="E(3)",
    base_width=40,
    learning_rate=3e-3,
)
