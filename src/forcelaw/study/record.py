"""A study on disk: OUT/study.json, which says what is trained there, and the directories of its
runs.

    OUT/study.json   the resolved study, command, versions and data; written before training
    OUT/runs/<id>/   one directory for each planned run (:mod:`forcelaw.store.runs`)
"""

from __future__ import annotations

import datetime
import platform
import shutil
from pathlib import Path
from typing import Any

from .. import __version__
from ..certify.certificate import FOLDER, find
from ..data.options import DataFiles
from ..data.pack import Pack, sample_path
from ..data.prepare_files import pack_of_files
from ..data.reference import without_model
from ..errors import StudyError
from ..files import read_json, storage, write_json
from ..models.remembered import keep as keep_sizes
from ..models.remembered import remember_in
from ..plugins import code_changes
from ..progress import are, counted
from ..store.runs import FinalLosses, RunDirectory, runs
from ..training.spec import read_spec, validation_set
from .config import Study, differences, label_of
from .plan import Plan, PlannedRun, model_config, plan
from .reuse import SharedRuns
from .starts import keep, summary_of


class StudyDirectory:
    """A study, its data and its output directory: what worker, launcher and command line ask.

    base: the folder of the study file, which the runs that entries start from are relative to.
    """

    def __init__(self, study: Study, pack: Pack, out: Path, base: Path = Path()):
        self.study, self.pack, self.out = study, pack, out
        remember_in(out / "sizes.json")
        self.data = summary_of(study, pack, base, out)
        self.runs = out / "runs"
        self._losses = FinalLosses(self.runs)
        self._shared = SharedRuns([out.parent / name / "runs" for name in study.share])
        self._created: set[str] = set()
        # as of the last plan: runs that were over, and what each has left of the parts of its loss
        self.ended: set[str] = set()
        self.left: dict[str, dict[str, float]] = {}

    def plan(self, hold: float | None = None) -> Plan:
        """The plan, given what is finished here (:func:`forcelaw.study.plan.plan`)."""
        losses = self._losses.read()
        self.ended, self.left = set(losses), self._losses.left
        return plan(self.study, self.data, losses, hold=hold, left=self.left)

    def create_runs(self, hold: float | None = None) -> Plan:
        """The plan, after a directory was made for each of its runs (held ones too: a forecast
        reads them) and those that a shared study has trained were copied."""
        while True:
            current, copied = self.plan(hold), False
            for planned in current.runs:
                if planned.id not in self._created:
                    self._created.add(planned.id)
                    with storage(self.runs):
                        run = RunDirectory.create(self.runs, planned.spec)
                    self._keep_start(run, planned)
                    copied = self._shared.copy_to(run, planned.spec) or copied
            if not copied:
                keep_sizes()
                return current

    def _keep_start(self, run: RunDirectory, planned: PlannedRun) -> None:
        """Copy the weights that a run starts from into it."""
        if planned.spec.get("start") and not run.done:
            from ..training.fine_tune import keep_start

            with storage(self.runs):
                keep_start(run, self.data.starts[planned.label].path, read_spec(run))

    def run(self, planned: PlannedRun) -> RunDirectory:
        return RunDirectory(self.runs / planned.id)

    def write(self, command: str) -> str:
        """Write study.json. A study that has grown (more sizes, seeds, columns ...) replaces the
        smaller one, and the changed keys are returned as a sentence; one without runs that were
        trained here is an error."""
        path, content = self.out / "study.json", self.study.record()
        old = self._recorded()
        changed: list[str] = []
        if old:
            same_data = old["data"]["hash"] == self.pack.hash
            changed = differences(old["study"], content) or ([] if same_data else ["data"])
            changed += self.changed_code(old)
            if not changed:
                self._keep_certificates(path, old)
                return ""
            renamed = str(old["data"].get("name", self.pack.path.name))
            self._remove_unplanned(changed, same_data=same_data, name=renamed)
        with storage(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(path, self._content(old, content, changed, command))
        keep(self.data, self.out)
        if not changed:
            return ""
        return (
            f"{self.out}: the study has changed ({', '.join(changed)});"
            " all that was trained is still part of it"
        )

    def _recorded(self) -> dict[str, Any]:
        """study.json as it is; empty where there is none. StoreError where it cannot be read."""
        path = self.out / "study.json"
        remedy = (
            "restore it, or delete this file, and `forcelaw run` writes it again: runs are kept"
        )
        return read_json(path, remedy=remedy) if path.exists() else {}

    def _content(
        self, old: dict[str, Any], study: dict[str, Any], changed: list[str], command: str
    ) -> dict[str, Any]:
        import torch

        today = datetime.date.today().isoformat()
        grown = old.get("grown", [])
        if old:
            grown = [*grown, {"date": today, "command": command, "keys": changed}]
        return {
            "name": self.study.name,
            "description": self.study.description,
            "study": study,
            "command": old.get("command", command),
            "created": old.get("created", today),
            **({"grown": grown} if grown else {}),
            "versions": {
                "forcelaw": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "architectures": self._architectures(),
            "data": _data_of(self.pack, self.study.train.validation_structures),
        }

    def _keep_certificates(self, path: Path, old: dict[str, Any]) -> None:
        """Put certificates into study.json that were made since it was written."""
        now = self._architectures()
        before = {a["label"]: a.get("certificate") for a in old["architectures"]}
        if any(a.get("certificate") not in (None, before.get(a["label"])) for a in now):
            with storage(self.out):
                write_json(path, old | {"architectures": now})

    def changed_code(self, recorded: dict[str, Any]) -> list[str]:
        """Entries whose source, from outside, is not the one of study.json as it was read."""
        from ..models import code

        kept = {a["label"]: a.get("code") for a in recorded.get("architectures", [])}
        now = {label_of(entry): code(entry.name) for entry in self.study.architectures}
        changes = {label: code_changes(kept[label], now[label]) for label in kept.keys() & now}
        return [f"source of {label}: {text}" for label, text in sorted(changes.items()) if text]

    def require_same_code(self) -> None:
        """StudyError where an architecture is not the code that this study was begun with."""
        if changed := self.changed_code(self._recorded()):
            raise StudyError(
                f"changed since this study was begun: {'; '.join(changed)}",
                where=str(self.out),
                remedy="restore the source, or begin another study: --out DIR",
            )

    def _architectures(self) -> list[dict[str, Any]]:
        from ..models import architecture, code

        found = []
        for entry in self.study.architectures:
            model = model_config(self.study, self.data, entry, self.study.sizes_of(entry)[0])
            symmetry = architecture(entry.name).symmetry_for(model)
            about = {"label": label_of(entry), "architecture": entry.name, "symmetry": symmetry}
            source = code(entry.name)
            folders = [self.out.parent / FOLDER, self.out / FOLDER]
            options = {**entry.options, "forces": model.forces}
            certificate = find(entry.name, source, folders, options)
            found.append(
                about
                | ({"code": source} if source else {})
                | ({"certificate": certificate.record()} if certificate else {})
            )
        return found

    def _remove_unplanned(self, changed: list[str], *, same_data: bool, name: str) -> None:
        """Remove the directories of runs that a changed study does not plan any more; an error if
        any of them was trained. name: of the same data, when the study was begun."""
        planned = {run.id for run in self.plan().runs}
        unplanned = [run for run in runs(self.runs) if run.id not in planned]
        trained = [run for run in unplanned if run.state() != "waiting" or run.metrics()]
        if trained and same_data and name != self.pack.path.name:
            raise StudyError(
                f"the pack was called {name!r} when this study was begun, and its name is part of"
                f" the ids of {counted(len(trained))} trained here",
                where=str(self.pack.path),
                remedy=f"its content is the same: call the folder {name!r} again, in any place, or"
                " link to it by that name",
            )
        if trained or not same_data:
            which = f"different: {', '.join(changed)}"
            if trained and same_data:
                which += (
                    f"; {counted(len(trained))} trained there {are(len(trained))} not part of it"
                )
            raise StudyError(
                f"this directory holds another study ({which})",
                where=str(self.out),
                remedy="choose another --out (with `share: [NAME]` it copies the runs that are the"
                " same), or delete that directory to start over",
            )
        for run in unplanned:
            shutil.rmtree(run.path)


def _data_of(pack: Pack, validation_structures: int) -> dict[str, Any]:
    """What study.json says of the data. no_model: errors on the validation set without a model."""
    m = pack.manifest
    return {
        "name": pack.path.name,
        "hash": pack.hash,
        "structures": m["structures"],
        "atoms": m["atoms"],
        "elements": m["elements"],
        "command": m.get("command", ""),
        "split": m.get("split", {}),
        "statistics": m["statistics"],
        "no_model": without_model(pack, validation_set(pack, validation_structures)),
        **({"label_noise": m["label_noise"]} if m.get("label_noise") else {}),
    }


def find_pack(study: Study, directory: str | Path) -> Pack:
    """The pack of a study; ``directory`` is that of the study file."""
    if study.data == "sample":
        return Pack(sample_path())
    if isinstance(study.data, DataFiles):
        return pack_of_files(study.data, study.name, Path(directory))
    path = Path(study.data).expanduser()
    return Pack(path if path.is_absolute() else Path(directory) / path)
