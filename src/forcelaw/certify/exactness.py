"""Lines about a model as a function of structures: symmetries, smoothness, what may not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..models.base import ModelConfig
from .certificate import Line, Verdict
from .structures import (
    Structure,
    cluster,
    energy_error,
    force_error,
    graph_of,
    padded,
    predict,
    random_rotation,
    reversed_edges,
)
from .subject import Subject

EXACT = 1e-8  # in float64
SINGLE = 1e-4  # a model may keep tables in float32


def compare(
    subject: Subject,
    after: list[Structure],
    expected: Callable[[np.ndarray], np.ndarray] = lambda forces: forces,
) -> float:
    """The larger of the errors of energies and forces of ``after`` against those of the subject's
    structures, whose forces ``expected`` maps to what they should be."""
    model, before = subject.fixed, subject.structures
    energy, forces = predict(model, graph_of(before, model.config))
    energy2, forces2 = predict(model, graph_of(after, model.config))
    sizes = [len(s) for s in before]
    return max(energy_error(energy2, energy), force_error(forces2, expected(forces), sizes))


def judged(error: float) -> tuple[Verdict, str]:
    """The verdict on an error that should be nothing but rounding."""
    if not error < SINGLE:
        return "fails", f"error {error:.1e}"
    return "holds", f"error {error:.1e}" + (" (single precision)" if error > EXACT else "")


def line(name: str, error: float, *, why: str = "") -> Line:
    verdict, found = judged(error)
    found += f": {why}" if why and verdict == "fails" else ""
    return Line(name, verdict, found, {"error": error})


def symmetry(subject: Subject) -> Line:
    """The group for which the outputs are equivariant, measured with random rotations and x ->
    -x."""
    turns = [random_rotation(seed) for seed in range(2)]
    rotation = max(turned(subject, matrix) for matrix in turns)
    inversion = turned(subject, -np.eye(3))
    measured = "none" if rotation > SINGLE else "SE(3)" if inversion > SINGLE else "E(3)"
    declared = subject.entry.symmetry_for(subject.small)
    found = f"{measured}: rotation {rotation:.1e}, inversion {inversion:.1e}"
    verdict: Verdict = "note" if declared == "undeclared" else "holds"
    if declared not in (measured, "undeclared"):
        if subject.small.forces == "conservative" and declared == "none":
            verdict = "note"
        elif (declared, measured) == ("SE(3)", "E(3)") or (
            subject.small.canonical != "none" and measured != "none"
        ):  # frames of structures are exact only where their moments differ
            verdict, found = "note", f"{found}; more than is declared ({declared})"
        else:
            verdict, found = "fails", f"{found}; {declared} is declared"
    values = {"group": measured, "declared": declared}
    return Line("symmetry", verdict, found, values | {"rotation": rotation, "inversion": inversion})


def turned(subject: Subject, matrix: np.ndarray) -> float:
    moved = [s.moved(matrix) for s in subject.structures]
    return compare(subject, moved, lambda forces: forces @ matrix.T)


def translation(subject: Subject) -> Line:
    shift = np.array([100.0, -100.0, 100.0]) / math.sqrt(3.0)
    moved = [s.moved(np.eye(3), shift) for s in subject.structures]
    return line("translation", compare(subject, moved), why="absolute positions are read")


def permutation(subject: Subject) -> Line:
    """Of atoms, and of the edges into an atom."""
    rng = np.random.default_rng(3)
    before = subject.structures
    orders = [rng.permutation(len(s)) for s in before]
    starts = np.cumsum([0] + [len(s) for s in before[:-1]])
    to = np.concatenate([start + order for start, order in zip(starts, orders)])
    after = [s.permuted(order) for s, order in zip(before, orders)]
    error = compare(subject, after, lambda forces: forces[to])
    model, graph = subject.fixed, graph_of(before, subject.small)
    (e, f), (e2, f2) = predict(model, graph), predict(model, reversed_edges(graph))
    other = max(energy_error(e2, e), force_error(f2, f, [len(s) for s in before]))
    return line("permutation", max(error, other), why="the order of atoms or edges is read")


def batching(subject: Subject) -> Line:
    """A structure alone equals the same structure in a batch."""
    model, structures = subject.fixed, subject.structures
    energy, forces = predict(model, graph_of(structures, model.config))
    alone = [predict(model, graph_of([s], model.config)) for s in structures]
    single, own = (np.concatenate(parts) for parts in zip(*alone))
    sizes = [len(s) for s in structures]
    error = max(energy_error(single, energy), force_error(own, forces, sizes))
    return line("batches", error, why="other structures of the batch matter")


def padding(subject: Subject) -> Line:
    """A padded batch, as CUDA graphs need it."""
    if not subject.entry.capture:
        return Line("padding", "skipped", "capture=False: it never gets a padded batch")
    model, structures = subject.fixed, subject.structures
    graph = graph_of(structures, model.config)
    energy, forces = predict(model, graph)
    energy2, forces2 = predict(model, padded(graph, 5, 13, 3))
    sizes, g, n = [len(s) for s in structures], len(energy), len(forces)
    error = max(
        energy_error(energy2[:g], energy),
        force_error(forces2[:n], forces, sizes),
        float(np.abs(energy2[g:]).max()),
    )
    return line("padding", error, why="padding matters; Architecture(capture=False) goes without")


def extensivity(subject: Subject) -> Line:
    """Energies of two clusters beyond the cutoff add up, and each has the forces that it has
    alone; atoms without neighbours are finite."""
    model, n = subject.fixed, len(subject.pack.elements)
    a, b = cluster(7, n, 11), cluster(9, n, 12)
    b = b.moved(np.eye(3), np.array([0.0, 4.0 * subject.cutoff + 20.0, 0.0]))
    both = Structure(np.concatenate([a.species, b.species]), np.concatenate([a.pos, b.pos]))
    apart = [predict(model, graph_of([s], model.config)) for s in (a, b)]
    energy, forces = predict(model, graph_of([both], model.config))
    expected = np.concatenate([f for _, f in apart])
    total = sum(e for e, _ in apart)
    error = max(energy_error(energy, total), force_error(forces, expected, [7, 9]))
    lone = predict(model, graph_of([Structure(a.species[:1], a.pos[:1])], model.config))
    if not all(np.isfinite(x).all() for x in lone):
        return Line("extensivity", "fails", "an atom without neighbours has no finite energy")
    return line("extensivity", error, why="energies of separate molecules do not add up")


def smoothness(subject: Subject) -> Line:
    """One distance is scanned through the cutoff in steps of h = 1e-3 and 1e-4 Angstrom: the second
    difference there falls with h where outputs jump as h^0, with a kink as h^1, else as h^2."""
    h = (1e-3, 1e-4)
    scans = [_scan(subject, step) for step in h]
    words, values = [], {}
    for name, columns in (("energy", slice(0, 1)), ("forces", slice(1, None))):
        excess = [_excess(scan[:, columns]) for scan in scans]
        size = max(float(np.abs(scans[0][:, columns]).max()), 1e-12)
        order = 2.0
        if excess[1] > 1e-9 * size and excess[0] > 0:
            order = math.log(excess[0] / excess[1]) / math.log(h[0] / h[1])
        kind = "jump" if order < 0.5 else "kink" if order < 1.5 else "smooth"
        words.append(f"{name} {kind}" + (f" by {excess[1]:.1e}" if kind == "jump" else ""))
        values[name] = kind
    bad = "jump" in values.values() or values["energy"] == "kink"
    verdict: Verdict = "fails" if bad else "note" if values["forces"] == "kink" else "holds"
    return Line("cutoff", verdict, ", ".join(words), values)


def _scan(subject: Subject, step: float) -> np.ndarray:
    """(40, 13): energy and forces of four atoms, one of which goes through the cutoff of the
    first; all other pairs are near."""
    config: ModelConfig = subject.fixed.config
    unit = config.cutoff / 6.0
    base = np.array([[0.0, 0.0, 0.0], [1.2, 0.4, 0.1], [1.9, 1.4, -0.3]]) * unit
    away = np.array([0.8, 0.5, 0.33]) / np.linalg.norm([0.8, 0.5, 0.33])
    species = np.arange(4) % len(subject.pack.elements)
    probes = [
        Structure(species, np.vstack([base, (config.cutoff + offset) * away]))
        for offset in (np.arange(-20, 20) + 0.5) * step
    ]
    energy, forces = predict(subject.fixed, graph_of(probes, config))
    return np.concatenate([energy[:, None], forces.reshape(len(probes), 12)], axis=1)


def _excess(values: np.ndarray) -> float:
    """By how much the second difference at the crossing stands out from those around it."""
    second = np.abs(np.diff(values, n=2, axis=0)).max(axis=1)
    near = second[18:20].max()
    return float(max(0.0, near - 2.0 * np.delete(second, [18, 19]).max()))
