"""Lines about training: gradients, forces against the energy, resuming, width, learning rates, CUDA
graphs."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from pydantic import ValidationError

from ..errors import StudyError
from ..models import ForceField, build
from ..models.contract import outside
from ..models.flops import cloud
from ..models.mup import parameter_groups
from ..store.runs import RunDirectory
from ..training import checkpoint
from ..training.loss import loss_terms
from ..training.optimizer import ScheduleFreeAdamW
from ..training.step import capture
from .certificate import Line, Verdict
from .coordinates import Batch, coordinate_check, failures, may_vanish
from .exactness import EXACT, SINGLE
from .structures import (
    Structure,
    cluster,
    graph_of,
    output_error,
    padded,
    predict,
)
from .subject import Subject

FLAT = 0.25  # largest abs(slope) of a layer against width, beyond two standard errors
BUDGET = 6e10  # FLOPs of the coordinate check, and of the learning-rate sweeps: seconds of a core
# of differences: a model may work in single precision inside, so that smaller steps than these
# show its rounding, and larger ones of the second order its third derivative. A tenth of it is
# tried too: eSEN with a random roll has energies that turn by a radian in .02 Angstrom
STEP, POINTS = 5e-3, (-2.0, -1.0, 1.0, 2.0)  # Angstrom
SHORT = 80  # steps of a short run, at most
ENOUGH = 32  # steps of a short run for which a width is given up
FEW = 16  # steps of a short run, at least
LEARNT = 0.95  # of the loss without a model: above, which rate is best is chance
IDLE = 0.2  # of N that nothing reaches. The ends of two layers leave up to .16: the first of PaiNN
# has no vectors yet, of either end of an edge; no head reads the last one's l = 2 of eSEN
SECONDS = 60.0  # of a core that the learning-rate sweeps may take, beyond FEW steps a run


def forces_and_energy(subject: Subject) -> Line:
    """Forces against minus the gradient of the energy, by central differences: equal where
    ``forces: conservative`` is asked for; how far apart elsewhere."""
    found, values = [], {}
    verdict: Verdict = "holds"
    for kind in ("direct", "conservative"):
        try:
            model = subject.fixed if kind == subject.small.forces else subject.model(forces=kind)
        except (ValidationError, StudyError, NotImplementedError):
            found.append(f"{kind} forces are not offered")
            continue
        error = values[kind] = _gradient_error(subject, model)
        equal = error < SINGLE
        if kind == "conservative":
            found.append(f"conservative: {'' if equal else 'not '}the gradient ({error:.1e})")
            verdict = verdict if equal else "fails"
        else:
            found.append(f"direct: {100 * error:.0f}% from the gradient at random weights")
            if equal:
                verdict = "fails"
                found.append("direct forces that are the gradient cost twice what is counted")
    return Line("forces", verdict, "; ".join(found), values)


def _gradient_error(subject: Subject, model: ForceField) -> float:
    """Norm of F + dE/dx over norm of F and dE/dx, whichever is larger, on a cluster."""
    s = cluster(6, len(subject.pack.elements), 21)
    _, forces = predict(model, graph_of([s], model.config))
    error = math.inf
    for step in (STEP, STEP / 10):
        if error < SINGLE:
            break
        numeric = _numeric_forces(s, model, step)
        size = max(np.linalg.norm(forces), np.linalg.norm(numeric), 1e-300)
        error = min(error, float(np.linalg.norm(forces - numeric) / size))
    return error


def _numeric_forces(s: Structure, model: ForceField, step: float) -> np.ndarray:
    """Minus the derivative of the energy by every coordinate, by central differences."""
    moved = []
    for k in range(s.pos.size):
        for point in POINTS:
            pos = s.pos.copy()
            pos.flat[k] += point * step
            moved.append(replace(s, pos=pos))
    energy, _ = predict(model, graph_of(moved, model.config))
    return -_derivative(energy.reshape(-1, len(POINTS)), step).reshape(-1, 3)


def _derivative(values: np.ndarray, step: float) -> np.ndarray:
    """Of values (..., 4) at :data:`POINTS` times a step, to its fourth power."""
    return np.asarray(values @ np.array([1.0, -8.0, 8.0, -1.0]) / (12.0 * step))


def stress(subject: Subject) -> Line:
    """Virials of the model with gradient forces, against central differences of a strain."""
    try:
        model = subject.model(forces="conservative")
        return _stress(subject, model)
    except (ValidationError, StudyError, NotImplementedError) as error:
        what = "not offered" if isinstance(error, ValidationError) else str(error).split("\n")[0]
        return Line("stress", "note", what)


def _stress(subject: Subject, model: ForceField) -> Line:
    s, h = cluster(6, len(subject.pack.elements), 21), 1e-3
    cell = np.array([[7.1, 0.3, 0.0], [-0.4, 6.7, 0.2], [0.5, 0.1, 7.6]])

    def strained(strain: np.ndarray) -> Structure:
        return Structure(s.species, s.pos, cell).moved(np.eye(3) + strain)

    with torch.no_grad():
        graph = graph_of([strained(np.zeros((3, 3)))], model.config)
        virial = model.with_virial(graph)[2][0].double().numpy()
    errors = []
    for a, b in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5 * h
        strain[b, a] += 0.5 * h
        moved = [strained(point * strain) for point in POINTS]
        numeric = float(_derivative(predict(model, graph_of(moved, model.config))[0], h))
        errors.append(abs(numeric - virial[a, b]) / (1.0 + np.abs(virial).max()))
    error = max(errors)
    found = f"{'' if error < SINGLE else 'not '}the derivative by strain ({error:.1e})"
    return Line("stress", "holds" if error < SINGLE else "fails", found, {"error": error})


def gradients(subject: Subject) -> Line:
    """Every weight gets a finite gradient from energies and forces, entry by entry: of a matrix,
    too, a part may meet nothing but zeros."""
    model = subject.model().train()
    energy, forces = model(graph_of(subject.structures, model.config))
    (energy.square().sum() + forces.square().sum()).backward()
    named = dict(model.named_parameters())
    bad = [n for n, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    if bad:
        return Line("gradients", "fails", f"not finite: {', '.join(bad[:5])}")
    dead = {
        n: p.numel() - int((p.grad != 0).sum() if p.grad is not None else 0)
        for n, p in named.items()
    }
    total, none = sum(p.numel() for p in named.values()), sum(dead.values())
    values = {"n": total, "reached": total - none, "dead": none / total}
    if not none:
        return Line("gradients", "holds", f"all {len(named)} parameters get one", values)
    most = sorted((n for n in dead if dead[n]), key=dead.__getitem__, reverse=True)
    listed = ", ".join(f"{n} ({dead[n]:,} of {named[n].numel():,})" for n in most[:4])
    found = f"{total - none:,} of {total:,} weights get one, and all count in N; none: {listed}"
    return Line("gradients", "fails" if none > IDLE * total else "note", found, values)


def reproducible(subject: Subject) -> Line:
    """One seed gives one model; another seed another; the global random state is left alone."""
    state = torch.random.get_rng_state()
    a, b, c = (list(build(subject.small, seed=k).parameters()) for k in (5, 5, 6))
    alone = torch.equal(torch.random.get_rng_state(), state)
    graph = graph_of(subject.structures, subject.small)
    outputs = [predict(subject.model(), graph) for _ in range(2)]
    same = all(torch.equal(p, q) for p, q in zip(a, b))
    if same and not subject.scatter > EXACT:
        same = all(np.array_equal(p, q) for p, q in zip(*outputs))
    other = any(not torch.equal(p, q) for p, q in zip(a, c))
    faults = [
        *([] if same else ["one seed gives different models: draw all numbers from torch"]),
        *([] if other else ["every seed gives the same weights"]),
        *([] if alone else ["the global random state was changed"]),
    ]
    if faults:
        return Line("seeds", "fails", "; ".join(faults))
    return Line("seeds", "holds", "one seed, one model")


def resume(subject: Subject) -> Line:
    """Three steps, a checkpoint, three more in a new model: to the last bit what six in one go are.
    A model made with another seed that is given the checkpoint predicts the same."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        model, optimizer = _few_steps(subject, run, 0, 6)
        straight = _state(optimizer)
        optimizer.swap_in(straight[0])  # the averaged weights, which are kept and used
        loaded = checkpoint.load_model(run.path, build(subject.small, seed=9))
        apart = _apart(subject, model, loaded)
        again = _state(_few_steps(subject, run, 0, 6)[1])
        _few_steps(subject, run, 0, 3)
        resumed = _state(_few_steps(subject, run, 3, 6)[1])
    gap, noise = _gap(straight, resumed), _gap(straight, again)
    values = {"error": gap, "loaded": apart}
    if not math.isfinite(gap):
        return Line("resume", "fails", "weights are not finite after six steps", values)
    if noise:
        found = (
            f"two trainings from one seed differ by {noise:.1e} in their weights: random numbers"
        )
        found += " (dropout), or a state outside of the model; no checkpoint has either"
        return Line("resume", "fails", found, values | {"repeated": noise})
    if not apart < SINGLE:
        held = ", ".join(owner for owner, _ in outside(model))
        found = f"a loaded model predicts something else (error {apart:.1e}): it depends on more"
        found += f" than parameters and buffers{f', such as {held}' if held else ''}"
        return Line("resume", "fails", found, values)
    if gap:
        found = f"weights differ by {gap:.1e}: a state that is neither parameter nor buffer is not"
        return Line("resume", "fails", f"{found} in the checkpoint", values)
    return Line("resume", "holds", "to the last bit", values)


