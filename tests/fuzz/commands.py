"""Sound and damaged tables, run directories, checkpoints and packs, through the command line."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from forcelaw.cli.main import main
from forcelaw.data.pack import Pack
from forcelaw.data.verify import verify
from forcelaw.errors import ForcelawError
from forcelaw.study import worker
from forcelaw.study.config import load
from forcelaw.study.record import StudyDirectory, find_pack
from tests.data import files
from tests.fuzz.damage import damage_bytes, damage_file
from tests.fuzz.isolated import Wrong
from tests.packs import STUDY, write_pack
from tests.report import synthetic

CODES = (0, 1, 2, 3, 4, 74)  # that a command may end with here
Call = tuple[str, Callable[[], int | None]]


def command(words: list[str]) -> tuple[int, str, str]:
    """Code, output and errors of a command; Wrong for a code that none has."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:  # of argparse
            code = int(error.code or 0)
    if code not in CODES:
        raise Wrong(f"{' '.join(words)}: code {code}\n{err.getvalue()[-500:]}")
    return code, out.getvalue(), err.getvalue()


def remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def clean_up(work: Path) -> None:
    """Let go of what a case mounted."""
    if os.path.ismount(work):
        subprocess.run(["umount", str(work)], check=False)


# Tables, and what selects their rows.


def make_tables(folder: Path) -> None:
    """A table of four sizes with known laws, as CSV, JSON and Parquet."""
    import polars as pl

    rows = [
        {"run": f"r{n:g} {s}", "architecture": "a", "n": n, "d": d, "loss": 0.1 + n**-0.3 + d**-0.3}
        for n in (1e3, 4e3, 16e3, 64e3)
        for s in (0, 1)
        for d in (1e5, 4e5, 16e5)
    ]
    frame = pl.DataFrame(rows)
    frame.write_csv(folder / "t.csv")
    frame.write_json(folder / "t.json")
    frame.write_parquet(folder / "t.parquet")


def fit_table(sound: Path, work: Path, chance: random.Random) -> Call:
    """Fit a law to a damaged table: what is printed are numbers."""
    work.mkdir()
    name = chance.choice(["t.csv", "t.csv", "t.json", "t.parquet"])
    shutil.copyfile(sound / name, work / name)
    done = damage_bytes(work / name, chance)

    def call() -> int:
        words = ["fit", str(work / name), "--law", "surface", "--interval", "jackknife"]
        code, out, err = command(words)
        if code == 0 and re.search(r"(?<![\w.])[-+]?(nan|inf)\b", out, re.I):
            raise Wrong(f"prints numbers that are not finite: {out[:500]}")
        return said(code, err)

    return done, call


def said(code: int, err: str) -> int:
    """Hand on what a command said, for :mod:`.isolated`."""
    sys.stderr.write(err)
    return code


CODE = """
__import__('os').system('touch pwned')
open('pwned', 'w')
n.__class__
(lambda: 1)()
[x for x in n]
n[0] == 1
f'{n}' == 'a'
n := 1
n == n.real
exec('1')
9 ** 9 ** 9 > n
n > 1e999
n > nan
'a' * 1000000000 == run
n / 0 > 1
n % 2
run =~ '(a+)+$'
n >
n > 1 # x
n > 1; n < 2
n in (1, 2
'\\x00' == run
run == "'"
nothing > 1
n == '1'
1 == 1
"""
FILTERS = [
    *CODE.strip().splitlines(),
    *("", " ", "n > 1\0", "n > \u0661", "-" * 3000 + "1", "n < 1 < 2 < 3" * 50),
    *("(" * 5000 + "n > 1" + ")" * 5000, "not " * 5000 + "n > 1", "n > 1 and " * 200 + "n > 1"),
    *(" or ".join(f"run == 'r{k}'" for k in range(120)), "run == '" + "a" * 10**6),
]


def hostile_filter(sound: Path, work: Path, chance: random.Random) -> Call:
    """One filter after the other."""
    work.mkdir()
    text = _FILTERS_IN_TURN()

    def call() -> int:
        os.chdir(work)
        code, _, err = command(["fit", str(sound / "t.csv"), "--where", text, "--law", "power"])
        if (work / "pwned").exists():
            raise Wrong("a filter was run as code")
        return said(code, err)

    return f"filter {text[:60]!r}", call


class InTurn:
    """Each of ``items`` in turn, one a call."""

    def __init__(self, items: list):
        self.items, self.at = items, 0

    def __call__(self):
        self.at += 1
        return self.items[(self.at - 1) % len(self.items)]


_FILTERS_IN_TURN = InTurn(FILTERS)


# Run directories and what is made of them.


def make_run(folder: Path) -> None:
    """A trained study of two runs, its pack, and structures to evaluate."""
    write_pack(folder / "pack")
    files.extxyz(folder / "a.xyz", files.molecules(4, kinds=("H2O", "CH4")))
    (folder / "t.yaml").write_text(STUDY)
    worker.work(load(folder / "t.yaml"), folder / "out", folder, device="cpu", show=False)
    study = load(folder / "t.yaml")
    StudyDirectory(study, find_pack(study, folder), folder / "out").write("forcelaw run t.yaml")


