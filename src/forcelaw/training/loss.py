"""The loss of the study, what else can be minimised, and the errors people know.

loss = mean over molecules of |e - e_ref| / n  [eV/atom]  +  mean over atoms of the norm of (f -
f_ref)  [eV/Angstrom], weights 1 and 1 (arXiv 2510.09768).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..data.device_dataset import Targets
from ..ops.loss import SMALL
from .config import TrainOptions


class LossShape(NamedTuple):
    """What of an error x >= 0 counts: ``norm`` x, ``square`` x^2, ``huber`` x - d / 2 beyond d and
    x^2 / (2 d) below, which is x for errors far beyond d, so that weights mean the same."""

    name: str = "norm"
    delta: float = 0.01

    @classmethod
    def of(cls, options: TrainOptions) -> LossShape:
        return cls(options.loss, options.huber_delta)

    def __call__(self, squares: Tensor) -> Tensor:
        """Of x^2, whatever its shape."""
        if self.name == "square":
            return squares
        sizes = (squares + SMALL).sqrt()
        if self.name == "norm":
            return sizes
        return torch.where(
            sizes < self.delta, squares / (2.0 * self.delta), sizes - 0.5 * self.delta
        )


NORM = LossShape()


def loss_terms(
    energy: Tensor, forces: Tensor, target: Targets, shape: LossShape = NORM
) -> tuple[Tensor, Tensor]:
    """Energy term (eV/atom) and force term (eV/Angstrom) of a batch, both scalars (squared for
    ``square``); padding does not count. Structures and their atoms count by the weights of the
    target, if it has any: a mean of weighted errors, as in mace, not a weighted mean."""
    if target.weight is None and shape.name == "norm":
        return ops.loss(energy, forces, target.energy, target.forces, target.natoms, target.real)
    per_atom = (energy - target.energy) / target.natoms.clamp_min(1)
    of_structures = per_atom.abs() if shape.name == "norm" else shape(per_atom.square())
    of_atoms = shape((forces - target.forces).square().sum(-1))
    held = (target.natoms > 0).to(per_atom)
    real = torch.ones_like(of_atoms) if target.real is None else target.real
    if target.weight is not None:
        of_structures, of_atoms = of_structures * target.weight, of_atoms * target.atom_weight
    return (
        (of_structures * held).sum() / held.sum().clamp_min(1),
        (of_atoms * real).sum() / real.sum().clamp_min(1),
    )


def virial_term(virial: Tensor, target: Targets, shape: LossShape = NORM) -> Tensor:
    """Mean over structures with a stress of the Frobenius norm of (W - W_ref) / n, in eV/atom, W
    (g, 3, 3) being stress times volume; zero where no structure of the batch has one."""
    known = target.virial.isfinite().all(-1).all(-1)
    # chosen before the norm: a gradient through NaN would be NaN, whatever it is multiplied by
    off = torch.where(known.view(-1, 1, 1), virial - target.virial.nan_to_num(), 0.0)
    off = off / target.natoms.clamp_min(1).view(-1, 1, 1)
    return (shape(off.square().sum((1, 2))) * known).sum() / known.sum().clamp_min(1)


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
