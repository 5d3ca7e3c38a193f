"""Bases of GemNet: real spherical harmonics, their rotation into the frame of an edge, and
normalised radial functions.

Sums over triplets and quadruplets factorise, exactly, into sums over edges (Y: harmonics of mean
square 1 on the sphere):

    sqrt(2l+1) P_l(cos cab) = sum_m Y_lm(ca) Y_lm(ba) / sqrt(2l+1)         (addition theorem)
    Y_pj(ca in the frame of ba) . Y_lj(db in the frame of ba)  ~  P_p^j P_l^j cos(j dihedral)
                                                                           j = 0 .. min(l, p)

so that sum_b needs one moment sum_b Y_lm(ba) x_ba per atom, and sum_{b,d} needs one moment per atom
b, rotated into the frame of each short edge ba, weighted, and rotated back. The cost is linear in
the number of edges. The roll of a frame about its edge is arbitrary: it cancels, because cosine and
sine parts of order j always enter as a scalar product.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ..ops.edge_features import radial_features
from ..ops.gemnet.harmonics import harmonics
from .basis import EdgeFeatures, ExponentialBasis, GaussianBasis, envelope

NEAREST = 0.9  # Angstrom: no atoms are closer than this, where basis functions are normalised


def degrees(count: int) -> np.ndarray:
    """(count^2,) the degree l of each harmonic; the order inside is m = -l .. l."""
    return np.repeat(np.arange(count), 2 * np.arange(count) + 1)


@lru_cache(maxsize=16)
def harmonic_norms(count: int) -> np.ndarray:
    """(count^2,) factors of :func:`harmonics` on what the recursions give when they start from 1 at
    l = m."""
    norm = [
        math.prod(range(2 * m - 1, 0, -2))
        * math.sqrt(
            (2 * l + 1) * (1 if m == 0 else 2) * math.factorial(l - m) / math.factorial(l + m)
        )
        for l in range(count)
        for m in map(abs, range(-l, l + 1))
    ]
    return np.array(norm)


@lru_cache(maxsize=16)
def rotation_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (p, 3) on the sphere and the matrix (p, count^2) that fits the harmonics of each
    degree below ``count`` to values at them.

    A Fibonacci spiral of 2 count + 3 points on a half (harmonics are even or odd): condition 2 for
    count 4, at most 10 up to count 7 (measured).
    """
    number = 2 * count + 3
    step = np.arange(number) + 0.5
    z, phi = 1 - step / number, np.pi * (3 - math.sqrt(5)) * step
    s = np.sqrt(1 - z * z)
    points = np.stack([s * np.cos(phi), s * np.sin(phi), z], axis=1)
    values = harmonics(torch.from_numpy(points), count).numpy()
    blocks = [np.linalg.pinv(values[:, l * l : (l + 1) ** 2]).T for l in range(count)]
    return points, np.concatenate(blocks, axis=1)


@lru_cache(maxsize=16)
def quad_layout(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which columns of ``rotations`` (ops/gemnet/harmonics.py) make the two matrices of the
    quadruplet sums; s = count^2, w = 2 count - 1.

    enter (count * w * s,): rows (l, j), columns m: the element D_l[j, m], or zero where |j| > l or
    the degrees differ. leave (P * w,), P = sum (p+1)(2p+1): rows (p, |j|, m), columns j: the
    element D_p[j, m], or zero unless j = +-|j|. The index past the last element stands for zero.
    share (count (count + 1) / 2,): 1 for pairs (p, 0) and 1 / sqrt 2 for (p, j > 0), so that each
    product function has mean square 1 over both directions.
    """
    degree_of = degrees(count)
    start = np.cumsum([0] + [(2 * l + 1) ** 2 for l in range(count)])
    zero, orders = start[-1], range(-(count - 1), count)
    enter = [
        (
            start[l] + (l + j) * (2 * l + 1) + column - l * l
            if abs(j) <= l and degree_of[column] == l
            else zero
        )
        for l in range(count)
        for j in orders
        for column in range(count * count)
    ]
    leave = [
        start[p] + (p + j) * (2 * p + 1) + p + m if abs(j) == order else zero
        for p in range(count)
        for order in range(p + 1)
        for m in range(-p, p + 1)
        for j in orders
    ]
    share = [1.0 if j == 0 else math.sqrt(0.5) for p in range(count) for j in range(p + 1)]
    return np.array(enter), np.array(leave), np.array(share)


BASES = {"exponential": ExponentialBasis, "gaussian": GaussianBasis}


@lru_cache(maxsize=64)
def radial_norm(kind: str, count: int, cutoff: float) -> float:
    """The factor that gives a radial basis, before its envelope, a mean square of 1 over functions
    and distances.

    So near neighbours, where the envelope is 1, see functions of size 1 and distant ones see less.
    """
    precision = torch.get_default_dtype()
    torch.set_default_dtype(
        torch.float64
    )  # the basis rounds its centres to the default: who asks first must not matter
    try:
        with torch.device("cpu"):  # sizes are counted on the meta device
            values = BASES[kind](count, cutoff)(torch.linspace(NEAREST, cutoff, 2001))
    finally:
        torch.set_default_dtype(precision)
    return float(values.square().mean().rsqrt())


@lru_cache(maxsize=64)
def envelope_share(cutoff: float) -> float:
    """Mean squared envelope over the edges: degree times this is the number of neighbours that
    count.

    Edges are taken equally per dr between NEAREST and the cutoff (Angstrom), which is what finite
    molecules have (measured: 0.47 at 6 Angstrom, 0.45 by this rule).
    """
    x = np.linspace(NEAREST, cutoff, 2001) / cutoff
    return float(((1 - 21 * x**5 + 35 * x**6 - 15 * x**7) ** 2).mean())


class Tables(nn.Module):
    """Constants of the angular bases with ``degrees`` degrees; see :func:`rotation_points`,
    :func:`quad_layout` and :func:`harmonic_norms`. float64 whatever the default: rotations are ones
    only to the precision of these."""

    def __init__(self, degrees: int):
        super().__init__()
        self.degrees = degrees
        points, fit = rotation_points(degrees)
        enter, leave, share = quad_layout(degrees)
        for name, value in {
            "points": points,
            "fit": fit,
            "enter": enter,
            "leave": leave,
            "share": share,
            "root": np.sqrt(2.0 * np.arange(degrees) + 1),
            "norms": harmonic_norms(degrees),
            "pole": np.array([p * (p + 1) // 2 for p in range(degrees)]),  # where j = 0
        }.items():
            self.register_buffer(name, torch.as_tensor(value), persistent=False)


class EnvelopedBasis(nn.Module):
    """Radial functions of edges, times the envelope and the factor of :func:`radial_norm`."""

    def __init__(self, kind: str, count: int, cutoff: float):
        super().__init__()
        self.cutoff, self.basis = cutoff, BASES[kind](count, cutoff)
        self.norm = radial_norm(kind, count, cutoff)
        exponential = isinstance(self.basis, ExponentialBasis)
        self.features = EdgeFeatures(self.basis) if exponential else None

    def forward(self, vec: Tensor, r: Tensor) -> Tensor:
        """vec (e, 3), r (e,) in Angstrom -> (e, count)."""
        if self.features is None:
            return self.basis(r) * (envelope(r / self.cutoff) * self.norm).unsqueeze(-1)
        f = self.features
        return radial_features(vec, r, f.centres, f.kinds, f.columns, self.norm)
