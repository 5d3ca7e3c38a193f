"""Sizes and FLOPs of models of packages, kept in a file: each takes the package's import and a
model with weights, and every process of a study asks for all of them.

A value counts for one configuration and one state of the code (:func:`forcelaw.models.code`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from ..errors import StoreError, StudyError
from ..files import read_json, write_json
from . import architecture, code
from .base import ModelConfig

Numbers = tuple[float, ...]

_file: Path | None = None
_known: dict[str, list[float]] = {}
_new: dict[str, list[float]] = {}  # found here, and in no file yet


def remember_in(path: Path) -> None:
    """Use the values of the file ``path``, if there is one; :func:`keep` adds to it."""
    global _file
    _file = path
    _known.update(_read(path))


def keep() -> None:
    """Write what was found since; nothing where the folder is not there, or is not writable: it is
    found again then."""
    if _file is None or not _new or not _file.parent.is_dir():
        return
    with contextlib.suppress(OSError):
        write_json(_file, _read(_file) | _new)
        _new.clear()


def remembered(kind: str, config: ModelConfig, find: Callable[[], Numbers]) -> Numbers:
    """``find()``, or what it gave before for this kind of number and configuration, where the model
    is one of a package and a file was named."""
    state = _code(config.architecture) if _file is not None else None
    if not state:
        return find()
    of = [kind, config.model_dump(mode="json"), state]
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:24]
    if key not in _known:
        _known[key] = _new[key] = list(find())
    return tuple(_known[key])


@lru_cache(maxsize=64)
def _code(name: str) -> dict[str, str] | None:
    """The code of an architecture of packages that are installed."""
    try:
        return code(name) if architecture(name).packages else None
    except (PackageNotFoundError, StudyError):
        return None


def _read(path: Path) -> dict[str, list[float]]:
    try:
        found = read_json(path) if path.exists() else {}
    except (OSError, StoreError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
