"""Extended XYZ, plain or gzipped, streamed frame by frame.

The comment line is read as ASE reads it (:mod:`.extxyz_comment`), columns for a batch of frames at
once. Labels are looked for where files keep them: energies in the comment line, forces in
the columns. ``energy`` and ``forces`` are ASE's names, ``REF_energy`` and ``REF_forces`` the
convention of training sets; any other name must be given. Units are eV and Angstrom by ASE's
convention unless the user says otherwise. Format: https://github.com/libAtoms/extxyz
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...elements import Z_OF
from ...errors import DataError
from ..pack import NO_CHARGE, NO_SPIN
from .base import (
    DEFLATE,
    MISSING_ENERGY,
    MISSING_FORCES,
    Block,
    Source,
    SourceOptions,
    Units,
    check_numbers,
    gather,
    small_ints,
)
from .extxyz_comment import comment
from .labels import choose_units, config_key, optional_keys, require_labels, suggest
from .stress import StressRule, stress_rule

PAIRS = (
    ("energy", "forces"),
    ("REF_energy", "REF_forces"),
)  # names the format or its convention defines
LONGEST_LINE, LONGEST_WORD = 1 << 20, 64  # bytes; of a comment line, of a word of an atom's line
LEAST_BYTES = 8  # of the line of an atom
PEEK, BATCH = 200, 256  # frames looked at to see the keys; frames parsed together
_DEFAULT_COLUMNS = "species:S:1:pos:R:3"


@dataclass(slots=True)
class Frame:
    """One frame as read: header values, column layout and the untouched atom lines."""

    index: int
    line: int  # of the atom count, from 1
    atoms: int
    info: dict[str, Any]
    columns: str
    lines: list[str]


class _Lines(io.RawIOBase):
    """Bytes of a file, with an error for a line that no such file has: one without an end, for
    instance of a small archive, would fill the memory."""

    def __init__(self, file: Any):
        self._file, self._since = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        end = bytes(buffer[:count]).rfind(b"\n")
        self._since = self._since + count if end < 0 else count - end - 1
        if self._since > LONGEST_LINE:
            raise DataError(f"a line of more than {LONGEST_LINE:,} bytes")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path) -> TextIO:
    packed = path.suffix == ".gz"
    raw = gzip.open(path, "rb") if packed else path.open("rb", buffering=0)  # noqa: SIM115
    return io.TextIOWrapper(io.BufferedReader(_Lines(raw), 1 << 17), encoding="utf-8")


def frames(path: Path) -> Iterator[Frame]:
    """Frames of a file; a damaged or truncated one is an error that names frame and line."""
    line_number = index = 0
    most = path.stat().st_size * (DEFLATE if path.suffix == ".gz" else 1)
    try:
        with _open(path) as file:
            while True:
                count = file.readline()
                if not count.strip():
                    if rest := file.read(1 << 16).strip():
                        raise DataError(
                            f"text after an empty line: {rest[:40]!r}",
                            where=f"{path}, frame {index}, line {line_number + 1}",
                            remedy="frames follow each other without empty lines",
                        )
                    return
                where = f"{path}, frame {index}, line {line_number + 1}"
                try:
                    atoms = int(count[:100])
                except ValueError:
                    raise DataError(
                        f"expected a number of atoms, found {count.strip()[:60]!r}",
                        where=where,
                        remedy="the file is damaged, or it is not extended XYZ",
                    ) from None
                if atoms < 1 or atoms * LEAST_BYTES > most:
                    raise DataError(
                        f"the frame announces {atoms} atoms, more than the file can hold, or none",
                        where=where,
                        remedy="the file is damaged: fetch it again",
                    )
                header = file.readline()
                lines = list(islice(file, atoms))
                if len(lines) < atoms or not (
                    lines[-1].endswith("\n") or len(lines[-1].split()) > 3
                ):
                    raise DataError(
                        f"truncated: the frame announces {atoms} atoms, {len(lines)} lines follow",
                        where=where,
                        remedy="fetch the file again, or cut it before this frame",
                    )
                info = comment(header) if "=" in header else {}
                columns = str(info.pop("Properties", _DEFAULT_COLUMNS))
                yield Frame(index, line_number + 1, atoms, info, columns, lines)
                line_number += atoms + 2
                index += 1
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(
            f"the file is damaged or truncated: {error}",
            where=f"{path}, frame {index}",
            remedy="fetch the file again",
        ) from error


def layout(columns: str, where: str) -> dict[str, tuple[int, int, str]]:
    """ "species:S:1:pos:R:3" -> {name: (first column, width, type)}."""
    fields = columns.split(":")
    if len(fields) % 3 or not all(width.isdigit() for width in fields[2::3]):
        raise DataError(f"unreadable Properties={columns}", where=where)
    out, start = {}, 0
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3]):
        out[name] = (start, int(width), kind)
        start += int(width)
    return out


def open_extxyz(path: Path, options: SourceOptions) -> Source:
    """Open an extended XYZ file."""
    head = list(islice(frames(path), PEEK))
    if not head:
        raise DataError("the file is empty", where=str(path))
    info: dict[str, None] = {}
    arrays: dict[str, None] = {}
    for frame in head:
        info |= dict.fromkeys(k for k in frame.info if k not in ("Lattice", "pbc"))
        arrays |= dict.fromkeys(
            k
            for k in layout(frame.columns, f"{path}, frame {frame.index}")
            if k not in ("species", "Z", "pos")
        )
    seen = [f"{k} (comment line)" for k in info] + [f"{k} (column)" for k in arrays]
    if all(frame.atoms == 1 for frame in head):  # free atoms: forces of nothing may be left out
        arrays[options.force_like or _default_forces(list(info))] = None
    chosen = _choose(path, options, list(info), list(arrays), seen, len(head))
    keys = {kind: f"{key} (comment line)" for kind, key in chosen.items()}
    gradient = bool(options.gradient_key)
    keys["forces"] = (
        f"minus {chosen['forces']} (column, a gradient)"
        if gradient
        else f"{chosen['forces']} (column)"
    )
    group = keys.pop("group", "formula")
    units = choose_units(options, *_declared(head), path)
    stress = stress_rule(options, list(info), units.to_ev)
    if stress:
        keys["stress"] = f"{stress.text} (comment line)"
    return Source(
        path,
        "extxyz",
        seen,
        keys,
        units,
        group_note=group,
        stream=lambda: gather(_batches(path, chosen, options.sign, units, stress)),
    )


_UNIT_KEYS = {
    "energy": ("energy_unit", "energy_units", "unit_energy"),
    "length": ("length_unit", "length_units", "position_unit", "distance_unit", "unit_length"),
    "force": ("force_unit", "forces_unit", "force_units", "forces_units", "unit_forces"),
}


def _declared(head: list[Frame]) -> tuple[dict[str, str], str]:
    """The units that comment lines state (energy_unit=kcal/mol), ASE's where they state none."""
    declared = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom"}
    said: dict[str, str] = {}
    for kind, names in _UNIT_KEYS.items():
        found = {str(f.info[name]) for f in head for name in names if name in f.info}
        if len(found) > 1:
            raise DataError(
                f"frames state different units of {kind}: {', '.join(sorted(found))}",
                remedy="convert them to one, or prepare them apart",
            )
        if found:
            said[kind] = found.pop()
    if not said:
        return declared, "ASE's convention for extxyz"
    if said.keys() & {"energy", "length"} and "force" not in said:
        del declared["force"]  # follows from the two
    return declared | said, "stated in the comment line: " + ", ".join(
        f"{kind} {unit}" for kind, unit in said.items()
    )


