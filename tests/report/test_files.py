"""Figures for a paper, tables and the terminal."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forcelaw.cli.main import main
from forcelaw.figures.matplotlib import save
from forcelaw.report.load import load
from forcelaw.report.sections import frontier, sections
from forcelaw.report.tables import write_all

from . import synthetic

FIGURES = {
    "frontier",
    "exponents",
    "ratios",
    "floors",
    "loss_vs_n",
    "loss_vs_d",
    "terms",
    "compute_optimal",
    "cost",
    "symmetry",
    "lr_sweep",
    "diagnosis",
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_exists_in_every_format_and_shows_something(written: dict[str, Any]) -> None:
    from matplotlib.image import imread

    assert {path.stem for path in written["figures"].glob("*.png")} == FIGURES
    for name in FIGURES:
        image = imread(written["figures"] / f"{name}.png")
        ink = (image[..., :3].min(axis=2) < 0.75).mean()
        assert 0.01 < ink < 0.5, f"{name}: {ink:.3f} of the pixels are drawn"
        colours = image[..., :3].max(axis=2) - image[..., :3].min(axis=2)
        assert (colours > 0.3).mean() > 1e-3, f"{name} has no coloured mark"
        svg = (written["figures"] / f"{name}.svg").read_text()
        assert svg.count("<path") > 20 and "http://www.w3.org/2000/svg" in svg
        assert (written["figures"] / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_analysis_gives_the_same_files(written: dict[str, Any], tmp_path: Path) -> None:
    analysis = written["analysis"]
    for path in save(frontier.figure(analysis), tmp_path):
        assert path.read_bytes() == (written["figures"] / path.name).read_bytes()
    for path in write_all(analysis, sections(analysis), tmp_path):
        assert path.read_bytes() == (written["tables"] / path.name).read_bytes()


def test_tables_hold_what_the_analysis_holds(written: dict[str, Any]) -> None:
    analysis = written["analysis"]
    exponents = {row["architecture"]: row for row in rows(written["tables"] / "exponents.csv")}
    for arch in analysis.architectures:
        assert float(exponents[arch.label]["alpha"]) == arch.surface.get("alpha").value
        assert float(exponents[arch.label]["beta_high"]) == arch.surface.get("beta").high
    assert exponents["eSEN"]["gamma_c_paper"] == "0.4" and exponents["PaiNN"]["gamma_c_paper"] == ""
    assert len(rows(written["tables"] / "problems.csv")) == 3
    sweep = [row for row in rows(written["tables"] / "lr_sweep.csv") if row["chosen"] == "True"]
    assert {row["architecture"]: float(row["lr"]) for row in sweep} == {
        t.label: 4e-3 for t in synthetic.TRIO
    }
    markdown = (written["tables"] / "exponents.md").read_text()
    assert "(paper 0.28)" in markdown and markdown.count("\n| ") == len(synthetic.TRIO)


def lowest(truth: synthetic.Truth, c: float, first: float, last: float) -> float:
    """The law's lowest loss at compute c over the sizes that were run and had seen between first
    and last atoms."""
    seen = [(n, c / (3 * truth.kappa * (1 + 8 / n**0.5) * n)) for n in synthetic.SIZES]
    return min((truth.loss(n, min(d, last)) for n, d in seen if d >= first), default=np.inf)


def test_loss_at_equal_compute_is_that_of_the_law(written: dict[str, Any]) -> None:
    found = rows(written["tables"] / "equal_compute.csv")
    flops = [row for row in found if row["axis"] == "flops" and row["loss"]]
    assert {row["architecture"] for row in flops} == {t.label for t in synthetic.TRIO}
    laws = {t.label: t for t in synthetic.TRIO}
    steps = np.unique(np.geomspace(20, 8000, 22).round())
    first, last = (
        steps[steps >= 400][0] * 400,
        steps[-1] * 400,
    )  # atoms at the ends of what is fitted
    for row in flops:
        truth, c = laws[row["architecture"]], float(row["budget"])
        # a size that begins just at this budget may or may not count; the noise of a run is 1%
        assert 0.97 * lowest(truth, c, 0.97 * first, last) <= float(row["loss"])
        assert float(row["loss"]) <= 1.03 * lowest(truth, c, 1.03 * first, last)


def test_the_command_prints_the_table_and_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = synthetic.write_study(
        tmp_path / "small", synthetic.TRIO[:2], sizes=(2000, 8000, 32000), seeds=1, points=12
    )
    source = synthetic.write_table(tmp_path / "committed", small)
    started = time.process_time()
    assert (
        main(
            ["report", str(source.parent), "--out", str(tmp_path / "out"), "--burn-in-steps", "600"]
        )
        == 0
    )
    assert time.process_time() - started < 60
    out = capsys.readouterr().out
    assert (
        "architecture" in out
        and "gamma (FLOPs)" in out
        and str(tmp_path / "out" / "report.html") in out
    )
    assert "Evaluations before step 600" in (tmp_path / "out" / "report.html").read_text()


def test_architectures_that_a_filter_leaves_out_are_not_missed(study: Path, tmp_path: Path) -> None:
    """Their entries go with the settings that stand at the same place in the study's file; one
    that has not begun stays."""
    table = synthetic.write_table(tmp_path, study)
    told = json.loads((tmp_path / "study.json").read_text())
    labels = [a["label"] for a in told["architectures"]]
    told["architectures"].append({"label": "planned", "architecture": "painn"})
    file = [{"train": {"tag": label}} for label in [*labels, "planned"]]
    told["study"] = {"architectures": file, "train": {"warmup": 1}}
    (tmp_path / "study.json").write_text(json.dumps(told))
    found = load(table, where=f"architecture != '{labels[1]}'").study
    assert [a["label"] for a in found["architectures"]] == [labels[0], labels[2], "planned"]
    tags = [entry["train"]["tag"] for entry in found["study"]["architectures"]]
    assert tags == [labels[0], labels[2], "planned"] and found["study"]["train"] == {"warmup": 1}
    assert load(table, where="n > 3000").study == load(table).study == told


def test_wrong_arguments_are_mistakes_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "there is no such table" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--burn-in-steps", "-3"])
    assert "argument --burn-in-steps: '-3' is not a valid value" in capsys.readouterr().err
