"""Plan molecules, keep worker processes busy, resume what was interrupted, assemble the pack.

The molecules form one deterministic stream (drawn, or read from SMILES), cut into chunks of CHUNK.
Workers label chunks and write each by rename to PACK.partial-generate/<hash of the settings>/. The
pack is the first ``count`` structures of chunks 0, 1, 2 ... in order, so neither the number of
workers nor an interruption shows in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import DataError
from ...progress import Progress
from .molecules import Molecule
from .options import Distribution
from .worker import read_chunk

# molecules; about 1.5 s of work, so that little is lost by a kill and dispatching costs nothing
CHUNK = 16
MAX_CRASHES = 3
EMPTY_CHUNKS = 20  # this many chunks without one structure mean that something is broken


class Chunk(NamedTuple):
    """index, molecules, reasons and counts of what the stream skipped up to its end, and the key of
    its contents."""

    index: int
    molecules: list[Molecule]
    skipped: Counter[str]
    key: str


def settings_hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class Plan:
    """Chunks in order, made when asked for. ``skipped`` must be the counter that the stream itself
    counts into."""

    def __init__(self, stream: Iterator[Molecule], skipped: Counter[str], settings: dict[str, Any]):
        self.stream, self.skipped, self.settings = stream, skipped, settings
        self.made = 0

    def next(self) -> Chunk | None:
        """The next chunk, shorter than CHUNK at the end of the stream; None after it."""
        molecules = list(islice(self.stream, CHUNK))
        if not molecules and self.made:
            return None
        key = settings_hash({"settings": self.settings, "molecules": molecules})
        self.made += 1
        return Chunk(self.made - 1, molecules, Counter(self.skipped), key)


class Worker:
    """One worker process and the chunk it is busy with."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forcelaw.data.generate.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | threads,
        )
        self.chunk: Chunk | None = None

    def send(self, chunk: Chunk, task: dict[str, Any]) -> None:
        self.chunk = chunk
        # if it died, its stdout is at the end of file and tells so
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """The answer to the last task; None when the process is gone."""
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        # a task that was never read is still in the buffer
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


