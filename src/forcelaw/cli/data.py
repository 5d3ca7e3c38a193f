"""``forcelaw data``: check, prepare, generate, info."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..data import generate
from ..data.validate import ALLOWED
from ..errors import DataError
from .options import JSON, HelpFormatter, add_options

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


class Source(BaseModel):
    """Labels and units of every source, where the format does not say."""

    reader: str | None = Field(
        None,
        title="NAME",
        description="extxyz, ase, hdf5, npz, traj, deepmd or pack, where the suffix does not say",
    )
    energy_key: str | None = Field(None, title="KEY", description="where the total energy is")
    forces_key: str | None = Field(
        None, title="KEY", description="where the forces (minus dE/dx) are"
    )
    charge_key: str | None = Field(None, title="KEY", description="where the total charge is")
    spin_key: str | None = Field(None, title="KEY", description="where the multiplicity 2S+1 is")
    gradient_key: str | None = Field(
        None, title="KEY", description="where dE/dx is; forces are minus that"
    )
    stress_key: str | None = Field(
        None, title="KEY", description="where the stress is (default: stress, REF_stress)"
    )
    virial_key: str | None = Field(
        None, title="KEY", description="where the virial is, -V times the stress, as an energy"
    )
    stress_unit: str | None = Field(
        None,
        title="UNIT",
        description="eV/Angstrom^3, GPa, kbar, bar, ... (default: by convention)",
    )
    stress_convention: Literal["ase", "vasp", "lammps"] | None = Field(
        None,
        description=(
            "order and sign of stress: ase (xx yy zz yz xz xy, tension positive; the default), vasp"
            " (xx yy zz xy yz zx, compression positive, kbar), lammps (xx yy zz xy xz yz,"
            " compression positive, bar)"
        ),
    )
    no_stress: bool = Field(False, description="read no stress, whatever the file holds")
    config_key: str | None = Field(
        None, title="KEY", description="label of a structure's kind (default: config_type)"
    )
    energy_unit: str | None = Field(
        None, title="UNIT", description="eV, meV, hartree, kcal/mol, kJ/mol, rydberg"
    )
    length_unit: str | None = Field(None, title="UNIT", description="Angstrom, bohr, nm, pm")
    force_unit: str | None = Field(
        None,
        title="UNIT",
        description="energy/length, for example hartree/bohr (default: of the two)",
    )


class Output(BaseModel):
    """The pack that is made."""

    out: Path = Field(title="PACK", description="the pack to make (a new folder)")
    overwrite: bool = Field(False, description="replace PACK if it exists")


class Split(BaseModel):
    """How molecules are divided into training and validation."""

    train: list[Path] = Field(
        default_factory=list,
        title="FILE",
        description="training files; the same as SOURCE, and all of them if --validation is given",
    )
    validation: list[Path] = Field(
        default_factory=list, title="FILE", description="validation files: nothing is split then"
    )
    test: list[Path] = Field(
        default_factory=list, title="FILE", description="test files, kept apart for evaluation"
    )
    train_indices: Path | None = Field(
        None,
        title="LIST",
        description="file of structure numbers of SOURCE, from 0 (text or .npy): the training set",
    )
    validation_indices: Path | None = Field(None, title="LIST", description="likewise: validation")
    test_indices: Path | None = Field(None, title="LIST", description="likewise: test")
    val_fraction: float = Field(
        0.1, title="F", description="share of the structures held out for validation"
    )
    seed: int = Field(0, description="of the split and the rotations (default: 0)")
    split: Literal["exact", "hash"] = Field(
        "exact",
        description="hash: each molecule by its hash alone, as packs before 2026-11-29",
    )
    group: str = Field(
        "auto",
        title="RULE",
        description=(
            "what a molecule is: auto (the source's own label, else the formula), formula,"
            " key:NAME, or frame, for sources with a single molecule"
        ),
    )


class References(BaseModel):
    """Energies of the free atoms."""

    E0s: str | None = Field(
        None,
        title="E0S",
        description=(
            "fit (default), least-squares (of total energies, as before 2026-11-29), isolated (free"
            " atoms in the sources), values in eV as H=-13.6,C=-1028.9, or a JSON or YAML file"
        ),
    )


class Keep(BaseModel):
    """Which structures are kept."""

    only_neutral: bool = Field(False, description="leave out charged structures")
    max_force: float | None = Field(
        None,
        title="F",
        description="leave out structures with a larger force on an atom, eV/Angstrom",
    )
    elements: str | None = Field(
        None,
        title="LIST",
        description="leave out structures with other elements, for example H,C,N,O",
    )
    skip_unlabelled: bool = Field(False, description="leave out frames without energy or forces")
    skip_bad: bool = Field(
        False, description="leave out frames whose labels or positions are not finite"
    )
    keep_isolated_atoms: bool = Field(False, description="keep single free atoms")
    only_charge: int | None = Field(None, title="Q", description="keep structures of charge Q only")
    only_spin: int | None = Field(None, title="S", description="likewise of multiplicity 2S+1")
    config_types: str | None = Field(
        None, title="LIST", description="keep structures of these config types only"
    )
    not_config_types: str | None = Field(
        None, title="LIST", description="leave out structures of these config types"
    )
    drop_duplicates: bool = Field(
        False,
        description=(
            "keep one of structures that repeat another, energy included (takes some 100 bytes of"
            " memory a structure)"
        ),
    )
    allow: list[str] = Field(
        default_factory=list,
        title="NAME",
        description="let a finding of the checks pass, and note it in the manifest: "
        + "; ".join(f"{name} ({text})" for name, text in ALLOWED.items()),
    )


class Check(BaseModel):
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

    make = add("generate", "make a pack of labelled molecules without any download", "")
    generate.add_arguments(make)
    make.set_defaults(handler=generate.run)

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

    return SourceOptions(**{name: getattr(args, name) for name in Source.model_fields})


def _check(args: argparse.Namespace) -> int:
    from ..data.validate.check import check

    return check(args.sources, source_options(args), limit=args.limit, as_json=args.json_out)


def _prepare(args: argparse.Namespace) -> int:
    from ..data.atomic_energies import AtomicEnergies
    from ..data.build import PrepareOptions
    from ..data.filters import Filter
    from ..data.prepare import prepare

    wanted, unwanted = _words(args.config_types), _words(args.not_config_types)
    keep = Filter(
        only_neutral=args.only_neutral,
        max_force=args.max_force,
        elements=_elements(args.elements),
        keep_isolated_atoms=args.keep_isolated_atoms,
        charge=args.only_charge,
        spin=args.only_spin,
        config_types=frozenset(wanted) if wanted else None,
        not_config_types=frozenset(unwanted),
    )
    options = PrepareOptions(
        val_fraction=args.val_fraction,
        seed=args.seed,
        group=args.group,
        split=args.split,
        rotate=args.rotate,
        skip_unlabelled=args.skip_unlabelled,
        skip_bad=args.skip_bad,
        drop_duplicates=args.drop_duplicates,
        limit=args.limit,
        overwrite=args.overwrite,
        keep=keep,
        atomic_energies=AtomicEnergies.parse(args.E0s),
        allow=frozenset(word for text in args.allow for word in _words(text)),
        command=_command(),
    )
    lists = {side: getattr(args, f"{side}_indices") for side in ("train", "validation", "test")}
    prepare(
        [*args.sources, *args.train],
        args.out,
        validation=args.validation,
        test=args.test,
        indices={side: path for side, path in lists.items() if path},
        sources=source_options(args),
        options=options,
        say=sys.stdout,
    )
    return 0


def _words(text: str | None) -> list[str]:
    """The parts of a list with commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _command() -> str:
    """The command as typed, with the folders of absolute paths left out: a manifest carries no path
    of one machine."""
    return shlex.join(
        [
            "forcelaw",
            *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]),
        ]
    )


def _elements(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    from ..elements import SYMBOLS

    names = _words(text)
    unknown = [name for name in names if name not in SYMBOLS[1:]]
    if unknown or not names:
        raise DataError(
            f"--elements {text}: unknown {', '.join(unknown) or 'list'}",
            remedy="for example --elements H,C,N,O",
        )
    return frozenset(SYMBOLS.index(name) for name in names)


def _info(args: argparse.Namespace) -> int:
    from ..data.pack import describe

    print(describe(args.pack, as_json=args.json_out))
    return 0
