"""benchmarks/pointwise_flops.py: its counts against ones by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from pointwise_flops import Pointwise, step

from forcelaw.models.flops import cloud, counter, together
from forcelaw.models.sizing import size

pytestmark = pytest.mark.timeout(60)


def work(function, *operands: Tensor) -> tuple[int, int]:
    """Products and pointwise work of ``function``."""
    found = counter()
    own = Pointwise({getattr(f, "overloadpacket", f) for f in found.flop_registry})
    with own, found:
        function(*operands)
    assert not own.unknown
    return found.get_total_flops(), sum(own.seen.values())


A, B, WEIGHTS = torch.rand(6, 5), torch.rand(6, 5), torch.rand(5, 4)
TO = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "function, products, pointwise",
    [
        (lambda: A @ WEIGHTS, 2 * 6 * 5 * 4, 0),
        (lambda: A * B + A, 0, 2 * 30),
        (lambda: A.exp().div_(B), 0, 2 * 30),
        (lambda: A[:1] * B, 0, 30),  # elements of the output
        (lambda: torch.einsum("ij,ij->ij", A, B), 0, 30),
        (lambda: torch.einsum("ij,jk->ik", A, WEIGHTS), 240, 0),
        (lambda: A.sum(0), 0, 30),
        (lambda: A.new_zeros(3, 5).index_add_(0, TO, A), 0, 30),
        (lambda: A.new_zeros(3, 5).index_put_((TO,), A, accumulate=True), 0, 30),
        (lambda: A.new_zeros(3, 5).index_put_((TO[::2],), A[:3]), 0, 0),
        (lambda: A.softmax(1), 0, 2 * 30),
        (lambda: torch.view_as_complex(A[:, :4].reshape(6, 2, 2).clone()).mul(2), 0, 6 * 4),
        (lambda: (A.t().contiguous().view(-1)[TO], torch.cat([A, B]), A > B, A.double()), 0, 0),
        (lambda: (TO + TO, TO.sum(), torch.where(A > B, A, B)), 0, 0),
    ],
)
def test_operations(function, products: int, pointwise: int) -> None:
    assert work(function) == (products, pointwise)


def test_a_backward_pass_and_its_derivative_count() -> None:
    def double() -> None:
        x = A.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((x * x * x).sum(), x, create_graph=True)
        gradient.sum().backward()

    forward = 2 * 30 + 30  # products and the sum
    _, all_told = work(double)
    # d(x x x): two factors each of two products, and sums of x's three shares
    assert all_told > forward + 4 * 30 + 2 * 30


def test_what_has_no_rule_is_named() -> None:
    own = Pointwise(set())
    with own:
        torch.linalg.svdvals(A)
    assert own.unknown


def test_a_batch_of_two_is_twice_one_but_for_the_weights() -> None:
    config = size("painn", 1e4, elements=(1, 6, 8), cutoff=6.0, mean_degree=8.0)
    one, two = step(config, 1), step(config, 2)
    assert two[2:] == (2 * one[2], 2 * one[3])
    assert two[0] == 2 * one[0]
    assert 1.9 < sum(two[1].values()) / sum(one[1].values()) <= 2
    graph = together([cloud(config, seed=k) for k in range(2)])
    assert graph.natoms.tolist() == [9, 9] and graph.batch.tolist() == [0] * 9 + [1] * 9
    assert (graph.batch[graph.sender] == graph.batch[graph.receiver]).all()
