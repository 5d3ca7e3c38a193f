"""The symmetry loss: an unconstrained model is asked to be equivariant, instead of being built so
(arXiv 2510.09768).

    penalty = 1 / M * sum over k = 1..M of  mean over molecules of p(|e(R_k x) - e(x)| / n)
                                          + mean over atoms of p(|f(R_k x) - R_k f(x)|)

R_k is a fresh uniform rotation of each structure at each step; no label enters. With ``square``
p(d) = d^2 / s, s being the force RMS of the data in eV/Angstrom; with ``norm`` p(d) = d, as in the
loss. Measured (LABLOG.md, 2026-11-25): a norm of weight 1 holds a model at zero output, which is
perfectly symmetric. Leaving it by a small step eps that is not yet symmetric earns at most eps in
the loss and costs about 1.4 eps in the norm, but only eps^2 in the square.

With ``latent`` it is a loss of states instead (TransIP, arXiv 2510.00027; :mod:`..models.latent`):

    penalty = s / M * sum over k of  mean over atoms and channels of (T(z(x), R_k) - y(R_k x))^2

z being the states of the atoms that the energy is read from, y = LN(z) and T a network that is
learned with the model. Nothing is asked of outputs, and s makes it eV/Angstrom.

Every rotation is one more forward and backward pass: a step costs M + 1 times the FLOPs
(:func:`forcelaw.training.config.cost_factor`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..data.device_dataset import Targets
from ..graph import GraphBatch
from ..models import ForceField
from ..models.frames import rotated
from ..models.latent import normalised
from ..ops import random_rotations
from ..ops.batch_assembly import turned
from .loss import NORM, LossShape, loss_terms

# keeps these rotations apart from those of the augmentation, and those of one copy from those of
# the next; seeds are far smaller
STREAM = 1 << 20


def penalty(
    forward: Callable[[GraphBatch], tuple[Tensor, Tensor]],
    graph: GraphBatch,
    energy: Tensor,
    forces: Tensor,
    target: Targets,
    rows: Tensor,
    step: Tensor | int,
    seed: int,
    *,
    rotations: int,
    scale: float | None,
    shares: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The mean penalty over ``rotations`` rotated copies of a batch, before its weight; gradients
    flow through both sides.

    energy (g,), forces (n, 3): the model's prediction for ``graph``. rows (g,), step, seed: what
    the rotations are a function of, so that a resumed run meets the same ones. scale: s of the
    square, in eV/Angstrom; None is the norm. shares: of this rank in the structures and in the
    atoms of the step. No synchronisation with the host.
    """
    terms, shape = [], NORM if scale is None else LossShape("square")
    for k in range(1, rotations + 1):
        matrices = random_rotations(rows, step, seed + k * STREAM, graph.pos.dtype)
        moved, of_atom = rotated(graph, matrices)
        energy_k, forces_k = forward(moved)
        wanted = replace(target, energy=energy, forces=turned(of_atom, forces))
        pair = loss_terms(energy_k, forces_k, wanted, shape)
        terms += pair if shares is None else [s * term for s, term in zip(shares, pair)]
    return torch.stack(terms).sum() / (rotations * (1.0 if scale is None else scale))


def latent_penalty(
    model: ForceField,
    forward: Callable[[GraphBatch], Tensor],
    graph: GraphBatch,
    states: Tensor,
    real: Tensor | None,
    rows: Tensor,
    step: Tensor | int,
    seed: int,
    *,
    rotations: int,
    share: Tensor | None = None,
) -> Tensor:
    """The mean penalty of states over ``rotations`` rotated copies, in eV/Angstrom, before its
    weight.

    forward: states (n, width) of a batch; states: those of ``graph``. real (n,): 1 for an atom and
    0 for padding; None: no padding. share: of this rank in the atoms of the step. The rest as for
    :func:`penalty`, and the same rotations.
    """
    assert model.latent is not None, "a model with a latent map"
    total = states.new_zeros(())
    for k in range(1, rotations + 1):
        matrices = random_rotations(rows, step, seed + k * STREAM, graph.pos.dtype)
        moved, of_atom = rotated(graph, matrices)
        off = model.latent(states, of_atom) - normalised(forward(moved))
        squares = off.square().mean(-1)
        if real is None:
            total = total + squares.mean()
        else:
            total = total + (squares * real).sum() / real.sum().clamp_min(1)
    total = total * (model.config.scale / rotations)
    return total if share is None else total * share
