"""A study: :class:`Study`, made from a study file, with what can be done with it as methods."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, StudyError, require
from ..host import wanted_threads
from .run import Say

if TYPE_CHECKING:
    import polars as pl

    from ..study.config import Study as StudyConfig
    from ..study.record import StudyDirectory
    from ..study.slurm.submit import Submission


@dataclass(frozen=True)
class StudyOutcome:
    """How a study stands after :meth:`Study.run`: counts of its runs. time_up: the time was up, and
    work is left. damaged: runs whose files cannot be read, and which were set aside. bad: a run
    failed, one of a grid diverged (those of a sweep may), or an architecture has no learning rate.
    out: the output directory."""

    out: Path
    total: int
    finished: int
    diverged: int
    failed: int
    time_up: bool
    damaged: int = 0
    bad: bool = False


class Study:
    """A study file, and what the commands ``run``, ``status`` and ``report`` do with it.

    >>> study = forcelaw.Study.load("studies/quickstart.yaml")   # doctest: +SKIP
    >>> study.plan()                                             # doctest: +SKIP
    >>> study.run(minutes=10)                                    # doctest: +SKIP
    >>> study.report()                                           # doctest: +SKIP

    config: what the file says (:class:`forcelaw.study.config.Study`). out: the output directory,
    by default out/NAME.
    """

    def __init__(self, config: StudyConfig, file: Path, out: str | Path | None = None):
        self.config, self.file = config, file
        self.out = Path("out") / config.name if out is None else Path(out)

    @classmethod
    def load(cls, path: str | Path, out: str | Path | None = None) -> Study:
        """Read and check a study file. Raises StudyError with every wrong key."""
        require("torch", "safetensors")
        from ..study.config import load

        return cls(load(path), Path(path), out)

    def __repr__(self) -> str:
        return f"Study({str(self.file)!r}, out={str(self.out)!r})"

    @cached_property
    def directory(self) -> StudyDirectory:
        """The study with its data and output directory."""
        from ..study.record import StudyDirectory, find_pack

        base = self.file.parent
        return StudyDirectory(self.config, find_pack(self.config, base), self.out, base)

    def plan(self) -> pl.DataFrame:
        """Every run, most urgent first: run (its id), architecture, kind ("sweep" or "grid"), n,
        d (atoms), c (FLOPs), lr, seed, state ("waiting", "running", "stopped", "finished",
        "diverged", "failed"). Runs whose learning-rate sweep is not over come last, with neither id
        nor lr."""
        import polars as pl

        planned = self.directory.plan()
        rows = [
            {
                "run": item.id if known else None,
                "architecture": item.label,
                "kind": item.kind,
                "n": item.spec["n"],
                "d": item.spec["steps"] * item.spec["batch_atoms"],
                "c": item.flops,
                "lr": item.spec["lr"] if known else None,
                "seed": item.spec["seed"],
                "state": self.directory.run(item).state() if known else "waiting",
            }
            for known, items in ((True, planned.runs), (False, planned.waiting))
            for item in items
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def describe(
        self,
        device: str = "auto",
        workers: int | None = None,
        gpus: int = 1,
        runs_per_device: int | str = "auto",
    ) -> str:
        """The plan and what it costs, as the text of ``forcelaw run --plan``, and what the array of
        a study with a block ``slurm`` asks for. A plan for "cuda" needs no GPU: it is that of one
        H200 then. gpus: of each run. runs_per_device: runs side by side, a number or "auto"."""
        from ..study.cost import rates_of
        from ..study.launcher import default_workers
        from ..study.slurm.submit import describe_array
        from ..study.status import describe_plan
        from ..study.worker import shares
        from ..training.device import pick_device

        device = device if device == "cuda" else pick_device(device)
        rates = rates_of(self.directory, device, remember=False)
        workers = workers or default_workers(device, gpus)
        shared = shares(self.directory, device, gpus, runs_per_device)
        text = describe_plan(self.directory, rates, workers, device, gpus, shared)
        if self.config.slurm is None:
            return text
        if self.config.slurm.device != device:
            rates = rates_of(self.directory, self.config.slurm.device, remember=False)
            shared = shares(self.directory, self.config.slurm.device, gpus, runs_per_device)
        return f"{text}\n{describe_array(self.directory, rates, gpus, shared)}"

    def run(
        self,
        *,
        workers: int | None = None,
        device: str = "auto",
        runs_per_device: int | str = "auto",
        compile: bool = False,
        minutes: float | None = None,
        hold_largest: float | None = None,
        retry_failed: bool = False,
        threads: int | None = None,
        gpus: int = 1,
        command: str = "forcelaw.Study.run",
        say: Say = lambda text: None,
    ) -> StudyOutcome:
        """Train what is not done yet, in worker processes on this machine. A later call resumes
        where this one stopped.

        workers: processes; by default one per core, or per GPU. gpus: GPUs that each run is trained
        on together, one run at a time on those of a worker (on a CPU: processes). device: "auto",
        "cpu" or "cuda". runs_per_device: runs side by side in each worker, a number or "auto".
        compile: torch.compile the models. minutes: stop cleanly after that time. hold_largest:
        leave out the runs with at least this share of the largest compute of their architecture,
        for a forecast.
        retry_failed: train failed runs again, and damaged ones from the start. threads: of each run
        on a CPU, by default what OMP_NUM_THREADS says, else 1; results depend on it in the last
        digits, and it is recorded with each run.
        command: recorded in study.json. say: called with lines of text.

        Raises StudyError for wrong options, and where OUT holds another study.
        """
        from ..data.verify import verify
        from ..progress import counted
        from ..study.cost import rates_of
        from ..study.launcher import check_devices, default_workers, run_local
        from ..study.status import (
            describe_plan,
            describe_rest,
            describe_unlearned,
            study_status,
            unlearned_runs,
        )
        from ..study.stop import withdraw
        from ..study.worker import headroom, shares
        from ..training.device import pick_device

        began = time.time()
        check_run_options(device, workers, runs_per_device, minutes, hold_largest, threads, gpus)
        device = pick_device(device)
        threads = wanted_threads(threads)
        workers = workers or default_workers(device, gpus, threads)
        check_devices(device, workers, gpus)
        verify(self.directory.pack, self.out)
        rates = rates_of(self.directory, device)
        shared = shares(self.directory, device, gpus, runs_per_device)
        say(describe_plan(self.directory, rates, workers, device, gpus, shared))
        withdraw(self.out)
        if changed := self.directory.write(command=command):
            say(changed)
        if retry_failed:
            self._forget_failed()
        deadline = began + 60 * minutes if minutes else math.inf
        before, clock = study_status(self.directory, rates, hold_largest), time.monotonic()
        if before.over and not before.damaged:
            workers = 0  # each would import torch to find nothing to do
        status = run_local(
            self.directory,
            self.file,
            workers=workers,
            device=device,
            rates=rates,
            compile_model=compile,
            runs_per_device=str(runs_per_device),
            deadline=deadline,
            hold=hold_largest,
            threads=threads,
            gpus=gpus,
        )
        finished, diverged, failed = (
            status.states[state] for state in ("finished", "diverged", "failed")
        )
        damaged = len(status.damaged)
        aside = f", {damaged} damaged and set aside" if damaged else ""
        say(
            f"{counted(finished)} finished, {diverged} diverged, {failed} failed{aside}: {self.out}"
        )
        if text := describe_unlearned(unlearned_runs(self.directory)):
            say(text)
        time_up = not status.over and time.time() >= deadline - headroom(device, compile)
        if time_up:
            rest = describe_rest(status, before, time.monotonic() - clock)
            say(f"time is up after {(time.time() - began) / 60:.1f} minutes: {rest}")
        bad = bool(failed or status.diverged_grid or status.failed)
        return StudyOutcome(
            self.out, status.total, finished, diverged, failed, time_up, damaged, bad
        )

    def submit(
        self,
        *,
        runs_per_device: int | str = "auto",
        compile: bool = False,
        hold_largest: float | None = None,
        retry_failed: bool = False,
        threads: int | None = None,
        gpus: int = 1,
        command: str = "forcelaw.Study.submit",
        say: Say = lambda text: None,
    ) -> Submission:
        """Submit the array of workers that the study's block ``slurm`` describes, and return at
        once. Options as for :meth:`run`. Called again it adds workers, which share what is left.

        Raises StudyError for wrong options, where the study has no such block, where there is no
        SLURM, or where it refuses; MissingPackageError without submitit.
        """
        from ..data.verify import verify
        from ..study.cost import rates_of
        from ..study.launcher import check_array
        from ..study.slurm.submit import block_of, describe_array, submit
        from ..study.worker import shares

        require("submitit")
        block = block_of(self.directory)
        check_run_options(block.device, None, runs_per_device, None, hold_largest, threads, gpus)
        check_array(block, gpus, wanted_threads(threads))
        verify(self.directory.pack, self.out)
        rates = rates_of(self.directory, block.device)
        shared = shares(self.directory, block.device, gpus, runs_per_device)
        say(describe_array(self.directory, rates, gpus, shared))
        if changed := self.directory.write(command=command):
            say(changed)
        if retry_failed:
            self._forget_failed()
        self.directory.create_runs(hold_largest)
        how = ["--runs-per-device", str(runs_per_device), "--gpus", str(gpus)]
        how += ["--threads", str(wanted_threads(threads))]
        how += ["--compile"] if compile else []
        how += ["--hold", repr(hold_largest)] if hold_largest else []
        return submit(self.directory, self.file, how)

    def _forget_failed(self) -> None:
        """Let failed runs be trained again from their checkpoints, damaged ones from the start."""
        from ..files import storage
        from ..store.runs import runs

        for run in runs(self.out / "runs"):
            state = run.state()
            if state == "finished":
                try:
                    run.final_loss()
                except StoreError:
                    state = "damaged"
            with storage(run.path):
                if state == "failed":
                    (run.path / "result.json").unlink()
                elif state == "damaged":
                    run.start_over()

    def status(self) -> str:
        """Where the study stands: counts of runs by architecture and state, what failed, what is
        being trained and where, and the time that was spent. Raises StoreError if nothing was
        trained yet."""
        return study_status(self.out)[0]

    def report(self, out: str | Path | None = None, **options: Any) -> dict[str, Any]:
        """Write the report, by default to OUT/report: the paths of its page, figures and tables,
        and the table of exponents as text (:func:`forcelaw.report.write.report`)."""
        require("matplotlib", "plotly", "jinja2")
        from ..report.write import report

        return report(self.out, out, **options)


def study_status(out: Path, *, prometheus: bool = False) -> tuple[str, bool]:
    """Where the study in output directory ``out`` stands, as text or in the text format of
    Prometheus, and whether no run is left to train. StoreError if there is none."""
    from ..study import live
    from ..study.status import status_table, survey

    _require_study(out)
    found = survey(out)
    if prometheus:
        text = live.prometheus(out, found.now, found.counts)
    else:
        text = status_table(out, found)
    return text, found.unfinished == 0


def _require_study(out: Path) -> None:
    if not (out / "runs").is_dir():
        raise StoreError(
            "no study here",
            where=str(out),
            remedy="give the output directory of `forcelaw run`",
        )


def stop_study(out: Path, say: Say = lambda text: None) -> list[str]:
    """Stop all workers of the study in output directory ``out``, here and on a cluster, and wait
    until they have saved; ids of the runs that are held all the same after some minutes. StoreError
    if there is no study."""
    from ..study.stop import stop

    _require_study(out)
    return [run.id for run in stop(out, say)]


def check_run_options(
    device: str,
    workers: int | None,
    runs_per_device: int | str,
    minutes: float | None,
    hold_largest: float | None,
    threads: int | None = None,
    gpus: int = 1,
) -> None:
    """StudyError for options of a run that make no sense."""
    side_by_side = str(runs_per_device)
    number = side_by_side.isdigit() and 1 <= int(side_by_side) <= 24
    for name, value, good, remedy in (
        (
            "device",
            device,
            device in ("auto", "cpu", "cuda"),
            "give auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        ),
        (
            "threads",
            threads,
            threads is None or threads > 0,
            "give a number of threads; 1 is the default",
        ),
        ("gpus", gpus, gpus > 0, "give a number of GPUs; 1 is the default"),
        ("workers", workers, not workers or workers > 0, "give a number of processes"),
        (
            "runs_per_device",
            runs_per_device,
            (number and (gpus == 1 or int(side_by_side) == 1)) or side_by_side == "auto",
            "give auto, or how many runs a worker trains side by side, at most 24; on several GPUs"
            " together it is one",
        ),
        ("minutes", minutes, minutes is None or minutes > 0, "give minutes of wall time to use"),
        (
            "hold_largest",
            hold_largest,
            hold_largest is None or 0 < hold_largest <= 1,
            "give a share of a run's compute, above 0 and up to 1",
        ),
    ):
        if not good:
            raise StudyError(f"{name} cannot be {value!r}", where=name, remedy=remedy)
