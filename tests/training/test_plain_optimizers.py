"""AdamW and SGD on flat vectors against torch.optim, and schedules against closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import forcelaw
from forcelaw.data.pack import Pack, sample_path
from forcelaw.models.mup import Linear, parameter_groups
from forcelaw.table.directory import table
from forcelaw.table.runs import Runs
from forcelaw.training import checkpoint, loop
from forcelaw.training.config import TrainOptions
from forcelaw.training.optimizer import PlainOptimizer, step_table

STEPS = 20


class Toy(torch.nn.Module):
    """Two layers with learning rates of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = Linear(5, 7, "input", 0.5), Linear(7, 2, "hidden", 3.0)
        self.double()

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize(
    ("kind", "weight_decay", "clip"),
    [("adamw", 0.0, None), ("adamw", 0.1, None), ("adamw", 0.0, 0.3), ("sgd", 0.0, None)],
)
def test_a_step_is_that_of_torch(kind: str, weight_decay: float, clip: float | None) -> None:
    ours, theirs = Toy(), Toy()
    flat = PlainOptimizer(
        ours,
        kind=kind,
        lr=3e-2,
        steps=STEPS,
        warmup=4,
        weight_decay=weight_decay,
        clip=clip,
        decay=0.5,
        shape="cosine",
    )
    groups = [{"params": g["params"], "lr": g["lr_scale"]} for g in parameter_groups(theirs)]
    if kind == "adamw":
        package = torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=weight_decay)
    else:
        package = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(11, 5, dtype=torch.float64, generator=generator)
        gradients = torch.autograd.grad((ours(x) - 1).square().mean(), flat.params)
        flat.update(list(gradients), flat.table[step])
        rise = min(1.0, (step + 1) / 4)
        fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (STEPS - step) / 10))
        for group, ours_group in zip(package.param_groups, parameter_groups(theirs)):
            group["lr"] = 3e-2 * ours_group["lr_scale"] * rise * fall
        package.zero_grad()
        (theirs(x) - 1).square().mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        package.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert torch.equal(flat.averaged(), flat.y)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_rates_fall_as_they_are_asked_to(shape: str) -> None:
    rate = step_table(2.0, 100, 10, (0.9, 0.999), decay=0.4, shape=shape)[:, 0]
    np.testing.assert_allclose(rate[:10], 2.0 * np.arange(1, 11) / 10)
    assert (rate[9:60] == 2.0).all() and (np.diff(rate[60:]) < 0).all()
    assert rate[80] == pytest.approx(1.0) and 0 < rate[-1] < 0.06


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_run_resumes_to_the_last_bit(kind: str, tmp_path, monkeypatch) -> None:
    how = {"optimizer": kind, "decay": 1.0, "decay_shape": "cosine", "batch_molecules": 4}
    rate = 3e-3 if kind == "adamw" else 1e-4
    options = {"size": 3e3, "atoms": 1500, "learning_rate": rate, "evaluations": 4}
    options |= {"first_evaluation": 2, "validation_structures": 20, "depth": 1}
    straight = forcelaw.train("mpnn", out=tmp_path / "a", **options, **how)
    losses = straight.metrics["loss"].to_list()
    assert len(set(losses)) == 4 and straight.result["status"] == "finished"
    run = loop.RunDirectory.create(tmp_path / "b", straight.spec)
    steps = iter(range(9))
    pack = Pack(sample_path())
    assert loop.train(run, pack, stop=lambda: next(steps) == 8) is None
    loop.train(run, pack)
    resumed = [row["loss"] for row in run.metrics()]
    assert resumed == losses
    model = checkpoint.load_model(run.path, straight.model())
    for p, q in zip(model.parameters(), straight.model().parameters()):
        assert torch.equal(p, q)


def test_options_that_do_not_go_together_are_refused() -> None:
    for wrong in (
        {"optimizer": "adamw", "average_power": 2.0},
        {"optimizer": "sgd", "weight_decay": 0.1},
        {"decay_shape": "cosine"},
        {"optimizer": "lion"},
    ):
        with pytest.raises(ValueError):
            TrainOptions(**wrong)
    assert TrainOptions().protocol == ""
    assert "cosine" in TrainOptions(decay=1.0, decay_shape="cosine", optimizer="adamw").protocol
    assert not {"optimizer", "decay_shape"} & TrainOptions().model_dump().keys()  # ids as before


def test_only_the_end_of_a_falling_rate_is_data(tmp_path) -> None:
    """Evaluations while the rate is high are in the table and in no fit."""
    short = {"size": 3e3, "depth": 1, "evaluations": 3, "validation_structures": 20, "atoms": 600}
    short |= {"first_evaluation": 2, "batch_molecules": 2, "out": tmp_path}
    forcelaw.train("mpnn", **short)
    falling = forcelaw.train("mpnn", optimizer="adamw", decay=1.0, **short)
    frame = table(tmp_path / "runs")
    assert frame.height == 6 and set(frame["optimizer"].to_list()) == {None, "adamw"}
    runs = Runs.from_frame(tmp_path / "runs")
    assert sorted(np.bincount(runs.run)) == [1, 3]
    (alone,) = np.flatnonzero(np.bincount(runs.run)[runs.run] == 1)
    assert runs["loss"][alone] == falling.metrics["loss"][-1]
    assert any("falls" in note for note in runs.notes)
    path = tmp_path / "runs.csv"
    frame.write_csv(path)
    assert len(Runs.from_frame(path)) == 4
    assert json.loads((falling.path / "spec.json").read_text())["train"]["optimizer"] == "adamw"
