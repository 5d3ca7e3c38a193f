"""Does it help the choice of runs (forcelaw.laws.decide.selection) to expect that the law may be
wrong? On pools whose truth is known, so that no published benchmark has a part in it.

    python benchmarks/selection_misfit.py --trials 48 --small 800 \\
        --out results/laws/selection_misfit.txt

Runs have up to four variables: N, D, learning rate and batch. The fitted law is a polynomial of
their logarithms (ln L), as tables of such sweeps are often described. The truth is a sum of powers
of N and D and a penalty about the best rate and batch, which move with N and D; where the law is
right it is the polynomial that describes the pool best. "x8": the penalty times eight.

Wide pools: all four variables, quadratic (15 parameters), no run of more than .45 of the largest
budget, errors of .3% of the loss; targets are 56 rates and batches at the largest N and D; chosen
at 5% of the pool's cost from the 37 cheapest runs on. Small pools are drawn, one a study: two to
four variables (without rate and batch, these are the best ones), degree 1 to 3 (3 to 15
parameters), 24 to 250 runs, one to four at a place, errors of .3 to 3%, shares of 5 to 40% of the
cost; targets have 2.5 times the largest N. Each small pool is made twice, with the law wrong and
with it right.

Compared: law alone: the law taken for right. with misfit: choose() with the places. chance: drawn.
all runs: the whole pool. Wide, each cell: root mean square error of ln L at the targets over
studies, of the law fitted to those runs, and the number of runs; for the right form also what is
expected of the runs (sd of ln L, the law being linear about the truth). Small, and the last lines:
geometric mean over studies of the error over that of "law alone", its standard error, and the share
of studies that are above it by a tenth; where the law is right of the expected one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
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

SHARE, NOISE, FIRST = 0.05, 0.003, 37  # wide pools
FIRST_SMALL, FIRST_SEED, SMALL_SEED = 2.5, 300, 3000  # runs for each parameter; first seeds
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
WORSE = 1.1  # than the law alone


def grid(*axes: np.ndarray) -> np.ndarray:
    """[K, 4]: learning rate, batch, D, N."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def best_rate(batch: np.ndarray, d: np.ndarray, n: np.ndarray) -> np.ndarray:
    return 1.8e-3 * (n / 2e8) ** -0.45 * (d / 1e10) ** 0.25 * (batch / 256) ** 0.35


def best_batch(d: np.ndarray) -> np.ndarray:
    return 200 * (d / 1e10) ** 0.5


def log_loss(truth: str, x: np.ndarray) -> np.ndarray:
    rate, batch, d, n = x.T
    penalty, factor = truth.removesuffix(" x8"), 8 if truth.endswith(" x8") else 1
    u, v = np.log(rate / best_rate(batch, d, n)), np.log(batch / best_batch(d))
    best_loss = 1.55 + 0.9 * (n / 3e7) ** -0.3 + 0.5 * (d / 2e9) ** -0.35
    return np.log(best_loss + factor * PENALTIES[penalty](u, v))


