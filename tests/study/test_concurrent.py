"""Runs side by side in one worker: the same numbers to the last bit, and none that another can
disturb."""

import contextlib
import itertools
import time

import polars as pl
import pytest
import torch

from forcelaw.errors import StudyError
from forcelaw.store.runs import runs
from forcelaw.study import concurrent, worker
from forcelaw.study.config import load
from forcelaw.table.directory import table
from forcelaw.training import cooperative
from forcelaw.training.cooperative import Request, Scheduler, drive
from forcelaw.training.device_time import ENOUGH_STEPS, QUEUED_STEPS, SAMPLE_STEPS, Clock
from tests.packs import write_pack

CPU = torch.device("cpu")
STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, {name: painn, learning_rate: 2e-3}]
sizes: [3e3]
depth: 1
seeds: [0, 1]
epochs: 6
distinct_atoms: [40, 100]
train:
  batch_molecules: 4
  evaluations: 3
  first_evaluation: 2
  validation_structures: 6
  precision: float64
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function that trains the study into tmp_path/NAME."""
    torch.set_num_threads(1)
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(STUDY)

    def run(name, side_by_side, *, background=False, stop=lambda: False, workers=1):
        monkeypatch.setattr(
            concurrent,
            "Scheduler",
            lambda limit, device, **_: Scheduler(limit, device=device, background=background),
        )
        worker.work(
            load(tmp_path / "t.yaml"),
            tmp_path / name,
            tmp_path,
            device="cpu",
            runs_per_device=side_by_side,
            stop=stop,
            show=False,
            workers=workers,
        )
        return tmp_path / name / "runs"

    return run


def assert_equal(one, other) -> None:
    a, b = (table(path).drop("h", "throughput").sort("run", "step") for path in (one, other))
    assert a.equals(b) and len(a)
    for first, second in zip(runs(one), runs(other), strict=True):
        x, y = ((run.path / "last.safetensors").read_bytes() for run in (first, second))
        assert x[8 + int.from_bytes(x[:8], "little") :] == y[8 + int.from_bytes(y[:8], "little") :]


def test_runs_side_by_side_make_the_same_bits(train) -> None:
    serial = train("serial", 1)
    assert len(list(runs(serial))) == 10
    assert_equal(serial, train("side_by_side", 3))
    assert_equal(serial, train("prepared-in-a-thread", 4, background=True))
    for run in runs(serial):
        result = run.result()
        assert result["timing"] == "solo" and result["seconds"] == pytest.approx(
            result["wall_seconds"]
        )


def test_runs_are_really_interleaved_and_share_their_data(train, monkeypatch) -> None:
    shards, order = [], []
    original = concurrent.training

    def training(run, *rest, **options):
        shards.append(options["shards"])
        steps = original(run, *rest, **options)
        try:
            while True:
                order.append(run.id)
                yield next(steps)
        except StopIteration as end:
            return end.value

    monkeypatch.setattr(concurrent, "training", training)
    train("side_by_side", 3)
    assert sum(a != b for a, b in itertools.pairwise(order)) > len(order) / 2
    assert len({id(s) for s in shards}) == 1
    # one shard for validation and one for the larger of the two training sets
    assert sorted(len(held) for held in shards[0]._held.values()) == [2]


def test_stopped_runs_resume_to_the_same_bits(train) -> None:
    serial = train("serial", 1)
    for moment in (1, 40, 150):
        name, asked = f"cut-{moment}", itertools.count()
        train(name, 3, stop=lambda asked=asked, moment=moment: next(asked) >= moment)
        cut = [run for run in runs(serial.parent.parent / name / "runs") if not run.done]
        assert cut and not any(run.held for run in cut)
        assert_equal(serial, train(name, 3))


def test_out_of_memory_beside_others_is_tried_again_with_fewer(train, monkeypatch, capsys) -> None:
    original, trials = concurrent.training, []

    def training(run, *rest, **options):
        if run.spec()["label"] == "PaiNN" and run.spec()["seed"] == 1:
            trials.append(run.id)
            if len(trials) == 1:
                yield
                raise torch.OutOfMemoryError("CUDA out of memory")
        return (yield from original(run, *rest, **options))

    monkeypatch.setattr(concurrent, "training", training)
    frame = table(train("side_by_side", 3)).filter(pl.col("final"))
    assert (frame["status"] == "finished").all() and len(trials) == 3
    assert "no more than 2 at" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_out_of_memory_beside_other_processes_is_tried_twice_more(
    train, monkeypatch, workers
) -> None:
    trials = []

    def training(run, *_, **__):
        trials.append(run.id)
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(concurrent, "training", training)
    monkeypatch.setattr(concurrent, "CROWDED_SECONDS", 0.0)
    found = list(runs(train("alone", 1, workers=workers)))
    assert found and all(run.result()["status"] == "failed" for run in found)
    assert all(trials.count(run.id) == (3 if workers > 1 else 1) for run in found)


def test_a_worker_whose_device_gave_up_fails_no_second_run(train, monkeypatch, tmp_path) -> None:
    def training(*_, **__):
        yield
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(concurrent, "training", training)
    monkeypatch.setattr(concurrent.ConcurrentRuns, "_device_answers", lambda self: False)
    with pytest.raises(StudyError, match="does not answer"):
        train("alone", 1)
    left = list(runs(tmp_path / "alone" / "runs"))
    assert sum(run.done for run in left) == 1 and not any(run.held for run in left)


def test_a_device_that_gave_up_ends_the_worker_and_blames_nobody(
    train, monkeypatch, tmp_path
) -> None:
    original = concurrent.training

    def training(run, *rest, **options):
        steps = original(run, *rest, **options)
        yield next(steps)
        if run.spec()["label"] == "PaiNN":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return (yield from steps)

    monkeypatch.setattr(concurrent, "training", training)
    monkeypatch.setattr(concurrent.ConcurrentRuns, "_device_answers", lambda self: False)
    with pytest.raises(StudyError, match="does not answer"):
        train("side_by_side", 3)
    left = list(runs(tmp_path / "side_by_side" / "runs"))
    assert not any((run.result() or {}).get("status") == "failed" or run.held for run in left)


class Event:
    """Done when it has been asked ``after`` times."""

    def __init__(self, after: int):
        self.left = after

    def query(self) -> bool:
        self.left = max(0, self.left - 1)
        return not self.left

    def synchronize(self) -> None:
        self.left = 0


@pytest.mark.parametrize("background", [False, True])
def test_who_asks_to_be_alone_finds_nothing_else_under_way(background) -> None:
    under_way, alone_with = {}, []

    def queue(name, after):
        under_way[name] = Event(after)
        return under_way[name]

    def training(name, turns):
        yield queue(name, 3)
        for k in range(turns):
            if k % 5 == 2:
                yield Request.EXCLUSIVE
                alone_with.append([n for n, event in under_way.items() if event.left])
            if k % 7 == 3:
                yield Request.PREPARE
                queue("preparation", 1)
                time.sleep(0.002)
                under_way.pop("preparation")
            yield queue(name, 1 + k % 4)
        return name

    side, ended, waiting = (
        Scheduler(3, device=CPU, background=background),
        [],
        [(f"run {k}", 10 + 3 * k) for k in range(7)],
    )
    while waiting or side.tasks:
        if waiting and len(side.tasks) < 3 and side.settled:
            name, turns = waiting.pop()
            side.add(name, training(name, turns))
        ended += side.step()
    side.close()
    assert sorted(e.result for e in ended) == [f"run {k}" for k in range(7)] and not any(
        e.error for e in ended
    )
    assert len(alone_with) > 20 and not any(alone_with)


def test_an_error_carries_its_text_and_drops_its_tensors() -> None:
    import weakref

    seen = []

    def training():
        held = torch.zeros(3)
        seen.append(weakref.ref(held))
        yield None
        raise ValueError("odd")

    side = Scheduler(2, device=CPU, background=False)
    side.add("run", training())
    ended = side.step() + side.step()
    assert (
        isinstance(ended[0].error, ValueError)
        and "odd" in ended[0].traceback
        and not side.tasks
        and len(side.free) == 2
    )
    assert seen[0]() is None


def test_a_single_training_waits_for_what_it_asks() -> None:
    events = [Event(5), Event(5)]

    def training():
        yield Request.PREPARE
        for event in events:
            yield event
            assert event.left == 0
        return {"status": "finished"}

    assert drive(training(), CPU) == {"status": "finished"}


def test_the_clock_of_a_run_alone_is_the_wall() -> None:
    clock = Clock(0, 100, sampled=False)
    assert not clock.sample_due(0) and clock.seconds(10, 3.0, exclusive=False) == 3.0
    assert clock.steps_to_queue(exclusive=False) == QUEUED_STEPS[0]


def test_the_clock_of_a_shared_device_counts_steps_as_long_as_those_timed_alone() -> None:
    clock = Clock(0, 1000, sampled=True)
    assert clock.sample_due(0) and clock.steps_to_queue(exclusive=True) == SAMPLE_STEPS
    few = ENOUGH_STEPS // 2  # cut short by an evaluation: the next steps are timed too
    assert clock.seconds(few, 0.001 * few, exclusive=True) == pytest.approx(0.001 * few)
    assert clock.sample_due(few)
    clock.seconds(few, 0.003 * few, exclusive=True)
    assert not clock.sample_due(2 * few)
    assert clock.seconds(100, 55.0, exclusive=False) == pytest.approx(0.2)
    assert not clock.sample_due(499) and clock.sample_due(500)
    clock.seconds(2 * few, 0.002 * few * 2 * 2, exclusive=True)
    assert not clock.sample_due(999)
    assert clock.seconds(10, 1.0, exclusive=False) == pytest.approx(0.03)


def test_the_first_training_has_the_stream_of_high_priority(monkeypatch) -> None:
    """And the next one to begin has it once the first has ended."""

    class Stream:
        def __init__(self, device, priority=0):
            self.priority = priority

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(cooperative, "on_stream", lambda stream: contextlib.nullcontext())
    side = Scheduler(3, device=torch.device("cuda"), background=False)

    def training(turns):
        yield Request.PREPARE
        for _ in range(turns):
            yield None

    for key, turns in [("long", 3), ("short", 1), ("middle", 5)]:
        side.add(key, training(turns))
    given = {task.key: task.stream.priority for task in side.tasks}
    assert given == {"long": -1, "short": 0, "middle": 0}
    over = [ended.key for _ in range(5) for ended in side.step()]
    assert over == ["short", "long"]
    side.add("next", training(1))
    side.add("last", training(1))
    assert [task.stream.priority for task in side.tasks] == [0, -1, 0]
    assert len({id(task.stream) for task in side.tasks}) == 3
