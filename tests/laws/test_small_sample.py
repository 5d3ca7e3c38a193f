"""Degrees of freedom of the jackknife against closed forms and against simulated fits."""

import numpy as np
import pytest
from scipy import stats

from forcelaw.laws.compare.compare import difference
from forcelaw.laws.compare.sign_flip_test import contributions, sign_flip, signs
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit import intervals
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.objective import Objective
from forcelaw.laws.fit.problem import build
from forcelaw.laws.fit.small_sample import CURVATURE, SD_RUN, SD_WITHIN, Reference, Student, apart
from tests.laws.studies import FIELD


def mean_form(count: int, sd: float = 1.0) -> np.ndarray:
    """Of a mean of ``count`` values: error, and sqrt((n-1)/n) times the change by deleting each
    value."""
    changes = (np.eye(count) - 1 / count) * np.sqrt((count - 1) / count) / (count - 1)
    weights = np.vstack([np.full(count, 1 / count), changes]) * sd
    return weights @ weights.T


@pytest.mark.parametrize("exact", [True, False])
def test_a_mean_has_students_t(exact):
    for count in (3, 6, 11, 40):
        reference = Reference(mean_form(count), exact=exact)
        plain = Student(count - 1)
        assert reference.df == pytest.approx(count - 1) and reference.shrink == pytest.approx(1.0)
        assert reference.critical(0.95) == pytest.approx(stats.t.ppf(0.975, count - 1), rel=2e-3)
        for t in (0.1, 1.0, 3.0, 10.0):
            assert (
                reference.p(t)
                == pytest.approx(2 * stats.t.sf(t, count - 1), abs=2e-4)
                == plain.p(t)
            )


def test_two_means_are_welchs():
    """Satterthwaite's degrees of freedom of two means, at their true variances."""
    reference = Reference(apart(mean_form(5, 1.0), mean_form(9, 3.0)))
    first, second = 1 / 5, 9 / 9
    assert reference.df == pytest.approx((first + second) ** 2 / (first**2 / 4 + second**2 / 8))


def test_the_distribution_is_that_of_simulated_errors():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(7, 4))
    reference = Reference(root @ root.T, exact=True)
    errors = root @ rng.normal(size=(4, 200_000))
    ratio = np.abs(errors[0]) / np.sqrt((errors[1:] ** 2).sum(axis=0))
    assert reference.critical(0.95) == pytest.approx(np.quantile(ratio, 0.95), rel=0.01)
    middle = float(np.quantile(ratio, 0.6))
    assert reference.p(middle) == pytest.approx(0.4, abs=0.005)


def test_runs_are_off_by_their_own_constants_in_the_working_model():
    """Against explicit regressions with and without each run, errors of sd 1 common to a run and
    0.3 within it. Runs differ in their number of checkpoints: were the errors independent, the long
    ones would count for more."""
    run = np.repeat(np.arange(7), [40, 2, 3, 25, 2, 4, 12])
    rng = np.random.default_rng(0)
    size = np.geomspace(1e4, 3e6, 7)[run] * np.exp(rng.normal(size=len(run)) * 0.1)
    runs = simulate.table(
        n=size,
        d=np.full(len(run), 1e9),
        loss=3.0 * size**-0.3 * np.exp(rng.normal(size=len(run)) * 1e-3),
        run=run,
    )
    result = fit(runs, "power", x="n", objective="log", interval="jackknife")
    form = result.small.forms(np.eye(result.law.size)[result.law.names.index("gamma")])
    basis = np.stack([np.ones(len(run)), -np.log(size)], axis=1)
    slope = np.linalg.pinv(basis)[1]  # of gamma in the errors
    moved = []
    for g in range(7):
        keep = run != g
        without = np.zeros(len(run))
        without[keep] = np.linalg.pinv(basis[keep])[1]
        moved.append((without - slope) * np.sqrt(6 / 7))
    lines = np.vstack([slope, *moved])
    covariance = (
        lines @ ((run[:, None] == run[None, :]) * 1.0 + 0.3**2 * np.eye(len(run))) @ lines.T
    )
    np.testing.assert_allclose(form / form[0, 0], covariance / covariance[0, 0], atol=1e-6)
    independent = lines @ lines.T
    assert (
        np.abs(covariance / covariance[0, 0] - independent / independent[0, 0]).max() > 0.1
    )  # the table tells the two apart


def test_intervals_weigh_runs_by_the_root_of_what_is_expected_of_them():
    """A straight line through eleven runs, two of them far out: the sum of squares of the changes
    of its slope rests on those two, the interval less so. It has the coverage it says, and is much
    shorter."""
    x = np.r_[-4.0, np.linspace(-1, 1, 9), 4.0]
    basis = np.stack([np.ones(11), x], axis=1)
    slope = np.linalg.pinv(basis)[1]
    without = np.zeros((11, 11))
    for g in range(11):
        keep = np.arange(11) != g
        without[g, keep] = np.linalg.pinv(basis[keep])[1]
    lines = np.vstack([slope, (without - slope) * np.sqrt(10 / 11)])
    reference = Reference(lines @ lines.T)
    assert reference.df < 1.5 and reference.weighted_df > 2
    errors = np.random.default_rng(3).normal(size=(4000, 11))
    centre, changes = errors @ slope, errors @ lines[1:].T
    half = np.array([reference.half_width(e @ without.T, c, 0.95) for e, c in zip(errors, centre)])
    half /= 1 + CURVATURE / reference.weighted_df  # the fit is linear
    plain = reference.critical(0.95) * np.sqrt((changes**2).sum(axis=1))
    # Satterthwaite's degrees of freedom are a little cautious where they are few
    assert 0.94 <= np.mean(np.abs(centre) < half) <= 0.985
    assert np.mean(half) < 0.75 * np.mean(plain)


