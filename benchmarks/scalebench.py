"""Selection of runs for a target, on ScaleBench (Li et al. 2026, arXiv 2604.22753), beside the
selection that it was published with.

    python benchmarks/scalebench.py FOLDER                       # the law of the task, ours
    python benchmarks/scalebench.py FOLDER --theirs [--task moe] [--repeats 3]

FOLDER holds a copy of the repository PlanarG/active-sl as PlanarG+active-sl (real_forecasts.py
--fetch makes it). Runs are chosen from a task's pool within a share of its cost by
forcelaw.laws.decide.selection; R2 (no less than -1) is that of the held-out region.

Without --theirs: the two tasks whose variables are those of a law of ours, by select_runs, and the
forecast with that law, back-tests included. With --theirs: all eight tasks with ScaleBench's own
65 laws (its Python is imported from FOLDER), within its bounds and by its cost. R2 is then the mean
over the laws of the task and the repeats, as published; "sd" over both; of our choice of runs with
the last fit of the paper (L-BFGS-B, 64 starts) and with ours (scalebench_fits.shrunk_there).
Published: the method of the paper, at 5 and 10% (domain, sparsity: 35 and 50%), the best of its
baselines, and a fit to all data. Choices paired with the published ones: scalebench_cross.py.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
from scalebench_fits import PUBLISHED_STARTS, STARTS, Fitter  # in this directory

from forcelaw.errors import FitError
from forcelaw.laws.decide.extrapolation import extrapolate
from forcelaw.laws.decide.selection import choose, select_runs
from forcelaw.table.runs import Runs

# task -> columns, law of ours, published R2 at 5% and 10% of the budget
OURS = {
    "farseer": ({"n": "N", "d": "D", "loss": "loss"}, "coupled"),
    "data_constrained": (
        {"n": "params", "d": "tokens", "u": "unique_tokens", "loss": "loss"},
        "data_constrained",
    ),
}
# task -> published R2 at two budgets: of the paper's method, of the best of its baselines; all data
PUBLISHED = {
    "lr_bsz": ((0.00, 0.22), (-0.06, 0.18), 0.04),
    "domain_mixture": ((0.89, 0.95), (0.91, 0.95), 0.81),
    "vocab": ((0.98, 0.98), (0.97, 0.98), 0.93),
    "parallel": ((0.77, 0.99), (0.70, 0.99), 0.99),
    "moe": ((0.65, 0.83), (0.80, 0.81), 0.81),
    "data_constrained": ((0.85, 0.86), (0.83, 0.85), 0.79),
    "sparsity": ((0.44, 0.53), (0.39, 0.51), 0.37),
    "farseer": ((0.88, 0.93), (0.87, 0.92), 0.91),
}
FIRST_SHARE = 0.02


def root_of(folder: Path) -> Path:
    return folder / "PlanarG+active-sl"


def r2(truth: np.ndarray, said: np.ndarray) -> float:
    """No less than -1."""
    left, spread = truth - np.nan_to_num(said, nan=1e3), truth - truth.mean()
    return max(-1.0, 1 - float(left @ left) / float(spread @ spread))


# -- laws of ours --------------------------------------------------------------------------------


def load(folder: Path, task: str) -> tuple[Runs, Runs]:
    """The pool and the held-out region."""
    out = []
    for part in ("train", "test"):
        path = root_of(folder) / f"benchmark/dataset/{task}_scaling_law"
        frame = pl.read_parquet(next(path.glob(f"{part}-*.parquet")))
        roles = OURS[task][0].items()
        frame = frame.select(pl.col(name).cast(float).alias(role) for role, name in roles)
        out.append(Runs.from_frame(frame.with_columns(c=6 * pl.col("n") * pl.col("d"))))
    return out[0], out[1]


def forecast_r2(runs: Runs, law: str, test: Runs) -> float:
    """Of the forecast from ``runs`` on the held-out region; -1 where there is none."""
    found = extrapolate(runs, runs["c"], law)
    return r2(test["loss"], found.predict(**test.values)) if found.ok else -1.0


def with_our_laws(folder: Path, tasks: list[str], repeats: int) -> None:
    for task in tasks:
        if task not in OURS:
            continue
        (pool, test), law = load(folder, task), OURS[task][1]
        for k, share in enumerate((0.05, 0.1)):
            scores, counts = [], []
            for seed in range(repeats):
                try:
                    rows = select_runs(pool, test, share * pool["c"].sum(), law, seed)
                except FitError as error:
                    print(f"{task:18}{share:7.0%}  {error.what}")
                    break
                counts.append(len(rows))
                scores.append(forecast_r2(pool.take(rows), law, test))
            if scores:
                line(task, 1, share, k, counts, scores)


# -- ScaleBench's laws ---------------------------------------------------------------------------


def pick(fitter: Fitter, cost: np.ndarray, budget: float, rng: np.random.Generator) -> list[int]:
    """Rows within the budget; as published the first are the cheapest, 2.5 for each parameter, of
    at most 2% of the pool's cost."""
    order, first = np.argsort(cost, kind="stable"), []
    for k in order[: max(int(2.5 * len(fitter.sd) / fitter.y.shape[1]), 1)]:
        if first and cost[[*first, k]].sum() > FIRST_SHARE * cost.sum():
            break
        first.append(int(k))
    if cost[first].sum() > budget:
        return []
    return choose(
        cost,
        budget,
        first,
        lambda rows: fitter.believe(rows, rng),
        fitter.sd,
        lambda rows, left: int(left[0]),
        fitter.places(),
    )


