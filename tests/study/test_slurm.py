"""An array of workers, without a cluster: the job script that submitit writes is run as SLURM runs
it, with stand-ins for sbatch, srun, squeue and scontrol. contrib/slurm does it on a real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from forcelaw import host
from forcelaw.api.study import Study
from forcelaw.cli.main import main
from forcelaw.errors import StudyError
from forcelaw.store.runs import content_id, runs
from forcelaw.study import status, stop
from forcelaw.study.config import load
from forcelaw.study.cost import Times
from forcelaw.study.slurm import array_worker, queue, submit
from forcelaw.study.slurm import task as slurm_task
from forcelaw.study.slurm.array_worker import ArrayWorker
from forcelaw.study.slurm.options import Slurm, minutes_of
from forcelaw.study.worker import work
from forcelaw.table.directory import table
from tests.packs import write_pack

STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn]
sizes: [2e3]
depth: 1
seeds: [0, 1]
epochs: 60
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6}
slurm: {time: 0:10:00, workers: 2, cpus: 1, memory: 2G, partition: a100, setup: ["export A='b c'"],
        signal: 40, options: {qos: long}}
"""
TOOLS = {
    "sbatch": 'cp "$1" {0}/job.sh; echo "Submitted batch job 7"',
    "srun": 'while [ "${{1#-}}" != "$1" ]; do [ "$1" = --output ] && shift; shift; done; exec "$@"',
    # without --states=all it is silent on what is over
    "squeue": '[[ "$*" == *--states=all* ]] && echo "7_0|$(cat {0}/state)|1:00|9:00|None|node1"',
    "scontrol": 'echo "$@" >> {0}/requeued',
    "scancel": 'echo "$@" >> {0}/cancelled',
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, and a folder of stand-ins first in PATH."""
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(STUDY)
    (tmp_path / "state").write_text("RUNNING\n")
    (tmp_path / "bin").mkdir()
    for name, body in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/bash\n{body.format(tmp_path)}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Task 0 of the array, as SLURM would start it."""
    variables = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    variables |= {"SLURM_CPUS_PER_TASK": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["bash", str(folder / "job.sh")],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def step(process: subprocess.Popen[bytes]) -> list[int]:
    """All processes of a task but the shell of its script: SLURM sends its signals to each."""
    done = subprocess.run(
        ["ps", "-o", "pid=", "--sid", str(process.pid)], capture_output=True, text=True
    )
    return [pid for pid in map(int, done.stdout.split()) if pid != process.pid]


def past(limit: float) -> bool:
    return time.monotonic() > limit


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="SLURM")
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_task_saves_before_its_limit_and_when_it_is_stopped(cluster, capsys) -> None:
    """A warning, a requeued task, `forcelaw stop`, and a worker that does the rest: the numbers are
    those of a study that nobody disturbed."""
    out = cluster / "out"
    assert main(["run", str(cluster / "t.yaml"), "--out", str(out), "--slurm"]) == 0
    assert "job 7: 2 workers" in capsys.readouterr().out
    task = start(cluster)
    until(lambda: any(run.metrics() for run in runs(out / "runs")))
    for pid in step(task):
        os.kill(pid, signal.SIGUSR2)
    task.wait(timeout=60)
    log = (cluster / "log").read_text()
    assert (cluster / "requeued").read_text().split() == ["requeue", "7_0"], log
    assert not [run for run in runs(out / "runs") if run.held]
    assert [run for run in runs(out / "runs") if run.state() == "stopped"], log
    assert "stopped; " in log  # by its own decision, and not by the signal

    task = start(cluster)
    until(lambda: any(run.held for run in runs(out / "runs")))
    assert main(["stop", str(out)]) == 0
    assert task.wait(timeout=60) == 0, (cluster / "log").read_text()
    assert (cluster / "cancelled").read_text().split() == ["--state=PENDING", "7"]
    assert (cluster / "requeued").read_text().count("requeue") == 1
    words = [str(cluster / "t.yaml"), "--out", str(out), "--device", "cpu"]
    assert slurm_task.main(words) == array_worker.STOPPED  # one that was requeued meanwhile
    assert {run.state() for run in runs(out / "runs")} <= {"stopped", "waiting", "finished"}

    for folder in (out, cluster / "alone"):
        work(load(cluster / "t.yaml"), folder, cluster, device="cpu", show=False)
    disturbed, alone = (
        table(folder / "runs").drop("h", "throughput").sort("run", "step")
        for folder in (out, cluster / "alone")
    )
    assert disturbed.equals(alone)
    assert (out / "logs" / f"7_0-{host.place()}-0.log").exists()


def test_the_array_asks_for_what_the_study_says(cluster) -> None:
    Study.load(cluster / "t.yaml", cluster / "out").submit(gpus=1)
    script = (cluster / "job.sh").read_text().splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")}
    assert flags >= {
        "array=0-1%2",
        "cpus-per-task=1",
        "mem=2G",
        "partition=a100",
        "qos=long",
        "requeue",
        "signal=USR2@40",
        "time=10",
    }
    assert "export A='b c'" in script
    assert queue.submitted(cluster / "out") == ["7"]
    function = DelayedSubmission.load(cluster / "out" / "slurm" / "7_0_submitted.pkl").function
    given = dict(pairwise(function.words))
    assert (given["--idle"], given["--gpus"], given["--device"]) == ("900", "1", "cpu")
    assert Path(function.words[0]) == cluster / "t.yaml"
    assert "slurm" not in json.loads((cluster / "out" / "study.json").read_text())["study"]


def test_where_is_no_part_of_what(tmp_path) -> None:
    """The block changes neither ids nor record, so a study may move to another partition."""
    write_pack(tmp_path / "pack")
    plans = []
    for block in ("", STUDY[STUDY.index("slurm:") :]):
        (tmp_path / "t.yaml").write_text(STUDY[: STUDY.index("slurm:")] + block)
        study = Study.load(tmp_path / "t.yaml", tmp_path / "out")
        plans.append(study.plan()["run"].to_list())
        assert study.directory.write(command="") == ""
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("30", 30), (90, 90), ("1:30", 1.5), ("2:00:00", 120), ("1-12", 2160), ("1-0:30:00", 1470)],
)
def test_times_as_slurm_writes_them(time, minutes) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize(
    "block",
    [
        {"time": "soon"},
        {"time": "0"},
        {},
        {"time": 60, "memory": "much"},
        {"time": 60, "partition": "a b"},
        {"time": 60, "options": {"qos": "long\nrm -rf x"}},
        {"time": 60, "options": {"--qos": "long"}},
        {"time": 60, "setup": ["a\nb"]},
        {"time": 60, "nodes": 3},
    ],
)
def test_a_wrong_block_is_refused(block) -> None:
    with pytest.raises(ValueError):
        Slurm(**block)


