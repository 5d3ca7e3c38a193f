"""Sources to a pack: stream, filter, group, split, centre, rotate, fit references, write, all in
one pass.

Memory is a few blocks whatever the size of the sources. The pack appears by one rename when
everything is there; a killed call leaves only ``OUT.partial-*``, which the next call with the same
OUT removes. The same sources and options give the same arrays, byte for byte.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .. import __version__
from ..elements import SYMBOLS
from ..errors import DataError
from ..host import process_exists
from .build import SIDES, PackBuild, Part, PrepareOptions
from .pack import PackWriter, forces_text, split_text
from .read_ahead import ReadAhead
from .readers import SourceOptions, open_source
from .reference import References
from .shards import homes, remove_shards
from .splits import SIDE_OF, TEST, TRAIN, VALIDATION
from .validate import ALLOWED
from .validate.findings import Finding, reference_text

_OWNER = "writer-"  # PACK.partial-*/writer-<host>-<pid>: whose it is, while it is being written


def prepare(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    validation: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    indices: Mapping[str, str | Path] | None = None,
    sources: SourceOptions | None = None,
    options: PrepareOptions | None = None,
    jobs: int = 1,
    say: TextIO | None = None,
) -> Path:
    """Write the pack ``out`` from sources of any format; returns its path.

    Without ``validation`` the sources in ``paths`` are split by molecule; with it all of them are
    training. test: sources that are kept apart for evaluation. indices: "train", "validation",
    "test" -> a file of structure numbers, from 0, of the only source. jobs: processes that read;
    with more than one, a further one writes. Their number does not show in the pack.

    Raises DataError for anything wrong in the sources, and then leaves nothing behind. say: where
    to print what was chosen (default stderr).
    """
    out, options, say = Path(out), options or PrepareOptions(), say or sys.stderr
    sources = _checked(options, sources)
    parts = [
        Part(open_source(path, sources), side)
        for files, side in (
            (paths, TRAIN if validation else None),
            (validation, VALIDATION),
            (test, TEST),
        )
        for path in files
    ]
    if not any(part.side in (None, TRAIN) for part in parts):
        raise DataError("no sources given", remedy="name at least one file or folder")
    if indices:
        parts = [_by_indices(parts, indices)]
    for part in parts:
        print("\n".join(part.source.describe()), file=say)
    clear_partials(out)
    optional = {"periodic": True, "charges": True, "stresses": True, "configs": True}
    sharded = {"shard_size": options.shard_size, "shard_folders": options.shard_folders}
    before = homes(out)
    with (
        PackWriter(out, overwrite=options.overwrite, **optional, **sharded) as writer,
        contextlib.closing(PackBuild(writer, options, parts)) as work,
    ):
        owner = mark(writer)
        records = _run(work, sources, jobs, say)
        references = work.references()
        findings = work.findings(references)
        if not work.tally.periodic:
            writer.drop("cells", "pbc")
        if not work.tally.charges:
            writer.drop("charges", "spins")
        if not work.tally.stresses:
            writer.drop("stresses")
        if not any(work.tally.configs):
            writer.drop("configs")
        full = manifest(work, references, records, findings)
        work.close()
        owner.unlink()
        writer.finish(full)
    print("\n".join(summary(out.name, full)), file=say)
    for home in before:
        print(f"  left         {home}: shards of the pack that was replaced", file=say)
    return out


def _run(work: PackBuild, sources: SourceOptions, jobs: int, say: TextIO) -> list[dict[str, Any]]:
    """Stream all sources into the pack, read by ``jobs`` processes."""
    if jobs == 1:
        return work.run(say)
    opened = [part.source for part in work.parts]
    with contextlib.closing(ReadAhead(opened, sources, jobs, work.writer.partial)) as ahead:
        return work.run(say, ahead.blocks)


def _checked(options: PrepareOptions, sources: SourceOptions | None) -> SourceOptions:
    """The options of the sources, with the group key; a word that is none of ours is an error."""
    if options.group not in ("auto", "formula", "frame") and not options.group.startswith("key:"):
        raise DataError(
            f"no grouping called {options.group!r}", remedy="use auto, formula, frame or key:NAME"
        )
    unknown = options.allow - ALLOWED.keys()
    if unknown:
        raise DataError(
            f"there is no finding called {', '.join(sorted(unknown))}",
            where="--allow",
            remedy=f"use one of: {', '.join(ALLOWED)}",
        )
    check_folders(options.shard_size, options.shard_folders)
    sources = sources or SourceOptions()
    if options.group.startswith("key:"):
        sources = sources.model_copy(update={"group_key": options.group.removeprefix("key:")})
    return sources


def check_folders(shard_size: int | None, folders: Sequence[Path]) -> None:
    """DataError for folders of shards that are not there, or without the size of a shard."""
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent or (folders and shard_size is None):
        raise DataError(
            f"no folder {', '.join(absent)}" if absent else "folders for shards without their size",
            where="--shard-folders",
            remedy="make the folder, or mount its disk" if absent else "pass --shard-size",
        )


def mark(writer: PackWriter) -> Path:
    """A file that says that this process writes the pack; to be removed before it is finished."""
    owner = writer.partial / f"{_OWNER}{socket.gethostname()}-{os.getpid()}"
    owner.touch()
    return owner


def _by_indices(parts: list[Part], indices: Mapping[str, str | Path]) -> Part:
    """The only source, with the structures of each side as files list them."""
    if len(parts) != 1 or parts[0].side is not None:
        raise DataError(
            f"lists of structures were given with {len(parts)} sources",
            remedy="a list numbers the structures of one source: prepare it alone",
        )
    chosen = {SIDE_OF[name]: _indices(path) for name, path in indices.items()}
    for a, b in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        both = np.intersect1d(chosen.get(a, ()), chosen.get(b, ()))
        if len(both):
            raise DataError(
                f"{len(both):,} structures are listed as {SIDES[a]} and as {SIDES[b]}",
                where=f"for example structure {int(both[0])}",
                remedy="each structure belongs to one side",
            )
    number = parts[0].source.structures
    most = max(int(rows.max(initial=0)) for rows in chosen.values())
    if number is not None and most >= number:
        raise DataError(
            f"structure {most} is listed, and the source holds {number:,} (numbered from 0)",
            where=str(parts[0].source.path),
            remedy="check that the lists belong to this file",
        )
    return Part(parts[0].source, None, chosen)


def _indices(path: str | Path) -> np.ndarray:
    """Whole numbers from a file: .npy, or text with one a line or commas between them."""
    path = Path(path)
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False).reshape(-1)
        else:
            words = path.read_text().replace(",", " ").split()
            rows = np.array([int(word) for word in words], np.int64)
        if rows.dtype.kind not in "iu" or not len(rows) or rows.min() < 0:
            raise ValueError("no list of whole numbers from 0")
    except (OSError, ValueError) as error:
        raise DataError(
            f"the list of structures cannot be read: {error}",
            where=str(path),
            remedy="it holds whole numbers, from 0, one a line (or a NumPy array of them)",
        ) from error
    return np.unique(rows.astype(np.int64))


def summary(name: str, manifest: dict[str, Any]) -> list[str]:
    """What was written, in a few lines for the user."""
    split, fit = manifest["split"], manifest["references"]
    structures = sum(split.get(f"{side}_structures", 0) for side in ("train", "val", "test"))
    atoms = sum(split.get(f"{side}_atoms", 0) for side in ("train", "val", "test"))
    symbols = " ".join(SYMBOLS[z] for z in manifest["elements"])
    checks = manifest.get("checks", {})
    return [
        f"{name}: {structures:,} structures, {atoms:,} atoms of {symbols}",
        f"  split        {split_text(split)}",
        f"  references   {fit['method']}; they leave {fit['described']}",
        f"  forces       {forces_text(manifest['statistics'])}",
        *(f"  skipped      {count:,}: {reason}" for reason, count in manifest["skipped"].items()),
        *(f"  allowed      {finding['what']}" for finding in checks.get("findings", [])),
        *(f"  warning      {text}" for text in fit["warnings"] + checks.get("warnings", [])),
    ]


def clear_partials(out: Path) -> None:
    """Remove what a killed call left; put back a pack that was being replaced; never touch a live
    writer's folder."""
    for old in out.parent.glob(f"{out.name}.partial-old-*"):
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    pattern = re.compile(re.escape(out.name) + r"\.partial-[0-9a-f]{8}")
    for partial in out.parent.glob(f"{out.name}.partial-*"):
        if not pattern.fullmatch(partial.name):
            continue
        for owner in partial.glob(f"{_OWNER}*"):
            host, _, pid = owner.name.removeprefix(_OWNER).rpartition("-")
            here = host == socket.gethostname() and int(pid) != os.getpid()
            if here and process_exists(int(pid)):
                raise DataError(
                    f"another process ({pid}) is writing {out.name}",
                    where=str(partial),
                    remedy=(
                        "wait for it, choose another --out, or remove that folder if it is not so"
                    ),
                )
        remove_shards(partial, out.name)
        shutil.rmtree(partial)


