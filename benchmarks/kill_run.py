"""Kill ``forcelaw run`` with two workers at random moments and in the middle of its writes; the
same command must then end the study with the numbers of an undisturbed one, to the last bit
(timings apart), no evaluation twice and none missing.

    python benchmarks/kill_run.py [--trials 12] [--seed 0] [--only FILE]

A trial disturbs the command one to three times. Half of the disturbances come at a random moment:
SIGKILL, SIGTERM or Ctrl-C for all its processes, for the command alone, or for one worker. The
other half come in a write: a worker that is about to make a checkpoint, an evaluation, a claim or a
result permanent, or just has, ends itself by SIGKILL, alone or with all the others, with the file
whole or cut in half. --only: all of them come in writes of this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from kill_train import state

from forcelaw.store.runs import RunDirectory

STUDY = """
name: kill
data: sample
architectures: [mpnn, painn]
sizes: [3e3, 5e3]
depth: 1
seeds: [0]
atoms: 3e3
train: {batch_molecules: 4, evaluations: 5, first_evaluation: 10, validation_structures: 20}
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], atoms: 1e3}}
"""
# Python imports this in every process, and a worker that writes the file so often ends there.
# fsync comes when a file is written and not yet in place; replace puts it there.
END_IN_WRITE = """
import os, signal, sys
name, when, count, whom = os.environ["END_IN_WRITE"].split(":")
calls, fsync, replace = iter(range(int(count) - 1, -1, -1)), os.fsync, os.replace

def whole(path):  # what of an append-only file was there before its last line
    return open(path, "rb").read()[:-1].rfind(b"\\n") + 1 if path.endswith(".jsonl") else 0

def end(path, moment):
    if name in os.path.basename(path) and when == moment and next(calls, 1) == 0:
        os.close(os.open(os.environ["ENDED"], os.O_CREAT | os.O_WRONLY))
        if moment == "cut":
            os.truncate(path, whole(path) + (os.path.getsize(path) - whole(path)) // 2)
        (os.kill if whom == "worker" else os.killpg)(
            os.getpid() if whom == "worker" else os.getpgid(0), signal.SIGKILL)

def watched_fsync(handle):
    path = os.readlink(f"/proc/self/fd/{handle if isinstance(handle, int) else handle.fileno()}")
    end(path, "cut")
    end(path, "written")
    fsync(handle)

def watched_replace(old, new, **more):
    end(old, "before")
    replace(old, new, **more)
    end(new, "after")

if "forcelaw.study.worker" in sys.orig_argv:
    os.fsync, os.replace = watched_fsync, watched_replace
"""
FILES = {  # how often about a worker writes them, and when it may be ended
    "last.safetensors": (14, ["cut", "written", "before", "after"]),
    "metrics.jsonl": (16, ["cut", "written"]),
    "result.json": (3, ["cut", "written", "before", "after"]),
    "last.json": (14, ["before", "after"]),
    "holder.json": (3, ["cut", "written", "before", "after"]),
    "references.json": (3, ["written", "before", "after"]),
}


class Disturbed:
    """The command, each time with another disturbance."""

    def __init__(self, folder: Path, chance: random.Random, only: str | None):
        self.folder, self.chance, self.files = folder, chance, [only] if only else list(FILES)
        self.share, self.span = 1.0 if only else 0.5, 0.0
        self.kinds: Counter[str] = Counter()

    def start(self, out: Path, *, end_in_write: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "forcelaw.cli", "run", str(self.folder / "kill.yaml")]
        command += ["--device", "cpu", "--workers", "2", "--no-report", "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if end_in_write:
            path = [str(self.folder / "site"), environment.get("PYTHONPATH", "")]
            environment |= {"END_IN_WRITE": end_in_write, "PYTHONPATH": os.pathsep.join(path)}
            environment["ENDED"] = str(self.folder / "ended")
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def once(self, out: Path) -> int:
        """Start the command and disturb it; its exit code."""
        in_a_write = self.chance.random() < self.share
        return self.in_a_write(out) if in_a_write else self.at_a_moment(out)

    def in_a_write(self, out: Path) -> int:
        name = self.chance.choice(self.files)
        count, moments = FILES[name]
        when, whom = self.chance.choice(moments), self.chance.choice(["worker", "all"])
        told = f"{name}:{when}:{self.chance.randint(1, count)}:{whom}"
        code = self.start(out, end_in_write=told).wait(timeout=300)
        if (self.folder / "ended").exists():
            self.kinds[f"in a write of {name}"] += 1
            (self.folder / "ended").unlink()
        return code

    def at_a_moment(self, out: Path) -> int:
        number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        whom = self.chance.choice(["all", "the command", "a worker"])
        process = self.start(out)
        with suppress(subprocess.TimeoutExpired):
            # the command imports torch for a third of the time, and so do its workers
            process.wait(self.chance.uniform(0.3 * self.span, 0.95 * self.span))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        if process.poll() is None and (workers or whom != "a worker"):
            self.kinds[f"{number.name} for {whom}"] += 1
            with suppress(ProcessLookupError):
                if whom == "all":
                    os.killpg(process.pid, number)
                elif whom == "the command":
                    process.send_signal(number)
                else:
                    os.kill(int(self.chance.choice(workers)), number)
        return process.wait(timeout=300)


def check(out: Path) -> list[str]:
    """What is wrong with a study that has ended, apart from its numbers."""
    wrong = []
    for run in sorted((out / "runs").iterdir()):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        if steps != sorted(set(steps)):
            wrong.append(f"{run.name}: evaluations at steps {steps}")
        if RunDirectory(run).held:
            wrong.append(f"{run.name}: somebody holds it")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FILES)
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}", flush=True)
    chance, bad = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kill.yaml").write_text(STUDY)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(END_IN_WRITE)
        began, run = time.monotonic(), Disturbed(folder, chance, args.only)
        assert run.start(folder / "calm").wait() == 0, (folder / "log").read_text()
        run.span, wanted = time.monotonic() - began, state(folder / "calm")
        for k in range(args.trials):
            out, codes = folder / str(k), []
            for _ in range(chance.randint(1, 3)):
                codes.append(run.once(out))
            codes.append(run.start(out).wait(timeout=300))
            wrong = check(out)
            found = state(out)
            if found != wanted or codes[-1]:
                differ = set(found) ^ set(wanted)
                wrong.append(f"not as undisturbed: {[row[:8] for row in sorted(differ, key=str)]}")
            bad += bool(wrong)
            print(f"trial {k + 1}: exit codes {codes}: {wrong or 'identical'}", flush=True)
            if wrong:
                print((folder / "log").read_text()[-4000:])
            shutil.rmtree(out)
    print(", ".join(f"{kind} {count}" for kind, count in sorted(run.kinds.items())))
    print(
        f"{args.trials} trials, {run.kinds.total()} disturbances, {bad} different"
        f" (undisturbed: {run.span:.1f} s, {len(wanted)} rows)",
        flush=True,
    )
    return bad


if __name__ == "__main__":
    sys.exit(main())
