"""A study on a disk that is full, then has room again: no run may count as failed, and the same
command must finish it. Needs root, to mount a small file system in memory.

    python benchmarks/full_disk.py [--megabytes 2]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from forcelaw.store.runs import runs

STUDY = """
name: full
data: sample
architectures: [mpnn, painn]
sizes: [3e4, 5e4]
depth: 1
seeds: [0]
atoms: 6e3
train: {batch_molecules: 4, evaluations: 5, first_evaluation: 10, validation_structures: 20}
"""


def run(folder: Path) -> tuple[int, list[str], str]:
    """The study once: exit code, states of its runs, and the last lines that it said."""
    out = folder / "disk" / "out"
    command = [sys.executable, "-m", "forcelaw.cli", "run", str(folder / "full.yaml")]
    command += ["--out", str(out), "--device", "cpu", "--workers", "1", "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    states = sorted(run.state() for run in runs(out / "runs"))
    return done.returncode, states, done.stderr.strip()[-400:]


def mount(folder: Path, *options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", *options, "forcelaw-disk", str(folder / "disk")], check=True
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=2)
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk").mkdir()
        (folder / "full.yaml").write_text(STUDY)
        mount(folder, "-o", f"size={args.megabytes}m")
        try:
            code, states, said = run(folder)
            print(f"full: exit code {code}, runs {states}\n{said}", flush=True)
            good = code == 74 and "failed" not in states
            mount(folder, "-o", "remount,size=200m")
            code, states, _ = run(folder)
            print(f"with room again: exit code {code}, runs {states}", flush=True)
            good &= code == 0 and set(states) == {"finished"}
        finally:
            subprocess.run(["umount", str(folder / "disk")], check=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
