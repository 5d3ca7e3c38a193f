"""A study in pieces: it stops in time, says what is left, resumes, and ends with the same table;
halves of two machines too."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from forcelaw.cli import UNFINISHED
from forcelaw.cli.main import main
from forcelaw.store.runs import runs
from forcelaw.study import launcher, worker
from forcelaw.study.accounting import Piece, accounts
from forcelaw.study.config import load
from forcelaw.study.record import StudyDirectory, find_pack
from forcelaw.table.directory import table
from tests.packs import write_pack

STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, painn]
sizes: [2e3, 4e3]
depth: 1
seeds: [0]
epochs: 6
train:
  batch_molecules: 4
  evaluations: 3
  first_evaluation: 2
  validation_structures: 6
  precision: float64
learning_rate: {sweep: {size: 2e3, factors: [0.5, 1], epochs: 1}}
"""


@pytest.fixture
def study(tmp_path):
    torch.set_num_threads(1)
    write_pack(tmp_path / "pack")
    path = tmp_path / "t.yaml"
    path.write_text(STUDY)
    return path


def numbers(out):
    return table(out / "runs").drop("h", "throughput").sort("run", "step")


def train(study, out, **options):
    worker.work(load(study), out, study.parent, device="cpu", show=False, **options)


# The clock of a process runs this many seconds ahead from the moment that the file is there.
AHEAD = """
import os, time
clock = time.time
time.time = lambda: clock() + {seconds} * os.path.exists({flag!r})
"""


