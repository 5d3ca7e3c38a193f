"""Do averaged intervals hold when the form of the law is not known, and do comparisons without a
law see what is there? Simulated studies of the design of results/symmetry_ladder: six sizes from
5e3 to 1e6 parameters, three seeds at three of them, 12 evaluations from .2M atoms on, 6.4M atoms
for the first seed and 3M for the others.

    python benchmarks/law_competition.py --trials 200 --out results/laws/competition.txt
    python benchmarks/law_competition.py --only forms --truth additive "coupled .4" --trials 50

Noise: every run is off by its own constant (sd 5% at 1e4 parameters and below, 1.5% above), and its
evaluations by an autocorrelated error (sd 1%, lag-one correlation .8). The truths are additive and
coupled surfaces; an additive one with 7% on top for sizes below 4e4 (a step in depth), with
penalties of up to 4% drawn for each size (learning rates that do not fit), and with autocorrelated
errors of sd 2.5%. As in the ladder every table says that models below 4e4 have fewer layers (column
depth), so all forms that compete get a free step there; "no column": the same steps, unsaid;
"none, no column": no steps, and nothing said of them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from kept_lines import keeper  # in this directory

from forcelaw.laws.compare.compare import compare
from forcelaw.laws.compare.ratios import CONSTANT, ratios
from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.averaging import average
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.profile import profile
from forcelaw.progress import Progress
from forcelaw.table.runs import Runs

TRUTH = {"E": 0.02, "A": 15.0, "B": 450.0, "alpha": 0.40, "beta": 0.50}
SIZES = np.geomspace(5e3, 1e6, 6)
SEEDED = (1, 2, 3)  # sizes with three seeds
BEYOND = 10.0  # forecast at this multiple of the largest compute
# name -> p of the surface, step in depth, penalty of learning rates, sd within a run
TRUTHS = {
    "additive": (1.0, 0.0, 0.0, 0.01),
    "coupled .4": (0.4, 0.0, 0.0, 0.01),
    "coupled .7": (0.7, 0.0, 0.0, 0.01),
    "coupled 2": (2.0, 0.0, 0.0, 0.01),
    "depth steps": (1.0, 0.07, 0.0, 0.01),
    "no column": (1.0, 0.07, 0.0, 0.01),
    "learning rates": (1.0, 0.0, 0.04, 0.01),
    "AR(1) 2.5%": (1.0, 0.0, 0.0, 0.025),
    "none, no column": (1.0, 0.0, 0.0, 0.01),
}
NAMES = ("alpha", "beta", "gamma", "a")


def loss_of(truth: dict[str, float], p: float, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The surface with norm p; for p other than 1 the terms are scaled to the same loss where they
    are equal."""
    scale = 2.0 ** (1.0 - 1.0 / p)
    first = scale * truth["A"] * n ** -truth["alpha"]
    second = scale * truth["B"] * d ** -truth["beta"]
    return truth["E"] + (first**p + second**p) ** (1 / p)


def column(
    name: str, rng: np.random.Generator, truth: dict[str, float], factor: float = 1.0
) -> Runs:
    """One simulated architecture."""
    p, depth, rate, sd_within = TRUTHS[name]
    sizes, seeds, ends = [], [], []
    for i in range(len(SIZES)):
        for seed in range(3 if i in SEEDED else 1):
            sizes.append(i)
            seeds.append(seed)
            ends.append(3e6 if seed else 6.4e6)
    data = np.stack([np.geomspace(2e5, end, 12) for end in ends])
    run = np.repeat(np.arange(len(sizes)), 12)
    size = np.array(sizes)[run]
    n, d = SIZES[size], data.ravel()
    loss = factor * loss_of(truth, p, n, d)
    loss = loss * np.where(n < 4e4, 1 + depth, 1.0)
    loss = loss * (1 + rate * rng.uniform(size=len(SIZES)))[size]
    constant = rng.normal(size=len(sizes)) * np.where(SIZES[sizes] < 1.6e4, 0.05, 0.015)
    loss = loss * np.exp(constant[run] + simulate.noise(run, rng, sd_run=0.0, sd_within=sd_within))
    made = simulate.table(
        n=n, d=d, loss=loss, run=run, c=6 * n * d, seed=np.array(seeds)[run], group=name
    )
    if "no column" in name:
        return made
    return replace(made, frame=pl.DataFrame({"depth": np.where(n < 4e4, 2, 3)}))


def noise_of(name: str, seed: int, use: int) -> np.random.Generator:
    """Each truth and each use has its own errors."""
    return np.random.default_rng([seed, use, list(TRUTHS).index(name)])


def pair(name: str, seed: int, steeper: float = 0.0) -> Runs:
    """Two architectures: the second has half the loss, and beta larger by ``steeper``."""
    rng = noise_of(name, seed, 7)
    moved = TRUTH | {"beta": TRUTH["beta"] + steeper, "B": TRUTH["B"] * 1e6**steeper}
    one, two = column(name, rng, TRUTH), column(name, rng, moved, 0.5)
    runs = {key: np.concatenate([one[key], two[key]]) for key in one.values}
    both = replace(
        one,
        values=runs,
        run=np.concatenate([one.run, two.run + len(one.run_names)]),
        run_names=[f"{g}{r}" for g in "AB" for r in one.run_names],
        group=np.repeat([0, 1], [len(one), len(two)]),
        group_names=["A", "B"],
        seed=np.concatenate([one.seed, two.seed]),
        frame=None if one.frame is None else pl.concat([one.frame, two.frame]),
    )
    return both


