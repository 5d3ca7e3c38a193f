"""Kernels of GemNet-OC's dense side, interpreted on a CPU in float64, against plain autograd; then
the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

import triton.language as tl
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from forcelaw import ops
from forcelaw.graph import GraphBatch, segment_sum
from forcelaw.models.gemnet_index import EdgeIndex, build_index
from forcelaw.models.gemnet_oc import GemNetOC, GemNetOCConfig
from forcelaw.ops.gemnet import residual as dense
from tests.models.tools import make_graph, padded
from tests.molecules import linear, random_cluster, single_atom

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MOLECULES = [random_cluster(6, 5), single_atom(), random_cluster(7, 6)]
RADIAL, CUTOFF = 5, 3.5


def on_device(graph: GraphBatch) -> GraphBatch:
    held = {f.name: getattr(graph, f.name) for f in fields(graph)}
    return GraphBatch(
        **{k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in held.items()}
    )


@pytest.fixture(params=[False, True], ids=["exact", "padded"])
def index(request) -> EdgeIndex:
    """Edges of three molecules, one of them a single atom; padded: three dummy atoms and forty
    edges more."""
    graph = make_graph(MOLECULES, cutoff=3.0)
    width = int(torch.bincount(graph.receiver).max())
    if request.param:
        graph = replace(padded(graph, atoms=3, edges=40, graphs=1), max_degree=width)
    return build_index(on_device(graph), graph.vectors().to(DEVICE), 2.0)


def act(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(x) / 0.6


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=DEVICE).requires_grad_(True)


def functions(index: EdgeIndex) -> torch.Tensor:
    """rbf of all edges, as columns of something wider; zero on padding edges, as the envelope makes
    it."""
    real = (torch.arange(len(index.sender), device=DEVICE) < index.ptr[-1]).double()
    return (
        torch.randn(len(real), 3 * RADIAL, dtype=torch.float64, device=DEVICE) * real.unsqueeze(1)
    ).requires_grad_()


def check(
    fast: Callable, slow: Callable, leaves: list[torch.Tensor], keep: torch.Tensor | None = None
) -> None:
    """Outputs of both, and the gradients of a random projection of them (``keep``: of these rows
    alone)."""
    found = []
    for mode, function in (("triton", fast), ("torch", slow)):
        torch.manual_seed(1)
        with ops.using(mode):
            outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = [
            torch.randn_like(o) if keep is None else torch.randn_like(o) * keep for o in outputs
        ]
        loss = sum((o * w).sum() for o, w in zip(outputs, weights))
        found.append((*outputs, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def real_edges(index: EdgeIndex) -> torch.Tensor:
    return (torch.arange(len(index.sender), device=DEVICE) < index.ptr[-1]).unsqueeze(1)


@pytest.fixture(autouse=True)
def seed(few_programs_for_padding: None) -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rows, w", [(0, 12), (1, 6), (37, 12), (300, 52)])
@pytest.mark.parametrize("keep, few", [(False, 0), (True, 0), (True, 1000), (False, 1000)])
def test_residual(rows: int, w: int, keep: bool, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "KEEP_INNER", keep)
    monkeypatch.setattr(dense, "FEW", few)
    x, w1, w2 = leaf(rows, w), leaf(w, w), leaf(w, w)
    check(
        lambda: ops.residual(x, w1, w2),
        lambda: (x + act(act(x @ w1.T) @ w2.T)) * 0.5**0.5,
        [x, w1, w2],
    )


@pytest.mark.parametrize("rows, w", [(0, 5), (37, 3), (300, 52)])
def test_numbers_and_rows(rows: int, w: int) -> None:
    x, y = leaf(rows, w), leaf(rows, w)
    check(lambda: ops.scaled_silu(x), lambda: act(x), [x])
    check(lambda: ops.blend(x, y, 0.3), lambda: (x + y) * 0.3, [x, y])
    check(lambda: ops.unit_rms(x), lambda: torch.nn.functional.rms_norm(x, (w,), eps=1e-6), [x])


@pytest.mark.parametrize("w, narrow", [(6, 3), (40, 12), (144, 20)])
def test_read_edges(index: EdgeIndex, w: int, narrow: int) -> None:
    m, weight, wide = leaf(len(index.sender), w), leaf(4 * w, w), functions(index)
    v, d = [leaf(w, RADIAL) for _ in range(3)], [leaf(narrow + k, w) for k in range(3)]
    rbf = wide.split(RADIAL, dim=1)

    def slow() -> tuple[torch.Tensor, ...]:
        skip, *rest = act(m @ weight.T).chunk(4, dim=1)
        return 0.5 * skip, *((x * (r @ v.T)) @ d.T for x, r, v, d in zip(rest, rbf, v, d))

    check(lambda: ops.read_edges(m, weight, *zip(rbf, v, d)), slow, [m, weight, wide, *v, *d])


@pytest.mark.parametrize("w", [6, 144])
def test_gathered(index: EdgeIndex, w: int) -> None:
    x = leaf(index.atoms, w)
    check(
        lambda: ops.gathered(x, index),
        lambda: x[index.sender],
        [x],
        real_edges(index),
    )


@pytest.mark.parametrize("w", [6, 144])
def test_gathered_linear(index: EdgeIndex, w: int) -> None:
    x, wide, v, d = leaf(index.atoms, w), functions(index), leaf(w, RADIAL), leaf(7, w)
    rbf = wide[:, RADIAL : 2 * RADIAL]
    check(
        lambda: ops.gathered_linear(x, rbf, v, d, index),
        lambda: (x[index.sender] * (rbf @ v.T)) @ d.T,
        [x, wide, v, d],
    )


@pytest.mark.parametrize("rows, w", [(0, 6), (37, 6), (150, 144)])
def test_filtered_linear(rows: int, w: int) -> None:
    x, rbf, v, d = leaf(rows, w), leaf(rows, RADIAL), leaf(w, RADIAL), leaf(9, w)
    check(
        lambda: ops.filtered_linear(x, rbf, v, d), lambda: (x * (rbf @ v.T)) @ d.T, [x, rbf, v, d]
    )


@pytest.mark.parametrize("w", [6, 144])
def test_filter_sum(index: EdgeIndex, w: int) -> None:
    x, wide, v = leaf(len(index.sender), w), functions(index), leaf(w, RADIAL)
    rbf = wide[:, RADIAL : 2 * RADIAL]
    real = (torch.arange(index.atoms, device=DEVICE) < index.atoms - 1).unsqueeze(
        1
    )  # of the dummy nobody asks
    check(
        lambda: ops.filter_sum(x, rbf, v, index, 0.3),
        lambda: 0.3 * segment_sum(x * (rbf @ v.T), index.receiver, index.atoms),
        [x, wide, v],
        real,
    )


@pytest.mark.parametrize("w", [6, 144])
def test_merge(index: EdgeIndex, w: int) -> None:
    skip, x, u = (
        leaf(len(index.sender), w),
        [leaf(len(index.sender), k) for k in (4, 3, 6)],
        [leaf(2 * w, k) for k in (4, 3, 6)],
    )

    def slow() -> torch.Tensor:
        ca, ac = sum(act(a @ b.T) for a, b in zip(x, u)).chunk(2, dim=1)
        return skip + 0.5**1.5 * (ca + ac[index.swap])

    check(lambda: ops.merge(skip, index, *zip(x, u)), slow, [skip, *x, *u])


@pytest.mark.parametrize("w", [6, 144])
def test_join(index: EdgeIndex, w: int) -> None:
    pair, x, weight = leaf(index.atoms, 2 * w), leaf(len(index.sender), 9), leaf(w, 9)
    s, t = pair.chunk(2, dim=1)
    check(
        lambda: ops.join(pair, x, weight, index),
        lambda: act(s[index.sender] + t[index.receiver] + x @ weight.T),
        [pair, x, weight],
        real_edges(index),
    )


def model_of(**options: object) -> GemNetOC:
    torch.manual_seed(0)
    small = {
        "width": 8,
        "depth": 1,
        "elements": (1, 6, 7, 8, 9, 16),
        "mean_degree": 6.0,
        "cutoff": CUTOFF,
        "quad_cutoff": 2.4,
        "radial": 6,
        "cbf": 3,
        "sbf": 5,
        "rbf": 3,
    }
    config = GemNetOCConfig(**(small | options))
    model = GemNetOC(config).double()
    for parameter in model.parameters():  # the heads start at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(DEVICE)


@pytest.mark.parametrize(
    "options, pad",
    [
        ({"norm": False, "edge_ratio": 1, "width": 10, "spherical": 3}, False),
        ({"depth": 2, "spherical": 2, "concat": 0, "before_skip": 0, "rbf": 5}, True),
    ],
)
def test_whole_model(options: dict, pad: bool) -> None:
    """Energies, forces and all gradients are those of the plain path; with the options as they are
    by default: tests/training/test_fused_step.py."""
    model = model_of(**options)
    graph = make_graph([linear(), random_cluster(4, 6)], cutoff=CUTOFF)
    atoms = len(graph.species)
    if pad:
        width = int(torch.bincount(graph.receiver).max())
        graph = replace(padded(graph, atoms=2, edges=8, graphs=1), max_degree=width)
    graph, found = on_device(graph), []
    for mode in ("triton", "torch"):
        with ops.using(mode):
            energy, forces = model(graph)
        loss = energy[:2].square().sum() + forces[:atoms].square().sum()
        found.append(
            (energy[:2], forces[:atoms], *torch.autograd.grad(loss, list(model.parameters())))
        )
    for a, b in zip(*found, strict=True):
        assert float(b.detach().abs().max()) > 0
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10 * max(1.0, float(b.detach().abs().max()))
        )


def test_nothing_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fake tensors, which have no values, and no launches a step of kernels goes through: so
    does CUDA graph capture."""
    for kind in (interpreter.InterpretedFunction, JITFunction):
        monkeypatch.setattr(kind, "run", lambda self, *a, **k: None)
    model, graph = (
        model_of(depth=2).float().cpu(),
        make_graph([random_cluster(6, 5)], torch.float32),
    )
    with FakeTensorMode(allow_non_fake_inputs=True), ops.using("triton"):
        fake = {
            f: torch.empty_strided(v.shape, v.stride(), dtype=v.dtype)
            for f in ("species", "batch", "pos", "sender", "receiver", "natoms")
            for v in [getattr(graph, f)]
        }
        batch = type(graph)(**fake, pad=True, max_degree=9)
        energy, forces = model(batch)
        (energy.sum() + forces.sum()).backward()
        assert forces.shape == graph.pos.shape
        assert all(p.grad.shape == p.shape for p in model.parameters())


