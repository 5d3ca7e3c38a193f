"""Options of the command line, made from the fields of pydantic models.

A field ``batch_atoms: int | None = Field(None, ge=1, description="...")`` becomes
``--batch-atoms N``: its help is the field's description, its metavar the field's title, its choices
come from a ``Literal``, and a value is checked by pydantic as soon as it is read. :class:`Option`
in the annotation says what a field cannot.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from ..errors import StudyError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    Model = TypeVar("Model", bound=BaseModel)

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """What a field cannot say of its option.

    flags: instead of ``--name-of-the-field``; the first is the one to use. positional: without a
    flag. optional_value: what the flag alone stands for.
    """

    flags: tuple[str, ...] = ()
    positional: bool = False
    optional_value: Any = None


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Text with line breaks of its own keeps them, other text is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def add_options(
    parser: Any,
    model: type[BaseModel],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    descriptions: Mapping[str, str] | None = None,
) -> None:
    """Add an option for each field of ``model`` to a parser or an argument group.

    only, skip: names of fields. descriptions: instead of those of the fields.
    """
    for name, field in model.model_fields.items():
        if name not in skip and (only is None or name in only):
            _add_option(parser, name, field, (descriptions or {}).get(name))


def from_options(model: type[Model], args: argparse.Namespace, **more: Any) -> Model:
    """The model that parsed options describe; ``more`` are fields that no option gives. Raises
    StudyError where values do not go together."""
    from pydantic import ValidationError

    given = {name: getattr(args, name) for name in model.model_fields if hasattr(args, name)}
    try:
        return model(**{**given, **more})
    except ValidationError as error:
        problems = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise StudyError(problems, where="command line") from error


def _add_option(parser: Any, name: str, field: FieldInfo, description: str | None) -> None:
    option = next((item for item in field.metadata if isinstance(item, Option)), Option())
    flags = option.flags or (f"--{name.replace('_', '-')}",)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    text = (description or field.description or "").replace("%", "%%")
    if default not in (None, False, 0, "", []) and "default" not in text:
        shown = f"{default:g}" if isinstance(default, float) else default
        text += f" (default: {shown})"
    kind = _plain_type(field.annotation)
    if kind is bool:
        parser.add_argument(*flags, dest=name, action="store_true", help=text)
        return
    words: dict[str, Any] = {"help": text, "default": default}
    if get_origin(kind) is Literal:
        words["choices"] = get_args(kind)
    elif get_origin(kind) is list:
        words |= {"action": "append", "metavar": field.title}
    else:
        words |= {"type": _reader(field), "metavar": field.title or METAVARS.get(kind)}
    if option.optional_value is not None:
        words |= {"nargs": "?", "const": option.optional_value}
    if option.positional:
        parser.add_argument(name, **words, **({} if field.is_required() else {"nargs": "?"}))
        return
    parser.add_argument(*flags, dest=name, required=field.is_required(), **words)


def _plain_type(annotation: Any) -> Any:
    """The type without ``| None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not types.NoneType)
    return annotation


def _reader(field: FieldInfo) -> Callable[[str], Any]:
    """The value of an option from its text, checked by the field."""

    def read(text: str) -> Any:
        from pydantic import TypeAdapter, ValidationError

        checked: Any = Annotated[field.annotation, field]
        try:
            return TypeAdapter(checked).validate_python(text)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Input ")
            raise argparse.ArgumentTypeError(f"{text!r} is not a valid value: {problem}") from None

    return read
