"""The long grid as far as its slices have come home, read as PREREGISTRATION.md, part E says.

    python studies/ladder_2/long_grid.py > results/ladder_2_long/verdict.txt

1. Final losses of runs of 1e8 atoms, beside part D's forecast where it has one.
2. Ratios between columns at equal N, of runs of 16M atoms (the short grid) and of 1e8, and the
   extra slope in D between them; over three sizes or more the interval that decides question 1.
3. Extra slopes in N between runs of 1e8 atoms, and over all sizes.
4. Ratios within the runs, evaluations of equal D from 10M atoms on: given beside, not claimed,
   since their rates are those of the ends. Runs that are not over have these alone.
5. `long_check`: runs of 16M atoms on the larger pack beside the same on the smaller one. Beyond 2%
   slopes are taken between `long_check` and the long runs, where it has the size.
6. Laws of final losses of runs of 1M to 1e8 atoms: without U, and with the law of repeats.
7. What other rates give at 1e8 atoms (`long_rates`, `long_esen_rates`), as far as they have run.
8. `long_esen`: runs of 1e7 parameters and 3.2e7 atoms beside their forecast, their ratios, and
   those of other sizes at 3.2e7, by a straight line between runs of 16M and of 1e8 atoms.

Parts G to I, on eSEN's rate, are read by esen_rate.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from grid_analysis import SAME_SIZE, ends, last, mean_losses, paired

import forcelaw

RESULTS = Path("results")
FORECAST = Path("studies/ladder_2/long_forecast.json")
SHORTER_FORECAST = Path("studies/ladder_2/long_forecast_32m.json")
SHORTER, SHORTER_ATOMS = "ladder_2_long_esen", 3.2e7
PAIRS = [("MPNN", "PaiNN"), ("PaiNN", "eSEN L2"), ("MPNN", "eSEN L2")]
PAIRS += [("MPNN", "MC-EGNN"), ("PaiNN", "MC-EGNN")]
PROMISED = {("MPNN", "PaiNN"): (0.36, 0.42)}  # part E: the ratio at 1e7 parameters
PACKS_DIFFER = 0.02  # in ln L, part E
TRIED, LAW = "eSEN L2 x.6", "eSEN L2"  # eSEN at .6 of the rate of part A's law, and at that
NUMBERS = ("E", "alpha", "beta", "gamma", "p", "R_D")  # of a law
WITHIN = 1e7  # atoms, from which evaluations within runs are given


def slices() -> pl.DataFrame:
    """All evaluations of runs of 1e8 atoms, also of those under way."""
    names = [
        folder.name
        for folder in sorted(RESULTS.glob("ladder_2_long_*"))
        if "check" not in folder.name and folder.name != SHORTER
    ]
    tables = [pl.read_parquet(RESULTS / name / "runs.parquet") for name in names]
    table = pl.concat(tables, how="diagonal_relaxed").sort(pl.col("status") != "finished")
    same = ["architecture", "n", "seed", "lr", "step"]  # a run may have gone on in another slice
    return table.unique(same, keep="first", maintain_order=True).sort("n", "d")


def other_rates(long: pl.DataFrame, columns: set[str]) -> None:
    """Runs at other rates ("eSEN L2 x.6") over those at the rate of part A's law, their mean over
    sizes, and what the best rates of a size do to an extra slope in D."""
    found = [row for row in long.iter_rows(named=True) if row["architecture"] not in columns]
    if not found:
        return
    print("\n7. runs of 1e8 atoms at other rates, over those at the law's\n")
    gains: dict[str, list[float]] = {}  # ln of the ratio, by label
    best: dict[tuple[str, int], float] = {}  # by column and N; 0: the law's rate
    for row in found:
        label, n = row["architecture"], row["n"]
        column = label.rpartition(" x")[0]
        if n not in mean_losses(long, column):
            continue  # a slice that took the other rate alone
        gain = np.log(row["loss"]) - mean_losses(long, column)[n]
        gains.setdefault(label, []).append(gain)
        best[column, n] = min(gain, best.get((column, n), 0.0))
        print(f"{label:<12}N {n:>10,}, rate {row['lr']:.2g}: {np.exp(gain):.4f}")
    for label, values in gains.items():
        print(f"  {label}: {np.mean(values):+.3f} in ln L over {len(values)} runs")
    for first, second in PAIRS:
        for n, _ in paired(long, first, second):
            at = {
                column: gain
                for (column, m), gain in best.items()
                if column in (first, second) and abs(np.log(n / m)) < SAME_SIZE
            }
            if at:
                moved = in_d(0.0, at.get(second, 0.0) - at.get(first, 0.0))
                tried = "both" if len(at) == 2 else f"{next(iter(at))} alone"
                text = f"{second} / {first}, N {n:>10,}, D: {moved:+.3f} ({tried})"
                print(f"  the best of the rates move {text}")


def with_column(every: pl.DataFrame, label: str) -> pl.DataFrame:
    """``every`` with the runs of ``label`` as eSEN's column, and none of its other rates."""
    others = every.filter(~pl.col("architecture").str.starts_with(LAW))
    column = every.filter(architecture=label).with_columns(architecture=pl.lit(LAW))
    return pl.concat([others, column], how="diagonal_relaxed")


