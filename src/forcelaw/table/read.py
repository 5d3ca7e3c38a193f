"""One reader for every table of runs: run directories, committed evidence, and files of others (CSV
from a spreadsheet, exports of trackers, compressed or in an odd encoding). What was assumed is
said; what would be a guess is refused, with the way out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TableError
from ..files import check_regular
from ..progress import counted
from .columns import COLUMNS
from .directory import locate, table

if TYPE_CHECKING:
    import polars as pl

KINDS = (
    ".csv, .tsv, .txt, .parquet, .feather, .json, .jsonl (each also as .gz, .bz2 or .xz) or a"
    " directory of runs"
)
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# after decompression: a table of runs is never this large, a decompression bomb is
MOST_BYTES = 4 * 2**30
MOST_RATIO, SMALL = 200, 2**24  # text compresses no better, but for small files
MOST_COLUMNS = 10_000
_COMPRESSED = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}
_TEXT = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
_PARQUET, _ARROW = (".parquet", ".pq"), (".feather", ".arrow", ".ipc")
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib")


@dataclass(frozen=True)
class Table:
    """A table as it was read. name: where it is from, for messages. notes: what was assumed."""

    frame: pl.DataFrame
    name: str
    notes: list[str] = field(default_factory=list)


def read(source: Any) -> Table:
    """The table in ``source``: a file, a study directory, a directory of run directories or of
    evidence, a DataFrame (polars or pandas), or a dict of columns. TableError for what cannot be
    read."""
    import polars as pl

    if isinstance(source, pl.DataFrame):
        return Table(source, "the data frame")
    if isinstance(source, pl.LazyFrame):
        return Table(source.collect(), "the data frame")
    if isinstance(source, Mapping):
        return Table(_of_columns(source, "the table"), "the table")
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas, without importing it
        columns = {name: source[name].tolist() for name in source.columns}
        return Table(_of_columns(columns, "the data frame"), "the data frame")
    path = Path(source)
    if not path.exists():
        raise TableError("there is no such table", where=str(path), remedy=f"give {KINDS}")
    found = locate(path)
    if not found.is_dir():
        return _file(found)
    frame = table(found)
    if frame.height == 0:
        raise TableError(
            "the directory holds no runs",
            where=str(path),
            remedy="give the output directory of `forcelaw run`, or a table of runs",
        )
    return Table(frame, str(path))


def _file(path: Path) -> Table:
    """The table in a file."""
    import polars as pl

    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
    kind = suffixes[-1] if suffixes else ""
    _refuse_kind(kind, path)
    check_regular(path, TableError)
    try:
        if kind in _PARQUET + _ARROW:
            _check_cells(path, kind)
            reader = pl.read_parquet if kind in _PARQUET else pl.read_ipc
            return Table(reader(path), str(path))
        text, notes = _text(_content(path), path)
        if not text.strip():
            raise TableError(
                "the table is empty", where=str(path), remedy="give a table with a header and rows"
            )
        if kind == ".json":
            frame = _json(text, path)
        elif kind in (".jsonl", ".ndjson"):
            frame = _json_lines(text, path)
        else:
            frame = _delimited(text, kind, path, notes)
        return Table(frame, str(path), notes)
    except TableError:
        raise
    # polars raises many kinds; the user needs the file and the cause
    except (Exception, pl.exceptions.PanicException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TableError(
            f"the table cannot be read: {first}",
            where=str(path),
            remedy="check that it is the format its name says, and that you may read it",
        ) from error


def _refuse_kind(kind: str, path: Path) -> None:
    if kind in _TEXT + _PARQUET + _ARROW:
        return
    what = f"tables of kind {kind or 'without suffix'!r} are not read"
    remedy = f"give {KINDS}; rename delimited text to end in .csv"
    if kind in _SPREADSHEETS:
        what = f"{kind} is a spreadsheet, which is not read: its cells may be formulas"
        remedy = "save the sheet as CSV (UTF-8) and give that"
    elif kind in _PICKLES:
        what += ": such a file can run code when it is opened, or has no column names"
        remedy = f"write the table as one of {KINDS}"
    raise TableError(what, where=str(path), remedy=remedy)


def _content(path: Path) -> bytes:
    """The bytes, decompressed by what they are and not by what the name says."""
    import bz2
    import gzip
    import lzma

    with path.open("rb") as file:
        head = file.read(8)
    opener: Any = open
    for suffix, magic in _COMPRESSED.items():
        if head.startswith(magic):
            if suffix == ".zst":
                raise TableError(
                    "the file is compressed with zstd, which is not read",
                    where=str(path),
                    remedy="decompress it (zstd -d), or use gzip",
                )
            opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[suffix]
    # no more than there can be: Python sets aside memory for all that is asked for
    size = path.stat().st_size
    most = min(MOST_BYTES, size if opener is open else SMALL + size * MOST_RATIO)
    with opener(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most and most < MOST_BYTES:
        raise TableError(
            f"the file decompresses to more than {MOST_RATIO} times its size",
            where=str(path),
            remedy="no table does: decompress it yourself if it is sound, and give that",
        )
    if len(content) > MOST_BYTES:
        raise TableError(
            f"the table has more than {MOST_BYTES // 2**30} GiB of text",
            where=str(path),
            remedy="keep the rows and columns that matter, or write Parquet",
        )
    return content


def _check_cells(path: Path, kind: str) -> None:
    """TableError for a small file that announces more numbers than it can sensibly hold."""
    import polars as pl

    scan = pl.scan_parquet(path) if kind in _PARQUET else pl.scan_ipc(path)
    columns = _check_columns(len(scan.collect_schema()), path)
    rows = int(scan.select(pl.len()).collect().item())
    cells = rows * max(1, columns)
    if 8 * cells > 16 * SMALL + 10 * MOST_RATIO * path.stat().st_size:
        raise TableError(
            f"{rows:,} rows and {cells:,} cells in a file of {path.stat().st_size:,} bytes",
            where=str(path),
            remedy="the file is damaged, or not a table of runs",
        )


def _check_columns(number: int, path: Path) -> int:
    """The number of columns; TableError for more than a table of runs has."""
    if number > MOST_COLUMNS:
        raise TableError(
            f"the table has {number:,} columns, more than {MOST_COLUMNS:,}",
            where=str(path),
            remedy="keep the columns that matter; if it has fewer, look at its first line",
        )
    return number


def _check_empty(rows: int, columns: int, filled: int, path: Path) -> None:
    """TableError for a table nearly all of whose many cells are empty: they take memory, too."""
    if 8 * rows * columns > 32 * SMALL + MOST_RATIO * filled:
        raise TableError(
            f"{rows:,} rows of {columns:,} columns, nearly all of whose cells are empty",
            where=str(path),
            remedy="keep the columns that matter",
        )


def _text(content: bytes, path: Path) -> tuple[str, list[str]]:
    """The bytes as text: UTF-8 or UTF-16 by their mark, else UTF-8, else Western European, which is
    said."""
    for magic, what, remedy in (
        (b"PK\x03\x04", "a spreadsheet or another zip archive", "save the sheet as CSV (UTF-8)"),
        (b"\xd0\xcf\x11\xe0", "an old Excel file", "save the sheet as CSV (UTF-8)"),
        (b"PAR1", "Parquet", "rename it to end in .parquet"),
        (b"ARROW1", "Arrow", "rename it to end in .feather"),
    ):
        if content.startswith(magic):
            raise TableError(
                f"by its contents the file is {what}, not text", where=str(path), remedy=remedy
            )
    notes = []
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16")
        notes.append("the file is UTF-16 text")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = content.decode("cp1252", errors="replace")
            notes.append(
                f"byte {error.start + 1} is not UTF-8: the file was read as Western European"
                " (Windows-1252) text; numbers do not depend on this, names with accents may"
            )
    if "\0" in text[:100_000]:
        raise TableError(
            "the file holds zero bytes: it is binary, or UTF-16 text without its mark",
            where=str(path),
            remedy="save it as UTF-8 text, or as Parquet",
        )
    if "\n" not in text and "\r" in text:  # as old Macs end lines
        text = text.replace("\r", "\n")
    return text, notes


def _delimited(text: str, kind: str, path: Path, notes: list[str]) -> pl.DataFrame:
    import polars as pl

    text = _after_comments(text, notes)
    separator = _separator(text, kind, notes)
    header = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=separator))]
    _check_header(header, path)
    rows = text.count("\n")
    _check_empty(rows, len(header), rows + text.count(separator), path)
    # a run id of digits alone is text: 000123456789, 12e345678901
    ours = {c.name: pl.String for c in COLUMNS.values() if c.type is str and c.name in header}
    try:
        frame = pl.read_csv(
            io.BytesIO(text.encode()),
            separator=separator,
            infer_schema_length=None,
            schema_overrides=ours,
        )
    except pl.exceptions.PolarsError as error:
        raise _ragged(text, separator, header, path) or error from error
    # as the csv module reads quotes: polars keeps doubled ones
    if frame.width == len(header) and all(header):
        frame.columns = header
    return frame


def _after_comments(text: str, notes: list[str]) -> str:
    """Without lines that start with # above the header, as some writers leave them; not if the
    header itself has it."""
    lines = text.split("\n", 50)
    count = 0
    while count < len(lines) - 1 and (
        lines[count].lstrip().startswith("#") or not lines[count].strip()
    ):
        count += 1
    comments = [line for line in lines[:count] if line.strip()]
    if not comments:
        return "\n".join(lines[count:]) if count else text
    body = lines[count]
    # "# n d loss" above numbers: that is the header
    if len(comments) == 1 and _width(comments[0]) == _width(body) > 1:
        return text
    notes.append(f"{counted(len(comments), 'comment line')} above the header skipped")
    return "\n".join(lines[count:])


def _width(line: str) -> int:
    return max(line.count(mark) for mark in SEPARATORS) + 1


def _separator(text: str, kind: str, notes: list[str]) -> str:
    """The separator that the name promises, unless the header has none of it and another splits
    it."""
    usual = "\t" if kind == ".tsv" else ","
    line = text.lstrip("\r\n").split("\n", 1)[0]
    if kind != ".txt" and usual in line:
        return usual
    counts = {mark: len(next(csv.reader([line], delimiter=mark), [])) for mark in SEPARATORS}
    best = max(counts, key=lambda mark: (counts[mark], mark == usual))
    if counts[best] < 2 or best == usual:
        return usual
    notes.append(f"fields are separated by {SEPARATORS[best]}")
    return best


def _check_header(header: list[str], path: Path) -> None:
    """Each name once, and names, not numbers."""
    _check_columns(len(header), path)
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise TableError(
            f"the header has {', '.join(map(repr, twice))} more than once",
            where=str(path),
            remedy="rename one of them",
        )
    named = [name for name in header if name]
    if named and sum(_number(name) for name in named) > len(named) / 2:
        raise TableError(
            f"the first line holds numbers ({', '.join(named[:4])}), not the names of columns",
            where=str(path),
            remedy="put a header above, e.g. params,tokens,loss,run",
        )


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ragged(text: str, separator: str, header: list[str], path: Path) -> TableError | None:
    """The first row that has more fields than the header, as an error that shows it; None if none
    has."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    next(reader)
    for fields in reader:
        if len(fields) > len(header):
            shown = separator.join(fields)[:60]
            if separator == "," and all(re.fullmatch(r"\s*-?\d+\s*", field) for field in fields):
                remedy = "numbers with decimal commas need another separator or decimal points"
            elif sum(1 for name in header if name) <= 1 < len(fields):
                remedy = "the first line looks like a title: delete it, or start it with #"
            else:
                remedy = "quote cells that hold the separator, or delete what is too much"
            return TableError(
                f"line {reader.line_num} has {len(fields)} fields where the header has"
                f" {len(header)}: {shown!r}",
                where=str(path),
                remedy=remedy,
            )
    return None


