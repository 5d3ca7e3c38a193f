"""The device to train on."""

from __future__ import annotations

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


def device_name(device: str | torch.device) -> str:
    """Name of the GPU that ``device`` is, or "CPU"."""
    if not str(device).startswith("cuda"):
        return "CPU"
    import torch

    return torch.cuda.get_device_name(device)