class Run:
    """One call of generate, from the first chunk to the last.

    folder: where chunks lie. most: the structures that the stream can give, if it ends.
    ``finished`` maps a chunk's index to (chunk, structures in it).
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        count: int,
        seed: int,
        distribution: Distribution,
        workers: int,
        most: int | None = None,
    ):
        self.folder, self.plan, self.count, self.seed = folder, plan, count, seed
        self.distribution, self.workers = distribution, workers
        self.expected = count if most is None else min(count, most)
        self.finished: dict[int, tuple[Chunk, int]] = {}
        self.contiguous = self.structures = 0  # chunks finished without a gap, and their structures
        self.ahead = 0  # structures of chunks finished beyond the gap
        self.crashes: Counter[int] = Counter()
        self.waiting: list[Chunk] = []  # chunks whose worker died
        self.exhausted = False
        self.busy_seconds = 0.0

    def path(self, index: int) -> Path:
        return self.folder / f"chunk-{index:08d}.npz"

    def done(self, chunk: Chunk, structures: int) -> None:
        self.finished[chunk.index] = (chunk, structures)
        self.ahead += structures
        while self.contiguous in self.finished:
            n = self.finished[self.contiguous][1]
            self.structures += n
            self.ahead -= n
            self.contiguous += 1
        if self.contiguous >= EMPTY_CHUNKS and not self.structures:
            raise DataError(
                f"none of the first {self.contiguous * CHUNK} molecules gave a structure",
                where=json.dumps(self.failures()),
                remedy="check the SMILES file, or the installed rdkit and tblite",
            )

    def failures(self) -> dict[str, int]:
        """Failed structures of the finished chunks by reason."""
        total: Counter[str] = Counter()
        for chunk, _ in self.finished.values():
            arrays = read_chunk(self.path(chunk.index), chunk.key)
            total.update(arrays["failures"] if arrays else {})
        return dict(sorted(total.items()))

    def _first_missing(self) -> Chunk | None:
        """The next chunk that is to be labelled; what is there counts as done. None at the end of
        the stream, and once there is enough."""
        while self.structures < self.count and (chunk := self._next()) is not None:
            arrays = read_chunk(self.path(chunk.index), chunk.key)
            if arrays is None:
                return chunk
            self.done(chunk, len(arrays["counts"]))
        return None

    def _next(self) -> Chunk | None:
        if self.waiting:
            return self.waiting.pop(0)
        chunk = None if self.exhausted else self.plan.next()
        self.exhausted = self.exhausted or chunk is None
        return chunk

    def _enough(self, in_flight: int) -> bool:
        """Whether what is finished and in flight may suffice, so that no chunk is started in
        vain."""
        expected = in_flight * CHUNK * self.distribution.conformers
        return self.structures + self.ahead + expected >= self.count

    def execute(self) -> None:
        """Label chunks until the first ``count`` structures are there or the stream ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = self._first_missing()
        if first is None:
            return
        self.waiting.append(first)
        selector = selectors.DefaultSelector()
        counted = {"unit": "structures", "already": self.structures}
        with Progress("generate", self.expected, **counted) as progress:
            try:
                for _ in range(self.workers):
                    self._start(selector)
                while self.structures < self.count and self._busy(selector):
                    for key, _ in selector.select(timeout=1.0):
                        self._collect(selector, key.data)
                    self._feed(selector)
                    progress.update(self.structures + self.ahead)
            finally:
                for key in list(selector.get_map().values()):
                    key.data.stop()
                selector.close()

    @staticmethod
    def _busy(selector: selectors.BaseSelector) -> int:
        """Workers that label a chunk."""
        return sum(key.data.chunk is not None for key in selector.get_map().values())

    def _start(self, selector: selectors.BaseSelector) -> None:
        """Start a worker if there is a chunk for it."""
        if not self.waiting and self._enough(self._busy(selector)):
            return
        worker = Worker()
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        self._feed(selector)

    def _feed(self, selector: selectors.BaseSelector) -> None:
        """Give every idle worker a chunk, while more structures are needed."""
        workers = [k.data for k in selector.get_map().values()]
        for worker in workers:
            if worker.chunk is not None:
                continue
            if not self.waiting and self._enough(self._busy(selector)):
                return
            chunk = self._first_missing()
            if chunk is None:
                return
            task = {"chunk": chunk.index, "path": str(self.path(chunk.index)), "key": chunk.key}
            task |= {"seed": self.seed, "molecules": chunk.molecules}
            worker.send(chunk, {**task, "distribution": self.distribution.model_dump()})

    def _collect(self, selector: selectors.BaseSelector, worker: Worker) -> None:
        answer = worker.answer()
        chunk = worker.chunk
        if answer is not None:
            worker.chunk = None
            self.busy_seconds += answer["seconds"]
            self.done(chunk, answer["structures"])
            return
        selector.unregister(worker.process.stdout)
        worker.stop()
        if chunk is not None:
            self.crashes[chunk.index] += 1
            self.waiting.append(chunk)
            if self.crashes[chunk.index] >= MAX_CRASHES:
                status = worker.process.returncode
                raise DataError(
                    f"a worker died {MAX_CRASHES} times on the same molecules (exit status"
                    f" {status})",
                    where=" ".join(m.smiles for m in chunk.molecules),
                    remedy=(
                        "see the messages above; short of memory, use fewer --workers; then start"
                        " it again"
                    ),
                )
        self._start(selector)

    def chunks(self) -> Iterator[tuple[Chunk, dict[str, Any]]]:
        """Finished chunks in order, up to the one that completes ``count``."""
        reached = 0
        for index in range(self.contiguous):
            if reached >= self.count:
                return
            chunk, structures = self.finished[index]
            arrays = read_chunk(self.path(index), chunk.key)
            if arrays is None:
                raise DataError(
                    "a finished chunk has vanished or changed",
                    where=str(self.path(index)),
                    remedy="run the same command again: it is made anew",
                )
            reached += structures
            yield chunk, arrays