def shorter() -> pl.DataFrame:
    """The last evaluations of `long_esen`, whose eSEN has the rate of part G's column."""
    return ends(SHORTER).with_columns(pl.col("architecture").replace(TRIED, LAW))


def part_e_in_n(long: pl.DataFrame, short: pl.DataFrame) -> None:
    """What 1e7 parameters and 3.2e7 atoms say of question 1: eSEN's extra slope in N."""
    print("\n8. runs of 1e7 parameters and 3.2e7 atoms\n")
    found = shorter()
    forecasts(found, SHORTER_FORECAST)
    print("\nratios at 3.2e7 atoms; below 1e7 parameters between 16M and 1e8 (means over seeds)\n")
    part = np.log(SHORTER_ATOMS / 1.6e7) / np.log(1e8 / 1.6e7)
    for first, second in PAIRS:
        at = {
            n: was + part * (now - was)
            for n, now in paired(long, first, second)
            for m, was in paired(short, first, second)
            if abs(np.log(n / m)) < SAME_SIZE
        } | dict(paired(found, first, second))
        text = ", ".join(f"{n:,}: {np.exp(ratio):.4f}" for n, ratio in at.items())
        print(f"{second} / {first}, N {text}")
        for (n, was), (m, now) in pairwise(at.items()):
            print(f"  extra slope in N, {n:,} to {m:,}: {(was - now) / np.log(m / n):+.3f}")


def forecasts(ends_of_runs: pl.DataFrame, forecast: Path) -> None:
    print(f"{'column':<10}{'N':>12}{'FLOPs':>9}{'hours':>7}{'loss':>9}   part D's forecast")
    promised = {
        (row["architecture"], round(np.log10(row["n"]))): row
        for entry in json.loads(forecast.read_text())["architectures"]
        for row in entry["predictions"]
    }
    for row in ends_of_runs.sort("architecture", "n", "seed").iter_rows(named=True):
        found = promised.get((row["architecture"], round(np.log10(row["n"]), 1)))
        text = ""
        if found:
            inside = "inside" if found["low"] <= row["loss"] <= found["high"] else "OUTSIDE"
            text = f"{found['loss']:.4f} [{found['low']:.4f}, {found['high']:.4f}]: {inside}"
            text += f", {row['loss'] / found['loss'] - 1:+.1%}"
        cost = f"{row['c']:>9.1e}{row['h']:>7.3f}"
        print(f"{row['architecture']:<10}{row['n']:>12,}{cost}{row['loss']:>9.4f}   {text}")


