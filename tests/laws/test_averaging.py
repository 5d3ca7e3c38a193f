"""Forms that compete: weights, mixtures, and what is averaged."""

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit import averaging
from forcelaw.laws.fit.averaging import LINES, STANDING, SURFACES, average
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.mixtures import Part, mixture
from forcelaw.laws.fit.size_effects import moved_by_sizes, size_sd
from tests.laws.studies import study
from tests.reference import laws_slow

STEEP = {"E": 0.02, "A": 9.0, "B": 450.0, "alpha": 0.35, "beta": 0.5}


def coupled(p, seed=0, noise=0.003):
    """Ten runs on a coupled surface."""
    runs = study(truth=STEEP, seed=seed, sd_run=noise, sd_within=noise)
    here = {"n": runs["n"], "d": runs["d"]}
    ratio = laws_slow.predict("coupled", STEEP | {"p": p}, here) / laws_slow.predict(
        "surface", STEEP, here
    )
    return simulate.table(
        n=runs["n"], d=runs["d"], c=runs["c"], loss=runs["loss"] * ratio, run=runs.run
    )


def test_a_form_that_is_clearly_right_stands_alone():
    found = average(coupled(0.4), factor="none")
    assert found.best.name == "coupled" and found.best.weight > 0.95
    assert [form.name for form in found.standing] == ["coupled"]
    for name in ("alpha", "beta", "gamma"):
        single = found.best.result[name]
        assert found[name].low == pytest.approx(single.low)
        assert found[name].high == pytest.approx(single.high)


def test_an_additive_truth_is_not_missed():
    found = average(study(truth=STEEP, seed=1))
    assert "surface" in [form.name for form in found.standing]
    assert sum(form.weight for form in found.forms if not form.within) == pytest.approx(1.0)
    assert found["alpha"].low < STEEP["alpha"] < found["alpha"].high
    assert found["beta"].low < STEEP["beta"] < found["beta"].high
    assert {form.name for form in found.forms} == set(SURFACES)


def test_averaged_intervals_hold_the_doubt_about_the_form():
    """Where two forms stand the interval reaches at least to the middle of both."""
    runs = study(truth=STEEP, sd_run=0.05)
    found = average(runs)
    assert len(found.standing) > 1
    for name in ("alpha", "beta", "gamma"):
        for form in found.standing:
            if form.weight > 0.2:
                assert found[name].low < form.result[name].value < found[name].high
    values = [form.result["alpha"].value for form in found.standing]
    assert min(values) <= found["alpha"].value <= max(values)


def test_a_hypothesis_is_weighed_but_not_averaged():
    """alpha = beta where it is wrong by .1: the interval of a holds the truth, not one half."""
    truth = STEEP | {"alpha": 0.4}
    found = average(study(truth=truth, seed=2, sd_run=0.02))
    tied = next(form for form in found.forms if form.within)
    assert tied.name == "surface, alpha=beta" and 0 <= tied.weight <= 1
    assert tied.name not in [form.name for form in found.standing]
    assert found["a"].low < 0.5 / 0.9 < found["a"].high
    equal = average(study(truth=STEEP | {"alpha": 0.5}, seed=2, sd_run=0.02))
    assert next(form for form in equal.forms if form.within).weight > tied.weight


def test_mixture_is_that_of_draws():
    """Quantiles of the mixture against a million draws from its parts."""
    rng = np.random.default_rng(0)
    parts = [Part(0.7, 0.0, -1.0, 1.0, 9), Part(0.3, 2.0, 0.5, 4.0, 5)]
    drawn = []
    for part in parts:
        t = rng.standard_t(part.df, size=int(part.weight * 1_000_000))
        reach = stats.t.ppf(0.975, part.df)
        side = np.where(t < 0, part.value - part.low, part.high - part.value)
        drawn.append(part.value + t / reach * side)
    expected = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    np.testing.assert_allclose(mixture(parts, 0.95), expected, atol=0.02)
    assert mixture(parts[:1], 0.95) == (-1.0, 1.0)


def test_left_out_errors_are_those_of_refits():
    runs = study(groups=6)
    result = fit(runs, "surface", objective="log", interval="jackknife")
    squares = averaging._left_out(runs, result, runs.run)
    for g in range(6):
        part, own = runs.take(runs.run != g), runs.take(runs.run == g)
        other = fit(part, "surface", objective="log", interval="none")
        error = np.log(own["loss"] / other.predict(n=own["n"], d=own["d"]))
        assert squares[0, g] == pytest.approx(error.mean() ** 2, rel=1e-3, abs=1e-10)
        slope, _ = np.polyfit(np.log(own["d"]), error, 1)
        expected = slope**2 * np.log(own["d"]).var()
        assert squares[1, g] == pytest.approx(expected, rel=1e-3, abs=1e-10)


