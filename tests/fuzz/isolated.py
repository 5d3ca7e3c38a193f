"""Run one case in a process of its own: a hang, a crash and the memory it takes are seen."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from forcelaw.errors import ForcelawError

CPU_SECONDS, WALL_SECONDS = 60, 300  # after which a case hangs
MOST_MEMORY = 4 << 30  # bytes, more than any case may take, so that none takes all there is


class Wrong(AssertionError):
    """Something was accepted that must not be."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: read, refused, wrong, traceback, hang or crash; what it said last; its peak
    memory in MB, Python and all packages included; and its CPU seconds."""

    kind: str
    said: str
    memory: float
    seconds: float


def isolated(case: Callable[[], int | None]) -> Outcome:
    """Run ``case`` in a forked process. A ForcelawError or an exit code other than 0 is a refusal,
    a :class:`Wrong` a wrong acceptance, any other exception a traceback."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(case, write)
    os.close(write)
    status, usage = _wait(pid)
    with os.fdopen(read, "rb") as pipe:
        kind, _, said = pipe.read().decode(errors="replace").partition("\n")
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        kind = "hang" if number in (signal.SIGKILL, signal.SIGXCPU) else "crash"
        said = number.name
    return Outcome(kind, said, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def _wait(pid: int) -> tuple[int, resource.struct_rusage]:
    until, pause = time.monotonic() + WALL_SECONDS, 0.002
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _child(case: Callable[[], int | None], pipe: int) -> None:
    """Run the case, say through ``pipe`` how it ended, and leave without any cleaning up."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parsers
            code = case()
        kind, said = ("refused" if code else "read"), err.getvalue()
        if code == 2 and "where:" not in said and "remedy:" not in said and "usage:" not in said:
            kind = "bare"  # neither a place nor a remedy
    except ForcelawError as error:
        kind, said = ("refused" if error.where or error.remedy else "bare"), str(error)
    except Wrong as error:
        kind, said = "wrong", str(error)
    except SystemExit as error:  # of argparse
        kind, said = "refused", str(error.code)
    except BaseException:
        kind, said = "traceback", traceback.format_exc()
    with os.fdopen(pipe, "wb") as file:
        file.write(f"{kind}\n{said[-3000:]}".encode(errors="replace"))
    sys.stdout.flush()
    os._exit(0)
