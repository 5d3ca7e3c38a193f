"""What a study cost: device-hours by the clock, the training done in them, and how well the devices
were used.

    OUT/pieces/<when>-<token>.json   one for each call of `forcelaw run`: its devices, and for how
                                     long it held them

One file has one writer, so that pieces of several machines can be put together. A piece that was
killed counts up to its last beat. Needs no torch.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import StoreError, printable
from ..files import read_json, storage, write_json
from ..progress import are, count, counted, duration
from ..store.runs import BESIDE, RunDirectory, runs

BEAT_SECONDS = 10.0
# neither the number of its runs nor their sum is known
PAPER = "the paper (arXiv 2510.09768) spent up to about 30 GPU-hours on one run"


class Piece:
    """One call of `forcelaw run`: a context that writes down how long it held its devices."""

    def __init__(self, out: Path, *, device: str, devices: int, workers: int):
        began = datetime.datetime.now(datetime.UTC)
        self.path = out / "pieces" / f"{began:%Y%m%dT%H%M%S}-{os.urandom(3).hex()}.json"
        self.content: dict[str, Any] = {
            "began": began.isoformat(timespec="seconds"),
            "seconds": 0.0,
            "device": device,
            "devices": devices,
            "workers": workers,
        }
        self.began = self.saved = time.monotonic()

    def __enter__(self) -> Piece:
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        return self

    def beat(self) -> None:
        if time.monotonic() - self.saved >= BEAT_SECONDS:
            with contextlib.suppress(OSError):  # the workers stop by themselves, and say why
                self._write()

    def _write(self) -> None:
        self.saved = time.monotonic()
        write_json(self.path, self.content | {"seconds": round(self.saved - self.began, 3)})

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):
            self._write()


@dataclass
class Accounts:
    """Hours and FLOPs of a study.

    solo_hours: device-hours of training only, as if every run had a device to itself, unfinished
    runs included. held_hours: hours by the clock times devices, over all pieces: compiling,
    evaluating and waiting included; 0 where nothing was written down. flops: of training, a
    multiply-add counted as 2. shared: runs copied from other studies; they are in ``runs``, and not
    in the hours and FLOPs. beside: runs whose hours were measured while other processes trained on
    their device.
    """

    solo_hours: float = 0.0
    held_hours: float = 0.0
    flops: float = 0.0
    longest_hours: float = 0.0
    shared: int = 0
    beside: int = 0
    pieces: int = 0
    devices: dict[str, float] = field(default_factory=dict)  # name -> held hours
    runs: dict[str, int] = field(default_factory=dict)  # status -> count
    by_architecture: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def utilisation(self) -> float | None:
        """Solo hours of training in one held device-hour; above 1 where runs side by side fill a
        device."""
        return self.solo_hours / self.held_hours if self.held_hours else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"utilisation": self.utilisation, "beside": PAPER}

    def describe(self) -> str:
        """As a table by architecture and a few lines."""
        lines = [f"{'architecture':<28}{'runs':>6}{'solo hours':>12}{'FLOPs':>10}"]
        for label, row in sorted(self.by_architecture.items()):
            lines.append(
                f"{printable(label):<28}{row['runs']:>6.0f}{row['solo_hours']:>12.3f}{row['flops']:>10.1e}"
            )
        lines.append(
            f"trained:   {self.flops:.2e} FLOPs in {self.solo_hours:.3f} device-hours of training;"
            f" the longest run took {duration(3600 * self.longest_hours)}"
        )
        if self.shared:
            lines.append(
                f"shared:    {counted(self.shared, 'more run')} {are(self.shared)} of other"
                " studies, and counted there"
            )
        if self.beside:
            were = "was" if self.beside == 1 else "were"
            lines.append(
                f"timing:    {counted(self.beside)} {were} timed while other processes trained on"
                " their device: their hours are too long"
            )
        if self.utilisation is not None:
            held = ", ".join(f"{hours:.3f} h of {name}" for name, hours in self.devices.items())
            lines.append(
                f"held:      {held} in {count(self.pieces)} call{'s' * (self.pieces != 1)};"
                f" {self.utilisation:.2f} hours of training in each hour held"
            )
        return "\n".join([*lines, f"for scale: {PAPER}"])


def accounts(out: Path) -> Accounts:
    """What the study in directory ``out`` has cost so far."""
    total = Accounts()
    for run in runs(out / "runs"):
        try:
            result, label = run.result(), str(run.spec()["label"])
            seconds, flops = spent(run, result)
        except (StoreError, KeyError, TypeError, ValueError):  # status and report say what it is
            total.runs["damaged"] = total.runs.get("damaged", 0) + 1
            continue
        status = result["status"] if result else "unfinished"
        total.runs[status] = total.runs.get(status, 0) + 1
        if (result or {}).get("taken_from"):  # another study's run, and counted there
            total.shared += 1
            continue
        total.beside += (result or {}).get("timing") == BESIDE
        total.solo_hours += seconds / 3600
        total.flops += flops
        total.longest_hours = max(total.longest_hours, seconds / 3600)
        row = total.by_architecture.setdefault(label, {"runs": 0, "solo_hours": 0.0, "flops": 0.0})
        row["runs"] += 1
        row["solo_hours"] += seconds / 3600
        row["flops"] += flops
    for path in sorted((out / "pieces").glob("*.json")):
        try:
            piece = read_json(path)
            hours, device = float(piece["seconds"]) * piece["devices"] / 3600, str(piece["device"])
        except (StoreError, KeyError, TypeError, ValueError):  # accounts without it are too low
            continue
        total.pieces += 1
        total.held_hours += hours
        total.devices[device] = total.devices.get(device, 0.0) + hours
    return total


def spent(run: RunDirectory, result: dict[str, Any] | None) -> tuple[float, float]:
    """Seconds of training and FLOPs that a run has used, from the latest file that it wrote."""
    if result and "seconds" in result:
        return float(result["seconds"]), float(result["flops"])
    last = run.path / "last.json"
    if last.exists():
        state = read_json(last)
        return float(state.get("seconds", 0.0)), float(state.get("flops", 0.0))
    metrics = run.metrics()
    return (3600.0 * metrics[-1]["h"], float(metrics[-1]["c"])) if metrics else (0.0, 0.0)
