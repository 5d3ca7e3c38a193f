"""Cores and memory of a part of a machine: against cgroup files and variables that the test
writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forcelaw import host

VARIABLES = (
    "OMP_NUM_THREADS",
    *(f"SLURM_{name}" for name in ("JOB_ID", "CPUS_PER_TASK", "CPUS_ON_NODE", "MEM_PER_NODE")),
    *(f"SLURM_{name}" for name in ("MEM_PER_CPU", "ARRAY_JOB_ID", "ARRAY_TASK_ID")),
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """128 cores and 400 GB without limits; the folder that stands for /sys/fs/cgroup."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    pages = {"SC_AVPHYS_PAGES": 10**8, "SC_PAGE_SIZE": 4000}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(host, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    return tmp_path


def write(machine: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = machine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_a_whole_machine(machine) -> None:
    assert host.usable_cores() == 128
    assert host.usable_memory() == 400 * 10**9
    assert host.batch_job() == ""


def test_a_pinned_process(machine, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert host.usable_cores() == 2


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        # version 2: the limit stands on the group of the job, not on that of the process
        (
            {
                "proc/self/cgroup": "0::/job_1/step_0/task_0",
                "cgroup/job_1/cpu.max": "400000 100000",
                "cgroup/job_1/step_0/cpu.max": "max 100000",
                "cgroup/job_1/memory.max": "16000000000",
                "cgroup/job_1/memory.current": "5000000000",
                "cgroup/job_1/memory.stat": "anon 3000000000\ninactive_file 1500000000",
                "cgroup/job_1/step_0/memory.max": "max",
                "cgroup/job_1/step_0/memory.current": "5000000000",
            },
            4,
            12_500_000_000,
        ),
        # version 1, half a core
        (
            {
                "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a",
                "cgroup/cpu/docker/a/cpu.cfs_quota_us": "50000",
                "cgroup/cpu/docker/a/cpu.cfs_period_us": "100000",
                "cgroup/memory/docker/a/memory.limit_in_bytes": "2000000000",
                "cgroup/memory/docker/a/memory.usage_in_bytes": "500000000",
            },
            1,
            1_500_000_000,
        ),
        # inside a container the path of outside is not there, and the limit is at the root
        (
            {
                "proc/self/cgroup": "0::/../../elsewhere",
                "cgroup/cpu.max": "300000 100000",
                "cgroup/memory.max": "max",
                "cgroup/memory.current": "1",
            },
            3,
            400 * 10**9,
        ),
    ],
)
def test_a_cgroup(machine, files, cores, memory) -> None:
    write(machine, files)
    assert (host.usable_cores(), host.usable_memory()) == (cores, memory)


@pytest.mark.parametrize(
    ("variables", "cores", "memory"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, 128, 400 * 10**9),  # left over: there is no job
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}, 4, 400 * 10**9),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "6"}, 6, 400 * 10**9),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "2048"}, 128, 2 << 30),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "0"}, 128, 400 * 10**9),
        (
            {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_PER_TASK": "3"},
            3,
            3 << 30,
        ),
    ],
)
def test_a_job(machine, monkeypatch, variables, cores, memory) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (host.usable_cores(), host.usable_memory()) == (cores, memory)


@pytest.mark.parametrize(
    ("given", "variable", "threads"),
    [(None, None, 1), (None, "3", 3), (None, "4,2", 4), (None, "many", 1), (2, "3", 2)],
)
def test_threads(machine, monkeypatch, given, variable, threads) -> None:
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert host.wanted_threads(given) == threads


def test_a_place_names_job_and_machine(machine, monkeypatch) -> None:
    monkeypatch.setattr(host.socket, "gethostname", lambda: "gpu/17")
    assert host.place() == "gpu-17"
    monkeypatch.setenv("SLURM_JOB_ID", "90")
    assert host.place() == "90-gpu-17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "88")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert host.place() == "88_2-gpu-17"
