"""The wheels that the field's packages need on a machine without network whose Python has torch.

    python benchmarks/field_wheels.py --out FOLDER [--check]

Downloads pure wheels and those of Python 3.12 on Linux, without their dependencies, and adds one of
empty stand-ins for what the packages import and models never call (trainers, trackers, stores of
weights). Unpack all into one folder of PYTHONPATH (contrib/travel/stage.sh does so) and set
COVERAGE_RUN=1: metatrain writes no TorchScript then, which the stand-ins are not for. --check: only
list what is there.
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path

import peer_models  # in this directory

# mace-torch asks for e3nn 0.4.4, and does with this one, which nequip needs
WHEELS = (
    "nequip==0.19.1",
    "nequip-allegro==0.8.3",
    "mace-torch==0.3.16",
    "e3nn==0.6.0",
    "ase==3.29.0",
    "matscipy==1.3.1",
    "vesin==0.6.2",
    "torch-ema==0.3",
    "torchtnt==0.2.4",
    "setuptools==80.9.0",
    "metatrain==2026.4.1",
    "matgl==4.1.2",
    "hydra-core==1.3.8",
    "omegaconf==2.4.0",
    "orb-models==0.7.0",
    "dm-tree==0.1.8",  # the last one that needs nothing else
    "fairchem-core==2.24.0",
    "flashcart==0.1.0",
)
SOURCES = ("antlr4-python3-runtime==4.9.3",)  # published without a wheel
STUBS = (
    "wandb",
    "ray",
    "nvalchemiops",
    "boto3",
    "cached_path",
    "metatensor",
    "metatomic",
    "monty",
    "hostlist",
    "submitit",
    "clusterscope",
    "lmdb",
    "orjson",
    "pymatgen",
    "configargparse",
    "prettytable",
    "ruamel",
    "httpcore2",
    "httpx2",
    "ase_db_backends",
    "websockets",
    "backoff",
)
HEAD = '''"""Empty stand-ins for packages that are imported and never called."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

'''
TAIL = "\n\nsys.meta_path.insert(0, _StubFinder(set(NAMES)))\n"
PACKAGE = "import _field_stubs\n\n__path__ = []\n\n\ndef __getattr__(name):\n" + (
    '    if name.startswith("__"):\n        raise AttributeError(name)\n'
    "    return _field_stubs.Stub\n"
)


def stubs(names: tuple[str, ...], to: Path) -> Path:
    """A wheel (a zip file, no more) of stand-ins for ``names``."""
    parts = [peer_models._Anything, peer_models.Stub, peer_models._StubModule]
    source = "\n\n".join(inspect.getsource(part) for part in [*parts, peer_models._StubFinder])
    path = to / "field_stubs-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_field_stubs.py", f"{HEAD}NAMES = {names!r}\n\n\n{source}{TAIL}")
        for name in names:
            archive.writestr(f"{name}/__init__.py", PACKAGE)
    return path


def fetch(requirements: tuple[str, ...], to: Path) -> None:
    """Download wheels for Python 3.12 on Linux, without what they depend on."""
    to.mkdir(parents=True, exist_ok=True)
    platforms = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
    flags = [flag for name in platforms for flag in ("--platform", name)]
    flags += ["--python-version", "3.12", "--only-binary=:all:", "--no-deps", "-q", "-d", str(to)]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "download", *flags, *requirements], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", str(to), *SOURCES], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.check:
        fetch(WHEELS, args.out)
        stubs(STUBS, args.out)
    found = sorted(args.out.rglob("*.whl"))
    for path in found:
        print(f"{path.stat().st_size:>12,}  {path.relative_to(args.out)}")
    print(f"{sum(path.stat().st_size for path in found):>12,}  bytes in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
