"""Seconds and peak memory of commands on large studies and tables.

    python benchmarks/large_studies.py [--only fit status plan report]

fit: a table of 1e6 rows of 500 runs (CSV). status: a study directory of 5,000 runs. plan: `run
--plan` of a study of 2,000 runs. report: a study directory of 1,000 runs of four architectures.
Each is a fresh process; CPU seconds, because other processes may be busy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from forcelaw.store.runs import RunDirectory

STUDY = """
name: large
data: sample
architectures: [mpnn, painn, egnn, {name: painn, label: two, options: {radial: 8}}]
sizes: SIZES
depth: 1
seeds: SEEDS
epochs: 1
learning_rate: 1e-3
"""


def loss(n: float, d: float, chance: np.random.Generator) -> float:
    return float((0.02 + 8 * n**-0.4 + 20 * d**-0.4) * np.exp(chance.normal(0, 0.01)))


def write_table(path: Path) -> list[str]:
    chance = np.random.default_rng(0)
    sizes = np.geomspace(1e4, 1e7, 25)
    with path.open("w") as file:
        file.write("run,n,d,loss\n")
        for run in range(500):
            n = sizes[run % 25]
            for d in np.geomspace(1e6, 1e9, 2000):
                file.write(f"r{run},{n:.0f},{d:.0f},{loss(n, d, chance):.6g}\n")
    return ["fit", str(path), "--law", "surface"]


def write_runs(out: Path, count: int, points: int) -> None:
    chance = np.random.default_rng(0)
    sizes = np.geomspace(2e3, 5e5, 10)
    for k in range(count):
        label, n, seed = "ABCD"[k % 4], int(sizes[k // 4 % 10]), k // 40
        steps, batch = 8000, 400
        spec = {"study": "large", "kind": "grid", "label": label, "seed": seed, "lr": 1e-3, "n": n}
        spec |= {"n_nonembedding": n, "batch_atoms": batch, "epochs": 1.0, "steps": steps}
        spec |= {"lr_base": 1e-3, "model": {"architecture": "mpnn", "width": 8, "depth": 2}}
        run = RunDirectory.create(out / "runs", spec)
        lines = []
        for step in np.unique(np.geomspace(20, steps, points).astype(int)):
            d = int(step) * batch
            row = {"step": int(step), "d": d, "u": d, "c": 18.0 * n * d, "h": n * d / 1e14}
            value = loss(n, d, chance)
            row |= {"loss": value, "loss_energy": 0.05 * value, "loss_forces": 0.95 * value}
            lines.append(str(row).replace("'", '"'))
        (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (run.path / "result.json").write_text('{"status": "finished", "device": "cpu"}')


def runs_for(command: str, count: int, points: int) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        write_runs(folder / "out", count, points)
        return [command, str(folder / "out")]

    return write


def write_study(folder: Path) -> list[str]:
    sizes = [round(n) for n in np.geomspace(3e3, 1e5, 25)]
    text = STUDY.replace("SIZES", str(sizes)).replace("SEEDS", str([*range(20)]))
    (folder / "t.yaml").write_text(text)
    return ["run", str(folder / "t.yaml"), "--plan", "--device", "cpu", "--out", str(folder / "o")]


CASES: dict[str, Callable[[Path], list[str]]] = {
    "fit": lambda folder: write_table(folder / "t.csv"),
    "status": runs_for("status", 5000, 10),
    "plan": write_study,
    "report": runs_for("report", 1000, 22),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}\n{'case':<10}{'CPU s':>10}{'wall s':>10}{'peak MB':>10}")
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            words = CASES[name](Path(folder))
            command, began = [sys.executable, "-m", "forcelaw.cli", *words], time.monotonic()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            process = subprocess.Popen(command, env=environment, **quiet)
            said = process.stderr.read() if process.stderr else b""
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{name}: {said.decode()[-2000:]}")
            cpu = usage.ru_utime + usage.ru_stime
            wall, peak = time.monotonic() - began, usage.ru_maxrss / 1024
            print(f"{name:<10}{cpu:>10.1f}{wall:>10.1f}{peak:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
