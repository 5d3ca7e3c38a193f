"""Is `budget`'s P(best) what it says?

    python benchmarks/best_calibration.py [--trials 120] > results/laws/best_calibration.txt

Two architectures, simulated: trajectories (every run off by its own constant, checkpoints
autocorrelated) or iso-FLOP tables (five budgets of six sizes, one row a run). Their losses at the
best N and D of the budget differ by a gap.

1. Gaps uniform over several standard deviations, new in each table: of the tables in which the
   first choice was said to be best with P, it is in a share P of them, if P is right. With it the
   root mean square of (gap said - true gap) / its sd, which is 1 if sds are right and below if they
   are too long.
2. One gap in all tables. Then even a perfect P does not agree with the share: with no gap at all
   the first choice is right in half of the tables, and a perfect forecast says .75 of it on the
   mean, since it is the one that its table favours. "ideal" is what a perfect forecast would say.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from scipy import stats

import forcelaw
from forcelaw.laws.decide import simulate
from forcelaw.table.runs import Runs

TRUTH = {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40}
BINS = (0.6, 0.7, 0.8, 0.9, 0.97)
# kind, runs, budget over the largest measured, half the range of gaps, noise factor, power
CASES = (
    ("trajectories", 4, 3, 0.15, 1.0, 1.0),
    ("trajectories", 6, 3, 0.12, 1.0, 1.0),
    ("trajectories", 6, 30, 0.2, 1.0, 1.0),
    ("trajectories", 6, 3, 0.2, 3.0, 1.0),
    ("trajectories", 6, 30, 0.2, 1.0, 0.5),
    ("trajectories", 6, 30, 0.2, 1.0, 2.0),
    ("trajectories", 10, 10, 0.15, 1.0, 1.0),
    ("iso-FLOP", 30, 3, 0.06, 1.0, 1.0),
    ("iso-FLOP", 30, 30, 0.15, 1.0, 1.0),
)
FIXED = (("trajectories", 6, 3, 0.02), ("trajectories", 6, 3, 0.04), ("iso-FLOP", 30, 3, 0.01))


def loss_of(truth: dict[str, float], n: np.ndarray, d: np.ndarray, power: float) -> np.ndarray:
    """E + ((A N^-alpha)^(1/power) + (B D^-beta)^(1/power))^power: the surface where power is 1."""
    terms = truth["A"] * n ** -truth["alpha"], truth["B"] * d ** -truth["beta"]
    return truth["E"] + sum(term ** (1 / power) for term in terms) ** power


def architectures(rng: np.random.Generator, budget: float, gap: float, power: float):
    """Two truths; the best loss of the second at the budget is exp(gap) times the first's."""
    n = np.geomspace(1e3, 1e10, 2001)
    other = TRUTH | {
        "alpha": TRUTH["alpha"] + rng.normal(0, 0.02),
        "beta": TRUTH["beta"] + rng.normal(0, 0.02),
    }
    other["A"] *= 3e5 ** (other["alpha"] - TRUTH["alpha"])
    other["B"] *= 1e8 ** (other["beta"] - TRUTH["beta"])
    lowest = [loss_of(one, n, budget / 6 / n, power).min() for one in (TRUTH, other)]
    scale = lowest[0] / lowest[1] * np.exp(gap)
    return TRUTH, other | {
        "E": other["E"] * scale,
        "A": other["A"] * scale,
        "B": other["B"] * scale,
    }


