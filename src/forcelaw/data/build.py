"""The stream from sources to the arrays of a pack: filter, group, split, centre, rotate, write, and
count on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..elements import SYMBOLS
from ..errors import DataError
from ..progress import Progress
from . import filters
from .atomic_energies import GIVEN, ISOLATED, PLAIN, AtomicEnergies, FreeAtoms
from .groups import GroupCounter, formula_hashes, group_hashes
from .pack import NO_CHARGE, NO_SPIN, PackWriter
from .readers import Block, Source, structures_in
from .readers.base import filled
from .records import Records, geometry_hashes
from .reference import References, fit_references
from .rotation import rotations, turn
from .splits import (
    EXACT_GROUPS,
    TEST,
    TRAIN,
    VALIDATION,
    exact_split,
    split_of,
    splitmix64,
)
from .validate.findings import Finding
from .validate.survey import Survey

MAX_CONFIGS = 10_000  # different config types of a pack
FRAMES = 2000  # of each source, on which forces are compared with energies
SIDES = ("training", "validation", "test")


@dataclass(frozen=True)
class PrepareOptions:
    """val_fraction: share of structures in validation. group: auto, formula, frame, or key:NAME.
    split: exact, or hash (each group by its hash alone, as packs before 2026-11-29).

    rotate: None turns molecules and leaves periodic structures, True turns both (with the cell),
    False neither. limit: stop after so many kept structures. allow: names of findings
    (:data:`forcelaw.data.validate.ALLOWED`) that are let pass. command, made_from, label_noise:
    written to the manifest. shard_size: bytes of a shard at most, None: no shards; shard_folders:
    where they are put (:mod:`.shards`).
    """

    val_fraction: float = 0.1
    seed: int = 0
    group: str = "auto"
    split: str = "exact"
    rotate: bool | None = None
    skip_unlabelled: bool = False
    skip_bad: bool = False
    drop_duplicates: bool = False
    limit: int | None = None
    overwrite: bool = False
    keep: filters.Filter = field(default_factory=filters.Filter)
    atomic_energies: AtomicEnergies = field(default_factory=AtomicEnergies)
    allow: frozenset[str] = frozenset()
    command: str = ""
    made_from: dict[str, Any] | None = None
    label_noise: dict[str, float] | None = None
    shard_size: int | None = None
    shard_folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Part:
    """An opened source and the side that all of it is on; None: the split decides. indices: side ->
    which structures of it, ascending (others are left out), where that is given instead."""

    source: Source
    side: int | None = None
    indices: dict[int, np.ndarray] | None = None

    @property
    def by_rule(self) -> bool:
        return self.side is None and self.indices is None


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


class PackBuild:
    """The state of one call: the writer and everything that accumulates over blocks."""

    def __init__(
        self,
        writer: PackWriter,
        options: PrepareOptions,
        parts: list[Part] | None = None,
    ):
        self.writer, self.options, self.tally = writer, options, Tally()
        self.parts = parts or []
        self.records = Records(writer.partial)
        self.survey = Survey(self.records, [part.source for part in self.parts], FRAMES)
        self.given = bool(self.parts) and not any(part.by_rule for part in self.parts)
        by_frame = options.group == "frame"
        self.groups = GroupCounter(EXACT_GROUPS) if by_frame else GroupCounter()
        self.free_atoms = FreeAtoms()
        self.structures = np.zeros(3, np.int64)  # train, validation, test
        self.atoms = np.zeros(3, np.int64)
        self.train_elements = np.zeros(119, bool)
        self.atoms_max = 0
        self.turned = False
        self._met: set[tuple[int, float]] = set()  # geometry and energy, to drop copies

    def run(
        self, say: TextIO, blocks: Callable[[int], Iterator[Block]] | None = None
    ) -> list[dict[str, Any]]:
        """Stream all sources into the writer; returns their manifest records. blocks: those of the
        source of a number, where other processes read them."""
        blocks = blocks or (lambda k: self.parts[k].source.blocks())
        total = structures_in(part.source for part in self.parts)
        if total is not None and self.options.limit:
            total = min(total, self.options.limit)
        records = []
        with Progress("prepare", total, unit="structures", stream=say) as progress:
            for k, part in enumerate(self.parts):
                before = self.tally.kept
                for block in self.within_limit(blocks(k)):
                    self.add(block, k)
                    progress.update(self.tally.seen, part.source.path.name)
                if not self.tally.refused:
                    side = {} if part.side is None else {"side": SIDES[part.side]}
                    kept = self.tally.kept - before
                    records.append({**part.source.record(), "structures": kept, **side})
        self.settle()
        return records

    def within_limit(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            if self.options.limit is not None and self.tally.kept >= self.options.limit:
                return
            yield block

    def add(self, block: Block, source: int = 0) -> None:
        """Filter one block and write what is kept."""
        self.note_free_atoms(block)
        why = filters.reasons(block, self.options.keep)
        part = self.parts[source]
        sides = self.given_sides(part, block, why)
        if self.options.drop_duplicates:
            self.mark_copies(block, why)
        if self.options.limit is not None:  # nothing after the last structure that is kept was seen
            enough = np.flatnonzero(
                np.cumsum(why == filters.KEEP) == self.options.limit - self.tally.kept
            )
            if len(enough):
                met = np.arange(len(block)) <= enough[0]
                block, why, sides = filters.select(block, met), why[met], sides[met]
        self.count(block, why)
        keep = why == filters.KEEP
        block, sides = filters.select(block, keep), sides[keep]
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
        if part.by_rule:
            fraction, seed = self.options.val_fraction, self.options.seed
            sides = split_of(groups, fraction=fraction, seed=seed)
        if part.indices is None and block.test is not None:
            sides = np.where(block.test, TEST, sides).astype(np.uint8)
        self.write(block, indices, groups, sides, source)

    def note_free_atoms(self, block: Block) -> None:
        """Remember the energies of free atoms, which are not trained on."""
        if not (block.counts == 1).any():
            return
        for k in np.flatnonzero(filters.free_atoms(block) & np.isfinite(block.energies)):
            atom = int(block.counts[:k].sum())
            self.free_atoms.add(int(block.numbers[atom]), float(block.energies[k]))

    def given_sides(self, part: Part, block: Block, why: np.ndarray) -> np.ndarray:
        """The side of each structure where it is given, uint8 (s,); those in no part are marked in
        ``why``."""
        if part.indices is None:
            return np.full(len(block), part.side or TRAIN, np.uint8)
        sides = np.full(len(block), 255, np.uint8)
        for side, chosen in part.indices.items():
            low, high = np.searchsorted(chosen, [block.first, block.first + len(block)])
            sides[chosen[low:high] - block.first] = side
        absent = (sides == 255) & (why == filters.KEEP)
        why[absent] = filters.REASONS.index("in no part of the split")
        return sides

    def mark_copies(self, block: Block, why: np.ndarray) -> None:
        """Mark structures that repeat an earlier one; a set of all geometries is kept for that."""
        for k, key in enumerate(
            zip(geometry_hashes(block).tolist(), np.round(block.energies, 5).tolist())
        ):
            if why[k] == filters.KEEP:
                if key in self._met:
                    why[k] = filters.REASONS.index("copy of an earlier one")
                self._met.add(key)

    def write(
        self,
        block: Block,
        indices: np.ndarray,
        groups: np.ndarray,
        sides: np.ndarray,
        source: int,
    ) -> None:
        """Write a block as it is stored, and count it."""
        positions, forces, cells, stresses = self.place(block, indices)
        charges, spins, pbc = (filled(block, name) for name in ("charges", "spins", "pbc"))
        self.tally.charges |= bool((charges != NO_CHARGE).any() or (spins != NO_SPIN).any())
        self.tally.periodic |= bool(pbc.any())
        self.tally.stresses |= bool(np.isfinite(stresses).any())
        configs = self.config_indices(block)
        self.writer.append(
            block.counts,
            numbers=block.numbers,
            positions=positions,
            forces=forces,
            energies=block.energies,
            groups=groups,
            split=sides,
            cells=cells,
            stresses=stresses,
            configs=configs,
            charges=charges,
            spins=spins,
            pbc=pbc,
        )
        self.count_written(block, groups, sides, source, configs)

    def count_written(
        self,
        block: Block,
        groups: np.ndarray,
        sides: np.ndarray,
        source: int = 0,
        configs: np.ndarray | None = None,
    ) -> None:
        """Count a block that was written."""
        if self.given or not self.parts or self.parts[source].by_rule:
            apart = bool(self.parts) and not self.given  # what a source keeps for test is not split
            self.groups.add(groups[sides != TEST] if apart else groups)
        self.survey.add(block, source=source, sides=sides, configs=configs)

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

    def count(self, block: Block, why: np.ndarray) -> None:
        self.tally.seen += len(block)
        for reason in np.unique(why[why != filters.KEEP]):
            name = filters.REASONS[reason]
            rows = np.flatnonzero(why == reason)
            fatal = (
                (reason in filters.UNLABELLED and not self.options.skip_unlabelled)
                or (reason in filters.BAD and not self.options.skip_bad)
                or name.endswith(" not given")
            )
            table = self.tally.refused if fatal else self.tally.skipped
            table[name] = table.get(name, 0) + len(rows)
            if fatal:
                self.tally.first_refused.setdefault(name, block.place(int(rows[0])))

    def place(self, block: Block, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Positions, forces, cells and stresses as they are written: molecules centred, and rotated
        by the fixed rotation."""
        counts, rotate = block.counts, self.options.rotate
        periodic = filled(block, "pbc").any(axis=1)
        centre = np.add.reduceat(block.positions, filters.starts(counts), axis=0) / counts[:, None]
        centre[periodic] = 0.0
        positions = block.positions - np.repeat(centre, counts, axis=0)
        cells, stresses = filled(block, "cells"), filled(block, "stresses")
        if rotate is False:
            return positions, block.forces, cells, stresses
        matrices = rotations(indices, self.options.seed)
        if rotate is None:
            matrices[periodic] = np.eye(3)
        self.turned |= bool(rotate or not periodic.all())
        back = matrices.transpose(0, 2, 1)
        return (
            *turn((positions, block.forces), matrices, counts),
            cells if block.cells is None else cells @ back,
            stresses if block.stresses is None else matrices @ stresses @ back,
        )

    def close(self) -> None:
        """Remove the scratch files."""
        self.records.close()

    def settle(self) -> None:
        """Refuse what cannot be trained on or split; settle the split; count its sides."""
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
        self.settle_split()
        self.count_sides()
        self.check_sides()

    def settle_split(self) -> None:
        """Where there are few groups, make the share of validation exact to within one group."""
        fraction = self.options.val_fraction
        if self.given or fraction <= 0:
            return
        if self.records.structures == 1:
            raise DataError(
                "there is one structure, which cannot be both trained on and validated with",
                remedy="give more structures, or others to validate with (--train, --validation)",
            )
        by_frame = self.options.group == "frame"
        if not by_frame and self.groups.number == 1:
            raise DataError(
                "all structures belong to one molecule, so they cannot be split by molecule",
                remedy="pass --group frame to split by frame (frames of one trajectory are alike)",
            )
        table = self.groups.table()
        if self.options.split == "hash" or table is None or len(table[0]) > EXACT_GROUPS:
            return
        held = table[0][exact_split(*table, fraction=fraction, seed=self.options.seed)]
        pairs = zip(self.writer.read("groups"), self.writer.read("split"), strict=True)
        sides = [np.where(old == TEST, old, np.isin(groups, held)) for groups, old in pairs]
        self.writer.rewrite("split", iter(sides))
        self.records.set_sides(self.writer.read("split"))

    def count_sides(self) -> None:
        for chunk in self.records.chunks():
            counts = chunk.records["atoms"]
            self.structures += np.bincount(chunk.sides, minlength=3)
            self.atoms += np.bincount(chunk.sides, weights=counts, minlength=3).astype(np.int64)
            mine = chunk.sides == TRAIN
            self.train_elements[chunk.numbers[np.repeat(mine, counts)]] = True
            self.atoms_max = max(self.atoms_max, int(counts[mine].max(initial=0)))

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
                "pass --skip-bad to leave frames out whose numbers are not finite or whose cell has"
                " no volume (they are counted)"
            )
        for name in ("charge", "spin"):
            if f"{name} not given" in self.tally.refused:
                remedies.append(
                    f"name --{name}-key, or drop the filter by {name}: the source does not say it"
                )
        raise DataError(
            f"{numbers} of {self.tally.seen:,} structures",
            where="first: "
            + "; ".join(f"{name}: {place}" for name, place in self.tally.first_refused.items()),
            remedy="; ".join(remedies),
        )

    def check_sides(self) -> None:
        """Refuse a split that does not do what was asked for."""
        train, held = int(self.structures[TRAIN]), int(self.structures[VALIDATION])
        fraction, total = self.options.val_fraction, train + held
        if self.given:
            if not train:
                raise DataError("no training structure is left", remedy="check the training files")
            return
        if fraction <= 0 and train:
            return
        groups = "frames" if self.options.group == "frame" else "molecules"
        number = total if groups == "frames" else self.groups.number
        want = fraction * total
        if (
            train
            and held >= min(2, int(want))
            and held
            and abs(held - want) <= max(1.0, 0.5 * want)
        ):
            return
        if train and held and self.options.split == "hash":
            return
        empty = "validation" if train else "training"
        what = f"{held:,} of {total:,} structures" if train and held else "none"
        raise DataError(
            f"the {number} {groups} cannot be split: {what} of them would be in the {empty} set,"
            f" where {want:,.1f} were asked for",
            remedy="there are few, or they are of very different sizes: choose another"
            " --val-fraction or --seed, "
            + ("" if groups == "frames" else "pass --group frame, ")
            + "or give the files apart (--train, --validation)",
        )

    def references(self) -> References:
        """Reference energies of the elements, as asked for."""
        elements = [int(z) for z in np.flatnonzero(self.survey.element_counts)]
        how = self.options.atomic_energies
        if how.kind in (GIVEN, ISOLATED):
            values = how.values if how.kind == GIVEN else self.free_atoms.of(elements)
            absent = [SYMBOLS[z] for z in elements if z not in values]
            if absent:
                raise DataError(
                    f"no reference energy was given for {', '.join(absent)}",
                    where="--E0s",
                    remedy="give one for every element, or leave elements out with --elements",
                )
            origin = how.origin if how.kind == GIVEN else "energies of free atoms in the sources"
            return References({z: values[z] for z in elements}, origin)
        unfitted = [SYMBOLS[z] for z in elements if not self.train_elements[z]]
        if unfitted:
            raise DataError(
                f"{', '.join(unfitted)} occurs in validation only, so its reference energy cannot"
                " be fitted",
                remedy=(
                    "choose another --seed, leave the element out with --elements, give the energy"
                    " with --E0s, or pass --group frame"
                ),
            )
        return fit_references(self.records.chunks, plain=how.kind == PLAIN)

    def findings(self, references: References) -> list[Finding]:
        """What is wrong with the labels; an error if any of it is not allowed."""
        found = self.survey.findings(references)
        refused = [finding for finding in found if finding.name not in self.options.allow]
        if refused:
            raise DataError(
                "; ".join(finding.what for finding in refused),
                where="; ".join(filter(None, (finding.where for finding in refused))),
                remedy="; ".join(
                    f"{finding.remedy}, or let it pass with --allow {finding.name}"
                    for finding in refused
                ),
            )
        return found
