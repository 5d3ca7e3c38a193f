"""Colours and symbols: one architecture looks the same in every figure, and never by colour alone.

The colours are Okabe and Ito's (safe for the common colour-vision deficiencies), each with a lighter twin for dark
pages. Symbols repeat the coding for print in grey.
"""

from __future__ import annotations

from dataclasses import dataclass

from .paper import family

# light page -> dark page
DARK = {
    "#c8460a": "#ff8a4c",  # vermilion
    "#0067a8": "#5fb4f0",  # blue
    "#008a63": "#3ecf9f",  # bluish green
    "#b8860b": "#f0c04a",  # orange, darkened on white for contrast
    "#a8488f": "#ea9bd3",  # reddish purple
    "#3f8fc4": "#9ad4f7",  # sky blue
    "#7a4a1e": "#d3a074",  # brown
    "#5b4ea8": "#ada2f2",  # violet
    "#6b7280": "#a6adb8",  # grey
    "#7c8a00": "#cfdc4f",  # olive
}
PREFERRED = {
    "mpnn": "#c8460a",
    "painn": "#0067a8",
    "egnn": "#008a63",
    "gemnet_oc": "#b8860b",
    "esen": "#a8488f",
}
# plotly symbol, matplotlib marker
SYMBOLS = [
    ("circle", "o"),
    ("square", "s"),
    ("diamond", "D"),
    ("triangle-up", "^"),
    ("star", "*"),
    ("cross", "P"),
    ("x", "X"),
    ("triangle-down", "v"),
    ("pentagon", "p"),
    ("hexagon", "h"),
]
GREY = "#6b7280"
PAPER = "#8b8f98"


@dataclass(frozen=True)
class Look:
    """How one architecture is drawn: colour on a light page, on a dark page, plotly symbol and matplotlib marker."""

    colour: str
    dark: str
    symbol: str
    marker: str


def looks(labels: list[tuple[str, str]]) -> dict[str, Look]:
    """A look for every (label, architecture), in the given order. The first of a family gets the family's colour, so
    that an architecture keeps its colour from one study to the next."""
    taken: dict[str, str] = {}
    for label, architecture in labels:
        colour = PREFERRED.get(family(architecture) or family(label) or "")
        if colour and colour not in taken.values():
            taken[label] = colour
    free = [colour for colour in DARK if colour not in taken.values()]
    # families that the study does not have give their colours last: the next study may have them
    free.sort(key=lambda colour: colour in PREFERRED.values())
    out = {}
    for index, (label, _) in enumerate(labels):
        colour = taken.get(label) or (free.pop(0) if free else GREY)
        out[label] = Look(colour, DARK[colour], *SYMBOLS[index % len(SYMBOLS)])
    return out
