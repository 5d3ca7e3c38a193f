"""Errors on published splits, for models with gradient forces, beside the published numbers
(`published_table.py` writes the page): rMD17 aspirin and ethanol, 3BPA and acetylacetone.

    python benchmarks/published_errors.py FOLDER OUT --minutes 9       # trains and evaluates
    python benchmarks/published_errors.py FOLDER OUT --minutes 9       # goes on where that stopped

FOLDER holds the files as published: rmd17_{aspirin,ethanol}_{train,test}_01.npz of
github.com/andersx/rmd17-npz, and train_300K.xyz, ... of BOTNet-datasets in folders 3bpa and acac.
Files that are not there are left out and named. OUT/SYSTEM has the pack, the runs and errors.json.
All runs of a GPU train side by side; with several GPUs the systems are divided among them. Without
--epochs or --steps the runs are as long as the minutes allow: a few seconds of each, side by side,
are timed first. --models: variants of one setting each, to be chosen from by their errors on
validation. --archive DIR: OUT/SYSTEM comes and goes as one file DIR/SYSTEM.tar.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forcelaw.api.run import Run, Training
from forcelaw.data.options import Preparation
from forcelaw.data.pack import Pack
from forcelaw.data.prepare_files import prepare_files
from forcelaw.data.schedule import Shards
from forcelaw.store.runs import RunDirectory
from forcelaw.training.config import TrainOptions
from forcelaw.training.cooperative import Scheduler
from forcelaw.training.loop import training

# files of training, share of them that is validation (950/50 and 450/50), files of tests. mixedT:
# the frames of train_mixedT, for those who lack the larger files; see cut_mixed
KELVIN = (300, 600, 1200)
SYSTEMS: dict[str, tuple[str, float, list[str]]] = {
    "aspirin": ("rmd17_aspirin_train_01.npz", 0.05, ["rmd17_aspirin_test_01.npz"]),
    "3bpa": (
        "3bpa/train_300K.xyz",
        0.1,
        [
            f"3bpa/{kind}_{kelvin}K.xyz"
            for kind in ("test", "mixedT")
            for kelvin in (300, 600, 1200)
        ],
    ),
    "ethanol": ("rmd17_ethanol_train_01.npz", 0.05, ["rmd17_ethanol_test_01.npz"]),
    "acac": ("acac/train_300K.xyz", 0.1, ["acac/test_MD_300K.xyz", "acac/test_MD_600K.xyz"]),
}
# what a model is, and in "train" what of TRAIN is its own
PAINN = {"architecture": "painn", "size": 4e5, "depth": 3, "learning_rate": 4e-3}
ESEN = {"architecture": "esen", "size": 4.5e5, "depth": 2, "learning_rate": 4e-3}
NEQUIP = {  # the package, in our protocol
    "architecture": "forcelaw.adapters.nequip:ARCHITECTURE",
    "size": 8e5,
    "depth": 4,
    "options": {"lmax": 3, "parity": True},
    "train": {"energy_weight": 0.25},
}
FORCES = {"train": {"energy_weight": 0.25}}
FEW = {"options": {"radial": 16}, **FORCES}
MODELS: dict[str, dict[str, Any]] = {
    "painn": PAINN,
    "painn-16": {**PAINN, **FEW},
    "painn-bessel": {**PAINN, **FORCES, "options": {"basis": "bessel", "radial": 20}},
    "painn-wide": {**PAINN, **FEW, "size": 1.6e6},
    "painn-deep": {**PAINN, **FEW, "size": 6.7e5, "depth": 5},
    "painn-weights": {**PAINN, **FEW, "train": {"energy_weight": 0.25, "weight_decay": 0.003}},
    "painn-small": {**PAINN, "size": 5e4},
    "painn-small-16": {**PAINN, **FEW, "size": 5e4},
    "painn-small-bessel": {
        **PAINN,
        **FORCES,
        "size": 5e4,
        "options": {"basis": "bessel", "radial": 20},
    },
    "esen": ESEN,
    "esen-forces": {**ESEN, **FORCES},
    "esen-bessel": {**ESEN, **FORCES, "options": {"basis": "bessel", "radial": 16}},
    "esen-wide": {**ESEN, **FORCES, "size": 1.4e6},
    "esen-wider": {**ESEN, **FORCES, "size": 4e6},
    "esen-three": {**ESEN, **FORCES, "size": 2.1e6, "depth": 3, "learning_rate": 3e-3},
    "esen-small": {**ESEN, **FORCES, "size": 5e4},
    "esen-small-64": {**ESEN, **FORCES, "size": 5e4, "options": {"radial": 64}},
    "esen-small-slow": {**ESEN, **FORCES, "size": 5e4, "learning_rate": 2e-3},
    "esen-small-l3": {**ESEN, **FORCES, "size": 6e4, "options": {"lmax": 3}},
    "esen-small-huber": {
        **ESEN,
        "size": 5e4,
        "train": {"energy_weight": 0.25, "loss": "huber", "huber_delta": 0.05},
    },
    "esen-small-square": {
        **ESEN,
        "size": 5e4,
        "train": {"energy_weight": 0.25, "loss": "square"},
    },
    "esen-wide-64": {**ESEN, **FORCES, "size": 1.4e6, "options": {"radial": 64}},
    "esen-wide-slow": {**ESEN, **FORCES, "size": 1.4e6, "learning_rate": 2e-3},
    "esen-l3-wide": {**ESEN, **FORCES, "size": 1.8e6, "options": {"lmax": 3}},
    "nequip-l3": {**NEQUIP, "learning_rate": 5e-3},
    "nequip-l3-fast": {**NEQUIP, "learning_rate": 1e-2},
    "esen-l3": {**ESEN, **FORCES, "size": 6e5, "options": {"lmax": 3}},
}
DEFAULT = ("painn", "esen")
TRAIN = TrainOptions(
    batch_molecules=8,
    beta1=0.95,
    decay=0.7,
    average_power=8,
    evaluations=12,
    validation_structures=50,
)
CUTOFF = 5.0
TIMED_SECONDS = 10.0  # of all runs side by side, before their length is chosen
RESERVE_SECONDS = 45.0  # for what is captured again, saved and evaluated at the end
SHARE = 0.93  # of the time that is left: runs must end before it does


class Pace:
    """Stands for a progress bar, and remembers when which step was reached."""

    def __init__(self, name: str):
        self.name, self.seen, self.told = name, [(time.monotonic(), 0)], time.monotonic()
        self.numbers: dict[str, float] = {}  # what a progress bar shows

    def say(self, what: str) -> None:
        pass

    def begin(self, already: float = 0) -> None:
        self.seen = [(time.monotonic(), int(already))]

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        self.seen.append((now, int(done)))
        if now - self.told > 20:
            self.told = now
            print(f"{self.name}: step {done:,}, {self.rate(now - 20):.0f}/s, {note}", flush=True)

    def close(self, text: str = "") -> None:
        pass

    def rate(self, since: float) -> float:
        """Steps a second since a moment."""
        rows = [row for row in self.seen if row[0] >= since]
        if len(rows) < 2:
            return 0.0
        return (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])


def side_by_side(
    work: dict[str, tuple[RunDirectory, Pack]], device: str, stop: Callable[[dict[str, Pace]], bool]
) -> dict[str, Pace]:
    """Train runs until they are finished or ``stop`` says so."""
    import torch

    on_gpu = device == "cuda"
    scheduler = Scheduler(len(work), device=torch.device(device), background=on_gpu)
    paces = {name: Pace(name) for name in work}
    shards = Shards()
    left = list(work)
    try:
        while left or scheduler.tasks:
            if left and scheduler.settled:
                name = left.pop(0)
                run, pack = work[name]
                if not run.claim():
                    raise SystemExit(f"another process trains {run.path}")
                how: dict[str, Any] = {"device": device, "shards": shards, "shared": len(work) > 1}
                how |= {"progress": paces[name], "stop": lambda: stop(paces)}
                scheduler.add(name, training(run, pack, **how))
            for ended in scheduler.step():
                work[ended.key][0].release()
                if ended.error:
                    print(f"{ended.key} failed: {ended.error}\n{ended.traceback}", flush=True)
    finally:
        scheduler.close()
    return paces


def resolved(out: Path, system: str, name: str, epochs: float) -> RunDirectory:
    """The run of one model on one system."""
    about = {key: value for key, value in MODELS[name].items() if key != "train"}
    train = TRAIN.model_copy(update=MODELS[name].get("train", {}))
    model = Training(
        **about, data=str(out / system / "pack"), epochs=epochs, cutoff=CUTOFF,
        forces="conservative",
    )  # fmt: skip
    pack = Pack(out / system / "pack")
    spec = model.resolve(pack, train)
    return RunDirectory.create(out / system / "runs", spec.as_json())


def cut_mixed(folder: Path) -> None:
    """Cut 3BPA's train_mixedT.xyz at 167 and 334 of its 500 frames, where the energies rise to
    those of 600 and 1200 K. Frames that train_300K.xyz has too are left out. They come from the
    dynamics of the published test files, but are not the published frames."""
    source = folder / "3bpa" / "train_mixedT.xyz"
    if not source.exists() or (folder / "3bpa" / "mixedT_300K.xyz").exists():
        return
    frames = [_frames(path) for path in (source, source.with_name("train_300K.xyz"))]
    energies = [[float(text.split("energy=")[1].split()[0]) for text in part] for part in frames]
    for kelvin, low, high in zip(KELVIN, (0, 167, 334), (167, 334, 500)):
        new = [k for k in range(low, high) if energies[0][k] not in energies[1]]
        print(f"mixedT {kelvin} K: {len(new)} frames that are not in train_300K")
        name = f"mixedT_{kelvin}K.xyz"
        source.with_name(name).write_text("".join(frames[0][k] for k in new))


def _frames(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True)
    length = int(lines[0]) + 2
    return ["".join(lines[k : k + length]) for k in range(0, len(lines), length)]


def prepare(folder: Path, out: Path, system: str) -> Pack:
    """The pack to train on; beside it one for each test file."""
    train, fraction, tests = SYSTEMS[system]
    shares = {Path(file).stem: (file, 0.5) for file in tests} | {"pack": (train, fraction)}
    for name, (file, share) in shares.items():
        if not (out / system / name).exists() and (folder / file).exists():
            given = Preparation(train=[folder / file], group="frame", val_fraction=share)
            prepare_files(given, out / system / name, say=sys.stdout, command="published_errors.py")
    return Pack(out / system / "pack")


def lengths(
    out: Path,
    packs: dict[str, Pack],
    models: list[str],
    given: tuple[float | None, float | None],
    device: str,
    end: float,
) -> dict[str, float]:
    """Epochs of each run, "system model": those of an earlier call, else those ``given`` (or the
    steps that are), else what the time until ``end`` allows."""
    names = [f"{system} {model}" for system in packs for model in models]
    epochs, steps = given
    known: dict[str, float] = {}
    for system in packs:
        file = out / system / "lengths.json"
        known |= json.loads(file.read_text()) if file.exists() else {}
    if set(names) <= set(known):
        return known
    if epochs is not None:
        known = dict.fromkeys(names, epochs)
    elif steps is not None:
        for name in names:
            structures = int((packs[name.split()[0]].split[:] == 0).sum())
            known[name] = math.ceil(steps * (TRAIN.batch_molecules or 1) / structures)
    else:
        known = timed(out, packs, names, device, end)
    for system in packs:
        own = {name: value for name, value in known.items() if name.split()[0] == system}
        (out / system / "lengths.json").write_text(json.dumps(own))
    return known


def timed(
    out: Path, packs: dict[str, Pack], names: list[str], device: str, end: float
) -> dict[str, float]:
    """Epochs that fit, from a few seconds of runs which are thrown away."""
    scratch = out / "timed" / "-".join(packs)  # of this process: there is one for each GPU
    work = {}
    for name in names:
        system, model = name.split()
        (scratch / system).mkdir(parents=True, exist_ok=True)
        if not (scratch / system / "pack").exists():
            (scratch / system / "pack").symlink_to((out / system / "pack").resolve())
        work[name] = (resolved(scratch, system, model, 500.0), packs[system])

    def stop(paces: dict[str, Pace]) -> bool:
        begun = [pace.seen[1][0] for pace in paces.values() if len(pace.seen) > 1]
        enough = len(begun) == len(paces) and time.monotonic() - max(begun) > TIMED_SECONDS
        return enough or time.time() > end - 2 * RESERVE_SECONDS

    paces = side_by_side(work, device, stop)
    since = max(pace.seen[min(1, len(pace.seen) - 1)][0] for pace in paces.values())
    shutil.rmtree(scratch)
    seconds = SHARE * (end - RESERVE_SECONDS - time.time())
    if waiting := [name for name in names if not paces[name].rate(since)]:
        raise SystemExit(
            f"no speed of {', '.join(waiting)} was seen: kernels of all runs take about a minute to"
            " compile; give more --minutes, or --epochs"
        )
    found = {}
    for name in names:
        pack = packs[name.split()[0]]
        structures = int((pack.split[:] == 0).sum())
        rate = paces[name].rate(since)
        found[name] = float(f"{rate * seconds * (TRAIN.batch_molecules or 1) / structures:.3g}")
        print(f"{name}: {rate:.0f} steps/s side by side: {found[name]:g} epochs", flush=True)
    return found


def evaluate(out: Path, system: str, runs: dict[str, RunDirectory], device: str) -> None:
    """Errors of every run of a system on every test file, written as they come."""
    found: dict[str, Any] = {}
    for name, run in runs.items():
        if not (run.path / "last.safetensors").exists():
            print(f"{system} {name}: no checkpoint", flush=True)
            continue
        done = Run(run.path)
        about = {"run": done.id, "n": done.spec["n"], "epochs": done.spec["epochs"]}
        about |= {"steps": run.position(), "of": done.spec["steps"], "lr": done.spec["lr"]}
        about |= {"status": (done.result or {}).get("status", "unfinished")}
        about |= {"seconds": (done.result or {}).get("seconds")}
        tests = {}
        for file in SYSTEMS[system][2]:
            pack = out / system / Path(file).stem
            if not pack.exists():
                print(f"{file} is not there", flush=True)
                continue
            errors = done.evaluate(pack, device=device, worst=0).as_json()
            keys = ("structures", "energy", "energy_total", "forces", "no_model")
            tests[file] = {key: errors[key] for key in keys}
            e, f = errors["energy_total"], errors["forces"]
            print(
                f"{system} {name} {Path(file).name}: E MAE {e['mae']:.2f} RMSE {e['rmse']:.2f} meV,"
                f" F MAE {f['mae']:.2f} RMSE {f['rmse']:.2f} meV/A ({about['status']})",
                flush=True,
            )
        found[name] = {**about, "metrics": run.metrics()[-1:], "tests": tests}
        (out / system / "errors.json").write_text(json.dumps(found, indent=1))


def divide(arguments: list[str], systems: list[str], devices: int) -> int:
    """One process for each GPU; the largest exit code."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    visible = visible or [str(k) for k in range(devices)]
    processes = []
    for k in range(devices):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible[k]}
        own = ["--systems", *systems[k::devices]]
        command = [sys.executable, __file__, *arguments, *own]
        processes.append(subprocess.Popen(command, env=environment))
    return max(process.wait() for process in processes)


