"""benchmarks/field_table.py: what counts as work, what a failure is called, what is compiled."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models import ForceField, ModelConfig

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from field_table import Table, Watch, cause
from traced_forces import Traced

WORKER = """
import sys
def at(where): print("@at " + where, file=sys.stderr, flush=True); input()
at("waits for its turn"); at("has its turn")
print('@row {"atoms": 1}', flush=True); print("a warning", file=sys.stderr); at("next")
"""


def test_waiting_for_the_card_is_no_work() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    rows: list[dict[str, Any]] = []
    watch = Watch(process, rows.append)

    def after(where: str) -> float:
        until = time.monotonic() + 30
        while watch.where != where and time.monotonic() < until:
            time.sleep(0.01)
        assert watch.where == where
        return watch.worked()

    def proceed() -> None:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()

    before = after("waits for its turn")
    time.sleep(0.2)
    assert watch.worked() == pytest.approx(before, abs=1e-6)
    proceed()
    began = after("has its turn")
    time.sleep(0.2)
    assert watch.worked() > began + 0.15
    proceed()
    after("next")  # a row begins anew
    assert rows == [{"atoms": 1}] and watch.rows == 1
    watch.end(kill=True)
    assert process.stdin
    process.stdin.close()
    assert process.returncode and watch.others[0] == "a warning\n"


def test_a_second_call_tries_what_failed_and_keeps_what_was_measured(tmp_path: Path) -> None:
    mpnn, painn = "mpnn direct eager", "painn direct eager"
    kept = [(mpnn, 8192, 1.0), (mpnn, 1400, None), (painn, 0, None)]  # 0: both sizes
    rows = [
        {"key": k, "atoms": n, "device": "x"} | ({"error": "bad"} if v is None else {"atoms_s": v})
        for k, n, v in kept
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    only = ["mpnn direct eager", "painn direct eager"]
    args = Namespace(out=tmp_path, again=False, only=only, limit=10.0, atoms=[8192, 1400])
    assert Table(args).queue == []
    args.again = True
    found = Table(args)
    assert [(r.key, found.sizes(r)) for r in found.queue] == [(mpnn, [1400]), (painn, [8192, 1400])]
    new = {"key": mpnn, "atoms": 1400, "device": "x", "error": "worse", "traceback": "a stack"}
    found.keep(new)
    assert "a stack" in (tmp_path / "errors.txt").read_text()
    found.tidy()  # painn was not tried: its failure stays
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(r["key"], r["atoms"], r.get("error")) for r in written} == {
        (mpnn, 8192, None),
        (mpnn, 1400, "worse"),
        (painn, 0, "bad"),
    }


def test_a_failure_is_named_by_its_root() -> None:
    def chained() -> None:
        try:
            assert 1 == 2
        except AssertionError as error:
            raise RuntimeError("while compiling") from error

    with pytest.raises(RuntimeError) as found:
        chained()
    said = cause(found.value)
    assert said.startswith("AssertionError") and "test_field_table.py:" in said
    wrapped = RuntimeError("when making fake tensor call\n got ValueError('sizes 3 and 4'), which")
    assert cause(wrapped) == "ValueError: sizes 3 and 4"
    assert cause(RuntimeError("CUDA out of memory. Tried")) == "out of memory"


class Free(ForceField):
    """Energies of atoms that depend on distances."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def atoms(self, graph: GraphBatch) -> int:
        return graph.species.shape[0]

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, None]:
        pairs = torch.tanh(self.weight * vec.square().sum(1))
        return vec.new_zeros(self.atoms(graph)).index_add(0, graph.receiver, pairs), None


class Fixed(Free):
    """The same, but that its number of atoms is a Python number."""

    def atoms(self, graph: GraphBatch) -> int:
        return len(graph.species)


def batch(sizes: list[int]) -> GraphBatch:
    n = sum(sizes)
    pos = torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return build_graph(pos, torch.zeros(n, dtype=torch.long), torch.tensor(sizes), 4.0)


def model(kind: type[Free]) -> Free:
    config = ModelConfig(
        architecture="toy", width=2, depth=1, elements=(1,), cutoff=4.0, forces="conservative"
    )
    return kind(config)


def test_a_traced_program_serves_other_batches() -> None:
    """Energies, forces and the gradient by a weight are those of the model, for a batch of other
    sizes than the one that was traced."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = model(Free)
    traced = Traced(plain, "eager")
    traced(batch([3, 4]))
    found = []
    for call in (plain, traced):
        energy, forces = call(batch([5, 6, 2]))
        (slope,) = torch.autograd.grad(energy.sum() + forces.square().sum(), plain.weight)
        found.append((energy, forces, slope))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(*found))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # compiled once


def test_a_size_that_became_a_constant_is_refused() -> None:
    with pytest.raises(RuntimeError, match="constant"):
        Traced(model(Fixed), "eager")(batch([3, 4]))