def manifest(
    work: PackBuild,
    references: References,
    records: list[dict[str, Any]],
    findings: list[Finding],
) -> dict[str, Any]:
    """Everything the pack says about itself besides its arrays."""
    counts, configs = work.survey.element_counts, work.tally.configs
    elements = [int(z) for z in np.flatnonzero(counts)]
    labels = {"config_types": list(configs)} if any(configs) else {}
    return {
        "elements": elements,
        "element_counts": {str(z): int(counts[z]) for z in elements},
        "units": {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom"},
        "sources": records,
        "split": _split(work),
        "references": {
            "method": references.method,
            "energies": {str(z): e for z, e in references.energies.items()},
            "rms_residual_ev_per_atom": references.rms,
            "mean_residual_by_element": {str(z): v for z, v in references.by_element.items()},
            "described": reference_text(references),
            "fitted_on": f"training split, {references.structures} structures",
            "warnings": references.warnings,
        },
        "statistics": _statistics(work, references),
        "checks": {
            "findings": [finding.record() for finding in findings],
            "allowed": sorted(work.options.allow),
            "forces": [verdict.text for verdict in work.survey.verdicts],
            "warnings": work.survey.warnings(),
        },
        **labels,
        **({"made_from": work.options.made_from} if work.options.made_from else {}),
        **({"label_noise": work.options.label_noise} if work.options.label_noise else {}),
        "skipped": work.tally.skipped,
        "rotated": work.turned,
        "command": work.options.command,
        "versions": _versions(),
        "created": datetime.date.today().isoformat(),
    }


def _split(work: PackBuild) -> dict[str, Any]:
    """The manifest's entry on the split."""
    options, by_frame = work.options, work.options.group == "frame"
    rule = {
        "auto": "by the group label of the source, else by formula",
        "formula": "by formula",
        "frame": "by frame",
    }.get(options.group, f"by {options.group}")
    note = "frames of one molecule never straddle the split"
    if by_frame:
        note = (
            "frames of one molecule are on both sides: validation says nothing about new molecules"
        )
    if work.given:
        listed = any(part.indices for part in work.parts)
        rule = "as given, by lists of structures" if listed else "as given, by files"
        note = "whether a molecule is on both sides is up to them"
    out = {
        "rule": rule,
        "fraction": None if work.given else options.val_fraction,
        "seed": options.seed,
        "train_structures": int(work.structures[TRAIN]),
        "val_structures": int(work.structures[VALIDATION]),
        "train_atoms": int(work.atoms[TRAIN]),
        "val_atoms": int(work.atoms[VALIDATION]),
        "groups": None if by_frame else work.groups.number,
        "groups_note": note,
    }
    if work.structures[TEST]:
        out |= {
            "test_structures": int(work.structures[TEST]),
            "test_atoms": int(work.atoms[TEST]),
        }
    return out


def _statistics(work: PackBuild, references: References) -> dict[str, Any]:
    """The manifest's entry on energies and forces of the training split."""
    squares = norms = largest = 0.0
    for chunk in work.records.chunks():
        rows = chunk.records[chunk.sides == TRAIN]
        squares, norms = squares + float(rows["squares"].sum()), norms + float(rows["norms"].sum())
        largest = max(largest, float(rows["largest"].max(initial=0.0)))
    atoms, structures = max(int(work.atoms[TRAIN]), 1), max(int(work.structures[TRAIN]), 1)
    return {
        "over": "training split",
        "force_rms": (squares / (3 * atoms)) ** 0.5,
        "force_norm_mean": norms / atoms,
        "force_norm_max": largest,
        "energy_per_atom_sd": references.sd,
        "atoms_mean": atoms / structures,
        "atoms_max": work.atoms_max,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    out = {"forcelaw": __version__, "python": platform.python_version()}
    for name in ("numpy", "ase", "h5py", "ase-db-backends"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out
