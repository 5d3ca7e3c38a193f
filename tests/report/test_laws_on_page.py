"""What issue 4 asks of the page beyond exponents: floors, three routes, equal loss and compute,
budgets, runs to add.

Each number is computed again here, by a direct call of the laws on runs read by another path, or
from the known truth.
"""

from __future__ import annotations

import copy
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
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.floor_profile import profile_floor
from forcelaw.laws.frontier.isoflop import isoflop
from forcelaw.report.figures import figures
from forcelaw.report.fits import _new_run
from forcelaw.report.html import render
from forcelaw.report.results import Estimate
from forcelaw.report.summary import budget_words
from forcelaw.table.directory import table
from forcelaw.table.runs import Runs

from . import synthetic
from .pages import Page


def _runs(study: Path, label: str) -> Runs:
    frame = table(study / "runs").filter(
        (pl.col("kind") == "grid") & (pl.col("status") == "finished") & (pl.col("architecture") == label)
        & (pl.col("step") >= 400))  # fmt: skip
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
        at_ends = np.interp(
            [arch.profile.low, arch.profile.high], arch.profile.floor, arch.profile.rise
        )
        assert (
            at_ends == pytest.approx([1, 1], abs=0.15) or arch.profile.low == 0
        )  # the dotted line of the figure


def test_three_routes_stand_side_by_side(study: Path, written: dict[str, Any], page: str) -> None:
    rows = {row[0]["text"].strip(): row for row in Page(page).table("routes")[2:]}
    for truth, arch in zip(synthetic.TRIO, written["analysis"].architectures, strict=True):
        assert [route.method for route in arch.routes] == ["surface", "frontier", "iso-FLOP"]
        surface, _, iso = arch.routes
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

    compared = [one for one in written["analysis"].comparisons if one.ratio is not None]
    assert len(compared) == 3
    for one in compared:
        true = best(one.second, one.at_compute) / best(one.first, one.at_compute)
        assert one.ratio.value == pytest.approx(
            true, rel=0.12
        )  # frontiers of corners are a little too high
        assert one.ratio.low < one.ratio.value < one.ratio.high
        assert all(
            low is None or low <= value <= high for _, value, low, high in one.multiplier_curve
        )
        losses = [loss for loss, *_ in one.multiplier_curve]
        assert losses == sorted(losses) and len(losses) > 5


def test_a_new_run_scatters_more_than_the_law(written: dict[str, Any]) -> None:
    for one in written["analysis"].prospects:
        assert one.new_run.low < one.loss.low < one.loss.value < one.loss.high < one.new_run.high

    class Surface:
        diagnostics = {"sd_between_runs": 0.03, "sd_within_runs": 0.04}  # noqa: RUF012
        level, n_runs = 0.95, 1_000_000

    known = _new_run(Estimate(2.0, 2.0 * math.exp(-0.1), 2.0 * math.exp(0.1)), Surface())
    half = math.hypot(0.1, 1.959964 * 0.05)
    assert known.low == pytest.approx(2 * math.exp(-half), rel=1e-5)
    assert known.high == pytest.approx(2 * math.exp(half), rel=1e-5)


def test_a_forecast_without_bounds_is_not_told(written: dict[str, Any]) -> None:
    """data_limited's page promised PaiNN a loss between 7.6e-12 and 1.1e15, in bold."""
    analysis = copy.copy(written["analysis"])
    budget = sorted({one.flops for one in analysis.prospects})[1]
    best = min(
        (one for one in analysis.prospects if one.flops == budget), key=lambda one: one.loss.value
    )
    vague = replace(best, loss=Estimate(best.loss.value, 1e-9, 1e9))
    assert best.told and not vague.told
    analysis.prospects = [vague if one is best else one for one in analysis.prospects]
    page = Page(render(analysis, figures(analysis)))
    assert "wider than a factor of 100" in page.words and "1e-09" not in page.words
    assert f"FLOPs: {best.label} with" not in budget_words(analysis)
    analysis.prospects = [
        replace(one, loss=Estimate(one.loss.value, 1e-9, 1e9)) for one in analysis.prospects
    ]
    assert "cannot tell what a larger budget would buy" in budget_words(analysis)


def test_every_figure_is_explained_in_a_sentence(written: dict[str, Any], page: str) -> None:
    words = " ".join(Page(page).words.split())

    made = figures(written["analysis"])
    assert {"equal_terms", "floors", "compute_optimal", "diagnosis"} <= {
        figure.name for figure in made
    }
    for figure in made:
        assert len(figure.explain) > 60 and figure.explain.endswith(".")
        assert " ".join(figure.explain.split()) in words


def test_runs_to_add_are_named(written: dict[str, Any], page: str) -> None:
    rows = Page(page).table("suggestions")[1:]
    suggested = [arch for arch in written["analysis"].architectures if arch.suggestion]
    assert len(rows) == len(suggested) >= 1
    for arch in suggested:
        assert 0 < arch.suggestion.after < arch.suggestion.before and arch.suggestion.cost > 0


def test_the_commands_on_the_page_run_as_they_stand(study: Path, tmp_path: Path, page: str, monkeypatch: Any,
                                                    capsys: Any) -> None:  # fmt: skip
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
