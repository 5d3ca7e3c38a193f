"""Checks of the design and of the form: each sees the fault that it is there for, and is quiet
without it. Rates over many studies: benchmarks/law_diagnosis.py."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.compare.slopes import estimate
from forcelaw.laws.decide import simulate
from forcelaw.laws.diagnose import score
from forcelaw.laws.diagnose.covariates import batches, factors, learning_rates, sweep_ends
from forcelaw.laws.diagnose.diagnose import REFUSED, diagnose
from forcelaw.laws.diagnose.interaction import interaction
from forcelaw.laws.diagnose.seeds import seeds
from forcelaw.laws.diagnose.stability import windows
from forcelaw.laws.fit.fit import fit
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, columns, scaled, study
from tests.laws.test_stepped import with_depth


def jackknifed(runs, law="surface", **options):
    return fit(runs, law, interval="jackknife", **options)


def coupled(p, seed=0):
    """A study whose terms are joined by the norm p."""
    runs = study(10, seed=seed)
    first, second = (
        FIELD[a] * runs[r] ** -FIELD[e] for a, r, e in (("A", "n", "alpha"), ("B", "d", "beta"))
    )
    law = FIELD["E"] + (first**p + second**p) ** (1 / p)
    noise = runs["loss"] / simulate.surface_loss(FIELD, runs["n"], runs["d"])
    return replace(runs, values=runs.values | {"loss": law * noise})


@pytest.mark.parametrize("p", [0.5, 2.0])
def test_an_interaction_is_seen_by_the_additive_law_and_not_by_the_coupled_one(p):
    runs = coupled(p)
    found = interaction(runs, jackknifed(runs))
    assert found.passed is False and found.p < 1e-3 and "auto" in found.remedy
    # p < 1: both terms limit at once, so losses are above the sum where the two are alike
    assert (found.data["coefficient"] > 0) == (p < 1)
    assert interaction(runs, jackknifed(runs, "coupled")).passed is True
    sound = study(10)
    assert interaction(sound, jackknifed(sound)).passed is True


def test_an_exponent_that_belongs_to_its_window_is_seen():
    runs = study(10, sd_run=0.003, sd_within=0.001)
    bent = scaled(runs, np.where(runs["d"] > 3e7, (runs["d"] / 3e7) ** 0.15, 1.0))
    for table, expected in ((runs, True), (bent, False)):
        checks = {c.name: c for c in windows(table, jackknifed(table))}
        assert set(checks) == {"window of N", "window of D"}
        assert checks["window of D"].passed is expected
        assert checks["window of D"].data["quantity"] == "beta"
        rows = checks["window of D"].data["rows"]
        by_hand = [
            fit(table.take(keep), interval="none")["beta"].value
            for keep in (table["d"] >= 3e6, table["d"] <= table["d"].max() / 3)
        ]
        assert [row["value"] for row in rows[1:]] == pytest.approx(by_hand, rel=1e-6)


def test_the_effect_of_a_covariate_is_that_of_least_squares_on_run_means():
    """Oracle: the whole law and the covariate fitted by scipy to data with a known effect."""
    rng = np.random.default_rng(1)
    runs = study(12, seeds=2, sd_run=0.003, sd_within=0.001)
    z = rng.normal(size=len(runs.run_names))[runs.run]
    table = scaled(runs, np.exp(0.05 * z))
    found = score.effect(table, jackknifed(table, objective="log"), z, 0.95)
    assert found.low < 0.05 < found.high and found.high - found.low < 0.01
    # a covariate that is ln N bent as the law bends is taken up by it
    result = jackknifed(runs)
    assert score.effect(runs, result, score.jacobian_of(runs, result)[0], 0.95) is None
    # and the errors are those of the run means, not of the rows
    y, line = rng.normal(size=12), np.column_stack([np.ones(12), np.arange(12.0)])
    assert estimate("x", line, y, 1, 0.95).units == 12


def test_a_step_in_depth_is_seen_and_what_it_does_to_alpha_is_said():
    table = with_depth(study(12, seeds=3, sd_run=0.004), step=-0.07)
    (check,) = factors(table, jackknifed(table), None)
    assert check.name == "depth" and check.passed is False
    assert check.data["steps"]["3"].value == pytest.approx(-0.07, abs=0.02)
    before, after = check.data["exponents"]["alpha"]
    assert abs(after - FIELD["alpha"]) < abs(before - FIELD["alpha"])
    sound = with_depth(study(12, seeds=3, sd_run=0.004))
    assert factors(sound, jackknifed(sound), None)[0].passed is True
    assert factors(study(6), jackknifed(study(6)), None) == []
    with pytest.raises(FitError):
        factors(sound, jackknifed(sound), ["widht"])
    # a column named by the user
    assert factors(sound, jackknifed(sound), ["n_layers"])[0].name == "n_layers"


def with_rates(runs, rates, effect=0.0):
    table = columns(runs)
    table["val_loss"] = runs["loss"] * (rates / rates.min()) ** effect
    return Runs.from_frame(pl.DataFrame(table | {"learning_rate": rates}))


def test_learning_rates_that_differ_within_a_column():
    runs = study(10, seeds=2, sd_run=0.005)
    rates = np.random.default_rng(2).choice([1e-3, 2e-3, 4e-3], len(runs.run_names))[runs.run]
    for effect, expected in ((0.0, True), (0.05, False)):
        table = with_rates(runs, rates, effect)
        check = learning_rates(table, jackknifed(table))
        assert check.passed is expected
    assert check.data["slope"].value == pytest.approx(0.05, abs=0.02)
    one = with_rates(runs, np.full(len(runs), 1e-3))
    assert learning_rates(one, jackknifed(one)).passed is True
    assert learning_rates(runs, jackknifed(runs)) is None


def test_rates_by_a_law_of_size_and_length_are_not_blamed_for_a_misfit():
    """Losses of coupled terms and rates that fall with N, to two digits as a study has them."""
    runs = coupled(0.5)
    rates = np.array([float(f"{4e-3 * (n / 1e5) ** -0.17:.2g}") for n in runs["n"]])
    check = learning_rates(table := with_rates(runs, rates), jackknifed(table))
    assert check.passed is None and "follow N^-0.17" in check.detail
    rates[runs["n"] == runs["n"].max()] *= 2
    check = learning_rates(table := with_rates(runs, rates), jackknifed(table))
    assert "follow" not in check.detail


def test_a_best_rate_at_the_end_of_a_sweep():
    rates = np.array([1e-3, 2e-3, 4e-3, 8e-3])

    def sweep(best, noise=0.0, depth=0.05):
        loss = 0.3 * np.exp(depth * np.log2(rates / best) ** 2 + noise)
        return Runs.from_frame(
            {"run": list("abcd"), "n": [1e5] * 4, "d": [1e7] * 4, "loss": loss, "lr": rates}
        )

    assert sweep_ends(sweep(3e-3), 0.01).passed is True
    at_end = sweep_ends(sweep(1.6e-2), 0.01)
    assert at_end.passed is False and at_end.data["sweeps"][0]["lr"] == 8e-3
    # the last step gains 3 depth: within the noise of two runs nothing is sure
    assert sweep_ends(sweep(1.6e-2, depth=0.005), 0.01).passed is None
    assert sweep_ends(None, 0.01) is None
    diverged = sweep(1.6e-2).take(np.arange(2))
    assert sweep_ends(diverged, 0.01).passed is None


def test_seeds_are_wanted_where_they_differ_most():
    quiet = study(6, seeds=4, sd_run=0.01, seed=3)
    assert seeds(quiet, jackknifed(quiet)).passed is True
    wild = np.random.default_rng(0).normal(size=len(quiet.run_names)) * 0.15
    small = quiet["n"] < 2e4
    loud = scaled(quiet, np.where(small, np.exp(wild[quiet.run]), 1.0))
    check = seeds(loud, jackknifed(loud, objective="log"))
    assert check.passed is False and check.data["n"] == pytest.approx(1e4, rel=0.05)
    assert check.data["seeds"] == 4 and check.data["sd"] > 5 * check.data["sd_others"]
    single = study(6)
    assert seeds(single, jackknifed(single)).passed is None


def test_steps_and_data_are_one_axis_unless_the_batch_varies():
    runs = study(10, seeds=2, sd_run=0.004)
    one = replace(runs, values=runs.values | {"step": runs["d"] / 500})
    check = batches(one, jackknifed(one))
    assert check.passed is None and "500" in check.detail
    size = np.random.default_rng(5).choice([250.0, 500.0, 1000.0], len(runs.run_names))[runs.run]
    for effect, expected in ((0.0, True), (0.06, False)):
        table = scaled(runs, (size / 500) ** effect)
        table = replace(table, values=table.values | {"step": runs["d"] / size})
        check = batches(table, jackknifed(table))
        assert check.passed is expected
    assert check.data["slope"].value == pytest.approx(0.06, abs=0.02)
    assert batches(runs, jackknifed(runs)) is None


def test_a_law_in_one_variable_is_diagnosed():
    d = np.geomspace(1e5, 1e9, 14)
    loss = 0.1 + 40 * d**-0.4
    noise = np.exp(np.random.default_rng(0).normal(size=14) * 0.005)
    table = {"tokens": d, "loss": loss * noise, "run": [f"r{i}" for i in range(14)]}
    found = diagnose(table, "power_floor")
    names = {check.name for check in found.checks}
    assert found.verdict != REFUSED and {"range", "curvature", "window of D", "floor"} <= names
    assert found.surface.law.roles == ("d",) and not found.failed
    broken = table | {"loss": loss * noise * np.where(d > 1e7, (d / 1e7) ** 0.3, 1.0)}
    assert diagnose(broken, "power_floor", x="d").failed
