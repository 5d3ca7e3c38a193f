"""Threads are set before torch is imported: an oversubscribed torch is several times slower. So is
what Triton reads when it is imported: without a GPU, its interpreter runs the kernels."""

import contextlib
import gc
import multiprocessing.resource_tracker
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"
# importing torch and all tests makes a million objects that stay: to look through them again and
# again for what is no longer used is a third of the time that collecting takes
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # nor are they looked at when a test makes garbage
    gc.enable()
    if os.environ.get("TRITON_INTERPRET") == "1" and "triton" in sys.modules:
        from tests.interpreter import patch_language_once_a_launch

        patch_language_once_a_launch()


@pytest.fixture
def few_programs_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs zero the rows of padding edges and not 128: the interpreter runs one by one."""
    names = "gated_message", "esen.so2_turn", "gemnet.quadruplets", "gemnet.triplets"
    for name in (*names, "edge_attention_kernels", "edge_readout"):
        monkeypatch.setattr(import_module(f"forcelaw.ops.{name}"), "FILL", 2)


def pytest_sessionfinish() -> None:
    """End what tests left running, a child that hangs after its test failed for instance: Python
    waits for the children of multiprocessing before it ends."""
    tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
    for pid in _children() - {getattr(tracker, "_pid", None)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    """Ids of the processes that this one has started; empty where there is no /proc."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found |= set(map(int, path.read_text().split()))
    return found