def _state(optimizer: ScheduleFreeAdamW) -> list[torch.Tensor]:
    """The averaged weights and what else the optimiser keeps."""
    return [optimizer.averaged(), optimizer.z.clone(), optimizer.v.clone()]


def _gap(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().nan_to_num(math.inf).max()) for x, y in zip(a, b))


def _apart(subject: Subject, a: ForceField, b: ForceField) -> float:
    """The larger of the errors of energies and forces of ``b`` against ``a``, in evaluation."""
    graph, _ = subject.batch(0, 8)
    first, second = (predict(model.eval(), graph) for model in (a, b))
    return output_error(second, first, graph.natoms.tolist())


def _few_steps(
    subject: Subject, run: RunDirectory, begin: int, end: int
) -> tuple[ForceField, ScheduleFreeAdamW]:
    """A model after steps of schedule-free AdamW, and its optimiser; a checkpoint at the end."""
    model = build(subject.small, seed=4).train()
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=6, warmup=1)
    if begin:
        checkpoint.load(run.path, optimizer, model)
    for step in range(begin, end):
        graph, target = subject.batch(4 * step, 4)
        loss = sum(loss_terms(*model(graph), target))
        grads = torch.autograd.grad(
            loss, optimizer.params, allow_unused=True, materialize_grads=True
        )
        optimizer.update(list(grads), optimizer.table[step])
    checkpoint.save(run, model, optimizer, {"step": end})
    return model, optimizer


