"""`forcelaw new-architecture`: a package of one's own to start from."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import StudyError

SKELETON = Path(__file__).parent / "skeleton"
# file of the skeleton -> where it goes; my_model stands for the name
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "src/my_model/__init__.py",
    "model.py": "src/my_model/model.py",
    "test_model.py": "tests/test_model.py",
}


def add_new_architecture(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a package with a working architecture, its test, and the entry point under which"
        " studies and commands find it: a start for one of your own. It is not part of forcelaw and"
        " needs no change of it."
    )
    parser.epilog = "example:\n  forcelaw new-architecture my_model\n"
    parser.add_argument("name", help="of the package, such as my_model")
    text = "where the package is written (default: ./NAME)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    parser.set_defaults(handler=_new_architecture)


def _new_architecture(args: argparse.Namespace) -> int:
    folder = new_architecture(args.name, args.out)
    name, model = args.name, class_name(args.name)
    print(f"{folder}: a package with the architecture {model}; change src/{name}/model.py")
    print(f"next: pip install --editable {folder}; then its name is {name}")
    print(f"or:   PYTHONPATH={folder}/src forcelaw train {name}:{model} --size 1e4 --epochs 1")
    return 0


def class_name(name: str) -> str:
    """my_model -> MyModel."""
    return "".join(part.capitalize() for part in name.split("_"))


def new_architecture(name: str, out: Path | None = None) -> Path:
    """Write the package and return its folder. StudyError for a name that is no name of a module,
    or a folder that is there."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "forcelaw":
        raise StudyError(
            f"{name!r} cannot be the name of a package",
            remedy="lower-case letters, digits and underscores, such as my_model",
        )
    folder = out or Path(name)
    if folder.exists():
        raise StudyError(
            "this folder exists already", where=str(folder), remedy="choose another --out"
        )
    for source, target in FILES.items():
        text = (SKELETON / f"{source}.txt").read_text()
        path = folder / target.replace("my_model", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("my_model", name).replace("MyModel", class_name(name)))
    return folder
