"""The evidence of a study, small enough to commit: what a report needs and what a reader would ask
for.

    NAME/runs.parquet or runs.csv   one row per evaluation of every run, the columns of
                                    :mod:`forcelaw.table.columns`
    NAME/runs.jsonl                 one run a line: its resolved specification and how it ended
    NAME/study.json                 the resolved study
    NAME/provenance.json            command, date, versions, devices, device-hours and FLOPs

`forcelaw report NAME` needs the first file and reads study.json in the same folder; `forcelaw
import NAME --to OUT` makes a study directory of them, in which finished runs need not be trained
again. Paths of the machine that trained are left out. Writing CSV needs no polars, so it can be
done where the training was.
"""

from __future__ import annotations

import csv
import datetime
import json
import re
import shlex
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import check_regular, file_sha256, read_json, read_whole, reading, whole, write_json
from ..store.runs import RunDirectory, content_id, runs
from ..table.columns import COLUMNS, measured
from ..table.directory import EVIDENCE, frame, rows, typed
from .accounting import accounts
from .config import is_later_stage

STATUSES = ("failed", "stopped", "diverged", "finished")  # from worst to best


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
    for run in listed:
        with reading(run.path, StoreError, remedy="restore it, or delete this run directory"):
            if content_id(run.spec()) != run.id:
                raise StoreError("spec.json does not hash to the name of its directory")
            json.dumps(run.result(), allow_nan=False)  # what overflows is written nowhere
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVIDENCE[kind]
    content = [row | {"message": portable(row["message"])} for row in rows(out / "runs")]
    content = stopped(content) if stop else content
    content.sort(key=lambda r: (r["architecture"], r["kind"], r["n"], r["run"], r["step"] or 0))
    if kind == "parquet":
        with whole(path) as temporary:
            frame(content).write_parquet(temporary, compression="zstd")
    else:
        _csv(content, path)
    for other in set(EVIDENCE.values()) - {path.name}:
        (folder / other).unlink(missing_ok=True)
    _jsonl(listed, folder / "runs.jsonl")
    study = portable(read_json(out / "study.json")) if (out / "study.json").exists() else {}
    if study:
        write_json(folder / "study.json", study)
    provenance = _provenance(out, path, listed, content, study)
    write_json(folder / "provenance.json", provenance)
    return provenance


def _provenance(
    out: Path,
    table: Path,
    listed: list[RunDirectory],
    content: list[dict[str, Any]],
    study: dict[str, Any],
) -> dict[str, Any]:
    counts = Counter({row["run"]: row["status"] for row in content}.values())
    data = study.get("data", {})
    return {
        "study": study.get("name", listed[0].spec()["study"]),
        "table": {"file": table.name, "sha256": file_sha256(table)},
        "evaluations": len(content),
        "runs": dict(sorted(counts.items())),
        "began": study.get("created"),
        "written": datetime.date.today().isoformat(),
        "command": study.get("command"),
        "versions": _versions(listed, study),
        "data": {key: data.get(key) for key in ("name", "hash", "command")},
        "cost": accounts(out).as_json(),
        "pieces": {
            piece.name: read_json(piece) for piece in sorted((out / "pieces").glob("*.json"))
        },
    }


def stopped(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table in which runs of the grid that are under way and have been evaluated count as
    shorter runs: their status is "stopped", their last evaluation is final."""
    last = {
        row["run"]: row["step"]
        for row in content
        if row["status"] == "unfinished" and row["kind"] != "sweep" and row["loss"] is not None
    }
    changed = []
    for row in content:
        if row["run"] in last:
            end = last[row["run"]]
            row = row | {"status": "stopped", "final": row["step"] == end, "ended": end}
        changed.append(row)
    return changed


def _csv(content: list[dict[str, Any]], path: Path) -> None:
    """Python's own CSV: floats are written so that they come back to the last bit."""
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)


def _jsonl(listed: list[RunDirectory], path: Path) -> None:
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
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


def _versions(listed: list[RunDirectory], study: dict[str, Any]) -> dict[str, list[str]]:
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


def is_evidence(path: Path) -> bool:
    return (path / "runs.jsonl").exists() and any(
        (path / name).exists() for name in EVIDENCE.values()
    )


