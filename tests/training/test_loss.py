"""The loss against the definition, written out with loops; padding must not count."""

import numpy as np
import pytest
import torch

from forcelaw import ops
from forcelaw.data.device_dataset import Targets
from forcelaw.training.config import TrainOptions
from forcelaw.training.loss import LossShape, error_sums, loss_terms, virial_term
from tests.interpreter import needs_interpreter


def by_hand(e, f, te, tf, natoms):
    energy = np.mean([abs(a - b) / n for a, b, n in zip(e, te, natoms)])
    force = np.mean([np.sqrt(sum((x - y) ** 2 for x, y in zip(u, v))) for u, v in zip(f, tf)])
    return energy, force


def test_terms_match_the_definition_and_padding_is_ignored() -> None:
    rng = np.random.default_rng(0)
    natoms = np.array([3, 1, 5])
    e, te = rng.normal(size=3), rng.normal(size=3)
    f, tf = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    expected = by_hand(e, f, te, tf, natoms)
    tensors = [torch.from_numpy(np.asarray(x, np.float64)) for x in (e, f, te, tf)]
    got = loss_terms(
        tensors[0], tensors[1], Targets(tensors[2], tensors[3], torch.from_numpy(natoms))
    )
    np.testing.assert_allclose([t.item() for t in got], expected, rtol=1e-12)
    sums = error_sums(
        tensors[0], tensors[1], Targets(tensors[2], tensors[3], torch.from_numpy(natoms))
    ).tolist()
    np.testing.assert_allclose([sums[0] / 3, sums[1] / 9], expected, rtol=1e-12)
    np.testing.assert_allclose(sums[2] / 27, np.abs(f - tf).mean(), rtol=1e-12)

    def padded(x, rows):
        return torch.cat([x, torch.full((rows, *x.shape[1:]), 7.7, dtype=torch.float64)])

    real = torch.cat([torch.ones(9), torch.zeros(4)]).double()
    target = Targets(
        padded(tensors[2], 2), padded(tensors[3], 4), torch.tensor([3, 1, 5, 0, 0]), real
    )
    got = loss_terms(
        padded(tensors[0], 2) * 3 - 2 * padded(tensors[0], 2), padded(tensors[1], 4), target
    )
    np.testing.assert_allclose([t.item() for t in got], expected, rtol=1e-12)


def sizes_by_hand(sizes, name, delta):
    """What counts of errors by size, from torch's own functions."""
    sizes = torch.tensor(sizes, dtype=torch.float64)
    zeros = torch.zeros_like(sizes)
    if name == "square":
        return torch.nn.functional.mse_loss(sizes, zeros, reduction="none").numpy()
    return (
        torch.nn.functional.huber_loss(sizes, zeros, reduction="none", delta=delta).numpy() / delta
    )


@pytest.mark.parametrize(
    "shape", [LossShape("square"), LossShape("huber", 0.7), LossShape("huber", 1e-9)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_what_else_can_be_minimised(shape: LossShape, weighted: bool) -> None:
    """Squares and Huber's loss of three structures and four atoms of padding."""
    rng = np.random.default_rng(1)
    natoms, real = np.array([3, 1, 5, 0]), np.repeat([1.0, 0.0], [9, 4])
    e, te = rng.normal(size=(2, 4))
    f, tf = rng.normal(size=(2, 13, 3))
    virial, label = rng.normal(size=(2, 4, 3, 3))
    label[[1, 3]] = np.nan
    weight = np.array([0.5, 2.0, 1.0, 1.0]) if weighted else np.ones(4)
    of_atoms = np.concatenate([np.repeat(weight[:3], natoms[:3]), np.ones(4)])
    expected = (
        np.mean(weight[:3] * sizes_by_hand(abs(e - te)[:3] / natoms[:3], *shape)),
        np.mean(of_atoms[:9] * sizes_by_hand(np.linalg.norm(f - tf, axis=1)[:9], *shape)),
        np.mean(
            [
                sizes_by_hand(np.linalg.norm(virial[k] - label[k]) / natoms[k], *shape)
                for k in (0, 2)
            ]
        ),
    )
    target = Targets(
        *(torch.tensor(x) for x in (te, tf, natoms, real)),
        virial=torch.tensor(label),
        weight=torch.tensor(weight) if weighted else None,
        atom_weight=torch.tensor(of_atoms) if weighted else None,
    )
    moving = [torch.tensor(x, requires_grad=True) for x in (e, f, virial)]
    terms = [*loss_terms(*moving[:2], target, shape), virial_term(moving[2], target, shape)]
    np.testing.assert_allclose([float(t.detach()) for t in terms], expected, rtol=1e-9)
    for gradient in torch.autograd.grad(sum(terms), moving):
        assert gradient.isfinite().all()


def test_huber_is_the_norm_far_out_and_smooth_where_an_error_is_met() -> None:
    far, met = torch.tensor([4.0, 100.0]), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert LossShape("huber", 0.01)(far.square()).tolist() == pytest.approx([3.995, 99.995])
    (gradient,) = torch.autograd.grad(LossShape("huber", 0.01)(met.square()).sum(), met)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_the_turning_point_belongs_to_hubers_loss() -> None:
    assert TrainOptions(loss="huber", huber_delta=0.1).protocol.endswith("Huber loss")
    assert "huber_delta" not in TrainOptions(loss="square").model_dump(mode="json")
    with pytest.raises(ValueError, match="huber_delta goes with loss huber"):
        TrainOptions(huber_delta=0.1)


def test_gradient_is_finite_where_a_force_is_met_exactly() -> None:
    f = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    e = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    terms = loss_terms(
        e, f, Targets(torch.zeros(1).double(), torch.zeros(2, 3).double(), torch.tensor([2]))
    )
    (gradient,) = torch.autograd.grad(terms[1], f)
    assert torch.isfinite(gradient).all()


@needs_interpreter
@pytest.mark.parametrize(
    "slots, empty, atoms, padding", [(1, 0, 3, 1), (5, 2, 40, 7), (9, 1, 1300, 300)]
)
def test_the_kernels_give_the_same_terms_and_gradients(
    slots: int, empty: int, atoms: int, padding: int
) -> None:
    torch.manual_seed(0)
    natoms = torch.cat(
        [torch.full((slots,), atoms // slots), torch.zeros(empty, dtype=torch.int64)]
    )
    real = torch.cat([torch.ones(atoms), torch.zeros(padding)]).double()
    energy = torch.randn(slots + empty, dtype=torch.float64, requires_grad=True)
    forces = torch.randn(atoms + padding, 3, dtype=torch.float64, requires_grad=True)
    labels = (
        torch.randn(slots + empty, dtype=torch.float64),
        torch.randn(atoms + padding, 3, dtype=torch.float64),
    )
    labels[1][0] = forces[0].detach()  # met exactly
    labels[0][0] = energy[0].detach()
    found = []
    for mode in ("triton", "torch"):
        with ops.using(mode):
            terms = loss_terms(energy, forces, Targets(*labels, natoms, real))
        found.append([*terms, *torch.autograd.grad(2 * terms[0] + 3 * terms[1], [energy, forces])])
    for fast, slow in zip(*found):
        torch.testing.assert_close(fast, slow, rtol=1e-13, atol=1e-15)
