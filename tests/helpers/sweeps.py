"""Small sweeps for the tests, and what they leave."""

import os
import subprocess
import sys
import time

TINY = """
[sweep]
presets = ["digits"]
seeds = {seeds}
extensions = {extensions}
set."training.method" = "{method}"
set."training.epochs" = {epochs}
set."network.hidden" = [[6]]
set."data.options.train_size" = {samples}
set."data.options.validation_size" = 50
set."data.options.test_size" = 50
"""


PACED = """
import pathlib
import time

import dfc_numba as dfc
from dfc_numba.learning.baselines import backpropagation


def forward(network, minibatch, config):
    if pathlib.Path({file!r}).exists():
        time.sleep(0.1)
    return backpropagation(network, minibatch.x, minibatch.y, loss=config.target.loss)


dfc.register(dfc.Method("paced", summary="backpropagation that takes its time while a file exists", forward=forward))
"""


def write(folder, *, seeds=(0, 1), epochs=2, samples=200, more="", paced=False):
    """Write a sweep file of small runs, and return its path.

    Paced runs take at least 0.1 s a minibatch until `hurry` is called, so that they are still at work when a test
    disturbs them, however fast the machine is.
    """
    extensions = []
    if paced:
        pace = folder / "pace"
        pace.touch()
        (folder / "paced.py").write_text(PACED.format(file=str(pace)))
        extensions = ["paced.py"]
    values = {"seeds": list(seeds), "extensions": extensions, "method": "paced" if paced else "bp"}
    path = folder / "tiny.toml"
    path.write_text(TINY.format(**values, epochs=epochs, samples=samples) + more)
    return path


def hurry(folder):
    """Let the paced runs of a folder's sweep file go on at full speed."""
    (folder / "pace").unlink()


def dfc(*arguments, cwd=None, code=0, env=None):
    """Run `dfc` in a separate process, expect an exit code, and return its output."""
    line = [sys.executable, "-m", "dfc_numba", *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(
        line, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def start(*arguments, cwd=None):
    """Start `dfc` in a separate process."""
    line = [sys.executable, "-m", "dfc_numba", *map(str, arguments)]
    return subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(condition, seconds=60.0):
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def epochs_of(folder, name="digits"):
    """Complete epochs of the run whose directory begins with a name."""
    files = list(folder.glob(f"{name}*/metrics.csv"))
    return sum(max(0, len(file.read_text().splitlines()) - 1) for file in files)


def merged(folder):
    """The bytes of the merged table."""
    extension = [f"--extension={file}" for file in folder.parent.glob("paced.py")]
    dfc("compare", *sorted(folder.glob("*")), *extension)
    return (folder / "runs.csv").read_bytes()
