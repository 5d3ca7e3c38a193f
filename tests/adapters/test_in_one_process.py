"""A package that replaces parts of torch beside one that does not expect it. Needs neither."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from forcelaw.adapters.pet import plain_torch


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_pet_is_imported_with_the_functions_of_torch() -> None:
    """TorchScript compiles ``select`` and ``index_select`` where torch_geometric has replaced them,
    and finds them replaced afterwards, whatever happens."""

    def theirs(x: torch.Tensor, dim: int | str, index: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    with (
        mock.patch.object(torch, "select", theirs),
        mock.patch.object(torch, "index_select", theirs),
    ):
        with pytest.raises(ZeroDivisionError), plain_torch():
            picked = torch.jit.script(pick)
            raise ZeroDivisionError
        assert torch.select is torch.index_select is theirs
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(picked(x, torch.tensor([1])), x[1:, 0])


def pick(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.select(torch.index_select(x, 0, index), 1, 0)