def make_directory(folder: Path) -> None:
    """The same, and a synthetic study that can carry the laws."""
    make_run(folder)
    pair = [synthetic.LADDER[0], synthetic.LADDER[4]]
    sizes = 2_000, 8_000, 32_000, 128_000
    synthetic.write_study(folder / "law", pair, sizes=sizes, seeds=1, points=8)
    command(["export", str(folder / "out"), "--table", str(folder / "kept")])


def _commands(w: Path) -> dict[str, list[str]]:
    """What can be done with a study directory, in the folder ``w``."""
    run = next(iter(sorted((w / "out" / "runs").glob("*/"))), w / "out" / "runs" / "none")
    quick = ["--interval", "jackknife"]
    return {
        "status": ["status", f"{w}/out"],
        "run": ["run", f"{w}/t.yaml", "--out", f"{w}/out", "--device", "cpu", "--no-report"],
        "run --plan": ["run", f"{w}/t.yaml", "--out", f"{w}/out", "--device", "cpu", "--plan"],
        "run --retry-failed": ["run", f"{w}/t.yaml", "--out", f"{w}/out", "--device", "cpu"],
        "export --table": ["export", f"{w}/out", "--table", f"{w}/kept"],
        "export --stop": ["export", f"{w}/out", "--table", f"{w}/kept", "--stop"],
        "export --model": ["export", str(run), "--model", f"{w}/m.pt2"],
        "evaluate": ["evaluate", str(run), f"{w}/a.xyz", "--device", "cpu"],
        "train --from": ["train", "--from", str(run), "--epochs", "1", "--out", f"{w}/fine"],
        "report": ["report", f"{w}/law", "--out", f"{w}/page"],
        "fit": ["fit", f"{w}/law", *quick],
        "compare": ["compare", f"{w}/law", "--permutations", "10", *quick],
        "diagnose": ["diagnose", f"{w}/law", *quick],
        "isoflop": ["isoflop", f"{w}/law"],
        "rates": ["rates", f"{w}/law"],
        "budget": ["budget", f"{w}/law", "--flops", "1e15", "--law", "surface", *quick],
        "design": ["design", f"{w}/law", "--copies", "1", *quick],
        "forecast": ["forecast", f"{w}/law", "--law", "surface"],
        "data info": ["data", "info", f"{w}/pack"],
    }


_MORE = {
    "run": ["--workers", "1"],
    "run --retry-failed": ["--workers", "1", "--no-report", "--retry-failed"],
}


def damaged_directory(sound: Path, work: Path, chance: random.Random) -> Call:
    """One command on a study one to three files of which are damaged."""
    shutil.copytree(sound, work)
    name = chance.choice(list(_commands(work)))
    folder = {"data info": "pack"}.get(name, "law" if "/law" in _commands(work)[name][1] else "out")
    words, done = [*_commands(work)[name], *_MORE.get(name, [])], []
    for _ in range(chance.randint(1, 3)):
        kept = sorted(p for p in (work / folder).rglob("*") if p.is_file() and not p.is_symlink())
        if kept:
            done.append(damage_file(chance.choice(kept), chance))

    def call() -> int:
        code, _, err = command(words)
        return said(code, err)

    return f"{name}: {'; '.join(done)}", call


def damaged_checkpoint(sound: Path, work: Path, chance: random.Random) -> Call:
    """A model that is loaded has the weights that were saved, or is refused."""
    shutil.copytree(sound, work)
    run = sorted((work / "out" / "runs").iterdir())[chance.randrange(2)]
    file = run / "last.safetensors"
    done = _rewrite(file, chance) if chance.random() < 0.5 else damage_file(file, chance)

    def call() -> None:
        from forcelaw.api.run import load_run

        sound_run = sound / "out" / "runs" / run.name
        found = load_run(run).model(device="cpu").state_dict()
        for key, wanted in load_run(sound_run).model(device="cpu").state_dict().items():
            if found[key].shape != wanted.shape or not bool((found[key] == wanted).all()):
                raise Wrong(f"{key} is not what was saved")

    return f"checkpoint: {done}", call


