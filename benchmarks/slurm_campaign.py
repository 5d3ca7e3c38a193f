"""A study of 40 small runs on a real SLURM cluster of one node: an array of 4 workers whose time
limit is shorter than the study, two of them cancelled in the middle, one worker process and slurmd
killed by SIGKILL, the rest preempted by another job. The study must end by itself, each run trained
once and by one worker at a time, with the numbers of an undisturbed study to the last bit.

    python benchmarks/slurm_campaign.py FOLDER [--minutes 45]

FOLDER gets the cluster (benchmarks/slurm_node.py says what it needs) and both studies.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from slurm_node import Node, one_node

from forcelaw.store.claim import holder
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study.slurm.queue import Job
from forcelaw.table.directory import table

STUDY = """
name: forty
data: sample
cutoff: 4.0
architectures: [mpnn, painn]
sizes: [2e3, 3e3, 5e3, 8e3]
depth: 1
seeds: [0, 1, 2, 3, 4]
atoms: 3.5e5
train: {batch_molecules: 8, evaluations: 4, validation_structures: 20}
slurm: {workers: 4, time: 0:03:00, signal: 20, memory: 1500M}
"""
# finished runs -> what is done then to a task that trains
DISTURBANCES = [
    (3, "scancel"),
    (8, "kill -9 worker"),
    (12, "kill -9 slurmd"),
    (16, "scancel"),
    (20, "preempt"),
]
URGENT = "sbatch --partition=urgent --exclusive --mem=100 --output=/dev/null --wrap 'sleep 20'"


class Campaign:
    def __init__(self, node: Node, folder: Path, study: Path):
        self.node, self.study, self.out = node, study, folder / "forty"
        self.began = time.monotonic()
        self.left = list(DISTURBANCES)
        self.spared: set[str] = set()  # tasks that were disturbed already
        self.jobs: dict[str, Job] = {}
        self.holders: dict[str, list[str]] = {}  # run -> tasks that held it, in turn

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def submit(self) -> str:
        command = f"forcelaw run {self.study.name} --slurm"
        self.say(f"$ {command}")
        done = forcelaw("run", str(self.study), "--out", str(self.out), "--slurm", node=self.node)
        for line in done.replace(str(self.out.parent), "FOLDER").splitlines():
            self.say(f"  {line}")
        found = re.search(r"submitted job (\d+)", done)
        if not found:
            raise SystemExit(done)
        return found[1]

    def watch(self, job: str, minutes: float) -> None:
        """Disturb it, until all have ended or time is up."""
        while time.monotonic() - self.began < 60 * minutes:
            self._look_at_queue(job)
            all_runs = list(runs(self.out / "runs"))
            ended = sum(run.done for run in all_runs)
            held = {run.id: self._holder(run) for run in all_runs if not run.done}
            if self.left and ended >= self.left[0][0]:
                self._disturb(self.left[0][1], {t for t in held.values() if t}, all_runs, ended)
            over = all(j.state not in ("RUNNING", "PENDING") for j in self.jobs.values())
            if ended == len(all_runs) and over:
                self.say(f"{ended} runs have ended, and the queue is empty")
                return
            if over and self.jobs:
                break
            time.sleep(1.0)
        raise SystemExit("the study did not end")

    def status(self) -> None:
        self.say("$ forcelaw status FOLDER/forty")
        for line in forcelaw("status", str(self.out), node=self.node).splitlines():
            self.say(f"  {line}")

    def _holder(self, run: RunDirectory) -> str:
        task = str(holder(run.path).get("job", ""))
        known = self.holders.setdefault(run.id, [])
        if task and known[-1:] != [task]:
            known.append(task)
        return task

    def _look_at_queue(self, job: str) -> None:
        text = self.node.ask(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={job}",
            "--format=%i|%T|%M|%l|%r|%N",
        )  # fmt: skip
        for line in text.splitlines():
            now = Job(*line.split("|"))
            before = self.jobs.get(now.id)
            self.jobs[now.id] = now
            if before is None or (before.state, before.reason) != (now.state, now.reason):
                why = f" ({now.reason})" if now.reason not in ("None", "") else ""
                self.say(f"squeue: {now.id} {now.state}{why}")

    def _disturb(self, how: str, busy: set[str], all_runs: list[RunDirectory], ended: int) -> None:
        running = {j.id for j in self.jobs.values() if j.state == "RUNNING"}
        victims = sorted((busy & running) - (self.spared if how != "preempt" else set()))
        if not victims:
            return
        task = victims[0]
        about = next((h for r in all_runs if (h := holder(r.path)).get("job") == task), {})
        if not about:
            return
        self.left.pop(0)
        if how == "kill -9 slurmd":
            self.status()
            self.say(f"$ kill -9 slurmd        with {ended} runs ended; started again after 5 s")
            self.node.kill("slurmd", signal.SIGKILL)
            time.sleep(5)
            self.node.start_daemon()
            return
        if how == "preempt":
            self.say(f"$ {URGENT}        with {ended} runs ended")
            self.say(f"  {self.node.ask(*shlex.split(URGENT)).strip()}")
            return
        self.spared.add(task)
        if how == "scancel":
            self.say(f"$ scancel {task}        with {ended} runs ended")
            self.node.ask("scancel", task)
        else:
            self.say(f"$ kill -9 {about['pid']}        a worker of {task}, {ended} runs ended")
            os.kill(about["pid"], signal.SIGKILL)


def forcelaw(*words: str, node: Node | None = None) -> str:
    command = [sys.executable, "-m", "forcelaw.cli", *words]
    environment = {**(node.environment if node else os.environ), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr + done.stdout


def compare(disturbed: Path, alone: Path) -> list[str]:
    """What is wrong with the disturbed study; empty: nothing."""
    found = []
    for run in runs(disturbed / "runs"):
        steps = [row["step"] for row in run.metrics()]
        if run.state() != "finished" or steps != sorted(set(steps)):
            found.append(f"{run.id}: {run.state()}, evaluations at {steps}")
        if (run.path / "claim").exists():
            found.append(f"{run.id}: still claimed")
    a, b = (
        table(p / "runs").drop("h", "throughput").sort("run", "step") for p in (disturbed, alone)
    )
    if not a.equals(b):
        found.append("the tables differ")
    count = a["run"].n_unique()
    print(f"{a.height} and {b.height} evaluations of {count} runs; equal: {a.equals(b)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=45.0)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / "forty.yaml"
    study.write_text(STUDY)
    with one_node(folder / "node", cpus=4) as node:
        print(node.ask("sinfo", "--version").strip())
        campaign = Campaign(node, folder, study)
        campaign.watch(campaign.submit(), args.minutes)
        campaign.status()
    logs = "".join(p.read_text() for p in (campaign.out / "slurm").glob("*_log.out"))
    for text in ("Requeued job", "is started again"):
        print(f"{text!r} in the logs: {logs.count(text)} times")
    several = {run: tasks for run, tasks in campaign.holders.items() if len(tasks) > 1}
    print(f"runs that more than one task had in turn, as seen once a second: {len(several)}")
    for run, tasks in sorted(several.items()):
        print(f"  {run}: {' '.join(tasks)}")
    print("$ forcelaw run forty.yaml --out FOLDER/alone --no-report      (undisturbed)")
    words = ("--device", "cpu", "--workers", "2", "--no-report")
    print(forcelaw("run", str(study), "--out", str(folder / "alone"), *words).splitlines()[-1])
    wrong = [*compare(campaign.out, folder / "alone"), *(f"not done: {d}" for d in campaign.left)]
    print("\n".join(wrong) or "all 40 runs as undisturbed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
