"""Studies that are small, broken, or not yet done: the page says so and stays whole."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forcelaw.api.study import study_status
from forcelaw.errors import TableError
from forcelaw.figures.text import pretty
from forcelaw.report.analysis import Analysis, analyse
from forcelaw.report.html import render
from forcelaw.report.load import load
from forcelaw.report.sections import repeats, sections
from forcelaw.report.sections.sweep import sweeps
from forcelaw.report.tables import terminal, write_all
from forcelaw.report.words import OURS
from forcelaw.report.write import report
from forcelaw.store.runs import BESIDE
from forcelaw.study.accounting import accounts
from forcelaw.table.directory import table

from . import synthetic
from .pages import Page

SMALL = (2_000, 8_000, 32_000, 128_000)
PAIR = [synthetic.LADDER[0], synthetic.LADDER[4]]


def small(folder: Path, truths: list[synthetic.Truth] = PAIR, **options: Any) -> Path:
    """A study with what the laws need at the least: four sizes, one seed."""
    return synthetic.write_study(
        folder, truths, **{"sizes": SMALL, "seeds": 1, "points": 14, **options}
    )


def made(folder: Path, burn_in_steps: int | None = None) -> tuple[Analysis, Page]:
    analysis = analyse(load(folder), burn_in_steps)
    return analysis, Page(render(analysis, sections(analysis)))


def test_one_architecture_only(tmp_path: Path) -> None:
    analysis, page = made(small(tmp_path, PAIR[:1]))
    assert "A comparison needs a second architecture" in page.words
    assert analysis.architectures[0].surface.ok and not analysis.comparison.pairs


def test_one_size_only_is_refused_in_words(tmp_path: Path) -> None:
    analysis, page = made(small(tmp_path, sizes=(8_000,), seeds=3))
    for arch in analysis.architectures:
        assert not arch.surface.ok and not arch.frontier_c.optimum.ok and arch.verdict != "holds"
    assert "MPNN and eSEN cannot carry a fit: " in page.words
    assert "cannot carry a fit" in terminal(analysis) or "trend" in terminal(analysis)


def test_no_run_has_finished(tmp_path: Path) -> None:
    _, page = made(small(tmp_path, finish=False, sweep=False, diverge=False))
    assert "No run has finished yet" in page.words
    assert "8 runs under way or waiting" in page.words
    assert page.figures[0][0]["data"]  # what there is of the curves is drawn


def test_a_run_that_counts_but_ends_far_above_its_best_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path, sweep=False, diverge=False)
    assert not made(folder)[0].risen
    run = next(
        r
        for r in sorted((folder / "runs").iterdir())
        if json.loads((r / "spec.json").read_text())["n"] == 8_000
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lowest, step = lines[-2]["loss"], lines[-2]["step"]
    lines[-1]["loss"] = 1.2 * lowest
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    analysis, page = made(folder)
    assert [(r["run"], r["n"], r["lowest_step"]) for r in analysis.risen] == [
        (run.name, 8_000, step)
    ]
    assert "1 run of" in page.words and run.name in page.words
    assert "ended above an earlier, lowest loss, by up to 20%" in page.words
    lines[-1]["loss"] = 1.04 * lowest
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not made(folder)[0].risen


def test_runs_that_have_not_learned_their_energies_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path, diverge=False)
    words = "without having learned energies or forces"
    assert words not in made(folder)[1].words and "no better" not in study_status(folder)[0]
    dead = {}
    for run in sorted((folder / "runs").iterdir()):
        spec = json.loads((run / "spec.json").read_text())
        if spec["label"] == "eSEN" and spec["kind"] not in dead:
            dead[spec["kind"]] = run.name
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            text = "".join(json.dumps(line | {"loss_energy": 0.1}) + "\n" for line in lines)
            (run / "metrics.jsonl").write_text(text)
    analysis, page = made(folder)
    assert {row["run"] for row in analysis.unlearned} == set(dead.values())
    assert f"2 runs finished {words}" in page.words
    assert "eSEN (2 of energies; 1 in a sweep, whose best rate may be chance)" in page.words
    swept = next(one for one in sweeps(analysis) if one.label == "eSEN")
    rates = {point["run"]: point["lr"] for point in swept.points}
    assert rates[dead["sweep"]] not in swept.means and len(swept.means) == len(rates) - 1
    text = study_status(folder)[0]
    assert "finished, but no better at these" in text
    assert all(f"  {run} eSEN N=" in text for run in dead.values()) and ": energies\n" in text
    about = json.loads((folder / "study.json").read_text())
    for weight, found in ((0.0, 0), (1.0, 2)):  # a part that nobody trained on is no fault
        for run in dead.values():
            spec = json.loads((folder / "runs" / run / "spec.json").read_text())
            spec["train"] = {"energy_weight": weight}
            (folder / "runs" / run / "spec.json").write_text(json.dumps(spec))
        unlabelled, given = {"name": "esen", "label": None}, {"energy_weight": weight}
        entries = [{"name": one["architecture"]} for one in about["architectures"][:-1]]
        for common, own in ((given, {}), ({}, given)):  # for all columns, or one
            file = {"train": common, "architectures": [*entries, unlabelled | {"train": own}]}
            (folder / "study.json").write_text(json.dumps(about | {"study": file}))
            assert len(made(folder)[0].unlearned) == found
        assert ("no better" in study_status(folder)[0]) == bool(found)
    for run in dead.values():  # fine-tuned runs begin where they may stay
        spec = json.loads((folder / "runs" / run / "spec.json").read_text())
        spec["start"] = {"run": "foundation"}
        (folder / "runs" / run / "spec.json").write_text(json.dumps(spec))
    assert not made(folder)[0].unlearned and "no better" not in study_status(folder)[0]


def test_hours_that_were_measured_beside_other_processes_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path, sweep=False, diverge=False)
    words = "imed while other processes trained on the"
    assert words not in made(folder)[1].words and words not in accounts(folder).describe()
    for run in sorted((folder / "runs").iterdir())[:2]:
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"timing": BESIDE}))
    assert re.search(rf"T{words} same device: 2 runs of [\w ]+\.", made(folder)[1].words)
    assert f"2 runs were t{words}" in accounts(folder).describe()


def test_a_study_that_was_only_planned(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "study.json").write_text(json.dumps(synthetic.study_json(PAIR)))
    analysis, page = made(tmp_path)
    assert "No run has finished yet" in page.words and "MPNN" in page.words
    assert analysis.counts == {}


def test_hours_missing_in_one_run_do_not_cost_the_flops(tmp_path: Path) -> None:
    folder = small(tmp_path)
    frame = table(folder / "runs")
    first = frame["run"][0]
    frame = frame.with_columns(h=pl.when(pl.col("run") == first).then(None).otherwise(pl.col("h")))
    frame.write_csv(tmp_path / "holes.csv")
    analysis = analyse(load(tmp_path / "holes.csv"))
    for arch in analysis.architectures:
        assert arch.frontier_c.points and arch.frontier_h.points
    assert sum(arch.runs for arch in analysis.architectures) == 8


def test_every_run_diverged(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in range(3):
        spec = synthetic.spec_of(PAIR[0], 8000, seed)
        synthetic.write_run(runs, spec, [], synthetic.diverged(3, 0.1))
    analysis, page = made(tmp_path)
    assert len(analysis.problems) == 3 and "No run has finished yet" in page.words
    assert "no evaluation was reached" not in page.words and "NaN at step 3" in page.words


def test_burn_in_that_leaves_nothing(tmp_path: Path) -> None:
    analysis, page = made(small(tmp_path), burn_in_steps=10**6)
    assert "no evaluation is left after the burn-in of 1000000 steps" in page.words
    assert all(arch.verdict == "none" for arch in analysis.architectures)


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such"):
        load(tmp_path / "nowhere")
    with pytest.raises(TableError, match="no runs"):
        load(tmp_path)
    (tmp_path / "runs.csv").write_text("run,architecture,n,d\na,b,1,2\n")
    with pytest.raises(TableError, match="lacks 1 column: loss"):
        load(tmp_path)
    (tmp_path / "runs.csv").write_text("run,architecture,n,d,loss\na,b,1,2,three\n")
    with pytest.raises(TableError, match="column 'loss'"):
        load(tmp_path)
    (tmp_path / "runs.json").write_text("{}")
    with pytest.raises(TableError, match="not a table"):
        load(tmp_path / "runs.json")


def test_a_bare_table_with_five_columns(tmp_path: Path) -> None:
    lines = ["run,architecture,n,d,loss"]
    for n in (1e3, 4e3, 16e3, 64e3):
        lines += [
            f"r{n:g},toy,{n:g},{d:g},{PAIR[0].loss(n, d):.9g}" for d in (1e5, 2e5, 4e5, 8e5, 16e5)
        ]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    analysis, page = made(tmp_path)
    arch = analysis.architectures[0]
    assert arch.surface.get("alpha").value == pytest.approx(0.28, abs=1e-3)
    assert arch.surface.get("beta").value == pytest.approx(0.31, abs=1e-3)
    assert "the table has no FLOPs" in page.words


def test_nan_and_infinite_losses_are_left_out_and_the_rest_is_fitted(tmp_path: Path) -> None:
    folder = small(tmp_path / "full", PAIR[:1], sweep=False, diverge=False)
    frame = table(folder / "runs")
    broken = frame.with_row_index("i").with_columns(
        loss=pl.when(pl.col("i") == 15)
        .then(float("nan"))
        .when(pl.col("i") == 40)
        .then(float("inf"))
        .otherwise("loss")
    )
    broken.drop("i").write_parquet(tmp_path / "runs.parquet")
    arch = analyse(load(tmp_path / "runs.parquet")).architectures[0]
    assert arch.surface.ok and len(arch.frame) == len(frame) - 2


def test_report_of_an_empty_study_writes_everything(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(synthetic.study_json(PAIR)))
    written = report(tmp_path)
    assert written["page"] == tmp_path / "report" / "report.html"
    assert (
        len(list(written["figures"].glob("*.png")))
        == len(list(written["figures"].glob("*.pdf")))
        == 10
    )
    assert "cannot carry a fit" in written["table"]


def test_runs_on_smaller_training_sets_are_kept_out_of_the_fits_and_shown_apart(
    tmp_path: Path,
) -> None:
    truth = PAIR[0]
    folder = small(tmp_path, [truth], sweep=False, diverge=False)
    alone = analyse(load(folder)).architectures[0]
    rng = synthetic.np.random.default_rng(5)
    for n in SMALL:  # 8 epochs over an eighth of the data, 10% worse at equal D
        spec = synthetic.spec_of(truth, n, 0, epochs=8.0)
        synthetic.write_run(
            folder / "runs",
            spec,
            synthetic.metrics_of(truth, spec, rng, factor=1.1, noise=0.001),
            synthetic.finished(truth, spec),
        )
    analysis, page = made(folder)
    arch = analysis.architectures[0]
    assert arch.repeated["run"].n_unique() == arch.runs == 4
    assert arch.surface.result.parameters == alone.surface.result.parameters
    figure = repeats.figure([arch], OURS)
    marks = next(s for s in figure.panels[0].series if s.kind == "points")
    assert len(marks.y) == 4
    for x, ratio in zip(marks.x, marks.y, strict=True):
        assert x == pytest.approx(8, rel=1e-3) and ratio == pytest.approx(1.1, abs=0.04)
    courses = [s for s in figure.panels[0].series if s.kind == "line"]
    assert len(courses) == 4 and all(
        min(s.x) > 1 and max(s.x) == pytest.approx(8, rel=1e-3) for s in courses
    )
    assert (
        "What repeats cost" in page.words and "4 runs repeated a smaller training set" in page.words
    )


def with_repeats(tmp_path: Path, r_d: Callable[[float], float]) -> Path:
    """A study whose runs of 8 and 40 passes lose as the law of repeats says, with R_D a function of
    N."""
    truth = PAIR[0]
    folder = small(tmp_path, [truth], sweep=False, diverge=False)
    assert analyse(load(folder)).architectures[0].repeats is None
    rng = synthetic.np.random.default_rng(5)
    for n in SMALL:
        for epochs in (8.0, 40.0):
            spec = synthetic.spec_of(truth, n, 0, epochs=epochs)
            rows = synthetic.metrics_of(truth, spec, rng, noise=0.003)
            for row in rows:
                repeats = row["d"] / row["u"] - 1
                worth = row["u"] * (1 + r_d(n) * (1 - synthetic.np.exp(-repeats / r_d(n))))
                row["loss"] *= float(truth.loss(n, worth) / truth.loss(n, row["d"]))
            synthetic.write_run(folder / "runs", spec, rows, synthetic.finished(truth, spec))
    return folder


def test_repeats_that_wear_out_sooner_for_larger_models_are_told_so(tmp_path: Path) -> None:
    analysis, page = made(with_repeats(tmp_path, lambda n: 8 * (n / SMALL[1]) ** -0.5))
    found = analysis.architectures[0].repeats
    assert found.get("rho").low < 0.5 < found.get("rho").high < 1
    ends = [found.get(f"R_D_{end}") for end in ("smallest", "largest")]
    for end, n in zip(ends, (SMALL[0], SMALL[-1]), strict=True):
        assert end.low < 8 * (n / SMALL[1]) ** -0.5 < end.high
    assert f"as N^-{pretty(found.get('rho').value)} [" in page.words
    assert f"{pretty(ends[1].value)} at {pretty(SMALL[-1])}" in page.words
    write_all(analysis, sections(analysis), tmp_path / "tables")
    row = next(csv.DictReader((tmp_path / "tables" / "repeats.csv").read_text().splitlines()))
    assert float(row["rho"]) == found.get("rho").value and float(row["rho_low"]) > 0
    assert row["law"] == "data_constrained_by_size" and row["p"] == ""


def test_how_often_data_can_be_repeated_is_read_off_runs_on_small_sets(tmp_path: Path) -> None:
    """Runs made with R_D = 5: the report says so, with an interval that holds it."""
    truth = PAIR[0]
    analysis, page = made(with_repeats(tmp_path, lambda n: 5.0))
    found = analysis.architectures[0].repeats.get("R_D")
    assert (
        found.low < 5 < found.high
        and found.high / found.low < 4
        and found.value == pytest.approx(5, rel=0.35)
    )
    assert f"R_D = {pretty(found.value)} [" in page.words
    write_all(analysis, sections(analysis), tmp_path / "tables")
    row = next(csv.DictReader((tmp_path / "tables" / "repeats.csv").read_text().splitlines()))
    assert (
        float(row["R_D"]) == found.value and int(row["runs"]) == 2 * len(SMALL) and row["rho"] == ""
    )
    runs = list(
        csv.DictReader((tmp_path / "tables" / "repeated_runs.csv").read_text().splitlines())
    )
    assert len(runs) == 2 * len(SMALL)
    for run in runs:  # what the law that made them says, whose losses have a noise of 0.3%
        passes = float(run["passes"])
        worth = 1 + 5 * (1 - synthetic.np.exp(-(passes - 1) / 5))
        assert passes == pytest.approx(8, rel=1e-3) or passes == pytest.approx(40, rel=1e-3)
        assert float(run["worth_passes"]) == pytest.approx(worth, rel=0.1), run
        new = float(
            truth.loss(float(run["n"]), worth * float(run["u"]))
            / truth.loss(float(run["n"]), float(run["d"]))
        )
        assert float(run["loss_over_new"]) == pytest.approx(new, rel=0.02)
    value = repeats.figure(analysis.architectures, analysis.words).panels[1]
    ends = next(s for s in value.series if s.kind == "points")
    assert [str(y) for y in ends.y] == [run["worth_passes"] for run in runs]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Page]:
    """Neither hours nor a sweep nor a failed run nor study.json."""
    folder = tmp_path_factory.mktemp("plain")
    return made(small(folder, hours=False, sweep=False, diverge=False, study=False))


def test_missing_hours(plain: tuple[Analysis, Page]) -> None:
    analysis, page = plain
    assert (
        analysis.architectures[0].frontier_c.points
        and not analysis.architectures[0].frontier_h.points
    )
    assert "device-hours" not in json.dumps([figure for figure, *_ in page.figures[:2]])
    assert "against counted FLOPs" in page.words and "against measured" not in page.words


def test_without_failed_runs_the_page_says_none(plain: tuple[Analysis, Page]) -> None:
    assert "None: no run failed or diverged." in plain[1].words


def test_without_a_sweep(plain: tuple[Analysis, Page]) -> None:
    panels = [panel for figure in plain[1].figures for panel in figure]
    assert any(
        "this study has no learning-rate sweep" in json.dumps(panel["layout"]) for panel in panels
    )


def test_without_study_json(plain: tuple[Analysis, Page]) -> None:
    analysis, page = plain
    assert {arch.label for arch in analysis.architectures} == {"MPNN", "eSEN"}
    assert "made from the table only" in page.words and analysis.name == "synthetic ladder"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Analysis]:
    folder = small(tmp_path_factory.mktemp("whole"))
    return folder, analyse(load(folder))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_committed_table_gives_the_same_numbers_as_the_runs(
    whole: tuple[Path, Analysis], tmp_path: Path, suffix: str
) -> None:
    folder, first = whole
    synthetic.write_table(tmp_path, folder, suffix)
    kept = analyse(load(tmp_path))
    for left, right in zip(first.architectures, kept.architectures, strict=True):
        for one, other in (
            (left.surface.result, right.surface.result),
            (left.frontier_c.result.fit, right.frontier_c.result.fit),
        ):
            values, others = one.parameters | one.derived, other.parameters | other.derived
            assert values.keys() == others.keys() and values
            for name, value in values.items():
                assert others[name].value == pytest.approx(value.value, rel=1e-9)
    assert len(whole[1].problems) == len(kept.problems)


HOSTILE = (
    "=cmd|' /C calc'!A0",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "\x1b[31mred\x07",
    "$\\frac{1}{$",
    "[x](javascript:alert(1))",
    "%{x} %s {} </script>",
    "\u202eright to left",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report of a table whose labels try to act on whoever reads it."""
    folder = tmp_path_factory.mktemp("hostile")
    lines = [
        {"run": f"{label} {n:g}", "architecture": label, "n": n, "d": d, "loss": PAIR[0].loss(n, d)}
        for label in HOSTILE
        for n in (1e3, 16e3)
        for d in (1e5, 4e5)
    ]
    pl.DataFrame(lines).write_parquet(folder / "runs.parquet")
    written = report(folder)
    return written, written["page"].read_text(encoding="utf-8")


