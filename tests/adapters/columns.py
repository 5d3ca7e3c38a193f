"""What every adapter is tested with: structures, what it says of them, and a run that learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np
import torch

import forcelaw
from forcelaw.certify.lines import _measured
from forcelaw.certify.structures import randomise
from forcelaw.certify.subject import Subject
from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack, sample_path
from forcelaw.graph import build_graph
from forcelaw.models import ForceField, build, make_config
from forcelaw.training.spec import validation_set

ELEMENTS, CUTOFF, SCALE = (1, 6, 8), 4.0, 1.5


def structures() -> list[ase.Atoms]:
    """A molecule and a crystal whose cell is smaller than the cutoff, both displaced."""
    crystal = ase.Atoms("CO", [[0.1, 0.2, 0.3], [1.3, 0.9, 0.2]], pbc=True)
    crystal.set_cell([[4.1, 0.0, 0.0], [0.7, 3.8, 0.0], [-0.3, 0.5, 4.4]])
    found = [ase.build.molecule("CH3CH2OH"), crystal]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return found


def agrees(
    name: str,
    options: dict[str, Any],
    theirs: Callable[[ForceField, ase.Atoms], tuple[float, np.ndarray]],
) -> None:
    """Assert that energies and forces of the column, in float32, are those that the package itself
    gives with the same weights, times the scale of the data."""
    common = {"architecture": name, "width": 8, "elements": ELEMENTS, "cutoff": CUTOFF}
    config = make_config({"depth": 3, "mean_degree": 9.0, "scale": SCALE} | common | options)
    model = build(config, seed=0).eval()
    randomise(model)
    for atoms in structures():
        graph = build_graph(
            torch.tensor(atoms.positions),
            torch.tensor(np.searchsorted(ELEMENTS, atoms.numbers)),
            torch.tensor([len(atoms)]),
            config.cutoff,
            cells=np.array(atoms.cell)[None],
            pbc=atoms.pbc[None],
        ).to(torch.float32)
        energy, forces = (x.detach().numpy() for x in model(graph))
        expected, own = theirs(model, atoms)
        assert abs(expected) > 1e-4 and np.abs(own).max() > 1e-3
        size = SCALE * np.abs(own).max()
        assert abs(energy[0] - SCALE * expected) < 1e-5 * max(abs(SCALE * expected), size)
        assert np.abs(forces - SCALE * own).max() < 1e-5 * size


def learns(
    name: str,
    folder: Path,
    lacks: tuple[str, ...] = (),
    falls: float = 0.1,
    helps: bool = True,
    **options: Any,
) -> None:
    """Assert the lines of the certificate that take no time, those that it lacks included, and that
    the loss of a short run ends lower by a share than it began and, where the model ``helps`` so
    soon, than it is without a model."""
    options = {"forces": "conservative"} | options
    subject = Subject(name, Pack(sample_path()), options={"forces": options["forces"]})
    for which in ("symmetry", "translation", "batches", "padding", "extensivity", "cutoff"):
        found = _measured(which, subject)
        good = found.verdict in ("holds", "skipped", "note")
        assert good == (which not in lacks), (which, found.found)
    short = {"evaluations": 3, "first_evaluation": 1, "validation_structures": 20}
    given = {"size": 2e4, "atoms": 3e3, "batch_molecules": 2, "learning_rate": 3e-2} | options
    run = forcelaw.train(name, out=folder, **short, **given)
    losses = run.metrics["loss"].to_list()
    least = min(losses[0], without_model(subject, 20)) if helps else losses[0]
    assert losses[-1] < (1.0 - falls) * least, losses
    assert run.spec["code"]  # versions of the package are part of the run


def without_model(subject: Subject, structures: int) -> float:
    """The loss of the reference energies alone, and of no forces, eV/atom + eV/Angstrom."""
    rows = validation_set(subject.pack, structures)
    elements = tuple(subject.pack.elements)
    shard = Shard(subject.pack, rows, cutoff=subject.cutoff, elements=elements)
    atoms, edges = int(shard.host_natoms.sum()), int(shard.host_nedges.sum())
    graph, target = shard.batch(torch.arange(len(rows)), atoms, edges)
    loss = (target.energy.abs() / graph.natoms).mean() + target.forces.norm(dim=-1).mean()
    return float(loss)
