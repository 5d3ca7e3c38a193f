"""The device to train on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import StudyError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> str:
    """The device for ``name``; "auto" is a GPU if there is one. StudyError if torch has no GPU that
    ``name`` asks for."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(
            "no CUDA device is visible to torch",
            remedy="use the device cpu, or install a CUDA build of torch",
        )
    return name


@contextlib.contextmanager
def flushing_denormals() -> Iterator[None]:
    """Within, this thread takes numbers too small for full precision as zero: tiny second moments
    and far-off basis functions would slow a CPU down tenfold. Put back afterwards: the caller's own
    arithmetic is not ours to change."""
    import torch

    before = sys.float_info.min * 0.5 == 0.0  # torch does not say
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Within, torch computes with ``count`` threads. The order of its sums depends on it, so the
    same run has the same numbers only with the same count, whatever the machine and the workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_memory(device: torch.device) -> dict[str, str | float]:
    """Name of a device, and what of its memory is taken, by all processes, and there, in GiB;
    nothing of the latter for a CPU."""
    about: dict[str, str | float] = {"device": device_name(device)}
    if device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        about |= {"gpu_memory": (total - free) / 2**30, "gpu_memory_total": total / 2**30}
    return about


def device_name(device: str | torch.device) -> str:
    """Name of the GPU that ``device`` is, or "CPU"."""
    if not str(device).startswith("cuda"):
        return "CPU"
    import torch

    return torch.cuda.get_device_name(device)
