"""Laws against their formulas, and analytic derivatives against finite differences."""

import numpy as np
import pytest

from forcelaw.errors import FitError
from forcelaw.laws.forms import LAWS, make
from forcelaw.laws.forms.joint import Joint
from tests.reference import laws_slow

N = np.geomspace(1e6, 1e9, 7).repeat(5)
D = np.tile(np.geomspace(1e8, 1e11, 5), 7)
X = {
    "n": N,
    "d": D,
    "u": np.minimum(D, 3e9 * np.tile([1, 0.3, 2, 1, 0.1], 7)),
    "c": 6 * N * D,
    "h": 6 * N * D / 1e15,
}
VALUES = {
    "A": 480.0,
    "B": 2000.0,
    "F": 300.0,
    "E": 1.7,
    "alpha": 0.34,
    "beta": 0.37,
    "gamma": 0.2,
    "R_D": 12.0,
    "R_N": 4.0,
    "rho": 0.4,
    "c0": 0.1,
    "c1": 0.2,
    "d1": 1e17,
    "f1": 0.7,
    "s": 3e6,
    "p": 0.6,
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("floor", ["free", "zero", 1.2])
def test_values_are_those_of_the_formula(name, floor):
    if name == "power" and floor != "zero":
        floor = "zero"
    law = make(name, floor)
    roles = {role: X[role] for role in law.roles}
    _, centre = law.prepare(roles)
    values = {key: VALUES[key] for key in law.names}
    theta = law.internal(values, centre)
    back = {key: float(value[0]) for key, value in law.natural(theta, centre).items()}
    for key, value in values.items():
        assert back[key] == pytest.approx(value, rel=1e-12)
    with_floor = values | {"E": {"free": VALUES["E"], "zero": 0.0}.get(floor, floor)}
    np.testing.assert_allclose(
        np.exp(law.predict_log(theta, roles, centre)[0]),
        laws_slow.predict(name, with_floor, X),
        rtol=1e-11,
    )


@pytest.mark.parametrize("name", LAWS)
def test_jacobian_is_that_of_finite_differences(name):
    law = make(name)
    rng = np.random.default_rng(1)
    x, _ = law.prepare({role: X[role] for role in law.roles})
    theta = 0.1 * rng.normal(size=(3, law.size)) + 0.4
    if name == "data_constrained":
        theta[:, -2:] += [2.0, 1.0]
    if name in ("data_constrained_by_size", "data_constrained_coupled"):
        theta[:, -2] += 2.0
    y = rng.normal(size=len(N)) * 0.1
    r, jac = law.residuals(theta, x, y)
    for p in range(law.size):
        up, down = theta.copy(), theta.copy()
        up[:, p] += 1e-6
        down[:, p] -= 1e-6
        slope = (law.residuals(up, x, y, False)[0] - law.residuals(down, x, y, False)[0]) / 2e-6
        np.testing.assert_allclose(jac[:, p], slope, atol=2e-8, err_msg=law.names[p])
    np.testing.assert_array_equal(law.residuals(theta, x, y, False)[0], r)


def test_joint_law_is_its_parts():
    law = make("surface")
    x, _ = law.prepare({"n": N, "d": D})
    joint = Joint(law, [20, 15], ("alpha",))
    halves = [
        {role: value[part] for role, value in x.items()} for part in (slice(0, 20), slice(20, 35))
    ]
    rng = np.random.default_rng(0)
    theta = 0.3 + 0.1 * rng.normal(size=(2, joint.size))
    y = np.zeros(35)
    r, jac = joint.residuals(theta, {"group0": halves[0], "group1": halves[1]}, y)
    first = law.residuals(theta[:, joint.index[0]], halves[0], np.zeros(1))[0]
    np.testing.assert_allclose(r[:, :20], first)
    shared = int(joint.index[0][law.names.index("alpha")])
    assert shared == joint.index[1][law.names.index("alpha")] and joint.size == 9
    up = theta.copy()
    up[:, shared] += 1e-6
    slope = (
        joint.residuals(up, {"group0": halves[0], "group1": halves[1]}, y, False)[0] - r
    ) / 1e-6
    np.testing.assert_allclose(jac[:, shared], slope, atol=1e-5)


def test_unknown_names_are_errors():
    for call in (
        lambda: make("cubic"),
        lambda: make("surface", "none"),
        lambda: make("surface", -1.0),
        lambda: make("surface", None, colour=1),
        lambda: make(make("surface"), tie="alpha=beta"),
    ):
        with pytest.raises(FitError):
            call()


def test_floor_values_and_dashes():
    assert make("power-floor", 0.0).floor == "zero"
    assert make("Surface", 1.5).names == ("A", "B", "alpha", "beta")
    assert make("surface").names == ("A", "B", "E", "alpha", "beta")
