"""One figure for each command, as PNG, SVG or PDF, with a sentence under it that says what it shows."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from .result import FitResult
from .table import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .budgeting import Budget
    from .comparison import Comparison
    from .diagnosis import Diagnosis
    from .planning import Design

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
LABELS = {"n": "parameters N", "d": "data D", "u": "distinct data U", "c": "training FLOPs C", "h": "device-hours H"}
KINDS = (".png", ".svg", ".pdf")
MOST_POINTS = 5000  # drawn at most; a million points say no more


def check_path(path: str | Path) -> Path:
    """The path, if its suffix is a kind of figure and its folder can be made."""
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise FitError(f"figures of kind {path.suffix or 'without suffix'!r} are not written", where=str(path),
                       remedy=f"end the name in {', '.join(KINDS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _axes(count: int, wide: float = 4.6, high: float = 3.9) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide * count, high), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: str | Path, caption: str) -> Path:
    width = int(figure.get_figwidth() * 15)
    figure.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8, color="0.3")
    path = check_path(path)
    figure.savefig(path, dpi=160)
    return path


def _log(ax: Axes, which: str = "xy") -> None:
    """Logarithmic axes whose labels do not run into each other: 1, 2, 5 over short ranges, powers of ten over long ones."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in which:
        axis = ax.xaxis if name == "x" else ax.yaxis
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        low, high = sorted(ax.get_xlim() if name == "x" else ax.get_ylim())
        if high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("e+", "e")))
            axis.set_minor_formatter(NullFormatter())


def _some(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))


# -- fit -----------------------------------------------------------------------------------------------------------


def draw_fit(runs: Runs, result: FitResult, path: str | Path) -> Path:
    """Loss against each variable of the law with the law and its band, and measured against fitted losses."""
    roles = [role for role in result.law.roles if role != "u"]
    figure, axes = _axes(len(roles) + 1)
    for ax, role in zip(axes, roles):
        _against(ax, runs, result, role, [other for other in result.law.roles if other != role])
    _residuals(axes[-1], runs, result)
    shown = ", ".join(f"{name} = {result.parameters[name]}" for name in result.law.shapes if name in result.parameters)
    title = result.law.formula + (f"\n{shown}" if shown else "")
    figure.suptitle(title if result.ok else f"{title}\n{result.status}: {result.message}"[:200], fontsize=9)
    return _save(figure, path, "Left: each point is one evaluation of one run; lines are the fitted law, shading its "
                               f"{result.level:.0%} interval where runs, not checkpoints, count as independent. Right: relative "
                               "errors of the law; a slope or a bend there means that the law does not describe the runs.")


def _against(ax: Axes, runs: Runs, result: FitResult, role: str, others: list[str]) -> None:
    """Loss against ``role``; where the law has a second variable, one line and colour for each of a few of its levels."""
    x = runs[role]
    grid = np.geomspace(x.min(), x.max(), 80)
    some = _some(len(runs))
    if not others:
        ax.plot(x[some], runs["loss"][some], ".", color=COLOURS[0], ms=4, alpha=0.6)
        _band(ax, result, {role: grid}, grid, COLOURS[0])
    else:
        second = others[0]
        z = np.log(runs[second])
        marks = np.unique(np.quantile(z, [0.06, 0.36, 0.64, 0.94], method="nearest"))
        near = np.abs(z[:, None] - marks[None]).argmin(axis=1)
        half = min(np.diff(marks).min() / 3, 0.4) if len(marks) > 1 else 0.4
        for i, mark in enumerate(marks):
            colour = COLOURS[i % len(COLOURS)]
            part = some[(near[some] == i) & (np.abs(z[some] - mark) < half)]
            ax.plot(x[part], runs["loss"][part], ".", color=colour, ms=4, alpha=0.6)
            at = {role: grid, second: np.full_like(grid, np.exp(mark))}
            if "u" in result.law.roles and "u" not in at:
                at["u"] = at.get("d", grid)
            _band(ax, result, at, grid, colour, label=f"{LABELS.get(second, second).split()[-1]} = {np.exp(mark):.2g}")
        ax.legend(fontsize=7, frameon=False)
    floor = result.parameters.get(result.law.floor_name)
    if floor is not None and floor.value > 0:
        ax.axhline(floor.value, color="0.5", lw=0.8, ls=":")
    _log(ax)
    ax.set(xlabel=LABELS.get(role, role), ylabel="loss")


def _band(ax: Axes, result: FitResult, at: dict[str, np.ndarray], grid: np.ndarray, colour: str, label: str = "") -> None:
    band = result.interval("mean", **{role: at[role] for role in result.law.roles})
    ax.plot(grid, band.value, color=colour, lw=1.2, label=label or None)
    if np.isfinite(band.low).all():
        ax.fill_between(grid, band.low, band.high, color=colour, alpha=0.15, lw=0)


