"""Do TF32 and bf16 reach the validation loss of float32? Whole runs of every architecture in each
precision, several seeds.

    python benchmarks/precision.py --pack PACK --device cuda --size 1e6 --atoms 2e6 --seeds 3

For each architecture and precision: mean loss, its spread over seeds, and the difference from
float32 seed by seed (the same initial weights and data order), as a mean with its standard error,
compared with the spread between seeds of float32.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from forcelaw.data.pack import Pack
from forcelaw.models import ARCHITECTURES, architecture
from forcelaw.store.runs import runs
from forcelaw.study.config import load
from forcelaw.study.worker import work


def losses(pack: Pack, name: str, precision: str, args: argparse.Namespace) -> dict[int, float]:
    """Final loss of each seed; infinity where the run diverged."""
    content = {
        "name": "precision",
        "data": str(pack.path.resolve()),
        "architectures": [name],
        "sizes": [args.size],
        "seeds": list(range(args.seeds)),
        "atoms": args.atoms,
        "learning_rate": {"value": architecture(name).learning_rate},
        "train": {
            "batch_molecules": args.molecules,
            "precision": precision,
            "evaluations": 4,
            "validation_structures": 1000,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        work(
            load(path),
            Path(folder) / "out",
            Path(folder),
            device=args.device,
            show=False,
            runs_per_device=args.seeds if args.device == "cuda" else 1,
        )
        return {
            run.spec()["seed"]: (
                (run.metrics() or [{}])[-1]["loss"]
                if run.result()["status"] == "finished"
                else float("inf")
            )
            for run in runs(Path(folder) / "out" / "runs")
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--atoms", type=float, default=2e6, help="atoms seen in each run")
    parser.add_argument("--molecules", type=int, default=64, help="structures of a step")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    pack = Pack(args.pack)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(
        f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__}, pack {pack.atoms:,} atoms,"
        f" {args.seeds} seeds"
    )
    print(
        f"{'model':<10}{'precision':>10}{'loss':>9}{'seeds':>8}{'less float32':>14}{'+-':>8}",
        flush=True,
    )
    for architecture_name in args.architectures:
        base: dict[int, float] = {}
        for precision in ("float32", "tf32", "bf16"):
            found = losses(pack, architecture_name, precision, args)
            base = base or found
            if not all(map(math.isfinite, [*found.values(), *base.values()])):
                print(
                    f"{architecture_name:<10}{precision:>10}  losses {list(found.values())}",
                    flush=True,
                )
                continue
            spread = statistics.stdev(found.values()) if len(found) > 1 else float("nan")
            change = [found[s] - base[s] for s in base]
            error = (
                statistics.stdev(change) / len(change) ** 0.5 if len(change) > 1 else float("nan")
            )
            print(
                f"{architecture_name:<10}{precision:>10}{statistics.mean(found.values()):>9.4f}{spread:>8.4f}"
                f"{statistics.mean(change):>14.4f}{error:>8.4f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
