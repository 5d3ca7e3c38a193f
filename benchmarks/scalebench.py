"""Selection of runs for a target, on ScaleBench (Li et al. 2026, arXiv 2604.22753), beside the
selection that it was published with.

    python benchmarks/scalebench.py FOLDER                       # the law of the task, ours
    python benchmarks/scalebench.py FOLDER --theirs [--task moe] [--repeats 3]

FOLDER holds a copy of the repository PlanarG/active-sl as PlanarG+active-sl (real_forecasts.py
--fetch makes it). Runs are chosen from a task's pool within a share of its cost by
forcelaw.laws.decide.selection; R2 (no less than -1) is that of the held-out region.

Without --theirs: the two tasks whose variables are those of a law of ours, by select_runs, and the
forecast with that law, back-tests included. With --theirs: all eight tasks with ScaleBench's own
65 laws (its Python is imported from FOLDER), its least squares of the loss within its bounds, and
its cost; only the choice is ours. R2 is then the mean over the laws of the task and the repeats, as
published; "sd" over both. Published: the method of the paper, at 5 and 10% (domain, sparsity: 35
and 50%), the best of its baselines, and a fit to all data.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares, minimize

from forcelaw.errors import FitError
from forcelaw.laws.decide.extrapolation import extrapolate
from forcelaw.laws.decide.selection import Belief, choose, noise_variance, select_runs
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
STARTS, AGAIN = 12, 3  # random starts of the first fit of a law, and of later ones
BEST = 6  # optima that are kept, and started from again
SAME = 1e-3  # predictions of one optimum differ by no more
LEAST_WEIGHT = 1e-3
PUBLISHED_STARTS, MANY = (24, 8), 10  # of the routine of the paper; fewer beyond so many parameters
FIRST_SHARE = 0.02
MOST_STARTS = 64  # starts that end worse than a constant count for nothing, up to so many
MOST = 1e6  # of a slope: some of the laws overflow within their bounds


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
        whole = forecast_r2(pool, law, test)
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
                line(task, 1, share, counts, scores, k, whole)


# -- ScaleBench's laws ---------------------------------------------------------------------------


class Fitter:
    """One of ScaleBench's laws on one group of a task: least squares of the losses Y [K, O] at X
    within its bounds, from random starts and the optima found before. Parameters with positive
    bounds are taken as logarithms."""

    def __init__(self, law: Callable, bounds: list, x: np.ndarray, y: np.ndarray, at: np.ndarray):
        self.law, self.x, self.y, self.at = law, x, y, at
        low, high = np.array(bounds, float).T
        self.logs = low > 0
        self.low, self.high = self._to(low), self._to(high)
        self.sd = (self.high - self.low) / 4
        self.found: list[tuple[float, np.ndarray]] = []

    def _to(self, theta: np.ndarray) -> np.ndarray:
        return np.where(self.logs, np.log(np.where(self.logs, theta, 1.0)), theta)

    def _random(self, rng: np.random.Generator) -> np.ndarray:
        return self.low + (self.high - self.low) * rng.random(len(self.sd))

    def _from(self, inner: np.ndarray) -> np.ndarray:
        return np.where(self.logs, np.exp(np.where(self.logs, inner, 0.0)), inner)

    def predict(self, inner: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses [K, O] and their slopes [K, O, P]."""
        theta = self._from(inner)
        said, slopes = self.law(theta[None], x, backend="numpy")
        slopes = slopes * np.where(self.logs, theta, 1.0)
        slopes = np.clip(np.nan_to_num(slopes, posinf=MOST, neginf=-MOST), -MOST, MOST)
        return said.reshape(len(x), -1), slopes.reshape(len(x), -1, len(inner))

    def fit(self, rows: list[int], rng: np.random.Generator, starts: int) -> None:
        x, y = self.x[rows], self.y[rows]

        def residuals(z: np.ndarray) -> np.ndarray:
            left = (self.predict(z * self.sd, x)[0] - y).ravel()
            return np.nan_to_num(left, nan=1e3, posinf=1e6, neginf=-1e6)

        def jacobian(z: np.ndarray) -> np.ndarray:
            return self.predict(z * self.sd, x)[1].reshape(-1, len(z)) * self.sd

        constant = float(((y - y.mean(axis=0)) ** 2).sum())
        bounds, inside = (self.low / self.sd, self.high / self.sd), 1e-9 * (self.high - self.low)
        old = [inner for _, inner in self.found]
        self.found, good = [], 0
        for k in range(len(old) + MOST_STARTS):
            start = old[k] if k < len(old) else self._random(rng)
            if good == starts:
                break
            begin = np.clip(start, self.low + inside, self.high - inside) / self.sd
            done = least_squares(residuals, begin, jac=jacobian, bounds=bounds, max_nfev=60)
            self.found.append((2 * done.cost, done.x * self.sd))
            good += k >= len(old) and 2 * done.cost <= constant
        kept: list[tuple[float, np.ndarray]] = []
        for one in sorted(self.found, key=lambda one: one[0]):
            there = self._there(one[1])
            if all(np.abs(there - self._there(other[1])).max() > SAME for other in kept):
                kept.append(one)
        self.found = kept[:BEST]

    def _there(self, inner: np.ndarray) -> np.ndarray:
        """Predictions [T] of the targets."""
        return np.clip(np.nan_to_num(self.predict(inner, self.at)[0].ravel()), -MOST, MOST)

    def published_fit(
        self, rows: list[int], rng: np.random.Generator, starts: int | None
    ) -> np.ndarray:
        """Predictions [T] of the targets by the routine of the paper (mspe.py): L-BFGS-B of the
        mean square in the parameters as they are, from the optima found before and random starts,
        logarithmic where bounds are positive; the best."""
        x, y = self.x[rows], self.y[rows]

        def goal(theta: np.ndarray) -> tuple[float, np.ndarray]:
            said, slopes = self.law(theta[None], x, backend="numpy")
            left = said.reshape(len(x), -1) - y
            slope = slopes.reshape(-1, len(theta)).T @ left.ravel()
            return float((left**2).sum()) / len(x), 2 * slope / len(x)

        best, least, good = None, np.inf, 0
        starts = starts or PUBLISHED_STARTS[len(self.sd) > MANY]
        constant = float(((y - y.mean(axis=0)) ** 2).sum()) / len(x)
        old = [inner for _, inner in self.found]
        for k in range(len(old) + MOST_STARTS):
            if good == starts:
                break
            done = minimize(
                goal,
                self._from(old[k] if k < len(old) else self._random(rng)),
                method="L-BFGS-B",
                bounds=list(zip(self._from(self.low), self._from(self.high))),
                jac=True,
                options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10},
            )
            if best is None or done.fun < least:
                best, least = done.x, done.fun
            good += k >= len(old) and done.fun <= constant
        return np.asarray(self.law(best[None], self.at, backend="numpy")[0]).ravel()

    def believe(self, rows: list[int], rng: np.random.Generator) -> list[Belief]:
        self.fit(rows, rng, AGAIN if self.found else STARTS)
        squares = np.array([one[0] for one in self.found])
        weights = ((squares + 1e-12) / (squares[0] + 1e-12)) ** (-0.5 * self.y[rows].size)
        losses = np.clip(np.nan_to_num(self.predict(self.found[0][1], self.x)[0]), -MOST, MOST)
        noise = noise_variance(float(squares[0]), len(rows), losses)
        return [
            Belief(
                self.predict(inner, self.x)[1],
                self.predict(inner, self.at)[1].reshape(-1, len(inner)),
                noise,
                float(weight / weights.sum()),
                np.clip(np.nan_to_num(self.predict(inner, self.x)[0]), -MOST, MOST),
                self._there(inner),
            )
            for (_, inner), weight in zip(self.found, weights)
            if weight > LEAST_WEIGHT
        ]


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
    )


