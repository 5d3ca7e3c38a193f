"""Which column of a table is what. Names in the usual spellings are recognised; what was taken is
always reported."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FitError

if TYPE_CHECKING:
    import polars as pl

ROLES = {
    "n": "trainable parameters",
    "d": "data seen in training (atoms, tokens), repeats counted",
    "u": "distinct data",
    "c": "training compute (FLOPs)",
    "h": "device-hours",
    "loss": "loss",
    "run": "run: the checkpoints of one training share it",
    "group": "architecture",
    "seed": "seed",
    "step": "training step",
    "status": "status",
    "weight": "weight of the point",
}
NUMERIC = ("n", "d", "u", "c", "h", "loss", "step", "weight")
REQUIRED_POSITIVE = ("n", "d", "u", "c", "h", "loss")

# In order of preference; compared after lower-casing and dropping everything but letters and
# digits. A total count is preferred to a non-embedding one and a validation loss to a training
# loss; others that matched are reported as seen.
ALIASES = {
    "n": (
        "n",
        "params",
        "nparams",
        "numparams",
        "parameters",
        "nparameters",
        "numparameters",
        "parametercount",
        "paramcount",
        "paramscount",
        "totalparams",
        "totalparameters",
        "modelparams",
        "modelparameters",
        "trainableparams",
        "trainableparameters",
        "modelsize",
        "modelsizeparams",
        "size",
        "nonembeddingparams",
        "paramsnonembedding",
        "nonembparams",
        "paramsnonemb",
        "paramsnoembed",
        "nnonembedding",
        "activeparams",
    ),
    "d": (
        "d",
        "tokens",
        "ntokens",
        "numtokens",
        "tokencount",
        "tokensseen",
        "trainingtokens",
        "traintokens",
        "numtrainingtokens",
        "totaltokens",
        "tokenstotal",
        "datatokens",
        "data",
        "datasize",
        "datasetsize",
        "atoms",
        "natoms",
        "atomsseen",
        "samples",
        "nsamples",
        "examples",
        "numtokensseen",
        "consumedtokens",
    ),
    "u": (
        "u",
        "unique",
        "uniquetokens",
        "uniquedata",
        "distinct",
        "distincttokens",
        "distinctatoms",
        "uniqueatoms",
        "nunique",
        "datauniquetokens",
        "datasetuniquetokens",
    ),
    "c": (
        "c",
        "flops",
        "flop",
        "trainingflop",
        "trainingflops",
        "trainflop",
        "trainflops",
        "totalflops",
        "totalflop",
        "flopstotal",
        "compute",
        "trainingcompute",
        "trainingcomputeflop",
        "trainingcomputeflops",
        "computeflops",
        "computebudget",
        "flopbudget",
    ),
    "h": (
        "h",
        "hours",
        "gpuhours",
        "devicehours",
        "gpuh",
        "trainhours",
        "traininghours",
        "acceleratorhours",
    ),
    "loss": (
        "loss",
        "valloss",
        "validationloss",
        "validloss",
        "evalloss",
        "testloss",
        "lossval",
        "lossvalidation",
        "losseval",
        "losstest",
        "finalvalloss",
        "finalloss",
        "lossnats",
        "nll",
        "crossentropy",
        "ce",
        "celoss",
        "vallosses",
        "smoothedloss",
        "trainloss",
        "trainingloss",
        "losstrain",
        "finaltrainloss",
    ),
    "run": (
        "run",
        "runid",
        "runname",
        "runkey",
        "runs",
        "trial",
        "trialid",
        "experiment",
        "experimentid",
        "expname",
        "trajectory",
        "runuuid",
    ),
    "group": ("architecture", "arch", "group", "modeltype", "modelfamily", "family"),
    "seed": ("seed", "randomseed", "rngseed"),
    "step": (
        "step",
        "steps",
        "globalstep",
        "iteration",
        "iterations",
        "iter",
        "trainingstep",
        "trainstep",
    ),
    "status": ("status", "state"),
    "weight": (),  # only when it is named: a column called weight is seldom a statistical one
}
TRAINING_LOSSES = ("trainloss", "trainingloss", "losstrain", "finaltrainloss")
# Names that may mean something else: taken after a look at their values (table._weak_names)
WEAK: dict[str, tuple[str, ...]] = {
    "group": ("model", "modelname", "method"),
    "run": ("name", "modelid"),
}
SUFFIXES = {
    "%": "percent",
    "k": "thousands",
    "K": "thousands",
    "M": "millions",
    "B": "billions",
    "G": "billions",
    "T": "trillions",
}


def plain(name: str) -> str:
    """A column name with only its lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_training_loss(name: str) -> bool:
    """Whether the name of a column says that it is the loss on the training data."""
    return plain(name) in TRAINING_LOSSES


