"""The state of a study that travels between machines, and how two of them become one.

What travels: study.json, rates.json, sizes.json, pieces/, and of every run spec.json, metrics.jsonl
and result.json. Checkpoints travel for runs that are under way only; those of finished runs are
large and nothing needs them.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parts

from forcelaw.errors import StoreError
from forcelaw.files import read_json, reading, write_json
from forcelaw.progress import duration
from forcelaw.store.runs import RunDirectory, content_id, runs
from forcelaw.study.accounting import spent
from forcelaw.study.config import is_later_stage

TOP = ("study.json", "rates.json", "sizes.json")
SMALL = ("spec.json", "metrics.jsonl", "result.json")
CHECKPOINT = ("last.safetensors", "last.json")
FILES = {*SMALL, *CHECKPOINT}
STATUS = {"finished": 3, "diverged": 2, "failed": 1}
SLACK = 2048  # bytes of tar around a file, and of its line in the index


@dataclass
class Export:
    """What was written: ``parts``; and the runs whose checkpoint did not fit (id -> device seconds
    to be spent again)."""

    parts: list[Path]
    finished: int
    under_way: int
    left_out: dict[str, float] = field(default_factory=dict)

    def describe(self) -> str:
        size = sum(path.stat().st_size for path in self.parts) / parts.MB
        text = (
            f"{len(self.parts)} part(s), {size:.1f} MB: {self.finished} runs that ended,"
            f" {self.under_way} under way"
        )
        if self.left_out:
            text += (
                f"\n{len(self.left_out)} more under way have checkpoints that do not fit, and start"
                f" over elsewhere: {duration(sum(self.left_out.values()))} of device time"
                f" ({', '.join(self.left_out)})"
            )
        return text


def _require_idle(run: RunDirectory) -> None:
    """StoreError where a worker holds the run."""
    if run.held:
        raise StoreError(
            f"run {run.id} is being trained here",
            where=str(run.path),
            remedy="stop `forcelaw run` first",
        )


def export_study(out: Path, folder: Path, name: str, *, part: int, most: int) -> Export:
    """Write the state of the study in ``out`` to FOLDER/NAME.tar.K-of-N; parts of ``part`` bytes,
    ``most`` of them. Where not every checkpoint fits, those go that hold the most device time
    together."""
    files = {p.name: p for p in (out / top for top in TOP) if p.exists()}
    files |= {f"pieces/{p.name}": p for p in sorted((out / "pieces").glob("*.json"))}
    finished, open_runs = 0, []
    for run in runs(out / "runs"):
        _require_idle(run)
        files |= {f"runs/{run.id}/{n}": run.path / n for n in SMALL if (run.path / n).exists()}
        finished += run.done
        if not run.done and run.position():
            open_runs.append(run)
    room = part * most - sum(path.stat().st_size + SLACK for path in files.values()) - 20 * SLACK
    if room < 0:
        raise StoreError(
            f"the study without any checkpoint takes more than {most} parts of"
            f" {part / parts.MB:.0f} MB",
            where=str(out),
            remedy="allow more or larger parts (--parts, --part-mb)",
        )
    seconds = {run.id: spent(run, None)[0] for run in open_runs}
    size = {
        run.id: sum((run.path / n).stat().st_size + SLACK for n in CHECKPOINT) for run in open_runs
    }
    result = Export([], finished, 0)
    chosen = most_worth(seconds, size, room)
    for run in open_runs:
        if run.id not in chosen:
            result.left_out[run.id] = seconds[run.id]
            continue
        result.under_way += 1
        files |= {f"runs/{run.id}/{n}": run.path / n for n in CHECKPOINT}
    result.parts = parts.write(
        files, folder, name, size=part, compress=False, about={"kind": "study"}
    )
    return result


def most_worth(worth: dict[str, float], size: dict[str, int], room: int) -> set[str]:
    """The keys of the largest sum of ``worth`` whose sizes fit in ``room`` together: a knapsack, by
    steps of a thousandth of the room (sizes are rounded up, so that what is chosen fits)."""
    step = max(1, room // 1000)
    best: list[tuple[float, frozenset[str]]] = [(0.0, frozenset())] * (room // step + 1)
    for key in sorted(worth):
        steps = -(-size[key] // step)
        for at in range(len(best) - 1, steps - 1, -1):  # downwards: each key once
            value, keys = best[at - steps]
            if value + worth[key] > best[at][0]:
                best[at] = value + worth[key], keys | {key}
    return set(best[-1][1])


@dataclass
class Merge:
    """What an import did, by run id."""

    new: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)  # finished at both ends, with other numbers

    def describe(self) -> str:
        text = (
            f"{len(self.new)} runs are new, {len(self.better)} are further than they were here,"
            f" {len(self.kept)} stay as they are"
        )
        if self.differ:
            text += (
                f"\n{len(self.differ)} ended on both sides with different numbers (another device"
                f" or thread count); those that were here stay: {', '.join(self.differ)}"
            )
        return text


def merge_study(incoming: Path, out: Path) -> Merge:
    """Put the study directory ``incoming`` into ``out`` (which may not exist yet), run by run: a
    finished run beats an unfinished one, and one with more steps beats one with fewer. Nothing is
    mixed within a run."""
    later = is_later_stage(incoming / "study.json", out / "study.json")
    merge = Merge()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    for run in runs(incoming / "runs"):
        here = RunDirectory(out / "runs" / run.id)
        if not (here.path / "spec.json").exists():
            _put(run, here)
            merge.new.append(run.id)
        elif rank(run) > rank(here):
            _require_idle(here)
            _put(run, here)
            merge.better.append(run.id)
        else:
            merge.kept.append(run.id)
            if run.done and here.done and _numbers(run) != _numbers(here):
                merge.differ.append(run.id)
    for path in sorted((incoming / "pieces").glob("*.json")):
        target = out / "pieces" / path.name
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or read_json(target)["seconds"] < read_json(path)["seconds"]:
            shutil.copyfile(path, target)
    for name in TOP:
        if (incoming / name).exists() and (
            not (out / name).exists() or (later and name == "study.json")
        ):
            write_json(out / name, read_json(incoming / name))
    return merge


def rank(run: RunDirectory) -> tuple[int, int, int]:
    """How far a run is: how it ended, the step from which it would resume, the evaluations that it
    has."""
    result, metrics = run.result(), run.metrics()
    return (
        STATUS.get(result["status"], 1) if result else 0,
        0 if result else run.position(),
        metrics[-1]["step"] if metrics else 0,
    )


def _numbers(run: RunDirectory) -> list[Any]:
    return [{k: v for k, v in row.items() if k not in ("h", "throughput")} for row in run.metrics()]


def _put(run: RunDirectory, target: RunDirectory) -> None:
    """Put a run where it belongs by two renames, so that no reader sees it half."""
    fresh = target.path.parent / f".incoming-{secrets.token_hex(4)}"
    fresh.mkdir()
    for path in run.path.iterdir():
        if path.name in FILES:
            shutil.copyfile(path, fresh / path.name)
    old = target.path.parent / f".outgoing-{secrets.token_hex(4)}"
    if target.path.exists():
        target.path.rename(old)
    fresh.rename(target.path)
    shutil.rmtree(old, ignore_errors=True)


def import_archive(given: list[Path], to: Path) -> str:
    """Unpack the parts of an archive into ``to`` and say what was done. A study is merged into what
    is there; anything else must not exist yet."""
    found = parts.find(given)
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = to.parent / f".incoming-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with reading(found[0], StoreError, remedy="copy the parts of the archive again"):
            return _move(parts.read(found, folder), folder, to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(index: dict[str, Any], folder: Path, to: Path) -> str:
    """Move what was unpacked into ``folder`` to its place."""
    if index.get("kind") == "study":
        return merge_study(folder, to).describe()
    if to.exists():
        raise StoreError(
            "this exists already",
            where=str(to),
            remedy="choose another --to, or remove it",
        )
    size = sum(f["bytes"] for f in index["files"].values()) / parts.MB
    if index.get("kind") == "pack":
        from forcelaw.data.pack import Pack
        from forcelaw.data.verify import verify

        verify(Pack(folder))
    if index.get("kind") == "file":
        (folder / next(iter(index["files"]))).rename(to)
    else:
        folder.rename(to)
    return f"{len(index['files'])} file(s), {size:.1f} MB, checked"


def export_files(source: Path, folder: Path, name: str, *, part: int) -> list[Path]:
    """Write a pack, any other folder or one file to FOLDER/NAME.tar.gz.K-of-N."""
    kind = "file" if source.is_file() else "pack" if _is_pack(source) else "folder"
    files = dict(parts.under(source))
    if kind == "pack":  # shards may lie elsewhere
        links = [link for link in source.glob("shard-*") if link.is_symlink()]
        files |= {f"{link.name}/{n}": p for link in links for n, p in parts.under(link.resolve())}
    if not files:
        raise StoreError("there are no files here", where=str(source))
    packed = source.suffix in (".gz", ".xz", ".zst", ".zip", ".h5", ".hdf5")
    return parts.write(files, folder, name, size=part, compress=not packed, about={"kind": kind})


def _is_pack(path: Path) -> bool:
    manifest = path / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text()).get("format") == "forcelaw-pack"


def regroup(studies: list[Path], to: Path) -> list[str]:
    """Move the runs under way of ``studies`` to the study in ``to``, whose directory has its name;
    their ids there. A run is named by the hash of what it is and whose it is, so each gets a new
    one."""
    under_way = [
        run for out in studies for run in runs(out / "runs") if run.position() and not run.done
    ]
    specs = [run.spec() | {"study": to.name} for run in under_way]
    for run, spec in zip(under_way, specs):
        target = RunDirectory(to / "runs" / content_id(spec))
        _require_idle(run)
        _require_idle(target)
        if target.position() >= run.position():
            raise StoreError(
                f"run {target.id} is as far as {run.id} already",
                where=str(target.path),
                remedy=f"leave out {run.path.parent.parent}",
            )
    targets = []
    for run, spec in zip(under_way, specs):
        target = RunDirectory.create(to / "runs", spec)
        targets.append(target.id)
        for name in ("metrics.jsonl", *CHECKPOINT):  # the checkpoint's record comes last
            if (run.path / name).exists():
                with target.writing(name) as temporary:
                    shutil.copyfile(run.path / name, temporary)
        run.start_over()
    return targets
