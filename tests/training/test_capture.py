"""What a CUDA graph holds never asks the device: without a GPU, fake tensors have no numbers to be
asked for, and say so."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from forcelaw.data.device_dataset import Shard
from forcelaw.data.schedule import Window
from forcelaw.models import ARCHITECTURES, build
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.evaluate import Evaluation
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options
from forcelaw.training.step import Step, new_stats
from tests.packs import write_pack

ASKED = (DataDependentOutputException, DynamicOutputShapeException)


@pytest.fixture
def shard(tmp_path):
    pack = write_pack(tmp_path / "pack")
    made = Shard(
        pack, np.arange(len(pack)), cutoff=3.0, elements=tuple(pack.elements), dtype=torch.float64
    )
    return pack, made


def model_of(pack, name, **options):
    return build(
        size(name, 1.3e4, depth=1, **data_options(pack, cutoff=3.0), **options), 0
    ).double()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_evaluation_on_a_gpu_asks_nothing_and_gives_the_same(shard, name) -> None:
    pack, made = shard
    evaluation = Evaluation(model_of(pack, name), made)
    evaluation.launch()
    exact = evaluation.losses()
    assert not evaluation.fixed  # on a CPU rows are as wide as the batch needs
    evaluation.fixed = True
    evaluation.launch()
    assert evaluation.losses() == pytest.approx(exact, rel=1e-12)
    with FakeTensorMode(allow_non_fake_inputs=True):
        evaluation._run()


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in ARCHITECTURES),
        ("platonic", {"group": "T"}),
        ("esen", {"untied": True, "roll": "random"}),
        ("esen", {"frames": "global"}),
        ("mpnn", {"canonical": "principal"}),
        ("mpnn", {"canonical": "average4"}),
    ],
    ids=str,
)
def test_a_step_on_a_gpu_asks_nothing(shard, name, options) -> None:
    pack, made = shard
    model = model_of(pack, name, **options)
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=4, warmup=0)
    rows = np.array([4, 0, 17, 9])
    atoms, edges = int(made.host_natoms[rows].sum()), int(made.host_nedges[rows].sum())
    step = Step(
        model,
        optimizer,
        TrainOptions(batch_molecules=4, augment=True),
        5,
        new_stats(torch.device("cpu")),
    )
    chosen = torch.tensor([*rows, -1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        step._advance(
            Window(0, 4, made, rows, 0),
            chosen,
            (atoms + 16, edges + 64),
            True,
            torch.tensor(0),
            optimizer.table[0],
        )


def test_the_guard_can_fail(shard) -> None:
    """GemNet-OC reads the row width back when nobody tells it: what failed on an H100 on
    2026-11-25."""
    pack, made = shard
    evaluation = Evaluation(model_of(pack, "gemnet_oc"), made)
    with pytest.raises(ASKED), FakeTensorMode(allow_non_fake_inputs=True):
        evaluation._run()
