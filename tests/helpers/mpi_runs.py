"""`dfc train` over ranks for the tests, with the `mpirun` that belongs to mpi4py's library."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'dfc-numba[mpi]' mpich"
SETTINGS = [
    "--set=network.hidden=[14,11]", "--set=controller.steps=30", "--set=feedback_controller.steps=15",
    "--set=training.batch_size=130", "--set=feedback.pretraining_epochs=1", "--set=data.options.train_size=400",
    "--set=data.options.test_size=60", "--set=data.options.validation_size=60",
]  # fmt: skip
LOG = [
    "--set=log.on=true",
    "--set=log.every=1",
    "--set=log.variables=[u,v,r]",
    "--set=log.samples=[0,20,129]",
]


def launcher():
    """The mpirun beside mpi4py, or the one of the system; None without."""
    spec = find_spec("mpi4py")
    beside = Path(spec.origin).parents[4] / "bin" / "mpirun" if spec else Path("nowhere")
    return str(beside) if beside.exists() else shutil.which("mpirun")


def missing():
    """Why no run over ranks is possible here, with the command that helps; None where one is."""
    if find_spec("mpi4py") is None or launcher() is None:
        return f"no MPI here: {INSTALL}"
    return None


def line(count, *arguments):
    """The command line of `dfc` with these arguments over some ranks."""
    return [launcher(), "-n", str(count), sys.executable, "-m", "dfc_numba", *map(str, arguments)]


def train(count, out, *options, code=0, seconds=120):
    """Train over some ranks into a directory, and return what was said."""
    command = line(count, "train", "digits", *SETTINGS, "--threads", 1, "--out", out, *options)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds, env=environment()
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def start(count, out, *options):
    """Start a training over some ranks as a separate job."""
    command = line(count, "train", "digits", *SETTINGS, "--threads", 1, "--out", out, *options)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment())


def environment():
    """That of this process, without what a launcher may have left in it."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "OMPI_", "SLURM_"))}


# however fast the machine is: whoever disturbs a run finds it under way
GATE = """
import time
from pathlib import Path

from dfc_numba.learning.training import Trainer

run = Trainer._run_minibatch

def held(self, *arguments):
    while len(self.rows) >= 2 and self._requested is None and not Path({open!r}).exists():
        time.sleep(0.01)
    run(self, *arguments)

Trainer._run_minibatch = held
"""


def gate(folder):
    """Write an extension that holds runs after two epochs until they are to stop, or a file `open` is in the folder."""
    path = folder / "gate.py"
    path.write_text(GATE.format(open=str(folder / "open")))
    return path
