"""Comparisons: pairing, tests of the right size, Holm, permutations, multipliers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.compare.compare import Difference, PairComparison, compare, holm
from forcelaw.laws.compare.multiplier import multiplier
from forcelaw.laws.compare.pairing import pair
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from tests.laws.studies import FIELD, clean, exponents, join, study
from tests.reference import laws_slow


def two(seed=0, groups=10, shared=0.0, difference=0.0, kappa=6.0):
    """Two architectures; ``shared`` of the variance between runs is common to the runs of a
    pair."""
    rng = np.random.default_rng(seed)
    sizes, data = np.geomspace(1e4, 3e6, groups), np.geomspace(1e6, 1e9, 10)
    other = FIELD | {
        "alpha": 0.35 + difference,
        "A": 8.0 * np.exp(difference * np.log(1.7e5)),
        "B": 100.0,
    }
    common = rng.normal(size=groups) * 0.02 * np.sqrt(shared)
    parts = []
    for truth, k in ((FIELD, 2.0), (other, kappa)):
        made = simulate.trajectories(
            truth, sizes, data, rng, kappa=k, sd_run=0.02 * np.sqrt(1 - shared)
        )
        parts.append(
            replace(made, values=made.values | {"loss": made["loss"] * np.exp(common[made.run])})
        )
    return join(*parts)


def test_runs_are_paired_by_size_seed_and_data():
    a, b = (part for part in two().groups().values())
    pairing, _ = pair(a, b)
    assert pairing.first.tolist() == list(range(10)) == pairing.second.tolist()
    moved = replace(
        b, values=b.values | {"n": b["n"] * 1.1}
    )  # a size dial does not hit targets exactly
    assert pair(a, moved)[0] is not None
    for change in ({"n": b["n"] * 2}, {"d": b["d"] * 1.5}):
        assert pair(a, replace(b, values=b.values | change))[0] is None
    assert pair(a, replace(b, seed=np.full(len(b), "7")))[0] is None
    assert pair(a, b.take(b.run < 9))[0] is None
    with pytest.raises(FitError, match="not paired"):
        compare(join(a, b.take(b.run < 9)), paired=True, x=None, windows="own")
    # in the window that both cover every run has its partner
    matched = compare(join(a, b.take(b.run < 9)), paired=True, x=None).pairs[0]
    assert matched.n_pairs == 9 and matched.window["n"][1] == pytest.approx(b["n"][b.run < 9].max())


def test_what_is_compared_is_fitted_on_the_ranges_that_both_cover():
    """The oracle is the table with the other rows taken out by hand. The second column begins at
    smaller and goes on to larger N and D, where it follows another law."""
    runs = two(3)
    a, b = runs.groups().values()

    def in_common(part):
        n, d = part["n"], part["d"]
        return (n >= 1.5e4) & (n <= 1e6) & (d >= 1.5e6) & (d <= 1e8)

    bent = np.where(in_common(b), 1.0, 1.3 * (b["d"] / 1e6) ** 0.1)
    b = replace(b, values=b.values | {"loss": b["loss"] * bent})
    a = a.take(in_common(a))
    settings = {"x": None, "joint": False, "permutations": 0}
    matched, own = (compare(join(a, b), windows=w, **settings) for w in ("matched", "own"))
    by_hand = compare(join(a, b.take(in_common(b))), windows="own", **settings)
    for name in ("alpha", "beta"):
        found, wanted = (one.pairs[0].tests[name] for one in (matched, by_hand))
        assert found.difference == pytest.approx(wanted.difference, rel=1e-6)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-5)
    assert abs(own.pairs[0].tests["beta"].difference - found.difference) > 0.02
    assert own.pairs[0].window == {} and set(matched.pairs[0].window) == {"n", "d"}
    # the fits of each architecture are those of all its rows
    assert matched.fits["B"]["beta"].value == own.fits["B"]["beta"].value
    with pytest.raises(FitError):
        compare(join(a, b), windows="common")


def test_a_pair_without_a_common_range_is_named_and_not_tested():
    a, b = two(1).groups().values()
    apart = replace(b, values=b.values | {"n": b["n"] * 1e4, "d": b["d"] * 0.9})
    found = compare(join(a, apart), x=None)
    assert not found.pairs and len(found.fits) == 2 and len(found.notes) >= 1


def test_unpaired_test_is_welch_of_jackknives():
    runs = two(1)
    found = compare(runs, paired=False, x=None).pairs[0].tests["beta"]
    left, right = (fit(part, interval="jackknife") for part in runs.groups().values())
    se = np.hypot(left["beta"].se, right["beta"].se)
    assert found.difference == pytest.approx(right["beta"].value - left["beta"].value)
    assert found.se == pytest.approx(se, rel=1e-6) and 4 < found.df <= 18
    reach = (found.high - found.difference) / found.se
    assert found.low == pytest.approx(found.difference - reach * se)
    assert reach == pytest.approx(
        stats.t.ppf(0.975, found.df), rel=0.1
    )  # the distribution itself: test_small_sample.py
    assert (found.p < 0.05) == (abs(found.t) > reach)
    assert found.p_sign == pytest.approx(1 - found.p / 2 if found.difference > 0 else found.p / 2)


def test_pairing_cancels_what_is_shared():
    widths = {paired: [] for paired in (True, False)}
    for seed in range(5):
        runs = two(seed, shared=0.9)
        for paired in widths:
            test = compare(runs, paired=paired, x=None, joint=False).pairs[0].tests["alpha"]
            widths[paired].append(test.se)
    assert np.mean(widths[True]) < 0.5 * np.mean(widths[False])


@pytest.mark.parametrize("paired", [True, False])
def test_equal_exponents_are_rarely_called_different(paired):
    """40 true nulls at 5%: more than 6 rejections happen once in a hundred times.
    benchmarks/law_coverage.py measures it."""
    rejected = {"alpha": 0, "gamma": 0}
    for seed in range(40):
        tests = (
            compare(two(seed, groups=8, shared=0.7 * paired), paired=paired, x=None, joint=False)
            .pairs[0]
            .tests
        )
        for name in rejected:
            rejected[name] += tests[name].p < 0.05
    assert max(rejected.values()) <= 6


def test_a_real_difference_is_found():
    found = 0
    for seed in range(8):
        test = (
            compare(two(seed, groups=12, shared=0.7, difference=0.15), x=None, joint=False)
            .pairs[0]
            .tests["alpha"]
        )
        found += test.p < 0.05 and test.difference > 0
    assert found >= 7


def test_holm_is_the_textbook_step_down():
    p = [0.04, 0.01, 0.03, 0.20]
    pairs = [
        PairComparison(
            "a", "b", False, 0, {"alpha": Difference("alpha", 0, 1, 0, 0, 9, 0, value, 0.5)}
        )
        for value in p
    ]
    holm(pairs)
    assert [one.tests["alpha"].p_holm for one in pairs] == pytest.approx([0.09, 0.04, 0.09, 0.20])


def test_shared_exponents_and_permutations():
    same = compare(two(3, shared=0.5), permutations=199, x=None).pairs[0]
    assert same.objective_separate <= same.objective_shared
    assert same.shared["alpha"].low < 0.35 < same.shared["alpha"].high
    assert same.shared["beta"].value == pytest.approx(0.40, abs=0.02)
    assert same.tests["alpha"].p_permutation > 0.05
    differ = compare(two(3, shared=0.9, difference=0.2), permutations=199, x=None).pairs[0]
    assert differ.tests["alpha"].p_permutation <= 0.02
    assert differ.objective_shared > 1.2 * differ.objective_separate
    unpaired = compare(two(3), permutations=19, paired=False, x=None).pairs[0]
    assert unpaired.tests["alpha"].p_permutation is None and any(
        "permutation" in note for note in unpaired.notes
    )


def test_permutations_keep_their_size_where_prefactors_differ():
    """40 true nulls at 5%, prefactors 10 to 20% apart: more than 6 rejections happen once in a
    hundred times."""
    rejected = {"alpha": 0, "beta": 0}
    for seed in range(40):
        tests = (
            compare(two(seed, groups=9, shared=0.5), permutations=99, x=None, joint=False)
            .pairs[0]
            .tests
        )
        for name in rejected:
            rejected[name] += tests[name].p_permutation <= 0.05
    assert max(rejected.values()) <= 6


def frontier_constant(truth, k):
    gamma = exponents(truth)["gamma"]
    n, d = laws_slow.best_sizes(truth, 1e14, k, 1, 1)
    return (laws_slow.predict("surface", truth, {"n": n, "d": d}) - truth["E"]) * 1e14**gamma, gamma


def test_multiplier_and_crossing_of_exact_frontiers():
    other = FIELD | {"A": 30.0, "alpha": 0.45, "B": 100.0}
    sizes, data = np.geomspace(1e4, 3e6, 12), np.geomspace(1e6, 1e9, 12)
    quiet = {"sd_run": 0.0, "sd_within": 0.0}
    a = simulate.trajectories(FIELD, sizes, data, np.random.default_rng(0), **quiet)
    b = simulate.trajectories(other, sizes, data, np.random.default_rng(0), kappa=6.0, **quiet)
    found = multiplier(a, b)
    (fa, ga), (fb, gb) = frontier_constant(FIELD, 6.0), frontier_constant(other, 18.0)
    for loss, value in zip(found.loss, found.multiplier):
        exact = ((fb / (loss - 0.02)) ** (1 / gb)) / ((fa / (loss - 0.02)) ** (1 / ga))
        assert value == pytest.approx(exact, rel=0.05)
    for c, ratio in zip(found.x, found.ratio):
        assert ratio == pytest.approx((0.02 + fb * c**-gb) / (0.02 + fa * c**-ga), rel=0.01)
    meet = (fb / fa) ** (1 / (gb - ga))
    if found.x[0] < meet < found.x[-1]:
        assert found.crossing == pytest.approx(meet, rel=0.3)
    else:
        assert found.crossing is None


def test_equal_architectures_need_equal_compute():
    held = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sizes, data = np.geomspace(1e4, 3e6, 10), np.geomspace(1e6, 1e9, 10)
        a, b = (simulate.trajectories(FIELD, sizes, data, rng) for _ in range(2))
        found = multiplier(a, b)
        middle = len(found.loss) // 2
        held += found.multiplier_low[middle] <= 1 <= found.multiplier_high[middle]
        assert (found.multiplier_low < found.multiplier).all() and (
            found.multiplier < found.multiplier_high
        ).all()
    assert held >= 6


def test_what_cannot_be_compared():
    with pytest.raises(FitError, match="one architecture only"):
        compare(study(6))
    with pytest.raises(FitError, match="no row is left"):
        compare(study(6).take(np.zeros(len(study(6)), bool)))
    runs = join(study(8), study(2, seed=1))
    found = compare(runs, x=None)
    assert (
        found.status == "refused"
        and not found.pairs
        and any("B" in note and "refused" in note for note in found.notes)
    )
    with pytest.raises(FitError, match="no quantity"):
        compare(two(), quantities_tested=("delta",), x=None)
    apart = join(
        clean(8),
        replace(
            clean(8),
            values=clean(8).values | {"c": clean(8)["c"] * 1e9, "loss": clean(8)["loss"] * 1e-3},
        ),
    )
    assert any("no compute multiplier" in note for note in compare(apart).pairs[0].notes)
