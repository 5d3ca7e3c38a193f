"""One table of ladder_2's runs for one report: what decides (PREREGISTRATION.md, deviations).

    python studies/ladder_2/merged.py && forcelaw report results/ladder_2

Rows are the final losses of runs at 16 structures a step, each at the rate for its own length, and,
of the slice at 64, which has one length, the evaluations from step 2,000 on: its columns are called
"MPNN (64)" and so on, since a law in D holds at one batch. ``length`` is the atoms that a run
sees by its end, ``batch`` its structures a step. Tables are read from results/ladder_2_*; those of
the long grid are taken where they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from grid_analysis import finished

RESULTS = Path("results")
LENGTHS = ("ladder_2_grid_1m", "ladder_2_grid_4m", "ladder_2_grid", "ladder_2_long_esen")
LENGTHS += ("ladder_2_grid_long",)
ORDER = ("mpnn", "painn", "egnn", "esen")  # the first one is what the others are compared with
# eSEN's column beyond 16M atoms is at .6 of the law's rate (part G)
ESEN, ESEN_BEYOND_16M, BEYOND = "eSEN L2", "eSEN L2 x.6", 2e7
SLICE, FROM_STEP = "ladder_2_grid_64", 2000  # the slice at 64 structures a step


def runs_of(name: str, batch: int) -> pl.DataFrame:
    """All evaluations of finished runs, with the structures a step and the length of their run."""
    table = finished(name, 0)
    length = pl.col("d").max().over("run")
    return table.with_columns(length.alias("length"), pl.lit(batch).alias("batch"))


def one_rate(table: pl.DataFrame) -> pl.DataFrame:
    """Without the runs of eSEN at the rate that does not count, under the column's own name."""
    other = pl.col("architecture").str.starts_with(ESEN)
    other &= pl.col("architecture").ne(ESEN_BEYOND_16M) & (pl.col("length") > BEYOND)
    return table.filter(~other).with_columns(pl.col("architecture").replace(ESEN_BEYOND_16M, ESEN))


def merged() -> pl.DataFrame:
    parts = [
        runs_of(name, 16).filter(pl.col("final")) for name in LENGTHS if (RESULTS / name).is_dir()
    ]
    label = pl.col("architecture") + " (64)"
    parts.append(
        runs_of(SLICE, 64).filter(pl.col("step") >= FROM_STEP).with_columns(architecture=label)
    )
    table = one_rate(pl.concat(parts, how="diagonal_relaxed"))
    place = pl.col("variant").replace_strict({v: k for k, v in enumerate(ORDER)})
    return table.sort(place, "batch", "n", "seed", "length", "d")


def described(table: pl.DataFrame) -> dict[str, Any]:
    """What the report says of the study: that of the short grid, and the columns of all."""
    grid = json.loads((RESULTS / "ladder_2_grid" / "study.json").read_text())
    columns = {entry["architecture"]: entry for entry in grid["architectures"]}
    present = table.unique(["variant", "architecture"], maintain_order=True)
    labels = present.select("variant", "architecture").iter_rows()
    return {
        "name": "ladder_2",
        "description": "Four columns at one depth: runs of several lengths, each at the learning"
        " rate for its own length, at 16 structures a step, and a slice at 64.",
        "command": "python studies/ladder_2/merged.py",
        "created": grid["created"],
        "versions": grid["versions"],
        "architectures": [columns[variant] | {"label": label} for variant, label in labels],
        "data": grid["data"],
    }


def main() -> None:
    out = RESULTS / "ladder_2"
    out.mkdir(exist_ok=True)
    table = merged()
    table.write_parquet(out / "runs.parquet", compression="zstd")
    (out / "study.json").write_text(json.dumps(described(table), indent=1) + "\n")
    studies = ", ".join(sorted(table["study"].unique()))
    print(f"{table['run'].n_unique()} runs, {len(table)} rows of {studies}")


if __name__ == "__main__":
    main()
