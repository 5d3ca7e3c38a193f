"""Colours and symbols: one architecture looks the same in every figure, and never by colour alone.

The colours are Okabe and Ito's (safe for the common colour-vision deficiencies), each with a
lighter twin for dark pages. Symbols repeat the coding for print in grey.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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
    """How one architecture is drawn: the label of all its marks, colour on a light page, on a dark
    page, plotly symbol and matplotlib marker."""

    label: str
    colour: str
    dark: str
    symbol: str
    marker: str

    @property
    def line(self) -> dict[str, str]:
        """What a series of kind line or band takes from here."""
        return {"group": self.label, "colour": self.colour}

    @property
    def marks(self) -> dict[str, str]:
        """What a series of points takes from here."""
        return {**self.line, "symbol": self.symbol, "marker": self.marker}


DEEPEST = 0.65  # how far the last shade of a family is mixed with black, on a dark page with white
FAMILIES = ("gemnet", "egnn", "esen", "painn", "mpnn")


def family(name: str) -> str | None:
    """The architecture family that a name belongs to: "MC-EGNN" -> "egnn". None if it is not a
    known one."""
    flat = re.sub(r"[^a-z0-9]", "", name.lower())
    found = next((word for word in FAMILIES if word in flat), None)
    return "gemnet_oc" if found == "gemnet" else found


def looks(labels: list[tuple[str, str]]) -> dict[str, Look]:
    """A look for every (label, architecture), in the given order. The first of a family gets the
    family's colour, so that an architecture keeps its colour from one study to the next. Where
    there are more columns than colours, the others of a family get darker shades of it, and what is
    of no family those of any. What has no colour of its own gets the free one that is least like
    those in use."""
    taken: dict[str, str] = {}
    for label, architecture in labels:
        colour = PREFERRED.get(_family(label, architecture))
        if colour and colour not in taken.values():
            taken[label] = colour
    used = list(taken.values())
    free = [colour for colour in DARK if colour not in used]
    shades = _shades(labels) if len(labels) > len(DARK) else {}
    out, beyond = {}, 0
    for index, (label, _) in enumerate(labels):
        colours = shades.get(label)
        if colours is None:
            colour, share = taken.get(label), 0.0
            if colour is None and free:
                # families that the study does not have give their colours last: the next study may
                # have them
                others = [c for c in free if c not in PREFERRED.values()] or free
                colour = max(others, key=lambda c: min((_apart(c, u) for u in used), default=0.0))
                free.remove(colour)
                used.append(colour)
            elif colour is None:
                rounds, k = divmod(beyond, len(DARK))
                colour, share = list(DARK)[k], DEEPEST * (1 - 0.5 ** (rounds + 1))
                beyond += 1
            colours = _mixed(colour, 0, share), _mixed(DARK[colour], 255, share)
        # a darker shade has another symbol than the pure colour
        symbol = index + index // len(SYMBOLS)
        out[label] = Look(label, *colours, *SYMBOLS[symbol % len(SYMBOLS)])
    return out


def _family(label: str, architecture: str) -> str:
    return family(architecture) or family(label) or ""


def _shades(labels: list[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Label -> colour on a light and on a dark page, of all whose family has a colour; the first of
    a family has it pure."""
    members: dict[str, list[str]] = {}
    for label, architecture in labels:
        name = _family(label, architecture)
        if name in PREFERRED:
            members.setdefault(name, []).append(label)
    out = {}
    for name, own in members.items():
        for k, label in enumerate(own):
            share, pure = DEEPEST * k / max(1, len(own) - 1), PREFERRED[name]
            out[label] = _mixed(pure, 0, share), _mixed(DARK[pure], 255, share)
    return out


def _apart(one: str, other: str) -> float:
    """How unlike two colours are to the eye: their distance in CIE 1976 L*a*b* (D65)."""
    return math.dist(_lab(one), _lab(other))


def _lab(colour: str) -> tuple[float, float, float]:
    shares = (part / 255 for part in _parts(colour))
    r, g, b = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _parts(colour: str) -> list[int]:
    """Red, green and blue of #rrggbb, each 0 to 255."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _mixed(colour: str, ground: int, share: float) -> str:
    """#rrggbb with a share of black (0) or white (255) in it."""
    parts = _parts(colour)
    return "#" + "".join(f"{round((1 - share) * part + share * ground):02x}" for part in parts)
