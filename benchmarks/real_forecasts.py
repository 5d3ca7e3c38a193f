"""Forecasts of the largest runs of published tables, compared with what these runs reached.

    python benchmarks/real_forecasts.py FOLDER [--fetch] [--split tune|"held back"] [--law LAW]
                                        [--plain] [--json OUT]

FOLDER holds copies of the repositories of published_tables.py as owner+name; --fetch clones those
that are missing. What is done is what `forcelaw forecast TABLE` does by default: targets are the
runs with at least half of the largest compute of their table, and what is fitted has a tenth of the
compute of the smallest target or less. --law surface --plain is the default of before 2026-11-29.
One line a table: targets, how many lie inside their 95% interval, median error, median half-width.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from published_tables import SOURCES, fetch, tables

from forcelaw.cli.forecast_runs import planned_runs, runs_of
from forcelaw.errors import ForcelawError
from forcelaw.laws.decide.forecast import forecast


def score(path: Path, **settings) -> dict:
    """Errors of the forecasts of the table at ``path``."""
    started = time.perf_counter()
    row: dict = {"targets": 0, "inside": 0, "message": ""}
    try:
        runs = runs_of(path)
        found = forecast(runs, planned_runs(path, None, runs), **settings)
    except ForcelawError as error:
        return row | {"message": str(error).splitlines()[0]}
    error, width, inside = [], [], []
    for one in found:
        row["message"] = one.message
        row["targets"] += len(one.targets)
        for p in one.predictions:
            k = runs.run_names.index(p.run)
            rows = np.flatnonzero(runs.run == k)
            truth = runs["loss"][rows[np.argmax(runs["d"][rows])]]
            error.append(float(np.log(p.loss / truth)))
            width.append(0.5 * float(np.log(p.high / p.low)))
            inside.append(bool(p.low <= truth <= p.high))
    row |= {"errors": error, "widths": width, "inside": sum(inside), "forecast": len(error)}
    if error:
        row |= {
            "median error": float(np.median(np.abs(error))),
            "bias": float(np.median(error)),
            "half-width": float(np.median(width)),
        }
    return row | {"seconds": time.perf_counter() - started}


def line(row: dict) -> str:
    head = f"{row['split']:10} {row['source']:12} {row['name'][:24]:25}"
    if not row.get("forecast"):
        return f"{head} {row['targets']:4}  no forecast: {row['message'][:70]}"
    return (
        f"{head} {row['forecast']:4} {row['inside']:4} {row['inside'] / row['forecast']:6.0%}"
        f" {row['median error']:7.1%} {row['bias']:+7.1%} {row['half-width']:7.1%}"
        f" {row['seconds']:6.1f}"
    )


def pooled(name: str, rows: list[dict]) -> str:
    """Over the tables that have a forecast."""
    done = [row for row in rows if row.get("forecast")]
    share = [row["inside"] / row["forecast"] for row in done]
    inside, count = sum(row["inside"] for row in done), sum(row["forecast"] for row in done)
    every = np.abs(np.concatenate([row["errors"] for row in done]))
    return (
        f"{name}: {len(done)} of {len(rows)} tables have a forecast; inside: mean over tables"
        f" {np.mean(share):.0%}, pooled {inside} of {count} ({inside / count:.0%}), at least 80% in"
        f" {sum(one >= 0.8 for one in share)}; error: median of the tables' medians"
        f" {np.median([row['median error'] for row in done]):.2%}, pooled {np.median(every):.2%};"
        f" median half-width {np.median([row['half-width'] for row in done]):.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--split")
    parser.add_argument("--law")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.fetch:
        fetch(args.folder)
    settings: dict = {} if args.law is None else {"law": args.law}
    if args.plain:
        settings["calibrate"] = False
    rows = []
    print(
        f"{'split':10} {'source':12} {'table':25} {'runs':>4} {'in':>4} {'share':>6} {'error':>7}"
        f" {'bias':>7} {'+-':>7} {'s':>6}"
    )
    with tempfile.TemporaryDirectory() as place:
        for split, source, name, frame in tables(args.folder, args.split):
            path = Path(place) / "table.parquet"
            frame.write_parquet(path)
            row = {"split": split, "source": source, "name": name, **score(path, **settings)}
            rows.append(row)
            print(line(row), flush=True)
    for split in dict.fromkeys(row["split"] for row in rows):
        mine = [row for row in rows if row["split"] == split]
        print(pooled(split, mine))
        groups = [[row for row in mine if row["source"] == key] for key in SOURCES]
        shares = [
            np.mean([row["inside"] / row["forecast"] for row in group if row.get("forecast")])
            for group in groups
            if any(row.get("forecast") for row in group)
        ]
        print(f"  mean over its {len(shares)} sources {np.mean(shares):.0%}")
    if args.json:
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
