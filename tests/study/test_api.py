"""Studies from Python, away from the repository: plan, run, status, report."""

import polars as pl
import pytest

import forcelaw
from forcelaw.errors import StoreError, StudyError
from tests.packs import write_pack

TEXT = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, {name: painn, learning_rate: 2e-3}]
sizes: [3e3]
depth: 1
epochs: 2
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6}
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pack(tmp_path / "pack")
    (tmp_path / "t.yaml").write_text(TEXT)
    return forcelaw.Study.load("t.yaml")


def test_plan_run_status_and_report(study, monkeypatch):
    before = study.plan()
    assert before["kind"].to_list().count("sweep") == 2 and len(before) == 4
    waiting = before.filter(pl.col("run").is_null())
    assert waiting["architecture"].to_list() == ["MPNN"] and waiting["lr"].to_list() == [None]
    with pytest.raises(StoreError):
        study.status()

    lines = []
    outcome = study.run(workers=1, device="cpu", say=lines.append)
    assert (outcome.finished, outcome.diverged, outcome.failed) == (4, 0, 0)
    assert not outcome.time_up and outcome.out == study.out
    assert any("4 runs finished" in line for line in lines)
    assert lines[-1].startswith("finished, but no better at these") and lines[-1] in study.status()
    # where nothing is left no worker is started
    monkeypatch.setattr("forcelaw.study.launcher._start", None)
    assert study.run(workers=2, device="cpu").finished == 4

    after = study.plan()
    assert set(after["state"]) == {"finished"} and after["run"].null_count() == 0
    assert "PaiNN (grid)" in study.status()
    run = forcelaw.load_run(study.out / "runs" / after["run"][0])
    assert run.spec["study"] == "t" and run.result["status"] == "finished"
    written = study.report()
    assert written["page"] == study.out / "report" / "report.html" and written["page"].exists()


def test_options_that_make_no_sense_are_refused_before_anything_is_written(study):
    wrong = ({"runs_per_device": 0}, {"minutes": 0}, {"hold_largest": 2}, {"workers": -1})
    for options in (*wrong, {"device": "cuda:1"}):
        (name,) = options
        with pytest.raises(StudyError) as caught:
            study.run(**{"device": "cpu", **options})
        assert caught.value.where == name and caught.value.remedy
    assert not study.out.exists()


def test_a_wrong_study_is_an_error_with_its_file(tmp_path):
    (tmp_path / "t.yaml").write_text("name: t\nsize: 3\n")
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load(tmp_path / "t.yaml")
    assert "t.yaml" in caught.value.where
