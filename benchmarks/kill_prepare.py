"""Kill -9 ``forcelaw data prepare`` at random moments, run it again, and compare with an
undisturbed run.

    python benchmarks/kill_prepare.py [--trials 10] [--structures 100000] [--seed 0]
        [--shard-size SIZE]

In every trial the command is killed once or more, at moments uniform over its usual duration, and
then left alone. The pack must be the same byte for byte, nothing may stand at its path before it is
whole, and nothing else may be left. Every third trial overwrites an existing pack: then the
old or the new one must stand there at any time. With --shard-size packs are written in shards into
two other folders; the hash must be that of the pack without.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import prepare_speed

from forcelaw.data.pack import Pack

SHARDED: list[str] = []  # options of every call


def start(source: Path, pack: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["prepare", str(source), "--out", str(pack), *prepare_speed.ALLOW, *SHARDED, *more]
    command = [sys.executable, "-c", prepare_speed.RUN, *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit("prepare failed")


def contents(pack: Path) -> dict[str, bytes]:
    """Everything in a pack by file name; the manifest without the command line, which names the
    pack."""
    out = {path.name: path.read_bytes() for path in pack.iterdir() if path.is_file()}
    for folder in sorted(pack.glob("shard-*")):
        out |= {f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    out["manifest.json"] = b"\n".join(
        x for x in out["manifest.json"].splitlines() if b'"command"' not in x
    )
    return out


def one_trial(
    trial: int,
    folder: Path,
    source: Path,
    whole: dict[str, bytes],
    usual: float,
    rng: random.Random,
) -> None:
    pack, moments, before = folder / f"pack{trial}", [], None
    more = ["--overwrite"] if trial % 3 == 2 else []
    if more:
        finish(start(source, pack, "--seed", "1"))
        before = contents(pack)
    for _ in range(rng.randint(1, 3)):
        process, moment = start(source, pack, *more), rng.uniform(0, 0.9 * usual)
        time.sleep(moment)
        moments.append(f"{moment:.1f} s" + (" (had ended)" if process.poll() is not None else ""))
        process.kill()
        process.wait()
        if pack.exists() and contents(pack) not in (whole, before):
            raise SystemExit(f"trial {trial}: half a pack at {pack}")
        if pack.exists() and not more:
            break
    if more or not pack.exists():
        finish(start(source, pack, *more))
    same, left = contents(pack) == whole, list(folder.glob(f"{pack.name}.partial*"))
    here = {link.resolve().parent for link in pack.glob("shard-*")}
    there = set(folder.glob(f"disk?/{pack.name}.shards-*"))
    left += [] if more else sorted(there - here)  # a replaced pack's are left, and said to be
    what = "overwriting" if more else "new pack"
    print(
        f"trial {trial}: {what}, killed at {', '.join(moments)}:"
        f" {'same pack' if same else 'DIFFERENT'}",
        flush=True,
    )
    if not same or left:
        raise SystemExit(f"trial {trial} failed: same {same}, left over {left}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-size")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.shard_size:
            disks = [folder / "disk1", folder / "disk2"]
            for disk in disks:
                disk.mkdir()
            SHARDED[:] = ["--shard-size", args.shard_size, "--shard-folders", *map(str, disks)]
        source, whole = folder / "source.h5", folder / "whole"
        prepare_speed.flat(source, args.structures)
        begun = time.perf_counter()
        finish(start(source, whole))
        usual = time.perf_counter() - begun
        print(f"undisturbed run: {usual:.1f} s, {args.structures:,} structures", end="")
        pack = Pack(whole)
        print(f", {len(pack.shards)} shards, hash {pack.hash}", flush=True)
        for trial in range(args.trials):
            one_trial(trial, folder, source, contents(whole), usual, rng)
    print(f"{args.trials} of {args.trials} trials gave the pack of the undisturbed run")


if __name__ == "__main__":
    main()
