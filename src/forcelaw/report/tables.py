"""Tables: CSV files for a paper, the exponent table in Markdown and for the terminal."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..figures.spec import interval_text
from .figures_laws import exponent
from .repeated_data import repeated_runs
from .results import Analysis, ArchitectureResult, Estimate
from .summary import equal_compute

# (key in exponents.csv, where it comes from, name there, heading, attribute of the paper's numbers)
COLUMNS: list[tuple[str, str, str, str, str | None]] = [
    ("gamma_c", "frontier_c", "gamma", "γ FLOPs", "gamma_c"),
    ("gamma_surface", "surface", "gamma", "αβ/(α+β)", None),
    ("gamma_h", "frontier_h", "gamma", "γ hours", "gamma_h"),
    ("alpha", "surface", "alpha", "α params", "alpha"),
    ("beta", "surface", "beta", "β data", "beta"),
    ("a", "optimum", "a", "a: N* ~ C^a", None),
    ("b", "optimum", "b", "b: D* ~ C^b", None),
    ("floor", "surface", "E", "floor E", None),
]
VERDICTS = {"holds": "holds", "trend": "a trend, not an exponent", "none": "cannot carry a fit"}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def estimate(arch: ArchitectureResult, source: str, name: str) -> Estimate | None:
    """One number of the exponent table; None where its fit was refused."""
    if source == "optimum":
        return arch.allocation.fitted.get(name)
    return exponent(arch, name, source)


def exponent_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """One row for each architecture: every exponent with its interval, the paper's beside it, and
    the verdict."""
    rows = []
    for arch in analysis.architectures:
        row: dict[str, Any] = {
            "architecture": arch.label,
            "symmetry": arch.symmetry,
            "runs": arch.runs,
            "sizes": len(arch.sizes),
            "seeds": arch.seeds,
        }
        for key, source, name, _, paper in COLUMNS:
            value = estimate(arch, source, name)
            row |= {
                key: value.value if value else None,
                f"{key}_low": value.low if value else None,
                f"{key}_high": value.high if value else None,
            }
            if paper:
                row[f"{key}_paper"] = getattr(arch.paper, paper) if arch.paper else None
        row |= {
            "kappa": arch.kappa.value if arch.kappa else None,
            "kappa_paper": arch.paper.kappa if arch.paper else None,
            "decades_c": arch.frontier_c.decades,
            "verdict": VERDICTS[arch.verdict],
            "reasons": "; ".join(reasons(arch)),
        }
        rows.append(row)
    return rows


def reasons(arch: ArchitectureResult) -> list[str]:
    """Why the numbers are missing or a trend only."""
    out = list(arch.trend)
    for what, fitted in (("surface", arch.surface), ("frontier", arch.frontier_c.fitted)):
        if not fitted.ok and fitted.reason:
            out.append(f"{what}: cannot carry a fit: {fitted.reason}")
    return out


def grouped_reasons(analysis: Analysis) -> dict[str, list[str]]:
    """Reason -> the architectures that it holds for, so that one reason is said once."""
    out: dict[str, list[str]] = {}
    for arch in analysis.architectures:
        for reason in reasons(arch):
            out.setdefault(reason, []).append(arch.label)
    return out


def markdown(analysis: Analysis) -> str:
    """The exponent table in Markdown: value [95% interval], the paper's number in brackets after
    it."""
    head = ["architecture", "runs", *[heading for *_, heading, _ in COLUMNS], "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arch in analysis.architectures:
        cells = [arch.label, str(arch.runs)]
        for _, source, name, _, paper in COLUMNS:
            text = interval_text(estimate(arch, source, name), 3)
            if paper and arch.paper and getattr(arch.paper, paper) is not None:
                text += f" (paper {getattr(arch.paper, paper):.2f})"
            cells.append(text)
        lines.append("| " + " | ".join([*cells, VERDICTS[arch.verdict]]).replace("\n", " ") + " |")
    notes = [
        f"* {arch.label}: {reason}" for arch in analysis.architectures for reason in reasons(arch)
    ]
    text = "\n".join(lines) + "\n\nValue [95% interval]. "
    text += f"Burn-in: evaluations before step {analysis.burn_in_steps} are left out.\n"
    return text + ("\n" + "\n".join(notes) + "\n" if notes else "")


def terminal(analysis: Analysis) -> str:
    """The compact exponent table that `forcelaw report` prints."""
    columns = [
        ("gamma_c", "gamma (FLOPs)"),
        ("gamma_h", "gamma (hours)"),
        ("alpha", "alpha"),
        ("beta", "beta"),
    ]
    by_key = {key: (source, name, paper) for key, source, name, _, paper in COLUMNS}
    table = [["architecture", "runs", *[heading for _, heading in columns], "verdict"]]
    for arch in analysis.architectures:
        row = [arch.label, str(arch.runs)]
        for key, _ in columns:
            source, name, _ = by_key[key]
            row.append(interval_text(estimate(arch, source, name), 2))
        table.append([*row, VERDICTS[arch.verdict]])
        if arch.paper:
            quoted = [getattr(arch.paper, by_key[key][2]) for key, _ in columns]
            table.append(
                ["  paper", "", *["" if value is None else f"{value:.2f}" for value in quoted], ""]
            )
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _safe(value: Any) -> Any:
    """A spreadsheet would run a cell that starts like a formula; numbers are left alone."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return "'" + value
    return value