def near(sizes: Iterable[int]) -> pl.Expr:
    """Rows whose N is one of ``sizes``, as columns of one size have it."""
    return pl.any_horizontal(*((pl.col("n").log() - np.log(n)).abs() < SAME_SIZE for n in sizes))


def in_d(was: float, now: float) -> float:
    """Extra slope in D between ln ratios of runs of 16M and of 1e8 atoms."""
    return (was - now) / np.log(1e8 / 1.6e7)


def over_sizes(short: pl.DataFrame, long: pl.DataFrame, first: str, second: str) -> None:
    """Print the extra slope in D from ``short`` to ``long``, over the sizes that both have. Runs
    of one seed are compared, at equal N; ratios by size above are of the mean over seeds."""
    have = [{n for n, _ in paired(table, first, second)} for table in (short, long)]
    sizes = [n for n in have[1] if any(abs(np.log(n / m)) < SAME_SIZE for m in have[0])]
    both = pl.concat([short, long], how="diagonal_relaxed").filter(near(sizes))
    found = forcelaw.ratios(both, first, second).slope("d")
    print(f"  {second} / {first} over {len(sizes)} sizes, D: {found}")


def slopes(short: pl.DataFrame, long: pl.DataFrame) -> None:
    print("\n2. ratios at equal N, runs of 16M and of 1e8 atoms, and the extra slope in D\n")
    for first, second in PAIRS:
        before = paired(short, first, second)
        rows = [
            (n, was, now)
            for n, now in paired(long, first, second)
            for m, was in before
            if abs(np.log(n / m)) < SAME_SIZE
        ]
        for n, now in paired(long, first, second):
            matched = [row for row in rows if row[0] == n]
            was = f"{np.exp(matched[0][1]):.4f}" if matched else "not run"
            text = f"{second} / {first}, N {n:>10,}: {was} at 16M, {np.exp(now):.4f} at 1e8"
            if matched:
                text += f", extra slope {in_d(matched[0][1], now):+.3f}"
            low, high = PROMISED.get((first, second), (0.0, 0.0))
            if high and n > 5e6:
                inside = "inside" if low <= np.exp(now) <= high else "OUTSIDE"
                text += f"; promised {low} to {high}: {inside}"
            print(text)
        if len(rows) >= 3:
            over_sizes(short, long, first, second)
    print("\n3. extra slopes in N between runs of 1e8 atoms\n")
    for first, second in PAIRS:
        at = paired(long, first, second)
        for (n, was), (m, now) in pairwise(at):
            print(f"{second} / {first}, N {n:,} to {m:,}: {(was - now) / np.log(m / n):+.3f}")
        if len(at) >= 3:
            found = forcelaw.ratios(long, first, second).slope("n")
            print(f"  {second} / {first} over {len(at)} sizes, N: {found}")


def within(table: pl.DataFrame) -> None:
    print("\n4. ratios within the runs, by atoms seen (in millions)\n")
    table = table.filter(pl.col("d") >= WITHIN, pl.col("seed") == 0)
    for first, second in PAIRS:
        one, other = (
            table.filter(pl.col("architecture") == column).select("n", "d", "loss")
            for column in (first, second)
        )
        for n in other["n"].unique().sort():
            both = other.filter(n=n).join(one.filter(near([n])), on="d").sort("d")
            if len(both):
                ratios = both["loss"] / both["loss_right"]
                parts = (f"{d / 1e6:.0f}: {r:.4f}" for d, r in zip(both["d"], ratios))
                print(f"{second} / {first}, N {n:,}: {', '.join(parts)}")


def checks() -> pl.DataFrame:
    """The last evaluation of each run of `long_check` and `long_check_small`."""
    names = sorted(folder.name for folder in RESULTS.glob("ladder_2_long_check*"))
    return pl.concat([ends(name) for name in names], how="diagonal_relaxed")


