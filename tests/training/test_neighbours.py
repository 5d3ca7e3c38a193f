"""Device-hours measured beside other processes are marked."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from forcelaw.training.neighbours import lock_file, sharing, training_on

pytest.importorskip("fcntl")
HOLD = """
import sys
from pathlib import Path
from forcelaw.training.neighbours import sharing
with sharing(Path(sys.argv[1])) as alone:
    print(alone(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.timeout(60)
def test_a_process_sees_another_one_on_its_device_and_no_longer_when_it_ends(tmp_path) -> None:
    path = tmp_path / "device.lock"
    with sharing(path) as alone:
        assert alone()
        other = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert other.stdout.readline() == "False\n" and not alone()
        finally:
            other.communicate("", timeout=30)
        assert alone()
    assert not path.exists() or path.stat().st_size == 0


def test_trainings_of_one_process_are_no_neighbours(tmp_path) -> None:
    path = tmp_path / "device.lock"
    with sharing(path) as first:
        with sharing(path) as second:
            assert first() and second()
        assert first()
    with sharing(path) as again:
        assert again()


def test_devices_and_processors_have_nothing_in_common(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert lock_file("one") != lock_file("another")
    with sharing(lock_file("one")) as one, sharing(lock_file("another")) as another:
        assert one() and another()
    with training_on(torch.device("cpu")) as alone:
        assert alone()
    with sharing(tmp_path / "no such folder" / "lock") as alone:  # nothing can be said, nor fails
        assert alone()
