"""A whole study through the command line: two workers, a kill in the middle, and the same table as
without it."""

import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.study import concurrent, worker
from forcelaw.study.config import load
from forcelaw.table.directory import table
from tests.packs import write_pack

STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, painn]
sizes: [3e3]
depth: 1
seeds: [0]
epochs: 12
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6}
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}
"""


def command(tmp_path, out):
    return [
        sys.executable,
        "-m",
        "forcelaw.cli",
        "run",
        str(tmp_path / "t.yaml"),
        "--out",
        str(out),
        "--workers",
        "2",
        "--device",
        "cpu",
        "--no-report",
    ]


def numbers(out):
    return table(out / "runs").drop("h", "throughput").sort("run", "step")


@pytest.mark.timeout(300)
def test_a_killed_study_goes_on_and_ends_with_the_same_table(tmp_path, capsys) -> None:
    """Two workers, killed when a run has finished, then two more: the table is that of one process
    that nobody disturbs."""
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(STUDY)
    worker.work(load(tmp_path / "t.yaml"), tmp_path / "a", tmp_path, device="cpu", show=False)
    process = subprocess.Popen(
        command(tmp_path, tmp_path / "b"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list((tmp_path / "b").glob("runs/*/result.json")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert main(command(tmp_path, tmp_path / "b")[3:]) == 0
    assert "6 runs finished, 0 diverged, 0 failed" in capsys.readouterr().out
    assert numbers(tmp_path / "a").equals(numbers(tmp_path / "b"))
    assert (numbers(tmp_path / "a").filter(pl.col("final"))["status"] == "finished").all()
    assert main(["status", str(tmp_path / "b")]) == 0
    assert "PaiNN (sweep)" in capsys.readouterr().out


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_run_that_raises_is_recorded_as_failed_and_the_others_go_on(
    tmp_path, monkeypatch, capsys, side_by_side
) -> None:
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(
        STUDY.replace("{sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}", "{value: 1e-3}")
    )
    original = concurrent.training

    def training(run, *rest, **options):
        if run.spec()["label"] == "PaiNN":
            yield
            raise RuntimeError("out of memory")
        return (yield from original(run, *rest, **options))

    monkeypatch.setattr(concurrent, "training", training)
    worker.work(
        load(tmp_path / "t.yaml"),
        tmp_path / "out",
        tmp_path,
        device="cpu",
        runs_per_device=side_by_side,
        show=False,
    )
    frame = table(tmp_path / "out" / "runs").filter(pl.col("final"))
    assert sorted(frame["status"]) == ["failed", "finished"]
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "out of memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["run", "nothing.yaml"], "no such study file"),
        (
            ["train", "mpnn", "--size", "1e4", "--epochs", "1", "--data", "nothing"],
            "there is no pack here",
        ),
        (["train", "nope", "--size", "1e4", "--epochs", "1"], "no architecture"),
        (["train", "mpnn", "--size", "10", "--epochs", "1"], "cannot have about 10 parameters"),
        (["train", "mpnn", "--size", "1e4", "--epochs", "1", "--option", "message=odd"], "message"),
        (["status", "nothing"], "no study here"),
        (["run", "studies/quickstart.yaml", "--runs-per-device", "0"], "runs_per_device"),
        (["run", "studies/quickstart.yaml", "--pack", "x"], "runs_per_device"),  # its older name
    ],
)
def test_a_mistake_on_the_command_line_prints_what_and_what_to_do(
    arguments, message, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_analysis_never_imports_torch() -> None:
    code = (
        "import sys, forcelaw.laws, forcelaw.report.html, forcelaw.table.directory;"
        " forcelaw.table.directory.table('nothing'); print('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
        == "False"
    )