def _residuals(ax: Axes, runs: Runs, result: FitResult) -> None:
    here = {role: runs[role] for role in result.law.roles}
    fitted = result.predict(**here)
    some = _some(len(runs))
    ax.plot(fitted[some], 100 * (runs["loss"][some] / fitted[some] - 1), ".", ms=3, color=COLOURS[0], alpha=0.6)
    ax.axhline(0, color="0.3", lw=0.8)
    _log(ax, "x")
    ax.set(xlabel="fitted loss", ylabel="measured above fitted (%)")


# -- compare -------------------------------------------------------------------------------------------------------


def draw_compare(comparison: Comparison, path: str | Path) -> Path:
    """Exponents side by side with intervals, and compute multipliers of the pairs."""
    usable = {name: one for name, one in comparison.fits.items() if one.ok}
    names = [name for name in ("alpha", "beta", "a", "gamma") if usable and all(
        name in one.parameters or name in one.derived for one in usable.values())]
    with_multiplier = [one for one in comparison.pairs if one.multiplier is not None]
    figure, axes = _axes(2 if with_multiplier else 1, 5.2)
    for k, (group, one) in enumerate(usable.items()):
        for i, name in enumerate(names):
            value = one[name]
            y = i + (k - (len(usable) - 1) / 2) * 0.15
            if value.low is not None:
                axes[0].plot([value.low, value.high], [y, y], color=COLOURS[k % 7], lw=1.5)
            axes[0].plot(value.value, y, "o", color=COLOURS[k % 7], ms=5, label=group if i == 0 else None)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_xlabel("exponent")
    axes[0].legend(fontsize=8, frameon=False)
    if with_multiplier:
        for k, one in enumerate(with_multiplier):
            m = one.multiplier
            if len(m.loss):
                axes[1].plot(m.loss, m.multiplier, color=COLOURS[k % 7], label=f"{one.second} / {one.first}")
                good = np.isfinite(m.multiplier_low) & np.isfinite(m.multiplier_high)
                axes[1].fill_between(m.loss[good], m.multiplier_low[good], m.multiplier_high[good], color=COLOURS[k % 7],
                                     alpha=0.15, lw=0)
        axes[1].axhline(1, color="0.4", lw=0.8)
        _log(axes[1])
        axes[1].set(xlabel="loss", ylabel="compute needed, second over first")
        axes[1].invert_xaxis()
        if axes[1].get_legend_handles_labels()[1]:
            axes[1].legend(fontsize=8, frameon=False)
    return _save(figure, path, "Left: exponents with their intervals; overlap is not the test, the p values in the table are. "
                               "Right: how many times the compute the second architecture needs for the same loss; a line that "
                               "falls from left to right means that it gains as losses get lower.")


# -- diagnose ------------------------------------------------------------------------------------------------------


def draw_diagnose(diagnosis: Diagnosis, path: str | Path) -> Path:
    """Local exponents, stability of the exponent, held-out losses, and the profile of the floor."""
    checks = {check.name: check for check in diagnosis.checks}
    figure, axes = _axes(4, 3.9)
    _local(axes[0], checks.get("local exponents"))
    _stable(axes[1], [checks[name] for name in ("smallest sizes", "early checkpoints") if name in checks])
    _held(axes[2], checks.get("held-out budgets"))
    _profile(axes[3], diagnosis)
    figure.suptitle(f"{diagnosis.group + ': ' if diagnosis.group else ''}{diagnosis.verdict}", fontsize=11)
    return _save(figure, path, "From left: the slope of the frontier in windows should follow the dashed law; the exponent "
                 "should stand still when small sizes or early checkpoints are dropped; losses of held-out large budgets should "
                 "lie on the diagonal; and the floor is known as well as its profile is narrow (below the dotted line is its "
                 "interval).")


def _nothing(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, "\n".join(textwrap.wrap(text, 34)), ha="center", va="center", fontsize=8, color="0.4",
            transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])


def _local(ax: Axes, check: Any) -> None:
    if check is None or "x" not in check.data:
        _nothing(ax, check.detail if check is not None else "no cost column, so no frontier")
        return
    data = check.data
    ax.fill_between(data["x"], data["low"], data["high"], color=COLOURS[0], alpha=0.15, lw=0)
    ax.plot(data["x"], data["exponent"], "o-", color=COLOURS[0], ms=4, label="measured")
    ax.plot(data["x"], data["law"], "--", color=COLOURS[1], label="law")
    _log(ax, "x")
    ax.set(xlabel="compute", ylabel="local exponent of the loss")
    ax.legend(fontsize=8, frameon=False)


