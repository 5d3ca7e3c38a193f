"""Comparisons without a law."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forcelaw.errors import FitError
from forcelaw.laws.compare.ratios import CONSTANT, NOT_CONSTANT, TOO_FEW, all_ratios, ratios
from forcelaw.laws.compare.slopes import estimate
from forcelaw.laws.decide import simulate
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, join, scaled

LADDER = Path(__file__).parents[2] / "results" / "symmetry_ladder" / "runs.parquet"
SIZES = np.geomspace(5e3, 1e6, 6)
DATA = np.geomspace(2e5, 1.6e7, 16)


def power(alpha, beta, factor=1.0, sizes=SIZES, data=DATA, kappa=2.0):
    """One architecture whose loss is a product of powers: straight in every direction."""
    n, d = (grid.ravel() for grid in np.meshgrid(sizes, data, indexing="ij"))
    run = np.repeat(np.arange(len(sizes)), len(data))
    return simulate.table(
        n=n,
        d=d,
        loss=factor * 50 * n**-alpha * d**-beta,
        run=run,
        c=3 * kappa * n * d,
        seed=np.zeros(len(run), int),
    )


def noisy(seed, factor=0.5, steeper=0.0, sizes=SIZES, seeds=1):
    """Two architectures on one surface but for a factor and an extra slope in D."""
    rng = np.random.default_rng(seed)
    both = [
        simulate.trajectories(FIELD, sizes, DATA, rng, seeds=seeds, sd_run=0.02) for _ in range(2)
    ]
    return join(both[0], scaled(both[1], factor * (both[1]["d"] / 1e6) ** -steeper))


def test_slopes_of_powers_are_exact_at_other_sizes_and_other_evaluations():
    """N differs by up to 30% within a pair, and the second is evaluated elsewhere."""
    one = power(0.2, 0.3)
    two = power(0.25, 0.4, 0.5, SIZES * np.array([1.3, 0.9, 1.2, 0.8, 1.1, 0.75]), DATA * 1.13)
    found = ratios(join(one, two), "A", "B")
    assert found.slopes["d"].value == pytest.approx(0.1, abs=1e-9)
    assert found.slopes["n"].value == pytest.approx(0.05, abs=1e-9)
    assert found.slopes["d_by_n"].value == pytest.approx(0, abs=1e-9)
    assert found.verdict == NOT_CONSTANT
    for size in found.sizes:
        np.testing.assert_allclose(size.ratio, 0.5 * size.n**-0.05 * size.d**-0.1, rtol=1e-9)


def test_a_factor_is_a_factor():
    one = power(0.2, 0.3)
    found = ratios(join(one, scaled(one, 0.48)), "A", "B")
    assert found.verdict == CONSTANT and found.p == 1.0
    assert found.factor == pytest.approx(0.48)
    for size in found.sizes:
        np.testing.assert_allclose(size.ratio, 0.48, rtol=1e-12)
    np.testing.assert_allclose(found.costs["c"].ratio, 0.48, rtol=1e-12)
    assert found.costs["c"].slope.value == pytest.approx(0, abs=1e-12)


def test_nothing_is_extrapolated():
    """The second ends at a fifth of the data and begins later: the map stays inside."""
    data = np.geomspace(4e5, 3.2e6, 9)
    found = ratios(join(power(0.2, 0.3), power(0.2, 0.3, 0.5, data=data)), "A", "B")
    assert found.window["d"] == pytest.approx((4e5, 3.2e6))
    for row in found.rows():
        assert 4e5 * 0.99 <= row["d"] <= 3.2e6 * 1.01
    assert found.costs["c"].at[-1] <= 12 * SIZES[-1] * 3.2e6


@pytest.mark.parametrize("apart", [0.0, 1e-4, 3e-3])
def test_runs_that_end_at_one_d_are_compared_there(apart):
    """A table of final losses, the D of its runs a few per mille apart."""
    rng = np.random.default_rng(0)
    rows = []
    for arch, factor, slope in (("A", 1.0, 0.3), ("B", 0.5, 0.35)):
        for n in SIZES:
            d = 1e7 * (1 + apart * rng.uniform(-1, 1))
            rows.append((f"{arch}{n:.0f}", arch, n, d, factor * (n / 1e4) ** -slope))
    names = ("run", "architecture", "n", "d", "loss")
    found = ratios(dict(zip(names, map(list, zip(*rows)))), "A", "B")
    assert found.window["d"] == pytest.approx((1e7, 1e7), rel=2 * apart + 1e-9)
    assert set(found.slopes) == {"n"} and found.slopes["n"].value == pytest.approx(0.05)
    assert found.verdict == NOT_CONSTANT and all(size.slope is None for size in found.sizes)
    np.testing.assert_allclose([s.level for s in found.sizes], 0.5 * (SIZES / 1e4) ** -0.05)
    np.testing.assert_allclose(found.grid()[1].ravel(), [s.level for s in found.sizes])
    assert found.summary()


def test_runs_that_end_at_other_d_by_size_share_none():
    one = power(0.2, 0.3, data=np.array([1e6]))
    one = scaled(one, 1.0)
    one.values["d"] = one["n"] * 20.0
    with pytest.raises(FitError):
        ratios(join(one, scaled(one, 0.5)), "A", "B")


def test_evaluations_close_to_one_another_remain_a_curve():
    """Every evaluation less than 2% after the one before."""
    one = power(0.2, 0.3, data=np.geomspace(1e5, 1e7, 400))
    found = ratios(join(one, power(0.2, 0.35, data=np.geomspace(1e5, 1e7, 300))), "A", "B")
    assert found.slopes["d"].value == pytest.approx(0.05, abs=1e-4)
    assert all(len(size.d) > 100 for size in found.sizes)


def test_windows_are_kept():
    runs = join(power(0.2, 0.3), power(0.2, 0.4))
    found = ratios(runs, "A", "B", d_window=(1e6, 5e6), n_window=(1e4, 4e5))
    assert [size.n_first for size in found.sizes] == pytest.approx(SIZES[1:5])
    assert all((size.d >= 0.98e6).all() and (size.d <= 5.1e6).all() for size in found.sizes)


def test_at_equal_cost_a_dearer_architecture_is_read_further_left():
    """Same losses at twice the FLOPs: L(C/2) over L(C) on a power frontier."""
    sizes = np.geomspace(1e3, 1e7, 40)
    one, two = power(0.2, 0.3, sizes=sizes), power(0.2, 0.3, sizes=sizes, kappa=4.0)
    cost = ratios(join(one, two), "A", "B").costs["c"]
    dense = np.geomspace(1e2, 1e9, 20001)

    def lowest(c, k):
        d = c / (3 * k * dense)
        seen = (d >= DATA[0]) & (d <= DATA[-1]) & (dense >= sizes[0]) & (dense <= sizes[-1])
        return (50 * dense**-0.2 * np.maximum(d, 1.0) ** -0.3)[seen].min()

    expected = [lowest(c, 4.0) / lowest(c, 2.0) for c in cost.at]
    np.testing.assert_allclose(cost.ratio, expected, rtol=0.04)
    assert np.mean(cost.ratio) > 1.15


@pytest.mark.filterwarnings("error")
def test_where_each_cost_has_one_size_nothing_is_compared_at_equal_cost():
    """Sizes five times apart, D by 1.6: found in a small study of W-Be, as a warning of NumPy."""
    few = dict(sizes=[7e3, 3.5e4, 1.8e5], data=np.array([7.4e4, 9e4, 1.2e5]))
    assert not ratios(join(power(0.2, 0.3, **few), power(0.2, 0.3, 0.5, **few)), "A", "B").costs
    few["data"] = np.geomspace(2e4, 6e5, 9)
    assert ratios(join(power(0.2, 0.3, **few), power(0.2, 0.3, 0.5, **few)), "A", "B").costs


def test_a_seed_that_ends_early_does_not_tilt_a_size():
    """Seeds are off by their own constants; only seed 0 is trained on to the end."""
    one = power(0.2, 0.3)
    parts = []
    for seed, (offset, end) in enumerate([(0.0, 1.6e7), (0.2, 2e6), (-0.1, 3e6)]):
        part = scaled(one, np.exp(offset) * 0.5)
        part = part.take(part["d"] <= end)
        parts.append((part, seed))
    rows = {
        key: np.concatenate([one[key], *(part[key] for part, _ in parts)])
        for key in ("n", "d", "loss", "c")
    }
    first = [np.zeros(len(one), int)]
    seeds = np.concatenate([*first, *(np.full(len(part), s) for part, s in parts)])
    rows |= {
        "seed": seeds,
        "architecture": np.repeat(["A", "B"], [len(one), len(seeds) - len(one)]),
    }
    rows["run"] = [f"{a}{n:.0f}{s}" for a, n, s in zip(rows["architecture"], rows["n"], seeds)]
    found = ratios(Runs.from_frame(rows), "A", "B")
    assert all(size.seeds == ["0"] for size in found.sizes)  # only it has a partner
    twice = {key: np.concatenate([value, value]) for key, value in rows.items()}
    twice["architecture"] = np.repeat(["A", "B"], len(seeds))
    twice["loss"][len(seeds) :] *= np.where(seeds == 1, 0.6, 0.5)
    twice["seed"] = np.tile(seeds, 2)
    keep = np.concatenate([np.arange(len(one)), np.arange(len(one), len(seeds))])
    twice = {k: v[np.concatenate([keep, keep + len(seeds)])] for k, v in twice.items()}
    twice["run"] = [
        f"{a}{n:.0f}{s}" for a, n, s in zip(twice["architecture"], twice["n"], twice["seed"])
    ]
    found = ratios(Runs.from_frame(twice), "A", "B")
    assert found.slopes["d"].value == pytest.approx(0.0, abs=1e-9)


def slow_hc2(basis, y, k):
    """HC2 error and Bell & McCaffrey's degrees of freedom, term by term."""
    count = len(y)
    inverse = np.linalg.inv(basis.T @ basis)
    beta = inverse @ basis.T @ y
    hat = basis @ inverse @ basis.T
    variance, g = 0.0, np.zeros((count, count))
    for i in range(count):
        c = (inverse @ basis[i])[k]
        variance += c**2 * (y[i] - basis[i] @ beta) ** 2 / (1 - hat[i, i])
        g[:, i] = c / np.sqrt(1 - hat[i, i]) * (np.eye(count) - hat)[:, i]
    eigen = np.linalg.eigvalsh(g.T @ g)
    return beta[k], np.sqrt(variance), eigen.sum() ** 2 / (eigen**2).sum()


