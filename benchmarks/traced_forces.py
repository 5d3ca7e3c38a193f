"""Gradient forces of a model as one program, traced and compiled: training with it differentiates
no derivative. field_table.py measures packages by it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._decomp import core_aten_decompositions
from torch.func import functional_call
from torch.fx.experimental import _config
from torch.fx.experimental.proxy_tensor import make_fx

from forcelaw.graph import GraphBatch


class Traced:
    """Energies and gradient forces of a model as one program: the derivative is traced (make_fx),
    then compiled, so that training differentiates no derivative. Made for the first batch, and an
    error where it holds for no other."""

    FIELDS = ("species", "batch", "pos", "sender", "receiver", "natoms")

    def __init__(
        self,
        model: Any,
        compiler: str = "inductor",
        say: Callable[[str], None] = lambda where: None,
    ):
        self.model, self.compiler, self.say, self.program = model, compiler, say, None
        self.names, self.weights = zip(*model.named_parameters())

    def __call__(self, graph: Any) -> Any:
        fields = tuple(getattr(graph, name) for name in self.FIELDS)
        if self.program is None:
            self.say("traces the derivative")
            self.program = self._trace(fields)
            self.say("compiles the trace, in its first step")
        return self.program(*fields, *self.weights)

    def _trace(self, fields: tuple[Any, ...]) -> Any:
        def whole(*given: Any) -> Any:
            graph = GraphBatch(*given[: len(self.FIELDS)])
            weights = dict(zip(self.names, given[len(self.FIELDS) :]))
            return functional_call(self.model, weights, (graph,))

        def silu_backward(gradient: Any, x: Any) -> Any:  # the core table's has no derivative
            gate = torch.sigmoid(x)
            return gradient * gate * (1 + x * (1 - gate))

        table = dict(core_aten_decompositions())
        table[torch.ops.aten.silu_backward.default] = silu_backward
        weights = [w.detach().clone().requires_grad_() for w in self.weights]
        # two sizes that happen to be equal are not to be one; threads of autograd see no table
        duck, _config.use_duck_shape = _config.use_duck_shape, False
        try:
            with torch.autograd.set_multithreading_enabled(False), plain_sums():
                program = make_fx(
                    whole, table, tracing_mode="symbolic", _allow_non_fake_inputs=True
                )(*fields, *weights)
        finally:
            _config.use_duck_shape = duck
        self._free(program)
        return torch.compile(program, dynamic=True, backend=self.compiler)

    def _free(self, program: Any) -> None:
        """Raise if a size of the batch became a constant: the program would compile for minutes and
        fail at the second batch."""
        given = [node for node in program.graph.nodes if node.op == "placeholder"]
        for name, node in zip(self.FIELDS, given):
            length = node.meta["val"].shape[0]
            fixed = length if isinstance(length, int) else length.node.maybe_as_int()
            if fixed is not None:
                raise RuntimeError(f"the trace takes the length of {name}, {fixed}, for a constant")


@contextlib.contextmanager
def plain_sums() -> Iterator[None]:
    """With matgl's sums over edges in Python: by TorchScript, which it has them in, the number of
    atoms would be a constant of a trace."""
    module = sys.modules.get("matgl.utils.maths")
    if module is None:
        yield
        return
    theirs = module._scatter_add  # type: ignore[attr-defined]

    def ours(x: Any, index: Any, dim_size: Any, dim: int = 0) -> Any:
        shape = [*x.shape[:dim], dim_size, *x.shape[dim + 1 :]]
        return x.new_zeros(shape).index_add(dim, index, x)

    module._scatter_add = ours  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module._scatter_add = theirs  # type: ignore[attr-defined]
