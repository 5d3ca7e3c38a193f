"""Where a study stands and what is left of it, as numbers and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, printable
from ..progress import are, count, counted, duration
from ..store.runs import RunDirectory
from ..store.runs import runs as all_runs
from ..store.unlearned import no_model, unlearned
from .accounting import accounts
from .advice import advise
from .config import label_of
from .cost import Rate, seconds_of, times_of, wall_seconds
from .live import Live, describe, live

if TYPE_CHECKING:
    from .record import StudyDirectory

STATES = ("finished", "running", "stopped", "waiting", "diverged", "failed", "damaged")


@dataclass
class StudyStatus:
    """How far a study is. Work is counted in estimated seconds.

    done: all of it that is over; taken: what of that other studies trained (``share``). states:
    state of a run -> count. complete: whether every run has its learning rate. now: the runs in
    training, as text. failed: label -> why it has no grid. damaged: id -> why it was set aside.
    diverged_grid: runs of grids that diverged; that of a sweep may.
    """

    total: int = 0
    states: Counter[str] = field(default_factory=Counter)
    work: float = 0.0
    done: float = 0.0
    taken: float = 0.0
    complete: bool = True
    now: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    diverged_grid: int = 0

    @property
    def ended(self) -> int:
        return sum(self.states[state] for state in ("finished", "diverged", "failed"))

    @property
    def over(self) -> bool:
        """Whether nothing is left that a worker could train."""
        left = any(self.states[state] for state in ("running", "stopped", "waiting"))
        return not left and (self.complete or bool(self.damaged))

    @property
    def trained(self) -> float:
        """Work that was done for this study, which is what a pace is of."""
        return self.done - self.taken

    @property
    def share(self) -> float:
        """Share of the work that is done."""
        return self.done / max(self.work, 1e-9)


def study_status(
    directory: StudyDirectory, rates: dict[str, Rate], hold: float | None = None
) -> StudyStatus:
    """Read the state of every run of the plan from disk. Runs held back do not count; those that
    wait for a sweep do."""
    planned = directory.plan(hold)
    found = StudyStatus(complete=planned.complete, failed=planned.failed)
    now: list[tuple[str, dict[str, Any], float]] = []
    for item in planned.active:
        run, spec, seconds = directory.run(item), item.spec, seconds_of(item.spec, rates)
        state = run.state()
        if state == "finished" and item.id not in directory.ended:
            state = "damaged"  # its evaluations are
        found.total += 1
        found.work += seconds
        found.states[state] += 1
        if state in ("finished", "diverged", "failed"):
            found.diverged_grid += state == "diverged" and item.kind == "grid"
            found.done += seconds
            if directory.study.share and (run.result() or {}).get("taken_from"):
                found.taken += seconds
            continue
        if state == "damaged":
            found.damaged[item.id] = run.damage() or "its result or evaluations cannot be read"
        share = run.position() / spec["steps"]
        found.done += seconds * share
        if state == "running":
            now.append((f"{item.label} N={count(spec['n'])}", spec, share))
    found.total += len(planned.waiting)
    found.work += sum(seconds_of(item.spec, rates) for item in planned.waiting)
    found.now = _told_apart(now)
    return found


def _told_apart(now: Sequence[tuple[str, dict[str, Any], float]]) -> list[str]:
    """A text for each run in training; those of one label and size by what they differ in."""
    texts = []
    for name, spec, share in now:
        alike = [other for same, other, _ in now if same == name]
        apart = [
            f" {word} {spec[key]:g}"
            for word, key in (("rate", "lr"), ("seed", "seed"))
            if len({other[key] for other in alike}) > 1
        ]
        texts.append(f"{name}{''.join(apart)} {100 * share:.0f}%")
    return texts


def describe_plan(
    directory: StudyDirectory,
    rates: dict[str, Rate],
    workers: int,
    device: str = "cpu",
    gpus: int = 1,
    shared: bool = False,
) -> str:
    """The plan of a study before anything is trained, and what it will cost, as text. gpus: devices
    that each run is trained on together, taken to be that many times as fast. shared: whether runs
    are trained side by side on one."""
    from .plan import plan

    study, data, m = directory.study, directory.data, directory.pack.manifest
    planned = plan(study, data, {})
    text = study.description.strip()
    lines = [
        f"study {study.name}: {text.splitlines()[0]}" if text else f"study {study.name}",
        f"data  {data.name}: {m['structures']:,} structures, {m['atoms']:,} atoms, "
        f"mean degree {data.options['mean_degree']:g} at {study.cutoff:g} Angstrom",
        f"{'architecture':<22}{'runs':>6}{'sweep':>7}{'N from':>10}{'to':>10}{'FLOPs':>10}"
        f"{'time':>14}",
    ]
    everything = [*planned.runs, *planned.waiting]
    each = [times_of(run.spec, rates, shared=shared) for run in everything]
    for label in map(label_of, study.architectures):
        mine = [run for run in everything if run.label == label]
        sizes = [run.spec["n"] for run in mine if run.kind == "grid"]
        seconds = sum(t.alone for run, t in zip(everything, each) if run.label == label)
        lines.append(
            f"{label:<22}{len(sizes):>6}{len(mine) - len(sizes):>7}{count(min(sizes)):>10}"
            f"{count(max(sizes)):>10}{sum(run.flops for run in mine):>10.1e}{duration(seconds):>14}"
        )
    wall = duration(wall_seconds(each, workers, gpus))
    lines.append(
        f"{counted(len(everything))}, {sum(run.flops for run in everything):.1e} FLOPs, about"
        f" {wall} with {workers} worker{'s' * (workers > 1)}"
    )
    if gpus > 1:
        kind = "GPUs" if device == "cuda" else "processes"
        lines[-1] += f" of {gpus} {kind} each, if they are {gpus} times as fast as one"
    if shared:
        alone = duration(wall_seconds([times_of(run.spec, rates) for run in everything], workers))
        if alone != wall:
            lines[-1] += f" and runs side by side ({alone} one at a time)"
    if device == "cuda":
        lines[-1] += ", by the rates of one H200"
    lines += [f"note: {text}" for text in advise(study, data, planned)]
    return "\n".join(lines)


def describe_rest(status: StudyStatus, before: StudyStatus, seconds: float) -> str:
    """How much of a study is left, as text, at the pace of the last ``seconds``, which began at
    ``before``."""
    left = status.total - status.ended
    text = (
        f"{left} of {counted(status.total)} {are(left)} left,"
        f" {100 * (1 - status.share):.0f}% of the work"
    )
    if not status.complete:
        text += " (an estimate: learning-rate sweeps are not over)"
    pace = (status.trained - before.trained) / seconds if seconds > 0 else 0.0
    if pace > 0:
        text += f"; about {duration((status.work - status.done) / pace)} more at this pace"
    return text


@dataclass
class Survey:
    """A study as its run directories have it. counts: (label, kind, state) -> runs. trouble: a line
    for each that diverged, failed or is damaged. now: what is under way. unlearned: a line for each
    that finished and has not learned a part of its loss."""

    counts: Counter[tuple[str, str, str]]
    trouble: list[str]
    now: Live
    unlearned: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> int:
        """Runs that a worker could train."""
        left = ("running", "stopped", "waiting")
        return sum(n for (_, _, state), n in self.counts.items() if state in left)


def survey(out: Path) -> Survey:
    """Read the run directories of ``out``: the plan as the workers wrote it there, so that neither
    study file nor data are needed."""
    counts: Counter[tuple[str, str, str]] = Counter()
    trouble, running, empty = [], [], []
    without_model = no_model(out)
    for run in all_runs(out / "runs"):
        state, why, parts = run.state(), "", list[str]()
        try:
            spec = run.spec()
            label, kind = spec["label"], spec["kind"]
            name = _name(spec)
            if state in ("diverged", "failed"):
                why = (run.result() or {}).get("message", "")
            if state == "finished":
                state, parts, why = _learned(run, without_model)
        except (StoreError, KeyError, TypeError, ValueError):
            state, label, kind, name, why = "damaged", "", "", "", "spec.json cannot be read"
        counts[str(label), str(kind), state] += 1
        if state == "running":
            running.append(run)
        if state == "damaged":
            why = run.damage() or why or "result.json cannot be read"
        if state in ("diverged", "failed", "damaged"):
            trouble.append(printable(f"  {run.id} {name}: {why}"))
        if parts:
            empty.append(_line(run.id, spec, parts))
    return Survey(counts, trouble, live(out, running), empty)


def _learned(run: RunDirectory, without_model: dict[str, float]) -> tuple[str, list[str], str]:
    """The state of a finished run, the parts of its loss that it has not learned, and why it is
    damaged where its evaluations are."""
    try:
        return "finished", unlearned(run.left(without_model)), ""
    except StoreError as error:
        return "damaged", [], error.what


def unlearned_runs(directory: StudyDirectory) -> list[str]:
    """A line for each planned run that finished and has not learned a part of its loss, of what
    the directory knows already: nothing is read again."""
    planned = directory.plan()
    found = ((run, unlearned(directory.left.get(run.id, {}))) for run in planned.runs)
    return sorted(_line(run.id, run.spec, parts) for run, parts in found if parts)


def _line(run: str, spec: dict[str, Any], parts: list[str]) -> str:
    return printable(f"  {run} {_name(spec)}: {' and '.join(parts)}")


def _name(spec: dict[str, Any]) -> str:
    """A run in words. KeyError, TypeError or ValueError for what is no specification of one."""
    return f"{spec['label']} N={spec['n']:,} lr {spec['lr']:g}"


def describe_unlearned(lines: list[str]) -> str:
    """What finished runs have not learned, as text; empty where all have learned all. lines: of
    :func:`unlearned_runs` or a :class:`Survey`."""
    if not lines:
        return ""
    head = (
        "finished, but no better at these than at the first evaluation or without a model"
        " (a learning rate that is too high, or too few steps):"
    )
    return "\n".join([head, *lines])


def status_table(out: Path, found: Survey) -> str:
    """Counts by architecture and state, what is under way, and what was spent, as text."""
    rows: dict[str, Counter[str]] = {}
    for (label, kind, state), n in found.counts.items():
        row = printable(f"{label} ({kind})") if label else "(unreadable)"
        rows.setdefault(row, Counter())[state] += n
    states = [s for s in STATES if s != "damaged" or any(row[s] for row in rows.values())]
    lines = [f"{'architecture':<28}" + "".join(f"{state:>10}" for state in states)]
    for row, numbers in sorted(rows.items()):
        lines.append(f"{row:<28}" + "".join(f"{numbers[state]:>10}" for state in states))
    if found.trouble:
        lines += ["", "diverged, failed or damaged:", *found.trouble]
    if text := describe_unlearned(found.unlearned):
        lines += ["", text]
    if text := describe(found.now, found.unfinished):
        lines += ["", text]
    return "\n".join([*lines, "", accounts(out).describe()])
