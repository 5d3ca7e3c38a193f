"""Take-overs of runs by real processes, made as hard as can be: pauses between all steps, workers
stopped past their lease and continued, clocks ten minutes apart, PID namespaces with one host name.
No run may have two winners or two writers, no evaluation may be there twice, nothing may hang.

    python benchmarks/claim_campaign.py [--takeovers 10000] [--stops 300] [--seed 0]
        [--folder DIR ...]

With several folders, mounts of one directory of an NFS server for instance, each worker goes
through its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from forcelaw.errors import ClaimError, StorageError
from forcelaw.store import claim as claims
from forcelaw.store.runs import RunDirectory

RACERS = 4
STEPS = 40  # of a run in the scenarios that train
MOUNTS: list[Path] = []  # of one directory, as the workers see it
CONTEXT = multiprocessing.get_context("fork")  # this process has no threads


def seen_by(k: int, folder: Path) -> Path:
    """``folder``, which lies in the first of the mounts, in that of worker ``k``."""
    if len(MOUNTS) < 2:
        return folder
    return MOUNTS[k % len(MOUNTS)] / folder.relative_to(MOUNTS[0])


def pauses(chance: random.Random, longest: float) -> None:
    """From here on this process pauses before many of the steps that others see."""

    def paused(action: Any) -> Any:
        def run(*args: Any) -> Any:
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, longest))
            return action(*args)

        return run

    for name in ("_entries", "_exists", "_rename", "_free"):
        setattr(claims, name, paused(getattr(claims, name)))


def disguise(k: int, *, lease: float, skew: float = 0.0) -> None:
    """From here on this process is on a machine of its own, whose clock is ``skew`` seconds off."""
    me = claims.identity() | {"host": f"host-{k}"}
    claims.identity = lambda: me
    claims.LEASE_SECONDS = lease
    now = time.time
    time.time = lambda: now() + skew  # type: ignore[assignment]


def stale_run(path: Path) -> RunDirectory:
    """A run that a machine which is gone has claimed."""
    run = RunDirectory(path)
    (path / "claim" / "1" / "work").mkdir(parents=True)
    holder = path / "claim" / "1" / "holder.json"
    holder.write_text(json.dumps({"token": "x", "host": "gone", "pid": 1}))
    os.utime(holder, (0, 0))
    return run


def race(k: int, folder: Path, count: int, barrier: Any, wins: Any, seed: int) -> None:
    """Try for each of ``count`` runs together with the other racers."""
    disguise(k, lease=120.0)
    folder = seen_by(k, folder)
    pauses(random.Random(f"{seed} {k}"), 0.002)
    for number in range(count):
        barrier.wait(timeout=120)
        if RunDirectory(folder / str(number)).claim():
            with wins.get_lock():
                wins[number] += 1


def takeovers(folder: Path, count: int, seed: int) -> str:
    """Contested take-overs of stale claims: what was found, as text; raises if it is wrong."""
    for number in range(count):
        stale_run(folder / str(number))
    barrier, wins = CONTEXT.Barrier(RACERS), CONTEXT.Array("i", count)
    racers = [
        CONTEXT.Process(target=race, args=(k, folder, count, barrier, wins, seed))
        for k in range(RACERS)
    ]
    finish(racers, 60 + 2 * count)
    counts = [wins[:].count(n) for n in range(RACERS + 1)]
    assert counts[1] == count, f"runs by number of winners: {counts}"
    return f"{count} take-overs by {RACERS} racers: {counts[1]} with one winner, none with more"


def finish(processes: list[Any], seconds: float) -> None:
    for process in processes:
        if process.pid is None:
            process.start()
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        assert process.exitcode == 0, f"a worker ended with {process.exitcode} (None: it hangs)"


def work(k: int, folder: Path, lease: float, skew: float, seed: int, own_name: bool) -> None:
    """A worker: train whatever run is free, until all are over."""
    folder = seen_by(k, folder)
    if own_name:
        disguise(k, lease=lease, skew=skew)
    pauses(random.Random(f"{seed} {k}"), 0.002)
    while open_runs := [p for p in sorted(folder.iterdir()) if not RunDirectory(p).done]:
        for path in open_runs:
            run = RunDirectory(path)
            try:
                if run.claim():
                    train(run, k)
            # the second: a rename that the fence stopped between the check and itself
            except (ClaimError, StorageError) as error:
                with (folder.parent / f"lost-{k}").open("a") as file:
                    file.write(f"{type(error).__name__}\n")
            finally:
                run.release()
        time.sleep(0.01)


def train(run: RunDirectory, k: int) -> None:
    """The writes of a training: resume, evaluate, save, finish."""
    last = run.path / "last.json"
    state = json.loads(last.read_text()) if last.exists() else {"step": 0}
    run.truncate_metrics(state["step"])
    for step in range(state["step"] + 1, STEPS + 1):
        run.heartbeat()
        run.append_metric({"step": step, "worker": k, "claim": run._claim.number})
        if step % 5 == 0:
            with run.writing("last.json") as temporary:
                temporary.write_text(json.dumps({"step": step}))
        time.sleep(0.002)
    run.finish({"status": "finished", "claim": run._claim.number})


def verify(folder: Path) -> tuple[int, int]:
    """Every run is over, with each evaluation once and by claims in their order; the number of runs
    and of changes of their holder."""
    changes, paths = 0, sorted(folder.iterdir())
    for path in paths:
        rows = RunDirectory(path).metrics()
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), path
        holders = [row["claim"] for row in rows]
        assert holders == sorted(holders), path
        changes += len(set(holders)) - 1
    return len(paths), changes


def stops(folder: Path, count: int, seed: int) -> str:
    """Workers that are stopped for longer than their lease, and continued."""
    chance, lease = random.Random(seed), 0.15
    for number in range(2 * count):
        stale_run(folder / "runs" / str(number))
    workers = [
        CONTEXT.Process(target=work, args=(k, folder / "runs", lease, 0.0, seed, True))
        for k in range(RACERS)
    ]
    for worker in workers:
        worker.start()
    stopped = 0
    while any(worker.is_alive() for worker in workers):
        victim = chance.choice(workers)
        if victim.is_alive():
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(chance.uniform(lease, 3 * lease))
            os.kill(victim.pid, signal.SIGCONT)
            stopped += 1
        time.sleep(chance.uniform(0, 0.01))
    finish(workers, 30)
    runs, changes = verify(folder / "runs")
    lost = sum(len(path.read_text().splitlines()) for path in folder.glob("lost-*"))
    return (
        f"{stopped} stops past the lease: {runs} runs, {changes} changes of holder between"
        f" evaluations, {lost} times a worker found its run lost; no evaluation twice or missing"
    )


def clocks(folder: Path, count: int, seed: int) -> str:
    """Hosts whose clocks are ten minutes ahead and behind: no claim of a living worker is taken."""
    for number in range(count):
        stale_run(folder / "runs" / str(number))
    finish(
        [
            CONTEXT.Process(target=work, args=(k, folder / "runs", 120.0, skew, seed, True))
            for k, skew in enumerate((0.0, 600.0, -600.0))
        ],
        120,
    )
    runs, changes = verify(folder / "runs")
    assert changes == 0 and not list(folder.glob("lost-*")), "a living worker was taken over"
    return f"clocks 600 s ahead and behind: {runs} runs, {changes} changes of holder"


def namespaces(folder: Path, count: int, seed: int) -> str:
    """Workers in PID namespaces of their own, with one host name."""
    enter = ["unshare", "-Urpf", "--mount-proc"]
    if subprocess.run([*enter, "true"], check=False, capture_output=True).returncode:
        return "PID namespaces: cannot be made here, not tried"
    for number in range(count):
        stale_run(folder / "runs" / str(number))
    command = [*enter, sys.executable, __file__, "--work-in", str(folder), "--seed", str(seed)]
    processes = [subprocess.Popen([*command, "--worker", str(k)]) for k in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    runs, changes = verify(folder / "runs")
    assert changes == 0 and not list(folder.glob("lost-*")), "a living worker was taken over"
    return f"3 PID namespaces, one host name: {runs} runs, {changes} changes of holder"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--takeovers", type=int, default=10_000)
    parser.add_argument("--stops", type=int, default=300)
    parser.add_argument("--runs", type=int, default=24, help="in the last two scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, nargs="+", default=[], metavar="DIR")
    parser.add_argument("--work-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work_in:
        work(args.worker, args.work_in / "runs", 120.0, 0.0, args.seed, own_name=False)
        return 0
    print(f"# {' '.join(sys.argv)}", flush=True)
    MOUNTS.extend(args.folder)
    folder = Path(tempfile.mkdtemp(dir=MOUNTS[0] if MOUNTS else None))
    try:
        for name, scenario in (
            ("takeovers", lambda where: takeovers(where, args.takeovers, args.seed)),
            ("stops", lambda where: stops(where, args.stops, args.seed)),
            ("clocks", lambda where: clocks(where, args.runs, args.seed)),
            ("namespaces", lambda where: namespaces(where, args.runs, args.seed)),
        ):
            began = time.monotonic()
            print(f"{scenario(folder / name)} ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
