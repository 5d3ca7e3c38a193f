"""Progress of long work: a line that is redrawn on a terminal, and plain lines elsewhere (logs,
SLURM), every ten seconds at first and once a minute after ten of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

SLOWEST = 60.0  # seconds between the lines of a log


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 05 s, 2 h 10 min."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def count(value: float | None) -> str:
    """A large number in short: 950, 12.3k, 4.56M, 7.89G, 1.2e+13; "-" for None."""
    if value is None:
        return "-"
    for limit, scale, suffix in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(value) < limit:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def counted(number: int, noun: str = "run") -> str:
    """1 run, 2 runs, 1,200 runs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def are(number: int) -> str:
    """The verb after :func:`counted`."""
    return "is" if number == 1 else "are"


def digits(value: float, figures: int = 2) -> str:
    """A number in short, as YAML reads one: 1.2e5."""
    mantissa, _, exponent = f"{value:.{figures - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


class Progress:
    """Report how far a loop is: done/total, rate, time left, and a note.

    already: items that an earlier, interrupted call did; they do not count for the rate. interval:
    seconds between lines. show: whether anything is written. numbers: what else is known (a loss),
    by name. listener: called at each update.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        *,
        unit: str = "",
        already: float = 0,
        stream: TextIO | None = None,
        interval: float | None = None,
        show: bool = True,
    ):
        self.show, self.done, self.numbers = show, already, dict[str, float]()
        self.listener: Callable[[], None] | None = None
        self.what, self.total, self.unit, self.already = what, total, unit, already
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.interval = interval if interval is not None else (0.1 if self.live else 10.0)
        self.started = time.monotonic()
        self._last = self.started if not self.live else 0.0
        self._width = 0

    def say(self, what: str) -> None:
        """Say what is done before the first item."""
        self._show(f"{self.what}: {what}")

    def begin(self, already: float = 0) -> None:
        """Start the clock of the rate, which leaves out the time before and ``already`` items."""
        self.started, self.already = time.monotonic(), already

    def rate(self, done: float) -> float:
        """Items a second, once ``done`` are done."""
        elapsed = time.monotonic() - self.started
        return (done - self.already) / elapsed if elapsed > 0 else 0.0

    def state(self) -> dict[str, float | None]:
        """Items done, of how many, a second, seconds left, and the numbers."""
        rate = self.rate(self.done)
        left = (self.total - self.done) / rate if self.total and rate > 0 else None
        about = {"step": self.done, "steps": self.total, "rate": rate, "left": left}
        return {**about, **self.numbers}

    def line(self, done: float, note: str = "") -> str:
        """The text for ``done`` items."""
        rate = self.rate(done)
        text = f"{self.what}: {count(done)}"
        if self.total:
            text += f"/{count(self.total)} ({100 * done / self.total:.0f}%)"
        if self.unit:
            text += f" {self.unit}"
        text += f", {count(rate)}/s"
        if self.total and rate > 0 and done < self.total:
            text += f", {duration((self.total - done) / rate)} left"
        return f"{text}, {note}" if note else text

    def update(self, done: float, note: str = "") -> None:
        """Show that ``done`` items are done, unless a line was shown just now."""
        self.done = done
        if self.listener:
            self.listener()
        if self.due():
            self._show(self.line(done, note))

    def due(self) -> bool:
        """Whether a line is due; then it counts as shown."""
        now = time.monotonic()
        elsewhere = 0.0 if self.live else min(SLOWEST, (now - self.started) / 10)
        if now - self._last < max(self.interval, elsewhere):
            return False
        self._last = now
        return True

    def _show(self, text: str) -> None:
        if not self.show:
            return
        if self.live:
            self.stream.write("\r" + text[:200].ljust(self._width))
            self._width = len(text[:200])
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self, text: str = "") -> None:
        """End the live line; print ``text`` if given."""
        if not self.show:
            return
        if self.live and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
        if text:
            self.stream.write(text + "\n")
        self.stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
