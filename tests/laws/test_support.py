"""Differences of exponents held against the ratios of losses."""

from pathlib import Path

import numpy as np
import pytest

from forcelaw.laws.compare import compare as module
from forcelaw.laws.compare.compare import Difference, compare
from forcelaw.laws.compare.ratios import CONSTANT
from forcelaw.laws.compare.slopes import Slope
from forcelaw.laws.compare.support import (
    NOT_SEEN,
    NOT_SUPPORTED,
    REDUCIBLE,
    SUPPORTED,
    support,
)
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, join, scaled, study

LADDER = Path(__file__).parents[2] / "results" / "symmetry_ladder" / "runs.parquet"
QUICK = {"x": None, "joint": False, "permutations": 0}


@pytest.fixture(scope="module")
def ladder():
    if not LADDER.exists():
        pytest.skip("the committed ladder is not there")
    runs = Runs.from_frame(LADDER, where="kind != 'sweep'").select(burn_in_steps=400)
    return compare(runs, architectures=["MPNN", "PaiNN", "eSEN L2"], **QUICK)


def test_the_ladders_difference_in_beta_is_not_supported(ladder):
    """PaiNN's beta is .12 above the MPNN's in the fitted surfaces, and the ratio of their losses is
    a constant."""
    pair = next(one for one in ladder.pairs if (one.first, one.second) == ("MPNN", "PaiNN"))
    beta = pair.tests["beta"]
    assert beta.p < 0.001 and beta.difference == pytest.approx(0.123, abs=0.002)
    assert beta.verdict == NOT_SUPPORTED and not beta.sure
    assert beta.ratio_slope == pytest.approx(0.012, abs=0.003)
    found = next(one for one in ladder.ratios if one.second == "PaiNN")
    assert found.verdict == CONSTANT and found.factor == pytest.approx(0.48, abs=0.01)
    assert NOT_SUPPORTED in "\n".join(pair.lines())


def test_a_difference_that_the_ratios_show_is_supported(ladder):
    pair = next(one for one in ladder.pairs if (one.first, one.second) == ("MPNN", "eSEN L2"))
    assert pair.tests["beta"].verdict == SUPPORTED and pair.tests["beta"].sure


def test_ratios_come_first(ladder):
    text = ladder.summary()
    assert text.index("ratio of losses") < text.index("alpha")
    content = ladder.as_json()
    assert {one["second"] for one in content["ratios"]} == {"PaiNN", "eSEN L2"}
    assert np.allclose(content["ratios"][0]["sizes"][0]["ratio"], ladder.ratios[0].sizes[0].ratio)


def test_many_pairs_are_a_line_each():
    runs = study(6)
    both = join(runs, scaled(runs, 0.9))
    found = compare(both, **QUICK)
    lines = module.brief(found.ratios * 4)
    assert len(lines) == 2 + 4 and all(CONSTANT in line for line in lines[2:])


@pytest.mark.parametrize(
    ("difference", "p", "slope", "slope_p", "expected"),
    [
        (0.1, 0.01, 0.05, 0.01, SUPPORTED),
        (0.1, 0.01, 0.05, 0.2, NOT_SUPPORTED),
        (0.1, 0.01, -0.05, 0.001, NOT_SUPPORTED),
        (-0.1, 0.01, -0.05, 0.001, SUPPORTED),
        (0.1, 0.2, 0.05, 0.001, NOT_SEEN),
        (0.1, 0.01, 0.05, None, ""),
    ],
)
def test_verdicts(difference, p, slope, slope_p, expected):
    test = Difference("beta", difference, 0.02, 0.0, 0.2, 9, 3.0, p, 0.9, p_holm=p)

    class Found:
        def slope(self, variable):
            assert variable == "d"
            return Slope("d", slope, p=slope_p)

    support(test, Found())
    assert test.verdict == expected
    assert test.sure == (p < 0.05 and expected == SUPPORTED)


def test_a_quantity_without_a_slope_has_no_verdict():
    test = Difference("E", 0.1, 0.02, 0.0, 0.2, 9, 3.0, 0.001, 0.9)
    support(test, None)
    assert test.verdict == "" and test.ratio_slope is None


