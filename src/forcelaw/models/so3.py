"""Rotations of spherical features: edge-aligned frames, Wigner matrices by polynomials, norms,
linear maps per degree.

Features are (..., S, C) with S = (lmax + 1)^2 real spherical-harmonic coefficients, degree-major:
index l^2 + l + m, m from -l to l. The polar axis is y, as in e3nn: those of l = 1 are (x, y, z).
D(R) acts as Y(R r) = D(R) Y(r).

A unit edge vector is turned onto +y by the shortest arc, a rotation about an axis in the xz plane.
Its quaternion (w, a, 0, c) has three components, so D^l is a homogeneous polynomial of degree 2l in
(w, a, c). As w^2 + a^2 + c^2 = 1, every degree is lifted to 2 lmax and all blocks come out of one
small matrix product; there are no angles, so nothing is singular at the poles. It runs in float64
whatever the model's precision: TF32 would cost three digits of symmetry.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..ops.esen.wigner import arc_from_above, shortest_arc, wigner_polynomials
from .mup import Kind, mark, normal

Monomial = tuple[int, int, int]  # powers of (w, a, c)
Polynomial = dict[Monomial, complex]


def n_coefficients(lmax: int, mmax: int | None = None) -> int:
    """Coefficients of degree <= lmax and order |m| <= mmax: S, or S_m when mmax is given."""
    top = lmax if mmax is None else mmax
    return sum(2 * min(degree, top) + 1 for degree in range(lmax + 1))


def order_major(lmax: int, mmax: int) -> list[int]:
    """Degree-major positions of: m = 0 (l = 0..lmax), then for each m > 0 first +m (l = m..lmax),
    then -m (same l)."""
    out = [l * l + l for l in range(lmax + 1)]
    for m in range(1, mmax + 1):
        for signed in (m, -m):
            out += [l * l + l + signed for l in range(m, lmax + 1)]
    return out


def _power_of_sum(
    first: tuple[Monomial, complex], second: tuple[Monomial, complex], n: int
) -> Polynomial:
    """(x + y)^n for two monomials with coefficients."""
    (mx, cx), (my, cy) = first, second
    return {
        tuple(i * (n - k) + j * k for i, j in zip(mx, my)): math.comb(n, k) * cx ** (n - k) * cy**k
        for k in range(n + 1)
    }


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for mp, cp in p.items():
        for mq, cq in q.items():
            key = tuple(i + j for i, j in zip(mp, mq))
            out[key] = out.get(key, 0) + cp * cq
    return out


def _wigner_polynomials(l: int) -> list[list[Polynomial]]:
    """Real D^l[i][j] of the rotation with quaternion (w, a, 0, c), as polynomials of degree 2l.

    Spin-l states are u^(l+m) v^(l-m) / sqrt((l+m)! (l-m)!), on which the SU(2) matrix [[w, -b],
    [conj b, w]] acts with b = a + ic (standard axes z, x, y are y, z, x here); then the change to
    real harmonics without Condon-Shortley sign.
    """
    a, c = (0, 1, 0), (0, 0, 1)
    n = 2 * l + 1
    spin = [[{} for _ in range(n)] for _ in range(n)]
    for mp in range(-l, l + 1):
        for m in range(-l, l + 1):
            scale = math.sqrt(
                math.factorial(l + mp)
                * math.factorial(l - mp)
                / (math.factorial(l + m) * math.factorial(l - m))
            )
            total: Polynomial = {}
            for k in range(max(0, m + mp), min(l + m, l + mp) + 1):
                # u^k from (w u + conj(b) v)^(l+m), the other u^(l+mp-k) from (-b u + w v)^(l-m)
                p = l + m - k  # power of conj(b)
                q = l + mp - k  # power of -b
                factor = scale * math.comb(l + m, k) * math.comb(l - m, q)
                term = _times(
                    _power_of_sum((a, 1), (c, -1j), p), _power_of_sum((a, -1), (c, -1j), q)
                )
                for key, value in term.items():
                    full = (key[0] + 2 * l - p - q, key[1], key[2])
                    total[full] = total.get(full, 0) + factor * value
            spin[mp + l][m + l] = total
    real = np.zeros((n, n), complex)  # rows: real harmonics; columns: complex ones
    real[l, l] = 1.0
    for m in range(1, l + 1):
        s = math.sqrt(0.5)
        real[l + m, l + m], real[l + m, l - m] = (-1) ** m * s, s
        real[l - m, l + m], real[l - m, l - m] = -1j * (-1) ** m * s, 1j * s
    keys = sorted({key for row in spin for p in row for key in p})
    tensor = np.array(
        [[[p.get(key, 0) for key in keys] for p in row] for row in spin]
    )  # (n, n, monomials)
    turned = np.einsum("ip,pqk,jq->ijk", real, tensor.conj(), real.conj())
    if np.abs(turned.imag).max() > 1e-12:
        raise AssertionError("real Wigner polynomials came out complex")
    return [[dict(zip(keys, turned[i, j].real)) for j in range(n)] for i in range(n)]


@lru_cache(maxsize=16)
def wigner_table(lmax: int, mmax: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers (K, 3) of (w, a, c) and coefficients (K, S_m, S), float64, K = (lmax + 1)(2 lmax + 1).

    Rows of D in order-major order (see :func:`order_major`), columns degree-major; everything
    lifted to degree 2 lmax.
    """
    top = 2 * lmax
    powers = [(top - i - j, i, j) for i in range(top + 1) for j in range(top + 1 - i)]
    where = {p: k for k, p in enumerate(powers)}
    full = np.zeros((len(powers), (lmax + 1) ** 2, (lmax + 1) ** 2))
    unit: Polynomial = {(2, 0, 0): 1, (0, 2, 0): 1, (0, 0, 2): 1}
    for l in range(lmax + 1):
        block = _wigner_polynomials(l)
        lift: Polynomial = {(0, 0, 0): 1}
        for _ in range(lmax - l):
            lift = _times(lift, unit)
        for i in range(2 * l + 1):
            for j in range(2 * l + 1):
                for key, value in _times(block[i][j], lift).items():
                    full[where[key], l * l + i, l * l + j] = value
    return np.array(powers), np.ascontiguousarray(full[:, order_major(lmax, mmax)])


