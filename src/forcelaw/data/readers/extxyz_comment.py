"""The comment line of extended XYZ, KEY=VALUE pairs, read as ASE's ``key_val_str_to_dict`` does."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import numpy as np
from ase.io.extxyz import SPECIAL_3_3_KEYS, UNPROCESSED_KEYS, key_val_str_to_dict

# KEY=VALUE or KEY="VALUE", the way nearly all files are written; and the numbers in them
_PAIR = re.compile(r"""\s*([^\s='"{}\[\]\\]+)=(?:"([^"\\]+)"|([^\s='"{}\[\]\\]+))(?=\s|$)""")
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_MATRIX = re.compile(rf"(?<!\S)({'|'.join(sorted(SPECIAL_3_3_KEYS))})(?=\s|=|$)")
_HIDDEN = "\0matrix\0"  # in no file


def comment(header: str) -> dict[str, Any]:
    """What ASE's ``key_val_str_to_dict`` makes of a comment line, in a tenth of its time: it goes
    through a line one character after the other. Brackets, escapes and bare words are left to
    it.

    In one thing this is not ASE: it refuses a whole file for a stress or virial of six numbers,
    which many programs write. Values of :data:`SPECIAL_3_3_KEYS` that are not nine numbers stay
    what they would be under another name; who uses one says what is wrong with it."""
    found, at, header = {}, 0, header.strip()
    while at < len(header):
        pair = _PAIR.match(header, at)
        if pair is None:
            return _by_ase(header)
        key, at = pair[1], pair.end()
        found[key] = _value(key, pair[2] or pair[3])
    return found


def _by_ase(header: str) -> dict[str, Any]:
    try:
        return dict(key_val_str_to_dict(header))
    except ValueError:  # a matrix that is none: it is read under a name that ASE does not know
        found = key_val_str_to_dict(_MATRIX.sub(rf"\1{_HIDDEN}", header))
    shown = {key: _shown(value) for key, value in found.items()}
    return {
        key.replace(_HIDDEN, ""): _matrix(value) if key.endswith(_HIDDEN) else value
        for key, value in shown.items()
    }


def _shown(value: Any) -> Any:
    """A value in whose text such a name may stand too."""
    if isinstance(value, str):
        return value.replace(_HIDDEN, "")
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return np.char.replace(value, _HIDDEN, "")
    return value


def _matrix(value: Any) -> Any:
    """Nine numbers as (3, 3), in the order that ASE reads them; all else as it is."""
    if isinstance(value, np.ndarray) and value.shape == (9,):
        return value.reshape((3, 3), order="F")
    return value


def _value(key: str, text: str) -> Any:
    if key in SPECIAL_3_3_KEYS:
        return _matrix(key_val_str_to_dict(f'x="{text}"')["x"])
    if key.lower() in UNPROCESSED_KEYS:
        return key_val_str_to_dict(f'{key}="{text}"')[key]
    if _INTEGER.fullmatch(text):  # beyond int64 ASE makes it a float
        return np.int64(text) if len(text) <= 18 else copy.copy(_repeated(text))
    if _FLOAT.fullmatch(text):
        return np.float64(text)
    return copy.copy(_repeated(text))


@lru_cache(1024)
def _repeated(text: str) -> Any:
    """The value of a text that stands in many comment lines: columns, pbc, names."""
    return key_val_str_to_dict(f'x="{text}"')["x"]