def _default_forces(info: list[str]) -> str:
    """The name of forces that goes with the name of the energy."""
    return next((forces for energy, forces in PAIRS if energy in info), PAIRS[0][1])


def _choose(
    path: Path,
    options: SourceOptions,
    info: list[str],
    arrays: list[str],
    seen: list[str],
    looked: int,
) -> dict[str, str]:
    """The key of each role: energy, forces, and charge, spin and group where there are any."""
    complete = [pair for pair in PAIRS if pair[0] in info and pair[1] in arrays]
    energy, forces = options.energy_key, options.force_like
    if len(complete) > 1 and not (energy and forces):
        raise DataError(
            "two complete sets of labels: energy with forces, and REF_energy with REF_forces",
            where=str(path),
            remedy="pass --energy-key and --forces-key to say which",
        )
    default = complete[0] if complete else PAIRS[0]
    labels = {"energy": energy or default[0], "forces": forces or default[1]}
    extra = f" in the first {looked} frames"
    require_labels(labels, options, {"energy": info, "forces": arrays}, seen, path, extra)
    # charge and spin in the comment line are what ASE-based trainers (fairchem) read and write
    found = {kind: kind for kind in ("charge", "spin") if kind in info}
    found |= config_key(options, info)
    return labels | found | optional_keys(options, info, seen, path)


