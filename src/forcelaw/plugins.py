"""One door for what is added from outside the package: laws, architectures, readers.

A name is looked up in this order: the package's own table, then an import path
(``my_package.laws:MyLaw``), then the entry points that installed packages declare:

    [project.entry-points."forcelaw.laws"]
    my_law = "my_package.laws:MyLaw"

The groups are ``forcelaw.laws``, ``forcelaw.architectures`` and ``forcelaw.readers``.

Code from outside has an identity, :func:`code_of`: results of one code are never taken for those
of another.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import distribution, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from .errors import ForcelawError, missing_package


def resolve(
    name: str,
    builtin: Mapping[str, Any],
    group: str,
    kind: str,
    error: type[ForcelawError] = ForcelawError,
) -> Any:
    """The object called ``name``.

    builtin: the package's own objects by name; a value that is a string is itself an import path,
    loaded when it is asked for. group: of entry points, e.g. "forcelaw.laws". kind: what the object
    is, for messages, e.g. "law". Raises ``error`` if there is none or it cannot be imported.
    """
    if name in builtin:
        found = builtin[name]
        return load(found, kind, error) if isinstance(found, str) else found
    if ":" in name:
        return load(name, kind, error)
    added = {point.value: point for point in entry_points(group=group, name=name)}
    if len(added) > 1:
        raise error(
            f"{len(added)} installed packages provide the {kind} {name!r}: {', '.join(added)}",
            where=f"entry points {group}",
            remedy="name one by its import path, as listed",
        )
    for point in added.values():
        return load(point.value, kind, error)
    raise error(
        f"there is no {kind} {name!r}",
        where=kind,
        remedy=f"use one of {', '.join(known(builtin, group))}; or an import path, "
        "my_package.module:Name",
    )


def known(builtin: Mapping[str, Any], group: str) -> list[str]:
    """All names that :func:`resolve` knows: the package's own, then those of entry points."""
    return list(dict.fromkeys([*builtin, *sorted(p.name for p in entry_points(group=group))]))


def load(path: str, kind: str, error: type[ForcelawError] = ForcelawError) -> Any:
    """The object at the import path ``module:name``; raises ``error`` if it cannot be imported."""
    module_name, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if module_name.partition(".")[0] == "forcelaw":
            raise missing_package(missing) from missing
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            remedy = f"install {missing.name}, which {module_name} imports"
        else:
            remedy = "install the package, or put the folder that holds it in PYTHONPATH"
        raise error(f"there is no module {missing.name!r}", where=path, remedy=remedy) from missing
    except Exception as failed:
        raise error(
            f"importing {module_name!r} failed: {type(failed).__name__}: {failed}",
            where=path,
            remedy=f'repair it; python -c "import {module_name}" shows where it fails',
        ) from failed
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise error(
                f"{module_name!r} has no {attribute!r}",
                where=path,
                remedy=f"write it as module:name, with the name of the {kind} in that module",
            )
        found = getattr(found, part)
    return found


def code_of(modules: Iterable[str], distributions: Iterable[str] = ()) -> dict[str, str]:
    """Which code the given modules are: for the package of each its version (empty where it is not
    installed) and a hash of its Python files; for each further distribution its version.

    The hash counts, whatever the version says: the sources of a package under development change
    under one version. forcelaw itself is left out, whose version every run has anyway.
    """
    packages = {_regular_package(name) for name in modules} - {"forcelaw", "torch", "builtins"}
    found = {package: f"{_version(package)}+{_hash(package)}" for package in sorted(packages)}
    return found | {name: version(name) for name in sorted(distributions)}


def code_changes(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
    """Packages whose code differs, with what it was and is; empty where none does."""
    old, new = before or {}, after or {}
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(f"{n} {old.get(n, 'none')} -> {new.get(n, 'none')}" for n in changed)


def _regular_package(module: str) -> str:
    """The outermost package of a module that has files of its own; "a.b" of a namespace "a"."""
    parts = module.split(".")
    for n in range(1, len(parts)):
        name = ".".join(parts[:n])
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            return name
    return module


@lru_cache(maxsize=64)
def _hash(package: str) -> str:
    """SHA-256 of the names and contents of the Python files of a package or module, as they were
    when this process first asked; shortened."""
    spec = importlib.util.find_spec(package)
    folders = list((spec and spec.submodule_search_locations) or [])
    files = [(path, Path(folder)) for folder in folders for path in Path(folder).rglob("*.py")]
    if not folders and spec is not None and spec.origin is not None:
        files = [(Path(spec.origin), Path(spec.origin).parent)]
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(top).as_posix(), path) for path, top in files):
        total.update(f"{name}\n".encode() + path.read_bytes() + b"\n")
    return total.hexdigest()[:12]


@lru_cache(maxsize=64)
def _version(package: str) -> str:
    """Version of the distribution that installed a package; empty where none did, as for a folder
    in PYTHONPATH that has the name of an installed package."""
    spec = importlib.util.find_spec(package)
    origin = Path((spec and spec.origin) or "").resolve()
    for owner in packages_distributions().get(package.partition(".")[0], []):
        found = distribution(owner)
        source = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")
        homes = [Path(str(found.locate_file(""))), Path(unquote(urlparse(source).path))]
        if any(origin.is_relative_to(home.resolve()) for home in homes if str(home) != "."):
            return found.version
    return ""