def archive(out: Path, system: str, to: Path) -> None:
    """OUT/SYSTEM as one file, packs left out (they are made again)."""
    to.mkdir(parents=True, exist_ok=True)
    names = ["lengths.json", "errors.json", "runs"]
    names = [name for name in names if (out / system / name).exists()]
    command = ["tar", "-C", str(out / system), "-cf", str(to / f"{system}.tar"), *names]
    subprocess.run(command, check=True)


def main() -> int:
    began = time.time()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--prepare", action="store_true", help="make the packs and leave")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--steps", type=float, help="instead; rounded up to whole epochs")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(DEFAULT))
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS))
    args = parser.parse_args()
    import torch

    there = [
        system
        for system in args.systems or SYSTEMS
        if (args.folder / SYSTEMS[system][0]).exists() or (args.out / system / "pack").exists()
    ]
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and args.systems is None and torch.cuda.device_count() > 1:
        return divide(sys.argv[1:], there, min(torch.cuda.device_count(), len(there)))
    for system in there:
        kept = args.archive / f"{system}.tar" if args.archive else None
        (args.out / system).mkdir(parents=True, exist_ok=True)
        if kept and kept.exists() and not (args.out / system / "runs").exists():
            subprocess.run(["tar", "-C", str(args.out / system), "-xf", str(kept)], check=True)
    end = began + 60 * args.minutes
    cut_mixed(args.folder)
    packs = {system: prepare(args.folder, args.out, system) for system in there}
    if args.prepare:
        return 0
    given = args.epochs, args.steps
    epochs = lengths(args.out, packs, args.models, given, device, end)
    runs = {
        system: {
            name: resolved(args.out, system, name, epochs[f"{system} {name}"])
            for name in args.models
        }
        for system in there
    }
    work = {
        f"{system} {name}": (run, packs[system])
        for system in there
        for name, run in runs[system].items()
        if not run.done
    }
    if work:
        side_by_side(work, device, lambda paces: time.time() > end - RESERVE_SECONDS)
    for system in there:
        evaluate(args.out, system, runs[system], device)
        if args.archive:
            archive(args.out, system, args.archive)
    open_runs = sum(not run.done for own in runs.values() for run in own.values())
    print(f"{open_runs} runs are not finished; {time.time() - began:.0f} s", flush=True)
    return 75 if open_runs else 0


if __name__ == "__main__":
    sys.exit(main())