def test_intervals_of_runs_that_count_alike_are_the_jackknifes():
    draws = np.random.default_rng(4).normal(size=9)
    reference = Reference(mean_form(9))
    half = reference.critical(0.9) * np.sqrt(8 / 9 * (draws**2).sum()) * (1 + CURVATURE / 8)
    assert reference.half_width(draws, 0.0, 0.9) == pytest.approx(half)


def small_studies(count: int, sizes: np.ndarray, offset: int = 0):
    for seed in range(count):
        rng = np.random.default_rng([seed, offset])
        yield simulate.trajectories(
            FIELD,
            sizes,
            np.geomspace(1e6, 1e9, 6),
            rng,
            sd_run=1e-4,
            sd_within=3e-5,
            correlation=0.0,
        )


@pytest.mark.parametrize(
    "sizes", [np.repeat(np.geomspace(1e4, 3e6, 3), 2), np.geomspace(1e4, 3e6, 6)]
)
def test_linear_fits_follow_it(sizes):
    """With little noise a fit is linear, so that errors over standard errors follow the reference:
    5% beyond its 95%."""
    ratio = []
    for runs in small_studies(300, sizes):
        result = fit(runs, objective="log", interval="jackknife")
        ratio.append(abs(result["alpha"].value - FIELD["alpha"]) / result["alpha"].se)
    slope = intervals.slopes(
        lambda theta: {"alpha": result.quantity("alpha", theta)}, result.theta
    )["alpha"]
    reference = Reference(result.small.forms(slope), exact=True)
    assert (
        0.02 <= np.mean(np.array(ratio) > reference.critical(0.95)) <= 0.09
    )  # sd of the share is 1.3 points
    assert np.mean(np.array(ratio) > reference.critical(0.5)) == pytest.approx(0.5, abs=0.09)
    assert (
        abs(reference.df - 2.0) < 0.4
    )  # three sizes leave two degrees of freedom, whatever the number of runs


def test_differences_of_linear_fits_follow_it():
    p = []
    for first, second in zip(
        small_studies(150, np.geomspace(1e4, 3e6, 6)),
        small_studies(150, np.geomspace(1e4, 3e6, 6), 1),
    ):
        fits = [fit(runs, objective="log", interval="jackknife") for runs in (first, second)]
        p.append(difference("alpha", *fits, None, 0.95).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_all_signs_are_taken_once():
    every = signs(6, 0, 0)
    assert every.shape == (32, 6) and (every[0] == 1).all()
    assert len({tuple(row * row[0]) for row in every.tolist() for row in [np.array(row)]}) == 32
    assert signs(20, 99, 0).shape == (100, 20)


def test_what_a_fit_takes_up_leaves_no_score():
    """A direction that is a mixture of fitted ones adds nothing; another adds up to the slope of
    the objective along it."""
    runs = next(small_studies(1, np.geomspace(1e4, 3e6, 6)))
    result = fit(runs, objective="log", interval="none")
    problem = build(runs, result.law, Objective("log"), "run", None)
    r, jac = result.law.residuals(result.theta[None], problem.x, problem.y)
    score, _ = contributions(problem, result.theta, jac[0, 3] + 0.5 * jac[0, 1], runs.run)
    assert np.abs(score).max() < 1e-6 * np.abs(jac[0, 3] * r[0]).sum()
    extra = problem.x["n"] ** 2
    score, covariance = contributions(problem, result.theta, extra, runs.run)
    assert score.sum() == pytest.approx(extra @ r[0], rel=1e-4)
    rng = np.random.default_rng(
        0
    )  # covariance of the scores: project simulated errors of the working model
    left = np.eye(len(extra)) - jac[0].T @ np.linalg.pinv(jac[0].T)
    errors = (
        rng.normal(size=(6, 20_000))[runs.run] * SD_RUN
        + rng.normal(size=(len(extra), 20_000)) * SD_WITHIN
    )
    terms = (left @ extra)[:, None] * (left @ errors)
    sums = np.stack([terms[runs.run == g].sum(axis=0) for g in range(6)])
    np.testing.assert_allclose(covariance, np.cov(sums), atol=0.05 * np.abs(covariance).max())


def test_sign_flip_of_a_mean_is_the_textbook_test():
    score = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert sign_flip(score, np.eye(5), 0, 0) == pytest.approx(
        2 / 32
    )  # all of one sign is the most extreme of 2^5
    assert sign_flip(np.array([1.0, -1.0, 1.0, -1.0]), np.eye(4), 0, 0) == 1.0
