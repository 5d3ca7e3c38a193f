"""A SLURM cluster of one node on this machine, for tests, from Debian's packages: they are unpacked
below a folder, and nothing is installed. Jobs of its partition ``urgent`` preempt those of ``all``,
which have 30 seconds to save.

    python benchmarks/slurm_node.py FOLDER [--cpus 4] -- COMMAND ...

runs COMMAND with sbatch, squeue and the like in its PATH, and ends the cluster after it. Needs root
and apt (Debian 12: SLURM 22.05, 3.5 MB, ready in 4 seconds). There are no cgroups: CPUs that are
given beyond those of the machine are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15"
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
KillWait=10
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
PluginDir={plugins}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes={host} Default=YES PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class Node:
    """The cluster below ``folder``: ``cpus`` processors and ``memory`` MiB. environment: of
    programs that use it."""

    def __init__(self, folder: Path, cpus: int, memory: int = 8000):
        self.folder, self.root = folder.resolve(), folder.resolve() / "root"
        libraries = self.root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
        self.environment = os.environ | {
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'slurm-wlm'}",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.root / 'usr' / 'bin'}:{os.environ['PATH']}",
        }
        text = CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            plugins=libraries / "slurm-wlm",
            cpus=cpus,
            ports=_free_ports(2),
            memory=memory,
        )
        for name in ("debs", "spool", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "slurm.conf").write_text(text)

    def unpack(self) -> None:
        debs = self.folder / "debs"
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES.split()], cwd=debs, check=True)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(deb), str(self.root)], check=True)

    def start(self) -> None:
        """Start it, and wait until the node is idle."""
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o400)
        paths = {"key-file": key} | {
            name: self.folder / f"munge.{suffix}"
            for name, suffix in (("socket", "sock"), ("pid-file", "pid"), ("log-file", "log"))
        }
        options = [f"--{name}={path}" for name, path in paths.items()]
        self._run("munged", "--force", f"--seed-file={self.folder / 'munge.seed'}", *options)
        self._run("slurmctld-wlm", "-c")
        self.start_daemon()
        for _ in range(60):
            if "idle" in self.ask("sinfo", "-h", "-o", "%T"):
                return
            time.sleep(0.25)
        raise SystemExit(f"the node is not idle: see {self.folder}/*.log")

    def start_daemon(self) -> None:
        """Start slurmd, which starts and signals jobs; jobs that run outlive it."""
        self._run("slurmd-wlm", "-d", str(self.root / "usr" / "sbin" / "slurmstepd-wlm"))

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout

    def kill(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to slurmd, slurmctld or munge."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / f"{name}.pid").read_text()), number)

    def _run(self, program: str, *options: str) -> None:
        path = str(self.root / "usr" / "sbin" / program)
        subprocess.run([path, *options], env=self.environment, check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def one_node(folder: Path, cpus: int) -> Iterator[Node]:
    """The cluster while entered."""
    node = Node(folder, cpus)
    if not (node.root / "usr" / "sbin" / "slurmctld-wlm").exists():
        node.unpack()
    try:
        node.start()
        yield node
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            node.kill(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args, command = parser.parse_args(words[:cut]), words[cut + 1 :] or ["sinfo"]
    with one_node(args.folder, args.cpus) as node:
        return subprocess.run(["env", *command], env=node.environment).returncode


if __name__ == "__main__":
    sys.exit(main())
