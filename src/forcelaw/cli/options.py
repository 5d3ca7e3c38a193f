"""Options of the command line, made from the fields of pydantic models.

A field ``batch_atoms: int | None = Field(None, ge=1, description="...")`` becomes
``--batch-atoms N``: its help is the field's description, its metavar the field's title, its choices
come from a ``Literal``, and a value is checked by pydantic as soon as it is read.
"""

from __future__ import annotations

import argparse
import shlex
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from ..errors import StudyError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from ..settings import Settings

    Model = TypeVar("Model", bound=BaseModel)

JSON = {"json_out": ("--json",)}  # a field called json would hide a method of pydantic's
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Text with line breaks of its own keeps them, other text is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def add_options(
    parser: Any,
    model: type[Settings],
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    positional: Collection[str] = (),
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Add an option for each field of ``model`` to a parser or an argument group.

    only, skip: names of fields. positional: fields that have no flag. flags: those of fields where
    ``--name-of-the-field`` is not the one.
    """
    descriptions = model.descriptions()
    for name, field in model.model_fields.items():
        if name in skip or (only is not None and name not in only):
            continue
        words = _words(field, descriptions.get(name, ""))
        if name in positional:
            words |= {} if field.is_required() else {"nargs": "?"}
            parser.add_argument(name, **words)
        else:
            own = (flags or {}).get(name, (f"--{name.replace('_', '-')}",))
            required = {"required": True} if field.is_required() else {}
            parser.add_argument(*own, dest=name, **words, **required)


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


def _words(field: FieldInfo, description: str) -> dict[str, Any]:
    """What argparse is told about a field."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    text = description.replace("%", "%%")
    if default not in (None, False, 0, "", [], {}) and "default" not in text:
        shown = f"{default:g}" if isinstance(default, float) else default
        text += f" (default: {shown})"
    kind = _plain_type(field.annotation)
    if kind is bool:
        return {"action": "store_true", "help": text}
    words = {"help": text, "default": default}
    if get_origin(kind) is Literal:
        return words | {"choices": get_args(kind)}
    if kind == list[Path]:  # files of one shell pattern
        several = {"action": "extend", "nargs": "+", "default": [], "type": Path}
        return words | several | {"metavar": field.title}
    if get_origin(kind) in (list, dict):
        return words | {"action": "append", "default": [], "metavar": field.title}
    return words | {"type": _reader(field), "metavar": field.title or METAVARS.get(kind)}


def _plain_type(annotation: Any) -> Any:
    """The type without ``| None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not types.NoneType)
    return annotation


def _reader(field: FieldInfo) -> Callable[[str], Any]:
    """The value of an option from its text, checked by the field."""
    kind = _plain_type(field.annotation)
    if kind in (str, Path) and not field.metadata:
        return kind  # nothing to check, and a validator takes as long as importing a small package

    def read(text: str) -> Any:
        from pydantic import TypeAdapter, ValidationError

        checked: Any = Annotated[field.annotation, field]
        try:
            return TypeAdapter(checked).validate_python(text)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Input ")
            raise argparse.ArgumentTypeError(f"{text!r} is not a valid value: {problem}") from None

    return read


def parse_pairs(items: list[str], option: str) -> dict[str, Any]:
    """KEY=VALUE strings as a dict; true and false are booleans, other values stay text."""
    out: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise StudyError(
                f"{item!r} is not KEY=VALUE", where=option, remedy=f"write {option} KEY=VALUE"
            )
        out[key] = {"true": True, "false": False}.get(value.lower(), value)
    return out


def typed_command(words: Sequence[str]) -> str:
    """The command of ``words`` as typed, with the folders of absolute paths left out: a manifest
    carries no path of one machine."""
    bare = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(["forcelaw", *bare])
