"""Parts that eSEN may have in the place of its own, one at a time: norms, a feed-forward on a grid,
a head without constraints. By plain torch.

Norms of x (n, S, C), each with a gain per degree and channel and, but for ``rms``, a bias of l = 0:

    joint       eSEN's: the channel mean of l = 0 removed, one scale for all degrees (so3.py)
    rms         one scale for all degrees, nothing removed
    separable   LayerNorm of l = 0, one scale for l > 0 (EquiformerV2, arXiv 2306.12059)
    degrees     LayerNorm of l = 0, a scale for each l > 0 (Equiformer, arXiv 2206.11990)
    none        x as it is

``feed_forward: grid``: features as functions on a sphere, an MLP of the channels at each point, and
back (eSCN's and fairchem's). f(p) = sum_s R_s(p) x_s with sum_m R_lm^2 = 1; points are Gauss's in y
and equally spaced about y, 2 (lmax + 1) of each, so that x comes back exactly where the MLP is the
identity. SiLU makes degrees that the grid does not hold: rotations are approximate.

``head: free``: energies and forces are W_2 SiLU(W_1 [all coefficients of an atom]), unconstrained
heads on an equivariant trunk.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..ops.esen.spherical_norm import SMALL
from .mup import Linear
from .so3 import EdgeFrames, SphericalNorm, degree_index


def spherical_norm(kind: str, lmax: int, channels: int, m: float) -> nn.Module:
    """x (n, S, C) -> y (n, S, C) and its scalars (n, C); see the module's docstring."""
    if kind == "joint":
        return SphericalNorm(lmax, channels, m)
    return Unnormalised() if kind == "none" else PlainNorm(kind, lmax, channels, m)


class Unnormalised(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x[:, 0]


class PlainNorm(SphericalNorm):
    """``rms``, ``separable`` or ``degrees``."""

    def __init__(self, kind: str, lmax: int, channels: int, m: float):
        super().__init__(lmax, channels, m)
        self.kind = kind
        if kind == "rms":
            del self.bias
        alone = {"rms": [0] * (lmax + 1), "separable": [0] + [1] * lmax}
        group = alone.get(kind, list(range(lmax + 1)))  # degrees that share a scale
        # (groups, S): of each coefficient in the mean square of a group, degrees weighing the same
        share = torch.zeros(max(group) + 1, (lmax + 1) ** 2)
        for l in range(lmax + 1):
            count = group.count(group[l]) * (2 * l + 1) * channels
            share[group[l], l * l : (l + 1) ** 2] = 1.0 / count
        self.register_buffer("share", share.to(torch.get_default_dtype()), persistent=False)
        groups = torch.tensor(group)[degree_index(lmax)]
        self.register_buffer("group", groups, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scalars, rest = x.split([1, x.shape[1] - 1], dim=1)
        if self.kind != "rms":
            x = torch.cat([scalars - scalars.mean(-1, keepdim=True), rest], dim=1)
        squares = x.square().sum(-1)  # (n, S)
        scale = torch.rsqrt((squares.unsqueeze(1) * self.share).sum(-1) + SMALL)  # (n, groups)
        y = x * scale.index_select(1, self.group).unsqueeze(-1)
        y = y * self.gain.index_select(0, self.degree)
        if self.kind == "rms":
            return y, y[:, 0]
        scalars, rest = y.split([1, y.shape[1] - 1], dim=1)
        scalars = scalars + self.bias
        return torch.cat([scalars, rest], dim=1), scalars.squeeze(1)


def sphere(lmax: int) -> tuple[Tensor, Tensor]:
    """Values R (P, S) of the harmonics at the points of the grid, and what brings functions back
    (S, P), float64."""
    count = 2 * (lmax + 1)
    y, weight = np.polynomial.legendre.leggauss(count)
    turn = 2 * np.pi * (np.arange(count) + 0.5) / count
    y, turn = (a.ravel() for a in np.meshgrid(y, turn, indexing="ij"))
    flat = np.sqrt(1 - y * y)
    points = torch.from_numpy(np.stack([flat * np.sin(turn), y, flat * np.cos(turn)], axis=1))
    frames = EdgeFrames(lmax, 0).double()
    values = frames.harmonics(frames(points))
    share = torch.from_numpy(np.repeat(weight, count) / (2.0 * count))  # of the sphere; sums to 1
    back = values.T * share * (2 * degree_index(lmax).unsqueeze(1) + 1)
    return values, back


class GridFeedForward(nn.Module):
    """y (n, S, C) -> its change (n, S, C): an MLP C -> C -> C -> C at every point of the sphere."""

    def __init__(self, lmax: int, channels: int, m: float):
        super().__init__()
        values, back = sphere(lmax)
        unit = math.sqrt(lmax + 1)  # a function has variance one where degrees do
        dtype = torch.get_default_dtype()
        self.register_buffer("values", (values / unit).to(dtype), persistent=False)
        self.register_buffer("back", (back * unit).to(dtype), persistent=False)
        self.first = Linear(channels, channels, "hidden", m)
        self.second = Linear(channels, channels, "hidden", m)
        self.last = Linear(channels, channels, "hidden", m, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        n, _, channels = y.shape
        f = torch.matmul(self.values.to(y.dtype), y).reshape(-1, channels)
        f = self.last(ops.silu(self.second(ops.silu(self.first(f)))))
        return torch.matmul(self.back.to(f.dtype), f.view(n, -1, channels))


class FreeHead(nn.Module):
    """x (n, S, C) -> (n, outputs), whatever rotations ask for; zero at the start."""

    def __init__(self, lmax: int, channels: int, outputs: int, m: float):
        super().__init__()
        self.hidden = Linear((lmax + 1) ** 2 * channels, channels, "hidden", m)
        self.last = Linear(channels, outputs, "output", m)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(ops.silu(self.hidden(x.flatten(1))))


def grid_flops(lmax: int, channels: int) -> float:
    """Multiply-adds an atom of :class:`GridFeedForward`."""
    points, s = 4 * (lmax + 1) ** 2, (lmax + 1) ** 2
    return float(points * (3 * channels * channels + 2 * s * channels))
