"""Kill -9 at random moments during `forcelaw train`; the resumed results must be those of an
undisturbed run to the last bit (timings apart). `forcelaw run`: kill_run.py.

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

OPTIONS = ["--size", "4e3", "--atoms", "1.5e4", "--batch-molecules", "4", "--evaluations", "6"]
OPTIONS += ["--validation-structures", "20", "--device", "cpu", "--depth", "1"]


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


def trials(folder: Path, times: int, chance: random.Random) -> int:
    """Undisturbed once, then ``times`` trials, each killed at random moments until it gets through;
    how many ended with other numbers."""
    command = [sys.executable, "-m", "forcelaw.cli", "train", "painn", *OPTIONS, "--out"]
    calm = folder / "calm"
    began = time.monotonic()
    assert call([*command, str(calm)]) == 0, "it fails undisturbed"
    span = time.monotonic() - began
    wanted, bad, kills = state(calm), 0, 0
    for k in range(times):
        out = folder / str(k)
        while call([*command, str(out)], chance.uniform(0.15 * span, 0.95 * span)) != 0:
            kills += 1
            if chance.random() < 0.5:
                break
        assert call([*command, str(out)]) == 0, "it does not resume"
        same = state(out) == wanted
        bad += not same
        print(f"trial {k + 1}: {'identical' if same else 'DIFFERENT'}", flush=True)
        shutil.rmtree(out)
    print(f"{times} trials, {kills} kills, {bad} different (undisturbed: {span:.1f} s)", flush=True)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        return trials(Path(name), args.times, random.Random(args.seed))


if __name__ == "__main__":
    sys.exit(main())
