"""The long grid as far as its slices have come home, read as PREREGISTRATION.md, part E says.

    python studies/ladder_2/long_grid.py > results/ladder_2_long/verdict.txt

1. Final losses of runs of 1e8 atoms, beside part D's forecast where it has one.
2. Ratios between columns at equal N, of runs of 16M atoms (the short grid) and of 1e8, and the
   extra slope in D between them; over three sizes or more the interval that decides question 1.
3. Extra slopes in N between runs of 1e8 atoms.
4. Ratios within the runs, evaluations of equal D from 10M atoms on: given beside, not claimed,
   since their rates are those of the ends. Runs that are not over have these alone.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from grid_analysis import SAME_SIZE, ends, last, paired

import forcelaw

RESULTS = Path("results")
FORECAST = Path("studies/ladder_2/long_forecast.json")
PAIRS = [("MPNN", "PaiNN"), ("PaiNN", "eSEN L2"), ("MPNN", "eSEN L2")]
PAIRS += [("MPNN", "MC-EGNN"), ("PaiNN", "MC-EGNN")]
PROMISED = {("MPNN", "PaiNN"): (0.36, 0.42)}  # part E: the ratio at 1e7 parameters
WITHIN = 1e7  # atoms, from which evaluations within runs are given


def slices() -> pl.DataFrame:
    """All evaluations of runs of 1e8 atoms, also of those under way."""
    names = [
        folder.name
        for folder in sorted(RESULTS.glob("ladder_2_long_*"))
        if "check" not in folder.name
    ]
    tables = [pl.read_parquet(RESULTS / name / "runs.parquet") for name in names]
    table = pl.concat(tables, how="diagonal_relaxed").sort(pl.col("status") != "finished")
    same = ["architecture", "n", "seed", "lr", "step"]  # a run may have gone on in another slice
    return table.unique(same, keep="first", maintain_order=True).sort("n", "d")


def forecasts(long: pl.DataFrame) -> None:
    print("1. final losses of runs of 1e8 atoms\n")
    print(f"{'column':<10}{'N':>12}{'loss':>9}   part D's forecast")
    promised = {
        (row["architecture"], round(np.log10(row["n"]))): row
        for entry in json.loads(FORECAST.read_text())["architectures"]
        for row in entry["predictions"]
    }
    for row in long.sort("architecture", "n").iter_rows(named=True):
        found = promised.get((row["architecture"], round(np.log10(row["n"]), 1)))
        text = ""
        if found:
            inside = "inside" if found["low"] <= row["loss"] <= found["high"] else "OUTSIDE"
            text = f"{found['loss']:.4f} [{found['low']:.4f}, {found['high']:.4f}]: {inside}"
            text += f", {row['loss'] / found['loss'] - 1:+.1%}"
        print(f"{row['architecture']:<10}{row['n']:>12,}{row['loss']:>9.4f}   {text}")


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
                text += f", extra slope {(matched[0][1] - now) / np.log(1e8 / 1.6e7):+.3f}"
            low, high = PROMISED.get((first, second), (0.0, 0.0))
            if high and n > 5e6:
                inside = "inside" if low <= np.exp(now) <= high else "OUTSIDE"
                text += f"; promised {low} to {high}: {inside}"
            print(text)
        if len(rows) >= 3:
            both = pl.concat([short, long], how="diagonal_relaxed")
            sizes = [n for n, *_ in rows]
            near = pl.any_horizontal(
                *((pl.col("n").log() - np.log(n)).abs() < SAME_SIZE for n in sizes)
            )
            found = forcelaw.ratios(both.filter(near), first, second)
            print(f"  over {len(rows)} sizes, D: {found.slope('d')}")
    print("\n3. extra slopes in N between runs of 1e8 atoms\n")
    for first, second in PAIRS:
        at = paired(long, first, second)
        for (n, was), (m, now) in pairwise(at):
            print(f"{second} / {first}, N {n:,} to {m:,}: {(was - now) / np.log(m / n):+.3f}")


def within(table: pl.DataFrame) -> None:
    print("\n4. ratios within the runs, by atoms seen (in millions)\n")
    table = table.filter(pl.col("d") >= WITHIN, pl.col("seed") == 0)
    for first, second in PAIRS:
        one, other = (
            table.filter(pl.col("architecture") == column).select("n", "d", "loss")
            for column in (first, second)
        )
        for n in other["n"].unique().sort():
            size = (pl.col("n").log() - np.log(n)).abs() < SAME_SIZE
            both = other.filter(n=n).join(one.filter(size), on="d").sort("d")
            if len(both):
                ratios = both["loss"] / both["loss_right"]
                parts = (f"{d / 1e6:.0f}: {r:.4f}" for d, r in zip(both["d"], ratios))
                print(f"{second} / {first}, N {n:,}: {', '.join(parts)}")


def main() -> int:
    table = slices()
    long = last(table.filter(pl.col("status") == "finished"))
    short = ends("ladder_2_grid")
    forecasts(long)
    slopes(short, long)
    within(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
