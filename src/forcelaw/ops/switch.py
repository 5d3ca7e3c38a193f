"""Which implementation an operation runs: plain torch, or Triton kernels.

The environment variable ``FORCELAW_OPS`` is read here and nowhere else:

    auto      Triton for tensors on a GPU, plain torch for the rest (the default)
    torch     plain torch everywhere
    triton    Triton everywhere; on a CPU that needs its interpreter (TRITON_INTERPRET=1)

Kernels give gradients by positions, and are differentiated again, only where
:func:`by_positions` says so: ``ForceField.forward`` does for gradient forces of architectures whose
operations all can, and takes plain torch for the others; in training the mode ``twice``, plain
torch with second derivatives written down where that is shorter (:mod:`.twice`). Code that
torch.compile or torch.export traces is plain torch too: they fuse the plain operations themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ..errors import ForcelawError

MODES = ("auto", "torch", "triton", "twice")


def _checked(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ForcelawError(
            f"unknown implementation {mode!r}",
            where=where,
            remedy=f"use one of: {', '.join(MODES)}",
        )
    return mode


STARTED_WITH = _checked(os.environ.get("FORCELAW_OPS", "auto"), "environment variable FORCELAW_OPS")
# how often operations are differentiated once positions move: 0, where they do not
_derivatives: ContextVar[int] = ContextVar("derivatives", default=0)
_mode: ContextVar[str] = ContextVar("mode", default=STARTED_WITH)  # one for each thread


class _NoTriton:
    """In the place of Triton where no kernel can run: kernels are defined, but stay Python."""

    @staticmethod
    def jit(function: Any = None, **_: Any) -> Any:
        return (lambda f: f) if function is None else function

    constexpr_function = jit

    @staticmethod
    def constexpr(value: Any) -> Any:
        return value


triton: Any = _NoTriton
tl: Any = _NoTriton
AVAILABLE = False
# importing Triton and reading 96 kernels takes most of a second: only where they can run
if STARTED_WITH == "triton" or (
    STARTED_WITH == "auto"
    and (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1")
):
    try:
        triton = importlib.import_module("triton")
        tl = importlib.import_module("triton.language")
        AVAILABLE = True
    except ImportError:  # a torch without Triton
        if STARTED_WITH == "triton":
            raise
constexpr: Any = tl.constexpr


def use_triton(x: Tensor) -> bool:
    """Whether an operation on ``x`` runs its kernels."""
    if not AVAILABLE or torch.compiler.is_compiling():
        return False
    mode = _mode.get()
    return mode == "triton" or (mode == "auto" and x.is_cuda)


def use_twice() -> bool:
    """Whether an operation by plain torch will be differentiated twice."""
    # in this order: a compiler cannot trace what follows
    return not torch.compiler.is_compiling() and _mode.get() == "twice"


def plain(x: Tensor) -> bool:
    """Whether an operation on ``x`` must be plain torch: asked for, or traced by a compiler."""
    return torch.compiler.is_compiling() or _mode.get() in ("torch", "twice")


def use_triton_at(vec: Tensor) -> bool:
    """The same for an operation on the geometry of edges, by which kernels have a gradient only
    inside :func:`by_positions`."""
    chosen = use_triton(vec)
    if chosen and vec.requires_grad and not _derivatives.get():
        raise RuntimeError(
            "kernels give no gradient by positions here: call the model itself, or its parts inside"
            ' forcelaw.ops.using("torch")'
        )
    return chosen


@contextlib.contextmanager
def using(mode: str) -> Iterator[None]:
    """Operations inside run as ``mode`` says ("torch", "triton", "auto" or "twice"), in this
    thread."""
    if _checked(mode, "ops.using") == "triton" and not AVAILABLE:
        raise ForcelawError(
            "Triton was not imported, so no kernel can run",
            remedy="set FORCELAW_OPS=triton before forcelaw is imported",
        )
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def derivatives() -> int:
    """0 outside of :func:`by_positions`; inside 1, or 2 where gradients are differentiated
    again."""
    return _derivatives.get()


@contextlib.contextmanager
def by_positions(again: bool) -> Iterator[None]:
    """Operations inside have gradients by the geometry of edges, as far as they are of
    :class:`forcelaw.ops.register.Twice`, and by parameters those of these gradients too (again) or
    none at all."""
    token = _derivatives.set(2 if again else 1)
    try:
        yield
    finally:
        _derivatives.reset(token)
