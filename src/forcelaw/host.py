"""What this process can learn of the machine it runs on, and of its part of it: a container, a
batch job or a pinned shell has fewer cores and less memory than the machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CGROUPS, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def usable_cores() -> int:
    """Cores that this process may use: those that it may run on, no more than its cgroup grants
    and than SLURM gave its task."""
    found = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        found.append(len(os.sched_getaffinity(0)))
    for folder in _cgroups("cpu"):
        quota, _, period = _line(folder / "cpu.max").partition(" ")  # version 2
        if not period:
            quota, period = (_line(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) // int(period))
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    if os.environ.get("SLURM_JOB_ID") and given.isdigit():
        found.append(int(given))
    return max(1, min(found))


def allow_open_files() -> int:
    """Raise the number of files that this process may have open, which often is 1,024, to what it
    may be raised to, at most 65,536; the number."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 512
    most = 1 << 16
    soft, hard = (most if x < 0 else x for x in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft < min(hard, most):
        soft = min(hard, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def usable_memory() -> int:
    """Bytes that this process may still take: free on the machine, no more than what its cgroup
    leaves, and than SLURM gave its task."""
    try:
        found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError, AttributeError):
        found = [16 * 10**9]
    for folder in _cgroups("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
        ):
            most, now = _line(folder / limit), _line(folder / used)
            if most.isdigit() and now.isdigit():
                # files that are cached count as used, and make room when asked
                cached = re.search(
                    r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.M
                )
                found.append(int(most) - int(now) + (int(cached[1]) if cached else 0))
    if os.environ.get("SLURM_JOB_ID"):
        mib = os.environ.get("SLURM_MEM_PER_NODE", "")
        per_core = os.environ.get("SLURM_MEM_PER_CPU", "")
        if mib.isdigit() and int(mib):  # 0: all of the node's
            found.append(int(mib) << 20)
        elif per_core.isdigit() and int(per_core):
            found.append(usable_cores() * int(per_core) << 20)
    return max(0, min(found))


def wanted_threads(given: int | None = None) -> int:
    """Threads of a run on a CPU: as ``given``, else as OMP_NUM_THREADS says, else 1."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return given or (int(text) if text.isdigit() and int(text) else 1)


def batch_job() -> str:
    """The SLURM job that this process is part of, as squeue writes it: 123, or 123_4 for a task of
    an array; empty outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def place() -> str:
    """Names this machine, and the SLURM job, in names of files that no other writes."""
    name = re.sub(r"[^\w.-]", "-", socket.gethostname())
    return "-".join(part for part in (batch_job(), name) if part)


def process_exists(pid: int) -> bool:
    """Whether a process of this number is there; a killed one is until its parent has waited."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of the cgroups that limit this process, its own and those around it."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if names and controller not in names.split(","):
            continue
        root = CGROUPS / controller if names else CGROUPS
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (root.joinpath(*parts[:k]) for k in range(len(parts), -1, -1))


def _line(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def interrupted_by_sigterm() -> contextlib.AbstractContextManager[None]:
    """While entered, SIGTERM does what Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    return _on_sigterm(interrupt)


def without_sigterm() -> contextlib.AbstractContextManager[None]:
    """While entered, SIGTERM does nothing."""
    return _on_sigterm(signal.SIG_IGN)


@contextlib.contextmanager
def _on_sigterm(handler: Any) -> Iterator[None]:
    """Another handler of SIGTERM, where this thread may set one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
