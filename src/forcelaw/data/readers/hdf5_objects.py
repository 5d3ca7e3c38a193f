"""Data sets and groups of an HDF5 file that are really in it. Links to other files, and storage in
them, would copy what the reader may read into a pack; declared shapes without bytes would fill the
memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import DataError
from .base import DEFLATE


def open_object(group: h5py.h5g.GroupID, name: str) -> Any:
    """The data set or group ``name``, by h5py's low-level interface: its high-level objects cost
    more than reading 100,000 small data sets."""
    if group.links.get_info(name.encode()).type == h5py.h5l.TYPE_EXTERNAL:
        raise DataError(f"{name} is a link to another file, which is not followed")
    found = h5py.h5o.open(group, name.encode())
    # contiguous bytes of this file have a place in it
    if isinstance(found, h5py.h5d.DatasetID) and found.get_offset() is None:
        _check_stored(found, name)
    return found


def read(group: h5py.Group, path: str) -> np.ndarray:
    """All of a data set of ``group``, or of a group in it ("properties/energy")."""
    found = group.id
    for name in path.split("/"):
        found = open_object(found, name)
    return np.asarray(h5py.Dataset(found)[()])


def damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"the HDF5 file is damaged: {error}", where=str(path), remedy="fetch it again")


def _check_stored(found: h5py.h5d.DatasetID, name: str) -> None:
    how = found.get_create_plist()
    size = found.dtype.itemsize * math.prod(found.shape)
    layout = how.get_layout()
    if layout == h5py.h5d.VIRTUAL or (layout == h5py.h5d.CONTIGUOUS and how.get_external_count()):
        raise DataError(f"{name} is stored in another file, which is not followed")
    if size > 1 << 20 and size > DEFLATE * found.get_storage_size():
        raise DataError(
            f"{name} of shape {found.shape} declares {size:,} bytes and stores"
            f" {found.get_storage_size():,}",
            remedy="the file is damaged or was never written to its end: fetch it again",
        )
