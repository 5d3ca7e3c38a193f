"""Stop a study, wherever its workers are: OUT/stop.json says that it is wished for. Whoever watches
over workers looks for it, and a study that is started again withdraws it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path

from ..files import storage, write_json
from ..progress import are, counted
from ..store.claim import LEASE_SECONDS
from ..store.runs import RunDirectory, runs
from .slurm import queue

NAME = "stop.json"
POLL_SECONDS = 1.0


def stop(
    out: Path, say: Callable[[str], None], *, seconds: float = LEASE_SECONDS + 30
) -> list[RunDirectory]:
    """Ask all workers of the study in ``out`` to save and end, take its workers that still wait out
    of SLURM's queue, and wait at most ``seconds`` for the others; the runs that are held still."""
    ask(out)
    queue.cancel_pending(queue.submitted(out))
    deadline, left, before = time.monotonic() + seconds, list(runs(out / "runs")), -1
    while left := [run for run in left if run.held]:
        if len(left) != before:
            say(f"{counted(len(left))} {are(len(left))} being saved")
            before = len(left)
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return left


def ask(out: Path) -> None:
    """Ask all workers of the study in ``out`` to save and end."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with storage(out):
        write_json(out / NAME, {"asked": now})


def asked(out: Path) -> bool:
    return (out / NAME).exists()


def withdraw(out: Path) -> None:
    with storage(out):
        (out / NAME).unlink(missing_ok=True)
