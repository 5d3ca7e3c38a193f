"""The clock of a run: how many steps to queue at once, and the device time of a run that shares its
device.

Device-hours are those of a run that has the device to itself. With other runs on it a run takes
longer, by an amount that says nothing about it; so a few of its steps are timed while everything
else waits, at its start and in its middle, and all its steps count as long as those. The steps of a
run are of a few fixed sizes in random order, so the mean of a few dozen serves.
"""

from __future__ import annotations

SAMPLE_STEPS = 48
# a sample may be cut short by an evaluation: below this the next steps are timed too
ENOUGH_STEPS = 32
# work that a GPU has before it: enough to bridge the host's pauses, little to wait for before a
# sample
QUEUED_SECONDS = 0.15
QUEUED_STEPS = (8, 200)


class Clock:
    """step: where the run begins now; steps: its end; sampled: whether other runs use the
    device."""

    def __init__(self, step: int, steps: int, *, sampled: bool):
        self.sampled = sampled
        self._due = [step, (step + steps) // 2] if sampled else []
        self._steps, self._seconds = 0, 0.0  # of all samples
        self._missing = ENOUGH_STEPS
        # how long a step takes is not known yet, and eager ones may take half a second
        self._queued = QUEUED_STEPS[0] if not sampled else SAMPLE_STEPS

    def sample_due(self, step: int) -> bool:
        return bool(self._due) and step >= self._due[0]

    def queue(self, steps: int) -> None:
        """Queue ``steps`` at once from now on: what several ranks have agreed on."""
        self._queued = steps

    def steps_to_queue(self, exclusive: bool) -> int:
        """Steps to queue now."""
        return SAMPLE_STEPS if exclusive else self._queued

    def seconds(self, steps: int, wall: float, exclusive: bool) -> float:
        """Device time of ``steps`` that took ``wall`` seconds, ``exclusive`` or with
        other runs on the device."""
        if exclusive:
            self._steps += steps
            self._seconds += wall
            self._missing -= steps
            if self._missing <= 0:
                self._due.pop(0)
                self._missing = ENOUGH_STEPS
        else:
            low, high = QUEUED_STEPS
            self._queued = max(low, min(high, round(QUEUED_SECONDS * steps / max(wall, 1e-9))))
        if exclusive or not self.sampled:
            return wall
        return steps * self._seconds / self._steps
