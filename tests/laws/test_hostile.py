"""Tables that break things: each ends in a right answer or a clear refusal."""

import time

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws import Runs, compare, diagnose, fit, frontier, simulate
from tests.laws.studies import FIELD, LANGUAGE, columns, study


def test_a_million_rows():
    rng = np.random.default_rng(0)
    rows = 10**6
    run = rng.integers(0, 500, rows)
    n, d = np.geomspace(1e7, 1e10, 500)[run], np.exp(rng.uniform(20.7, 27.6, rows))
    loss = simulate.surface_loss(LANGUAGE, n, d) * np.exp(rng.normal(size=500)[run] * 0.01 + rng.normal(size=rows) * 0.01)
    started = time.process_time()
    result = fit(Runs.from_frame({"params": n, "tokens": d, "loss": loss, "run_name": run}))
    assert time.process_time() - started < 30
    assert result.ok and result.n_runs == 500
    for name in ("alpha", "beta", "E"):
        assert abs(result[name].value - LANGUAGE[name]) < 4 * result[name].se
    few = slice(0, 20_000)  # rows are not runs
    part = Runs.from_frame({"params": n[few], "tokens": d[few], "loss": loss[few], "run_name": run[few]})
    assert fit(part)["alpha"].se > 3 * fit(part, cluster=None)["alpha"].se


@pytest.mark.parametrize("objective", ["huber", "log", "relative"])
def test_losses_over_ten_orders_of_magnitude(objective):
    rng = np.random.default_rng(0)
    n, d = np.geomspace(1e2, 1e14, 30).repeat(10), np.tile(np.geomspace(1e3, 1e15, 10), 30)
    loss = (1e5 * n**-0.9 + 1e5 * d**-0.8) * np.exp(rng.normal(size=300) * 0.02)
    assert loss.max() / loss.min() > 1e10
    result = fit(Runs.from_frame({"n": n, "d": d, "loss": loss}), objective=objective)
    assert result.ok
    assert result["alpha"].value == pytest.approx(0.9, abs=0.002) and result["beta"].value == pytest.approx(0.8, abs=0.002)
    assert result["E"].value < 1e-8


def test_two_sizes_with_jitter_are_two_sizes():
    rng = np.random.default_rng(0)
    n = np.repeat([1e6, 1e8], 100) * np.exp(rng.normal(size=200) * 0.002)
    d = np.exp(rng.uniform(18, 25, 200))
    result = fit(Runs.from_frame({"n": n, "d": d, "loss": simulate.surface_loss(LANGUAGE, n, d)}))
    assert result.status == "refused" and "2 distinct levels of n" in result.message


def test_all_diverged_every_way():
    table = columns(study(6))
    for change in ({"val_loss": np.full(60, np.nan)}, {"val_loss": np.full(60, np.inf)}, {"status": ["diverged"] * 60},
                   {"status": ["failed"] * 60, "val_loss": [None] * 60}):
        with pytest.raises(FitError):
            Runs.from_frame(table | change)
    blown = fit(Runs.from_frame(table | {"val_loss": np.exp(np.random.default_rng(0).normal(size=60) * 3 + 20)}))
    assert not blown.ok


def test_strings_and_formulas_in_any_column():
    table = columns(study(6))
    for name in ("params", "tokens", "val_loss"):
        for bad in ("=1+1", "@SUM(A1)", "twelve", "0x10", "1e5e5", "__import__('os')", "1,000"):
            cells = [str(value) for value in table[name]]
            cells[7] = bad
            with pytest.raises(FitError, match="row 8 holds"):
                Runs.from_frame(table | {name: cells})
        fine = [f" {value!r} " for value in np.asarray(table[name]).tolist()]
        assert fit(Runs.from_frame(table | {name: fine}), interval="none").ok  # numbers written as text are numbers


def test_flops_that_cannot_be_used_do_not_stop_a_fit_that_needs_none():
    table = columns(study(6)) | {"flops": ["n/a"] * 60}
    result = fit(Runs.from_frame(table), interval="none")
    assert result.ok and any("'flops'" in note for note in result.table["notes"])


def test_correlated_sizes_and_data():
    n = np.geomspace(1e7, 1e10, 30)
    for d in (20 * n, 1e17 / n, 20 * n**0.7):
        result = fit(Runs.from_frame({"n": n, "d": d, "loss": simulate.surface_loss(LANGUAGE, n, d)}))
        assert result.status == "refused" and "perfectly correlated" in result.message


def test_everything_else_refuses_what_fit_refuses():
    two = study(2)
    assert fit(two).status == "refused"
    assert diagnose(two).verdict == "refused"
    assert not frontier(two).fit.ok
    with pytest.raises(FitError):
        compare(two)


def test_extreme_scales_stay_finite():
    runs = study(6)
    for factor in (1e-80, 1e80):
        table = simulate.table(n=runs["n"] * 1e100, d=runs["d"] * 1e-5, loss=runs["loss"] * factor, run=runs.run)
        result = fit(table)
        assert result.ok and result["alpha"].value == pytest.approx(fit(runs)["alpha"].value, rel=1e-4)
        assert "NaN" not in result.to_json() and "Infinity" not in result.to_json()
    refused = fit(simulate.table(n=runs["n"], d=runs["d"], loss=runs["loss"] * 1e-200, run=runs.run))
    assert refused.status == "refused" and "another unit" in refused.message


def test_one_wild_point_or_run_does_not_decide():
    runs = study(12, truth=FIELD)
    loss = runs["loss"].copy()
    loss[57] *= 1e6
    result = fit(simulate.table(n=runs["n"], d=runs["d"], loss=loss, run=runs.run))
    assert result.ok and result["beta"].value == pytest.approx(0.40, abs=0.02)