def test_after_the_minutes_the_command_says_what_is_left_and_goes_on(
    study, tmp_path, capsys, monkeypatch
) -> None:
    """Its time is up as soon as a run has begun to train, on a machine of any speed."""
    out, flag, clock = tmp_path / "out", tmp_path / "time is up", time.time
    study.write_text(study.read_text().replace("epochs: 6", "epochs: 10000"))
    (tmp_path / "sitecustomize.py").write_text(AHEAD.format(seconds=90, flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(time, "time", lambda: clock() + 90 * flag.exists())

    def wait_for_training():
        # a run of the grid: those of the sweep are over in an instant
        while clock() < began + 80 and not any(
            run.metrics() for run in runs(out / "runs") if run.spec()["kind"] == "grid"
        ):
            time.sleep(0.05)
        flag.touch()

    began, watch = clock(), threading.Thread(target=wait_for_training)
    watch.start()
    command = ["run", str(study), "--out", str(out), "--workers", "1", "--device", "cpu"]
    assert main([*command, "--no-report", "--minutes", "1.5"]) == UNFINISHED
    watch.join()
    said = capsys.readouterr().out
    # how long it took to begin is the machine's affair
    assert float(re.search(r"time is up after ([\d.]+) min", said)[1]) >= 1.5
    assert "of 8 runs are left" in said and "resumes the study" in said
    assert not any(run.held for run in runs(out / "runs"))
    assert any(run.position() for run in runs(out / "runs") if not run.done)
    assert main(["status", str(out)]) == 0
    assert "stopped" in capsys.readouterr().out
    books = accounts(out)
    assert books.pieces == 1 and 0 < books.held_hours < (90 + 80) / 3600 and books.solo_hours > 0


def test_time_that_is_up_after_planning_starts_no_worker(
    study, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(launcher, "_start", lambda *_: pytest.fail("a worker"))
    command = ["run", str(study), "--out", str(tmp_path / "out"), "--device", "cpu", "--no-report"]
    assert main([*command, "--minutes", "1e-6"]) == UNFINISHED
    assert "runs are left" in capsys.readouterr().out


def test_near_the_deadline_nothing_is_begun(study, tmp_path) -> None:
    train(study, tmp_path / "out", deadline=time.time() - 1)
    assert not any(run.metrics() or run.position() for run in runs(tmp_path / "out" / "runs"))
    train(study, tmp_path / "out", deadline=math.inf)
    assert all(run.done for run in runs(tmp_path / "out" / "runs"))


def test_the_largest_runs_are_made_known_but_held_back_until_they_are_asked_for(
    study, tmp_path, capsys
) -> None:
    train(study, tmp_path / "out", hold=0.75)
    found = {
        (s["kind"], s["label"], s["n"] > 3000): run.done
        for run in runs(tmp_path / "out" / "runs")
        if (s := run.spec())
    }
    assert found == {
        (kind, label, large): kind == "sweep" or not large
        for label in ("MPNN", "PaiNN")
        for kind, large in (("sweep", False), ("grid", False), ("grid", True))
    }
    directory = StudyDirectory(load(study), find_pack(load(study), study.parent), tmp_path / "out")
    assert len(directory.plan(hold=0.75).active) == 6
    # a forecast knows them from their specifications, before they are trained
    assert (
        main(["forecast", str(tmp_path / "out"), "--top", "0.75", "--burn-in-steps", "0"]) == 3
    )  # two sizes carry no law
    assert "refused" in capsys.readouterr().out
    said = ["--top", "0.75", "--json", str(tmp_path / "f.json")]
    assert main(["forecast", str(tmp_path / "out"), "--plan", str(study), *said]) == 3
    planned = json.loads((tmp_path / "f.json").read_text())["architectures"]
    large = {r.id: r.spec() for r in runs(tmp_path / "out" / "runs") if not r.done}
    assert {(a["architecture"], t["n"]) for a in planned for t in a["targets"]} == {
        (s["label"], s["n"]) for s in large.values()
    }
    train(study, tmp_path / "out")
    assert all(run.done for run in runs(tmp_path / "out" / "runs"))


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--minutes", "0"], "minutes"),
        (["--hold-largest", "2"], "hold_largest"),
        (["--workers", "-1"], "workers"),
    ],
)
def test_a_mistake_is_said(study, capsys, arguments, message) -> None:
    assert main(["run", str(study), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_piece_that_is_killed_counts_up_to_its_last_beat(tmp_path, monkeypatch) -> None:
    clock = iter([0.0, 0.0, 5.0, 12.0, 12.0, 14.0])
    monkeypatch.setattr("forcelaw.study.accounting.time.monotonic", lambda: next(clock))
    piece = Piece(tmp_path, device="GPU", devices=4, workers=4).__enter__()
    piece.beat()
    assert json.loads(piece.path.read_text())["seconds"] == 0
    piece.beat()
    assert json.loads(piece.path.read_text())["seconds"] == 12
    assert accounts(tmp_path).held_hours == pytest.approx(4 * 12 / 3600)


def test_a_study_is_planned_for_a_gpu_where_there_is_none(study, capsys) -> None:
    assert main(["run", str(study), "--plan", "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "by the rates of one H200" in said and "with 1 worker" in said
    if not torch.cuda.is_available():
        assert main(["run", str(study), "--device", "cuda"]) != 0  # training needs one
        assert "no CUDA device" in capsys.readouterr().err


def test_a_plan_for_a_gpu_says_what_runs_side_by_side_save(study, monkeypatch, capsys) -> None:
    """The longest of these runs bounds neither time; a second of waiting a step, half of it
    shared."""
    from forcelaw.study import cost

    monkeypatch.setattr(cost, "gpu_rate", lambda *_: cost.Rate(1.0, 0.0))
    words = ["run", str(study), "--plan", "--device", "cuda"]
    assert main(words) == 0
    together = capsys.readouterr().out
    assert main([*words, "--runs-per-device", "1"]) == 0
    alone = capsys.readouterr().out
    assert "side by side" not in alone
    told = re.search(r"about (.*) with 1 worker and runs side by side \((.*) one at", together)
    assert told and f"about {told[2]} with 1 worker, by" in alone and told[1] != told[2]


def test_the_rates_of_a_device_are_measured_once(study, tmp_path, monkeypatch) -> None:
    from forcelaw.study import cost
    from forcelaw.study.status import describe_plan

    def directory(out):
        return StudyDirectory(load(study), find_pack(load(study), study.parent), tmp_path / out)

    first = cost.rates_of(directory("out"), "cpu")
    monkeypatch.setattr(cost, "measure_rates", lambda *_: pytest.fail("measured again"))
    assert cost.rates_of(directory("out"), "cpu") == first
    # a GPU is not kept waiting: nothing is timed
    on_gpu = cost.rates_of(directory("gpu"), "cuda")
    assert set(on_gpu) == set(first) and not (tmp_path / "gpu").exists()
    assert "rates of one H200" in describe_plan(directory("out"), on_gpu, 1, "cuda")
    spec = directory("out").plan().waiting[0].spec
    deeper = {**spec, "model": {**spec["model"], "depth": spec["model"]["depth"] + 2}}
    more = cost.seconds_of(deeper, on_gpu) / cost.seconds_of(spec, on_gpu)
    assert 1.2 < more < 3  # launches of two more layers
    # on a CPU the model itself is timed
    assert cost.seconds_of(deeper, first) == cost.seconds_of(spec, first)


def test_rates_are_those_of_one_thread(study, tmp_path, monkeypatch) -> None:
    from forcelaw.study import cost

    directory = StudyDirectory(load(study), find_pack(load(study), study.parent), tmp_path / "out")
    threads = []
    measured = cost._time_step
    monkeypatch.setattr(
        cost, "_time_step", lambda *a: (threads.append(torch.get_num_threads()), measured(*a))[1]
    )
    torch.set_num_threads(2)
    try:
        cost.rates_of(directory, "cpu", remember=False)
        assert set(threads) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_no_worker_trains_on_when_the_launcher_fails(study, tmp_path, monkeypatch) -> None:
    started = []

    def start(*_):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))
        return started[-1]

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(launcher, "_start", start)
    monkeypatch.setattr(launcher, "_watch", full)
    directory = StudyDirectory(load(study), find_pack(load(study), study.parent), tmp_path / "out")
    with pytest.raises(OSError, match="No space"):
        launcher.run_local(directory, study, workers=2, device="cpu", rates={})
    codes = [process.poll() for process in started]
    for process in started:
        process.kill()
    assert len(codes) == 2 and None not in codes


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_save_are_waited_for_until_a_second_ctrl_c(capsys, again) -> None:
    saves = "import signal, sys, time\n"
    saves += "def save(*_):\n    time.sleep(0.5)\n    sys.exit(0)\n"
    saves += "signal.signal(signal.SIGTERM, save)\nprint(flush=True)\ntime.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", saves], stdout=subprocess.PIPE)
    worker.stdout.readline()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, [os.getpid(), again])
    timer.start()
    try:
        if again is signal.SIGTERM:  # schedulers repeat it
            launcher._end([worker])
            assert worker.returncode == 0
        else:
            with pytest.raises(KeyboardInterrupt):
                launcher._end([worker])
            assert worker.poll() is None and "still saving" in capsys.readouterr().err
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
        worker.wait(timeout=20)
        worker.stdout.close()
    assert worker.returncode == 0  # it was not disturbed


