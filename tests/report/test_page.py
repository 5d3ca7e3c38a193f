"""The page: self-contained, complete, and its numbers are those of the laws."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forcelaw.laws.fit.fit import fit
from forcelaw.table.directory import table
from forcelaw.table.runs import Runs

from . import synthetic
from .pages import Page

SECTIONS = (
    "frontier",
    "ratios",
    "exponent-table",
    "floors",
    "loss_vs_n",
    "loss_vs_d",
    "terms",
    "compute_optimal",
    "cost",
    "symmetry",
    "lr_sweep",
    "checks",
    "burn-in",
    "problems",
    "provenance",
)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    policy = next(
        a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy


def test_plotly_is_inlined_once_and_the_page_is_light(page: str, written: dict[str, Any]) -> None:
    assert page.count("plotly.js v") == 1
    assert written["page"].stat().st_size < 6e6


def test_every_section_is_there_and_every_panel_has_data(page: str) -> None:
    parsed = Page(page)
    assert [a["id"] for t, a in parsed.tags if t == "section" and a.get("id") in SECTIONS] == list(
        SECTIONS
    )
    panels = [
        (int(a["data-figure"]), int(a["data-panel"])) for t, a in parsed.tags if "data-figure" in a
    ]
    assert sorted(panels) == [
        (i, j) for i, figure in enumerate(parsed.figures) for j in range(len(figure))
    ]
    for figure in parsed.figures:
        assert all(panel["data"] or panel["layout"]["annotations"] for panel in figure)
    assert all(
        panel["data"] for figure in parsed.figures[:11] for panel in figure
    )  # the checks may have too few sizes


def test_plotly_accepts_every_trace_and_layout(page: str) -> None:
    import plotly.graph_objects as go

    for figure in Page(page).figures:
        for panel in figure:
            assert len(go.Figure(panel).data) == len(
                panel["data"]
            )  # go.Figure refuses any unknown property


def test_exponent_table_holds_the_numbers_of_the_laws(page: str, study: Path) -> None:
    frame = table(study / "runs").filter(
        (pl.col("kind") == "grid") & (pl.col("status") == "finished")
    )
    rows = Page(page).table("exponents-data")[1:]
    assert len(rows) == len(synthetic.TRIO)
    for truth, row in zip(synthetic.TRIO, rows, strict=True):
        part = frame.filter((pl.col("architecture") == truth.label) & (pl.col("step") >= 400))
        names = ["run", "architecture", "seed", "step", "n", "d", "u", "c", "h", "loss"]
        result = fit(Runs.from_frame(part.select(names)), law="surface")
        shown = {cell["data-key"]: cell["text"] for cell in row if "data-key" in cell}
        assert truth.label in row[0]["text"]
        for key, estimate in (
            ("alpha", result["alpha"]),
            ("beta", result["beta"]),
            ("floor", result["E"]),
            ("gamma_surface", result["gamma"]),
        ):
            wanted = f"{estimate.value:.3f} {estimate.low:.3f} to {estimate.high:.3f}"
            assert " ".join(shown[key].split()).startswith(wanted)


def test_known_exponents_lie_in_their_intervals(written: dict[str, Any]) -> None:
    inside = []
    for truth, arch in zip(synthetic.TRIO, written["analysis"].architectures, strict=True):
        for name in ("alpha", "beta"):
            found = arch.surface.get(name)
            inside.append(found.low <= getattr(truth, name) <= found.high)
            assert abs(found.value - getattr(truth, name)) < 0.06
    assert sum(inside) >= 5  # of six 95% intervals; fewer happens once in 30 studies


def test_figures_show_the_papers_exponents_where_they_belong(page: str) -> None:
    """Of each kind of exponent the figure shows the paper's own values: typed here from its table,
    once more."""
    paper = {
        "FLOPs": {"MPNN": 0.14, "eSEN": 0.40},
        "device-hours": {"MPNN": 0.21, "eSEN": 0.45},
        "parameters": {"MPNN": 0.28, "eSEN": 0.82},
        "data": {"MPNN": 0.31, "eSEN": 0.75},
    }
    shown: dict[str, dict[str, float]] = {}
    for traces in (panel["data"] for figure in Page(page).figures for panel in figure):
        ticks = {t["meta"]: t["x"][0] for t in traces if "in the paper" in str(t.get("hovertext"))}
        measured = " ".join(str(t.get("hovertext")) for t in traces)
        kind = next((kind for kind in paper if kind in measured), None)
        if ticks and kind:
            shown[kind] = ticks
    assert shown == paper


def test_the_papers_numbers_stand_beside(page: str) -> None:
    rows = {row[0]["text"].split()[0]: row for row in Page(page).table("exponents-data")[1:]}
    shown = {cell["data-key"]: cell["text"] for cell in rows["eSEN"] if "data-key" in cell}
    assert "paper 0.40" in shown["gamma_c"] and "paper 0.45" in shown["gamma_h"]
    assert "paper 0.82" in shown["alpha"] and "paper 0.75" in shown["beta"]
    assert not any("paper" in cell["text"] for cell in rows["PaiNN"])  # the paper has no PaiNN


def test_failed_runs_are_listed_with_what_happened(page: str) -> None:
    words = Page(page).words
    assert "the loss became NaN at step 341 with learning rate 0.032" in words
    assert "the loss became NaN at step 212 with learning rate 0.016" in words  # of the sweep
    assert "3 runs diverged or failed" in words


def test_command_versions_and_data_are_named(page: str) -> None:
    words = Page(page).words
    for text in (
        "forcelaw run studies/synthetic.yaml",
        "torch 2.9.0",
        "0123456789abcdef",
        "224,000",
        "H, C, N, O",
    ):
        assert text in words


def test_text_of_a_study_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    truth = synthetic.Truth(evil, "mpnn", "none", 0.3, 0.3, 3, 0.9)
    folder = synthetic.write_study(
        tmp_path, [truth, synthetic.LADDER[1]], sizes=(2000, 8000, 32000), seeds=1
    )
    source = _render(folder)
    assert "<script>alert" not in source
    parsed = Page(source)
    assert len(parsed.scripts) == 3  # data, plotly, page
    assert any(trace["meta"] == evil for trace in parsed.figures[0][0]["data"])


def _render(folder: Path) -> str:
    from forcelaw.report.analysis import analyse
    from forcelaw.report.html import render
    from forcelaw.report.load import load
    from forcelaw.report.sections import sections

    analysis = analyse(load(folder))
    return render(analysis, sections(analysis))


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, forcelaw.report.write, forcelaw.report.analysis, forcelaw.report.html; "
        "from forcelaw import fit; assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_command_line_is_light_to_import() -> None:
    code = (
        "import sys, forcelaw.cli.report; "
        "heavy = {'polars', 'numpy', 'scipy', 'plotly', 'matplotlib', 'jinja2'}"
        " & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_a_browser_draws_every_figure_without_a_complaint(
    written: dict[str, Any], tmp_path: Path
) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-component-update",
        "--disable-background-networking",
        "--disable-sync",
        "--disable-quic",
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--virtual-time-budget=30000",
        "--window-size=1400,9000",
        "--dump-dom",
        written["page"].as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    drawn = len(re.findall(r'class="main-svg"', result.stdout))
    panels = result.stdout.count("data-panel=")
    assert panels > 15 and drawn >= panels
    assert "CONSOLE" not in result.stderr, result.stderr[-2000:]


def test_errors_stand_beside_those_of_no_model_and_of_the_labels(study: Path, page: str) -> None:
    text = Page(page).text
    assert "54 meV/atom, 987 meV" in text and "0.25 meV/atom, 4.75 meV" in text
    frame = table(study / "runs").filter(
        (pl.col("kind") == "grid") & (pl.col("status") != "diverged")
    )
    best = frame.filter(architecture=frame["architecture"][0]).sort("loss").row(0, named=True)
    for column, none in (("energy_mae", 54.0), ("force_mae", 987.0)):
        assert f"{100 * best[column] / none:.1f}%" in text
