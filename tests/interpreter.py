"""Tests of kernels that ask for tensors on a CPU, besides those of tests/ops, which take either
device."""

from importlib import import_module

import pytest
import torch

from forcelaw import ops

needs_interpreter = pytest.mark.skipif(
    not ops.AVAILABLE or torch.cuda.is_available(), reason="Triton's interpreter on a CPU"
)


@pytest.fixture
def few_programs_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs zero the rows of padding edges and not 128: the interpreter runs one by one."""
    for name in ("gated_message", "esen.so2_message", "gemnet.quadruplets", "gemnet.triplets"):
        monkeypatch.setattr(import_module(f"forcelaw.ops.{name}"), "FILL", 2)
