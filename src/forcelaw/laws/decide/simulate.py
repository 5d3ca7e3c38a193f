"""Synthetic tables of runs with the errors real ones have: each run is off by its own constant, and
its checkpoints by an autocorrelated error. Used to plan runs before training (``design``) and to
measure coverage (benchmarks/)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...table.runs import Runs


def noise(
    run: np.ndarray,
    rng: np.random.Generator,
    *,
    sd_run: float = 0.01,
    sd_within: float = 0.004,
    correlation: float = 0.8,
) -> np.ndarray:
    """Errors of ln L [rows]: one normal per run of sd ``sd_run``, plus a first-order autoregression
    of stationary sd ``sd_within`` along the rows of each run in their order."""
    out = rng.normal(size=int(run.max()) + 1)[run] * sd_run
    fresh = rng.normal(size=len(run)) * sd_within
    kick = np.sqrt(1 - correlation**2)
    last: dict[int, float] = {}
    for i, label in enumerate(run.tolist()):
        last[label] = fresh[i] if label not in last else correlation * last[label] + kick * fresh[i]
        out[i] += last[label]
    return out


def surface_loss(truth: Mapping[str, float], n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """E + A N^-alpha + B D^-beta."""
    return truth["E"] + truth["A"] * n ** -truth["alpha"] + truth["B"] * d ** -truth["beta"]


def trajectories(
    truth: Mapping[str, float],
    sizes: np.ndarray,
    data: np.ndarray,
    rng: np.random.Generator,
    *,
    seeds: int = 1,
    kappa: float = 2.0,
    sd_run: float = 0.01,
    sd_within: float = 0.004,
    correlation: float = 0.8,
    group: str = "",
) -> Runs:
    """One run for each size and seed, evaluated at each D of ``data`` ([checkpoints] or [sizes,
    checkpoints]); C = 3 kappa N D (kappa = 2 gives 6 N D)."""
    sizes = np.repeat(np.asarray(sizes, float), seeds)
    data = np.broadcast_to(
        np.asarray(data, float), (len(sizes) // seeds, np.shape(data)[-1])
    ).repeat(seeds, axis=0)
    run = np.repeat(np.arange(len(sizes)), data.shape[1])
    n, d = sizes[run], data.ravel()
    loss = surface_loss(truth, n, d) * np.exp(
        noise(run, rng, sd_run=sd_run, sd_within=sd_within, correlation=correlation)
    )
    return table(
        n=n,
        d=d,
        loss=loss,
        run=run,
        c=3 * kappa * n * d,
        seed=np.tile(np.arange(seeds), len(sizes) // seeds)[run],
        group=group,
    )


def table(
    *,
    n: np.ndarray,
    d: np.ndarray,
    loss: np.ndarray,
    run: np.ndarray,
    c: np.ndarray | None = None,
    seed: np.ndarray | None = None,
    group: str = "",
) -> Runs:
    """:class:`Runs` from arrays, without a DataFrame (simulations make thousands)."""
    names, code = np.unique(run, return_inverse=True)
    values = {"n": np.asarray(n, float), "d": np.asarray(d, float), "loss": np.asarray(loss, float)}
    if c is not None:
        values["c"] = np.asarray(c, float)
    return Runs(
        values=values,
        run=code.ravel(),
        run_names=[str(name) for name in names],
        group=np.zeros(len(run), int),
        group_names=[group],
        seed=None if seed is None else seed.astype(str),
        taken={role: role for role in values},
        source="simulation",
    )
