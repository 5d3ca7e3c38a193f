"""Frontier, allocation and iso-FLOP minima against closed forms and brute force."""

from itertools import product

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.allocation import Cost, compute_optimal
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.frontier.curves import curves, lower_hull, smoothed
from forcelaw.laws.frontier.frontier import frontier
from forcelaw.laws.frontier.isoflop import isoflop
from tests.laws.studies import FIELD, LANGUAGE, clean, exponents, scaled, study
from tests.reference import laws_slow


def test_lower_hull_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(30):
        x = rng.normal(size=18)
        y = (x - 0.5) ** 2 * 0.3 + rng.normal(size=18) * 0.3
        assert set(lower_hull(x, y).tolist()) == laws_slow.hull(x, y)


@pytest.mark.parametrize("truth", [FIELD, LANGUAGE])
def test_frontier_of_exact_curves_is_that_of_the_surface(truth):
    """L* = E + F C^-gamma with F = k^gamma (A G^-alpha + B G^beta), G = (alpha A /
    (beta B))^(1/(alpha + beta)); k = 6."""
    found = frontier(clean(12, truth))
    want = exponents(truth)
    alpha, beta = truth["alpha"], truth["beta"]
    g = (alpha * truth["A"] / (beta * truth["B"])) ** (1 / (alpha + beta))
    f = 6 ** want["gamma"] * (truth["A"] * g**-alpha + truth["B"] * g**beta)
    assert found.method == "tangents" and found.fit.status == "ok"
    assert found.fit["gamma"].value == pytest.approx(want["gamma"], rel=0.01)
    assert found.fit["E"].value == pytest.approx(truth["E"], rel=0.02, abs=2e-3)
    for c in found.tangents["x"]:
        assert found.fit.predict(c=c) == pytest.approx(
            truth["E"] + f * c ** -want["gamma"], rel=2e-3
        )
    assert found.optimum.a.value == pytest.approx(want["a"], abs=0.01)
    assert found.optimum.b.value == pytest.approx(want["b"], abs=0.01)
    assert not found.optimum.edge


def test_hull_points_are_points_of_the_curves():
    runs = study(8, seed=1)
    found = frontier(runs, interval="none")
    for x, n, d in zip(found.points["x"], found.points["n"], found.points["d"]):
        assert x == pytest.approx(6 * n * d, rel=1e-9)
    assert (np.diff(found.points["x"]) > 0).all() and (np.diff(found.points["loss"]) < 0).all()


def test_minima_of_noise_do_not_bias_gamma():
    """20 noisy runs of which only the larger sizes are ever best: the hull's vertices give a gamma
    that is far too large."""
    truth = FIELD | {"B": 30.0}
    tangents, hulls = [], []
    for seed in range(5):
        found = frontier(study(20, seed=seed, truth=truth), interval="none")
        tangents.append(found.fit["gamma"].value)
        points = simulate.table(
            n=found.points["n"],
            d=found.points["d"],
            c=found.points["x"],
            loss=found.points["loss"],
            run=np.arange(len(found.points["x"])),
        )
        hulls.append(fit(points, "frontier", objective="log", interval="none")["gamma"].value)
    right = exponents(truth)["gamma"]
    assert abs(np.mean(tangents) / right - 1) < 0.1 < 0.2 < np.mean(hulls) / right - 1


def test_intervals_of_the_frontier_hold_the_truth():
    hits = 0
    for seed in range(12):
        gamma = frontier(study(10, seed=seed)).fit.derived["gamma"]
        hits += gamma.low <= exponents(FIELD)["gamma"] <= gamma.high
    assert hits >= 10


def test_seeds_are_averaged_and_deleted_one_by_one():
    runs = study(8, seeds=2, seed=3)
    assert len(curves(runs)) == 8 and all(len(curve.runs) == 2 for curve in curves(runs))
    found = frontier(runs)
    assert (
        found.fit.ok and found.fit.n_runs == 16 and found.fit["gamma"].low < found.fit["gamma"].high
    )
    same = frontier(scaled(runs, 2.0))
    assert same.fit["gamma"].value == pytest.approx(found.fit["gamma"].value, rel=1e-4)


@pytest.mark.parametrize("seeds", [1, 2])
def test_deleting_a_run_is_a_frontier_without_it(seeds):
    """The batch of all deletions against one frontier for each table without a run; floor at zero,
    so that it is unique."""
    runs = study(10, seeds=seeds, seed=3, sd_run=0.003, sd_within=0.001)
    found = frontier(runs, floor="zero")
    quick = found.fit.law.natural(found.fit.replicates, found.fit.centre)["gamma"]
    for r in range(0, len(runs.run_names), 3):
        slow = frontier(runs.take(runs.run != r), floor="zero", interval="none").fit
        assert quick[r] == pytest.approx(slow["gamma"].value, rel=2e-3)
    assert np.ptp(quick) > 1e-4


