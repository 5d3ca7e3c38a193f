"""The large form of the hostile inputs: every case in a process of its own, whose end, time and
memory are taken.

    python -m tests.fuzz.campaign [ROW ...] [--share 1.0] [--seed 0]

Prints a line for each row: cases, how many were read and refused, tracebacks, hangs, wrong
acceptances, refusals without a place and a remedy, the largest memory and the longest time of a
case. The exit code is the number of cases that ended as none may. A short form runs with the other
tests (test_campaign.py).
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import archives, commands, evidence, labels
from tests.fuzz.damage import damage_bytes
from tests.fuzz.inputs import INPUTS
from tests.fuzz.isolated import Outcome, isolated
from tests.packs import write_pack

# what cases need is imported once, before they are forked
for module in (
    "cli.laws",
    "laws.fit.fit",
    "table.read",
    "report.write",
    "study.worker",
    "portable",
):
    importlib.import_module(f"forcelaw.{module}")
GOOD = ("read", "refused")
MEMORY = 1000  # MB that a case may take, of which some 450 are Python and all packages

# A row makes its sound files in a folder, once; then case(folder, work, chance) damages a copy in
# the folder work and returns what was done and what is to be called.
Call = tuple[str, Callable[[], int | None]]
Case = Callable[[Path, Path, random.Random], Call]


def _input(name: str) -> tuple[Callable[[Path], None], Case]:
    kind = INPUTS[name]

    def case(sound: Path, work: Path, chance: random.Random) -> Call:
        shutil.copytree(sound, work)
        files = sorted(p for p in work.rglob("*") if p.is_file())
        return damage_bytes(chance.choice(files), chance), lambda: kind.use(work)

    return kind.make, case


# row: (cases, how sound files are made, a case)
ROWS: dict[str, tuple[int, Callable[[Path], None], Case]] = {
    "extxyz": (700, *_input("extxyz")),
    "extxyz.gz": (400, *_input("extxyz.gz")),
    "npz": (700, *_input("npz")),
    "hdf5": (700, *_input("hdf5")),
    "db": (500, *_input("db")),
    "aselmdb": (400, *_input("aselmdb")),
    "pack": (600, *_input("pack")),
    "pack in shards": (600, commands.make_shards, commands.damaged_shards),
    "pack, one bit": (200, commands.make_pack, commands.flipped_pack),
    "study": (520, *_input("study")),
    "table, fit": (1500, commands.make_tables, commands.fit_table),
    "filter": (len(commands.FILTERS), commands.make_tables, commands.hostile_filter),
    "evidence": (704, evidence.make, evidence.case),
    "archive": (704, archives.make, archives.case),
    "directory": (240, commands.make_directory, commands.damaged_directory),
    "checkpoint": (120, commands.make_run, commands.damaged_checkpoint),
    "label": (len(labels.LABELS), lambda folder: None, labels.case),
    "read-only folder": (len(commands.WRITERS), commands.make_directory, commands.read_only),
}


def run_row(name: str, folder: Path, share: float, seed: int, every: bool) -> list[Outcome]:
    """The outcomes of a row; those that none may have are printed, or ``every`` one."""
    count, make, case = ROWS[name]
    (folder / "files").mkdir(parents=True)
    write_pack(folder / "sound")  # beside what is damaged
    # polars and torch start threads where they are used: not in the process that forks
    made = isolated(lambda: make(folder / "files"))
    assert made.kind == "read", made.said
    outcomes = []
    for k in range(max(1, round(share * count))):
        work = folder / "work"
        commands.remove(work)
        chance = random.Random(f"{name} {seed} {k}")
        try:
            done, call = case(folder / "files", work, chance)
            outcome = isolated(call)
        finally:
            commands.clean_up(work)
        outcomes.append(outcome)
        if every or outcome.kind not in GOOD or outcome.memory > MEMORY:
            print(
                f"{name}, case {k}: {outcome.kind}, {outcome.memory:.0f} MB: {done}\n"
                f"{outcome.said[-1500:]}",
                file=sys.stderr,
                flush=True,
            )
    print(line(name, outcomes), flush=True)
    return outcomes


COLUMNS = ("read", "refused", "traceback", "crash", "hang", "wrong", "bare")


def line(name: str, outcomes: list[Outcome]) -> str:
    kinds = [sum(o.kind == kind for o in outcomes) for kind in COLUMNS]
    memory, seconds = max(o.memory for o in outcomes), max(o.seconds for o in outcomes)
    numbers = "".join(f"{count:>10}" for count in [len(outcomes), *kinds])
    return f"{name:<18}{numbers}{memory:>10.0f}{seconds:>10.1f}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", action="store_true", help="print how every case ended")
    args = parser.parse_args()
    print(f"# {' '.join(['tests.fuzz.campaign', *sys.argv[1:]])}")
    title = "".join(f"{word:>10}" for word in ("cases", *COLUMNS, "peak MB", "most s"))
    print(f"{'row':<18}{title}", flush=True)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        for number, row in enumerate(args.rows or ROWS):
            found = run_row(row, Path(name) / str(number), args.share, args.seed, args.every)
            bad += sum(o.kind not in GOOD or o.memory > MEMORY for o in found)
            shutil.rmtree(Path(name) / str(number), ignore_errors=True)
    return bad


if __name__ == "__main__":
    sys.exit(min(main(), 125))
