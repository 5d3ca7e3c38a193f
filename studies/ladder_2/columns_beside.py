"""Further columns beside ladder_2's (PREREGISTRATION.md, part F): ratios of final losses.

    python studies/ladder_2/columns_beside.py > results/ladder_2_columns/beside.txt

A run's final loss over that of the MPNN, PaiNN, MC-EGNN and eSEN L2 after as many atoms: at equal N
and at equal FLOPs, each by straight lines between the sizes of the grid in the logarithms; where a
grid has no size on one side, nothing. A run that has not learned its energies or its forces is
named and not compared. Then the best rates of their sweeps, and whether they are at an end.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
from grid_analysis import ends, finished

from forcelaw.store.unlearned import PARTS, left, unlearned

GRIDS = {1e6: "ladder_2_grid_1m", 4e6: "ladder_2_grid_4m", 16e6: "ladder_2_grid"}
COLUMNS = ("MPNN", "PaiNN", "MC-EGNN", "eSEN L2")


def between(grid: pl.DataFrame, column: str, axis: str, value: float) -> float:
    """Final loss of a column of the grid at a value of n or c; nan beyond its sizes."""
    of = grid.filter(pl.col("architecture") == column)
    at = of.group_by("n").agg(pl.col("c").mean(), pl.col("loss").log().mean()).sort("n")
    x = at[axis].log().to_numpy()
    return float(np.exp(np.interp(np.log(value), x, at["loss"], left=np.nan, right=np.nan)))


def main() -> int:
    heads = "".join(f"{column:>10}{'':>8}" for column in COLUMNS)
    print(f"{'':<44}{heads}\n{'column':<16}{'N':>11}{'D':>8}{'loss':>9}", end="")
    print(f"{'equal N':>10}{'FLOPs':>8}" * len(COLUMNS))
    for study in ("ladder_2_columns_slow", "ladder_2_columns_gemnet", "ladder_2_columns"):
        table = ends(study)
        evaluations = finished(study, 0).sort("step")
        grid_runs = table.filter(pl.col("kind") == "grid").sort("architecture", "n")
        for row in grid_runs.iter_rows(named=True):
            length = min(GRIDS, key=lambda d: abs(np.log(row["d"] / d)))
            grid = ends(GRIDS[length])
            print(f"{row['architecture']:<16}{row['n']:>11,}{row['d'] / 1e6:>7.0f}M", end="")
            print(f"{row['loss']:>9.4f}", end="")
            mine = evaluations.filter(run=row["run"]).select("step", *PARTS).to_dicts()
            if parts := unlearned(left(mine)):
                forces = row["loss_forces"]
                print(f"   {' and '.join(parts)} not learned; force term {forces:.4f}")
                continue
            for column in COLUMNS:
                equal_n = row["loss"] / between(grid, column, "n", row["n"])
                equal_c = row["loss"] / between(grid, column, "c", row["c"])
                print(f"{equal_n:>10.3f}{equal_c:>8.3f}", end="")
            print()
        sweeps = table.filter(pl.col("kind") == "sweep").sort("architecture", "lr")
        for (column,), of in sweeps.group_by(["architecture"], maintain_order=True):
            best = int(of["loss"].arg_min() or 0)
            end = " (an end of the sweep)" if best in (0, len(of) - 1) else ""
            rates = ", ".join(f"{lr:g}: {loss:.4f}" for lr, loss in of.select("lr", "loss").rows())
            print(f"  {column}'s sweep: {rates}{end}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
