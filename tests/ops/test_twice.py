"""Second derivatives that are written down, against those that torch composes."""

import pytest
import torch
from torch.nn import functional

from forcelaw.ops import twice

CASES = {
    "layer_norm": (
        lambda x, w, b: functional.layer_norm(x, (7,), w, b),
        twice.layer_norm,
        [(5, 7), (7,), (7,)],
    ),
    "silu": (functional.silu, twice.silu, [(5, 7)]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_two_derivatives(name):
    theirs, ours, shapes = CASES[name]
    torch.manual_seed(0)
    inputs = [3 * torch.randn(shape, dtype=torch.float64) for shape in shapes]
    found = []
    for function in (theirs, ours):
        given = [x.clone().requires_grad_() for x in inputs]
        y = function(*given)
        once = torch.autograd.grad(y.square().sum(), given, retain_graph=True)
        (force,) = torch.autograd.grad(y.sin().sum(), given[:1], create_graph=True)
        found.append([y, *once, force, *torch.autograd.grad(force.cos().sum() + y.sum(), given)])
    for a, b in zip(*found):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)
