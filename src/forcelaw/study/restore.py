"""A study directory from its committed evidence: what was trained need not be trained again where
only the table is left.

Finished runs come back whole but for their weights; one that was under way keeps its evaluations
and begins anew. Needs polars.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..files import file_sha256, read_json, write_json
from ..store.runs import RunDirectory, content_id
from ..table.columns import measured
from ..table.directory import EVIDENCE, typed


def is_evidence(path: Path) -> bool:
    return (
        path.is_dir()
        and (path / "runs.jsonl").exists()
        and any((path / name).exists() for name in EVIDENCE.values())
    )


def unpack_evidence(folder: Path, out: Path) -> None:
    """Write the study directory that ``folder`` is the evidence of to ``out``, which must not exist
    yet."""
    from ..table.read import read

    table = next(folder / name for name in EVIDENCE.values() if (folder / name).exists())
    provenance = (
        read_json(folder / "provenance.json") if (folder / "provenance.json").exists() else {}
    )
    known = provenance.get("table", {})
    if known.get("file") == table.name and known.get("sha256") != file_sha256(table):
        raise StoreError(
            "the table is not the one that provenance.json tells of",
            where=str(table),
            remedy=(
                "restore both from the same commit, or write them anew with `forcelaw export"
                " --table`"
            ),
        )
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in typed(read(table).frame, str(table)).iter_rows(named=True):
        if row.get("step") is not None:
            metrics.setdefault(row["run"], []).append(
                {key: row[key] for key in measured() if row.get(key) is not None}
            )
    try:
        for number, line in enumerate(
            (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines(), start=1
        ):
            _restore(
                json.loads(line), metrics, out / "runs", f"{folder / 'runs.jsonl'}, line {number}"
            )
        if (folder / "study.json").exists():
            shutil.copyfile(folder / "study.json", out / "study.json")
        for name, piece in provenance.get("pieces", {}).items():
            (out / "pieces").mkdir(exist_ok=True)
            write_json(out / "pieces" / Path(name).name, piece)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise StoreError(
            f"cannot be read as the runs of a study: {error!r}", where=str(folder / "runs.jsonl")
        ) from error


def _restore(
    line: dict[str, Any], metrics: dict[str, list[dict[str, Any]]], runs: Path, where: str
) -> None:
    spec = line["spec"]
    if content_id(spec) != line["run"]:
        raise StoreError(
            f"run {line['run']} has a specification that hashes to {content_id(spec)}",
            where=where,
            remedy="the file was changed: restore it from the commit",
        )
    run = RunDirectory.create(runs, spec)
    rows = sorted(metrics.get(run.id, []), key=lambda row: row["step"])
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    (run.path / "metrics.jsonl").write_text(text, encoding="utf-8")
    if line["result"] is not None:
        run.finish(line["result"])
