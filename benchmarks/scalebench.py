"""Selection of runs for a target, on tasks of ScaleBench (Li et al. 2026, arXiv 2604.22753).

    python benchmarks/scalebench.py FOLDER [repeats]

FOLDER holds a copy of the repository PlanarG/active-sl as PlanarG+active-sl (real_forecasts.py
--fetch makes it). Of its eight tasks the two whose variables are those of a law of ours, and the
mixture of experts with the number of experts in the place of D. Runs are chosen from the training
pool within a share of its cost by forcelaw.laws.decide.selection; the forecast is made from them
with that law, back-tests included; R2 (no less than -1) is that of the held-out region. Published:
the best of the benchmark's own method and of its baselines at that budget.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from forcelaw.errors import FitError
from forcelaw.laws.decide.extrapolation import extrapolate
from forcelaw.laws.decide.selection import select_runs
from forcelaw.table.runs import Runs

# task -> columns, law, cost of a run, and the published R2 at 5% and 10% of the budget
TASKS = {
    "farseer": ({"n": "N", "d": "D", "loss": "loss"}, "coupled", "6nd", (0.88, 0.93)),
    "data_constrained": (
        {"n": "params", "d": "tokens", "u": "unique_tokens", "loss": "loss"},
        "data_constrained",
        "6nd",
        (0.85, 0.86),
    ),
    "moe": (
        {"n": "dense_parameter_count", "d": "num_experts", "loss": "loss_validation"},
        "coupled",
        "nd",
        (0.80, 0.83),
    ),
}


def load(folder: Path, task: str) -> tuple[Runs, Runs]:
    """The pool and the held-out region."""
    columns, _, cost, _ = TASKS[task]
    out = []
    for part in ("train", "test"):
        path = folder / f"PlanarG+active-sl/benchmark/dataset/{task}_scaling_law"
        frame = pl.read_parquet(next(path.glob(f"{part}-*.parquet")))
        frame = frame.select(pl.col(name).cast(float).alias(role) for role, name in columns.items())
        factor = 6.0 if cost == "6nd" else 1.0
        out.append(Runs.from_frame(frame.with_columns(c=factor * pl.col("n") * pl.col("d"))))
    return out[0], out[1]


def r2(runs: Runs, law: str, test: Runs) -> float:
    """Of the forecast from ``runs`` on the held-out region; -1 where there is none."""
    found = extrapolate(runs, runs["c"], law)
    if not found.ok:
        return -1.0
    said = found.predict(**test.values)
    left, spread = test["loss"] - said, test["loss"] - test["loss"].mean()
    return max(-1.0, 1 - float(left @ left) / float(spread @ spread))


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    print(f"{'task':18}{'budget':>7}{'runs':>6}{'R2':>8}{'sd':>7}{'published':>11}{'all data':>10}")
    for task, (_, law, _, published) in TASKS.items():
        pool, test = load(folder, task)
        whole = r2(pool, law, test)
        for share, bar in zip((0.05, 0.1), published):
            scores, counts = [], []
            for seed in range(repeats):
                try:
                    rows = select_runs(pool, test, share * pool["c"].sum(), law, seed)
                except FitError as error:
                    print(f"{task:18}{share:7.0%}  {error.what}")
                    break
                counts.append(len(rows))
                scores.append(r2(pool.take(rows), law, test))
            if scores:
                print(
                    f"{task:18}{share:7.0%}{np.median(counts):6.0f}{np.mean(scores):8.3f}"
                    f"{np.std(scores):7.3f}{bar:11.2f}{whole:10.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
