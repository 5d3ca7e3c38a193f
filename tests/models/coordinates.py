"""The coordinate check (:mod:`forcelaw.certify.coordinates`) on small configurations of ours."""

from __future__ import annotations

import torch

from forcelaw.certify.coordinates import Batch, Coordinate, failures
from forcelaw.certify.coordinates import coordinate_check as check
from forcelaw.models import ARCHITECTURES, build
from tests.models.configs import small_config
from tests.models.tools import make_graph
from tests.molecules import named, random_cluster

__all__ = ["coordinate_check", "failures"]

# eight channels are too few for the law of large numbers that muP rests on
WIDTHS = (16, 32, 64, 128)
WIDER = {
    "gemnet_oc": (32, 64, 128, 256),  # its quadruplet messages have a quarter of the channels
    "platonic": (96, 192, 384, 768),  # eight channels or more in each of twelve frames
}


def fixed_batch(molecules: int = 4) -> Batch:
    """Up to four molecules with fixed random labels: energies (g,) of 0.3 eV an atom, forces (n, 3)
    of 1 eV/Angstrom."""
    mols = [named("CH3OH"), random_cluster(6, 1), named("C2H2"), random_cluster(9, 2)][:molecules]
    generator = torch.Generator().manual_seed(0)
    graph = make_graph(mols, torch.float32)
    energy = 0.3 * torch.randn(molecules, generator=generator) * graph.natoms
    return graph, energy, torch.randn(len(graph.pos), 3, generator=generator)


def coordinate_check(
    name: str,
    *,
    seeds: int,
    steps: int = 10,
    standard: bool = False,
    widths: tuple[int, ...] | None = None,
    base_width: int | None = None,
    molecules: int = 4,
    **options: object,
) -> list[Coordinate]:
    """Slopes of every layer of architecture ``name``, at a quarter of its learning rate.

    base_width: the second of the widths if not given.
    """
    widths = WIDER.get(name, WIDTHS) if widths is None else widths
    base = widths[1] if base_width is None else base_width
    options.pop("width", None)  # that of the contract suite
    return check(
        lambda width, seed: build(
            small_config(name, width=width, base_width=base, **options),
            seed=seed,
        ),
        fixed_batch(molecules),
        widths,
        lr=0.25 * ARCHITECTURES[name].learning_rate,
        seeds=seeds,
        steps=steps,
        standard=standard,
    )
