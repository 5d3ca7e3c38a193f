"""How often `forcelaw fit` names a run as far off the law when none is, and how often one that is.

    python benchmarks/outlying_runs.py [--trials 500] > results/laws/outlying_runs.txt

Surfaces from the sizes and data of law_coverage.py's force field: trajectories (every run off by
its own constant, sd 1%; ten checkpoints, autocorrelated, .4%) and final losses (sizes by lengths,
one row a run). The constants are Gaussian, or Student's t of three degrees of freedom with the same
sd, which has wild runs by nature. Shares of studies in which any run is named; and, of a third as
many, in which the right one is named when a run in the middle, or the last (at the largest N), is
6% (six sd) too high.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
from law_coverage import STUDIES

import forcelaw
from forcelaw.laws.decide import simulate
from forcelaw.table.runs import Runs

SD, WITHIN, CORRELATION = 0.01, 0.004, 0.8


def study(rng: np.random.Generator, design: str, runs: int, tails: str) -> Runs:
    """A table whose runs have constants of normal or t3 errors."""
    truth, n, d = STUDIES["force field"]
    if design == "trajectories":
        quiet = {"sd_run": 0.0, "sd_within": WITHIN, "correlation": CORRELATION}
        table = simulate.trajectories(
            truth, np.geomspace(*n, runs), np.geomspace(*d, 10), rng, **quiet
        )
    else:
        lengths = 4 if runs > 10 else 3
        sizes, data = np.geomspace(*n, -(-runs // lengths)), np.geomspace(*d, lengths)
        at = np.array([(a, b) for a in sizes for b in data])[:runs]
        loss = simulate.surface_loss(truth, at[:, 0], at[:, 1])
        table = simulate.table(n=at[:, 0], d=at[:, 1], loss=loss, run=np.arange(runs))
    error = rng.standard_t(3, runs) / np.sqrt(3.0) if tails == "t3" else rng.normal(size=runs)
    return shifted(table, SD * error)


def shifted(table: Runs, by: np.ndarray) -> Runs:
    """With ln L of each run higher ``by`` [runs]."""
    return replace(table, values={**table.values, "loss": table["loss"] * np.exp(by)[table.run]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--runs", type=int, nargs="+", default=[6, 8, 10, 20, 40])
    args = parser.parse_args()
    command = " ".join(["python benchmarks/outlying_runs.py", *sys.argv[1:]])
    print(f"# {command}, {time.strftime('%Y-%m-%d')}")
    print(f"{'':12} {'runs':>4} {'tails':>6} | named, none is off | right one named: middle, end")
    for design in ("trajectories", "final losses"):
        for runs in args.runs:
            for tails in ("normal", "t3"):
                rng = np.random.default_rng(runs)
                seen: list[bool] = []
                named: dict[str, list[bool]] = {"middle": [], "end": []}
                for trial in range(args.trials):
                    table = study(rng, design, runs, tails)
                    found = forcelaw.fit(table, interval="jackknife")
                    seen.append(bool(found.outlying))
                    if trial % 3:
                        continue
                    for place, which in (("middle", runs // 2), ("end", runs - 1)):
                        wild = shifted(table, 6 * SD * (np.arange(runs) == which))
                        found = forcelaw.fit(wild, interval="jackknife")
                        names = [one.run for one in found.outlying]
                        named[place].append(table.run_names[which] in names)
                cells = "".join(f"{np.mean(x):>8.2f}" for x in named.values())
                print(
                    f"{design:12} {runs:>4} {tails:>6} | {np.mean(seen):>18.3f} | {'':15}{cells}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
