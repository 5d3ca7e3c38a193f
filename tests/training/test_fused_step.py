"""A whole training step by the kernels, interpreted on a CPU, compared with the plain step: batch,
model, loss, optimizer and books.

torch fills what it allocates with NaN meanwhile (its deterministic mode does), so a number that is
read before it is written shows; padding is on, as in a CUDA graph.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.data.device_dataset import Shard
from forcelaw.data.schedule import Window
from forcelaw.models import ARCHITECTURES, build
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options
from forcelaw.training.step import Step, new_stats
from tests.packs import write_pack

pytestmark = [
    pytest.mark.usefixtures("few_programs_for_padding"),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="benchmarks/gpu_check.py does this, and more, on a GPU"
    ),
]
STEPS = 2
# the interpreter takes seconds for a step of these; what a second step adds is no model's
ONE = {"esen": {}, "gemnet_oc": {"spherical": 3}}
MODELS = [
    *((name, ONE.get(name, {})) for name in ARCHITECTURES),
    ("mpnn", {"feed_forward": "edges"}),
]


@pytest.fixture
def filled_with_nan():
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.isnan(torch.empty(100)).all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "name, options", MODELS, ids=[f"{name} {' '.join(options)}".strip() for name, options in MODELS]
)
def test_steps_by_kernels_are_the_plain_steps(tmp_path, name, options, filled_with_nan) -> None:
    pack = write_pack(tmp_path / "pack")
    shard = Shard(
        pack, np.arange(len(pack)), cutoff=3.0, elements=tuple(pack.elements), dtype=torch.float64
    )
    rows = np.array([4, 5, 18])  # three atoms, one, and five
    steps = 1 if name in ONE else STEPS
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    found = []
    for mode in ("triton", "torch"):
        target = 1.3e4 if name == "gemnet_oc" else 6e3
        model = build(
            size(name, target, depth=1, **data_options(pack, cutoff=3.0), **options), 0
        ).double()
        optimizer = ScheduleFreeAdamW(model, lr=1e-2, steps=STEPS, warmup=1, clip=10.0)
        start = optimizer.y.clone()
        stats = new_stats(torch.device("cpu"))
        step = Step(model, optimizer, TrainOptions(batch_molecules=3, augment=True), 5, stats)
        with ops.using(mode):
            for k in range(steps):
                step._advance(
                    Window(0, STEPS, shard, rows, 0),
                    torch.tensor([*rows, -1]),
                    (atoms + 3, edges + 12),
                    True,
                    torch.tensor(k),
                    optimizer.table[k],
                )
        found.append((stats, optimizer.y, optimizer.z, optimizer.v))
    assert float(found[1][0][3]) == steps and not torch.equal(start, found[1][1])
    assert steps == 1 or not torch.equal(found[1][1], found[1][2])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
