"""What issue 4 asks of the page beyond exponents: floors, three routes, equal loss and compute,
budgets, runs to add.

Each number is computed again here, by a direct call of the laws on runs read by another path, or
from the known truth.
"""

from __future__ import annotations

import html
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.figures.laws import floor_rise
from forcelaw.figures.text import pretty
from forcelaw.laws.decide.allocation import Allocation, Cost
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.floor_profile import profile_floor
from forcelaw.laws.fit.result import Estimate
from forcelaw.laws.frontier.isoflop import isoflop
from forcelaw.report.html import render
from forcelaw.report.sections import optimum, sections
from forcelaw.report.sections.pairs import TESTED, Reading
from forcelaw.table.directory import table
from forcelaw.table.runs import Runs

from . import synthetic
from .pages import Page


def _runs(study: Path, label: str) -> Runs:
    frame = table(study / "runs").filter(
        (pl.col("kind") == "grid")
        & (pl.col("status") == "finished")
        & (pl.col("architecture") == label)
        & (pl.col("step") >= 400)
    )
    return Runs.from_frame(
        frame.select("run", "architecture", "seed", "step", "n", "d", "u", "c", "h", "loss")
    )


def test_the_floor_on_the_page_is_that_of_the_profile(
    study: Path, written: dict[str, Any], page: str
) -> None:
    rows = {row[0]["text"].strip(): row for row in Page(page).table("floors-data")[1:]}
    assert list(rows) == [truth.label for truth in synthetic.TRIO]
    for arch in written["analysis"].architectures:
        runs = _runs(study, arch.label)
        expected = profile_floor(runs, fit(runs, "surface", interval="jackknife"))
        assert arch.profile.low == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
        assert arch.profile.high == pytest.approx(expected.high, rel=1e-6)
        assert f"{expected.gamma_high:.3f}" in rows[arch.label][5]["text"]
        told = "yes" if expected.low > 0 else "no"
        assert rows[arch.label][2]["text"].split()[0] == told
        floors, rise = floor_rise(arch.profile)
        at_ends = np.interp([arch.profile.low, arch.profile.high], floors, rise)
        assert (
            at_ends == pytest.approx([1, 1], abs=0.15) or arch.profile.low == 0
        )  # the dotted line of the figure


def test_three_routes_stand_side_by_side(study: Path, written: dict[str, Any], page: str) -> None:
    rows = {row[0]["text"].strip(): row for row in Page(page).table("routes")[2:]}
    for truth, arch in zip(synthetic.TRIO, written["analysis"].architectures, strict=True):
        assert [route.name for route in optimum.routes(arch)] == list(optimum.ROUTES)
        surface, _, iso = optimum.routes(arch)
        assert surface.a.low <= surface.a.value <= surface.a.high
        assert (
            abs(surface.a.value - truth.beta / (truth.alpha + truth.beta)) < 0.04
        )  # kappa drifts a little with N
        assert f"{surface.a.value:.2f}" in rows[arch.label][1]["text"]
        expected = isoflop(_runs(study, arch.label))
        assert len(iso.points) == np.isfinite(expected.n_star).sum()
        assert (iso.a is None) == (expected.a is None) and (iso.a is not None or iso.reason)
        for c, n, d in iso.points:  # a minimum lies near the optimum of the known surface
            sizes = np.geomspace(1e3, 1e6, 400)
            data = c / (3 * truth.kappa * (1 + 8 / sizes**0.5) * sizes)
            best = sizes[np.argmin([truth.loss(a, b) for a, b in zip(sizes, data, strict=True)])]
            assert abs(math.log(n / best)) < 0.7 and d > 0


def test_equal_loss_and_equal_compute_agree_with_the_known_laws(written: dict[str, Any]) -> None:
    truths = {truth.label: truth for truth in synthetic.TRIO}

    def best(label: str, c: float) -> float:
        truth, sizes = truths[label], np.geomspace(1e3, 1e6, 300)
        data = c / (3 * truth.kappa * (1 + 8 / sizes**0.5) * sizes)
        return min(truth.loss(n, d) for n, d in zip(sizes, data, strict=True))

    pairs = written["analysis"].comparison.pairs
    assert len(pairs) == 3 and all(pair.multiplier is not None for pair in pairs)
    for pair in pairs:
        ratio = Reading.of(pair, "ratio", written["analysis"])
        true = best(pair.second, ratio.at) / best(pair.first, ratio.at)
        # frontiers of corners are a little too high
        assert ratio.value.value == pytest.approx(true, rel=0.12)
        assert ratio.value.low < ratio.value.value < ratio.value.high
        found = pair.multiplier
        known = np.isfinite(found.multiplier_low) & np.isfinite(found.multiplier_high)
        assert (found.multiplier_low <= found.multiplier)[known].all()
        assert (found.multiplier <= found.multiplier_high)[known].all()
        assert sorted(found.loss) == list(found.loss) and len(found.loss) > 5


def test_a_new_run_scatters_more_than_the_law(written: dict[str, Any]) -> None:
    for one in optimum.prospects(written["analysis"]):
        assert one.new_run.low < one.loss.low < one.loss.value < one.loss.high < one.new_run.high

    class Surface:
        noise, level, n_runs = 0.05, 0.95, 1_000_000

    law = Estimate(2.0, None, 2.0 * math.exp(-0.1), 2.0 * math.exp(0.1))
    known = Allocation(law, law, law, Cost(), Surface(), 0.95).new_run(law)
    half = math.hypot(0.1, 1.959964 * 0.05)
    assert known.low == pytest.approx(2 * math.exp(-half), rel=1e-5)
    assert known.high == pytest.approx(2 * math.exp(half), rel=1e-5)


