"""From options to a pack: plan, label, assemble, write the manifest."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...elements import SYMBOLS
from ...errors import DataError
from ...files import file_sha256
from ...host import usable_cores
from ...progress import duration
from ..atomic_energies import PLAIN, AtomicEnergies
from ..build import PackBuild, PrepareOptions
from ..pack import PackWriter, refuse_existing
from ..prepare import manifest, summary
from ..readers import Block
from ..splits import TRAIN, VALIDATION, split_of
from .conformers import POSITION_QUANTUM
from .fragments import CHAINS, LINKERS, RINGS, SMALL, SUBSTITUENTS
from .label import ACCURACY, METHOD
from .molecules import CORES, ELEMENTS, MAX_ATOMS, MIN_ATOMS, drawn
from .options import Distribution, GenerateOptions
from .pipeline import CHUNK, Plan, Run, settings_hash
from .smiles import listed, read_column

GENERATOR_VERSION = 1  # raise it whenever the same seed would give other structures
FORCE_QUANTUM = 1e-3  # eV/Angstrom
SPLIT_SEED = 0


def command(options: GenerateOptions) -> str:
    """The command line that makes this pack, without the folders of absolute paths: those belong to
    one machine."""

    def place(path: Path) -> str:
        return path.name if path.is_absolute() else str(path)

    words = ["forcelaw", "data", "generate", "--out", place(options.out)]
    for name in ("count", "seed", "workers"):
        words += [f"--{name}", str(getattr(options, name))]
    if options.smiles:
        words += ["--smiles", place(options.smiles)]
    for name, field in Distribution.model_fields.items():
        if (value := getattr(options, name)) != field.default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.val_fraction != 0.1:
        words += ["--val-fraction", str(options.val_fraction)]
    return shlex.join(words)


def settings(options: GenerateOptions, distribution: Distribution) -> dict[str, Any]:
    """All that decides what the chunks hold; not the count, the split or the number of workers."""
    return {
        "generator_version": GENERATOR_VERSION,
        "seed": options.seed,
        "chunk": CHUNK,
        "smiles_sha256": file_sha256(options.smiles) if options.smiles else None,
        "distribution": distribution.model_dump(),
        "label": {"method": METHOD, "program": "tblite", "accuracy": ACCURACY},
        "versions": {name: version(name) for name in ("rdkit", "tblite", "numpy")},
    }


def generate(options: GenerateOptions) -> Path:
    """Make the pack that the options describe; with fewer structures when the SMILES file runs out.

    Finished chunks of an interrupted call with the same settings are used. Raises DataError.
    """
    started = time.monotonic()
    refuse_existing(options.out, options.overwrite)
    options = options.model_copy(update={"workers": options.workers or usable_cores()})
    out, smiles = options.out, options.smiles
    distribution = Distribution(
        **{name: getattr(options, name) for name in Distribution.model_fields}
    )
    column = read_column(smiles) if smiles else None
    what = settings(options, distribution)
    skipped: Counter[str] = Counter()
    seed = options.seed
    stream = drawn(seed, skipped) if column is None else listed(column, seed, skipped)
    root = out.with_name(out.name + ".partial-generate")
    job = Run(
        root / settings_hash(what),
        Plan(stream, skipped, what),
        count=options.count,
        seed=seed,
        distribution=distribution,
        workers=options.workers,
        most=None if column is None else len(column) * distribution.conformers,
    )
    try:
        job.execute()
    except KeyboardInterrupt:
        print(
            f"interrupted: {job.structures} structures are kept in {root}; the same command resumes"
        )
        raise
    if not job.structures:
        cause = "the molecules of --smiles" if smiles else "the installed rdkit and tblite"
        raise DataError(
            "no structure could be made",
            where=f"skipped: {dict(skipped)}, failed: {job.failures()}",
            remedy=f"check {cause}",
        )
    sources = []
    if smiles:
        sha256 = what["smiles_sha256"]
        sources.append(
            {"name": smiles.name, "reader": "SMILES", "sha256": sha256, "molecules": len(column)}
        )
    written = _assemble(job, options, sources, what)
    shutil.rmtree(root, ignore_errors=True)
    if written.structures < options.count:
        print(
            f"  short        the SMILES file gave {written.structures:,} structures,"
            f" {options.count:,} were asked for"
        )
    print(
        f"  time         {duration(time.monotonic() - started)}, of worker time"
        f" {duration(job.busy_seconds)}"
    )
    return out


def _assemble(
    job: Run, options: GenerateOptions, sources: list[dict[str, Any]], what: dict[str, Any]
) -> PackWriter:
    """Concatenate chunks in order into a pack in their folder, then rename it into place."""
    folder, out = job.folder, options.out
    for stale in folder.glob("pack*"):  # of an assembly that was killed
        shutil.rmtree(stale)
    failures: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    quantum = (POSITION_QUANTUM, FORCE_QUANTUM)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(PackWriter(folder / "pack", quantum=quantum, charges=True))
        # prepare's own sums, so that both commands write the same manifest
        fraction = options.val_fraction
        split = PrepareOptions(
            val_fraction=fraction,
            seed=SPLIT_SEED,
            split="hash",
            atomic_energies=AtomicEnergies(PLAIN),  # as the shipped sample has them
            command=command(options),
        )
        work = stack.enter_context(contextlib.closing(PackBuild(writer, split)))
        for chunk, arrays in job.chunks():
            failures.update(arrays["failures"])
            skipped = chunk.skipped
            block = _block(arrays, min(len(arrays["counts"]), job.count - writer.structures))
            if not len(block):
                continue
            side = split_of(block.groups, fraction=fraction, seed=SPLIT_SEED)
            names = ("numbers", "positions", "forces", "energies", "groups", "charges", "spins")
            writer.append(block.counts, split=side, **{n: getattr(block, n) for n in names})
            work.count_written(block, block.groups, side)
        work.count_sides()
        _check_split(work, fraction)
        references = work.references()
        full = manifest(work, references, sources, work.survey.findings(references))
        work.close()
        full["split"]["rule"] = "by molecule (SMILES without stereochemistry)"
        full["versions"] |= {name: version(name) for name in ("rdkit", "tblite")}
        full |= {
            "skipped": dict(sorted((skipped + failures).items())),
            "rotated": True,
            "generator": _describe(what, job.count, failures, skipped),
        }
        made = writer.finish(full)
    refuse_existing(out, options.overwrite)
    if out.exists():
        old = folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    made.rename(out)
    print("\n".join(summary(out.name, full)))
    return writer


def _block(arrays: dict[str, Any], s: int) -> Block:
    """The first ``s`` structures of a chunk."""
    atoms = int(arrays["counts"][:s].sum())
    per_structure = {name: arrays[name][:s] for name in ("counts", "energies", "groups")}
    per_atom = {name: arrays[name][:atoms] for name in ("numbers", "positions", "forces")}
    state = {"charges": np.zeros(s, np.int8), "spins": np.ones(s, np.int8)}  # neutral singlets
    return Block(**per_structure, **per_atom, **state, first=0, place=str)


def _check_split(work: PackBuild, val_fraction: float) -> None:
    """A tiny pack may lack a side of the split, or have an element only in validation, without
    reference energy."""
    remedy = "raise --count (what is labelled is kept), or pass --val-fraction 0"
    if not work.structures[TRAIN] or (val_fraction > 0 and not work.structures[VALIDATION]):
        side = "validation" if work.structures[TRAIN] else "training"
        raise DataError(
            f"all of the few molecules fell on one side: the {side} set is empty", remedy=remedy
        )
    alone = np.flatnonzero((work.survey.element_counts > 0) & ~work.train_elements)
    if len(alone):
        raise DataError(
            f"{', '.join(SYMBOLS[z] for z in alone)} occurs in validation only, so its reference"
            " energy cannot be fitted",
            remedy=remedy,
        )


def _describe(
    what: dict[str, Any], count: int, failures: Counter[str], skipped: Counter[str]
) -> dict[str, Any]:
    molecules: dict[str, Any] = {
        "elements": list(ELEMENTS),
        "min_atoms": MIN_ATOMS,
        "max_atoms": MAX_ATOMS,
    }
    if what["smiles_sha256"] is None:
        molecules |= {
            "cores": CORES,
            "fragments": {
                "small": len(SMALL),
                "chains": len(CHAINS[0]),
                "rings": len(RINGS[0]),
                "substituents": len(SUBSTITUENTS[0]),
                "linkers": len(LINKERS[0]),
            },
        }
    return what | {
        "count": count,
        "molecules": molecules,
        "failures": dict(sorted(failures.items())),
        "molecules_skipped": dict(sorted(skipped.items())),
    }
