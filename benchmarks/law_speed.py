"""Speed of the fits, against SciPy doing the same with an analytic gradient.

    python benchmarks/law_speed.py --chinchilla ../shared/data/chinchilla_epoch245.csv \\
        --out results/laws/speed.txt

Wall time and processor time are both given: they differ where the machine is busy with other
things.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from forcelaw.laws.decide import simulate
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.frontier.frontier import frontier
from forcelaw.table.runs import Runs

TRUTH = {"E": 1.8, "A": 480.0, "B": 2085.0, "alpha": 0.347, "beta": 0.366}


def timed(what: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Best wall and processor seconds of ``repeats`` calls."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        what()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return min(wall), min(cpu)


def scipy_fit(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, delta: float, starts: np.ndarray
) -> float:
    """Published practice: L-BFGS-B from every start, here with the analytic gradient."""
    u, v, y = np.log(n), np.log(d), np.log(loss)

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        parts = np.stack([a - alpha * u, b - beta * v, np.full_like(u, e)])
        top = parts.max(axis=0)
        weights = np.exp(parts - top)
        total = weights.sum(axis=0)
        r = top + np.log(total) - y
        weights /= total
        slope = np.clip(r, -delta, delta)
        size = np.abs(r)
        inner = np.minimum(size, delta)
        gradient = np.array(
            [
                (slope * weights[0]).sum(),
                (slope * weights[1]).sum(),
                (slope * weights[2]).sum(),
                -(slope * weights[0] * u).sum(),
                -(slope * weights[1] * v).sum(),
            ]
        )
        return float((inner * (size - 0.5 * inner)).sum()), gradient

    return min(minimize(value, start, jac=True, method="L-BFGS-B").fun for start in starts)


def hoffmann_grid() -> np.ndarray:
    """The 4,500 starts of Hoffmann et al. (2022)."""
    axes = (
        np.arange(0, 30, 5.0),
        np.arange(0, 30, 5.0),
        np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--chinchilla", help="chinchilla_epoch245.csv; without it 240 simulated points are used"
    )
    parser.add_argument(
        "--scipy-starts", type=int, default=60, help="of 4,500 that SciPy is timed on (default: 60)"
    )
    parser.add_argument("--out", help="write the table here as well")
    args = parser.parse_args()
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    say(
        f"command: python benchmarks/law_speed.py {' '.join(sys.argv[1:])}\ndate:"
        f" {time.strftime('%Y-%m-%d')}\nmachine: 2-core CPU, one thread, shared with other work"
        f" (read the processor time)\nnumpy {np.__version__}\n"
    )
    if args.chinchilla:
        runs = Runs.from_frame(args.chinchilla, where="epoch_fit_included == 1")
    else:
        rng = np.random.default_rng(0)
        n, d = np.exp(rng.uniform(18, 23, 240)), np.exp(rng.uniform(20.5, 26, 240))
        loss = simulate.surface_loss(TRUTH, n, d) * np.exp(rng.normal(size=240) * 0.005)
        runs = simulate.table(n=n, d=d, loss=loss, run=np.arange(240))
    say(f"{'what':66} {'wall s':>8} {'cpu s':>8} {'must':>6}")

    def row(name: str, what: Callable[[], object], must: str = "", repeats: int = 3) -> None:
        wall, cpu = timed(what, repeats)
        say(f"{name:66} {wall:8.3f} {cpu:8.3f} {must:>6}")

    best = fit(runs, delta=1e-3, interval="none")
    row(
        "240 points, Huber 1e-3, fit with proof of the optimum",
        lambda: fit(runs, delta=1e-3, interval="none"),
        "0.1",
        7,
    )
    row(
        "the same with 1,000 bootstrap resamples",
        lambda: fit(runs, delta=1e-3, interval="bootstrap"),
        "0.5",
        5,
    )
    row(
        "the same with 240 delete-one refits",
        lambda: fit(runs, delta=1e-3, interval="jackknife"),
        "",
        5,
    )
    row(
        "squared log error, 1,000 resamples",
        lambda: fit(runs, objective="log", interval="bootstrap"),
        "",
        5,
    )
    grid = hoffmann_grid()
    some = grid[np.random.default_rng(0).permutation(len(grid))[: args.scipy_starts]]
    wall, cpu = timed(lambda: scipy_fit(runs["n"], runs["d"], runs["loss"], 1e-3, some), 1)
    scale = len(grid) / len(some)
    say(
        f"{f'SciPy L-BFGS-B, analytic gradient, 4,500 starts (from {len(some)})':66}"
        f" {wall * scale:8.1f} {cpu * scale:8.1f}"
    )
    found = scipy_fit(runs["n"], runs["d"], runs["loss"], 1e-3, some)
    say(f"  objective: here {best.objective:.12e}, SciPy's best of {len(some)} starts {found:.12e}")

    many = simulate.trajectories(
        TRUTH, np.geomspace(5e7, 1e10, 200), np.geomspace(1e9, 3e11, 50), np.random.default_rng(1)
    )
    row("10,000 checkpoints of 200 runs, fit and jackknife", lambda: fit(many), "5", 2)
    row("  its frontier with delete-one-run intervals", lambda: frontier(many), "", 1)
    small = simulate.trajectories(
        TRUTH, np.geomspace(5e7, 1e10, 20), np.geomspace(1e9, 3e11, 10), np.random.default_rng(1)
    )
    row("200 checkpoints of 20 runs, fit and jackknife", lambda: fit(small))
    row("  its frontier with delete-one-run intervals", lambda: frontier(small))
    rng = np.random.default_rng(2)
    run = rng.integers(0, 500, 10**6)
    n, d = np.geomspace(1e7, 1e10, 500)[run], np.exp(rng.uniform(20.7, 27.6, 10**6))
    loss = simulate.surface_loss(TRUTH, n, d) * np.exp(
        rng.normal(size=500)[run] * 0.01 + rng.normal(size=10**6) * 0.01
    )
    huge = {"n": n, "d": d, "loss": loss, "run": run}
    row("1,000,000 rows of 500 runs: read and check", lambda: Runs.from_frame(huge), "", 1)
    table = Runs.from_frame(huge)
    row("  fit and jackknife (one Newton step a run)", lambda: fit(table), "", 1)
    if args.out:
        path = Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