def test_a_time_in_yaml_is_a_text(tmp_path) -> None:
    """YAML 1.1 reads 12:00:00 as a number of seconds, and SLURM reads numbers as minutes."""
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(STUDY.replace("0:10:00", "12:00:00"))
    block = load(tmp_path / "t.yaml").slurm
    assert block is not None and block.minutes == 720


@pytest.mark.parametrize(
    ("block", "gpus", "threads"), [({"gpus": 2}, 4, 1), ({"cpus": 3}, 2, 2), ({}, 1, 2)]
)
def test_a_worker_that_has_not_what_a_run_needs_is_refused(cluster, block, gpus, threads) -> None:
    study = Study.load(cluster / "t.yaml", cluster / "out")
    study.config = study.config.model_copy(update={"slurm": Slurm(time=60, **block)})
    with pytest.raises(StudyError):
        study.submit(gpus=gpus, threads=threads)
    assert not (cluster / "out").exists()


def known(hours):
    """Times of runs that take what they take, whatever runs beside them."""

    def times_of(spec, rates, *, shared=False):
        return Times(*2 * [3600.0 * hours[content_id(spec)]])

    return times_of


def test_a_plan_counts_workers_devices_limits_and_parts(cluster, monkeypatch) -> None:
    """Two runs of 12 hours on 2 workers of 4 GPUs, a limit of 4 hours: with a GPU a run all run at
    once in 3 parts; with 4 GPUs a run each worker has one, of 3 hours."""
    study = Study.load(cluster / "t.yaml", cluster / "out")
    block = Slurm(time=4 * 60 + 1, workers=2, gpus=4, signal=60)
    study.config = study.config.model_copy(update={"slurm": block})
    hours = {item.id: 12.0 for item in study.directory.plan().runs}
    monkeypatch.setattr(submit, "times_of", known(hours))
    alone = submit.describe_array(study.directory, {}, gpus=1)
    together = submit.describe_array(study.directory, {}, gpus=4)
    assert "24 GPU-hours" in alone and "24 GPU-hours" in together
    assert "3 h 00 min when" in together and "8 GPUs" in together and "parts" not in together
    assert "12 h 00 min when" in alone and "in 3 parts" in alone and "8 GPUs" in alone
    assert "requeues itself" not in together and "requeues itself about 2 times" in alone


