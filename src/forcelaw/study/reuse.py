"""Runs that several studies have in common are trained once.

A study names others under ``share``. A run of theirs that is over, and whose specification is the
same in everything that decides its numbers, is copied into the study instead of being trained
again; result.json then says where it comes from (``taken_from``), so that its device-hours are
counted once.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from ..store.runs import RunDirectory, content_id, runs

NAMES = ("study", "kind", "label")  # keys of a specification that name a run and decide nothing


def training_id(spec: dict[str, Any]) -> str:
    """Hash of what decides the numbers of a run."""
    return content_id({key: value for key, value in spec.items() if key not in NAMES})


class SharedRuns:
    """Finished runs of other studies. ``folders`` are their ``runs`` directories; one that does not
    exist has none."""

    def __init__(self, folders: list[Path]):
        self.folders = folders

    @cached_property  # a study is not trained while another that shares it is being planned
    def _by_training(self) -> dict[str, RunDirectory]:
        return {
            training_id(run.spec()): run
            for folder in self.folders
            for run in runs(folder)
            if (result := run.result()) and result["status"] in ("finished", "diverged")
        }

    def copy_to(self, run: RunDirectory, spec: dict[str, Any]) -> bool:
        """Copy metrics and result of the same run of another study into ``run``; whether there was
        one to copy."""
        if not self.folders or run.done or run.held:
            return False
        other = self._by_training.get(training_id(spec))
        if other is None:
            return False
        if (other.path / "metrics.jsonl").exists():
            with run.writing("metrics.jsonl") as temporary:
                shutil.copyfile(other.path / "metrics.jsonl", temporary)
        origin = {"study": other.spec()["study"], "run": other.id}
        run.finish({**(other.result() or {}), "taken_from": origin})
        return True