FIRST = {"E": 0.02, "A": 3.0, "B": 20.0, "alpha": 0.3, "beta": 0.28}
SECOND = {"E": 0.06, "A": 3.0, "B": 40.0, "alpha": 0.3, "beta": 0.33}


def slope_in_d(runs, floors):
    """Mean over sizes of the slope of ln(A / B) in ln D, by the true surfaces."""

    def loss(truth, n, d):
        reducible = truth["A"] / n ** truth["alpha"] + truth["B"] / d ** truth["beta"]
        return reducible + floors * truth["E"]

    out = []
    for n in np.unique(runs["n"]):
        d = np.unique(runs["d"][runs["n"] == n])
        ratio = np.log(loss(FIRST, n, d) / loss(SECOND, n, d))
        out.append(np.polyfit(np.log(d), ratio, 1)[0])
    return float(np.mean(out))


def test_a_floor_can_turn_the_ratio_against_the_exponents():
    """The second has the larger beta and the larger floor: its loss falls more slowly, and faster
    above the floor. Both are said, and no more is claimed."""
    noise = {"sd_run": 0.002, "sd_within": 0.001}
    both = join(study(6, 1, FIRST, **noise), study(6, 2, SECOND, **noise))
    found = compare(both, **QUICK)
    beta = found.pairs[0].tests["beta"]
    assert beta.p < 0.001 and beta.difference == pytest.approx(0.05, abs=0.01)
    with_floors, without = slope_in_d(both, 1), slope_in_d(both, 0)
    assert with_floors < -0.005 and without > 0.01
    assert beta.ratio_slope == pytest.approx(with_floors, abs=0.002)
    assert beta.ratio_of_laws == pytest.approx(with_floors, abs=0.002)
    assert beta.ratio_without_floors == pytest.approx(without, abs=0.006)
    assert beta.verdict == REDUCIBLE and not beta.sure
    assert f"{REDUCIBLE}: the ratios show {beta.ratio_slope:+.3f}" in found.summary()


def test_equal_floors_hide_nothing():
    second = SECOND | {"E": FIRST["E"]}
    noise = {"sd_run": 0.002, "sd_within": 0.001}
    both = join(study(6, 1, FIRST, **noise), study(6, 2, second, **noise))
    assert compare(both, **QUICK).pairs[0].tests["beta"].verdict == SUPPORTED


@pytest.mark.parametrize(
    ("laws", "without", "expected"),
    [
        (-0.03, 0.04, REDUCIBLE),
        (0.02, 0.04, NOT_SUPPORTED),  # the laws do not have what is observed
        (-0.03, -0.02, NOT_SUPPORTED),  # nor would they show it without floors
        (-0.03, 0.005, NOT_SUPPORTED),  # inside the interval of the ratios: these cannot tell
        (None, None, NOT_SUPPORTED),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_floors_are_asked_only_where_the_laws_have_the_observed_slope(
    laws, without, expected, sign
):
    test = Difference("beta", 0.05 * sign, 0.01, 0.03, 0.07, 9, 5.0, 0.001, 0.99, p_holm=0.001)

    class Found:
        def slope(self, variable):
            ends = sorted((-0.06 * sign, 0.01 * sign))
            return Slope("d", -0.025 * sign, low=ends[0], high=ends[1], p=0.1)

    def predicted(variable, floors):
        value = laws if floors else without
        return None if value is None else value * sign

    support(test, Found(), predicted)
    assert test.verdict == expected and not test.sure


def test_one_floor_at_zero_is_a_caution():
    """Neither has a floor and their alphas are the same; the fits differ in both by chance."""
    flat = FIELD | {"E": 0.0}
    both = join(study(6, 14, flat), scaled(study(6, 1014, flat), 0.8))
    (pair,) = compare(both, **QUICK).pairs
    assert pair.tests["alpha"].p < 0.05 and module.ONE_FLOOR in pair.notes
    both = join(study(6, 1, flat), scaled(study(6, 1001, flat), 0.8))  # one at zero, alike in alpha
    (pair,) = compare(both, **QUICK).pairs
    assert pair.tests["alpha"].p > 0.05 and module.ONE_FLOOR not in pair.notes
    (pair,) = compare(join(study(6, 1, FIRST), study(6, 2, SECOND)), **QUICK).pairs
    assert module.ONE_FLOOR not in pair.notes