def test_predictions_are_weighted_and_their_bands_hold_them():
    found = average(study(truth=STEEP, sd_run=0.05))
    at = {"n": np.array([1e5, 1e7]), "d": np.array([1e8, 1e10])}
    parts = [form.weight * np.log(form.result.predict(**at)) for form in found.standing]
    np.testing.assert_allclose(np.log(found.predict(**at)), sum(parts))
    for kind in ("mean", "new run"):
        band = found.interval(kind, **at)
        assert (band.low < band.value).all() and (band.value < band.high).all()
    mean, new = found.interval("mean", **at), found.interval("new run", **at)
    assert (new.high > mean.high).all() and (new.low < mean.low).all()


def test_laws_in_one_variable_compete_too():
    n = np.geomspace(1e4, 1e7, 12)
    rng = np.random.default_rng(1)
    loss = (3.0 * n**-0.4 + 0.05) * np.exp(0.01 * rng.normal(size=12))
    found = average(simulate.table(n=n, d=np.full(12, 1e9), loss=loss, run=np.arange(12)))
    assert {form.name for form in found.forms} == set(LINES)
    assert found["gamma"].low < 0.4 < found["gamma"].high
    by_name = {form.name: form for form in found.forms}
    assert by_name["power"].within == "power_floor"
    assert by_name["power"].weight < STANDING  # a floor of that size cannot be missed


def test_the_same_table_gives_the_same_weights():
    one, two = average(study(groups=6)), average(study(groups=6))
    assert [f.weight for f in one.forms] == [f.weight for f in two.forms]


def test_auto_is_a_law_of_fit():
    runs = study()
    found = fit(runs, "auto")
    assert found["alpha"].value == average(runs)["alpha"].value
    content = found.as_json()
    assert content["law"] == "auto" and set(content["averaged"]) >= {"alpha", "beta", "gamma"}
    assert "single form" in found.summary()


def test_a_table_that_carries_no_form_is_refused():
    runs = study(groups=2)
    found = average(runs)
    assert not found.ok and found.status == "refused" and found.message
    with pytest.raises(FitError):
        found.predict(n=1e5, d=1e8)


def test_intervals_that_are_not_averaged_are_refused():
    for interval in ("bootstrap", "none"):
        with pytest.raises(FitError) as caught:
            fit(study(truth=STEEP), law="auto", interval=interval)
        assert caught.value.where == "interval"


def test_sizes_have_effects_of_their_own_where_no_column_says_what_changes():
    """A step of 7% that nothing names: alpha is off by more than runs say, not by more than sizes
    may. The price is a wider interval where there is no step; --factor none takes it back."""
    runs = study(groups=6, seeds=3, truth=STEEP, sd_run=0.005)
    hidden = simulate.table(
        n=runs["n"],
        d=runs["d"],
        loss=runs["loss"] * np.where(runs["n"] < 5e4, 1.07, 1.0),
        run=runs.run,
    )
    found, sure = average(hidden), average(hidden, factor="none")
    low, high = found["alpha"].low, found["alpha"].high
    assert low < STEEP["alpha"] < high
    assert not sure["alpha"].low < STEEP["alpha"] < sure["alpha"].high
    assert found["alpha"].value == sure["alpha"].value
    ahead = {"n": 1e7, "d": 1e10}
    wide, narrow = found.interval(**ahead), sure.interval(**ahead)
    assert wide.low[0] < narrow.low[0] and wide.high[0] > narrow.high[0]
    assert "moved" not in found.as_json()["forms"][0]


def test_moved_optima_are_those_of_tables_with_the_sizes_moved():
    """Against fits of such tables, made from nothing."""
    runs = study(groups=5, truth=STEEP, sd_run=0.01)
    goal = {"objective": "log", "floor": "zero"}
    result = fit(runs, "surface", **goal)
    problem = averaging._problem(runs, result, {"cluster": "run", "weights": None})
    moved = moved_by_sizes(problem, result.best(), runs["n"])
    size = np.unique(runs["n"], return_inverse=True)[1].ravel()
    sd = size_sd(problem.residuals(result.best()), size)
    assert moved.shape == (2, 5, len(result.best()))
    for k in range(5):
        loss = runs["loss"] * np.exp(sd * (size == k))
        other = simulate.table(n=runs["n"], d=runs["d"], loss=loss, run=runs.run)
        again = fit(other, "surface", **goal)
        values = result.quantities(moved[0])[0]
        for name in ("alpha", "beta", "A"):
            assert values[name][k] == pytest.approx(again[name].value, rel=1e-5)


def test_many_sizes_that_follow_the_law_leave_little_room_for_effects():
    few, many = (size_sd(np.zeros(k), np.arange(k)) for k in (5, 40))
    assert few == pytest.approx(0.03) and many < 0.01
    far = 0.1 * (-1.0) ** np.arange(40)
    assert size_sd(far, np.arange(40)) == pytest.approx(0.1, rel=0.1)