def recognise(
    names: list[str], given: dict[str, str] | None, wanted: tuple[str, ...] = tuple(ROLES)
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Role -> column, and role -> other columns that would have fitted. ``given`` overrides; a role
    given as "" or "none" is left out. FitError for unknown roles, missing columns and one column in
    two roles."""
    given = {role.strip().lower(): name for role, name in (given or {}).items()}
    if "architecture" in given:
        given["group"] = given.pop("architecture")
    for role, name in given.items():
        if role not in ROLES:
            raise FitError(
                f"{role!r} is not a role of a column",
                where="--columns",
                remedy=f"the roles are {', '.join(ROLES)}",
            )
        if name not in names and plain(name) not in ("", "none"):
            raise FitError(
                f"there is no column {name!r} for {role}",
                where=f"columns are {', '.join(names[:40])}",
                remedy=f"name one of them: --columns {role}=...",
            )
    taken = {role: name for role, name in given.items() if name in names}
    seen: dict[str, list[str]] = {}
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(plain(name), []).append(name)
    for role in wanted:
        if role in given:
            continue
        twins = next(
            (
                there
                for alias in ALIASES[role]
                if (there := [n for n in spelled.get(alias, []) if n not in taken.values()])
            ),
            [],
        )
        if len(twins) > 1:
            raise FitError(
                f"{' and '.join(map(repr, twins))} are spelled alike, and either could be {role}"
                f" ({ROLES[role]})",
                where="the header",
                remedy=f"choose one: --columns {role}={twins[0]}, or rename the other",
            )
        found = [name for alias in ALIASES[role] for name in spelled.get(alias, [])]
        free = [name for name in found if name not in taken.values()]
        if free:
            taken[role] = free[0]
            seen[role] = free[1:]
    by_column: dict[str, list[str]] = {}
    for role, name in taken.items():
        by_column.setdefault(name, []).append(role)
    for name, roles in by_column.items():
        if len(roles) > 1:
            raise FitError(
                f"column {name!r} is asked to be {' and '.join(roles)} at once",
                where="--columns",
                remedy="give each role its own column",
            )
    return taken, {role: others for role, others in seen.items() if others}


def numbers(series: pl.Series, role: str, rows: np.ndarray | None = None) -> np.ndarray:
    """A column as float64 [rows], missing cells NaN. Text that is not a plain number is an error
    that shows it; a formula in a cell is text. ``rows`` are the row numbers to name in errors."""
    where = f"column {series.name!r} (taken as {role})"
    if series.dtype.is_numeric() or str(series.dtype) == "Boolean":
        return series.cast(float).fill_null(float("nan")).to_numpy().astype(float)
    if str(series.dtype) not in ("String", "Null", "Object", "Categorical", "Enum"):
        raise FitError(
            f"the cells are {series.dtype}, not numbers",
            where=where,
            remedy="give a column of numbers",
        )
    out = np.empty(len(series))
    wrong: list[tuple[int, str]] = []
    for row, cell in enumerate(series.to_list()):
        text = "" if cell is None else str(cell).strip()
        if text.lower() in ("", "na", "n/a", "none", "null", "nan", "-", "#n/a"):
            out[row] = math.nan
            continue
        try:
            if "_" in text:  # float() takes 1_000, a table of numbers does not
                raise ValueError
            out[row] = float(text)
        except ValueError:
            wrong.append((row, text))
    if wrong:
        row, text = wrong[0]
        kind = "a formula" if text[0] in "=@" else "text"
        others = f" ({len(wrong)} of {len(series)} rows do)" if len(wrong) > 1 else ""
        raise FitError(
            f"row {row + 1 if rows is None else int(rows[row])} holds {kind}, {text[:40]!r}, where"
            f" a number is needed{others}",
            where=where,
            remedy=_remedy(text, role),
        )
    return out


def _remedy(text: str, role: str) -> str:
    """What to do about a cell that is no number. Nothing is guessed: 1,234 may be a thousand or one
    and a bit."""
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        return f"write numbers without separators between thousands: {text.replace(',', '')}"
    if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", text):
        return (
            "decimal commas are not read: save the table with decimal points"
            f" ({text.replace(',', '.')})"
        )
    if re.fullmatch(r"[-+]?\d+(\.\d+)?\s*[%kKMBGT]", text):
        return f"write plain numbers, e.g. 1.5e6: {text[-1]} ({SUFFIXES[text[-1]]}) is not read"
    return (
        "nothing in a cell is ever evaluated: save the table with plain numbers, drop the rows"
        f" with --where, or name another column with --columns {role}=..."
    )


def quoted(column: str) -> str:
    """A column as a filter wants it written."""
    return column if re.fullmatch(r"[^\W\d][\w./]*", column) else f"`{column}`"


def check_values(
    values: np.ndarray, role: str, column: str, rows: np.ndarray | None = None
) -> None:
    """FitError unless every value is finite and positive; each fault has its own message, with the
    number of rows, the first of them (``rows``: the row numbers to name) and its value."""
    where, name = f"column {column!r} (taken as {role})", quoted(column)
    for bad, what, remedy in (
        (np.isnan(values), "missing or NaN", f'keep the good rows: --where "{name} > 0"'),
        (np.isinf(values), "infinite", f'keep the good rows: --where "{name} < 1e300"'),
        (
            values <= 0,
            "zero or negative",
            "laws are fitted to logarithms: give positive values, or drop the rows: "
            f'--where "{name} > 0"',
        ),
    ):
        if bad.any():
            if bad.all():
                remedy = f"give positive numbers, or name another column: --columns {role}=..."
            extra = (
                "; a status column that says diverged marks runs that failed"
                if role == "loss"
                else ""
            )
            every = "all" if bad.all() else f"{int(bad.sum())} of"
            first = int(np.argmax(bad))
            shown = "" if np.isnan(values[first]) else f" ({values[first]:.6g})"
            raise FitError(
                f"{every} {len(values)} values are {what}, the first in row "
                f"{first + 1 if rows is None else int(rows[first])}{shown}",
                where=where,
                remedy=remedy + extra,
            )
