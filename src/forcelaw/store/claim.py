"""Who may write a run directory: one worker at a time, on local disks and on NFS, without a lock
server.

    RUNS/<id>/claim/<k>/holder.json     claim number k, and who holds it; its mtime is the heartbeat
    RUNS/<id>/claim/<k>/released.json   the same file, after its holder let go
    RUNS/<id>/claim/<k>/work/           the holder's files on their way into the run directory

The highest number counts. Numbers only grow, and none is used twice while a run is open.

Taking: a claim is made under a name of its own and moved to the next number by one rename, which
fails where that number is taken. Of all that saw the same stale claim one wins, however long the
others waited in between.

Losing: a winner then removes ``work`` of every lower claim. What a holder writes is renamed into
the run directory from its ``work``, so from then on that fails, also for a worker that looked,
was stopped for hours, and goes on. A check before each write only makes it stop sooner.

Staleness: a holder whose process is gone is stale at once, one that says nothing for
:data:`LEASE_SECONDS` by the clock of the file system is stale too, unless its process is seen to
run. A process is known by boot, PID namespace, number and start, so that containers with one host
name, reboots and numbers that are used again are told apart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ClaimError, StoreError
from ..files import read_json, write_json
from ..host import batch_job, process_exists

LEASE_SECONDS = 120.0  # a claim whose heartbeat is older than this is stale and may be taken over
_REMOVALS = 20  # attempts to remove a folder that another process may be writing to


@dataclass(frozen=True)
class Claim:
    """A claim that this process took: number ``number`` of the folder ``claims``."""

    claims: Path
    number: int

    @property
    def folder(self) -> Path:
        return self.claims / str(self.number)

    @property
    def work(self) -> Path:
        """The folder for files that are renamed into the run directory."""
        return self.folder / "work"

    @property
    def lost(self) -> bool:
        """Whether another worker has taken the run over, or the run directory is gone."""
        return self._followed() or not _exists(self.work)

    def check(self) -> None:
        """ClaimError if the claim is lost."""
        if self.lost:
            raise taken_over(self.claims.parent)

    def heartbeat(self) -> None:
        """Renew the lease; ClaimError if the claim is lost."""
        self.check()
        try:
            os.utime(self.folder / "holder.json")
        except FileNotFoundError:
            raise taken_over(self.claims.parent) from None

    def release(self) -> None:
        """Let go. A claim that was lost is another worker's, and stays. With a result the run is
        over, and all of ``claim`` goes."""
        if self.lost:
            return
        _remove(self.work)
        with contextlib.suppress(FileNotFoundError):
            _rename(self.folder / "holder.json", self.folder / "released.json")
            if (self.claims.parent / "result.json").exists() and not self._followed():
                gone = self.claims.with_name(f".claim-{os.urandom(4).hex()}")
                _rename(self.claims, gone)
                _remove(gone)

    def _followed(self) -> bool:
        return _exists(self.claims / str(self.number + 1))


def taken_over(run: Path) -> ClaimError:
    return ClaimError(
        f"run {run.name} was taken over by another worker; nothing more is written here",
        where=str(run),
        remedy="nothing to do: the other worker trains it on from its last checkpoint",
    )


def take(run: Path) -> Claim | None:
    """Try to become the one worker of the run in folder ``run``; None where another is."""
    claims = run / "claim"
    number = _highest(claims)
    if not _free(claims, number):
        return None
    claims.mkdir(exist_ok=True)
    made = claims / f".new-{os.urandom(8).hex()}"
    claim = Claim(claims, number + 1)
    try:
        _make(made)
        won = _move(made, claim.folder)
    except FileNotFoundError:  # the run ended meanwhile, and its claims are gone
        return None
    if not won:
        _remove(made)
        return None
    _fence(claim)
    return claim


def held(run: Path) -> bool:
    """Whether a worker that may be alive holds the run in folder ``run``."""
    claims = run / "claim"
    return not _free(claims, _highest(claims))


def holder(run: Path) -> dict[str, Any]:
    """Who holds the run in folder ``run`` (host, pid, the SLURM job or ""), with the age of its
    heartbeat as ``beat``, in seconds; empty where nobody does."""
    claims = run / "claim"
    number = _highest(claims)
    if _free(claims, number):
        return {}
    path = (claims / str(number) if number else claims) / "holder.json"
    with contextlib.suppress(OSError, StoreError):
        return read_json(path) | {"beat": file_system_time(claims) - path.stat().st_mtime}
    return {}


def _make(folder: Path) -> None:
    """A complete claim of this process, not yet in its place."""
    folder.mkdir()
    (folder / "work").mkdir()
    about = {"token": folder.name, "job": batch_job(), **identity()}
    write_json(folder / "holder.json", about)


def _move(made: Path, target: Path) -> bool:
    """Move a claim to its number by one rename; whether it is there."""
    try:
        _rename(made, target)
        return True
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
            raise
    # over NFS the answer to a rename that was done can get lost, and the second try fails
    try:
        return bool(read_json(target / "holder.json").get("token") == made.name)
    except (FileNotFoundError, StoreError):
        return False


def _fence(claim: Claim) -> None:
    """Take the ``work`` folders of all earlier claims away."""
    for entry in _entries(claim.claims):
        old = claim.claims / entry
        if entry.isdigit() and int(entry) < claim.number:
            gone = claim.claims / f".gone-{entry}-{os.urandom(4).hex()}"
            with contextlib.suppress(FileNotFoundError):
                _rename(old / "work", gone)
                _remove(gone)
        elif entry == "holder.json":  # as older versions kept it; its holder looks for it
            _remove(old)


def _highest(claims: Path) -> int:
    """The highest number of a claim; 0 without any, and for one of an older version, which is
    ``claim`` itself."""
    return max((int(entry) for entry in _entries(claims) if entry.isdigit()), default=0)


def _free(claims: Path, number: int) -> bool:
    """Whether claim ``number`` binds nobody: there is none, it was released, or it is stale."""
    holder = (claims / str(number) if number else claims) / "holder.json"
    try:
        beat = holder.stat().st_mtime
        info = read_json(holder)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except StoreError:
        info = {}
    process = process_state(info)
    if process != "unknown":
        return process == "gone"
    return file_system_time(claims) - beat > LEASE_SECONDS


def identity() -> dict[str, Any]:
    """Of this process, such that no other process on any machine has the same."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
        "started": _stat("self")[1],
    }


