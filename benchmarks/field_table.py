"""Every column, ours and of the field's packages, at one size on the same batches: a training step
with direct or gradient forces, eager (ours: kernels in a CUDA graph) and compiled.

    python benchmarks/field_table.py --out FOLDER [--limit 480] [--only WORD ...] [--quick]

Each row is measured in a process of its own with a time limit, printed, and kept in
FOLDER/rows.jsonl. A second call goes on with what is missing (--again: also with what failed), and
ends with 75 while something is. Several processes prepare at a time, one a card measures; several
cards share the rows. FOLDER/table.md is written at the end of every call.

What a step is: forcelaw.training.step with everything in it, for packages as for ours. Packages
read our edges; what they build of them (PET's and EScAIP's padded neighbours, eSEN's rotations) is
inside. "compiled" is torch.compile with shapes that differ, with gradient forces after the
derivative has been traced into the program, as nequip does it; "start s" is the time before the
second step, most of it compilation. The packages must be importable; field_wheels.py fetches them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
LEFT = 75  # exit code: rows are missing
MARK = "@row "


@dataclass(frozen=True)
class Row:
    """A process: a column, its forces, and how it is run."""

    column: str  # of an architecture, with options: esen:lmax=4
    forces: str
    way: str  # eager or compiled
    package: str = ""  # what must be importable
    limit: float = 90.0

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
        # flashcart derives its products symbolically before its first step
        limit = 180.0 if name == "flashcart" else 90.0
        return [Row(adapters.format(name), f, "eager", package, limit) for f in forces]

    def compiled(name: str, package: str, forces: str, limit: float = 150.0) -> Row:
        return Row(adapters.format(name), forces, "compiled", package, limit)

    return [
        *ours,
        *theirs("nequip", "nequip", gradient),
        *theirs("allegro", "allegro", gradient),
        *theirs("mace", "mace", gradient),
        *theirs("pet", "metatrain", direct, gradient),
        *theirs("fairchem_esen", "fairchem", gradient, direct),
        *theirs("flashcart", "flashcart", gradient),
        compiled("nequip", "nequip", gradient, 330.0),
        compiled("allegro", "allegro", gradient, 240.0),
        *theirs("tensornet", "matgl", gradient),
        *theirs("orb", "orb_models", direct, gradient),
        *theirs("escaip", "fairchem", direct, gradient),
        compiled("mace", "mace", gradient),
        compiled("fairchem_esen", "fairchem", gradient),
        compiled("pet", "metatrain", direct),
        compiled("orb", "orb_models", direct),
        compiled("tensornet", "matgl", gradient),
        compiled("flashcart", "flashcart", gradient),
        compiled("escaip", "fairchem", direct),
        compiled("fairchem_esen", "fairchem", direct),
        *[Row(name, direct, "eager") for name in ("attention", "platonic", "gemnet_oc")],
        *[Row(name, direct, "compiled", limit=150.0) for name in ("mpnn", "painn", "egnn", "esen")],
    ]


# ------------------------------------------------------------------------- one row, in its process
class Traced:
    """Energies and gradient forces of a model as one program: the derivative is traced (make_fx),
    then compiled, so that training differentiates no derivative. Made for the first batch; a model
    whose shapes the trace takes for constants fails at the second (matgl's TensorNet does)."""

    def __init__(self, model: Any, compiler: str = "inductor"):
        self.model, self.compiler, self.program = model, compiler, None
        self.names, self.weights = zip(*model.named_parameters())

    def __call__(self, graph: Any) -> Any:
        fields = (graph.species, graph.batch, graph.pos, graph.sender, graph.receiver, graph.natoms)
        if self.program is None:
            self.program = self._trace(fields)
        return self.program(*fields, *self.weights)

    def _trace(self, fields: tuple[Any, ...]) -> Any:
        import torch
        from torch._decomp import core_aten_decompositions
        from torch.func import functional_call
        from torch.fx.experimental import _config
        from torch.fx.experimental.proxy_tensor import make_fx

        from forcelaw.graph import GraphBatch

        def whole(*given: Any) -> Any:
            species, batch, pos, sender, receiver, natoms, *weights = given
            graph = GraphBatch(species, batch, pos, sender, receiver, natoms)
            return functional_call(self.model, dict(zip(self.names, weights)), (graph,))

        def silu_backward(gradient: Any, x: Any) -> Any:  # the core table's has no derivative
            gate = torch.sigmoid(x)
            return gradient * gate * (1 + x * (1 - gate))

        table = dict(core_aten_decompositions())
        table[torch.ops.aten.silu_backward.default] = silu_backward
        weights = [w.detach().clone().requires_grad_() for w in self.weights]
        # two sizes that happen to be equal are not to be one; threads of autograd see no table
        duck, _config.use_duck_shape = _config.use_duck_shape, False
        try:
            with torch.autograd.set_multithreading_enabled(False):
                program = make_fx(
                    whole, table, tracing_mode="symbolic", _allow_non_fake_inputs=True
                )(*fields, *weights)
        finally:
            _config.use_duck_shape = duck
        return torch.compile(program, dynamic=True, backend=self.compiler)


def work(args: argparse.Namespace) -> None:
    """Measure the row that ``--worker`` names, and print it for each size of a step."""
    import warnings

    import torch
    from peers import Turns
    from training_speed import measure

    from forcelaw.data.pack import Pack
    from forcelaw.training import loop

    warnings.filterwarnings("ignore")
    row = next(r for r in rows() if r.key == args.worker)
    device, pack = torch.device(args.device), Pack(args.pack)
    torch._dynamo.config.capture_scalar_outputs = True
    ways: dict[str, Any] = {"eager": "no", "compiled": loop.compiled}
    if row.way == "compiled" and row.forces == "conservative":
        ways["compiled"] = lambda model: Traced(model, "aot_eager" if args.quick else "inductor")
    option = "," if row.column.count(":") > ("forcelaw.adapters" in row.column) else ":"
    name = f"{row.column}{option}forces={row.forces}"
    turns = Turns(args.lock)
    for atoms in args.atoms:
        said: dict[str, Any] = {"key": row.key, "atoms": atoms, "device": args.name}
        try:
            said |= measure(
                *(
                    pack,
                    name,
                    args.size,
                    atoms,
                    device,
                    "tf32" if device.type == "cuda" else "float32",
                ),
                ways[row.way],
                0.25,
                count=2 if args.quick else max(8, min(24, 24 * 1400 // atoms)),
                alone=turns.alone,
            )
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0][:160]
            text = "out of memory" if "out of memory" in str(error) else text
            said["error"] = f"{type(error).__name__}: {text}"
        print(MARK + json.dumps(said), flush=True)
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------- all of them
HEAD = (
    f"{'column':<34}{'forces':<10}{'way':<10}{'N':>10}{'atoms/step':>11}{'ms/step':>9}{'atoms/s':>10}"
    f"{'GiB':>7}{'GFLOP/step':>12}{'TFLOP/s':>9}{'start s':>9}"
)


def described(key: str) -> tuple[str, str, str]:
    column, forces, way = key.rsplit(" ", 2)
    name = column.removeprefix("forcelaw.adapters.").removesuffix(":ARCHITECTURE")
    ours = name == column
    way = {"eager": "kernels", "compiled": "compiled"}[way] if ours else way
    return name, "direct" if forces == "direct" else "gradient", way


def line(row: dict[str, Any]) -> str:
    head = "{:<34}{:<10}{:<10}".format(*described(row["key"]))
    if "error" in row:
        return f"{head}{row['atoms'] or '':>10}  {row['error']}"
    return (
        f"{head}{row['N']:>10,}{row['atoms_step']:>11.0f}{row['ms']:>9.2f}"
        f"{row['atoms_s'] / 1e3:>9.1f}k{row['gb']:>7.2f}{row['gflop_step']:>12.1f}"
        f"{row['tflops']:>9.2f}{row['start']:>9.1f}{'' if row['loss_ok'] else '  NON-FINITE'}"
    )


def table(kept: list[dict[str, Any]], atoms: list[int]) -> str:
    """Markdown: a line for each column, forces and way; both sizes of a step beside each other."""
    sizes = "".join(f" atoms/s at {a} | GiB | start s |" for a in atoms)
    out = [
        f"| column | forces | way | N |{sizes}",
        "|---|---|---|---|" + "---|---|---|" * len(atoms),
    ]
    for key in dict.fromkeys(row.key for row in rows()):
        mine = {r["atoms"]: r for r in kept if r["key"] == key}
        if not mine:
            continue
        good = next((r for r in mine.values() if "error" not in r), None)
        cells = []
        for a in atoms:
            r = mine.get(a) or mine.get(0) or {}
            if "atoms_s" in r:
                cells += [f"{r['atoms_s'] / 1e3:.1f}k", f"{r['gb']:.2f}", f"{r['start']:.0f}"]
            else:
                cells += [r.get("error", "-"), "-", "-"]
        n = f"{good['N']:,}" if good else "-"
        out.append("| " + " | ".join([*described(key), n, *cells]) + " |")
    return "\n".join(out) + "\n"


class Table:
    """Rows that are there, kept as they come, and those still to do."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.guard = args, threading.Lock()
        self.file = args.out / "rows.jsonl"
        text = self.file.read_text() if self.file.exists() else ""
        self.kept: list[dict[str, Any]] = [json.loads(t) for t in text.splitlines()]
        done = {r["key"] for r in self.kept if not (args.again and "error" in r)}
        if args.again:
            self.kept = [r for r in self.kept if "error" not in r]
        wanted = [r for r in rows() if not args.only or any(w in r.key for w in args.only)]
        missing = {r.package for r in wanted if r.package and not self.importable(r.package)}
        for name in sorted(missing):
            print(f"not importable, left out: {name}", flush=True)
        self.queue = [r for r in wanted if r.key not in done and r.package not in missing]
        self.until = time.monotonic() + args.limit

    @staticmethod
    def importable(package: str) -> bool:
        return importlib.util.find_spec(package) is not None

    def next(self) -> Row | None:
        """The first row that can end in what is left of the time."""
        with self.guard:
            left = self.until - time.monotonic()
            for row in self.queue:
                if left > (15 if self.args.device == "cpu" else 35):
                    self.queue.remove(row)
                    return row
        return None

    def keep(self, row: dict[str, Any]) -> None:
        with self.guard:
            self.kept.append(row)
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(line(row), flush=True)

    def run(self, row: Row, card: int, lock: Path) -> None:
        """A process for one row; one that the call's end cuts short is left to the next call."""
        limit = min(row.limit, self.until - time.monotonic())
        given = ["--worker", row.key, "--lock", str(lock), "--name", self.args.name]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "CUDA_VISIBLE_DEVICES": str(card) if self.args.device == "cuda" else "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
            "COVERAGE_RUN": "1",  # metatrain: no TorchScript, which stand-ins are not for
        }
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], *given]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
            if limit >= row.limit:
                said = f"no step within {row.limit:.0f} s"
                errors = said
            else:
                with self.guard:
                    self.queue.insert(0, row)
                return
        found = [json.loads(t[len(MARK) :]) for t in out.splitlines() if t.startswith(MARK)]
        for r in found:
            self.keep(r)
        if len(found) < len(self.args.atoms):
            last = (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
            self.keep({"key": row.key, "atoms": 0, "device": self.args.name, "error": last[:160]})


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
    text = table(found.kept, args.atoms)
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
    parser.add_argument("--beside", type=int, default=5, help="processes a card")
    parser.add_argument("--only", nargs="+", default=[], help="rows with one of these words")
    parser.add_argument("--again", action="store_true", help="also rows that failed")
    parser.add_argument("--quick", action="store_true", help="small, two steps: a test on a CPU")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--lock", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.atoms = 1.5e4, [100, 60]  # every column has such a size
    return args


if __name__ == "__main__":
    sys.exit(main())
