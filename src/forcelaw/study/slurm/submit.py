"""Submit an array of workers for a study, and say before what it would ask for.

What there is of it in the study directory:

    OUT/slurm/<job>.json                what was submitted, and when
    OUT/slurm/<job>_<task>_0_log.out    what a task of the array said (submitit writes it)
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StudyError, require
from ...files import storage, write_json
from ...progress import duration
from ..cost import Rate, times_of, wall_seconds
from ..plan import plan
from ..stop import withdraw
from .array_worker import ArrayWorker
from .options import Slurm
from .queue import FOLDER

if TYPE_CHECKING:
    from ..record import StudyDirectory

# submitit gives up after that many time limits; a study ends by itself
MOST_REQUEUES = 1_000_000


@dataclass(frozen=True)
class Submission:
    """An array in the queue: SLURM's id of it, and the folder with its logs."""

    job: str
    workers: int
    logs: Path


def submit(directory: StudyDirectory, study_file: Path, how: list[str]) -> Submission:
    """Submit the array that the study's block ``slurm`` describes. how: options of
    :mod:`.task` beyond study and output. StudyError where there is no block or no SLURM, or
    sbatch refuses."""
    require("submitit")
    import submitit

    options, out = block_of(directory), directory.out.resolve()
    folder = out / FOLDER
    words = [str(study_file.resolve()), "--out", str(out), "--device", options.device]
    words += ["--idle", str(60 * options.idle), *how]
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(**options.parameters(directory.study.name))
        withdraw(out)
        worker = ArrayWorker(words, str(out), seconds=0.75 * options.signal)
        first = executor.map_array(worker, list(range(options.workers)))[0]
    except (RuntimeError, OSError) as error:
        raise StudyError(
            f"SLURM does not take the array: {' '.join(str(error).split())[-600:]}",
            where="slurm",
            remedy="correct the block slurm of the study; `forcelaw run` is called where sbatch is",
        ) from error
    job = first.job_id.partition("_")[0]
    submitted = {
        "job": job,
        "workers": options.workers,
        "submitted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": options.model_dump(mode="json"),
    }
    with storage(folder):
        write_json(folder / f"{job}.json", submitted)
    return Submission(job, options.workers, folder)


def block_of(directory: StudyDirectory) -> Slurm:
    """The block ``slurm`` of a study; StudyError without one."""
    if directory.study.slurm is None:
        raise StudyError(
            f"study {directory.study.name} does not say what its workers need",
            where="slurm",
            remedy='add a block to the study: slurm: {workers: 4, time: "12:00:00", gpus: 1}',
        )
    return directory.study.slurm


def describe_array(
    directory: StudyDirectory, rates: dict[str, Rate], gpus: int = 1, shared: bool = False
) -> str:
    """What the array of a study asks for and what it costs, as text. gpus: devices of each run.
    shared: whether runs are trained side by side on one."""
    options, planned = block_of(directory), plan(directory.study, directory.data, {})
    every = [times_of(run.spec, rates, shared=shared) for run in (*planned.runs, *planned.waiting)]
    hours, longest = sum(run.alone for run in every) / 3600, max(run.alone for run in every)
    devices = max(1, options.gpus) if options.device == "cuda" else options.cores
    at_once = options.workers * max(1, devices // gpus)
    wall = wall_seconds(every, at_once, gpus)
    limit = 60.0 * options.minutes - options.signal
    unit = "GPU" if options.device == "cuda" else "core"
    lines = [
        _asked(options),
        *(f"  before each: {line}" for line in options.setup),
        f"  about {hours:.3g} {unit}-hours of training{' one run at a time' * shared},"
        f" {duration(wall)} when all have started; they hold {options.workers * devices} {unit}s",
    ]
    if limit <= 0:
        lines.append("  note: the time limit is not longer than `signal`: nothing is trained in it")
    elif wall > limit:
        lines.append(f"  each worker requeues itself about {math.ceil(wall / limit) - 1} times")
    if limit > 0 and longest / gpus > limit:
        lines.append(f"  the longest run is trained in {math.ceil(longest / gpus / limit)} parts")
    return "\n".join(lines)


def _asked(options: Slurm) -> str:
    """One line: what sbatch is asked for."""
    more = {"partition": options.partition, "account": options.account, **options.options}
    parts = [
        f"{options.gpus} GPU{'s' * (options.gpus > 1)}" if options.gpus else "",
        f"{options.cores} core{'s' * (options.cores > 1)}",
        options.memory or "",
        duration(60 * options.minutes),
        *(f"{key} {value}" for key, value in more.items() if value is not None),
    ]
    return (
        f"slurm: an array of {options.workers} worker{'s' * (options.workers > 1)}, each with"
        f" {', '.join(part for part in parts if part)}"
    )
