"""Runs of a study side by side on one device: claims them, trains them in turns, and records how
they end."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from ..data.schedule import Shards, device_capacity
from ..errors import ClaimError, DataError, RankError, StorageError, StoreError, StudyError
from ..files import is_storage, storage, storage_error
from ..progress import Progress
from ..store.beats import Beats
from ..store.runs import RunDirectory
from ..training.cooperative import Ended, Scheduler
from ..training.device import device_memory
from ..training.loop import HEARTBEAT_SECONDS, training
from ..training.team import Team
from .precompile import Ahead
from .record import StudyDirectory

POLL_SECONDS = 1.0
CROWDED_SECONDS = 5.0  # before a run is tried again that other processes left no memory


class ConcurrentRuns:
    """Up to ``limit`` runs of a study at once; with 1 they are trained one after the other, each on
    ``gpus`` devices together.

    stop: whether everything is to be stopped now. closing: whether nothing new is to begin. beats:
    where to say once a minute how it goes. idle: seconds without a free run after which to leave
    the rest to those that hold it. workers: of this machine, which share its cores.
    """

    def __init__(
        self,
        directory: StudyDirectory,
        *,
        device: str,
        limit: int,
        compile_model: bool,
        stop: Callable[[], bool],
        show: bool,
        closing: Callable[[], bool] = lambda: False,
        hold: float | None = None,
        gpus: int = 1,
        beats: Beats | None = None,
        idle: float = math.inf,
        workers: int = 1,
    ):
        self.beats, self.progress = beats, dict[str, Progress]()  # of the runs under way
        self.directory, self.limit, self.hold, self.show = directory, limit, hold, show
        self.workers = workers
        self.stop, self.closing = stop, closing
        self.device, self.on_gpu = torch.device(device), device == "cuda"
        self.scheduler = Scheduler(limit, device=self.device, background=self.on_gpu and limit > 1)
        # runs share the data on the device; how much of it may be there is asked before they take
        # memory
        self.team = Team(gpus, device) if gpus > 1 else None
        self.options: dict[str, Any] = {
            "device": self.device,
            "compile_model": compile_model,
            "stop": stop,
            "shards": Shards(),
            "capacity": device_capacity(self.device),
            "shared": limit > 1,
        }
        # compiled models have few kernels of ours
        self.ahead = Ahead(
            directory.pack.path,
            "cpu" if compile_model else device,
            max(workers, torch.cuda.device_count() if self.on_gpu else 1),
        )
        self.empty = self._free_memory()
        self.look_again = self.beat = 0.0
        self.precompiled: set[str] = set()  # runs whose kernels are asked for
        self.crowded_out: Counter[str] = Counter()  # runs that had no memory beside other processes
        self.over = False  # whether the study has no open run left
        self.idle, self.busy = idle, time.monotonic()  # when it last had a run, or one was to come

    def work(self) -> None:
        """Train until no run is left that this worker could take, or ``stop`` says so."""
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
                self._say_how_it_goes()
                if not self.scheduler.tasks:
                    if leaving or self.over or time.monotonic() > self.busy + self.idle:
                        break
                    time.sleep(POLL_SECONDS)  # others hold all that is open
                    continue
                self.busy = time.monotonic()
                for ended in self.scheduler.step():
                    self._settle(ended)
                self._heartbeat()
        finally:
            left = [task.key for task in self.scheduler.tasks]
            self.ahead.close()
            self.scheduler.close()
            if self.team:
                self.team.close()
            for run in left:
                run.release()

    def _has_room(self) -> bool:
        """Whether another run can begin: fewer than the limit, none in preparation, and twice the
        memory of the mean run so far is free."""
        if len(self.scheduler.tasks) >= self.limit or not self.scheduler.settled:
            return False
        if self._crowded():
            torch.cuda.empty_cache()  # what ended runs left; nothing is being captured now
            if self._crowded():
                self.look_again = time.monotonic() + POLL_SECONDS
                return False
        return True

    def _crowded(self) -> bool:
        count, free = len(self.scheduler.tasks), self._free_memory()
        return self.on_gpu and count > 0 and free < 2 * (self.empty - free) / count

    def _free_memory(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0] if self.on_gpu else 0

    def _start_one(self) -> bool:
        """Claim the most urgent open run and begin it."""
        mine = {task.key.id for task in self.scheduler.tasks}
        plan = self.directory.create_runs(self.hold)
        # as of the plan: one that has ended since may be what the rest of it waits for
        unfinished = [item for item in plan.active if item.id not in self.directory.ended]
        open_runs = [item for item in unfinished if not self._damaged(self.directory.run(item))]
        if not plan.complete:  # a grid will follow the sweep that others train
            self.busy = time.monotonic()
        self.over = not open_runs and (plan.complete or bool(unfinished))
        if any(item.id not in self.precompiled for item in open_runs):
            self.precompiled.update(item.id for item in open_runs)
            self.ahead.give(item.spec for item in [*open_runs, *plan.waiting])
        others = (self.directory.run(item) for item in open_runs if item.id not in mine)
        run = next((run for run in others if run.claim()), None)
        if run is None:
            self.look_again = time.monotonic() + POLL_SECONDS
            return False
        make = self.team.training if self.team else training
        self.scheduler.add(
            run, make(run, self.directory.pack, progress=self._progress(run), **self.options)
        )
        return True

    def _damaged(self, run: RunDirectory) -> bool:
        """Whether a run is set aside; one that has a result, but none that can be read, is now."""
        if run.damage():
            return True
        if not run.done or run.id in self.directory.ended:
            return False
        try:
            run.final_loss()
        except StoreError as error:
            self._set_aside(run, error)
            return True
        return False

    def _set_aside(self, run: RunDirectory, error: StoreError) -> None:
        print(f"run {run.id} is damaged and set aside: {error}", file=sys.stderr)
        with storage(run.path):
            run.set_aside(error)

    def _progress(self, run: RunDirectory) -> Progress:
        spec = run.spec()
        name = f"{spec['label']} N={spec['n']:,} seed {spec['seed']} lr {spec['lr']:g}"
        self.progress[run.id] = Progress(name, spec["steps"], unit="steps", show=self.show)
        return self.progress[run.id]

    def _say_how_it_goes(self) -> None:
        if self.beats:
            self.beats.write(
                lambda: {run: progress.state() for run, progress in self.progress.items()},
                lambda: device_memory(self.device),
            )

    def _settle(self, ended: Ended) -> None:
        """Record how a run ended. One bad run must not end the study; it stays in the table. A full
        disk, a lost mount, bad data and a process that was killed are not the run's fault: they end
        the worker."""
        run, error, others = ended.key, ended.error, len(self.scheduler.tasks)
        self.progress.pop(run.id, None)
        self.look_again = 0.0
        try:
            if error is None:
                return
            if isinstance(error, ClaimError):
                print(f"run {run.id}: {error}", file=sys.stderr)
            elif isinstance(error, StoreError):
                self._set_aside(run, error)
            elif isinstance(error, StorageError | DataError) or (
                isinstance(error, RankError) and not error.failed
            ):
                raise error
            elif isinstance(error, OSError) and is_storage(error):
                raise storage_error(error, run.path) from error
            elif isinstance(error, torch.OutOfMemoryError) and self._try_again(run, others):
                pass
            elif others and not self._device_answers():
                # any of the runs may have been the cause
                raise StudyError(
                    f"the device does not answer any more: {error}",
                    remedy="the same command resumes from the last checkpoints; with"
                    " --runs-per-device 1 it shows which run is the cause",
                ) from error
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
                if not self._device_answers():  # every further run would fail here
                    raise StudyError(
                        f"the device does not answer this process any more: {error}",
                        remedy="the same command goes on with the other runs",
                    ) from error
        finally:
            run.release()
            if self.on_gpu and not others:
                gc.collect()
                with contextlib.suppress(RuntimeError):  # a device that does not answer
                    torch.cuda.empty_cache()  # other processes may be short of it

    def _try_again(self, run: RunDirectory, others: int) -> bool:
        """Whether a run that was out of memory stays open: one beside ``others`` of this process,
        or, twice, beside other processes on its device."""
        if others:
            self.limit = others
            why = f"with {others} others: no more than {others} at once from now on"
        elif self.workers > 1 and self.crowded_out[run.id] < 2:
            self.crowded_out[run.id] += 1
            self.look_again = time.monotonic() + CROWDED_SECONDS
            why = "beside other processes: tried again"
        else:
            return False
        print(f"run {run.id}: out of memory {why}", file=sys.stderr)
        return True

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
        for task in self.scheduler.tasks:
            with contextlib.suppress(StoreError, OSError):  # the run will find out itself
                task.key.heartbeat()
