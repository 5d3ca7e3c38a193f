"""Lines about a model as a function of structures: symmetries, smoothness, what may not matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..graph import GraphBatch
from ..models.base import ForceField, ModelConfig
from .certificate import Line, Verdict
from .structures import (
    Structure,
    cluster,
    graph_of,
    output_error,
    padded,
    predict,
    random_rotation,
    reversed_edges,
    scatter,
)
from .subject import Subject

EXACT = 1e-8  # in float64
SINGLE = 1e-4  # a model may keep tables in float32
CAPPED = 2e-5  # of the outputs; a model may work in float32
ROUGH = 1e-3  # float32 loses 1e-7 at a step, bfloat16 4e-3
IMAGES = "periodic images (graph.shift, which graph.vectors() and vec have)"
WITHOUT = "Architecture(capture=False) goes without"


def compare(
    subject: Subject,
    after: list[Structure],
    expected: Callable[[np.ndarray], np.ndarray] = lambda forces: forces,
) -> float:
    """The larger of the errors of energies and forces of ``after`` against those of the subject's
    structures, whose forces ``expected`` maps to what they should be."""
    model, before = subject.fixed, subject.structures
    energy, forces = predict(model, graph_of(before, model.config))
    found = predict(model, graph_of(after, model.config))
    return output_error(found, (energy, expected(forces)), [len(s) for s in before])


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
    """Of all atoms; in crystals, too, of each atom by vectors of the lattice."""
    shift = np.array([100.0, -100.0, 100.0]) / math.sqrt(3.0)
    moved = [s.moved(np.eye(3), shift) for s in subject.structures]
    error = compare(subject, moved)
    if not error < SINGLE or not subject.crystals:
        return line("translation", error, why="absolute positions are read")
    rng = np.random.default_rng(4)
    other = [
        s if s.cell is None else replace(s, pos=s.pos + rng.integers(-1, 2, s.pos.shape) @ s.cell)
        for s in subject.structures
    ]
    error = max(error, compare(subject, other))
    return line("translation", error, why=f"{IMAGES} of the neighbours are not read")


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
    own, turned = predict(model, graph), predict(model, reversed_edges(graph))
    other = output_error(turned, own, [len(s) for s in before])
    return line("permutation", max(error, other), why="the order of atoms or edges is read")


def batching(subject: Subject) -> Line:
    """A structure alone equals the same structure in a batch, in use and in training, where the
    outputs are not random by intent."""
    error = _alone(subject, subject.fixed)
    why = "other structures of the batch matter"
    training = subject.model().train()
    if error < SINGLE and not scatter(subject.structures, training) > EXACT:
        error = max(error, _alone(subject, training))
        why += " in training (BatchNorm?)"
    return line("batches", error, why=why)


def _alone(subject: Subject, model: ForceField) -> float:
    """Error of structures alone against the same in one batch."""
    structures = subject.structures
    together = predict(model, graph_of(structures, model.config))
    alone = [predict(model, graph_of([s], model.config)) for s in structures]
    energy, forces = (np.concatenate(parts) for parts in zip(*alone))
    return output_error((energy, forces), together, [len(s) for s in structures])


def padding(subject: Subject) -> Line:
    """A padded batch, as CUDA graphs need it."""
    if not subject.entry.capture:
        return Line("padding", "skipped", "capture=False: it never gets a padded batch")
    model, structures = subject.fixed, subject.structures
    graph = graph_of(structures, model.config)
    full = padded(graph, 5, 13, 3)
    energy, forces = predict(model, graph)
    sizes, g, n = [len(s) for s in structures], len(energy), len(forces)
    try:
        energy2, forces2 = predict(model, full)
    except (RuntimeError, IndexError, ValueError) as failed:
        why = "padding atoms have the number n_graphs as their structure, and may not be summed"
        return Line("padding", "fails", f"{type(failed).__name__}: {failed}: {why}; {WITHOUT}")
    error = max(
        output_error((energy2[:g], forces2[:n]), (energy, forces), sizes),
        float(np.abs(energy2[g:]).max()),
    )
    if not error < SINGLE:
        return line("padding", error, why=f"padding matters; {WITHOUT}")
    training = subject.model().train()
    if scatter(subject.structures, training) > EXACT:  # random by intent, or a running mean
        return line("padding", error)
    own, other = (_gradient(training, x, g, n) for x in (graph, full))
    if not bool(other.isfinite().all()):
        why = "gradients of weights are not finite: 0/0 on edges far outside the cutoff?"
        return Line("padding", "fails", f"{why}; {WITHOUT}", {"error": math.inf})
    error = max(error, float((own - other).norm() / own.norm().clamp_min(1e-30)))
    return line("padding", error, why=f"padding matters to gradients of weights; {WITHOUT}")


def _gradient(model: ForceField, graph: GraphBatch, structures: int, atoms: int) -> torch.Tensor:
    """(N,): of a number made of the energies and forces of the first structures and atoms."""
    energy, forces = model(graph)
    total = energy[:structures].square().sum() + forces[:atoms].square().sum()
    found = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
    return torch.cat([x.reshape(-1) for x in found])


def extensivity(subject: Subject) -> Line:
    """Energies of two clusters beyond the cutoff add up, and each has the forces that it has
    alone; so do those of the cells of a crystal; atoms without neighbours are finite."""
    model, n = subject.fixed, len(subject.pack.elements)
    a, b = cluster(7, n, 11), cluster(9, n, 12)
    b = replace(b, species=np.full(9, n - 1))  # of another composition
    b = b.moved(np.eye(3), np.array([0.0, 4.0 * subject.cutoff + 20.0, 0.0]))
    both = Structure(np.concatenate([a.species, b.species]), np.concatenate([a.pos, b.pos]))
    apart = [predict(model, graph_of([s], model.config)) for s in (a, b)]
    found = predict(model, graph_of([both], model.config))
    expected = np.concatenate([f for _, f in apart])
    total = sum(e for e, _ in apart)
    error = output_error(found, (total, expected), [7, 9])
    lone = predict(model, graph_of([Structure(a.species[:1], a.pos[:1])], model.config))
    if not all(np.isfinite(x).all() for x in lone):
        return Line("extensivity", "fails", "an atom without neighbours has no finite energy")
    if not error < SINGLE or not subject.crystals:
        return line("extensivity", error, why="energies of separate molecules do not add up")
    error = max(error, *(_doubled(subject, s) for s in subject.crystals))
    return line("extensivity", error, why="two cells of a crystal have not the energy of one twice")


def _doubled(subject: Subject, s: Structure) -> float:
    """Error of the energy and forces of two cells in a row against twice those of one."""
    assert s.cell is not None
    pos = np.concatenate([s.pos, s.pos + s.cell[0]])
    cell = s.cell * np.array([[2.0], [1.0], [1.0]])
    two = Structure(np.concatenate([s.species, s.species]), pos, cell)
    model = subject.fixed
    (e, f), found = (predict(model, graph_of([x], model.config)) for x in (s, two))
    return output_error(found, (2.0 * e, np.concatenate([f, f])), [len(two)])


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
    swapped = values["exchange"] = _exchange(subject)
    if swapped > CAPPED:
        words.append(
            f"jumps by {swapped:.1e} where two neighbours exchange their order of distance (is"
            " their number capped?)"
        )
    bad = "jump" in values.values() or values["energy"] == "kink" or swapped > CAPPED
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


def precision(subject: Subject) -> Line:
    """Outputs in float32, in which studies train, against float64."""
    model, structures = subject.model(), subject.structures
    double = predict(model, graph_of(structures, model.config))
    single = predict(model.float(), graph_of(structures, model.config, torch.float32))
    error = output_error(single, double, [len(s) for s in structures])
    found, values = f"float32 against float64: error {error:.1e}", {"error": error}
    if not error < ROUGH:
        found += ": less precise than float32 (autocast, bfloat16?)"
        return Line("precision", "fails", found, values)
    return Line("precision", "holds", found, values)


def _exchange(subject: Subject) -> float:
    """What is left, as a share of the outputs, of the difference that it makes which of two
    neighbours of an atom is the nearer one, as both come to one distance: for all pairs of next
    distances at once, so that a cap on neighbours cuts through one of them."""
    config: ModelConfig = subject.fixed.config
    s = cluster(64, len(subject.pack.elements), 31, spacing=1.2)
    center = int(np.argmin(np.linalg.norm(s.pos, axis=1)))
    vec = (s.pos - s.pos[center]) * (config.cutoff / 6.0)
    r = np.linalg.norm(vec, axis=1)
    order = np.argsort(r)[1:]
    order = order[r[order] < 0.95 * config.cutoff]
    worst = 0.0
    for first in (0, 1):
        pairs = order[first : first + 2 * ((len(order) - first) // 2)].reshape(-1, 2)
        left = [_exchanged(subject, s.species, vec, r, pairs, step) for step in (1e-4, 1e-6)]
        # what is smooth goes with the step
        worst = max(worst, left[1] - 0.02 * left[0])
    return worst


def _exchanged(
    subject: Subject,
    species: np.ndarray,
    vec: np.ndarray,
    r: np.ndarray,
    pairs: np.ndarray,
    step: float,
) -> float:
    """Difference of the outputs of an atom, as a share of those of all, between either order of
    each of ``pairs``, whose distances are ``step`` Angstrom apart."""
    structures = []
    for sign in (-1.0, 1.0):
        pos, mean = vec.copy(), r[pairs].mean(axis=1)
        for side, atoms in ((-sign, pairs[:, 0]), (sign, pairs[:, 1])):
            pos[atoms] *= ((mean + 0.5 * side * step) / r[atoms])[:, None]
        structures.append(Structure(species, pos))
    energy, forces = predict(subject.fixed, graph_of(structures, subject.fixed.config))
    low, high = np.split(forces, 2)
    n = len(low)
    site = float(abs(energy[0])) / math.sqrt(n)
    rms = math.sqrt(float(np.square(low).sum()) / n)
    return max(
        float(abs(energy[1] - energy[0])) / max(site, 1e-12),
        float(np.linalg.norm(high - low, axis=1).max()) / max(rms, 1e-12),
    )


def _excess(values: np.ndarray) -> float:
    """By how much the second difference at the crossing stands out from those around it."""
    second = np.abs(np.diff(values, n=2, axis=0)).max(axis=1)
    near = second[18:20].max()
    return float(max(0.0, near - 2.0 * np.delete(second, [18, 19]).max()))
