"""Tests of kernels that ask for tensors on a CPU, beside those of tests/kernels, which take either device."""

import pytest
import torch

from forcelaw import kernels

needs_interpreter = pytest.mark.skipif(not kernels.AVAILABLE or torch.cuda.is_available(), reason="Triton's interpreter on a CPU")
