"""Which column of a table plays which role. Headers in the usual spellings are recognised; what was
chosen, and what else could have been, is always said."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import TableError
from .columns import ROLES, is_training_loss, leaf, plain
from .values import as_text, holds_words_only, text_numbers

if TYPE_CHECKING:
    import polars as pl

SAME_SIZE = 1.01  # sizes within 1% are one size
DIRTY_RUNS = 0.1  # share of its values that may hold several sizes in a column that is still a run
# C given as "6nd"; the factor is not zero
PRODUCT = re.compile(r"(?=[0-9.]*[1-9])([0-9]+(?:\.[0-9]*)?)\s*nd", re.IGNORECASE)
RUN_WORDS = ("run", "id", "name", "trial", "exp", "job")

CHART_ENDS = ("min", "max", "step")  # columns beside each run's own in the export of a chart
PERPLEXITY, ACCURACY = ("ppl", "perplexity"), ("acc", "accuracy")


@dataclass
class Recognised:
    """taken: role -> column. notes: what was chosen or left, in plain words. flops_per_nd: k where
    C was given as k N D."""

    taken: dict[str, str]
    notes: list[str] = field(default_factory=list)
    flops_per_nd: float | None = None


def recognise(frame: pl.DataFrame, columns: Mapping[str, str] | None = None) -> Recognised:
    """The roles of the columns of ``frame``. ``columns`` (role -> column) goes before what is
    recognised; a role given as "" or "none" is left out, and ``c`` may be a product: "6nd".

    Raises TableError for an unknown role, a missing column, one column in two roles, two headers
    that are spelled alike, and a column given as the run whose values hold many N.
    """
    given = _given(frame, columns or {})
    taken = {role: name for role, name in given.items() if name in frame.columns}
    out = Recognised(taken, flops_per_nd=_product(frame, given))
    for role in ROLES:
        if role in given:
            continue
        names = list(_candidates(frame, role, taken))
        if role == "run":
            refused = {name: _not_a_run(frame, name, taken) for name in names}
            names = [name for name in names if not refused[name]]
            out.notes += filter(None, refused.values())
        if names:
            taken[role] = names[0]
        if len(names) > 1 and role != "step":
            others = ", ".join(map(repr, names[1:]))
            out.notes.append(
                f"{names[0]!r} was taken as {role}, although {others} would have fitted too:"
                f" --columns {role}=... chooses"
            )
    _weak_spellings(frame, given, out)
    _refuse_twice(taken)
    if "run" in given and "run" in taken and (why := _not_a_run(frame, taken["run"], taken)):
        raise TableError(
            why,
            where="--columns",
            remedy="name the column that tells trainings apart, or run=none where every row is a"
            " training of its own",
        )
    if "loss" not in given and is_training_loss(taken.get("loss", "")):
        out.notes.append(
            f"{taken['loss']!r} looks like a training loss: laws are about loss on data not"
            " trained on"
        )
    return out


def unrecognised_loss(frame: pl.DataFrame) -> TableError:
    """The error for a table without a loss, with what its headers suggest: the export of a chart
    has a column for each run, and a perplexity is the exponential of a loss."""
    remedy = "name it: --columns loss=..."
    tails = Counter(name.rsplit(" - ", 1)[1] for name in frame.columns if " - " in name)
    tails = Counter({tail: n for tail, n in tails.items() if not plain(tail).endswith(CHART_ENDS)})
    wide = next(iter(tails.most_common(1)), ("", 0))
    measured = {plain(part): name for name in frame.columns for part in re.split(r"[./ ]", name)}
    if wide[1] > 1:
        remedy = (
            f"{wide[1]} columns end in {wide[0]!r}, as in the export of a chart: make one row of"
            " each evaluation instead, with columns for the run, N, D and the loss"
        )
    elif found := [name for part, name in measured.items() if part in PERPLEXITY]:
        remedy = f"add a column loss: the natural logarithm of {found[0]!r}"
    elif found := [name for part, name in measured.items() if part in ACCURACY]:
        remedy = f"add a column loss: 1 - {found[0]!r}, or its negative logarithm"
    return TableError(
        "no column is recognised as the loss",
        where=f"columns are {', '.join(frame.columns[:40])}",
        remedy=remedy,
    )


def _given(frame: pl.DataFrame, columns: Mapping[str, str]) -> dict[str, str]:
    given = {role.strip().lower(): name for role, name in columns.items()}
    if "architecture" in given:
        given["group"] = given.pop("architecture")
    for role, name in given.items():
        if role not in ROLES:
            raise TableError(
                f"{role!r} is not a role of a column",
                where="--columns",
                remedy=f"the roles are {', '.join(ROLES)}",
            )
        known = name in frame.columns or plain(name) in ("", "none")
        if not known and not (role == "c" and flops_per_nd(name)):
            product = ", or FLOPs as 6 N D: --columns c=6nd" if role == "c" else ""
            raise TableError(
                f"there is no column {name!r} for {role}",
                where=f"columns are {', '.join(frame.columns[:40])}",
                remedy=f"name one of them: --columns {role}=...{product}",
            )
    return given


def flops_per_nd(text: str) -> float | None:
    """k of "6nd" for C = 6 N D; None for any other text."""
    found = PRODUCT.fullmatch(text.strip())
    return None if found is None else float(found[1])


def _product(frame: pl.DataFrame, given: Mapping[str, str]) -> float | None:
    """k where C was given as k N D, and no column has that name."""
    name = given.get("c", "")
    return None if name in frame.columns else flops_per_nd(name)


def _candidates(frame: pl.DataFrame, role: str, taken: dict[str, str]) -> Iterator[str]:
    """Columns that are spelled as ``role``, the preferred first. Text without one number is not a
    candidate for a number where another column is."""
    column = ROLES[role]
    found: list[str] = []
    for spelling in column.spellings.split():
        alike = [n for n in frame.columns if plain(n) == spelling and n not in taken.values()]
        if len(alike) > 1 and not found:
            raise TableError(
                f"{' and '.join(map(repr, alike))} are spelled alike, and either could be {role}"
                f" ({column.meaning})",
                where="the header",
                remedy=f"choose one: --columns {role}={shlex.quote(alike[0])}, or rename the other",
            )
        found += alike
    # what a loss or a status is of stands before the last part
    if not found and role not in ("loss", "status"):
        leaves = [n for n in frame.columns if n not in taken.values() and leaf(n)]
        found = [n for n in leaves if leaf(n) in column.spellings.split()]
        found = found if len({leaf(n) for n in found}) == len(found) else []  # which one?
    if column.numeric and len(found) > 1:
        words = [name for name in found if holds_words_only(frame[name])]
        found = [name for name in found if name not in words] or found[:1]
    yield from found


def _sizes(frame: pl.DataFrame, name: str, n: str) -> pl.DataFrame:
    """One row for each value of column ``name``: the smallest and largest N among its rows."""
    import polars as pl

    size = frame[n].cast(pl.Float64) if frame[n].dtype.is_numeric() else None
    size = text_numbers(as_text(frame[n]))[0] if size is None else size
    table = pl.DataFrame({"value": as_text(frame[name]), "n": size.fill_nan(None)}).drop_nulls()
    return table.group_by("value").agg(low=pl.col("n").min(), high=pl.col("n").max())


def _not_a_run(frame: pl.DataFrame, name: str, taken: dict[str, str]) -> str:
    """Why a column cannot be the run: a run has one N, and its values hold many; "" if it can."""
    import polars as pl

    if "n" not in taken:
        return ""
    sizes = _sizes(frame, name, taken["n"])
    many = sizes.filter(pl.col("high") > SAME_SIZE * pl.col("low"))
    if many.height <= DIRTY_RUNS * sizes.height:
        return ""
    first = many.sort("value").row(0, named=True)
    better = _better_run(frame, taken)
    return (
        f"column {name!r} is not a run, which has one N: {many.height} of its {sizes.height} values"
        f" hold several, {first['value']!r} from {first['low']:.4g} to {first['high']:.4g}"
        + (f"; --columns run={shlex.quote(better)} fits" if better else "")
    )


def _better_run(frame: pl.DataFrame, taken: dict[str, str]) -> str:
    """The column whose name or text looks most like that of a run, with one N for each value."""
    import polars as pl

    best, score = "", (False, 0)
    for name in frame.columns:
        named = any(word in plain(name) for word in RUN_WORDS)
        label = frame[name].dtype in (pl.String, pl.Categorical, pl.Enum)
        if name in taken.values() or not (label or (named and frame[name].dtype.is_integer())):
            continue
        sizes = _sizes(frame, name, taken["n"])
        one = sizes.filter(pl.col("high") > SAME_SIZE * pl.col("low")).is_empty()
        if one and sizes.height > 1 and (named, sizes.height) > score:
            best, score = name, (named, sizes.height)
    return best


def name_runs(frame: pl.DataFrame, taken: Mapping[str, str]) -> tuple[pl.Series, str]:
    """The name of the run of every row, and what is to be said of it. A training has one
    architecture and one seed: where rows of one name have several, as where a name says the size
    alone, each of those is a run of its own."""
    import polars as pl

    name = taken["run"]
    apart = [taken[role] for role in ("group", "seed") if role in taken]
    cells = frame.select(as_text(frame[column]).alias(column) for column in [name, *apart])
    levels = cells.group_by(name).agg(pl.col(apart).drop_nulls().n_unique()) if apart else cells
    apart = [column for column in apart if (levels[column] > 1).any()]
    if not apart:
        return frame[name], ""
    shared = levels.filter(pl.any_horizontal(pl.col(apart) > 1))[name]
    which = pl.concat_str([pl.col(column).fill_null("") for column in apart], separator=", ")
    named = pl.concat_str([pl.col(name), pl.lit(" ("), which, pl.lit(")")])
    mixed = pl.col(name).is_in(shared.to_list())
    return cells.select(pl.when(mixed).then(named).otherwise(pl.col(name))).to_series(), (
        f"{len(shared)} of {levels.height} values of {name!r} hold several values of"
        f" {' and '.join(map(repr, apart))}: each of those is taken as a run of its own"
    )


def _weak_spellings(frame: pl.DataFrame, given: dict[str, str], out: Recognised) -> None:
    """Take a column called model as the architecture, or one called name as the run, where the
    cells bear it out: a model may be an architecture ("painn", with several sizes) or a size
    ("7B")."""
    import polars as pl

    taken = out.taken
    for role, column in ROLES.items():
        weak = column.weak_spellings.split()
        found = next(
            (n for n in frame.columns if plain(n) in weak and n not in taken.values()), None
        )
        if role in taken or role in given or found is None:
            continue
        if role == "run" and _not_a_run(frame, found, taken):
            continue
        if role == "group" and "n" in taken:
            sizes = _sizes(frame, found, taken["n"])
            several = sizes["low"].min() != sizes["high"].max()
            if several and sizes.filter(pl.col("low") != pl.col("high")).is_empty():
                out.notes.append(
                    f"column {found!r} is not taken: each of its values has one size, so it names"
                    f" sizes or runs; --columns run={shlex.quote(found)} or architecture=... if it"
                    " should be"
                )
                continue
        taken[role] = found


def _refuse_twice(taken: dict[str, str]) -> None:
    for name in taken.values():
        roles = [role for role, column in taken.items() if column == name]
        if len(roles) > 1:
            raise TableError(
                f"column {name!r} is asked to be {' and '.join(roles)} at once",
                where="--columns",
                remedy="give each role its own column",
            )
