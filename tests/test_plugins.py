"""Objects from outside the package: import paths and entry points."""

import pytest

from forcelaw.errors import FitError, ForcelawError
from forcelaw.plugins import known, resolve

GROUP = "forcelaw.toys"
OURS = {"one": 1, "pi": "math:pi"}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path with a module, a broken one, and an installed package's entry points."""
    (tmp_path / "toybox.py").write_text("class Shelf:\n    ball = 'ball'\n")
    (tmp_path / "torn.py").write_text("1 / 0\n")
    (tmp_path / "needy.py").write_text("import surely_not_installed\n")
    for package, lines in (
        ("first", "ball = toybox:Shelf.ball\ntwice = toybox:Shelf\none = toybox:Shelf\n"),
        ("second", "twice = toybox:Shelf.ball\n"),
    ):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_package_comes_first_then_import_paths_then_entry_points(outside):
    import math

    assert resolve("one", OURS, GROUP, "toy") == 1  # though an entry point has this name too
    assert resolve("pi", OURS, GROUP, "toy") == math.pi
    assert resolve("toybox:Shelf.ball", OURS, GROUP, "toy") == "ball"
    assert resolve("ball", OURS, GROUP, "toy") == "ball"
    assert known(OURS, GROUP) == ["one", "pi", "ball", "twice"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cube", "cube"),
        ("twice", "2 installed packages"),
        ("no_such_box:Shelf", "no_such_box"),
        ("toybox:Ball", "Ball"),
        ("toybox:", "toybox"),
        ("torn:Toy", "ZeroDivisionError"),
        ("needy:Toy", "surely_not_installed"),
    ],
)
def test_what_cannot_be_resolved_is_an_error_with_a_remedy(outside, name, found):
    with pytest.raises(FitError) as caught:
        resolve(name, OURS, GROUP, "toy", FitError)
    assert found in caught.value.what and caught.value.where and caught.value.remedy


def test_the_remedy_tells_a_missing_module_from_a_missing_dependency(outside):
    with pytest.raises(ForcelawError) as module:
        resolve("no_such_box:Shelf", OURS, GROUP, "toy")
    with pytest.raises(ForcelawError) as dependency:
        resolve("needy:Toy", OURS, GROUP, "toy")
    assert "PYTHONPATH" in module.value.remedy
    assert "surely_not_installed" in dependency.value.remedy


def test_each_adapter_s_package_has_an_extra_that_installs_it():
    """So that a package that is not there is said with what to install, and no traceback."""
    import tomllib
    from pathlib import Path

    from forcelaw.errors import EXTRAS

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    imported = {"e3nn", "nequip", "allegro", "flashcart", "matgl", "metatrain", "fairchem"}
    assert {EXTRAS[name] for name in imported | {"orb_models"}} <= project[
        "optional-dependencies"
    ].keys()
