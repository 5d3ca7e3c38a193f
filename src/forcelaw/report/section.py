"""What a section of the report consists of, whoever writes it: prose, tables, figures, commands for
the page, and CSV files.

A table is a list of :class:`Column`: each makes the cell on the page and the field in the CSV file
from one row, so that a new number is one more column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..figures.spec import Figure
from ..figures.style import Look
from ..figures.text import decimal, names, pretty
from ..laws.fit.result import Estimate

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table. small: lines below the text. style: "strong", "trend", "missing", or the
    class of a badge ("holds", "no", ...). look: the architecture whose mark stands before it."""

    text: str = DASH
    small: Sequence[str] = ()
    style: str = ""
    look: Look | None = None
    hint: str = ""
    badge: tuple[str, str] | None = None  # class and text, on a line of its own


MISSING = Cell(style="missing")


@dataclass(frozen=True)
class Column:
    """One number of every row. heading: on the page; None: in the CSV file only. key: in the CSV
    file; empty: on the page only. value: of a row, for the CSV file. cell: of a row, for the page
    (default: ``value``, three digits). over: a heading that neighbours share."""

    key: str
    heading: str | None = None
    value: Callable[[Any], Any] = lambda row: None
    cell: Callable[[Any], Cell] | None = None
    small: str = ""
    over: str = ""
    numeric: bool = True
    wrap: bool = False

    def shown(self, row: Any) -> Cell:
        """The cell of a row on the page."""
        if self.cell is not None:
            return self.cell(row)
        value = self.value(row)
        if value is None:
            return MISSING
        return Cell(pretty(value) if isinstance(value, int | float) else str(value))


class Part:
    """A part of a section; the page has a way to show each kind."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()


@dataclass
class Table(Part):
    """A table on the page; the first cell of a row names it."""

    columns: list[Column]
    rows: list[list[Cell]]
    name: str = ""
    caption: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings that neighbouring columns share, with how many they span; none if there are
        none."""
        out: list[tuple[str, int]] = []
        for column in self.columns:
            if column.over and out and out[-1][0] == column.over:
                out[-1] = (column.over, out[-1][1] + 1)
            else:
                out.append((column.over, 1))
        return out if any(text for text, _ in out) else []


@dataclass
class Csv:
    """A file under tables/: a header, and one line for each row."""

    name: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass
class Prose(Part):
    """A paragraph. style: "explain", "key", "caption" or "" for plain."""

    text: str
    style: str = "explain"


@dataclass
class Heading(Part):
    """A heading inside a section."""

    text: str


@dataclass
class Notes(Part):
    """A list of remarks: (whom they concern, text)."""

    items: list[tuple[str, str]]


@dataclass
class Command(Part):
    """A command line to copy."""

    text: str


@dataclass
class Facts(Part):
    """Names and what they stand for."""

    items: list[tuple[str, str]]


@dataclass
class Drawn(Part):
    """A figure, with its key and notes."""

    figure: Figure


@dataclass
class Details(Part):
    """Parts that the reader opens."""

    summary: str
    parts: list[Part]


@dataclass
class Section:
    """A section of the page, and the CSV files that belong to it."""

    name: str
    title: str
    parts: list[Part] = field(default_factory=list)
    files: list[Csv] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """The figures among its parts."""
        return [part.figure for part in self.parts if isinstance(part, Drawn)]


def illustrated(figure: Figure) -> list[Part]:
    """A figure under the sentence that explains it."""
    return [Prose(figure.explain), Drawn(figure)]


def table(
    columns: Iterable[Column], rows: Iterable[Any], name: str = "", caption: str = ""
) -> Table:
    """The columns that have a heading, as a table of the page."""
    shown = [column for column in columns if column.heading is not None]
    return Table(shown, [[column.shown(row) for column in shown] for row in rows], name, caption)


def csv(name: str, columns: Iterable[Column], rows: Iterable[Any]) -> Csv:
    """The columns that have a key, as a file."""
    kept = [column for column in columns if column.key]
    lines = [[column.value(row) for column in kept] for row in rows]
    return Csv(name, [column.key for column in kept], lines)


def entries(*keys: str) -> list[Column]:
    """Columns of the CSV file that read entries of rows that are dictionaries."""
    return [Column(key, value=lambda row, key=key: row.get(key)) for key in keys]


def named(arch: Any) -> Cell:
    """The first cell of a row about an architecture."""
    return Cell(arch.label, look=arch.look)


def of_architecture(find: Callable[[Any], Any]) -> Column:
    """The first column of a table whose rows are about an architecture, which ``find`` gives."""
    return Column(
        "architecture",
        "architecture",
        lambda row: find(row).label,
        lambda row: named(find(row)),
        numeric=False,
    )


ARCHITECTURE = of_architecture(lambda arch: arch)


def number(value: Estimate | None, digits: int, *, trend: bool = False) -> Cell:
    """An estimate with its interval below; a trend is marked as one."""
    if value is None:
        return MISSING
    text = decimal(value.value, digits)
    small = between(value, lambda end: decimal(end, digits))
    return Cell(f"≈ {text}", small, "trend") if trend else Cell(text, small, "strong")


def between(value: Estimate, write: Callable[[float], str]) -> tuple[str, ...]:
    """The line "low to high" if there is an interval."""
    if not value.bounded:
        return ()
    return (f"{write(value.low)} to {write(value.high)}",)  # type: ignore[arg-type]


def p_value(p: float) -> str:
    """A p value for people."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def by_reason(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(label, reason) pairs so that one reason is said once: (labels, reason)."""
    found: dict[str, list[str]] = {}
    for label, reason in pairs:
        found.setdefault(reason, []).append(label)
    return [(names(labels), reason) for reason, labels in found.items()]
