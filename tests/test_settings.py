"""What settings say of themselves, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

from forcelaw.settings import Settings


class Base(Settings):
    """A base."""

    below: int = 1
    """text below,
    on two lines"""
    given: int = Field(2, description="text that was given")
    bare: int = 3
    said: int = Field(4, validation_alias="called")
    """under another key"""


class Derived(Base):
    """Its fields and those of its base."""

    below: int = 10
    bare: int = Field(30, ge=0)
    """no longer bare"""


TEXTS = {
    "below": "text below, on two lines",
    "given": "text that was given",
    "said": "under another key",
}


def test_descriptions_are_texts_below_fields_or_given_and_are_inherited():
    assert Base.descriptions() == TEXTS
    assert Derived.descriptions() == {**TEXTS, "bare": "no longer bare"}


def test_descriptions_of_classes_in_functions_and_classes():
    class Local(Settings):
        class Inner(Settings):
            x: int = 0
            """inner"""

        y: int = 0
        """local"""

    assert Local.descriptions() == {"y": "local"}
    assert Local.Inner.descriptions() == {"x": "inner"}


def test_a_class_without_source_has_none():
    space: dict = {"__name__": "nowhere"}
    exec("from forcelaw.settings import Settings\nclass A(Settings):\n    x: int = 0\n", space)
    assert space["A"].descriptions() == {}


def test_a_schema_has_them_under_the_keys_that_users_write():
    properties = Derived.model_json_schema()["properties"]
    shown = {key: value.get("description") for key, value in properties.items()}
    assert shown == {
        "below": TEXTS["below"],
        "given": TEXTS["given"],
        "bare": "no longer bare",
        "called": TEXTS["said"],
    }


def test_settings_are_checked_although_their_validator_waits():
    assert Derived(bare=4).bare == 4
    for wrong in ({"bare": -1}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            Derived(**wrong)


@pytest.mark.parametrize(
    "name", ["study.config.Study", "training.config.TrainOptions", "data.options.Source"]
)
def test_importing_settings_makes_no_validator(name):
    module, kind = f"forcelaw.{name}".rsplit(".", 1)
    code = f"from {module} import {kind} as X; print(X.__pydantic_complete__); X.model_rebuild()"
    code += "; print(X.__pydantic_complete__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "True"]
