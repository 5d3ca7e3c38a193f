"""Where the reference energies of the atoms come from: a fit, free atoms in the sources, or given
values."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..elements import MAX_Z, SYMBOLS, Z_OF
from ..errors import DataError

FIT, PLAIN, ISOLATED, GIVEN = "fit", "least-squares", "isolated", "given"
_REMEDY = (
    "pass fit, least-squares, isolated, values as H=-13.6,C=-1028.9 (eV), or a JSON or YAML file of"
    " them"
)


@dataclass(frozen=True)
class AtomicEnergies:
    """What the user says about reference energies. kind: fit (default), least-squares, isolated or
    given. values: eV by atomic number. origin: where given ones come from, for the manifest."""

    kind: str = FIT
    values: Mapping[int, float] = field(default_factory=dict)
    origin: str = ""

    @classmethod
    def parse(cls, given: str | Mapping[str, float] | None) -> AtomicEnergies:
        """From the text of an option, or the mapping of a study: a word, a file, values as
        ``H=-13.6,C=-1028.9`` or as mace writes them, ``{1: -13.6, 6: -1028.9}``."""
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            return cls(GIVEN, _values(given, "reference energies"), "given")
        text = given.strip()
        if text.lower() in (FIT, PLAIN, ISOLATED):
            return cls(text.lower())
        path = Path(text)
        if path.suffix.lower() in (".json", ".yaml", ".yml"):
            return cls(GIVEN, _values(_read(path), str(path)), f"given in {path.name}")
        try:
            if text.startswith("{"):
                return cls(GIVEN, _values(ast.literal_eval(text), text), "given")
            pairs = [part.split("=") for part in text.split(",")]
            return cls(GIVEN, _values({k.strip(): float(v) for k, v in pairs}, text), "given")
        except (ValueError, SyntaxError) as error:
            raise DataError(
                f"reference energies not understood: {text[:60]!r}", where="--E0s", remedy=_REMEDY
            ) from error


def _read(path: Path) -> object:
    import yaml  # for this alone

    try:
        text = path.read_text()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(
            f"the file of reference energies cannot be read: {error}",
            where=str(path),
            remedy="it holds one mapping of symbols or atomic numbers to eV, in JSON or YAML",
        ) from error


def _values(given: object, where: str) -> dict[int, float]:
    if not isinstance(given, Mapping) or not given:
        raise DataError("no mapping of elements to energies", where=where, remedy=_REMEDY)
    out = {}
    for key, value in given.items():
        name = str(key)
        z = int(name) if name.isdigit() else Z_OF.get(name, 0)
        if not 1 <= z <= MAX_Z or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(
                f"{key!r}: {value!r} is not an element and its energy", where=where, remedy=_REMEDY
            )
        out[z] = float(value)
    return out


class FreeAtoms:
    """Energies of free atoms met in a stream: {atomic number: eV}, the lowest of each element."""

    def __init__(self) -> None:
        self.energies: dict[int, float] = {}

    def add(self, z: int, energy: float) -> None:
        self.energies[z] = min(energy, self.energies.get(z, energy))

    def of(self, elements: list[int]) -> dict[int, float]:
        """The energies of ``elements``; each must have been met."""
        absent = [SYMBOLS[z] for z in elements if z not in self.energies]
        if absent:
            raise DataError(
                f"no free atom of {', '.join(absent)} with an energy is in the sources",
                where="--E0s isolated",
                remedy="name the file with the free atoms among the sources, or give values: --E0s"
                f" {','.join(f'{name}=...' for name in absent)}",
            )
        return {z: self.energies[z] for z in elements}
