"""How long work goes, as a line of JSON a minute: for `forcelaw status`, and for whoever collects
logs.

    OUT/logs/<job>-<host>-<k>.jsonl    one file for each worker, which alone appends to it

A line holds: time (UTC), host, pid, job (of SLURM, or ""), device, memory (largest of the process),
gpu_memory and gpu_memory_total (of its device, all processes), all in GiB, and runs: id -> step,
steps, rate (steps/s), left (s, null where nothing says) and, once it was evaluated, loss.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..host import batch_job

SECONDS = 60.0
FRESH_SECONDS = 4 * SECONDS  # a worker that prepares a large run may be late
_TAIL = 1 << 16


class Beats:
    """The lines of one worker, appended to ``path``."""

    def __init__(self, path: Path):
        self.path = path
        self._last = time.monotonic() - 0.9 * SECONDS  # the first one comes soon

    def write(
        self,
        runs: Callable[[], Mapping[str, Mapping[str, Any]]],
        device: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Append a line with the states of ``runs`` and what ``device`` says, unless there was one
        within a minute. A disk that refuses it stops nobody."""
        if time.monotonic() - self._last < SECONDS:
            return
        self._last = time.monotonic()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"time": now, "host": socket.gethostname(), "pid": os.getpid()}
        about |= {"job": batch_job(), "memory": _largest_memory(), **device()}
        line = json.dumps(_rounded({**about, "runs": runs()})) + "\n"
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line)


def latest(out: Path) -> list[dict[str, Any]]:
    """The last line of each worker of the study in ``out`` that has said something of late, with
    its ``age`` in seconds."""
    found = []
    for path in sorted((out / "logs").glob("*.jsonl")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            line = _last_line(path)
            when = datetime.datetime.fromisoformat(line["time"])
            line["age"] = (datetime.datetime.now(datetime.UTC) - when).total_seconds()
            if line["age"] < FRESH_SECONDS and isinstance(line["runs"], dict):
                found.append(line)
    return found


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line; one that is being written has no end yet."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        line = json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
    if not isinstance(line, dict):
        raise ValueError(path)
    return line


def _largest_memory() -> float:
    """GiB that this process had at most."""
    try:
        import resource
    except ModuleNotFoundError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _rounded(value: Any) -> Any:
    """With five digits, and null for what is no number: JSON has no nan."""
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
