"""Trainings that take turns in one process, so that a device which one small model cannot fill is
filled by several.

A training (:func:`forcelaw.training.loop.training`) is a generator. It queues work on the device
and yields an event: "resume me when this is done". One thread resumes whichever training is ready,
each on its own CUDA stream, so training needs no lock and a run makes the same numbers as without
the others. Two things can be requested instead of an event:

    Request.PREPARE    what follows is long work of the host (compiling, capturing): it gets the one
                       background thread
    Request.EXCLUSIVE  what follows is timed: everything else on the device is finished first and
                       waits

:func:`drive` runs one training; :class:`Scheduler` several.
"""

from __future__ import annotations

import contextlib
import enum
import sys
import time
import traceback
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from .device import flushing_denormals


class Request(enum.Enum):
    PREPARE = "prepare"
    EXCLUSIVE = "exclusive"


class Stopped(Exception):
    """Raised within a training that is to leave while it reads its data."""


# yields a Request, an event to wait for, or None: nothing to wait for, but others may go first
Training = Generator[Any, None, dict[str, Any] | None]

# torch deals out 32 streams and then gives the same ones again: two runs must never meet on one
MAX_RUNS = 24
IDLE_SECONDS = 2e-4
# a thread that launches a graph gives the interpreter away and gets it back after this time from
# one that is busy; Python's own 5 ms would slow all runs down whenever one is prepared
SWITCH_SECONDS = 1e-4
FIRST, OTHERS = -1, 0  # priority of a stream: the lower comes first


def on_stream(stream: torch.cuda.Stream | None) -> Any:
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def drive(training: Training, device: torch.device) -> dict[str, Any] | None:
    """Run one training to its end and return its result."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    with flushing_denormals(), on_stream(stream), contextlib.closing(training):
        while True:
            try:
                asks = next(training)
            except StopIteration as end:
                return end.value
            if asks is not None and not isinstance(asks, Request):
                asks.synchronize()


@dataclass
class Ended:
    """How a training ended: its result, or the error it raised (then ``traceback`` is its text)."""

    key: Any
    result: dict[str, Any] | None = None
    error: Exception | None = None
    traceback: str = ""


class _Task:
    def __init__(self, key: Any, training: Training, stream: torch.cuda.Stream | None):
        self.key, self.training, self.stream = key, training, stream
        self.asks: Any = Request.PREPARE  # what it yielded last
        self.preparing: Future[Ended | None] | None = None

    def resume(self) -> Ended | None:
        """Run to the next yield; how the training ended, if it did."""
        try:
            with flushing_denormals(), on_stream(self.stream):
                self.asks = next(self.training)
            return None
        except StopIteration as end:
            return Ended(self.key, result=end.value)
        except Exception as error:
            text = traceback.format_exc()
            # frames hold on to the tensors of the run, and with them to the memory of the device
            traceback.clear_frames(error.__traceback__)
            return Ended(self.key, error=error.with_traceback(None), traceback=text)

    def ready(self) -> bool:
        return self.asks is None or (not isinstance(self.asks, Request) and self.asks.query())


class Scheduler:
    """Up to ``limit`` trainings at once.

    The first one's work comes first on the device, and the others fill what it leaves: plans begin
    with the longest run, which would hold the device alone in the end.

    background: prepare trainings in a thread while the others are trained; useful where the device
    works on its own.
    """

    def __init__(self, limit: int, *, device: torch.device, background: bool):
        if not 1 <= limit <= MAX_RUNS:
            raise ValueError(f"between 1 and {MAX_RUNS} runs fit side by side, not {limit}")
        on_gpu = device.type == "cuda"
        # taken from the end
        self.free = [
            torch.cuda.Stream(device, priority=FIRST if k == limit - 1 else OTHERS)
            if on_gpu
            else None
            for k in range(limit)
        ]
        self.first = self.free[-1]
        self.tasks: list[_Task] = []
        self.thread = ThreadPoolExecutor(1, "prepare") if background else None
        if background:
            sys.setswitchinterval(SWITCH_SECONDS)

    @property
    def settled(self) -> bool:
        """Whether every training is past its preparation and its timing; only then is it time to
        add another."""
        return not any(t.preparing or isinstance(t.asks, Request) for t in self.tasks)

    def add(self, key: Any, training: Training) -> None:
        """Add a training, which begins with its preparation; fewer than ``limit`` must be under
        way."""
        self.tasks.append(_Task(key, training, self.free.pop()))

    def step(self) -> list[Ended]:
        """Resume every training that is ready, sleep a moment if none is, and return those that
        ended."""
        ended: list[Ended] = []
        moved = False
        exclusive = [t for t in self.tasks if t.asks is Request.EXCLUSIVE]
        busy = any(t.preparing for t in self.tasks)
        for task in list(self.tasks):
            if task.preparing is not None:
                if not task.preparing.done():
                    continue
                end, task.preparing = self._after(task, task.preparing.result()), None
                busy = False
            elif task.asks is Request.PREPARE and not busy and not exclusive:
                end = self._prepare(task)
                busy = task.preparing is not None
            elif task.ready() and (busy or not exclusive):  # before a timing the others run dry
                end = self._after(task, task.resume())
            else:
                continue
            moved = True
            ended += [end] if end else []
        idle = all(t.ready() for t in self.tasks if not isinstance(t.asks, Request))
        if exclusive and not busy and idle:
            # one after the other: the first may have queued new work when it comes back
            moved = True
            end = self._after(exclusive[0], exclusive[0].resume())
            ended += [end] if end else []
        if not moved and self.tasks:
            time.sleep(IDLE_SECONDS)
        return ended

    def _prepare(self, task: _Task) -> Ended | None:
        if self.thread is None:
            return self._after(task, task.resume())
        task.preparing = self.thread.submit(task.resume)
        return None

    def _after(self, task: _Task, end: Ended | None) -> Ended | None:
        if end is not None:
            self.tasks.remove(task)
            self.free.insert(len(self.free) if task.stream is self.first else 0, task.stream)
        return end

    def close(self) -> None:
        """Close all trainings; none is finished."""
        if self.thread:
            self.thread.shutdown()
        for task in self.tasks:
            # a device that does not answer cannot free memory either
            with contextlib.suppress(Exception):
                task.training.close()
        self.tasks.clear()