def _half_turn_signs(lmax: int) -> np.ndarray:
    """(S,) diagonal of D for the half turn about x, (x, y, z) -> (x, -y, -z): each real harmonic
    keeps or changes sign.

    Y_lm ~ P_l^|m|(y) times cos(m phi) (m >= 0) or sin(|m| phi), with z = cos, x = sin: y -> -y
    gives (-1)^(l+m), and phi -> pi - phi gives (-1)^m for the cosine, -(-1)^m for the sine.
    """
    return np.array(
        [(-1.0) ** l * (1 if m >= 0 else -1) for l in range(lmax + 1) for m in range(-l, l + 1)]
    )


class EdgeFrames(nn.Module):
    """Wigner matrices (e, S_m, S) that turn features into the frame of each edge, rows order-major.

    Fixed roll: the shortest arc from the edge to +y. It is continuous but at -y, where any choice
    of roll must jump (hairy ball); there the axis x, or rather the limit from +x, is taken. When a
    gradient is wanted, edges with y < 0 are first given a half turn about x, so that nothing is
    near that point and derivatives are exact everywhere, at the price of a roll that jumps across
    the equator: right wherever the roll does not matter.
    """

    def __init__(self, lmax: int, mmax: int):
        super().__init__()
        self.lmax, self.shape = lmax, (n_coefficients(lmax, mmax), n_coefficients(lmax))
        powers, table = wigner_table(lmax, mmax)
        self.monomials = len(powers)
        # float64 bits kept as integers: model.to(float32) must not round them
        self.register_buffer(
            "bits",
            torch.from_numpy(table.reshape(len(powers), -1).copy()).view(torch.int64),
            persistent=False,
        )
        # entries of a frame that are not zero by construction: its blocks, degree by degree
        where, row_of = [], {p: k for k, p in enumerate(order_major(lmax, mmax))}
        for l in range(lmax + 1):
            for m in [0] + [s * m for m in range(1, min(l, mmax) + 1) for s in (1, -1)]:
                where += [
                    row_of[l * l + l + m] * self.shape[1] + l * l + j for j in range(2 * l + 1)
                ]
        self.register_buffer(
            "packed_bits",
            torch.from_numpy(np.ascontiguousarray(table.reshape(len(powers), -1)[:, where])).view(
                torch.int64
            ),
            persistent=False,
        )
        signs = _half_turn_signs(lmax)
        self.register_buffer(
            "packed_sign_bits",
            torch.from_numpy(signs[np.array(where) % self.shape[1]]).view(torch.int64),
            persistent=False,
        )
        self.register_buffer(
            "sign_bits",
            torch.from_numpy(signs).view(torch.int64),
            persistent=False,
        )
        self.register_buffer("powers", torch.from_numpy(powers), persistent=False)
        self._prepare_rolls(lmax, mmax)

    def _prepare_rolls(self, lmax: int, mmax: int) -> None:
        """For each row of D: its order m, signed, and the row of the same degree and order -m; for
        each entry of the blocks likewise, and where the row m = 0 of each degree stands."""
        rows = order_major(lmax, mmax)
        degrees = [math.isqrt(p) for p in rows]
        order = [p - l * l - l for p, l in zip(rows, degrees)]
        partner = [rows.index(l * l + l - m) for l, m in zip(degrees, order)]
        of_entry, to_entry, harmonics, unity = [], [], [], []
        for l in range(lmax + 1):
            first, width = len(of_entry), 2 * l + 1
            signed = [0] + [s * m for m in range(1, min(l, mmax) + 1) for s in (1, -1)]
            harmonics += range(first, first + width)
            of_entry += [m for m in signed for _ in range(width)]
            to_entry += [first + signed.index(-m) * width + j for m in signed for j in range(width)]
            unity += [float(j == l + m) for m in signed for j in range(width)]
        for name, values in (
            ("row_order", order),
            ("row_partner", partner),
            ("entry_order", of_entry),
            ("entry_partner", to_entry),
            ("entry_harmonic", harmonics),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        whole = torch.eye((lmax + 1) ** 2, device="cpu")[rows]
        self.register_buffer("row_unity", whole, persistent=False)
        self.register_buffer("entry_unity", torch.tensor(unity), persistent=False)

    def unturned(self, unit: Tensor, packed: bool) -> Tensor:
        """The frame that turns nothing, for each edge: (e, S_m, S), or its blocks (e, P)."""
        one = (self.entry_unity if packed else self.row_unity).to(unit.dtype)
        return one.expand(len(unit), *one.shape).contiguous()

    def rolled(self, frames: Tensor, angle: Tensor) -> Tensor:
        """Frames (e, S_m, S), or their blocks (e, P), turned by ``angle`` (e,) about the polar
        axis."""
        whole = frames.dim() == 3
        order = self.row_order if whole else self.entry_order
        partner = self.row_partner if whole else self.entry_partner
        phase = angle.unsqueeze(1) * order  # of -m the other sign, as its sine has
        cos, sin = (t.unsqueeze(2) if whole else t for t in (phase.cos(), phase.sin()))
        return frames * cos - frames.index_select(1, partner) * sin

    def harmonics(self, frames: Tensor) -> Tensor:
        """(e, S): real spherical harmonics of the edges, each degree of norm 1, out of their frames
        (e, S_m, S) or blocks (e, P)."""
        if frames.dim() == 2:
            return frames.index_select(1, self.entry_harmonic)
        degree = degree_index(self.lmax).to(frames.device)
        return torch.gather(frames, 1, degree.expand(len(frames), 1, -1)).squeeze(1)

    def forward(self, unit: Tensor, *, smooth: bool = False) -> Tensor:
        """unit (e, 3) -> D (e, S_m, S) in the dtype of ``unit``; smooth: use the half turn (see the
        class)."""
        bits, signs = self.bits, self.sign_bits.repeat(self.shape[0])
        return self._turned(unit, bits, signs, smooth).view(-1, *self.shape)

    def packed(self, unit: Tensor, *, smooth: bool = False) -> Tensor:
        """unit (e, 3) -> (e, P): the blocks of D, degree by degree; rows m = 0, +1, -1, +2, ...,
        columns of the degree. By plain torch where a gradient is wanted: a step makes them once."""
        if unit.requires_grad:
            return self._turned(unit, self.packed_bits, self.packed_sign_bits, smooth)
        return ops.edge_frames(unit, self.powers, self.packed_bits.view(torch.float64), self.lmax)

    def _turned(self, unit: Tensor, bits: Tensor, sign_bits: Tensor, smooth: bool) -> Tensor:
        """(e, any) of a table (K, any), whose columns change by signs (any,) with a half turn."""
        x, y, z = unit.double().unbind(-1)
        side, arc = torch.where(y < 0, -1.0, 1.0).to(y), shortest_arc
        if smooth:
            y, z, arc = y * side, z * side, arc_from_above
        table = bits.view(torch.float64)
        d = wigner_polynomials(*arc(x, y, z), self.powers, table, self.lmax)
        if smooth:
            signs = sign_bits.view(torch.float64)
            d = d * torch.where((side < 0).unsqueeze(-1), signs, torch.ones_like(signs))
        return d.to(unit.dtype)


def degree_index(lmax: int) -> Tensor:
    """(S,) degree of each coefficient."""
    return torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])


