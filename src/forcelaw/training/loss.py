"""The loss of the study, and the errors people know.

loss = mean over molecules of |e - e_ref| / n  [eV/atom]  +  mean over atoms of the norm of (f -
f_ref)  [eV/Angstrom], weights 1 and 1 (arXiv 2510.09768).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..data.device_dataset import Targets


def loss_terms(energy: Tensor, forces: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
    """Energy term (eV/atom) and force term (eV/Angstrom) of a batch, both scalars; padding does not
    count."""
    return ops.loss(energy, forces, target.energy, target.forces, target.natoms, target.real)


@torch.no_grad()
def error_sums(energy: Tensor, forces: Tensor, target: Targets) -> Tensor:
    """Sums over a batch without padding, float64 (5,): |de|/n, |df| norm, |df| components,
    molecules, atoms."""
    de = (energy.double() - target.energy.double()).abs() / target.natoms
    df = forces.double() - target.forces.double()
    return torch.stack(
        [
            de.sum(),
            df.square().sum(-1).sqrt().sum(),
            df.abs().sum(),
            de.new_full((), len(de)),
            de.new_full((), len(df)),
        ]
    )