def table(rng: np.random.Generator, kind: str, runs: int, truths, noise: float, power: float):
    """One table of both."""
    parts = []
    for truth in truths:
        if kind == "trajectories":
            n = np.repeat(np.geomspace(1e4, 3e6, runs), 12)
            d, run = np.tile(np.geomspace(1e6, 1e9, 12), runs), np.repeat(np.arange(runs), 12)
        else:
            c = np.repeat(np.geomspace(1.2e12, 1.8e16, 5), 6)
            n = np.sqrt(c / 1200) * np.tile(np.geomspace(0.25, 4, 6), 5)
            d, run = c / 6 / n, np.arange(30)
        error = simulate.noise(run, rng, sd_run=0.01 * noise, sd_within=0.004 * noise)
        loss = loss_of(truth, n, d, power) * np.exp(error)
        parts.append((n, d, loss, run + 100 * len(parts)))
    n, d, loss, run = (np.concatenate(values) for values in zip(*parts))
    names, code = np.unique(run, return_inverse=True)
    return Runs(
        values={"n": n, "d": d, "loss": loss, "c": 6 * n * d},
        run=code.ravel(),
        run_names=[str(name) for name in names],
        group=np.repeat([0, 1], len(run) // 2),
        group_names=["A", "B"],
        seed=None,
        taken={},
        source="simulation",
    )


def judged(trials: int, kind: str, runs: int, reach: float, noise: float, power: float, gaps):
    """P of the first choice, whether it is best, and (gap said - true) over its sd, of each
    table."""
    said, right, off = [], [], []
    budget = reach * 1.8e16
    for trial in range(trials):
        rng = np.random.default_rng([trial, runs, int(reach)])
        truths = architectures(rng, budget, gaps(rng), power)
        found = forcelaw.budget(table(rng, kind, runs, truths, noise, power), flops=budget)
        by = {one.group: one for one in found.choices if one.ok}
        if len(by) < 2:
            continue
        true = {
            name: float(loss_of(truth, by[name].n, by[name].d, power))
            for name, truth in zip("AB", truths)
        }
        best = found.choices[0]
        said.append(best.p_best)
        right.append(true[best.group] == min(true.values()))
        # what P(best) is made of: normal errors of the two laws
        sd_of_gap = abs(np.log(by["B"].loss / by["A"].loss)) / max(
            float(stats.norm.ppf(min(max(best.p_best, 0.5005), 0.9998))), 1e-3
        )
        off.append(
            (np.log(by["B"].loss / by["A"].loss) - np.log(true["B"] / true["A"])) / sd_of_gap
        )
    return np.array(said), np.array(right), np.array(off)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--kind", nargs="+", default=["trajectories", "iso-FLOP"])
    parser.add_argument("--part", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    command = " ".join(["python benchmarks/best_calibration.py", *sys.argv[1:]])
    print(f"# {command}, {time.strftime('%Y-%m-%d')}")
    if 1 in args.part:
        drawn_gaps(args.trials, args.kind)
    if 2 in args.part:
        one_gap(args.trials)
    return 0


def drawn_gaps(trials: int, kinds: list[str]) -> None:
    print("\n1. gaps uniform: said / share that is best (tables), by what was said\n")
    for kind, runs, reach, width, noise, power in CASES:
        if kind not in kinds:
            continue
        said, right, off = judged(
            trials, kind, runs, reach, noise, power, lambda rng, w=width: rng.uniform(-w, w)
        )
        bins = np.digitize(said, BINS)
        cells = "  ".join(
            f"{said[bins == i].mean():.2f}/{right[bins == i].mean():.2f} ({(bins == i).sum()})"
            for i in range(len(BINS) + 1)
            if (bins == i).any()
        )
        certain = (said > 0.55) & (said < 0.999)
        print(
            f"{kind:12} {runs:>2} runs, {reach:>2} times, noise x{noise:g}, power {power:g}:"
            f" {said.mean():.2f}/{right.mean():.2f} |  {cells} | rms"
            f" {np.sqrt(np.mean(off[certain] ** 2)):.2f}",
            flush=True,
        )


def one_gap(trials: int) -> None:
    print("\n2. one gap in all tables: said, ideal, share that is best\n")
    grid = np.linspace(-6, 6, 2001)
    weight = stats.norm.pdf(grid) * (grid[1] - grid[0])
    for kind, runs, reach, gap in FIXED:
        said, right, _ = judged(trials, kind, runs, reach, 1.0, 1.0, lambda rng, g=gap: g)
        d = float(stats.norm.ppf(np.clip(right.mean(), 0.5, 0.995)))
        ideal = float(stats.norm.cdf(np.abs(d + grid)) @ weight)
        print(
            f"{kind:12} {runs:>2} runs, {reach:>2} times, gap {gap:.0%}: said {said.mean():.2f},"
            f" ideal {ideal:.2f}, best in {right.mean():.2f}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
