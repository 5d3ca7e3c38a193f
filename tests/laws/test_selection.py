"""Runs chosen from a pool: within the budget, without a look at the losses of others, and better
than chance for the target."""

from dataclasses import replace

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.selection import select_runs
from forcelaw.laws.fit.fit import fit
from tests.laws.studies import FIELD

N, D = (
    grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 3e6, 12), np.geomspace(1e6, 1e9, 12))
)
AT = {"n": np.array([1e7, 3e7]), "d": np.array([3e9, 1e10])}
TARGET = simulate.table(**AT, loss=np.full(2, 99.0), run=np.arange(2))


def pool(seed):
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.01, len(N)))
    loss = simulate.surface_loss(FIELD, N, D) * noise
    return simulate.table(n=N, d=D, c=6 * N * D, loss=loss, run=np.arange(len(N)))


def test_what_is_chosen_forecasts_the_target_better_than_chance_or_the_cheapest_runs():
    truth = np.log(simulate.surface_loss(FIELD, AT["n"], AT["d"]))
    errors = {"chosen": [], "chance": [], "cheapest": []}
    for seed in range(10):
        runs = pool(seed)
        cost, budget = runs["c"], 0.1 * runs["c"].sum()
        rows = select_runs(runs, TARGET, budget, "surface", seed)
        assert len(set(rows.tolist())) == len(rows) and cost[rows].sum() <= budget
        chance, left = [], budget
        for i in np.random.default_rng(seed).permutation(len(N)):
            if cost[i] <= left and len(chance) < len(rows):
                chance.append(i)
                left -= cost[i]
        cheapest = np.argsort(cost)[: len(rows)]
        for name, some in (("chosen", rows), ("chance", chance), ("cheapest", cheapest)):
            found = fit(runs.take(np.array(some)), "surface", interval="none")
            errors[name].append(np.abs(np.log(found.predict(**AT)) - truth).mean())
    mean = {name: np.mean(many) for name, many in errors.items()}
    assert mean["chosen"] < 0.8 * mean["chance"] and mean["chosen"] < 0.5 * mean["cheapest"]


def test_losses_of_runs_that_are_not_chosen_are_not_looked_at():
    runs = pool(0)
    rows = select_runs(runs, TARGET, 0.05 * runs["c"].sum(), "surface")
    others = np.setdiff1d(np.arange(len(N)), rows)
    spoilt = runs["loss"].copy()
    spoilt[others] = 7.0
    again = replace(runs, values=runs.values | {"loss": spoilt})
    assert (select_runs(again, TARGET, 0.05 * runs["c"].sum(), "surface") == rows).all()


def test_a_budget_that_does_not_carry_the_first_runs_is_refused():
    with pytest.raises(FitError, match="budget"):
        select_runs(pool(0), TARGET, 1e12)
