"""Run ids do not change between versions: those of the committed evidence are made again from its
specifications, read and written by the code of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forcelaw.store.runs import content_id
from forcelaw.training.spec import RunSpec

RESULTS = Path(__file__).parents[2] / "results"
EVIDENCE = sorted(RESULTS.glob("*/runs.jsonl"))


@pytest.mark.parametrize("file", EVIDENCE, ids=[file.parent.name for file in EVIDENCE])
def test_specifications_of_committed_runs_keep_their_ids(file: Path) -> None:
    seen = set()
    for line in file.read_text().splitlines():
        run = json.loads(line)
        kind = (
            run["spec"]["model"]["architecture"],
            *sorted(run["spec"]["model"]),
            run["spec"]["kind"],
        )
        if kind in seen:  # one of each kind of specification
            continue
        seen.add(kind)
        spec = RunSpec(**run["spec"])
        assert spec.config().model_dump(mode="json") == run["spec"]["model"]
        assert content_id(spec.as_json()) == run["run"]
    assert seen
