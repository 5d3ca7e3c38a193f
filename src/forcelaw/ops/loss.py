"""The loss of a batch, and what its gradients are multiples of: two launches by kernels.

Legend: g structures, n atoms; energy (g,), forces (n, 3) and their labels; natoms (g,), zero in
empty slots; real (n,), 1 for atoms and 0 for padding, or None where there is no padding.
"""

from __future__ import annotations

from torch import Tensor

from .register import Differentiable
from .switch import constexpr, tl, triton, use_triton
from .tiles import wide

ROWS = 512  # atoms of a program
SMALL = 1e-16  # keeps the gradient of the norm finite where a force is met exactly
TINY = constexpr(SMALL)


def loss(
    energy: Tensor,
    forces: Tensor,
    energy_label: Tensor,
    forces_label: Tensor,
    natoms: Tensor,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Mean over structures of |de| / n, mean over atoms of the norm of df; padding does not count.

    By kernels in the dtype of the labels, with gradients for energy and forces, once; labels that
    want a gradient too take plain torch."""
    labels_move = energy_label.requires_grad or forces_label.requires_grad
    if real is not None and not labels_move and use_triton(energy):
        labels = energy_label.contiguous(), forces_label.contiguous()
        return _Loss.apply(energy, forces, *labels, natoms, real)
    per_atom = (energy - energy_label).abs() / natoms.clamp_min(1)
    norms = ((forces - forces_label).square().sum(-1) + SMALL).sqrt()
    if real is None:
        return per_atom.mean(), norms.mean()
    held = (natoms > 0).to(per_atom)
    # a rank that has no structure of a step adds nothing, which must not be 0 / 0
    return (
        (per_atom * held).sum() / held.sum().clamp_min(1),
        (norms * real).sum() / real.sum().clamp_min(1),
    )


@triton.jit(do_not_specialize=["n"])
def _forces(forces, label, real, unit, sums, n, WIDE: constexpr, ROWS: constexpr):
    """unit (n, 3): gradient of the sum of norms; sums (programs, 2): norms and real atoms of a
    program."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = i < n
    at = i * 3
    x = tl.load(forces + at, mask=mask, other=0.0).to(WIDE)
    x -= tl.load(label + at, mask=mask, other=0.0)
    y = tl.load(forces + at + 1, mask=mask, other=0.0).to(WIDE)
    y -= tl.load(label + at + 1, mask=mask, other=0.0)
    z = tl.load(forces + at + 2, mask=mask, other=0.0).to(WIDE)
    z -= tl.load(label + at + 2, mask=mask, other=0.0)
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
    WIDE: constexpr,
    GP: constexpr,
    PP: constexpr,
):
    """One program: energy term, force term, 1 / real atoms; slope (g,), the gradient of the energy
    term."""
    p = tl.arange(0, PP)
    total = tl.sum(tl.load(sums + 2 * p, mask=p < programs, other=0.0), axis=0)
    atoms = tl.sum(tl.load(sums + 2 * p + 1, mask=p < programs, other=0.0), axis=0)
    atoms = tl.maximum(atoms, 1.0)
    k = tl.arange(0, GP)
    inside = k < g
    count = tl.load(natoms + k, mask=inside, other=0)
    held = tl.where(count > 0, 1.0, 0.0).to(WIDE)
    off = tl.load(energy + k, mask=inside, other=0.0).to(WIDE)
    off -= tl.load(label + k, mask=inside, other=0.0)
    weight = held / tl.maximum(count, 1).to(WIDE)
    structures = tl.maximum(tl.sum(held, axis=0), 1.0)
    at = slope + k
    sign = tl.where(off > 0, weight, tl.where(off < 0, -weight, off * weight))
    tl.store(at, sign / structures, mask=inside)
    tl.store(of_energy, tl.sum(tl.abs(off) * weight, axis=0) / structures)
    tl.store(of_forces, total / atoms)
    tl.store(inverse, 1.0 / atoms)


class _Loss(Differentiable):
    def forward(ctx, energy, forces, energy_label, forces_label, natoms, real):
        (g,), n, new = energy.shape, len(forces), forces_label.new_empty
        programs = triton.cdiv(n, ROWS)
        unit, sums, slope = new(n, 3), new(programs, 2), new(g)
        of_energy, of_forces, inverse = new(()), new(()), new(())
        kind = {"WIDE": wide(unit), "num_warps": 4}
        given = forces.contiguous(), forces_label, real
        _forces[(programs,)](*given, unit, sums, n, ROWS=ROWS, **kind)
        given = energy.contiguous(), energy_label, natoms, sums
        lanes = {"GP": _power(g), "PP": _power(programs)}
        _finish[(1,)](*given, slope, of_energy, of_forces, inverse, g, programs, **lanes, **kind)
        ctx.set_materialize_grads(False)  # else torch fills arrays with zeros
        ctx.save_for_backward(slope, unit, inverse)
        return of_energy, of_forces

    def backward(ctx, grad_energy, grad_forces):
        slope, unit, inverse = ctx.saved_tensors
        d_energy = None if grad_energy is None else slope * grad_energy
        d_forces = None if grad_forces is None else unit * (inverse * grad_forces)
        return d_energy, d_forces, None, None, None, None


def _power(count: int) -> int:
    return max(2, triton.next_power_of_2(count))
