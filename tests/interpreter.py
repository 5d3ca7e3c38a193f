"""Tests of kernels that ask for tensors on a CPU, besides those of tests/ops, which take either
device."""

import pytest
import torch

from forcelaw import ops

needs_interpreter = pytest.mark.skipif(
    not ops.AVAILABLE or torch.cuda.is_available(), reason="Triton's interpreter on a CPU"
)
