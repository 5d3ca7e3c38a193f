"""Figures of single commands: what they show is what the laws found, and both renderers draw it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forcelaw.errors import FitError
from forcelaw.figures import plotly
from forcelaw.figures.commands import compare_figure, diagnose_figure, fit_figure
from forcelaw.figures.laws import forest
from forcelaw.figures.matplotlib import check_path, save, save_alone
from forcelaw.figures.spec import Figure, Panel, Series
from forcelaw.figures.style import looks
from forcelaw.laws.compare.compare import Comparison, compare
from forcelaw.laws.diagnose.diagnose import diagnose
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.result import Estimate
from forcelaw.table.runs import Runs

from . import synthetic


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Two architectures with known laws, five sizes, 1% of noise."""
    rng = np.random.default_rng(0)
    rows = []
    for truth in (synthetic.LADDER[0], synthetic.LADDER[4]):
        for n in synthetic.SIZES:
            noise = rng.normal(0, 0.01)
            for d in np.geomspace(2e5, 4e6, 8):
                loss = truth.loss(n, d) * np.exp(noise + rng.normal(0, 0.003))
                row = {"run": f"{truth.label} {n}", "architecture": truth.label, "seed": 0}
                rows.append({**row, "n": n, "d": d, "c": 3 * truth.kappa * n * d, "loss": loss})
    return Runs.from_frame(pl.DataFrame(rows))


@pytest.fixture(scope="module")
def compared(runs: Runs) -> Comparison:
    return compare(runs, permutations=0)


def _drawn(figure: Figure, path: Path) -> None:
    """Both renderers take the figure."""
    import plotly.graph_objects as go

    for panel in plotly.draw(figure):
        go.Figure(panel)
    assert save_alone(figure, path).stat().st_size > 5000


def test_a_fit_shows_every_run_and_the_law(runs: Runs, tmp_path: Path) -> None:
    one = runs.select(group="eSEN")
    result = fit(one, "surface")
    figure = fit_figure(one, result)
    against_n, against_d, residuals = figure.panels
    for panel, role in ((against_n, "n"), (against_d, "d")):
        points = [s for s in panel.series if s.kind == "points"]
        assert sorted(x for s in points for x in s.x) == sorted(one[role].tolist())
    lines = [s for s in against_n.series if s.kind == "line" and s.dash == "solid"]
    levels = np.unique(np.quantile(one["d"], [0.05, 0.3, 0.5, 0.7, 0.95], method="nearest"))
    for level, line in zip(levels, lines, strict=True):
        assert line.y == pytest.approx(result.predict(n=np.array(line.x), d=level))
    off = 100 * (one["loss"] / result.predict(n=one["n"], d=one["d"]) - 1)
    assert residuals.series[0].y == pytest.approx(off.tolist())
    _drawn(figure, tmp_path / "fit.png")


def test_a_comparison_shows_exponents_and_multiplier(compared: Comparison, tmp_path: Path) -> None:
    figure = compare_figure(compared)
    ratio, alpha, *_, compute = [one for one in figure.panels if one.title != "equal FLOPs"]
    found = compared.ratios[0]
    lines = [series for series in ratio.series if series.group == found.second]
    for line, size in zip(lines, found.sizes, strict=True):
        assert line.x == pytest.approx(size.d.tolist()) and line.y == pytest.approx(
            size.ratio.tolist()
        )
    shown = {series.group: (series.x[0], series.low[0]) for series in alpha.series}
    for group, result in compared.fits.items():
        assert shown[group] == (result["alpha"].value, result["alpha"].low)
    curve = next(series for series in compute.series if series.kind == "both")
    assert curve.y == pytest.approx(compared.pairs[0].multiplier.multiplier.tolist())
    _drawn(figure, tmp_path / "compare.svg")


def test_a_diagnosis_shows_the_profile_of_the_floor(runs: Runs, tmp_path: Path) -> None:
    found = diagnose(runs.select(group="eSEN"))
    figure = diagnose_figure(found)
    assert len(figure.panels) == 4 and figure.columns == 2
    profile = figure.panels[3].series[0]
    assert np.interp(found.profile.high, profile.x, profile.y) == pytest.approx(1, abs=0.15)
    _drawn(figure, tmp_path / "diagnose.pdf")


def test_a_forest_reads_from_the_top_down() -> None:
    look = looks([("a", "mpnn"), ("b", "esen")])
    items = [
        (look["a"], Estimate(0.3, None, 0.2, 0.4), False),
        (look["b"], Estimate(0.5), True),
    ]
    panel = forest("γ", items, [("paper: 0.14", 0.14), None])
    assert panel.categories == ["b", "a"]
    marks = {series.group: series for series in panel.series if series.hover != "paper: 0.14"}
    assert marks["a"].y == [1] and (marks["a"].low, marks["a"].high) == ([0.2], [0.4])
    assert marks["b"].y == [0] and marks["b"].hollow and marks["b"].low is None
    (tick,) = (series for series in panel.series if series.hover == "paper: 0.14")
    assert tick.x == [0.14] and 0 < tick.y[0] < 1 and tick.group == "a"
    assert forest("γ", [(look["a"], None, False)]).empty


@pytest.mark.parametrize("name", ["figure.gif", "figure"])
def test_a_figure_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FitError) as caught:
        check_path(tmp_path / name)
    assert ".png" in caught.value.remedy and caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize(("count", "rows"), [(1, "all"), (2, "first"), (3, "second")])
def test_labels_of_any_length_leave_room_for_the_panels(
    count: int, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of rows, of the legend and of axes, two of them alike but for their last letter."""
    from matplotlib.figure import Figure as Canvas

    long = "a" * 5000
    panels = []
    for k in range(count):
        named = rows == "all" or (rows, k) in (("first", 0), ("second", 1))
        series = [Series([1.0, 2.0], [0.0, 1.0], group=long + end) for end in "xy"]
        names = [long + "x", "b" * 300] if named else None
        panels.append(Panel(long, long, series, title=long, y_log=False, categories=names))
    drawn = []
    add_axes = Canvas.add_axes
    monkeypatch.setattr(Canvas, "add_axes", lambda *a: drawn.append(a[1]) or add_axes(*a))
    save(Figure("long", long, long, panels), tmp_path)
    whole = drawn[:count]
    assert sum(width for _, _, width, _ in whole) > 0.2 and min(x for x, *_ in whole) > 0
    assert all(a[0] + a[2] < b[0] + 1e-9 for a, b in pairwise(whole))
    svg = (tmp_path / "long.svg").read_text(encoding="utf-8")
    assert "aaa" in svg and "a" * 200 not in svg
