"""Entries of a study that start from a trained run."""

import shutil

import pytest

from forcelaw.api.run import Run
from forcelaw.errors import StudyError
from forcelaw.models import ARCHITECTURES
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study.config import load
from forcelaw.study.record import StudyDirectory, find_pack
from forcelaw.study.worker import work
from forcelaw.table.directory import table
from tests.packs import write_pack
from tests.trained import run_directory

STUDY = """
name: tuned
data: other
cutoff: 3.0
architectures:
  - {name: painn, label: scratch, options: {}}
  - {name: painn, label: tuned, from: trained/runs/ID}
sizes: [3e3]
depth: 1
distinct_atoms: [60, 150]
epochs: 2
train: {batch_molecules: 4, evaluations: 2, first_evaluation: 1, validation_structures: 8}
"""


@pytest.fixture
def folder(tmp_path):
    base = run_directory(tmp_path / "trained", write_pack(tmp_path / "pack"), "painn", depth=1)
    RunDirectory(base.path).append_metric({"step": 1, "d": 30, "c": 7e9, "loss": 1.0})
    write_pack(tmp_path / "other", seed=3)
    path = str(base.path.relative_to(tmp_path))
    (tmp_path / "t.yaml").write_text(STUDY.replace("trained/runs/ID", path))
    return tmp_path, base


def directory_of(folder, file="t.yaml"):
    study = load(folder / file)
    return StudyDirectory(study, find_pack(study, folder), folder / "out" / study.name, folder)


def test_an_entry_starts_from_a_run(folder):
    folder, base = folder
    directory = directory_of(folder)
    directory.write("forcelaw run t.yaml")
    planned = directory.create_runs()
    shutil.rmtree(base.path)  # what has begun needs it no more
    again = directory_of(folder)
    assert [run.id for run in again.plan().runs] == [run.id for run in planned.runs]
    work(again.study, again.out, folder, device="cpu", show=False)
    found = {run.id: run for run in runs(again.runs)}
    by = {run.label: [r for r in planned.runs if r.label == run.label] for run in planned.runs}
    assert [len(by[label]) for label in ("scratch", "tuned")] == [2, 2]
    for run in by["tuned"]:
        assert run.spec["start"]["run"] == base.id
        assert run.spec["lr"] == pytest.approx(0.1 * ARCHITECTURES["painn"].learning_rate)
        assert "start" not in by["scratch"][0].spec
        done = Run(found[run.id].path)
        assert done.result["status"] == "finished" and done.spec["model"]["depth"] == 1
    # both parts of the compute stand apart
    rows = table(again.runs).iter_rows(named=True)
    spent = {row["architecture"]: (row["start"], row["start_c"]) for row in rows}
    assert spent == {"tuned": (base.id, 7e9), "scratch": (None, None)}


@pytest.mark.parametrize(
    "old,new",
    [
        ("label: tuned,", "label: tuned, depth: 2,"),
        ("name: painn, label: tuned", "name: mpnn, label: tuned"),
        ("from: trained", "from: nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(folder, old, new):
    folder, _ = folder
    text = (folder / "t.yaml").read_text()
    assert old in text
    (folder / "bad.yaml").write_text(text.replace(old, new))
    with pytest.raises(StudyError):
        directory_of(folder, "bad.yaml")
