"""The evidence of a study, small enough to commit: what a report needs and what a reader would ask
for.

    NAME/runs.parquet or runs.csv   one row per evaluation, the columns of :mod:`forcelaw.table.columns`
    NAME/runs.jsonl                 one run a line: its resolved specification and how it ended
    NAME/study.json                 the resolved study
    NAME/provenance.json            command, date, versions, devices, device-hours and FLOPs

`forcelaw report NAME` needs the first file and reads study.json beside it; `forcelaw import NAME
--to OUT` makes a study of them that goes on (restore.py). Paths of the machine that trained are
left out. CSV needs no polars, so it can be written where the training was.
"""

from __future__ import annotations

import csv
import datetime
import json
import re
import shlex
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import file_sha256, read_json, write_json
from ..store.runs import runs
from ..table.columns import COLUMNS
from ..table.directory import EVIDENCE, frame, rows
from .accounting import accounts


def write_evidence(
    out: Path, folder: Path, kind: str | None = None, *, stop: bool = False
) -> dict[str, Any]:
    """Write the evidence of the study in ``out`` into ``folder`` and return the provenance. kind:
    parquet, csv, or None: parquet where polars is installed. stop: see :func:`stopped`."""
    kind = kind or ("parquet" if find_spec("polars") else "csv")
    listed = list(runs(out / "runs"))
    if not listed:
        raise StoreError(
            "there are no runs here",
            where=str(out),
            remedy="give the output directory of `forcelaw run`",
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVIDENCE[kind]
    content = [row | {"message": portable(row["message"])} for row in rows(out / "runs")]
    content = stopped(content) if stop else content
    content.sort(key=lambda r: (r["architecture"], r["kind"], r["n"], r["run"], r["step"] or 0))
    if kind == "parquet":
        frame(content).write_parquet(path, compression="zstd")
    else:
        _csv(content, path)
    for other in set(EVIDENCE.values()) - {path.name}:
        (folder / other).unlink(missing_ok=True)
    _jsonl(listed, folder / "runs.jsonl")
    study = portable(read_json(out / "study.json")) if (out / "study.json").exists() else {}
    if study:
        write_json(folder / "study.json", study)
    books = accounts(out)
    counts = dict(Counter({row["run"]: row["status"] for row in content}.values()))
    data = study.get("data", {})
    provenance = {
        "study": study.get("name", listed[0].spec()["study"]),
        "table": {"file": path.name, "sha256": file_sha256(path)},
        "evaluations": len(content),
        "runs": dict(sorted(counts.items())),
        "began": study.get("created"),
        "written": datetime.date.today().isoformat(),
        "command": study.get("command"),
        "versions": _versions(listed, study),
        "data": {key: data.get(key) for key in ("name", "hash", "command")},
        "cost": books.as_json(),
        "pieces": {
            piece.name: read_json(piece) for piece in sorted((out / "pieces").glob("*.json"))
        },
    }
    write_json(folder / "provenance.json", provenance)
    return provenance


def stopped(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table in which runs of the grid that are under way and have been evaluated count as
    ended where they are: their status is "stopped", their last evaluation is final."""
    last = {
        row["run"]: row["step"]
        for row in content
        if row["status"] == "unfinished" and row["kind"] != "sweep" and row["loss"] is not None
    }
    return [
        (
            row
            | {
                "status": "stopped",
                "final": row["step"] == last[row["run"]],
                "ended": last[row["run"]],
            }
            if row["run"] in last
            else row
        )
        for row in content
    ]


def _csv(content: list[dict[str, Any]], path: Path) -> None:
    """Python's own CSV: floats are written so that they come back to the last bit."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)


def _jsonl(listed: list[Any], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for run in listed:
            result = run.result()
            if result:  # a traceback is full of paths; what went wrong is in the message
                result = {key: value for key, value in result.items() if key != "traceback"}
            file.write(
                json.dumps(
                    portable({"run": run.id, "spec": run.spec(), "result": result}), allow_nan=False
                )
                + "\n"
            )


def _versions(listed: list[Any], study: dict[str, Any]) -> dict[str, list[str]]:
    """Every version that trained a run of the study."""
    found: dict[str, set[str]] = {}
    for versions in [
        study.get("versions", {}),
        *((run.result() or {}).get("versions", {}) for run in listed),
    ]:
        for name, version in versions.items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(values) for name, values in sorted(found.items())}


def portable(value: Any, key: str = "") -> Any:
    """``value`` without the paths of a machine: of an absolute path in a command or message the
    last part stays."""
    if isinstance(value, dict):
        return {name: portable(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [portable(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if key == "command":
        return " ".join(
            shlex.quote(Path(word).name if Path(word).is_absolute() else word)
            for word in _words(value)
        )
    return re.sub(r"(?<![\w/.])(?:/[\w.+-]+){2,}", lambda match: match[0].rpartition("/")[2], value)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an open quote
        return command.split()