def test_standard_errors_are_those_of_the_formula():
    rng = np.random.default_rng(3)
    basis = np.column_stack([np.ones(7), rng.normal(size=7)])
    y = rng.normal(size=7)
    for k in (0, 1):
        found = estimate("n", basis, y, k, 0.95)
        assert (found.value, found.se, found.df) == pytest.approx(slow_hc2(basis, y, k))
    mean = estimate("d", np.ones((7, 1)), y, 0, 0.95)
    told = stats.ttest_1samp(y, 0.0)
    assert (mean.p, mean.df) == pytest.approx((told.pvalue, 6.0))
    assert (mean.low, mean.high) == pytest.approx(tuple(told.confidence_interval()))


def test_two_sizes_are_too_few():
    found = ratios(noisy(0, sizes=SIZES[:2]), "A", "B")
    assert found.verdict == TOO_FEW and found.p is None
    assert all(slope.low is None for slope in found.slopes.values())
    assert "too few" in found.summary()


def test_a_constant_factor_is_rejected_seldom_and_a_slope_often():
    null = [ratios(noisy(seed), "A", "B").verdict for seed in range(150)]
    assert np.mean([verdict == NOT_CONSTANT for verdict in null]) < 0.10
    steep = [ratios(noisy(seed, steeper=0.03), "A", "B").verdict for seed in range(40)]
    assert np.mean([verdict == NOT_CONSTANT for verdict in steep]) > 0.9


