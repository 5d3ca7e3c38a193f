"""The flat schedule-free AdamW against the package schedulefree, parameter for parameter."""

from collections.abc import Iterator

import pytest
import schedulefree
import torch

from forcelaw import ops
from forcelaw.models import build, mup
from forcelaw.models.mpnn import MPNNConfig
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.step import NEVER, new_stats
from tests.interpreter import needs_interpreter

STEPS = 20  # the interpreter is slow
MODES = ["torch", pytest.param("triton", marks=needs_interpreter)]


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    with ops.using(request.param):
        yield request.param


class Toy(torch.nn.Module):
    def __init__(self, dtype: torch.dtype):
        super().__init__()
        torch.manual_seed(0)
        self.a = mup.Linear(5, 7, "input", 0.5)
        self.b = mup.Linear(7, 7, "hidden", 0.5)
        self.c = mup.Linear(7, 2, "hidden", 3.0)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@pytest.mark.parametrize("mode", MODES, indirect=True)
@pytest.mark.parametrize(
    "warmup,weight_decay,decay,power",
    [(0, 0.0, 0.0, 0.0), (7, 0.0, 0.0, 0.0), (7, 0.03, 0.0, 0.0), (7, 0.0, 0.5, 8.0)],
)
def test_matches_the_package_over_many_steps_with_per_group_learning_rates(
    warmup: int, weight_decay: float, decay: float, power: float, mode: str
) -> None:
    ours, theirs = Toy(torch.float64), Toy(torch.float64)
    how = {"warmup": warmup, "weight_decay": weight_decay, "decay": decay, "power": power}
    flat = ScheduleFreeAdamW(ours, lr=3e-2, steps=STEPS, clip=None, **how)
    groups = [
        {"params": g["params"], "lr": 3e-2 * g["lr_scale"]} for g in mup.parameter_groups(theirs)
    ]
    package = schedulefree.AdamWScheduleFree(
        groups, betas=(0.9, 0.999), warmup_steps=warmup, weight_decay=weight_decay, r=power
    )
    rates = [group["lr"] for group in package.param_groups]
    package.train()
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(11, 5, dtype=torch.float64, generator=generator)
        gradients = torch.autograd.grad((ours(x) - 1).square().mean(), flat.params)
        flat.update(list(gradients), flat.table[step])
        for group, rate in zip(package.param_groups, rates):
            # 20 steps, the last 10 of them down: 1 up to the eleventh, then .9, .8, ..., .1
            group["lr"] = rate * min(1.0, (STEPS - step) / 10) if decay else rate
        package.zero_grad()
        (theirs(x) - 1).square().mean().backward()
        package.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    flat.swap_in(flat.averaged())
    package.eval()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_parameters_stay_views_of_the_flat_vector_and_swapping_is_exact() -> None:
    model = build(MPNNConfig(width=8, depth=1, elements=(1, 6)), seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = ScheduleFreeAdamW(model, lr=1e-2, steps=3, warmup=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    kept = optimizer.swap_in(torch.zeros_like(optimizer.y))
    assert all(float(p.detach().abs().sum()) == 0 for p in model.parameters())
    optimizer.y.copy_(kept)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_clipping_scales_the_whole_gradient_and_is_reported(mode: str) -> None:
    model = Toy(torch.float64)
    optimizer = ScheduleFreeAdamW(model, lr=1e-2, steps=2, warmup=0, clip=1.0)
    gradients = [torch.ones_like(p) for p in optimizer.params]
    norm, clipped = optimizer.update(gradients, optimizer.table[0])
    n = sum(p.numel() for p in optimizer.params)
    assert float(norm) == pytest.approx(n**0.5) and float(clipped) == 1.0
    assert float(optimizer.v.sum()) == pytest.approx(
        0.001 * 1.0, rel=1e-5
    )  # clipped to norm 1, squared, times 1 - beta2
    _, clipped = optimizer.update([g * 1e-6 for g in gradients], optimizer.table[1])
    assert float(clipped) == 0.0


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_the_books_add_up_and_remember_the_first_step_that_was_not_finite(mode: str) -> None:
    stats = new_stats(torch.device("cpu"))
    number = lambda x: torch.tensor(x, dtype=torch.float32)  # noqa: E731
    for step, (loss, norm) in enumerate(
        [(1.0, 2.0), (0.5, 4.0), (0.25, float("inf")), (float("nan"), 1.0)]
    ):
        rest = number(norm), number(float(step == 1)), torch.tensor(step)
        ops.record(stats, number(loss / 2), number(loss), *rest)
        if step == 1:
            assert stats.tolist() == [0.75, 6.0, 1.0, 2.0, NEVER]
    assert stats[3] == 4 and stats[4] == 2
