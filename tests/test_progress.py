"""Rates and times in progress lines, against a clock that the test sets."""

from __future__ import annotations

import io

import pytest

from forcelaw import progress
from forcelaw.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_preparation_does_not_count(clock: list[float]) -> None:
    """A run that resumes at step 400 of 1,000 after a minute of reading: 10 steps a second, so 50 s
    for the last 500."""
    out = io.StringIO()
    bar = Progress("training", 1000, unit="steps", stream=out)
    bar.say("reading structures")
    clock[0] += 60
    bar.begin(400)
    clock[0] += 10
    bar.update(500, "loss 0.5")
    assert out.getvalue().splitlines() == [
        "training: reading structures",
        "training: 500/1k (50%) steps, 10/s, 50 s left, loss 0.5",
    ]


def test_lines_come_every_ten_seconds_where_nobody_watches(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress("prepare", 100, stream=out) as bar:
        for done in range(1, 31):
            clock[0] += 1
            bar.update(done)
    assert [line.split("/")[0] for line in out.getvalue().splitlines()] == [
        "prepare: 10",
        "prepare: 20",
        "prepare: 30",
    ]


def test_a_log_is_not_flooded(clock: list[float]) -> None:
    """Ten seconds between lines at first, a tenth of the time so far, and never more than a minute;
    nothing at all where nothing is to be shown, but its state is known."""
    out, none = io.StringIO(), io.StringIO()
    shown, hidden = Progress("t", 4000, stream=out), Progress("t", 4000, stream=none, show=False)
    for done in range(1, 3601):
        clock[0] += 1
        shown.update(done)
        hidden.update(done)
    times = [int(line.split()[1].split("/")[0]) for line in out.getvalue().splitlines()[:10]]
    assert times == list(range(10, 101, 10))
    assert 60 + 10 < len(out.getvalue().splitlines()) < 60 + 10 + 20
    assert none.getvalue() == ""
    assert hidden.state() == {"step": 3600, "steps": 4000, "rate": 1.0, "left": 400.0}
