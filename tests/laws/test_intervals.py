"""Intervals against brute force, closed forms and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.floor_profile import profile_floor
from forcelaw.laws.fit.intervals import estimate, one_step
from forcelaw.laws.fit.objective import Objective
from forcelaw.laws.fit.problem import build
from forcelaw.laws.fit.small_sample import Student
from tests.laws.studies import FIELD, LANGUAGE, exponents, study
from tests.reference import laws_slow


def test_jackknife_is_scipys_refits_without_each_run():
    runs = study(7, seed=1, truth=LANGUAGE)
    result = fit(runs, objective="log", interval="jackknife")
    start = {name: one.value for name, one in result.parameters.items()}
    slow = laws_slow.jackknife_surface(runs["n"], runs["d"], runs["loss"], runs.run, start)
    values = result.law.natural(result.replicates, result.centre)
    for name in ("E", "alpha", "beta"):
        expected = np.array([one[name] for one in slow])
        np.testing.assert_allclose(values[name], expected, rtol=2e-4)
        se = np.sqrt(6 / 7 * ((expected - start[name]) ** 2).sum())
        assert result[name].se == pytest.approx(se, rel=2e-3)
    for name, inverse in (
        ("alpha", np.log),
        ("beta", np.log),
    ):  # made on a log scale; see test_small_sample.py
        expected = np.array([one[name] for one in slow])
        reach = float(result[name].method.split()[1])
        assert 1.5 < reach < 4
        half = reach * np.sqrt(6 / 7 * ((inverse(expected) - inverse(start[name])) ** 2).sum())
        assert result[name].high == pytest.approx(start[name] * np.exp(half), rel=2e-3)


def test_jackknife_of_a_mean_is_the_textbook_interval():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=12) + 5
    deleted = np.array([np.delete(sample, i).mean() for i in range(12)])
    made = estimate(
        "E",
        sample.mean(),
        deleted,
        method="jackknife",
        level=0.95,
        floor_name="E",
        reference=Student(11),
    )
    half = stats.t.ppf(0.975, 11) * sample.std(ddof=1) / np.sqrt(12)
    assert made.se == pytest.approx(sample.std(ddof=1) / np.sqrt(12), rel=1e-12)
    assert (made.low, made.high) == (
        pytest.approx(sample.mean() - half),
        pytest.approx(sample.mean() + half),
    )


@pytest.mark.parametrize("centre", [0.5, 0.9, 1.1])
def test_an_exponent_of_the_optimum_may_be_larger_than_one(centre):
    """Where cost is k N^p D^q with p < 1: a logit would put both ends at one."""
    draws = centre + 0.01 * np.array([-1, 1, 0.5, -0.5, 1.2, -1.2])
    made = estimate(
        "a", centre, draws, method="jackknife", level=0.95, floor_name="E", reference=Student(5)
    )
    half = stats.t.ppf(0.975, 5) * made.se
    assert (made.low, made.high) == (
        pytest.approx(centre - half, abs=0.3 * half),
        pytest.approx(centre + half, abs=0.3 * half),
    )


def test_a_floor_reaches_further_down_than_up_and_stays_below_the_lowest_loss():
    draws = 1.0 + 0.2 * np.array([-1, 1, 0.5, -0.5, 1.2, -1.2])
    made = estimate(
        "E",
        1.0,
        draws,
        method="jackknife",
        level=0.95,
        floor_name="E",
        reference=Student(5),
        ceiling=1.5,
    )
    assert 1.0 < made.high < 1.5 and 1.0 - made.low > made.high - 1.0


def test_one_step_is_close_to_the_refit_where_runs_are_many():
    runs = study(60, seed=1)
    result = fit(runs, objective="log")
    problem = build(runs, result.law, Objective("log"), "run", None)
    quick = one_step(problem, result.theta)
    moved = result.replicates - result.theta
    np.testing.assert_allclose(
        (quick - result.theta)[:, -2:], moved[:, -2:], atol=0.05 * np.abs(moved[:, -2:]).max()
    )


def test_bootstrap_and_jackknife_agree_on_many_independent_rows():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(10, 15, 300)), np.exp(rng.uniform(14, 20, 300))
    loss = simulate.surface_loss(FIELD, n, d) * np.exp(rng.normal(size=300) * 0.02)
    runs = simulate.table(n=n, d=d, loss=loss, run=np.arange(300))
    jack, boot = fit(runs, interval="jackknife"), fit(runs, interval="bootstrap", resamples=400)
    for name in ("alpha", "beta", "a", "gamma"):
        assert boot[name].se == pytest.approx(jack[name].se, rel=0.15)
    again = fit(runs, interval="bootstrap", resamples=400)
    assert again["alpha"].low == boot["alpha"].low  # the same seed, the same draws
    assert fit(runs, interval="bootstrap", resamples=400, seed=1)["alpha"].low != boot["alpha"].low


def test_checkpoints_are_not_taken_as_independent():
    """Intervals by rows are far too narrow for alpha when runs differ by their own error."""
    widths = {cluster: [] for cluster in ("run", "none")}
    for seed in range(5):
        runs = study(20, seed=seed)
        for cluster in widths:
            one = fit(runs, cluster=cluster, interval="jackknife")["alpha"]
            widths[cluster].append(one.high - one.low)
    assert np.mean(widths["run"]) > 2 * np.mean(widths["none"])


@pytest.mark.parametrize("groups", [6, 12])
def test_coverage(groups):
    """Nominal 95% intervals over 40 simulated studies: 40 trials of .95 fall below 33 once in a
    thousand times."""
    truth = FIELD | exponents(FIELD)
    hits = {name: 0 for name in ("alpha", "beta", "a", "E", "gamma")}
    for seed in range(40):
        result = fit(study(groups, seed=seed))
        for name in hits:
            hits[name] += result[name].low <= truth[name] <= result[name].high
    assert min(hits.values()) >= 33, hits


def test_a_new_run_falls_inside_its_interval_and_the_mean_interval_is_narrower():
    inside, total = 0, 0
    for seed in range(20):
        result = fit(study(10, seed=seed, sd_run=0.03))
        here = {"n": np.array([2e5, 1e6]), "d": np.array([3e7, 5e8])}
        rng = np.random.default_rng([seed, 99])
        new = simulate.surface_loss(FIELD, **here) * np.exp(
            rng.normal() * 0.03 + rng.normal(size=2) * 0.004
        )
        band, mean = result.interval("new run", **here), result.interval("mean", **here)
        assert (mean.high - mean.low < band.high - band.low).all()
        inside += int(((new >= band.low) & (new <= band.high)).sum())
        total += 2
    assert inside / total >= 0.8


def test_profile_agrees_with_the_jackknife_where_the_floor_is_well_known():
    runs = study(16, seed=4, truth=FIELD | {"E": 0.08})
    result = fit(runs)
    profile = profile_floor(runs, result)
    assert profile.excludes_zero and profile.p_zero < 1e-3
    assert profile.low == pytest.approx(
        result["E"].low, abs=0.3 * (result["E"].high - result["E"].low)
    )
    assert profile.high == pytest.approx(
        result["E"].high, abs=0.3 * (result["E"].high - result["E"].low)
    )
    assert profile.gamma_zero < profile.gamma_free < profile.gamma_high
    zero = fit(runs, floor="zero", delta=result.delta, interval="none")
    assert profile.gamma_zero == pytest.approx(zero["gamma"].value, rel=1e-3)


def test_the_profile_of_no_floor_does_not_exclude_zero():
    excluded = 0
    for seed in range(6):
        runs = study(10, seed=seed, truth=FIELD | {"E": 0.0})
        profile = profile_floor(runs, fit(runs))
        assert profile.low == 0 or profile.p_zero < 0.05
        excluded += profile.excludes_zero
    assert excluded <= 2
