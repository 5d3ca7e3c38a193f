"""Laws of repeats on runs that they have not seen, from committed tables.

    python benchmarks/law_repeats_holdout.py > results/laws/repeats_holdout.txt

Tables with several training sets: few_data and data_limited (every evaluation from step 400 on) and
ladder_2 with ladder_2_repeats (final losses). Held out in turn: the largest model, the smallest
training set, the last third of D. Printed: rms error in ln L of each law on what was held out, and
the law that `fit_repeats` takes on the rest, by what that alone shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

import forcelaw
from forcelaw.errors import FitError
from forcelaw.laws.decide.repeats import fit_repeats
from forcelaw.table.runs import Runs

RESULTS = Path(__file__).resolve().parents[1] / "results"
LAWS = ("data_constrained", "data_constrained_by_size", "data_constrained_coupled")
LEAST_SIZES = 3  # that a law is fitted to


def tables() -> Iterator[tuple[str, pl.DataFrame]]:
    for name in ("few_data", "data_limited"):
        table = pl.read_parquet(RESULTS / name / "runs.parquet")
        yield name, table.filter(pl.col("kind") != "sweep", pl.col("step") >= 400)
    grid = pl.read_parquet(RESULTS / "ladder_2" / "runs.parquet").filter(batch=16)
    repeats = pl.read_parquet(RESULTS / "ladder_2_repeats" / "runs.parquet")
    yield "ladder_2", pl.concat([grid, repeats.filter("final")], how="diagonal_relaxed")


def folds(rows: pl.DataFrame) -> dict[str, pl.Series]:
    """What is held out: a mask of the rows."""
    distinct = rows.select(pl.col("u").max().over("run")).to_series()
    return {
        "largest N": rows["n"] == rows["n"].max(),
        "smallest U": distinct <= 1.05 * float(distinct.min()),  # type: ignore[arg-type]
        "last third of D": rows["d"] > float(rows["d"].max()) / 3,  # type: ignore[arg-type]
    }


def error(rows: pl.DataFrame, held: pl.DataFrame, law: str) -> float:
    found = forcelaw.fit(rows, law, interval="none")
    predicted = found.predict(**{role: held[role].to_numpy() for role in ("n", "d", "u")})
    return float(np.sqrt(np.mean(np.log(predicted / held["loss"].to_numpy()) ** 2)))


def main() -> int:
    print(
        f"{'table':<14}{'column':<9}{'held out':<17}{'plain':>7}{'by size':>9}{'coupled':>9}  taken"
    )
    for name, table in tables():
        for (column,), rows in table.group_by(["architecture"], maintain_order=True):
            for what, mask in folds(rows).items():
                rest, held = rows.filter(~mask), rows.filter(mask)
                if rest["n"].n_unique() < LEAST_SIZES:
                    continue
                try:
                    errors = [error(rest, held, law) for law in LAWS]
                    taken = fit_repeats(Runs.from_frame(rest)).law.name
                except FitError as refused:
                    print(f"{name:<14}{column:<9}{what:<17} {refused}")
                    continue
                numbers = "{:>7.3f}{:>9.3f}{:>9.3f}".format(*errors)
                print(f"{name:<14}{column:<9}{what:<17}{numbers}  {taken}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
