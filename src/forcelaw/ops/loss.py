"""The loss of a padded batch, and what its gradients are multiples of, in two launches; see
train/loss.py.

Legend: g structures, n atoms; energy (g,), forces (n, 3) and their labels; natoms (g,), zero in
empty slots; real (n,), 1 or 0.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_message import wide

ROWS = 512  # atoms of a program
TINY = tl.constexpr(1e-16)  # see train/loss.py


@triton.jit(do_not_specialize=["n"])
def _forces(forces, label, real, unit, sums, n, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """unit (n, 3): gradient of the sum of norms; sums (programs, 2): norms and real atoms of a
    program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = i < n
    at = i * 3
    x = tl.load(forces + at, mask=mask, other=0.0).to(WIDE) - tl.load(
        label + at, mask=mask, other=0.0
    )
    y = tl.load(forces + at + 1, mask=mask, other=0.0).to(WIDE) - tl.load(
        label + at + 1, mask=mask, other=0.0
    )
    z = tl.load(forces + at + 2, mask=mask, other=0.0).to(WIDE) - tl.load(
        label + at + 2, mask=mask, other=0.0
    )
    counts = tl.load(real + i, mask=mask, other=0.0)
    norm = tl.sqrt(x * x + y * y + z * z + TINY)
    factor = counts / norm
    tl.store(unit + at, x * factor, mask=mask)
    tl.store(unit + at + 1, y * factor, mask=mask)
    tl.store(unit + at + 2, z * factor, mask=mask)
    tl.store(sums + tl.program_id(0) * 2, tl.sum(norm * counts, axis=0))
    tl.store(sums + tl.program_id(0) * 2 + 1, tl.sum(counts, axis=0))


@triton.jit(do_not_specialize=["g", "programs"])
def _finish(
    energy,
    label,
    natoms,
    sums,
    slope,
    of_energy,
    of_forces,
    inverse,
    g,
    programs,
    WIDE: tl.constexpr,
    GP: tl.constexpr,
    PP: tl.constexpr,
):
    """One program: energy term, force term, 1 / real atoms; slope (g,), the gradient of the energy
    term."""
    p = tl.arange(0, PP)
    total = tl.sum(tl.load(sums + 2 * p, mask=p < programs, other=0.0), axis=0)
    atoms = tl.sum(tl.load(sums + 2 * p + 1, mask=p < programs, other=0.0), axis=0)
    k = tl.arange(0, GP)
    inside = k < g
    count = tl.load(natoms + k, mask=inside, other=0)
    held = tl.where(count > 0, 1.0, 0.0).to(WIDE)
    off = tl.load(energy + k, mask=inside, other=0.0).to(WIDE) - tl.load(
        label + k, mask=inside, other=0.0
    )
    weight = held / tl.maximum(count, 1).to(WIDE)
    structures = tl.sum(held, axis=0)
    tl.store(
        slope + k,
        tl.where(off > 0, weight, tl.where(off < 0, -weight, off * weight)) / structures,
        mask=inside,
    )
    tl.store(of_energy, tl.sum(tl.abs(off) * weight, axis=0) / structures)
    tl.store(of_forces, total / atoms)
    tl.store(inverse, 1.0 / atoms)


@torch.library.custom_op("forcelaw::loss", mutates_args=())
def _loss(
    energy: Tensor,
    forces: Tensor,
    energy_label: Tensor,
    forces_label: Tensor,
    natoms: Tensor,
    real: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (g,), n, new = energy.shape, len(forces), forces_label.new_empty
    programs = triton.cdiv(n, ROWS)
    unit, sums, slope = new(n, 3), new(programs, 2), new(g)
    of_energy, of_forces, inverse = new(()), new(()), new(())
    _forces[(programs,)](
        forces.contiguous(),
        forces_label,
        real,
        unit,
        sums,
        n,
        WIDE=wide(unit),
        ROWS=ROWS,
        num_warps=4,
    )
    _finish[(1,)](
        energy.contiguous(),
        energy_label,
        natoms,
        sums,
        slope,
        of_energy,
        of_forces,
        inverse,
        g,
        programs,
        WIDE=wide(unit),
        GP=max(2, triton.next_power_of_2(g)),
        PP=max(2, triton.next_power_of_2(programs)),
        num_warps=4,
    )
    return of_energy, of_forces, slope, unit, inverse


@_loss.register_fake
def _(energy, forces, energy_label, forces_label, natoms, real):
    new = forces_label.new_empty
    return new(()), new(()), new(energy.shape), new(forces.shape), new(())


def _save(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # else torch fills arrays of their sizes with zeros
    ctx.save_for_backward(*output[2:])


def _differentiate(ctx, grad_energy, grad_forces, *_):
    slope, unit, inverse = ctx.saved_tensors
    return (
        None if grad_energy is None else slope * grad_energy,
        None if grad_forces is None else unit * (inverse * grad_forces),
        None,
        None,
        None,
        None,
    )


_loss.register_autograd(_differentiate, setup_context=_save)


def loss(
    energy: Tensor,
    forces: Tensor,
    energy_label: Tensor,
    forces_label: Tensor,
    natoms: Tensor,
    real: Tensor,
) -> tuple[Tensor, Tensor]:
    """Energy term and force term of a padded batch, in the dtype of the labels; gradients for
    energy and forces, once."""
    return _loss(
        energy, forces, energy_label.contiguous(), forces_label.contiguous(), natoms, real
    )[:2]
