"""Compile kernels ahead of the runs that will launch them, on the CPU, during the training.

Triton compiles a kernel for each width of a model when it is first launched: seconds for each new
model, during which a study of many widths leaves its GPU half empty. A GPU machine has CPU cores to
spare. A process of this module reads models from its standard input, one JSON object a line, and
runs a training step of each on the CPU with every launch replaced by a compilation; Triton finds
the results in its cache on disk. It never touches the GPU, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..host import usable_cores
from ..models import architecture

PROCESSES = 8  # at most, for each worker
SPARE = 2  # cores left to a worker
# most bytes for one process: half of what a pipe holds, so that writing never waits
BYTES = 32_768


class Elsewhere:
    """What Triton asks of a driver, for a GPU of compute capability arch (90: sm_90) that is not
    looked at."""

    def __init__(self, arch: int):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", arch, 32)
        limits = {"max_shared_mem": 232_448, "multiprocessor_count": 132}
        self.utils = SimpleNamespace(get_device_properties=lambda device: limits)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def pretend(arch: int) -> None:
    """From here on this process launches for a GPU of compute capability ``arch`` that is not
    there. It was started with FORCELAW_OPS=triton, so that kernels run for tensors on a CPU too."""
    from triton.runtime import driver

    driver.set_active(Elsewhere(arch))


def step(pack: Any, config: Any, precision: str) -> int:
    """One training step of a small batch, padded and rotated as in training, after :func:`pretend`;
    numbers mean nothing. Returns the number of parameters."""
    import torch

    from .. import ops
    from ..data.schedule import Feed
    from ..models import build
    from ..training.config import TrainOptions
    from ..training.loss import loss_terms
    from ..training.optimizer import ScheduleFreeAdamW
    from ..training.spec import plan_for, shard_options, training_set
    from ..training.step import new_stats

    indices = training_set(pack, 16)
    dtype = torch.float64 if precision == "float64" else torch.float32
    schedule = plan_for(pack.sizes(indices), 200, 0, TrainOptions(batch_atoms=100))
    window = Feed(
        pack,
        indices,
        schedule,
        **shard_options(config),
        device=torch.device("cpu"),
        dtype=dtype,
    ).whole()
    rows = torch.from_numpy(window.rows(schedule, 0))
    atoms, edges = (
        int(count[rows.numpy()].sum())
        for count in (window.shard.host_natoms, window.shard.host_nedges)
    )
    # the sizes of training are such multiples
    atoms, edges = -(-(atoms + 1) // 16) * 16, -(-edges // 64) * 64
    number = torch.tensor(0)
    turns = ops.random_rotations(rows, number, 0, dtype)
    window.shard.batch(rows, atoms, edges, pad=True, rotation=turns)
    with ops.using("torch"):  # the model wants indices that are ones
        graph, target = window.shard.batch(rows, atoms, edges, pad=True)
    model = build(config, 0).to(dtype)
    torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")  # some kernels ask for it
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        energy, forces = model(graph)
    loss = sum(loss_terms(energy.to(target.energy), forces.to(target.forces), target))
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=1, warmup=0)
    gradients = torch.autograd.grad(
        loss, optimizer.params, allow_unused=True, materialize_grads=True
    )
    norm, clipped = optimizer.update(list(gradients), optimizer.table[0])
    ops.record(new_stats(loss.device), loss.detach(), loss.detach(), norm, clipped, number)
    return model.n_parameters()


class Ahead:
    """Processes that compile for the models of runs that have not begun; none where there is no
    GPU, no kernel can run, or no core is left."""

    def __init__(self, pack: Path, device: str, workers: int = 1):
        self.processes: list[subprocess.Popen[str]] = []
        self.given: set[str] = set()
        self.bytes = 0
        self.count = 0
        self.pack, self.next = pack, 0
        if device == "cuda":
            from ..ops.switch import AVAILABLE

            spare = usable_cores() // max(1, workers) - SPARE
            self.count = max(0, min(PROCESSES, spare)) if AVAILABLE else 0

    def give(self, specs: Iterable[dict[str, Any]]) -> None:
        """Models of these runs, most urgent first; those given before are passed over. None is read
        where nothing compiles."""
        if not self.count:
            return
        for spec in specs:
            if not architecture(spec["model"]["architecture"]).capture:
                continue  # a package's own, which runs eagerly
            line = json.dumps({"model": spec["model"], "precision": spec["train"]["precision"]})
            if line in self.given:
                continue
            self.given.add(line)
            self.bytes += len(line) + 1
            if self.bytes > BYTES * self.count:
                continue
            if len(self.processes) < self.count:
                self._start()
            if self.processes:
                # one that has ended compiles nothing; training does it then
                with contextlib.suppress(OSError, ValueError):
                    pipe = self.processes[self.next % len(self.processes)].stdin
                    assert pipe is not None
                    pipe.write(line + "\n")
                    pipe.flush()
                self.next += 1

    def _start(self) -> None:
        import torch

        major, minor = torch.cuda.get_device_capability()
        # without threads, GPU and urgency
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "FORCELAW_OPS": "triton",
        }
        command = [
            sys.executable,
            "-m",
            "forcelaw.study.precompile",
            str(self.pack),
            str(10 * major + minor),
        ]
        with contextlib.suppress(OSError):
            self.processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                )
            )

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError, ValueError):
                    process.stdin.close()
            process.wait()
        self.processes.clear()
        self.count = 0


def main(pack: str, arch: str) -> int:
    """Models from standard input, until it ends."""
    from ..data.pack import Pack
    from ..models import make_config

    pretend(int(arch))
    from triton.runtime.jit import JITFunction

    launch = JITFunction.run
    JITFunction.run = lambda self, *a, grid=None, warmup=False, **k: launch(
        self, *a, grid=grid, warmup=True, **k
    )
    opened = Pack(Path(pack))
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            step(opened, make_config(asked["model"]), asked["precision"])
        except Exception as error:  # training will compile it, or say what is wrong
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(OSError, AttributeError):
        os.nice(15)  # training comes first
    sys.exit(main(*sys.argv[1:]))
