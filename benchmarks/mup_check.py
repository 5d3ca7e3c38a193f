"""muP coordinate check of every architecture, with all slopes.

    python benchmarks/mup_check.py [--seeds 3] [NAME ...]
    python benchmarks/mup_check.py platonic:group=I,head_width=2 --widths 480 960 1920

For each layer: RMS of its output before training and of its change by ten Adam steps, at four
widths, and the slope of log RMS against log width. Nothing may grow by more than +0.15 and the main
stream may not shrink by more; forces, and vectors read out of scalars, may shrink like
1/sqrt(width), which is their random start. The column "standard" is the same in standard
parametrisation, which must grow.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from training_speed import parse  # in this directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from forcelaw.models import ARCHITECTURES
from tests.models.configs import EXTRA, Variant
from tests.models.coordinates import coordinate_check, failures

LIMIT = 0.15


def check(variant: Variant, seeds: int, steps: int, widths: tuple[int, ...] | None) -> bool:
    """Print the table of one variant; True if it passes."""
    begin = time.perf_counter()
    how = {"seeds": seeds, "steps": steps, "widths": widths, **variant.options}
    found = coordinate_check(variant.name, **how)
    standard = coordinate_check(variant.name, standard=True, **how)
    growth = {(c.layer, c.kind): c.slope for c in standard}
    print(
        f"\n{variant.id}: widths {', '.join(map(str, found[0].widths))}, {seeds} seeds, {steps}"
        f" steps ({time.perf_counter() - begin:.0f} s)"
    )
    print(f"  {'output':18s} {'of':7s} {'slope':>7s} {'standard':>9s}   RMS at each width")
    for c in found:
        if c.kind != "end":
            rms = "  ".join(f"{x:8.4f}" for x in c.rms)
            other = growth.get((c.layer, c.kind), float("nan"))
            print(f"  {c.layer:18s} {c.kind:7s} {c.slope:+7.3f} {other:+9.3f}   {rms}")
    bad = failures(found, LIMIT)
    worst = max(abs(c.slope) for c in found if c.kind == "change")
    steepest = max(c.slope for c in standard if c.kind == "change")
    verdict = "FAILS" if bad else "passes"
    print(
        f"  {verdict}: steepest slope of a change {worst:.3f} in muP, {steepest:.3f} in standard"
        " parametrisation"
    )
    for line in bad:
        print(f"    {line}")
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(ARCHITECTURES)} (default: all), or one with options",
    )
    parser.add_argument("--widths", type=int, nargs="+", help="of all that are named")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    given = [(text, *parse(text)) for text in args.names or ARCHITECTURES]
    unknown = {name for _, name, _ in given} - set(ARCHITECTURES)
    if unknown:
        parser.error(
            f"unknown architecture {', '.join(sorted(unknown))}; there are:"
            f" {', '.join(ARCHITECTURES)}"
        )
    torch.set_num_threads(1)
    plain = [name for _, name, options in given if not options]
    variants = [Variant(*each) for each in given]
    variants += [v for v in EXTRA if v.coordinates and v.name in plain]
    widths = args.widths and tuple(args.widths)
    return 0 if all([check(v, args.seeds, args.steps, widths) for v in variants]) else 1


if __name__ == "__main__":
    sys.exit(main())
