"""Runs that several studies have in common are trained once.

A study names others under ``share``. A run of theirs that is over, and whose specification is the
same in everything that decides its numbers, is copied into the study instead of being trained
again; result.json then says where it comes from (``taken_from``), so that its device-hours are
counted once.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from ..store.runs import RunDirectory, content_id
from ..store.runs import runs as all_runs

NAMES = ("study", "kind", "label")  # keys of a specification that name a run and decide nothing


def training_id(spec: dict[str, Any]) -> str:
    """Hash of what decides the numbers of a run."""
    return content_id({key: value for key, value in spec.items() if key not in NAMES})


class Shared:
    """Finished runs of other studies. ``folders`` are their ``runs`` directories; one that is not
    there is empty."""

    def __init__(self, folders: list[Path]):
        self.folders = folders
        self._found: dict[str, RunDirectory] | None = None

    def _index(self) -> dict[str, RunDirectory]:
        if (
            self._found is None
        ):  # once: a study is not trained while another that shares it is being planned
            self._found = {
                training_id(run.spec()): run
                for folder in self.folders
                for run in all_runs(folder)
                if (result := run.result()) and result["status"] in ("finished", "diverged")
            }
        return self._found

    def place(self, root: Path, spec: dict[str, Any]) -> RunDirectory:
        """The directory of ``spec`` under ``root``, made if it is not there, and filled if another
        study has the run."""
        run = RunDirectory.create(root, spec)
        if not self.folders or run.done:
            return run
        other = self._index().get(training_id(spec))
        if other is not None and not (run.path / "claim").exists():
            if (other.path / "metrics.jsonl").exists():
                part = run.path / f".metrics.{secrets.token_hex(4)}"
                shutil.copyfile(other.path / "metrics.jsonl", part)
                part.replace(run.path / "metrics.jsonl")
            origin = {"study": other.spec()["study"], "run": other.id}
            run.finish({**(other.result() or {}), "taken_from": origin})
        return run
