"""Every column, ours and of the field's packages, at one size on the same batches: a training step
with direct or gradient forces, eager (ours: kernels in a CUDA graph) and compiled.

    python benchmarks/field_table.py --out FOLDER [--limit 480] [--only WORD ...] [--quick]

Each row is measured in a process of its own with a time limit for each size of a step, in which
waiting for the card does not count, printed, and kept in FOLDER/rows.jsonl. A second call goes on
with what is missing (--again: also with what failed), and ends with 75 while something is. Several
processes prepare at a time, one a card measures; several cards share the rows. FOLDER/table.md is
written at the end of every call; FOLDER/errors.txt has the traceback of every failure, and where a
process was that was ended.

What a step is: forcelaw.training.step with everything in it, for packages as for ours. Packages
read our edges; what they build of them (PET's and EScAIP's padded neighbours, eSEN's rotations) is
inside. "compiled" is torch.compile with shapes that differ, with gradient forces after the
derivative has been traced into the program, as nequip's own compiled training does it
(nequip.nn.compile), once for all sizes; "start s" is the time of the first step, compiled rows: of
all steps once, most of it compilation (for the second size: with the program of the first). The
packages must be importable; field_wheels.py fetches them.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
LEFT = 75  # exit code: rows are missing
MARK, AT = "@row ", "@at "  # lines of a worker: what it measured, and where it is
WAITS = "waits for its turn"


@dataclass(frozen=True)
class Row:
    """A process: a column, its forces, and how it is run."""

    column: str  # of an architecture, with options: esen:lmax=4
    forces: str
    way: str  # eager or compiled
    package: str = ""  # what must be importable
    limit: float = 120.0  # seconds of work for a size of step

    @property
    def key(self) -> str:
        return f"{self.column} {self.forces} {self.way}"


def rows() -> list[Row]:
    """All rows, the most wanted first."""
    gradient, direct = "conservative", "direct"
    ours = [
        Row(n, f, "eager") for n in ("mpnn", "painn", "egnn", "esen") for f in (direct, gradient)
    ]
    adapters = "forcelaw.adapters.{}:ARCHITECTURE"

    def theirs(name: str, package: str, *forces: str) -> list[Row]:
        return [Row(adapters.format(name), f, "eager", package) for f in forces]

    def compiled(name: str, package: str, forces: str, limit: float = 150.0) -> Row:
        return Row(adapters.format(name), forces, "compiled", package, limit)

    return [
        *ours,
        # what compiles for longest begins first: others are measured meanwhile
        compiled("nequip", "nequip", gradient, 300.0),
        compiled("allegro", "allegro", gradient, 300.0),
        compiled("mace", "mace", gradient, 300.0),
        # which derives its products and tries ten forms of each kernel in its first step
        Row(adapters.format("flashcart"), gradient, "eager", "flashcart", 270.0),
        *theirs("allegro", "allegro", gradient),
        *theirs("orb", "orb_models", direct, gradient),
        *theirs("tensornet", "matgl", gradient),
        *theirs("escaip", "fairchem", direct, gradient),
        Row(adapters.format("flashcart") + ":kernels=false", gradient, "eager", "flashcart"),
        *theirs("nequip", "nequip", gradient),
        *theirs("mace", "mace", gradient),
        *theirs("pet", "metatrain", direct, gradient),
        *theirs("fairchem_esen", "fairchem", gradient, direct),
        # tensornet compiled: its traced program has other gradients by the weights (LABLOG)
        compiled("orb", "orb_models", direct),
        compiled("pet", "metatrain", direct),
        compiled("fairchem_esen", "fairchem", gradient, 240.0),
        compiled("escaip", "fairchem", direct),
        compiled("fairchem_esen", "fairchem", direct),
        *[Row(name, direct, "eager") for name in ("attention", "platonic", "gemnet_oc")],
        *[Row(name, direct, "compiled", limit=150.0) for name in ("mpnn", "painn", "egnn", "esen")],
    ]


# ------------------------------------------------------------------------- one row, in its process
def say(where: str) -> None:
    """Tell the process that watches this one where it is."""
    print(f"{AT}{where}", file=sys.stderr, flush=True)


def cause(error: BaseException) -> str:
    """What went wrong at the root, and where: torch's compilers wrap errors several times."""
    if "out of memory" in str(error):
        return "out of memory"
    inner = error
    while True:
        wrapped = type(inner).__module__.startswith(("torch._dynamo", "torch._inductor"))
        before = inner.__cause__ or (inner.__context__ if wrapped else None)
        if before is None:
            break
        inner = before
    text = next((line for line in str(inner).splitlines() if line.strip()), "").strip()
    said = f"{type(inner).__name__}: {text}"
    if found := re.search(r"got (\w+)\((['\"])(.*)\2\)", str(inner)):  # of a call on fake tensors
        said = f"{found[1]}: {found[3]}"
    frames = traceback.extract_tb(inner.__traceback__)
    place = ""
    if frames:
        path = Path(frames[-1].filename)
        place = f" ({'/'.join(path.parts[-3:])}:{frames[-1].lineno})"
    return f"{said[:200]}{place}"