def import_evidence(folder: Path, out: Path) -> str:
    """Write the runs of the evidence in ``folder`` into the study directory ``out`` and say what
    was done. Needs polars.

    Finished runs are whole but for their weights; one that was under way keeps its evaluations and
    starts over. A run that is in ``out`` already is replaced only by one that ended better.
    """
    if not is_evidence(folder):
        raise StoreError(
            f"there is no runs.jsonl with a table ({' or '.join(EVIDENCE.values())}) here",
            where=str(folder),
            remedy="give a directory that `forcelaw export OUT --table DIR` wrote",
        )
    with reading(folder, StoreError, remedy="restore it from the commit, or write it again"):
        provenance, found = _evidence(folder)
    later = is_later_stage(folder / "study.json", out / "study.json")
    done = Counter(_import_run(out / "runs", *run) for run in found)
    if (folder / "study.json").exists() and (later or not (out / "study.json").exists()):
        shutil.copyfile(folder / "study.json", out / "study.json")
    for name, piece in provenance["pieces"].items():
        (out / "pieces").mkdir(exist_ok=True)
        write_json(out / "pieces" / Path(name).name, piece)
    return (
        f"{done['new']} runs are new, {done['better']} ended better than here, {done['kept']} stay"
        " as they are; runs that were under way keep their evaluations and start over, because"
        " evidence holds no weights"
    )


Found = tuple[dict[str, Any], dict[str, Any] | None, list[dict[str, Any]]]


def _evidence(folder: Path) -> tuple[dict[str, Any], list[Found]]:
    """Provenance, and (specification, result, evaluations) of every run; all of it is looked at
    before anything is written."""
    path = folder / "provenance.json"
    provenance = {"pieces": {}} | (read_json(path) if path.exists() else {})
    for name, piece in provenance["pieces"].items():
        if not isinstance(piece["seconds"] * piece["devices"], int | float):
            raise StoreError(f"piece {name} holds no hours")
    if (folder / "study.json").exists():
        read_json(folder / "study.json")
    metrics, found = _metrics_of(folder, provenance), []
    lines = read_whole(folder / "runs.jsonl").decode().splitlines()
    if not lines:
        raise StoreError("runs.jsonl holds no run")
    for number, text in enumerate(lines, start=1):
        line = json.loads(text)
        if content_id(line["spec"]) != line["run"]:
            raise StoreError(
                f"run {line['run']} has a specification that hashes to {content_id(line['spec'])}",
                where=f"{folder / 'runs.jsonl'}, line {number}",
                remedy="the file was changed: restore it from the commit",
            )
        if line["result"] is not None and line["result"]["status"] not in STATUSES:
            raise StoreError(
                f"run {line['run']} ended as {line['result']['status']!r}",
                where=f"{folder / 'runs.jsonl'}, line {number}",
                remedy="restore the file from the commit",
            )
        found.append((line["spec"], line["result"], metrics.get(line["run"], [])))
        json.dumps(found[-1], allow_nan=False)
    return provenance, found


def _metrics_of(folder: Path, provenance: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Evaluations of every run of the table, by id, in the order of their steps."""
    from ..table.read import MOST_BYTES as MOST_TABLE
    from ..table.read import read

    table = next(folder / name for name in EVIDENCE.values() if (folder / name).exists())
    check_regular(table, StoreError)
    if table.stat().st_size > MOST_TABLE:
        raise StoreError(f"the table has more than {MOST_TABLE:,} bytes", where=str(table))
    known = provenance.get("table", {})
    if known.get("file") == table.name and known.get("sha256") != file_sha256(table):
        raise StoreError(
            "checksum mismatch: the table is not the one in provenance.json",
            where=str(table),
            remedy="restore both from the same commit, or write them again with `forcelaw export"
            " --table`",
        )
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in typed(read(table).frame, str(table)).sort("step").iter_rows(named=True):
        if row.get("step") is not None:
            values = {key: row[key] for key in measured() if row.get(key) is not None}
            metrics.setdefault(row["run"], []).append(values)
    return metrics


def _import_run(
    root: Path,
    spec: dict[str, Any],
    result: dict[str, Any] | None,
    metrics: list[dict[str, Any]],
) -> str:
    """Write one run under ``root``, unless the one there ended as well or better: then "kept"."""
    here = RunDirectory(root / content_id(spec))
    there, existed = here.result(), here.path.exists()
    if existed:
        if result is None or (
            there and STATUSES.index(result["status"]) <= STATUSES.index(there["status"])
        ):
            return "kept"
        if here.held:
            raise StoreError(
                f"run {here.id} is being trained here",
                where=str(here.path),
                remedy="stop `forcelaw run` first",
            )
        shutil.rmtree(here.path)
    run = RunDirectory.create(root, spec)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics)
    with whole(run.path / "metrics.jsonl") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if result is not None:
        run.finish(result)
    return "better" if existed else "new"
