"""How often does each check of `forcelaw diagnose` fail, on sound studies and on faults? Simulated
studies of the ladder's design (benchmarks/law_competition.py: 12 runs of six sizes, three seeds at
three of them).

    python benchmarks/law_diagnosis.py --trials 60 --out results/laws/diagnosis.txt

The first table has every check on every truth: the first row is the size of each check, the others
say what each sees of a form that is not the fitted one, of 7% steps in depth, of penalties of up to
4% drawn for each size, and of autocorrelated errors of 2.5%. The second has faults of the design,
each with the check that is there for it, without the fault (size) and with it (power).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import law_competition as ladder
import numpy as np
import polars as pl
from kept_lines import keeper  # in this directory

from forcelaw.laws.diagnose.covariates import batches, learning_rates, sweep_ends
from forcelaw.laws.diagnose.diagnose import diagnose
from forcelaw.laws.diagnose.seeds import seeds
from forcelaw.laws.diagnose.stability import windows
from forcelaw.laws.fit.fit import fit
from forcelaw.progress import Progress
from forcelaw.table.runs import Runs

# fails always: in this design the smallest and the largest sizes end the frontier
EDGE = "optimum inside grid"
RATES = np.array([2e-3, 4e-3, 8e-3])


def every_check(trials: int, say) -> None:
    """Share of failures of each check, by truth."""
    say(
        f"\nShare of {trials} studies in which a check fails (each is made at 1%), surface fitted;"
        f" any: any but {EDGE!r}"
    )
    names: list[str] = []
    for truth in ladder.TRUTHS:
        failed: dict[str, int] = {}
        unusable = called = 0
        bar = Progress(truth, trials, unit="studies")
        for seed in range(trials):
            found = diagnose(ladder.column(truth, ladder.noise_of(truth, seed, 11), ladder.TRUTH))
            unusable += found.verdict == "refused"
            called += any(check.name != EDGE for check in found.failed)
            for check in found.checks:
                failed[check.name] = failed.get(check.name, 0) + (check.passed is False)
            bar.update(seed + 1)
        bar.close()
        if not names:
            names = [name for name in failed if name != "fit"]
            say(f"{'truth':15} {'any':>5} " + " ".join(f"{_short(name):>8}" for name in names))
        cells = " ".join(f"{failed.get(name, 0) / trials:8.2f}" for name in names)
        say(
            f"{truth:15} {called / trials:5.2f} {cells}"
            + f"  ({unusable} refused)" * (unusable > 0)
        )


def _short(name: str) -> str:
    words = name.split()
    return (
        name if len(name) < 9 else "".join(w[:3] for w in words[:3]) if len(words) > 1 else name[:8]
    )


# -- faults of the design ------------------------------------------------------------------------


def sound(seed: int, use: int) -> Runs:
    return ladder.column("additive", ladder.noise_of("additive", seed, use), ladder.TRUTH)


def per_run(runs: Runs, rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """One of ``values`` for each run, [rows]."""
    return rng.choice(values, len(runs.run_names))[runs.run]


def rates(seed: int, effect: float) -> bool | None:
    """Runs at three learning rates; twice the rate changes the loss by ``effect``."""
    runs = sound(seed, 21)
    lr = per_run(runs, np.random.default_rng([seed, 22]), RATES)
    loss = runs["loss"] * (lr / RATES[0]) ** np.log2(1 + effect)
    runs = replace(runs, values=runs.values | {"loss": loss}, frame=pl.DataFrame({"lr": lr}))
    found = learning_rates(runs, fit(runs, interval="jackknife"))
    return None if found is None else found.passed


def sweep(seed: int, end: bool) -> bool | None:
    """Four rates, one run each (sd 1.5%), the loss 3% higher for each factor of two squared; the
    best is the second, or lies beyond the last."""
    lr = np.array([1e-3, 2e-3, 4e-3, 8e-3])
    best = 1.2e-2 if end else 2.5e-3
    noise = np.random.default_rng([seed, 23, int(end)]).normal(size=4) * 0.015
    loss = 0.3 * np.exp(0.03 * np.log2(lr / best) ** 2 + noise)
    table = {"run": list("abcd"), "n": [1e5] * 4, "d": [1e7] * 4, "loss": loss, "lr": lr}
    found = sweep_ends(Runs.from_frame(table), 0.015)
    return None if found is None else found.passed


def uneven(seed: int, factor: float) -> bool | None:
    """Seeds of the smallest repeated size differ ``factor`` times as much as the others (1.5%);
    three seeds each."""
    runs = sound(seed, 24)
    rng = np.random.default_rng([seed, 25])
    n = np.array([runs["n"][runs.run == r][0] for r in range(len(runs.run_names))])
    truth = ladder.loss_of(ladder.TRUTH, 1.0, runs["n"], runs["d"])
    small = np.isclose(n, ladder.SIZES[ladder.SEEDED[0]])
    off = rng.normal(size=len(n)) * 0.015 * np.where(small, factor, 1.0)
    runs = replace(runs, values=runs.values | {"loss": truth * np.exp(off[runs.run])})
    found = seeds(runs, fit(runs, interval="jackknife"))
    return None if found is None else found.passed


def batch(seed: int, effect: float) -> bool | None:
    """Runs at three batch sizes; twice the batch changes the loss by ``effect``."""
    runs = sound(seed, 26)
    size = per_run(runs, np.random.default_rng([seed, 27]), np.array([250.0, 500.0, 1000.0]))
    loss = runs["loss"] * (size / 500) ** np.log2(1 + effect)
    runs = replace(runs, values=runs.values | {"loss": loss, "step": runs["d"] / size})
    found = batches(runs, fit(runs, interval="jackknife"))
    return None if found is None else found.passed


def window(seed: int, bend: float) -> bool | None:
    """The loss falls more slowly by ``bend`` beyond 1M atoms; a negative one: faster by as much
    below .6M."""
    runs = sound(seed, 28)
    late, early = np.maximum(runs["d"] / 1e6, 1.0), np.maximum(6e5 / runs["d"], 1.0)
    loss = runs["loss"] * (late**bend if bend > 0 else early**-bend)
    runs = replace(runs, values=runs.values | {"loss": loss})
    checks = windows(runs, fit(runs, interval="jackknife"))
    return all(check.passed is not False for check in checks)


FAULTS: list[tuple[str, Callable[[int, float], bool | None], float, float, str]] = [
    ("learning rates", rates, 0.0, 0.04, "4% for twice the rate, three rates over the runs"),
    ("sweep", sweep, False, True, "best rate beyond the last tried, 4% still to be had"),
    ("seeds", uneven, 1.0, 5.0, "7.5% between seeds of one size, 1.5% elsewhere"),
    ("batch size", batch, 0.0, 0.05, "5% for twice the batch, three batches over the runs"),
    ("windows", window, 0.0, 0.15, "slope in D .15 less beyond 1M atoms: looks like a floor"),
    ("windows", window, 0.0, 0.3, "slope in D .3 less beyond 1M atoms"),
    ("windows", window, 0.0, -0.15, "slope in D .15 more below .6M atoms"),
]


def faults(trials: int, say) -> None:
    """Size and power of the checks of the design."""
    say(f"\nFaults of the design, {trials} studies each: share in which it fails, is unknown")
    say(f"{'check':15} | without: fails unknown | with: fails unknown | fault")
    for name, make, none, some, words in FAULTS:
        shares = []
        bar = Progress(name, 2 * trials, unit="studies")
        for k, strength in enumerate((none, some)):
            said = []
            for seed in range(trials):
                said.append(make(seed, strength))
                bar.update(k * trials + seed + 1)
            shares += [
                np.mean([one is False for one in said]),
                np.mean([one is None for one in said]),
            ]
        bar.close()
        cells = " ".join(f"{share:7.2f}" for share in shares[:2])
        more = " ".join(f"{share:7.2f}" for share in shares[2:])
        say(f"{name:15} |       {cells}  |    {more}  | {words}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--only", choices=("checks", "faults"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    say = keeper("law_diagnosis.py", argv, args.out)

    for name, part in (("checks", every_check), ("faults", faults)):
        if args.only in (None, name):
            part(args.trials, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
