"""The command line. Nothing heavy is imported before a command is chosen, so that --help is
instant."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import __version__
from ..errors import ForcelawError

EPILOG = """\
first steps:
  forcelaw run studies/quickstart.yaml          train a small study on the shipped sample and show the laws
  forcelaw data check my.extxyz                 can this data be trained on?
  forcelaw data prepare my.extxyz --out pack    make a pack of it
  forcelaw train painn --size 1e5 --data pack   train one model
  forcelaw fit runs.csv --law surface           fit a scaling law to any table of runs
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; a user's mistake prints what, where and remedy, without a traceback."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not hasattr(args, "handler"):
        parser.print_help()
        return 0
    try:
        return int(args.handler(args) or 0)
    except ForcelawError as error:
        print(f"forcelaw: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def build_parser() -> argparse.ArgumentParser:
    from .data import add_subcommands as add_data
    from .forecast import add_subcommands as add_forecast
    from .laws import add_subcommands as add_laws
    from .report import add_subcommands as add_report
    from .study import add_subcommands as add_travel
    from .train import add_subcommands as add_train

    parser = argparse.ArgumentParser(
        prog="forcelaw",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "A laboratory for the scaling laws of neural force fields: which architecture, how"
            " large, on how much data, for my budget?"
        ),
    )
    parser.add_argument("--version", action="version", version=f"forcelaw {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    data = commands.add_parser("data", help="check, prepare, generate and describe data")
    data.set_defaults(handler=lambda _: data.print_help())
    add_data(data.add_subparsers(title="commands", metavar="COMMAND"))
    add_train(commands)
    add_report(commands)
    add_laws(commands)
    add_forecast(commands)
    add_travel(commands)
    return parser


def default_out(study_file: Path) -> Path:
    """Where a study writes when no --out is given."""
    return Path("out") / study_file.stem
