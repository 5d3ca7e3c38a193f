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
    if target.real is not None and ops.fused(target.energy) and ops.fused(target.forces):
        return ops.loss(energy, forces, target.energy, target.forces, target.natoms, target.real)
    per_atom = (energy - target.energy).abs() / target.natoms.clamp_min(1)
    # the tiny constant keeps the gradient of the norm finite where a force is met exactly
    norms = ((forces - target.forces).square().sum(-1) + 1e-16).sqrt()
    if target.real is None:
        return per_atom.mean(), norms.mean()
    held = (target.natoms > 0).to(per_atom)
    return (per_atom * held).sum() / held.sum(), (norms * target.real).sum() / target.real.sum()


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
