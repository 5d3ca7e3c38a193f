"""eSEN's rate at 1e8 atoms and the floor of its law: parts G, H and I of PREREGISTRATION.md.

    python studies/ladder_2/esen_rate.py > results/ladder_2_long/esen_rate.txt

G. Losses at .6 of the law's rate: the rule, the floor and the slopes of question 1 with that
   column, and the best of three rates where a size has three.
H. Losses in float32 over those of the same runs in TF32.
I. Losses at .36: the law of eSEN's rate with them, the column, its floor and slopes.

What has not run is said, and not read.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
from best_rates import law, points, read
from grid_analysis import SAME_SIZE, ends, last, mean_losses, paired
from long_grid import (
    LAW,
    RESULTS,
    TRIED,
    checks,
    in_d,
    laws,
    near,
    over_sizes,
    shorter,
    slices,
    with_column,
    with_short_runs,
)

import forcelaw
from forcelaw.laws.fit.result import Estimate

SLOWER = "eSEN L2 x.36"
RATES = (LAW, TRIED, SLOWER)
LOWER = 0.02  # in the mean of ln L, part G's rule
LOWER_AGAIN, SIZES = 0.01, 4  # part I's
NONE_SEEN, STANDS = 0.006, 0.003  # bounds of the floor, part I
LAW_RATE = 0.0074
SWEPT = 8e6  # atoms, the middle of the sweeps by which eSEN's rate was set
RANGE = (0.3, 1.0)  # of the law's rate, in which a best rate is taken for one
PART, SAME = 0.05, 0.03  # of the loss, part H


def gains(table: pl.DataFrame, label: str, over: str) -> dict[int, float]:
    """ln of the ratio of mean losses, by N, where both have run."""
    one, other = mean_losses(table, label), mean_losses(table, over)
    return {n: one[n] - other[n] for n in other if n in one}


def told(found: dict[int, float]) -> str:
    parts = (f"{n:,} {np.exp(gain):.4f}" for n, gain in found.items())
    mean = float(np.mean(list(found.values())))
    return f"{', '.join(parts)}; mean of ln {mean:+.3f}"


def best_rates(every: pl.DataFrame, least: int) -> dict[int, tuple[float, float]]:
    """(rate, ln of the loss) by N, for sizes of ``least`` rates or more: at the vertex of the
    parabola through three, or the lowest where there are two or the vertex is beyond RANGE."""
    of = every.filter(pl.col("architecture").is_in(RATES))
    mean = of.group_by("n", "lr").agg(pl.col("loss").log().mean()).sort("n", "lr")
    found = {}
    for (n,), rows in mean.group_by(["n"], maintain_order=True):
        if len(rows) < least:
            continue
        x, y = np.log(rows["lr"].to_numpy()), rows["loss"].to_numpy()
        k = int(y.argmin())
        found[n] = float(np.exp(x[k])), float(y[k])
        if len(rows) == len(RATES):
            square, slope, rest = np.polyfit(x, y, 2)
            at = -slope / (2 * square)
            low, high = (np.log(LAW_RATE * factor) for factor in RANGE)
            if square > 0 and low <= at <= high:
                found[n] = float(np.exp(at)), float(rest - slope**2 / (4 * square))
    return found


def say_rates(best: dict[int, tuple[float, float]]) -> None:
    for n, (rate, _) in best.items():
        exponent = np.log(rate / LAW_RATE) / np.log(1e8 / SWEPT)
        print(f"best of the rates, N {n:,}: {rate:.2g}; from .0074 at 8M as D^{exponent:.2f}")


def slopes(long: pl.DataFrame, short: pl.DataFrame) -> None:
    """Extra slopes of eSEN in D from 16M atoms of the larger pack (of the smaller one where it has
    no run) to 1e8, and in N at 1e8."""
    larger = checks()
    before = pl.concat([short.filter(~near(larger["n"].unique())), larger], how="diagonal_relaxed")
    for first in ("PaiNN", "MPNN"):
        for n, now in paired(long, first, LAW):
            for m, was in paired(before, first, LAW):
                if abs(np.log(n / m)) < SAME_SIZE:
                    slope = in_d(was, now)
                    print(f"{LAW} / {first}, N {n:>10,}, means over seeds, D: {slope:+.3f}")
        over_sizes(before, long, first, LAW)
        print(f"  {LAW} / {first}, N: {forcelaw.ratios(long, first, LAW).slope('n')}")


def floor(long: pl.DataFrame) -> Estimate:
    """That of the coupled law of all final losses of eSEN."""
    rows = with_short_runs(long).filter(architecture=LAW)
    return forcelaw.fit(rows, "coupled").estimates["E"]


def part_g(every: pl.DataFrame, short: pl.DataFrame) -> None:
    print("G. .6 of the law's rate, runs of 1e8 atoms\n")
    # Part I's runs came after this was read: it stays as it was.
    of_part_i = (pl.col("architecture") == TRIED) & (pl.col("seed") > 0)
    of_part_i |= (pl.col("architecture") == SLOWER) & ~near([3e5])
    every = every.filter(~of_part_i)
    found = gains(every, TRIED, LAW)
    if len(found) < len(mean_losses(every, LAW)):
        print(f"{TRIED} has run at {len(found)} sizes: not read")
        return
    changes = max(found.values()) < 0 and np.mean(list(found.values())) <= -LOWER
    print(f"over the law's rate: {told(found)}")
    print(f"the column is that at {'.6 of the rate' if changes else 'the rate of the law'}")
    long = with_column(every, TRIED if changes else LAW)
    below = long.filter(pl.col("n") < 2e6)  # the sizes that the rule had in view
    laws(below, only=LAW)
    print("  with the run of 1e7 parameters and 3.2e7 atoms:")
    laws(pl.concat([below, shorter()], how="diagonal_relaxed"), only=LAW)
    slopes(below, short)
    say_rates(best_rates(every, 3))
    print("  the floor by what it is fitted to, the short grid and (not preregistered):")
    for name, label in (("no run of 1e8", None), ("the law's rate", LAW), (".6 of it", TRIED)):
        runs = every.head(0) if label is None else with_column(every, label)
        runs = runs.filter(pl.col("n") < 2e6)
        alone = floor(runs)
        beside = floor(pl.concat([runs, shorter()], how="diagonal_relaxed"))
        print(f"  {name:<15} {alone}; with the run of 1e7 {beside}")


def part_h(short: pl.DataFrame) -> None:
    print("\nH. float32 over TF32, runs of 16M atoms\n")
    if not (RESULTS / "ladder_2_precision").is_dir():
        print("has not run: not read")
        return
    float32 = ends("ladder_2_precision")
    both = pl.concat([short, float32], how="diagonal_relaxed")
    found = gains(both, "eSEN L2 float32", LAW)
    if len(found) < 2:
        print(f"has run at {len(found)} sizes: not read")
        return
    print(told(found))
    ratios = [np.exp(gain) - 1 for gain in found.values()]
    if max(ratios) <= -PART:
        print("TF32 has a part in the floor")
    elif max(map(abs, ratios)) <= SAME:
        print("TF32 has no part in the floor to 16M atoms")
    else:
        print("open")


def part_i(every: pl.DataFrame, short: pl.DataFrame) -> None:
    print("\nI. .36 of the law's rate, runs of 1e8 atoms\n")
    found = gains(every, SLOWER, TRIED)
    whole = len(found) >= SIZES
    if not whole:
        print(f"{SLOWER} has run at {len(found)} of {SIZES} sizes: not read. What there is:")
    print(f"over .6: {told(found)}")
    best = best_rates(every, 2)
    say_rates(best)
    law_of_rates(best)
    if not whole:
        for label in (TRIED, SLOWER):  # both, since the rule chooses none
            print(f"{label} as the column, {TRIED} where it has no run:")
            rest = with_column(every, TRIED).filter(architecture=LAW)
            long = with_column(every, label)
            rest = rest.filter(~near(long.filter(architecture=LAW)["n"].unique()))
            floor_of(pl.concat([long, rest], how="diagonal_relaxed"), best)
        slopes(with_column(every, TRIED), short)
        return
    slower = np.mean(list(found.values())) <= -LOWER_AGAIN
    print(f"the column is that at {'.36' if slower else '.6'} of the rate")
    long = with_column(every, SLOWER if slower else TRIED)
    floor_of(long, best)
    slopes(long, short)


def floor_of(long: pl.DataFrame, best: dict[int, tuple[float, float]]) -> None:
    """Laws of all final losses with the column ``long``, and part I's word for their floor."""
    whole = pl.concat([long, shorter()], how="diagonal_relaxed")
    laws(whole, only=LAW)
    estimate = floor(whole)
    if estimate.low <= 0 and estimate.high < NONE_SEEN:
        verdict = "none seen"
    else:
        verdict = "stands" if estimate.low > STANDS else "open"
    print(f"the floor, {estimate}: {verdict}")
    beside = pl.col("n").replace_strict({n: np.exp(y) for n, (_, y) in best.items()}, default=None)
    tuned = whole.with_columns(
        loss=pl.when((pl.col("architecture") == LAW) & (pl.col("d") > 5e7))
        .then(pl.coalesce(beside, "loss"))
        .otherwise("loss")
    )
    print(f"  with the losses of best rates at 1e8 atoms: {floor(tuned)}")


