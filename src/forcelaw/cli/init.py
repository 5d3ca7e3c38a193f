"""`forcelaw init`: a first study on the user's data."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ..data.options import Preparation
from ..errors import DataError, StudyError
from ..files import reading, whole
from ..settings import Settings
from .data import SOURCES
from .options import add_options, from_options, typed_command

if TYPE_CHECKING:
    from ..data.pack import Pack

NAMES = ["mpnn", "painn"]


class Init(Settings):
    """The study that is written."""

    out: Path | None = Field(None, title="FILE")
    """the study file to write (default: NAME.yaml)"""
    name: str | None = Field(None, description="of the study (default: that of DATA)")
    architectures: str = Field(",".join(NAMES), title="LIST")
    """what is compared; forcelaw models lists all"""
    overwrite: bool = Field(False, description="replace FILE if it exists")


def add_init(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a commented study file for DATA that can carry a law: sizes, length, batch and seeds"
        " from what the training set holds. DATA is a pack, or files, of which NAME-pack is made"
        " first, as by `forcelaw data prepare`, with the same options."
    )
    parser.epilog = (
        "examples:\n  forcelaw init pack\n  forcelaw init my.extxyz --group frame\n"
        "  forcelaw init --train a.xyz --validation b.xyz --E0s isolated\n\n" + SOURCES
    )
    parser.add_argument(
        "data", nargs="*", type=Path, metavar="DATA", help="a pack, files, or sample"
    )
    add_options(parser, Init)
    group = parser.add_argument_group("how files are prepared (see: forcelaw data prepare --help)")
    add_options(group, Preparation)
    parser.set_defaults(handler=_init, packages=("torch",))


def _init(args: argparse.Namespace) -> int:
    from ..data.pack import Pack, sample_path
    from ..models import architecture
    from ..study.config import load
    from ..study.starter import describe, proportions, starter
    from ..training.spec import charges_and_spins, mixed_states, require_sides

    files = [*args.data, *args.train]
    if not files:
        raise StudyError("no data were named", remedy="forcelaw init PACK, or FILE...")
    names = [name.strip() for name in args.architectures.split(",") if name.strip()]
    for name in names:
        architecture(name)
    name = args.name or files[0].name.split(".")[0] or "study"
    out = args.out or Path(f"{name}.yaml")
    if out.exists() and not args.overwrite:
        raise StudyError(
            "this file exists already",
            where=str(out),
            remedy="choose another --out, or --overwrite",
        )
    shipped = len(files) == 1 and str(files[0]) == "sample" and not files[0].exists()
    if shipped:
        pack = Pack(sample_path())
    elif len(files) == 1 and (files[0] / "manifest.json").is_file():
        pack = Pack(files[0])
    else:
        pack = _prepare(args, files, out.with_name(f"{name}-pack"))
    require_sides(pack)
    with reading(pack.path / "manifest.json", DataError, remedy="prepare the pack again"):
        split = pack.manifest["split"]
        structures, atoms = split["train_structures"], split["train_atoms"]
        validation = split["val_structures"]
    charged = mixed_states(pack) is not None
    if charged:
        charges_and_spins(pack)  # refuses structures that do not say theirs
    text = starter(
        name,
        "sample" if shipped else os.path.relpath(pack.path, out.parent or "."),
        structures=structures,
        atoms=atoms,
        validation=validation,
        architectures=names,
        charge_spin=charged,
    )
    with whole(out) as temporary:
        temporary.write_text(text)
    load(out)
    print(f"{out}: {describe(proportions(structures, atoms))}")
    print(f"next: forcelaw run {out} --plan")
    return 0


def _prepare(args: argparse.Namespace, files: list[Path], folder: Path) -> Pack:
    """The pack of files: made, or the one that an earlier call made of the same."""
    from ..data.pack import Pack
    from ..data.prepare_files import prepare_files

    given = from_options(Preparation, args, train=files)
    made_from = given.model_dump(mode="json", exclude_defaults=True)
    if not folder.exists() or args.overwrite:
        prepare_files(
            given,
            folder,
            overwrite=args.overwrite,
            command=typed_command(args.words),
            made_from=made_from,
            say=sys.stdout,
        )
        return Pack(folder)
    pack = Pack(folder)
    made = (folder / "manifest.json").stat().st_mtime
    newer = [path for path in files if path.exists() and path.stat().st_mtime > made]
    if newer or pack.manifest.get("made_from") != made_from:
        why = f"and {newer[0]} is newer" if newer else "of other files or with other options"
        raise StudyError(
            f"the pack {folder.name} was made before, {why}",
            where=str(folder),
            remedy=f"if it is the one that is meant: forcelaw init {folder}; else --overwrite makes"
            " it again, and --name makes another",
        )
    return pack
