"""Options of every command that trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..settings import Settings


class Machine(Settings):
    """Where models are trained."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one"""
    gpus: int = Field(1, title="K")
    """GPUs that each run is trained on together (on a CPU: processes; default: 1). The numbers are
    those of one to rounding"""
    compile: bool = False
    """torch.compile the models (needs a C++ compiler)"""
    threads: int | None = Field(None, title="K")
    """threads of each run on a CPU (default: what OMP_NUM_THREADS says, else 1); results depend on
    it in the last digits, and it is recorded in each"""
