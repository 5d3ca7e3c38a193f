"""A test that hangs ends, whatever it hangs in, and so does the whole suite."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HANGS = """
import multiprocessing, subprocess, threading, time

def test_sleep(): time.sleep(1000)
def test_child(): subprocess.run(["sleep", "1000"])
def test_barrier(): threading.Barrier(2).wait()
def test_child_that_python_waits_for_when_it_ends():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,)).start()
    assert False
"""
STUCK = """
import signal, time

def test_stuck():  # the signal is never handled, as in a deadlock of a library
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(1000)
"""


def hang(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run these tests with the settings of this repository and shorter limits."""
    (folder / "test_hang.py").write_text(text)
    words = ["-p", "tests.conftest", "--rootdir", str(folder), "-c", str(ROOT / "pyproject.toml")]
    words += ["-p", "no:cacheprovider", "--timeout", "1", "-o", "faulthandler_timeout=5"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(folder / "test_hang.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_tests_that_hang_fail_and_the_suite_ends(tmp_path) -> None:
    done = hang(tmp_path, HANGS)
    assert done.returncode == 1
    assert len(re.findall("^FAILED", done.stdout, re.MULTILINE)) == 4


def test_a_test_that_handles_no_signal_is_ended_too(tmp_path) -> None:
    done = hang(tmp_path, STUCK)
    assert done.returncode == 1 and "FAILED" not in done.stdout
    assert "Timeout" in done.stderr and "test_hang.py" in done.stderr


def test_no_limit_is_longer_than_the_one_that_ends_the_process() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    limits = {
        float(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"mark\.timeout\((\d+)\)", path.read_text())
    }
    assert settings["faulthandler_exit_on_timeout"] and settings["timeout"] > 0
    assert max(limits) < settings["faulthandler_timeout"]
