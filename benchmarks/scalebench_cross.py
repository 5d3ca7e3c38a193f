"""Is it the choice of runs or the fit that ScaleBench's scores differ by? Runs chosen by its
published code and by ours, each under the published fit and under ours, paired by law and repeat.

    python benchmarks/scalebench_cross.py FOLDER --task parallel [--repeats 10] [--laws sl_6]

FOLDER as for scalebench.py. The published choice is made by its own mspe.py, imported from there,
with its 64 starts a fit; only the loop over the starts is ours (scalebench_fits.lbfgsb: the same
core of SciPy, all starts at once). ``--quick``: these fits by Levenberg-Marquardt from 16 starts
(lr_bsz: 140 runs one by one). Repeats are its seeds, from 42. Columns are R2 of the held-out
region, no less than -1, of a choice and a last fit: "published" its own last fit, which starts from
those before it as well; L-BFGS-B: the same from 64 new starts; squares: least squares by the solver
of the package (ours from its own optima as well); shrunk: the same, drawn to the mean of the
measured losses as far as the runs leave the law open at a target. Then the paired differences, with
95% intervals over repeats (the laws as they are).
"""

import argparse
import json
import sys
import types
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scalebench import PUBLISHED, groups_of, pick, r2, root_of  # in this directory
from scalebench_fits import PUBLISHED_STARTS, STARTS, Fitter, lbfgsb
from scipy.stats import t as student

QUICK = 16  # starts of a fit of the published choice
FIRST_SEED = 42
FITS = ("L-BFGS-B", "squares", "shrunk")
CELLS = ("published", *(f"{who}, {fit}" for who in ("theirs", "ours") for fit in FITS))
PAIRS = ((4, 1), (5, 2), (6, 3), (2, 1), (3, 1), (6, 4), (4, 0), (6, 0))


class Enough(Exception):
    """The published choice has passed the largest budget that is asked for."""


def published_module(folder: Path) -> Any:
    """mspe.py of ScaleBench; it reads its tables by pyarrow, which need not be installed."""
    arrow, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")
    parquet.read_table = lambda path: Columns(pl.read_parquet(path))  # type: ignore[attr-defined]
    arrow.parquet = parquet  # type: ignore[attr-defined]
    sys.modules.setdefault("pyarrow", arrow)
    sys.modules.setdefault("pyarrow.parquet", parquet)
    sys.path.insert(0, str(root_of(folder)))
    arguments, sys.argv = sys.argv, sys.argv[:1]  # it reads them when imported
    module = import_module("mspe")
    sys.argv = arguments
    return module


class Columns:
    """The part of pyarrow's table that ScaleBench uses."""

    def __init__(self, frame: pl.DataFrame):
        self.frame, self.column_names = frame, frame.columns

    def column(self, name: str) -> Any:
        return types.SimpleNamespace(to_pylist=self.frame[name].to_list)


