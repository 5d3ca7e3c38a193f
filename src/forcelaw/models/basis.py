"""Radial bases and the envelope that takes every message smoothly to zero at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import ops


def envelope(x: Tensor) -> Tensor:
    """Polynomial envelope with p = 5 of x = r / r_c: 1 - 21 x^5 + 35 x^6 - 15 x^7, zero for x >= 1.

    Value, slope and curvature vanish at x = 1 (DimeNet, arXiv 2003.03123, eq. 8).
    """
    x2 = x * x
    value = 1.0 + x2 * x2 * x * (-21.0 + x * (35.0 - 15.0 * x))
    return torch.where(x < 1.0, value, torch.zeros_like(value))


class GaussianBasis(nn.Module):
    """Gaussians with centres equally spaced on [0, cutoff] and a width of ``spread`` spacings:
    (...,) -> (..., count).

    They are not zero at the cutoff: multiply by :func:`envelope`.
    """

    def __init__(self, count: int, cutoff: float, spread: float = 1.0):
        super().__init__()
        centres = torch.linspace(0.0, cutoff, count, dtype=torch.float64)
        spacing = cutoff / (count - 1)
        self.register_buffer("centres", centres.to(torch.get_default_dtype()), persistent=False)
        self.coefficient = -0.5 / (spread * spacing) ** 2

    def forward(self, r: Tensor) -> Tensor:
        exponent = self.coefficient * (r.unsqueeze(-1) - self.centres).square()
        # exp(-50) = 2e-22 is nothing, but below exp(-87) float32 has denormals, which slow a CPU
        # down tenfold
        return torch.exp(exponent.clamp_min(-50.0))


class ExponentialBasis(nn.Module):
    """Gaussians in exp(-5 r / cutoff), equally spaced there, so that they are dense where bonds
    are: (...,) -> (..., count).

    The "exponential normal" basis of PhysNet (arXiv 1902.08408, eq. 7) with the scale of
    TorchMD-NET. With 16 functions and 6 Angstrom the spacing is about 0.2 Angstrom at a bond
    length, half that of equally spaced Gaussians.
    """

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        self.rate = 5.0 / cutoff
        low = math.exp(-5.0)
        centres = torch.linspace(low, 1.0, count, dtype=torch.float64)
        self.register_buffer("centres", centres.to(torch.get_default_dtype()), persistent=False)
        self.beta = (count / (2.0 * (1.0 - low))) ** 2

    def forward(self, r: Tensor) -> Tensor:
        exponent = -self.beta * (torch.exp(-self.rate * r).unsqueeze(-1) - self.centres).square()
        return torch.exp(exponent.clamp_min(-50.0))  # no denormals, as above


class Features(nn.Module):
    """Edge vectors (e, 3) -> features (e, columns) times the envelope, by one kernel: what the
    models make of their bases.

    radial(r); before it with ``vectors`` vec / r_c; after it the products of the unit vector's
    components with angular(r). ``padding`` columns of zeros. Nothing is differentiated by vec.
    """

    def __init__(
        self,
        cutoff: float,
        radial: ExponentialBasis,
        angular: ExponentialBasis | None = None,
        vectors: bool = False,
        padding: int = 0,
    ):
        super().__init__()
        self.cutoff, self.beta, self.beta_unit = (
            cutoff,
            radial.beta,
            angular.beta if angular is not None else 0.0,
        )
        none = radial.centres.new_zeros
        # kinds of columns: see kernels/features.py
        centres, kinds = [radial.centres], [0] * len(radial.centres)
        if vectors:
            centres, kinds = [none(3), *centres], [4, 5, 6, *kinds]
        if angular is not None:
            centres += [angular.centres] * 3
            kinds += [k for k in (1, 2, 3) for _ in range(len(angular.centres))]
        self.register_buffer("centres", torch.cat([*centres, none(padding)]), persistent=False)
        self.register_buffer(
            "kinds", torch.tensor(kinds + [7] * padding, dtype=torch.int32), persistent=False
        )

    def forward(self, vec: Tensor) -> Tensor:
        return ops.edge_features(
            vec, self.centres, self.kinds, self.cutoff, self.beta, self.beta_unit
        )


def safe_norm(vec: Tensor) -> Tensor:
    """(..., 3) -> (...,): the length, with a finite gradient at zero. Never returns less than 1e-7
    Angstrom."""
    return vec.square().sum(-1).clamp_min(1e-14).sqrt()
