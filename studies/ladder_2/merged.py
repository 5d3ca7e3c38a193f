"""One table of ladder_2's runs for one report: what decides (PREREGISTRATION.md, deviations).

    python studies/ladder_2/merged.py && forcelaw report results/ladder_2

Rows are the final losses of runs at 16 structures a step, each at the rate for its own length, and,
of the slice at 64, which has one length, the evaluations from step 2,000 on: its columns are called
"MPNN, 64 a step" and so on, since a law in D holds at one batch. ``length`` is the atoms that a run
sees by its end, ``batch`` its structures a step. Tables are read from results/ladder_2_*; those of
the long grid are taken where they are.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
from grid_analysis import finished

RESULTS = Path("results")
LENGTHS = ("ladder_2_grid_1m", "ladder_2_grid_4m", "ladder_2_grid", "ladder_2_grid_long")
SLICE, FROM_STEP = "ladder_2_grid_64", 2000  # the slice at 64 structures a step


def runs_of(name: str, batch: int) -> pl.DataFrame:
    """All evaluations of finished runs, with the structures a step and the length of their run."""
    table = finished(name, 0)
    length = pl.col("d").max().over("run")
    return table.with_columns(length.alias("length"), pl.lit(batch).alias("batch"))


def merged() -> pl.DataFrame:
    parts = [
        runs_of(name, 16).filter(pl.col("final")) for name in LENGTHS if (RESULTS / name).is_dir()
    ]
    label = pl.col("architecture") + ", 64 a step"
    parts.append(
        runs_of(SLICE, 64).filter(pl.col("step") >= FROM_STEP).with_columns(architecture=label)
    )
    table = pl.concat(parts, how="diagonal_relaxed")
    return table.sort("batch", "architecture", "n", "seed", "length", "d")


def main() -> None:
    out = RESULTS / "ladder_2"
    out.mkdir(exist_ok=True)
    table = merged()
    table.write_parquet(out / "runs.parquet", compression="zstd")
    studies = ", ".join(sorted(table["study"].unique()))
    print(f"{table['run'].n_unique()} runs, {len(table)} rows of {studies}")


if __name__ == "__main__":
    main()