def process_state(holder: dict[str, Any]) -> Literal["gone", "running", "unknown"]:
    """What can be said of a holder's process from here: it is gone; it runs; or nothing, because it
    is elsewhere, stopped, or written by an older version."""
    mine = identity()
    same = all(holder.get(key) == mine[key] for key in ("host", "boot", "pid_namespace"))
    pid, started = holder.get("pid"), holder.get("started")
    if not same or not isinstance(pid, int) or pid <= 0 or not isinstance(started, str):
        return "unknown"
    if not process_exists(pid):
        return "gone"
    state, began = _stat(pid)
    if not state:  # no /proc here, or it hides the processes of others
        return "unknown"
    # a killed child whose parent has not waited yet still answers; it is not running
    if state in "ZX" or began != started:
        return "gone"
    return "unknown" if state in "Tt" else "running"


def file_system_time(folder: Path) -> float:
    """Now, in seconds since the epoch, by the clock that stamps the files of ``folder``: that of
    the server where there is one. Where nothing can be written, by this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"now")
            probe.flush()
            os.utime(probe.fileno())
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def _stat(pid: int | str) -> tuple[str, str]:
    """The letter of a process's state, and when it started, in clock ticks since the machine did;
    both empty where nothing says."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


# What other workers see of this one: the tests let three workers do these in every order.


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _exists(path: Path) -> bool:
    return path.exists()


def _rename(old: Path, new: Path) -> None:
    old.rename(new)


def _remove(path: Path) -> None:
    """Remove a file or folder that another process may still be writing to. Over NFS a folder is
    known by its handle, whatever its name; only one that is gone can no longer be written to."""
    for _ in range(_REMOVALS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if not path.exists():
            return
        time.sleep(0.05)
