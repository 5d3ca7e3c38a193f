"""`forcelaw train` is told to stop by signals: it leaves a checkpoint and no claim."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from forcelaw.cli.interrupt import Interruption
from forcelaw.cli.main import main
from forcelaw.store.runs import runs
from tests.packs import write_pack

COMMAND = "train mpnn --size 3e3 --epochs 2 --depth 1 --cutoff 3 --batch-molecules 4"
COMMAND += " --evaluations 3 --first-evaluation 2 --validation-structures 6 --device cpu"
# a process that gets a signal at one moment, whatever the machine does meanwhile
PROGRAM = """
import os, signal, sys
from forcelaw.cli.main import main
from forcelaw.progress import Progress

def update(self, step, note=""):
    if step == 7:
        os.kill(os.getpid(), signal.NAME)

def say(self, what):
    os.kill(os.getpid(), signal.NAME)

Progress.WHEN = WHEN
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def ctrl_c():
    """Ctrl-C acts, also where the tests run in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def train_until(when, name, folder):
    """Train in another process that gets the signal while ``when`` of its progress is called; its
    exit code, the one line that it says, and its run."""
    program = PROGRAM.replace("NAME", name).replace("WHEN", when)
    done = subprocess.run(
        [sys.executable, "-c", program, *COMMAND.split(), "--data", str(folder / "pack")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    said = [line for line in done.stderr.splitlines() if "stopped" in line]
    (run,) = runs(folder / "out" / "single" / "runs")
    assert len(said) == 1 and name in said[0] and run.path.name in done.stdout
    # a claim of a process that died is free too; this one was given back
    assert list(run.path.glob("claim/*/released.json"))
    assert not list(run.path.glob("claim/*/holder.json"))
    return done.returncode, said[0], run


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_leaves_a_checkpoint_of_that_step_and_no_claim(
    tmp_path, monkeypatch, name
) -> None:
    write_pack(tmp_path / "pack")
    code, said, run = train_until("update", name, tmp_path)
    assert code == 130 and "step 7 of" in said
    assert run.position() == 7 and run.state() == "stopped"
    assert 7 not in [row["step"] for row in run.metrics()]  # it is not that of an evaluation
    monkeypatch.chdir(tmp_path)
    for out in ("out/single", "whole"):
        assert main([*COMMAND.split(), "--data", "pack", "--out", out]) == 0
    resumed, whole = (
        load_file(tmp_path / out / "runs" / run.id / "last.safetensors")
        for out in ("out/single", "whole")
    )
    assert resumed.keys() == whole.keys()
    assert all(resumed[key].equal(whole[key]) for key in whole)


def test_a_signal_before_the_first_step_ends_at_once_without_a_claim(tmp_path) -> None:
    write_pack(tmp_path / "pack")
    code, _, run = train_until("say", "SIGTERM", tmp_path)
    assert code == 130 and run.position() == 0
    assert run.claim()


@pytest.mark.parametrize("second,ends", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(second, ends, ctrl_c) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    caught = False
    try:
        with Interruption() as stop:
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            os.kill(os.getpid(), second)
            assert stop()
    except KeyboardInterrupt:
        caught = True
    assert caught == ends
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_ignores_ctrl_c_goes_on_to() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, previous)


def test_sigterm_ends_any_command_as_ctrl_c_does(monkeypatch) -> None:
    """It did so only while runs were trained: planning and reports died, and cleaned nothing up."""
    from forcelaw.cli import train

    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def models(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(train, "_models", models)
    assert main(["models"]) == 130 and cleaned
    assert signal.getsignal(signal.SIGTERM) == before
