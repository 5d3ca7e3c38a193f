"""Fits against SciPy, published numbers and closed forms; statuses and certificates."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.repeats import fit_repeats
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.initial import nonnegative, project
from forcelaw.laws.fit.objective import Objective
from forcelaw.laws.fit.result import Estimate
from forcelaw.laws.forms import Surface
from forcelaw.laws.forms.broken import Broken
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, LANGUAGE, clean, exponents, study
from tests.reference import laws_slow


def language_models(seed: int) -> Runs:
    """240 runs with one checkpoint each, as in Hoffmann et al. 2022: a law of theirs, and errors
    with the long tails that theirs have."""
    rng = np.random.default_rng(seed)
    c = rng.choice(np.geomspace(6e18, 3e21, 9), 240)
    n = np.sqrt(c / 6) * np.exp(rng.uniform(-1.2, 1.2, 240)) / 4.5
    law = laws_slow.predict("surface", LANGUAGE, {"n": n, "d": c / (6 * n)})
    loss = law * np.exp(0.003 * rng.standard_t(3, 240))
    return Runs.from_frame({"n": n, "d": c / (6 * n), "c": c, "loss": loss, "run": np.arange(240)})


def test_bootstrap_errors_are_the_scatter_between_studies():
    """The published errors of this design are in test_chinchilla.py, where its table is at hand."""
    first = fit(language_models(0), delta=1e-3)
    assert first.method.startswith("bootstrap") and first.status == "ok"
    again = [fit(language_models(seed), delta=1e-3, interval="none") for seed in range(1, 41)]
    for name in ("alpha", "beta", "a"):
        scatter = np.std([r[name].value for r in again], ddof=1)  # to 11%
        assert 0.65 < first[name].se / scatter < 1.5, name


@pytest.mark.parametrize(
    ("kind", "delta"),
    [("huber", 2e-3), ("huber", 0.02), ("log", None), ("relative", None), ("linear", None)],
)
def test_every_objective_finds_scipys_optimum_or_a_better_one(kind, delta):
    runs = study(6, seed=3, truth=LANGUAGE)
    result = fit(runs, objective=kind, delta=delta, interval="none")
    values, least = laws_slow.surface_fit(runs["n"], runs["d"], runs["loss"], kind, delta, starts=4)
    mine = laws_slow.rho(kind, result.predict(n=runs["n"], d=runs["d"]), runs["loss"], delta).sum()
    assert result.objective == pytest.approx(mine, rel=1e-9)
    assert mine <= least * (1 + 1e-7)
    if mine >= least * (1 - 1e-6):  # SciPy got there too
        assert result["alpha"].value == pytest.approx(values["alpha"], rel=2e-2)


def test_start_is_nonnegative_least_squares():
    rng = np.random.default_rng(0)
    phi = np.abs(rng.normal(size=(40, 3, 25)))
    target = phi[:, 0] * 0.5 - 0.3 * phi[:, 1] + rng.normal(size=(40, 25)) * 0.2
    for i in range(40):
        c, misfit = nonnegative(
            (phi[i] @ phi[i].T)[None], (phi[i] @ target[i])[None], float(target[i] @ target[i])
        )
        expected, norm = nnls(phi[i].T, target[i])
        np.testing.assert_allclose(c[0], expected, atol=1e-9)
        assert misfit[0] == pytest.approx(norm**2, rel=1e-9)


@pytest.mark.parametrize("truth", [LANGUAGE, FIELD])
def test_exact_losses_give_the_exact_law(truth):
    result = fit(clean(8, truth), interval="none")
    for name, value in {**truth, **exponents(truth)}.items():
        assert result[name].value == pytest.approx(value, rel=1e-5), name


def test_every_one_variable_law_is_recovered():
    x = np.geomspace(1.0, 1e6, 40)
    rng = np.random.default_rng(0)
    for law, role, values in (
        ("power", "n", {"A": 3.0, "gamma": 0.4}),
        ("power_floor", "n", {"A": 3.0, "gamma": 0.4, "E": 0.1}),
        ("frontier", "c", {"F": 3.0, "gamma": 0.4, "E": 0.1}),
        ("frontier_hours", "h", {"F": 3.0, "gamma": 0.4, "E": 0.1}),
        ("shifted", "n", {"A": 3.0, "gamma": 0.4, "E": 0.1, "s": 100.0}),
        ("broken", "c", {"A": 3.0, "c0": 0.1, "c1": 0.4, "d1": 1e3, "f1": 0.5, "E": 0.1}),
    ):
        loss = laws_slow.predict(law, {"E": 0.0} | values, {role: x}) * np.exp(
            rng.normal(size=40) * 0.002
        )
        result = fit(Runs.from_frame({role: x, "loss": loss}), law)
        assert result.ok, (law, result.message)
        for name, value in values.items():
            assert abs(result[name].value - value) < 4 * result[name].se + 1e-12, (law, name)
            assert result[name].value == pytest.approx(value, rel=0.1), (law, name)


def with_break(seed, change, **parts):
    """Forty evaluations of a slope of 0.1 that changes by ``change`` in the middle."""
    x = np.geomspace(1.0, 1e6, 40)
    values = {"A": 3.0, "c0": 0.1, "c1": change, "d1": 1e3, "f1": 0.5, "E": 0.1} | parts
    noise = np.random.default_rng(seed).normal(size=40) * 0.01
    return Runs.from_frame(
        {"c": x, "loss": laws_slow.predict("broken", values, {"c": x}) * np.exp(noise)}
    )


def test_a_break_that_is_there_is_identified():
    for seed, interval in ((0, "auto"), (1, "auto"), (2, "none")):
        result = fit(with_break(seed, 0.4), "broken", interval=interval)
        assert result.ok, result.message
        assert result.derived["gamma"].value == pytest.approx(0.5, abs=0.15)


def test_a_break_that_is_not_there_is_not_identified():
    for seed, interval in ((0, "auto"), (1, "auto"), (2, "none")):
        result = fit(with_break(seed, 0.0), "broken", interval=interval)
        assert result.status == "not_identified" and "power_floor" in result.message, (
            seed,
            result.message,
        )
        assert fit(with_break(seed, 0.0), "power_floor", x="c").ok
        with pytest.raises(FitError, match="not identified"):
            result.require()
    runs = study(8)  # trajectories of many sizes: nothing bends in d alone
    result = fit(runs, "broken", x="d")
    assert result.status == "not_identified" and result["c1"].low < 0 < result["c1"].high


def test_a_break_at_the_end_of_the_data_is_not_identified():
    law = Broken(x="c")
    x, centre = law.prepare({"c": np.geomspace(1.0, 1e6, 40)})
    for d1, side in (
        (0.5, "lower"),
        (1.0, "lower"),
        (1.3, "lower"),
        (1.6, ""),
        (1e3, ""),
        (9e5, "upper"),
        (3e6, "upper"),
    ):
        theta = law.internal(
            {"A": 3.0, "c0": 0.1, "c1": 0.4, "d1": d1, "f1": 0.5, "E": 0.1}, centre
        )
        assert (
            (f"at the {side} end" in law.unseen(theta, x)) if side else not law.unseen(theta, x)
        ), d1


def test_a_break_that_is_given_is_not_questioned():
    assert fit(
        with_break(0, 0.0), "broken", fixed={"c1": 0.2, "d1": 1e3, "f1": 0.5}, interval="none"
    ).ok
    partly = fit(with_break(0, 0.4), "broken", fixed={"E": 0.1, "d1": 1e3})
    assert partly.ok, partly.message


def repeated(law: str, values: dict[str, float]) -> Runs:
    """Six sizes, four training sets of different size, one to a hundred passes, noise of .3%."""
    rng = np.random.default_rng(0)
    u = np.repeat([1e8, 4e8, 1.5e9, 1e10], 30)
    n = np.tile(np.repeat(np.geomspace(7e6, 8e9, 6), 5), 4)
    d = u * np.tile([1, 3, 8, 30, 100], 24)
    loss = laws_slow.predict(law, values, {"n": n, "d": d, "u": u}) * np.exp(
        rng.normal(size=120) * 0.003
    )
    return Runs.from_frame({"params": n, "tokens": d, "unique_tokens": u, "loss": loss})


SATURATING = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4}


@pytest.mark.parametrize(
    "law, more",
    [
        ("data_constrained", {"R_N": 5.3}),
        ("data_constrained_by_size", {"rho": 0.35}),
        ("data_constrained_coupled", {"p": 0.6}),
    ],
)
def test_laws_of_repeats_recover_what_made_the_losses(law, more):
    found = fit(repeated(law, SATURATING | more), law)
    for name, value in (SATURATING | more).items():
        assert found[name].low < value < found[name].high, name


def test_data_constrained_law_recovers_the_worth_of_repeats():
    values = SATURATING | {"R_N": 5.3}
    runs = repeated("data_constrained", values)
    held = fit(
        runs,
        "data_constrained",
        fixed={name: values[name] for name in ("E", "A", "B", "alpha", "beta")},
    )
    assert held["R_D"].value == pytest.approx(15.4, rel=0.05) and held[
        "R_N"
    ].value == pytest.approx(5.3, rel=0.05)
    assert (
        held["alpha"].value == 0.353
        and held["alpha"].se is None
        and held["A"].value == pytest.approx(521.0)
    )


def test_repeats_wear_out_sooner_for_larger_models():
    runs = repeated("data_constrained_by_size", SATURATING | {"rho": 0.35})
    found = fit(runs, "data_constrained_by_size")
    middle = np.exp(np.log(runs["n"]).mean())
    for end, n in (("smallest", 7e6), ("largest", 8e9)):
        assert found[f"R_D_{end}"].value == pytest.approx(
            found["R_D"].value * (n / middle) ** -found["rho"].value, rel=1e-9
        )
    same = fit(
        repeated("data_constrained_by_size", SATURATING | {"rho": 0.0}), "data_constrained_by_size"
    )
    assert same["rho"].low < 0 < same["rho"].high and same["rho"].high - same["rho"].low < 0.3


def test_the_law_of_repeats_is_the_one_that_the_runs_ask_for():
    sized = repeated("data_constrained_by_size", SATURATING | {"rho": 0.35})
    assert fit_repeats(sized).law.name == "data_constrained_by_size"
    coupled = repeated("data_constrained_coupled", SATURATING | {"p": 0.6})
    assert fit_repeats(coupled).law.name == "data_constrained_coupled"
    assert (
        fit_repeats(repeated("data_constrained", SATURATING | {"R_N": 5.3})).law.name
        == "data_constrained"
    )
    assert (
        fit_repeats(repeated("data_constrained_by_size", SATURATING | {"rho": 0.0})).law.name
        == "data_constrained"
    )


def test_measured_cost_changes_the_allocation():
    runs = clean(8)
    cost = 3.0 * runs["n"] ** 0.9 * runs["d"] ** 1.1
    table = simulate.table(n=runs["n"], d=runs["d"], loss=runs["loss"], run=runs.run, c=cost)
    result = fit(table, "surface_cost")
    assert result["p"].value == pytest.approx(0.9) and result["q"].value == pytest.approx(1.1)
    assert result["k"].value == pytest.approx(3.0, rel=1e-6)
    alpha, beta = FIELD["alpha"], FIELD["beta"]
    assert result["a"].value == pytest.approx(beta / (beta * 0.9 + alpha * 1.1), rel=1e-4)
    assert result["gamma"].value == pytest.approx(
        alpha * beta / (beta * 0.9 + alpha * 1.1), rel=1e-4
    )


def test_units_do_not_matter():
    runs = study(8, seed=1)
    one = fit(runs)
    other = fit(
        simulate.table(
            n=runs["n"] * 1e30, d=runs["d"] / 1e6, loss=runs["loss"] * 1e-9, run=runs.run
        )
    )
    for name in ("alpha", "beta", "gamma"):
        assert other[name].value == pytest.approx(one[name].value, rel=1e-6)
        assert other[name].low == pytest.approx(one[name].low, rel=1e-4)
    assert other["E"].value == pytest.approx(one["E"].value * 1e-9, rel=1e-4)


def test_floor_options():
    runs = study(8, truth=LANGUAGE)
    free, zero, given = (
        fit(runs, floor=floor, interval="none", objective="log") for floor in ("free", "zero", 1.82)
    )
    assert free.objective <= given.objective <= zero.objective
    assert zero["E"].value == 0 and given["E"].value == 1.82 and "E" not in given.law.names
    assert zero["alpha"].value < given["alpha"].value


def test_weights_are_repetitions():
    runs = study(6)
    weights = np.where(runs.run == 2, 3.0, 1.0)
    again = np.concatenate([np.arange(len(runs)), *[np.flatnonzero(runs.run == 2)] * 2])
    weighted = fit(runs, weights=weights, objective="log", interval="none")
    repeated = fit(runs.take(again), objective="log", interval="none")
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-8)
    assert weighted["alpha"].value == pytest.approx(repeated["alpha"].value, rel=1e-5)
    equal = fit(
        runs, weights="run", objective="log", interval="none"
    )  # as many checkpoints each: the same fit
    assert equal["alpha"].value == pytest.approx(
        fit(runs, objective="log", interval="none")["alpha"].value, rel=1e-6
    )


def test_robust_delta_follows_the_scatter_and_ignores_outliers():
    runs = study(10, seed=2)
    plain = fit(runs, interval="none")
    loss = runs["loss"].copy()
    loss[::13] *= 4.0
    spoiled = simulate.table(n=runs["n"], d=runs["d"], loss=loss, run=runs.run)
    robust, squared = fit(spoiled, interval="none"), fit(spoiled, objective="log", interval="none")
    assert plain.delta == pytest.approx(1.345 * plain.diagnostics["residual_mad_sd"], rel=0.05)
    assert abs(robust["beta"].value - 0.40) < 0.03 < abs(squared["beta"].value - 0.40)


# -- refusals and statuses -----------------------------------------------------------------------


def tables():
    base = study(8)
    d = {"n": base["n"], "d": base["d"], "loss": base["loss"], "run": base.run}
    two, three = (np.unique(base["n"])[:k] for k in (2, 3))
    yield "2 distinct levels of n", {k: v[np.isin(base["n"], two)] for k, v in d.items()}
    yield "is constant", {k: v[base.run == 0] for k, v in d.items()}
    yield "independent runs", {k: v[np.isin(base["n"], three)] for k, v in d.items()}
    yield "perfectly correlated", d | {"d": 20 * d["n"]}
    yield (
        "perfectly correlated",
        d | {"d": 20 * d["n"] * np.exp(np.random.default_rng(0).normal(size=80) * 0.01)},
    )
    yield "loss is constant", d | {"loss": np.full(80, 2.5)}
    # the reader takes no such table: a run has one N
    yield "1 independent runs", replace(base, run=np.zeros(80, int), run_names=["0"])
    yield "rows cannot determine", {k: v[[0, 22, 44, 66, 79]] for k, v in d.items()}


@pytest.mark.parametrize(
    ("words", "table"), list(tables()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_designs_that_cannot_carry_the_fit_are_refused(words, table):
    result = fit(table)
    assert result.status == "refused" and not result.ok and not result.parameters
    assert words in result.message
    with pytest.raises(FitError, match="refused"):
        result.require()
    with pytest.raises(FitError):
        result.predict(n=1.0, d=1.0)


def test_one_run_cannot_carry_a_law_in_its_data():
    base = study(8)
    one = {k: base[k][base.run == 0] for k in ("n", "d", "loss")} | {"run": np.zeros(10)}
    result = fit(Runs.from_frame(one), "power_floor", x="d")
    assert result.status == "refused" and "1 independent runs" in result.message


def test_losses_that_do_not_follow_the_law_are_not_ok():
    runs = study(8)
    rising = simulate.table(n=runs["n"], d=runs["d"], loss=1 / runs["loss"], run=runs.run)
    rng = np.random.default_rng(0)
    random = simulate.table(
        n=runs["n"], d=runs["d"], loss=np.exp(rng.normal(size=80)), run=runs.run
    )
    flat_in_n = simulate.table(
        n=runs["n"],
        d=runs["d"],
        loss=(1.8 + 50 * runs["d"] ** -0.4) * np.exp(rng.normal(size=80) * 0.01),
        run=runs.run,
    )
    for table in (rising, random, flat_in_n):
        result = fit(table, interval="none")
        assert (
            not result.ok
            and result.status in ("not_identified", "not_converged")
            and result.message
        )


def test_a_floor_of_zero_is_at_its_bound_and_its_interval_says_how_large_it_may_be():
    truth = FIELD | {"E": 0.0}
    seen = 0
    for seed in range(6):
        result = fit(study(8, seed=seed, truth=truth))
        if result.status != "at_bound":
            continue
        seen += 1
        assert (
            result.ok and result["E"].value == 0 and result["E"].low == 0 and result["E"].high > 0
        )
        assert result["alpha"].low < 0.35 < result["alpha"].high
    assert seen >= 1


def test_unknown_options_raise():
    runs = study(5)
    for options in (
        {"objective": "mean"},
        {"delta": -1.0},
        {"interval": "magic"},
        {"cluster": "colour"},
        {"level": 1.5},
        {"law": "nothing"},
        {"fixed": {"zeta": 1.0}},
        {"weights": "heavy"},
    ):
        with pytest.raises(FitError):
            fit(runs, **options)


def test_nonfinite_objective_never_comes_back():
    assert Objective("huber", 0.1).rho(np.array([0.05, -0.2])) == pytest.approx([0.00125, 0.015])


def test_laws_with_several_optima_are_searched_until_starts_agree():
    """Repeats saturate in two ways at once and Huber's loss has kinks: with the surface held, SciPy
    from a grid over R_D and R_N on the slow formula must not find a lower objective than the fit
    (as the shipped fit of Muennighoff et al. is no optimum)."""
    rng = np.random.default_rng(33)  # the best six cells of the grid all lead elsewhere
    u = np.repeat([1e8, 4e8, 1.5e9, 1e10], 12)
    n = np.tile(np.repeat(np.geomspace(7e6, 8e9, 4), 3), 4)
    d = u * np.tile([1, 8, 100], 16)
    surface = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}
    loss = laws_slow.predict(
        "data_constrained", surface | {"R_D": 40.0, "R_N": 2.0}, {"n": n, "d": d, "u": u}
    )
    loss = loss * np.exp(rng.standard_t(2, size=48) * 0.03)
    result = fit(
        Runs.from_frame({"params": n, "tokens": d, "unique_tokens": u, "loss": loss}),
        "data_constrained",
        delta=1e-3,
        fixed=surface,
        interval="none",
    )

    def slow(ln_r: np.ndarray) -> float:
        r_d, r_n = np.exp(
            np.clip(ln_r, -16, 16)
        )  # beyond, the formula as it is written is rounding alone
        values = surface | {"R_D": float(r_d), "R_N": float(r_n)}
        return float(
            laws_slow.rho(
                "huber",
                laws_slow.predict("data_constrained", values, {"n": n, "d": d, "u": u}),
                loss,
                1e-3,
            ).sum()
        )

    grid = sorted(
        ((x, y) for x in np.linspace(0, 7, 20) for y in np.linspace(-2, 5, 20)), key=slow
    )[:15]
    least = min(
        minimize(slow, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15}).fun
        for start in grid
    )
    assert result.objective <= least * (1 + 1e-9)
    assert result.diagnostics["starts_agreeing"] >= 3


def test_a_shape_that_ends_at_its_limit_is_said_and_has_no_standard_error():
    u = np.repeat([1e8, 1e9, 1e10], 20)
    n = np.tile(np.repeat(np.geomspace(1e7, 1e9, 4), 5), 3)
    d = u * np.tile([1, 2, 4, 8, 16], 12)
    rng = np.random.default_rng(1)
    loss = laws_slow.predict("surface", LANGUAGE, {"n": n, "d": d}) * np.exp(
        rng.normal(size=60) * 1e-3
    )  # repeats cost nothing
    result = fit(
        Runs.from_frame({"params": n, "tokens": d, "unique_tokens": u, "loss": loss}),
        "data_constrained",
    )
    ended = [name for name in ("R_D", "R_N") if name in result.diagnostics["bounds_hit"]]
    assert result.ok and ended
    for name in ended:
        assert f"{name} ran to its upper end" in result.message and result[name].se is None
        line = next(one for one in result.summary().splitlines() if one.startswith(name))
        assert line.endswith("not determined")
    assert result["alpha"].value == pytest.approx(LANGUAGE["alpha"], rel=0.1)


def test_a_tiny_delta_still_reaches_the_optimum():
    """Near an absolute value the objective over delta tends to the sum of |r|, whatever delta."""
    runs = study(8, seed=2)
    sums = []
    for delta in (1e-7, 1e-12):
        result = fit(runs, delta=delta, interval="none")
        sums.append(np.abs(np.log(result.predict(n=runs["n"], d=runs["d"]) / runs["loss"])).sum())
    assert sums[1] <= sums[0] * (1 + 1e-5)


def test_losses_without_a_law_are_not_called_one():
    """Random losses over ten orders of magnitude whose fitted exponents happen to be positive."""
    runs = study(8, seed=0)
    for seed in (9, 10, 13, 15):
        loss = 10.0 ** np.random.default_rng(seed).uniform(-10, 0, len(runs))
        result = fit(
            simulate.table(n=runs["n"], d=runs["d"], loss=loss, run=runs.run), interval="none"
        )
        assert result.status == "not_identified" and "than a constant" in result.message, seed


def test_projection_keeps_what_is_held():
    """At the true exponents, with A and E held at other values, B is the non-negative least-squares
    one of what is left."""
    law, rng = Surface(), np.random.default_rng(0)
    u, v = rng.normal(size=(2, 30))
    y = np.log(1.8 + 0.5 * np.exp(-0.3 * u) + 0.7 * np.exp(-0.4 * v))
    theta, misfit = project(
        law, np.array([[0.3, 0.4]]), {"n": u, "d": v}, y, None, {0: np.log(0.4), 2: 1.7}
    )
    rest = 1 - (1.7 + 0.4 * np.exp(-0.3 * u)) / np.exp(y)
    expected, norm = nnls((np.exp(-0.4 * v) / np.exp(y))[:, None], rest)
    np.testing.assert_allclose(
        theta[0], [np.log(0.4), np.log(expected[0]), 1.7, 0.3, 0.4], rtol=1e-9
    )
    assert misfit[0] == pytest.approx(norm**2, rel=1e-9)


def test_what_no_table_determines_is_no_number():
    assert Estimate(3.0, 0.1, 2.0, 4.0).determined
    assert Estimate(0.0, 0.1, -0.2, 0.2).determined
    assert not Estimate(3e80).determined
    assert not Estimate(3.0, 3.4e14, 1e-4, 1e9).determined
    assert not Estimate(3.0, 1e9, -1e9, 1e9).determined