def work(args: argparse.Namespace) -> None:
    """Measure the row that ``--worker`` names, and print it for each size of a step."""
    faulthandler.register(signal.SIGUSR1)
    say("imports torch")
    import warnings

    import torch
    from peers import Turns
    from traced_forces import Traced
    from training_speed import measure

    from forcelaw.data.pack import Pack
    from forcelaw.training import loop

    warnings.filterwarnings("ignore")
    row = next(r for r in rows() if r.key == args.worker)
    device, pack = torch.device(args.device), Pack(args.pack)
    # a program that ends where a number is read: in one, inductor fails on PET's padded neighbours
    torch._dynamo.config.capture_scalar_outputs = "fairchem_esen" in row.column
    ways: dict[str, Any] = {"eager": "no", "compiled": loop.compiled}
    if "flashcart" in row.column:  # what it does before its first step must not hold up the card
        ways["eager"] = lambda model: model
    if row.way == "compiled" and row.forces == "conservative":
        compiler = args.compiler or ("aot_eager" if args.quick else "inductor")
        ways["compiled"] = lambda model: Traced(model, compiler, say)
    option = "," if row.column.count(":") > ("forcelaw.adapters" in row.column) else ":"
    name = f"{row.column}{option}forces={row.forces}"
    turns = Turns(args.lock)

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        say(WAITS)
        with turns.alone():
            say("has its turn")
            yield

    # what was compiled serves both sizes of a step
    kept: dict[str, Any] | None = {} if row.way == "compiled" and row.package else None
    failed = ""
    for atoms in args.atoms:
        said: dict[str, Any] = {"key": row.key, "atoms": atoms, "device": args.name}
        said["torch"] = torch.__version__
        if failed:
            said["error"] = failed
        else:
            try:
                said |= measure(
                    pack,
                    name,
                    args.size,
                    atoms,
                    device,
                    "tf32" if device.type == "cuda" else "float32",
                    ways[row.way],
                    0.25,
                    count=4 if args.quick else max(8, min(24, 24 * 1400 // atoms)),
                    alone=alone,
                    say=say,
                    kept=kept,
                )
            except Exception as error:
                said |= {"error": cause(error), "traceback": traceback.format_exc()}
                if said["error"] != "out of memory":
                    failed = f"not tried: failed at {atoms}"
                kept = None if kept is None else {}
                torch._dynamo.reset()
        print(MARK + json.dumps(said), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------- all of them
HEAD = (
    f"{'column':<34}{'forces':<10}{'way':<10}{'N':>10}{'atoms/step':>11}{'ms/step':>9}{'atoms/s':>10}"
    f"{'GiB':>7}{'GFLOP/step':>12}{'TFLOP/s':>9}{'start s':>9}"
)


def described(key: str) -> tuple[str, str, str]:
    column, forces, way = key.rsplit(" ", 2)
    name = column.removeprefix("forcelaw.adapters.").replace(":ARCHITECTURE", "")
    ours = name == column
    way = {"eager": "kernels", "compiled": "compiled"}[way] if ours else way
    return name, "direct" if forces == "direct" else "gradient", way


def line(row: dict[str, Any]) -> str:
    head = "{:<34}{:<10}{:<10}".format(*described(row["key"]))
    if "error" in row:
        return f"{head}{row['atoms'] or '':>21}  {row['error']}"
    return (
        f"{head}{row['N']:>10,}{row['atoms_step']:>11.0f}{row['ms']:>9.2f}"
        f"{row['atoms_s'] / 1e3:>9.1f}k{row['gb']:>7.2f}{row['gflop_step']:>12.1f}"
        f"{row['tflops']:>9.2f}{row['start']:>9.1f}{'' if row['loss_ok'] else '  NON-FINITE'}"
    )


def table(kept: list[dict[str, Any]], atoms: list[int]) -> str:
    """Markdown: a line for each column, forces and way, what failed last; both sizes of a step
    beside each other."""
    good = {r["key"] for r in kept if "error" not in r}
    sizes = "".join(f" atoms/s at {a} | GiB | start s |" for a in atoms)
    out = [
        f"| column | forces | way | N |{sizes}",
        "|---|---|---|---|" + "---|---|---|" * len(atoms),
    ]
    for key in sorted(dict.fromkeys(row.key for row in rows()), key=lambda key: key not in good):
        mine = {r["atoms"]: r for r in kept if r["key"] == key}
        if not mine:
            continue
        one = next((r for r in mine.values() if "error" not in r), None)
        cells = []
        for a in atoms:
            r = mine.get(a) or mine.get(0) or {}
            if "atoms_s" in r:
                cells += [f"{r['atoms_s'] / 1e3:.1f}k", f"{r['gb']:.2f}", f"{r['start']:.0f}"]
            else:
                cells += [r.get("error", "-"), "-", "-"]
        n = f"{one['N']:,}" if one else "-"
        out.append("| " + " | ".join([*described(key), n, *cells]) + " |")
    return "\n".join(out) + "\n"


class Watch:
    """A worker as its lines come: its rows, where it is, and how long it has worked for a row;
    waiting for its turn is no work."""

    def __init__(self, process: subprocess.Popen[str], keep: Callable[[dict[str, Any]], None]):
        self.process, self.keep, self.rows = process, keep, 0
        self.where, self.others = "starts", list[str]()
        self.began, self.waited = time.monotonic(), 0.0
        self.waits: float | None = None  # since when
        self.readers = [threading.Thread(target=f) for f in (self._rows, self._places)]
        for reader in self.readers:
            reader.start()

    def _rows(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith(MARK):
                    self.rows += 1
                    self.keep(json.loads(line[len(MARK) :]))
                    self.began, self.waited = time.monotonic(), 0.0

    def _places(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for line in lines:
                if line.startswith(AT):
                    self._is_at(line[len(AT) :].strip())
                else:
                    self.others.append(line)

    def _is_at(self, where: str) -> None:
        now, since = time.monotonic(), self.waits
        self.waited += now - since if since is not None else 0.0
        self.waits = now if where == WAITS else None
        self.where = where

    def worked(self) -> float:
        """Seconds of work since the last row."""
        now, since = time.monotonic(), self.waits
        return now - self.began - self.waited - (now - since if since is not None else 0.0)

    def end(self, kill: bool = False) -> None:
        """Wait for its end, or ask for its stack and end it; and end what it has started, which
        would keep its pipes open."""
        if kill:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            self._kill()
        self.process.wait()
        self._kill()
        for reader in self.readers:
            reader.join()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Table:
    """Rows that are there, kept as they come, and those still to do."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.guard = args, threading.Lock()
        self.file, self.errors = args.out / "rows.jsonl", args.out / "errors.txt"
        text = self.file.read_text() if self.file.exists() else ""
        self.kept: list[dict[str, Any]] = [json.loads(t) for t in text.splitlines()]
        self.failed = [r for r in self.kept if args.again and "error" in r]  # to be tried again
        self.kept = [r for r in self.kept if not (args.again and "error" in r)]
        wanted = [r for r in rows() if not args.only or any(w in r.key for w in args.only)]
        missing = {r.package for r in wanted if r.package and not self.importable(r.package)}
        for name in sorted(missing):
            print(f"not importable, left out: {name}", flush=True)
        self.queue = [r for r in wanted if self.sizes(r) and r.package not in missing]
        self.until = time.monotonic() + args.limit

    @staticmethod
    def importable(package: str) -> bool:
        return importlib.util.find_spec(package) is not None

    def sizes(self, row: Row) -> list[int]:
        """The sizes of a step that a row has not been measured for; 0 stands for all."""
        done = {r["atoms"] for r in self.kept if r["key"] == row.key}
        return [] if 0 in done else [a for a in self.args.atoms if a not in done]

    def next(self) -> Row | None:
        """The first row that can end in what is left of the time."""
        with self.guard:
            left = self.until - time.monotonic()
            for row in self.queue:
                if left > (
                    15 if self.args.device == "cpu" else 90 if row.way == "compiled" else 35
                ):
                    self.queue.remove(row)
                    return row
        return None

    def keep(self, row: dict[str, Any]) -> None:
        with self.guard:
            if text := row.pop("traceback", ""):
                with self.errors.open("a") as file:
                    file.write(f"=== {row['key']}, {row['atoms']}: {row['error']}\n{text}\n")
            self.kept.append(row)
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(line(row), flush=True)

    def tidy(self) -> list[dict[str, Any]]:
        """All rows, the last of each size of a step, written to the file anew: failures of earlier
        calls stay until a row is tried again."""
        tried = {r["key"] for r in self.kept}
        old = [r for r in self.failed if r["atoms"] or r["key"] not in tried]
        last = {(r["key"], r["atoms"]): r for r in [*old, *self.kept]}
        new = self.file.with_suffix(".new")
        new.write_text("".join(json.dumps(r) + "\n" for r in last.values()))
        new.replace(self.file)
        return list(last.values())

    def run(self, row: Row, card: int, lock: Path) -> None:
        """A process for one row; one that the call's end cuts short is left to the next call."""
        sizes = self.sizes(row)
        given = ["--worker", row.key, "--lock", str(lock), "--name", self.args.name]
        given += ["--atoms", *map(str, sizes)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "CUDA_VISIBLE_DEVICES": str(card) if self.args.device == "cuda" else "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
            "TORCHINDUCTOR_COMPILE_THREADS": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS", "6"),
            "COVERAGE_RUN": "1",  # metatrain: no TorchScript, which stand-ins are not for
        }
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        watch = Watch(process, self.keep)
        late = False
        while process.poll() is None and not late:
            late = watch.worked() > row.limit
            if time.monotonic() > self.until:
                watch.end(kill=True)
                print(f"# cut short by the end of the call: {row.key}: {watch.where}", flush=True)
                with self.guard:
                    self.queue.insert(0, row)
                return
            time.sleep(0.2)
        watch.end(kill=late)
        stack = "".join(watch.others[-200:])
        for atoms in sizes[watch.rows :]:
            last = (stack.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:160]
            said = f"no step within {row.limit:.0f} s of work: {watch.where}" if late else last
            failed = {"key": row.key, "atoms": atoms, "device": self.args.name, "error": said}
            self.keep(failed | {"traceback": stack})
            late, stack = False, f"not tried: failed at {atoms}"


def main() -> int:
    args = arguments()
    if args.worker:
        work(args)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    import torch

    cards = max(1, torch.cuda.device_count()) if args.device == "cuda" else 1
    args.name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    found = Table(args)
    print(
        f"# {' '.join(sys.argv)}\n# {cards} x {args.name}, torch {torch.__version__},"
        f" {len(found.queue)} rows to do\n{HEAD}",
        flush=True,
    )

    def serve(card: int) -> None:
        while (row := found.next()) is not None:
            found.run(row, card, args.out / f"card{card}.lock")

    side_by_side = args.beside if args.device == "cuda" else 1
    threads = [
        threading.Thread(target=serve, args=(k % cards,)) for k in range(cards * side_by_side)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = table(found.tidy(), args.atoms)
    (args.out / "table.md").write_text(text)
    print(f"\n{text}\n# rows to do: {len(found.queue)}", flush=True)
    return LEFT if found.queue else 0


def arguments() -> argparse.Namespace:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pack", default=str(ROOT / "src" / "forcelaw" / "data" / "sample"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=float, default=1e6, help="parameters, about")
    parser.add_argument("--atoms", type=int, nargs="+", default=[8192, 1400], help="a step")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds of this call")
    parser.add_argument("--beside", type=int, default=6, help="processes a card")
    parser.add_argument("--only", nargs="+", default=[], help="rows with one of these words")
    parser.add_argument("--again", action="store_true", help="also rows that failed")
    parser.add_argument("--quick", action="store_true", help="small, two steps: a test on a CPU")
    parser.add_argument("--compiler", help="of traced programs (inductor; --quick: aot_eager)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--lock", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size = 1.5e4  # every column has such a size
        args.atoms = args.atoms if args.worker else [300, 150]
    return args


if __name__ == "__main__":
    sys.exit(main())
