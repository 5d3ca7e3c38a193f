"""How often `compare` calls equal exponents different at 5%, beyond the designs of law_coverage.py.

    python benchmarks/compare_null.py [--trials 400] > results/laws/compare_null.txt

Two architectures with the same exponents (the second has .8 of the first's coefficients). Errors of
ln L: a constant of each run, and a first-order autoregression along its ten checkpoints; in paired
designs 70% of the variance of the constants is common to a pair. Truths of the fitted form, without
a floor (so that the fitted one ends at zero in about half of the fits), and not of the form (a
power of the sum of powers). Final losses only: sizes by lengths, one row a run. Shares of tables
with p < .05, standard error 1.1 points at 400 tables; the median length of alpha's interval; and
the share for alpha where neither, one or both floors end at zero (a condition that the errors
decide, so no part of it need be 5%).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass

import numpy as np
from law_coverage import STUDIES

from forcelaw.laws.compare.compare import difference
from forcelaw.laws.compare.pairing import Pairing
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.result import AT_BOUND
from forcelaw.table.runs import Runs

SHARED = 0.7
TESTED = ("alpha", "beta", "gamma")


@dataclass
class Design:
    """What is simulated; sd of a run's constant and of the autoregression, and its correlation."""

    name: str
    study: str = "force field"
    runs: int = 6
    paired: bool = True
    final: bool = False
    sd_run: float = 0.01
    sd_within: float = 0.004
    correlation: float = 0.8
    floor: float = 1.0  # times the study's
    power: float = 1.0
    growing: float = 0.0  # ln of the noise at the largest N over that in the middle
    along: float = 0.0  # D of a run's checkpoints is higher by (N / middle N) to this power


def designs() -> list[Design]:
    many = [
        Design("trajectories", runs=runs, paired=paired)
        for runs in (4, 6, 10, 20)
        for paired in (True, False)
    ]
    drift = {"sd_run": 0.004, "sd_within": 0.01, "correlation": 0.9}
    many += [
        Design("drifting", runs=runs, paired=paired, **drift)
        for runs in (4, 6, 10, 20)
        for paired in (True, False)
    ]
    many += [
        Design("final losses", runs=runs, paired=paired, final=True)
        for runs in (10, 20)
        for paired in (True, False)
    ]
    return [
        *many,
        Design("drifting", study="language", **drift),
        Design("drift alone", sd_run=0.0, sd_within=0.01, correlation=0.9),
        Design("no floor", floor=0.0),
        Design("no floor, drifting", floor=0.0, **drift),
        Design("small floor, drifting", floor=0.5, sd_run=0.01, sd_within=0.02, correlation=0.9),
        Design("coupled .5", power=0.5),
        Design("coupled 2", power=2.0),
        Design("D goes with N", along=1.0),
        Design("D goes with N, drifting", along=1.0, **drift),
        Design("noise grows with N", growing=1.0),
        Design("noise falls with N", growing=-1.0),
    ]


def table(design: Design, factor: float, common: np.ndarray, rng: np.random.Generator) -> Runs:
    """One architecture; common [runs]: what its runs share with those of the other."""
    truth, n, d = STUDIES[design.study]
    if design.final:
        lengths = 3 if design.runs <= 10 else 4
        sizes, data = np.geomspace(*n, -(-design.runs // lengths)), np.geomspace(*d, lengths)
        at = np.array([(a, b) for a in sizes for b in data])[: design.runs]
        run = np.arange(design.runs)
    else:
        sizes, data = np.geomspace(*n, design.runs), np.geomspace(*d, 10)
        at = np.array([(a, b) for a in sizes for b in data])
        run = np.repeat(np.arange(design.runs), 10)
        at[:, 1] *= (at[:, 0] / np.sqrt(n[0] * n[1])) ** design.along
    own = design.sd_run * np.sqrt(1 - SHARED * design.paired)
    error = common[run] + simulate.noise(
        run, rng, sd_run=own, sd_within=design.sd_within, correlation=design.correlation
    )
    error = error * np.exp(design.growing * np.linspace(-1, 1, design.runs))[run]
    terms = (
        truth["A"] * at[:, 0] ** -truth["alpha"],
        truth["B"] * at[:, 1] ** -truth["beta"],
    )
    power = design.power
    loss = design.floor * truth["E"] + factor * sum(z ** (1 / power) for z in terms) ** power
    return simulate.table(n=at[:, 0], d=at[:, 1], loss=loss * np.exp(error), run=run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--only", nargs="+", help="names of designs")
    args = parser.parse_args()
    command = shlex.join(["python", "benchmarks/compare_null.py", *sys.argv[1:]])
    print(f"# {command}, {time.strftime('%Y-%m-%d')}")
    print(
        f"{'design':24} runs          tables  alpha  beta gamma  length | alpha, floors at zero:"
        " none, one, both"
    )
    for design in designs():
        if args.only and design.name not in args.only:
            continue
        found, at_zero = [], []
        for trial in range(args.trials):
            rng = np.random.default_rng([trial, design.runs, 5])
            common = rng.normal(0, design.sd_run * np.sqrt(SHARED), design.runs) * design.paired
            fits = [
                fit(table(design, factor, common, rng), interval="jackknife")
                for factor in (1.0, 0.8)
            ]
            if not all(one.ok for one in fits):
                continue
            both = np.arange(design.runs)
            pairing = Pairing(both, both) if design.paired else None
            tests = [difference(name, *fits, pairing, 0.95) for name in TESTED]
            found.append([*(one.p < 0.05 for one in tests), tests[0].high - tests[0].low])
            at_zero.append(sum(one.status == AT_BOUND for one in fits))
        values, count = np.array(found), np.array(at_zero)
        shares = "".join(f"{x:>7.3f}" for x in values[:, :3].mean(0))
        split = ", ".join(
            f"{values[count == k, 0].mean():.3f} ({(count == k).sum()})"
            if (count == k).any()
            else "-"
            for k in range(3)
        )
        kind = "paired" if design.paired else "unpaired"
        print(
            f"{design.name:24} {design.runs:>4} {kind:8} {len(found):>6} {shares}"
            f" {np.median(values[:, 3]):>7.3f} | {split}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