def test_what_cannot_be_compared_is_said():
    far = join(power(0.2, 0.3), power(0.2, 0.3, sizes=SIZES * 1e4))
    with pytest.raises(FitError):
        ratios(far, "A", "B")
    assert all_ratios(far)[1]
    with pytest.raises(FitError):
        all_ratios(far, "C")
    late = join(power(0.2, 0.3), power(0.2, 0.3, data=DATA * 1e3))
    with pytest.raises(FitError):
        ratios(late, "A", "B")


@pytest.mark.skipif(not LADDER.exists(), reason="the committed ladder is not there")
@pytest.mark.parametrize(
    ("name", "slope", "se"),
    [
        ("MPNN edges", 0.027, 0.018),
        ("MC-EGNN", 0.016, 0.006),
        ("PaiNN", 0.003, 0.003),
        ("GemNet-OC", 0.069, 0.007),
        ("eSEN L2 untied", 0.081, 0.006),
        ("eSEN L2", 0.093, 0.005),
        ("eSEN L4", 0.098, 0.005),
    ],
)
def test_extra_slopes_of_the_ladder(name, slope, se):
    """Seed 0 from 1M atoms on: PaiNN is a constant factor below the MPNN, eSEN is not."""
    runs = Runs.from_frame(LADDER, where="kind != 'sweep'").select(burn_in_steps=400)
    runs = runs.take(runs.seed == "0")
    end = 3.01e6 if name == "GemNet-OC" else 6.41e6
    found = ratios(runs, "MPNN", name, d_window=(0.96e6, end))
    assert found.slopes["d"].value == pytest.approx(slope, abs=0.002)
    assert found.slopes["d"].se == pytest.approx(se, abs=0.0015)
    assert (found.slopes["d"].p < 0.001) == (slope > 0.05)
