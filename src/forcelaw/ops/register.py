"""How a pair of kernels becomes an operation that autograd knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function


class Differentiable(Function):
    """Kernels of a forward and a backward pass: a subclass defines ``forward(ctx, *inputs)`` and
    ``backward(ctx, *gradients)``, without decorators, and is called by ``apply``.

    Asking for a gradient that could be differentiated again (create_graph) is a RuntimeError. torch
    sees no kernel while it compiles or exports (``use_triton``), so nothing is declared to it here.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.forward = staticmethod(cls.__dict__["forward"])
        cls.backward = staticmethod(_once(cls.__dict__["backward"]))


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kernels cannot be differentiated twice: run the forward pass inside"
                ' forcelaw.ops.using("torch")'
            )
        return backward(ctx, *gradients)

    return checked
