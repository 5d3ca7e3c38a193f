"""Every line of a certificate catches the model that is broken there, and passes the sound one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from forcelaw.certify import certify
from forcelaw.certify.certificate import Certificate, Line, find, read
from forcelaw.certify.learning import widths
from forcelaw.certify.lines import LINES, _measured
from forcelaw.certify.structures import graph_of
from forcelaw.certify.subject import Subject
from forcelaw.cli.main import main
from forcelaw.data.pack import Pack, sample_path
from forcelaw.errors import StoreError, StudyError
from forcelaw.models import ARCHITECTURES, build

PACK = Pack(sample_path())
DATA = Subject("mpnn", PACK).data
BROKEN = {
    "Absolute": "translation",
    "Ordered": "permutation",
    "Turned": "symmetry",
    "Chiral": "symmetry",
    "Neighbourly": "batches",
    "Padded": "padding",
    "Intensive": "extensivity",
    "Lonely": "extensivity",
    "Cut": "cutoff",
    "Kinked": "cutoff",
    "Capped": "cutoff",
    "Normalised": "batches",
    "Quotient": "padding",
    "Attending": "extensivity",
    "Rough": "precision",
    "Drawn": "resume",
    "Averaging": "resume",
    "Guessed": "seeds",
    "Unfaithful": "forces",
    "Disguised": "forces",
    "Stressed": "stress",
    "Rigid": "parameters",
    "CHEAP": "FLOPs",
    "Dead": "gradients",
    "Infinite": "gradients",
    "Unseeded": "seeds",
    "Forgetful": "resume",
    "Misparametrised": "coordinates",
    "Exploding": "learning rate",
}


def line(name: str, which: str) -> Line:
    subject = Subject(name, PACK)
    subject.data = DATA
    return _measured(which, subject)


@pytest.fixture(scope="module")
def sound() -> dict[str, Line]:
    return {which: line("tests.certify.models:Sound", which) for which in LINES}


@pytest.mark.parametrize("model", BROKEN)
def test_a_line_catches_what_is_broken(model: str, sound: dict[str, Line]) -> None:
    which = BROKEN[model]
    found = line(f"tests.certify.models:{model}", which)
    assert found.verdict == "fails", found.found
    assert sound[which].verdict == "holds", sound[which].found


@pytest.mark.parametrize("which", ["padding", "batches", "seeds", "resume", "precision"])
def test_buffers_are_part_of_a_model(which: str) -> None:
    found = line("tests.certify.models:Buffered", which)
    assert found.verdict == "holds", found.found


@pytest.mark.parametrize("which", ["translation", "extensivity"])
def test_crystals_need_their_images(which: str, tmp_path) -> None:
    """Moved by a vector of the lattice, or two cells for one, they are the same crystal."""
    rng = np.random.default_rng(0)
    crystals = []
    for _ in range(4):
        atoms = bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1))
        atoms.rattle(0.1, rng=rng)
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal(), forces=rng.normal(size=(4, 3))
        )
        crystals.append(atoms)
    write(tmp_path / "salt.extxyz", crystals)
    forces = [
        "--allow",
        "forces",
        "--group",
        "frame",
        "--val-fraction",
        ".5",
        "--allow",
        "energies",
    ]
    source, pack = str(tmp_path / "salt.extxyz"), str(tmp_path / "salt")
    assert main(["data", "prepare", source, "--out", pack, *forces]) == 0
    for model, verdict in (("Imageless", "fails"), ("Sound", "holds")):
        subject = Subject(f"tests.certify.models:{model}", Pack(pack))
        found = _measured(which, subject)
        assert found.verdict == verdict, found.found


def test_random_outputs_are_told_as_what_they_are() -> None:
    """Every line about outputs fails, none for the reason that it is for."""
    name = "tests.certify.models:Noisy"
    made = certify(name, only=("symmetry", "translation", "resume"))
    assert made.failed == ["symmetry", "translation", "resume"]
    assert made.line("symmetry").values["scatter"] > 1e-3
    assert made.line("translation").found == "as symmetry"
    assert made.line("resume").found == "as symmetry"


def test_every_line_has_a_model_that_it_catches() -> None:
    assert set(BROKEN.values()) == set(LINES) - {"CUDA graph"}


def test_the_numbers_are_right(sound: dict[str, Line]) -> None:
    """Where they are known: a chiral model, one symmetric by construction, kappa of a closed
    form."""
    chiral = line("tests.certify.models:Chiral", "symmetry").values
    assert chiral["group"] == "SE(3)" and chiral["rotation"] < 1e-8 < 1e-3 < chiral["inversion"]
    assert sound["symmetry"].values["group"] == "E(3)"
    assert line("mpnn", "symmetry").values["group"] == "none"
    assert line("tests.certify.models:Kinked", "cutoff").values["energy"] == "kink"
    assert line("tests.certify.models:Cut", "cutoff").values["energy"] == "jump"
    costs = sound["FLOPs"].values
    for cost in (costs["1e+04"], costs["1e+06"]):
        assert cost["kappa"] == pytest.approx(cost["counted"], rel=1e-5)
    # the dead layers are two thirds of the wide ones, which are nearly all of N
    assert 0.2 < line("tests.certify.models:Dead", "gradients").values["dead"] < 0.6
    assert abs(sound["learning rate"].values["exponent"]) < 0.7


@pytest.mark.parametrize(("carried", "verdict"), [(2, "note"), (1, "fails"), (0, "fails")])
def test_parts_of_matrices_that_nothing_reaches_are_counted(carried: int, verdict: str) -> None:
    """They are those that change no output. Of eSEN whose layers hand on few degrees they are many;
    of eSEN itself the gains of l = 2 before a head that reads l = 0 and 1."""
    subject = Subject("esen", PACK, options={"carried": carried})
    subject.data = DATA
    found = _measured("gradients", subject)
    assert found.verdict == verdict
    model = subject.model()
    graph = graph_of(subject.structures, model.config)
    energy, forces = model(graph)
    (energy.square().sum() + forces.square().sum()).backward()
    changed = 0
    with torch.no_grad():
        for p in model.parameters():
            idle = p.grad == 0 if p.grad is not None else torch.ones_like(p, dtype=torch.bool)
            changed += int(idle.sum())
            p += idle
        again = model(graph)
    assert changed == found.values["n"] - found.values["reached"] > 0
    torch.testing.assert_close(again, (energy, forces), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "line", "verdict"),
    [
        ({"carried": 0}, "symmetry", "note"),  # inversion too, more than it declares
        ({"untied": True, "roll": "random"}, "forces", "holds"),  # energies that turn fast
        ({"canonical": "average4"}, "symmetry", "note"),  # by its frames, not as an architecture
        ({"canonical": "average4"}, "FLOPs", "holds"),  # of four passes
        ({"canonical": "average4"}, "extensivity", "fails"),  # one frame for both molecules
    ],
)
def test_options_have_what_they_have(options, line: str, verdict: str) -> None:
    name = "mpnn" if "canonical" in options else "esen"
    subject = Subject(name, PACK, options=options)
    subject.data = DATA
    found = _measured(line, subject)
    assert found.verdict == verdict, found.found
    if line == "FLOPs":
        plain = Subject(name, PACK)
        plain.data = DATA
        kappa = _measured(line, plain).values["1e+04"]["kappa"]
        assert found.values["1e+04"]["kappa"] == pytest.approx(4 * kappa)


def test_widths_of_the_coordinate_check_have_channels_in_every_frame() -> None:
    for group, first in (("C1", 60), ("T", 96), ("I", 480)):
        subject = Subject("platonic", PACK, options={"group": group, "head_width": 2})
        subject.data = DATA
        found, steps = widths(subject, 2, 10, 30)
        assert first <= found[0] < 1.1 * first and len(found) >= 2 and steps >= 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_cannot_be_captured_is_caught() -> None:
    assert line("tests.certify.models:Synchronising", "CUDA graph").verdict == "fails"
    assert line("tests.certify.models:Sound", "CUDA graph").verdict == "holds"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ours_have_what_they_declare(name: str) -> None:
    """Lines that take no time; `forcelaw certify` measures all."""
    subject = Subject(name, PACK)
    subject.data = DATA
    for which in ("symmetry", "translation", "batches", "padding", "extensivity", "cutoff"):
        found = _measured(which, subject)
        assert found.verdict == "holds", (which, found.found)


def test_a_model_that_raises_fails_with_the_reason(tmp_path) -> None:
    made = certify("tests.certify.models:Raising", only=("symmetry", "resume"))
    assert made.failed == ["symmetry", "resume"] and not made.holds
    assert "as it must" in made.lines[0].found and made.lines[1].found == "as symmetry"


def test_the_command_writes_what_a_study_finds(tmp_path, monkeypatch, capsys) -> None:
    """JSON for machines, a page for people; found again only for the same code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("forcelaw.certify.lines.LINES", {k: LINES[k] for k in list(LINES)[:2]})
    name = "tests.certify.models:Absolute"
    assert main(["certify", name]) == 1 and "translation" in capsys.readouterr().out
    folder = Path("out/certificates")
    made = read(folder / "tests.certify.models-Absolute.json")
    assert "translation" in made.failed and made.code is not None
    assert made.about["data"]["hash"] == PACK.hash
    assert find(name, made.code, [Path("nowhere"), folder]) == made
    assert find(name, {"tests": "1+0"}, [folder]) is None and find("mpnn", None, [folder]) is None
    for page in folder.glob("*.[hm]*"):
        text = page.read_text()
        assert "Absolute" in text and "translation" in text and "fails" in text
    assert len(list(folder.iterdir())) == 3
    assert main(["certify", "mpnn", "--only", "translation"]) == 0
    assert len(list(folder.iterdir())) == 3  # a part of a certificate is none
    with pytest.raises(StudyError):
        certify("mpnn", only=("colour",))


