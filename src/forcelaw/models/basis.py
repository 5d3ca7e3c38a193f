"""Radial bases and the envelope that takes every message smoothly to zero at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.edge_features import RATE, Columns, envelope, exponential_gaussians, safe_norm

__all__ = [
    "BesselBasis",
    "BesselFeatures",
    "EdgeFeatures",
    "ExponentialBasis",
    "GaussianBasis",
    "envelope",
    "safe_norm",
]


def equally_spaced(low: float, high: float, count: int) -> Tensor:
    """(count,) in float64. On the CPU also where sizes are counted on the meta device, where torch
    would import its compiler for it: 1.5 seconds in each process."""
    return torch.linspace(low, high, count, dtype=torch.float64, device="cpu")


class GaussianBasis(nn.Module):
    """Gaussians with centres equally spaced on [0, cutoff] and a width of ``spread`` spacings:
    (...,) -> (..., count).

    They are not zero at the cutoff: multiply by :func:`envelope`.
    """

    def __init__(self, count: int, cutoff: float, spread: float = 1.0):
        super().__init__()
        centres = equally_spaced(0.0, cutoff, count)
        spacing = cutoff / (count - 1)
        self.register_buffer("centres", centres.to(torch.get_default_dtype()), persistent=False)
        self.coefficient = -0.5 / (spread * spacing) ** 2

    def forward(self, r: Tensor) -> Tensor:
        exponent = self.coefficient * (r.unsqueeze(-1) - self.centres).square()
        # exp(-50) = 2e-22 is nothing, but below exp(-87) float32 has denormals, which slow a CPU
        # down tenfold
        return torch.exp(exponent.clamp_min(-50.0))


class BesselBasis(nn.Module):
    """sqrt(2 / r_c) sin(k pi r / r_c) / r for k = 1 to count, r in Angstrom (DimeNet, arXiv
    2003.03123, eq. 7): (...,) -> (..., count). As wide everywhere as far apart, so that few of them
    go on smoothly beyond the lengths that a small training set has."""

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        waves = equally_spaced(1.0, float(count), count) * (math.pi / cutoff)
        self.register_buffer("waves", waves.to(torch.get_default_dtype()), persistent=False)
        self.factor = math.sqrt(2.0 / cutoff)

    def forward(self, r: Tensor) -> Tensor:
        r = r.unsqueeze(-1).clamp_min(0.01)  # finite where padding has no length
        return self.factor * torch.sin(r * self.waves) / r

    def slope(self, r: Tensor) -> Tensor:
        """The derivatives by r, (...,) -> (..., count)."""
        r = r.unsqueeze(-1).clamp_min(0.01)
        phase = r * self.waves
        return self.factor * (self.waves * torch.cos(phase) - torch.sin(phase) / r) / r


class BesselFeatures(nn.Module):
    """Bessel functions times the envelope: lengths (e,) -> (e, count); as :class:`EdgeFeatures`."""

    def __init__(self, radial: BesselBasis, cutoff: float):
        super().__init__()
        self.radial, self.cutoff = radial, cutoff

    def of_length(self, vec: Tensor, r: Tensor) -> Tensor | ops.Lengths:
        """For :func:`forcelaw.ops.painn_message`; r (e,): the lengths of vec."""
        if not ops.lengths_wanted(vec):
            return self.radial(r) * envelope(r / self.cutoff).unsqueeze(-1)
        at = r.detach().unsqueeze(-1)
        value, slope = self.radial(r.detach()), self.radial.slope(r.detach())
        x = at / self.cutoff
        fall = -105.0 / self.cutoff * x**4 * (1.0 - x).clamp_min(0.0) ** 2  # the envelope's slope
        shape = envelope(x)
        return ops.Lengths(value * shape, slope * shape + value * fall, r)


class ExponentialBasis(nn.Module):
    """Gaussians in exp(-5 r / cutoff), equally spaced there, so that they are dense where bonds
    are: (...,) -> (..., count).

    The "exponential normal" basis of PhysNet (arXiv 1902.08408, eq. 7) with the scale of
    TorchMD-NET. With 16 functions and 6 Angstrom the spacing is about 0.2 Angstrom at a bond
    length, half that of equally spaced Gaussians.
    """

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        self.cutoff, low = cutoff, math.exp(-RATE)
        centres = equally_spaced(low, 1.0, count)
        self.register_buffer("centres", centres.to(torch.get_default_dtype()), persistent=False)
        self.beta = (count / (2.0 * (1.0 - low))) ** 2

    def forward(self, r: Tensor) -> Tensor:
        return exponential_gaussians(r, self.centres, self.cutoff, self.beta)


class EdgeFeatures(nn.Module):
    """Edge vectors (e, 3) -> features (e, columns) times the envelope: what messages know of their
    edge.

    radial(r); before it with ``vectors`` vec / r_c; after it the products of the unit vector's
    components with angular(r).
    """

    def __init__(
        self,
        radial: ExponentialBasis,
        angular: ExponentialBasis | None = None,
        vectors: bool = False,
        padding: int = 0,
    ):
        super().__init__()
        own, beta = (None, 0.0) if angular is None else (angular.centres, angular.beta)
        count = 0 if own is None else len(own)
        self.columns = Columns(
            vectors, len(radial.centres), count, padding, radial.cutoff, radial.beta, beta
        )
        none, parts = radial.centres.new_zeros, [radial.centres]
        parts = [*([none(3)] if vectors else []), *parts, *([] if own is None else [own] * 3)]
        self.register_buffer("centres", torch.cat([*parts, none(padding)]), persistent=False)
        kinds = torch.tensor(self.columns.kinds(), dtype=torch.int32)
        self.register_buffer("kinds", kinds, persistent=False)

    def forward(self, vec: Tensor, r: Tensor | None = None) -> Tensor:
        """r (e,): the lengths of vec, where they are known."""
        return ops.edge_features(vec, self.centres, self.kinds, self.columns, r)

    def of_length(self, vec: Tensor, r: Tensor) -> Tensor | ops.Lengths:
        """The same of bare Gaussians alone, for :func:`forcelaw.ops.painn_message`."""
        return ops.length_features(vec, r, self.centres, self.kinds, self.columns)
