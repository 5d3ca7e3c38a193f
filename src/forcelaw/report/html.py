"""The page: one self-contained HTML file that opens offline and asks nothing of the network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..elements import MAX_Z, SYMBOLS
from ..figures import plotly as draw_plotly
from ..figures.spec import Figure, decimal, names, pretty
from ..figures.style import DARK, Look
from ..progress import duration
from ..store.runs import COUNTED
from . import summary as words
from . import tables
from .figures_laws import is_trend
from .paper import CITATION
from .results import Analysis

# Outlines in a 14 x 14 box for the symbols of style.SYMBOLS
MARKS = {
    "circle": "M7 2a5 5 0 1 0 .01 0z",
    "square": "M2.5 2.5h9v9h-9z",
    "diamond": "M7 .8 13.2 7 7 13.2 .8 7z",
    "triangle-up": "M7 1.5 13 12.2H1z",
    "star": "M7 .6l1.9 4.2 4.6.5-3.4 3.1.9 4.5L7 10.6l-4 2.3.9-4.5L.5 5.3l4.6-.5z",
    "cross": "M5 1h4v4h4v4H9v4H5V9H1V5h4z",
    "x": "M3.5 1 7 4.5 10.5 1 13 3.5 9.5 7l3.5 3.5-2.5 2.5L7 9.500 3.5 13 1 10.5 4.5 7 1 3.5z",
    "triangle-down": "M7 12.5 1 1.800h12z",
    "pentagon": "M7 1l6 4.400-2.300 7.100H3.300L1 5.400z",
    "hexagon": "M4 1.800h6L13 7l-3 5.200H4L1 7z",
}


def _mark(look: Look) -> Any:
    from markupsafe import Markup

    outline = MARKS.get(look.symbol, MARKS["circle"])
    return Markup(
        f'<svg class="mark" viewBox="0 0 14 14" aria-hidden="true" style="color:{look.colour}"'
        f' data-light="{look.colour}" data-dark="{look.dark}"><path fill="currentColor"'
        f' d="{outline}"/></svg>'
    )


def _script(value: Any) -> Any:
    """JSON that may stand inside a script element: no text in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(
        text.replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def render(analysis: Analysis, figures: Sequence[Figure]) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shell"] = shlex.quote
    study = analysis.source.study
    steps = sorted({row["burn_in_steps"] for row in analysis.burn_in_effect})
    return environment.get_template("template.html.j2").render(
        analysis=analysis,
        title=analysis.name,
        description=study.get("description", ""),
        version=__version__,
        created=str(study.get("created") or "")[:10],
        headline=words.headline(analysis),
        tiles=words.tiles(analysis),
        exponent_words=words.exponent_words(analysis),
        paper_words=words.paper_words(analysis),
        difference_words=words.difference_words(analysis),
        scope_words=words.scope_words(analysis),
        citation=CITATION,
        pretty=pretty,
        decimal=decimal,
        pvalue=lambda p: "< 0.001" if p < 0.001 else f"{p:.2g}",
        mark=_mark,
        chips=analysis.architectures,
        figures={f.name: _page_figure(f, i) for i, f in enumerate(figures)},
        equal=_equal(analysis),
        columns=[{"key": key, "heading": heading} for key, _, _, heading, _ in tables.COLUMNS],
        exponent_rows=_exponent_rows(analysis),
        grouped_reasons=tables.grouped_reasons(analysis),
        names=names,
        term_rows=_term_rows(analysis),
        regimes=[(arch.label, arch.regime) for arch in analysis.architectures if arch.regime],
        prospects=_prospects(analysis),
        regime_notes=words.regime_words(analysis),
        budget_words=words.budget_words(analysis),
        floor_rows=_floor_rows(analysis),
        route_rows=_route_rows(analysis),
        route_notes=_route_notes(analysis),
        suggestions=[
            (arch.look, arch.label, arch.suggestion)
            for arch in analysis.architectures
            if arch.suggestion
        ],
        table_name=_table_name(analysis),
        selection=_selection(analysis),
        checks=_checks(analysis),
        burn_steps=steps,
        burn_rows=_burn_rows(analysis, steps),
        provenance=provenance(analysis),
        command=str(study.get("command") or ""),
        dark_colours=_script(
            DARK | {arch.look.colour: arch.look.dark for arch in analysis.architectures}
        ),
        figure_data=_script([draw_plotly.draw(figure) for figure in figures]),
        plotly=Markup(get_plotlyjs()),
    )


def _page_figure(figure: Figure, index: int) -> dict[str, Any]:
    forest = any(panel.categories is not None for panel in figure.panels)
    rows = max((len(panel.categories or []) for panel in figure.panels), default=0)
    count = len(figure.panels)
    return {
        "index": index,
        "name": figure.name,
        "title": figure.title,
        "explain": figure.explain,
        "key": figure.key,
        "notes": figure.notes,
        "panels": figure.panels,
        "forest": forest,
        "forest_height": 64 + 46 * rows,
        "columns": count if count < 3 or forest else 3,
    }


def _equal(analysis: Analysis) -> list[dict[str, Any]]:
    out = []
    for attribute, unit in (("frontier_c", "FLOPs"), ("frontier_h", "hours")):
        levels = words.equal_compute(analysis, attribute)
        for level in levels if len(levels) and len(levels[0]["losses"]) > 1 else []:
            known = [loss for loss in level["losses"].values() if loss is not None]
            budget = (
                f"{pretty(level['x'], 2)} FLOPs" if unit == "FLOPs" else duration(3600 * level["x"])
            )
            out.append({**level, "budget": budget, "best": min(known) if known else None})
    return out


def _exponent_rows(analysis: Analysis) -> list[dict[str, Any]]:
    rows = []
    for arch in analysis.architectures:
        cells = [
            {
                "key": key,
                "value": tables.estimate(arch, source, name),
                "trend": is_trend(arch, source),
                "paper": getattr(arch.paper, paper) if paper and arch.paper else None,
            }
            for key, source, name, _, paper in tables.COLUMNS
        ]
        rows.append(
            {
                "label": arch.label,
                "look": arch.look,
                "symmetry": arch.symmetry,
                "runs": arch.runs,
                "sizes": len(arch.sizes),
                "cells": cells,
                "verdict": arch.verdict,
                "verdict_text": tables.VERDICTS[arch.verdict],
            }
        )
    return rows


TERM_COLUMNS = ("alpha", "beta", "gamma")


def _term_rows(analysis: Analysis) -> list[dict[str, Any]]:
    rows = []
    for arch in analysis.architectures:
        if not arch.runs:
            continue
        best = arch.frame.sort("loss").row(0, named=True)
        rows.append(
            {
                "label": arch.label,
                "look": arch.look,
                "cells": [
                    arch.term_surfaces[term].get(name)
                    for term in arch.term_surfaces
                    for name in TERM_COLUMNS
                ],
                "energy_mae": best["energy_mae"],
                "force_mae": best["force_mae"],
            }
        )
    return rows


def _prospects(analysis: Analysis) -> dict[str, Any]:
    """Budgets, and for each architecture what they would buy."""
    budgets = sorted({one.flops for one in analysis.prospects})
    rows = []
    for arch in analysis.architectures:
        mine = {one.flops: one for one in analysis.prospects if one.label == arch.label}
        if mine:
            rows.append(
                {
                    "label": arch.label,
                    "look": arch.look,
                    "trend": bool(arch.trend),
                    "cells": [mine.get(flops) for flops in budgets],
                }
            )
    best = [
        min(
            (one.loss.value for one in analysis.prospects if one.flops == flops and one.told),
            default=None,
        )
        for flops in budgets
    ]
    return {"budgets": budgets, "rows": rows, "best": best}


def _floor_rows(analysis: Analysis) -> list[dict[str, Any]]:
    rows = []
    for arch in analysis.architectures:
        floor = arch.surface.get("E")
        if arch.profile is not None and floor is not None:
            rows.append(
                {
                    "label": arch.label,
                    "look": arch.look,
                    "value": floor.value,
                    "profile": arch.profile,
                }
            )
    return rows


ROUTES = ("surface", "frontier", "iso-FLOP")


def _route_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """a and b by each route, with the reason where there is none or it is a trend only."""
    rows = []
    for arch in analysis.architectures:
        by = {route.method: route for route in arch.routes}
        if by:
            cells = [(getattr(by[name], key) if name in by else None, by[name].reason if name in by else "no FLOPs")
                     for key in ("a", "b") for name in ROUTES]  # fmt: skip
            rows.append({"label": arch.label, "look": arch.look, "cells": cells})
    return rows


def _route_notes(analysis: Analysis) -> dict[str, list[str]]:
    """Reasons of the routes, each with the architectures that it holds for."""
    out: dict[str, list[str]] = {}
    for arch in analysis.architectures:
        for route in arch.routes:
            if route.reason:
                out.setdefault(f"{route.method}: {route.reason}", []).append(arch.label)
    return out


def _table_name(analysis: Analysis) -> str:
    """What a reader would give to a command, from the directory above the study; never a path of
    this machine."""
    source = analysis.source
    folder = source.path.resolve().name
    return shlex.quote(folder if source.origin.name == "runs" else f"{folder}/{source.origin.name}")


def _selection(analysis: Analysis) -> str:
    """Options that give a command the runs that this page is about, as far as a filter can."""
    frame = analysis.source.frame
    parts = ["kind != 'sweep'"] if "sweep" in frame["kind"].to_list() else []
    counted = [f"'{status}'" for status in COUNTED if status in frame["status"].to_list()]
    if frame["status"].n_unique() > len(counted):
        parts.append(
            f"status in ({', '.join(counted)})"
            if len(counted) > 1
            else f"status == {''.join(counted)}"
        )
    where = f'--where "{" and ".join(parts)}" ' if parts else ""
    steps = analysis.burn_in_steps if len(frame["step"].drop_nulls()) else 0
    return f"{where}--burn-in-steps {steps}"


# check of the laws -> the question that it asks
QUESTIONS = {
    "range": "Is the range of compute wide enough?",
    "optimum inside grid": "Does the best size lie inside the sizes that were tried?",
    "local exponents": "Does the slope follow the law all along the frontier?",
    "two gammas": "Do frontier and surface give the same γ?",
    "curvature": "Are the residuals free of bends?",
    "smallest sizes": "Does γ stand still without the smallest sizes?",
    "early checkpoints": "Does γ stand still without the early part of the runs?",
    "held-out budgets": "Do small budgets predict the large ones?",
    "lack of fit": "Do sizes miss the law by no more than seeds differ?",
}
ANSWERS = {True: ("yes", "yes"), False: ("no", "no"), None: ("unsure", "cannot say")}


def _checks(analysis: Analysis) -> dict[str, Any]:
    """A matrix of questions and architectures; what failed, with its remedy; everything in
    words."""
    asked = [arch for arch in analysis.architectures if arch.checks]
    order = list(dict.fromkeys(check.name for arch in asked for check in arch.checks))
    rows = []
    for name in order:
        found = [next((c for c in arch.checks if c.name == name), None) for arch in asked]
        rows.append(
            {
                "question": QUESTIONS.get(name, name),
                "cells": [c and ANSWERS[c.passed] for c in found],
            }
        )
    words_ = [
        (arch.label, QUESTIONS.get(c.name, c.name), ANSWERS[c.passed], c.text, c.remedy)
        for arch in asked
        for c in arch.checks
    ]
    notes = [(arch.label, note) for arch in asked for note in arch.notes]
    failed: dict[tuple[str, str], list[str]] = {}
    for label, _, answer, text, remedy in words_:
        if answer[0] == "no":
            failed.setdefault((text, remedy), []).append(label)
    return {
        "labels": [arch.label for arch in asked],
        "rows": rows,
        "words": words_,
        "notes": notes,
        "failed": [(names(labels), text, remedy) for (text, remedy), labels in failed.items()],
    }


def _burn_rows(analysis: Analysis, steps: list[int]) -> list[tuple[str, list[Any]]]:
    out = []
    for arch in analysis.architectures:
        mine = {
            row["burn_in_steps"]: row["gamma"]
            for row in analysis.burn_in_effect
            if row["label"] == arch.label
        }
        if mine:
            out.append((arch.label, [mine.get(step) for step in steps]))
    return out


def provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """What made the page, as (name, text): data, versions, table."""
    study = analysis.source.study
    out: list[tuple[str, str]] = []
    if study.get("name"):
        out.append(("study", str(study["name"])))
    if study.get("created"):
        out.append(("created", str(study["created"])))
    data = study.get("data") or {}
    if isinstance(data, dict):
        out += [(f"data: {name}", text) for name, text in _flat(data)]
    versions = study.get("versions") or {}
    if isinstance(versions, dict) and versions:
        out.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    devices = [
        d for d in analysis.source.frame["device"].drop_nulls().unique().sort().to_list() if d
    ]
    if devices:
        out.append(("devices", ", ".join(devices)))
    out.append(
        (
            "runs",
            ", ".join(f"{count} {status}" for status, count in analysis.counts.items()) or "none",
        )
    )
    out.append(
        ("table", f"{analysis.source.origin.name}, {len(analysis.source.frame)} evaluations")
    )
    out.append(("burn-in", f"{analysis.burn_in_steps} steps"))
    if not study:
        out.append(("study.json", "not there: this page was made from the table alone"))
    return out


def _flat(value: dict[str, Any], head: str = "") -> list[tuple[str, str]]:
    """Nested values as "outer inner: text"; lists on one line."""
    out = []
    for name, item in value.items():
        label = f"{head}{str(name).replace('_', ' ')}"
        if isinstance(item, dict):
            out += _flat(item, f"{label} ")
        elif (
            isinstance(item, list)
            and name == "elements"
            and all(isinstance(z, int) and 0 < z <= MAX_Z for z in item)
        ):
            out.append((label, ", ".join(SYMBOLS[z] for z in item)))
        elif isinstance(item, list):
            out.append(
                (
                    label,
                    ", ".join(str(entry) for entry in item[:40]) + (" …" if len(item) > 40 else ""),
                )
            )
        elif isinstance(item, float):
            out.append((label, f"{item:.6g}"))
        elif isinstance(item, int) and not isinstance(item, bool):
            out.append((label, f"{item:,}"))
        elif item is not None:
            out.append((label, str(item)))
    return out