def law_of_rates(best: dict[int, tuple[float, float]]) -> None:
    """Part A's law of eSEN's best rates, of the sweeps alone and with those of 1e8 atoms."""
    tables = [RESULTS / "ladder_2_rates", RESULTS / "ladder_2_rates_ends"]
    swept = points(read(tables), 2000).filter(pl.col("column") == LAW, pl.col("end") == "")
    swept = swept.select("n", "d", "step", "best")
    long = [{"n": n, "d": 1e8, "step": 0, "best": rate} for n, (rate, _) in best.items()]
    both = pl.concat([swept, pl.DataFrame(long)], how="vertical_relaxed")
    for name, at in (("sweeps", swept), ("both", both)):
        (c, p, q), (_, p_error, q_error) = law(at)
        print(
            f"best rate, {name} ({len(at)} points): {np.exp(c):.4f} at N 1e5 and D 1e6, as"
            f" N^{p:.3f} +- {p_error:.3f}, D^{q:.3f} +- {q_error:.3f}"
        )


def main() -> int:
    table = slices()
    every = last(table.filter(pl.col("status") == "finished"))
    every = every.sort("architecture", "n", "seed", "lr")
    short = ends("ladder_2_grid")
    part_g(every, short)
    part_h(short)
    part_i(every, short)
    return 0


if __name__ == "__main__":
    sys.exit(main())
