"""Budgets and plans: the best N and D, prediction intervals, limited data, and which runs shorten
an interval."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.decide import design as planning
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.budget import SHARED, Choice, _rank, _Said, budget
from forcelaw.laws.decide.design import design
from forcelaw.laws.fit.fit import fit
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, clean, columns, join, scaled, study
from tests.reference import laws_slow


def test_the_choice_is_the_minimum_of_the_surface():
    found = budget(study(10, sd_run=1e-4, sd_within=1e-4), flops=1e17)
    n, d = laws_slow.best_sizes(FIELD, 1e17, 6, 1, 1)
    best = found.best
    assert best.n == pytest.approx(n, rel=0.02) and best.d == pytest.approx(d, rel=0.02)
    assert best.loss == pytest.approx(
        laws_slow.predict("surface", FIELD, {"n": n, "d": d}), rel=0.005
    )
    assert best.loss_low < best.loss_mean_low < best.loss < best.loss_mean_high < best.loss_high
    assert best.extrapolation["budget"] == pytest.approx(1e17 / (6 * 3e6 * 1e9))
    assert best.flops == 1e17 and best.hours is None and best.epochs is None


def test_the_better_architecture_is_chosen_and_the_certainty_is_stated():
    runs = join(study(10), scaled(study(10, seed=1), 0.8))
    found = budget(runs, flops=1e16)
    assert [one.group for one in found.choices] == ["B", "A"]
    assert found.choices[0].p_best > 0.95 and found.status == "ok"
    same = budget(join(study(10, seed=2), study(10, seed=3)), flops=1e16)
    assert min(one.p_best for one in same.choices) > 0.02 and sum(
        one.p_best for one in same.choices
    ) == pytest.approx(1)
    json.dumps(found.as_json(), allow_nan=False)
    assert "B" in found.summary()


def test_hours_come_from_measured_hours_of_one_device():
    table = columns(study(8)) | {"device": ["H200", "H200"] * 20 + ["CPU"] * 40}
    speed = np.where(np.array(table["device"]) == "CPU", 1e12, 1e15)
    table["gpu_hours"] = np.asarray(table["flops"]) / speed / 3600
    runs = Runs.from_frame(table)
    assert any("several devices" in note for note in budget(runs, hours=1.0).notes)
    found = budget(runs, hours=1.0, device="h200", beyond=1e9)
    slow = np.array(table["device"]) == "CPU"  # hours of the CPU do not count
    assert found.best.extrapolation["budget"] == pytest.approx(
        1.0 / table["gpu_hours"][~slow].max()
    )
    table["device"] = ["H200"] * 80
    table["gpu_hours"] = np.asarray(table["flops"]) / 1e15 / 3600
    best = budget(Runs.from_frame(table), hours=2.0, device="H200").best
    assert best.hours == 2.0 and best.flops == pytest.approx(7.2e18, rel=1e-6)
    with pytest.raises(FitError, match="no run was made"):
        budget(runs, hours=1.0, device="TPU")


def test_limited_data_mean_epochs_and_a_larger_model():
    free = budget(study(10), flops=1e17).best
    limited = budget(study(10), flops=1e17, unique=1e8).best
    assert (
        limited.epochs == 4
        and limited.d == 4e8 < free.d
        and limited.n > free.n
        and limited.loss > free.loss
    )
    assert any("repeated data are counted as new" in note for note in limited.notes)
    assert 6 * limited.n * limited.d == pytest.approx(1e17, rel=1e-6)


def with_repeats(law: str, values: dict[str, float]) -> Runs:
    """Six sizes, four training sets of different size, one to a hundred passes, noise of .3%."""
    rng = np.random.default_rng(0)
    u = np.repeat([1e6, 4e6, 1.5e7, 1e8], 30)
    n = np.tile(np.repeat(np.geomspace(1e4, 3e6, 6), 5), 4)
    d = u * np.tile([1, 3, 8, 30, 100], 24)
    loss = laws_slow.predict(law, values, {"n": n, "d": d, "u": u}) * np.exp(
        rng.normal(size=120) * 0.003
    )
    return Runs.from_frame({"n": n, "d": d, "u": u, "c": 6 * n * d, "loss": loss})


def test_runs_with_repeats_say_what_repeats_are_worth():
    values = FIELD | {"R_D": 6.0, "R_N": 5.0}
    runs = with_repeats("data_constrained", values)
    best = budget(runs, flops=1e17, unique=1e8).best
    sizes = np.geomspace(1e5, 1e9, 4000)
    there = {"n": sizes, "d": 1e17 / 6 / sizes, "u": np.minimum(1e8, 1e17 / 6 / sizes)}
    losses = laws_slow.predict("data_constrained", values, there)
    assert best.n == pytest.approx(sizes[np.argmin(losses)], rel=0.2)
    assert best.loss == pytest.approx(losses.min(), rel=0.02)


def test_where_repeats_wear_out_with_size_the_budget_buys_a_smaller_model():
    best = {}
    for rho in (0.0, 0.4):
        runs = with_repeats("data_constrained_by_size", FIELD | {"R_D": 20.0, "rho": rho})
        best[rho] = budget(runs, flops=1e15, unique=4e6).best
        sizes = np.geomspace(1e4, 1e8, 4000)
        seen = 1e15 / 6 / sizes
        repeats = 20.0 * (sizes / np.exp(np.log(runs["n"]).mean())) ** -rho
        worth = 4e6 * (1 + repeats * (1 - np.exp(-np.maximum(seen / 4e6 - 1, 0) / repeats)))
        losses = (
            FIELD["E"]
            + FIELD["A"] * sizes ** -FIELD["alpha"]
            + FIELD["B"] * np.minimum(worth, seen) ** -FIELD["beta"]
        )
        assert best[rho].n == pytest.approx(sizes[np.argmin(losses)], rel=0.25), rho
        assert best[rho].loss == pytest.approx(losses.min(), rel=0.02)
    assert best[0.4].n < best[0.0].n
    assert any("R_D ~ N^-0.4" in note for note in best[0.4].notes) and not any(
        "R_D ~" in note for note in best[0.0].notes
    )


def test_budget_faults():
    runs = study(8)
    for options, words in (
        ({}, "in FLOPs or in hours"),
        ({"flops": 1e15, "hours": 1.0}, "in FLOPs or in hours"),
        ({"flops": -1.0}, "budget is"),
        ({"flops": float("nan")}, "budget is"),
    ):
        with pytest.raises(FitError, match=words):
            budget(runs, **options)
    refused = budget(study(2), flops=1e15)
    assert refused.status == "refused" and "levels of n" in refused.choices[0].reason
    reason = budget(runs, hours=1.0).choices[0].reason
    assert "no device-hours" in reason and "--columns h=..." in reason and "--flops" in reason
    far = budget(runs, flops=1e25, beyond=1e6).best
    assert any("times the largest" in note for note in far.notes) and far.flops == 1e25


def test_nothing_is_answered_far_beyond_what_was_measured():
    """3e6 parameters and 1e9 atoms are the largest; 1e25 FLOPs would want 1e5 times both."""
    runs = study(8)
    best = budget(runs, flops=1e25).best
    assert best.extrapolation["n"] <= 30 * 1.001 and best.extrapolation["d"] <= 30 * 1.001
    assert best.flops == pytest.approx(6 * best.n * best.d) and best.flops < 1e21
    assert any("of the budget is used" in note for note in best.notes)
    wider = budget(runs, flops=1e25, beyond=100).best
    assert wider.n > 2 * best.n and wider.loss < best.loss


def test_hours_are_never_cheaper_than_the_best_measured_rate():
    """The time of a run does not depend on its size: the fitted cost gives N for nothing."""
    table = columns(study(8))
    table["gpu_hours"] = 0.1 * np.asarray(table["tokens"]) / 1e9
    runs = Runs.from_frame(table)
    best = budget(runs, hours=1.0).best
    rate = (runs["c"] / runs["h"]).max()  # FLOPs an hour
    assert 6 * best.n * best.d <= rate * 1.0 * 1.001
    assert best.hours <= 1.0


def test_the_likeliest_to_be_best_comes_first():
    """A's loss is promised lower, but nearly nothing is known of A."""
    sure, unsure = study(10, sd_run=0.002), study(10, seed=1, sd_run=0.15)
    found = budget(join(scaled(unsure, 0.999), sure), flops=1e16)
    chances = [one.p_best for one in found.choices]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)


