"""The command line. Only the options of the command that was given are built, and what a command
needs is imported when it runs, so that ``--help`` is instant.

Exit codes of all commands:

    0    done
    1    done, with a bad result: ``train`` diverged; ``run``: a run failed, one of a grid diverged
         (those of a sweep may), or a sweep has no rate; ``data check`` found that data cannot be
         used
    2    a mistake in what was given; nothing was done. A package that is missing counts as one
    3    the table cannot carry the fit that was asked for (``fit``, ``compare``, ``diagnose``,
         ``budget``, ``design``, ``forecast``); the reason is printed, and is in the JSON as status
         and message
    4    ``run``: runs are damaged and were set aside; all others are done
    74   files cannot be written or read: a full disk, a quota, a lost mount. Nothing counts as
         failed for it; run the same command again
    75   ``run --minutes``: the time is up and work is left; run the same command again
    76   one of the processes that train a run on several GPUs was lost; the same command resumes
    130  stopped by Ctrl-C or SIGTERM; ``train`` and ``run`` save checkpoints first, and the same
         command goes on
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from .. import __version__
from ..errors import ForcelawError, ForcelawWarning, missing_package, printable, require
from ..host import interrupted_by_sigterm
from . import INTERRUPTED
from .options import HelpFormatter

EPILOG = """\
first steps:
  forcelaw init sample                          write a study of the molecules that come along
  forcelaw run sample.yaml                      train it (minutes), show its laws
  forcelaw data check my.extxyz                 can this data be trained on?
  forcelaw data prepare my.extxyz --out pack    make a pack of it
  forcelaw init pack                            write a study for it that can carry a law
  forcelaw train painn --size 1e5 --epochs 20 --data pack
                                                train one model
  forcelaw evaluate out/single/runs/ID my.extxyz
                                                how wrong is it, and where?
  forcelaw fit runs.csv --law surface           fit a scaling law to any table of runs

exit codes: 0 done; 1 done with a bad result (diverged, not trainable); 2 a mistake in the input;
  3 the table cannot carry the fit; 4 damaged runs were set aside; 74 the disk is full or gone;
  75 time is up (run --minutes); 76 a process of a run on several GPUs was lost; 130 interrupted
"""
# command -> (module of this package with a function add_COMMAND(parser), one line of help); a
# dash in a command is an underscore there
COMMANDS = {
    "init": ("init", "write a first study for your data"),
    "run": ("study", "train a study: plan it, show its cost, run what is not done yet, report"),
    "status": ("study", "where a study stands"),
    "stop": ("study", "stop a study, on this machine and on a cluster"),
    "train": ("train", "train one model"),
    "evaluate": ("use", "errors of a trained run on files of labelled structures"),
    "models": ("train", "the architectures, their symmetry, size and cost"),
    "certify": (
        "certify",
        "measure what an architecture does: symmetry, smoothness, cost, muP, ...",
    ),
    "new-architecture": ("new_architecture", "write a package with an architecture of your own"),
    "data": ("data", "check, prepare, generate and describe data"),
    "report": ("report", "make the HTML report, figures and tables of a study or a table of runs"),
    "fit": ("laws", "fit a scaling law to a table of runs"),
    "rates": ("rates", "the best learning rate as a law of N and D, from runs at several rates"),
    "isoflop": ("isoflop", "the best size at each budget, from curves of loss against N"),
    "compare": (
        "laws",
        "do exponents differ between architectures, and who needs how much more compute?",
    ),
    "diagnose": (
        "laws",
        "is it an exponent, or only a trend? and which runs would make it one",
    ),
    "budget": ("decide", "which architecture, how large, on how much data, for a budget"),
    "design": ("decide", "which runs to add to a study for the shortest interval"),
    "forecast": (
        "forecast",
        "predict the largest runs from small ones before they are trained; later, check it",
    ),
    "export": ("study", "write a study's table of runs, small enough to commit, or a run's model"),
    "import": ("study", "make a study directory of the evidence that `forcelaw export` wrote"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code. A user's mistake is printed without a traceback: what
    was found, where, and what to do."""
    words = sys.argv[1:] if argv is None else argv
    command = next((word for word in words if not word.startswith("-")), "")
    parser = build_parser([command])
    args = parser.parse_args(words)
    args.words = words
    if not hasattr(args, "handler"):
        parser.print_help()
        return 0
    try:
        try:
            require(*getattr(args, "packages", ()))
            with (
                interrupted_by_sigterm(),
                contextlib.redirect_stdout(_Printable(sys.stdout)),
                _plain_warnings(),
            ):
                return int(args.handler(args) or 0)
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
    except ForcelawError as error:
        return _print(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except OSError as error:
        from ..files import is_storage, path_error, storage_error

        return _print(storage_error(error) if is_storage(error) else path_error(error))


class _Printable:
    """Standard output, on which labels and messages of others act on no terminal."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(printable(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of forcelaw as one line, without the place in its source that gave them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def plain(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, ForcelawWarning):
                print(f"forcelaw: warning: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **options)

        warnings.showwarning = plain
        yield


def _print(error: ForcelawError) -> int:
    """Print an error; the exit code."""
    print(f"forcelaw: {error}", file=sys.stderr)
    return error.exit_code


def build_parser(commands: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser with every command, of which ``commands`` have their options."""
    parser = argparse.ArgumentParser(
        prog="forcelaw",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        description=(
            "A laboratory for the scaling laws of neural force fields: which architecture, how"
            " large, on how much data, for my budget?"
        ),
    )
    parser.add_argument("--version", action="version", version=f"forcelaw {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = subparsers.add_parser(name, help=text, formatter_class=HelpFormatter)
        if name in commands:
            home = importlib.import_module(f".{module}", __package__)
            getattr(home, f"add_{name.replace('-', '_')}")(command)
    return parser
