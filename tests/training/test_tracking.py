"""Trackers: what they are sent, and that a resumed run goes on in the same record."""

import csv
import json
import sys
import types
from typing import ClassVar

import pytest

import forcelaw
from forcelaw.errors import MissingPackageError, StudyError
from forcelaw.store.runs import RunDirectory
from forcelaw.training.tracking import tracked
from tests.packs import write_pack

SMALL = {"size": 3e3, "depth": 1, "cutoff": 3.0, "batch_molecules": 4, "evaluations": 4}
SMALL |= {"epochs": 3, "first_evaluation": 2, "validation_structures": 6}


@pytest.fixture
def pack(tmp_path):
    return write_pack(tmp_path / "pack").path


class Record:
    """A stand-in for wandb's run: it keeps what it was told, over all its lives."""

    kept: ClassVar[dict] = {}

    def __init__(self, **given):
        self.id, self.given = given["id"], given
        self.rows = self.kept.setdefault(self.id, {})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def log(self, row, step):
        self.rows[step] = row


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.init = Record
    monkeypatch.setattr(Record, "kept", {})
    monkeypatch.setitem(sys.modules, "wandb", module)


def table(run):
    with (run.path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_trackers_get_every_evaluation(pack, tmp_path, wandb):
    run = forcelaw.train("mpnn", data=pack, out=tmp_path, log=["csv", "wandb"], **SMALL)
    steps, losses = run.metrics["step"].to_list(), run.metrics["loss"].to_list()
    assert [int(row["step"]) for row in table(run)] == steps
    assert [float(row["loss"]) for row in table(run)] == losses
    kept = Record.kept[run.id]
    assert list(kept) == steps and [row["loss"] for row in kept.values()] == losses
    plain = forcelaw.train("mpnn", data=pack, out=tmp_path / "plain", **SMALL)
    assert plain.id == run.id  # trackers are no part of what a run is


def test_a_resumed_run_goes_on_in_the_same_record(pack, tmp_path, wandb):
    whole = forcelaw.train("mpnn", data=pack, out=tmp_path / "whole", **SMALL)
    run = RunDirectory(tmp_path / "cut" / whole.id)
    run.path.mkdir(parents=True)
    rows = [json.loads(line) for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    # stopped at the second evaluation's checkpoint; a third evaluation will be repeated
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:3]))
    (run.path / "spec.json").write_text((whole.path / "spec.json").read_text())
    (run.path / "last.json").write_text(json.dumps({"step": rows[1]["step"]}))
    (run.path / "last.safetensors").touch()
    with tracked(run, ["csv", "wandb"]):
        run.truncate_metrics(rows[1]["step"])
        for row in rows[2:]:
            run.append_metric(row)
    assert [int(row["step"]) for row in table(run)] == [row["step"] for row in rows]
    assert list(Record.kept) == [whole.id]
    assert run.observers == []


def test_unknown_and_missing_trackers(pack, tmp_path, monkeypatch):
    given = {"data": pack, "out": tmp_path, **SMALL}
    with pytest.raises(StudyError):
        forcelaw.train("mpnn", log=["paper"], **given)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingPackageError) as caught:
        forcelaw.train("mpnn", log=["mlflow"], **given)
    assert "forcelaw[mlflow]" in caught.value.remedy


def test_tensorboard_itself_reads_what_was_logged_once(pack, tmp_path):
    """By its own reader, also after a resumed run has logged an evaluation again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = forcelaw.train("mpnn", data=pack, out=tmp_path, log=["tensorboard"], **SMALL)
    rows = run.metrics.to_dicts()
    record = RunDirectory(run.path)
    (run.path / "last.json").write_text(json.dumps({"step": rows[1]["step"]}))
    with tracked(record, ["tensorboard"]):
        for row in rows[2:]:
            for observer in record.observers:
                observer(row)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in found] == [row["step"] for row in rows]
    assert [value for _, value in found] == pytest.approx([row["loss"] for row in rows])
