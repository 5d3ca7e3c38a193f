"""Runs that are named as far off the law."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from tests.laws.studies import study


def with_a_wild_run(runs, which, by):
    """The same with ln L of one run higher by ``by``."""
    wild = by * (runs.run == which)
    return replace(runs, values=runs.values | {"loss": runs["loss"] * np.exp(wild)})


def line(count=12, which=None, by=0.0):
    """A power law in D, one row a run."""
    d = np.geomspace(1e5, 1e8, count)
    error = np.random.default_rng(3).normal(0, 0.01, count)
    loss = 30 * d**-0.3 * np.exp(error + (0 if which is None else by * (np.arange(count) == which)))
    return simulate.table(n=np.full(count, 1e6), d=d, loss=loss, run=np.arange(count))


def test_a_wild_run_is_named_and_counts():
    runs = with_a_wild_run(study(12, 1), 5, -0.08)
    found = fit(runs, objective="log")
    without = fit(runs.take(runs.run != 5), objective="log")
    (one,) = found.outlying
    assert one.run == runs.run_names[5] and one.sd < -4
    assert found.n_runs == 12
    for name in ("alpha", "beta"):
        assert one.instead_of[name] == found[name].value
        assert one.without[name] == pytest.approx(without[name].value, rel=1e-5)
    assert str(one) in found.summary() and "below the law" in str(one)
    assert found.as_json()["outlying_runs"][0]["run"] == one.run


@pytest.mark.parametrize("which", [0, 6])
def test_the_distance_is_that_of_a_straight_line_without_the_run(which):
    runs = line(12, which, 0.1)
    (one,) = fit(runs, "power", x="d", objective="log").outlying
    x = np.column_stack([np.ones(12), np.log(runs["d"])])
    y, kept = np.log(runs["loss"]), np.arange(12) != which
    inverse = np.linalg.inv(x[kept].T @ x[kept])
    slope = inverse @ x[kept].T @ y[kept]
    left = 1 - np.einsum("ij,jk,ik->i", x[kept], inverse, x[kept])
    error = (y[kept] - x[kept] @ slope) / np.sqrt(left)

    def cut(sd):
        """Huber's proposal 2: the mean of the cut squares is what it is for normal errors."""
        z = norm.expect(lambda z: min(z * z, 2.25), lb=-10, ub=10)
        return left / left.sum() @ np.minimum(error**2, 2.25 * sd**2) - z * sd**2

    sd = brentq(cut, 1e-4, 0.1) * np.sqrt(1 + x[which] @ inverse @ x[which])
    assert one.sd == pytest.approx((y[which] - x[which] @ slope) / sd, rel=1e-4)


def test_nothing_is_named_where_all_runs_are_alike():
    assert not fit(line(), "power", x="d").outlying
    assert not fit(study(12, 1)).outlying


def test_five_runs_of_a_surface_cannot_tell():
    assert not fit(with_a_wild_run(study(5, 1), 2, 0.05)).outlying


def test_two_wild_runs_do_not_hide_each_other():
    runs = with_a_wild_run(with_a_wild_run(study(20, 2), 4, 0.1), 12, 0.1)
    names = {one.run for one in fit(runs).outlying}
    assert names == {runs.run_names[4], runs.run_names[12]}


def test_exact_losses_have_none():
    exact = study(8, sd_run=0.0, sd_within=0.0)
    assert not fit(exact).outlying
