"""Fixtures of the tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forcelaw import ops
from forcelaw.graph import GraphBatch
from tests.ops.graphs import molecules


@pytest.fixture
def kernels(few_programs_for_padding: None) -> Iterator[None]:
    with ops.using("triton"):
        yield


@pytest.fixture(params=[False, True], ids=["exact", "padded"])
def graph(request) -> GraphBatch:
    return molecules(4, 1, 6, pad=request.param)
