"""Synthetic studies with known laws, written as study directories (see forcelaw.store.runs): the
oracle of report tests.

L(N, D) = E + A N^-alpha + B D^-beta, run noise, checkpoint noise, and a transient in the first
steps C = 3 kappa N D,  H = D / throughput
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forcelaw.store.runs import RunDirectory
from forcelaw.table.directory import table


@dataclass(frozen=True)
class Truth:
    """The law of one architecture. ``scale`` is the loss at N0 = 3e4 and D0 = 1e6, where both terms
    are equal."""

    label: str
    architecture: str
    symmetry: str
    alpha: float
    beta: float
    kappa: float
    scale: float
    floor: float = 0.02
    speed: float = 4e9  # throughput = speed / (kappa N) atoms/s, at most 2e5
    rotation: float = 3e-7  # relative force error of the trained model; <= 0: a learned error
    inversion: float = 3e-7

    @property
    def amplitude_n(self) -> float:
        return 0.5 * (self.scale - self.floor) * 3e4**self.alpha

    @property
    def amplitude_d(self) -> float:
        return 0.5 * (self.scale - self.floor) * 1e6**self.beta

    def loss(self, n: float, d: float) -> float:
        return self.floor + self.amplitude_n * n**-self.alpha + self.amplitude_d * d**-self.beta


LADDER = [
    Truth("MPNN", "mpnn", "none", 0.28, 0.31, 3.5, 0.90, rotation=-1, inversion=-1),
    Truth("PaiNN", "painn", "E(3), vectors", 0.35, 0.45, 6.0, 0.45),
    Truth("MC-EGNN", "egnn", "E(3), vectors", 0.39, 0.39, 17.0, 0.60),
    Truth("GemNet-OC", "gemnet_oc", "E(3), invariant 4-body", 0.52, 0.50, 45.0, 0.42),
    Truth("eSEN", "esen", "SE(3), tensors l <= 2", 0.62, 0.60, 61.0, 0.35, inversion=2e-3),
]
TRIO = [LADDER[0], LADDER[1], LADDER[4]]  # what most tests need, at three fifths of the time
SIZES = (2_000, 8_000, 32_000, 128_000, 512_000)


def spec_of(
    truth: Truth,
    n: int,
    seed: int,
    *,
    kind: str = "grid",
    lr: float = 4e-3,
    steps: int = 8000,
    batch_atoms: int = 400,
    epochs: float = 1.0,
) -> dict[str, Any]:
    return {
        "study": "synthetic ladder",
        "kind": kind,
        "label": truth.label,
        "model": {"architecture": truth.architecture, "width": max(4, int(n**0.5 / 4)), "depth": 2},
        "seed": seed,
        "lr": lr,
        "lr_base": lr,
        "batch_atoms": batch_atoms,
        "epochs": epochs,
        "steps": steps,
        "n": n,
        "n_nonembedding": int(0.9 * n),
    }


def metrics_of(
    truth: Truth,
    spec: dict[str, Any],
    rng: np.random.Generator,
    *,
    noise: float = 0.01,
    factor: float = 1.0,
    hours: bool = True,
    points: int = 22,
    stop: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: log-spaced steps, one run effect and small checkpoint noise around the
    law."""
    n, kappa = spec["n"], truth.kappa * (1 + 8 / spec["n"] ** 0.5)
    throughput = min(2e5, truth.speed / (kappa * n))
    steps = np.unique(np.geomspace(20, spec["steps"], points).round().astype(int))
    steps = steps[steps <= (stop or spec["steps"])]
    run_effect = rng.normal(0, noise)
    rows = []
    for step in steps:
        d = int(step) * spec["batch_atoms"]
        log_loss = np.log(truth.loss(n, d)) + run_effect + rng.normal(0, 0.3 * noise)
        loss = factor * float(np.exp(log_loss)) * (1 + 1.5 * np.exp(-step / 45))
        energy = 0.05 * loss * (d / 1e6) ** -0.05
        rows.append(
            {
                "step": int(step),
                "d": d,
                "u": int(min(d, spec["steps"] * spec["batch_atoms"] / spec["epochs"])),
                "c": 3.0 * kappa * n * d,
                "h": d / throughput / 3600 if hours else None,
                "loss": loss,
                "loss_energy": energy,
                "loss_forces": loss - energy,
                "energy_mae": 1000 * energy,
                "force_mae": 450 * (loss - energy),
                "kappa": kappa,
                "throughput": throughput,
                "mean_degree": 19.2,
                "grad_norm": 5.0,
            }
        )
    return rows


