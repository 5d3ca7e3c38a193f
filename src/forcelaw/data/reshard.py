"""A pack written again in other shards, or in none: the same arrays, manifest and hash."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from ..errors import DataError
from .pack import Pack, PackWriter
from .prepare import check_folders, clear_partials, mark
from .shards import homes
from .verify import verify

AT_ONCE = 1 << 14  # structures


def reshard(
    path: str | Path,
    out: str | Path,
    *,
    shard_size: int | None = None,
    shard_folders: Sequence[Path] = (),
    overwrite: bool = False,
    say: TextIO | None = None,
) -> Path:
    """Write the pack at ``path`` to ``out`` in shards of at most ``shard_size`` bytes, None:
    without; put into ``shard_folders`` in turn. It is verified first. say: where to print what is
    left of a pack that is replaced (default stderr). Returns ``out``.

    Raises DataError where the pack is damaged, or ``out`` exists and ``overwrite`` is not given.
    """
    pack, out = Pack(path), Path(out)
    if out.exists() and out.samefile(pack.path):
        raise DataError(f"{out} is the pack itself", remedy="choose another --out")
    check_folders(shard_size, shard_folders)
    verify(pack)
    clear_partials(out)
    before = homes(out)
    arrays = pack.manifest["arrays"]
    quantum = None
    if pack.positions.dtype.kind == "i":
        quantum = (pack.scale("positions"), pack.scale("forces"))
    has = {name: name in arrays for name in ("charges", "stresses", "configs")}
    where = {"shard_size": shard_size, "shard_folders": shard_folders, "overwrite": overwrite}
    with PackWriter(out, quantum=quantum, periodic="cells" in arrays, **has, **where) as writer:
        owner = mark(writer)
        for first in range(0, len(pack), AT_ONCE):
            rows = slice(first, min(first + AT_ONCE, len(pack)))
            low, high = int(pack.offsets[rows.start]), int(pack.offsets[rows.stop])
            of = {name: getattr(pack, name)[rows] for name in arrays if name != "offsets"}
            of["numbers"] = pack.numbers[low:high]
            of |= {name: pack.vectors(name, slice(low, high)) for name in ("positions", "forces")}
            writer.append(np.diff(pack.offsets[rows.start : rows.stop + 1]), **of)
        owner.unlink()
        made = ("format", "version", "structures", "atoms", "periodic", "arrays", "shards")
        kept = {k: v for k, v in pack.manifest.items() if k not in (*made, "content_hash")}
        writer.finish(kept)
    if Pack(out).hash != pack.hash:
        raise DataError(
            f"{out} is not what was read", where=str(pack.path), remedy="check the disks; try again"
        )
    for home in before:
        print(f"left {home}: shards of the pack that was replaced", file=say or sys.stderr)
    return out