def widths(subject: Subject, runs: int, steps: int, atoms: int) -> tuple[list[int], int]:
    """Two to four widths, each twice the one before, and steps of each of ``runs`` runs at each:
    at most ``steps``, and what a budget of FLOPs allows."""
    entry = subject.entry
    grid = max(8, entry.step if entry.step_of is None else entry.step_of(subject.options))
    enough = entry.narrowest
    enough = enough if isinstance(enough, int) else enough(subject.options)
    first = max(16, entry.base_width // 8, enough)
    first = math.ceil(first / grid) * grid

    def spent(width: int) -> float:
        """FLOPs of a step at that width in each of the runs."""
        flops = entry.flops(subject.of_width(width))
        return runs * flops.training(atoms * subject.data["mean_degree"], atoms)

    found = [first, 2 * first, 4 * first]
    if steps * spent(8 * first) < BUDGET:
        found.append(8 * first)
    while len(found) > 2 and 2 * BUDGET / spent(found[-1]) < min(steps, ENOUGH):
        found.pop()
    return found, max(8, min(steps, int(2 * BUDGET / spent(found[-1]))))


def parametrisation(subject: Subject) -> Line:
    """The coordinate check: what a width does to each layer, at the start and by training."""
    seeds = 2
    graph, target = subject.batch(0, 3)
    batch: Batch = (graph, target.energy, target.forces)
    tried, steps = widths(subject, seeds, 10, len(graph.pos))
    coordinates = coordinate_check(
        lambda width, seed: build(subject.of_width(width, base_width=tried[1]), seed=seed),
        batch,
        tried,
        lr=0.25 * subject.entry.learning_rate,
        seeds=seeds,
        steps=steps,
    )
    bad = failures(coordinates, FLAT, errors=2.0)
    changes = [c for c in coordinates if c.kind == "change" and not may_vanish(c.layer)]
    steepest = max(changes, key=lambda c: abs(c.slope), default=None)
    slope = float("nan") if steepest is None else steepest.slope
    values = {
        "widths": tried,
        "mup": not subject.standard,
        "slopes": {f"{c.layer} {c.kind}": round(c.slope, 3) for c in coordinates},
    }
    kind = "standard parametrisation" if subject.standard else "muP"
    how = "flat in the width" if not bad else f"not flat: {bad[0]}"
    if not bad and abs(slope) > FLAT:
        how = f"flat within the scatter of {seeds} seeds"
    if steepest is not None:
        how += f"; steepest change width^{slope:+.2f} ({steepest.layer})"
    verdict: Verdict = "holds" if not bad else "note" if subject.standard else "fails"
    return Line("coordinates", verdict, f"{kind}, {how}", values)


def learning_rates(subject: Subject) -> Line:
    """Short sweeps at two widths: whether the best rate moves, and how. Rough: tens of steps, as
    many as fit into seconds of a core, one seed; a study sweeps for real."""
    factors = [4.0**k for k in range(-3, 3)]
    graph, _ = subject.batch(0, 4)
    tried, steps = widths(subject, len(factors), SHORT, len(graph.pos))
    narrow, wide = tried[0], tried[-1]
    each = sum(_step_seconds(subject, width, tried[1]) for width in (narrow, wide))
    # a model of many small operations takes longer than its FLOPs say
    steps = max(min(FEW, steps), min(steps, int(SECONDS / (len(factors) * each))))
    best: list[float] = []
    lowest: list[float] = []
    for width in (narrow, wide):
        losses = [
            _short_loss(subject, width, tried[1], factor * subject.entry.learning_rate, steps)
            for factor in factors
        ]
        lowest.append(min(losses))
        best.append(_lowest(factors, losses) * subject.entry.learning_rate)
    exponent = math.log(best[1] / best[0]) / math.log(wide / narrow)
    kept = abs(exponent) * math.log(wide / narrow) <= math.log(4.0)
    found = f"best {best[0]:.1g} at width {narrow}, {best[1]:.1g} at {wide}: width^{exponent:+.1f}"
    found += "; one rate serves all" if kept else "; sweep at several sizes"
    ends = [factor * subject.entry.learning_rate for factor in (factors[0], factors[-1])]
    values = {
        "widths": [narrow, wide],
        "steps": steps,
        "best": best,
        "exponent": exponent,
        "one_rate": kept,
        "losses": lowest,
    }
    if not all(math.isfinite(b) and b > 0 for b in best):
        return Line("learning rate", "fails", "no rate trains", values)
    none = values["without"] = _without_model(subject, steps)
    if max(lowest) > LEARNT * none:
        words = f"after {steps} steps losses are {lowest[0]:.3f} and {lowest[1]:.3f}"
        found = f"not told: {words}, {none:.3f} without a model"
        return Line("learning rate", "note", found, values)
    if set(best) & set(ends):
        found = f"not told: {found.split(':')[0]}, an end of what was tried"
        return Line("learning rate", "note", found, values)
    verdict: Verdict = "holds" if kept else "note" if subject.standard else "fails"
    return Line("learning rate", verdict, found, values)


def _without_model(subject: Subject, steps: int) -> float:
    """What :func:`_short_loss` is for the reference energies alone, and no forces."""
    losses = []
    for step in range(steps)[-steps // 4 :]:
        _, target = subject.batch(4 * step, 4)
        losses.append(float(sum(loss_terms(0.0 * target.energy, 0.0 * target.forces, target))))
    return float(np.mean(losses))


def _step_seconds(subject: Subject, width: int, base: int) -> float:
    """CPU seconds of a training step of one width, without what building a model takes."""
    taken = []
    for steps in (1, 1, 4):
        began = time.process_time()
        _short_loss(subject, width, base, subject.entry.learning_rate, steps)
        taken.append(time.process_time() - began)
    return max(1e-4, (taken[2] - taken[1]) / 3.0)


def _short_loss(subject: Subject, width: int, base: int, lr: float, steps: int) -> float:
    """Mean loss of the last quarter of a few steps of Adam."""
    model = build(subject.of_width(width, base_width=base), seed=0).train()
    groups = [{"params": g["params"], "lr": lr * g["lr_scale"]} for g in parameter_groups(model)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    losses = []
    for step in range(steps):
        graph, target = subject.batch(4 * step, 4)
        loss = sum(loss_terms(*model(graph), target))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(np.mean(losses[-steps // 4 :]))


def _lowest(factors: list[float], losses: list[float]) -> float:
    """The factor of lowest loss, by a parabola through it and its neighbours; NaN without any."""
    k = int(np.argmin(losses))
    if not math.isfinite(losses[k]):
        return math.nan
    around = losses[k - 1 : k + 2] if 0 < k < len(losses) - 1 else []
    if len(around) < 3 or not all(map(math.isfinite, around)):
        return factors[k]
    low, middle, high = around
    bend = low - 2.0 * middle + high
    shift = 0.0 if bend <= 0 else 0.5 * (low - high) / bend
    return factors[k] * (factors[k + 1] / factors[k]) ** max(-0.5, min(0.5, shift))


def cuda_graph(subject: Subject) -> Line:
    """A step as a CUDA graph: the gradients of the captured one are those of the eager one."""
    if not subject.entry.capture:
        return Line("CUDA graph", "skipped", "capture=False: it trains eagerly on a GPU")
    if not torch.cuda.is_available():
        return Line("CUDA graph", "skipped", "there is no GPU here")
    model = build(subject.small, seed=0).cuda().train()
    batch = padded(cloud(subject.small), 5, 64, 1)
    graph = replace(
        batch,
        **{k: v.cuda() for k, v in vars(batch).items() if isinstance(v, torch.Tensor)},
        max_degree=int(torch.bincount(batch.receiver)[:-1].max()),
    )
    params = list(model.parameters())

    def step() -> list[torch.Tensor]:
        energy, forces = model(graph)
        total = energy.square().sum() + forces.square().sum()
        options = {"allow_unused": True, "materialize_grads": True}
        return list(torch.autograd.grad(total, params, **options))

    expected = [g.clone() for g in (step(), step())[1]]
    out: list[torch.Tensor] = []
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
        captured = capture(lambda: out.extend(step()))
        captured.replay()
    torch.cuda.synchronize()
    gap = max(float((a - b).abs().max() / (1 + b.abs().max())) for a, b in zip(out, expected))
    verdict: Verdict = "holds" if gap < SINGLE else "fails"
    return Line("CUDA graph", verdict, f"gradients as eagerly to {gap:.1e}", {"error": gap})
