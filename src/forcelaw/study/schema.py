"""The JSON schema of a study file, with every key: those of ``train`` and of each architecture's
options included. Editors complete and check study files with it."""

from __future__ import annotations

from typing import Any

from .config import RESERVED, Study


def study_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) that every study file fulfils. Needs torch: an architecture's
    options stand with its model."""
    from ..models import ARCHITECTURES

    schema = Study.model_json_schema()
    definitions = schema["$defs"]
    entry = definitions["ArchitectureSpec"]
    description = entry["properties"]["train"]["description"]
    entry["properties"]["train"] = {"$ref": "#/$defs/TrainOptions", "description": description}
    entry["allOf"] = []
    for name, architecture in ARCHITECTURES.items():
        definitions[f"{name}_options"] = _options(architecture.config)
        entry["allOf"].append(
            {
                "if": {"properties": {"name": {"const": name}}},
                "then": {"properties": {"options": {"$ref": f"#/$defs/{name}_options"}}},
            }
        )
    names = {"type": "string", "examples": list(ARCHITECTURES)}
    entry["properties"]["name"] |= names
    items = schema["properties"]["architectures"]["items"]
    schema["properties"]["architectures"]["items"] = {"anyOf": [names, items]}
    rate = schema["properties"]["learning_rate"]
    value = definitions["LearningRate"]["properties"]["value"]["anyOf"][0]
    rate["anyOf"] = [value, {"$ref": rate.pop("$ref")}]
    return schema


def _options(config: Any) -> dict[str, Any]:
    """The part of a model configuration's schema that a study may set."""
    schema: dict[str, Any] = config.model_json_schema()
    free = {key: value for key, value in schema["properties"].items() if key not in RESERVED}
    schema |= {"title": f"Options of {schema['title']}", "properties": free}
    schema.pop("required", None)
    return schema
