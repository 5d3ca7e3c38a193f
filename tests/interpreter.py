"""Triton's interpreter on a CPU: what it does again and again is done once. And the mark of tests
of kernels that ask for tensors on a CPU, besides those of tests/ops, which take either device."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import pytest
import torch

from forcelaw import ops

needs_interpreter = pytest.mark.skipif(
    not ops.AVAILABLE or torch.cuda.is_available(), reason="Triton's interpreter on a CPU"
)


def patch_language_once_a_launch() -> None:
    """A launch puts the interpreter's functions into triton.language; so does every call of a
    device function in it, which reads all members of the language for that: a third of the time of
    a kernel that has some. Here a launch does it for all of its calls.

    Nothing where another version of Triton has other names.
    """
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not {"_patch_lang", "_get_np_dtype", "tl"} <= set(vars(interpreter)):
        return
    patch, tl = interpreter._patch_lang, interpreter.tl
    # device functions of Triton's own see the language as `core`
    everywhere = FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
    under_way: list[Any] = []

    def patched(fn: Any) -> Any:
        if under_way:
            return None  # of a device function: nobody restores it
        scope = patch(everywhere)
        restore = scope.restore

        def restored() -> None:
            under_way.clear()
            restore()

        scope.restore = restored
        under_way.append(scope)
        return scope

    interpreter._patch_lang = patched
    find, known = interpreter._get_np_dtype, {}

    def numpy_type(given: Any) -> Any:  # makes a table of all types for each tensor
        of = given.element_ty if isinstance(given, tl.block_type) else given
        if of.name not in known:
            known[of.name] = find(of)
        return known[of.name]

    interpreter._get_np_dtype = numpy_type