def write_csv(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
    """Rows as CSV; a header even when there is no row."""
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(
                ["" if row.get(key) is None else _safe(row.get(key)) for key in columns]
            )
    return path


COMPARED = [
    "first",
    "second",
    "quantity",
    "value",
    "low",
    "high",
    "p_holm",
    "at_loss",
    "at_compute",
    "paired_runs",
]


def comparison_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Differences of exponents (second minus first) and compute multipliers (second / first), one a
    row."""
    rows = []
    for one in analysis.comparisons:
        head = {"first": one.first, "second": one.second, "paired_runs": one.pairs}
        for name, test in one.tests.items():
            value = test.difference
            rows.append(
                {
                    **head,
                    "quantity": name,
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "p_holm": test.p,
                }
            )
        if one.multiplier is not None:
            value = one.multiplier
            rows.append(
                {
                    **head,
                    "quantity": "compute at equal loss",
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "at_loss": one.at_loss,
                }
            )
        if one.ratio is not None:
            value = one.ratio
            row = {
                "quantity": "loss at equal compute",
                "value": value.value,
                "low": value.low,
                "high": value.high,
            }
            rows.append({**head, **row, "at_compute": one.at_compute})
    return rows


def extra_rows(analysis: Analysis) -> dict[str, list[dict[str, Any]]]:
    """Tables of the floors, of the three routes to the best size, of larger budgets and of runs to
    add."""
    floors, routes, budgets, runs = [], [], [], []
    for arch in analysis.architectures:
        if arch.profile is not None:
            one = arch.profile
            floor = arch.surface.get("E")
            floors.append({"architecture": arch.label, "floor": floor.value if floor else None, "low": one.low,
                           "high": one.high, "p_zero": one.p_zero, "gamma_zero": one.gamma_zero,
                           "gamma_free": one.gamma_free, "gamma_high": one.gamma_high})  # fmt: skip
        for route in arch.routes:
            for name, value in (("a", route.a), ("b", route.b)):
                ends = {"value": value.value, "low": value.low, "high": value.high} if value else {}
                routes.append({"architecture": arch.label, "route": route.method, "exponent": name, **ends,
                               "reason": route.reason})  # fmt: skip
        if arch.suggestion is not None:
            runs.append({"architecture": arch.label, **vars(arch.suggestion)})
    for one in analysis.prospects:
        new = (
            {"new_run_low": one.new_run.low, "new_run_high": one.new_run.high}
            if one.new_run
            else {}
        )
        budgets.append({"architecture": one.label, "flops": one.flops, "n": one.n, "d": one.d, "loss": one.loss.value,
                        "low": one.loss.low, "high": one.loss.high, **new, "decades_beyond": one.decades})  # fmt: skip
    return {"floors": floors, "routes": routes, "budgets": budgets, "runs_to_add": runs}


EXTRA = {
    "floors": [
        "architecture",
        "floor",
        "low",
        "high",
        "p_zero",
        "gamma_zero",
        "gamma_free",
        "gamma_high",
    ],
    "routes": ["architecture", "route", "exponent", "value", "low", "high", "reason"],
    "budgets": [
        "architecture",
        "flops",
        "n",
        "d",
        "loss",
        "low",
        "high",
        "new_run_low",
        "new_run_high",
        "decades_beyond",
    ],
    "runs_to_add": [
        "architecture",
        "quantity",
        "n",
        "d",
        "cost",
        "unit",
        "before",
        "after",
        "kind",
    ],
}


def write_all(analysis: Analysis, folder: Path) -> list[Path]:
    """Every table of the report under ``folder``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [write_csv(folder / "exponents.csv", exponent_rows(analysis))]
    (folder / "exponents.md").write_text(markdown(analysis))
    paths.append(folder / "exponents.md")
    points = []
    for arch in analysis.architectures:
        for axis, result in (("flops", arch.frontier_c), ("hours", arch.frontier_h)):
            points += [
                {"architecture": arch.label, "axis": axis, **point} for point in result.points
            ]
    paths.append(
        write_csv(
            folder / "frontier.csv", points, ["architecture", "axis", "x", "loss", "n", "d", "run"]
        )
    )
    equal = [
        {"axis": axis, "budget": level["x"], "architecture": label, "loss": loss}
        for axis, attribute in (("flops", "frontier_c"), ("hours", "frontier_h"))
        for level in equal_compute(analysis, attribute)
        for label, loss in level["losses"].items()
    ]
    paths.append(
        write_csv(folder / "equal_compute.csv", equal, ["axis", "budget", "architecture", "loss"])
    )
    paths.append(write_csv(folder / "comparisons.csv", comparison_rows(analysis), COMPARED))
    checks = [
        {
            "architecture": arch.label,
            "check": c.name,
            "passed": c.passed,
            "text": c.text,
            "remedy": c.remedy,
        }
        for arch in analysis.architectures
        for c in arch.checks
    ]
    paths.append(
        write_csv(
            folder / "checks.csv", checks, ["architecture", "check", "passed", "text", "remedy"]
        )
    )
    burn = [
        {
            "architecture": row["label"],
            "burn_in_steps": row["burn_in_steps"],
            "chosen": row["chosen"],
            "gamma": row["gamma"].value if row["gamma"] else None,
            "low": row["gamma"].low if row["gamma"] else None,
            "high": row["gamma"].high if row["gamma"] else None,
            "reason": row["reason"],
        }
        for row in analysis.burn_in_effect
    ]
    paths.append(
        write_csv(
            folder / "burn_in.csv",
            burn,
            ["architecture", "burn_in_steps", "chosen", "gamma", "low", "high", "reason"],
        )
    )
    seen = [
        {
            "architecture": arch.label,
            "runs": arch.repeated["run"].n_unique(),
            "reason": arch.repeats.reason,
            **(
                {"R_D": found.value, "low": found.low, "high": found.high}
                if found and found.bounded
                else {}
            ),
            **({"rho": rho.value, "rho_low": rho.low, "rho_high": rho.high} if rho else {}),
        }
        for arch in analysis.architectures
        if arch.repeats is not None
        for found, rho in [(arch.repeats.get("R_D"), arch.repeats.get("rho"))]
    ]
    paths.append(
        write_csv(
            folder / "repeats.csv",
            seen,
            ["architecture", "runs", "R_D", "low", "high", "rho", "rho_low", "rho_high", "reason"],
        )
    )
    again = [
        {
            **last,
            "architecture": arch.label,
            "passes": course[-1].passes,
            "loss_over_new": course[-1].ratio,
            "worth_passes": course[-1].worth,
        }
        for arch in analysis.architectures
        for last, course in repeated_runs(arch)
    ]
    paths.append(
        write_csv(
            folder / "repeated_runs.csv",
            again,
            [
                "architecture",
                "n",
                "seed",
                "u",
                "d",
                "passes",
                "loss",
                "loss_over_new",
                "worth_passes",
                "run",
            ],
        )
    )
    sweep = [
        {"architecture": s.label, "chosen": s.chosen == p["lr"], **p}
        for s in analysis.sweeps
        for p in s.points
    ]
    paths.append(
        write_csv(
            folder / "lr_sweep.csv",
            sweep,
            ["architecture", "n", "seed", "lr", "loss", "diverged", "chosen", "run"],
        )
    )
    symmetry = [
        {
            "architecture": p.label,
            "n": p.n,
            "d": p.d,
            "rotation_error": p.rotation,
            "inversion_error": p.inversion,
            "exact": p.exact,
        }
        for p in analysis.symmetry
    ]
    paths.append(
        write_csv(
            folder / "symmetry.csv",
            symmetry,
            ["architecture", "n", "d", "rotation_error", "inversion_error", "exact"],
        )
    )
    paths.append(
        write_csv(
            folder / "problems.csv",
            analysis.problems,
            [
                "run",
                "architecture",
                "kind",
                "n",
                "seed",
                "lr",
                "status",
                "step",
                "last_loss",
                "message",
            ],
        )
    )
    paths.append(
        write_csv(
            folder / "risen.csv",
            analysis.risen,
            [
                "run",
                "architecture",
                "kind",
                "n",
                "seed",
                "lr",
                "status",
                "step",
                "last_loss",
                "lowest_loss",
                "lowest_step",
            ],
        )
    )
    for name, rows in extra_rows(analysis).items():
        paths.append(write_csv(folder / f"{name}.csv", rows, EXTRA[name]))
    analysis.source.frame.write_csv(folder / "runs.csv")
    paths.append(folder / "runs.csv")
    return paths


__all__ = ["COLUMNS", "exponent_rows", "markdown", "terminal", "write_all"]