class SphericalNorm(nn.Module):
    """RMS norm of spherical features (n, S, C): equivariant, one scale per atom.

    The channel mean of l = 0 is removed; the scale is 1 / sqrt(mean over degrees, orders and
    channels of x^2 + 1e-5), each degree weighing the same; gain per (degree, channel), bias for l =
    0.
    """

    def __init__(self, lmax: int, channels: int, m: float):
        super().__init__()
        self.gain = mark(nn.Parameter(torch.ones(lmax + 1, channels)), "vector", m)
        self.bias = mark(nn.Parameter(torch.zeros(channels)), "vector", m)
        weights = [
            1.0 / ((lmax + 1) * (2 * l + 1) * channels)
            for l in range(lmax + 1)
            for _ in range(2 * l + 1)
        ]
        self.register_buffer(
            "weights", torch.tensor(weights, dtype=torch.get_default_dtype()), persistent=False
        )
        self.register_buffer("degree", degree_index(lmax), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (n, S, C), and its scalars y[:, 0] (n, C)."""
        return ops.spherical_norm(x, self.gain, self.bias, self.weights, self.degree)


class SO3Linear(nn.Module):
    """(n, S, fan_in) -> (n, S, fan_out): one matrix per degree, bias for l = 0."""

    def __init__(
        self, fan_in: int, fan_out: int, lmax: int, kind: Kind, m: float, *, gain: float = 1.0
    ):
        super().__init__()
        self.multiplier = 1.0 / m if kind == "output" else 1.0
        std = 0.0 if kind == "output" else gain / math.sqrt(fan_in)
        self.weight = mark(nn.Parameter(normal(lmax + 1, fan_out, fan_in, std=std)), kind, m)
        self.bias = mark(nn.Parameter(torch.zeros(fan_out)), "vector", m)
        self.register_buffer("degree", degree_index(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.product(x.transpose(0, 1))  # no copy of x
        out = torch.cat([out[:1] + self.bias, out[1:]], dim=0)
        return out.transpose(0, 1)

    def product(self, x: Tensor) -> Tensor:
        """(S, n, fan_in) -> (S, n, fan_out), without bias."""
        weight = self.weight if self.multiplier == 1.0 else self.weight * self.multiplier
        return torch.bmm(x, ops.by_degree(weight, self.degree).transpose(1, 2))
