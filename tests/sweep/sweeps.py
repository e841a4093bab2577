"""Small sweeps for the tests, and what they leave."""

import os
import subprocess
import sys
import time

TINY = """
[sweep]
presets = ["digits"]
seeds = {seeds}
set."training.method" = "bp"
set."training.epochs" = {epochs}
set."network.hidden" = [[6]]
set."data.options.train_size" = {samples}
set."data.options.validation_size" = 50
set."data.options.test_size" = 50
"""


def write(folder, *, seeds=(0, 1), epochs=2, samples=200, more=""):
    """Write a sweep file of small runs, and return its path."""
    path = folder / "tiny.toml"
    path.write_text(TINY.format(seeds=list(seeds), epochs=epochs, samples=samples) + more)
    return path


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
    dfc("compare", *sorted(folder.glob("*")))
    return (folder / "runs.csv").read_bytes()