def test_a_smoothed_curve_is_the_curve_without_its_noise():
    x = np.linspace(0, 8, 20)
    exact = np.log(0.1 + np.exp(-0.4 * x))
    rng = np.random.default_rng(0)
    at, dense_x, dense = smoothed(x, exact + rng.normal(size=20) * 0.01)
    assert np.abs(at - exact).max() < 0.015 and np.sqrt(np.mean((at - exact) ** 2)) < 0.006
    np.testing.assert_allclose(dense, np.log(0.1 + np.exp(-0.4 * dense_x)), atol=0.015)
    wiggle = exact + 0.2 * np.exp(-x)  # a transient that no power law has
    assert np.abs(smoothed(x, wiggle)[0] - wiggle).max() < 0.02


def test_too_few_tangents_is_a_trend_or_refused():
    few = frontier(study(4))
    assert few.method == "hull" and not few.fit.ok and "trend" in few.message
    with pytest.raises(FitError, match="has no c"):
        runs = study(6)
        frontier(simulate.table(n=runs["n"], d=runs["d"], loss=runs["loss"], run=runs.run))


def test_the_edge_of_the_grid_is_seen():
    """Sizes too small for the data: the largest is best over most of the range."""
    runs = simulate.trajectories(
        FIELD, np.geomspace(1e3, 3e4, 10), np.geomspace(1e6, 1e10, 12), np.random.default_rng(0)
    )
    assert frontier(runs, interval="none").optimum.edge


# -- allocation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "p", "q"), [(6.0, 1.0, 1.0), (40.0, 0.8, 1.1)])
def test_allocation_is_the_minimum(k, p, q):
    result = fit(clean(8), interval="none")
    best = compute_optimal(result, Cost(k, p, q))
    for budget in (1e12, 1e15, 1e18):
        n, d = laws_slow.best_sizes(FIELD, budget, k, p, q)
        assert best.n(budget)[0] == pytest.approx(n, rel=1e-3) and best.d(budget)[
            0
        ] == pytest.approx(d, rel=1e-3)
        assert best.loss(budget)[0] == pytest.approx(
            laws_slow.predict("surface", FIELD, {"n": n, "d": d}), rel=1e-4
        )
    grid = np.array([1e12, 1e18])
    slope = np.diff(np.log(best.n(grid)))[0] / np.log(1e6)
    assert best.a.value == pytest.approx(slope, rel=1e-6)
    gamma = -np.diff(np.log(best.loss(grid) - result["E"].value))[0] / np.log(1e6)
    assert best.gamma.value == pytest.approx(gamma, rel=1e-4)


def test_a_cost_is_read_as_the_columns_option_reads_it():
    assert Cost.of("6nd") == Cost.of("c=6ND") == Cost.of(" 6 nd") == Cost.of(6) == Cost()
    assert Cost.of("72.5nd") == Cost.of(72.5) and Cost.of("72.5nd").k == 72.5
    for wrong in ("6nc", "0nd", "nd", "-6nd", ""):
        with pytest.raises(FitError, match="is not known"):
            Cost.of(wrong)


def test_cost_is_measured_from_the_table():
    runs = clean(6)
    table = simulate.table(
        n=runs["n"],
        d=runs["d"],
        loss=runs["loss"],
        run=runs.run,
        c=5 * runs["n"] ** 0.9 * runs["d"],
    )
    cost = Cost.measured(table)
    assert (cost.p, cost.q, cost.k) == (pytest.approx(0.9), pytest.approx(1.0), pytest.approx(5.0))
    assert cost.sd < 1e-9
    rows = compute_optimal(fit(table), table).table([1e12, 1e13])
    assert set(rows) == {
        "c",
        "n",
        "d",
        "loss",
        "n_low",
        "n_high",
        "d_low",
        "d_high",
        "loss_low",
        "loss_high",
    }
    assert (rows["n_low"] <= rows["n"]).all() and (rows["n"] <= rows["n_high"]).all()


def test_allocation_needs_a_usable_surface():
    with pytest.raises(FitError, match="refused"):
        compute_optimal(fit(study(2)))
    with pytest.raises(FitError, match="needs a surface"):
        compute_optimal(fit(study(6), "power_floor", x="n"))


# -- iso-FLOP ------------------------------------------------------------------------------------


def test_isoflop_minima_of_exact_curves():
    found = isoflop(clean(14))
    want = exponents(FIELD)
    inside = np.isfinite(found.n_star)
    assert inside.sum() >= 5
    for c, n in zip(found.budgets[inside], found.n_star[inside]):
        assert n == pytest.approx(
            laws_slow.best_sizes(FIELD, c, 6, 1, 1)[0], rel=0.25
        )  # a cubic's minimum, not the surface's
    assert found.a.value == pytest.approx(want["a"], abs=0.03)
    assert found.a.value + found.b.value == pytest.approx(1.0, abs=1e-6)


