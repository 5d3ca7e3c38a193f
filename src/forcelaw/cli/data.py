"""``forcelaw data``: check, prepare, generate, shard, info."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ByteSize, Field

from ..data.generate.options import GenerateOptions
from ..data.options import Keep, References, Source, Split
from ..settings import Settings
from .options import JSON, HelpFormatter, add_options, from_options, typed_command

SOURCES = """\
sources (the suffix names the format, the format names labels and units; the choice is printed):
  .xyz .extxyz (.gz)  energy in the comment line, forces in the columns (or REF_energy, REF_forces);
                      eV, Angstrom (ASE)
  .db .aselmdb        ASE databases, SchNetPack's too; a folder of .aselmdb is one source (OMol25,
                      with charge and spin)
  .hdf5 .h5           SPICE, ANI-1x, ANI-2x, flat (natoms, atomic_numbers, positions, ...), ANI-1
                      and COMP6 nested, a group for each structure; units as the layout declares
  .json               ASE's database in JSON; .traj: ASE's trajectories
  .npz                sGDML (z R E F, also zero-padded), rMD17; sGDML files that name no unit need
                      --energy-unit and --length-unit
  DIRECTORY           a deepmd system (type.raw, set.*), or a folder of them
  PACK                a pack, to split, filter or merge it again
A label under any other name must be named (--energy-key, --forces-key, or --gradient-key for
dE/dx).
"""

CHECK = """\
Read structures and say whether they can be trained on: keys and units, elements, energies after
reference energies, forces, duplicates, charges and spins, net force, and whether forces are minus
the gradient of the energies (tested on close pairs of frames; it catches gradients stored as forces
and wrong units). Exit code 0: trainable; 1: not.
"""

PREPARE = """\
Make a pack (memory-mapped arrays and a manifest) of one or more sources, streaming: memory does not
grow with the data.

split       by molecule: a hash of the group label and --seed decides, so all frames of a molecule
            stay together; up to 10,000 molecules its share is exact to within one. Files as
            published are given apart: --train, --validation, --test
checks      those of ``data check``: sign and units of forces, energies far from all others, levels
            of theory that differ between sources, equal geometries with different energies or on
            both sides of the split. What is found is an error unless --allow NAME, which is kept
rotation    every molecule is centred and given a fixed random rotation, because embedders align
            molecules with their axes and an unconstrained model would read that frame for free;
            periodic structures stay as they are unless --rotate is given (then positions, forces
            and cell rotate together)
references  atomic reference energies are fitted on the training molecules, errors per atom, robust
            against outliers; or given with --E0s; the manifest keeps them and what they leave
skipped     single isolated atoms always (--keep-isolated-atoms keeps them); frames without labels
            or with labels that are not finite are an error unless --skip-unlabelled or --skip-bad;
            everything skipped is counted by reason

Nothing appears at PACK until all is written. A command that is killed leaves only PACK.partial-*,
which the next one removes.
"""


GENERATE = """\
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


SHARD = """\
Write PACK again in shards of at most --shard-size, or without that as one: the same arrays and
hash, so that runs on either go on with the other. A shard is a folder (shard-00000, ...) that may
be copied by itself, or moved as a whole to another disk and linked from where it was.
"""


class Output(Settings):
    """The pack that is made."""

    out: Path = Field(title="PACK", description="the pack to make (a new folder)")
    overwrite: bool = Field(False, description="replace PACK if it exists")
    shard_size: ByteSize | None = Field(None, title="SIZE")
    """cut the pack into shards of at most this size (for example 4GB): folders that can be copied
    one by one, moved to other disks and linked; the pack's hash is the same"""
    shard_folders: list[Path] = Field(default_factory=list, title="DIR")
    """put the shards into these folders, in turn, and links to them into PACK"""


class Effort(Settings):
    """How the pack is made."""

    jobs: int = Field(1, ge=1, title="K")
    """processes that read the sources, a source or a part of an .aselmdb file each; the pack is the
    same whatever their number"""