def _rewrite(file: Path, chance: random.Random) -> str:
    """Other tensors under the names of a checkpoint, well formed, without or with its metadata."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    tensors, name = load_file(file), ""
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    name = chance.choice([key for key in tensors if key.startswith("model.")])
    changes = {
        "one number": lambda t: torch.ones(1),
        "int8": lambda t: torch.ones(t.shape, dtype=torch.int8),
        "float64": lambda t: t.double(),
        "half": lambda t: t.half(),
        "another shape": lambda t: t[None],
        "longer": lambda t: torch.cat([t.flatten(), t.flatten()]),
        "empty": lambda t: t.flatten()[:0],
        "not a number": lambda t: torch.full_like(t, float("nan")),
        "other numbers": lambda t: t + 1,
        "flat": lambda t: t.flatten() if t.ndim > 1 else t[:0],
    }  # fmt: skip
    what = chance.choice([*changes, "gone"])
    if what == "gone":
        del tensors[name]
    else:
        tensors[name] = changes[what](tensors[name])
    save_file(tensors, file, metadata=metadata)
    return f"{name}: {what}"


# Packs.


def make_pack(folder: Path) -> None:
    write_pack(folder / "pack")
    write_pack(folder / "shards", shard_size=3000)


def make_shards(folder: Path) -> None:
    write_pack(folder / "pack", shard_size=3000)


def damaged_shards(sound: Path, work: Path, chance: random.Random) -> Call:
    """One to three files of a pack in shards, or what stands in their place; or a shard is a link.
    A pack that is read is the sound one."""
    shutil.copytree(sound, work)
    done = []
    for _ in range(chance.randint(1, 3)):
        kept = sorted(p for p in work.rglob("*") if p.is_file() and not p.is_symlink())
        if kept and chance.random() < 0.8:
            done.append(damage_file(chance.choice(kept), chance))
        else:
            done.append(_linked(work / "pack", chance))

    def call() -> None:
        pack = Pack(work / "pack")
        verify(pack)
        for name in pack.manifest["arrays"]:
            if not np.array_equal(getattr(pack, name), getattr(Pack(sound / "pack"), name)):
                raise Wrong(f"{name} is not what was written")

    return f"shards: {'; '.join(done)}", call


def _linked(pack: Path, chance: random.Random) -> str:
    """Put a link in place of a shard."""
    folders = [p for p in sorted(pack.glob("shard-*")) if p.is_dir() and not p.is_symlink()]
    if not folders:
        return "nothing is left"
    folder = chance.choice(folders)
    target = chance.choice(["..", ".", "/", "/dev", "/proc/self/fd", "nowhere", folder.name])
    target = chance.choice([target, chance.choice(folders).name])
    shutil.rmtree(folder)
    folder.symlink_to(target)
    return f"{folder.name} links to {target}"


def flipped_pack(sound: Path, work: Path, chance: random.Random) -> Call:
    """One bit of an array of a pack, whole or in shards: it is noticed."""
    shutil.copytree(sound, work)
    name = chance.choice(["pack", "shards"])
    arrays = sorted((work / name).rglob("*.npy"))
    path = chance.choices(arrays, [p.stat().st_size for p in arrays])[0]
    content = bytearray(path.read_bytes())
    at, bit = chance.randrange(len(content)), chance.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)

    def call() -> None:
        try:
            verify(Pack(work / name))
        except ForcelawError as error:
            raise error
        before = np.load(sound / path.relative_to(work))
        after = np.load(path)
        if before.tobytes() != after.tobytes() or before.shape != after.shape:
            raise Wrong("a flipped bit is not noticed")

    return f"{path.relative_to(work)}, byte {at}, bit {bit}", call


# Folders that cannot be written.

WRITERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "run": lambda s, w: ["run", f"{s}/t.yaml", "--out", f"{w}/out", "--device", "cpu"],
    "run, resumed": lambda s, w: ["run", f"{s}/t.yaml", "--out", f"{w}", "--device", "cpu"],
    "train": lambda s, w: ["train", "mpnn", "--size", "3e3", "--epochs", "1", "--out", f"{w}/out"],
    "prepare": lambda s, w: ["data", "prepare", f"{s}/a.xyz", "--out", f"{w}/pack"],
    "generate": lambda s, w: ["data", "generate", "--count", "2", "--out", f"{w}/pack"],
    "export": lambda s, w: ["export", f"{s}/out", "--table", f"{w}/kept"],
    "export --model": lambda s, w: ["export", f"{_one(s)}", "--model", f"{w}/m.pt2"],
    "report": lambda s, w: ["report", f"{s}/law", "--out", f"{w}/page"],
    "fit --json": lambda s, w: ["fit", f"{s}/law", "--json", f"{w}/fit.json"],
    "fit --figure": lambda s, w: ["fit", f"{s}/law", "--figure", f"{w}/fit.png"],
    "init": lambda s, w: ["init", f"{s}/pack", "--out", f"{w}/t.yaml"],
    "import": lambda s, w: ["import", f"{s}/kept", "--to", f"{w}/out"],
    "evaluate": lambda s, w: ["evaluate", f"{_one(s)}", f"{s}/a.xyz", "--json", f"{w}/e.json"],
}


def _one(folder: Path) -> Path:
    return sorted((folder / "out" / "runs").iterdir())[0]


_WRITERS_IN_TURN = InTurn(list(WRITERS))


def read_only(sound: Path, work: Path, chance: random.Random) -> Call:
    """One command after the other into a folder that is mounted for reading only (root is refused
    there, too; where nothing can be mounted, permissions are taken away)."""
    name = _WRITERS_IN_TURN()
    work.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "forcelaw-read-only", str(work)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        work.chmod(0o555)

    def call() -> int:
        code, _, err = command(WRITERS[name](sound, work))
        if code == 0:
            raise Wrong("a command that could not write ended with 0")
        return said(code, err)

    return name, call
