"""Study files that were made to do harm are errors at once, and never code."""

import pytest

from forcelaw.errors import StudyError
from forcelaw.study.config import load
from forcelaw.study.plan import plan
from forcelaw.training.spec import summarise
from tests.packs import write_pack

GOOD = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn]
sizes: [3e3]
depth: 1
epochs: 2
"""
BOMB = "".join(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9)}]\n" for k in range(1, 12))
FILES = {
    "tag": GOOD + "seeds: !!float x\n",
    "list as key": GOOD + "? [1, 2]\n: 3\n",
    "number as key": GOOD + "1: 2\n",
    "deep": GOOD + "description: " + "[" * 5000 + "]" * 5000,
    "aliases": "x0: &x0 [a]\n" + BOMB + GOOD,
    "loop": "x: &x [*x]\n" + GOOD,
    "long": GOOD + "#" * 2_000_000,
    "zero byte": GOOD + "description: 'a\0b'\n",
    "not text": GOOD.encode() + b"description: \xff\xfe\n",
    "runs": GOOD.replace("[3e3]", str([3e3] * 3000)) + f"seeds: {[*range(30)]}\n",
    "not finite": GOOD.replace("[3e3]", "[.inf]"),
    "not a number": GOOD.replace("epochs: 2", "epochs: .nan"),
    "date": GOOD.replace("epochs: 2", "epochs: 2020-01-01"),
    "label": GOOD.replace("[mpnn]", "[{name: mpnn, label: [1]}]"),
    "import path": GOOD.replace("[mpnn]", "['os:system']"),
    "missing module": GOOD.replace("[mpnn]", "['no_such_thing:NAME']"),
}
PLANS = {
    "depth": GOOD.replace("depth: 1", f"depth: {10**29}"),
    "size": GOOD.replace("[3e3]", "[1e30]"),
    "length": GOOD.replace("epochs: 2", "atoms: 1e12"),
    "sweep": GOOD + "learning_rate: {sweep: {size: 3e3, factors: [1, 2], atoms: 1e15}}\n",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", FILES)
def test_the_file_is_refused(tmp_path, what) -> None:
    text = FILES[what]
    (tmp_path / "t.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError) as caught:
        load(tmp_path / "t.yaml")
    assert "t.yaml" in caught.value.where


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", PLANS)
def test_the_plan_is_refused(tmp_path, what) -> None:
    (tmp_path / "t.yaml").write_text(PLANS[what])
    study = load(tmp_path / "t.yaml")
    data = summarise(write_pack(tmp_path / "pack"), cutoff=study.cutoff)
    with pytest.raises(StudyError):
        plan(study, data, {})


def test_aliases_of_a_usual_number_are_fine(tmp_path) -> None:
    text = GOOD.replace("[mpnn]", "[{name: mpnn, train: &t {warmup: 3}}, {name: painn, train: *t}]")
    (tmp_path / "t.yaml").write_text(text)
    assert load(tmp_path / "t.yaml").architectures[1].train == {"warmup": 3}
