"""One run on all cards of this machine beside the same run on one: what does it gain, are the
numbers the same, and when is a run for each card the better way?

    python benchmarks/several_gpus.py --pack PACK --out OUT [--minutes 6] [--parts speed,losses]
    python benchmarks/several_gpus.py --device cpu --quick --out OUT    # two processes, the sample

Rows are printed as they come and kept in OUT/several_gpus.json and .txt, whatever ends the script;
those of an earlier call stay there, so the parts may be done in several calls.

    speed    strong scaling at equal steps: atoms/s on one card and on all, efficiency, memory;
             "exchange" is the all-reduce timed alone, "waited" the share of a step that is gone
             when ranks do not exchange anything (exchange that shows, and waiting for the slowest);
             "uneven": edges of the fullest part over those of the mean one
    losses   float64: largest relative difference between one card and all; TF32: final losses of
             seeds on one card and on all
    graph    speed and losses again with the all-reduce inside of the CUDA graph of a step
    resume   `forcelaw train` on all cards, stopped by SIGTERM, on one, stopped, on all to the end,
             beside the same run undisturbed on one card, in float64
    study    `forcelaw run` of a study of small runs: spread over the cards by itself, the same with
             runs side by side, and one run after the other on all cards

Ranks of "speed", "losses" and "graph" are started by torch.distributed.run, those of the others by
forcelaw.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from forcelaw.api.run import Training
from forcelaw.data.pack import Pack, sample_path
from forcelaw.data.schedule import Feed, Shards
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.store.runs import RunDirectory, content_id
from forcelaw.study.accounting import accounts
from forcelaw.training.config import TrainOptions
from forcelaw.training.cooperative import drive
from forcelaw.training.loop import training
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.ranks import ALONE, Group, Ranks, loopback, started_by_torchrun
from forcelaw.training.spec import data_options, plan_for, shard_options, training_set
from forcelaw.training.step import EagerStep, GraphStep, new_stats

ROW = "ROW "  # begins a line of a job that is a row as JSON
PARTS = ("speed", "losses", "resume", "study", "graph")

FULL = SimpleNamespace(
    # label, architecture, size, options of the model
    models=[
        ("eSEN L2 6.2M", "esen", 6.26e6, {"depth": 4}),
        ("PaiNN 1M", "painn", 1e6, {}),
    ],
    atoms=[8192, 32768],
    seconds=1.5,
    steps=24,
    exact=[("painn", 1e5, 2048, 120), ("esen", 1e5, 1024, 60)],
    tf32=("painn", 1e6, 8192, 300, "tf32"),
    seeds=(0, 1, 2),
    resume=("painn", 1e5, 2048, 1500),
    # of "resume": so low that a difference of 1e-16 stays one of rounding to the end
    resume_lr=2e-5,
    study={"sizes": [1e6], "atoms": 8192 * 300, "batch_atoms": 8192, "precision": "tf32"},
    runs=16,
)
QUICK = SimpleNamespace(
    models=[("eSEN", "esen", 5e3, {"lmax": 1}), ("PaiNN", "painn", 5e3, {})],
    atoms=[256, 512],
    seconds=0.2,
    steps=6,
    exact=[("painn", 3e3, 256, 12), ("esen", 3e3, 256, 6)],
    tf32=("painn", 3e3, 256, 12, "float32"),
    seeds=(0, 1),
    resume=("painn", 3e3, 256, 150),
    resume_lr=2e-5,
    study={"sizes": [3e3], "atoms": 256 * 10, "batch_atoms": 256, "precision": "float32"},
    runs=2,
)


# --- in a rank ---------------------------------------------------------------------------------


class Speed:
    """Training steps of one model at one size of step, timed on all ranks together."""

    def __init__(self, pack: Pack, shards: Shards, ranks: Ranks, device: torch.device, s: Any):
        self.pack, self.shards, self.ranks, self.device, self.settings = (
            *(pack, shards, ranks),
            *(device, s),
        )

    def rows(self, atoms_of: list[int]) -> Iterator[dict[str, Any]]:
        for label, name, target, extra in self.settings.models:
            for atoms in atoms_of:
                try:
                    row = self._measure(name, target, extra, atoms)
                except RuntimeError as error:
                    row = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
                yield {"model": label, "step": atoms, "cards": self.ranks.size, **row}

    def _measure(self, name: str, target: float, extra: dict, atoms: int) -> dict[str, Any]:
        device, ranks = self.device, self.ranks
        torch.backends.cuda.matmul.allow_tf32 = True  # a part before this may have had it off
        config = size(name, target, **(data_options(self.pack) | extra))
        options = TrainOptions(batch_atoms=atoms, precision="tf32")
        indices = training_set(self.pack)
        natoms = np.diff(self.pack.offsets)[indices]
        steps = max(8, min(self.settings.steps, self.settings.steps * 8192 // atoms))
        schedule = plan_for(natoms, 0.95 * steps * atoms, 0, options)
        model = build(config, 0).to(device)
        optimizer = ScheduleFreeAdamW(model, lr=1e-4, steps=schedule.steps, warmup=5)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        feed = Feed(
            self.pack,
            indices,
            schedule,
            **shard_options(config),
            device=device,
            dtype=torch.float32,
            stress=False,
            config_weights=(),
            shards=self.shards,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        window = feed.whole()
        kind = GraphStep if device.type == "cuda" else EagerStep
        began = time.perf_counter()
        step = kind(model, optimizer, options, 0, new_stats(device), None, ranks)
        step.begin(feed.plan, window)
        seconds = self._seconds(step, schedule.steps)
        start = time.perf_counter() - began
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else math.nan
        found = {
            "n": model.n_parameters(),
            "atoms_s": float(schedule.atoms.sum()) / seconds,
            "ms": 1e3 * seconds / schedule.steps,
            "gib": float(ranks.largest(np.array([memory]))[0]),
            "start_s": start,
            "finite": bool(torch.isfinite(step.stats[0])),
        }
        if ranks.size > 1:
            found |= self._exchange(step, feed, window, schedule.steps, seconds)
        step.release()
        return found

    def _exchange(self, step: Any, feed: Feed, window: Any, steps: int, seconds: float) -> dict:
        """What the exchange takes, and how even the parts are."""
        edges = step.edges_needed
        found = {"uneven": float(edges.sum() * self.ranks.size / step.edges.sum())}
        alone = self._timed(lambda: [self.ranks.sum_(step.flat) for _ in range(20)]) / 20
        found |= {"exchange_ms": 1e3 * alone, "exchange_share": alone * steps / seconds}
        if self.ranks.in_graph:
            return found
        self.ranks.sum_ = lambda flat: None  # every rank for itself
        try:
            without = self._seconds(step, steps)
        finally:
            del self.ranks.sum_
        return found | {"waited_share": 1.0 - without / seconds}

    def _seconds(self, step: Any, steps: int) -> float:
        """Of all steps once: the median of blocks, each as long as on the slowest rank."""

        def block() -> None:
            for k in range(steps):
                step.run(k)

        block()
        first = self._timed(block)
        count = max(3, min(200, round(self.settings.seconds / first)))
        return statistics.median(self._timed(block) for _ in range(count))

    def _timed(self, body: Any) -> float:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        self.ranks.largest(np.zeros(1))  # all begin together
        began = time.perf_counter()
        body()
        if cuda:
            torch.cuda.synchronize()
        return float(self.ranks.largest(np.array([time.perf_counter() - began]))[0])


def specification(pack: Pack, case: tuple, seed: int, lr: float | None = None, **more: Any) -> Any:
    """The run of a case: architecture, size, atoms a step, steps, precision."""
    name, target, atoms, steps, *precision = case
    options = {"batch_atoms": atoms, "evaluations": 6, "validation_structures": 500} | more
    how = TrainOptions(**options, precision=precision[0] if precision else "float64")
    rate = {} if lr is None else {"learning_rate": lr}
    length = 0.97 * atoms * steps
    what = Training(
        architecture=name, size=target, data=str(pack.path), atoms=length, seed=seed, **rate
    )
    return what.resolve(pack, how)


def train(work: Path, pack: Pack, spec: Any, ranks: Ranks, device: Any, shards: Shards) -> dict:
    """Train a run by all ranks of this job: its evaluations and result."""
    path = work / f"cards-{ranks.size}{'-graph' * ranks.in_graph}" / content_id(spec.as_json())

    def create() -> str:
        RunDirectory.create(path.parent, spec.as_json())
        return path.name

    ranks.from_first(create)
    run = RunDirectory(path)
    if ranks.first and not run.claim():
        raise RuntimeError(f"{path} is claimed")
    drive(training(run, pack, device=device, ranks=ranks, shards=shards), device)
    run.release()
    # the others read what the first has written
    rows, result = ranks.from_first(lambda: [run.metrics(), run.result()])
    return {"rows": rows, "seconds": result["seconds"], "wall": result["wall_seconds"]}


def in_rank(args: argparse.Namespace) -> int:
    """The parts that ranks of torch.distributed.run do together; the first prints the rows."""
    s, pack = settings(args), Pack(args.pack)
    ranks = Group.of_environment(args.device) if started_by_torchrun() else ALONE
    device = ranks.device if isinstance(ranks, Group) else torch.device(args.device)
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        torch.cuda.set_stream(stream)
    shards = Shards()

    def emit(part: str, row: dict[str, Any]) -> None:
        if ranks.first:
            print(ROW + json.dumps({"part": part} | row), flush=True)

    def late() -> bool:
        return bool(ranks.largest(np.array([float(time.time() > args.until)]))[0])

    def speed(part: str, atoms: list[int]) -> None:
        for row in Speed(pack, shards, ranks, device, s).rows(atoms):
            emit(part, row)
            if late():
                break

    def losses(part: str, cases: list[tuple], seeds: tuple[int, ...]) -> None:
        for case in cases:
            for seed in seeds:
                if late():
                    return
                spec = specification(pack, case, seed)
                row = {"case": list(case), "seed": seed, "cards": ranks.size, "n": spec.n}
                emit(part, row | train(Path(args.work), pack, spec, ranks, device, shards))

    for part in args.job.split(","):
        if part == "speed":
            speed(part, s.atoms)
        elif part == "halves":  # what a card of two has to do, by itself
            speed(part, [a // args.cards for a in s.atoms])
        elif part == "exact":
            losses("losses", s.exact, (0,))
        elif part == "tf32":
            losses("losses", [s.tf32], s.seeds)
        elif part == "whole":  # what "resume" is compared with
            spec = specification(pack, s.resume, 0, s.resume_lr, evaluations=12)
            emit(part, train(Path(args.work), pack, spec, ranks, device, shards))
        elif part == "graph":
            ranks.in_graph = True
            speed(part, s.atoms)
            losses(part, s.exact[:1], (0,))
            ranks.in_graph = False
    if isinstance(ranks, Group):
        ranks.close()
    return 0


# --- the script itself -------------------------------------------------------------------------


class Report:
    """Rows so far: printed, kept, and looked up."""

    def __init__(self, out: Path):
        self.out, self.began = out, time.time()
        out.mkdir(parents=True, exist_ok=True)
        self.text = (out / "several_gpus.txt").open("a")
        kept = out / "several_gpus.json"
        self.all = json.loads(kept.read_text()) if kept.exists() else []

    def say(self, text: str) -> None:
        line = f"{time.time() - self.began:5.0f} s  {text}"
        print(line, flush=True)
        self.text.write(line + "\n")
        self.text.flush()

    def add(self, row: dict[str, Any]) -> None:
        self.all.append(row)
        (self.out / "several_gpus.json").write_text(json.dumps(self.all, indent=1) + "\n")
        text = DESCRIBE.get(row["part"], lambda report, row: None)(self, row)
        if text:
            self.say(text)

    def find(self, part: str, **wanted: Any) -> dict[str, Any] | None:
        for row in reversed(self.all):
            if row["part"] == part and all(row.get(k) == v for k, v in wanted.items()):
                return row
        return None


def say_speed(report: Report, row: dict[str, Any]) -> str:
    head = f"{row['part']:<8}{row['model']:<14}{row['step']:>7} atoms a step, {row['cards']} card"
    if "error" in row:
        return f"{head}: {row['error']}"
    text = f"{head}: {row['atoms_s'] / 1e3:8.1f}k atoms/s {row['ms']:8.2f} ms {row['gib']:6.1f} GiB"
    one = report.find("speed", model=row["model"], step=row["step"], cards=1)
    if row["cards"] > 1 and one and "ms" in one:
        row["efficiency"] = one["ms"] / row["ms"] / row["cards"]
        text += f"  efficiency {row['efficiency']:.3f}"
    if "exchange_ms" in row:
        text += f"  exchange {row['exchange_ms']:.3f} ms ({100 * row['exchange_share']:.1f}%)"
        text += f"  uneven {row['uneven']:.3f}"
    if "waited_share" in row:
        text += f"  waited {100 * row['waited_share']:.1f}%"
    return text + ("" if row["finite"] else "  NOT FINITE")


def difference(ours: list[dict], theirs: list[dict]) -> float:
    """Largest relative difference of losses at equal steps; nan where there are none."""
    other = {row["step"]: row for row in theirs}
    names = ("loss", "loss_energy", "loss_forces", "train_loss", "grad_norm", "c")
    pairs = [(row[k], other[row["step"]][k]) for row in ours if row["step"] in other for k in names]
    return max((abs(a - b) / max(abs(b), 1e-300) for a, b in pairs), default=math.nan)


def say_losses(report: Report, row: dict[str, Any]) -> str:
    name, target, atoms, steps, *precision = row["case"]
    where = f"{row['cards']} card{'s' * (row['cards'] > 1)}"
    text = f"{row['part']:<8}{name} {target:g}, {atoms} atoms a step, {steps} steps, "
    text += f"{precision[0] if precision else 'float64'}, seed {row['seed']}, {where}:"
    text += f" loss {row['rows'][-1]['loss']:.12g}, {row['wall']:.2f} s of training"
    one = report.find("losses", case=row["case"], seed=row["seed"], cards=1)
    if one and row["cards"] > 1:
        row["difference"] = difference(row["rows"], one["rows"])
        text += f"; largest relative difference to one card {row['difference']:.1e}"
    return text


DESCRIBE = {
    "speed": say_speed,
    "halves": say_speed,
    "graph": lambda report, row: (say_losses if "case" in row else say_speed)(report, row),
    "losses": say_losses,
    "resume": lambda report, row: f"resume  {row['text']}",
    "study": lambda report, row: f"study   {row['text']}",
}


def spread(report: Report, case: tuple, seeds: tuple[int, ...]) -> None:
    """TF32: are the final losses on all cards within the spread of seeds on one?"""
    found = {}
    for row in report.all:
        if row["part"] == "losses" and tuple(row["case"]) == case:
            found.setdefault(row["cards"], {})[row["seed"]] = row["rows"][-1]["loss"]
    if len(found) == 2 and all(len(v) == len(seeds) > 1 for v in found.values()):
        (_, one), (cards, many) = sorted(found.items())
        sd = statistics.stdev(one.values())
        shift = statistics.mean(many.values()) - statistics.mean(one.values())
        same = max(abs(many[seed] - one[seed]) for seed in seeds)
        report.add({"part": "spread", "one": one, "many": many, "sd": sd, "shift": shift})
        report.say(
            f"losses  {case[4]}: spread of {len(seeds)} seeds on one card {sd:.4f}; mean on"
            f" {cards} cards {shift:+.4f}; same seed differs by {same:.4f} at most"
        )


def settings(args: argparse.Namespace) -> Any:
    return QUICK if args.quick else FULL


class Jobs:
    """Commands of this script, each with a time limit."""

    def __init__(self, args: argparse.Namespace, report: Report, work: Path):
        self.args, self.report, self.work = args, report, work
        self.until = report.began + 60 * args.minutes

    @property
    def left(self) -> float:
        return self.until - time.time()

    def ranks(self, cards: int, job: str, limit: float) -> None:
        """Parts ``job`` by ``cards`` ranks; their rows are added to the report."""
        limit = min(limit, self.left)
        if limit < 5:
            self.report.say(f"no time left for {job} on {cards} card(s)")
            return
        a = self.args
        command = [sys.executable]
        if cards > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
            command += ["--nproc-per-node", str(cards)]
        command += [str(Path(__file__).resolve()), "--job", job, "--device", a.device]
        command += ["--pack", str(a.pack), "--work", str(self.work), "--cards", str(a.cards)]
        command += ["--until", repr(time.time() + limit - 10)] + ["--quick"] * a.quick
        process = self._start(command, subprocess.PIPE)
        reader = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        reader.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
        self._end(process, f"{job} on {cards} card(s)")
        reader.join(5)

    def _read(self, lines: Any) -> None:
        for line in lines:
            if line.startswith(ROW):
                self.report.add(json.loads(line.removeprefix(ROW)))
            else:
                print(line, end="", flush=True)

    def command(self, words: list[str], limit: float, until: Any = None) -> tuple[int, float]:
        """A command of forcelaw: its exit code and seconds; SIGTERM once ``until()`` is true."""
        began = time.time()
        process = self._start([sys.executable, "-m", "forcelaw.cli", *words], sys.stderr)
        end, asked = began + min(limit, max(5.0, self.left)), False
        while process.poll() is None and time.time() < end:
            if until and not asked and until():
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.05)
        self._end(process, " ".join(words[:3]))
        return process.returncode, time.time() - began

    def _start(self, command: list[str], stdout: Any) -> subprocess.Popen:
        return subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True)

    def _end(self, process: subprocess.Popen, what: str) -> None:
        if process.poll() is None:
            self.report.say(f"{what}: not over in time, killed")
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.returncode not in (0, 130):
            self.report.say(f"{what}: exit code {process.returncode}")


def resume(jobs: Jobs, s: Any) -> None:
    """All cards, one card, all cards, each but the last stopped by SIGTERM."""
    args, report = jobs.args, jobs.report
    name, target, atoms, steps = s.resume
    pack = Pack(args.pack)
    spec = specification(pack, s.resume, 0, s.resume_lr, evaluations=12)
    run = RunDirectory(jobs.work / "resume" / "runs" / content_id(spec.as_json()))
    words = ["train", name, "--size", repr(target), "--data", str(pack.path), "--seed", "0"]
    words += [
        "--learning-rate",
        repr(s.resume_lr),
        "--atoms",
        repr(0.97 * atoms * steps),
        "--batch-atoms",
        str(atoms),
    ]
    words += ["--precision", "float64", "--evaluations", "12", "--validation-structures", "500"]
    words += ["--device", args.device, "--out", str(jobs.work / "resume")]
    at, told = [], []
    for cards, rows in ((args.cards, 4), (1, 8), (args.cards, None)):
        until = None
        if rows:
            until = lambda rows=rows: len(_rows(run)) >= rows  # noqa: E731
        code, seconds = jobs.command([*words, "--gpus", str(cards)], 60, until)
        at.append(run.position())
        told.append(f"{cards}: to step {at[-1]}, exit code {code}, {seconds:.0f} s")
    whole = report.find("whole")
    found = difference(_rows(run), whole["rows"]) if whole else math.nan
    result = run.result() or {}
    text = f"{name}, cards {'; '.join(told)}; ranks {result.get('ranks')}; largest relative"
    text += f" difference to one card undisturbed {found:.1e} (float64)"
    row = {"part": "resume", "stops": at, "steps": spec.steps, "difference": found, "text": text}
    report.add(row | {"rows": _rows(run), "status": result.get("status")})


def _rows(run: RunDirectory) -> list[dict[str, Any]]:
    return run.metrics() if run.path.exists() else []


def study(jobs: Jobs, s: Any) -> None:
    """The same runs spread over the cards, and each on all of them."""
    args, report, what = jobs.args, jobs.report, s.study
    path = jobs.work / "study.yaml"
    seeds = list(range(s.runs))
    path.write_text(
        f"name: study\ndata: {Path(args.pack).resolve()}\narchitectures: [painn]\n"
        f"sizes: {what['sizes']}\nseeds: {seeds}\natoms: {what['atoms']}\n"
        f"train: {{batch_atoms: {what['batch_atoms']}, precision: {what['precision']},"
        " evaluations: 4, validation_structures: 200}\n"
    )
    ways = [
        ("a run a card", ["--runs-per-device", "1"], 1),
        ("each on all cards", ["--gpus", str(args.cards)], args.cards),
        ("side by side on each", ["--runs-per-device", "auto"], 1),
    ]
    for name, options, gpus in ways:
        if (args.device == "cpu" and "auto" in options) or jobs.left < 10:
            report.say(f"study: {name}: left out")
            continue
        out = jobs.work / name.replace(" ", "-")
        words = ["run", str(path), "--out", str(out), "--device", args.device, "--no-report"]
        words += ["--workers", str(args.cards // gpus), *options]
        code, seconds = jobs.command(words, 100)
        if not (out / "runs").is_dir():
            report.say(f"study: {name}: nothing was trained, exit code {code}")
            continue
        total = accounts(out)
        done = total.runs.get("finished", 0)
        rates = done / seconds * 60
        text = f"{done} of {s.runs} runs, {name}: {seconds:.1f} s by the clock with all start-up,"
        text += f" {rates:.1f} runs a minute; {3600 * total.solo_hours:.1f} device-seconds of"
        text += f" training in {3600 * total.held_hours:.1f} held"
        row = {"part": "study", "way": name, "cards": gpus, "runs": done, "seconds": seconds}
        row |= {"training": 3600 * total.solo_hours, "held": 3600 * total.held_hours}
        report.add(row | {"code": code, "text": text})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, default=sample_path())
    parser.add_argument("--out", type=Path, help="folder of several_gpus.json and .txt")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--cards", type=int, help="how many (default: all; 2 processes on a CPU)")
    parser.add_argument("--minutes", type=float, default=6.0, help="time for everything")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="tiny models: does the script work?")
    for hidden in ("--job", "--work", "--until"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    loopback()
    if args.job:
        args.until = float(args.until)
        return in_rank(args)
    if args.out is None:
        parser.error("--out is missing")
    if args.cards is None:
        args.cards = torch.cuda.device_count() if args.device == "cuda" else 2
    parts, s, report = args.parts.split(","), settings(args), Report(args.out)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    report.say(f"python {' '.join(sys.argv)}")
    report.say(f"{args.cards} x {name}, torch {torch.__version__}, pack {Pack(args.pack).hash}")
    with tempfile.TemporaryDirectory(prefix="several-gpus-") as work:
        jobs = Jobs(args, report, Path(work))
        # the parts of a job, and for which part of the script they are
        steps = [("speed", "speed"), ("tf32", "losses"), ("exact", "losses")]
        more = [("whole", "resume"), ("halves", "speed")]
        for cards, all_of in ((1, steps + more), (args.cards, steps)):
            wanted = [job for job, part in all_of if part in parts]
            if wanted and (cards > 1 or all_of != steps):
                jobs.ranks(cards, ",".join(wanted), 170)
        if "losses" in parts:
            spread(report, s.tf32, s.seeds)
        if args.cards > 1:
            if "resume" in parts and jobs.left > 30:
                resume(jobs, s)
            if "study" in parts:
                study(jobs, s)
            # last: a collective that hangs inside of a graph costs nothing but itself
            if "graph" in parts:
                jobs.ranks(args.cards, "graph", 90)
    report.say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
