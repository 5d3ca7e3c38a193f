"""Simulated studies for the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forcelaw.laws.decide import simulate
from forcelaw.table.runs import Runs

LANGUAGE = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.347, "beta": 0.366}
FIELD = {"E": 0.02, "A": 9.0, "B": 120.0, "alpha": 0.35, "beta": 0.40}


def study(
    groups: int = 10,
    seed: int = 0,
    truth: dict[str, float] = FIELD,
    seeds: int = 1,
    **options: float,
) -> Runs:
    """``groups`` sizes over 2.5 decades, ten checkpoints each over three decades of data."""
    sizes, data = (
        (np.geomspace(1e4, 3e6, groups), np.geomspace(1e6, 1e9, 10))
        if truth["E"] < 1
        else (np.geomspace(5e7, 1e10, groups), np.geomspace(1e9, 3e11, 10))
    )
    return simulate.trajectories(
        truth, sizes, data, np.random.default_rng(seed), seeds=seeds, **options
    )


def clean(groups: int = 10, truth: dict[str, float] = FIELD, **options: float) -> Runs:
    """The same without noise."""
    return study(groups, truth=truth, sd_run=0.0, sd_within=0.0, **options)


def exponents(truth: dict[str, float]) -> dict[str, float]:
    total = truth["alpha"] + truth["beta"]
    return {
        "a": truth["beta"] / total,
        "b": truth["alpha"] / total,
        "gamma": truth["alpha"] * truth["beta"] / total,
    }


def columns(runs: Runs) -> dict[str, object]:
    """A table as a user would have it."""
    out: dict[str, object] = {
        "params": runs["n"],
        "tokens": runs["d"],
        "val_loss": runs["loss"],
        "run_name": [f"run {runs.run_names[i]}" for i in runs.run],
    }
    if "c" in runs:
        out["flops"] = runs["c"]
    if runs.seed is not None:
        out["seed"] = runs.seed.tolist()
    if len(runs.group_names) > 1:
        out["architecture"] = [runs.group_names[i] for i in runs.group]
    return out


def join(first: Runs, second: Runs, names: tuple[str, str] = ("A", "B")) -> Runs:
    """Two architectures in one table."""
    return Runs(
        values={key: np.concatenate([first[key], second[key]]) for key in first.values},
        run=np.concatenate([first.run, second.run + len(first.run_names)]),
        run_names=[f"{names[0]}{r}" for r in first.run_names]
        + [f"{names[1]}{r}" for r in second.run_names],
        group=np.repeat([0, 1], [len(first), len(second)]),
        group_names=list(names),
        seed=np.concatenate([first.seed, second.seed]),
        taken={},
        source="simulation",
    )


def scaled(runs: Runs, factor: np.ndarray | float) -> Runs:
    """The same runs with other losses."""
    return replace(runs, values=runs.values | {"loss": runs["loss"] * factor})
