"""results/use/published.md: what published_errors.py measured, beside published numbers.

python benchmarks/published_table.py results/use/published > results/use/published.md

Reads FOLDER/SYSTEM/errors.json, as they come, or FOLDER/SYSTEM.json, as they are kept. Several
folders: runs of the same name are told by the last of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# HEAD says which papers
RMD17, BPA, ACAC = "MACE paper, Table 1", "MACE paper, Table 2", "MACE paper, Table 3"
NEQUIP = "NequIP paper, table of rMD17"
# system -> model -> (E, F of each test file, source); E of whole structures in meV
MD17 = {
    "aspirin": {
        "PaiNN": ((6.9, 16.1), RMD17),
        "ACE": ((6.1, 17.9), RMD17),
        "NequIP l = 1": ((3.8, 12.9), NEQUIP),
        "GemNet-(T/Q)": ((None, 9.5), RMD17),
        "NequIP l = 3": ((2.3, 8.2), RMD17),
        "Allegro": ((2.3, 7.3), RMD17),
        "MACE": ((2.2, 6.6), RMD17),
    },
    "ethanol": {
        "PaiNN": ((2.7, 10.0), RMD17),
        "ACE": ((1.2, 7.3), RMD17),
        "NequIP l = 1": ((1.0, 7.6), NEQUIP),
        "GemNet-(T/Q)": ((None, 3.6), RMD17),
        "NequIP l = 3": ((0.4, 2.8), RMD17),
        "Allegro": ((0.4, 2.1), RMD17),
        "MACE": ((0.4, 2.1), RMD17),
    },
}
BOTNET = {
    "3bpa": {
        "Allegro L = 3": ((3.84, 12.98, 12.07, 29.17, 42.57, 82.96), BPA),
        "MACE L = 0": ((4.5, 14.6, 13.7, 33.3, 37.1, 81.6), BPA),
        "BOTNet L = 3": ((3.1, 11.0, 11.5, 26.7, 39.1, 81.1), BPA),
        "NequIP L = 3": ((3.3, 10.8, 11.2, 26.4, 38.5, 76.2), BPA),
        "MACE L = 2": ((3.0, 8.8, 9.7, 21.8, 29.8, 62.0), BPA),
    },
    "acac": {
        "BOTNet": ((0.89, 6.3, 6.2, 29.8), ACAC),
        "NequIP": ((0.81, 5.9, 6.04, 27.8), ACAC),
        "MACE": ((0.9, 5.1, 4.6, 22.4), ACAC),
    },
}
HEAD = """\
# Errors on published splits, beside published numbers

Models with gradient forces, trained by `benchmarks/published_errors.py` (its docstring names the
files) and evaluated on the published test files; written by `benchmarks/published_table.py`. E:
energy of whole structures, meV; F: components, meV/Angstrom. "No model": the reference energies
alone, and zero forces. Data: rMD17 split 01, 950 frames of training and 50 of validation; 3BPA and
acetylacetone: 450 and 50 of train_300K. One seed each. Rows of ours differ in one setting each
(`MODELS` of the script); which of them to take is told by the validation error of forces, in the
last column, not by the test. "-long": runs of ten times the length, which overtrain.

Published numbers are those printed in the sources, for 1,000 (rMD17) and 500 frames; rMD17 has five
splits, and which one a paper took is not always said. MACE paper: Batatia et al., NeurIPS 2022,
arXiv 2206.07697, with those it lists. NequIP paper: Batzner et al., Nat. Commun. 13, 2453 (2022),
read in a transcription.
"""
MISSING = """
The test files of 3BPA (5 to 6 MB each) could not be had here. "mixedT" are the frames of
train_mixedT.xyz that train_300K.xyz does not have: 136 of 300 K, 167 of 600 K, 166 of 1200 K, of
the same dynamics but not the published frames, to which the published numbers belong.
"""


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def table(system: str, measured: dict, published: dict, measure: str) -> list[str]:
    """Lines of Markdown: published models, ours, and no model."""
    ours = list(measured.values())
    files = list(ours[0]["tests"])
    names = [Path(file).stem for file in files]
    lines = [f"\n## {system}, {measure.upper()}\n"]
    columns = [f"E {name} | F {name}" for name in names]
    lines.append(f"| model | {' | '.join(columns)} | source |")
    lines.append("|---" * (2 * len(names) + 2) + "|")
    for model, (values, source) in published.items():
        lines.append(f"| {model} | {' | '.join(map(number, values))} | {source} |")
    for model, run in measured.items():
        tests = [run["tests"][file] for file in files]
        values = [t[kind][measure] for t in tests for kind in ("energy_total", "forces")]
        how = f"N = {run['n']:,}, {run['epochs']:,.0f} epochs, {run['steps']:,} steps"
        how += "" if run["status"] == "finished" else f" ({run['status']})"
        seen = run["metrics"][-1]["force_mae"]
        how += f"; validation F {number(seen)}"
        cells = " | ".join(f"**{number(value)}**" for value in values)
        lines.append(f"| forcelaw {model} | {cells} | {how} |")
    tests = [ours[0]["tests"][file]["no_model"] for file in files]
    values = [t[kind][measure] for t in tests for kind in ("energy_total", "forces")]
    sizes = " and ".join(str(ours[0]["tests"][file]["structures"]) for file in files)
    lines.append(f"| no model | {' | '.join(map(number, values))} | {sizes} structures |")
    return lines


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]]
    lines = [HEAD.rstrip()]
    for measure, systems in (("mae", MD17), ("rmse", BOTNET)):
        for system, published in systems.items():
            measured: dict = {}
            for folder in folders:
                for file in (folder / system / "errors.json", folder / f"{system}.json"):
                    if file.exists():
                        measured |= json.loads(file.read_text())
            if measured:
                lines += table(system, measured, published, measure)
                if system == "3bpa" and not any(
                    "test_" in f for run in measured.values() for f in run["tests"]
                ):
                    lines.append(MISSING.rstrip())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
