"""Certificates of the columns of studies/field and studies/symmetry, and one table of them.

    python benchmarks/certificates.py field --out results/field/certificates [--only mace,pet]
    python benchmarks/certificates.py symmetry --out results/symmetry_certificates
    python benchmarks/certificates.py table --out results/field/certificates

One to five minutes a column on one core of a CPU, on the shipped sample. `field` certifies those
columns whose package is installed. `table` writes the table again from what is in the folder.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from training_speed import parse  # in this directory

from forcelaw.certify import certify
from forcelaw.certify.certificate import Certificate, read
from forcelaw.models import architecture

PACKAGES = ("nequip", "allegro", "mace", "pet", "flashcart", "tensornet", "fairchem_esen")
PACKAGES += ("escaip", "orb")
FIELD = tuple(f"forcelaw.adapters.{name}:ARCHITECTURE" for name in PACKAGES)
FIELD += ("forcelaw.adapters.tensornet:ARCHITECTURE:sharpness=10",)
SYMMETRY = (
    "attention",
    "platonic:group=C1,head_width=2",
    "platonic:group=T,head_width=2",
    "platonic:group=O,head_width=2",
    "platonic:group=I,head_width=2",
    "esen:untied=true,epsilon=0.3",
    "esen:untied=true,epsilon=1.0,roll=random",
    "esen:untied=true,broken_layers=2",
    "esen:untied=true,broken_layers=-2",
    "esen:frames=global",
    "esen:carried=0",
    "esen:carried=1",
    "esen:norm=rms",
    "esen:norm=separable",
    "esen:norm=degrees",
    "esen:norm=none",
    "esen:feed_forward=grid",
    "esen:head=free",
    "painn:untied=true",
    "painn:untied=true,epsilon=0.3",
    "painn:filter=pair",
    "painn:ends=both",
    "painn:gate=true",
    "painn:norm=rms",
    "painn:norm=none",
    "painn:vector_norm=true",
    "painn:filter=pair,ends=both,gate=true,norm=rms,vector_norm=true",
    "mpnn:canonical=principal",
    "mpnn:canonical=average4",
    "mpnn:canonical=average8",
)
SHOWN = ("symmetry", "cutoff", "forces", "FLOPs", "gradients", "coordinates", "learning rate")


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def table(folder: Path) -> str:
    """All certificates of a folder, one a row, in Markdown."""
    found = [read(path) for path in sorted(folder.glob("*.json"))]
    heads = ["column", "N", *SHOWN, "fails"]
    rows = [heads, ["---"] * len(heads)]
    rows += [[made.heading, _sizes(made), *_cells(made), _failed(made)] for made in found]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _sizes(made: Certificate) -> str:
    values = made.line("parameters").values
    return ", ".join(f"{v['n']:,}" for v in values.values() if isinstance(v, dict))


def _cells(made: Certificate) -> list[str]:
    def cell(name: str) -> str:
        line = made.line(name)
        return ("" if line.verdict == "holds" else f"{line.verdict}: ") + line.found

    return [cell(name).replace("|", "\\|") for name in SHOWN]


def _failed(made: Certificate) -> str:
    return ", ".join(made.failed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("field", "symmetry", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="columns whose name has one of these parts")
    args = parser.parse_args()
    columns = {"field": FIELD, "symmetry": SYMMETRY, "table": ()}[args.what]
    size = 1e5 if args.what == "field" else None
    for column in columns:
        if not any(part in column for part in args.only.split(",")):
            continue
        name, options = parse(column)
        print(f"== {column}", flush=True)
        lacking = [p for p in architecture(name).packages if not _installed(p)]
        if lacking:
            print(f"left out: {', '.join(lacking)} not installed")
            continue
        made = certify(name, options=options, size=size, say=lambda text: print(text, flush=True))
        made.write(args.out).with_suffix(".html").unlink()
    (args.out / "table.md").write_text(table(args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
