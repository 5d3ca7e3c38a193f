"""What only a GPU can show: the CUDA-graph step trains to the same losses as the eager CPU step,
resumes, sees divergence, and streams windows of a pack that does not fit.

    python benchmarks/gpu_check.py --pack src/forcelaw/data/sample
    python benchmarks/gpu_check.py --labels        # stress, weights that move, charge and spin

--labels: crystals with made-up labels, in float64, the CUDA graph against the eager CPU step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_speed import parse  # in this directory

from forcelaw.data.pack import Pack, PackWriter
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
    charge_spin: bool = False,
    cutoff: float = 6.0,
    **training: Any,
) -> tuple[list, dict]:
    """Metrics and result of a small run; with ``stop_at`` it is interrupted after that step and
    resumed. training: further options of it."""
    name, extra = parse(name)
    data = summarise(pack, cutoff=cutoff, charge_spin=charge_spin)
    head = {"stress": True} if training.get("stress_weight") and forces == "direct" else {}
    target = 4e4 if name == "attention" else 2e4  # it has nothing as small with two layers
    config = size(name, target, forces=forces, **data.options, **head, **extra)
    options = TrainOptions(
        batch_molecules=16,
        evaluations=5,
        first_evaluation=20,
        validation_structures=200,
        augment=augment,
        precision=precision,
        **training,
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


# what is trained on the labels of labelled_pack, beside direct forces
MOVING = {"energy_weight": 1.0, "energy_weight_end": 5.0, "forces_weight_end": 0.5}
STRESS = {"forces": "conservative", "stress_weight": 0.3, "stress_weight_end": 0.05}
LABELS: dict[str, dict[str, Any]] = {
    "charge and spin": {"charge_spin": True},
    "weights that move": {"charge_spin": True, **MOVING},
    "weights by type": {"charge_spin": True, "config_weights": {"a": 3.0, "b": 0.5}},
    "rate that falls": {"charge_spin": True, "decay": 0.7, "average_power": 8.0, "beta1": 0.95},
    "stress": {"charge_spin": True, **STRESS},
    "stress head": {"charge_spin": True, "stress_weight": 0.3, "stress_weight_end": 0.05},
    "all of it": {"charge_spin": True, **STRESS, **MOVING, "config_weights": {"a": 3.0}},
}


def labelled_pack(folder: Path, structures: int = 240) -> Pack:
    """Crystals of two elements, 4 to 8 atoms, with made-up labels of every kind; one in six has no
    stress."""
    rng = np.random.default_rng(0)
    counts = rng.integers(4, 9, structures)
    total = int(counts.sum())
    numbers = np.where(rng.random(total) < 0.5, 4, 74).astype(np.uint8)
    cells = 4.0 * np.eye(3) + 0.2 * rng.normal(size=(structures, 3, 3))
    fractions = rng.random((total, 3))
    positions = np.einsum("na,nab->nb", fractions, np.repeat(cells, counts, axis=0))
    stresses = 0.02 * rng.normal(size=(structures, 3, 3))
    stresses += stresses.transpose(0, 2, 1)
    stresses[::6] = np.nan
    charges, spins = rng.integers(-1, 2, structures), rng.integers(1, 3, structures)
    kinds = {"periodic": True, "charges": True, "stresses": True, "configs": True}
    with PackWriter(folder / "labels", **kinds) as writer:
        writer.append(
            counts,
            numbers=numbers,
            positions=positions,
            forces=rng.normal(size=(total, 3)),
            energies=-3.0 * counts + rng.normal(size=structures),
            groups=np.arange(structures, dtype=np.uint64),
            split=(np.arange(structures) % 6 == 5).astype(np.uint8),
            cells=cells,
            pbc=np.ones((structures, 3), np.uint8),
            stresses=stresses,
            charges=charges,
            spins=spins,
            configs=np.arange(structures) % 3,
        )
        about = {"elements": [4, 74], "references": {"energies": {"4": -3.0, "74": -3.0}}}
        about |= {
            "config_types": ["a", "b", "c"],
            "split": {},
            "statistics": {"force_rms": 1.0},
            "command": "gpu_check.py",
        }
        writer.finish(about)
    return Pack(folder / "labels")


def compare(pack: Pack, name: str, title: str, steps: int, **how: Any) -> bool:
    """Whether the eager CPU step and the CUDA graph part in float64; the table's row is printed."""
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu", "cpu")
    rows = [
        run_once(pack, name, device, precision="float64", steps=steps, **how)[0]
        for device in devices
    ]
    keys = [key for key in ("loss", "stress_mae") if key in rows[0][0]]
    worst = max(abs(a[key] / b[key] - 1) for a, b in zip(*rows) for key in keys)
    print(
        f"{name}, {title}: float64, CPU eager against CUDA graph, {steps} steps: {worst:.1e}"
        f" ({', '.join(keys)})",
        flush=True,
    )
    return worst > 1e-7


def check_labels(names: list[str]) -> int:
    """Every architecture with every entry of LABELS; how many part."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        pack = labelled_pack(Path(folder))
        for name in names:
            for title, how in LABELS.items():
                try:
                    bad += compare(pack, name, title, 40, cutoff=4.0, **how)
                except Exception as error:
                    print(
                        f"{name}, {title}: {type(error).__name__}: {str(error)[:600]}", flush=True
                    )
                    bad += 1
    return bad


def line(title: str, metrics: list) -> None:
    print(f"{title:<34}" + " ".join(f"{m['step']}:{m['loss']:.5f}" for m in metrics), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pack", type=Path, default=Path("src/forcelaw/data/sample"))
    parser.add_argument("--labels", action="store_true", help="this part alone")
    parser.add_argument(
        "--architectures",
        nargs="*",
        default=list(ARCHITECTURES),
        help="with options: mpnn:feed_forward=edges",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, default=8, help="of the CPU side")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"# {' '.join(sys.argv)}\n# {device}, torch {torch.__version__}")
    torch.set_num_threads(args.threads)
    if args.labels:
        bad = check_labels(args.architectures)
        print("all good" if not bad else f"{bad} problems")
        return bad
    pack, bad = Pack(args.pack), 0
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
                bad += compare(pack, name, title, 40, **how)
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
