"""Ownership of a run: one winner and one writer in every order of the steps of three workers, with
real files as in the model; processes that are gone, stopped, or in another PID namespace; clocks
that disagree."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forcelaw.errors import ClaimError, StorageError
from forcelaw.store import claim as claims
from forcelaw.store.claim import LEASE_SECONDS, identity, process_state
from forcelaw.store.runs import RunDirectory
from tests.store.model import Numbered, Renamed, explore

SPEC = {"study": "s", "label": "MPNN", "seed": 0}
PROGRAM = (
    "import sys, time; from forcelaw.store.runs import RunDirectory; run ="
    " RunDirectory(sys.argv[1]); print(run.claim(), flush=True); sys.stdin.read()"
)


def silent(holder: Path, seconds: float = LEASE_SECONDS + 5) -> None:
    then = holder.stat().st_mtime - seconds
    os.utime(holder, (then, then))


def elsewhere(run: RunDirectory, number: int = 1) -> Path:
    """A claim of another machine; the path of its holder.json."""
    folder = run.path / "claim" / str(number)
    (folder / "work").mkdir(parents=True)
    (folder / "holder.json").write_text(json.dumps({"token": "x", "host": "elsewhere", "pid": 1}))
    return folder / "holder.json"


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, SPEC)


@pytest.fixture
def other(run):
    return RunDirectory(run.path)


@pytest.fixture
def impatient(monkeypatch):
    """Every claim looks stale, as where a lease is over."""
    monkeypatch.setattr(claims, "_free", lambda folder, number: True)


@pytest.mark.parametrize("impatient", [True, False])
@pytest.mark.parametrize("dead", [True, False])
def test_three_workers_in_every_order_have_one_winner_and_one_writer(impatient, dead) -> None:
    worlds, wrong = explore(Numbered(impatient=impatient), workers=3, dead=dead)
    assert worlds > 1000 and wrong == ""


@pytest.mark.parametrize(
    "broken", [Renamed(impatient=False), Numbered(fence=False), Numbered(exclusive=False)]
)
def test_the_model_finds_what_is_wrong_with_lesser_protocols(broken) -> None:
    assert explore(broken)[1]


def test_a_number_that_is_taken_cannot_be_taken_again(run, impatient, monkeypatch) -> None:
    """As in the model's "move": three look, then three move."""
    seen = []
    monkeypatch.setattr(claims, "_highest", lambda folder: 4)  # what each of them saw
    for _ in range(3):
        seen.append(claims.take(run.path))
    assert [claim is not None for claim in seen] == [True, False, False]
    assert sorted(p.name for p in (run.path / "claim").iterdir()) == ["5"]


def test_a_worker_that_lost_its_claim_writes_nothing_more(
    run, other, impatient, monkeypatch
) -> None:
    """As in the model's "write": also one that was stopped between the check and the rename."""
    assert run.claim()
    run.truncate_metrics(0)
    run.append_metric({"step": 1})
    with pytest.raises(ClaimError), run.writing("last.json") as temporary:
        temporary.write_text("old")
        assert other.claim()
        other.truncate_metrics(1)
    with pytest.raises(ClaimError):
        run.finish({"status": "finished"})
    monkeypatch.setattr(claims.Claim, "check", lambda self: None)  # it has just looked
    run.append_metric({"step": 2})  # to a file that has no name any more
    with pytest.raises(StorageError), run.writing("result.json") as temporary:
        temporary.write_text("{}")
    other.append_metric({"step": 3})
    other.finish({"status": "finished"})
    assert [row["step"] for row in other.metrics()] == [1, 3]
    assert not (run.path / "last.json").exists() and other.result() == {"status": "finished"}


def test_release_removes_the_own_claim_only(run, other, impatient, monkeypatch) -> None:
    assert run.claim() and other.claim()
    run.release()
    monkeypatch.undo()
    assert other.held and not RunDirectory(run.path).claim()
    other.heartbeat()
    other.release()
    assert not other.held and run.claim()


