"""How far are chosen runs (forcelaw.laws.decide.selection) from the best that could be chosen? On
pools whose truth is known, so that no published benchmark has a part in it.

    python benchmarks/selection_truth.py --trials 12 --out results/laws/selection_truth.txt

The pool is a grid of 10 sizes and 10 lengths, in the lines "few" of 5 and 5 with four runs at each
place; its runs have independent errors; targets are four points beyond it. Compared, within the
same shares of the pool's cost:

chosen: select_runs, which fits a law to what it has made and goes on from there. law alone: that,
the law taken for right. knows: the same choice by slopes of the true law and the true noise, which
needs no first runs; what "chosen" is above it is the price of not knowing the truth. far apart:
runs that fill the plane. chance: drawn.

"expected" is the standard deviation of ln L at the targets that a set of runs leaves when the law
is linear about the truth (root of the mean square over studies and targets), "error" that of the
same fit to the runs, against the truth. The last truth of the first pool has a form that is not the
fitted one: there is no expectation, and "knows" knows the best of the fitted forms for the pool.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
from kept_lines import keeper  # in this directory

from forcelaw.laws.decide import selection, simulate
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


def grid(count: int, runs: int) -> dict[str, np.ndarray]:
    """n and d of a pool, with ``runs`` at each place."""
    axes = np.geomspace(1e4, 3e6, count), np.geomspace(1e6, 1e9, count)
    return {role: np.repeat(axis, runs) for role, axis in zip("nd", np.meshgrid(*axes))}


MANY, FEW = grid(10, 1), grid(5, 4)  # places
AT = {
    "n": np.array([1e7, 3e7, 1e7, 3e7]),
    "d": np.array([3e9, 3e9, 1e10, 1e10]),
}
SHARES, NOISES = (0.02, 0.05, 0.1), (0.003, 0.015)
# p of the true surface, the law that is fitted
CASES = ((1.0, "surface"), (0.5, "coupled"), (1.0, "coupled"), (2.0, "coupled"), (0.5, "surface"))
LINES = (
    *((MANY, SHARES, *case) for case in CASES),
    *((FEW, SHARES[1:], *case) for case in CASES[:-1]),
)
WAYS = ("chosen", "law alone", "knows", "far apart", "chance")


def values_of(p: float) -> dict[str, float]:
    """Parameters of the surface with norm p; its terms are scaled to the same loss where equal."""
    scale = 2.0 ** (1 - 1 / p)
    return TRUTH | {"A": scale * TRUTH["A"], "B": scale * TRUTH["B"], "p": p}


def log_loss(p: float, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.log(make("coupled").loss(values_of(p), n, d))


def table(losses: np.ndarray, n: np.ndarray, d: np.ndarray) -> Runs:
    return simulate.table(n=n, d=d, c=6 * n * d, loss=np.exp(losses), run=np.arange(len(n)))


def truth_belief(pool: dict[str, np.ndarray], p: float, law: str, noise: float) -> Belief:
    """Slopes of the fitted form where it describes the pool without errors best."""
    found = fit(table(log_loss(p, **pool), **pool), law, interval="none")
    slopes = []
    for at in (pool, AT):
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
    if way in ("chosen", "law alone"):
        nothing = table(np.zeros(4), AT["n"], AT["d"])  # losses at the target are not looked at
        most = selection.MOST_MISFIT if way == "chosen" else 0.0
        with patch.object(selection, "MOST_MISFIT", most):
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
    ways = " | ".join(f"{way:>17}" for way in WAYS)
    say(f"{'at':4} {'p':>3} {'fitted':8} {'sd':>5} {'share':>5} | {ways}")
    logs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for pool, shares, p, law in LINES:
        size = "few" if pool is FEW else "many"
        right = p == 1 or law == "coupled"
        for sd in NOISES:
            belief = truth_belief(pool, p, law, sd**2)
            for share in shares:
                squares: dict[str, list[tuple[float, float, int]]] = {way: [] for way in WAYS}
                told = f"{size} {p:g} {law} {sd:.1%} {share:.0%}"
                bar = Progress(told, args.trials, unit="studies")
                for seed in range(args.trials):
                    noise = np.random.default_rng([seed, int(10 * p), int(1e4 * sd)])
                    losses = log_loss(p, **pool)
                    runs = table(losses + noise.normal(0, sd, len(losses)), **pool)
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
                        logs[size, way].append((np.log(hoped), np.log(error)))
                say(f"{size:4} {p:3g} {law:8} {sd:5.1%} {share:5.0%} | " + " | ".join(cells))
    for size in ("many", "few"):
        knows = np.array(logs[size, "knows"])
        for way in WAYS:
            over = np.array(logs[size, way]) - knows
            hoped, error = np.exp(over.mean(axis=0))
            say(
                f"{size} places, {way}: over 'knows', geometric mean of the lines whose form is"
                f" right: expected {hoped:.2f} (at most {np.exp(over[:, 0].max()):.2f}), error"
                f" {error:.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