def with_their_laws(folder: Path, tasks: list[str], repeats: int, starts: int) -> None:
    sys.path.insert(0, str(root_of(folder)))
    registry = import_module("benchmark.dataset.registry").DATASET_REGISTRY
    warnings.simplefilter("ignore")
    for task in tasks:
        name = f"{task}_scaling_law"
        info, module = registry[name], import_module(f"benchmark.dataset.{name}.laws")
        shares = (info.budget_checkpoints or [0.01, 0.05, 0.1])[1:]
        groups = groups_of(root_of(folder) / "benchmark/dataset" / name, info)
        cases = [
            (module.LAW_REGISTRY[law], module.PARAM_BOUNDS[law], seed)
            for law in module.LAW_REGISTRY
            for seed in range(repeats)
        ]
        for k, share in enumerate(shares):
            found = [
                forecast_by(law, bounds, groups, share, seed, starts) for law, bounds, seed in cases
            ]
            line(task, len(module.LAW_REGISTRY), share, k, *map(list, zip(*found)))


def forecast_by(
    law: Callable, bounds: list, groups: list, share: float, seed: int, starts: int
) -> tuple[int, float, float]:
    """Runs that were chosen, and R2 by the published fit and by ours (shrunk)."""
    theirs, ours, truth, count = [], [], [], 0
    for x, y, cost, at, held in groups:
        rng, fitter = np.random.default_rng(seed), Fitter(law, bounds, x, y, at)
        rows = pick(fitter, cost, share * cost.sum(), rng)
        count += len(rows)
        if rows:
            theirs.append(fitter.published_fit(rows, rng, starts))
            fitter.fit(rows, rng, STARTS)
            ours.append(fitter.shrunk_there(rows))
            truth.append(held.ravel())
    if not truth:
        return 0, -1.0, -1.0
    held = np.concatenate(truth)
    return count, r2(held, np.concatenate(theirs)), r2(held, np.concatenate(ours))


def groups_of(path: Path, info) -> list[tuple[np.ndarray, ...]]:
    """X, Y, cost of the pool, X and Y of the held-out region, for each group of a task."""
    pool, held = (
        pl.read_parquet(next(path.glob(f"{part}-*.parquet"))) for part in ("train", "test")
    )
    out = []
    for group in sorted(set(pool["group"]) & set(held["group"])):
        a, b = (frame.filter(pl.col("group") == group) for frame in (pool, held))
        cost = np.array([info.cost_fn(row) for row in a.iter_rows(named=True)])
        x, y, at, truth = (
            frame.select(columns).to_numpy().astype(float)
            for frame in (a, b)
            for columns in (info.feature_cols, info.target_cols)
        )
        out.append((x, y, cost, at, truth))
    return out


def line(
    task: str, laws: int, share: float, k: int, counts: list[int], *scores: list[float]
) -> None:
    """One line of a task and a budget, the k-th; scores by one last fit or two."""
    theirs, baselines, all_data = PUBLISHED[task]
    print(
        f"{task:18}{laws:5}{share:8.0%}{np.median(counts):6.0f}"
        + "".join(f"{np.mean(one):9.3f}{np.std(one):7.3f}" for one in scores)
        + f"{theirs[k]:11.2f}{baselines[k]:10.2f}{all_data:10.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--theirs", action="store_true", help="with ScaleBench's laws and fits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--starts", type=int, default=PUBLISHED_STARTS, help="of the last fit")
    args = parser.parse_args()
    fits = ("L-BFGS-B", "shrunk") if args.theirs else ("R2",)
    print(
        f"{'task':18}{'laws':>5}{'budget':>8}{'runs':>6}"
        + "".join(f"{fit:>9}{'sd':>7}" for fit in fits)
        + f"{'published':>11}{'baseline':>10}{'all data':>10}",
        flush=True,
    )
    if args.theirs:
        with_their_laws(args.folder, args.task, args.repeats, args.starts)
    else:
        with_our_laws(args.folder, args.task, args.repeats)


if __name__ == "__main__":
    main()
