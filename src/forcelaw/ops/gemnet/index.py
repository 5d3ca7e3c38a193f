"""Edges in the order that GemNet-OC's sums want, and their reverses."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...graph import segment_bounds


@dataclass
class EdgeIndex:
    """Edges in canonical order; see ``models/gemnet_index.py``, which builds it.

    order     (e,) int64  canonical edge -> edge of the graph
    sender, receiver (e,) int64, receiver ascending
    swap      (e,) int64  the reverse edge; an involution
    atoms     int         n
    pad       bool        the last atom is a dummy that takes all padding
    near      (e,) bool   shorter than the quadruplet cutoff; None: all may be, and the long ones
                          have a basis of 0 (fixed shapes)
    max_degree int        neighbours of an atom but the dummy, at most; None: as this batch has them

    What is made when it is needed, and kept:

    ptr       (n + 1,) int32  edges ptr[i]:ptr[i + 1] are those into atom i, and their ``swap``
                          those out of it; padding edges belong to nobody. For kernels.
    width, flat           rows of ``width`` slots hold the edges into one atom; flat (e,) int64 is
                          receiver * width + position among the edges of the receiver, or n * width
                          for edges that have no slot (of the dummy atom). For plain torch.
    short     (q,) int64  the near edges, ascending; None as for ``near``
    """

    order: Tensor
    sender: Tensor
    receiver: Tensor
    swap: Tensor
    atoms: int
    pad: bool
    near: Tensor | None
    max_degree: int | None = None

    # made once, and by hand: torch.compile knows no cached_property
    _ptr: Tensor | None = field(default=None, repr=False)
    _short: Tensor | None = field(default=None, repr=False)
    _slots: tuple[int, Tensor] | None = field(default=None, repr=False)

    @property
    def ptr(self) -> Tensor:
        if self._ptr is None:
            self._ptr = segment_bounds(self.receiver, self.atoms, self.pad)
        return self._ptr

    @property
    def short(self) -> Tensor | None:
        if self._short is None and self.near is not None:
            self._short = self.near.nonzero().squeeze(-1)
        return self._short

    @property
    def width(self) -> int:
        return self._rows()[0]

    @property
    def flat(self) -> Tensor:
        return self._rows()[1]

    def _rows(self) -> tuple[int, Tensor]:
        if self._slots is None:
            self._slots = self._find_slots()
        return self._slots

    def _find_slots(self) -> tuple[int, Tensor]:
        """Without ``max_degree`` the width is read back from the device. With it an atom that has
        more neighbours is an error that the device raises."""
        receiver = self.receiver
        first = torch.searchsorted(receiver, receiver)
        slot = torch.arange(len(receiver), device=receiver.device) - first
        if self.max_degree is None:
            width = int(slot.max()) + 1 if len(slot) else 1
            return width, receiver * width + slot
        width, fits = self.max_degree, slot < self.max_degree
        allowed = fits | (receiver == self.atoms - 1) if self.pad else fits
        torch._assert_async(
            allowed.all(),
            "an atom has more neighbours than the rows of fixed shapes (graph.max_degree)",
        )
        return width, torch.where(fits, receiver * width + slot, self.atoms * width)

    def rows(self, values: Tensor) -> Tensor:
        """(e, c) -> (atoms, width, c), zero in empty slots. Edges without a slot are dropped."""
        out = values.new_zeros(self.atoms * self.width + 1, values.shape[1])
        return out.index_copy(0, self.flat, values)[:-1].view(
            self.atoms, self.width, values.shape[1]
        )

    def edges(self, rows: Tensor) -> Tensor:
        """(atoms, width, c) -> (e, c): the inverse of :meth:`rows`; anything for edges without a
        slot."""
        last = self.atoms * self.width - 1
        return rows.flatten(0, 1).index_select(0, self.flat.clamp_max(last))

    def shorter(self, values: Tensor) -> Tensor:
        """(e, ...) -> (q, ...)."""
        return values if self.short is None else values.index_select(0, self.short)
