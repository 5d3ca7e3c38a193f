"""``forcelaw data generate``: real quantum-mechanical labels without any download.

Neutral closed-shell organic molecules (H C N O F P S Cl Br, 3 to 50 atoms) are drawn by the
package's own combinatorial generator (:mod:`.molecules`) or read from SMILES (:mod:`.smiles`),
embedded and displaced (:mod:`.conformers`), labelled with GFN2-xTB (:mod:`.label`) in worker
processes (:mod:`.worker`, :mod:`.pipeline`), and written as a pack (:mod:`.assemble`).

This module stays light: rdkit and tblite are imported when work starts.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import fields
from pathlib import Path

from ...errors import DataError
from .options import GenerateOptions

DESCRIPTION = """\
Make a pack of labelled molecules without any download.

molecules   neutral, closed-shell, of H C N O F P S Cl Br, 3 to 50 atoms (mean near 20): fragments
            joined at random and checked by RDKit, or the molecules of --smiles in an order shuffled
            by the seed
conformers  ETKDGv3; 10% as embedded, 30% after 5 to 20 MMFF steps, 60% after up to 200; then every
            atom moved by a normal of standard deviation uniform in 0 to 0.05 Angstrom, centred,
            randomly rotated, rounded to 0.001 Angstrom
labels      GFN2-xTB single points by tblite; mean force norm near 1.8 eV/Angstrom; structures with
            an atom above 20 eV/Angstrom are dropped and counted

The same seed gives the same arrays whatever the number of workers. Killed at any moment, the same
command resumes from PACK.partial-generate and ends with the same pack; a larger --count also reuses
what is there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``forcelaw data generate``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PACK", help="the pack to make (a new folder)"
    )
    parser.add_argument(
        "--count", type=int, default=20000, help="structures (default 20000: some 400,000 atoms)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="everything random follows from it (default 0)"
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one per usable core)"
    )
    parser.add_argument(
        "--smiles",
        type=Path,
        metavar="FILE",
        default=None,
        help="label these molecules instead: first column of a .smi, .txt or .csv file",
    )
    parser.add_argument(
        "--conformers", type=int, default=3, help="structures per molecule (default 3)"
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        help="part of the molecules held out (default 0.1)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace PACK if it is there")


def run(args: argparse.Namespace) -> int:
    """Make the pack that the parsed options ask for; 0 on success. Raises DataError with what,
    where and remedy."""
    for module in ("rdkit", "tblite"):
        if importlib.util.find_spec(module) is None:
            raise DataError(
                f"the package {module} is not installed", remedy="pip install 'forcelaw[generate]'"
            )
    options = GenerateOptions(**{f.name: getattr(args, f.name) for f in fields(GenerateOptions)})
    options.check()
    from .assemble import generate

    generate(options)
    return 0
