"""From options to a pack: plan, label, assemble, write the manifest."""

from __future__ import annotations

import platform
import shlex
import shutil
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import count as short
from ...progress import duration
from ..pack import TRAIN, PackWriter, file_sha256
from ..reference import ReferenceAccumulator
from ..splits import split_of
from .conformers import POSITION_QUANTUM, Distribution
from .fragments import CHAINS, LINKERS, RINGS, SMALL, SUBSTITUENTS
from .label import ACCURACY, METHOD
from .molecules import CORES, ELEMENTS, MAX_ATOMS, MIN_ATOMS, drawn
from .pipeline import CHUNK, Plan, Run, settings_hash
from .smiles import listed, read_column

GENERATOR_VERSION = 1  # raise it whenever the same seed would give other structures
FORCE_QUANTUM = 1e-3  # eV/Angstrom
SPLIT_SEED = 0


def command(out: Path, *, count: int, seed: int, workers: int, smiles: Path | None, conformers: int,
            val_fraction: float) -> str:
    """The command line that makes this pack."""
    words = ["forcelaw", "data", "generate", "--out", str(out), "--count", str(count), "--seed", str(seed),
             "--workers", str(workers)]
    if smiles:
        words += ["--smiles", str(smiles)]
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


def generate(out: Path, *, count: int = 20000, seed: int = 0, workers: int = 1, smiles: Path | None = None,
             conformers: int = 3, val_fraction: float = 0.1, overwrite: bool = False) -> Path:
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
    job = Run(folder, Plan(stream, skipped, what), count=count, seed=seed, distribution=distribution, workers=workers)
    try:
        job.execute()
    except KeyboardInterrupt:
        print(f"interrupted: {job.structures} structures are kept in {root}; the same command goes on from there")
        raise
    if not job.structures:
        raise DataError("no structure could be made", where=f"skipped: {dict(skipped)}, failed: {job.failures()}",
                        remedy="check the molecules of --smiles" if smiles else "check the installed rdkit and tblite")
    manifest = {
        "command": command(out, count=count, seed=seed, workers=workers, smiles=smiles, conformers=conformers,
                           val_fraction=val_fraction),
        "sources": [{"path": smiles.name, "sha256": what["smiles_sha256"], "molecules": len(column)}] if smiles else [],
    }
    summary = _assemble(job, folder, out, manifest, what, val_fraction, overwrite)
    shutil.rmtree(root, ignore_errors=True)
    seconds = time.monotonic() - started
    if job.exhausted and summary["structures"] < count:
        print(f"the SMILES file gave {summary['structures']} structures, {count} were asked for")
    _report(out, summary, seconds, job.busy_seconds)
    return out


def _assemble(job: Run, folder: Path, out: Path, manifest: dict[str, Any], what: dict[str, Any], val_fraction: float,
              overwrite: bool) -> dict[str, Any]:
    """Concatenate chunks in order into a pack beside them, then rename it into place; the manifest as written."""
    for stale in folder.glob("pack*"):  # of an assembly that was killed
        shutil.rmtree(stale)
    references, statistics = ReferenceAccumulator(), Statistics()
    failures: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    taken = 0
    with PackWriter(folder / "pack", quantum=(POSITION_QUANTUM, FORCE_QUANTUM), charges=True) as writer:
        for chunk, arrays in job.chunks():
            failures.update(arrays["failures"])
            skipped = chunk.skipped
            s = min(len(arrays["counts"]), job.count - taken)
            if not s:
                continue
            atoms = int(arrays["counts"][:s].sum())
            counts, groups, energies = (arrays[name][:s] for name in ("counts", "groups", "energies"))
            numbers, positions, forces = (arrays[name][:atoms] for name in ("numbers", "positions", "forces"))
            split = split_of(groups, fraction=val_fraction, seed=SPLIT_SEED)
            train = split == TRAIN
            references.add(counts[train], numbers[np.repeat(train, counts)], energies[train])
            statistics.add(counts, numbers, forces, groups, split)
            writer.append(counts, numbers, positions, forces, energies, groups, split,
                          charges=np.zeros(s, np.int8), spins=np.ones(s, np.int8))
            taken += s
        full = manifest | statistics.manifest() | {
            "units": {"positions": "Angstrom", "energies": "eV", "forces": "eV/Angstrom"},
            "split": statistics.split() | {"by": "molecule", "fraction": val_fraction, "seed": SPLIT_SEED},
            "references": _references(references),
            "skipped": dict(sorted((skipped + failures).items())),
            "rotated": True,
            "generator": _describe(what, job.count, failures, skipped),
            "versions": {name: version(name) for name in ("forcelaw", "numpy", "rdkit", "tblite")}
            | {"python": platform.python_version()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        made = writer.finish(full)
        full |= {"structures": writer.structures, "atoms": writer.atoms}
    if out.exists():
        if not overwrite:
            raise DataError(f"{out} exists already", remedy="choose another --out, or pass --overwrite")
        old = folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    made.rename(out)
    return full


def _describe(what: dict[str, Any], count: int, failures: Counter[str], skipped: Counter[str]) -> dict[str, Any]:
    molecules: dict[str, Any] = {"elements": list(ELEMENTS), "min_atoms": MIN_ATOMS, "max_atoms": MAX_ATOMS}
    if what["smiles_sha256"] is None:
        molecules |= {"cores": CORES, "fragments": {
            "small": len(SMALL), "chains": len(CHAINS[0]), "rings": len(RINGS[0]), "substituents": len(SUBSTITUENTS[0]),
            "linkers": len(LINKERS[0])}}
    return what | {"count": count, "molecules": molecules, "failures": dict(sorted(failures.items())),
                   "molecules_skipped": dict(sorted(skipped.items()))}


def _report(out: Path, manifest: dict[str, Any], seconds: float, busy: float) -> None:
    s = manifest["statistics"]
    size = sum(path.stat().st_size for path in out.iterdir())
    molecules = sum(manifest["split"][side]["molecules"] for side in ("train", "validation"))
    print(f"{out}: {manifest['structures']} structures of {molecules} molecules, {manifest['atoms']} atoms "
          f"({s['atoms_min']} to {s['atoms_max']}, mean {s['atoms_mean']:.1f}), {size / 1e6:.2f} MB")
    held = manifest["split"]["validation"]
    print(f"force norm: mean {s['force_norm_mean']:.2f}, largest {s['force_norm_max']:.1f} eV/Angstrom; validation: "
          f"{held['structures']} structures of {held['molecules']} molecules")
    for reason, number in manifest["skipped"].items():
        print(f"  skipped: {number} {reason}")
    print(f"{duration(seconds)}, {short(busy)} s of worker time in this call")
