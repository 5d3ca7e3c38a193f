"""A filter such as ``flag == 1 and (params >= 1e6 or family in ('a', 'b'))`` as a mask over the
rows of a table.

Names are columns (in backticks or double quotes where they hold spaces), text stands in single
quotes (double quotes are text where no column has that name). A column of true and false, in any
case, counts as 1 and 0, may be compared with true, 'True' or 1, and may stand by itself (``not
outlier``); numbers that are written as text compare as numbers with a number. A missing cell is
unequal to everything and in no order.

The text is never run. Each column, number and piece of text is first replaced by a numbered name,
so that Python's own parser sees nothing but these names, operators and brackets; of its syntax
tree, comparisons joined by and, or, not are evaluated with polars, and all else is refused. SQL as
polars reads it is not used: it takes subqueries and functions, and ``not x > 2`` would drop the
rows without x.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import polars as pl

from ..errors import TableError
from .values import as_text, text_numbers

MAX_LENGTH = 2000  # characters; nobody types more
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<single>'[^']*')|(?P<double>\"[^\"]*\")|(?P<back>`[^`]*`)"
    r"|(?P<sign>==|!=|<>|<=|>=|<|>|=|&&|\|\||&|\||\(|\)|,)"
    r"|(?P<word>[^\W\d][\w./]*))"
)
_SIGNS = {"=": "==", "<>": "!=", "&&": "and", "&": "and", "||": "or", "|": "or"}
_WORDS = {"and": "and", "or": "or", "not": "not", "in": "in", "is": "is", "null": "None"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_REMEDY = (
    'write comparisons joined by and, or, not and brackets, e.g. "flag == 1 and params >= 1e6"'
)


@dataclass(frozen=True)
class _Operand:
    """A column or a constant. kind: flags are numbers 1 and 0 that stand for true and false."""

    kind: Literal["number", "flag", "text"]
    value: pl.Series | float | str
    label: str  # as it was written
    at: int  # character of the filter, from 0

    @property
    def is_column(self) -> bool:
        return isinstance(self.value, pl.Series)


def where(text: str, frame: pl.DataFrame) -> np.ndarray:
    """Boolean mask [rows] of the rows of ``frame`` that pass the filter ``text``; TableError says
    what is wrong in it."""
    if len(text) > MAX_LENGTH:
        raise TableError(
            f"the filter has {len(text)} characters, more than {MAX_LENGTH}",
            where="--where",
            remedy=_REMEDY,
        )
    return _Filter(text, frame).mask().to_numpy()


class _Filter:
    """One filter on one table."""

    def __init__(self, text: str, frame: pl.DataFrame):
        self.text, self.frame = text, frame
        self.columns: dict[str, _Operand] = {}  # those that were named, prepared once
        self.operands: list[_Operand] = []
        self.source = ""  # what Python's parser is given
        self.places: list[tuple[int, int]] = []  # its characters, and those of the filter

    def fail(self, what: str, at: int) -> TableError:
        return TableError(what, where=f"--where, character {at + 1}", remedy=_REMEDY)

    # -- from text to a syntax tree ----------------------------------------------------------------

    def mask(self) -> pl.Series:
        """Boolean series [rows]."""
        self.translate()
        try:
            tree = ast.parse(self.source, mode="eval").body
            return self.evaluate(tree)
        except SyntaxError as error:
            # Python puts a line that ends too early at 0
            at = self.place(error.offset - 1) if error.offset else len(self.text)
            found = self.text[at : at + 20].strip()
            what = f"cannot read the filter at {found!r}" if found else "the filter is not complete"
            bracket = f": {error.msg}" if "(" in error.msg or ")" in error.msg else ""
            raise self.fail(what + bracket, at) from None
        except (RecursionError, MemoryError):
            raise self.fail("the filter is nested too deeply", 0) from None

    def translate(self) -> None:
        """Fill ``source`` and ``operands``."""
        position, before = 0, ""
        end = len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                found = self.text[position : position + 20]
                raise self.fail(f"cannot read the filter at {found!r}", position)
            kind = str(match.lastgroup)
            at, token = match.start(kind), match.group(kind)
            out = _SIGNS.get(token, token) if kind == "sign" else _WORDS.get(token.lower(), "")
            if kind not in ("sign", "word") or not out:
                out = f"_{len(self.operands)}"
                if before.startswith("_"):
                    raise self.fail(self.no_comparison(token, self.operands[-1]), at)
                self.operands.append(self.operand(kind, token, at))
            elif out == "(" and before.startswith("_"):
                raise self.fail("functions cannot be called in a filter", at)
            if before == "in" and out != "(":
                raise self.fail(f"expected '(' after in, found {token!r}", at)
            self.places.append((len(self.source), at))
            self.source += f"{out} "
            position, before = match.end(), out

    def place(self, offset: int) -> int:
        """The character of the filter that a character of ``source`` came from."""
        found = [at for start, at in self.places if start <= offset]
        return len(self.text) if offset >= len(self.source) - 1 else (found or [0])[-1]

    def operand(self, kind: str, token: str, at: int) -> _Operand:
        name = token[1:-1] if kind in ("single", "double", "back") else token
        if kind == "number":
            return _Operand("number", float(token), token, at)
        if kind == "word" and token.lower() in ("true", "false"):
            return _Operand("number", float(token.lower() == "true"), token, at)
        if kind != "single" and name in self.frame.columns:
            if name not in self.columns:
                self.columns[name] = _Operand(*_prepare(self.frame[name]), name, at)
            return self.columns[name]
        if kind in ("single", "double"):
            return _Operand("text", name, name, at)
        columns = {column.lower(): column for column in self.frame.columns}
        close = difflib.get_close_matches(name.lower(), columns, n=3)
        near = f"did you mean {', '.join(columns[c] for c in close)}? " if close else ""
        raise self.fail(
            f"there is no column {name!r}; {near}columns are {', '.join(self.frame.columns[:30])}"
            " (text stands in single quotes)",
            at,
        )

    def no_comparison(self, found: str, left: _Operand) -> str:
        hint = ""
        if left.is_column:
            value = {"flag": "true", "text": "'...'", "number": "1"}[left.kind]
            hint = f"; write {left.label} == {value}"
        return f"expected a comparison, found {found!r}{hint}"

    # -- from a syntax tree to a mask --------------------------------------------------------------

    def evaluate(self, node: ast.expr) -> pl.Series:
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            return reduce(join, map(self.evaluate, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.evaluate(node.operand)
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]  # a < b < c is a < b and b < c
            return reduce(operator.and_, map(self.compare, parts, node.ops, parts[1:]))
        if isinstance(node, ast.Name):
            operand = self.operands[int(node.id[1:])]
            if operand.kind == "flag":  # `outlier` says outlier == true
                return self.test(operand, operator.eq, _Operand("number", 1.0, "true", operand.at))
            raise self.fail(self.no_comparison("the end", operand), operand.at)
        raise self.fail("this is not a comparison", self.place(node.col_offset))

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pl.Series:
        first = self.constant_or_column(left)
        if isinstance(op, ast.Is | ast.IsNot):
            if not isinstance(right, ast.Constant):
                raise self.fail("expected null or not null after is", self.place(right.col_offset))
            missing = self.spread(
                first.value.is_null() if isinstance(first.value, pl.Series) else False
            )
            return missing if isinstance(op, ast.Is) else ~missing
        if isinstance(op, ast.In | ast.NotIn):
            members = right.elts if isinstance(right, ast.Tuple) else [right]
            if not members:
                raise self.fail("the brackets after in are empty", self.place(right.col_offset))
            each = (self.test(first, operator.eq, self.constant_or_column(m)) for m in members)
            found = reduce(operator.or_, each)
            return found if isinstance(op, ast.In) else ~found
        return self.test(first, _COMPARE[type(op)], self.constant_or_column(right))

    def constant_or_column(self, node: ast.expr) -> _Operand:
        if not isinstance(node, ast.Name):
            at = self.place(node.col_offset)
            found = self.text[at : at + 20]
            what = f"expected a column, a number or a quoted text, found {found!r}"
            if isinstance(node, ast.Constant):
                what = "a missing cell is found with `is null`"
            raise self.fail(what, at)
        return self.operands[int(node.id[1:])]

    def test(self, left: _Operand, op: Callable[[Any, Any], Any], right: _Operand) -> pl.Series:
        """One comparison; text is compared with text, all else as numbers."""
        if (left.kind == "text") != (right.kind == "text"):
            left, right = self.as_numbers(left, right), self.as_numbers(right, left)
        # a missing cell is unequal to everything and in no order
        return self.spread(op(left.value, right.value)).fill_null(op is operator.ne)

    def as_numbers(self, one: _Operand, other: _Operand) -> _Operand:
        """``one`` for a comparison with ``other``, which holds numbers."""
        if one.kind != "text":
            return one
        series = one.value if isinstance(one.value, pl.Series) else pl.Series([one.value])
        found = _flags(series)
        if found is None:
            found, wrong = text_numbers(series)
            if not one.is_column and found[0] is None:
                what = f"the text {one.value!r} is compared with {other.label}, which holds numbers"
                if other.kind == "flag":
                    what = (
                        f"the text {one.value!r} is compared with column {other.label!r}, which"
                        f" holds true and false: write {other.label} == true, or not {other.label}"
                    )
                raise self.fail(what, one.at)
            if wrong.any():
                shown = series.filter(wrong)[0]
                raise self.fail(
                    f"column {one.label!r}, which holds text such as {shown!r}, is compared with"
                    f" {other.label}, a number; text stands in single quotes: {one.label} =="
                    f" {shown!r}",
                    one.at,
                )
        value = found if one.is_column else found[0]
        return _Operand("number", value, one.label, one.at)

    def spread(self, result: pl.Series | bool) -> pl.Series:
        """The result of a comparison, also of one between two constants, as a series [rows]."""
        if isinstance(result, pl.Series):
            return result
        return pl.repeat(result, self.frame.height, dtype=pl.Boolean, eager=True)


def _prepare(series: pl.Series) -> tuple[Literal["number", "flag", "text"], pl.Series]:
    """A column as float64, or as text; missing and NaN are null."""
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        kind: Literal["number", "flag"] = "flag" if series.dtype == pl.Boolean else "number"
        return kind, series.cast(pl.Float64).fill_nan(None)
    text = as_text(series)
    flags = _flags(text)
    return ("text", text) if flags is None else ("flag", flags)


def _flags(text: pl.Series) -> pl.Series | None:
    """Cells that say true or false, in any case, as 1 and 0; None where another cell is there."""
    known = {"true": 1.0, "false": 0.0}
    cells = [cell for cell in text.unique()[:1000].to_list() if cell is not None]
    found = {cell: known.get(cell.strip().lower()) for cell in cells}
    if not cells or None in found.values():
        return None
    return text.replace_strict(cells, [found[cell] for cell in cells], return_dtype=pl.Float64)
