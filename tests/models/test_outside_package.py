"""A package of others, installed: `forcelaw new-architecture` writes it, and it goes through
a study with two workers, its report and `budget`, without a line of forcelaw."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from forcelaw.certify import lines
from forcelaw.cli.main import main
from forcelaw.errors import StudyError
from forcelaw.plugins import _hash

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where the package of the skeleton is installed, with the entry point that it declares."""
    folder = tmp_path_factory.mktemp("outside")
    assert main(["new-architecture", "tiny_net", "--out", str(folder / "tiny_net")]) == 0
    site = folder / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    pip = [sys.executable, "-m", "pip", "install", *options, str(folder / "tiny_net")]
    subprocess.run(pip, check=True, timeout=100)
    return site


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_package_of_others_goes_through_a_study(installed, tmp_path, monkeypatch, capsys):
    study = {
        "name": "outside",
        "architectures": ["tiny_net"],
        "sizes": [500, 1000, 2000, 4000],
        "depth": 1,
        "atoms": 2000,
        "train": {
            "batch_molecules": 2,
            "evaluations": 8,
            "first_evaluation": 4,
            "validation_structures": 20,
        },
        "learning_rate": 0.01,
    }
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(json.dumps(study))  # JSON is YAML
    monkeypatch.syspath_prepend(str(installed))
    # workers are new processes: they find the package as an installed one is found
    monkeypatch.setenv("PYTHONPATH", f"{installed}{os.pathsep}{SRC}")
    assert main(["run", "study.yaml", "--device", "cpu", "--workers", "2"]) == 0
    runs = list(Path("out/outside/runs").iterdir())
    assert len(runs) == 4
    assert all(json.loads((r / "result.json").read_text())["status"] == "finished" for r in runs)
    page = Path("out/outside/report/report.html").read_text()
    assert "TinyNet: no certificate" in page and "forcelaw certify tiny_net" in page
    # a certificate that is made later is recorded when the study is looked at again
    monkeypatch.setattr(lines, "LINES", {name: lines.LINES[name] for name in ("symmetry", "seeds")})
    assert main(["certify", "tiny_net"]) == 0
    assert main(["run", "study.yaml", "--device", "cpu", "--no-report"]) == 0
    (entry,) = json.loads(Path("out/outside/study.json").read_text())["architectures"]
    assert entry["certificate"]["failed"] == [] and "seeds" in entry["certificate"]["lines"]
    capsys.readouterr()
    options = ["--burn-in-steps", "0", "--floor", "zero", "--anyway"]
    assert main(["budget", "out/outside", "--flops", "1e10", *options]) == 0
    assert "TinyNet" in capsys.readouterr().out
    assert main(["models", "--sizes", "1e3"]) == 0
    listed = capsys.readouterr().out
    assert "tiny_net" in listed and "painn" in listed
    # the same study with another source of the model: it is not gone on with
    model = installed / "tiny_net" / "model.py"
    model.write_text(model.read_text().replace("math.sqrt", "1.1 * math.sqrt"))
    _hash.cache_clear()  # as in a new process
    assert main(["run", "study.yaml", "--device", "cpu"]) == StudyError.exit_code
    assert "source of TinyNet" in capsys.readouterr().err
    assert len(list(Path("out/outside/runs").iterdir())) == 4


def test_its_own_test_passes(installed, tmp_path, monkeypatch):
    """The test that the skeleton comes with; its certificate in the lines that take no time."""
    monkeypatch.syspath_prepend(str(installed))
    own = runpy.run_path(str(installed.parent / "tiny_net" / "tests" / "test_model.py"))
    own["test_it_learns_and_has_the_symmetry_that_it_claims"](tmp_path)
    slow = {"learning rate", "coordinates", "FLOPs", "resume"}
    monkeypatch.setattr(lines, "LINES", {k: v for k, v in lines.LINES.items() if k not in slow})
    own["test_its_certificate"]()


@pytest.mark.parametrize("name", ["My-Model", "forcelaw", "2nd", "taken"])
def test_names_that_are_none_and_folders_that_are_there_are_refused(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    assert main(["new-architecture", name]) == StudyError.exit_code
    assert name in capsys.readouterr().err and not list(Path("taken").iterdir())
