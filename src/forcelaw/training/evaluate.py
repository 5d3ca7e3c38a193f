"""Evaluation on a fixed set of structures, and the symmetry error of a trained model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..data.device_dataset import Shard
from ..graph import GraphBatch
from ..models import ForceField
from ..models.frames import averaged, rotation_set
from ..ops import random_rotations
from .loss import error_sums, stress_sums
from .ranks import ALONE, Ranks
from .step import capture

# atoms of one evaluation batch, as for loading: few enough for the caches of a CPU. Its arrays are
# then also given back to the process, not to the system, which took half of the time (LABLOG,
# 2026-11-29)
EVAL_ATOMS = {"cuda": 4_000, "cpu": 500}


def chunks(shard: Shard, structures: int) -> list[tuple[np.ndarray, int, int]]:
    """Batches of the first structures of a shard: rows, atoms, edges of each."""
    ends, most = np.cumsum(shard.host_natoms[:structures]), EVAL_ATOMS.get(shard.device.type, 4_000)
    out, low = [], 0
    while low < structures:
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + most, side="right")))
        rows = np.arange(low, high)
        out.append((rows, int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())))
        low = high
    return out


class Evaluation:
    """Losses and errors of a model over the first ``structures`` of a shard (all by default),
    evaluated again and again. Several ranks share the batches out, and add their sums up. With
    ``rotations`` predictions are averaged over that many (:func:`forcelaw.models.frames.averaged`).

    On a GPU all of it is one CUDA graph: launched eagerly, an evaluation costs the host as much as
    hundreds of training steps, and the other runs on it would wait.
    """

    def __init__(
        self,
        model: ForceField,
        shard: Shard,
        structures: int | None = None,
        ranks: Ranks = ALONE,
        rotations: int = 0,
    ):
        self.model, self.shard, self.ranks = model, shard, ranks
        self.turns = rotation_set(rotations).to(shard.device) if rotations else None
        self.sums = torch.zeros(5, dtype=torch.float64, device=shard.device)
        self.stress_sums = torch.zeros(2, dtype=torch.float64, device=shard.device)
        count = len(shard) if structures is None else structures
        self.batches = [
            (torch.from_numpy(rows).to(shard.device), *sizes)
            for rows, *sizes in chunks(shard, count)[ranks.rank :: ranks.size]
        ]
        self.graph: torch.cuda.CUDAGraph | None = None
        # in a graph nothing may be read back from the device: GemNet-OC must not ask the batch how
        # wide its rows are
        self.fixed = shard.device.type == "cuda"

    def capture(self, pool: Any = None) -> None:
        """Make the graph, on the current stream."""
        self._run()
        self.graph = capture(self._run, pool)

    def launch(self) -> None:
        """Evaluate at the present weights; on a GPU this returns before it is done."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self._run()

    def _run(self) -> None:
        was = self.model.training
        self.model.eval()
        self.sums.zero_()
        self.stress_sums.zero_()
        with torch.no_grad():
            for rows, atoms, edges in self.batches:
                graph, target = self.shard.batch(rows, atoms, edges)
                if self.fixed:
                    graph = replace(graph, max_degree=self.shard.max_degree)
                energy, forces, *virial = self._predict(graph, stress=target.virial is not None)
                self.sums += error_sums(energy, forces, target)
                if virial:
                    self.stress_sums += stress_sums(*virial, target)
        self.model.train(was)

    def _predict(self, graph: GraphBatch, stress: bool) -> tuple[torch.Tensor, ...]:
        call = self.model.with_virial if stress else self.model
        return call(graph) if self.turns is None else averaged(call, graph, self.turns)

    def losses(self) -> dict[str, float]:
        """loss, loss_energy (eV/atom), loss_forces (eV/Angstrom), energy_mae (meV/atom), force_mae
        (meV/Angstrom, mean over components) of the last launch, and stress_mae (meV/Angstrom^3,
        likewise) where the stress is trained on."""
        mine = np.array([*self.sums.tolist(), *self.stress_sums.tolist()])
        de, norm, components, molecules, atoms, stress, count = self.ranks.total(mine).tolist()
        return {
            "loss": de / molecules + norm / atoms,
            "loss_energy": de / molecules,
            "loss_forces": norm / atoms,
            "energy_mae": 1e3 * de / molecules,
            "force_mae": 1e3 * components / (3 * atoms),
            **({"stress_mae": 1e3 * stress / count} if count else {}),
        }

    def release(self) -> None:
        if self.graph is not None:
            self.graph.reset()
            self.graph = None


def evaluate(model: ForceField, shard: Shard) -> dict[str, float]:
    """Losses and errors over all structures of ``shard``, once; see :meth:`Evaluation.losses`."""
    evaluation = Evaluation(model, shard)
    evaluation.launch()
    return evaluation.losses()


def symmetry_error(model: ForceField, shard: Shard, structures: int = 64) -> dict[str, float]:
    """How far the forces are from equivariant: root of mean |f(Rx) - R f(x)|^2 over root of mean
    |f(x)|^2.

    rotation: one random rotation for each structure; inversion: R = -1; rotation_energy: mean
    |e(Rx) - e(x)| / n, eV/atom.
    """
    chosen = torch.arange(min(structures, len(shard)), device=shard.device)
    host = chosen.cpu().numpy()
    atoms, edges = int(shard.host_natoms[host].sum()), int(shard.host_nedges[host].sum())
    turns = random_rotations(chosen, 0, 12345, shard.dtype)
    was = model.training
    model.eval()
    out: dict[str, Any] = {}
    with torch.no_grad():
        graph, target = shard.batch(chosen, atoms, edges)
        energy, forces = (t.double() for t in model(graph))
        size = forces.square().sum(-1).mean().sqrt().clamp_min(1e-300)
        inversion = -torch.eye(3).to(turns).expand_as(turns)
        for name, matrix in (("rotation", turns), ("inversion", inversion)):
            moved, _ = shard.batch(chosen, atoms, edges, rotation=matrix)
            e, f = (t.double() for t in model(moved))
            expected = (matrix.double()[graph.batch] * forces.unsqueeze(1)).sum(-1)
            out[name] = float(((f - expected).square().sum(-1).mean().sqrt() / size).item())
            if name == "rotation":
                out["rotation_energy"] = float(((e - energy).abs() / target.natoms).mean().item())
    model.train(was)
    return out
