"""The block ``slurm`` of a study: where it is trained on a cluster. It says nothing of what is
trained, so it is part of neither the ids of runs nor the record of the study."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from ...settings import Settings

# values stand in lines of a shell script
Word = Annotated[str, StringConstraints(pattern=r"^[\w.,:;=@%+/*|&()\[\]-]+$", max_length=200)]
Flag = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n\x00]*$", max_length=1000)]
CORES_OF_A_GPU = 4
# days-hours:minutes:seconds, hours:minutes:seconds, minutes:seconds, minutes, days-hours
_TIME = re.compile(r"^(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?$")


class Slurm(Settings):
    """An array of workers on a SLURM cluster (`forcelaw run study.yaml --slurm`). Each is one task
    on one machine, with what is asked for here."""

    time: str | int
    """time limit of a worker, as SLURM writes it (minutes, HH:MM:SS or D-HH:MM:SS); before it a
    worker saves and requeues itself, so it may be shorter than the study, and than a run"""
    workers: int = Field(1, ge=1, le=1000)
    """tasks of the array; each trains runs until none is left"""
    gpus: int = Field(0, ge=0, le=64)
    """GPUs of each worker, which trains runs side by side on each of them; 0: on a CPU"""
    cpus: int | None = Field(None, ge=1, le=1024)
    """cores of each worker; by default 4 for each GPU, else 1"""
    memory: str | None = Field(None, pattern=r"^[1-9]\d*[KMGT]?$")
    """memory of each worker, as 16G; by default as the cluster has it"""
    partition: Word | None = None
    account: Word | None = None
    setup: list[Line] = Field(default_factory=list)
    """shell lines before a worker is started, as `module load cuda`"""
    signal: int = Field(120, ge=10, le=3600)
    """seconds before the time limit at which a worker saves; SLURM may be a minute early"""
    idle: int = Field(15, ge=1)
    """minutes without a free run after which a worker ends, and leaves the rest to those that train
    it; it stays while a sweep is not over"""
    options: dict[Flag, Word | int | bool] = Field(default_factory=dict)
    """further options of sbatch, as {qos: long, constraint: a100}"""

    @field_validator("time")
    @classmethod
    def _readable(cls, value: str | int) -> str | int:
        if minutes_of(value) < 1:
            raise ValueError("write minutes, HH:MM:SS or D-HH:MM:SS, and at least a minute")
        return value

    @property
    def minutes(self) -> int:
        """The time limit."""
        return math.ceil(minutes_of(self.time))

    @property
    def cores(self) -> int:
        """Cores of a worker."""
        return self.cpus or max(1, CORES_OF_A_GPU * self.gpus)

    @property
    def device(self) -> str:
        return "cuda" if self.gpus or {"gres", "gpus"} & self.options.keys() else "cpu"

    def parameters(self, name: str) -> dict[str, Any]:
        """What submitit's executor is told of an array for the study ``name``."""
        more: dict[str, Any] = {"requeue": True, "mem": self.memory, **self.options}
        return {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "time": self.minutes,
            "cpus_per_task": self.cores,
            "gpus_per_node": self.gpus or None,
            "array_parallelism": self.workers,
            "signal_delay_s": self.signal,
            "setup": list(self.setup),
            "stderr_to_stdout": True,
            "wckey": None,
            # srun has not taken it over from sbatch since SLURM 22.05
            "srun_args": [f"--cpus-per-task={self.cores}"],
            "additional_parameters": {
                key: value for key, value in more.items() if value not in (None, False)
            },
        }


def minutes_of(time: str | int) -> float:
    """Minutes of a time limit as SLURM writes it; 0 for what is none."""
    found = _TIME.match(str(time))
    if not found:
        return 0.0
    days, a, b, c = (
        None if found[k] is None else int(found[k]) for k in ("days", "first", "second", "third")
    )
    assert a is not None
    if days is not None:
        return 1440 * days + 60 * a + (b or 0) + (c or 0) / 60
    if c is not None:
        return 60 * a + (b or 0) + c / 60
    return a + (b or 0) / 60