def _stable(ax: Axes, checks: list[Any]) -> None:
    rows = [row for check in checks for row in check.data.get("rows", []) if row["value"] is not None]
    rows = [row for i, row in enumerate(rows) if i == 0 or row["what"] != "everything"]
    if not rows:
        _nothing(ax, "too few runs to drop any")
        return
    for i, row in enumerate(rows):
        ax.plot(row["value"], i, "o", color=COLOURS[0] if row["p"] is None or row["p"] > 0.01 else COLOURS[1])
    ax.axvline(rows[0]["value"], color="0.5", lw=0.8, ls=":")
    ax.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(next(check.data["quantity"] for check in checks if "quantity" in check.data))


def _held(ax: Axes, check: Any) -> None:
    rows = [row for row in (check.data.get("rows", []) if check is not None else []) if "predicted" in row]
    if not rows:
        _nothing(ax, check.detail if check is not None else "nothing held out")
        return
    for k, row in enumerate(rows):
        gap = [np.maximum(row["predicted"] - row["low"], 0), np.maximum(row["high"] - row["predicted"], 0)]
        ax.errorbar(row["true"], row["predicted"], yerr=gap, fmt="o", ms=3, lw=0.8, color=COLOURS[k % 7],
                    label=f"above {row['cut']:.1e}")
    low, high = (f([f(np.r_[row["true"], row["predicted"]]) for row in rows]) for f in (np.min, np.max))
    ax.plot([low, high], [low, high], color="0.4", lw=0.8)
    _log(ax)
    ax.set(xlabel="measured loss", ylabel="predicted from smaller budgets")
    ax.legend(fontsize=7, frameon=False)


def _profile(ax: Axes, diagnosis: Diagnosis) -> None:
    profile = diagnosis.profile
    if profile is None:
        _nothing(ax, "the floor was not fitted")
        return
    from scipy import stats

    limit = float(stats.t.ppf(0.5 + profile.level / 2, max(diagnosis.surface.n_runs - 1, 1)) ** 2)
    near = profile.statistic < 6 * limit
    ax.plot(profile.floor[near], profile.statistic[near], color=COLOURS[0])
    ax.axhline(limit, color="0.4", lw=0.8, ls=":")
    ax.set(xlabel="floor of the loss", ylabel="rise of the objective (t squared)")


# -- budget and design ---------------------------------------------------------------------------------------------


def draw_budget(budget: Budget, path: str | Path) -> Path:
    """Predicted loss of every architecture with both intervals, and its N and D."""
    usable = [one for one in budget.choices if one.ok]
    figure, axes = _axes(2, 5.0)
    for k, one in enumerate(usable):
        axes[0].plot([one.loss_low, one.loss_high], [k, k], color=COLOURS[k % 7], lw=1)
        axes[0].plot([one.loss_mean_low, one.loss_mean_high], [k, k], color=COLOURS[k % 7], lw=4, alpha=0.5)
        axes[0].plot(one.loss, k, "o", color=COLOURS[k % 7])
        axes[1].plot(one.n, one.d, "o", color=COLOURS[k % 7])
        axes[1].annotate(one.group or "all", (one.n, one.d), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes[0].set_yticks(range(len(usable)), [f"{one.group or 'all'} (P best {one.p_best:.2f})" for one in usable], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].margins(y=0.3)
    axes[0].locator_params(axis="x", nbins=5)
    axes[0].set_xlabel("predicted loss")
    axes[1].set(xscale="log", yscale="log", xlabel=LABELS["n"], ylabel=LABELS["d"])
    axes[1].margins(0.3)
    _log(axes[1])
    figure.suptitle(f"{budget.amount:.3g} {budget.unit}", fontsize=10)
    return _save(figure, path, "Left: the loss each architecture should reach with this budget; thick is how well the law is "
                 "known, thin is where one new run should fall. Right: the size and the data that reach it.")


def draw_design(design: Design, path: str | Path) -> Path:
    """What candidate runs would do for the interval, against their cost."""
    figure, axes = _axes(2, 4.8)
    cost = np.array([one.cost for one in design.candidates])
    gain = np.array([100 * one.gain for one in design.candidates])
    axes[0].plot(cost, gain, "o", color=COLOURS[0], ms=4)
    for one in design.additions[:1]:
        axes[0].plot(one.cost, 100 * one.gain, "o", color=COLOURS[1], ms=8, mfc="none")
    axes[0].axhline(0, color="0.4", lw=0.8)
    axes[0].set(xscale="log", xlabel=f"cost of the run ({design.unit})", ylabel="interval shorter by (%)")
    widths = [design.half_width, *(one.half_width for one in design.additions)]
    axes[1].plot(range(len(widths)), widths, "o-", color=COLOURS[1])
    axes[1].set(xlabel="runs added", ylabel=f"half-width of the interval of {design.quantity}", ylim=(0, None))
    axes[1].set_xticks(range(len(widths)))
    return _save(figure, path, "Left: each point is a run that could be added; the ring is the one that shortens the interval "
                 "most for its cost. Right: what is left of the interval as the chosen runs are added one by one.")
