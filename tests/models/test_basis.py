"""Envelope, Gaussian basis and safe norm against their formulas, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forcelaw.models.basis import BesselBasis, ExponentialBasis, GaussianBasis, envelope, safe_norm


def general_envelope(x: float, p: int) -> float:
    """DimeNet (arXiv 2003.03123), eq. 8, for any p."""
    if x >= 1.0:
        return 0.0
    return (
        1.0
        - (p + 1) * (p + 2) / 2.0 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2.0 * x ** (p + 2)
    )


def test_envelope_is_the_polynomial_of_order_five() -> None:
    x = np.linspace(0.0, 1.4, 57)
    found = envelope(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, [general_envelope(v, 5) for v in x], atol=1e-14)
    assert found[0] == 1.0 and (found[x >= 1.0] == 0.0).all()


def test_envelope_vanishes_with_slope_and_curvature_at_the_cutoff() -> None:
    x = torch.tensor([1.0 - 1e-9, 1.0, 1.0 + 1e-9], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    assert float(value.detach().abs().max()) < 1e-14
    assert float(slope.detach().abs().max()) < 1e-13
    assert float(curvature.detach().abs().max()) < 1e-6  # third derivative is -210
    assert float(envelope(torch.tensor(0.97, dtype=torch.float64))) > 1e-4


def test_envelope_falls_monotonically() -> None:
    assert bool((envelope(torch.linspace(0.01, 0.999, 400, dtype=torch.float64)).diff() < 0).all())


def test_envelope_is_finite_with_gradients_far_outside() -> None:
    """Padding edges are 1732 Angstrom long."""
    x = torch.tensor([1.5, 300.0, 1e3], requires_grad=True)
    value = envelope(x)
    value.sum().backward()
    assert value.tolist() == [0.0] * 3 and x.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize("count,cutoff,spread", [(2, 3.0, 1.0), (16, 6.0, 1.0), (9, 5.0, 2.0)])
def test_gaussian_basis_is_its_formula(count: int, cutoff: float, spread: float) -> None:
    r = [0.0, 0.7, 2.9, cutoff, 7.5]
    spacing = cutoff / (count - 1)
    expected = [
        [math.exp(-0.5 * ((x - k * spacing) / (spread * spacing)) ** 2) for k in range(count)]
        for x in r
    ]
    found = GaussianBasis(count, cutoff, spread).double()(torch.tensor(r, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)  # centres are stored in float32
    assert found.shape == (5, count)


@pytest.mark.parametrize("count,cutoff", [(2, 3.0), (16, 6.0)])
def test_exponential_basis_is_its_formula(count: int, cutoff: float) -> None:
    """PhysNet (arXiv 1902.08408), eq. 7: exp(-beta (exp(-r') - mu_k)^2), mu_k from exp(-5) to 1; r'
    = 5 r / cutoff."""
    r, low = [0.0, 0.7, 2.9, cutoff, 7.5], math.exp(-5.0)
    beta = (2.0 / count * (1.0 - low)) ** -2
    centres = [low + (1.0 - low) * k / (count - 1) for k in range(count)]
    expected = [
        [math.exp(-beta * (math.exp(-5.0 * x / cutoff) - mu) ** 2) for mu in centres] for x in r
    ]
    found = ExponentialBasis(count, cutoff).double()(torch.tensor(r, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)  # centres are stored in float32


@pytest.mark.parametrize(
    "basis", [GaussianBasis(8, 6.0), ExponentialBasis(8, 6.0)], ids=["Gaussian", "exponential"]
)
def test_bases_have_no_parameters_and_no_state(basis: torch.nn.Module) -> None:
    assert not list(basis.parameters()) and not basis.state_dict()
    r = torch.linspace(0.0, 2e3, 99, requires_grad=True)
    basis(r).sum().backward()
    assert bool(r.grad.isfinite().all())


def test_safe_norm_is_the_length_and_is_differentiable_at_zero() -> None:
    vec = torch.tensor(
        [[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1e-3, 0.0, 0.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    length = safe_norm(vec)
    np.testing.assert_allclose(length.detach().numpy(), [5.0, 1e-7, 1e-3], rtol=1e-12)
    (slope,) = torch.autograd.grad(length.sum(), vec, create_graph=True)
    np.testing.assert_allclose(
        slope.detach().numpy(), [[0.6, 0.8, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], atol=1e-12
    )
    (second,) = torch.autograd.grad(slope.square().sum(), vec)
    assert bool(second.isfinite().all())


def test_bessel_functions_are_orthonormal_in_the_sphere_and_finite_at_zero() -> None:
    cutoff, count = 5.0, 6
    basis = BesselBasis(count, cutoff).double()
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r = torch.tensor(0.5 * cutoff * (nodes + 1.0), requires_grad=True)
    values = basis(r)
    weight = 0.5 * cutoff * weights * r.detach().numpy() ** 2
    overlap = np.einsum("r,rk,rl->kl", weight, *[values.detach().numpy()] * 2)
    np.testing.assert_allclose(overlap, np.eye(count), atol=1e-6)  # waves are stored in float32
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(basis(at_zero).sum(), at_zero, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at_zero)
    assert first.isfinite().all() and second.isfinite().all()
