"""A trained model as one file that runs wherever torch does, without forcelaw (torch.export).

Its inputs are one structure and its edges, from any neighbour list; its outputs are energy, forces
and virial. Numbers of atoms and edges are free.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from . import __version__, ops
from .errors import StudyError
from .files import whole
from .graph import GraphBatch
from .predict import Predictor

INPUTS = {
    "numbers": "(n,) int64, atomic numbers",
    "positions": "(n, 3), Angstrom",
    "sender": "(e,) int64, the neighbour j of each edge, both directions of every pair",
    "receiver": "(e,) int64, the atom i itself",
    "shifts": "(e, 3), Angstrom, zero for molecules: the edge is x_j - x_i + shift",
}
OUTPUTS = {
    "energy": "(), float64, eV, reference energies included",
    "forces": "(n, 3), eV/Angstrom",
    "virial": "(3, 3), eV, stress times volume; of models that have a stress",
}


class OneStructure(nn.Module):
    """A model of one structure and its edges in any order: see :data:`INPUTS`, :data:`OUTPUTS`."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.model = predictor.model
        self.register_buffer("index", torch.from_numpy(predictor.index).to(predictor.device))
        references = torch.from_numpy(predictor.references).to(predictor.device)
        self.register_buffer("references", references)

    def forward(
        self, numbers: Tensor, positions: Tensor, sender: Tensor, receiver: Tensor, shifts: Tensor
    ) -> tuple[Tensor, ...]:
        # an element that the model does not know has index -1, which index_select refuses
        order = torch.sort(receiver, stable=True).indices
        graph = GraphBatch(
            self.index.index_select(0, numbers),
            torch.zeros_like(numbers),
            positions - positions.mean(0),
            sender.index_select(0, order),
            receiver.index_select(0, order),
            torch.ones_like(numbers).sum().view(1),
            shift=shifts.index_select(0, order),
        )
        has_stress = self.model.config.has_stress
        energy, forces, *virial = (self.model.with_virial if has_stress else self.model)(graph)
        total = energy[0].double() + self.references.index_select(0, numbers).sum()
        return (total, forces, *(v[0] for v in virial))


def example(predictor: Predictor, atoms: int = 7) -> tuple[Tensor, ...]:
    """Inputs to trace with: a ring of atoms in which each has two neighbours, but not the same
    number of atoms as of edges."""
    elements = predictor.config.elements
    k = torch.arange(atoms)
    angle = 2 * torch.pi * k / atoms
    ring = torch.stack([angle.cos(), angle.sin(), 0.1 * k], 1) * predictor.config.cutoff / 3
    sender = torch.cat([(k + 1) % atoms, (k - 1) % atoms])
    given = (
        torch.tensor(elements)[k % len(elements)],
        ring.to(predictor.dtype),
        sender,
        torch.cat([k, k]),
        torch.zeros(2 * atoms, 3, dtype=predictor.dtype),
    )
    return tuple(x.to(predictor.device) for x in given)


def export(predictor: Predictor, path: str | Path, *, about: dict[str, Any]) -> Path:
    """Write the model as ``path`` (.pt2), to be read by ``torch.export.load(path).module()``.

    about: JSON-able, kept in the file beside cutoff, elements, units, inputs and outputs, under
    "forcelaw.json". The file is compared with the model on another structure before it is kept.
    Raises StudyError where a model cannot be exported (GemNet-OC: the width of its rows of
    neighbours is read from the structure).
    """
    path, given = Path(path), example(predictor)
    if path.suffix != ".pt2":
        raise StudyError(
            "the file of an exported model ends in .pt2, or in .pt for metatomic", where=str(path)
        )
    if predictor.config.charges or predictor.config.spins:
        raise StudyError(
            "a model with charge_spin cannot be exported: its file would have no such input",
            remedy="use forcelaw.Calculator",
        )
    model = OneStructure(predictor)
    # torch.export cannot trace a gradient that is taken inside a model; make_fx can, and what it
    # returns is plain operations
    try:
        with ops.using("torch"):  # no kernel can be part of the file
            traced = make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given)
    except GuardOnDataDependentSymNode as error:
        raise StudyError(
            f"{predictor.config.architecture} cannot be exported: the shape of one of its arrays is"
            " read from the structure",
            remedy="use forcelaw.Calculator, or export another architecture",
        ) from error
    free = ({0: torch.export.Dim.DYNAMIC},) * len(given)
    program = torch.export.export(traced, given, dynamic_shapes=free)
    _check(program.module(), model, example(predictor, 11))
    config = predictor.config
    content = {
        **about,
        "cutoff": config.cutoff,
        "elements": list(config.elements),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "inputs": INPUTS,
        "outputs": OUTPUTS if predictor.config.has_stress else {**OUTPUTS, "virial": "none"},
        "forcelaw": __version__,
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    # what torch opens itself fails with a RuntimeError
    with whole(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={"forcelaw.json": text})
    return path


def _check(exported: Callable[..., Any], model: nn.Module, given: tuple[Tensor, ...]) -> None:
    for found, expected in zip(exported(*given), model(*given), strict=True):
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise StudyError("the exported model does not give the model's own numbers")