def test_a_forecast_without_bounds_is_not_shown(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """data_limited's page promised PaiNN a loss between 7.6e-12 and 1.1e15, in bold."""
    analysis = written["analysis"]
    found = optimum.prospects(analysis)
    budget = sorted({one.flops for one in found})[1]
    best = min((one for one in found if one.flops == budget), key=lambda one: one.loss.value)

    def vague(one: optimum.Prospect) -> optimum.Prospect:
        return replace(one, loss=Estimate(one.loss.value, None, 1e-9, 1e9))

    assert best.useful and not vague(best).useful
    changed = [vague(one) if one is best else one for one in found]
    monkeypatch.setattr(optimum, "prospects", lambda analysis: changed)
    page = Page(render(analysis, sections(analysis)))
    assert "wider than a factor of 100" in page.words and "1e-09" not in page.words
    assert f"FLOPs: {best.label} with" not in optimum.budget_words(changed, "atoms")
    assert best.label not in optimum.budget_words([vague(one) for one in found], "atoms")


def test_every_figure_is_explained_in_a_sentence(written: dict[str, Any], page: str) -> None:
    words = " ".join(Page(page).words.split())

    made = [figure for one in sections(written["analysis"]) for figure in one.figures]
    assert {"ratios", "floors", "compute_optimal", "diagnosis"} <= {figure.name for figure in made}
    for figure in made:
        assert len(figure.explain) > 60 and figure.explain.endswith(".")
        assert " ".join(figure.explain.split()) in words


def test_runs_to_add_are_named(written: dict[str, Any], page: str) -> None:
    rows = Page(page).table("suggestions")[1:]
    suggested = [arch for arch in written["analysis"].architectures if arch.design]
    assert len(rows) == len(suggested) >= 1
    for arch in suggested:
        one = arch.design.additions[0]
        assert 0 < one.half_width < one.before and one.cost > 0


def test_the_commands_on_the_page_run_as_they_stand(
    study: Path, tmp_path: Path, page: str, monkeypatch: Any, capsys: Any
) -> None:
    commands = [
        html.unescape(text)
        for text in re.findall(r"<pre>(forcelaw (?:budget|design) [^<]*)</pre>", page)
    ]
    assert [command.split()[1] for command in commands] == ["budget", "design"]
    monkeypatch.chdir(study.parent)
    assert main(shlex.split(commands[0])[1:]) == 0
    said = capsys.readouterr().out
    assert all(truth.label in said for truth in synthetic.TRIO) and "kept" in said
    assert main([*shlex.split(commands[1])[1:], "--add", "1", "--copies", "10"]) == 0


def test_tables_for_a_paper_hold_them_too(written: dict[str, Any]) -> None:
    for name, wanted in (("routes", 3 * 3 * 2), ("floors", 3), ("budgets", 9)):
        assert len(pl.read_csv(written["tables"] / f"{name}.csv")) == wanted
    frame = pl.read_csv(written["tables"] / "comparisons.csv")
    assert set(frame["quantity"]) >= {"gamma", "compute at equal loss", "loss at equal compute"}
    verdicts = frame.filter(pl.col("quantity") == "beta")["verdict"]
    assert set(verdicts) <= {"supported", "not supported", "not seen"}


def test_ratios_come_before_exponents_and_every_pair_has_a_map(
    written: dict[str, Any], page: str
) -> None:
    """The numbers are those of the laws, and the maps the ratios of the losses of the truths."""
    found = written["analysis"].comparison.ratios
    parsed = Page(page)
    names = [a["id"] for t, a in parsed.tags if t == "section" and a.get("id")]
    assert names.index("ratios") < names.index("exponent-table")
    rows = parsed.table("ratios")
    assert len(rows) - 2 == len(found) == 3  # two rows of headings
    for row, one in zip(rows[2:], found, strict=True):
        pair, cells = f"{one.second} / {one.first}", [cell["text"] for cell in row]
        assert pair in cells[0] and pretty(one.factor) in cells[1] and one.verdict in cells[-1]
        assert f"{pair}: {one.words()}" in parsed.words
    maps = pl.read_csv(written["tables"] / "ratios.csv")
    truth = {one.label: one for one in synthetic.TRIO}
    for row in maps.iter_rows(named=True):
        wanted = truth[row["second"]].loss(row["n"], row["d"]) / truth[row["first"]].loss(
            row["n"], row["d"]
        )
        assert row["ratio"] == pytest.approx(wanted, rel=0.08)


def test_only_differences_that_ratios_show_are_bold(written: dict[str, Any], page: str) -> None:
    rows = Page(page).table("comparisons")[1:]
    pairs = written["analysis"].comparison.pairs
    assert len(rows) == len(pairs)
    text = re.search(r'<table id="comparisons">(.*?)</table>', page, re.S)
    assert text is not None
    bold = re.findall(r"<b>([+-]\d\.\d+)</b>", text[1])
    sure = [t for pair in pairs for t in pair.tests.values() if t.quantity in TESTED]
    assert sorted(bold) == sorted(f"{test.difference:+.3f}" for test in sure if test.sure)
    assert all(test.verdict == "supported" for test in sure if test.sure)
