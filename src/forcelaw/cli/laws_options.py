"""Options of the commands that fit laws, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..settings import Settings


class TableOptions(Settings):
    """The table, and which of its rows and columns are used."""

    table: str = Field(title="TABLE")
    """table of runs, one row a checkpoint: .csv, .tsv, .parquet, .feather, .json or .jsonl (also
    .gz), or a directory of runs"""
    columns: list[str] = Field([], title="ROLE=COLUMN,...")
    """which column is what; the roles are n, d, u, c, h, loss, run, architecture, seed, step,
    status, weight; usual names are recognised, and the choice is printed. c=6nd: 6 N D stands in
    for FLOPs"""
    where: str | None = Field(None, title="FILTER")
    """rows to keep, e.g. "flag == 1 and params >= 1e6"; never run as code"""
    group: str | None = Field(None, title="NAME", description="the one architecture to use")
    best_of_sweep: bool = False
    """of runs of one architecture, size, length and seed keep the one that ends lowest (where
    learning rates or batches were swept)"""
    burn_in_steps: float | None = Field(None, title="N", ge=0, allow_inf_nan=False)
    """leave out checkpoints before this step: young models learn faster than any law says (default:
    a study's own, else 400, where the table is of a study; 0 elsewhere)"""
    burn_in_fraction: float = Field(0, title="F", ge=0, lt=1)
    """leave out this first fraction of every run, 0 to 1"""


class FitOptions(Settings):
    """How a law is fitted, for every command that fits one."""

    law: str = Field("surface", title="LAW")
    """power, power_floor, surface, surface_cost, coupled, kaplan, frontier, frontier_hours,
    data_constrained, data_constrained_by_size, data_constrained_coupled, broken, shifted, your own
    as module:Class, or auto: forms compete (fit: numbers are averaged over them; forecast and
    budget: weighed by back-tests, the default there)"""
    tie: str | None = Field(None, title="TIE")
    """alpha=beta: one exponent for N and D (surface, surface_cost, coupled)"""
    objective: str = Field("huber", title="NAME")
    """what is minimised, of errors in ln L: huber (outliers pull less), log (squared), or squared
    relative or linear errors of L"""
    delta: float | None = Field(None, title="D", gt=0, allow_inf_nan=False)
    """error in ln L where Huber's loss turns linear (default: 1.345 robust sd of the residuals;
    published language-model fits use 1e-3)"""
    floor: str | None = Field(None, title="FLOOR")
    """loss that no size and no data would remove: free, zero or a number (default: the law's own);
    where there is one, zero makes exponents too small"""
    weights: str = Field("none", title="NAME")
    """none, run (every run counts the same) or column"""
    cluster: str = Field("run", title="NAME")
    """what is independent: run (checkpoints of one run are not), config (all seeds of a size
    together), seed or none"""
    interval: str = Field("auto", title="NAME")
    """auto, jackknife (delete each run in turn), bootstrap (resample runs) or none"""
    resamples: int = Field(1000, ge=2, description="draws of the bootstrap")
    level: float = Field(0.95, title="P", gt=0, lt=1, description="probability of the intervals")
    seed: int = Field(0, description="of the bootstrap and of permutations")


class OutputOptions(Settings):
    """Where results go."""

    json_out: str | None = Field(None, title="OUT")
    """write the result as JSON; - prints only the JSON to standard output"""
    figure: str | None = Field(None, title="OUT", description="draw it: .png, .svg or .pdf")


class Fit(Settings):
    """Options of ``forcelaw fit`` only."""

    x: str | None = Field(None, title="ROLE")
    """variable of a law in one variable: n, d, c or h"""
    fix: str = Field("", title="NAME=VALUE,...", description="hold parameters at values")
    factor: str | None = Field(None, title="COLUMN")
    """a column that changes along N in steps, e.g. depth: the law gets a free step there (law auto
    takes depth by itself; none: no steps)"""
    profile: bool = False
    """intervals by profile over runs as well, and the profile of the floor"""


class Compare(Settings):
    """Options of ``forcelaw compare`` only."""

    quantities: str = Field("", title="NAME,...")
    """what to test (default: exponents, a, gamma, floor)"""
    unpaired: bool = Field(False, description="do not use pairs of runs of one size, seed and data")
    windows: Literal["matched", "own"] = "matched"
    """two architectures are fitted on the ranges of N, D and cost that both cover, or each on all
    its rows"""
    permutations: int = Field(1999, ge=0)
    """draws of the permutation test in paired studies; 0: none"""
    x: str = Field("c", title="ROLE", description="cost of the frontier: c or h")


class Diagnose(Settings):
    """Options of ``forcelaw diagnose`` only."""

    x: str = Field("c", title="ROLE")
    """cost of the frontier, c or h; or the variable of a law in one variable"""
    factor: list[str] = Field([], title="COLUMN")
    """columns that change along N in steps (default: depth, where there is one)"""
    sweep: str | None = Field(None, title="FILTER")
    """rows of the table that are runs of learning-rate sweeps, e.g. "kind == 'sweep'": is the best
    rate inside them? They take no part in the fit"""


class Budget(Settings):
    """Options of ``forcelaw budget`` only."""

    flops: float | None = Field(None, title="C", gt=0, allow_inf_nan=False)
    """budget in training FLOPs"""
    hours: float | None = Field(None, title="H", gt=0, allow_inf_nan=False)
    """budget in device-hours"""
    device: str | None = Field(None, title="NAME", description="use only runs made on this device")
    unique: float | None = Field(None, title="U", gt=0, allow_inf_nan=False)
    """distinct data there are; more D means epochs"""
    beyond: float = Field(30.0, title="F", gt=0, allow_inf_nan=False)
    """most times the largest measured N and D that is answered"""
    cost: str | None = Field(None, title="COST")
    """compute by N and D, not by a column: 6nd, or a factor k of N D"""
    anyway: bool = False
    """give the number even where back-tests and diagnosis say no"""
    max_epochs: float = Field(4.0, title="E", gt=0, allow_inf_nan=False)
    """most passes that are planned where the table has no repeats"""


class Design(Settings):
    """Options of ``forcelaw design`` only."""

    quantity: str = Field("gamma", title="NAME", description="alpha, beta, gamma, a, E ...")
    target: str = Field(
        "",
        title="n=N,d=D",
        description="where the loss is to be known, e.g. n=1e7,d=1e9, instead of a quantity",
    )
    add: int = Field(3, ge=1, description="runs to add")
    pool: Path | None = Field(None, title="TABLE")
    """possible runs (columns n, d, and c in FLOPs): choose from these, for --target and within
    --budget"""
    budget: float | None = Field(None, title="C", gt=0, allow_inf_nan=False)
    """FLOPs that the runs of --pool may cost together"""
    cost: Literal["c", "h"] | None = None
    """count FLOPs or hours (default: hours if there are any)"""
    max_cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    """leave out candidates that cost more"""
    rank: Literal["per-cost", "gain"] = "per-cost"
    """take the run that shortens the interval most per cost (often a small one), or most whatever
    it costs"""
    copies: int = Field(200, ge=10, description="simulated copies")
