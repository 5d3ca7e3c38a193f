"""Does it help the choice of runs (forcelaw.laws.decide.selection) to expect that the law is wrong?
On pools whose truth is known, so that no published benchmark has a part in it.

    python benchmarks/selection_misfit.py --trials 12 --out results/laws/selection_misfit.txt

Runs have four variables: N, D, learning rate and batch. The fitted law is quadratic in their
logarithms (15 parameters, ln L), as tables of such sweeps are often described. The truth is a sum
of powers of N and D and a penalty about the best rate and batch, which move with N and D; only
"quadratic in logs" is of the fitted form. "x8": the penalty times eight. The pool has no run of
more than .45 of the largest budget; targets are 56 rates and batches at the largest N and D. Errors
of runs are independent (sd .3% of the loss).

Compared, at 5% of the pool's cost from the 37 cheapest runs on: law alone: the law taken for right.
with misfit: part of the variance for what it gets wrong (choose() with the places). chance: drawn.
all runs: the whole pool. Each cell: root mean square error of ln L at the targets over studies, of
the law fitted to those runs, and the number of runs; for the right form also what is expected of
the runs (sd of ln L, the law being linear about the truth).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from kept_lines import keeper  # in this directory
from selection_truth import drawn

from forcelaw.laws.decide.selection import (
    PRIOR_SD,
    Belief,
    choose,
    covariance,
    misfit_variance,
    noise_variance,
)

SHARE, NOISE, FIRST = 0.05, 0.003, 37
RATES, BATCHES = np.geomspace(2.4e-4, 0.016, 7), np.geomspace(16, 2048, 6)
DATA, SIZES = np.geomspace(2e9, 1e11, 6), np.geomspace(6e7, 1e9, 5)
AT = np.geomspace(1.2e-4, 5e-3, 8), np.geomspace(64, 4096, 7), [1e11], [1e9]
LARGEST, KEPT = 0.45, 0.7  # of the grid's largest budget; of its runs, drawn
PENALTIES = {
    "quadratic": lambda u, v: 0.02 * u**2 + 0.012 * v**2,
    "one-sided": lambda u, v: 0.015 * (np.exp(0.8 * u) - 1 - 0.8 * u) + 0.012 * v**2,
    "saturating": lambda u, v: 0.072 * np.log(np.cosh(0.8 * u)) + 0.05 * np.log(np.cosh(0.7 * v)),
    "cliff": lambda u, v: 0.015 * u**2 + 0.0125 * np.logaddexp(0, 4 * u - 6) + 0.012 * v**2,
}
RIGHT = "quadratic in logs"
TRUTHS = (RIGHT, *PENALTIES, *(f"{name} x8" for name in PENALTIES))
WAYS = ("law alone", "with misfit", "chance", "all runs")


def grid(*axes: np.ndarray) -> np.ndarray:
    """[K, 4]: learning rate, batch, D, N."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def log_loss(truth: str, x: np.ndarray) -> np.ndarray:
    rate, batch, d, n = x.T
    penalty, factor = truth.removesuffix(" x8"), 8 if truth.endswith(" x8") else 1
    best = 1.8e-3 * (n / 2e8) ** -0.45 * (d / 1e10) ** 0.25 * (batch / 256) ** 0.35
    u, v = np.log(rate / best), np.log(batch / (200 * (d / 1e10) ** 0.5))
    best_loss = 1.55 + 0.9 * (n / 3e7) ** -0.3 + 0.5 * (d / 2e9) ** -0.35
    return np.log(best_loss + factor * PENALTIES[penalty](u, v))