def test_laws_of_one_table_bend_alike_beyond_it():
    """Two architectures 5% apart: P of the better one against the normal integral."""
    one, other = _Said(0.0, 0.05, 0.04), _Said(0.05, 0.06, 0.05)
    choices = [Choice("one"), Choice("other"), Choice("refused", reason="no law")]
    _rank(choices, [one, other, None], 0)
    sd = math.sqrt(0.05**2 + 0.06**2 - 2 * SHARED * 0.04 * 0.05)
    p = stats.norm.cdf(0.05 / sd)
    assert choices[0].p_best == pytest.approx(p, abs=0.02)
    assert p > stats.norm.cdf(0.05 / math.hypot(0.05, 0.06)) + 0.04  # as if they were independent
    assert choices[0].p_best + choices[1].p_best == pytest.approx(1)
    assert math.isnan(choices[2].p_best)


def test_passes_over_the_data_follow_from_column_u():
    runs = study(8)
    table = columns(runs) | {"unique_tokens": np.minimum(runs["d"], 2e8)}
    best = budget(Runs.from_frame(table), flops=1e16).best
    assert best.epochs == pytest.approx(best.d / 2e8) and best.epochs > 1.1
    assert any("passes over the largest data set" in note for note in best.notes)


def test_a_table_without_compute_needs_the_cost_named():
    runs = study(8)
    table = columns(runs)
    del table["flops"]
    refused = budget(table, flops=1e16)
    assert refused.status == "refused" and "--cost 6nd" in refused.choices[0].reason
    named, measured = budget(table, flops=1e16, cost="6nd").best, budget(runs, flops=1e16).best
    assert named.n == pytest.approx(measured.n) and named.loss == pytest.approx(measured.loss)
    assert budget(table, flops=1e16, cost=12).best.loss > named.loss


