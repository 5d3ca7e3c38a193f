"""Budgets and plans: the best N and D, prediction intervals, limited data, and which runs shorten an interval."""

import json

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws import Runs, budget, design, fit, simulate
from tests.laws.studies import FIELD, clean, columns, join, scaled, study
from tests.reference import laws_slow


def test_the_choice_is_the_minimum_of_the_surface():
    found = budget(study(10, sd_run=1e-4, sd_within=1e-4), flops=1e17)
    n, d = laws_slow.best_sizes(FIELD, 1e17, 6, 1, 1)
    best = found.best
    assert best.n == pytest.approx(n, rel=0.02) and best.d == pytest.approx(d, rel=0.02)
    assert best.loss == pytest.approx(laws_slow.predict("surface", FIELD, {"n": n, "d": d}), rel=0.005)
    assert best.loss_low < best.loss_mean_low < best.loss < best.loss_mean_high < best.loss_high
    assert best.extrapolation["budget"] == pytest.approx(1e17 / (6 * 3e6 * 1e9))
    assert best.flops == 1e17 and best.hours is None and best.epochs is None


def test_the_better_architecture_is_chosen_and_the_certainty_is_stated():
    runs = join(study(10), scaled(study(10, seed=1), 0.8))
    found = budget(runs, flops=1e16)
    assert [one.group for one in found.choices] == ["B", "A"]
    assert found.choices[0].p_best > 0.95 and found.status == "ok"
    same = budget(join(study(10, seed=2), study(10, seed=3)), flops=1e16)
    assert min(one.p_best for one in same.choices) > 0.02 and sum(one.p_best for one in same.choices) == pytest.approx(1)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "B" in found.summary()


def test_hours_come_from_measured_hours_of_one_device():
    table = columns(study(8)) | {"device": ["H200", "H200"] * 20 + ["CPU"] * 40}
    speed = np.where(np.array(table["device"]) == "CPU", 1e12, 1e15)
    table["gpu_hours"] = np.asarray(table["flops"]) / speed / 3600
    runs = Runs.from_frame(table)
    assert any("several devices" in note for note in budget(runs, hours=1.0).notes)
    found = budget(runs, hours=1.0, device="h200")
    slow = np.array(table["device"]) == "CPU"  # hours of the CPU do not count
    assert found.best.extrapolation["budget"] == pytest.approx(1.0 / table["gpu_hours"][~slow].max())
    table["device"] = ["H200"] * 80
    table["gpu_hours"] = np.asarray(table["flops"]) / 1e15 / 3600
    best = budget(Runs.from_frame(table), hours=2.0, device="H200").best
    assert best.hours == 2.0 and best.flops == pytest.approx(7.2e18, rel=1e-6)
    with pytest.raises(FitError, match="no run was made"):
        budget(runs, hours=1.0, device="TPU")


def test_limited_data_mean_epochs_and_a_larger_model():
    free = budget(study(10), flops=1e17).best
    limited = budget(study(10), flops=1e17, unique=1e8).best
    assert limited.epochs == 4 and limited.d == 4e8 < free.d and limited.n > free.n and limited.loss > free.loss
    assert any("repeated data are counted as new" in note for note in limited.notes)
    assert 6 * limited.n * limited.d == pytest.approx(1e17, rel=1e-6)


def test_runs_with_repeats_say_what_repeats_are_worth():
    rng = np.random.default_rng(0)
    u = np.repeat([1e6, 4e6, 1.5e7, 1e8], 30)
    n = np.tile(np.repeat(np.geomspace(1e4, 3e6, 6), 5), 4)
    d = u * np.tile([1, 3, 8, 30, 100], 24)
    values = FIELD | {"R_D": 6.0, "R_N": 5.0}
    loss = laws_slow.predict("data_constrained", values, {"n": n, "d": d, "u": u}) * np.exp(rng.normal(size=120) * 0.003)
    runs = Runs.from_frame({"n": n, "d": d, "u": u, "c": 6 * n * d, "loss": loss})
    best = budget(runs, flops=1e17, unique=1e8).best
    sizes = np.geomspace(1e5, 1e9, 4000)
    there = {"n": sizes, "d": 1e17 / 6 / sizes, "u": np.minimum(1e8, 1e17 / 6 / sizes)}
    losses = laws_slow.predict("data_constrained", values, there)
    assert best.n == pytest.approx(sizes[np.argmin(losses)], rel=0.2)
    assert best.loss == pytest.approx(losses.min(), rel=0.02)


