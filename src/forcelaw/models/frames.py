"""Frames of whole structures: any architecture made equivariant by what it is shown, instead of by
what it is made of; and averages over rotations of trained models (:func:`averaged`).

The principal frame of a structure has the eigenvectors of its covariance of positions as axes,
longest first. Their signs are free:

    principal   the signs that make the sum of the cubes of the first two coordinates positive, and
                the third axis by the right hand: one pass (canonicalisation)
    average4    all four right-handed choices, averaged: four passes, SE(3)
    average8    all eight choices, averaged: eight passes, E(3) (Puny et al., arXiv 2110.03336)

Exact for structures whose three moments differ; where two agree (linear and highly symmetric
molecules) axes are arbitrary, and near that outputs jump. With ``principal`` they also jump where a
sum of cubes changes its sign. Nothing here asks the host, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ..errors import StudyError
from ..graph import GraphBatch, segment_sum
from ..ops import random_rotations
from ..ops.batch_assembly import turned
from .point_groups import point_group

PASSES = {"none": 1, "principal": 1, "average4": 4, "average8": 8}
SEED = 20_260_101  # of rotations to average over
TINY = 1e-12  # squared length below which a vector has no direction; entries are of order 1

Forward = Callable[[GraphBatch], tuple[Tensor, Tensor]]


def in_frames(forward: Forward, graph: GraphBatch, kind: str) -> tuple[Tensor, Tensor]:
    """``forward`` in the frames of each structure, outputs turned back and averaged: energies (g,)
    and forces (n, 3). StudyError for periodic structures, which have no principal axes."""
    if graph.shift is not None:
        raise StudyError(
            "a periodic structure has no principal frame",
            remedy="leave the option `canonical` out",
        )
    owner = graph.batch.clamp_max(graph.n_graphs - 1)
    centred, axes = principal_axes(graph, owner)
    choices = [(1.0, 1.0, 1.0)]
    if kind == "principal":
        axes = _signed(centred, axes, graph, owner)
    else:
        choices = [s for s in product((1.0, -1.0), repeat=3)]
        if kind == "average4":
            choices = [s for s in choices if math.prod(s) > 0]
    energies, forces = [], []
    for signs in choices:
        rows = [axes[:, k] * sign for k, sign in enumerate(signs)]
        frame = torch.stack(rows, dim=1).to(graph.pos.dtype).index_select(0, owner)
        energy, force = forward(replace(graph, pos=turned(frame, centred.to(graph.pos.dtype))))
        energies.append(energy)
        forces.append(turned(frame.transpose(1, 2).to(force.dtype), force))
    return sum(energies) / len(choices), sum(forces) / len(choices)  # type: ignore[return-value]


def rotated(graph: GraphBatch, rotation: Tensor) -> tuple[GraphBatch, Tensor]:
    """The batch with each structure turned by its ``rotation`` (g, 3, 3), and the rotation of every
    atom (n, 3, 3)."""
    # padding turns with the last structure
    of_atom = rotation.index_select(0, graph.batch.clamp_max(graph.n_graphs - 1))
    shift = graph.shift
    if shift is not None:
        shift = turned(of_atom.index_select(0, graph.receiver), shift)
    return replace(graph, pos=turned(of_atom, graph.pos), shift=shift), of_atom


def rotation_set(count: int) -> Tensor:
    """``count`` rotations (count, 3, 3) float64 to average over, the same ones every time: those of
    the tetrahedron, octahedron or icosahedron where there are 12, 24 or 60, so that the average is
    exact for them, and else uniform random ones."""
    group = {12: "T", 24: "O", 60: "I"}.get(count)
    if group is not None:
        return torch.from_numpy(point_group(group).matrices.copy())  # type: ignore[arg-type]
    return random_rotations(torch.arange(count), 0, SEED, torch.float64)


def averaged(
    forward: Callable[[GraphBatch], tuple[Tensor, ...]], graph: GraphBatch, rotations: Tensor
) -> tuple[Tensor, ...]:
    """Mean over ``rotations`` (K, 3, 3) of what ``forward`` says about the turned structures,
    turned back: energies (g,), forces (n, 3) and, where there are any, virials (g, 3, 3). K forward
    passes, crystals included. Test-time averaging: nearer to equivariance, exact where rotations
    are a group and for its elements."""
    sums: list[Tensor] = []
    for matrix in rotations.to(graph.pos.dtype).unbind():
        moved, _ = rotated(graph, matrix.expand(graph.n_graphs, 3, 3))
        energy, forces, *virial = forward(moved)
        back = matrix.T.to(forces.dtype)
        outputs = [energy, turned(back, forces), *(_both_sides(back, v) for v in virial)]
        sums = [a + b for a, b in zip(sums, outputs)] if sums else outputs
    return tuple(total / len(rotations) for total in sums)


def _both_sides(matrix: Tensor, x: Tensor) -> Tensor:
    """M x M^T of x (g, 3, 3), by sums: TF32 would round a matrix product."""
    left = (matrix.unsqueeze(-1) * x.unsqueeze(1)).sum(2)
    return (left.unsqueeze(2) * matrix).sum(-1)


def principal_axes(graph: GraphBatch, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (n, 3) from the middle of their structure, and right-handed axes (g, 3, 3) in rows,
    both float64; owner (n,): the structure of each atom."""
    with torch.no_grad():
        pos, slots = graph.pos.double(), graph.n_graphs
        real = (graph.batch < slots).to(pos.dtype).unsqueeze(1)
        count = graph.natoms.clamp_min(1).to(pos.dtype).view(-1, 1)
        middle = segment_sum(pos * real, owner, slots) / count
        centred = pos - middle.index_select(0, owner)
        outer = (centred * real).unsqueeze(2) * centred.unsqueeze(1)
        return centred, _eigenvectors(segment_sum(outer.flatten(1), owner, slots) / count)


