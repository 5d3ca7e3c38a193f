"""How often do nominal 95% intervals hold the truth, how often does the comparison call equal
exponents different, and how often is a sound study called a trend? Simulated studies with the
errors of real ones: every run is off by its own constant (sd 1%), and its ten checkpoints by an
autocorrelated error (sd 0.4%, lag-one correlation 0.8).

    python benchmarks/law_coverage.py --trials 1000 --out results/laws/coverage.txt
    python benchmarks/law_coverage.py --only intervals --trials 100
    python benchmarks/law_coverage.py --only comparison --study language --runs 6 --null \\
        --trials 2000   # one cell, closer
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from forcelaw.laws.compare.compare import compare
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.repeats import fit_repeats
from forcelaw.laws.diagnose.diagnose import diagnose
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.fit.floor_profile import profile_floor
from forcelaw.laws.frontier.frontier import frontier
from forcelaw.progress import Progress
from forcelaw.table.runs import Runs

# A language-model surface (Chinchilla's numbers) and one like a force field's: steeper per
# parameter, floor near zero.
STUDIES = {
    "language": (
        {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.347, "beta": 0.366},
        (5e7, 1e10),
        (1e9, 3e11),
    ),
    "force field": (
        {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40},
        (1e4, 3e6),
        (1e6, 1e9),
    ),
}
SIZES = (6, 10, 20)


def study(name: str, groups: int, seed: int, **noise: float) -> Runs:
    """One simulated study: ``groups`` runs of ten checkpoints, sizes and data log-spaced."""
    truth, n, d = STUDIES[name]
    rng = np.random.default_rng([seed, groups])
    return simulate.trajectories(
        truth, np.geomspace(*n, groups), np.geomspace(*d, 10), rng, **noise
    )


def truth_of(name: str) -> dict[str, float]:
    truth = dict(STUDIES[name][0])
    total = truth["alpha"] + truth["beta"]
    return truth | {"a": truth["beta"] / total, "gamma": truth["alpha"] * truth["beta"] / total}


def intervals(trials: int, say, args: argparse.Namespace) -> None:
    """Coverage of alpha, beta, a, E, gamma from the surface; of gamma from the frontier; of the
    floor's profile."""
    say(
        f"\nCoverage of nominal 95% intervals, {trials} studies each (standard error"
        f" {100 * np.sqrt(0.05 * 0.95 / trials):.1f} points), Huber's loss with a robust delta,"
        " delete-one-run jackknife with t"
    )
    names = ("alpha", "beta", "a", "E", "gamma")
    say(
        f"{'study':12} {'runs':>4} | "
        + " ".join(f"{name:>6}" for name in names)
        + " | profile E | frontier gamma: cover  bias   used  hull's bias | median widths: "
        + " ".join(f"{name:>6}" for name in names)
    )
    for name in args.study:
        truth = truth_of(name)
        for groups in args.runs:
            hits: dict[str, list[bool]] = {key: [] for key in (*names, "profile", "frontier")}
            widths: dict[str, list[float]] = {key: [] for key in names}
            gammas, hulls, unusable = [], [], 0
            bar = Progress(f"{name}, {groups} runs", trials, unit="studies")
            for seed in range(trials):
                runs = study(name, groups, seed)
                result = fit(runs)
                if not result.ok:
                    unusable += 1
                    continue
                for key in names:
                    hits[key].append(result[key].low <= truth[key] <= result[key].high)
                    widths[key].append(result[key].high - result[key].low)
                profile = profile_floor(runs, result)
                hits["profile"].append(profile.low <= truth["E"] <= profile.high)
                found = frontier(runs)
                points = found.points
                vertices = simulate.table(
                    n=points["n"],
                    d=points["d"],
                    c=points["x"],
                    loss=points["loss"],
                    run=np.arange(len(points["x"])),
                )
                hull = fit(vertices, "frontier", objective="log", interval="none")
                if hull.ok:
                    hulls.append(hull["gamma"].value)
                if found.fit.ok:
                    gamma = found.fit.derived["gamma"]
                    gammas.append(gamma.value)
                    hits["frontier"].append(gamma.low <= truth["gamma"] <= gamma.high)
                bar.update(seed + 1)
            bar.close()
            cover = " ".join(f"{np.mean(hits[key]):6.3f}" for key in names)
            bias = f"{np.mean(gammas) / truth['gamma'] - 1:+5.1%}" if gammas else "-"
            hull_bias = f"{np.mean(hulls) / truth['gamma'] - 1:+5.1%}" if hulls else "-"
            say(
                f"{name:12} {groups:4} | {cover} | {np.mean(hits['profile']):9.3f} | "
                f"{np.mean(hits['frontier']) if gammas else float('nan'):21.3f} {bias:>6} "
                f"{len(gammas) / trials:5.0%} {hull_bias:>12} | "
                "               "
                + " ".join(f"{np.median(widths[key]):6.3f}" for key in names)
                + (f"  ({unusable} unusable)" if unusable else "")
            )