# -- design --------------------------------------------------------------------------------------


def test_the_simulated_interval_is_that_of_the_jackknife():
    """The expected half-width of the study as it is agrees with the mean of measured ones over such
    studies."""
    measured = []
    for seed in range(12):
        gamma = fit(study(10, seed=seed))["gamma"]
        measured.append((gamma.high - gamma.low) / 2)
    plan = design(study(10), "gamma", add=0, copies=200)
    assert plan.half_width == pytest.approx(np.mean(measured), rel=0.35)
    assert plan.noise["sd_run"] == pytest.approx(0.01, rel=0.6)


def test_a_design_for_a_target_shortens_the_interval_of_the_loss_there():
    """What is added for a target beyond the sizes and lengths is longer or larger than what is
    there, and does more for it than what would be added for the exponent of N."""
    runs, at = study(6), {"n": 1e8, "d": 1e10}
    plan = design(runs, target=at, add=1, copies=100, rank="gain")
    band = fit(runs).interval(**{role: np.array([value]) for role, value in at.items()})
    assert plan.value == pytest.approx(np.log(band.value[0]))
    assert plan.measured_half_width == pytest.approx(np.log(band.high / band.low)[0] / 2)
    one = plan.additions[0]
    assert one.gain > 0.1 and (one.n > runs["n"].max() or one.d > runs["d"].max())
    near = design(runs, target={"n": 1e5, "d": 3e7}, add=1, copies=100)
    assert near.half_width < plan.half_width / 3
    for wrong in ({"n": 1e8}, {"n": 1e8, "d": -1.0}, {"n": 1e8, "d": 1e9, "h": 1.0}):
        with pytest.raises(FitError, match="target"):
            design(runs, target=wrong)


def test_added_runs_shorten_the_interval_as_predicted():
    """What the plan promises is what fresh studies with these runs have (mean over studies)."""
    plan = design(study(10), "alpha", add=2, copies=150)
    assert plan.additions and all(one.half_width < one.before for one in plan.additions)
    assert plan.additions[0].before == plan.half_width
    ratio = []
    for seed in range(10):
        rng = np.random.default_rng([seed, 5])
        base = simulate.trajectories(
            FIELD, np.geomspace(1e4, 3e6, 10), np.geomspace(1e6, 1e9, 10), rng
        )
        more = [
            simulate.trajectories(FIELD, np.array([one.n]), np.geomspace(1e6, one.d, 10), rng)
            for one in plan.additions
        ]
        whole = simulate.table(
            n=np.concatenate([base["n"], *(m["n"] for m in more)]),
            d=np.concatenate([base["d"], *(m["d"] for m in more)]),
            loss=np.concatenate([base["loss"], *(m["loss"] for m in more)]),
            run=np.concatenate([base.run, *(np.full(10, 10 + i) for i in range(len(more)))]),
        )
        before, after = fit(base)["alpha"], fit(whole)["alpha"]
        ratio.append((after.high - after.low) / (before.high - before.low))
    promised = plan.additions[-1].half_width / plan.half_width
    assert np.median(ratio) == pytest.approx(promised, rel=0.35) and promised < 0.95


