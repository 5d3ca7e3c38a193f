"""How far are chosen runs (forcelaw.laws.decide.selection) from the best that could be chosen? On
pools whose truth is known, so that no published benchmark has a part in it.

    python benchmarks/selection_truth.py --trials 12 --out results/laws/selection_truth.txt

The pool is a grid of 10 sizes and 10 lengths; its runs have independent errors; targets are four
points beyond it. Compared, within the same shares of the pool's cost:

chosen: select_runs, which fits a law to what it has made and goes on from there. knows: the same
choice by slopes of the true law and the true noise, which needs no first runs; what "chosen" is
above it is the price of not knowing the truth. far apart: runs that fill the plane. chance: drawn.

"expected" is the standard deviation of ln L at the targets that a set of runs leaves when the law
is linear about the truth (root of the mean square over studies and targets), "error" that of the
same fit to the runs, against the truth. The last truth has a form that is not the fitted one: there
is no expectation, and "knows" knows the best of the fitted forms for the pool.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from kept_lines import keeper  # in this directory

from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.selection import (
    PRIOR_SD,
    Belief,
    choose,
    furthest,
    plane,
    select_runs,
)
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.forms import make
from forcelaw.progress import Progress
from forcelaw.table.runs import Runs

TRUTH = {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40}
N, D = (
    axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 3e6, 10), np.geomspace(1e6, 1e9, 10))
)
AT = {
    "n": np.array([1e7, 3e7, 1e7, 3e7]),
    "d": np.array([3e9, 3e9, 1e10, 1e10]),
}
SHARES, NOISES = (0.02, 0.05, 0.1), (0.003, 0.015)
# p of the true surface, the law that is fitted
CASES = ((1.0, "surface"), (0.5, "coupled"), (1.0, "coupled"), (2.0, "coupled"), (0.5, "surface"))
WAYS = ("chosen", "knows", "far apart", "chance")


def values_of(p: float) -> dict[str, float]:
    """Parameters of the surface with norm p; its terms are scaled to the same loss where equal."""
    scale = 2.0 ** (1 - 1 / p)
    return TRUTH | {"A": scale * TRUTH["A"], "B": scale * TRUTH["B"], "p": p}


def log_loss(p: float, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.log(make("coupled").loss(values_of(p), n, d))


def table(losses: np.ndarray, n: np.ndarray, d: np.ndarray) -> Runs:
    return simulate.table(n=n, d=d, c=6 * n * d, loss=np.exp(losses), run=np.arange(len(n)))


def truth_belief(p: float, law: str, noise: float) -> Belief:
    """Slopes of the fitted form where it describes the pool without errors best."""
    found = fit(table(log_loss(p, N, D), N, D), law, interval="none")
    slopes = []
    for at in ({"n": N, "d": D}, AT):
        x, _ = found.law.prepare({role: at[role] for role in found.law.roles}, found.centre)
        slopes.append(found.law.jacobian(found.best(), x).T)
    return Belief(slopes[0][:, None], slopes[1], noise)


def expected(belief: Belief, rows: np.ndarray) -> float:
    """Variance of ln L at the targets, mean."""
    made = belief.pool[rows, 0]
    prior = np.eye(made.shape[1]) / PRIOR_SD**2
    covariance = np.linalg.inv(made.T @ made / belief.noise + prior)
    return float(np.einsum("tp,pq,tq->t", belief.target, covariance, belief.target).mean())


def drawn(cost: np.ndarray, budget: float, rng: np.random.Generator) -> list[int]:
    """Rows of ``cost`` in random order, each that the rest of the budget affords."""
    out = []
    for k in rng.permutation(len(cost)):
        if cost[k] <= budget:
            out.append(int(k))
            budget -= cost[k]
    return out


def rows_of(way: str, runs: Runs, budget: float, law: str, belief: Belief, seed: int) -> np.ndarray:
    """Rows of the pool within the budget."""
    cost = runs["c"]
    if way == "chosen":
        nothing = table(np.zeros(4), AT["n"], AT["d"])  # losses at the target are not looked at
        return select_runs(runs, nothing, budget, law, seed)
    if way == "chance":
        return np.array(drawn(cost, budget, np.random.default_rng(seed)))
    at = plane(runs.values)

    def away(chosen: list[int], left: np.ndarray) -> int:
        return furthest(at, chosen, left)

    def believe(_: list[int]) -> list[Belief]:
        return [belief] if way == "knows" else []

    return np.array(choose(cost, budget, [int(np.argmin(cost))], believe, PRIOR_SD, away))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    say = keeper("selection_truth.py", argv, args.out)

    say(f"\n{args.trials} studies a line; % of the loss: expected / error, and runs")
    say(f"{'p':>4} {'fitted':8} {'sd':>5} {'share':>5} | " + " | ".join(f"{w:>17}" for w in WAYS))
    logs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for p, law in CASES:
        right = p == 1 or law == "coupled"
        for sd in NOISES:
            belief = truth_belief(p, law, sd**2)
            for share in SHARES:
                squares: dict[str, list[tuple[float, float, int]]] = {way: [] for way in WAYS}
                bar = Progress(f"{p:g} {law} {sd:.1%} {share:.0%}", args.trials, unit="studies")
                for seed in range(args.trials):
                    noise = np.random.default_rng([seed, int(10 * p), int(1e4 * sd)])
                    runs = table(log_loss(p, N, D) + noise.normal(0, sd, len(N)), N, D)
                    for way in WAYS:
                        rows = rows_of(way, runs, share * runs["c"].sum(), law, belief, seed)
                        found = fit(runs.take(rows), law, interval="none")
                        off = np.log(found.predict(**AT)) - log_loss(p, **AT)
                        square = float((off**2).mean())
                        squares[way].append((expected(belief, rows), square, len(rows)))
                    bar.update(seed + 1)
                bar.close()
                cells = []
                for way in WAYS:
                    hoped, error, count = np.mean(squares[way], axis=0) ** (0.5, 0.5, 1)
                    cells.append(
                        f"{f'{hoped:6.1%}' if right else '     -'} /{error:6.1%} {count:3.0f}"
                    )
                    if right:
                        logs[way].append((np.log(hoped), np.log(error)))
                say(f"{p:4g} {law:8} {sd:5.1%} {share:5.0%} | " + " | ".join(cells))
    base = np.mean(logs["knows"], axis=0)
    for way in WAYS:
        hoped, error = np.exp(np.mean(logs[way], axis=0) - base)
        worst = np.exp(max(a[0] - b[0] for a, b in zip(logs[way], logs["knows"])))
        say(
            f"{way}: over 'knows', geometric mean of the lines whose form is right: expected"
            f" {hoped:.2f} (at most {worst:.2f}), error {error:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