def test_a_certificate_is_one_of_its_options(tmp_path) -> None:
    """A column with other options does not get it; either kind of forces does."""

    def write(**options) -> Certificate:
        made = Certificate("esen", "eSEN", None, {"options": options}, [Line("seeds", "holds", "")])
        assert made.write(tmp_path).exists()
        return made

    direct, broken = write(), write(untied=True, epsilon=0.3)
    for forces in ("direct", "conservative"):
        assert find("esen", None, [tmp_path], {"forces": forces}) == direct
        options = {"epsilon": 0.3, "untied": True, "forces": forces}
        assert find("esen", None, [tmp_path], options) == broken
    gradient = write(forces="conservative")
    assert find("esen", None, [tmp_path], {"forces": "conservative"}) == gradient
    assert find("esen", None, [tmp_path], {"forces": "direct"}) == direct
    assert find("esen", None, [tmp_path], {"epsilon": 1.0}) is None
    assert find("ese", None, [tmp_path]) is None
    assert broken.record()["options"] == {"untied": True, "epsilon": 0.3}
    assert "epsilon 0.3" in broken.markdown().splitlines()[0] and "options" not in direct.record()


@pytest.mark.parametrize(("level", "told"), [(0.1, True), (9.0, False)])
def test_no_best_rate_is_told_where_nothing_was_learned(level, told, monkeypatch) -> None:
    def loss(subject: Subject, width: int, base: int, lr: float, steps: int) -> float:
        return level + abs(math.log(lr / subject.entry.learning_rate))

    monkeypatch.setattr("forcelaw.certify.learning._short_loss", loss)
    found = line("tests.certify.models:Sound", "learning rate")
    assert found.verdict == ("holds" if told else "note")
    assert found.values["losses"] == [level, level] and 0.5 < found.values["without"] < 5.0


def test_the_size_of_the_model_that_is_measured() -> None:
    assert 9e4 < build(Subject("mpnn", PACK, parameters=1e5).small, seed=0).n_parameters() < 1.1e5
    made = certify("mpnn", only=("seeds",), size=2e4)
    assert made.about["size"] == 2e4


def test_labels_are_inert_on_the_pages() -> None:
    line = Line("symmetry", "holds", "a | b <script>alert(1)</script>\n\x1b[31m")
    made = Certificate("x:y", "<b>|Title", None, {"options": {"a": 1}}, [line])
    assert "<script>" not in made.html() and "<b>" not in made.html()
    row = next(r for r in made.markdown().splitlines() if r.startswith("| symmetry"))
    assert row.replace("\\|", "").count("|") == 4
    assert "\x1b" not in made.text() + made.html() + made.markdown()


@pytest.mark.parametrize("content", [{}, {"format": 2}, {"format": 1, "lines": [{"name": 1}]}, []])
def test_what_is_no_certificate_is_an_error(content, tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError):
        read(path)