def _signed(centred: Tensor, axes: Tensor, graph: GraphBatch, owner: Tensor) -> Tensor:
    along = (axes.index_select(0, owner) * centred.unsqueeze(1)).sum(-1)  # (n, 3)
    cubes = along.pow(3) * (graph.batch < graph.n_graphs).unsqueeze(1)
    total = segment_sum(cubes, owner, graph.n_graphs)[:, :2]
    sign = torch.where(total < 0, -1.0, 1.0).to(axes)
    first, second = axes[:, 0] * sign[:, :1], axes[:, 1] * sign[:, 1:]
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=1)


def _eigenvectors(covariance: Tensor) -> Tensor:
    """(g, 9) symmetric -> eigenvectors in rows, (g, 3, 3), that of the largest eigenvalue first.

    In closed form, since torch.linalg.eigh waits for the device: eigenvalues by the trigonometric
    solution of the cubic, eigenvectors by cross products of the rows of A - lambda. Where two
    eigenvalues agree, some axis orthogonal to the others.
    """
    a = covariance.view(-1, 3, 3)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    mean = a.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    b = a - mean * eye
    p = (b.square().sum((1, 2)) / 6.0).sqrt().clamp_min(1e-300).view(-1, 1, 1)
    b = b / p
    determinant = (b[:, 0] * torch.linalg.cross(b[:, 1], b[:, 2])).sum(1)
    angle = torch.acos((determinant / 2.0).clamp(-1.0, 1.0)) / 3.0
    largest = 2.0 * torch.cos(angle).view(-1, 1, 1)
    smallest = 2.0 * torch.cos(angle + 2.0 * math.pi / 3.0).view(-1, 1, 1)
    first = _direction(b - largest * eye, torch.zeros_like(b[:, 0]))
    third = _direction(b - smallest * eye, first)
    return torch.stack([first, torch.linalg.cross(third, first), third], dim=1)


def _direction(matrix: Tensor, other: Tensor) -> Tensor:
    """(g, 3, 3) of rank two -> the unit vectors (g, 3) that they send to zero, made orthogonal to
    ``other`` (g, 3); of a lower rank, some unit vector orthogonal to ``other``."""
    rows = matrix.unbind(1)
    crosses = torch.stack(
        [torch.linalg.cross(rows[i], rows[j]) for i, j in ((0, 1), (1, 2), (2, 0))], dim=1
    )
    best = crosses.square().sum(-1).argmax(1)
    vector = torch.gather(crosses, 1, best.view(-1, 1, 1).expand(-1, 1, 3)).squeeze(1)
    found, axis = _apart(_unit(vector), other), _one_hot(other.abs().argmin(1), other)
    lost = found.square().sum(1, keepdim=True) < TINY
    return _unit(torch.where(lost, _apart(axis, other), found))


def _apart(vector: Tensor, other: Tensor) -> Tensor:
    """The part of vectors (g, 3) that is orthogonal to unit vectors, or to zero."""
    return vector - (vector * other).sum(1, keepdim=True) * other


def _unit(vector: Tensor) -> Tensor:
    length = vector.square().sum(1, keepdim=True)
    return vector / length.clamp_min(TINY**2).sqrt()


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    """(g,) -> (g, 3), by comparison: torch's own checks the index on the host."""
    return (torch.arange(3, device=index.device) == index.unsqueeze(1)).to(like.dtype)
