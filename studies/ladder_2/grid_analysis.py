"""The analysis that decides (PREREGISTRATION.md, part B) on the short grid.

    python studies/ladder_2/grid_analysis.py > results/ladder_2_grid/ratios.txt

Every column beside the MPNN, evaluations from step 2,000 on; then the window of D cut in half.
Holm's correction is over the columns compared with the MPNN.

Not preregistered: the same with each loss corrected for its rate. A run has the best rate for its
end, which is too low before the end where the best rate falls with D, by another amount in each
column. What that costs at every N and D is known from the sweeps of part A: k (ln rate - ln
rate*)^2, with rate* interpolated between their points and k the median of a column.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
from best_rates import points, read

import forcelaw

FIRST_STEP = 2000
SAME_SIZE = 0.12  # in ln N


def finished(name: str, first_step: int = FIRST_STEP) -> pl.DataFrame:
    """Evaluations of results/``name`` that count: of finished runs, from ``first_step`` on."""
    frame = pl.read_parquet(f"results/{name}/runs.parquet")
    return frame.filter((pl.col("status") == "finished") & (pl.col("step") >= first_step))


def ends(name: str) -> pl.DataFrame:
    """The last evaluation of each finished run of results/``name``."""
    return last(finished(name, 0))


def last(table: pl.DataFrame) -> pl.DataFrame:
    """The last evaluation of each run."""
    return table.sort("step").group_by("run").last()


def mean_losses(table: pl.DataFrame, column: str) -> dict[int, float]:
    """ln of the loss by size, mean over seeds, of a table with one row a run."""
    at = table.filter(pl.col("architecture") == column)
    return dict(at.group_by("n").agg(pl.col("loss").log().mean()).sort("n").iter_rows())


def paired(table: pl.DataFrame, first: str, second: str) -> list[tuple[int, float]]:
    """(N of the second, ln of its mean loss over the first's) where both have the size."""
    one, other = mean_losses(table, first), mean_losses(table, second)
    return [
        (n, loss - of)
        for n, loss in other.items()
        for m, of in one.items()
        if abs(np.log(n / m)) < SAME_SIZE
    ]


def corrected(frame: pl.DataFrame) -> pl.DataFrame:
    """Losses without what their rates cost, by the sweeps of part A."""
    sweeps = points(
        read([Path("results/ladder_2_rates"), Path("results/ladder_2_rates_ends")]), FIRST_STEP
    ).filter(pl.col("end") == "")
    found = []
    for (column,), at in frame.group_by(["architecture"], maintain_order=True):
        of = sweeps.filter(pl.col("column") == column)
        sizes = of["n"].unique().sort().to_list()
        best = [
            np.interp(at["d"].log(), rows["d"].log(), rows["best"].log())
            for rows in (of.filter(pl.col("n") == n).sort("d") for n in sizes)
        ]
        where = np.interp(at["n"].log(), np.log(sizes), np.arange(len(sizes)))
        k = np.minimum(where.astype(int), len(sizes) - 2)
        at_run = np.arange(len(at))
        rate = np.array(best)[k, at_run] * (1 - where + k)
        rate += np.array(best)[k + 1, at_run] * (where - k)
        cost = of["curvature"].median() * (at["lr"].log().to_numpy() - rate) ** 2
        found.append(at.with_columns(loss=pl.col("loss") * pl.Series(np.exp(-cost)), cost=cost))
    return pl.concat(found)


def main() -> int:
    frame = finished("ladder_2_grid")
    columns = [c for c in frame["architecture"].unique(maintain_order=True) if c != "MPNN"]
    whole = {c: forcelaw.ratios(frame, "MPNN", c) for c in sorted(columns)}
    for result in whole.values():
        print(result.summary(), "\n")
    print("eSEN over PaiNN")
    print(forcelaw.ratios(frame, "PaiNN", "eSEN L2").summary(), "\n")
    print("halves of the window of D, extra slope in D:")
    for column in sorted(columns):
        for low, high in ((7e5, 3.4e6), (3.4e6, 1.65e7)):
            found = forcelaw.ratios(frame, "MPNN", column, d_window=(low, high))
            print(f"  {column:<10} D {low:.2g} to {high:.3g}: {found.slope('d')}")
    print("\nHolm over columns:")
    ordered = sorted((r.slope("d").p or 1.0, c) for c, r in whole.items())
    for k, (p, column) in enumerate(ordered):
        slope = whole[column].slope("d")
        claimed = p * (len(ordered) - k) < 0.05 and abs(slope.value) > 0.02
        print(
            f"  {column:<10} slope {slope}  Holm p {min(1.0, p * (len(ordered) - k)):.3g}"
            f"  {'claimed' if claimed else 'not claimed'}"
        )
    print("\nlosses corrected for their rates (not preregistered):")
    frame = corrected(frame)
    for (column,), at in frame.group_by(["architecture"], maintain_order=True):
        ends = at.sort("step").group_by("run").last()["cost"]
        print(
            f"  {column:<10} correction at most {100 * at['cost'].max():.1f}%, "
            f"at the end of runs {100 * ends.mean():.1f}% (at most {100 * ends.max():.1f}%)"
        )
    for first, second in [("MPNN", c) for c in sorted(columns)] + [("PaiNN", "eSEN L2")]:
        print(forcelaw.ratios(frame, first, second).summary(), "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