@pytest.mark.parametrize(
    ("workers", "cards", "gpus", "text"),
    [(1, 1, 1, "24 h"), (2, 1, 1, "20 h"), (2, 4, 1, "20 h"), (2, 4, 4, "5 h"), (1, 4, 4, "6 h")],
)
def test_the_plan_of_workers_and_of_an_array_say_the_same_time(
    cluster, monkeypatch, workers, cards, gpus, text
) -> None:
    """Runs of 20 and of 4 hours: nothing is over before the longest is."""
    study = Study.load(cluster / "t.yaml", cluster / "out")
    block = Slurm(time=48 * 60, workers=workers, gpus=cards)
    study.config = study.config.model_copy(update={"slurm": block})
    ids = [item.id for item in study.directory.plan().runs]
    hours = dict(zip(ids, (20.0, 4.0), strict=True))
    for module in (submit, status):
        monkeypatch.setattr(module, "times_of", known(hours))
    array = submit.describe_array(study.directory, {}, gpus)
    plan = status.describe_plan(study.directory, {}, workers * max(1, cards // gpus), "cuda", gpus)
    assert f"{text} 00 min when" in array and f"about {text} 00 min with" in plan


def test_mistakes_before_anything_is_submitted(cluster, monkeypatch, capsys) -> None:
    words = ["run", str(cluster / "t.yaml"), "--out", str(cluster / "out"), "--slurm"]
    assert main([*words, "--minutes", "3"]) == 2
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(words) == 2
    assert "srun" in capsys.readouterr().err
    (cluster / "t.yaml").write_text(STUDY[: STUDY.index("slurm:")])
    assert main(words) == 2


def test_a_refusal_of_sbatch_is_a_mistake_in_the_study(cluster, capsys) -> None:
    (cluster / "bin" / "sbatch").write_text("#!/bin/bash\necho invalid partition >&2; exit 1\n")
    words = ["run", str(cluster / "t.yaml"), "--out", str(cluster / "out"), "--slurm"]
    assert main(words) == 2
    assert "invalid partition" in capsys.readouterr().err
    assert queue.submitted(cluster / "out") == []


@pytest.fixture
def worker(tmp_path, monkeypatch) -> ArrayWorker:
    monkeypatch.setattr(array_worker, "PAUSE_SECONDS", 0.0)
    return ArrayWorker([], str(tmp_path), 1.0)


@pytest.mark.parametrize(
    ("code", "states", "requeued"),
    [
        (array_worker.STOPPED, ["RUNNING"], True),
        (-signal.SIGTERM, ["RUNNING"], True),
        (array_worker.STOPPED, ["", "RUNNING"], True),  # squeue did not answer at once
        (array_worker.STOPPED, ["CANCELLED"], False),
        (array_worker.STOPPED, ["COMPLETING"], False),
        (array_worker.STOPPED, ["", "", ""], False),
    ],
)
def test_a_preempted_task_is_requeued_and_a_cancelled_one_is_not(
    worker, monkeypatch, code, states, requeued
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(worker, "_train", lambda: code)
    monkeypatch.setattr(queue, "state", lambda job: states.pop(0))
    monkeypatch.setattr(array_worker.signal, "raise_signal", seen.append)
    assert worker(0) == "cancelled"
    assert bool(seen) == requeued


def test_a_stopped_study_is_not_requeued(worker, tmp_path, monkeypatch) -> None:
    stop.ask(tmp_path)
    monkeypatch.setattr(worker, "_train", lambda: array_worker.STOPPED)
    monkeypatch.setattr(queue, "state", lambda job: "RUNNING")
    assert worker(0) == "stopped"
    with pytest.raises(SystemExit) as ended:
        worker.checkpoint(0)
    assert ended.value.code == 0


def test_training_that_fails_is_started_again_but_not_for_ever(worker, monkeypatch) -> None:
    codes = [-9, 2, 0]
    monkeypatch.setattr(worker, "_train", lambda: codes.pop(0))
    assert worker(0) == "no run is left"
    codes = [2, 76, -9, 0]
    with pytest.raises(StudyError):
        worker(0)
    assert codes == [0]


def test_squeue_is_read_whatever_it_knows(cluster) -> None:
    known = queue.jobs(["7", "7_0"])
    assert known is not None and known["7_0"].state == "RUNNING" and known["7_0"].node == "node1"
    (cluster / "bin" / "squeue").write_text("#!/bin/bash\nexit 1\n")
    assert queue.jobs(["7"]) == {}
    (cluster / "bin" / "squeue").unlink()


def test_a_worker_without_a_free_run_leaves_it_to_those_that_have_one(cluster) -> None:
    """Of two runs another worker holds one: the other one is trained, and that is all. While a
    sweep is held the grid may follow, and a worker stays."""
    for text, ends in (
        (STUDY.replace("epochs: 60", "epochs: 2"), True),
        (
            STUDY.replace("slurm:", "learning_rate: {sweep: {size: 2e3, factors: [1, 2]}}\nslurm:"),
            False,
        ),
    ):
        (cluster / "t.yaml").write_text(text.replace("epochs: 60", "epochs: 2"))
        study = Study.load(cluster / "t.yaml", cluster / str(ends))
        held, other = (study.directory.run(run) for run in study.directory.create_runs().runs)
        assert held.claim()
        limit = time.monotonic() + (60.0 if ends else 3.0)
        options = {"device": "cpu", "show": False, "idle": 0.5}
        work(study.config, study.out, cluster, stop=partial(past, limit), **options)
        assert past(limit) != ends
        assert (other.state(), held.done) == ("finished", False)
        held.release()