def test_kernels_are_not_differentiated_twice() -> None:
    """An error, rather than a wrong gradient of a gradient."""
    x = leaf(3, 4)
    with ops.using("triton"):
        y = ops.scaled_silu(x).sum()
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(y, x, create_graph=True)


def round_as_a_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts float32 down to bf16 towards zero, and all errors add up."""
    cut = interpreter._convert_float

    def rounded(values: np.ndarray, given: object, wanted: object, mode: object) -> np.ndarray:
        if given != tl.float32 or wanted != tl.bfloat16:
            return cut(values, given, wanted, mode)
        exact = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
        return exact.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


def test_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast the kernels see bf16 and are as far from float64 as the plain path is."""
    round_as_a_gpu_does(monkeypatch)
    model = model_of()
    graph = on_device(make_graph([linear(), random_cluster(4, 6)], cutoff=CUTOFF))
    exact = [t.detach() for t in model(graph)]
    gradients = torch.autograd.grad(
        sum(t.square().sum() for t in model(graph)), list(model.parameters())
    )
    exact.extend(gradients)
    model, graph, error = model.float(), graph.to(torch.float32), {}
    for mode in ("triton", "torch"):
        with torch.autocast(DEVICE, dtype=torch.bfloat16), ops.using(mode):
            outputs = model(graph)
        found = [
            *outputs,
            *torch.autograd.grad(
                sum(t.float().square().sum() for t in outputs), list(model.parameters())
            ),
        ]
        assert all(g.dtype == torch.float32 for g in found[2:])
        difference = sum(
            float((a.detach().double() - b).square().sum()) for a, b in zip(found, exact)
        )
        error[mode] = (difference / sum(float(b.square().sum()) for b in exact)) ** 0.5
    assert error["triton"] < max(0.03, 1.5 * error["torch"]), error


def test_fewer_numbers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that a training step keeps for its backward pass, where they count."""
    monkeypatch.setattr(dense, "FEW", 0)
    model, graph = (
        model_of(),
        on_device(make_graph([linear(), random_cluster(4, 6)], cutoff=CUTOFF)),
    )
    kept = []
    for mode in ("triton", "torch"):
        seen: dict[int, tuple[int, torch.Tensor]] = {}

        def note(t: torch.Tensor, seen: dict = seen) -> torch.Tensor:
            seen[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), ops.using(mode):
            outputs = model(graph)
        kept.append(sum(size for size, _ in seen.values()))
        del outputs
    assert kept[0] < 0.6 * kept[1]
