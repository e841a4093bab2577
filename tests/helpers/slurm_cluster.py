"""A real SLURM on this machine for the tests: munge, slurmctld and a slurmd for each virtual node, in one folder.

Needs root and Debian's packages: apt-get install -y --no-install-recommends slurm-wlm munge
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
SYSTEM_PATH = "/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName=dfctest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=3
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
MaxArraySize={largest_array}
"""
PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing():
    """Why there can be no cluster here, with the command that helps; None where there can."""
    path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"no SLURM here ({absent[0]} is missing): {INSTALL}"
    return None if os.geteuid() == 0 else "the one-node SLURM needs root"


class Cluster:
    """A SLURM of virtual nodes, which are called HOST1, HOST2, ...; a context manager.

    Args:
        nodes, cpus: how many nodes, with how many processors each.
        largest_array: MaxArraySize.
    """

    def __init__(self, *, nodes=2, cpus=2, largest_array=1001):
        self.folder = Path(
            tempfile.mkdtemp(prefix="dfc-slurm-")
        )  # munge wants folders that everybody may enter
        self.cpus, self.largest_array = cpus, largest_array
        host = socket.gethostname().split(".")[0]
        self.nodes = [f"{host}{k}" for k in range(1, nodes + 1)]
        self.host, self.port = host, _free_ports(nodes + 1)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{SYSTEM_PATH}",
        }

    def __enter__(self):
        self.folder.chmod(0o755)
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(exist_ok=True)
        for name in ("cgroup.conf", "plugstack.conf"):
            (self.folder / name).touch()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        text = CONFIGURATION.format(
            host=self.host, port=self.port, folder=self.folder, largest_array=self.largest_array
        )
        for k, node in enumerate(self.nodes, start=1):
            text += f"NodeName={node} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={self.port + k} "
            text += f"CPUs={self.cpus} RealMemory=2000 State=UNKNOWN\n"
        (self.folder / "slurm.conf").write_text(text + PARTITIONS)
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        self.run("munged", *(f"--{option}={self.folder / name}" for option, name in names.items()))
        try:
            self.until(lambda: (self.folder / "munge.socket").exists())
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            self.until(lambda: len(self.idle()) == len(self.nodes), 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("scancel", "--full", "--signal=KILL", "-u", "root", check=False)
            self.run("scancel", "-u", "root", check=False)
            self.until(
                lambda: not self.run("squeue", "-h", "-t", "R,CG", "-o", "%i", check=False).strip(), 15
            )
        for file in ("slurmctld.pid", *(f"slurmd-{node}.pid" for node in self.nodes), "munged.pid"):
            self.end(file)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command, check=True, **options):
        """Run a command of the cluster; return what it says."""
        options = {"env": self.environment, "cwd": self.folder, "timeout": 60, **options}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def start_controller(self):
        """Start slurmctld."""
        self.run("slurmctld", "-f", self.folder / "slurm.conf")

    def start_node(self, node):
        """Start the slurmd of a node."""
        self.run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)

    def end(self, file, number=signal.SIGTERM):
        """End the daemon of a pid file, and wait until it is gone."""
        if (process := self._daemon(file)) is None:
            return
        try:
            os.kill(process, number)
            self.until(lambda: not _runs(process), 10)
        except ProcessLookupError:
            return
        except AssertionError:
            os.kill(process, signal.SIGKILL)

    def _daemon(self, file):
        """Number of the running daemon of a pid file; None without one."""
        with suppress(OSError, ValueError):
            process = int((self.folder / file).read_text())
            if str(self.folder) in Path(f"/proc/{process}/cmdline").read_text() and _runs(process):
                return process
        return None

    def kill_node(self, node):
        """Kill a node: its daemon, and all that it has started, at once and without a word."""
        daemon = int((self.folder / f"slurmd-{node}.pid").read_text())
        stopped = set()
        # halted first, until nothing is left that could still start or report something
        while found := {daemon, *self._of_jobs(node)} - stopped:
            _send(found, signal.SIGSTOP)
            stopped |= found
        _send(stopped, signal.SIGKILL)

    def _of_jobs(self, node):
        """Processes of the jobs on a node, and their managers."""
        marks = f"SLURMD_NODENAME={node}", str(self.folder)
        steps = {process for process in _processes() if all(mark in _environment(process) for mark in marks)}
        return steps | {parent for parent in map(_parent, steps) if "slurmstepd" in _command(parent)}

    def mend(self):
        """Start what does not run, and take every node back into service."""
        if self._daemon("slurmctld.pid") is None:
            self.start_controller()
        for node in self.nodes:
            if self._daemon(f"slurmd-{node}.pid") is None:
                self.start_node(node)
        end = time.monotonic() + 60
        while len(self.idle()) < len(self.nodes):
            assert time.monotonic() < end, self.run("sinfo", "-N", "-R", check=False)
            for node in set(self.nodes) - set(self.idle()):
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            time.sleep(0.5)

    def at_rest(self):
        """Whether the controller has written all that it knows of its jobs: it does so within 5 s of a change."""
        file = self.folder / "state" / "job_state"
        return file.exists() and time.time() - file.stat().st_mtime > 8

    def idle(self):
        """Names of the nodes that take jobs."""
        return self.run(
            "sinfo", "-h", "-N", "-p", "main", "-t", "idle,mixed,allocated", "-o", "%n", check=False
        ).split()

    def jobs(self):
        """A dict: state of each job in the queue, elements of arrays one by one, finished ones included."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def until(self, condition, seconds=60.0):
        """Wait until a condition holds; fail if it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.05)


def _free_ports(count):
    """Return the first of some consecutive unused ports."""
    for first in range(20000 + os.getpid() % 5000, 60000, count):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def _processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    return ""


def _command(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _parent(process):
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _send(processes, number):
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _runs(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
