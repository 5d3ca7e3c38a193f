"""Run directories: the only thing that training and analysis share. Plain files that any language
can read.

    RUNS/<id>/spec.json        resolved specification; <id> is the hash of its content
    RUNS/<id>/claim/           whose it is while it is trained (:mod:`.claim`)
    RUNS/<id>/metrics.jsonl    append-only, one object per evaluation
    RUNS/<id>/last.safetensors last.json     state to resume from
    RUNS/<id>/references.json  reference energies of the atoms, eV; predictions add them back
    RUNS/<id>/result.json      written by rename; exists when, and only when, the run ended
    RUNS/<id>/damaged.json     why nobody trains the run until its files change

There is no database and no file with two writers, because clusters have NFS. A table of runs
(:mod:`forcelaw.table`) is derived from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..errors import ForcelawError, StoreError
from ..files import (
    fsync_folder,
    read_json,
    read_whole,
    storage,
    storage_error,
    write_json,
)
from .claim import Claim, held, take, taken_over
from .unlearned import left, no_model, trained

BESIDE = "beside others"  # result.json, timing: other processes trained on the device meanwhile
RETRAIN = (
    "restore this file; or delete this run directory, or give --retry-failed to `forcelaw run`, to"
    " train it again from the start"
)


def content_id(spec: dict[str, Any]) -> str:
    """Hash of a specification's content; key order does not matter."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: str | os.PathLike[str]):
        self._claim: Claim | None = None
        self._metrics: TextIO | None = None  # while a run is trained
        self.observers: list[Callable[[dict[str, Any]], None]] = []  # of its evaluations
        self.path = Path(path)

    @classmethod
    def create(cls, root: str | Path, spec: dict[str, Any]) -> RunDirectory:
        """The directory of ``spec`` under ``root``; made if it is not there, unchanged if it is,
        but for a spec.json that is damaged."""
        run = cls(Path(root) / content_id(spec))
        run.path.mkdir(parents=True, exist_ok=True)
        if not run._has_spec():
            write_json(run.path / "spec.json", spec)
        return run

    def _has_spec(self) -> bool:
        """Whether spec.json is there and hashes to the id."""
        try:
            return content_id(self.spec()) == self.id
        except (FileNotFoundError, StoreError, ValueError):
            return False

    @property
    def id(self) -> str:
        return self.path.name

    def require(self) -> None:
        """StoreError where this is not the directory of a run."""
        if not (self.path / "spec.json").is_file():
            raise StoreError(
                "this is not the directory of a run: it has no spec.json",
                where=str(self.path),
                remedy="give OUT/runs/ID; forcelaw.train returns the run itself",
            )

    def spec(self) -> dict[str, Any]:
        return read_json(self.path / "spec.json", remedy=RETRAIN)

    def references(self) -> dict[int, float] | None:
        """Reference energies in eV by atomic number; None for a run that kept none."""
        path = self.path / "references.json"
        if not path.exists():
            return None
        return {int(z): float(e) for z, e in read_json(path)["energies"].items()}

    def reference_table(self) -> tuple[float, ...]:
        """The same by atomic number, (119,), zero where there is none."""
        known = self.references() or {}
        return tuple(known.get(z, 0.0) for z in range(119))

    def keep_references(self, energies: dict[str, float], *, same: bool = True) -> None:
        """Write reference energies (eV by atomic number), once: they belong to the weights. With
        ``same`` a run that has others already is a StoreError."""
        if not (self.path / "references.json").exists():
            self.write("references.json", {"unit": "eV", "energies": energies})
            return
        kept = self.references() or {}
        far = [z for z in energies if abs(energies[z] - kept.get(int(z), energies[z])) > 1e-6]
        if same and far:
            z = far[0]
            raise StoreError(
                f"the run began with other reference energies (Z = {z}: {kept[int(z)]} eV,"
                f" the pack has {energies[z]}): its hash is the same, its labels are not",
                where=str(self.path),
                remedy="prepare the pack as it was (packs made before 2026-11-29: --E0s"
                " least-squares), or train in another --out",
            )

    def result(self) -> dict[str, Any] | None:
        """How the run ended; None while it has not. StoreError where that cannot be read."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        result = read_json(path, remedy=RETRAIN)
        if not isinstance(result.get("status"), str):
            raise self._damaged("result.json", "there is no status")
        return result

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
        lines = read_whole(path).split(b"\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row["step"], int):
                    raise ValueError(line)
                rows.append(row)
            except (ValueError, KeyError, RecursionError) as error:
                if number == len(lines) - 1:
                    break
                raise StoreError(
                    f"line {number + 1} is not an evaluation as JSON",
                    where=str(path),
                    remedy=RETRAIN,
                ) from error
        return rows

    def final_loss(self) -> float | None:
        """Loss of the last evaluation; None without any, and for a run that diverged or failed.
        StoreError where result or evaluations are damaged."""
        result, path = self.result(), self.path / "metrics.jsonl"
        if result is None or result["status"] != "finished":
            return None
        for line in reversed(read_whole(path).splitlines() if path.exists() else []):
            with contextlib.suppress(ValueError):  # cut short by a crash
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("loss"), float | int):
                    self._require_end(result, row)
                    return float(row["loss"])
                raise self._damaged("metrics.jsonl", "the last evaluation has no loss")
        self._require_end(result, None)
        return None

    def outcome(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Result and evaluations. StoreError where either is damaged, or the last evaluation of a
        finished run, which is that of its last step, is lost."""
        result, rows = self.result(), self.metrics()
        if result is not None and result["status"] == "finished":
            self._require_end(result, rows[-1] if rows else None)
        return result, rows

    def _require_end(self, result: dict[str, Any], last: dict[str, Any] | None) -> None:
        """StoreError where ``last`` is not the evaluation that a finished run ends with."""
        end, step = result.get("steps"), (last or {}).get("step")
        if isinstance(end, int) and step != end:
            what = "there is no evaluation" if last is None else f"the last evaluation is of {step}"
            raise self._damaged("metrics.jsonl", f"{what}, and the run finished at step {end}")

    def left(self, without_model: Mapping[str, float]) -> dict[str, float]:
        """What a finished run has left of "energies" and "forces" (:func:`.unlearned.left`), as far
        as it was trained on them; nothing for one that began from another's weights.
        without_model: as :func:`.unlearned.no_model` reads it. StoreError where its files are
        damaged."""
        if (result := self.result()) is None or result["status"] != "finished":
            return {}
        (_, rows), spec = self.outcome(), self.spec()
        if spec.get("start"):
            return {}
        return trained(left(rows, without_model), spec.get("train", {}))

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(f"{name}: {what}", where=str(self.path), remedy=RETRAIN)

    def set_aside(self, why: ForcelawError) -> None:
        """Mark the run as damaged: until its files change, nobody tries to train it."""
        content = {"message": why.what, "where": why.where, "files": self._stamps()}
        write_json(self.path / "damaged.json", content)

    def damage(self) -> str:
        """Why the run was set aside; empty where it was not, or its files have changed since."""
        path = self.path / "damaged.json"
        if not path.exists():
            return ""
        try:
            content = read_json(path)
        except StoreError:
            return ""
        return str(content.get("message")) if content.get("files") == self._stamps() else ""

    def _stamps(self) -> dict[str, list[int]]:
        """Size and time of the files that a worker reads."""
        names = ("spec.json", "metrics.jsonl", "last.safetensors", "result.json")
        found = {name: self.path / name for name in names if (self.path / name).exists()}
        return {n: [p.stat().st_size, p.stat().st_mtime_ns] for n, p in found.items()}

    def start_over(self) -> None:
        """Remove all but the specification, so that the run is trained from the start."""
        names = "damaged.json", "last.json", "last.safetensors", "metrics.jsonl", "result.json"
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def append_metric(self, row: dict[str, Any]) -> None:
        self._append(row)
        for log in self.observers:
            log(row)

    def _append(self, row: dict[str, Any]) -> None:
        self.check()
        with self._writes():
            file = self._metrics or (self.path / "metrics.jsonl").open("a")
            try:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            finally:
                if file is not self._metrics:
                    file.close()

    def truncate_metrics(self, step: int, evaluations: int | None = None) -> int:
        """Drop evaluations after ``step``: a resumed run repeats them. The number of the others,
        which become a new file, so that a worker that lost this run appends to the old one, which
        nobody reads. evaluations: how many there must be, one a step; StoreError, and nothing is
        changed, where some are lost."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        steps = {row["step"] for row in rows}
        if evaluations is not None and not len(rows) == len(steps) == evaluations:
            raise self._damaged(
                "metrics.jsonl",
                f"{len(rows)} evaluations at {len(steps)} steps up to {step}; the checkpoint of"
                f" that step was made after {evaluations}",
            )
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        with self.writing("metrics.jsonl") as temporary:
            file = temporary.open("w")
            file.write(text)
            file.flush()
        self._close_metrics()
        if self._claim:
            self._metrics = file
        else:
            file.close()
        return len(rows)

    def finish(self, result: dict[str, Any]) -> None:
        self.write("result.json", result)

    def write(self, name: str, value: Any, *, durable: bool = True) -> None:
        """Write ``value`` as JSON into file ``name`` of the run, as :meth:`writing` does."""
        with self.writing(name, durable=durable) as temporary:
            temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")

    @contextlib.contextmanager
    def writing(self, name: str, *, durable: bool = True) -> Iterator[Path]:
        """The path of a temporary file that becomes file ``name`` of the run, whole and by one
        rename, if the run is still this worker's; else ClaimError. What the operating system
        refuses is a StorageError. durable: it is there after a loss of power, too."""
        self.check()
        folder = self._claim.work if self._claim else self.path
        temporary = folder / f".{name}.{os.urandom(4).hex()}"
        with self._writes():
            try:
                yield temporary
                if durable:
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                self.check()
                temporary.replace(self.path / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            if durable:
                fsync_folder(self.path)

    @contextlib.contextmanager
    def _writes(self) -> Iterator[None]:
        """An OSError within is that the run was taken over, or else a StorageError; a StoreError
        where something stands in the place of its files that is none."""
        try:
            yield
        except OSError as error:
            self.check()
            if isinstance(error, IsADirectoryError | NotADirectoryError):
                name = Path(str(error.filename2 or error.filename)).name
                raise self._damaged(name, str(error.strerror)) from error
            raise storage_error(error, self.path) from error

    def claim(self) -> bool:
        """Try to become the one worker of this run, if it has not ended. A stale claim is taken
        over by exactly one winner. Once there is a claim, everything is written through it."""
        with storage(self.path):
            self._claim = take(self.path)
        if self._claim and self.done:  # another finished it meanwhile
            self.release()
        return self._claim is not None

    def check(self) -> None:
        """ClaimError if the claim that this worker took has been lost. Without one, nothing."""
        if self._claim:
            self._claim.check()

    def heartbeat(self) -> None:
        """Renew the lease; ClaimError if the claim was lost meanwhile, so that two workers never
        write one run."""
        if self._claim is None:
            raise taken_over(self.path)
        self._claim.heartbeat()

    def release(self) -> None:
        """Let go of this worker's own claim, if it has one still."""
        self._close_metrics()
        if self._claim:
            with contextlib.suppress(OSError):  # the lease ends by itself
                self._claim.release()
        self._claim = None

    def _close_metrics(self) -> None:
        if self._metrics:
            with contextlib.suppress(OSError):
                self._metrics.close()
        self._metrics = None

    __del__ = _close_metrics

    def state(self) -> str:
        """How the run ended (finished, diverged, failed), or running, stopped (it resumes from its
        checkpoint), waiting, or damaged."""
        try:
            result = self.result()
        except StoreError:
            return "damaged"
        if self.damage():
            return "damaged"
        if result is not None:
            return str(result["status"])
        return "running" if self.held else "stopped" if self.position() else "waiting"

    @property
    def held(self) -> bool:
        """Whether a worker that may be alive holds the claim."""
        return held(self.path)

    def position(self) -> int:
        """The step from which a worker would resume: that of the checkpoint; 0 without one."""
        path = self.path / "last.json"
        if not path.exists() or not (self.path / "last.safetensors").exists():
            return 0
        try:
            step = read_json(path).get("step")
        except StoreError:  # the checkpoint itself says so too, and that is what is read
            return 0
        return step if isinstance(step, int) else 0


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
    are asked for. Those whose result or evaluations cannot be read are not among them.

    left: id -> what a run has left of the parts of it (:meth:`RunDirectory.left`), as of the last
    reading.
    """

    def __init__(self, root: Path):
        self.root = root
        self.left: dict[str, dict[str, float]] = {}
        self._known: dict[str, tuple[int, float | None, dict[str, float]]] = {}
        self._without_model: dict[str, float] = {}

    def read(self) -> dict[str, float | None]:
        """Id -> final loss, None where a run diverged or failed."""
        found: dict[str, tuple[int, float | None, dict[str, float]]] = {}
        for folder in os.scandir(self.root) if self.root.is_dir() else ():
            try:
                written = Path(folder.path, "result.json").stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue
            known = self._known.get(folder.name)
            if known is None or known[0] != written:
                run = RunDirectory(folder.path)
                try:
                    self._without_model = self._without_model or no_model(self.root.parent)
                    known = (written, run.final_loss(), run.left(self._without_model))
                except StoreError:
                    continue
            found[folder.name] = known
        self._known = found
        self.left = {name: shares for name, (_, _, shares) in found.items()}
        return {name: loss for name, (_, loss, _) in found.items()}


def runs(root: str | Path) -> Iterator[RunDirectory]:
    """All run directories under ``root``, in the order of their ids."""
    for path in sorted(Path(root).glob("*/spec.json")):
        yield RunDirectory(path.parent)
