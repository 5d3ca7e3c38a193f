"""Processes that train one run together, a GPU each (on a CPU: a process each).

Every rank has the whole model and takes its part of the structures of each step. The gradients are
summed as one flat vector, together with the loss; from there on all ranks do the same arithmetic
on the same numbers, so their weights stay equal to the last bit. Decisions that depend on a clock
or a signal are made together, between blocks of steps.

A rank that is lost ends the others: at once where the operating system tells (a closed connection,
a process that is gone), after ``TIMEOUT_SECONDS`` of silence where it does not.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ForcelawError, RankError, StudyError
from .device import pick_device

TIMEOUT_SECONDS = 600.0  # silence after which a rank counts as lost; compiling may take minutes
POLL_SECONDS = 2e-4
LEAVE_SECONDS = 30.0  # a process that a dead collective keeps on the device is ended after these
# "graph": the sum is part of the CUDA graph of a step; "split": it is launched between two graphs
ALL_REDUCE = "FORCELAW_ALL_REDUCE"


class Ranks:
    """One process, alone: nothing has to be exchanged. The interface of :class:`Group`."""

    rank, size = 0, 1
    in_graph = False  # whether sums belong into the CUDA graph of a step
    # whether this one may leave while it reads data: it is alone, or ends the others
    may_leave = True

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes: run directory, evaluations, checkpoints, result."""
        return self.rank == 0

    def sum_(self, flat: Tensor) -> None:
        """Replace ``flat``, on the device, by its sum over all ranks."""

    def copy_first_(self, tensors: list[Tensor]) -> None:
        """Replace ``tensors``, on the device, by those of the first rank."""

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums over all ranks, float64."""
        return values

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Maxima over all ranks, float64."""
        return values

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns on the first rank, which alone calls it; as JSON."""
        return make()

    def wait(self, event: Any) -> Generator[Any, None, None]:
        """Yields until ``event`` is over (:mod:`.cooperative`)."""
        yield event


ALONE = Ranks()


class Group(Ranks):
    """Rank ``rank`` of ``size``, which meet in ``store``. gone: says why a rank that this process
    knows of is gone, or nothing.

    Raises RankError when a rank is lost.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        device: torch.device,
        *,
        gone: Callable[[], str] = lambda: "",
        timeout: float = TIMEOUT_SECONDS,
    ):
        self.rank, self.size, self.device = rank, size, device
        self.gone, self.timeout, self._store = gone, timeout, store
        self.may_leave = False
        self.in_graph = os.environ.get(ALL_REDUCE, "split") == "graph"
        self._shared = self._jobs = 0
        self._ending: threading.Timer | None = None
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        with self._watched():
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", store),
                rank=rank,
                world_size=size,
                # ours comes first, and ends more cleanly
                timeout=datetime.timedelta(seconds=timeout + 60),
            )
            self.sum_(torch.ones(1, device=device))  # communicators are made by their first use

    @classmethod
    def of_environment(cls, device: str, gone: Callable[[], str] = lambda: "") -> Group:
        """The group that torchrun, or :class:`.team.Team`, describes in the environment."""
        require_distributed()
        timeout = datetime.timedelta(seconds=TIMEOUT_SECONDS)
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        return cls(store, rank, size, device_of_rank(device), gone=gone)

    def sum_(self, flat: Tensor) -> None:
        with self._watched():
            dist.all_reduce(flat)

    def copy_first_(self, tensors: list[Tensor]) -> None:
        with self._watched():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def total(self, values: np.ndarray) -> np.ndarray:
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: np.ndarray) -> np.ndarray:
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: np.ndarray, how: Any) -> np.ndarray:
        tensor = torch.tensor(values, dtype=torch.float64)
        with self._watched():
            dist.all_reduce(tensor, how)
        return tensor.numpy()

    def from_first(self, make: Callable[[], Any]) -> Any:
        self._shared += 1
        key = f"shared/{self._shared}"
        if self.first:
            self._store.set(key, json.dumps(make()))
        with self._watched():
            return json.loads(self._store.get(key))

    def wait(self, event: Any) -> Generator[Any, None, None]:
        deadline = time.monotonic() + self.timeout
        while not event.query():
            if why := self.gone():
                raise self.lost(why)
            if time.monotonic() > deadline:
                raise self.lost(f"a step did not end within {self.timeout:.0f} s")
            time.sleep(POLL_SECONDS)
            yield None

    def give_job(self, job: dict[str, Any] | None) -> None:
        """Tell the other ranks what to train next; None: nothing more."""
        self._jobs += 1
        self._store.set(f"job/{self._jobs}", json.dumps(job))

    def next_job(self) -> dict[str, Any] | None:
        """What the first rank wants trained next, or None: nothing more. Waits for as long as it
        takes: a worker may have nothing to do for hours."""
        self._jobs += 1
        key, pause = f"job/{self._jobs}", datetime.timedelta(seconds=1)
        while True:
            if why := self.gone():
                raise self.lost(why)
            with self._watched():
                try:
                    self._store.wait([key], pause)
                except dist.DistStoreError:  # not yet
                    continue
                return json.loads(self._store.get(key))

    def leave(self, error: Exception) -> None:
        """Tell the other ranks why this one ends before the run does."""
        why = {"what": f"{type(error).__name__}: {error}"[:2000]}
        why |= {"failed": not isinstance(error, ForcelawError)}
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", json.dumps(why))

    def lost(self, why: str) -> RankError:
        """The error to raise where a rank is lost; nothing can be exchanged any more."""
        said = [found for rank in range(self.size) if (found := self._said(rank))]
        self._abort()
        what = "; ".join(found["what"] for found in said) or why
        error = RankError(
            f"rank {self.rank} of {self.size} lost another: {what}",
            remedy="the same command resumes the run from its last checkpoint, on as many GPUs as"
            " you give",
        )
        error.failed = any(found["failed"] for found in said)
        return error

    def _said(self, rank: int) -> dict[str, Any] | None:
        with contextlib.suppress(Exception):  # whatever has become of the store
            if self._store.check([f"left/{rank}"]):
                return json.loads(self._store.get(f"left/{rank}"))
        return None

    def _abort(self) -> None:
        """End what waits on the device for ranks that will not come: it would keep whatever waits
        for the device, when memory is given back or the interpreter ends. Where that does not help
        this process is ended."""
        if self.device.type != "cuda" or self._ending is not None:
            return
        self._ending = threading.Timer(LEAVE_SECONDS, os._exit, [RankError.exit_code])
        self._ending.daemon = True
        self._ending.start()
        with contextlib.suppress(Exception):
            dist.distributed_c10d._abort_process_group()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """What torch says when the other side is gone or silent is a RankError."""
        try:
            yield
        except RuntimeError as error:
            raise self.lost(self.gone() or str(error).splitlines()[0]) from error

    def close(self, *, broken: bool = False) -> None:
        """Leave the group, as all ranks do, or because it is ``broken``."""
        if broken:
            self._abort()
        with contextlib.suppress(Exception):  # it may be gone
            dist.destroy_process_group()
        # what torchrun has started ends now; a program of its own may go on
        if self._ending is not None and not started_by_torchrun():
            self._ending.cancel()


def require_distributed() -> None:
    """StudyError where torch was built without its distributed part."""
    if not dist.is_available():
        raise StudyError(
            "this build of torch cannot train on several devices (torch.distributed is absent)",
            remedy="leave --gpus out, or install another build of torch",
        )


def started_by_torchrun() -> bool:
    """Whether this process was started as one of several ranks."""
    names = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    return several and all(name in os.environ for name in names)


def writes() -> bool:
    """Whether this process is the first of its ranks, or alone: it writes, and speaks."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def device_of_rank(device: str) -> torch.device:
    """The device of this rank: "cpu", or the GPU that LOCAL_RANK counts."""
    device, number = pick_device(device), int(os.environ.get("LOCAL_RANK", "0"))
    if not device.startswith("cuda"):
        return torch.device(device)
    if number >= torch.cuda.device_count():
        raise StudyError(
            f"rank {number} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
            remedy="start as many ranks on a machine as it has GPUs",
        )
    return torch.device("cuda", number)


def loopback() -> None:
    """Let ranks of one machine talk over its loopback device: its host name may resolve to an
    address that nothing answers at."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
