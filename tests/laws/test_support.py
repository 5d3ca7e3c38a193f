"""Differences of exponents held against the ratios of losses."""

from pathlib import Path

import numpy as np
import pytest

from forcelaw.laws.compare import compare as module
from forcelaw.laws.compare.compare import NOT_SEEN, NOT_SUPPORTED, SUPPORTED, Difference, compare
from forcelaw.laws.compare.ratios import CONSTANT
from forcelaw.laws.compare.slopes import Slope
from forcelaw.table.runs import Runs
from tests.laws.studies import join, scaled, study

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

    module._support(test, Found())
    assert test.verdict == expected
    assert test.sure == (p < 0.05 and expected == SUPPORTED)


def test_a_quantity_without_a_slope_has_no_verdict():
    test = Difference("E", 0.1, 0.02, 0.0, 0.2, 9, 3.0, 0.001, 0.9)
    module._support(test, None)
    assert test.verdict == "" and test.ratio_slope is None
