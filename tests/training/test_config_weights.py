"""Weights by config type: the weighted loss against a plain loop, padded or not."""

import numpy as np
import pytest
import torch

from forcelaw import load_run
from forcelaw.cli.main import main
from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack
from forcelaw.errors import DataError
from forcelaw.files import read_json, write_json
from forcelaw.training.config import TrainOptions
from forcelaw.training.loss import loss_terms
from tests.data import files
from tests.packs import write_pack


@pytest.fixture
def pack(tmp_path) -> Pack:
    """A pack whose structures are of two kinds in turn."""
    made = write_pack(tmp_path / "pack")
    np.save(made.path / "configs.npy", (np.arange(len(made)) % 2).astype(np.uint16))
    manifest = read_json(made.path / "manifest.json")
    manifest["arrays"]["configs"] = {"dtype": "uint16", "scale": 1.0, "sha256": ""}
    manifest["config_types"] = ["bulk", "surface"]
    write_json(made.path / "manifest.json", manifest)
    return Pack(made.path)


@pytest.mark.parametrize("pad", [False, True])
def test_weighted_loss_against_a_plain_loop(pack, pad) -> None:
    chosen = [3, 0, 6, 9]
    options = {"cutoff": 3.0, "elements": (1, 6, 8), "dtype": torch.float64}
    shard = Shard(pack, np.arange(12), config_weights=(("surface", 0.25),), **options)
    atoms, edges = (int(v[chosen].sum()) for v in (shard.host_natoms, shard.host_nedges))
    rows = torch.tensor([*chosen, -1] if pad else chosen)
    sizes = (atoms + 3, edges + 5) if pad else (atoms, edges)
    _, target = shard.batch(rows, *sizes, pad=pad)
    torch.manual_seed(0)
    energy = target.energy + torch.randn(len(rows), dtype=torch.float64)
    forces = target.forces + torch.randn(sizes[0], 3, dtype=torch.float64)
    got = loss_terms(energy, forces, target)
    of_energy, of_forces, first = [], [], 0
    for slot, k in enumerate(chosen):
        n, weight = int(shard.host_natoms[k]), 0.25 if k % 2 else 1.0
        of_energy.append(weight * abs(float(energy[slot] - target.energy[slot])) / n)
        off = (forces - target.forces)[first : first + n].norm(dim=1)
        of_forces += (weight * off).tolist()
        first += n
    assert float(got[0]) == pytest.approx(np.mean(of_energy))
    assert float(got[1]) == pytest.approx(np.mean(of_forces))
    plain = Shard(pack, np.arange(12), **options).batch(rows, *sizes, pad=pad)[1]
    even = Shard(pack, np.arange(12), config_weights=(("bulk", 1.0),), **options)
    for a, b in zip(
        loss_terms(energy, forces, plain),
        loss_terms(energy, forces, even.batch(rows, *sizes, pad=pad)[1]),
        strict=True,
    ):
        assert float(a) == pytest.approx(float(b))


def test_options_from_mappings_text_and_json() -> None:
    options = TrainOptions(config_weights={"b": 2, "a": 0.5})
    assert options.config_weights == (("a", 0.5), ("b", 2.0)) and hash(options)
    assert TrainOptions(config_weights="b=2,a=0.5") == options
    assert TrainOptions(**options.model_dump(mode="json")) == options
    assert "config_weights" not in TrainOptions().model_dump(mode="json")
    for wrong in ({"a": -1}, {"a": "x"}, "a"):
        with pytest.raises(ValueError, match="config_weights"):
            TrainOptions(config_weights=wrong)


def test_a_name_that_the_pack_does_not_have(pack) -> None:
    with pytest.raises(DataError):
        Shard(pack, np.arange(4), cutoff=3.0, elements=(1, 6, 8), config_weights=(("bulky", 2.0),))


def test_they_reach_a_run_and_change_it(tmp_path, monkeypatch) -> None:
    """From files to losses, by the command line: a weight of zero for one kind is felt."""
    monkeypatch.chdir(tmp_path)
    frames = files.molecules(60)
    for k, frame in enumerate(frames):
        frame["header"] = f"config_type=k{k % 2}"
    files.extxyz(tmp_path / "a.xyz", frames)
    assert main(["data", "prepare", "a.xyz", "--group", "frame", "--out", "pack"]) == 0
    small = ["--data", "pack", "--size", "3e3", "--epochs", "1", "--evaluations", "2"]
    losses = []
    for more in ([], ["--config-weights", "k0=1"], ["--config-weights", "k0=0,k1=1"]):
        assert main(["train", "painn", *small, *more, "--out", f"o{len(losses)}"]) == 0
        (run,) = (tmp_path / f"o{len(losses)}" / "runs").iterdir()
        losses.append(load_run(run).metrics["loss"][-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert abs(losses[2] - losses[0]) > 1e-3 * losses[0]
