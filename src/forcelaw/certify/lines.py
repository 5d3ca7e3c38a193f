"""Measure an architecture line by line."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data.pack import Pack, sample_path
from ..errors import ForcelawError, StudyError
from ..models import architecture as named
from ..models import code
from ..models.base import typed_options
from ..training.device import cpu_threads
from . import cost, exactness, learning
from .certificate import Certificate, Line
from .subject import Subject

# in the order of the page
LINES: dict[str, Callable[[Subject], Line]] = {
    "symmetry": exactness.symmetry,
    "translation": exactness.translation,
    "permutation": exactness.permutation,
    "batches": exactness.batching,
    "padding": exactness.padding,
    "extensivity": exactness.extensivity,
    "cutoff": exactness.smoothness,
    "precision": exactness.precision,
    "forces": learning.forces_and_energy,
    "stress": learning.stress,
    "parameters": cost.parameters,
    "FLOPs": cost.flops,
    "gradients": learning.gradients,
    "seeds": learning.reproducible,
    "resume": learning.resume,
    "coordinates": learning.parametrisation,
    "learning rate": learning.learning_rates,
    "CUDA graph": learning.cuda_graph,
}
OF_OUTPUTS = {*list(LINES)[: list(LINES).index("stress") + 1], "resume"}


def certify(
    architecture: str,
    *,
    data: str | Path = "sample",
    options: Mapping[str, Any] | None = None,
    cutoff: float = 6.0,
    size: float | None = None,
    threads: int = 1,
    only: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """The certificate of an architecture on the data of a pack.

    architecture: a name, or an import path. options: of its configuration, such as ``{"forces":
    "conservative"}``. size: parameters of the model whose symmetry, smoothness, forces and other
    exact properties are measured (default: the fewest of 1e4, 3e4, ... that it can have). only:
    names of lines, else all. say: called with each line as it is there. StudyError where there is
    no such architecture; a line that cannot be measured fails, with the reason.
    """
    unknown = set(only) - set(LINES)
    if unknown:
        raise StudyError(
            f"there is no line {', '.join(sorted(unknown))}", remedy=f"use: {', '.join(LINES)}"
        )
    pack = Pack(sample_path() if str(data) == "sample" else data)
    entry, source = named(architecture), code(architecture)
    given = typed_options(entry.config, options or {})
    subject = Subject(architecture, pack, cutoff, given, parameters=size)
    began, lines = time.monotonic(), []
    with cpu_threads(threads), torch.random.fork_rng(devices=[]):
        for name in only or LINES:
            lines.append(_told_before(_measured(name, subject), lines))
            say(f"{lines[-1].name:<14} {lines[-1].verdict:<8} {lines[-1].found}")
    about = {
        "data": {"name": pack.path.name, "hash": pack.hash},
        "options": given,
        "cutoff": cutoff,
        **({} if size is None else {"size": size}),
        "versions": {
            "forcelaw": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - began, 1),
    }
    return Certificate(architecture, entry.title, source, about, lines)


def _measured(name: str, subject: Subject) -> Line:
    """A line; one that raises fails, with what was raised."""
    try:
        found = LINES[name](subject)
        if found.verdict == "fails" and name in OF_OUTPUTS:
            found = _unless_random(found, subject)
        return found
    except ForcelawError as error:
        where = f" ({error.where})" if error.where else ""
        return Line(name, "fails", f"{error.what}{where}".split("\n")[0][:400])
    except Exception as error:  # whatever a model of others raises
        return Line(name, "fails", f"{type(error).__name__}: {error}".split("\n")[0][:300])


def _unless_random(found: Line, subject: Subject) -> Line:
    """The line; where two calls on one structure differ, with that as the reason, for no line about
    outputs can tell another."""
    apart = subject.scatter
    if not apart > exactness.EXACT:
        return found
    words = f"two calls on the same structures differ by {apart:.1e}: outputs are random (dropout"
    words += " in evaluation?), or depend on a state that changes"
    return replace(found, found=words, values=found.values | {"scatter": apart})


def _told_before(line: Line, before: list[Line]) -> Line:
    """The line; where an earlier one fails with the same words, with its name for them."""
    for other in before:
        if line.verdict == other.verdict == "fails" and line.found == other.found:
            return replace(line, found=f"as {other.name}")
    return line
