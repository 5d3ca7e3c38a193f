"""A trained model as a metatomic file (.pt), which LAMMPS, i-PI, ASE and other engines of the
metatensor project load without forcelaw.

The engines take forces and stress as derivatives of the energy themselves, so the file holds the
energy alone: traced operations on edge vectors, inside a small TorchScript module.
"""

import contextlib
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  TorchScript reads these names

import torch
from torch import Tensor, nn

from . import __version__, ops
from .errors import StudyError, require
from .graph import GraphBatch
from .predict import Predictor

# TorchScript looks types up here; where they are missing, export_metatomic says what to install
with contextlib.suppress(ImportError):
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )


class Sites(nn.Module):
    """Energies of atoms (n,) in eV, without reference energies, of one structure: species (n,),
    sender, receiver (e,) with receivers ascending, vec (e, 3) Angstrom."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.model = predictor.model

    def forward(self, species: Tensor, sender: Tensor, receiver: Tensor, vec: Tensor) -> Tensor:
        one = torch.ones_like(species).sum().view(1)
        nowhere = vec.new_zeros(species.shape[0], 3)
        graph = GraphBatch(species, torch.zeros_like(species), nowhere, sender, receiver, one)
        with ops.using("torch"):
            return self.model.atomwise(graph, vec)[0] * self.model.config.scale


def edges(predictor: Predictor, atoms: int, count: int) -> tuple[Tensor, ...]:
    """Random inputs of :class:`Sites`."""
    random = torch.Generator().manual_seed(count)
    ends = torch.randint(0, atoms, (2, count), generator=random)
    vec = torch.randn(count, 3, generator=random, dtype=predictor.dtype) * 2
    species = torch.randint(0, len(predictor.config.elements), (atoms,), generator=random)
    return species, ends[0], ends[1].sort().values, vec


def traced(predictor: Predictor) -> Any:
    """:class:`Sites` in TorchScript, compared with itself on other numbers of atoms and edges.
    StudyError where it fixes them."""
    sites, made = Sites(predictor), None
    refused = StudyError(
        f"{predictor.config.architecture} cannot be traced into TorchScript",
        remedy="export MPNN, PaiNN or MC-EGNN, or a .pt2 file",
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old; what it may get wrong is compared below
        try:
            made = torch.jit.trace(sites, edges(predictor, 7, 30), check_trace=False)
            others = (edges(predictor, 20, 111), edges(predictor, 3, 5))
            pairs = [(made(*given), sites(*given)) for given in others]
        except RuntimeError as error:
            raise refused from error
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
        raise refused
    return made


def export_metatomic(predictor: Predictor, path: str | Path, *, label: str) -> Path:
    """Write ``path`` (.pt) for metatomic. predictor: on the CPU; the file runs on GPUs too.

    Raises StudyError for models with direct forces (engines differentiate the energy), and
    MissingPackageError without metatomic-torch.
    """
    require("metatomic")
    config = predictor.config
    if not predictor.conservative:
        raise StudyError(
            "engines take the gradient of the energy, and this model's forces are not that",
            remedy="train with forces: conservative",
        )
    if config.charges or config.spins:
        raise StudyError("metatomic has no input for the charge_spin of this model")
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="system")},
        atomic_types=list(config.elements),
        interaction_range=config.cutoff * config.depth,
        length_unit="angstrom",
        supported_devices=["cpu", "cuda"],
        dtype=str(predictor.dtype).removeprefix("torch."),
    )
    scripted = _scripted()(traced(predictor), predictor).eval()
    about = ModelMetadata(name=label, description=f"trained and exported by forcelaw {__version__}")
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial.pt")
    partial.touch()  # an OSError where that cannot be written; torch makes a RuntimeError of it
    try:
        with warnings.catch_warnings():
            # of torch.jit, which metatomic needs
            warnings.simplefilter("ignore", DeprecationWarning)
            AtomisticModel(scripted, about, capabilities).save(str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _scripted() -> Any:
    """The module that metatomic asks; made here, because it needs metatomic to be defined."""

    class Scripted(nn.Module):
        def __init__(self, sites: Any, predictor: Predictor):
            super().__init__()
            self.sites, self.cutoff = sites, float(predictor.config.cutoff)
            self.register_buffer("index", torch.from_numpy(predictor.index))
            self.register_buffer("references", torch.from_numpy(predictor.references))

        def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
            return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=True)]

        def forward(
            self,
            systems: List[System],  # noqa: UP006
            outputs: Dict[str, ModelOutput],  # noqa: UP006
            selected_atoms: Optional[Labels],  # noqa: UP045
        ) -> Dict[str, TensorMap]:  # noqa: UP006
            energies = torch.jit.annotate(List[Tensor], [])  # noqa: UP006
            for system in systems:
                found = system.get_neighbor_list(self.requested_neighbor_lists()[0])
                receiver = found.samples.column("first_atom").to(torch.int64)
                order = torch.argsort(receiver)
                sender = found.samples.column("second_atom").to(torch.int64)[order]
                types = system.types.to(torch.int64)
                vec = found.values.reshape(-1, 3)[order]
                site = self.sites(self.index[types], sender, receiver[order], vec)
                energy = site.sum() + self.references[types].sum()
                energies.append(energy.to(vec.dtype).reshape(1, 1))
            device = energies[0].device
            zero = torch.zeros(1, 1, dtype=torch.int64, device=device)
            count = torch.arange(len(systems), device=device).reshape(-1, 1)
            block = TensorBlock(
                values=torch.cat(energies),
                samples=Labels("system", count),
                components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
                properties=Labels("energy", zero),
            )
            return {"energy": TensorMap(Labels("_", zero), [block])}

    return Scripted
