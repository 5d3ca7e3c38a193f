"""The entry to fitting: one law, or all forms that compete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np

from ...errors import FitError
from ..forms import make
from ..forms.base import Floor, Law
from ..forms.stepped import Stepped, must_step
from ..inputs import as_runs
from .averaging import Averaged, average
from .intervals import DRAWS
from .objective import Objective, objective_of
from .result import FitResult
from .single import fit_one

METHODS = ("auto", "jackknife", "bootstrap", "none")


@overload
def fit(runs: Any, law: Literal["auto"], **settings: Any) -> Averaged: ...


@overload
def fit(
    runs: Any,
    law: str | type[Law] | Law = ...,
    objective: str | Objective = ...,
    delta: float | None = ...,
    **settings: Any,
) -> FitResult: ...


def fit(
    runs: Any,
    law: str | type[Law] | Law = "surface",
    objective: str | Objective = "huber",
    delta: float | None = None,
    *,
    cluster: str | None = "run",
    floor: Floor | None = None,
    weights: str | np.ndarray | None = None,
    interval: str = "auto",
    level: float = 0.95,
    resamples: int = DRAWS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    factor: str | None = None,
    **options: Any,
) -> FitResult | Averaged:
    """Fit ``law`` to a table of runs; with "auto" the forms compete, and numbers are averaged over
    those that stand (:func:`forcelaw.laws.fit.averaging.average`).

    runs: :class:`forcelaw.Runs`, a path, a DataFrame or a dict of columns; one row is one
        evaluation. All architectures of it are fitted as one.
    law: a name (see :data:`forcelaw.laws.forms.LAWS`), an import path ``module:Class``, or a law.
    objective: of r = ln Lhat - ln L: huber, log, relative or linear. delta: where Huber's loss
        turns linear, in ln L; None: 1.345 robust standard deviations of the residuals.
    cluster: what is deleted or resampled for the intervals: run, config, seed or None (every row).
    floor: "free", "zero" or a value in the unit of the loss; None: the law's own default.
    weights: None, "run" (every run counts the same), "column", or an array [rows].
    interval: auto, jackknife, bootstrap or none; level: of the intervals.
    resamples, seed: of the bootstrap. fixed: parameters held at values. factor: a column that
        changes along N in steps (depth); the law gets a free step there. Default: none; with
        "auto" depth where it changes, or "none". options: those of the law, e.g. ``x="d"``.

    A design that cannot carry the fit gives status "refused" with the reason. Unknown names, and
    tables that cannot be read, raise FitError.

    Source: Huber's loss on ln L follows Hoffmann et al. (2022), arXiv 2203.15556, appendix D.2.
    """
    runs = as_runs(runs)
    if interval not in METHODS:
        raise FitError(
            f"intervals by {interval!r} are not known",
            where="interval",
            remedy=f"use {', '.join(METHODS)}",
        )
    settings: dict[str, Any] = {"cluster": cluster, "weights": weights, "level": level}
    goal = objective_of(objective, delta)
    if law == "auto":
        if interval in ("bootstrap", "none"):
            raise FitError(
                f"law auto averages jackknife intervals, not those of {interval!r}",
                where="interval",
                remedy="leave interval out, or name one law",
            )
        if fixed or options.keys() - {"x"}:
            raise FitError(
                "parameters of forms that compete cannot be fixed, and x is their only option",
                where="law auto",
                remedy=f"leave out {', '.join([*(fixed or {}), *(options.keys() - {'x'})])}",
            )
        settings |= {"seed": seed, "factor": factor}
        return average(runs, floor=floor, objective=goal, **settings, **options)
    form = make(law, floor, **options)
    if factor not in (None, "none"):
        runs, steps = must_step(runs, str(factor))
        form = Stepped(form, steps)
    settings |= {"interval": interval, "resamples": resamples, "seed": seed, "fixed": fixed}
    return fit_one(runs, form, goal, **settings)
