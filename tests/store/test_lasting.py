"""What must outlast a loss of power is on the disk before it gets its name, and its name after."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from forcelaw.data.build import PrepareOptions
from forcelaw.data.prepare import prepare
from forcelaw.files import write_json
from forcelaw.store.runs import RunDirectory
from tests.data import files


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, set[int]]]:
    """(synchronised, inode, 0, {}) and (renamed, inode, of the new folder, of the files within)."""
    found: list[tuple[str, int, int, set[int]]] = []
    fsync, real = os.fsync, {name: getattr(Path, name) for name in ("rename", "replace")}

    def synchronise(handle: int) -> None:
        fsync(handle)
        found.append(("synchronised", os.fstat(handle).st_ino, 0, set()))

    monkeypatch.setattr(os, "fsync", synchronise)
    for name, call in real.items():

        def rename(path: Path, target: Path, call=call) -> Path:
            inside = {p.stat().st_ino for p in path.iterdir()} if path.is_dir() else set()
            inode, folder = path.stat().st_ino, Path(target).parent.stat().st_ino
            found.append(("renamed", inode, folder, inside))
            return call(path, target)

        monkeypatch.setattr(Path, name, rename)
    return found


def lasting(steps: list[tuple[str, int, int, set[int]]], path: Path) -> bool:
    """The last rename to ``path`` came after what it names was synchronised, and before its
    folder was."""
    inode = path.stat().st_ino
    at = max(k for k, (what, who, *_) in enumerate(steps) if what == "renamed" and who == inode)
    _, _, folder, inside = steps[at]
    before = {who for what, who, *_ in steps[:at] if what == "synchronised"}
    after = {who for what, who, *_ in steps[at:] if what == "synchronised"}
    return {inode, *inside} <= before and folder in after


def test_packs_results_and_studies_are_on_the_disk_when_they_have_their_names(
    tmp_path: Path, steps
) -> None:
    source = files.extxyz(tmp_path / "a.xyz", files.molecules(40))
    pack = prepare([source], tmp_path / "pack", options=PrepareOptions(group="frame"))
    assert lasting(steps, pack)
    run = RunDirectory.create(tmp_path / "runs", {"n": 1})
    run.finish({"status": "finished"})
    with run.writing("last.safetensors") as temporary:
        temporary.write_bytes(bytes(np.random.default_rng(0).bytes(100)))
    write_json(tmp_path / "study.json", {"a": 1}, durable=True)
    for path in (run.path / "result.json", run.path / "last.safetensors", tmp_path / "study.json"):
        assert lasting(steps, path), path.name


def test_what_is_not_synchronised_is_seen(tmp_path: Path, steps) -> None:
    write_json(tmp_path / "status.json", {"a": 1})
    assert not lasting(steps, tmp_path / "status.json")
