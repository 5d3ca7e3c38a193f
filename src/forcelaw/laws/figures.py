"""One figure for each command, as PNG, SVG or PDF, with a sentence under it that says what it
shows."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from ..table.runs import Runs
from .fit.result import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .compare.compare import Comparison
    from .decide.budget import Budget
    from .decide.design import Design
    from .diagnose.diagnose import Diagnosis

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito
LABELS = {
    "n": "parameters N",
    "d": "data D (atoms or tokens)",
    "u": "distinct data U",
    "c": "training compute C (FLOPs)",
    "h": "device-hours H",
}
SYMBOLS = {"n": "N", "d": "D", "u": "U", "c": "C", "h": "H"}
GREEK = {
    "alpha": "α: loss against N",
    "beta": "β: loss against D",
    "gamma": "γ: loss against compute",
    "a": "a: best N against compute",
    "b": "b: best D against compute",
}
KINDS = (".png", ".svg", ".pdf")
MOST_POINTS = 5000  # drawn at most; a million points say no more


def check_path(path: str | Path) -> Path:
    """The path, if its suffix is a kind of figure and its folder can be made."""
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise FitError(
            f"figures of kind {path.suffix or 'without suffix'!r} are not written",
            where=str(path),
            remedy=f"end the name in {', '.join(KINDS)}",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FitError(
            f"the folder {path.parent} cannot be made: {error.strerror}",
            where=str(path),
            remedy="give another path",
        ) from error
    return path


def _axes(
    count: int, wide: float = 4.6, high: float = 3.9, *, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """``count`` panels a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide * count, high * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, count, squeeze=False).ravel())
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: str | Path, caption: str) -> Path:
    width = int(figure.get_figwidth() * 14)
    figure.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8.5, color="0.3")
    path = check_path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial, dpi=160)
    partial.replace(path)
    return path


