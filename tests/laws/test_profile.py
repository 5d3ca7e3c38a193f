"""Profiles over runs, and what is said of a floor at its bound."""

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.profile import profile
from tests.laws.studies import exponents, study

RNG = np.random.default_rng(4)
X = np.geomspace(1e4, 1e7, 9)


def line(rows_each=1):
    """A power law in N with runs off by their own constant, seen ``rows_each`` times."""
    loss = 5 * X**-0.3 * np.exp(RNG.normal(size=len(X)) * 0.03)
    run = np.repeat(np.arange(len(X)), rows_each)
    return simulate.table(n=X[run], d=np.full(len(run), 1e9), loss=loss[run], run=run)


@pytest.mark.parametrize("rows_each", [1, 7])
def test_a_line_has_the_interval_of_least_squares(rows_each):
    """Whether a run is seen once or seven times does not change what is known."""
    runs = line(rows_each)
    result = fit(runs, "power", "log", interval="jackknife")
    low, high = profile(runs, result).intervals["gamma"]
    u, y = np.log(runs["n"][::rows_each]), np.log(runs["loss"][::rows_each])
    wanted = stats.linregress(u, y)
    half = stats.t.ppf(0.975, len(X) - 2) * wanted.stderr
    assert low == pytest.approx(-wanted.slope - half, rel=2e-3)
    assert high == pytest.approx(-wanted.slope + half, rel=2e-3)
    narrow = profile(runs, result, level=0.8).intervals["gamma"]
    assert low < narrow[0] < narrow[1] < high


def test_what_follows_from_the_exponents_has_an_interval_too():
    runs = study(12, seed=1)
    result = fit(runs, "surface", "log", interval="jackknife")
    found = profile(runs, result)
    low, high = found.intervals["gamma"]
    truth = exponents({"alpha": 0.35, "beta": 0.40})
    assert low < truth["gamma"] < high and low < result["gamma"].value < high
    assert set(found.intervals) == {"E", "alpha", "beta", "a", "b", "gamma"}
    assert 0 < found.intervals["a"][0] < truth["a"] < found.intervals["a"][1] < 1
    assert found.df == 12 - 5


def test_ends_that_the_table_does_not_bound_are_open_and_few_runs_are_refused():
    """A loss that does not depend on N has no alpha: A N^-alpha may be as small as it likes."""
    n, d = np.array([1e4, 1e5, 1e6, 1e7]).repeat(6), np.tile(np.geomspace(1e5, 1e8, 6), 4)
    noise = np.exp(0.03 * np.random.default_rng(0).normal(size=24))
    loss = (1e-3 * (n / 1e4) ** -0.3 + 50 * d**-0.3) * noise
    few, many = (simulate.table(n=n, d=d, loss=loss, run=r) for r in (n.argsort() // 6, range(24)))
    result = fit(few, "surface", "log", floor="zero", interval="none")
    with pytest.raises(FitError):
        profile(few, result)
    result = fit(many, "surface", "log", floor="zero", interval="none")
    low, high = profile(many, result).intervals["alpha"]
    assert low is None or high is None


def test_a_floor_that_would_be_negative_is_a_misfit_and_no_estimate():
    """A loss that falls faster and faster: without the bound the floor is below zero."""
    runs = study(12, sd_run=0.002, sd_within=0.001)
    bent = simulate.table(
        n=runs["n"], d=runs["d"], run=runs.run, loss=np.maximum(runs["loss"] - 0.06, 1e-3)
    )
    keep = bent.take(runs["loss"] > 0.075)
    result = fit(keep, interval="jackknife")
    assert result.status == "at_bound" and result.diagnostics["floor"] == "misfit"
    assert result["E"].low is None and result["E"].high is None
    assert result.diagnostics["floor_unbounded"]["value"] < 0


def test_a_floor_that_happens_to_be_at_zero_is_not_determined():
    truth = {"E": 0.0, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40}
    found = [fit(study(8, seed=seed, truth=truth), interval="jackknife") for seed in range(6)]
    at_zero = [one for one in found if one.status == "at_bound"]
    assert at_zero
    for one in at_zero:
        assert one.diagnostics["floor"] == "not determined"
        assert one["E"].low == 0 and one["E"].high > 0
