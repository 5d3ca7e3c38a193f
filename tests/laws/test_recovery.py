"""Known surfaces come back from noisy synthetic runs; designs that cannot carry a fit are refused;
SciPy is the oracle."""

import numpy as np
import pytest
from scipy.optimize import minimize

from forcelaw.errors import FitError
from forcelaw.laws.decide.allocation import compute_optimal
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.frontier.frontier import frontier
from forcelaw.table.runs import Runs

TRUE = {"E": 0.12, "A": 9.0, "alpha": 0.42, "B": 60.0, "beta": 0.38}


def surface(n, d):
    return TRUE["E"] + TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"]


def study(sizes, seeds, noise=0.01, seed=0, points=8):
    """Runs of a known surface: a run-level factor and a smaller point-level one."""
    rng = np.random.default_rng(seed)
    rows = {k: [] for k in ("run", "n", "d", "c", "loss", "seed", "architecture")}
    for n in sizes:
        for s in range(seeds):
            run = rng.normal() * noise
            for d in np.geomspace(2e5, 2e7, points):
                rows["run"].append(f"{n}-{s}")
                rows["n"].append(n)
                rows["d"].append(d)
                rows["c"].append(60.0 * n * d)
                rows["loss"].append(surface(n, d) * np.exp(run + 0.3 * noise * rng.normal()))
                rows["seed"].append(s)
                rows["architecture"].append("x")
    return Runs.from_frame(rows)


def test_without_noise_the_surface_comes_back_exactly() -> None:
    r = fit(study([1e4, 3e4, 1e5, 3e5, 1e6], 1, noise=0.0), law="surface")
    assert r.ok, r.message
    for name, value in TRUE.items():
        assert r.parameters[name].value == pytest.approx(value, rel=1e-4), name
    gamma = TRUE["alpha"] * TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])
    assert r.derived["a"].value == pytest.approx(
        TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]), rel=1e-4
    )
    assert r.derived["gamma"].value == pytest.approx(gamma, rel=1e-4)
    assert float(np.squeeze(r.predict(n=7e4, d=3e6))) == pytest.approx(surface(7e4, 3e6), rel=1e-5)


def test_with_noise_the_truth_lies_inside_the_intervals_about_as_often_as_stated() -> None:
    inside = {"alpha": 0, "beta": 0}
    trials = 30
    for k in range(trials):
        r = fit(study([1e4, 3e4, 1e5, 3e5, 1e6], 2, seed=100 + k), law="surface")
        for name in inside:
            p = r.parameters[name]
            assert p.low < p.value < p.high
            inside[name] += p.low <= TRUE[name] <= p.high
    # binomial with p = .95 and 30 trials: fewer than 24 happens once in 100,000
    assert all(count >= 24 for count in inside.values()), inside


def test_the_optimum_is_that_of_scipy_from_many_starts() -> None:
    runs = study([1e4, 3e4, 1e5, 3e5, 1e6], 2, seed=5)
    delta = 2e-3
    r = fit(runs, law="surface", objective="huber", delta=delta)
    n, d, loss = (np.asarray(runs[k], float) for k in ("n", "d", "loss"))

    def objective(theta):
        a, b, e, alpha, beta = theta
        model = np.logaddexp(np.logaddexp(a - alpha * np.log(n), b - beta * np.log(d)), e)
        res = np.abs(model - np.log(loss))
        return np.where(res <= delta, 0.5 * res**2, delta * (res - 0.5 * delta)).sum() * 1e4

    rng = np.random.default_rng(0)
    best = min(
        (
            minimize(
                objective,
                [
                    rng.uniform(0, 5),
                    rng.uniform(0, 6),
                    rng.uniform(-4, -1),
                    *rng.uniform(0.2, 0.7, 2),
                ],
                method="L-BFGS-B",
                options={"maxiter": 4000, "ftol": 1e-14},
            )
            for _ in range(12)
        ),
        key=lambda m: m.fun,
    )
    ours = objective(
        [
            np.log(r.parameters["A"].value),
            np.log(r.parameters["B"].value),
            np.log(r.parameters["E"].value),
            r.parameters["alpha"].value,
            r.parameters["beta"].value,
        ]
    )
    assert ours <= best.fun * (1 + 1e-6)


def test_designs_that_cannot_carry_a_fit_are_refused() -> None:
    for runs in (study([1e4, 1e5], 4), study([1e4, 1e5, 1e6], 1)):
        r = fit(runs, law="surface")
        assert not r.ok and str(r.status).endswith("refused") and r.message
    rng = np.random.default_rng(0)
    n = np.geomspace(1e4, 1e7, 12)
    tied = Runs.from_frame(
        {
            "run": [str(k) for k in range(12)],
            "n": n,
            "d": 20 * n,
            "loss": surface(n, 20 * n) * np.exp(0.01 * rng.normal(size=12)),
        }
    )
    assert not fit(tied, law="surface").ok


def test_frontier_and_allocation_agree_with_the_closed_form() -> None:
    runs = study(list(np.geomspace(3e3, 3e6, 10)), 1, noise=1e-4, points=24)
    gamma = TRUE["alpha"] * TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])
    f = frontier(runs, x="c")
    assert f.fit.parameters["gamma"].value == pytest.approx(gamma, abs=0.05)
    with pytest.raises(FitError, match="takes what fit returns, not Runs"):
        compute_optimal(runs)
    best = compute_optimal(fit(runs, law="surface"))
    assert best.a.value == pytest.approx(TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]), abs=0.02)
