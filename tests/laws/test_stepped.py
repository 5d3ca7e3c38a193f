"""Laws with steps where a factor changes along N."""

import numpy as np
import polars as pl
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.fit.averaging import average
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.forms import make
from forcelaw.laws.forms.stepped import Stepped, with_steps
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, columns, study


def with_depth(runs, step=0.0, at=1e5):
    """The same table as a user would have it, with more layers from ``at`` parameters on, and the
    loss changed by ``step`` there."""
    table = columns(runs)
    deep = runs["n"] >= at
    table["val_loss"] = runs["loss"] * np.exp(step * deep)
    return Runs.from_frame(pl.DataFrame(table | {"n_layers": np.where(deep, 3, 2)}))


def test_a_step_is_recovered_and_the_exponent_is_free_of_it():
    runs = with_depth(study(10, sd_run=0.0, sd_within=0.0), step=-0.07)
    free, blind = fit(runs, factor="depth", interval="none"), fit(runs, interval="none")
    assert free["step of depth to 3"].value == pytest.approx(-0.07, abs=1e-6)
    for name in ("alpha", "beta", "A", "E"):
        assert free[name].value == pytest.approx(FIELD[name], rel=1e-4)
    assert abs(blind["alpha"].value - FIELD["alpha"]) > 0.01
    # without a value of the factor a prediction is made beyond the steps
    law = FIELD["E"] + FIELD["A"] * 1e7 ** -FIELD["alpha"] + FIELD["B"] * 1e9 ** -FIELD["beta"]
    assert free.predict(n=1e7, d=1e9) == pytest.approx(law * np.exp(-0.07), rel=1e-4)


@pytest.mark.parametrize("name", ["surface", "coupled"])
def test_the_jacobian_is_that_of_finite_differences(name):
    runs, steps = with_steps(with_depth(study(6)), "depth")
    law = Stepped(make(name), steps)
    x, centre = law.prepare({role: runs[role] for role in law.roles})
    theta = law.internal(
        FIELD | {"p": 0.7, **dict.fromkeys(steps, 0.1)},
        centre,
    )
    y = np.log(runs["loss"])
    jac = law.jacobian(theta, x, y)
    for k in range(law.size):
        move = np.zeros(law.size)
        move[k] = 1e-6 * max(abs(theta[k]), 0.1)
        ends = law.residuals(np.stack([theta + move, theta - move]), x, y, jacobian=False)[0]
        assert jac[k] == pytest.approx((ends[0] - ends[1]) / (2 * move[k]), abs=1e-6)
    back = law.natural(theta, centre)
    assert back["A"][0] == pytest.approx(FIELD["A"]) and back[steps[0]][0] == pytest.approx(0.1)


def test_forms_that_compete_step_where_the_depth_does():
    runs = with_depth(study(8, seeds=2), step=-0.07)
    found, without = average(runs), average(runs, factor="none")
    assert found.factor == "depth" and without.factor == ""
    assert found.message == "" == without.message
    assert "--factor" in average(study(8, seeds=2)).message  # where nothing is said of depth
    assert found["alpha"].low < FIELD["alpha"] < found["alpha"].high
    off, blind = (abs(one["alpha"].value - FIELD["alpha"]) for one in (found, without))
    assert off < 0.02 < blind
    assert np.isfinite(found.predict(n=1e6, d=1e9))


def test_a_factor_that_does_not_follow_n_makes_no_step():
    runs = with_depth(study(6))
    mixed = runs.frame.with_columns(n_layers=pl.Series(np.arange(len(runs)) % 2 + 2))
    assert with_steps(Runs.from_frame(mixed), "depth")[1] == ()
    assert average(Runs.from_frame(mixed)).factor == ""
    for table, law in ((mixed, "surface"), (mixed, "auto"), (runs, "surface")):
        with pytest.raises(FitError):
            fit(table, law, factor="depth" if table is mixed else "width")


def test_a_depth_that_changes_at_every_size_is_a_part_of_the_size():
    runs = with_depth(study(6))
    depth = np.unique(runs["n"], return_inverse=True)[1].ravel() + 2
    table = Runs.from_frame(runs.frame.with_columns(n_layers=pl.Series(depth)))
    assert len(with_steps(table, "depth")[1]) == 5 and average(table).factor == ""