def check(short: pl.DataFrame, long: pl.DataFrame) -> None:
    print(
        "\n5. 16M atoms on the larger pack (long_check) over the smaller one, mean of its seeds\n"
    )
    larger = checks()
    beyond = False
    for column in larger["architecture"].unique().sort():
        before = mean_losses(short, column)
        for n, loss in mean_losses(larger, column).items():
            change = loss - before[n]
            beyond |= abs(change) > PACKS_DIFFER
            print(
                f"{column:<10}{n:>12,}: {np.exp(loss):.4f} / {np.exp(before[n]):.4f}, {change:+.1%}"
            )
    print(f"  the packs {'DIFFER' if beyond else 'agree'} (bound {PACKS_DIFFER:.0%})\n")
    for first, second in PAIRS:
        after = dict(paired(long, first, second))
        for n, was in paired(larger, first, second):
            text = f"{np.exp(was):.4f} at 16M, {np.exp(after[n]):.4f} at 1e8"
            text += f", extra slope {in_d(was, after[n]):+.3f}"
            print(f"{second} / {first}, N {n:>10,}: {text}")
    print("\n  question 1 again, with long_check in place of the smaller pack where it has run:\n")
    rest = short.filter(~near(larger["n"].unique()))
    replaced = pl.concat([rest, larger], how="diagonal_relaxed")
    for first, second in PAIRS:
        if second != "MC-EGNN":  # long_check has no run of it
            over_sizes(replaced, long, first, second)


def with_short_runs(long: pl.DataFrame) -> pl.DataFrame:
    """``long`` and the final losses of runs of 1M to 16M atoms."""
    short = [ends(f"ladder_2_grid{length}") for length in ("_1m", "_4m", "")]
    return pl.concat([*short, long], how="diagonal_relaxed").sort("architecture", "n", "d")


def laws(long: pl.DataFrame, only: str | None = None) -> None:
    table = with_short_runs(long)
    for column in table["architecture"].unique().sort() if only is None else [only]:
        rows = table.filter(architecture=column)
        for law in ("surface", "coupled", "data_constrained"):
            found = forcelaw.fit(rows, law)
            roles = {"n": rows["n"].to_numpy(), "d": rows["d"].to_numpy()}
            if law == "data_constrained":
                roles["u"] = rows["u"].to_numpy()
            off = np.log(found.predict(**roles) / rows["loss"].to_numpy())
            numbers = ", ".join(
                f"{name} {found.estimates[name]}" for name in NUMBERS if name in found.estimates
            )
            rms = f"rms {np.sqrt(np.mean(off**2)):.1%}"
            print(f"{column:<10}{law:<17}{len(rows)} runs, {rms}, {found.status}: {numbers}")
            errors = ", ".join(
                f"{n:,} {error:+.1%}"
                for n, d, error in zip(rows["n"], rows["d"], off)
                if d > 2 * WITHIN
            )
            print(f"{'':<10}at 1e8 atoms, of the loss: {errors}")


def main() -> int:
    columns = {column for pair in PAIRS for column in pair}
    table = slices()
    every = last(table.filter(pl.col("status") == "finished"))
    every = every.sort("architecture", "n", "seed", "lr")
    table = table.filter(pl.col("architecture").is_in(columns))
    long = every.filter(pl.col("architecture").is_in(columns))
    short = ends("ladder_2_grid")
    print("1. final losses of runs of 1e8 atoms\n")
    forecasts(long, FORECAST)
    spent = pl.concat([last(table), checks()], how="diagonal_relaxed")["h"].sum()
    print(f"\nall runs so far, long_check too: {spent:.2f} hours of a card to itself")
    slopes(short, long)
    within(table)
    check(short, long)
    print("\n6. laws of final losses of runs of 1M to 1e8 atoms\n")
    laws(long)
    other_rates(every, columns)
    part_e_in_n(with_column(every, TRIED), short)
    return 0


if __name__ == "__main__":
    sys.exit(main())
