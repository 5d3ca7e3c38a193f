"""How often the intervals of `forcelaw rates` hold what they should.

    python benchmarks/rates_coverage.py [--trials 400] > results/laws/rates_coverage.txt

1. Simulated sweeps whose truth is known: runs of a constant rate with evaluations along them, each
   with noise of its own that lasts for the run, and best rates that stray from their law by size.
   Truths of the fitted form, and not: a valley that is not symmetric, an exponent of D that grows.
   Shares of trials in which the interval (95%) holds the exponent of D, the best rate at the end of
   the runs, and six times beyond; and the loss, over the lowest, at the predicted rate there.
2. Committed sweeps (results/ladder_2_rates, _ends): fitted to evaluations up to a quarter of their
   D, the best rates at the end; and eSEN's of all, beside the parabola through three runs of
   1e8 atoms (results/ladder_2_long/esen_rate.txt).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl

import forcelaw

RESULTS = Path(__file__).resolve().parent.parent / "results"
D = np.geomspace(8e5, 1.6e7, 10)
CURVATURE = 0.11  # ln L = ... + CURVATURE (ln rate - ln rate*)^2: twice off costs 5%
BEYOND = 1e8


def best_of(n: float, d: np.ndarray, q: float, bend: float) -> np.ndarray:
    """ln of the best rate; the exponent is q, and q - bend beyond 4M atoms."""
    x = np.log(d / 4e6)
    return np.log(5e-3) - 0.02 * np.log(n / 3e5) + q * x - bend * np.maximum(x, 0.0)


def sweep(rng: np.random.Generator, sizes: int, q: float, bend: float, skew: float, noise: float):
    """A table of runs."""
    rows = []
    for k, n in enumerate(np.geomspace(3e4, 3e6, sizes)):
        stray = rng.normal(0.0, 0.1)
        best = best_of(n, D, q, bend) + stray
        for rate in 5e-3 * 1.41 ** np.arange(-3, 4):
            x = np.log(rate) - best
            level = CURVATURE * (x**2 + skew * x**3) + rng.normal(0.0, noise)
            walk = np.cumsum(rng.normal(0.0, noise / 3, len(D)))
            loss = 20 * n**-0.2 + 300 * D**-0.4
            loss = loss * np.exp(level + walk)
            for d, value in zip(D, loss):
                rows.append({"n": n, "d": d, "lr": rate, "loss": value, "run": f"{k} {rate}"})
    return pl.DataFrame(rows)


def simulated(trials: int) -> None:
    print("1. simulated sweeps: three or five sizes, seven rates, noise of a run\n")
    print(
        f"{'truth':<24}{'sizes':>6}{'noise':>7}{'told':>6}{'D exponent':>12}{'at 1.6e7':>10}",
        end="",
    )
    print(f"{'at 1e8':>8}{'cost there':>12}")
    truths = {"its own form": (-0.2, 0.0, 0.0), "no exponent": (0.0, 0.0, 0.0)}
    truths |= {"skewed valley": (-0.2, 0.0, 0.3), "exponent -.1, then -.4": (-0.1, 0.3, 0.0)}
    for name, (q, bend, skew) in truths.items():
        for sizes in (3, 5):
            for noise in (0.003, 0.01):
                rng = np.random.default_rng(0)
                n, held, costs = 3e5, [], []
                for _ in range(trials):
                    table = sweep(rng, sizes, q, bend, skew, noise)
                    found = forcelaw.rates(table, at=[(n, D[-1]), (n, BEYOND)])
                    if found.rate is None or found.rate.low is None:
                        continue
                    ends = np.array([D[-1], BEYOND])
                    true = best_of(n, ends, q, bend)
                    inside = [
                        one.rate.low <= np.exp(value) <= one.rate.high
                        for one, value in zip(found.at, true)
                    ]
                    exponent = found.d_exponent
                    slope = q - bend * np.log(D[-1] / 4e6) / np.log(D[-1] / D[0])  # mean
                    held.append([exponent.low <= slope <= exponent.high, *inside])
                    x = np.log(found.at[1].rate.value) - true[1]
                    costs.append(np.expm1(CURVATURE * (x**2 + skew * x**3)))
                shares = "".join(f"{x:>{w}.2f}" for x, w in zip(np.mean(held, 0), (12, 10, 8)))
                told = len(held) / trials
                print(f"{name:<24}{sizes:>6}{noise:>7.1%}{told:>6.2f}{shares}", end="")
                print(f"{np.median(costs):>7.1%}, 90% {np.quantile(costs, 0.9):.1%}", flush=True)


def committed() -> None:
    print("\n2. committed sweeps, fitted to a quarter of their D and beside the end\n")
    tables = [
        pl.read_parquet(RESULTS / f"ladder_2_rates{x}" / "runs.parquet") for x in ("", "_ends")
    ]
    table = pl.concat(tables, how="diagonal_relaxed").filter(pl.col("step") >= 2000)
    table = table.with_columns(architecture=pl.col("architecture").str.replace(r" [0-9.]+$", ""))
    for (name,), rows in table.group_by(["architecture"], maintain_order=True):
        whole = forcelaw.rates(rows)
        end = max(point["d"] for point in whole.points)
        true = [p for p in whole.points if p["d"] > 0.99 * end and not p["end"]]
        short = forcelaw.rates(
            rows.filter(pl.col("d") <= end / 4), at=[(p["n"], end) for p in true]
        )
        for point, one in zip(true, short.at):
            inside = one.rate.low <= point["best"] <= one.rate.high
            print(f"{name:<9} {one}: {point['best']:.4f}, {'inside' if inside else 'OUTSIDE'}")
    rows = table.filter(architecture="eSEN L2")
    (one,) = forcelaw.rates(rows, at=[(304669, 1e8)]).at
    print(f"eSEN L2, all of it, {one}: .0028 by three runs of 1e8 atoms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    args = parser.parse_args()
    simulated(args.trials)
    committed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
