"""Run directories: the only thing that training and analysis share. Plain files that any language
can read.

    RUNS/<id>/spec.json        resolved specification; <id> is the hash of its content
    RUNS/<id>/claim/           mkdir is the atomic claim; holder.json's mtime is the heartbeat
    RUNS/<id>/metrics.jsonl    append-only, one object per evaluation
    RUNS/<id>/last.safetensors last.json     state to resume from
    RUNS/<id>/references.json  reference energies of the atoms, eV; predictions add them back
    RUNS/<id>/result.json      written by rename; exists when, and only when, the run ended

There is no database and no file with two writers, because clusters have NFS. A table of runs
(:mod:`forcelaw.table`) is derived from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import read_json, write_json

LEASE_SECONDS = 120.0  # a claim whose heartbeat is older than this is stale and may be taken over


def content_id(spec: dict[str, Any]) -> str:
    """Hash of a specification's content; key order does not matter."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._token = ""

    @classmethod
    def create(cls, root: str | Path, spec: dict[str, Any]) -> RunDirectory:
        """The directory of ``spec`` under ``root``; made if it is not there, unchanged if it
        is."""
        run = cls(Path(root) / content_id(spec))
        run.path.mkdir(parents=True, exist_ok=True)
        if not (run.path / "spec.json").exists():
            write_json(run.path / "spec.json", spec)
        return run

    @property
    def id(self) -> str:
        return self.path.name

    def spec(self) -> dict[str, Any]:
        return read_json(self.path / "spec.json")

    def references(self) -> dict[int, float] | None:
        """Reference energies in eV by atomic number; None for a run that kept none."""
        path = self.path / "references.json"
        if not path.exists():
            return None
        return {int(z): float(e) for z, e in read_json(path)["energies"].items()}

    def keep_references(self, energies: dict[str, float]) -> None:
        """Write reference energies (eV by atomic number), once: they belong to the weights."""
        if not (self.path / "references.json").exists():
            write_json(self.path / "references.json", {"unit": "eV", "energies": energies})

    def result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        return read_json(path) if path.exists() else None

    @property
    def done(self) -> bool:
        return (self.path / "result.json").exists()

    def metrics(self) -> list[dict[str, Any]]:
        """Evaluations so far. A last line that was cut short by a crash is ignored: the run will
        write it again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        lines = path.read_text().split("\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number == len(lines) - 1:
                    break
                raise StoreError(
                    f"line {number + 1} is not JSON",
                    where=str(path),
                    remedy="delete this run directory to train it again",
                ) from error
        return rows

    def final_loss(self) -> float | None:
        """Loss of the last evaluation; None without any, and for a run that diverged or failed."""
        result, path = self.result(), self.path / "metrics.jsonl"
        if result is None or result["status"] != "finished" or not path.exists():
            return None
        for line in reversed(path.read_text().splitlines()):
            with contextlib.suppress(json.JSONDecodeError):  # cut short by a crash
                return float(json.loads(line)["loss"])
        return None

    def append_metric(self, row: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_metrics(self, step: int) -> None:
        """Drop evaluations after ``step``: a resumed run repeats them."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        temporary = self.path / f".metrics.{secrets.token_hex(4)}"
        temporary.write_text(text)
        temporary.replace(self.path / "metrics.jsonl")

    def finish(self, result: dict[str, Any]) -> None:
        write_json(self.path / "result.json", result)

    def claim(self) -> bool:
        """Try to become the one worker of this run. A stale claim is taken over by exactly one
        winner."""
        target = self.path / "claim"
        token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            target.mkdir()
        except FileExistsError:
            if not self._stale(target):
                return False
            grave = self.path / f".stale-{token}"
            try:
                target.rename(grave)  # one winner: the second rename finds nothing
            except FileNotFoundError:
                return False
            shutil.rmtree(grave, ignore_errors=True)
            try:
                target.mkdir()
            except FileExistsError:
                return False
        self._token = token
        write_json(
            target / "holder.json",
            {"token": token, "host": socket.gethostname(), "pid": os.getpid()},
        )
        return True

    def _stale(self, target: Path) -> bool:
        holder = target / "holder.json"
        try:
            info = read_json(holder)
            age = time.time() - holder.stat().st_mtime
            if info["host"] == socket.gethostname() and not _alive(info["pid"]):
                return True
        except (FileNotFoundError, StoreError):
            try:
                age = time.time() - target.stat().st_mtime
            except FileNotFoundError:
                return False
        return age > LEASE_SECONDS

    def heartbeat(self) -> None:
        """Renew the lease; a claim that was lost meanwhile is an error, so that two workers never
        write one run."""
        holder = self.path / "claim" / "holder.json"
        try:
            mine = read_json(holder)["token"] == self._token
        except (FileNotFoundError, StoreError):
            mine = False
        if not mine:
            raise StoreError(
                f"run {self.id} was taken over by another worker", where=str(self.path)
            )
        os.utime(holder)

    def release(self) -> None:
        if self._token:
            shutil.rmtree(self.path / "claim", ignore_errors=True)
            self._token = ""

    def state(self) -> str:
        """How the run ended (finished, diverged, failed), or running, stopped (it resumes from its
        checkpoint) or waiting."""
        result = self.result()
        if result is not None:
            return str(result["status"])
        return "running" if self.held else "stopped" if self.position() else "waiting"

    @property
    def held(self) -> bool:
        """Whether a worker that may be alive holds the claim."""
        target = self.path / "claim"
        return target.exists() and not self._stale(target)

    def position(self) -> int:
        """The step from which a worker would resume: that of the checkpoint; 0 without one."""
        path = self.path / "last.json"
        return (
            int(read_json(path)["step"])
            if path.exists() and (self.path / "last.safetensors").exists()
            else 0
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # a killed child whose parent has not waited yet still answers; it is not running
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        except (OSError, IndexError):
            return False
    return True


def planned_flops(spec: dict[str, Any]) -> float:
    """Training FLOPs that a specification plans; what a run spends is counted from its own edges
    and atoms."""
    atoms = spec["steps"] * spec["batch_atoms"]
    forward = atoms * (
        spec["model"]["mean_degree"] * spec["flops_per_edge"] + spec["flops_per_atom"]
    )
    return 3.0 * forward * spec["cost_factor"]


# Statuses of runs whose evaluations are data. A stopped run was ended before its planned length,
# for want of time: without a schedule that looks ahead, what it evaluated is what a shorter run
# would have.
COUNTED = ("finished", "stopped")


class FinalLosses:
    """Final losses of the runs under ``root`` that are over; each is read once, however often they
    are asked for."""

    def __init__(self, root: Path):
        self.root = root
        self._known: dict[str, tuple[int, float | None]] = {}

    def read(self) -> dict[str, float | None]:
        """Id -> final loss, None where a run diverged or failed."""
        found: dict[str, tuple[int, float | None]] = {}
        for folder in os.scandir(self.root) if self.root.is_dir() else ():
            try:
                written = Path(folder.path, "result.json").stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue
            known = self._known.get(folder.name)
            if known is None or known[0] != written:
                known = (written, RunDirectory(folder.path).final_loss())
            found[folder.name] = known
        self._known = found
        return {name: loss for name, (_, loss) in found.items()}


def runs(root: str | Path) -> Iterator[RunDirectory]:
    """All run directories under ``root``, in the order of their ids."""
    for path in sorted(Path(root).glob("*/spec.json")):
        yield RunDirectory(path.parent)
