"""Sources to a pack: stream, filter, group, split, centre, rotate, fit references, write, all in
one pass.

Memory is a few blocks whatever the size of the sources. The pack appears by one rename when
everything is there; a killed call leaves only ``OUT.partial-*``, which the next call with the same
OUT removes. The same sources and options give the same arrays, byte for byte.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .. import __version__
from ..elements import SYMBOLS
from ..errors import DataError
from ..progress import Progress
from . import filters
from .groups import GroupCounter, formula_hashes, group_hashes
from .pack import NO_CHARGE, NO_SPIN, PackWriter, forces_text, split_text
from .readers import Block, Source, SourceOptions, open_source
from .reference import ForceAccumulator, ReferenceAccumulator
from .rotation import rotations, turn
from .splits import TRAIN, VALIDATION, split_of, splitmix64

MAX_CONFIGS = 10_000  # different config types of a pack
_OWNER = "writer-"  # PACK.partial-*/writer-<host>-<pid>: whose it is, while it is being written


@dataclass(frozen=True)
class PrepareOptions:
    """val_fraction: share of groups in validation. group: auto, formula, frame, or key:NAME.

    rotate: None turns molecules and leaves periodic structures, True turns both (with the cell),
    False neither. limit: stop after so many kept structures. command: written to the manifest.
    """

    val_fraction: float = 0.1
    seed: int = 0
    group: str = "auto"
    rotate: bool | None = None
    skip_unlabelled: bool = False
    skip_bad: bool = False
    limit: int | None = None
    overwrite: bool = False
    keep: filters.Filter = field(default_factory=filters.Filter)
    command: str = ""


@dataclass
class Tally:
    """What was met on the way: skipped and refused structures by reason, charges, periodicity."""

    skipped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    first_refused: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    kept: int = 0
    periodic: bool = False
    charges: bool = False
    stresses: bool = False
    configs: dict[str, int] = field(default_factory=dict)  # label -> its place in the manifest


def prepare(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    sources: SourceOptions | None = None,
    options: PrepareOptions | None = None,
    say: TextIO | None = None,
) -> Path:
    """Write the pack ``out`` from sources of any format; returns its path.

    Raises DataError for anything wrong in the sources, and then leaves nothing behind. say: where
    to print what was chosen (default stderr).
    """
    out, options, say = Path(out), options or PrepareOptions(), say or sys.stderr
    if options.group not in ("auto", "formula", "frame") and not options.group.startswith("key:"):
        raise DataError(
            f"no grouping called {options.group!r}", remedy="use auto, formula, frame or key:NAME"
        )
    if options.group.startswith("key:"):
        key = options.group.removeprefix("key:")
        sources = dataclasses.replace(sources or SourceOptions(), group_key=key)
    opened = [open_source(path, sources) for path in paths]
    if not opened:
        raise DataError("no sources given", remedy="name at least one file or folder")
    for source in opened:
        print("\n".join(source.describe()), file=say)
    _clear_partials(out)
    optional = {"periodic": True, "charges": True, "stresses": True, "configs": True}
    with PackWriter(out, overwrite=options.overwrite, **optional) as writer:
        owner = writer.partial / f"{_OWNER}{socket.gethostname()}-{os.getpid()}"
        owner.touch()
        work = PackBuild(writer, options)
        records = work.run(opened, say)
        if not work.tally.periodic:
            writer.drop("cells", "pbc")
        if not work.tally.charges:
            writer.drop("charges", "spins")
        if not work.tally.stresses:
            writer.drop("stresses")
        if not any(work.tally.configs):
            writer.drop("configs")
        manifest = work.manifest(records)
        owner.unlink()
        writer.finish(manifest)
    print("\n".join(summary(out.name, manifest)), file=say)
    return out


def summary(name: str, manifest: dict[str, Any]) -> list[str]:
    """What was written, in a few lines for the user."""
    spread = 1000 * manifest["statistics"]["energy_per_atom_sd"]
    split = manifest["split"]
    structures = split["train_structures"] + split["val_structures"]
    atoms = split["train_atoms"] + split["val_atoms"]
    symbols = " ".join(SYMBOLS[z] for z in manifest["elements"])
    return [
        f"{name}: {structures:,} structures, {atoms:,} atoms of {symbols}",
        f"  split        {split_text(split)}",
        f"  references   leave {spread:.1f} meV/atom (sd) on the training molecules",
        f"  forces       {forces_text(manifest['statistics'])}",
        *(f"  skipped      {count:,}: {reason}" for reason, count in manifest["skipped"].items()),
        *(f"  warning      {text}" for text in manifest["references"]["warnings"]),
    ]


def _clear_partials(out: Path) -> None:
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
            if host == socket.gethostname() and int(pid) != os.getpid() and _alive(int(pid)):
                raise DataError(
                    f"another process ({pid}) is writing {out.name}",
                    where=str(partial),
                    remedy=(
                        "wait for it, choose another --out, or remove that folder if it is not so"
                    ),
                )
        shutil.rmtree(partial)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class PackBuild:
    """The state of one call: the writer and everything that accumulates over blocks."""

    def __init__(self, writer: PackWriter, options: PrepareOptions):
        self.writer, self.options, self.tally = writer, options, Tally()
        self.references = ReferenceAccumulator()
        self.groups = GroupCounter()
        self.element_counts = np.zeros(119, np.int64)
        self.structures = np.zeros(2, np.int64)  # train, validation
        self.atoms = np.zeros(2, np.int64)
        self.forces = ForceAccumulator()
        self.atoms_max = 0
        self.turned = False

    def run(self, opened: list[Source], say: TextIO) -> list[dict[str, Any]]:
        """Stream all sources into the writer; returns their manifest records."""
        known = [source.structures for source in opened]
        total = None if None in known else sum(known)
        if total is not None and self.options.limit:
            total = min(total, self.options.limit)
        records = []
        with Progress("prepare", total, unit="structures", stream=say) as progress:
            for source in opened:
                before = self.tally.kept
                for block in self.within_limit(source.blocks()):
                    self.add(block)
                    progress.update(self.tally.seen, source.path.name)
                if not self.tally.refused:
                    records.append({**source.record(), "structures": self.tally.kept - before})
        self.check()
        return records

    def within_limit(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            if self.options.limit is not None and self.tally.kept >= self.options.limit:
                return
            yield block

    def add(self, block: Block) -> None:
        """Filter one block and write what is kept."""
        why = filters.reasons(block, self.options.keep)
        if self.options.limit is not None:  # nothing after the last structure that is kept was seen
            enough = np.flatnonzero(
                np.cumsum(why == filters.KEEP) == self.options.limit - self.tally.kept
            )
            if len(enough):
                met = np.arange(len(block)) <= enough[0]
                block, why = filters.select(block, met), why[met]
        self.count(block, why)
        keep = why == filters.KEEP
        block = filters.select(block, keep)
        first, self.tally.kept = self.tally.kept, self.tally.kept + len(block)
        if self.tally.refused or not len(block):
            return  # nothing will be written; continue only to count how many there are
        indices = np.arange(first, first + len(block))
        if self.options.group == "frame":
            groups = splitmix64(indices.astype(np.uint64))
        elif self.options.group == "formula":
            groups = formula_hashes(block.counts, block.numbers)
        else:
            groups = group_hashes(block)
        side = split_of(groups, fraction=self.options.val_fraction, seed=self.options.seed)
        positions, forces, cells, stresses = self.place(block, indices)
        absent = {
            "charges": np.full(len(block), NO_CHARGE, np.int8),
            "spins": np.full(len(block), NO_SPIN, np.int8),
            "pbc": np.zeros((len(block), 3), bool),
        }
        state = {
            n: v if getattr(block, n) is None else getattr(block, n) for n, v in absent.items()
        }
        self.tally.charges |= any(
            bool((state[name] != absent[name]).any()) for name in ("charges", "spins")
        )
        self.tally.periodic |= bool(state["pbc"].any())
        self.tally.stresses |= bool(np.isfinite(stresses).any())
        self.writer.append(
            block.counts,
            numbers=block.numbers,
            positions=positions,
            forces=forces,
            energies=block.energies,
            groups=groups,
            split=side,
            cells=cells,
            stresses=stresses,
            configs=self.config_indices(block),
            **state,
        )
        self.accumulate(block, groups, side)

    def count(self, block: Block, why: np.ndarray) -> None:
        self.tally.seen += len(block)
        for reason in np.unique(why[why != filters.KEEP]):
            name = filters.REASONS[reason]
            rows = np.flatnonzero(why == reason)
            fatal = (
                (reason in filters.UNLABELLED and not self.options.skip_unlabelled)
                or (reason in filters.BAD and not self.options.skip_bad)
                or name == "charge not given"
            )
            table = self.tally.refused if fatal else self.tally.skipped
            table[name] = table.get(name, 0) + len(rows)
            if fatal:
                self.tally.first_refused.setdefault(name, block.place(int(rows[0])))

    def config_indices(self, block: Block) -> np.ndarray:
        """Which of the pack's config types each structure is: uint16 (s,)."""
        known = self.tally.configs
        if block.configs is None:
            return np.full(len(block), known.setdefault("", len(known)), np.uint16)
        found = [known.setdefault(label, len(known)) for label in block.configs]
        if len(known) > MAX_CONFIGS:
            raise DataError(
                f"more than {MAX_CONFIGS:,} different config types, such as {block.configs[-1]!r}",
                where=block.place(len(block) - 1),
                remedy="name another key with --config-key; a config type is a kind of structure",
            )
        return np.array(found, np.uint16)

    def place(self, block: Block, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Positions, forces, cells and stresses as they are written: molecules centred, and rotated
        by the fixed rotation."""
        counts, rotate = block.counts, self.options.rotate
        periodic = np.zeros(len(block), bool) if block.pbc is None else block.pbc.any(axis=1)
        centre = np.add.reduceat(block.positions, filters.starts(counts), axis=0) / counts[:, None]
        centre[periodic] = 0.0
        positions = block.positions - np.repeat(centre, counts, axis=0)
        none = np.full((len(block), 3, 3), np.nan)
        cells = np.zeros_like(none) if block.cells is None else block.cells
        stresses = none if block.stresses is None else block.stresses
        if rotate is False:
            return positions, block.forces, cells, stresses
        matrices = rotations(indices, self.options.seed)
        if rotate is None:
            matrices[periodic] = np.eye(3)
        self.turned |= bool(rotate or not periodic.all())
        return (
            turn(positions, matrices, counts),
            turn(block.forces, matrices, counts),
            np.matmul(cells, matrices.transpose(0, 2, 1)),
            matrices @ stresses @ matrices.transpose(0, 2, 1),
        )

    def accumulate(self, block: Block, groups: np.ndarray, side: np.ndarray) -> None:
        """Counts over everything; references and force statistics over the training side only."""
        if self.options.group != "frame":
            self.groups.add(groups)
        self.element_counts += np.bincount(block.numbers, minlength=119)
        self.structures += np.bincount(side, minlength=2)
        self.atoms += np.bincount(side, weights=block.counts, minlength=2).astype(np.int64)
        train = filters.select(block, side == TRAIN)
        if not len(train):
            return
        self.references.add(train.counts, train.numbers, train.energies)
        self.forces.add(train.forces)
        self.atoms_max = max(self.atoms_max, int(train.counts.max()))

    def refuse(self) -> None:
        """One error for everything that was refused: how many by reason, where first, and what to
        pass."""
        numbers = ", ".join(f"{name}: {number:,}" for name, number in self.tally.refused.items())
        indices = {filters.REASONS.index(name) for name in self.tally.refused}
        remedies = []
        if indices & {*filters.UNLABELLED}:
            remedies.append(
                "pass --skip-unlabelled to leave frames without labels out (they are counted)"
            )
        if indices & {*filters.BAD}:
            remedies.append(
                "pass --skip-bad to leave frames out whose numbers are not finite (they are"
                " counted)"
            )
        if "charge not given" in self.tally.refused:
            remedies.append(
                "name --charge-key, or drop --only-neutral: the source does not say what is neutral"
            )
        raise DataError(
            f"{numbers} of {self.tally.seen:,} structures",
            where="first: "
            + "; ".join(f"{name}: {place}" for name, place in self.tally.first_refused.items()),
            remedy="; ".join(remedies),
        )

    def check(self) -> None:
        """Refuse what cannot be trained on or split; the writer then removes everything."""
        if self.tally.refused:
            self.refuse()
        if not self.tally.kept:
            reasons = ", ".join(
                f"{name}: {number:,}" for name, number in self.tally.skipped.items()
            )
            raise DataError(
                f"no structure is left of {self.tally.seen:,} (skipped: {reasons or 'none'})",
                remedy="loosen the filters, or check that this is the right source",
            )
        if (
            self.options.val_fraction > 0
            and self.options.group != "frame"
            and self.groups.number == 1
        ):
            raise DataError(
                "all structures belong to one molecule, so they cannot be split by molecule",
                remedy="pass --group frame to split by frame (frames of one trajectory are alike)",
            )
        for index, name in ((TRAIN, "training"), (VALIDATION, "validation")):
            if self.structures[index] == 0 and (index == TRAIN or self.options.val_fraction > 0):
                groups = "frames" if self.options.group == "frame" else "molecules"
                number = (
                    self.structures.sum() if self.options.group == "frame" else self.groups.number
                )
                raise DataError(
                    f"none of the {number} {groups} fell into the {name} set",
                    remedy=(
                        "there are few: choose another --seed or --val-fraction, or pass --group"
                        " frame"
                    ),
                )

    def manifest(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Everything the pack says about itself besides its arrays."""
        energies = self.references.solve()
        elements = [int(z) for z in np.flatnonzero(self.element_counts)]
        unfitted = [SYMBOLS[z] for z in elements if z not in energies]
        if unfitted:
            raise DataError(
                f"{', '.join(unfitted)} occurs in validation only, so its reference energy cannot"
                " be fitted",
                remedy=(
                    "choose another --seed, leave the element out with --elements, or pass --group"
                    " frame"
                ),
            )
        train_atoms = max(int(self.atoms[TRAIN]), 1)
        rule = {
            "auto": "by the group label of the source, else by formula",
            "formula": "by formula",
            "frame": "by frame",
        }
        note = "frames of one molecule never straddle the split"
        if self.options.group == "frame":
            note = (
                "frames of one molecule are on both sides: validation says nothing about new"
                " molecules"
            )
        number = None if self.options.group == "frame" else self.groups.number
        return {
            "elements": elements,
            "element_counts": {str(z): int(self.element_counts[z]) for z in elements},
            "units": {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom"},
            "sources": records,
            "split": {
                "rule": rule.get(self.options.group, f"by {self.options.group}"),
                "fraction": self.options.val_fraction,
                "seed": self.options.seed,
                "train_structures": int(self.structures[TRAIN]),
                "val_structures": int(self.structures[VALIDATION]),
                "train_atoms": int(self.atoms[TRAIN]),
                "val_atoms": int(self.atoms[VALIDATION]),
                "groups": number,
                "groups_note": note,
            },
            "references": {
                "method": "least squares on total energies, float64",
                "energies": {str(z): e for z, e in energies.items()},
                "rms_residual_ev_per_atom": self.references.rms_residual,
                "fitted_on": f"training split, {self.references.structures} structures",
                "warnings": self.references.warnings,
            },
            "statistics": {
                "over": "training split",
                "force_rms": self.forces.rms,
                "force_norm_mean": self.forces.norm_mean,
                "force_norm_max": self.forces.norm_max,
                "energy_per_atom_sd": self.references.sd_per_atom,
                "atoms_mean": train_atoms / max(int(self.structures[TRAIN]), 1),
                "atoms_max": self.atoms_max,
            },
            **({"config_types": list(self.tally.configs)} if any(self.tally.configs) else {}),
            "skipped": self.tally.skipped,
            "rotated": self.turned,
            "command": self.options.command,
            "versions": _versions(),
            "created": datetime.date.today().isoformat(),
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
