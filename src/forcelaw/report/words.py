"""The words of a page about a table that no study of ours wrote: data are not atoms there, and a
loss is in no unit that we know."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from .series import LOSS

OURS = (
    (LOSS, "loss"),
    ("an atom seen again was", "data seen again were"),
    ("the same atoms again", "the same data again"),
    ("each atom was seen", "data were seen"),
    ("atoms seen", "data seen"),
    ("atoms D*", "data D*"),
    ("atoms a step", "data a step"),
    ("per parameter and atom", "per parameter and datum"),
    ("trainable parameters, the element embedding included", "parameters, as the table has them"),
    (
        "mean over molecules of the energy error per atom (eV) plus mean over atoms of the norm of"
        " the force error (eV/Å), on validation molecules never trained on, at averaged weights",
        "as the table has it",
    ),
    (
        "training FLOPs, a multiply-add counted as 2, from closed forms checked against a counter",
        "training compute, as the table has it",
    ),
    (
        "device-hours of training only: no compilation, no evaluation, no waiting at start-up",
        "device-hours, as the table has them",
    ),
    ("number of atoms", "amount of data"),
    ("how many atoms", "how much data"),
    ("each atom", "each datum"),
    ("atoms per second", "data per second"),
    (" atoms", " data"),
)


# section -> the column without which it has nothing to show
MEASURED_BY_US = {"terms": "loss_energy", "symmetry": "rotation_error", "certificates": "variant"}


def of_any_table(part: Any) -> Any:
    """``part`` (a text, a dataclass, or a list or tuple of such) with every text of ours in the
    words that hold for any table; numbers and functions stay as they are."""
    if isinstance(part, str):
        for ours, plain in OURS:
            part = part.replace(ours, plain)
        return part
    if isinstance(part, list | tuple):
        if part and isinstance(part[0], int | float):
            return part
        return type(part)(of_any_table(one) for one in part)
    if is_dataclass(part) and not isinstance(part, type):
        old = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
        new = {name: of_any_table(value) for name, value in old.items()}
        changed = {name: new[name] for name in old if new[name] is not old[name]}
        return replace(part, **changed) if changed else part
    return part
