"""Sweeps on Dask: killed workers, stopped workers, signals, and schedulers that cannot be used."""

import json
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sweeps

pytestmark = pytest.mark.skipif(
    find_spec("distributed") is None, reason="no Dask here: pip install 'dfc-numba[dask]'"
)


@pytest.fixture
def scheduler(tmp_path):
    """Address of a new scheduler, and a function that starts a worker and returns its process."""
    file, processes = tmp_path / "scheduler.json", []

    def begin(*arguments):
        line = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        processes.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return processes[-1]

    begin("scheduler", "--scheduler-file", str(file), "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
    sweeps.until(file.exists)

    def worker():
        return begin("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard",
                     "--local-directory", str(tmp_path / "dask"))  # fmt: skip

    yield json.loads(file.read_text())["address"], worker
    for process in processes:
        process.kill()
        process.wait()


def children(process):
    """Numbers of the processes that a process has started."""
    path = Path(f"/proc/{process}/task")
    return [int(one) for task in path.iterdir() for one in (task / "children").read_text().split()]


def test_a_sweep_runs_on_workers_that_dask_starts_here(tmp_path):
    file = sweeps.write(tmp_path)
    text = sweeps.dfc("sweep", file, "--out", "a", "--on", "dask:local", "--at-once", 2, cwd=tmp_path)
    assert "runs: 2 done" in text


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_whose_worker_ends_goes_on_elsewhere_from_its_last_checkpoint(scheduler, tmp_path, number):
    address, worker = scheduler
    first = worker()
    file = sweeps.write(tmp_path, seeds=[0], epochs=30, samples=600, paced=True)
    sweep = sweeps.start("sweep", file, "--out", tmp_path / "a", "--on", f"dask:{address}", cwd=tmp_path)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path / "a") > 2)
    (run,) = children(first.pid)
    first.send_signal(number)
    sweeps.hurry(tmp_path)
    worker()
    sweeps.until(
        lambda: not Path(f"/proc/{run}").exists() or "Z" in Path(f"/proc/{run}/stat").read_text(), 20
    )
    text, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0 and "runs: 1 done" in text
    record = json.loads(next((tmp_path / "a").glob("digits*/run.json")).read_text())
    assert record["resumed"] == 1 and record["earlier_sessions"][0]["status"] == "interrupted"
    sweeps.dfc("sweep", file, "--out", tmp_path / "b", cwd=tmp_path)
    assert sweeps.merged(tmp_path / "a") == sweeps.merged(tmp_path / "b")


def test_a_signal_lets_the_runs_on_workers_write_a_checkpoint(scheduler, tmp_path):
    address, worker = scheduler
    worker()
    file = sweeps.write(tmp_path, seeds=[0, 1], epochs=5000, samples=600)
    sweep = sweeps.start("sweep", file, "--out", tmp_path / "a", "--on", f"dask:{address}", cwd=tmp_path)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path / "a") > 2)
    sweep.send_signal(signal.SIGINT)
    text, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 75 and "runs: 1 waiting, 1 stopped" in text


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_or_has_no_workers_is_told(scheduler, tmp_path):
    file = sweeps.write(tmp_path)
    environment = {"DFC_DASK_SECONDS": "2"}
    text = sweeps.dfc("sweep", file, "--on", "dask:tcp://127.0.0.1:9", cwd=tmp_path, code=2, env=environment)
    assert re.search(r"no Dask scheduler answers at tcp://127\.0\.0\.1:9", text)
    text = sweeps.dfc("sweep", file, "--on", f"dask:{scheduler[0]}", cwd=tmp_path, code=2, env=environment)
    assert "has no workers; start some: dask worker" in text
