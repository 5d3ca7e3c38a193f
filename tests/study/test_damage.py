"""What goes wrong around training is not the run's fault: a damaged run is set aside and the others
train; a full disk leaves everything open; and the exit code says which it was."""

import errno
import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from forcelaw.cli import DAMAGED
from forcelaw.cli.main import main
from forcelaw.errors import StorageError
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study import launcher, worker
from forcelaw.study.config import load
from forcelaw.study.record import StudyDirectory, find_pack
from forcelaw.study.status import StudyStatus
from forcelaw.table.directory import table
from tests.packs import STUDY, write_pack

SWEEP = STUDY.replace("1e-3", "{sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}")


@pytest.fixture
def study(tmp_path):
    write_pack(tmp_path / "pack")
    path = tmp_path / "t.yaml"
    path.write_text(STUDY)
    return path


def planned(study: Path) -> list[RunDirectory]:
    """The runs of the study, as directories with nothing but a specification."""
    config = load(study)
    directory = StudyDirectory(config, find_pack(config, study.parent), study.parent / "out")
    directory.create_runs()
    return list(runs(directory.runs))


def work(study: Path) -> dict[str, str]:
    """Let one worker do what it can; the state of every run."""
    worker.work(load(study), study.parent / "out", study.parent, device="cpu", show=False)
    return {run.id: run.state() for run in runs(study.parent / "out" / "runs")}


DAMAGE = {
    "checkpoint": lambda run: (run.path / "last.safetensors").write_bytes(b"\x08" + bytes(40)),
    "metrics": lambda run: (run.path / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{}\n'),
    "result": lambda run: (run.path / "result.json").write_text('{"status": '),
    "empty result": lambda run: (run.path / "result.json").write_text("{}"),
}


@pytest.mark.parametrize(
    "what,text", [*((what, STUDY) for what in DAMAGE), ("checkpoint", SWEEP), ("result", SWEEP)]
)
def test_a_damaged_run_is_set_aside_and_the_others_train(study, what, text, capsys) -> None:
    study.write_text(text)
    bad = planned(study)[0]
    DAMAGE[what](bad)
    found = work(study)
    assert found.pop(bad.id) == "damaged" and set(found.values()) == {"finished"}
    assert bad.id in capsys.readouterr().err and not bad.held
    assert main(["status", str(study.parent / "out")]) == 0
    said = capsys.readouterr().out
    assert bad.id in said and "damaged" in said
    status = table(study.parent / "out" / "runs").filter(run=bad.id)["status"].to_list()
    assert status == ["unfinished" if what == "checkpoint" else "failed"]  # metrics are data
    work(study)
    assert capsys.readouterr().err.count(bad.id) == 0  # it is not tried again
    bad.start_over()  # what --retry-failed does
    assert set(work(study).values()) == {"finished"}


def test_a_flipped_bit_in_weights_sets_a_stopped_run_aside(study, capsys) -> None:
    asked = itertools.count()
    config, out = load(study), study.parent / "out"
    worker.work(
        config,
        out,
        study.parent,
        device="cpu",
        stop=lambda: next(asked) >= 20,  # in the middle of the first run
        show=False,
    )
    (bad,) = (run for run in runs(out / "runs") if run.state() == "stopped")
    file = bad.path / "last.safetensors"
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))  # of z: tensors are in the order of names
    found = work(study)
    assert found.pop(bad.id) == "damaged" and set(found.values()) == {"finished"}
    assert "checksum" in bad.damage() and bad.id in capsys.readouterr().err
    file.write_bytes(sound)
    assert set(work(study).values()) == {"finished"}


@pytest.mark.parametrize("change", [lambda lines: lines[1:], lambda lines: lines[:1] + lines])
def test_evaluations_that_the_checkpoint_counts_and_are_lost_or_twice_are_damage(
    study, capsys, change
) -> None:
    asked = itertools.count()
    worker.work(
        load(study),
        study.parent / "out",
        study.parent,
        device="cpu",
        stop=lambda: next(asked) >= 20,  # in the middle of the first run
        show=False,
    )
    (bad,) = (run for run in runs(study.parent / "out" / "runs") if run.state() == "stopped")
    file = bad.path / "metrics.jsonl"
    sound = file.read_text()
    file.write_text("".join(change(sound.splitlines(keepends=True))))
    found = work(study)
    assert found.pop(bad.id) == "damaged" and set(found.values()) == {"finished"}
    assert bad.id in capsys.readouterr().err
    file.write_text(sound)
    assert set(work(study).values()) == {"finished"}