def test_a_claim_has_one_holder_until_released(run, other) -> None:
    assert run.claim() and not other.claim()
    run.heartbeat()
    with pytest.raises(ClaimError):
        other.heartbeat()
    run.release()
    assert other.claim()


def test_nothing_is_left_of_the_claims_of_a_run_that_is_over(run, other) -> None:
    assert run.claim()
    run.finish({"status": "finished"})
    run.release()
    assert {p.name for p in run.path.iterdir()} == {"spec.json", "result.json"}
    assert not other.claim() and not (run.path / "claim").exists()


def test_a_run_directory_that_is_deleted_is_a_lost_claim(run) -> None:
    assert run.claim()
    shutil.rmtree(run.path)
    with pytest.raises(ClaimError):
        run.heartbeat()
    run.release()


def test_a_claim_of_another_host_is_respected_until_its_lease_is_over(run) -> None:
    holder = elsewhere(run)
    assert not run.claim() and run.held
    silent(holder)
    assert not run.held and run.claim()


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_ages_do_not_depend_on_the_clock_of_a_host(run, skew, monkeypatch) -> None:
    holder, now = elsewhere(run), time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    assert not run.claim()
    silent(holder)
    assert run.claim()


def test_a_claim_of_an_older_version_counts(run) -> None:
    """It was claim/holder.json; its holder stops when that is gone."""
    (run.path / "claim").mkdir()
    holder = run.path / "claim" / "holder.json"
    holder.write_text(json.dumps({"token": "x", "host": identity()["host"], "pid": 2**22 + 1}))
    assert not run.claim()
    silent(holder)
    assert run.claim() and not holder.exists()


def test_the_claim_of_a_dead_process_is_taken_at_once_and_not_that_of_a_live_one(run) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "True\n"
        holder = run.path / "claim" / "1" / "holder.json"
        silent(holder)
        assert not run.claim()  # it runs: busy with something long
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 30
        while not run.claim() and time.monotonic() < until:
            time.sleep(0.02)
        run.heartbeat()
        process.kill()
    run.release()
    second = elsewhere(run, 3)
    second.write_text(json.dumps(identity() | {"pid": process.pid}))
    assert run.claim()


def test_a_process_is_known_by_boot_namespace_number_and_start() -> None:
    me = identity()
    assert process_state(me) == "running"
    assert process_state(me | {"started": "1"}) == "gone"  # the number was used again
    assert process_state(me | {"pid_namespace": "pid:[1]"}) == "unknown"
    assert process_state(me | {"boot": "another"}) == "unknown"
    assert process_state(me | {"host": "another"}) == "unknown"
    for damaged in ({}, me | {"pid": "1"}, me | {"pid": -1}, me | {"started": None}):
        assert process_state(damaged) == "unknown"


def test_a_holder_in_another_container_with_the_same_name_is_respected(run) -> None:
    """Its PID namespace is another one, where our number says nothing of it."""
    if subprocess.run(
        ["unshare", "-Urpf", "--mount-proc", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("PID namespaces cannot be made here")
    with subprocess.Popen(
        ["unshare", "-Urpf", "--mount-proc", sys.executable, "-c", PROGRAM, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "True\n"
        assert not run.claim()
        process.stdin.close()
    assert not run.claim()  # nothing here says that it is gone; its lease does
    silent(run.path / "claim" / "1" / "holder.json")
    assert run.claim()


def test_real_processes_have_one_winner_and_one_writer() -> None:
    """A short form of the campaign, whose figures are in results/ownership."""
    script = Path(__file__).parents[2] / "benchmarks" / "claim_campaign.py"
    options = ["--takeovers", "40", "--stops", "2", "--runs", "5"]
    done = subprocess.run(
        [sys.executable, str(script), *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "40 with one winner" in done.stdout
