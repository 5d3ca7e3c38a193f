"""Whether other processes train on the same GPU: device-hours that are measured beside them are not
those of a run that has the device to itself.

A process that trains on a GPU holds a shared lock on a file named after it, in the machine's folder
for temporary files; who gets that lock for itself alone is alone. The locks of a process end with
it. Containers with temporary folders of their own, and programs that are not forcelaw, are not
seen. Where there are no such locks nobody is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_held: dict[Path, tuple[int, int]] = {}  # file -> descriptor, trainings of this process


@contextlib.contextmanager
def training_on(device: torch.device) -> Iterator[Callable[[], bool]]:
    """While a training uses ``device``. Yields a function that says whether no other process trains
    on it now; always true of a CPU, whose cores are shared out by number."""
    if device.type != "cuda":
        yield lambda: True
        return
    properties = torch.cuda.get_device_properties(device)
    name = str(getattr(properties, "uuid", f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {device}"))
    with sharing(lock_file(name)) as alone:
        yield alone


def lock_file(name: str) -> Path:
    """The file that stands for the device called ``name``."""
    folder = Path(tempfile.gettempdir())
    return folder / f"forcelaw-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"


@contextlib.contextmanager
def sharing(path: Path) -> Iterator[Callable[[], bool]]:
    """Hold a shared lock on ``path``; several trainings of a process hold it together. Yields a
    function that says whether no other process holds one."""
    try:
        import fcntl

        descriptor, count = _held.get(path) or (_opened(path), 0)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except (ImportError, OSError):  # no such locks here
        yield lambda: True
        return
    _held[path] = descriptor, count + 1

    def alone() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = True
        except OSError:
            found = False
        with contextlib.suppress(OSError):  # a lock that could not be raised is gone, too
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return found

    try:
        yield alone
    finally:
        descriptor, count = _held.pop(path)
        if count > 1:
            _held[path] = descriptor, count - 1
        else:
            os.close(descriptor)


def _opened(path: Path) -> int:
    """A descriptor; of a file of another user too, which need not be written to be locked."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