class Study:
    """One pool with its errors."""

    def __init__(self, truth: str, seed: int):
        self.rng = np.random.default_rng(seed)
        pool, there = grid(RATES, BATCHES, DATA, SIZES), grid(*AT)
        cost = 6 * pool[:, 2] * pool[:, 3]
        kept = (cost <= LARGEST * cost.max()) & (self.rng.random(len(cost)) < KEPT)
        pool, self.cost = pool[kept], cost[kept]
        logs, low = np.log(pool), np.log(pool).min(axis=0)
        unit = np.ptp(logs, axis=0)
        self.places = (logs - low) / unit, (np.log(there) - low) / unit
        self.here, self.there = (quadratic(one) for one in self.places)
        penalty = "quadratic" if truth == RIGHT else truth
        y, self.truth = log_loss(penalty, pool), log_loss(penalty, there)
        if truth == RIGHT:
            theta = np.linalg.lstsq(self.here, y, rcond=None)[0]
            y, self.truth = self.here @ theta, self.there @ theta
        self.y = y + self.rng.normal(0, NOISE, len(y))

    def fit(self, rows: list[int]) -> np.ndarray:
        return np.linalg.lstsq(self.here[rows], self.y[rows], rcond=None)[0]

    def believe(self, rows: list[int]) -> list[Belief]:
        theta = self.fit(rows)
        squares = float(((self.y[rows] - self.here[rows] @ theta) ** 2).sum())
        noise = noise_variance(squares, len(rows), self.here @ theta)
        wrong = misfit_variance(squares, len(rows), self.here @ theta, noise)
        return [Belief(self.here[:, None], self.there, noise, misfit=wrong)]

    def rows(self, way: str) -> list[int]:
        if way == "all runs":
            return list(range(len(self.y)))
        budget = SHARE * self.cost.sum()
        if way == "chance":
            return drawn(self.cost, budget, self.rng)
        return choose(
            self.cost,
            budget,
            np.argsort(self.cost, kind="stable")[:FIRST].tolist(),
            self.believe,
            PRIOR_SD,
            lambda _, left: int(left[0]),
            self.places if way == "with misfit" else None,
        )

    def error(self, rows: list[int]) -> float:
        """Mean square at the targets."""
        return float(((self.there @ self.fit(rows) - self.truth) ** 2).mean())

    def expected(self, rows: list[int]) -> float:
        """Variance at the targets, mean, where the law is right."""
        left = covariance(self.here[rows], NOISE**2, PRIOR_SD)
        return float(np.einsum("tp,pq,tq->t", self.there, left, self.there).mean())


def quadratic(z: np.ndarray) -> np.ndarray:
    """[K, 15]: one, the four variables, their products."""
    pairs = [z[:, i] * z[:, k] for i in range(4) for k in range(i, 4)]
    return np.stack([np.ones(len(z)), *z.T, *pairs], axis=1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    say = keeper("selection_misfit.py", argv, args.out)
    say(f"\n{args.trials} studies a line; % of the loss: error (expected), and runs")
    say(f"{'truth':18}{'misfit':>7} | " + " | ".join(f"{way:>18}" for way in WAYS))
    logs: dict[str, list[float]] = {way: [] for way in WAYS}
    for truth in TRUTHS:
        found = {way: [] for way in WAYS}
        off = []
        for seed in range(args.trials):
            study = Study(truth, seed)
            left = study.y - study.here @ study.fit(study.rows("all runs"))
            off.append(max(float(left @ left) / len(left) - NOISE**2, 0.0))
            for way in WAYS:
                rows = study.rows(way)
                found[way].append((study.error(rows), study.expected(rows), len(rows)))
        cells = []
        for way in WAYS:
            error, hoped, count = np.mean(found[way], axis=0) ** (0.5, 0.5, 1)
            told = f" ({hoped:.2%})" if truth == RIGHT else " " * 8
            cells.append(f"{error:6.2%}{told}{count:4.0f}")
            if truth != RIGHT:
                logs[way].append(np.log(error))
        say(f"{truth:18}{np.sqrt(np.mean(off)):7.2%} | " + " | ".join(cells))
    for way in WAYS[1:]:
        ratio = np.exp(np.mean(logs[way]) - np.mean(logs[WAYS[0]]))
        say(f"{way}: error over '{WAYS[0]}', geometric mean of the wrong forms: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