def two(name: str, groups: int, seed: int, shared: float, difference: float, sd_run: float) -> Runs:
    """Two architectures; ``shared`` of the variance between runs is common to the runs of a pair
    (same data and seed); alpha of the second is larger by ``difference``, its A such that losses
    agree at the middle size."""
    truth, n, d = STUDIES[name]
    rng = np.random.default_rng([seed, groups, 1])
    middle = np.exp(0.5 * np.log(n[0] * n[1]))
    other = truth | {
        "alpha": truth["alpha"] + difference,
        "A": 0.8 * truth["A"] * middle**difference,
        "B": 0.8 * truth["B"],
    }
    common = rng.normal(size=groups) * sd_run * np.sqrt(shared)
    parts = []
    for one, kappa in ((truth, 2.0), (other, 6.0)):
        made = simulate.trajectories(
            one,
            np.geomspace(*n, groups),
            np.geomspace(*d, 10),
            rng,
            kappa=kappa,
            sd_run=sd_run * np.sqrt(1 - shared),
        )
        parts.append(
            replace(made, values=made.values | {"loss": made["loss"] * np.exp(common[made.run])})
        )
    a, b = parts
    return Runs(
        values={key: np.concatenate([a[key], b[key]]) for key in a.values},
        run=np.concatenate([a.run, b.run + groups]),
        run_names=[f"A{i}" for i in range(groups)] + [f"B{i}" for i in range(groups)],
        group=np.repeat([0, 1], [len(a), len(b)]),
        group_names=["A", "B"],
        seed=np.concatenate([a.seed, b.seed]),
        taken={},
        source="simulation",
    )


def comparison(trials: int, say, args: argparse.Namespace) -> None:
    """Size and power of the tests of a difference between two architectures."""
    sd_run = 0.01
    say(
        f"\nTests between two architectures at 5%: sd between runs {sd_run:.0%}, prefactors 20%"
        " apart, in paired studies 70% of the variance between runs in common.\nSize (true"
        f" difference 0) over {trials} studies (standard error"
        f" {100 * np.sqrt(0.05 * 0.95 / trials):.1f} points), power (alpha larger by 0.05 or 0.1)"
        f" over {trials // 4}; beta and E stay equal"
    )
    names = ("alpha", "beta", "a", "gamma", "E")
    say(
        f"{'study':12} {'runs each':>9} {'design':9} {'true d-alpha':>12} | rejected: "
        + " ".join(f"{name:>6}" for name in names)
        + " | labels permuted:  alpha   beta"
    )
    for study_name in args.study:
        for groups in args.runs:
            for shared, paired in ((0.0, False), (0.7, True)):
                for difference in (0.0,) if args.null else (0.0, 0.05, 0.1):
                    count = trials if difference == 0 else trials // 4
                    rejected: dict[str, list[bool]] = {name: [] for name in names}
                    permuted: dict[str, list[bool]] = {"alpha": [], "beta": []}
                    bar = Progress(
                        f"{groups} runs, {'paired' if paired else 'unpaired'}, {difference}",
                        count,
                        unit="studies",
                    )
                    for seed in range(count):
                        runs = two(study_name, groups, seed, shared, difference, sd_run)
                        found = compare(
                            runs, paired=paired, x=None, joint=False, permutations=999, seed=seed
                        )
                        if not found.pairs:
                            continue
                        tests = found.pairs[0].tests
                        for name in names:
                            rejected[name].append(tests[name].p < 0.05)
                        for name, values in permuted.items():
                            if tests[name].p_permutation is not None:
                                values.append(tests[name].p_permutation <= 0.05)
                        bar.update(seed + 1)
                    bar.close()
                    say(
                        f"{study_name:12} {groups:9} {'paired' if paired else 'unpaired':9}"
                        f" {difference:12.2f} |           "
                        + " ".join(f"{np.mean(rejected[name]):6.3f}" for name in names)
                        + " |                 "
                        + " ".join(
                            f"{np.mean(values):6.3f}" if values else f"{'-':>6}"
                            for values in permuted.values()
                        )
                    )


def bent(kind: str, seed: int) -> Runs:
    """Studies that are no power laws: the diagnosis should say so."""
    groups = 12
    runs = study("force field", groups, seed)
    loss, n, d = runs["loss"].copy(), runs["n"], runs["d"]
    if kind == "transient":  # the first third of every run is worse, as in warm-up
        loss = loss * (1 + 0.6 * np.exp(-(d / d.min() - 1) / 6))
    elif kind == "break in N":  # above 1e5 parameters the models gain less
        loss = loss * np.where(n > 1e5, (n / 1e5) ** 0.12, 1.0)
    elif (
        kind == "small models fail"
    ):  # the two smallest sizes do much worse than the law of the others
        loss = loss * np.where(n < 3e4, 1.25, 1.0)
    elif kind == "early stop of scaling":  # the largest budgets stop gaining
        c = runs["c"]
        loss = loss * np.where(c > 1e14, (c / 1e14) ** 0.06, 1.0)
    return replace(runs, values=runs.values | {"loss": loss})