def published_choice(
    module: Any, task: Any, group: int, seed: int, shares: list[float], quick: bool
) -> dict[str, tuple[list[int], list[float]]]:
    """Share of the budget -> rows and parameters that ScaleBench's code reports for it."""
    module.CHECKPOINTS = sorted(task.budget_checkpoints or module.DEFAULT_CHECKPOINTS)
    module.setup_task(task, group)
    total, fits = module.total_cost, []

    def multistart_fit(x, y, n_starts, warm_starts=None, perturb_scale=0.0):
        if fits and fits[-1][1] >= max(shares) * total:
            raise Enough
        starts, warm = (QUICK if quick else n_starts), list(warm_starts or ())
        begin = [np.array(one) for one in warm[: max(starts - 16, starts // 2)]]
        begin += [module.random_theta0() for _ in range(starts - len(begin))]
        law = task.model_fn._fn
        if quick:
            fitter = Fitter(law, task.param_bounds, x, y.reshape(len(x), -1), x[:1])
            square, theta = fitter.ends(list(range(len(x))), fitter.form.inner(np.array(begin)))
            theta, value = fitter.form.outer(theta), square / len(x)
        else:
            theta, value = lbfgsb(law, x, y, np.array(begin), np.array(task.param_bounds, float))
        used: list[int] = []
        for row in x:  # the same run may stand in the pool twice
            same = np.flatnonzero((module.X_train == row).all(axis=1))
            used.append(int(next(k for k in same if k not in used)))
        fits.append((used, module.cost_train[used].sum(), theta[np.argmin(value)].copy()))
        return theta, value

    module.multistart_fit = multistart_fit
    with suppress(Enough):
        module.run_one(seed, verbose=False)
    out = {}
    for share in shares:  # the last fit before the budget is passed, as there
        within = [one for one in fits if one[1] < share * total] or fits[:1]
        out[str(share)] = within[-1][0], within[-1][2].tolist()
    return out


def cells(
    task: Any, groups: list, theirs: list, share: float, seed: int, skip: bool
) -> tuple[list[float], list[list[int]]]:
    """R2 of each of CELLS, and the numbers of runs of either choice in each group; nan under
    L-BFGS-B where it is to be skipped."""
    said: list[list[np.ndarray]] = [[] for _ in CELLS]
    counts: list[list[int]] = [[], []]
    for (x, y, cost, at, _), found in zip(groups, theirs):
        ours = Fitter(task.model_fn._fn, task.param_bounds, x, y, at)
        rows = pick(ours, cost, share * cost.sum(), np.random.default_rng(seed))
        said[0].append(np.asarray(task.model_fn(np.array(found[str(share)][1]), at)[0]).ravel())
        fresh = Fitter(task.model_fn._fn, task.param_bounds, x, y, at)
        for k, (fitter, chosen) in enumerate(((fresh, found[str(share)][0]), (ours, rows))):
            counts[k].append(len(chosen))
            first = 1 + k * len(FITS)
            rng = np.random.default_rng(seed)
            if not skip:
                said[first].append(fitter.published_fit(chosen, rng, PUBLISHED_STARTS))
            fitter.fit(chosen, np.random.default_rng(seed), STARTS)
            said[first + 1].append(fitter.best_there())
            said[first + 2].append(fitter.shrunk_there(chosen))
    truth = np.concatenate([group[4].ravel() for group in groups])
    return [r2(truth, np.concatenate(one)) if one else np.nan for one in said], counts


def report(task: str, share: float, laws: list[str], scores: np.ndarray) -> None:
    """scores [laws, repeats, cells]."""
    print(f"{task}, {share:.0%} of the budget, {scores.shape[1]} repeats", flush=True)
    print(f"{'law':8}" + "".join(f"{name:>18}" for name in CELLS))
    for law, own in zip([*laws, "all"], [*scores.mean(axis=1), scores.mean(axis=(0, 1))]):
        print(f"{law:8}" + "".join(f"{one:18.3f}" for one in own))
    print(f"{'sd':8}" + "".join(f"{one:18.3f}" for one in scores.std(axis=(0, 1))))
    repeats = scores.shape[1]
    for a, b in PAIRS:
        apart = scores[..., a] - scores[..., b]
        if np.isnan(apart).all():
            continue
        mean = apart.mean(axis=0)
        sd = mean.std(ddof=1) / np.sqrt(repeats) if repeats > 1 else np.nan
        half = student.ppf(0.975, max(repeats - 1, 1)) * sd
        over = apart.mean(axis=1).std(ddof=1) / np.sqrt(len(laws)) if len(laws) > 1 else np.nan
        within = f"[{mean.mean() - half:+.3f}, {mean.mean() + half:+.3f}]"
        print(
            f"  {CELLS[a]:>17} less {CELLS[b]:17}{mean.mean():+8.3f}"
            f" {within if repeats > 1 else '(one repeat)'}, se over laws {over:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=list(PUBLISHED), required=True)
    parser.add_argument("--laws", nargs="+")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="seed of the first repeat")
    parser.add_argument("--share", type=float, nargs="+", help="of the budget (of each group)")
    parser.add_argument("--quick", action="store_true", help="fits of the published choice")
    parser.add_argument("--skip", action="store_true", help="L-BFGS-B, half of the time")
    parser.add_argument("--choices", type=Path, help="published choices made before, and kept")
    parser.add_argument("--save", type=Path, help="scores [laws, repeats, shares, cells] as .npy")
    args = parser.parse_args()
    np.seterr(all="ignore")  # laws overflow within their bounds
    module = published_module(args.folder)
    tasks = import_module("benchmark.task").load_tasks_for_dataset(f"{args.task}_scaling_law")
    tasks = [task for task in tasks if not args.laws or task.sl_id in args.laws]
    shares = args.share or (tasks[0].budget_checkpoints or module.DEFAULT_CHECKPOINTS)[1:]
    info = import_module("benchmark.dataset.registry").DATASET_REGISTRY[f"{args.task}_scaling_law"]
    groups = groups_of(root_of(args.folder) / f"benchmark/dataset/{args.task}_scaling_law", info)
    known = json.loads(args.choices.read_text()) if args.choices and args.choices.exists() else {}
    scores = np.empty((len(tasks), args.repeats, len(shares), len(CELLS)))
    for i, task in enumerate(tasks):
        task.model_fn._resolve()
        for seed in range(args.repeats):
            key = f"{task.sl_id} {args.first + seed}"
            if key not in known:
                known[key] = [
                    published_choice(module, task, k, args.first + seed, shares, args.quick)
                    for k in range(len(groups))
                ]
                if args.choices:
                    args.choices.write_text(json.dumps(known))
            theirs = known[key]
            for k, share in enumerate(shares):
                scores[i, seed, k], counts = cells(
                    task, groups, theirs, share, args.first + seed, args.skip
                )
                values = " ".join(f"{one:.3f}" for one in scores[i, seed, k])
                line = f"{task.sl_id} {args.first + seed} {share:.0%} {values} runs {counts}"
                print(line, file=sys.stderr, flush=True)
    if args.save:
        np.save(args.save, scores)
    for k, share in enumerate(shares):
        report(args.task, share, [task.sl_id for task in tasks], scores[:, :, k])


if __name__ == "__main__":
    main()
