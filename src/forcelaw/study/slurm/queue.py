"""What SLURM says of jobs. Asked of squeue: accounting (sacct) is off on many clusters, and then
says nothing of a job that was cancelled."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...errors import StoreError
from ...files import read_json

FOLDER = "slurm"  # of a study, with what was submitted for it

SECONDS = 30.0  # for which an answer is waited for
_FIELDS = "%i|%T|%M|%l|%r|%N"
# that a job has while its processes may train
ALIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


class Job(NamedTuple):
    """A job, or task of an array: its id (123 or 123_4), state (PENDING, RUNNING, ...), time that
    it has run and may run, as text, why it waits, and its machine."""

    id: str
    state: str
    ran: str
    limit: str
    reason: str
    node: str


def submitted(out: Path) -> list[str]:
    """Ids of the arrays that were ever submitted for the study in ``out``."""
    found = []
    for path in sorted((out / FOLDER).glob("*.json")):
        with contextlib.suppress(StoreError, KeyError, TypeError):
            found.append(str(read_json(path)["job"]))
    return found


def jobs(ids: Iterable[str]) -> dict[str, Job] | None:
    """The jobs with these ids, or of these arrays, that are in the queue, by id. None where SLURM
    cannot be asked."""
    asked = sorted({name for name in ids if name.replace("_", "").isdigit()})
    if not asked or shutil.which("squeue") is None:
        return None if asked else {}
    found: dict[str, Job] = {}
    # one that is over and forgotten makes squeue refuse the list that it is in
    for names in ([",".join(asked)], asked):
        answers = [_squeue(name) for name in names]
        if None in answers and len(names) == 1 and len(asked) > 1:
            continue
        for answer in answers:
            for line in (answer or "").splitlines():
                parts = line.strip().split("|")
                if len(parts) == len(Job._fields):
                    found[parts[0]] = Job(*parts)
        break
    return found


def _squeue(ids: str) -> str | None:
    """Its answer; None if there is none."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--format={_FIELDS}"]
    try:
        done = subprocess.run(
            [*command, f"--jobs={ids}"], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def state(job: str) -> str:
    """The state of a job; empty where SLURM does not say."""
    known = (jobs([job]) or {}).get(job)
    return known.state if known else ""


def cancel_pending(ids: Iterable[str]) -> None:
    """Take what waits of these jobs out of the queue; what runs is left alone."""
    if shutil.which("scancel") is None:
        return
    for name in sorted(set(ids)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["scancel", "--state=PENDING", name], capture_output=True, timeout=SECONDS
            )
