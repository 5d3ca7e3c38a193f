"""The base of everything that users set: studies, models, training, options of the command line."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


def _describe(schema: dict[str, Any], settings: type[Settings]) -> None:
    """Put descriptions into a JSON schema."""
    for name, text in settings.descriptions().items():
        key = str(settings.model_fields[name].validation_alias or name)
        schema["properties"][key]["description"] = text


class Settings(BaseModel):
    """Extra keys are errors, and so are numbers that are not finite. The text below a field
    describes it, in help texts and schemas.

    Most commands use few of the settings that they import. So the text is read when it is asked
    for, and pydantic makes a validator when it has something to validate: both for all of them is a
    third of the time in which a command starts.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,
        json_schema_extra=_describe,
    )

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What describes each field, on one line; fields that nothing describes are left out."""
        below = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Settings):
                below |= _texts_of_module(base.__module__).get(base.__qualname__, {})
        found = {k: field.description or below.get(k) for k, field in cls.model_fields.items()}
        return {name: " ".join(text.split()) for name, text in found.items() if text}


@functools.cache
def _texts_of_module(module: str) -> dict[str, dict[str, str]]:
    """The texts below annotated names of the classes in a module: name of the class, of the field.
    None of them where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return {}
    found: dict[str, dict[str, str]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[prefix + child.name] = _texts(child)
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                visit(child, f"{prefix}{child.name}.<locals>.")

    visit(tree, "")
    return found


def _texts(of: ast.ClassDef) -> dict[str, str]:
    """Of one class."""
    return {
        field.target.id: text.value.value
        for field, text in zip(of.body, of.body[1:])
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


class Recorded(Settings):
    """Settings whose content makes the ids of runs."""

    LATER: ClassVar[tuple[str, ...]] = ()
    """fields that a class got after it had runs: left out at their defaults, so that those runs
    keep their ids; a subclass names its own alone"""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without :attr:`LATER` fields at their defaults."""
        later = {name for base in type(self).__mro__ for name in base.__dict__.get("LATER", ())}
        fields = type(self).model_fields
        # compared as they are: JSON makes lists of tuples
        unset = {name for name in later if getattr(self, name) == fields[name].get_default()}
        return {name: value for name, value in handler(self).items() if name not in unset}
