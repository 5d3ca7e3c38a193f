"""An architecture from outside the package: trained, loaded again, planned in a study, and run by
workers, which are new processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import forcelaw
from forcelaw.cli.main import main
from forcelaw.errors import StudyError
from forcelaw.models import architecture

TOY = """
from dataclasses import replace

from forcelaw.models.mpnn import ARCHITECTURE as MPNN
from forcelaw.models.mpnn import MPNNConfig


class ToyConfig(MPNNConfig):
    architecture: str
    offset: float = 0.5


TOY = replace(MPNN, name="toy", title="Toy", config=ToyConfig)
NOT_ONE = 3
"""
SHORT = {"atoms": 500, "batch_molecules": 4, "evaluations": 2, "validation_structures": 10}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_models.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    return "toy_models:TOY"


def test_it_is_trained_and_its_model_comes_back(toy):
    run = forcelaw.train(toy, size=5e3, options={"offset": 2.0}, **SHORT)
    assert run.spec["label"] == "Toy" and run.spec["model"]["architecture"] == toy
    assert run.spec["model"]["offset"] == 2.0
    assert run.model().n_parameters() == run.spec["n"]


def test_a_study_trains_it_in_workers(toy, tmp_path):
    study = {
        "name": "outside",
        "architectures": [{"name": toy, "options": {"offset": 1.0}}],
        "sizes": [5e3],
        "atoms": SHORT["atoms"],
        "train": {k: v for k, v in SHORT.items() if k != "atoms"},
    }
    Path("study.yaml").write_text(json.dumps(study))  # JSON is YAML
    assert main(["run", "study.yaml", "--device", "cpu", "--workers", "1", "--no-report"]) == 0
    (run,) = (tmp_path / "out" / "outside" / "runs").iterdir()
    assert forcelaw.load_run(run).result["status"] == "finished"


def test_an_installed_one_has_a_name(toy, tmp_path):
    info = tmp_path / "toy_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[forcelaw.architectures]\nmy_toy = {toy}\n")
    assert architecture("my_toy").title == "Toy"
    with pytest.raises(StudyError) as caught:
        architecture("mpn")
    assert "my_toy" in caught.value.remedy and "painn" in caught.value.remedy


def test_what_is_not_one_is_an_error_with_its_key(toy):
    with pytest.raises(StudyError):
        architecture("toy_models:NOT_ONE")
    Path("study.yaml").write_text(
        json.dumps({"name": "x", "architectures": ["toy_models:GONE"], "sizes": [5e3], "atoms": 9})
    )
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load("study.yaml")
    assert "architectures.0" in caught.value.where
    study = {"name": "x", "architectures": [{"name": toy, "options": {"depht": 2}}]}
    Path("study.yaml").write_text(json.dumps({**study, "sizes": [5e3], "atoms": 9}))
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load("study.yaml")
    assert "offset" in caught.value.remedy
