"""Run directories with randomised weights: a trained model's directory in a few milliseconds."""

from __future__ import annotations

from pathlib import Path

import forcelaw
from forcelaw.api.run import Run, Training
from forcelaw.data.pack import Pack
from forcelaw.store.runs import RunDirectory
from forcelaw.training import checkpoint
from forcelaw.training.config import TrainOptions
from forcelaw.training.loop import _optimizer, make_model
from tests.models.tools import randomise


def run_directory(
    out: Path, pack: Pack, architecture: str = "painn", forces: str = "conservative", **options
) -> Run:
    """A run of ``architecture`` on ``pack`` whose weights were randomised instead of trained."""
    options = {"size": 3e3, "epochs": 1, "depth": 2, "cutoff": 3.0} | options
    what = Training(architecture=architecture, forces=forces, **options)
    spec = what.resolve(pack, TrainOptions())
    run = RunDirectory.create(out, spec.as_json())
    model = make_model(spec, "cpu")
    optimizer = _optimizer(spec, model)
    randomise(model)
    optimizer.z.copy_(optimizer.y)  # the averaged weights are those of the model
    checkpoint.save(run, model, optimizer, {"step": 1})
    run.keep_references(pack.manifest["references"]["energies"])
    return forcelaw.load_run(run.path)