def test_isoflop_of_single_points_by_budget():
    """Approach 2 as it is run: one training for each size and budget, no trajectories."""
    budgets, sizes = np.geomspace(1e13, 1e16, 5), np.geomspace(0.15, 6, 7)
    n = np.concatenate([laws_slow.best_sizes(FIELD, c, 6, 1, 1)[0] * sizes for c in budgets])
    c = np.repeat(budgets, 7)
    d = c / 6 / n
    table = simulate.table(
        n=n, d=d, c=c, loss=simulate.surface_loss(FIELD, n, d), run=np.arange(35)
    )
    found = isoflop(table)
    assert len(found.budgets) == 5 and found.a.value == pytest.approx(
        exponents(FIELD)["a"], abs=0.01
    )


def test_isoflop_minima_are_local_and_lack_of_fit_is_said():
    """Far from the minimum the losses of small models are worse than the surface, as where their
    rates were not tuned: one cubic through all sizes is off, local parabolas are not."""
    rng = np.random.default_rng(0)
    budgets, sizes = np.geomspace(1e13, 1e16, 6), np.geomspace(0.02, 20, 14)
    n = np.concatenate([laws_slow.best_sizes(FIELD, c, 6, 1, 1)[0] * sizes for c in budgets])
    c = np.repeat(budgets, 14)
    d = c / 6 / n
    clean_loss = simulate.surface_loss(FIELD, n, d)
    loss = clean_loss * (1 + 1.5 * np.maximum(-np.log(np.tile(sizes, 6)) - 1.7, 0))
    for values, bent in ((clean_loss, False), (loss, True)):
        noisy = values * np.exp(rng.normal(0, 0.001, len(n)))
        found = isoflop(simulate.table(n=n, d=d, c=c, loss=noisy, run=np.arange(84)))
        assert len(found.rows()) == 6 and any("lack of fit" in note for note in found.notes) == bent
        assert found.a.value == pytest.approx(exponents(FIELD)["a"], abs=0.02)
        for row in found.rows():
            best = laws_slow.best_sizes(FIELD, row["x"], 6, 1, 1)
            assert row["n"] == pytest.approx(best[0], rel=0.2)
            assert row["n"] * row["d"] * 6 == pytest.approx(row["x"], rel=1e-6)
            assert row["misfit"] < 0.01


def test_a_budget_whose_lowest_loss_is_at_the_end_of_the_grid_has_no_minimum():
    n = np.tile(np.geomspace(1e5, 1e6, 6), 4)
    c = np.repeat(np.geomspace(1e17, 1e19, 4), 6)  # far more than these sizes want
    d = c / 6 / n
    loss = simulate.surface_loss(FIELD, n, d)
    found = isoflop(simulate.table(n=n, d=d, c=c, loss=loss, run=np.arange(24)))
    assert not np.isfinite(found.n_star).any() and found.status == "refused"
    assert "no minimum inside" in found.summary()


def test_three_ways_side_by_side():
    runs = study(10, seed=1)
    best, edge = compute_optimal(fit(runs), Cost.measured(runs)), frontier(runs)
    minima = isoflop(runs)
    assert edge.method == "tangents"
    for found in (best, edge.optimum, minima):
        assert found.a.low < exponents(FIELD)["a"] < found.a.high
    for rows in (best.rows(np.geomspace(1e12, 1e15, 3)), edge.rows(), minima.rows()):
        assert len(rows) >= 3 and all(row["n"] > 0 and row["d"] > 0 for row in rows)


def test_isoflop_curves_count_sizes_and_not_their_seeds():
    """Seeds that were trained to lengths of their own: five sizes, with the minimum inside, are
    five; a parabola needs sizes on both sides of it; three sizes are none."""
    sizes, starts = np.geomspace(1e7, 1e9, 5), (1.0, 1.02, 1.04, 1.07)
    rows = {name: [] for name in ("run", "seed", "n", "d", "loss")}
    for n, (seed, start) in product(sizes, enumerate(starts)):
        for d in start * np.geomspace(2e8, 2e12, 12):
            cells = f"{n:.0f} {seed}", seed, n, d, 400 * n**-0.34 + 400 * d**-0.28
            for cell, column in zip(cells, rows.values()):
                column.append(cell)
    rows = {name: np.array(cells) for name, cells in rows.items()} | {"c": 0}
    rows["c"] = 6 * rows["n"] * rows["d"]
    found = isoflop(rows)
    assert found.a.value == pytest.approx(0.28 / 0.62, abs=0.03)
    assert {int(line.split()[1]) for line in found.summary().splitlines()[1:-1]} <= {4, 5}
    three = rows["n"] < 2e8
    assert not len(isoflop({name: cells[three] for name, cells in rows.items()}).budgets)
