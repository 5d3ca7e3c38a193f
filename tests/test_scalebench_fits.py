"""benchmarks/scalebench_fits.py: all starts at once end where SciPy ends from each; outputs that
share no parameter are fitted apart; what runs leave open is drawn to the mean of their losses."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from scalebench_fits import Fitter, lbfgsb

pytestmark = pytest.mark.timeout(60)
BOUNDS = [(0.0, 5.0), (0.01, 3.0), (0.0, 5.0), (0.01, 3.0)]


def two_powers(theta, x, backend="numpy"):
    """Two outputs, a x^-b each, with parameters of their own; shapes as ScaleBench's."""
    a, b = theta[:, ::2, None], theta[:, 1::2, None]  # [B, 2, 1]
    power = x[:, 0] ** -b  # [B, 2, K]
    slopes = np.zeros((len(theta), len(x), 2, 4))
    for k in range(2):
        slopes[:, :, k, 2 * k] = power[:, k]
        slopes[:, :, k, 2 * k + 1] = -a[:, k] * power[:, k] * np.log(x[:, 0])
    said = (a * power).transpose(0, 2, 1)
    return (said[0], slopes[0]) if len(theta) == 1 else (said, slopes)


def runs(count=6):
    x = np.geomspace(1.0, 8.0, count)[:, None]
    truth = np.array([[2.0, 0.3, 3.0, 0.6]])
    return x, two_powers(truth, x)[0], truth[0]


def test_all_starts_at_once_end_where_scipy_ends():
    x, y, _ = runs()
    starts = Fitter(two_powers, BOUNDS, x, y, x).form.random(np.random.default_rng(0), 5)
    theta, value = lbfgsb(two_powers, x, y, starts, np.array(BOUNDS))

    def goal(one):
        said, slopes = two_powers(one[None], x)
        left = (said - y).ravel()
        return left @ left / len(x), 2 / len(x) * slopes.reshape(-1, 4).T @ left

    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    for start, end, least in zip(starts, theta, value):
        done = minimize(goal, start, jac=True, method="L-BFGS-B", bounds=BOUNDS, options=options)
        np.testing.assert_allclose(end, done.x, rtol=1e-6, atol=1e-9)
        assert least == pytest.approx(done.fun, abs=1e-12)


def test_outputs_that_share_no_parameter_are_fitted_apart():
    x, y, truth = runs()
    fitter = Fitter(two_powers, BOUNDS, x, y, x)
    blocks = sorted((list(used), list(outputs)) for used, outputs in fitter.parts)
    assert blocks == [([0, 1], [0]), ([2, 3], [1])]
    fitter.fit(list(range(len(x))), np.random.default_rng(0), 8)
    np.testing.assert_allclose(fitter.form.outer(fitter.found[0][1]), truth, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 6])
def test_what_the_runs_leave_open_is_drawn_to_their_mean(count):
    x, y, truth = runs()
    y = y + 1e-3 * np.random.default_rng(0).normal(size=y.shape)
    there = np.array([[30.0]])
    fitter, rows = Fitter(two_powers, BOUNDS, x, y, there), list(range(count))
    fitter.fit(rows, np.random.default_rng(0), 8)
    right, middle = two_powers(truth[None], there)[0][0], y[rows].mean(axis=0)
    said = fitter.shrunk_there(rows)
    np.testing.assert_allclose(said, middle if count == 1 else right, rtol=0.02)
