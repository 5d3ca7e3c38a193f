"""Evaluations of a run, sent to a tracker as they are made. metrics.jsonl has them all the same: no
tracker is ever needed.

A resumed run goes on in the record that it began: its id is the tracker's.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import StudyError, require
from ..store.runs import RunDirectory
from ..table.columns import measured

Log = Callable[[dict[str, Any]], None]
PROJECT = "forcelaw"


@contextlib.contextmanager
def to_csv(run: RunDirectory, rows: list[dict[str, Any]]) -> Iterator[Log]:
    """RUN/metrics.csv, with the columns of metrics.jsonl."""
    with (run.path / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, measured(), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)

        def log(row: dict[str, Any]) -> None:
            table.writerow(row)
            file.flush()

        yield log


@contextlib.contextmanager
def to_tensorboard(run: RunDirectory, rows: list[dict[str, Any]]) -> Iterator[Log]:
    """RUN/tensorboard, for `tensorboard --logdir OUT/runs`."""
    from torch.utils.tensorboard import SummaryWriter

    # what was logged after the checkpoint is hidden: it will be logged again
    after = rows[-1]["step"] + 1 if rows else 0
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=after) as writer:

        def log(row: dict[str, Any]) -> None:
            for name, value in _numbers(row).items():
                writer.add_scalar(name, value, row["step"])
            writer.flush()

        yield log


@contextlib.contextmanager
def to_wandb(run: RunDirectory, rows: list[dict[str, Any]]) -> Iterator[Log]:
    """Weights & Biases: project forcelaw (or WANDB_PROJECT), the run under its own id."""
    import os

    import wandb

    spec = run.spec()
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run.id,
        name=f"{spec['label']} {spec['n']:,} {run.id}",
        dir=str(run.path),
        config=spec,
        resume="allow",
    ) as record:
        yield lambda row: record.log(_numbers(row), step=row["step"])


@contextlib.contextmanager
def to_mlflow(run: RunDirectory, rows: list[dict[str, Any]]) -> Iterator[Log]:
    """MLflow: experiment forcelaw (or MLFLOW_EXPERIMENT_NAME) at MLFLOW_TRACKING_URI; the run is
    found again by the tag forcelaw.run."""
    import os

    import mlflow

    spec = run.spec()
    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    known = mlflow.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`forcelaw.run` = '{run.id}'",
        output_format="list",
    )
    name, tags = f"{spec['label']} {run.id}", {"forcelaw.run": run.id}
    again = {"run_id": known[0].info.run_id} if known else {"run_name": name, "tags": tags}
    with mlflow.start_run(**again):
        if not known:
            mlflow.log_params({k: str(v)[:250] for k, v in spec.items()})
        yield lambda row: mlflow.log_metrics(_numbers(row), step=row["step"])


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}


# name -> (how, package that it needs)
TRACKERS: dict[str, tuple[Callable[..., Any], str | None]] = {
    "csv": (to_csv, None),
    "tensorboard": (to_tensorboard, "tensorboard"),
    "wandb": (to_wandb, "wandb"),
    "mlflow": (to_mlflow, "mlflow"),
}


@contextlib.contextmanager
def tracked(run: RunDirectory, names: Sequence[str]) -> Iterator[None]:
    """Evaluations of ``run`` go to the trackers ``names`` too. StudyError for one that is unknown,
    MissingPackageError for one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise StudyError(f"unknown tracker {name!r}", where="log", remedy=f"known: {known}")
        if package := TRACKERS[name][1]:
            require(package)
    rows = [row for row in run.metrics() if row["step"] <= run.position()]
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(names):
            run.observers.append(stack.enter_context(TRACKERS[name][0](run, rows)))
        try:
            yield
        finally:
            run.observers.clear()
