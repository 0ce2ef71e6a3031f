"""A private one-node Slurm: munge, controller and node daemon as ordinary processes on loopback, all in one folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
NUM_CPUS = 4  # what the node claims to have

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
# A requeued job waits cred_expire seconds before it starts again.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# The node may have fewer cores than it says.
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
KillWait=10
MinJobAge=5
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cpus} RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    """Debian keeps the daemons where only root looks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_port() -> int:
    """Below the ports that the system gives to outgoing connections: a daemon may start again on it."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


class SlurmCluster:
    """`folder` must be enterable by everybody (munge insists); `environment` makes Slurm's commands talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self.munged = self.controller = self.node = None  # type: subprocess.Popen[bytes] | None
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=folder, host=socket.gethostname().partition(".")[0], user=getpass.getuser(),
                controller_port=_free_port(), node_port=_free_port(), num_cpus=NUM_CPUS,
            )
        )  # fmt: skip
        for number in range(2):
            (folder / f"gpu{number}").touch()  # all that Slurm wants of a device is a file
        (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-1]\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)

    def start(self) -> None:
        options = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        places = [f"--{option}={self.folder}/munge.{name}" for option, name in options.items()]
        self.munged = self._daemon("munged", "--foreground", "--force", *places)
        self.wait_until((self.folder / "munge.socket").exists, "munge's socket")
        self.start_controller()
        self.start_node()

    def start_controller(self) -> None:
        self.controller = self._daemon("slurmctld", "-D")
        self.wait_until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")

    def start_node(self) -> None:
        self.node = self._daemon("slurmd", "-D")
        self.wait_until(lambda: self.node_state() in ("idle", "mix", "alloc", "comp"), "the node")

    def node_state(self) -> str:
        return self.run("sinfo", "--noheader", "--format=%t").stdout.strip()

    def drain_node(self) -> None:
        """What is submitted from now on stays in the queue until `resume_node`."""
        host = socket.gethostname().partition(".")[0]
        self.run("scontrol", "update", f"NodeName={host}", "State=DRAIN", "Reason=a test looks at the queue")

    def resume_node(self) -> None:
        """As an administrator does: a drained node takes no job until it is told to, and Slurm drains one that it
        asks to start a job whose earlier life has not ended on it yet."""
        if self.node_state().startswith(("drain", "drng", "down")):
            host = socket.gethostname().partition(".")[0]
            self.run("scontrol", "update", f"NodeName={host}", "State=RESUME")
        self.wait_until(lambda: self.node_state() in ("idle", "mix", "alloc", "comp"), "the node")

    def lose_node(self) -> None:
        """As when the machine loses its power: the daemon, its job steps and all they started are killed at once."""
        assert self.node is not None
        doomed = [self.node.pid, *self._steps()]
        doomed += [child for pid in doomed for child in _descendants(pid)]
        for pid in doomed:
            _kill(pid)
        self.node.wait()

    def _steps(self) -> list[int]:
        """slurmstepd processes of this cluster: they leave slurmd's family, and know the cluster by its folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                name = (path / "cmdline").read_bytes().split(b"\0")[0]
                if b"slurmstepd" in name and str(self.folder).encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue  # ended meanwhile, or somebody else's
        return found

    def stop(self) -> None:
        if self.controller is not None and self.controller.poll() is None:
            self.run("scancel", "--user", getpass.getuser())
            self.run("scontrol", "shutdown")
        if self.node is not None and self.node.poll() is None:
            self.lose_node()
        for daemon in (self.controller, self.munged):
            if daemon is not None and daemon.poll() is None:
                daemon.terminate()
                daemon.wait(20)

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)], env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=120
        )

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            return subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 600.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not after {timeout_s:.0f} s\n{self.logs()}"
            time.sleep(0.1)

    def logs(self, num_lines: int = 30) -> str:
        texts = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            lines = path.read_text(errors="replace").splitlines()[-num_lines:]
            texts.append("\n".join([f"---- {path.name}", *lines]))
        return "\n".join(texts)


def _descendants(pid: int) -> Sequence[int]:
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in _words(path)]
    return [*children, *(further for child in children for further in _descendants(child))]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
