"""The checks: exponent or trend? What failed, what would fix it, and the run to add next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...figures.laws import held_out, local_exponents
from ...figures.spec import Figure
from ...figures.text import pretty
from ...laws.diagnose.check import Check
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import one_line
from ..section import (
    MISSING,
    Cell,
    Column,
    Command,
    Details,
    Notes,
    Part,
    Prose,
    Section,
    by_reason,
    csv,
    entries,
    illustrated,
    of_architecture,
    table,
)
from .commands import design_command

# check of the laws -> the question that it asks
QUESTIONS = {
    "range": "Is the range of compute wide enough?",
    "optimum inside grid": "Does the best size lie inside the sizes that were tried?",
    "local exponents": "Does the slope follow the law all along the frontier?",
    "two gammas": "Do frontier and surface give the same γ?",
    "curvature": "Are the residuals free of bends?",
    "smallest sizes": "Is γ the same without the smallest sizes?",
    "early checkpoints": "Is γ the same without the early part of the runs?",
    "held-out budgets": "Do small budgets predict the large ones?",
    "lack of fit": "Do sizes deviate from the law by no more than seeds differ?",
    "interaction of N and D": "Do N and D act together as the law says?",
    "window of N": "Is α the same without the smallest and without the largest sizes?",
    "window of D": "Is β the same without little and without much data?",
    "depth": "Is the loss free of steps where the number of layers changes?",
    "learning rates": "Is it free of effects of learning rates that differ?",
    "sweep of learning rates": "Does the best learning rate lie inside the sweep?",
    "seeds": "Are there seeds enough where they differ most?",
    "batch size": "Are data and steps told apart?",
    "floor": "Is there a floor that the data determine?",
}
ANSWERS = {True: ("yes", "yes"), False: ("no", "no"), None: ("unsure", "cannot say")}


def _answer(check: Check) -> Cell:
    return Cell("", badge=ANSWERS[check.passed])


COLUMNS = [
    Column("architecture", "architecture", lambda row: row[0].label, numeric=False),
    Column("check", value=lambda row: row[1].name),
    Column("", "question", lambda row: _question(row[1].name), numeric=False, wrap=True),
    Column(
        "passed", "answer", lambda row: row[1].passed, lambda row: _answer(row[1]), numeric=False
    ),
    Column("text", "finding", lambda row: row[0].finding(row[1])[0], numeric=False, wrap=True),
    Column("remedy", value=lambda row: row[0].finding(row[1])[1]),
]


def _run_to_add(arch: Architecture) -> dict[str, Any]:
    assert arch.design is not None
    one = arch.design.additions[0]
    found = {"n": one.n, "d": one.d, "cost": one.cost, "before": one.before}
    numbers = {key: float(value) for key, value in {**found, "after": one.half_width}.items()}
    text = {"quantity": arch.design.quantity, "unit": arch.design.unit, "kind": one.kind}
    return {"arch": arch, **numbers, **text}


def _short(key: str, heading: str, unit: str = "") -> Column:
    def cell(row: dict[str, Any]) -> Cell:
        return Cell(pretty(row[key], 2) + (f" {row[unit]}" if unit else ""))

    return Column(key, heading, lambda row: row[key], cell)


RUNS = [
    of_architecture(lambda row: row["arch"]),
    *entries("quantity"),
    Column("", "run to add", lambda row: row["kind"], numeric=False),
    _short("n", "N"),
    _short("d", "D"),
    _short("cost", "cost", "unit"),
    *entries("unit"),
    _short("before", "γ known to ±"),
    _short("after", "then ±"),
    *entries("kind"),
]


def _question(name: str) -> str:
    return QUESTIONS.get(name, name)


def section(analysis: Analysis) -> Section:
    """A matrix of questions and architectures; what failed; the figure; the run to add; everything
    in words."""
    found = [(arch, check) for arch in analysis.architectures for check in arch.checks]
    advised = [_run_to_add(arch) for arch in analysis.architectures if arch.design is not None]
    files = [csv("checks", COLUMNS, found), csv("runs_to_add", RUNS, advised)]
    title = "Checks: exponent or trend?"
    if not found:
        return Section("checks", title, [], files)
    asked = [arch for arch in analysis.architectures if arch.checks]
    explain = (
        "A slope can be read off any curve; it is an exponent only if it does not change along the"
        " curve, does not depend on a few runs, and predicts runs that the fit has not seen. One"
        ' "no" is enough to call it a trend.'
    )
    parts: list[Part] = [Prose(explain), _matrix(asked)]
    failed = [(arch.label, _failure(arch, check)) for arch in asked for check in arch.failed]
    notes = [(arch.label, one_line(note)) for arch in asked for note in arch.diagnosis.notes]
    parts += [Notes(items) for items in (by_reason(failed), notes) if items]
    parts += illustrated(figure(asked))
    if advised:
        caption = (
            "The run to add next: of other sizes, seeds and lengths, the one whose simulated"
            " addition shortens the interval of γ most for its cost."
        )
        few = "From few simulated copies; several runs, other quantities and cost limits:"
        command = design_command(analysis, advised[0]["arch"].label)
        parts += [table(RUNS, advised, "suggestions", caption), Prose(few, "key"), Command(command)]
    parts.append(Details("All findings in words", [table(COLUMNS, found)]))
    return Section("checks", title, parts, files)


def _failure(arch: Architecture, check: Check) -> str:
    text, remedy = arch.finding(check)
    return f"{text}." + (f" To fix it: {remedy}." if remedy else "")


def _matrix(asked: list[Architecture]) -> Part:
    def cell(arch: Architecture) -> Callable[[str], Cell]:
        by = {check.name: check for check in arch.checks}
        return lambda name: _answer(by[name]) if name in by else MISSING

    head = Column("", "question", _question, numeric=False, wrap=True)
    columns = [head, *(Column("", arch.label, cell=cell(arch), numeric=False) for arch in asked)]
    order = list(dict.fromkeys(check.name for arch in asked for check in arch.checks))
    return table(columns, order, "check-matrix")


def figure(archs: list[Architecture]) -> Figure:
    """What two of the checks saw: the slope along the frontier, and large budgets predicted from
    small ones."""
    by = [(arch, {check.name: check for check in arch.checks}) for arch in archs]
    slopes = [(arch.look, checks.get("local exponents")) for arch, checks in by]
    held = [(a.look, checks.get("held-out budgets"), a.frame["c"].max()) for a, checks in by]
    return Figure(
        "diagnosis",
        "Two of the checks, drawn",
        "Left, the slope of the frontier piece by piece: an exponent keeps the slope of its law"
        " (dashed). Right, the law is fitted without the largest budgets and predicts them: points"
        " at one were predicted exactly.",
        [local_exponents(slopes), held_out(held)],
        "bars: 95% prediction interval of a new run",
    )
