"""Forms weighed by back-tests: the back-tests are what separate fits say, the interval grows with
the distance, and holds where the fitted form is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.extrapolation import WINDOW, extrapolate
from forcelaw.laws.decide.forecast import forecast
from forcelaw.laws.fit.fit import fit
from tests.laws.studies import FIELD

SIZES, DATA = np.geomspace(5e3, 1e6, 8), np.geomspace(5e5, 1.6e7, 12)
HARD = {"E": 0.05, "A": 9.0, "B": 120.0, "alpha": 0.42, "beta": 0.48}


def study(seed=0, **options):
    return simulate.trajectories(FIELD, SIZES, DATA, np.random.default_rng(seed), **options)


def coupled(seed, p=0.45):
    """A study whose losses follow a surface that no sum of two powers is."""
    runs = study(seed, sd_run=0.0, sd_within=0.0)
    terms = HARD["A"] * runs["n"] ** -HARD["alpha"], HARD["B"] * runs["d"] ** -HARD["beta"]
    loss = HARD["E"] + (terms[0] ** p + terms[1] ** p) ** (1 / p)
    loss = loss * np.exp(simulate.noise(runs.run, np.random.default_rng(seed), sd_run=0.005))
    return replace(runs, values=runs.values | {"loss": loss})


def test_a_back_test_is_what_a_fit_below_the_cut_says_of_the_ends_above() -> None:
    runs = study(seeds=2)
    short = runs.take(runs["c"] > runs["c"].max() / WINDOW)  # the window then leaves out nothing
    found = extrapolate(short, short["c"], "surface", delta=0.01)
    assert [one.window for one in found.candidates] == [None] and found.weights.sum() == 1
    for one in found.back_tests[:3]:
        below = fit(short.take(short["c"] <= one.cut), "surface", delta=0.01, interval="none")
        ends = np.array([np.flatnonzero(short.run == k)[-1] for k in range(len(short.run_names))])
        ends = ends[short["c"][ends] > 1.2 * one.cut]
        error = np.log(below.predict(n=short["n"][ends], d=short["d"][ends]) / short["loss"][ends])
        assert one.runs == len(ends)
        assert one.error == pytest.approx(error.mean(), rel=1e-4, abs=1e-6)
        assert one.rms == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)


def test_the_better_form_gets_the_weight() -> None:
    runs = coupled(0)
    part = runs.take(runs["c"] <= 0.1 * runs["c"].max())
    found = extrapolate(part, part["c"])
    share = {name: 0.0 for name in ("surface", "surface, no floor", "coupled")}
    for one in found.candidates:
        share[one.name] += one.weight
    assert sum(share.values()) == pytest.approx(1)
    assert share["coupled"] > max(share["surface"], share["surface, no floor"])
    mean = np.exp(found.weights @ found.log_predictions(n=np.array([1e6]), d=np.array([1e7])))
    assert found.predict(n=1e6, d=1e7) == pytest.approx(mean)


def test_the_interval_grows_with_the_distance_and_by_the_noise_of_a_run() -> None:
    runs = study()
    found = extrapolate(runs, runs["c"])
    n, d = np.full(3, 1e6), np.full(3, 1.6e7)
    budgets = found.limit * np.array([0.5, 1.0, 10.0])
    band = found.interval(budget=budgets, n=n, d=d)
    width = np.log(band.high / band.low)
    assert width[0] == width[1] < width[2]  # no growth inside the budgets that were measured
    _, sd, _ = found.moments(budgets, n=n, d=d)
    assert sd[2] ** 2 - sd[1] ** 2 == pytest.approx((found.growth * np.log(10)) ** 2)
    new = found.interval("new run", budget=budgets, n=n, d=d)
    assert (np.log(new.high / new.low) / width) ** 2 == pytest.approx(1 + (found.noise / sd) ** 2)


def reshaped(seed, shape):
    """The study's noise on losses exp(shape(ln N/N0, ln D/D0, ln C/Cmax))."""
    runs = study(seed, sd_run=0.005, sd_within=0.001)
    noise = runs["loss"] / simulate.surface_loss(FIELD, runs["n"], runs["d"])
    u, v = np.log(runs["n"] / 1e5), np.log(runs["d"] / 5e6)
    loss = noise * np.exp(shape(u, v, np.log(runs["c"] / runs["c"].max())))
    return replace(runs, values=runs.values | {"loss": loss})


def test_intervals_hold_where_n_and_d_interact_and_no_form_knows_of_it() -> None:
    hold = {True: [], False: []}
    for seed in range(3):
        runs = reshaped(seed, lambda u, v, _: -0.15 * (u + v) - 0.02 * u * v)
        for calibrate, law in ((True, "auto"), (False, "surface")):
            for p in forecast(runs, law=law, calibrate=calibrate)[0].predictions:
                k = runs.run_names.index(p.run)
                truth = runs["loss"][np.flatnonzero(runs.run == k)[-1]]
                hold[calibrate].append(p.low <= truth <= p.high)
    assert np.mean(hold[False]) < 0.5 < 0.9 <= np.mean(hold[True])


def test_where_back_tests_and_diagnosis_say_no_there_is_no_number() -> None:
    """The loss stops falling in the middle: every cut before it foretells a fall that does not
    come."""
    runs = reshaped(0, lambda u, v, x: 0.02 * (x + 5.5) - 0.14 * np.minimum(x + 5.5, 0))
    runs = runs.take(np.arange(len(runs)) % 2 == 1)
    found = forecast(runs)[0]
    assert found.status == "refused" and not found.predictions and found.foretells is False
    assert "a trend" in found.diagnosis and found.back_tests
    anyway = forecast(runs, anyway=True)[0]
    assert anyway.ok and anyway.foretells is False
    sound = forecast(study())[0]
    assert sound.foretells and not sound.diagnosis  # asked only where back-tests say no


def test_a_table_of_one_size_is_forecast_along_its_data() -> None:
    d = np.geomspace(1e6, 1e10, 30)
    loss = 0.3 + 200 * d**-0.4
    found = forecast({"d": d, "loss": loss})[0]
    assert found.x == "d" and found.ok
    for p in found.predictions:
        assert p.low < 0.3 + 200 * p.d**-0.4 < p.high
        assert p.loss == pytest.approx(0.3 + 200 * p.d**-0.4, rel=0.02)


@pytest.mark.parametrize("fitted", [4, 5])
def test_fewer_rows_than_a_window_needs_are_fitted_as_a_whole(fitted) -> None:
    d = np.append(np.geomspace(1e6, 5e8, fitted), 1e10)
    found = forecast({"d": d, "loss": 0.3 + 200 * d**-0.4})[0]
    assert found.ok and found.rows == fitted and not found.back_tests
    assert {one.window for one in found.candidates} == {None}
    assert found.predictions[0].low < 0.3 + 200 * 1e10**-0.4 < found.predictions[0].high
