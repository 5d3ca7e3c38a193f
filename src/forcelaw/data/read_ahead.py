"""Sources read by several processes. Each takes a piece (a source that cannot be read in parts is
one) and leaves its blocks in a scratch file; the caller takes the pieces in their order. So blocks
are those of one process, and so is all that is made of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError, ForcelawError, StorageError
from .readers import Block, Source, SourceOptions, gather

AHEAD = 2  # pieces for each process that are read or wait to be taken
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ReadAhead:
    """Blocks of sources, read by ``jobs`` processes. folder: for scratch files."""

    def __init__(
        self, sources: Sequence[Source], options: SourceOptions, jobs: int, folder: Path
    ) -> None:
        self._sources, self._folder = sources, folder
        self._options = options.model_dump(mode="json")
        self._tasks = iter(
            (k, piece)
            for k, source in enumerate(sources)
            for piece in (range(len(source.pieces)) if source.pieces else [None])
        )
        self._number, self._most = 0, AHEAD * jobs
        self._workers = [_Worker() for _ in range(jobs)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(jobs, "read-ahead")
        self._ahead: deque[tuple[int, Path, Future[Any]]] = deque()

    def blocks(self, k: int) -> Iterator[Block]:
        """All blocks of source ``k``; sources are to be asked for in their order."""
        found = self._pieces(k)
        return gather(found) if self._sources[k].pieces else found

    def _pieces(self, k: int) -> Iterator[Block]:
        while True:
            while len(self._ahead) < self._most and (task := next(self._tasks, None)):
                self._submit(*task)
            if not self._ahead or self._ahead[0][0] != k:
                return
            _, path, answer = self._ahead.popleft()
            if error := answer.result():
                raise error
            with path.open("rb") as file:
                yield from read_blocks(file)
            path.unlink()

    def _submit(self, k: int, piece: int | None) -> None:
        path = self._folder / f"scratch.piece-{self._number}"
        self._number += 1
        task = {
            "source": str(self._sources[k].path),
            "options": self._options,
            "piece": piece,
            "out": str(path),
        }
        self._ahead.append((k, path, self._threads.submit(self._ask, task)))

    def _ask(self, task: dict[str, Any]) -> ForcelawError | None:
        worker = self._idle.get()
        try:
            return worker.ask(task)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes and remove what they left."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()
        for path in self._folder.glob("scratch.piece-*"):
            path.unlink(missing_ok=True)


class _Worker:
    """A process that reads pieces until its input ends, which it does when the caller is gone."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forcelaw.data.read_ahead"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ONE_THREAD,
        )

    def ask(self, task: dict[str, Any]) -> ForcelawError | None:
        """Have a piece read; what was wrong with it, if anything was."""
        with contextlib.suppress(BrokenPipeError):  # then it does not answer
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            return DataError(
                f"a process that read it was lost (exit status {self.process.wait()})",
                where=task["source"],
                remedy="see the messages above; short of memory, use fewer --jobs",
            )
        answer = json.loads(line)
        if not answer:
            return None
        kind = StorageError if answer["kind"] == "StorageError" else DataError
        return kind(answer["what"], where=answer["where"], remedy=answer["remedy"])

    def close(self) -> None:
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # a task that was never read
            self.process.stdin.close()
        self.process.stdout.close()


_ARRAYS = [f.name for f in fields(Block) if f.name not in ("first", "place", "groups", "configs")]


def write_blocks(file: BinaryIO, blocks: Iterator[Block]) -> None:
    """Blocks one after the other: a line of JSON, then the arrays that it names."""
    for block in blocks:
        arrays = {name: a for name in _ARRAYS if (a := getattr(block, name)) is not None}
        words: dict[str, Any] = {"groups": block.groups}
        if isinstance(block.groups, np.ndarray):
            words, arrays["groups"] = {}, block.groups
        words |= {"first": block.first, "configs": block.configs, "arrays": list(arrays)}
        words["places"] = [block.place(k) for k in range(len(block))]
        file.write(json.dumps(words).encode() + b"\n")
        for array in arrays.values():
            np.lib.format.write_array(file, array, allow_pickle=False)


def read_blocks(file: BinaryIO) -> Iterator[Block]:
    """What :func:`write_blocks` wrote."""
    while line := file.readline():
        words = json.loads(line)
        names, places = words.pop("arrays"), words.pop("places")
        arrays = {name: np.lib.format.read_array(file, allow_pickle=False) for name in names}
        yield Block(place=places.__getitem__, **words, **arrays)


def main() -> None:
    """Serve tasks until stdin closes."""
    import signal

    from ..files import is_storage, storage_error
    from .readers import open_source

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    opened: dict[str, Source] = {}
    for line in sys.stdin:
        task, error = json.loads(line), None
        name, out = task["source"], Path(task["out"])
        try:
            if name not in opened:  # the pieces of a source come one after the other
                opened = {name: open_source(name, SourceOptions(**task["options"]))}
            with out.open("wb") as file:
                write_blocks(file, opened[name].blocks(task["piece"]))
        except ForcelawError as found:
            error = found
        except OSError as found:
            if not is_storage(found):
                raise
            error = storage_error(found, out)
        answer = {}
        if error:
            answer = {key: getattr(error, key) for key in ("what", "where", "remedy")}
            answer["kind"] = type(error).__name__
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(0)


if __name__ == "__main__":
    main()