class Study:
    """One pool with its errors. pool [K, 4], there [T, 4]; used: variables of the law."""

    def __init__(
        self,
        pool: np.ndarray,
        there: np.ndarray,
        used: tuple[int, ...],
        degree: int,
        truth: str,
        right: bool,
        noise: float,
        share: float,
        rng: np.random.Generator,
    ):
        self.rng, self.noise = rng, noise
        self.cost = 6 * pool[:, 2] * pool[:, 3]
        self.budget = share * self.cost.sum()
        logs = np.log(pool[:, used])
        low, unit = logs.min(axis=0), np.ptp(logs, axis=0)
        self.places = (logs - low) / unit, (np.log(there[:, used]) - low) / unit
        self.here, self.there = (polynomial(one, degree) for one in self.places)
        y, self.truth = log_loss(truth, pool), log_loss(truth, there)
        theta = np.linalg.lstsq(self.here, y, rcond=None)[0]
        if right:
            y, self.truth = self.here @ theta, self.there @ theta
        self.off = float(((y - self.here @ theta) ** 2).mean()) ** 0.5
        self.y = y + rng.normal(0, noise, len(y))
        self.first = np.argsort(self.cost, kind="stable")[:FIRST].tolist()

    def fit(self, rows: list[int]) -> np.ndarray:
        return np.linalg.lstsq(self.here[rows], self.y[rows], rcond=None)[0]

    def believe(self, rows: list[int]) -> list[Belief]:
        said = self.here @ self.fit(rows)
        left = self.y[rows] - said[rows]
        noise = noise_variance(float(left @ left), len(rows), said)
        wrong = misfit_variance(float(left @ left), len(rows), said, noise)
        return [
            Belief(self.here[:, None], self.there, noise, misfit=wrong, residuals=left[:, None])
        ]

    def rows(self, way: str) -> list[int]:
        if way == "all runs":
            return list(range(len(self.y)))
        if way == "chance":
            return drawn(self.cost, self.budget, self.rng)
        return choose(
            self.cost,
            self.budget,
            self.first,
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
        left = covariance(self.here[rows], self.noise**2, PRIOR_SD)
        return float(np.einsum("tp,pq,tq->t", self.there, left, self.there).mean())


def wide(truth: str, seed: int) -> Study:
    rng = np.random.default_rng(seed)
    pool = grid(RATES, BATCHES, DATA, SIZES)
    cost = pool[:, 2] * pool[:, 3]
    kept = (cost <= LARGEST * cost.max()) & (rng.random(len(cost)) < KEPT)
    right = truth == RIGHT
    penalty = "quadratic" if right else truth
    every = (0, 1, 2, 3)
    return Study(pool[kept], grid(*AT), every, 2, penalty, right, NOISE, SHARE, rng)


def small(seed: int, right: bool) -> Study:
    rng = np.random.default_rng(seed)
    used = ((2, 3), (0, 2, 3), (0, 1, 2, 3))[rng.integers(3)]
    degree = int(rng.choice([1, 2, 3] if len(used) == 2 else [1, 2]))
    size = between(rng, 24, 250)
    copies = int(rng.choice([1, 1, 2, 4])) if size > 60 else 1
    each = (size / copies) ** (1 / len(used))
    counts = {k: max(round(each * np.exp(rng.uniform(-0.3, 0.3))), 3) for k in used}
    noise, share = between(rng, 0.003, 0.03), between(rng, 0.05, 0.4)
    truth = str(rng.choice([*PENALTIES])) + str(rng.choice(["", " x8"]))
    ends = ((2.4e-4, 0.016), (16, 2048), (2e9, 1e11), (6e7, 4e8))
    best = np.array([np.nan])
    axes = [np.geomspace(*ends[k], counts[k]) if k in used else best for k in range(4)]
    goals = (np.geomspace(4.8e-4, 4e-3, 4), np.geomspace(64, 1024, 3))
    rates, batches = (goals[k] if k in used else best for k in range(2))
    pool = with_best(np.repeat(grid(*axes), copies, axis=0))
    there = with_best(grid(rates, batches, np.geomspace(2e10, 1e11, 3), np.array([1e9])))
    study = Study(pool, there, used, degree, truth, right, noise, share, rng)
    first: list[int] = []
    for k in study.first[: max(int(FIRST_SMALL * study.here.shape[1]), 2)]:
        if first and study.cost[[*first, k]].sum() > 0.3 * study.budget:
            break
        first.append(k)
    study.first = first
    return study


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Even in the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def with_best(x: np.ndarray) -> np.ndarray:
    """The best rate and batch where there is none."""
    rate, batch, d, n = x.T
    batch = np.where(np.isnan(batch), best_batch(d), batch)
    return np.stack([np.where(np.isnan(rate), best_rate(batch, d, n), rate), batch, d, n], axis=1)


def polynomial(z: np.ndarray, degree: int) -> np.ndarray:
    """[K, P]: the products of up to ``degree`` variables."""
    products = (
        z[:, list(some)].prod(axis=1)
        for count in range(degree + 1)
        for some in itertools.combinations_with_replacement(range(z.shape[1]), count)
    )
    return np.stack(list(products), axis=1)


def compared(ratios: Iterable[float]) -> str:
    """Of logarithms of errors over that of the law alone."""
    logs = np.array(list(ratios))
    mean, worse = np.exp(logs.mean()), (logs > np.log(WORSE)).mean()
    return f"{mean:6.3f} +-{mean * logs.std() / np.sqrt(len(logs)):.3f} ({worse:3.0%})"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=48, help="wide pools of each truth")
    parser.add_argument("--small", type=int, default=800, help="small pools")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    say = keeper("selection_misfit.py", argv, args.out)
    pooled: dict[str, list[np.ndarray]] = {}
    if args.trials:
        pooled["wide pools, wrong laws"] = wide_pools(args.trials, say)
    if args.small:
        pooled |= small_pools(args.small, say)
    say(f"\n{'error over that of the law alone':34} | " + " | ".join(f"{w:>20}" for w in WAYS[1:3]))
    for name, logs in pooled.items():
        told = (compared(one) for one in np.array(logs).T[1:3])
        say(f"{name:34} | " + " | ".join(f"{one:>20}" for one in told))
    return 0


