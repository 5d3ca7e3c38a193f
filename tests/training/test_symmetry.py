"""The symmetry loss against a slow obvious version, molecule by molecule; zero where symmetry is
built in; its gradient."""

import numpy as np
import pytest
import torch

from forcelaw.data.device_dataset import Shard
from forcelaw.data.schedule import Window
from forcelaw.graph import build_graph
from forcelaw.models import build
from forcelaw.models.latent import LatentMap, normalised
from forcelaw.models.mup import parameter_groups
from forcelaw.models.sizing import size
from forcelaw.ops import random_rotations
from forcelaw.training.config import TrainOptions
from forcelaw.training.loss import loss_terms
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options
from forcelaw.training.step import Step, new_stats
from forcelaw.training.symmetry_loss import STREAM, latent_penalty, penalty, rotated
from tests.packs import write_pack


def stirred(pack, name, n=8e3, **options):
    """A float64 model whose output layers are not zero any more."""
    model = build(size(name, n, depth=1, **data_options(pack, cutoff=3.0), **options), 0).double()
    for p in model.parameters():
        p.data += 0.1 * torch.randn(
            p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=torch.float64
        )
    return model


def batch_of(pack, rows, pad=0):
    elements = tuple(pack.elements)
    shard = Shard(pack, np.arange(len(pack)), cutoff=3.0, elements=elements, dtype=torch.float64)
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    chosen = torch.tensor([*rows, *[-1] * bool(pad)])
    return shard.batch(
        chosen, atoms + 16 * bool(pad), edges + 64 * bool(pad), pad=bool(pad)
    ), chosen


def measure(model, graph, target, chosen, rotations, scale=None, step=3, seed=5):
    return penalty(
        model, graph, *model(graph), target, chosen, step, seed, rotations=rotations, scale=scale
    )


def slowly(pack, model, rows, rotations, scale=None, step=3, seed=5):
    """Each molecule alone, its graph built anew for the turned positions, everything in NumPy loops
    but the model."""
    total = 0.0
    for k in range(1, rotations + 1):
        turns = random_rotations(torch.tensor(rows), step, seed + k * STREAM, torch.float64).numpy()
        energy, force = [], []
        for row, turn in zip(rows, turns):
            low, high = int(pack.offsets[row]), int(pack.offsets[row + 1])
            species = torch.from_numpy(np.searchsorted(pack.elements, pack.numbers[low:high]))
            # the shard holds float32 positions of the pack; the same numbers here
            pos = pack.vectors("positions", slice(low, high))
            outputs = []
            for x in (pos, pos @ turn.T):
                with torch.no_grad():
                    e, f = model(
                        build_graph(torch.from_numpy(x), species, torch.tensor([high - low]), 3.0)
                    )
                outputs.append((float(e), f.numpy()))
            (e0, f0), (e1, f1) = outputs
            price = (lambda d: d) if scale is None else (lambda d: d * d / scale)
            energy.append(price(abs(e1 - e0) / (high - low)))
            force += [price(np.linalg.norm(f1[i] - turn @ f0[i])) for i in range(high - low)]
        total += np.mean(energy) + np.mean(force)
    return total / rotations


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("rotations,scale", [(1, None), (3, None), (1, 2.5), (3, 2.5)])
def test_the_penalty_is_the_definition(tmp_path, pad, rotations, scale) -> None:
    pack, rows = write_pack(tmp_path / "pack"), [4, 0, 17, 9]
    model = stirred(pack, "mpnn")
    (graph, target), chosen = batch_of(pack, rows, pad)
    got = float(measure(model, graph, target, chosen, rotations, scale).detach())
    assert (
        got == pytest.approx(slowly(pack, model, rows, rotations, scale), rel=1e-9) and got > 1e-2
    )


@pytest.mark.parametrize(
    "name,forces",
    [("painn", "direct"), ("egnn", "direct"), ("esen", "direct"), ("painn", "conservative")],
)
@pytest.mark.parametrize("scale", [None, 2.5])
def test_it_is_zero_for_an_equivariant_model_and_changes_no_gradient(
    tmp_path, name, forces, scale
) -> None:
    pack = write_pack(tmp_path / "pack")
    model = stirred(pack, name, forces=forces)
    (graph, target), chosen = batch_of(pack, [4, 0, 17, 9])
    assert (
        float(measure(model, graph, target, chosen, 2, scale).detach()) < 1e-7
    )  # the root in the loss has a floor of 1e-8
    params = list(model.parameters())
    plain = torch.autograd.grad(
        sum(loss_terms(*model(graph), target)), params, allow_unused=True, materialize_grads=True
    )
    price = measure(model, graph, target, chosen, 2, scale)
    extra = torch.autograd.grad(price, params, allow_unused=True, materialize_grads=True)
    size_of = [
        float(torch.cat([g.flatten() for g in gradients]).norm()) for gradients in (plain, extra)
    ]
    assert size_of[1] < 1e-6 * size_of[0]


