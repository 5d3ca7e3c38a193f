"""The loss of the study, and the errors people know.

loss = mean over molecules of |e - e_ref| / n  [eV/atom]  +  mean over atoms of the norm of (f -
f_ref)  [eV/Angstrom], weights 1 and 1 (arXiv 2510.09768).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..data.device_dataset import Targets
from ..ops.loss import SMALL


def loss_terms(energy: Tensor, forces: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
    """Energy term (eV/atom) and force term (eV/Angstrom) of a batch, both scalars; padding does not
    count. Structures and their atoms count by the weights of the target, if it has any: a mean of
    weighted errors, as in mace, not a weighted mean."""
    if target.weight is not None:
        return _weighted(energy, forces, target)
    return ops.loss(energy, forces, target.energy, target.forces, target.natoms, target.real)


def _weighted(energy: Tensor, forces: Tensor, target: Targets) -> tuple[Tensor, Tensor]:
    per_atom = (energy - target.energy).abs() / target.natoms.clamp_min(1)
    norms = ((forces - target.forces).square().sum(-1) + SMALL).sqrt()
    held = (target.natoms > 0).to(per_atom)
    real = torch.ones_like(norms) if target.real is None else target.real
    return (
        (per_atom * target.weight * held).sum() / held.sum().clamp_min(1),
        (norms * target.atom_weight * real).sum() / real.sum().clamp_min(1),
    )


def virial_term(virial: Tensor, target: Targets) -> Tensor:
    """Mean over structures with a stress of the Frobenius norm of (W - W_ref) / n, in eV/atom, W
    (g, 3, 3) being stress times volume; zero where no structure of the batch has one."""
    known = target.virial.isfinite().all(-1).all(-1)
    # chosen before the norm: a gradient through NaN would be NaN, whatever it is multiplied by
    off = torch.where(known.view(-1, 1, 1), virial - target.virial.nan_to_num(), 0.0)
    norms = (off.square().sum((1, 2)) + SMALL).sqrt() / target.natoms.clamp_min(1)
    return (norms * known).sum() / known.sum().clamp_min(1)


@torch.no_grad()
def stress_sums(virial: Tensor, target: Targets) -> Tensor:
    """float64 (2,): sum of |components| of the error of the stress in eV/Angstrom^3, and number of
    components, over the structures that have one."""
    off = (virial.double() - target.virial.double()) / target.volume.double().view(-1, 1, 1)
    known = off.isfinite().all(-1).all(-1)
    sums = torch.where(known, off.abs().sum((1, 2)), 0.0)
    return torch.stack([sums.sum(), 9.0 * known.sum()])


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