def truth_values() -> dict[str, float]:
    alpha, beta = TRUTH["alpha"], TRUTH["beta"]
    return {
        "alpha": alpha,
        "beta": beta,
        "gamma": alpha * beta / (alpha + beta),
        "a": beta / (alpha + beta),
    }


def forms(trials: int, say, args: argparse.Namespace) -> None:
    """Coverage of averaged and of single-form intervals, and the weights."""
    say(
        f"\nCoverage of nominal 95% intervals, {trials} studies a truth (standard error"
        f" {100 * np.sqrt(0.05 * 0.95 / trials):.1f} points): averaged over forms (what law auto"
        " gives), of the additive surface alone by jackknife, and of that by profile over runs;"
        f" forecast: the law at {BEYOND:g} times the largest compute"
    )
    say(
        f"{'truth':15} | averaged: "
        + " ".join(f"{name:>6}" for name in (*NAMES, "forec."))
        + " | surface:  "
        + " ".join(f"{name:>6}" for name in (*NAMES, "forec."))
        + " | profile: "
        + " ".join(f"{name:>6}" for name in NAMES)
        + " | width of alpha, beta, forecast: averaged / surface | mean weights"
    )
    told = truth_values()
    n, d = SIZES[-1] * np.sqrt(BEYOND), 6.4e6 * np.sqrt(BEYOND)
    for name in args.truth:
        ahead = float(loss_of(TRUTH, TRUTHS[name][0], n, d))
        hits: dict[str, list[list[bool]]] = {"averaged": [], "surface": []}
        widths: dict[str, list[list[float]]] = {"averaged": [], "surface": []}
        weights: dict[str, float] = {}
        inside: list[list[bool]] = []
        bar = Progress(name, trials, unit="studies")
        for seed in range(trials):
            runs = column(name, noise_of(name, seed, 3), TRUTH)
            found = average(runs)
            single = fit(runs, "surface", interval="jackknife")
            if single.ok:
                by_run = profile(runs, single).intervals
                inside.append([_holds(by_run[q], told[q]) for q in NAMES])
            for form in found.forms:
                weights[form.name] = weights.get(form.name, 0.0) + form.weight / trials
            for key, result in (("averaged", found), ("surface", single)):
                if not result.ok:
                    continue
                band = result.interval(n=n, d=d)
                ends = [(result[q].low, result[q].high) for q in NAMES]
                ends.append((float(band.low[0]), float(band.high[0])))
                at = [*(told[q] for q in NAMES), ahead]
                hits[key].append([low <= t <= high for (low, high), t in zip(ends, at)])
                widths[key].append([high - low for low, high in ends])
            bar.update(seed + 1)
        bar.close()
        cover = {key: np.mean(value, axis=0) for key, value in hits.items()}
        width = {key: np.median(value, axis=0) for key, value in widths.items()}
        say(
            f"{name:15} |           "
            + " ".join(f"{c:6.3f}" for c in cover["averaged"])
            + " |           "
            + " ".join(f"{c:6.3f}" for c in cover["surface"])
            + " |          "
            + " ".join(f"{c:6.3f}" for c in np.mean(inside, axis=0))
            + " | "
            + ", ".join(
                f"{width['averaged'][i]:.3f} / {width['surface'][i]:.3f}" for i in (0, 1, 4)
            )
            + " | "
            + ", ".join(f"{key} {value:.2f}" for key, value in weights.items())
        )


def _holds(ends: tuple[float | None, float | None], truth: float) -> bool:
    low, high = ends
    return (low is None or low <= truth) and (high is None or truth <= high)


def comparisons(trials: int, say, args: argparse.Namespace) -> None:
    """What is said of two columns that differ by a factor, and of two that differ in beta."""
    say(
        f"\nTwo architectures, {trials} studies each, the second at half the loss: share in which"
        ' the ratios say "constant factor", in which they show an extra slope in D, in which the'
        " additive surface calls beta different (p < .05), and in which that is supported by the"
        " ratios; mean extra slope in D"
    )
    say(
        f"{'truth':15} {'beta':>6} | constant  slope in D  law differs  supported | slope  coverage"
        " of the mean slope"
    )
    for name in args.truth:
        for steeper in (0.0, args.steeper):
            said = []
            bar = Progress(f"{name}, {steeper:+.2f}", trials, unit="studies")
            for seed in range(trials):
                runs = pair(name, seed, steeper)
                found = ratios(runs, "A", "B")
                law = compare(runs, "surface", x=None, joint=False, permutations=0)
                test = law.pairs[0].tests["beta"] if law.pairs else None
                differs = test is not None and test.p < 0.05
                slope = found.slopes["d"]
                shows = slope.p < 0.05
                supported = differs and shows and slope.value * test.difference > 0
                said.append(
                    [found.verdict == CONSTANT, shows, differs, supported, slope.value, slope.se]
                )
                bar.update(seed + 1)
            bar.close()
            table = np.array(said, float)
            mean = table.mean(axis=0)
            inside = np.abs(table[:, 4] - mean[4]) < 2.571 * table[:, 5]
            say(
                f"{name:15} {steeper:+6.2f} | {mean[0]:8.3f}  {mean[1]:10.3f}  {mean[2]:11.3f} "
                f" {mean[3]:9.3f} | {mean[4]:+.3f}  {inside.mean():.3f}"
            )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--truth", nargs="+", default=list(TRUTHS), choices=list(TRUTHS))
    parser.add_argument("--only", choices=("forms", "comparisons"))
    parser.add_argument("--steeper", type=float, default=0.05, help="difference in beta")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    say = keeper("law_competition.py", argv, args.out)

    for name, part in (("forms", forms), ("comparisons", comparisons)):
        if args.only in (None, name):
            part(args.trials, say, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
