"""The stepper of a GPU, its CUDA graphs replaced by calls: padded batches of a few sizes must train
as exact ones do."""

import contextlib
import types

import numpy as np
import pytest
import torch

from forcelaw.data.schedule import Feed
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.training import step as module
from forcelaw.training.config import TrainOptions
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set
from forcelaw.training.step import EagerStep, GraphStep, new_stats
from tests.packs import write_pack

OPTIONS = TrainOptions(batch_molecules=3, augment=True)
STEPS = 12


@pytest.fixture
def log(monkeypatch) -> list:
    """What is done to the device, in order: sizes of the steps that are run, "room", "capture"."""
    done: list = []

    def capture(body, pool=None):
        done.append("capture")
        assert (pool is None) == (
            done.count("capture") == 1
        )  # all graphs of a run share the first one's memory
        return types.SimpleNamespace(replay=body, pool=lambda: "pool", reset=lambda: None)

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "current_stream": lambda: stream,
        "default_stream": lambda: stream,
        "Stream": lambda: stream,
        "stream": lambda s: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(module, "capture", capture)
    monkeypatch.setattr(module, "make_room", lambda: done.append("room"))
    return done


def trained(pack, kind, log=None, capacity=np.inf, options=OPTIONS):
    config = size("painn", 1.3e4, depth=2, **data_options(pack, cutoff=3.0))
    indices = training_set(pack)
    natoms = np.diff(pack.offsets)[indices]
    plan = plan_for(natoms, STEPS * 3 * natoms.mean(), 0, options)
    model = build(config, 0).double()
    optimizer = ScheduleFreeAdamW(model, lr=1e-2, steps=plan.steps, warmup=2)
    feed = Feed(
        pack,
        indices,
        plan,
        cutoff=3.0,
        elements=config.elements,
        device=torch.device("cpu"),
        dtype=torch.float64,
        capacity=capacity,
    )
    stepper = kind(model, optimizer, options, 0, new_stats(torch.device("cpu")))
    if log is not None:
        advance = stepper._advance
        stepper._advance = lambda window, rows, sizes, *rest: (
            log.append(sizes),
            advance(window, rows, sizes, *rest),
        )
    for window in feed.windows():
        before, steps = optimizer.y.clone(), float(stepper.stats[3])
        if not stepper.go_on(plan, window):
            stepper.release()
            stepper.begin(plan, window)
        # warming up leaves no trace
        assert torch.equal(before, optimizer.y) and stepper.stats[3] == steps
        for step in range(window.low, window.high):
            stepper.run(step)
    return optimizer, stepper, plan


def test_padded_steps_train_as_exact_ones_do(tmp_path, log) -> None:
    pack = write_pack(tmp_path / "pack")
    exact, eager, plan = trained(pack, EagerStep)
    padded, graphs, _ = trained(pack, GraphStep)
    assert plan.steps >= 8 and len(graphs.sizes) == len(graphs.graphs) == 4
    for name in ("y", "z", "v"):
        torch.testing.assert_close(
            getattr(padded, name), getattr(exact, name), rtol=1e-9, atol=1e-12
        )
    torch.testing.assert_close(graphs.stats, eager.stats, rtol=1e-10, atol=1e-12)
    assert graphs.stats[3] == plan.steps


@pytest.mark.parametrize("options", [OPTIONS, TrainOptions(batch_atoms=18, augment=True)])
def test_windows_use_the_graphs_of_the_first(tmp_path, log, monkeypatch, options) -> None:
    """All that a graph reads stays where it is, with the contents of the window; the steps are
    those of exact batches. Without room graphs are made anew, and the steps are the same."""
    places: list = []

    def capture(body, pool=None):
        return types.SimpleNamespace(replay=replay_of(body), pool=lambda: "pool", reset=log.clear)

    def replay_of(body):
        stepper = body.__closure__[-1].cell_contents.__self__
        shard, read = stepper.held, (stepper.matrix, stepper.numbers, stepper.start)
        held = [*read, *(table[name] for table, name in shard._arrays())]
        places.append([tensor.data_ptr() for tensor in held])

        def replay():
            now = (stepper.matrix, stepper.numbers, stepper.start)
            now = [*now, *(table[name] for table, name in stepper.window.shard._arrays())]
            assert [tensor.data_ptr() for tensor in now] == places[-1]
            body()

        return replay

    monkeypatch.setattr(module, "capture", capture)
    pack = write_pack(tmp_path / "pack", structures=120)
    exact, _, plan = trained(pack, EagerStep, options=options)
    for room in (0.5, 0.0):  # windows of few structures differ a lot
        monkeypatch.setattr(module, "ROOM", room)
        places.clear()
        padded, stepper, _ = trained(pack, GraphStep, capacity=120, options=options)
        assert (len(set(map(tuple, places))) == 1) == (room > 0)
        for name in ("y", "z", "v"):
            torch.testing.assert_close(
                getattr(padded, name), getattr(exact, name), rtol=1e-9, atol=1e-12
            )
        assert stepper.stats[3] == plan.steps and stepper.window.low > 2


def test_sizes_are_warmed_up_before_any_is_captured(tmp_path, log) -> None:
    """The largest twice and first: what a warm-up needs and what graphs hold is never there at
    once."""
    pack = write_pack(tmp_path / "pack")
    _, graphs, plan = trained(pack, GraphStep, log)
    warm = [graphs.sizes[-1], *graphs.sizes[::-1]]
    assert log[: len(warm) + 1 + len(graphs.sizes)] == [
        *warm,
        "room",
        *["capture"] * len(graphs.sizes),
    ]
    assert len(log) == len(warm) + 1 + len(graphs.sizes) + plan.steps


def test_a_stepper_that_never_began_has_nothing_to_release(tmp_path) -> None:
    """Where reading the data runs out of memory, that error must come out, and no other."""
    config = size("painn", 3e3, depth=1, **data_options(write_pack(tmp_path / "pack"), cutoff=3.0))
    optimizer = ScheduleFreeAdamW(model := build(config, 0), lr=1e-2, steps=2, warmup=0)
    GraphStep(model, optimizer, OPTIONS, 0, new_stats(torch.device("cpu"))).release()