def test_hostile_labels_are_text_on_the_page(hostile: tuple[dict[str, Any], str]) -> None:
    page = Page(hostile[1])
    assert len(page.scripts) == 3  # data, plotly, page
    assert not [tag for tag, given in page.tags if tag == "img" or "onerror" in given]
    shown = page.table("exponents-data")[1:]
    for label, row in zip(sorted(HOSTILE), shown, strict=True):
        assert label in row[0]["text"]
    for figure in page.figures:
        for trace in (trace for panel in figure for trace in panel["data"]):
            hover = trace.get("hovertext", "")
            assert "<img" not in str(hover) and "<img" not in trace.get("name", "")


def test_hostile_labels_start_no_formula(hostile: tuple[dict[str, Any], str]) -> None:
    for path in hostile[0]["tables"].glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert cell[:1] not in "=@\t\r" or not cell, f"{path.name}: {cell}"


def test_hostile_labels_add_nothing_to_markdown(hostile: tuple[dict[str, Any], str]) -> None:
    text = (hostile[0]["tables"] / "exponents.md").read_text(encoding="utf-8")
    assert "<" not in text and not re.search(r"(?<!\\)\]\(", text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bars = [line.replace("\\|", "").count("|") for line in rows]
    assert len(rows) == 1 + len(HOSTILE) and len(set(bars)) == 1


def test_hostile_labels_do_not_act_on_a_terminal(hostile: tuple[dict[str, Any], str]) -> None:
    printed = "\n".join([hostile[0]["table"], *hostile[0]["notes"]])
    assert all(c.isprintable() or c == "\n" for c in printed) and "\\x1b[31mred" in printed
