"""Sound studies pass, and each kind of unsound one fails the check that is there for it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.diagnose import stability as checks
from forcelaw.laws.diagnose.diagnose import EXPONENT, REFUSED, TREND, diagnose
from forcelaw.laws.diagnose.holdout import few_inside, holdout
from forcelaw.laws.fit.fit import fit
from tests.laws.studies import FIELD, join, scaled, study


def failed(runs):
    found = diagnose(runs)
    return found.verdict, {check.name for check in found.failed}, found


def test_sound_studies_are_seldom_called_a_trend():
    verdicts = [diagnose(study(12, seed=seed)).verdict for seed in range(4)]
    assert verdicts.count(EXPONENT) >= 3


def test_a_transient_is_seen_and_the_remedy_is_a_burn_in():
    runs = study(12)
    verdict, names, found = failed(scaled(runs, 1 + 0.6 * np.exp(-(runs["d"] / 1e6 - 1) / 6)))
    assert verdict == TREND and "early checkpoints" in names
    assert any("burn-in" in remedy for remedy in found.remedies) and found.reasons


def test_a_floor_that_goes_to_zero_in_a_refit_is_no_alarm(monkeypatch):
    runs = study(12)
    runs = scaled(runs, 1 + 0.6 * np.exp(-(runs["d"] / 1e6 - 1) / 6))
    whole = fit(runs, interval="jackknife")
    early = checks.stability(runs, whole)[1]
    assert whole.status == "ok" and early.passed is False
    monkeypatch.setattr(
        checks, "fit", lambda *args, **options: replace(fit(*args, **options), status="at_bound")
    )
    early = checks.stability(runs, whole)[1]
    assert early.passed is True and early.data["rows"][1]["status"] == "at_bound"


def test_failing_small_models_are_seen():
    runs = study(12)
    verdict, names, _ = failed(scaled(runs, np.where(runs["n"] < 3e4, 1.3, 1.0)))
    assert verdict == TREND and names & {
        "curvature",
        "smallest sizes",
        "two gammas",
        "held-out budgets",
    }


def test_budgets_that_stop_gaining_are_seen():
    runs = study(12)
    verdict, names, found = failed(
        scaled(runs, np.where(runs["c"] > 1e14, (runs["c"] / 1e14) ** 0.1, 1.0))
    )
    assert verdict == TREND and "held-out budgets" in names
    rows = next(check for check in found.checks if check.name == "held-out budgets").data["rows"]
    assert any(np.mean(row["true"] > row["predicted"]) > 0.8 for row in rows if "true" in row)


def test_the_edge_of_the_grid_and_a_short_range():
    small = simulate.trajectories(
        FIELD, np.geomspace(1e3, 3e4, 10), np.geomspace(1e6, 1e10, 12), np.random.default_rng(0)
    )
    verdict, names, found = failed(small)
    assert (
        verdict == TREND
        and "optimum inside grid" in names
        and any("sizes" in remedy for remedy in found.remedies)
    )
    short = simulate.trajectories(
        FIELD,
        np.geomspace(1e5, 3e5, 8),
        np.geomspace(1e7, 6e7, 8),
        np.random.default_rng(0),
        sd_run=0.002,
        sd_within=0.001,
    )
    verdict, names, _ = failed(short)
    assert verdict == TREND and "range" in names


def test_lack_of_fit_needs_seeds_and_sees_sizes_off_the_law():
    rng = np.random.default_rng(0)
    runs = study(10, seeds=2, sd_run=0.003)
    check = next(check for check in diagnose(runs).checks if check.name == "lack of fit")
    assert check.passed is True
    off = rng.normal(size=10) * 0.04  # each size is off by its own constant, whatever the seed
    sizes = np.unique(runs["n"], return_inverse=True)[1].ravel()
    check = next(
        check
        for check in diagnose(scaled(runs, np.exp(off[sizes]))).checks
        if check.name == "lack of fit"
    )
    assert check.passed is False and check.p < 0.01
    check = next(check for check in diagnose(study(8)).checks if check.name == "lack of fit")
    assert check.passed is None and "seeds" in check.remedy


def test_the_two_gammas_are_compared_under_the_measured_cost():
    runs = study(12)
    dear = replace(runs, values=runs.values | {"c": 5 * runs["n"] ** 0.8 * runs["d"] ** 1.1})
    check = next(check for check in diagnose(dear).checks if check.name == "two gammas")
    total = FIELD["beta"] * 0.8 + FIELD["alpha"] * 1.1
    assert check.data["surface"] == pytest.approx(FIELD["alpha"] * FIELD["beta"] / total, rel=0.1)
    assert check.passed is True


def test_refusals():
    found = diagnose(study(2))
    assert found.verdict == REFUSED and "levels of n" in found.reasons[0]
    assert found.as_json()["status"] == "refused"
    with pytest.raises(FitError, match="one architecture"):
        diagnose(join(study(6), study(6, seed=1)))


def test_so_few_inside_counts_the_error_that_held_out_runs_share():
    """Without an error of the law the number inside is binomial; one that all share makes few
    inside no wonder."""
    runs = study(40, sd_run=0.01, sd_within=0.0, correlation=0.0)
    law = fit(runs, interval="jackknife")
    at = {"n": np.geomspace(1e5, 1e6, 20), "d": np.full(20, 1e9)}
    sure = replace(
        law, replicates=np.repeat(law.theta[None], law.n_runs, axis=0), n_runs=10**6, level=0.9
    )
    for inside in (14, 16, 18, 20):
        assert few_inside(sure, at, inside) == pytest.approx(
            stats.binom.cdf(inside, 20, 0.9), abs=0.01
        )
    same = {
        "n": np.full(20, 1e6),
        "d": np.full(20, 1e9),
    }  # one error of the law, far above the noise: all inside or none
    unsure = replace(law, replicates=law.theta + 100 * (law.replicates - law.theta))
    assert (
        few_inside(unsure, same, 0) == pytest.approx(0.05, abs=0.01)
        and few_inside(law, same, 0) < 1e-3
    )


def test_held_out_runs_that_scatter_outside_their_intervals_are_seen():
    """Large budgets off by as much up as down: the mean is right, and the intervals are not."""
    rng = np.random.default_rng(0)
    n, d = (
        np.exp(rng.uniform(np.log(1e4), np.log(3e6), 120)),
        np.exp(rng.uniform(np.log(1e6), np.log(1e9), 120)),
    )
    sd = np.where(n * d > (n * d).max() / 30, 0.03, 0.003)
    loss = simulate.surface_loss(FIELD, n, d)
    runs = simulate.table(
        n=n, d=d, loss=loss * np.exp(rng.normal(size=120) * sd), run=np.arange(120), c=6 * n * d
    )
    found = holdout(runs, fit(runs, interval="jackknife"))
    assert (
        found.passed is False
        and "fell inside the 95% interval" in found.detail
        and "common to them" in found.detail
    )
    sound = replace(
        runs, values=runs.values | {"loss": loss * np.exp(rng.normal(size=120) * 0.003)}
    )
    found = holdout(sound, fit(sound, interval="jackknife"))
    assert found.passed is True and "runs fell inside their 95% interval" in found.detail
