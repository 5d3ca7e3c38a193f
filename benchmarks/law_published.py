"""Published tables that are not in the repository, fitted here and by SciPy: objective and
parameters side by side.

    python benchmarks/law_published.py FOLDER --out results/laws/published.txt

FOLDER holds checkouts of public repositories, each under its own name; one that is not there is
left out:

- gemstone-scaling-laws (mcleish7): wandb_dfs/*.jsonl, checkpoints of 22 runs; published are
  parameters_delta-*/*.json
- chinchilla (kyo-takano): examples/llm/df.csv
- scaling-law-analysis (Open-Athena): data/isoflops/transform/isoflops.csv, rows that are not marked
  as outliers

SciPy is least_squares with the same loss, from 12 random starts, delta brought down in steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from forcelaw.laws.fit.fit import fit
from forcelaw.table.runs import Runs

GEMSTONES = ("hot", "hot_100b+", "cool_end", "lr_ablation_hot", "hot_120b+_only", "cool_begin")


def tables(folder: Path) -> Iterator[tuple[str, Runs, float | None, str]]:
    """Name, table, delta of Huber's loss (None: squared error of the loss) and what was
    published."""
    gem = folder / "gemstone-scaling-laws"
    for name in GEMSTONES if gem.exists() else ():
        runs = Runs.from_frame(
            gem / f"wandb_dfs/wandb_df_for_fitting_{name}.jsonl",
            {"n": "params_active_precise", "d": "tokens", "loss": "final_loss", "run": "run_name"},
        )
        for power in (3, 4):
            path = gem / f"parameters_delta-{power}/approach_3_parameters_grid_search_0_{name}.json"
            told = json.loads(path.read_text()) if path.exists() else None
            said = (
                "{:.4g} {:.4f} {:.4f}".format(told["loss"]["0"], *told["exponents"]["0"])
                if told
                else "-"
            )
            yield f"gemstones {name}", runs, 10.0**-power, said
    path = folder / "chinchilla/examples/llm/df.csv"
    if path.exists():
        for delta in (1e-3, None):
            yield "kyo-takano", Runs.from_frame(path), delta, "-"
    path = folder / "scaling-law-analysis/data/isoflops/transform/isoflops.csv"
    if path.exists():
        for name in (
            pl.read_csv(path, infer_schema_length=None)["experiment"].unique().sort().to_list()
        ):
            for delta in (1e-3, None):
                yield (
                    name.split("__")[0] + " " + name.split("__")[1],
                    Runs.from_frame(
                        path,
                        {"run": "none", "group": "none"},
                        f"experiment == '{name}' and outlier == 0",
                    ),
                    delta,
                    "-",
                )


def scipys(runs: Runs, delta: float | None, starts: int = 12) -> tuple[float, float, float]:
    """Objective, alpha and beta of the surface by SciPy."""
    u, v, y = (np.log(runs[role]) for role in ("n", "d", "loss"))
    u, v, loss = u - u.mean(), v - v.mean(), runs["loss"]

    def residuals(t: np.ndarray) -> np.ndarray:
        r = np.logaddexp(np.logaddexp(t[0] - t[3] * u, t[1] - t[4] * v), t[2]) - y
        return r if delta else loss * np.expm1(r)

    def value(t: np.ndarray) -> float:
        size = np.abs(residuals(t))
        inner = np.minimum(size, delta) if delta else size
        return float((inner * (size - 0.5 * inner)).sum())

    rng, best = np.random.default_rng(0), None
    steps = [step for step in (1.0, 0.03, 5e-3) if step > delta] + [delta] if delta else [None]
    for _ in range(starts):
        t = np.append(y.mean() - rng.uniform(0.5, 3, 3), rng.uniform(0.05, 1.2, 2))
        for step in steps:
            kind = {"loss": "huber", "f_scale": step} if step else {}
            t = least_squares(
                residuals,
                t,
                x_scale="jac",
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=1000,
                **kind,
            ).x
        if best is None or value(t) < value(best):
            best = t
    return value(best), best[3], best[4]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="checkouts of the repositories")
    parser.add_argument("--out", help="write the table here as well")
    args = parser.parse_args()
    lines = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    say(
        "command: python benchmarks/law_published.py FOLDER "
        + " ".join(sys.argv[2:])
        + f"\ndate: {time.strftime('%Y-%m-%d')}\n"
    )
    say(
        f"{'table':28} {'rows':>5} {'objective':>10} | {'published: objective alpha beta':>32} | "
        f"{'here: objective':>16} {'alpha (se)':>15} {'beta (se)':>15} {'agree':>6} | "
        f"{'SciPy: relative':>15} {'alpha':>7} {'beta':>7}"
    )
    for name, runs, delta, published in tables(args.folder):
        result = fit(
            runs, objective="huber" if delta else "linear", delta=delta, interval="jackknife"
        )
        value, alpha, beta = scipys(runs, delta)
        one, two = (f"{result[key].value:.5f} ({result[key].se:.3f})" for key in ("alpha", "beta"))
        marks = f"{result.diagnostics['starts_agreeing']}/{result.diagnostics['starts']}"
        say(
            f"{name:28} {len(runs):5} {f'huber {delta:g}' if delta else 'linear':>10} |"
            f" {published:>32} | {result.objective:16.9g} {one:>15} {two:>15} {marks:>6} |"
            f" {value / result.objective - 1:+15.1e} {alpha:7.5f} {beta:7.5f}"
        )
    if args.out:
        Path(args.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
