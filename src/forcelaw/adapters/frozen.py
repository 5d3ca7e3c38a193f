"""Weights of a package that it does not train."""

from __future__ import annotations

from torch import nn


def frozen(model: nn.Module) -> nn.Module:
    """The model with parameters that take no gradient as buffers: they are no part of N, and the
    optimiser does not ask for their gradients."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                del module._parameters[name]
                module.register_buffer(name, parameter.data)
    return model
