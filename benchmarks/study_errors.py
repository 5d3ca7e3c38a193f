"""Errors of the finished runs of a study on files of labelled structures: a row for each run.

    python benchmarks/study_errors.py OUT FILE [FILE ...] [--least 5e4]

--least: parameters from which a run is evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forcelaw.api.run import Run, load_run


def row(run: Run, files: list[Path], device: str) -> str:
    """Energy and force MAE in all, then force MAE of each file."""
    total = run.evaluate(files, device=device, worst=0).as_json()
    spec = run.spec
    text = f"{spec['label']:<12}{spec['n']:>10,}{spec['seed']:>5}{spec['lr']:>10.2g}"
    text += f"{total['energy_total']['mae']:>9.1f}{total['forces']['mae']:>9.1f}  "
    if len(files) > 1:
        for file in files:
            errors = run.evaluate([file], device=device, worst=0).as_json()
            text += f"{errors['forces']['mae']:>9.1f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--least", type=float, default=5e4)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    runs = [load_run(path.parent) for path in sorted(args.out.glob("runs/*/result.json"))]
    runs = [
        run
        for run in runs
        if run.spec["kind"] != "sweep"
        and run.spec["n"] >= args.least
        and (run.result or {}).get("status") == "finished"
    ]
    print("# E: whole structures, meV; F: components, meV/Angstrom; MAE")
    print(f"{'model':<12}{'N':>10}{'seed':>5}{'rate':>10}{'E':>9}{'F':>9}   F of each of: ", end="")
    print(", ".join(file.stem for file in args.files))
    for run in sorted(runs, key=lambda run: (run.spec["label"], run.spec["n"], run.spec["seed"])):
        print(row(run, args.files, args.device), flush=True)


if __name__ == "__main__":
    main()
