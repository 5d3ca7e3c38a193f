"""Runs that the entries of a study start from (``from`` of an entry): fine-tuning as a column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StudyError
from ..files import read_json, storage, write_json
from ..training.spec import DataSummary, Start, summarise
from .config import ArchitectureSpec, Study, label_of

if TYPE_CHECKING:
    from ..data.pack import Pack
    from ..models.base import ModelConfig

FILE = "starts.json"


@dataclass(frozen=True)
class StartingPoint:
    """The run ``start``, its model, and its directory (which need not be there any more)."""

    start: Start
    model: dict[str, Any]
    path: Path

    def config(self) -> ModelConfig:
        from ..models import make_config

        return make_config(self.model)


def summary_of(study: Study, pack: Pack, base: Path, out: Path | None = None) -> DataSummary:
    """What planning ``study`` needs to know of its data and of the runs that entries start from.

    base: the folder of the study file, which paths of runs are relative to. out: the output
    directory, which remembers them: a study that has begun needs them no more.
    """
    data = summarise(pack, cutoff=study.cutoff, charge_spin=study.charge_spin)
    kept = read_json(out / FILE) if out is not None and (out / FILE).exists() else {}
    starts = {
        label_of(entry): _starting_point(entry, pack, base, kept.get(label_of(entry)))
        for entry in study.architectures
        if entry.start is not None
    }
    return replace(data, starts=starts) if starts else data


def _starting_point(
    entry: ArchitectureSpec, pack: Pack, base: Path, kept: dict[str, Any] | None
) -> StartingPoint:
    from ..training.fine_tune import check_elements, starting_point

    assert entry.start is not None
    path = base / Path(entry.start).expanduser()
    if not path.exists() and kept is not None:
        return StartingPoint(Start(**kept["start"]), kept["model"], path)
    if not (path / "spec.json").is_file():
        raise StudyError(
            f"{label_of(entry)} starts from a run that is not there",
            where=str(path),
            remedy="give OUT/runs/ID, relative to the study file",
        )
    start, model = starting_point(path)
    check_elements(model, pack, path)
    if model["architecture"] != entry.name:
        raise StudyError(
            f"the run to start from is a {model['architecture']}, and the entry says {entry.name}",
            where=str(path),
            remedy=f"write name: {model['architecture']}",
        )
    return StartingPoint(start, model, path)


def keep(data: DataSummary, out: Path) -> None:
    """Note in the output directory what was started from."""
    if data.starts:
        about = {
            label: {"start": point.start.model_dump(), "model": point.model}
            for label, point in data.starts.items()
        }
        with storage(out):
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / FILE, about)
