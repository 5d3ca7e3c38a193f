"""The base of everything that users set: studies, models, training, options of the command line."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Settings(BaseModel):
    """Extra keys are errors, and so are numbers that are not finite. The text below a field
    describes it, in help texts and schemas."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split()) or None


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