def test_the_status_counts_runs_that_wait_for_a_sweep_as_work(study, tmp_path) -> None:
    from forcelaw.study.cost import Rate
    from forcelaw.study.status import describe_rest, study_status

    directory = StudyDirectory(load(study), find_pack(load(study), study.parent), tmp_path / "out")
    rates = dict.fromkeys(("MPNN", "PaiNN"), Rate(1.0, 0.0))
    before = study_status(directory, rates)
    assert (before.total, before.ended, before.complete, before.done) == (4 + 4, 0, False, 0.0)
    train(study, tmp_path / "out", hold=0.75)
    held, after = study_status(directory, rates, hold=0.75), study_status(directory, rates)
    assert held.over and held.total == held.states["finished"] == 6 and held.share == 1.0
    assert not after.over and (after.total, after.ended) == (8, 6) and after.states["waiting"] == 2
    assert after.work == pytest.approx(before.work) and after.done == pytest.approx(held.work)
    rest = describe_rest(after, before, after.done / 2)  # two seconds of work in each second
    assert "2 of 8 runs" in rest and f"{100 * (1 - after.share):.0f}%" in rest


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_threads_of_a_run_do_not_depend_on_the_workers(workers) -> None:
    for k in range(workers):
        environment = launcher._environment(k, workers, "cpu", 1)
        assert {environment[name] for name in launcher.THREAD_VARIABLES} == {"1"}


def test_a_caller_keeps_its_small_numbers(study, tmp_path) -> None:
    """Training flushes denormals for speed; the caller's arithmetic is as before."""
    seen = set()  # by those that ask whether to stop: the training, and the worker around it

    def stop():
        seen.add(sys.float_info.min * 0.5)
        return False

    train(study, tmp_path / "out", deadline=time.time() + 5, stop=stop)
    assert sys.float_info.min * 0.5 > 0.0
    assert seen == {0.0, sys.float_info.min * 0.5}