def _batches(
    path: Path, keys: dict[str, str], sign: float, units: Units, stress: StressRule | None
) -> Iterator[Block]:
    """Consecutive frames with the same columns, up to BATCH, as blocks."""
    batch: list[Frame] = []
    for frame in frames(path):
        if batch and (len(batch) == BATCH or frame.columns != batch[0].columns):
            yield _parse(path, batch, keys, sign, units, stress)
            batch = []
        batch.append(frame)
    if batch:
        yield _parse(path, batch, keys, sign, units, stress)


def _table(path: Path, batch: list[Frame], columns: dict[str, tuple[int, int, str]]) -> np.ndarray:
    """Columns of the atom lines of a batch as text: str (atoms, columns)."""
    width = max(start + n for start, n, _ in columns.values())
    rows = [line.split() for frame in batch for line in frame.lines]
    if any(len(row) != width for row in rows):
        for frame in batch:
            for k, line in enumerate(frame.lines):
                if len(line.split()) != width:
                    raise DataError(
                        f"{len(line.split())} columns, Properties announce {width}:"
                        f" {line.strip()[:60]!r}",
                        where=f"{path}, frame {frame.index}, line {frame.line + 2 + k}",
                        remedy="the frame is damaged or truncated",
                    )
    for frame in batch:  # every cell of the table is as wide as its longest word
        if max(map(len, frame.lines)) > 4 * LONGEST_WORD:
            _check_words(path, frame)
    return np.array(rows, dtype=np.str_)


def _check_words(path: Path, frame: Frame) -> None:
    for k, line in enumerate(frame.lines):
        word = max(line.split(), key=len)
        if len(word) > LONGEST_WORD:
            raise DataError(
                f"a word of {len(word)} characters: {word[:20]!r}...",
                where=f"{path}, frame {frame.index}, line {frame.line + 2 + k}",
                remedy="the frame is damaged",
            )


def _floats(path: Path, batch: list[Frame], text: np.ndarray, name: str) -> np.ndarray:
    """Text (atoms, 3) to float64; a word that is no number is an error that names its frame."""
    if text.shape[1] != 3:
        raise DataError(
            f"{name} has {text.shape[1]} columns, expected 3",
            where=f"{path}, frame {batch[0].index}",
        )
    try:
        return text.astype(np.float64)
    except ValueError as error:
        row = 0
        for frame in batch:
            for k in range(frame.atoms):
                try:
                    text[row].astype(np.float64)
                except ValueError:
                    raise DataError(
                        f"{name} is not numeric: {error}",
                        where=f"{path}, frame {frame.index}, line {frame.line + 2 + k}",
                    ) from None
                row += 1
        raise


def _parse(
    path: Path,
    batch: list[Frame],
    keys: dict[str, str],
    sign: float,
    units: Units,
    stress: StressRule | None,
) -> Block:
    def place(k: int) -> str:
        return f"{path}, frame {batch[k].index}"

    columns = layout(batch[0].columns, place(0))
    counts = np.array([frame.atoms for frame in batch], np.int64)
    table = _table(path, batch, columns)

    def column(name: str) -> np.ndarray:
        start, width, _ = columns[name]
        return table[:, start : start + width]

    if "pos" not in columns or not {"species", "Z"} & columns.keys():
        raise DataError(f"no positions or species in Properties={batch[0].columns}", where=place(0))
    missing = np.zeros(len(batch), np.uint8)
    if keys["forces"] in columns:
        forces = _floats(path, batch, column(keys["forces"]), keys["forces"]) * (
            sign * units.to_ev_per_angstrom
        )
    else:
        forces = np.full((len(table), 3), np.nan)
        missing |= MISSING_FORCES
    energies = np.array(
        [
            _number(frame.info.get(keys["energy"]), keys["energy"], place(k))
            for k, frame in enumerate(batch)
        ]
    )
    missing[[keys["energy"] not in frame.info for frame in batch]] |= MISSING_ENERGY
    cells, pbc = _cells(batch, units, place)
    positions = _floats(path, batch, column("pos"), "pos") * units.to_angstrom
    groups = (
        None
        if "group" not in keys
        else [_group(frame, keys["group"], place(k)) for k, frame in enumerate(batch)]
    )
    return Block(
        counts,
        _numbers(column, columns, counts, place),
        positions,
        energies * units.to_ev,
        forces,
        batch[0].index,
        place,
        groups,
        missing if missing.any() else None,
        charges=_whole(batch, keys.get("charge"), "charge", NO_CHARGE, place),
        spins=_whole(batch, keys.get("spin"), "spin", NO_SPIN, place),
        cells=cells,
        pbc=pbc,
        stresses=_stresses(batch, stress, cells, place),
        configs=None
        if "config" not in keys
        else [str(frame.info.get(keys["config"], "")) for frame in batch],
    )


