"""SIGTERM and Ctrl-C end a training with a checkpoint, as they do in the workers of a study."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class Interruption:
    """While entered, a signal asks the training that polls this (``stop=``) to save a checkpoint
    and leave.

    One that comes before the first poll is a KeyboardInterrupt: nothing was trained that could be
    lost. So is a second Ctrl-C; a second SIGTERM is not, because schedulers repeat it. signal: the
    name of the one that came, or empty.
    """

    def __init__(self) -> None:
        self.signal = ""
        self._polled = False
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        self._polled = True
        return bool(self.signal)

    def _receive(self, number: int, _: Any) -> None:
        second = bool(self.signal)
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT if second else not self._polled:
            raise KeyboardInterrupt

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # what a shell started in the background ignores Ctrl-C, and shall go on to
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
