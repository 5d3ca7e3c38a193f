"""One run on several devices of this machine: this process is the first rank and starts the others,
which train whatever it gives them until it is over.

    with Team(2, "cuda") as team:
        drive(team.training(run, pack), torch.device("cuda"))

``python -m forcelaw.training.team`` is one of the others. Several machines, or ranks that torchrun
starts, need no team: :meth:`.ranks.Group.of_environment`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from ..data.pack import Pack
from ..data.schedule import Shards
from ..errors import ForcelawError, RankError, StudyError
from ..store.runs import RunDirectory
from . import ranks
from .cooperative import Stopped, Training, drive
from .device import cpu_threads, pick_device
from .loop import training
from .ranks import Group

END_SECONDS = 20.0  # in which ranks that have nothing more to do are to end
HOST = "127.0.0.1"


class Team:
    """``size`` ranks on this machine, the GPUs that torch sees being dealt out in order; one of
    them is this process alone. The other ranks are started with the first training, and again after
    one that failed. group: ranks that are there already, of which this is one."""

    def __init__(self, size: int, device: str, group: Group | None = None):
        self.size, self.first = size, group is None or group.first
        self.device = torch.device(pick_device(device)) if group is None else group.device
        if size > 1:
            ranks.require_distributed()
        if group is None and self.device.type == "cuda" and size > torch.cuda.device_count():
            raise StudyError(
                f"{size} GPUs are asked for a run, and torch sees {torch.cuda.device_count()}",
                remedy="give --gpus that many, or make more visible (CUDA_VISIBLE_DEVICES)",
            )
        self._others: list[subprocess.Popen[bytes]] = []
        self._group = group

    def training(
        self, run: RunDirectory, pack: Pack, *, compile_model: bool = False, **options: Any
    ) -> Training:
        """:func:`.loop.training` by all ranks, each on its device; other options as there."""
        options |= {"device": self.device, "compile_model": compile_model}
        if self.size == 1:
            return (yield from training(run, pack, **options))
        try:
            group = self._group or self._start()
            group.give_job(job(run, pack, compile_model))
            options |= {"device": group.device, "ranks": group}
            return (yield from training(run, pack, **options))
        except Stopped:  # the others read on, and wait for this one
            self.close(kill=True)
            return None
        except BaseException:  # the others are in the middle of something
            self.close(kill=True)
            raise

    def _start(self) -> Group:
        ranks.loopback()
        timeout = datetime.timedelta(seconds=ranks.TIMEOUT_SECONDS)
        store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        address = {"MASTER_ADDR": HOST, "MASTER_PORT": str(store.port)}
        command = [sys.executable, "-m", "forcelaw.training.team", "--device", self.device.type]
        command += ["--parent", str(os.getpid())]
        for rank in range(1, self.size):
            mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.size}
            environment = os.environ | address | {key: str(value) for key, value in mine.items()}
            self._others.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
            )
        self._wait_for_others(store)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", 0)
        self._group = Group(store, 0, self.size, self.device, gone=self._gone)
        self._group.may_leave = True
        return self._group

    def _wait_for_others(self, store: Any) -> None:
        """Until all have been imported and have found the store: one that cannot ends at once."""
        missing = {f"here/{rank}" for rank in range(1, self.size)}
        while missing := {key for key in missing if not store.check([key])}:
            if why := self._gone():
                raise RankError(why, remedy="its own message stands above this one")
            time.sleep(0.02)

    def _gone(self) -> str:
        for rank, other in enumerate(self._others, 1):
            if other.poll() is not None:
                return f"rank {rank} ended with code {other.returncode}"
        return ""

    def close(self, *, kill: bool = False) -> None:
        """End the other ranks; with ``kill`` in the middle of what they do."""
        if self._group and self.first and not kill and not self._gone():
            with contextlib.suppress(RuntimeError):
                self._group.give_job(None)
        for other in self._others:
            if kill:
                other.kill()
        if self._group:
            self._group.close(broken=kill)
        deadline = time.monotonic() + END_SECONDS
        for other in self._others:
            try:
                other.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()
        self._others, self._group = [], None

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@contextlib.contextmanager
def assembled(size: int, device: str, stop: Callable[[], bool]) -> Iterator[Team]:
    """The ranks of one command: those that torchrun has started, or ``size`` of this machine. Where
    this is not the first of them, it has done its part when the context is entered.

    stop: whether this rank wants to leave. StudyError for a size that makes no sense.
    """
    if size < 1 or (size > 1 and ranks.started_by_torchrun()):
        raise StudyError(
            f"{size} GPUs a run" + (", and torchrun has started the ranks" if size > 1 else ""),
            where="gpus",
            remedy="leave it out; torchrun says how many" if size > 1 else "give 1 or more",
        )
    group = Group.of_environment(device) if ranks.started_by_torchrun() else None
    with Team(group.size if group else size, device, group) as team:
        if group and not team.first:
            follow(group, stop)
        yield team


def job(run: RunDirectory, pack: Pack, compile_model: bool) -> dict[str, Any]:
    """What the other ranks have to know of a training, as JSON; they see the same files."""
    return {
        "run": str(run.path.resolve()),
        "pack": str(pack.path.resolve()),
        "compile": compile_model,
        "threads": torch.get_num_threads(),
    }


def follow(
    group: Group, stop: Callable[[], bool] = lambda: False, begin: Callable[[], None] = lambda: None
) -> None:
    """Train, as one of the other ranks, what the first gives, until it has nothing more. stop:
    whether this rank wants to leave, and hence all; ``begin`` is called before each training."""
    shards = Shards()
    while given := group.next_job():
        begin()
        try:
            with cpu_threads(given["threads"]):
                drive(
                    training(
                        RunDirectory(given["run"]),
                        Pack(given["pack"]),
                        device=group.device,
                        compile_model=given["compile"],
                        stop=stop,
                        shards=shards,
                        ranks=group,
                    ),
                    group.device,
                )
        except RankError:
            raise
        except Exception as error:
            group.leave(error)
            raise


def main(argv: list[str] | None = None) -> int:
    """Entry point of another rank; RANK, WORLD_SIZE and where the first one is are in the
    environment."""
    parser = argparse.ArgumentParser(prog="python -m forcelaw.training.team")
    parser.add_argument("--device", required=True)
    parser.add_argument("--parent", type=int, required=True, help="the process of the first rank")
    args = parser.parse_args(argv)
    asked = {"stop": False}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.update(stop=True))

    def gone() -> str:
        return "" if os.getppid() == args.parent else "the first rank is gone"

    try:
        _announce()
        group = Group.of_environment(args.device, gone)
        follow(group, lambda: asked["stop"], lambda: asked.update(stop=False))
        group.close()
    except ForcelawError as error:
        print(f"forcelaw: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _announce() -> None:
    """Say that this rank is there, before all meet."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False)
    store.set(f"here/{os.environ['RANK']}", "")


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # a collective that waits for a rank which is gone would keep the interpreter from ending
    os._exit(code)
