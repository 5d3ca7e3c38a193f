"""What a step costs over three forward passes: gradient forces twice as much (torch's counter),
each rotated copy once more."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack, sample_path
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions, cost_factor
from forcelaw.training.loss import loss_terms
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, latent_share
from forcelaw.training.step import EagerStep, new_stats

BATCH = 4


class Products(TorchDispatchMode):
    """Counts the FLOPs of matrix products by torch's own formulas. (FlopCounterMode also follows
    modules, with hooks that fail inside the nested derivative of gradient forces.)"""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(name, forces, n=2e4, **options):
    """FLOPs of matrix products in one real training step, and what three forward passes are by the
    closed form."""
    from forcelaw.data.schedule import Window, plan
    from forcelaw.models import architecture

    pack = Pack(sample_path())
    config = size(name, n, depth=2, forces=forces, **data_options(pack, mean_degree=19.0))
    model = build(config, 0).train()
    shard = Shard(pack, np.arange(BATCH), cutoff=config.cutoff, elements=config.elements)
    schedule = plan(shard.host_natoms, atoms_total=1.0, seed=0, molecules=BATCH, atoms=None)
    window = Window(0, 1, shard, schedule.order, 0)
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=1, warmup=0)
    stepper = EagerStep(
        model,
        optimizer,
        TrainOptions(batch_molecules=BATCH, **options),
        0,
        new_stats(torch.device("cpu")),
    )
    stepper.begin(schedule, window)
    with Products() as counter:
        stepper.run(0)
    plain = (
        architecture(name)
        .flops(config)
        .training(int(shard.host_nedges.sum()), int(shard.host_natoms.sum()))
    )
    return counter.flops, plain


@pytest.mark.parametrize("name", ["mpnn", "painn", "egnn", "gemnet_oc", "esen"])
def test_gradient_forces_cost_about_twice_a_plain_step(name) -> None:
    got, plain = counted(name, "conservative")
    assert cost_factor("conservative", 0) == 2.0
    # the counter sees the backward pass as it is, which leaves out inputs that need no gradient;
    # the closed form does not
    assert 0.8 < got / (2.0 * plain) < 1.1, got / plain


@pytest.mark.parametrize("rotations", [1, 3])
def test_each_turned_copy_costs_one_more_structure(rotations) -> None:
    one, _ = counted("mpnn", "direct")
    more, _ = counted("mpnn", "direct", symmetry_rotations=rotations)
    assert more == (rotations + 1) * one and cost_factor("direct", rotations) == rotations + 1


def test_the_map_of_states_is_counted_once_for_each_copy() -> None:
    """Forward FLOPs by torch's counter; over a step, three times those for each copy."""
    atoms, pack = 7, Pack(sample_path())
    config = size("mpnn", 2e4, depth=2, latent=True, **data_options(pack, mean_degree=19.0))
    map_of_states = build(config, 0).latent
    with Products() as counter:
        map_of_states(torch.randn(atoms, config.width), torch.randn(atoms, 3, 3))
    for rotations in (1, 3):
        options = TrainOptions(symmetry_rotations=rotations, symmetry_penalty="latent")
        said = cost_factor("direct", rotations) * latent_share(config, options) * atoms
        assert said == pytest.approx(rotations * counter.flops)


def test_the_penalty_is_added_to_what_is_minimised_and_not_to_what_is_recorded() -> None:
    """One step from non-zero outputs: weights move differently, the recorded training loss is that
    of the data."""
    from forcelaw.data.schedule import Window, plan

    pack = Pack(sample_path())
    config = size("mpnn", 5e3, depth=1, **data_options(pack, mean_degree=19.0))
    shard = Shard(pack, np.arange(BATCH), cutoff=config.cutoff, elements=config.elements)
    schedule = plan(shard.host_natoms, atoms_total=1.0, seed=0, molecules=BATCH, atoms=None)
    moved, recorded = [], []
    for options in (
        {},
        {"symmetry_rotations": 2},
        {"symmetry_rotations": 2, "symmetry_weight": 3.0},
        {"symmetry_rotations": 2, "symmetry_penalty": "norm"},
    ):
        model = build(config, 0)
        for p in model.parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        graph, target = shard.batch(
            torch.arange(BATCH), int(shard.host_natoms.sum()), int(shard.host_nedges.sum())
        )
        data_loss = float(sum(loss_terms(*model(graph), target)).detach())
        optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=1, warmup=0)
        stats = new_stats(torch.device("cpu"))
        stepper = EagerStep(
            model, optimizer, TrainOptions(batch_molecules=BATCH, **options), 0, stats
        )
        stepper.begin(schedule, Window(0, 1, shard, schedule.order, 0))
        stepper.run(0)
        moved.append((optimizer.y.clone(), float(stats[1])))
        recorded.append(float(stats[0]))
        assert recorded[-1] == pytest.approx(data_loss, rel=1e-5)
    assert not torch.equal(moved[0][0], moved[1][0]) and not torch.equal(moved[1][0], moved[2][0])
    assert len({norm for _, norm in moved}) == 4
