"""YAML as data only, and of a size that a study can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import StudyError
from ..files import check_regular, reading

MOST_BYTES, MOST_NODES, DEEPEST = 1 << 20, 20_000, 40  # nodes: aliases counted where they stand
_REMEDY = "correct the file; forcelaw init sample writes one that shows how they look"
# the recipes in studies/ are in a clone only
WRITE_ONE = "check the path, or have one written: forcelaw init PACK (or: sample)"


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, instead of keeping the last one."""


def _unique(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _number(loader: _UniqueKeys, node: yaml.ScalarNode) -> Any:
    """12:00:00 is a text: YAML before 1.2 read it as 43,200."""
    if ":" in node.value:
        return node.value
    kind = loader.construct_yaml_int if node.tag.endswith(":int") else loader.construct_yaml_float
    return kind(node)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)
for _kind in ("int", "float"):
    _UniqueKeys.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. StudyError where there is none, or it is not YAML, or far too
    large or deep, aliases included."""
    if not path.exists():
        raise StudyError("no such study file", where=str(path), remedy=WRITE_ONE)
    check_regular(path, StudyError)
    with reading(path, StudyError, remedy=_REMEDY):
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise StudyError(f"a study file has no more than {MOST_BYTES:,} bytes", remedy=_REMEDY)
        try:
            loader = _UniqueKeys(text.decode())
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}, 1) > MOST_NODES:
                raise StudyError(f"more than {MOST_NODES:,} values", remedy=_REMEDY)
            return loader.construct_document(node)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StudyError(f"not valid YAML: {error}", remedy=_REMEDY) from error


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Values in a node. known: those of nodes that were met, 0 while one is being counted."""
    if depth > DEEPEST:
        raise StudyError(f"values are nested deeper than {DEEPEST}", remedy=_REMEDY)
    if id(node) in known:
        if not known[id(node)]:
            raise StudyError("an alias stands within what it names", remedy=_REMEDY)
        return known[id(node)]
    known[id(node)] = 0
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in parts)
    return known[id(node)]