@pytest.mark.parametrize("scale", [None, 2.5])
def test_its_gradient_is_that_of_finite_differences(tmp_path, scale) -> None:
    pack = write_pack(tmp_path / "pack")
    model = stirred(pack, "mpnn")
    (graph, target), chosen = batch_of(pack, [4, 0, 17, 9])
    params = [p for p in model.parameters() if p.numel() > 20]
    gradients = torch.autograd.grad(measure(model, graph, target, chosen, 2, scale), params)
    for p, gradient in zip(params, gradients):
        direction = torch.randn(
            p.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        values = []
        for sign in (1, -1):
            p.data += sign * 1e-6 * direction
            values.append(float(measure(model, graph, target, chosen, 2, scale).detach()))
            p.data -= sign * 1e-6 * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(
            float((gradient * direction).sum().detach()), rel=1e-4, abs=1e-7
        )


def test_copies_steps_seeds_and_the_augmentation_have_rotations_of_their_own(tmp_path) -> None:
    rows = torch.arange(4)
    seen = [
        random_rotations(rows, step, seed + k * STREAM, torch.float64)
        for step in (0, 1)
        for seed in (0, 1)
        for k in (0, 1, 2)
    ]
    flat = torch.stack(seen).flatten(0, 1)
    distance = (flat[:, None] - flat[None]).abs().amax((-1, -2)) + torch.eye(len(flat))
    assert float(distance.min()) > 1e-3
    again = random_rotations(
        rows, torch.tensor(1), 1 + 2 * STREAM, torch.float64
    )  # a step on the device: the same numbers
    assert torch.equal(again, seen[-1])


def test_a_periodic_batch_turns_with_its_cell(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack", periodic=True)
    (graph, _), chosen = batch_of(pack, [1, 2])
    turns = random_rotations(chosen, 0, 1, torch.float64)
    moved, of_atom = rotated(graph, turns)
    expected = torch.einsum("eij,ej->ei", turns[graph.batch[graph.receiver]], graph.vectors())
    torch.testing.assert_close(moved.vectors(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(of_atom, turns[graph.batch])
    assert float((moved.shift - graph.shift).abs().max()) > 0.1


def test_a_norm_holds_a_model_at_zero_and_a_square_does_not(tmp_path) -> None:
    """A small step away from zero output, not symmetric yet: the norm costs as much as the step,
    the square next to nothing."""
    pack = write_pack(tmp_path / "pack")
    model = stirred(pack, "mpnn")
    (graph, target), chosen = batch_of(pack, [4, 0, 17, 9])

    def cost(step, scale):
        def small(g):
            e, f = model(g)
            return step * e, step * f

        return float(
            penalty(
                small, graph, *small(graph), target, chosen, 0, 0, rotations=1, scale=scale
            ).detach()
        )

    assert cost(1e-3, None) / cost(1e-1, None) == pytest.approx(1e-2, rel=1e-6)
    assert cost(1e-3, 1.0) / cost(1e-1, 1.0) == pytest.approx(1e-4, rel=1e-6)


def slowly_latent(pack, model, rows, rotations, step=3, seed=5):
    """The penalty of states by molecules and atoms, in NumPy but for the model and its map."""
    squares = []

    def states(pos, species):
        """LN(z), by hand."""
        graph = build_graph(torch.from_numpy(pos), species, torch.tensor([len(pos)]), 3.0)
        with torch.no_grad():
            z = model.with_states(graph)[2].numpy()
        centred = z - z.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)

    network = {name: p.detach().numpy() for name, p in model.latent.named_parameters()}
    for k in range(1, rotations + 1):
        turns = random_rotations(torch.tensor(rows), step, seed + k * STREAM, torch.float64).numpy()
        for row, turn in zip(rows, turns):
            atoms = slice(int(pack.offsets[row]), int(pack.offsets[row + 1]))
            species = torch.from_numpy(np.searchsorted(pack.elements, pack.numbers[atoms]))
            pos = pack.vectors("positions", atoms)
            here, there = states(pos, species), states(pos @ turn.T, species)
            for y, wanted in zip(here, there):
                u = network["states.weight"] @ y + network["rotation.weight"] @ turn.ravel()
                u += network["rotation.bias"]
                off = y + network["out.weight"] @ (u / (1 + np.exp(-u))) - wanted
                squares.append((off**2).mean())
    return model.config.scale * np.mean(squares)


def measure_latent(model, graph, target, chosen, rotations, step=3, seed=5):
    states = model.with_states(graph)[2]
    given = model, lambda g: model.with_states(g)[2], graph, states, target.real
    return latent_penalty(*given, chosen, step, seed, rotations=rotations)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("name,rotations", [("mpnn", 1), ("mpnn", 3), ("attention", 1)])
def test_the_latent_penalty_is_the_definition(tmp_path, name, pad, rotations) -> None:
    pack, rows = write_pack(tmp_path / "pack"), [4, 0, 17, 9]
    model = stirred(pack, name, n=2e4, latent=True)
    (graph, target), chosen = batch_of(pack, rows, pad)
    got = float(measure_latent(model, graph, target, chosen, rotations).detach())
    assert got == pytest.approx(slowly_latent(pack, model, rows, rotations), rel=1e-9)
    assert got > 1e-2


def test_the_map_of_states_begins_as_the_identity_and_learns(tmp_path) -> None:
    """Nothing to learn for invariant states; the MPNN's can be told apart, and a map that sees the
    rotation learns them better than one that does not."""
    pack = write_pack(tmp_path / "pack")
    (graph, target), chosen = batch_of(pack, [4, 0, 17, 9])
    options = data_options(pack, cutoff=3.0)
    painn = build(size("painn", 8e3, depth=1, latent=True, **options), 0).double()
    assert float(measure_latent(painn, graph, target, chosen, 2).detach()) < 1e-20
    model, ends = stirred(pack, "mpnn", latent=True), []
    start = {name: p.detach().clone() for name, p in model.latent.named_parameters()}
    for blind in (False, True):
        for name, p in model.latent.named_parameters():
            p.data = start[name].clone()
        model.latent.rotation.weight.data *= 0.0 if blind else 1.0
        learned = [model.latent.states.weight, model.latent.out.weight]
        optimizer = torch.optim.Adam(learned, lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = measure_latent(model, graph, target, chosen, 2)
            loss.backward()
            optimizer.step()
        ends.append(float(loss.detach()))
    assert ends[0] < 0.9 * ends[1]


def change_of_the_map(width: int, standard: bool = False) -> float:
    """Root mean square change of T's outputs after three steps of Adam on random states, whose
    turned ones are a fixed random map of them."""
    torch.manual_seed(0)
    turn = torch.eye(3).expand(64, 3, 3)
    moves = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = LatentMap(width, width / 32)
        z = torch.randn(64, width)
        wanted = normalised(z @ torch.randn(width, width) / width**0.5)
        groups = [
            {"params": g["params"], "lr": 1e-2 * (1.0 if standard else g["lr_scale"])}
            for g in parameter_groups(model)
        ]
        optimizer, before = torch.optim.Adam(groups), model(z, turn).detach()
        for _ in range(3):
            optimizer.zero_grad()
            (model(z, turn) - wanted).square().mean().backward()
            optimizer.step()
        moves.append(float((model(z, turn).detach() - before).square().mean().sqrt()))
    return float(np.mean(moves))


def test_the_map_of_states_moves_alike_at_every_width() -> None:
    """Coordinate check; at one rate for all parameters it moves more the wider it is."""
    widths = (32, 128, 512)
    for standard, low, high in ((False, -0.15, 0.15), (True, 0.4, 2.0)):
        changes = [change_of_the_map(width, standard) for width in widths]
        assert low < np.polyfit(np.log(widths), np.log(changes), 1)[0] < high


def test_states_are_not_held_after_a_step(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    (graph, _), _ = batch_of(pack, [4, 0])
    model = stirred(pack, "mpnn", latent=True)
    energy, forces = model(graph)
    assert model._states is None
    again = model.with_states(graph)
    assert model._states is None and again[2].shape == (len(graph.pos), model.config.width)
    assert torch.equal(energy, again[0]) and torch.equal(forces, again[1])


@pytest.mark.parametrize(
    "name,forces,penalised",
    [
        ("mpnn", "direct", "square"),
        ("painn", "conservative", "square"),
        ("mpnn", "direct", "latent"),
    ],
)
def test_the_padded_step_of_a_gpu_is_the_exact_step_of_a_cpu(
    tmp_path, name, forces, penalised
) -> None:
    """What a CUDA graph replays, run eagerly: fixed sizes, an empty slot, dummy atoms, the step as
    a tensor."""
    pack = write_pack(tmp_path / "pack")
    shard = Shard(
        pack, np.arange(len(pack)), cutoff=3.0, elements=tuple(pack.elements), dtype=torch.float64
    )
    rows = torch.tensor([4, 0, 17, 9])
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    options = TrainOptions(
        batch_molecules=4, symmetry_rotations=2, augment=True, symmetry_penalty=penalised
    )
    ends = []
    for pad in (False, True):
        model = stirred(pack, name, forces=forces, latent=options.latent)
        optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=4, warmup=0)
        stats = new_stats(torch.device("cpu"))
        step = Step(model, optimizer, options, 5, stats)
        window = Window(0, 4, shard, rows.numpy(), 0)
        for k in range(3):
            chosen = torch.cat([rows, torch.tensor([-1])]) if pad else rows
            sizes = (atoms + 7, edges + 11) if pad else (atoms, edges)
            step._advance(
                window, chosen, sizes, pad, torch.tensor(k) if pad else k, optimizer.table[k]
            )
        ends.append((optimizer.y.clone(), stats.clone()))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-9, atol=1e-12)