def _log(ax: Axes, which: str = "xy") -> None:
    """Logarithmic axes whose labels do not run into each other: 1, 2, 5 over short ranges, powers
    of ten over long ones."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in which:
        axis = ax.xaxis if name == "x" else ax.yaxis
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        low, high = sorted(ax.get_xlim() if name == "x" else ax.get_ylim())
        if high / low < 100:
            axis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7))
            )
            axis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:.3g}".replace("e+", "e"))
            )
            axis.set_minor_formatter(NullFormatter())


def _some(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))


# -- fit -----------------------------------------------------------------------------------------


def draw_fit(runs: Runs, result: FitResult, path: str | Path) -> Path:
    """Loss against each variable of the law with the law and its band, and measured against fitted
    losses."""
    roles = [role for role in result.law.roles if role != "u"]
    figure, axes = _axes(len(roles) + 1, 4.9 if len(roles) > 1 else 4.6)
    for ax, role in zip(axes, roles):
        _against(ax, runs, result, role, [other for other in roles if other != role])
    _residuals(axes[-1], runs, result)
    shown = ", ".join(
        f"{name} = {result.parameters[name]}"
        for name in result.law.shapes
        if name in result.parameters
    )
    title = result.law.formula + (f"\n{shown}" if shown else "")
    figure.suptitle(
        title if result.ok else f"{title}\nNOT USABLE, {result.status}: {result.message}"[:200],
        fontsize=9.5,
        color="black" if result.ok else COLOURS[1],
    )
    banded = f", shading its {result.level:.0%} interval" if result.replicates is not None else ""
    return _save(
        figure,
        path,
        f"Left: each point is one evaluation of one run; lines are the fitted law{banded} (deleting"
        " whole runs, since checkpoints of one run are not"
        f" independent).{' Colour is the other variable.' if len(roles) > 1 else ''} Right: how far"
        " each loss is from the law; a slope or a bend there means that the law does not describe"
        " the runs.",
    )


def _against(ax: Axes, runs: Runs, result: FitResult, role: str, others: list[str]) -> None:
    """Loss against ``role``; a second variable of the law is the colour of points, and of lines at
    a few of its levels."""
    x = runs[role]
    grid = np.geomspace(x.min(), x.max(), 80)
    some = _some(len(runs))
    if not others:
        ax.plot(x[some], runs["loss"][some], ".", color=COLOURS[0], ms=4, alpha=0.6)
        _band(ax, result, _at(result, role, grid), grid, COLOURS[0])
    else:
        _coloured(ax, runs, result, role, others[0], grid, some)
    floor = result.parameters.get(result.law.floor_name)
    low = runs["loss"].min()
    if floor is not None and floor.value > 0.3 * low:  # a far floor would squash the points
        if floor.low is not None and floor.high is not None:
            ax.axhspan(max(floor.low, 0.3 * low), floor.high, color="0.5", alpha=0.12, lw=0)
        ax.axhline(floor.value, color="0.4", lw=0.8, ls=":")
        ax.annotate(
            f"floor {floor.value:.3g}",
            (1, floor.value),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color="0.3",
        )
    _log(ax)
    ax.set(xlabel=LABELS.get(role, role), ylabel="loss")


def _at(
    result: FitResult, role: str, grid: np.ndarray, **others: np.ndarray
) -> dict[str, np.ndarray]:
    """Where the law is drawn; data that are not repeated are all distinct."""
    at = {role: grid, **others}
    if "u" in result.law.roles:
        at.setdefault("u", at.get("d", grid))
    return at


def _coloured(
    ax: Axes,
    runs: Runs,
    result: FitResult,
    role: str,
    second: str,
    grid: np.ndarray,
    some: np.ndarray,
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    values, x = runs[second], runs[role]
    low, high = values.min(), values.max()
    scale = ScalarMappable(LogNorm(low, high if high > low else low * 1.01), colormaps["viridis"])
    levels = np.unique(np.quantile(values, [0.05, 0.3, 0.5, 0.7, 0.95], method="nearest"))
    ax.scatter(
        x[some], runs["loss"][some], s=9, c=scale.to_rgba(values[some]), alpha=0.8, lw=0, zorder=3
    )
    for level in levels:
        inside = x[
            np.abs(np.log(values / level)) < 0.7
        ]  # the line goes where such runs are, with some room
        line = grid if len(inside) < 2 else np.geomspace(inside.min(), inside.max(), 80)
        _band(
            ax,
            result,
            _at(result, role, line, **{second: np.full_like(line, level)}),
            line,
            scale.to_rgba(level),
        )
    bar = ax.figure.colorbar(scale, ax=ax, pad=0.01, fraction=0.045)
    bar.set_label(LABELS.get(second, second), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()
    if high / low < 10:
        ticks = np.geomspace(low, high, 4)
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])


def _band(
    ax: Axes, result: FitResult, at: dict[str, np.ndarray], grid: np.ndarray, colour: Any
) -> None:
    band = result.interval("mean", **{role: at[role] for role in result.law.roles})
    ax.plot(grid, band.value, color=colour, lw=1.2)
    if np.isfinite(band.low).all():
        ax.fill_between(grid, band.low, band.high, color=colour, alpha=0.2, lw=0)


def _residuals(ax: Axes, runs: Runs, result: FitResult) -> None:
    here = {role: runs[role] for role in result.law.roles}
    fitted = result.predict(**here)
    some = _some(len(runs))
    ax.plot(
        fitted[some],
        100 * (runs["loss"][some] / fitted[some] - 1),
        ".",
        ms=3,
        color=COLOURS[0],
        alpha=0.6,
    )
    ax.axhline(0, color="0.3", lw=0.8)
    wild = np.abs(runs["loss"] / fitted - 1) > 8 * max(
        result.diagnostics.get("residual_mad_sd") or np.inf, 1e-4
    )
    if wild.any() and not wild.mean() > 0.05:  # a few outliers must not hide the rest
        edge = 115 * np.abs(runs["loss"] / fitted - 1)[~wild].max()
        ax.set_ylim(-edge, edge)
        ax.annotate(
            f"{int(wild.sum())} point(s) outside, up to"
            f" {100 * np.abs(runs['loss'] / fitted - 1).max():.3g}%",
            (0.98, 0.98),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7,
            color="0.3",
        )
    _log(ax, "x")
    ax.set(xlabel="fitted loss", ylabel="measured above fitted (%)")


# -- compare -------------------------------------------------------------------------------------


def draw_compare(comparison: Comparison, path: str | Path) -> Path:
    """Exponents side by side with intervals, and compute multipliers of the pairs."""
    usable = {name: one for name, one in comparison.fits.items() if one.ok}
    names = [
        name
        for name in ("alpha", "beta", "a", "gamma")
        if usable and all(name in one.parameters or name in one.derived for one in usable.values())
    ]
    with_multiplier = [one for one in comparison.pairs if one.multiplier is not None]
    figure, axes = _axes(2 if with_multiplier else 1, 5.2)
    for k, (group, one) in enumerate(usable.items()):
        for i, name in enumerate(names):
            value = one[name]
            y = i + (k - (len(usable) - 1) / 2) * 0.15
            if value.low is not None:
                axes[0].plot([value.low, value.high], [y, y], color=COLOURS[k % 7], lw=1.5)
            axes[0].plot(
                value.value,
                y,
                MARKERS[k % 7],
                color=COLOURS[k % 7],
                ms=5,
                label=group if i == 0 else None,
            )
    axes[0].set_yticks(
        range(len(names)), [GREEK.get(name, name).replace(": ", "\n") for name in names], fontsize=8
    )
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    axes[0].set_xlabel(f"exponent, with its {comparison.level:.0%} interval")
    if usable:
        axes[0].legend(
            fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4
        )
    else:
        _nothing(axes[0], "no architecture has a usable fit")
    if with_multiplier:
        for k, one in enumerate(with_multiplier):
            m = one.multiplier
            if len(m.loss):
                axes[1].plot(
                    m.loss,
                    m.multiplier,
                    color=COLOURS[k % 7],
                    ls=("-", "--", ":", "-.")[k // 7 % 4],
                    label=f"{m.names[1]} / {m.names[0]}",
                )
                good = np.isfinite(m.multiplier_low) & np.isfinite(m.multiplier_high)
                axes[1].fill_between(
                    m.loss[good],
                    m.multiplier_low[good],
                    m.multiplier_high[good],
                    color=COLOURS[k % 7],
                    alpha=0.15,
                    lw=0,
                )
        axes[1].axhline(1, color="0.4", lw=0.8)
        _log(axes[1])
        axes[1].set(
            xlabel="loss (better to the right)",
            ylabel="compute for the same loss,\nfirst named / second named",
        )
        axes[1].invert_xaxis()
        if axes[1].get_legend_handles_labels()[1]:
            axes[1].legend(
                fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3
            )
    return _save(
        figure,
        path,
        "Left: exponents with their intervals; overlap is not the test, the p values in the table"
        " are. Right: how many times the compute of the second named architecture the first needs"
        " for the same loss, above one more and below one less, with its interval; a line that"
        " falls from left to right means that the first gains as losses get lower.",
    )


# -- diagnose ------------------------------------------------------------------------------------


def draw_diagnose(diagnosis: Diagnosis, path: str | Path) -> Path:
    """Local exponents, stability of the exponent, held-out losses, and the profile of the floor."""
    checks = {check.name: check for check in diagnosis.checks}
    figure, axes = _axes(2, 4.6, 3.5, rows=2)
    _local(axes[0], checks.get("local exponents"))
    _stable(
        axes[1],
        [checks[name] for name in ("smallest sizes", "early checkpoints") if name in checks],
        diagnosis,
    )
    _held(axes[2], checks.get("held-out budgets"))
    _profile(axes[3], diagnosis)
    words = {True: "passed", False: "FAILED", None: "cannot say"}
    for ax, title, names in (
        (axes[0], "slope along the frontier", ["local exponents"]),
        (axes[1], "stability", ["smallest sizes", "early checkpoints"]),
        (axes[2], "held-out budgets", ["held-out budgets"]),
        (axes[3], "floor", []),
    ):
        found = [checks[name].passed for name in names if name in checks]
        worst = False if False in found else True if True in found else None
        ax.set_title(
            title + (f": {words[worst]}" if found else ""),
            fontsize=9,
            color=COLOURS[1] if worst is False else "black",
        )
    title = f"{diagnosis.group + ': ' if diagnosis.group else ''}{diagnosis.verdict}"
    reasons = [line for reason in diagnosis.reasons[:3] for line in textwrap.wrap(reason, 110)[:2]]
    figure.suptitle("\n".join([title, *reasons]), fontsize=9.5)
    return _save(
        figure,
        path,
        "Top: the slope of the frontier in windows should follow the dashed law, and the exponent"
        " should stay in the shading (its interval from everything) when small sizes or early"
        " checkpoints are dropped. Bottom: losses of held-out large budgets should lie on the"
        " diagonal, and the floor is known as well as its profile is narrow (shaded: its interval,"
        " below the dotted line).",
    )


def _nothing(ax: Axes, text: str) -> None:
    ax.text(
        0.5,
        0.5,
        "\n".join(textwrap.wrap(text, 34)),
        ha="center",
        va="center",
        fontsize=8,
        color="0.4",
        transform=ax.transAxes,
    )
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
    seen = np.r_[data["exponent"], data["law"]]
    room = 1.5 * np.ptp(seen) + 0.2 * np.abs(seen).max()
    low, high = ax.get_ylim()
    ax.set_ylim(
        max(low, seen.min() - room), min(high, seen.max() + room)
    )  # a window of few runs has a band without end
    _log(ax, "x")
    ax.set(xlabel=LABELS["c"], ylabel="local exponent −d ln L / d ln C")
    ax.legend(fontsize=8, frameon=False)


def _stable(ax: Axes, checks: list[Any], diagnosis: Diagnosis) -> None:
    rows = [
        row for check in checks for row in check.data.get("rows", []) if row["value"] is not None
    ]
    rows = [row for i, row in enumerate(rows) if i == 0 or row["what"] != "everything"]
    if not rows:
        _nothing(ax, "too few runs to drop any")
        return
    for i, row in enumerate(rows):
        moved = row["p"] is not None and row["p"] <= 0.01
        ax.plot(
            row["value"],
            i,
            "X" if moved else "o",
            color=COLOURS[1] if moved else COLOURS[0],
            label="moved (p < 0.01)" if moved else None,
        )
    ax.axvline(rows[0]["value"], color="0.5", lw=0.8, ls=":")
    quantity = next(check.data["quantity"] for check in checks if "quantity" in check.data)
    whole = {**diagnosis.surface.parameters, **diagnosis.surface.derived}.get(quantity)
    if whole is not None and whole.low is not None and whole.high is not None:
        ax.axvspan(whole.low, whole.high, color=COLOURS[0], alpha=0.12, lw=0)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(handles[:1], labels[:1], fontsize=7, frameon=False)
    ax.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(f"exponent {quantity}, with parts left out")


def _held(ax: Axes, check: Any) -> None:
    rows = [
        row
        for row in (check.data.get("rows", []) if check is not None else [])
        if "predicted" in row
    ]
    if not rows:
        _nothing(ax, check.detail if check is not None else "nothing held out")
        return
    for k, row in enumerate(rows):
        gap = [
            np.maximum(row["predicted"] - row["low"], 0),
            np.maximum(row["high"] - row["predicted"], 0),
        ]
        ax.errorbar(
            row["true"],
            row["predicted"],
            yerr=gap,
            fmt="o",
            ms=3,
            lw=0.8,
            color=COLOURS[k % 7],
            label=f"budgets above {row['cut']:.1e}",
        )
    low, high = (
        f([f(np.r_[row["true"], row["predicted"]]) for row in rows]) for f in (np.min, np.max)
    )
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
    if np.isfinite([profile.low, profile.high]).all():
        ax.axvspan(profile.low, profile.high, color=COLOURS[0], alpha=0.12, lw=0)
    ax.set_ylim(0, None)
    ax.axhline(limit, color="0.4", lw=0.8, ls=":")
    ax.locator_params(axis="x", nbins=5)
    ax.set(xlabel="floor of the loss", ylabel="rise of the objective (t²)")


# -- budget and design ---------------------------------------------------------------------------


def draw_budget(budget: Budget, path: str | Path, runs: Runs | None = None) -> Path:
    """Predicted loss of every architecture with both intervals, and its N and D beside the runs of
    the table."""
    usable = [one for one in budget.choices if one.ok]
    figure, axes = _axes(2, 5.0, max(3.6, 1.6 + 0.35 * len(usable)))
    for k, one in enumerate(usable):
        line = {
            "color": COLOURS[k % 7],
            "solid_capstyle": "butt",
        }  # other caps would make the thick line longer
        axes[0].plot([one.loss_low, one.loss_high], [k, k], lw=1.5, **line)
        axes[0].plot([one.loss_mean_low, one.loss_mean_high], [k, k], lw=6, alpha=0.4, **line)
        axes[0].plot(one.loss, k, MARKERS[k % 7], color=COLOURS[k % 7])
        axes[1].plot(one.n, one.d, MARKERS[k % 7], color=COLOURS[k % 7], ms=8, zorder=4)
        axes[1].annotate(
            one.group or "this budget",
            (one.n, one.d),
            xytext=(7, 4),
            textcoords="offset points",
            fontsize=8,
        )
        if runs is not None and "d" in runs and "n" in runs:
            mine = (
                runs.take(runs.group == runs.group_names.index(one.group))
                if one.group in runs.group_names
                else runs
            )
            last = mine.select(last=True)
            some = _some(len(last))
            axes[1].plot(
                last["n"][some],
                last["d"][some],
                MARKERS[k % 7],
                color=COLOURS[k % 7],
                ms=3,
                alpha=0.35,
            )
    axes[0].set_yticks(
        range(len(usable)),
        [f"{one.group or 'all'}\nP(best) {one.p_best:.2f}" for one in usable],
        fontsize=8,
    )
    axes[0].set_ylim(len(usable) - 0.4, -0.6)
    axes[0].locator_params(axis="x", nbins=5)
    axes[0].set_xlabel("predicted loss")
    axes[1].set(xscale="log", yscale="log")
    axes[1].margins(0.15)
    _log(axes[1])
    axes[1].set(xlabel=LABELS["n"], ylabel=LABELS["d"])
    beyond = max((one.extrapolation.get("budget", 0.0) for one in usable), default=0.0)
    far = (
        f", up to {beyond:.3g} times the largest measured"
        if beyond > 1.05
        else ", within what was measured"
    )
    figure.suptitle(f"budget: {budget.amount:.3g} {budget.unit}{far}", fontsize=10)
    return _save(
        figure,
        path,
        "Left: the loss each architecture should reach with this budget; thick is how well the law"
        f" is known, thin is where one new run should fall ({budget.level:.0%}). Right: the size"
        " and the data that reach it (large) beside where the runs of the table ended (small): the"
        " further away, the more it extrapolates.",
    )


def draw_design(design: Design, path: str | Path) -> Path:
    """What candidate runs would do for the interval, against their cost."""
    figure, axes = _axes(2, 4.8)
    cost = np.array([one.cost for one in design.candidates])
    gain = np.array([100 * one.gain for one in design.candidates])
    kinds = list(dict.fromkeys(one.kind.split(",")[0] for one in design.candidates))
    for k, kind in enumerate(sorted(kinds)):
        mine = np.array([one.kind.split(",")[0] == kind for one in design.candidates])
        axes[0].plot(
            cost[mine],
            gain[mine],
            MARKERS[k % 7],
            color=(*COLOURS[:1], *COLOURS[2:])[k % 6],
            ms=4,
            label=kind,
        )
    for one in design.additions[:1]:
        axes[0].plot(
            one.cost,
            100 * one.gain,
            "o",
            color=COLOURS[1],
            ms=10,
            mew=1.8,
            mfc="none",
            label="chosen first",
        )
    axes[0].legend(
        fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3
    )
    axes[0].axhline(0, color="0.4", lw=0.8)
    axes[0].set(
        xscale="log", xlabel=f"cost of the run ({design.unit})", ylabel="interval shorter by (%)"
    )
    widths = [design.half_width, *(one.half_width for one in design.additions)]
    axes[1].plot(range(len(widths)), widths, "o-", color=COLOURS[1])
    text = "\n".join(
        f"{i}: N = {one.n:.2g}, D = {one.d:.2g}" for i, one in enumerate(design.additions[:12], 1)
    )
    axes[1].text(
        0.97,
        0.97,
        text or "no run helps",
        transform=axes[1].transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color="0.3",
    )
    axes[1].set(
        xlabel="runs added",
        ylabel=f"half-width of the interval of {design.quantity}",
        ylim=(0, 1.35 * max(widths)),
    )
    axes[1].set_xticks(range(len(widths)))
    axes[1].set_xlim(-0.4, len(widths) - 0.4)
    figure.suptitle(
        f"{design.group + ': ' if design.group else ''}which runs would tell {design.quantity}"
        " better?",
        fontsize=10,
    )
    most = "most for its cost" if design.rank == "per-cost" else "most, whatever it costs"
    return _save(
        figure,
        path,
        "Left: each point is a run that could be added; the ring is the one that shortens the"
        f" interval {most} (points just below zero are noise of the simulation). Right: what is"
        " left of the interval as the chosen runs are added one by one.",
    )
