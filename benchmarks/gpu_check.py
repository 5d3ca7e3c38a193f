"""What only a GPU can show: the CUDA-graph step trains to the same losses as the eager CPU step,
resumes, sees divergence, and streams windows of a pack that does not fit.

    python benchmarks/gpu_check.py --pack src/forcelaw/data/sample
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from training_speed import parse  # in this directory

from forcelaw.data.pack import Pack
from forcelaw.models import ARCHITECTURES
from forcelaw.models.sizing import size
from forcelaw.store.runs import RunDirectory
from forcelaw.training.config import TrainOptions
from forcelaw.training.loop import train
from forcelaw.training.spec import resolve, summarise


def run_once(
    pack: Pack,
    name: str,
    device: str,
    *,
    lr: float = 4e-3,
    stop_at: int | None = None,
    capacity: float | None = None,
    augment: bool = False,
    steps: int = 150,
    compiled: bool = False,
    precision: str = "float32",
    forces: str = "direct",
    symmetry_rotations: int = 0,
) -> tuple[list, dict]:
    """Metrics and result of a small run; with ``stop_at`` it is interrupted after that step and
    resumed."""
    name, extra = parse(name)
    data = summarise(pack)
    config = size(name, 2e4, forces=forces, **data.options, **extra)
    options = TrainOptions(
        batch_molecules=16,
        evaluations=5,
        first_evaluation=20,
        validation_structures=200,
        augment=augment,
        precision=precision,
        symmetry_rotations=symmetry_rotations,
    )
    spec = resolve(data, config, options, lr=lr, seed=1, atoms=steps * 16 * 21.0)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(folder, spec.as_json())
        run.claim()
        if stop_at is not None:
            seen = {"calls": 0}

            def stop() -> bool:
                seen["calls"] += 1
                return len(run.metrics()) >= stop_at

            train(run, pack, device=device, stop=stop, capacity=capacity)
        result = train(run, pack, device=device, capacity=capacity, compile_model=compiled)
        return run.metrics(), result


def line(title: str, metrics: list) -> None:
    print(f"{title:<34}" + " ".join(f"{m['step']}:{m['loss']:.5f}" for m in metrics), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument(
        "--architectures",
        nargs="*",
        default=list(ARCHITECTURES),
        help="with options: mpnn:feed_forward=edges",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, default=8, help="of the CPU side")
    args = parser.parse_args()
    pack = Pack(args.pack)
    print(f"# {' '.join(sys.argv)}\n# {torch.cuda.get_device_name()}, torch {torch.__version__}")
    bad = 0
    for name in args.architectures:
        try:
            torch.set_num_threads(args.threads)
            exact = [
                run_once(pack, name, device, precision="float64", steps=60)[0]
                for device in ("cpu", "cuda")
            ]
            worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(*exact))
            print(
                f"{name}: float64, CPU eager against CUDA graph, 60 steps: largest relative"
                f" difference {worst:.1e}"
            )
            bad += worst > 1e-7
            cpu, _ = run_once(pack, name, "cpu")
            line(f"{name} cpu", cpu)
            gpu, result = run_once(pack, name, "cuda")
            line(f"{name} cuda graph", gpu)
            worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(cpu[:2], gpu[:2]))
            print(
                f"{name}: largest relative difference at the first two evaluations {worst:.1e};"
                f" symmetry {result['symmetry']}"
            )
            bad += worst > 2e-2
            resumed, _ = run_once(pack, name, "cuda", stop_at=2)
            line(f"{name} cuda interrupted, resumed", resumed)
            windowed, _ = run_once(pack, name, "cuda", capacity=30_000)
            line(f"{name} cuda in windows", windowed)
            if not args.no_compile:
                compiled, _ = run_once(pack, name, "cuda", compiled=True)
                line(f"{name} cuda compiled", compiled)
            augmented, _ = run_once(pack, name, "cuda", augment=True)
            line(f"{name} cuda augmented", augmented)
            for title, how in (
                ("gradient forces", {"forces": "conservative"}),
                ("symmetry loss", {"symmetry_rotations": 2}),
            ):
                exact = [
                    run_once(pack, name, device, precision="float64", steps=40, **how)[0]
                    for device in ("cpu", "cuda")
                ]
                worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(*exact))
                print(
                    f"{name}, {title}: float64, CPU eager against CUDA graph, 40 steps:"
                    f" {worst:.1e}",
                    flush=True,
                )
                bad += worst > 1e-7
            _, diverged = run_once(pack, name, "cuda", lr=1e9)
            print(f"{name} lr 1e9: {diverged['status']} at step {diverged.get('step')}", flush=True)
            bad += diverged["status"] != "diverged"
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            bad += 1
    print("all good" if not bad else f"{bad} problems")
    return bad


if __name__ == "__main__":
    sys.exit(main())