def diagnosis(trials: int, say, args: argparse.Namespace) -> None:
    """How often the verdict is "a trend", for sound studies and for four kinds of unsound ones."""
    say(f'\nVerdict "a trend, not an exponent" (12 runs, force-field study), {trials} studies each')
    for kind in ("sound", "transient", "break in N", "small models fail", "early stop of scaling"):
        trends, names = 0, {}
        bar = Progress(kind, trials, unit="studies")
        for seed in range(trials):
            found = diagnose(bent(kind, seed))
            trends += found.verdict != "an exponent"
            for check in found.failed:
                names[check.name] = names.get(check.name, 0) + 1
            bar.update(seed + 1)
        bar.close()
        why = ", ".join(
            f"{name} {count / trials:.0%}"
            for name, count in sorted(names.items(), key=lambda item: -item[1])
        )
        say(f"{kind:24} {trends / trials:6.1%}   {why}")


# the law of repeats as few_data found it for PaiNN; its design: sizes, training sets, atoms seen
REPEATS = {"E": 0.01, "A": 11.8, "B": 95.0, "alpha": 0.40, "beta": 0.459, "R_D": 25.0}
FEW_DATA = ((3e4, 1e5, 1e5, 3e5), (6.76e4, 2.5e5, 1e6, 6.76e6), np.geomspace(1.4e5, 1.2e7, 15))


def few_data(rho: float, seed: int) -> tuple[Runs, dict[str, float]]:
    """A study of 16 runs, and the truth about its repeats: R_D at the mean size and at both
    ends."""
    sizes, sets, seen = FEW_DATA
    n, u, d = (value.ravel() for value in np.meshgrid(sizes, sets, seen, indexing="ij"))
    run = np.repeat(np.arange(len(sizes) * len(sets)), len(seen))
    middle = np.exp(np.log(n).mean())
    r_d = REPEATS["R_D"] * (n / middle) ** -rho
    worth = np.where(d > u, u * (1 + r_d * -np.expm1(-(d / u - 1) / r_d)), d)
    rng = np.random.default_rng([seed, 7])
    loss = simulate.surface_loss(REPEATS, n, worth) * np.exp(simulate.noise(run, rng))
    runs = simulate.table(n=n, d=d, loss=loss, run=run)
    runs = replace(runs, values=runs.values | {"u": np.minimum(u, d)})
    return runs, {
        "R_D": REPEATS["R_D"],
        "rho": rho,
        "R_D_smallest": float(r_d.max()),
        "R_D_largest": float(r_d.min()),
    }


def repeats(trials: int, say, args: argparse.Namespace) -> None:
    """Coverage of R_D and rho on few_data's design, and how often the law of repeats by size is
    chosen."""
    say(
        "\nRepeats: few_data's design (16 runs of 15 checkpoints), data_constrained_by_size,"
        f" {trials} studies each"
    )
    names = ("R_D", "rho", "R_D_smallest", "R_D_largest", "alpha", "beta")
    say(
        f"{'rho':>5} | "
        + " ".join(f"{name:>12}" for name in names)
        + " | by size chosen  median interval of rho"
    )
    for rho in (0.0, 0.2, 0.4):
        hits: dict[str, list[bool]] = {name: [] for name in names}
        widths, chosen = [], 0
        bar = Progress(f"rho = {rho}", trials, unit="studies")
        for seed in range(trials):
            runs, truth = few_data(rho, seed)
            result = fit(runs, "data_constrained_by_size")
            for name in names:
                value = {**REPEATS, **truth}[name]
                found = result[name]
                hits[name].append(found.low is not None and found.low <= value <= found.high)
            widths.append(result["rho"].high - result["rho"].low)
            chosen += fit_repeats(runs).law.name == "data_constrained_by_size"
            bar.update(seed + 1)
        bar.close()
        say(
            f"{rho:5} | "
            + " ".join(f"{np.mean(hits[name]):12.1%}" for name in names)
            + f" | {chosen / trials:14.1%}  {np.median(widths):.2f}"
        )


PARTS = {
    "intervals": intervals,
    "comparison": comparison,
    "diagnosis": diagnosis,
    "repeats": repeats,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=1000,
        help="simulated studies (default: 1000; diagnosis, repeats: a 20th)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(PARTS),
        default=list(PARTS),
        help="parts of the table (default: all)",
    )
    parser.add_argument(
        "--study",
        nargs="+",
        choices=tuple(STUDIES),
        default=list(STUDIES),
        help="studies (default: both)",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=int,
        default=list(SIZES),
        help="numbers of runs (default: 6 10 20)",
    )
    parser.add_argument("--null", action="store_true", help="of the comparison, its size only")
    parser.add_argument("--out", help="write the table here as well")
    args = parser.parse_args()
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    started = time.time()
    say(
        f"command: python benchmarks/law_coverage.py {' '.join(sys.argv[1:])}\ndate:"
        f" {time.strftime('%Y-%m-%d')}\nmachine: 2-core CPU, one core used, shared with other"
        f" work\nnumpy {np.__version__}"
    )
    for name, part in PARTS.items():
        if name in args.only:
            part(
                max(20, args.trials // 20) if name in ("diagnosis", "repeats") else args.trials,
                say,
                args,
            )
    say(f"\n{time.time() - started:.0f} s")
    if args.out:
        path = Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
