"""Coupled surfaces, Kaplan's form and tied exponents."""

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.decide.allocation import Cost, compute_optimal
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.forms import make
from tests.laws.studies import FIELD, study
from tests.reference import laws_slow

N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 3e6, 6), np.geomspace(1e6, 1e9, 7)))
TRUTH = FIELD | {"p": 0.5}


def observed(name, truth, noise=0.0, seed=0):
    """A table of six runs with seven checkpoints each, from the plain formula."""
    loss = laws_slow.predict(name, truth, {"n": N, "d": D})
    return {
        "n": N,
        "d": D,
        "c": 6 * N * D,
        "loss": loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(N))),
        "run": [f"{n:.0f}" for n in N],
    }


@pytest.mark.parametrize("p", [0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("floor", [0.02, 0.0])
def test_coupled_recovers_its_truth(p, floor):
    truth = TRUTH | {"p": p, "E": floor}
    found = fit(observed("coupled", truth), "coupled", floor="free" if floor else "zero")
    assert found.ok
    for name in ("alpha", "beta", "p"):
        assert found[name].value == pytest.approx(truth[name], rel=1e-4)


def test_kaplan_recovers_its_truth_and_is_a_coupled_surface():
    truth = TRUTH | {"E": 0.0}
    found = fit(observed("kaplan", truth), "kaplan")
    assert found["alpha"].value == pytest.approx(truth["alpha"], rel=1e-5)
    assert found["p"].value == pytest.approx(1 / truth["beta"], rel=1e-5)
    assert found["N_c"].value == pytest.approx(truth["A"] ** (1 / truth["alpha"]), rel=1e-4)
    same = laws_slow.predict("coupled", truth | {"p": 1 / truth["beta"]}, {"n": N, "d": D})
    np.testing.assert_allclose(found.predict(n=N, d=D), same, rtol=1e-6)


def complex_log_loss(name, values, n, d):
    """ln L of complex parameters, straight from the formula, where no power overflows."""
    p = 1 / values["beta"] if name == "kaplan" else values["p"]
    first = np.log(values["A"]) - values["alpha"] * np.log(n)
    second = np.log(values["B"]) - values["beta"] * np.log(d)
    top = np.where((p * first).real > (p * second).real, first, second)
    both = top + np.log(np.exp(p * (first - top)) + np.exp(p * (second - top))) / p
    return np.log(values["E"] + np.exp(both))


@pytest.mark.parametrize("name", ["coupled", "kaplan"])
@pytest.mark.parametrize("p", [0.1, 0.7, 20.0])
def test_derivatives_are_those_of_a_complex_step(name, p):
    """Also where one term is e^100 above the other, and at both ends of p."""
    law = make(name, "free")
    n, d = N ** np.linspace(0.2, 3.0, len(N)), D ** np.linspace(3.0, 0.2, len(D))
    values = {"A": 9.0, "B": 120.0, "E": 1e-3, "alpha": 0.35, "beta": 1 / p, "p": p}
    values = {key: values[key] for key in law.names}
    centre = dict.fromkeys(law.roles, 0.0)
    x, _ = law.prepare({"n": n, "d": d}, centre)
    theta = law.internal(values, centre)[None]
    r, jac = law.residuals(theta, x, np.zeros(1))
    np.testing.assert_allclose(r[0], complex_log_loss(name, values, n, d), rtol=1e-10)
    for i, key in enumerate(law.names):
        logged = key in law.coefficients or key in law.logs
        step = 1e-30j * (values[key] if logged else 1.0)
        moved = values | {key: values[key] + step}
        slope = complex_log_loss(name, moved, n, d).imag / 1e-30
        np.testing.assert_allclose(jac[0, i], slope, rtol=1e-8, atol=1e-12, err_msg=key)
    assert np.isfinite(jac).all()


@pytest.mark.parametrize("name", ["surface", "coupled", "kaplan"])
def test_local_exponents_are_slopes_of_the_loss(name):
    found = fit(observed(name, TRUTH | {"E": 0.02}), name, floor="free", interval="none")
    n, d = np.geomspace(1e4, 1e7, 5), np.geomspace(1e9, 1e6, 5)
    local = found.law.local_exponents(found.theta, {"n": n, "d": d}, found.centre)
    h = 1e-5
    for role in ("n", "d"):
        moved = [
            found.predict(**{"n": n, "d": d, role: {"n": n, "d": d}[role] * np.exp(s)})
            for s in (h, -h)
        ]
        slope = -(np.log(moved[0]) - np.log(moved[1])) / (2 * h)
        np.testing.assert_allclose(local[role][0], slope, rtol=1e-6)


def test_where_terms_are_equal_the_slope_in_n_is_half_of_alpha():
    law = make("coupled", "zero")
    values = {"A": 1e2, "B": 1e3, "alpha": 0.5, "beta": 0.5, "p": 0.4}
    centre = {"n": 0.0, "d": 0.0}
    local = law.local_exponents(law.internal(values, centre), {"n": 1e4, "d": 1e6}, centre)
    assert local["n"][0, 0] == pytest.approx(0.25) and local["d"][0, 0] == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["coupled", "kaplan"])
@pytest.mark.parametrize("cost", [Cost(6.0), Cost(40.0, 0.8, 1.1)])
def test_allocation_is_the_minimum_at_equal_cost(name, cost):
    truth = TRUTH | {"E": 0.0}
    found = fit(observed(name, truth), name, floor="zero", interval="none")
    best = compute_optimal(found, cost)
    budgets = np.array([1e13, 1e15, 1e17])
    ln_n = np.linspace(np.log(1e2), np.log(1e11), 200_001)
    searched = []
    for c in budgets:
        n = np.exp(ln_n)
        loss = found.predict(n=n, d=(c / cost.k / n**cost.p) ** (1 / cost.q))
        searched.append((n[np.argmin(loss)], loss.min()))
    n_star, least = np.array(searched).T
    np.testing.assert_allclose(best.n(budgets), n_star, rtol=2e-4)
    np.testing.assert_allclose(best.loss(budgets), least, rtol=1e-7)
    slopes = np.diff(np.log(np.stack([n_star, least])), axis=1) / np.diff(np.log(budgets))
    np.testing.assert_allclose(slopes[0], best.a.value, atol=1e-4)
    np.testing.assert_allclose(-slopes[1], best.gamma.value, atol=1e-5)


@pytest.mark.parametrize("name", ["surface", "coupled", "surface_cost"])
def test_tied_exponents_are_one_parameter(name):
    truth = TRUTH | {"alpha": 0.4, "beta": 0.4, "p": 0.7}
    runs = study(truth=truth)
    found = fit(runs, name, tie="alpha=beta")
    alpha, beta = found["alpha"], found["beta"]
    assert found.ok and "beta" not in found.law.names
    assert (beta.value, beta.low, beta.high) == (alpha.value, alpha.low, alpha.high)
    assert alpha.low < 0.4 < alpha.high
    if name != "surface_cost":
        assert found["a"].value == pytest.approx(0.5)


def test_tied_law_is_the_one_with_equal_exponents():
    tied, free = make("coupled", tie="alpha = beta"), make("coupled")
    centre = {"n": 3.0, "d": 5.0}
    values = {"A": 9.0, "B": 120.0, "E": 0.02, "alpha": 0.4, "p": 0.6}
    at = {"n": N, "d": D}
    one = tied.predict_log(tied.internal(values, centre), at, centre)
    two = free.predict_log(free.internal(values | {"beta": 0.4}, centre), at, centre)
    np.testing.assert_allclose(one, two, rtol=1e-12)
    x, _ = tied.prepare(at, centre)
    theta = tied.internal(values, centre)[None]
    jac = tied.residuals(theta, x, np.zeros(1))[1]
    for i in range(tied.size):
        up, down = theta.copy(), theta.copy()
        up[:, i] += 1e-6
        down[:, i] -= 1e-6
        slope = (
            tied.residuals(up, x, 0.0, False)[0] - tied.residuals(down, x, 0.0, False)[0]
        ) / 2e-6
        np.testing.assert_allclose(jac[:, i], slope, atol=2e-8)


def test_what_cannot_be_tied_says_so():
    for call in (
        lambda: make("surface", tie="alpha=gamma"),
        lambda: make("data_constrained", tie="alpha=beta"),
        lambda: make("kaplan", tie="alpha=beta"),
        lambda: make("power", tie="alpha=beta"),
    ):
        with pytest.raises(FitError):
            call()


def test_p_without_information_is_not_claimed():
    """N never binds: every p fits, and p has no interval that pretends otherwise."""
    truth = TRUTH | {"A": 1e-9, "E": 0.0}
    found = fit(observed("surface", truth, noise=0.01), "coupled", floor="zero")
    p = found["p"]
    assert not found.ok or p.low is None or p.high / p.low > 3