class Check(Settings):
    """How much is read, and what is printed."""

    limit: int | None = Field(None, ge=1, description="stop after N structures")
    json_out: bool = Field(False, description="print one JSON object instead of text")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(handler=lambda _: parser.print_help())
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, text: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
        return subparsers.add_parser(
            name,
            help=text,
            description=description,
            epilog=epilog,
            formatter_class=HelpFormatter,
        )

    check = add("check", "can these structures be trained on?", CHECK, SOURCES)
    _add_sources(check)
    add_options(check, Check, flags=JSON)
    check.set_defaults(handler=_check)

    prepare = add("prepare", "make a pack of sources", PREPARE, SOURCES)
    _add_sources(prepare, "*")
    add_options(prepare, Output)
    add_options(prepare, Effort)
    add_options(prepare.add_argument_group("split"), Split)
    add_options(prepare.add_argument_group("reference energies"), References)
    keep = prepare.add_argument_group("what to keep")
    add_options(keep, Check, only=("limit",))
    add_options(keep, Keep)
    turn = prepare.add_mutually_exclusive_group()
    turn.add_argument(
        "--rotate", action="store_true", default=None, help="rotate periodic structures too"
    )
    turn.add_argument("--no-rotate", dest="rotate", action="store_false", help="rotate nothing")
    prepare.set_defaults(handler=_prepare)

    make = add("generate", "make a pack of labelled molecules without any download", GENERATE)
    add_options(make, GenerateOptions)
    make.set_defaults(handler=_generate, packages=("rdkit", "tblite"))

    shard = add("shard", "cut a pack into shards, or join them", SHARD)
    shard.add_argument("pack", type=Path, metavar="PACK")
    add_options(shard, Output)
    shard.set_defaults(handler=_shard)

    info = add("info", "describe a pack", "Describe a pack from its manifest.")
    info.add_argument("pack", type=Path, metavar="PACK")
    add_options(info, Check, only=("json_out",), flags=JSON)
    info.set_defaults(handler=_info)


def _add_sources(parser: argparse.ArgumentParser, number: str = "+") -> None:
    parser.add_argument(
        "sources",
        nargs=number,
        type=Path,
        metavar="SOURCE",
        help="files, folders of .aselmdb, or packs",
    )
    group = parser.add_argument_group(
        "labels and units, where the format does not say (for every SOURCE)"
    )
    add_options(group, Source)


def source_options(args: argparse.Namespace) -> Any:
    """What the options of :class:`Source` say."""
    from ..data.readers import SourceOptions

    return from_options(SourceOptions, args)


def _check(args: argparse.Namespace) -> int:
    from ..data.validate.check import check

    return check(args.sources, source_options(args), limit=args.limit, as_json=args.json_out)


def _prepare(args: argparse.Namespace) -> int:
    from ..data.options import Preparation
    from ..data.prepare_files import prepare_files

    prepare_files(
        from_options(Preparation, args, train=[*args.sources, *args.train]),
        args.out,
        jobs=args.jobs,
        rotate=args.rotate,
        limit=args.limit,
        overwrite=args.overwrite,
        shard_size=args.shard_size,
        shard_folders=tuple(args.shard_folders),
        command=typed_command(args.words),
        say=sys.stdout,
    )
    return 0


def _generate(args: argparse.Namespace) -> int:
    from ..data.generate.assemble import generate

    generate(from_options(GenerateOptions, args))
    return 0


def _shard(args: argparse.Namespace) -> int:
    from ..data.reshard import reshard

    given = from_options(Output, args)
    reshard(
        args.pack,
        given.out,
        shard_size=given.shard_size,
        shard_folders=given.shard_folders,
        overwrite=given.overwrite,
    )
    return _info(argparse.Namespace(pack=given.out, json_out=False))


def _info(args: argparse.Namespace) -> int:
    from ..data.pack import describe

    print(describe(args.pack, as_json=args.json_out))
    return 0
