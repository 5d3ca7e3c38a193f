"""The inside of a worker: claims runs, gives them turns on the device, and writes down how they
end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..data.schedule import Shards, device_capacity
from ..errors import StoreError, StudyError
from ..progress import Progress
from ..store.runs import RunDirectory
from ..training.cooperative import Ended, SideBySide
from ..training.loop import HEARTBEAT_SECONDS, training
from .config import Planner
from .listing import known_runs
from .precompile import Ahead

POLL_SECONDS = 1.0


class Lanes:
    """Up to ``pack`` runs of a study at once; with 1 they go one after the other. ``stop``: put
    everything down now. ``closing``: begin nothing new."""

    def __init__(
        self,
        planner: Planner,
        runs: Path,
        *,
        device: str,
        pack: int,
        compile_model: bool,
        stop: Callable[[], bool],
        show: bool,
        closing: Callable[[], bool] = lambda: False,
        hold: float | None = None,
    ):
        self.planner, self.runs, self.stop, self.closing, self.show = (
            planner,
            runs,
            stop,
            closing,
            show,
        )
        self.hold = hold
        self.device, self.limit, self.on_gpu = torch.device(device), pack, device == "cuda"
        self.side = SideBySide(pack, device=self.device, background=self.on_gpu and pack > 1)
        # runs share the data on the device; how much of it may be there is asked before they take
        # memory
        self.options = {
            "device": self.device,
            "compile_model": compile_model,
            "stop": stop,
            "shards": Shards(),
            "capacity": device_capacity(self.device),
            "shared": pack > 1,
        }
        # compiled models have few kernels of ours
        self.ahead = Ahead(
            planner.pack.path,
            "cpu" if compile_model else device,
            torch.cuda.device_count() if self.on_gpu else 1,
        )
        self.empty = self._free_memory()
        self.look_again = self.beat = 0.0
        self.seen: set[str] = set()  # runs whose kernels are asked for
        self.over = False  # whether the study has no open run left

    def work(self) -> None:
        """Train until no run is left that this worker could take, or ``stop`` says so."""
        began, solo = time.monotonic(), 0.0
        try:
            while True:
                leaving = self.stop() or self.closing()
                if (
                    not leaving
                    and time.monotonic() >= self.look_again
                    and self._has_room()
                    and self._start_one()
                ):
                    continue
                if not self.side.tasks:
                    if leaving or self.over:
                        break
                    time.sleep(POLL_SECONDS)  # others hold all that is open
                    continue
                for ended in self.side.turn():
                    solo += (ended.result or {}).get("seconds", 0.0)
                    self._settle(ended)
                self._heartbeat()
        finally:
            left = [task.key for task in self.side.tasks]
            self.ahead.close()
            self.side.close()
            for run in left:
                run.release()
        wall = time.monotonic() - began
        print(
            f"the runs that ended here take {solo:.0f} s of the device each by itself; they took"
            f" {wall:.0f} s, preparation and evaluation included: {solo / wall:.2f} at once",
            file=sys.stderr,
        )

    def _has_room(self) -> bool:
        """Whether another run can begin: a place, nobody in preparation, and twice the memory of
        the mean run so far."""
        if len(self.side.tasks) >= self.limit or not self.side.settled:
            return False
        if self._crowded():
            torch.cuda.empty_cache()  # what ended runs left; nothing is being captured now
            if self._crowded():
                self.look_again = time.monotonic() + POLL_SECONDS
                return False
        return True

    def _crowded(self) -> bool:
        count, free = len(self.side.tasks), self._free_memory()
        return self.on_gpu and count > 0 and free < 2 * (self.empty - free) / count

    def _free_memory(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0] if self.on_gpu else 0

    def _start_one(self) -> bool:
        """Claim the most urgent open run and begin it."""
        mine = {task.key.id for task in self.side.tasks}
        listed, complete = known_runs(self.planner, self.runs, self.hold)
        open_runs = [run for run, _ in listed if not run.done]
        self.over = complete and not open_runs
        new = [run for run in open_runs if run.id not in self.seen]
        self.seen.update(run.id for run in new)
        if new:
            self.ahead.give(run.spec() for run in new)
            self.ahead.give(self._later())
        run = next((run for run in open_runs if run.id not in mine and run.claim()), None)
        if run is None:
            self.look_again = time.monotonic() + POLL_SECONDS
            return False
        if run.done:  # finished by another between the listing and the claim
            run.release()
            return True
        self.side.add(
            run, training(run, self.planner.pack, progress=self._progress(run), **self.options)
        )
        return True

    def _later(self) -> Iterator[dict[str, Any]]:
        """Runs that wait for a sweep, at a learning rate of 1: their kernels are those that they
        will have."""
        for a in sorted(self.planner.study.architectures, key=lambda a: a.stage):
            if self.planner.waits(a, self.runs):
                yield from self.planner.grid(a, 1.0)

    def _progress(self, run: RunDirectory) -> Progress | None:
        if not self.show:
            return None
        spec = run.spec()
        return Progress(
            f"{spec['label']} N={spec['n']:,} seed {spec['seed']} lr {spec['lr']:g}",
            spec["steps"],
            unit="steps",
        )

    def _settle(self, ended: Ended) -> None:
        """Write down how a run ended. One bad run must not end the study; it stays in the table."""
        run, error, others = ended.key, ended.error, len(self.side.tasks)
        self.look_again = 0.0
        try:
            if error is None:
                return
            if isinstance(error, StoreError):
                print(
                    f"run {run.id}: {error}", file=sys.stderr
                )  # lost the claim or damaged: leave it alone
            elif others and not self._device_answers():
                # it answers nothing any more to this process, and any of the runs may have been the
                # cause
                raise StudyError(
                    f"the device gave up: {error}",
                    remedy=(
                        "the same command goes on from the last checkpoints; "
                        "with --pack 1 it shows which run it is"
                    ),
                ) from error
            elif others and isinstance(error, torch.OutOfMemoryError):
                self.limit = others  # the run is still open and will be tried with fewer beside it
                print(
                    f"run {run.id}: out of memory beside {others} others: no more than {others} at"
                    " once",
                    file=sys.stderr,
                )
            else:
                print(f"run {run.id} failed: {error}", file=sys.stderr)
                run.finish(
                    {
                        "status": "failed",
                        "message": f"{type(error).__name__}: {error}"[:2000],
                        "device": self.device.type,
                        "traceback": ended.traceback[-4000:],
                    }
                )
        finally:
            run.release()

    def _device_answers(self) -> bool:
        try:
            torch.zeros(1, device=self.device).item()
        except torch.OutOfMemoryError:
            return True
        except RuntimeError:
            return False
        return True

    def _heartbeat(self) -> None:
        """Renew the claims: a run that waits or is being prepared cannot do it itself."""
        if time.monotonic() - self.beat < HEARTBEAT_SECONDS:
            return
        self.beat = time.monotonic()
        for task in self.side.tasks:
            with contextlib.suppress(StoreError):  # the run will find out itself
                task.key.heartbeat()