def _json(text: str, path: Path) -> pl.DataFrame:
    """An array of objects (rows), an object of arrays (columns), or {"rows": [...]}."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TableError(
            f"this is not JSON: {error.msg}, line {error.lineno}",
            where=str(path),
            remedy="if there is one object a line, end the name in .jsonl",
        ) from error
    rows = content.get("rows", content) if isinstance(content, dict) else content
    if isinstance(rows, dict) and rows and all(isinstance(v, list) for v in rows.values()):
        _check_columns(len(rows), path)
        return _of_columns(rows, str(path))
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return _of_rows(rows, path)
    raise TableError(
        "this JSON is not a table",
        where=str(path),
        remedy="give an array of objects, one a row, or an object of equally long arrays, one a"
        " column",
    )


def _json_lines(text: str, path: Path) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row, why = json.loads(line), "not a JSON object"
        except json.JSONDecodeError as error:
            row, why = None, f"not JSON ({error.msg})"
        if not isinstance(row, dict):
            raise TableError(
                f"line {number} is {why}: {line[:60]!r}",
                where=str(path),
                remedy="give one object a line",
            )
        rows.append(row)
    return _of_rows(rows, path)


def _of_rows(rows: list[dict[str, Any]], path: Path) -> pl.DataFrame:
    """A column whose cells are of several kinds becomes text, so that the cell that is wrong can be
    shown."""
    import polars as pl

    columns = _check_columns(len({name for row in rows for name in row}), path)
    _check_empty(len(rows), columns, sum(map(len, rows)), path)
    return pl.DataFrame(rows, strict=False, infer_schema_length=None)


def _of_columns(columns: Mapping[str, Any], where: str) -> pl.DataFrame:
    import polars as pl

    lengths = {str(name): len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(
            f"the columns differ in length: {lengths}",
            where=where,
            remedy="give every row every column",
        )
    cells = {
        str(name): values if type(values).__module__ == "numpy" else list(values)
        for name, values in columns.items()
    }
    return pl.DataFrame(cells, strict=False)
