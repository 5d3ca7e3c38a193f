"""A law from outside the package: fitted through Python and through the command line."""

import json

import numpy as np
import pytest

import forcelaw
from forcelaw.cli.main import main
from forcelaw.errors import FitError
from forcelaw.laws.forms import make

TOY = '''
import numpy as np

from forcelaw.laws.forms.base import Law


class Toy(Law):
    """L = A N^-(alpha^2): a power law with a parameter of its own."""

    name = "toy"
    formula = "L = A N^-(alpha^2)"
    roles = ("n",)
    coefficients = ("A",)
    shapes = ("alpha",)
    default_floor = "zero"

    def terms(self, psi, x):
        return [-(psi**2) * x["n"]], [(0, 0, -2 * psi * x["n"])]

    def grid(self, x):
        return np.linspace(0.1, 1.5, 15)[:, None]

    def bounds(self, x):
        return np.array([0.0]), np.array([5.0])

    def centre_shift(self, psi, centre):
        return psi**2 * centre["n"]


NOT_A_LAW = 3
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module `toy` on the path, and a table whose losses follow its law: alpha = 0.6, A = 5."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    n = np.geomspace(1e3, 1e6, 8)
    loss = 5.0 * n**-0.36
    rows = [f"{a},{a * 20},{b},r{i}" for i, (a, b) in enumerate(zip(n, loss))]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["n,d,loss,run", *rows]) + "\n")
    return path


def test_fit_takes_an_import_path_and_a_class(toy):
    by_path = forcelaw.fit(toy, "toy:Toy", "log")
    assert by_path.ok
    assert by_path["alpha"].value == pytest.approx(0.6, rel=1e-9)
    assert by_path["A"].value == pytest.approx(5.0, rel=1e-7)
    by_class = forcelaw.fit(toy, type(by_path.law), "log")
    assert by_class["alpha"].value == by_path["alpha"].value


def test_the_command_line_takes_an_import_path(toy, tmp_path, capsys):
    out = tmp_path / "fit.json"
    assert main(["fit", str(toy), "--law", "toy:Toy", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["parameters"]["alpha"]["value"] == pytest.approx(0.6, rel=1e-6)
    assert main(["fit", str(toy), "--law", "toy:Gone"]) == 2
    assert "toy:Gone" in capsys.readouterr().err


def test_an_installed_law_has_a_name(toy, tmp_path):
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[forcelaw.laws]\nmy_toy = toy:Toy\n")
    assert make("my_toy").formula == "L = A N^-(alpha^2)"
    with pytest.raises(FitError) as caught:
        make("cubic")
    assert "my_toy" in caught.value.remedy and "surface" in caught.value.remedy


def test_what_is_not_a_law_is_an_error(toy):
    with pytest.raises(FitError):
        make("toy:NOT_A_LAW")
