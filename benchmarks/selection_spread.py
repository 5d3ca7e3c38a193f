"""Is the error that `design --pool` promises that of the forecasts which follow?

    python benchmarks/selection_spread.py [--trials 24] [--out results/laws/selection_spread.txt]

Studies of 12 cheap runs with 1% of noise, N 1e4 to 3e6, D 1e6 to 1e9; the loss at N = 1e7,
D = 1e10 is wanted. `next_runs` says how well it is known now and after the runs that it chooses;
these are made, and the law is fitted again. |z|: error of ln L over what was promised; were they
normal, its median would be .67 and its root mean square 1. Truths: an additive surface; surfaces
whose terms join by other powers; a bend in D, and a step of 7% at N = 2e5, which no law here has.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.forecast import Planned
from forcelaw.laws.decide.selection import next_runs
from forcelaw.laws.fit.fit import fit

TRUTH = {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.4}
N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e4, 3e6, 12), np.geomspace(1e6, 1e9, 12)))
TARGET = {"n": 1e7, "d": 1e10}
MADE, BUDGET, NOISE = 12, 1e15, 0.01


def coupled(n: np.ndarray, d: np.ndarray, power: float) -> np.ndarray:
    by_n = (TRUTH["A"] * n ** -TRUTH["alpha"]) ** power
    by_d = (TRUTH["B"] * d ** -TRUTH["beta"]) ** power
    return TRUTH["E"] + (by_n + by_d) ** (1 / power)


TRUTHS = {
    "additive": lambda n, d: coupled(n, d, 1.0),
    "coupled, p .5": lambda n, d: coupled(n, d, 0.5),
    "coupled, p 3": lambda n, d: coupled(n, d, 3.0),
    "bend in D": lambda n, d: coupled(n, d, 1.0) * np.exp(0.006 * np.log(d / 3e7) ** 2),
    "step in N": lambda n, d: coupled(n, d, 1.0) * np.where(n > 2e5, 0.93, 1.0),
}


def error(runs: simulate.Runs, truth: float, law: str) -> float:
    found = fit(runs, law, interval="none")
    return abs(float(np.log(found.predict(**TARGET))) - truth)


def study(truth: str, seed: int) -> list[float]:
    """Error and promise now, and after the chosen runs."""
    noise = np.exp(np.random.default_rng(seed).normal(0, NOISE, len(N)))
    loss = TRUTHS[truth](N, D) * noise
    runs = simulate.table(n=N, d=D, c=6 * N * D, loss=loss, run=np.arange(len(N)))
    at = np.argsort(runs["c"])[:MADE]
    made, names = runs.take(at), runs.run_names
    pool = [
        Planned("A", n, d, c, run=name)
        for n, d, c, name in zip(runs["n"], runs["d"], runs["c"], names)
    ]
    found = next_runs(made, pool, TARGET, BUDGET)
    rows = np.array(sorted({*at.tolist(), *(names.index(one.run) for one in found.chosen)}))
    there = float(np.log(TRUTHS[truth](np.array([TARGET["n"]]), np.array([TARGET["d"]]))[0]))
    errors = error(made, there, found.law), error(runs.take(rows), there, found.law)
    return [errors[0], found.before or np.nan, errors[1], found.spread[-1]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [f"python {' '.join(sys.argv)}", f"{args.trials} studies a line; medians of ln L"]
    lines.append(f"{'truth':<15} | now: error promised |z| | then: error promised |z|  rms of z")
    print("\n".join(lines), flush=True)
    for truth in TRUTHS:
        found = np.array([study(truth, seed) for seed in range(args.trials)])
        now, then = found[:, 0] / found[:, 1], found[:, 2] / found[:, 3]
        error_now, promised_now, error_then, promised_then = np.median(found, axis=0)
        lines.append(
            f"{truth:<15} | {error_now:10.3f} {promised_now:8.3f} {np.median(now):3.2f} |"
            f" {error_then:11.3f} {promised_then:8.3f} {np.median(then):3.2f}"
            f" {np.sqrt(np.mean(then**2)):9.2f}"
        )
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
