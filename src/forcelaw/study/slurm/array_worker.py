"""What submitit starts for each task of an array, and asks to save before the time limit.

It trains nothing itself. It starts :mod:`.task`, which watches over the worker processes of this
machine, and ends it by SIGTERM as Ctrl-C would: they save and let go of their runs. Only when they
are gone is the task requeued, so that the claims of its runs are free by then. What it does next
time is all in the study directory.

    time limit is near    SLURM sends SIGUSR2; submitit calls ``checkpoint`` and requeues the task
    preempted             SIGTERM while SLURM says that the job runs: requeued likewise
    cancelled             SIGTERM: it ends
    forcelaw stop         the workers end by themselves, and so does the task
    a worker is killed    training is started again, unless that happens too often
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import StudyError
from ...host import batch_job
from .. import stop
from . import queue

STOPPED = 130  # exit code of a task that a signal has ended
MOST_FAILURES, SOON_SECONDS = 3, 600.0  # so many in a row, each so soon after the start
PAUSE_SECONDS = 10.0
QUESTIONS = 3  # to a SLURM that does not answer


class ArrayWorker:
    """A task of the array: called once it has started, with its number.

    words: arguments of :mod:`.task`. out: the output directory. seconds: that training has for
    saving, when it is to end.
    """

    def __init__(self, words: list[str], out: str, seconds: float):
        self.words, self.out, self.seconds = words, out, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int) -> str:
        """Train until nothing is left for this worker; why it ended, in words. StudyError where
        training fails again and again."""
        failures = 0
        while True:
            began = time.monotonic()
            code = self._train()
            if code == 0:
                return "no run is left"
            if stop.asked(Path(self.out)):
                return "stopped"
            if code in (STOPPED, -signal.SIGTERM):  # the latter while it was being imported
                self._requeue_if_preempted()
                return "cancelled"
            failures = failures + 1 if time.monotonic() - began < SOON_SECONDS else 1
            if failures >= MOST_FAILURES:
                raise StudyError(
                    f"training ended {failures} times in a row, the last time with code {code}",
                    where=self.out,
                    remedy="its message stands above; submit the study again when it is mended",
                )
            print(f"training ended with code {code}; it is started again", flush=True)
            time.sleep(PAUSE_SECONDS)

    def checkpoint(self, number: int) -> Any:
        """submitit calls this in its handler of the signal before the time limit. Saves everything,
        and returns what the requeued task will call; ends where nothing is to be requeued."""
        from submitit.helpers import DelayedSubmission

        self._end_training()
        if stop.asked(Path(self.out)):
            raise SystemExit(0)
        return DelayedSubmission(ArrayWorker(self.words, self.out, self.seconds), number)

    def _train(self) -> int:
        """Run :mod:`.task`; its exit code."""
        command = [sys.executable, "-m", "forcelaw.study.slurm.task", *self.words]
        # SLURM sends its signals to every process of a task; this one is for submitit's alone
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(_warning_signal(), signal.SIG_IGN),
        )
        return self._child.wait()

    def _end_training(self) -> None:
        """Let training save and end; kill it when it does not. A handler of signals calls this, in
        the middle of :meth:`_train`: so it only looks, and leaves the child to the wait there."""
        if self._child is None or self._child.returncode is not None:
            return
        deadline = time.monotonic() + self.seconds
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._child.pid, signal.SIGTERM)
            while not os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if time.monotonic() > deadline:
                    os.kill(self._child.pid, signal.SIGKILL)  # its workers see that it is gone
                    return
                time.sleep(0.1)

    def _requeue_if_preempted(self) -> None:
        """Requeue a task that was interrupted while it still counts as running: it has to make room
        for another. One that was cancelled does not count as running, and ends."""
        for _ in range(QUESTIONS):
            if state := queue.state(batch_job()):
                break
            time.sleep(PAUSE_SECONDS / QUESTIONS)
        if state == "RUNNING":
            signal.raise_signal(_warning_signal())


def _warning_signal() -> int:
    """The signal that SLURM sends before the time limit: the one that submitit asks for."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return int(getattr(signal, f"SIG{name}"))