def with_their_laws(folder: Path, tasks: list[str], repeats: int, starts: int | None) -> None:
    sys.path.insert(0, str(root_of(folder)))
    registry = import_module("benchmark.dataset.registry").DATASET_REGISTRY
    warnings.simplefilter("ignore")
    for task in tasks:
        name = f"{task}_scaling_law"
        info, module = registry[name], import_module(f"benchmark.dataset.{name}.laws")
        shares = (info.budget_checkpoints or [0.01, 0.05, 0.1])[1:]
        groups = groups_of(root_of(folder) / "benchmark/dataset" / name, info)
        scores: dict[float, list[float]] = {share: [] for share in (*shares, 1.0)}
        counts: dict[float, list[int]] = {share: [] for share in (*shares, 1.0)}
        for law, seed in ((law, seed) for law in module.LAW_REGISTRY for seed in range(repeats)):
            for share in scores:
                if share == 1.0 and seed:
                    continue
                said, truth, count = [], [], 0
                for x, y, cost, at, held in groups:
                    rng = np.random.default_rng(seed)
                    fitter = Fitter(module.LAW_REGISTRY[law], module.PARAM_BOUNDS[law], x, y, at)
                    everything = list(range(len(x)))
                    rows = everything if share == 1 else pick(fitter, cost, share * cost.sum(), rng)
                    count += len(rows)
                    if rows:
                        if share == 1:
                            fitter.fit(rows, rng, STARTS)
                        said.append(fitter.published_fit(rows, rng, starts))
                        truth.append(held.ravel())
                good = bool(said)
                scores[share].append(
                    r2(np.concatenate(truth), np.concatenate(said)) if good else -1.0
                )
                counts[share].append(count)
        for k, share in enumerate(shares):
            whole = float(np.mean(scores[1.0]))
            line(task, len(module.LAW_REGISTRY), share, counts[share], scores[share], k, whole)


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


def line(task, laws, share, counts, scores, k, whole) -> None:
    theirs, baselines, all_data = PUBLISHED[task]
    print(
        f"{task:18}{laws:5}{share:8.0%}{np.median(counts):6.0f}{np.mean(scores):8.3f}"
        f"{np.std(scores):7.3f}{theirs[k]:11.2f}{baselines[k]:10.2f}{whole:10.3f}{all_data:10.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--theirs", action="store_true", help="with ScaleBench's laws and fits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--starts", type=int, help="of the last fit, of any law (published: 64)")
    args = parser.parse_args()
    print(
        f"{'task':18}{'laws':>5}{'budget':>8}{'runs':>6}{'R2':>8}{'sd':>7}{'published':>11}"
        f"{'baseline':>10}{'all data':>10}{'publ.':>10}",
        flush=True,
    )
    if args.theirs:
        with_their_laws(args.folder, args.task, args.repeats, args.starts)
    else:
        with_our_laws(args.folder, args.task, args.repeats)


if __name__ == "__main__":
    main()
