"""From options to a pack: plan, label, assemble, write the manifest."""

from __future__ import annotations

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
from ...progress import duration
from ..pack import PackWriter
from ..prepare import PackBuild, PrepareOptions, summary
from ..readers import Block
from ..splits import TRAIN, VALIDATION, split_of
from .conformers import POSITION_QUANTUM, Distribution
from .fragments import CHAINS, LINKERS, RINGS, SMALL, SUBSTITUENTS
from .label import ACCURACY, METHOD
from .molecules import CORES, ELEMENTS, MAX_ATOMS, MIN_ATOMS, drawn
from .pipeline import CHUNK, Plan, Run, settings_hash
from .smiles import listed, read_column

GENERATOR_VERSION = 1  # raise it whenever the same seed would give other structures
FORCE_QUANTUM = 1e-3  # eV/Angstrom
SPLIT_SEED = 0


def command(
    out: Path,
    *,
    count: int,
    seed: int,
    workers: int,
    smiles: Path | None,
    conformers: int,
    val_fraction: float,
) -> str:
    """The command line that makes this pack, without the folders of absolute paths: those belong to
    one machine."""

    def place(path: Path) -> str:
        return path.name if path.is_absolute() else str(path)

    words = [
        "forcelaw",
        "data",
        "generate",
        "--out",
        place(out),
        "--count",
        str(count),
        "--seed",
        str(seed),
        "--workers",
        str(workers),
    ]
    if smiles:
        words += ["--smiles", place(smiles)]
    if conformers != 3:
        words += ["--conformers", str(conformers)]
    if val_fraction != 0.1:
        words += ["--val-fraction", str(val_fraction)]
    return shlex.join(words)


def settings(seed: int, distribution: Distribution, smiles: Path | None) -> dict[str, Any]:
    """All that decides what the chunks hold; not the count, the split or the number of workers."""
    return {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "chunk": CHUNK,
        "smiles_sha256": file_sha256(smiles) if smiles else None,
        "distribution": distribution.model_dump(),
        "label": {"method": METHOD, "program": "tblite", "accuracy": ACCURACY},
        "versions": {name: version(name) for name in ("rdkit", "tblite", "numpy")},
    }


def generate(
    out: Path,
    *,
    count: int = 20000,
    seed: int = 0,
    workers: int = 1,
    smiles: Path | None = None,
    conformers: int = 3,
    val_fraction: float = 0.1,
    overwrite: bool = False,
) -> Path:
    """Make a pack of ``count`` labelled structures at ``out``; fewer when the SMILES file runs out.

    Chunks of an interrupted call with the same settings are taken over. Raises DataError.
    """
    out, started = Path(out), time.monotonic()
    distribution = Distribution(conformers=conformers)
    column = read_column(smiles) if smiles else None
    what = settings(seed, distribution, smiles)
    skipped: Counter[str] = Counter()
    stream = drawn(seed, skipped) if column is None else listed(column, seed, skipped)
    root = out.with_name(out.name + ".partial-generate")
    folder = root / settings_hash(what)
    job = Run(
        folder,
        Plan(stream, skipped, what),
        count=count,
        seed=seed,
        distribution=distribution,
        workers=workers,
    )
    try:
        job.execute()
    except KeyboardInterrupt:
        print(
            f"interrupted: {job.structures} structures are kept in {root}; the same command goes on"
            " from there"
        )
        raise
    if not job.structures:
        raise DataError(
            "no structure could be made",
            where=f"skipped: {dict(skipped)}, failed: {job.failures()}",
            remedy=(
                "check the molecules of --smiles"
                if smiles
                else "check the installed rdkit and tblite"
            ),
        )
    manifest = {
        "command": command(
            out,
            count=count,
            seed=seed,
            workers=workers,
            smiles=smiles,
            conformers=conformers,
            val_fraction=val_fraction,
        ),
        "sources": (
            [
                {
                    "name": smiles.name,
                    "reader": "SMILES",
                    "sha256": what["smiles_sha256"],
                    "molecules": len(column),
                }
            ]
            if smiles
            else []
        ),
    }
    written = _assemble(job, folder, out, manifest, what, val_fraction, overwrite)
    shutil.rmtree(root, ignore_errors=True)
    if written.structures < count:
        print(
            f"  short        the SMILES file gave {written.structures:,} structures, {count:,} were"
            " asked for"
        )
    print(
        f"  time         {duration(time.monotonic() - started)}, of worker time"
        f" {duration(job.busy_seconds)}"
    )
    return out


def _assemble(
    job: Run,
    folder: Path,
    out: Path,
    manifest: dict[str, Any],
    what: dict[str, Any],
    val_fraction: float,
    overwrite: bool,
) -> PackWriter:
    """Concatenate chunks in order into a pack beside them, then rename it into place."""
    for stale in folder.glob("pack*"):  # of an assembly that was killed
        shutil.rmtree(stale)
    failures: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    with PackWriter(
        folder / "pack", quantum=(POSITION_QUANTUM, FORCE_QUANTUM), charges=True
    ) as writer:
        # prepare's own sums, so that both commands write the same manifest
        work = PackBuild(
            writer,
            PrepareOptions(val_fraction=val_fraction, seed=SPLIT_SEED, command=manifest["command"]),
        )
        for chunk, arrays in job.chunks():
            failures.update(arrays["failures"])
            skipped = chunk.skipped
            block = _block(arrays, min(len(arrays["counts"]), job.count - writer.structures))
            if not len(block):
                continue
            split = split_of(block.groups, fraction=val_fraction, seed=SPLIT_SEED)
            names = ("numbers", "positions", "forces", "energies", "groups", "charges", "spins")
            arrays = {name: getattr(block, name) for name in names}
            writer.append(block.counts, split=split, **arrays)
            work.accumulate(block, block.groups, split)
        _check_split(work, val_fraction)
        full = work.manifest(manifest["sources"])
        full["split"]["rule"] = "by molecule (SMILES without stereochemistry)"
        full["versions"] |= {name: version(name) for name in ("rdkit", "tblite")}
        full |= {
            "skipped": dict(sorted((skipped + failures).items())),
            "rotated": True,
            "generator": _describe(what, job.count, failures, skipped),
        }
        made = writer.finish(full)
    if out.exists():
        if not overwrite:
            raise DataError(
                f"{out} exists already", remedy="choose another --out, or pass --overwrite"
            )
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
    """A tiny pack may lack a side of the split, or have an element in validation alone, without
    reference energy."""
    remedy = "raise --count (what is labelled is kept), or pass --val-fraction 0"
    if not work.structures[TRAIN] or (val_fraction > 0 and not work.structures[VALIDATION]):
        side = "validation" if work.structures[TRAIN] else "training"
        raise DataError(
            f"all of the few molecules fell on one side: the {side} set is empty", remedy=remedy
        )
    alone = np.flatnonzero((work.element_counts > 0) & (work.references.element_counts == 0))
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
