"""Evidence (what `forcelaw import` reads) that was damaged or made to do
harm: nothing is written outside the directory that was named, and little in it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forcelaw.files import file_sha256
from forcelaw.store.runs import content_id
from forcelaw.study.export import write_evidence
from tests.fuzz.commands import command, remove, said
from tests.fuzz.damage import damage_bytes, damage_file
from tests.fuzz.isolated import Wrong
from tests.report import synthetic

MOST = 64_000_000  # bytes that an import may write
BAIT = b"somebody:x:0:0\n"  # of a file beside the work of a case, which links lead to
NAMES = ["../../escaped", "/tmp/forcelaw-escaped", "..", ".", "", "a/b", "a\0b", "x" * 5000, "con"]
VALUES: list[Any] = [None, True, -1, 0, 1e308, 2**80, "", "x" * 10_000, [], {}, [[]] * 9, "../../x"]
VALUES += [float("nan"), float("inf"), "=1+1", "\x1b[31m", {"a": {"b": {}}}, NAMES[0], NAMES[1]]


def make(folder: Path) -> None:
    """The evidence of a small study, as Parquet and as CSV."""
    pair = [synthetic.LADDER[0], synthetic.LADDER[4]]
    study = synthetic.write_study(folder / "out", pair, sizes=(2_000, 8_000), seeds=1, points=6)
    (study / "pieces").mkdir()
    piece = {"seconds": 9.0, "devices": 1, "device": "CPU"}
    (study / "pieces" / "a.json").write_text(json.dumps(piece))
    for kind in ("csv", "parquet"):
        write_evidence(study, folder / kind, kind)
    shutil.rmtree(study)


def case(sound: Path, work: Path, chance: random.Random) -> tuple[str, Callable[[], int]]:
    """Import one archive into a directory, and ask how that one stands."""
    work.mkdir()
    bait = work.parent / "bait"
    bait.write_bytes(BAIT)
    folder = work / "evidence"
    shutil.copytree(sound / chance.choice(["csv", "parquet"]), folder)
    done = []
    for _ in range(chance.randint(1, 2)):
        kept = sorted(p for p in folder.iterdir() if own(p)) if folder.is_dir() else []
        if not kept:
            break
        how = chance.choice([damage_bytes, damage_file, _change_json, _change_json, _bomb])
        done.append(how(chance.choice(kept), chance))
    if folder.is_dir() and chance.random() < 0.7:
        _sign(folder)
    before = _tree(work)

    def call() -> int:
        code, _, err = command(["import", str(folder), "--to", str(work / "out")])
        outside = {p for p in _tree(work) - before if not p.startswith("out")}
        if outside or Path(NAMES[1]).exists() or (work.parent / "escaped").exists():
            raise Wrong(f"written outside the directory: {outside}")
        if bait.read_bytes() != BAIT:
            raise Wrong("a file that a link leads to was changed")
        size = sum(p.lstat().st_size for p in (work / "out").rglob("*")) if code == 0 else 0
        if size > MOST:
            raise Wrong(f"{size} bytes were written")
        if code == 0:
            command(["status", str(work / "out")])
        return said(code, err)

    return "; ".join(done), call


def own(path: Path) -> bool:
    """A file that a case may change: no link, which leads to a file of somebody else."""
    return path.is_file() and not path.is_symlink()


def put(path: Path, text: str) -> None:
    """Write a file in place of whatever is there, never through a link."""
    remove(path)
    path.write_text(text)


def _tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def _sign(folder: Path) -> None:
    """Give the table the checksum that provenance.json is expected to have."""
    path, table = folder / "provenance.json", folder / "runs.csv"
    table = table if table.is_file() else folder / "runs.parquet"
    if not own(path) or not all(p.is_file() and p.stat().st_size < 1 << 30 for p in (path, table)):
        return
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        content = json.loads(path.read_text())
        content["table"] = {"file": table.name, "sha256": file_sha256(table)}
        put(path, json.dumps(content))


def _change_json(path: Path, chance: random.Random) -> str:
    """Another value somewhere in JSON, with ids that fit to changed specifications again."""
    folder = path.parent
    name = chance.choice(["runs.jsonl", "study.json", "provenance.json"])
    path = folder / name
    try:
        if not own(path) or path.stat().st_size > 1 << 30:
            raise OSError("no file, or too large")
        lines = path.read_text().splitlines() if name == "runs.jsonl" else [path.read_text()]
        k = chance.randrange(len(lines))
        content = json.loads(lines[k])
    except (OSError, ValueError, RecursionError):
        return f"{name} cannot be changed any more"
    where = change(content, chance)
    if name == "runs.jsonl" and isinstance(content.get("spec"), dict):
        with contextlib.suppress(ValueError):  # not finite
            content["run"] = content_id(content["spec"])
        if chance.random() < 0.2:
            content["run"] = chance.choice(NAMES)
    if name == "provenance.json" and isinstance(content.get("pieces"), dict):
        piece = {"seconds": 1, "devices": 1, "device": "x"}
        content["pieces"][chance.choice(NAMES)] = chance.choice([*VALUES, piece, piece, piece])
    lines[k] = json.dumps(content)
    put(path, "\n".join(lines) + "\n")
    return f"{name}: {where}"


def change(content: Any, chance: random.Random) -> str:
    """Put a hostile value, or a hostile key, somewhere into nested JSON; where."""
    path = []
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = chance.choice(list(keys))
        path.append(str(key))
        inner = content[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            content = inner
            continue
        if isinstance(content, dict) and chance.random() < 0.2:
            content[chance.choice(NAMES)] = content.pop(key)
            return f"{'.'.join(path)} has another name"
        content[key] = chance.choice(VALUES)
        return f"{'.'.join(path)} is {str(content[key])[:30]!r}"


def _bomb(path: Path, chance: random.Random) -> str:
    """Little that becomes much, or a file of somebody else."""
    folder = path.parent
    what = chance.choice(["parquet", "csv", "json", "lines", "link", "deep", "table link"])
    if what == "parquet":
        import zlib

        path = folder / "runs.parquet"  # pages that say they are longer than they are
        data = bytearray(path.read_bytes() if own(path) else zlib.compress(bytes(10**6)))
        for _ in range(8):
            data[chance.randrange(len(data))] = 0xFF
        remove(path)
        path.write_bytes(data)
    elif what == "csv":
        put(folder / "runs.csv", "run,step,n,d,loss\n" + "a,1,1,1,1\n" * 200_000)
    elif what == "json":
        put(folder / "study.json", '{"study": [' + "[]," * 500_000 + "[]]}")
    elif what == "lines":
        lines = folder / "runs.jsonl"
        text = lines.read_text(errors="replace") if own(lines) else ""
        put(lines, text + '{"run": "a", "spec": {}, "result": null}\n' * 50_000)
    elif what == "deep":
        put(folder / "provenance.json", '{"pieces": ' + "[" * 200_000)
    else:
        name = "study.json" if what == "link" else "runs.csv"
        remove(folder / name)
        (folder / name).symlink_to(folder.parents[1] / "bait")
    return f"bomb of {what}"
