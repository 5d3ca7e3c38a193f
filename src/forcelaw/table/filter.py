"""A filter such as ``flag == 1 and (params >= 1e6 or family in ('a', 'b'))`` as a mask over the
rows of a table.

The text is split into tokens and walked by a parser of three rules; it is never handed to Python.
Names are columns (in backticks or double quotes when they hold spaces), strings stand in single
quotes (double quotes are taken as a string when no column has that name). A column of true and
false, in any case, counts as 1 and 0, may be compared with true, 'True' or 1, and may stand alone
(``not outlier``); numbers that are written as text compare as numbers with a number. A missing cell
is unequal to everything and in no order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FitError

if TYPE_CHECKING:
    import polars as pl

MAX_LENGTH = 2000  # characters; nobody types more, and the parser is recursive
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<single>'[^']*')|(?P<double>\"[^\"]*\")|(?P<back>`[^`]*`)"
    r"|(?P<op>==|!=|<>|<=|>=|<|>|=|&&|\|\||&|\||\(|\)|,)"
    r"|(?P<word>[^\W\d][\w./]*))"
)
_WORDS = {"and", "or", "not", "in", "is", "null", "true", "false"}
_REMEDY = (
    'write comparisons joined by and, or, not and brackets, e.g. "flag == 1 and params >= 1e6"'
)


@dataclass(frozen=True)
class _Token:
    kind: str  # number, string, quoted, name, op, word, end
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    out, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FitError(
                f"cannot read the filter at {text[position : position + 20]!r}",
                where=f"--where, character {position + 1}",
                remedy=_REMEDY,
            )
        kind, value = str(match.lastgroup), match.group(str(match.lastgroup))
        if kind == "single":
            token = _Token("string", value[1:-1], position)
        elif kind == "double":
            token = _Token("quoted", value[1:-1], position)
        elif kind == "back":
            token = _Token("name", value[1:-1], position)
        elif kind == "word":
            lower = value.lower()
            token = _Token(
                "word" if lower in _WORDS else "name", lower if lower in _WORDS else value, position
            )
        elif kind == "op":
            same = {"=": "==", "<>": "!=", "&&": "and", "&": "and", "||": "or", "|": "or"}.get(
                value, value
            )
            token = _Token("word" if same in ("and", "or") else "op", same, position)
        else:
            token = _Token(kind, value, position)
        out.append(token)
        position = match.end()
    return [*out, _Token("end", "", len(text))]


class _Parser:
    def __init__(self, text: str, frame: pl.DataFrame):
        self.frame, self.tokens, self.i, self.depth = frame, _tokens(text), 0, 0
        self.flags: set[str] = set()  # columns of true and false that were named

    def fail(self, what: str, token: _Token) -> FitError:
        return FitError(what, where=f"--where, character {token.at + 1}", remedy=_REMEDY)

    def peek(self, *texts: str) -> bool:
        token = self.tokens[self.i]
        return token.kind in ("op", "word") and token.text in texts

    def take(self) -> _Token:
        token = self.tokens[self.i]
        self.i += 1
        return token

    def expect(self, text: str) -> None:
        if not self.peek(text):
            raise self.fail(
                f"expected {text!r}, found {self.tokens[self.i].text or 'the end'!r}",
                self.tokens[self.i],
            )
        self.i += 1

    def either(self) -> np.ndarray:
        mask = self.both()
        while self.peek("or"):
            self.i += 1
            mask = mask | self.both()
        return mask

    def both(self) -> np.ndarray:
        mask = self.unary()
        while self.peek("and"):
            self.i += 1
            mask = mask & self.unary()
        return mask

    def unary(self) -> np.ndarray:
        self.depth += 1
        if self.depth > 200:
            raise self.fail("the filter is nested too deeply", self.tokens[self.i])
        try:
            if self.peek("not"):
                self.i += 1
                return ~self.unary()
            if self.peek("("):
                self.i += 1
                mask = self.either()
                self.expect(")")
                return mask
            return self.comparison()
        finally:
            self.depth -= 1

    def comparison(self) -> np.ndarray:
        start = self.tokens[self.i]
        left = self.operand()
        if (
            start.text in self.flags
            and start.kind != "string"
            and (self.peek("and", "or", ")") or self.tokens[self.i].kind == "end")
        ):
            return _compare(left, "==", 1.0, self.frame.height)  # `outlier` says outlier == true
        if self.peek("is"):
            self.i += 1
            negate = self.peek("not")
            self.i += int(negate)
            self.expect("null")
            missing = _missing(left, self.frame.height)
            return ~missing if negate else missing
        negate = self.peek("not")
        self.i += int(negate)
        if self.peek("in"):
            self.i += 1
            self.expect("(")
            mask = self.compare(left, "==", start)
            while self.peek(","):
                self.i += 1
                mask = mask | self.compare(left, "==", start)
            self.expect(")")
            return ~mask if negate else mask
        token = self.take()
        if negate or token.kind != "op" or token.text not in ("==", "!=", "<", "<=", ">", ">="):
            value = "true" if start.text in self.flags else "'...'" if _textual(left) else "1"
            hint = (
                f"; write {start.text} == {value}"
                if start.kind == "name" and start.text in self.frame.columns
                else ""
            )
            raise self.fail(
                f"expected a comparison, found {token.text or 'the end'!r}{hint}", token
            )
        return self.compare(left, token.text, start)

    def compare(self, left: np.ndarray | float | str, op: str, start: _Token) -> np.ndarray:
        """``left`` against the operand that follows."""
        token = self.tokens[self.i]
        right = self.operand()
        if _textual(left) != _textual(right):
            for value, name in ((left, token), (right, start)):
                if (
                    isinstance(value, str)
                    and name.text in self.flags
                    and _textual(_as_numbers(value))
                ):
                    raise self.fail(
                        f"the text {value!r} is compared with column {name.text!r}, which holds"
                        f" true and false: write {name.text} == true, or not {name.text}",
                        start,
                    )
            left, right = _as_numbers(left), _as_numbers(right)
            for value, name, other in ((left, start, token), (right, token, start)):
                if _textual(value):
                    shown = (
                        value
                        if isinstance(value, str)
                        else next((v for v in value if v is not None), "nothing")
                    )
                    what = (
                        f"the text {value!r}"
                        if isinstance(value, str)
                        else f"column {name.text!r}, which holds text such as {shown!r},"
                    )
                    raise self.fail(
                        (
                            f"{what} is compared with {other.text}, a number; text stands in single"
                            f" quotes: {name.text} == '{shown}'"
                            if not isinstance(value, str)
                            else f"{what} is compared with {other.text}, which holds numbers"
                        ),
                        start,
                    )
        return _compare(left, op, right, self.frame.height)

    def operand(self) -> np.ndarray | float | str:
        token = self.take()
        if token.kind == "number":
            return float(token.text)
        if token.kind == "word" and token.text in ("true", "false"):
            return float(token.text == "true")
        if token.kind == "string":
            return token.text
        if token.kind in ("name", "quoted"):
            if token.text in self.frame.columns:
                values, flag = _values(self.frame[token.text])
                if flag:
                    self.flags.add(token.text)
                return values
            if token.kind == "quoted":
                return token.text
            raise self.fail(
                f"there is no column {token.text!r}; columns are"
                f" {', '.join(self.frame.columns[:30])} (text stands in single quotes)",
                token,
            )
        raise self.fail(
            f"expected a column, a number or a quoted text, found {token.text or 'the end'!r}",
            token,
        )


def _values(series: pl.Series) -> tuple[np.ndarray, bool]:
    """A column as float64 (missing is NaN) or as an object array of strings (missing is None), and
    whether it holds true and false, which count as 1 and 0, however they are written."""
    if series.dtype.is_numeric() or str(series.dtype) == "Boolean":
        return series.cast(float).fill_null(float("nan")).to_numpy(), str(series.dtype) == "Boolean"
    text = np.array(
        [None if value is None else str(value) for value in series.to_list()], dtype=object
    )
    if {cell.strip().lower() for cell in text if cell is not None} <= {"true", "false"} and any(
        text
    ):
        numbers = _as_numbers(text)
        assert isinstance(numbers, np.ndarray)
        return numbers, True
    return text, False


def _missing(value: np.ndarray | float | str, rows: int) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        return np.zeros(rows, bool)
    if value.dtype == object:
        return np.array([item is None for item in value], bool)
    return np.isnan(value)


def _textual(value: np.ndarray | float | str) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _as_numbers(value: np.ndarray | float | str) -> np.ndarray | float | str:
    """Text that says true, false or a number, all of it, as numbers; other text as it is."""
    if not _textual(value):
        return value
    known = {"true": 1.0, "false": 0.0}
    try:
        if isinstance(value, str):
            return known[value.strip().lower()] if value.strip().lower() in known else float(value)
        distinct = {cell for cell in value if cell is not None}
        table = {cell: known.get(cell.strip().lower()) for cell in distinct}
        if any(number is None for number in table.values()):  # words and numbers are not mixed
            table = {cell: float(cell) for cell in distinct}
    except ValueError:
        return value
    return np.array([np.nan if cell is None else table[cell] for cell in value], float)


def _compare(
    left: np.ndarray | float | str, op: str, right: np.ndarray | float | str, rows: int
) -> np.ndarray:
    if _textual(left):
        missing = _missing(left, rows) | _missing(right, rows)
        left, right = (
            np.where(_missing(v, rows), "", v).astype(str) if isinstance(v, np.ndarray) else v
            for v in (left, right)
        )
    else:
        missing = _missing(left, rows) | _missing(right, rows)
    table = {
        "==": np.equal,
        "!=": np.not_equal,
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
    }
    mask = np.broadcast_to(table[op](np.asarray(left), np.asarray(right)), (rows,))
    return np.where(
        missing, op == "!=", mask
    )  # a missing cell is unequal to everything and in no order


def where(text: str, frame: pl.DataFrame) -> np.ndarray:
    """Boolean mask [rows] of the rows of ``frame`` that pass the filter ``text``; FitError says
    what is wrong in it."""
    if len(text) > MAX_LENGTH:
        raise FitError(
            f"the filter has {len(text)} characters, more than {MAX_LENGTH}",
            where="--where",
            remedy=_REMEDY,
        )
    parser = _Parser(text, frame)
    mask = parser.either()
    if parser.tokens[parser.i].kind != "end":
        token = parser.tokens[parser.i]
        raise parser.fail(f"the filter goes on with {token.text!r} after it was complete", token)
    return mask