def write_run(
    root: Path, spec: dict[str, Any], rows: list[dict[str, Any]], result: dict[str, Any] | None
) -> str:
    run = RunDirectory.create(root, spec)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    (run.path / "metrics.jsonl").write_text(text)
    if result is not None:
        (run.path / "result.json").write_text(json.dumps(result))
    return run.id


def finished(truth: Truth, spec: dict[str, Any]) -> dict[str, Any]:
    d = spec["steps"] * spec["batch_atoms"]
    learned = 0.4 * (d / 1e5) ** -0.35 * (spec["n"] / 1e4) ** -0.15
    symmetry = {
        "rotation": truth.rotation if truth.rotation > 0 else learned,
        "inversion": truth.inversion if truth.inversion > 0 else 1.2 * learned,
    }
    return {"status": "finished", "device": "cpu", "symmetry": symmetry}


def diverged(step: int, lr: float) -> dict[str, Any]:
    return {
        "status": "diverged",
        "device": "cpu",
        "step": step,
        "lr": lr,
        "message": f"the loss became NaN at step {step} with learning rate {lr:g}",
    }


def study_json(truths: list[Truth]) -> dict[str, Any]:
    return {
        "name": "synthetic ladder",
        "description": "Invented runs with known laws, to test the report.",
        "command": "forcelaw run studies/synthetic.yaml --out runs/synthetic",
        "created": "2026-11-22T12:00:00+00:00",
        "versions": {
            "forcelaw": "0.1.0",
            "python": "3.11.9",
            "torch": "2.9.0",
            "commit": "0000000",
        },
        "data": {
            "name": "sample",
            "hash": "0123456789abcdef",
            "atoms": 224_000,
            "structures": 10_000,
            "elements": [1, 6, 7, 8],
            "train": {"structures": 9000, "atoms": 201_600},
            "validation": {"structures": 1000, "atoms": 22_400},
            "statistics": {"mean_force_norm": 1.9, "mean_atoms": 22.4},
            "no_model": {"energy_mae": 54.0, "force_mae": 987.0},
            "label_noise": {"energy_mae": 0.25, "force_mae": 4.75},
        },
        "architectures": [
            {"label": t.label, "architecture": t.architecture, "symmetry": t.symmetry}
            for t in truths
        ],
    }


def write_sweep(
    runs: Path,
    truth: Truth,
    rng: np.random.Generator,
    *,
    best: float = 4e-3,
    n: int = 32_000,
    hours: bool = True,
) -> None:
    """A learning-rate sweep at the base width: a parabola in log2(lr), the largest rate
    diverges."""
    for lr in (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2):
        spec = spec_of(truth, n, 0, kind="sweep", lr=lr, steps=1500)
        if lr > 1e-2 and truth.label == "PaiNN":
            write_run(
                runs, spec, metrics_of(truth, spec, rng, stop=200, hours=hours), diverged(212, lr)
            )
            continue
        factor = 1 + 0.06 * float(np.log2(lr / best)) ** 2
        write_run(
            runs,
            spec,
            metrics_of(truth, spec, rng, factor=factor, hours=hours),
            finished(truth, spec),
        )


def write_study(
    out: Path,
    truths: list[Truth] = LADDER,
    *,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 2,
    sweep: bool = True,
    hours: bool = True,
    finish: bool = True,
    diverge: bool = True,
    steps: int = 8000,
    noise: float = 0.01,
    study: bool = True,
    points: int = 22,
) -> Path:
    """A study directory at ``out`` with one run for each size and seed; returns ``out``."""
    rng = np.random.default_rng(0)
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    if study:
        (out / "study.json").write_text(json.dumps(study_json(truths), indent=2))
    for truth in truths:
        for n in sizes:
            for seed in range(seeds):
                spec = spec_of(truth, n, seed, steps=steps)
                rows = metrics_of(truth, spec, rng, hours=hours, noise=noise, points=points)
                write_run(runs, spec, rows, finished(truth, spec) if finish else None)
        if sweep:
            write_sweep(runs, truth, rng, hours=hours)
    if diverge:
        first = truths[0]
        spec = spec_of(first, sizes[-1], 77, lr=3.2e-2, steps=steps)
        write_run(
            runs, spec, metrics_of(first, spec, rng, stop=300, hours=hours), diverged(341, 3.2e-2)
        )
        spec = spec_of(first, sizes[0], 78, lr=6.4e-2, steps=steps)
        write_run(runs, spec, [], diverged(3, 6.4e-2))
    return out


def write_table(out: Path, source: Path, suffix: str = ".csv") -> Path:
    """Only study.json and the table of the study at ``source``, as one would commit them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text((source / "study.json").read_text())
    frame = table(source / "runs")
    path = out / f"runs{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    return path


def with_floor(truth: Truth, floor: float) -> Truth:
    return replace(truth, floor=floor)
