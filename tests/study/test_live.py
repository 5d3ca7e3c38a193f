"""What is shown of a study under way: a line of JSON a minute, status with SLURM's queue, and
Prometheus's text format, against its grammar."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forcelaw.api.study import Study, study_status
from forcelaw.cli.main import main
from forcelaw.store import beats
from forcelaw.store.beats import Beats, latest
from forcelaw.store.claim import holder
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study import live, stop
from forcelaw.study.slurm import queue
from forcelaw.study.worker import work
from tests.packs import write_pack

STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [{name: mpnn, label: 'a "quoted" \\ label'}]
sizes: [2e3]
depth: 1
seeds: [0, 1]
epochs: 2
train: {batch_molecules: 4, evaluations: 2, first_evaluation: 2, validation_structures: 6}
"""
# of https://prometheus.io/docs/instrumenting/exposition_formats: a sample, with quoted labels
LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)\{{({LABEL}(?:,{LABEL})*)\}} (\S+)")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(STUDY)
    study = Study.load(tmp_path / "t.yaml", tmp_path / "out")
    study.directory.write(command="")
    study.directory.create_runs()
    return study


@pytest.fixture
def held(study: Study, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that task 7_1 holds, at step 30 of its steps; task 7_0 waits, 7_2 is gone."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    run = next(iter(runs(study.out / "runs")))
    assert run.claim()
    state = {"step": 3, "steps": 9, "rate": 2.0, "left": 3.0, "loss": 0.25}
    device = {"device": "GPU", "gpu_memory": 4.0, "gpu_memory_total": 8.0}
    said = Beats(study.out / "logs" / "7_1-node.jsonl")
    said._last = -math.inf
    said.write(lambda: {run.id: state}, lambda: device)
    monkeypatch.setattr(queue, "submitted", lambda out: ["7"])
    jobs = [("7_0", "PENDING", "BeginTime"), ("7_1", "RUNNING", "None"), ("7_2", "CANCELLED", "")]
    found = {name: queue.Job(name, s, "1:00", "2:00", why, "n1") for name, s, why in jobs}
    monkeypatch.setattr(queue, "jobs", lambda ids: found)
    yield run
    run.release()


def test_status_joins_claims_lines_and_queue(study, held) -> None:
    text, over = study_status(study.out)
    assert not over
    row = next(line for line in text.splitlines() if line.startswith(held.id))
    steps = held.spec()["steps"]
    for word in (f"{3 / steps:.0%}", "0.2500", "3 s", "7_1"):
        assert word in row
    assert "BeginTime" in text and "1 CANCELLED" in text and "4.0 of 8.0 GiB" in text
    assert holder(held.path)["pid"] == os.getpid() and holder(held.path)["job"] == "7_1"


def test_a_run_of_a_job_that_is_gone_is_shown_as_such(study, held, monkeypatch) -> None:
    gone = {"7_1": queue.Job("7_1", "CANCELLED", "1:00", "2:00", "", "n1")}
    monkeypatch.setattr(queue, "jobs", lambda ids: gone)
    assert "CANCELLED, taken over within" in study_status(study.out)[0]
    monkeypatch.setattr(queue, "jobs", lambda ids: None)  # no squeue here
    assert "squeue" in study_status(study.out)[0]


def test_nobody_trains(study) -> None:
    assert "nobody trains" in study_status(study.out)[0]
    stop.ask(study.out)
    assert "nobody trains" not in study_status(study.out)[0]


def test_prometheus_reads_it(study, held, capsys) -> None:
    assert main(["status", str(study.out), "--prometheus"]) == 0
    values: dict[str, list[tuple[str, float]]] = {}
    seen = ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("# "):
            seen = line.split()[2]
            continue
        found = SAMPLE.fullmatch(line)
        assert found and found[1] == seen, line
        values.setdefault(found[1], []).append((found[2], float(found[3])))
    assert dict(values["forcelaw_run_loss"]).popitem()[1] == 0.25
    labels = values["forcelaw_runs"][0][0]
    assert r'architecture="a \"quoted\" \\ label"' in labels
    assert sum(n for _, n in values["forcelaw_runs"]) == 2
    assert {n for _, n in values["forcelaw_worker_gpu_memory"]} == {4.0}


def test_an_official_parser_reads_it(study, held) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    found = list(
        parser.text_string_to_metric_families(study_status(study.out, prometheus=True)[0] + "\n")
    )
    assert {family.name.removeprefix("forcelaw_") for family in found} <= set(live.FAMILIES)
    (loss,) = next(f for f in found if f.name == "forcelaw_run_loss").samples
    assert loss.labels["architecture"] == 'a "quoted" \\ label' and loss.value == 0.25


def test_a_worker_says_once_a_minute_how_it_goes(study, tmp_path, monkeypatch) -> None:
    """With a clock that jumps from minute to minute: a line of each run, steps up to its last."""
    monkeypatch.setattr(beats, "SECONDS", 0.0)
    file = study.out / "logs" / "w.jsonl"
    work(study.config, study.out, tmp_path, device="cpu", show=False, beats=file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    said = [(run, state) for line in lines for run, state in line["runs"].items()]
    assert {run for run, _ in said} == {run.id for run in runs(study.out / "runs")}
    steps = {run.id: run.spec()["steps"] for run in runs(study.out / "runs")}
    assert all(0 <= state["step"] <= steps[run] == state["steps"] for run, state in said)
    losses = {
        run: {row["loss"] for row in RunDirectory(study.out / "runs" / run).metrics()}
        for run in steps
    }
    heard = [(run, state["loss"]) for run, state in said if "loss" in state]
    assert heard and all(
        min(abs(loss - x) for x in losses[run]) < 1e-4 * loss for run, loss in heard
    )
    assert {line["device"] for line in lines} == {"CPU"} and lines[-1]["memory"] > 0


def test_lines_come_once_a_minute(tmp_path, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(beats.time, "monotonic", lambda: now[0])
    said = Beats(tmp_path / "logs" / "w.jsonl")
    for _ in range(600):
        now[0] += 1.0
        said.write(dict, dict)
    assert len((tmp_path / "logs" / "w.jsonl").read_text().splitlines()) == 10


def test_a_line_that_is_being_written_is_left_out(tmp_path) -> None:
    file = tmp_path / "logs" / "w.jsonl"
    file.parent.mkdir()
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    whole = json.dumps({"time": now, "runs": {"a": {"step": 1}}})
    file.write_text(f'{whole}\n{whole.replace("1}", "2}")}\n{{"time": "20')
    (file.parent / "old.jsonl").write_text(whole.replace(now, "2020-01-01T00:00:00+00:00") + "\n")
    (file.parent / "no.jsonl").write_text("[]\n")
    (line,) = latest(tmp_path)
    assert line["runs"]["a"]["step"] == 2


def test_status_needs_neither_torch_nor_numpy(study) -> None:
    """Both are most of the time in which a command starts."""
    code = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None"
    code += "; from forcelaw.cli.main import main"
    words = ["status", str(study.out)]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main({words!r}))"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_watching_ends_with_the_study(study, capsys, monkeypatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        for run in runs(study.out / "runs"):
            run.finish({"status": "finished", "seconds": 1.0, "flops": 1.0, "device": "CPU"})

    monkeypatch.setattr("forcelaw.cli.study.time.sleep", sleep)
    assert main(["status", str(study.out), "--watch", "20"]) == 0
    assert slept == [20.0, 3.0]
    assert capsys.readouterr().out.count("for scale:") == 3
