"""What is said of a table that can be read but may not mean what it seems to: units, repeats,
sweeps."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .columns import COLUMNS

if TYPE_CHECKING:
    from .runs import Runs

RISES, FEW = 0.5, 6  # rank correlation of the loss with N D; runs below which it says nothing
REPEATED = 1.05  # passes over the distinct data beyond which they are repeated
FACTOR = 1e-3, 1e5  # of C over 6 N D: what any model has lies well inside
SMALL_N, SMALL_D, LARGE_C = 1e3, 1e4, 1e15  # fewer parameters, or data, do not take so many FLOPs
LEAST_C = 1e8  # FLOPs of the longest run: a millisecond of any processor trains nothing
MOST_ROWS = 100_000  # of a table whose runs are looked at one by one
DIGITS = 5  # losses given to fewer are equal by chance
# left out by default where the table is of a study: every model leaves its transient after 350 to
# 400 steps
BURN_IN_STEPS = 400


def doubts(runs: Runs) -> list[str]:
    """Notes, in plain words; empty for most tables."""
    return [
        *_units(runs),
        *_rises(runs),
        *_twice(runs),
        *_copies(runs),
        *_repeats(runs),
        *(_sweeps(runs) or _several(runs)),
    ]


def _units(runs: Runs) -> list[str]:
    """N in billions beside plain FLOPs, and the like."""
    out = []
    for role, least in (("n", SMALL_N), ("d", SMALL_D)):
        if role in runs and "c" in runs and len(runs) and "=" not in runs.taken.get(role, ""):
            most, flops = float(runs[role].max()), float(runs["c"].max())
            if most < least and flops > LARGE_C:
                out.append(
                    f"doubtful units: {role} is at most {most:.4g} beside {flops:.3g} FLOPs: is it"
                    " in millions or billions? Give plain numbers"
                )
    if not out and all(role in runs for role in "ndc") and len(runs):
        import numpy as np  # here, as `forcelaw status` needs a constant of this module alone

        factor = float(np.median(runs["c"] / (6 * runs["n"] * runs["d"])))
        if not FACTOR[0] < factor < FACTOR[1]:
            out.append(f"doubtful units: the compute is {factor:.2g} times 6 N D")
    if not out and "c" in runs and len(runs) and (most := float(runs["c"].max())) < LEAST_C:
        out.append(
            f"doubtful units: c is at most {most:.4g} FLOPs: is it, or are n and d, in units such"
            " as millions or petaflops? Budgets are in FLOPs: give plain numbers"
        )
    return out


def _rises(runs: Runs) -> list[str]:
    """A loss that is none: accuracies and rewards rise with N and D."""
    if not all(role in runs for role in ("n", "d", "loss")) or len(ends := runs.ends()) < FEW:
        return []
    import numpy as np

    reach, loss = (np.argsort(np.argsort(x[ends])) for x in (runs["n"] * runs["d"], runs["loss"]))
    if np.corrcoef(reach, loss)[0, 1] < RISES:
        return []
    return [
        f"{runs.taken.get('loss', 'the loss')!r} rises with N and D: an accuracy, or a reward? Laws"
        " are of losses, which fall: take 1 - accuracy, or its negative logarithm"
    ]


def _twice(runs: Runs) -> list[str]:
    """Runs that have several losses at one D: not one training evaluated once."""
    if "d" not in runs or runs.independent or len(runs) > MOST_ROWS:
        return []
    import numpy as np

    at = np.column_stack([runs.run, *(runs[role] for role in ("n", "d", "step") if role in runs)])
    here, count = np.unique(at, axis=0, return_counts=True)
    several = len(np.unique(here[count > 1, 0]))
    if not several:
        return []
    return [
        f"{several} of {runs.n_runs} runs have several losses at one D: trainings that share a"
        " name, or evaluations on several sets? Give a column that tells trainings apart"
        " (--columns run=... or seed=...), or keep one set (--where)"
    ]


def _copies(runs: Runs) -> list[str]:
    """Runs that agree in N, D and loss to the last digit."""
    if "n" not in runs or "d" not in runs or len(runs) > MOST_ROWS:
        return []
    import numpy as np

    table = np.column_stack([runs["n"], runs["d"], runs["loss"]])
    order = np.lexsort((runs["loss"], runs["d"], runs.run))
    starts = np.flatnonzero(np.diff(runs.run[order], prepend=-1))
    seen: dict[bytes, int] = {}
    copies = []
    for rows in np.split(order, starts[1:]):
        first = seen.setdefault(table[rows].tobytes(), int(rows[0]))
        exact = any(float(f"{x:.{DIGITS - 1}g}") != x for x in runs["loss"][rows].tolist())
        if first != rows[0] and (len(rows) > 2 or exact):
            copies.append(runs.run_names[runs.run[rows[0]]])
    if not copies:
        return []
    some = ", ".join(copies[:4]) + (" ..." if len(copies) > 4 else "")
    return [
        f"{len(copies)} of {runs.n_runs} runs have the N, D and losses of another to the last digit"
        f" ({some}): if they are copies, leave them out, or intervals come out too narrow"
    ]


def _repeats(runs: Runs) -> list[str]:
    if not ("u" in runs and "d" in runs and len(runs)):
        return []
    passes = float((runs["d"] / runs["u"]).max())
    if passes <= REPEATED:
        return []
    return [
        f"data are repeated, up to {passes:.3g} passes (D over u): a law without u counts repeats"
        " as new data; --law data_constrained does not"
    ]


def _sweeps(runs: Runs) -> list[str]:
    """Runs of one size and length at several learning rates."""
    header = runs.column("lr")
    if header is None or "n" not in runs or "d" not in runs or len(runs) > MOST_ROWS:
        return []
    cells, ends = runs.frame[header].to_list(), runs.ends()
    rate: dict[tuple[object, ...], set[object]] = {}
    for i, key in zip(ends, runs.configurations(ends)):
        rate.setdefault(key, set()).add(cells[i])
    swept = sum(len(found) > 1 for found in rate.values())
    if not swept:
        return []
    return [
        f"{swept} sizes and lengths were trained at several values of {header!r}: --best-of-sweep"
        " keeps the lowest loss of each"
    ]


def _several(runs: Runs) -> list[str]:
    """Runs of one architecture, size, length and seed that differ in columns without a role: a
    sweep, or models that are fitted as if they were one."""
    if "n" not in runs or "d" not in runs or runs.frame is None or len(runs) > MOST_ROWS:
        return []
    ends, at = runs.ends(), defaultdict(list)
    for i, key in zip(ends, runs.configurations(ends)):
        at[key].append(i)
    several = [rows for rows in at.values() if len(rows) > 1]
    names = []
    for name in runs.frame.columns if several else []:
        # of our own columns those that were chosen, not measured
        own = name in COLUMNS and not COLUMNS[name].source.startswith("spec.")
        if own or name in ("study", "epochs", "steps") or name in runs.taken.values():
            continue
        cells = runs.frame[name].to_list()
        levels = {cells[i] for i in ends}
        if 1 < len(levels) <= len(ends) / 2 and any(
            len({cells[i] for i in r}) > 1 for r in several
        ):
            names.append(name)
    if not names:
        return []
    some = ", ".join(map(repr, names[:4])) + (" ..." if len(names) > 4 else "")
    return [
        f"{len(several)} sizes and lengths were trained several times, and differ in {some}: name"
        " it with --columns architecture=... (other models) or seed=... (repeats), or keep the"
        " lowest loss of each (a sweep) with --best-of-sweep"
    ]


def of_a_study(columns: list[str]) -> bool:
    """Whether a table with these columns is one that a study of ours wrote."""
    return "kind" in columns


def default_burn_in(columns: list[str], study: dict[str, object] | None = None) -> int:
    """Steps that every command leaves out where none are named: of a study its own
    (``burn_in_steps`` of study.json), else :data:`BURN_IN_STEPS`; of other tables none."""
    if "step" not in columns or not of_a_study(columns):
        return 0
    own = (study or {}).get("burn_in_steps")
    return int(own) if isinstance(own, int | float) else BURN_IN_STEPS
