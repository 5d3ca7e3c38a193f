"""What a page calls the things that it is about: atoms and electronvolts in a study of ours, data
and a loss in no known unit in a table of others."""

from __future__ import annotations

from dataclasses import dataclass

OF_ANY_TABLE = [
    ("frontier", "the lowest loss that any run reached for that much compute"),
    (
        "surface",
        "L(N, D) = E + A N^−α + B D^−β; E, the floor, is what no size and no data would remove",
    ),
    ("γ", "frontier exponent in L(C) = E + F C^−γ; on a surface it is αβ/(α+β)"),
    ("a, b", "the best size grows as C^a and the best amount of data as C^b"),
    (
        "interval",
        "95%, by deleting whole runs: checkpoints of one run are not independent measurements",
    ),
]


@dataclass(frozen=True)
class Words:
    """data, datum: what D counts, many and one of them. loss: the title of its axis. meanings: the
    glossary, (word, meaning)."""

    data: str
    datum: str
    loss: str
    meanings: list[tuple[str, str]]


OURS = Words(
    "atoms",
    "atom",
    "loss (eV/atom + eV/Å)",
    [
        ("N", "trainable parameters, the element embedding included"),
        ("D", "atoms seen in training, repeats counted"),
        (
            "C",
            "training FLOPs, a multiply-add counted as 2, from closed forms checked against a"
            " counter",
        ),
        (
            "H",
            "device-hours of training only: no compilation, no evaluation, no waiting at start-up",
        ),
        ("κ", "C / (3 N D): FLOPs per parameter and atom in a forward pass"),
        (
            "loss",
            "mean over molecules of the energy error per atom (eV) plus mean over atoms of the"
            " norm of the force error (eV/Å), on validation molecules never trained on, at"
            " averaged weights",
        ),
        *OF_ANY_TABLE,
    ],
)
OTHERS = Words(
    "data",
    "unit of data",
    "loss",
    [
        ("N", "parameters, as the table has them"),
        ("D", "data seen in training, repeats counted"),
        ("C", "training compute, as the table has it"),
        ("H", "device-hours, as the table has them"),
        ("κ", "C / (3 N D): compute per parameter and unit of data in a forward pass"),
        ("loss", "as the table has it"),
        *OF_ANY_TABLE,
    ],
)
