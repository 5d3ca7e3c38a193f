"""The configuration of GemNet-OC, and its operations counted from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from .base import Flops, ModelConfig


class GemNetOCConfig(ModelConfig):
    """width is A. Basis sizes, the same along a ladder, and message widths default to small models;
    see :func:`published`."""

    architecture: Literal["gemnet_oc"] = "gemnet_oc"
    base_width: int = 40
    basis: Literal["exponential", "gaussian"] = "exponential"
    """radial functions (published: gaussian)"""
    radial: int = Field(32, ge=2, description="radial basis functions")
    spherical: int = Field(4, ge=1, le=10)
    """degrees of angular functions, S: l = 0 .. S - 1"""
    rbf: int = Field(8, ge=1, description="radial functions after the shared projection")
    cbf: int = Field(8, ge=1)
    """circular functions (one angle) after the shared projection"""
    sbf: int = Field(8, ge=1)
    """spherical functions (angle and dihedral) after the shared projection"""
    quad_cutoff: float = Field(3.5, gt=0)
    """Angstrom; middle edges of quadruplets are shorter"""
    quad_degree: float = Field(10.0, gt=0)
    """mean number of neighbours within quad_cutoff"""
    edge_ratio: int = Field(2, ge=1, description="E / A")
    triplet_divisor: int = Field(2, ge=1)
    """A / width of triplet and pair messages (published: 4)"""
    quad_divisor: int = Field(4, ge=1)
    """A / width of quadruplet messages (published: 8)"""
    before_skip: int = Field(2, ge=0)
    """residual layers of a block on edges, before its skip connection"""
    after_skip: int = Field(2, ge=0)
    concat: int = Field(1, ge=0, description="residual layers after joining atoms and edges")
    atom_layers: int = Field(2, ge=0, description="residual layers on atoms in a block")
    update_layers: int = Field(3, ge=0)
    """residual layers of an atom update and of the force branch"""
    after_atom: int = Field(3, ge=1)
    """residual layers of an output block after adding h"""
    final_layers: int = Field(2, ge=0, description="residual layers of the last MLPs")
    norm: bool = True
    """blocks read states divided by their RMS over channels (published: as they are)"""

    @property
    def near(self) -> float:
        """Cutoff of the middle edges of quadruplets, Angstrom: an edge must have vanished where it
        ends."""
        return min(self.quad_cutoff, self.cutoff)

    @property
    def edge(self) -> int:
        """E."""
        return self.edge_ratio * self.width

    @property
    def trip(self) -> int:
        """Width of triplet and pair messages."""
        return max(2, round(self.width / self.triplet_divisor))

    @property
    def pairs(self) -> int:
        """Number of (degree p, order j <= p) in the quadruplet basis."""
        return self.spherical * (self.spherical + 1) // 2

    @property
    def quad(self) -> int:
        """Width of quadruplet messages; at least 2, which only matters below width 8."""
        return max(2, round(self.width / self.quad_divisor))


def published(elements: tuple[int, ...] = tuple(range(1, 84)), **options: object) -> GemNetOCConfig:
    """The configuration of the paper's GemNet-OC (OC20: 83 elements, 12 Angstrom)."""
    sizes = {
        "width": 256,
        "depth": 4,
        "basis": "gaussian",
        "radial": 128,
        "spherical": 7,
        "rbf": 16,
        "cbf": 16,
        "sbf": 32,
        "cutoff": 12.0,
        "base_width": 256,
        "norm": False,
        "triplet_divisor": 4,
        "quad_divisor": 8,
    }
    return GemNetOCConfig(elements=elements, **{**sizes, **options})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of a forward pass per edge, padded row slot, atom and short edge; exact for the
    code above."""

    edge: float
    row: float
    atom: float
    short: float

    def flops(self, edges: int, rows: int, atoms: int, short_edges: int) -> float:
        """Forward FLOPs of one batch; rows: atoms times row width, as the padded products really
        run."""
        return 2.0 * (
            self.edge * edges + self.row * rows + self.atom * atoms + self.short * short_edges
        )


def operations(c: GemNetOCConfig) -> Operations:
    """Closed form, term by term in the order of the code; A, E, t, q as in the configuration, f =
    cbf."""
    a, e, t, q, s = c.width, c.edge, c.trip, c.quad, c.spherical
    side, wide, pairs = s * s, 2 * s - 1, c.pairs
    columns = sum((p + 1) * (2 * p + 1) for p in range(s))
    points = 2 * s + 3
    update = (e * a if e != a else 0) + 2 * a * a * c.update_layers
    direct = c.forces == "direct"
    edge = c.radial * (7 * c.rbf + 3 * c.cbf * s + c.sbf * pairs) + c.radial * e
    atom = 2.0 * a * e
    short = 9 * points + points * sum((2 * l + 1) ** 2 for l in range(s)) + c.radial * s * c.cbf
    row = float(c.cbf * side)
    for _ in range(c.depth):
        edge += 4 * e * e + c.rbf * (3 * e + a) + t * (2 * e + a) + e * q
        edge += (
            2 * c.cbf * (s + 1) * t
            + c.sbf * pairs * q
            + 2 * c.cbf * t * t
            + c.sbf * q * q
            + 2 * e * (2 * t + q)
        )
        edge += 2 * e * e * (c.before_skip + c.after_skip + c.concat) + c.rbf * e + e * e
        row += side * (3 * t + q) + 2 * t * side + q * columns + (c.cbf + c.rbf) * t
        atom += a * a + a * t + c.cbf * side * t + (c.cbf + c.rbf) * t * t + 2 * t * a
        atom += 2 * a * a * c.atom_layers + update + 2 * a * e
        short += s * wide * side * q + s * c.cbf * q + columns * wide * q
    for _ in range(c.depth + 1):
        edge += c.rbf * e + (2 * e * e * c.update_layers + c.rbf * e + e * e if direct else 0)
        atom += update + 2 * a * a * c.after_atom + a * a
    edge += 2 * e * e * c.final_layers + e if direct else 0
    atom += 2 * a * a * c.final_layers + a
    return Operations(edge, row, atom, short)


def flops(c: GemNetOCConfig) -> Flops:
    """Without padding: a row slot per edge; and ``quad_degree`` short edges per atom. Both are a
    few percent of all."""
    count = operations(c)
    return Flops(
        per_edge=2.0 * (count.edge + count.row),
        per_atom=2.0 * (count.atom + c.quad_degree * count.short),
    )
