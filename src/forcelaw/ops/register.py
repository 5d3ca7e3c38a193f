"""How a pair of kernels becomes an operation that autograd knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .switch import derivatives

Tensors = tuple[Tensor, ...]


class Differentiable(Function):
    """Kernels of a forward and a backward pass: a subclass defines ``forward(ctx, *inputs)`` and
    ``backward(ctx, *gradients)``, without decorators, and is called by ``apply``.

    Asking for a gradient that could be differentiated again (create_graph) is a RuntimeError. torch
    sees no kernel while it compiles or exports (``use_triton``), so nothing is declared to it here.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.forward = staticmethod(cls.__dict__["forward"])
        cls.backward = staticmethod(_once(cls.__dict__["backward"]))


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kernels cannot be differentiated twice: run the forward pass inside"
                ' forcelaw.ops.using("torch")'
            )
        return backward(ctx, *gradients)

    return checked


class Twice(Function):
    """Kernels of an operation y = f(x) that gradient forces go through, called by ``apply``.

    The loss of a step with gradient forces takes the gradient of the energy by positions, and is
    itself differentiated by parameters. By hand that is: the gradients P of y while forces are
    made, then tangents x' and y' = f_x x' along the forward pass, then gradients G of y again. What
    G and P together give is one pass over the same numbers, so it is one kernel: the tangent leaves
    what it knows with the node of f, whose second backward pass takes it up. A subclass defines,
    without decorators,

        value(ctx, *inputs)          outputs, and a tuple of tensors that the others get as ``kept``
        gradient(ctx, kept, *G)      gradients of all inputs: where forces are direct
        pull(ctx, kept, *P)          gradients of the inputs that depend on positions, None for the
                                     others (default: those of ``gradient``)
        push(ctx, kept, tangents)    tangents of the outputs from those of what pull gave, and
                                     anything that ``second`` wants to have of it
        second(ctx, kept, tangents, P, G, more)
                                     gradients of all inputs of <G, y> + <P, y'>

    Geometry of edges leads to no parameter, so nobody needs its gradient from ``second``.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        methods = ("value", "gradient", "pull", "push", "second")
        for name in methods:
            if name in cls.__dict__:
                setattr(cls, name, staticmethod(cls.__dict__[name]))
        cls.forward = staticmethod(functools.partial(_forward, cls))
        cls.backward = staticmethod(functools.partial(_backward, cls))

    value: Callable[..., Any]
    gradient: Callable[..., Any]
    push: Callable[..., Any]
    second: Callable[..., Any]
    pull: Callable[..., Any] = None  # type: ignore[assignment]  # gradient


def _forward(op: type[Twice], ctx: Any, *inputs: Any) -> Any:
    outputs, kept = op.value(ctx, *inputs)
    ctx.derivatives, ctx.left = derivatives(), None
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    # kept so that the node of the tangent comes after this one, and not only behind it
    ctx.save_for_backward(*kept, first if ctx.derivatives == 2 else None)
    return outputs


def _backward(op: type[Twice], ctx: Any, *gradients: Any) -> Any:
    *kept, output = ctx.saved_tensors
    if torch.is_grad_enabled():
        if ctx.derivatives != 2:
            raise RuntimeError(
                "kernels cannot be differentiated twice here: run the forward pass inside"
                ' forcelaw.ops.using("torch")'
            )
        return _Pull.apply(op, ctx, output, *gradients)
    if ctx.derivatives == 1:
        return (op.pull or op.gradient)(ctx, kept, *gradients)
    if ctx.left is None:
        return op.gradient(ctx, kept, *gradients)
    (tangents, first, more), ctx.left = ctx.left, None
    return op.second(ctx, kept, tangents, first, gradients, more)


class _Pull(Function):
    """The first backward pass of an operation, as one that can be differentiated itself."""

    @staticmethod
    def forward(ctx: Any, op: type[Twice], node: Any, _: Tensor, *gradients: Tensor) -> Any:
        ctx.op, ctx.node = op, node
        ctx.save_for_backward(*gradients)
        return (op.pull or op.gradient)(node, node.saved_tensors[:-1], *gradients)

    @staticmethod
    def backward(ctx: Any, *tangents: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("kernels cannot be differentiated three times")
        node, op = ctx.node, ctx.op
        outputs, more = op.push(node, node.saved_tensors[:-1], tangents)
        # detached: nodes of geometry, which nobody runs again, would hold on to the graph by it
        node.left = tangents, tuple(g.detach() for g in ctx.saved_tensors), more
        return None, None, None, *outputs
