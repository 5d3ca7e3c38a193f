"""The help of every command: it appears at once, and its examples run as they are written."""

import argparse
import re
import shlex
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import COMMANDS, EPILOG, build_parser, main
from tests.data import files
from tests.laws.studies import columns, join, study
from tests.laws.test_rates import sweep

KINDS = ("CH4", "H2O", "NH3", "CH3CH2OH", "C2H6", "C2H4", "HCN", "H2CO", "CH3OH", "N2H4", "H2O2")
# seconds of training, or simulations of a minute
SLOW = (
    "forcelaw certify",
    "forcelaw run",
    "forcelaw train",
    "forcelaw design",
    "forcelaw forecast",
    "forcelaw report",
)
NEEDS_A_STUDY = ("forcelaw status", "forcelaw stop", "forcelaw export", "forcelaw import")
NEEDS_A_RUN = ("forcelaw evaluate",)


def parsers(parser: argparse.ArgumentParser):
    """A parser and those of its commands, all the way down."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers(one)


def examples(text: str) -> list[str]:
    """The lines of a help text that are commands, without what is said about them."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  forcelaw ")]
    return [re.split(r"\s{3,}|\s+# ", line)[0] for line in lines]


EXAMPLES = sorted({line for one in parsers(build_parser()) for line in examples(one.epilog or "")})
CHEAP = [line for line in EXAMPLES if not line.startswith((*SLOW, *NEEDS_A_STUDY, *NEEDS_A_RUN))]


def test_help_imports_only_what_it_shows():
    code = (
        "import sys\nfrom forcelaw.cli.main import COMMANDS, main\n"
        "heavy = {'torch', 'numpy', 'ase', 'scipy', 'polars', 'matplotlib', 'h5py', 'rdkit'}\n"
        "def show(*words):\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "show()\n"
        "assert 'pydantic' not in sys.modules\n"
        "for name in COMMANDS: show(name)\n"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_option_has_a_help():
    for parser in parsers(build_parser()):
        for action in parser._actions:
            assert action.help or action.metavar in ("PACK", "COMMAND"), (parser.prog, action.dest)


def test_there_are_examples():
    assert set(examples(EPILOG)) <= set(EXAMPLES) and len(EXAMPLES) > 15


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_understood(line):
    args = build_parser().parse_args(shlex.split(line)[1:])
    assert callable(args.handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples name: a table of runs, a data set, a pack."""
    path = tmp_path_factory.mktemp("examples")
    runs = join(study(6, seed=3), study(6, seed=4), names=("painn", "mpnn"))
    table = columns(runs)
    more = {
        "gpu_hours": table["flops"] / 3.6e18,
        "device": "H200",
        "u": np.minimum(table["tokens"], 1e9),
        "step": np.rint(table["tokens"] / 1e3).astype(int),
    }
    pl.DataFrame(table | more).write_csv(path / "runs.csv")
    sweep(kind="sweep").write_csv(path / "sweeps.csv")
    files.extxyz(path / "my.extxyz", files.molecules(60, kinds=KINDS))
    atoms = [files.free_atom(z) for z in (1, 6, 7, 8)]
    files.extxyz(path / "a.xyz", [*atoms, *files.molecules(60, seed=1, kinds=KINDS)])
    files.extxyz(path / "b.xyz", files.molecules(20, seed=2, kinds=KINDS))
    return path


@pytest.mark.parametrize("line", CHEAP)
def test_an_example_runs(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_has_the_parser_that_it_has_among_all(name):
    def help_of(parser):
        action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        return action.choices[name].format_help()

    assert help_of(build_parser([name])) == help_of(build_parser())
