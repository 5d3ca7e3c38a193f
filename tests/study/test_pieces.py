"""A study in pieces: it stops in time, says what is left, goes on, and ends with the same table;
halves of two machines too."""

import itertools
import json
import math
import time

import pytest
import torch

from forcelaw.cli.main import main
from forcelaw.cli.train import UNFINISHED
from forcelaw.store.runs import runs
from forcelaw.study import worker
from forcelaw.study.accounting import Piece, accounts
from forcelaw.study.config import Planner, find_pack, load
from forcelaw.study.listing import known_runs
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
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6, precision: float64}
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


def test_pieces_that_travel_between_two_machines_end_with_the_table_of_one(study, tmp_path) -> None:
    """Machine a trains a while, its state goes to b, both go on by themselves for a while, b's
    state comes back to a."""
    train(study, tmp_path / "whole")

    def piece(out, moments):
        asked = itertools.count()
        train(study, out, stop=lambda: next(asked) >= moments)
        assert not any(run.held for run in runs(out / "runs"))

    def travel(source, target):
        for path in (tmp_path / "parts").glob("*"):
            path.unlink()
        assert (
            main(["export", str(source), "--to", str(tmp_path / "parts"), "--part-mb", "0.05"]) == 0
        )
        assert main(["import", str(tmp_path / "parts"), "--to", str(target)]) == 0

    a, b = tmp_path / "a", tmp_path / "b"
    piece(a, 30)
    under_way = [run for run in runs(a / "runs") if run.position() and not run.done]
    assert under_way
    travel(a, b)
    assert [run.position() for run in under_way] == [
        r.position() for r in runs(b / "runs") if r.id in {x.id for x in under_way}
    ]
    piece(a, 25)
    piece(b, 60)
    travel(b, a)
    assert any(run.done for run in runs(a / "runs")) and not all(
        run.done for run in runs(a / "runs")
    )
    train(study, a)
    assert numbers(a).equals(numbers(tmp_path / "whole")) and len(numbers(a)) == 24


def test_after_the_minutes_the_command_says_what_is_left_and_goes_on(
    study, tmp_path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    command = [
        "run",
        str(study),
        "--out",
        str(out),
        "--workers",
        "2",
        "--device",
        "cpu",
        "--no-report",
    ]
    long = study.read_text().replace("epochs: 6", "epochs: 10000")
    study.write_text(long)
    began = time.monotonic()
    assert main([*command, "--minutes", "0.4"]) == UNFINISHED
    assert time.monotonic() - began < 90
    said = capsys.readouterr().out
    assert (
        "time is up after 0." in said
        and "of 8 runs are left" in said
        and "goes on from here" in said
    )
    assert not any((run.path / "claim").exists() for run in runs(out / "runs"))
    assert any(run.position() for run in runs(out / "runs") if not run.done)
    assert main(["status", str(out)]) == 0
    assert "stopped" in capsys.readouterr().out
    books = accounts(out)
    assert books.pieces == 1 and 0 < books.held_hours < 2 * 90 / 3600 and books.solo_hours > 0


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
    planner = Planner(load(study), find_pack(load(study), study.parent))
    assert len(known_runs(planner, tmp_path / "out" / "runs", 0.75)[0]) == 6
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
    [(["--minutes", "0"], "leaves no time"), (["--hold-largest", "2"], "no share")],
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
    assert "by the rates of one H100" in said and "with 1 worker" in said
    if not torch.cuda.is_available():
        assert main(["run", str(study), "--device", "cuda"]) != 0  # training needs one
        assert "no CUDA device" in capsys.readouterr().err


def test_the_rates_of_a_device_are_measured_once(study, tmp_path, monkeypatch) -> None:
    from forcelaw.study import launcher as local

    planner = Planner(load(study), find_pack(load(study), study.parent))
    first = local.remembered(tmp_path / "out", planner, "cpu")
    monkeypatch.setattr(local, "estimate", lambda *_: pytest.fail("measured again"))
    assert local.remembered(tmp_path / "out", planner, "cpu") == first
    on_gpu = local.remembered(
        tmp_path / "gpu", planner, "cuda"
    )  # a GPU is not kept waiting: nothing is timed
    assert set(on_gpu) == set(first) and not (tmp_path / "gpu").exists()
    assert "rates of one H100" in local.describe(planner, on_gpu, 1, "cuda")
    a = planner.study.architectures[0]
    spec = planner.grid(a, 1e-3)[0]
    deeper = {**spec, "model": {**spec["model"], "depth": spec["model"]["depth"] + 2}}
    more = local.seconds_of(deeper, on_gpu) / local.seconds_of(spec, on_gpu)
    assert 1.2 < more < 3  # launches of two more layers
    assert local.seconds_of(deeper, first) == local.seconds_of(
        spec, first
    )  # on a CPU the model itself is timed
