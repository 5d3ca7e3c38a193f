"""Forecasts of the largest runs on surfaces that are known: median error and coverage of the 95%
intervals.

    python benchmarks/forecast_coverage.py [copies] [law]

law: auto (the default), or e.g. surface: that form alone, without back-tests.

The design is that of one architecture of studies/symmetry_ladder.yaml: N from 5e3 to 1e6, three
seeds at three of the sizes, D to 1.6e7 atoms, evaluations past 400 steps of 16 molecules; the
target is the run at N = 1e6, and what is fitted has a tenth of its compute or less. Each run is off
by its own error (sd below), its evaluations by an autocorrelated 0.4%.
"""

import sys

import numpy as np

from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.forecast import Planned, forecast, to_json
from forcelaw.laws.decide.forecast_check import check

TRUTHS = {
    "alpha .35 beta .40, floor .02": {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40},
    "alpha .38 beta .45, floor .05": {
        "E": 0.05,
        "A": 12.0,
        "B": 250.0,
        "alpha": 0.38,
        "beta": 0.45,
    },
    "alpha .28 beta .31, no floor": {"E": 0.0, "A": 8.0, "B": 80.0, "alpha": 0.28, "beta": 0.31},
}
SIZES, SEEDS = np.array([5e3, 1e4, 3e4, 1e5, 3e5, 1e6]), (1, 3, 3, 3, 1, 1)
DATA = np.geomspace(400 * 357, 1.6e7, 21)


def copy(truth: dict[str, float], sd: float, seed: int):
    """One simulated table and its runs as a plan."""
    sizes = np.repeat(SIZES, SEEDS)
    run = np.repeat(np.arange(len(sizes)), len(DATA))
    n, d = sizes[run], np.tile(DATA, len(sizes))
    loss = simulate.surface_loss(truth, n, d) * np.exp(
        simulate.noise(run, np.random.default_rng(seed), sd_run=sd)
    )
    runs = simulate.table(
        n=n,
        d=d,
        loss=loss,
        run=run,
        c=18 * n * d,
        group="a",
        seed=np.concatenate([np.arange(k) for k in SEEDS])[run],
    )
    ends = [np.flatnonzero(runs.run == k)[-1] for k in range(len(runs.run_names))]
    return runs, [
        Planned(
            "a",
            runs["n"][i],
            runs["d"][i],
            runs["c"][i],
            str(runs.seed[i]),
            runs.run_names[runs.run[i]],
        )
        for i in ends
    ]


def main() -> None:
    copies = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    law = sys.argv[2] if len(sys.argv) > 2 else "auto"
    how = {"law": law, "calibrate": law == "auto"}
    print(
        f"{copies} copies each\n"
        f"{'truth':<32}{'run sd':>7}{'what is fitted':>16}{'refused':>9}{'median error':>14}"
        f"{'90%':>7}{'inside':>8}{'half-width':>12}"
    )
    for name, truth in TRUTHS.items():
        for sd in (0.005, 0.013):
            for checkpoints in (True, False):
                rows, refused = [], 0
                for seed in range(copies):
                    runs, planned = copy(truth, sd, seed)
                    found = forecast(runs, planned, checkpoints=checkpoints, **how)
                    refused += not found[0].ok
                    options = {"level": 0.95, "checkpoints": checkpoints}
                    rows += check(to_json(found, date="", source="", options=options), runs)[
                        "architectures"
                    ][0]["runs"]
                error = np.abs([row["error"] for row in rows])
                width = [0.5 * (row["high"] - row["low"]) / row["loss"] for row in rows]
                what = "all below" if checkpoints else "whole runs"
                inside = np.mean([row["inside"] for row in rows])
                print(
                    f"{name:<32}{sd:>7.1%}{what:>16}{refused:>9}{np.median(error):>14.1%}"
                    f"{np.quantile(error, 0.9):>7.1%}{inside:>8.2f}{np.median(width):>12.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