def test_cost_decides_between_equal_gains():
    plan = design(study(8), "beta", add=1, copies=60)
    best = plan.additions[0] if plan.additions else None
    assert best is None or best.gain / best.cost == max(
        one.gain / one.cost for one in plan.candidates if one.sure
    )
    limit = float(np.median([one.cost for one in plan.candidates]))
    cheap = design(study(8), "beta", add=1, copies=30, max_cost=limit)
    assert (
        max(one.cost for one in cheap.candidates)
        <= limit
        < max(one.cost for one in plan.candidates)
    )
    json.dumps(plan.as_json(), allow_nan=False)


def test_design_faults():
    with pytest.raises(FitError, match="no quantity"):
        design(study(8), "delta")
    with pytest.raises(FitError, match="refused"):
        design(study(2), "alpha")
    with pytest.raises(FitError, match="one architecture"):
        design(join(clean(6), clean(6)), "alpha")
    with pytest.raises(FitError, match="cost limit"):
        design(study(8), "alpha", max_cost=1.0)


def test_rank_by_gain_takes_the_run_that_helps_most():
    runs = study(8)
    cheap, best = (
        design(runs, "alpha", add=1, copies=60, rank=rank) for rank in ("per-cost", "gain")
    )
    assert sorted(one.gain for one in cheap.candidates) == sorted(
        one.gain for one in best.candidates
    )
    assert (
        best.additions[0].gain
        == max(one.gain for one in best.candidates if one.sure)
        > cheap.additions[0].gain
    )
    assert best.additions[0].cost > cheap.additions[0].cost
    assert (
        "for their cost (--rank per-cost)" in cheap.summary()
        and "whatever they cost (--rank gain)" in best.summary()
    )
    assert best.as_json()["rank"] == "gain"
    with pytest.raises(FitError, match="cannot be ranked by 'price'"):
        design(runs, "alpha", rank="price")


def test_gains_within_the_noise_of_the_simulation_name_no_run():
    """Of 120 independent rows one more changes little: no run is better than chance, and that is
    said."""
    rng = np.random.default_rng(0)
    n, d = (
        np.exp(rng.uniform(np.log(1e4), np.log(3e6), 120)),
        np.exp(rng.uniform(np.log(1e6), np.log(1e9), 120)),
    )
    loss = simulate.surface_loss(FIELD, n, d) * np.exp(rng.normal(size=120) * 0.01)
    runs = simulate.table(n=n, d=d, loss=loss, run=np.arange(120), c=6 * n * d)
    plan = design(runs, "beta", add=2, copies=30)
    assert all(one.gain_se > 0 for one in plan.candidates) and all(
        one.sure for one in plan.additions
    )
    assert len(plan.additions) == 2 or any("noise of the simulation" in note for note in plan.notes)
    assert design(
        study(8), "alpha", add=1, copies=60
    ).additions  # eight runs are few: one more helps


def test_a_run_added_to_single_evaluations_is_one_evaluation():
    """Where every row is a run, an added run counts as one row: its 1/n of information, not twelve
    checkpoints'."""
    rng = np.random.default_rng(0)
    n, d = (
        np.exp(rng.uniform(np.log(1e4), np.log(3e6), 60)),
        np.exp(rng.uniform(np.log(1e6), np.log(1e9), 60)),
    )
    loss = simulate.surface_loss(FIELD, n, d) * np.exp(rng.normal(size=60) * 0.01)
    runs = simulate.table(n=n, d=d, loss=loss, run=np.arange(60), c=6 * n * d)
    plan = planning._Study(runs, fit(runs), "gamma", 40, 0, 0.95)
    assert plan.clock.tolist() == [1.0]
    assert len(planning._Study(study(8), fit(study(8)), "gamma", 40, 0, 0.95).clock) == 10
    kinds = {kind for _, _, kind in planning._candidates(runs, planning.Cost.measured(runs), None)}
    assert "size there is, longer" in kinds


def test_a_law_of_compute_alone_does_not_split_a_budget():
    (choice,) = budget(study(8), flops=1e15, law="frontier", interval="none").choices
    assert "does not say how a budget is split" in choice.reason and np.isnan(choice.n)
