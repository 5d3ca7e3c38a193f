"""Charges and spins: what may be trained on together."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ...errors import DataError
from ..pack import NO_CHARGE, NO_SPIN

_AT_ONCE = 1 << 20  # structures looked at together


def kinds_of(charges: np.ndarray | None, spins: np.ndarray | None, structures: int) -> np.ndarray:
    """(charge, spin) of each structure, NO_CHARGE and NO_SPIN where the source says nothing: int8
    (s, 2)."""
    columns = ((charges, NO_CHARGE), (spins, NO_SPIN))
    return np.column_stack(
        [np.full(structures, none, np.int8) if v is None else v for v, none in columns]
    ).astype(np.int8)


def kinds_among(charges: np.ndarray, spins: np.ndarray) -> set[tuple[int, int]]:
    """The different (charge, spin) of structures (s,)."""
    found: set[tuple[int, int]] = set()
    for low in range(0, len(charges), _AT_ONCE):
        part = slice(low, low + _AT_ONCE)
        kinds = kinds_of(charges[part], spins[part], len(charges[part])).view(np.int16)
        found |= set(map(tuple, np.unique(kinds).view(np.int8).reshape(-1, 2).tolist()))
    return found


def mixed_kinds(kinds: Collection[tuple[int, int]]) -> DataError | None:
    """Why structures of these (charge, spin) cannot be trained on together, None if they can:
    models see neither unless asked to, so equal inputs would carry different labels."""
    if len(kinds) < 2:
        return None
    charges, spins = ({kind[k] for kind in kinds} for k in (0, 1))
    mixed = [
        n for n, found in (("charge", charges), ("spin multiplicity", spins)) if len(found) > 1
    ]
    remedies = []
    if len(charges) > 1:
        remedies.append("--only-neutral (or --only-charge Q)")
    if len(spins) > 1:
        remedies.append("--only-spin 1 (or another multiplicity)")
    return DataError(
        f"structures of different {' and '.join(mixed)} are mixed, and models see neither"
        " unless asked to: equal inputs would carry different labels",
        remedy="train with --charge-spin (charge_spin: true in a study), or prepare with"
        f" {' and '.join(remedies)}",
    )