def test_budget_faults():
    runs = study(8)
    for options, words in (({}, "in FLOPs or in hours"), ({"flops": 1e15, "hours": 1.0}, "in FLOPs or in hours"),
                           ({"flops": -1.0}, "budget is"), ({"flops": float("nan")}, "budget is")):
        with pytest.raises(FitError, match=words):
            budget(runs, **options)
    refused = budget(study(2), flops=1e15)
    assert refused.status == "refused" and "levels of n" in refused.choices[0].reason
    assert "has no h" in budget(runs, hours=1.0).choices[0].reason
    assert any("times the largest" in note for note in budget(runs, flops=1e25).best.notes)


# -- design ----------------------------------------------------------------------------------------------------------


def test_the_simulated_interval_is_that_of_the_jackknife():
    """The expected half-width of the study as it is agrees with the mean of measured ones over such studies."""
    measured = []
    for seed in range(12):
        gamma = fit(study(10, seed=seed))["gamma"]
        measured.append((gamma.high - gamma.low) / 2)
    plan = design(study(10), "gamma", add=0, copies=200)
    assert plan.half_width == pytest.approx(np.mean(measured), rel=0.35)
    assert plan.noise["sd_run"] == pytest.approx(0.01, rel=0.6)


def test_added_runs_shorten_the_interval_as_predicted():
    """What the plan promises is what fresh studies with these runs have (mean over studies)."""
    plan = design(study(10), "alpha", add=2, copies=150)
    assert plan.additions and all(one.half_width < one.before for one in plan.additions)
    assert plan.additions[0].before == plan.half_width
    ratio = []
    for seed in range(10):
        rng = np.random.default_rng([seed, 5])
        base = simulate.trajectories(FIELD, np.geomspace(1e4, 3e6, 10), np.geomspace(1e6, 1e9, 10), rng)
        more = [simulate.trajectories(FIELD, np.array([one.n]), np.geomspace(1e6, one.d, 10), rng) for one in plan.additions]
        whole = simulate.table(n=np.concatenate([base["n"], *(m["n"] for m in more)]),
                               d=np.concatenate([base["d"], *(m["d"] for m in more)]),
                               loss=np.concatenate([base["loss"], *(m["loss"] for m in more)]),
                               run=np.concatenate([base.run, *(np.full(10, 10 + i) for i in range(len(more)))]))
        before, after = fit(base)["alpha"], fit(whole)["alpha"]
        ratio.append((after.high - after.low) / (before.high - before.low))
    promised = plan.additions[-1].half_width / plan.half_width
    assert np.median(ratio) == pytest.approx(promised, rel=0.35) and promised < 0.95


def test_cost_decides_between_equal_gains():
    plan = design(study(8), "beta", add=1, copies=60)
    best = plan.additions[0] if plan.additions else None
    assert best is None or best.gain / best.cost == max(one.gain / one.cost for one in plan.candidates)
    limit = float(np.median([one.cost for one in plan.candidates]))
    cheap = design(study(8), "beta", add=1, copies=30, max_cost=limit)
    assert max(one.cost for one in cheap.candidates) <= limit < max(one.cost for one in plan.candidates)
    json.dumps(plan.to_dict(), allow_nan=False)


def test_design_faults():
    with pytest.raises(FitError, match="no quantity"):
        design(study(8), "delta")
    with pytest.raises(FitError, match="refused"):
        design(study(2), "alpha")
    with pytest.raises(FitError, match="one architecture"):
        design(join(clean(6), clean(6)), "alpha")
    with pytest.raises(FitError, match="cost limit"):
        design(study(8), "alpha", max_cost=1.0)
