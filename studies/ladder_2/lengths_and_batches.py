"""The slopes that decide: between runs of 1M, 4M and 16M atoms, and between 16 and 64 structures.

    python studies/ladder_2/lengths_and_batches.py > results/ladder_2_lengths/slopes.txt

1. Final losses alone, each run at the rate for its own size and length (PREREGISTRATION.md, part B,
   deviations): ratios of columns at equal N, extra slopes in D, the fitted exponents beside them.
   The table of final losses is written to results/ladder_2_lengths/ends.csv.
2. The slice at 64 structures a step (part C), evaluations from step 500 and from step 2,000 on.
3. Steps and data apart. Of runs with L(16, 4M), L(16, 16M) and L(64, 16M), structures a step and
   atoms, the first and the second have four times the steps between them, the first and the third
   four times the data a step. Local slopes: sigma = ln(L(16, 4M) / L(16, 16M)) / ln 4 and
   tau = ln(L(16, 4M) / L(64, 16M)) / ln 4. Intervals: Student's t over sizes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
from grid_analysis import SAME_SIZE, ends, finished, mean_losses, paired
from scipy import stats

import forcelaw

PAIRS = [("MPNN", "PaiNN"), ("MPNN", "MC-EGNN"), ("MPNN", "eSEN L2"), ("PaiNN", "eSEN L2")]
PAIRS += [("PaiNN", "MC-EGNN")]
OUT = Path("results/ladder_2_lengths")


def interval(values: list[float]) -> str:
    x = np.array(values)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return f"{x.mean():+.3f} +- {half:.3f} ({len(x)} sizes)"


def slope_in_n(end: str, first: str, second: str) -> str:
    n, ratio = np.array(paired(ends(f"ladder_2_grid{end}"), first, second)).T
    found = stats.linregress(np.log(n), -ratio)
    return f"{found.slope:+.3f} +- {stats.t.ppf(0.975, len(n) - 2) * found.stderr:.3f}"


def lengths() -> None:
    tables = [ends(f"ladder_2_grid{end}") for end in ("_1m", "_4m", "")]
    table = pl.concat(tables, how="diagonal_relaxed").sort("architecture", "n", "seed", "d")
    OUT.mkdir(exist_ok=True)
    kept = ["run", "architecture", "n", "d", "c", "h", "seed", "lr", "batch_atoms", "loss"]
    table.select(kept).write_csv(OUT / "ends.csv", float_precision=6)
    print("1. final losses of runs of 1M, 4M and 16M atoms, 16 structures a step\n")
    for first, second in PAIRS:
        print(forcelaw.ratios(table, first, second).summary(), "\n")
        for low, high in ((9e5, 4.1e6), (3.9e6, 1.7e7)):
            found = forcelaw.ratios(table, first, second, d_window=(low, high))
            print(f"  D from {low:.1e} to {high:.1e}: {found.slope('d')}")
        for end, length in (("_1m", "1M"), ("_4m", "4M"), ("", "16M")):
            print(f"  runs of {length}: extra slope in N {slope_in_n(end, first, second)}")
        print()
    for column in ("MPNN", "MC-EGNN", "PaiNN", "eSEN L2"):
        of = table.filter(pl.col("architecture") == column)
        print(column, forcelaw.fit(of, law="auto").summary(), "\n", sep="\n")


def batches() -> None:
    print("2. 64 structures a step, evaluations of runs of 16M atoms\n")
    for step in (500, 2000):
        frame = finished("ladder_2_grid_64", step)
        print(f"from step {step} on:")
        for first, second in (PAIRS[0], *PAIRS[2:4]):
            print(forcelaw.ratios(frame, first, second).summary(), "\n")


def steps_and_data() -> None:
    print("3. slopes in steps (sigma) and in data a step (tau), at 4M to 16M atoms\n")
    print(f"{'column':<10}{'N':>10}{'L(16, 4M)':>11}{'L(16, 16M)':>12}{'L(64, 16M)':>12}", end="")
    print(f"{'sigma':>8}{'tau':>8}")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for column in ("MPNN", "PaiNN", "eSEN L2"):
        short, long, wide = (
            mean_losses(ends(f"ladder_2_grid{end}"), column) for end in ("_4m", "", "_64")
        )
        for n in sorted(wide):
            sigma = (short[n] - long[n]) / np.log(4)
            tau = (short[n] - wide[n]) / np.log(4)
            found.setdefault(column, []).append((n, sigma, tau))
            values = "".join(f"{np.exp(at[n]):>12.4f}" for at in (short, long, wide))
            print(f"{column:<10}{n:>10,}{values[1:]}{sigma:>+8.3f}{tau:>+8.3f}")
    print()
    for column, rows in found.items():
        print(f"{column:<10}sigma {interval([s for _, s, _ in rows])}", end="")
        print(f"   tau {interval([t for _, _, t in rows])}")
    print("\nextra slopes of the second, sizes paired:")
    for first, second in (PAIRS[0], *PAIRS[2:4]):
        pairs = [
            (b[1] - a[1], b[2] - a[2])
            for b in found[second]
            for a in found[first]
            if abs(np.log(b[0] / a[0])) < SAME_SIZE
        ]
        print(f"{second} over {first}: in steps {interval([s for s, _ in pairs])}", end="")
        print(f"   in data a step {interval([t for _, t in pairs])}")


def main() -> int:
    lengths()
    batches()
    steps_and_data()
    return 0


if __name__ == "__main__":
    sys.exit(main())