def wide_pools(trials: int, say: Callable[[str], None]) -> list[np.ndarray]:
    """A line for each truth; logarithms of errors over that of the law alone [studies, ways]."""
    say(f"\nWide pools, {trials} a line; % of the loss: error (expected), and runs")
    say(f"{'truth':18}{'misfit':>7} | " + " | ".join(f"{way:>18}" for way in WAYS))
    logs = []
    for truth in TRUTHS:
        found, off = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + trials):
            study = wide(truth, seed)
            off.append(study.off)
            chosen = [study.rows(way) for way in WAYS]
            found.append([(study.error(r), study.expected(r), len(r)) for r in chosen])
        cells = []
        for error, hoped, count in np.mean(found, axis=0) ** (0.5, 0.5, 1):
            told = f" ({hoped:.2%})" if truth == RIGHT else " " * 8
            cells.append(f"{error:6.2%}{told}{count:4.0f}")
        say(f"{truth:18}{np.mean(off):7.2%} | " + " | ".join(cells))
        if truth != RIGHT:
            logs += over_law_alone(found, 0)
    return logs


def small_pools(count: int, say: Callable[[str], None]) -> dict[str, list[np.ndarray]]:
    """A line for each number of variables and parameters, with laws that are wrong and right."""
    say(f"\nSmall pools, {count} with a law that is wrong, and with one that is right")
    say(
        f"{'variables, parameters':24}{'pools':>6}{'runs':>5} | "
        + " | ".join(f"{w:>20}" for w in WAYS[1:3])
    )
    out = {}
    for right in (False, True):
        name = f"small pools, {'right' if right else 'wrong'} laws"
        say(name)
        kinds = defaultdict(list)
        for seed in range(SMALL_SEED, SMALL_SEED + count):
            study = small(seed, right)
            chosen = [study.rows(way) for way in WAYS[:3]]
            kind = len(study.places[0].T), study.here.shape[1]
            scores = [(study.error(r), study.expected(r), len(r)) for r in chosen]
            kinds[kind].append((len(study.y), over_law_alone([scores], int(right))[0]))
        for kind, found in sorted(kinds.items()):
            sizes, logs = zip(*found)
            told = (compared(one) for one in np.array(logs).T[1:3])
            say(
                f"{'{}, {}'.format(*kind):24}{len(found):6}{np.median(sizes):5.0f} | "
                + " | ".join(f"{one:>20}" for one in told)
            )
        out[name] = [one for found in kinds.values() for _, one in found]
    return out


def over_law_alone(found: list, k: int) -> list[np.ndarray]:
    """For each study, logarithms of the root of the k-th score over that of the first way."""
    return [0.5 * np.log([way[k] / ways[0][k] for way in ways]) for ways in found]


if __name__ == "__main__":
    sys.exit(main())
