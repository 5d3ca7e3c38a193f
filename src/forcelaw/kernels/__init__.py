"""Fused kernels for what surrounds the matrix products of a message: gather, weigh, rotate, sum over neighbours.

Triton on a GPU. Every model keeps a plain torch path, which is what a CPU runs, what a gradient of a gradient needs
(conservative forces), and what the kernels are tested against. Sums run over edges sorted by receiver, or through the
``transposed`` order by sender, one program per atom: no atomics, so a step gives the same bits every time.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

# on a CPU the interpreter of Triton runs them, for tests
AVAILABLE = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
if AVAILABLE:
    try:
        from .gated import gated_sum
        from .norm import norm_silu
        from .turn import so2_message, spread
        from .vectors import vector_sum
    except ImportError:  # a torch without Triton
        AVAILABLE = False


def fused(vec: Tensor) -> bool:
    """Whether messages along the edge vectors (e, 3) can take the fused kernels: on a GPU, without a gradient by positions."""
    return AVAILABLE and vec.is_cuda and not vec.requires_grad


__all__ = ["AVAILABLE", "fused", "gated_sum", "norm_silu", "so2_message", "spread", "vector_sum"]