def _stresses(
    batch: list[Frame], rule: StressRule | None, cells: np.ndarray | None, place: Any
) -> np.ndarray | None:
    """(s, 3, 3) eV/Angstrom^3, NaN where a frame has none; None where no frame has one."""
    if rule is None or not any(rule.key in frame.info for frame in batch):
        return None
    return rule.stacked([frame.info.get(rule.key) for frame in batch], cells, place)


def _numbers(column: Any, columns: dict[str, Any], counts: np.ndarray, place: Any) -> np.ndarray:
    if "species" not in columns:
        return check_numbers(column("Z")[:, 0].astype(np.int64), place, counts)
    symbols, inverse = np.unique(column("species")[:, 0], return_inverse=True)
    table = np.array([int(s) if s.isdigit() else Z_OF.get(str(s), 0) for s in symbols])
    if (table == 0).any():
        row = int(np.flatnonzero(table[inverse] == 0)[0])
        owner = int(np.searchsorted(np.cumsum(counts), row, side="right"))
        raise DataError(
            f"unknown element {str(symbols[inverse[row]])!r}",
            where=place(owner),
            remedy="species must be chemical symbols or atomic numbers 1 to 118",
        )
    return check_numbers(table[inverse], place, counts)


def _number(value: Any, key: str, where: str) -> float:
    """A label from the comment line as float; NaN where it is absent."""
    if value is None:
        return float("nan")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.size != 1 or isinstance(value, bool):
        raise DataError(
            f"{key} is not a number: {value!r}", where=where, remedy=suggest("energy", [key])
        )
    return float(array.reshape(()))


def _whole(
    batch: list[Frame], key: str | None, name: str, absent: int, place: Any
) -> np.ndarray | None:
    """Charges or spins, ``absent`` where a frame has none; None without a key."""
    if key is None:
        return None
    given = np.array([key in frame.info for frame in batch])
    out = np.full(len(batch), absent, np.int8)
    rows = np.flatnonzero(given)
    if len(rows):
        values = np.array([_number(batch[k].info[key], key, place(k)) for k in rows])
        out[rows] = small_ints(values, name, lambda i: place(int(rows[i])))
    return out


def _group(frame: Frame, key: str, where: str) -> str:
    if key not in frame.info:
        raise DataError(
            f"no group key {key!r}",
            where=where,
            remedy="every frame needs one; or pass --group formula",
        )
    return str(frame.info[key])


def _cells(
    batch: list[Frame], units: Units, place: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Cells (s, 3, 3) in Angstrom, periodic flags (s, 3). A Lattice without pbc is periodic, pbc
    without one is not."""
    cells, pbc = np.zeros((len(batch), 3, 3)), np.zeros((len(batch), 3), bool)
    for k, frame in enumerate(batch):
        lattice = frame.info.get("Lattice")
        if lattice is None:
            continue
        if np.shape(lattice) != (3, 3) or np.asarray(lattice).dtype.kind not in "if":
            raise DataError(
                f"Lattice is {str(lattice)[:60]}, expected 9 numbers",
                where=place(k),
                remedy="write the three lattice vectors one after the other",
            )
        lattice = np.asarray(lattice, np.float64)
        flags = np.asarray(frame.info.get("pbc", [True] * 3))
        pbc[k] = flags.astype(bool)
        if pbc[k].any():
            # ASE parses Lattice in Fortran order: its columns are the vectors
            cells[k] = lattice.reshape(3, 3).T * units.to_angstrom
    return (cells, pbc) if pbc.any() else (np.zeros_like(cells), pbc)
