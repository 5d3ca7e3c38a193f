"""Kill -9 at random moments, ten times each, during `forcelaw train` and `forcelaw run`; the
resumed results must be those of an undisturbed run to the last bit (timings apart).

    python benchmarks/kill_train.py [--times 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from forcelaw.store.runs import RunDirectory
from forcelaw.table.directory import table

STUDY = """
name: kill
data: sample
architectures: [mpnn, painn]
sizes: [3e3, 5e3]
depth: 1
seeds: [0]
atoms: 9e3
train: {batch_molecules: 4, evaluations: 5, first_evaluation: 10, validation_structures: 20}
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], atoms: 3e3}}
"""


def call(command: list[str], kill_after: float | None = None) -> int:
    """Run a command in its own process group; with ``kill_after`` seconds, kill -9 the whole group
    then. Returns the code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def state(out: Path) -> list[tuple]:
    """What must be equal: every metric but timings, and the weights' bytes."""
    rows = table(out / "runs").drop("h", "throughput").sort("run", "step").rows()
    for path in sorted((out / "runs").iterdir()):
        raw = (path / "last.safetensors").read_bytes()
        rows.append(
            (
                path.name,
                RunDirectory(path).result()["status"],
                raw[8 + int.from_bytes(raw[:8], "little") :],
            )
        )
    return rows


def trial(
    name: str,
    command: list[str],
    out_of: list[str],
    folder: Path,
    times: int,
    chance: random.Random,
) -> int:
    """Undisturbed once, then killed ``times`` times; each trial is killed at random moments until
    it gets through."""
    calm = folder / f"{name}-calm"
    began = time.monotonic()
    assert call([*command, *out_of, str(calm)]) == 0, f"{name} fails undisturbed"
    span = time.monotonic() - began
    wanted, bad, kills = state(calm), 0, 0
    for k in range(times):
        out = folder / f"{name}-{k}"
        while (
            call([*command, *out_of, str(out)], kill_after=chance.uniform(0.15 * span, 0.95 * span))
            != 0
        ):
            kills += 1
            if chance.random() < 0.5:
                call([*command, *out_of, str(out)])
                break
        call([*command, *out_of, str(out)])
        same = state(out) == wanted
        bad += not same
        print(f"{name} trial {k + 1}: {'identical' if same else 'DIFFERENT'}", flush=True)
        shutil.rmtree(out)
    print(
        f"{name}: {times} trials, {kills} kills, {bad} different (undisturbed: {span:.1f} s)",
        flush=True,
    )
    return bad


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}", flush=True)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kill.yaml").write_text(STUDY)
        forcelaw = [sys.executable, "-m", "forcelaw.cli"]
        bad = trial(
            "train",
            [
                *forcelaw,
                "train",
                "painn",
                "--size",
                "4e3",
                "--atoms",
                "1.5e4",
                "--batch-molecules",
                "4",
                "--evaluations",
                "6",
                "--validation-structures",
                "20",
                "--device",
                "cpu",
                "--depth",
                "1",
            ],
            ["--out"],
            folder,
            args.times,
            chance,
        )
        bad += trial(
            "run",
            [
                *forcelaw,
                "run",
                str(folder / "kill.yaml"),
                "--device",
                "cpu",
                "--workers",
                "2",
                "--no-report",
            ],
            ["--out"],
            folder,
            args.times,
            chance,
        )
    return bad


if __name__ == "__main__":
    sys.exit(main())