@pytest.mark.parametrize("size", [0, 100, None], ids=["empty", "part of a line", "no last line"])
def test_a_finished_run_that_has_lost_its_last_evaluation_is_damage(study, capsys, size) -> None:
    """It counted as finished and was in no table: result.json was there to be read."""
    assert set(work(study).values()) == {"finished"}
    out = study.parent / "out"
    bad = next(runs(out / "runs"))
    file = bad.path / "metrics.jsonl"
    sound = file.read_bytes()
    cut = sound[:size] if size is not None else sound[: sound[:-1].rindex(b"\n") + 1]
    file.write_bytes(cut)
    assert main(["status", str(out)]) == 0
    assert f"{bad.id}" in capsys.readouterr().out
    assert table(out / "runs").filter(run=bad.id)["status"].unique().to_list() == ["failed"]
    command = ["run", str(study), "--out", str(out), "--no-report", "--workers", "1"]
    assert main(command) == DAMAGED
    assert f"{bad.id}: " in capsys.readouterr().err and bad.state() == "damaged"
    assert main([*command, "--retry-failed"]) == 0
    assert file.read_bytes() != cut and bad.state() == "finished"


def test_a_file_that_is_restored_is_read_again(study) -> None:
    bad = planned(study)[0]
    DAMAGE["checkpoint"](bad)
    work(study)
    (bad.path / "last.safetensors").unlink()
    assert set(work(study).values()) == {"finished"}


def test_a_damaged_specification_is_written_again(study) -> None:
    bad = planned(study)[0]
    (bad.path / "spec.json").write_text("{")
    assert set(work(study).values()) == {"finished"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_fails_no_run_and_with_room_again_the_study_ends(
    study, monkeypatch, code
) -> None:
    calls, fsync = iter(range(1000)), os.fsync

    def full(handle):
        if next(calls) > 12:  # in the middle of the first run
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        work(study)
    assert caught.value.where and caught.value.remedy and caught.value.exit_code == 74
    left = [run.state() for run in runs(study.parent / "out" / "runs")]
    assert "failed" not in left and left.count("finished") < 2
    monkeypatch.undo()
    assert set(work(study).values()) == {"finished"}


def test_the_exit_code_says_what_became_of_the_study(study, monkeypatch) -> None:
    ended = StudyStatus(total=2, states=Counter(finished=2))
    for changes, code in (
        ({}, 0),
        ({"states": Counter(diverged=2)}, 0),  # of a sweep
        ({"states": Counter(diverged=2), "diverged_grid": 1}, 1),
        ({"states": Counter(finished=1, failed=1)}, 1),
        ({"failed": {"MPNN": "every learning rate failed"}}, 1),
        ({"states": Counter(finished=1, damaged=1), "damaged": {"x": "why"}}, 4),
    ):
        status = StudyStatus(**{**vars(ended), **changes})
        monkeypatch.setattr(launcher, "run_local", lambda *a, status=status, **k: status)
        assert main(["run", str(study), "--out", str(study.parent / "out"), "--no-report"]) == code


def test_the_command_sets_a_damaged_run_aside_and_retry_failed_heals_it(
    study, capfd, monkeypatch
) -> None:
    bad = planned(study)[0]
    DAMAGE["checkpoint"](bad)
    command = ["run", str(study), "--out", str(study.parent / "out"), "--workers", "1"]
    command += ["--device", "cpu", "--no-report"]
    assert main(command) == 4
    said = capfd.readouterr()
    assert "1 damaged and set aside" in said.out and bad.id in said.err
    monkeypatch.setattr(launcher, "run_local", lambda *a, **k: StudyStatus())
    assert main([*command, "--retry-failed"]) == 0
    assert bad.state() == "waiting"


@pytest.mark.parametrize("command", ["run", "train", "export", "report"])
def test_an_output_folder_that_cannot_be_written_is_said(study, command, monkeypatch) -> None:
    """The suite may run as root, who may write everywhere; so the system refuses."""
    work(study)

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    out, elsewhere = str(study.parent / "out"), str(study.parent / "elsewhere")
    arguments = {
        "run": [str(study), "--out", elsewhere, "--device", "cpu", "--no-report"],
        "train": ["mpnn", "--size", "3e3", "--epochs", "1", "--out", elsewhere, "--device", "cpu"],
        "export": [out, "--table", elsewhere],
        "report": [out, "--out", elsewhere],
    }[command]
    assert main([command, *arguments]) == 74
