"""Kill ``forcelaw data generate`` at random moments (SIGKILL) and resume: python
benchmarks/kill_generate.py [ROUNDS [SEED]]

Every round starts the command, kills after a random time the parent, all processes, or one worker,
runs it again with another number of workers, compares the arrays with those of an undisturbed call
byte by byte, and looks for leftovers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT, SEED = 200, 3
COMMAND = [sys.executable, "-m", "forcelaw.cli", "data", "generate"]


def start(out: Path, workers: int) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own so that all its processes can be killed
    together."""
    options = [
        "--out",
        str(out),
        "--count",
        str(COUNT),
        "--seed",
        str(SEED),
        "--workers",
        str(workers),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(COMMAND + options, **quiet, start_new_session=True)


def finish(out: Path, workers: int) -> float:
    started = time.monotonic()
    if start(out, workers).wait() != 0:
        raise SystemExit(f"the command failed for {out}")
    return time.monotonic() - started


def contents(pack: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(pack.glob("*.npy"))}


def kill(process: subprocess.Popen[bytes], whom: str) -> str:
    """Send SIGKILL; what was really killed (a worker may not be there yet, or no more)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if whom == "worker":
        found = children.read_text().split() if children.exists() else []
        if found:
            os.kill(int(random.choice(found)), signal.SIGKILL)
            return "a worker"
        return "nothing"
    if process.poll() is not None:
        return "nothing"
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    return whom


def main(rounds: int = 10, seed: int = 0) -> int:
    random.seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seconds = finish(root / "undisturbed", 2)
        wanted = contents(root / "undisturbed")
        print(f"undisturbed: {COUNT} structures in {seconds:.1f} s with 2 workers")
        wrong = k = tries = 0
        while k < rounds and tries < 3 * rounds:
            tries += 1
            out, moment = root / f"pack{tries}", random.uniform(0.05, 0.9) * seconds
            process = start(out, 2)
            time.sleep(moment)
            killed = kill(process, ("parent", "all", "worker")[k % 3])
            code = process.wait()
            if killed == "nothing":  # it was faster than the undisturbed call
                continue
            kept = len(list(root.glob(f"pack{tries}.partial-generate/*/chunk-*")))
            again = finish(out, 1 + k % 2) if not out.exists() else 0.0
            leftovers = [p.name for p in root.glob(f"pack{tries}.*")]
            same = contents(out) == wanted and not leftovers
            wrong += not same
            verdict = "identical" if same else f"DIFFERENT, leftovers {leftovers}"
            print(
                f"round {k}: killed {killed} after {moment:5.1f} s (exit {code}), {kept} chunks"
                f" kept, resumed in {again:4.1f} s with {1 + k % 2} workers: {verdict}",
                flush=True,
            )
            k += 1
    print(f"{k - wrong} of {k} identical to the undisturbed pack")
    return int(bool(wrong) or k < rounds)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
