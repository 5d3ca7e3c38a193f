"""What adapters of packages share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models import ForceField, ModelConfig


class OfNumbers(ForceField):
    """A model of a package that knows atoms by their atomic numbers, ``numbers[species]``."""

    numbers: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        numbers = torch.tensor(config.elements, device="cpu")
        self.register_buffer("numbers", numbers, persistent=False)


def frozen(model: nn.Module) -> nn.Module:
    """The model with parameters that take no gradient as buffers: they are no part of N, and the
    optimiser does not ask for their gradients."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                del module._parameters[name]
                module.register_buffer(name, parameter.data)
    return model
