"""What repeats cost (PREREGISTRATION.md, part F): ln of the loss over that of fresh data.

    python studies/ladder_2/repeats_cost.py > results/ladder_2_repeats/cost.txt

1. Final losses of 1.35e7 atoms seen, from 1.7M distinct ones (8 passes) and 3.4M (4 passes), over
   those of one pass. Part F calls the long grid fresh where eight passes cost less than 2%
   everywhere; else its slopes carry the differences between columns as a bound. Not preregistered:
   the same less what the two runs differed by at the end of the first pass, when nothing had been
   repeated yet, so that it is chance.
2. The same within the runs, after equal steps, by passes.
3. That bound: differences between columns of equal N, as an extra slope in D from runs of 16M to
   runs of 1e8 atoms. It takes seven passes over 14M atoms for as dear as eight over 1.7M.
4. Laws of repeats, an additive and a coupled one, over all final losses of a column, those of
   `repeats` with them, so that U varies. How far off they are at 1e8 atoms, where they take a
   repeat of 14M atoms for as dear as one of 1.7M.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
from grid_analysis import SAME_SIZE, ends, finished
from long_grid import PAIRS, checks, in_d, slices

import forcelaw

STUDY = "ladder_2_repeats"
FRESH = 1e7  # distinct atoms, beyond which a run of 1.35e7 is one pass
FREE = 0.02  # cost of eight passes below which the long grid is called fresh, part F
FROM_STEP = 2000
LONG = 2e7  # atoms, beyond which are the runs of the long grid


def costs(table: pl.DataFrame) -> pl.DataFrame:
    """Every evaluation of a repeated run with ``cost``, ln of its loss over that of the fresh run
    of the same column and size after as many steps. ``distinct``: atoms of the training set."""
    table = table.with_columns(distinct=pl.col("u").max().over("run"))
    fresh = table.filter(pl.col("distinct") > FRESH).select("architecture", "n", "step", of="loss")
    repeated = table.filter(pl.col("distinct") < FRESH)
    fresh, repeated = (part.sort("step") for part in (fresh, repeated))
    both = repeated.join_asof(
        fresh, on="step", by=["architecture", "n"], strategy="nearest", check_sortedness=False
    )
    return both.with_columns(
        cost=(pl.col("loss") / pl.col("of")).log(), passes=pl.col("d") / pl.col("distinct")
    ).sort("architecture", "n", "distinct", "step")


def final(table: pl.DataFrame) -> dict[tuple[str, int], tuple[float, float]]:
    """Cost of eight passes by column and N, as it is and less chance; prints all."""
    print("1. ln of the final loss over that of one pass, 1.35e7 atoms seen; less chance\n")
    first = (pl.col("passes") - 1).abs()
    chance = table.sort(first).group_by("run").agg(chance=pl.col("cost").first())
    table = table.join(chance, on="run", maintain_order="left")
    eight = {}
    for row in table.filter(pl.col("final")).iter_rows(named=True):
        name, n = row["architecture"], row["n"]
        print(
            f"{name:<10}{n:>12,}, {row['passes']:.1f} passes over {row['distinct'] / 1e6:.1f}M:"
            f" {row['loss']:.4f} / {row['of']:.4f}, {row['cost']:+.3f};"
            f" {row['cost'] - row['chance']:+.3f}"
        )
        if row["passes"] > 6:
            eight[name, n] = row["cost"], row["cost"] - row["chance"]
    free = all(cost < FREE for cost, _ in eight.values())
    verdict = "called fresh" if free else "not called fresh: differences between columns bound it"
    print(f"  the long grid is {verdict} (eight passes below {FREE:.0%} everywhere)")
    return eight


def within(table: pl.DataFrame) -> None:
    print("\n2. within the runs, passes: cost\n")
    table = table.filter(pl.col("step") >= FROM_STEP)
    keys = ["architecture", "n", "distinct"]
    for (name, n, distinct), of in table.group_by(keys, maintain_order=True):
        parts = (f"{p:.1f}: {c:+.3f}" for p, c in of.select("passes", "cost").iter_rows())
        print(f"{name:<10}{n:>12,} of {distinct / 1e6:.1f}M   {', '.join(parts)}")


def bounds(eight: dict[tuple[str, int], tuple[float, float]]) -> None:
    print("\n3. what eight passes do to an extra slope in D, 16M to 1e8 atoms; less chance\n")
    for first, second in PAIRS:
        for (name, n), cost in eight.items():
            for (other, m), of in eight.items():
                if (other, name) == (first, second) and abs(np.log(n / m)) < SAME_SIZE:
                    as_it_is, less = (in_d(0.0, c - o) for c, o in zip(cost, of))
                    print(f"{second} / {first}, N {n:>10,}: {as_it_is:+.3f}; {less:+.3f}")


def laws(repeats: pl.DataFrame) -> None:
    print("\n4. laws of repeats over all final losses, those of `repeats` with them\n")
    names = [f"ladder_2_grid{length}" for length in ("_1m", "_4m", "")]
    long = slices().filter(pl.col("status") == "finished", pl.col("final"))
    parts = [*map(ends, names), checks(), long, repeats]
    table = pl.concat(parts, how="diagonal_relaxed").sort("n", "d", "u")
    for column in repeats["architecture"].unique().sort():
        rows = table.filter(architecture=column)
        at = {role: rows[role].to_numpy() for role in ("n", "d", "u")}
        for law in ("data_constrained", "data_constrained_coupled"):
            found = forcelaw.fit(rows, law)
            off = np.log(found.predict(**at) / rows["loss"].to_numpy())
            rms = np.sqrt(np.mean(off**2))
            numbers = ", ".join(f"{name} {found.estimates[name]}" for name in ("E", "beta", "R_D"))
            print(
                f"{column:<9} {law:<26}{len(rows)} runs, rms {rms:.1%}, {found.status}: {numbers}"
            )
            far = at["d"] > LONG
            errors = (f"{n:,} {error:+.1%}" for n, error in zip(at["n"][far], off[far]))
            print(f"{'':<10}at 1e8 atoms, of the loss: {', '.join(errors)}")


def main() -> int:
    table = costs(finished(STUDY, 0))
    eight = final(table)
    within(table)
    bounds(eight)
    laws(ends(STUDY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
