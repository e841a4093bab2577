"""One training over several ranks: the same bits for any number of them, and all end together, whatever happens."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import mpi_runs
import pytest
import sweeps

REASON = mpi_runs.missing()
# each starts processes and waits for them
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
RESULTS = ("trajectories.h5", "weights_last.h5", "weights_best.h5", "checkpoint.h5")
EPOCHS = ["--epochs", 2, *mpi_runs.LOG]
TIMES = ("seconds",)


def stored(path):
    """Every data set of an HDF5 file, without the times in the rows of a checkpoint."""
    found = {}
    with h5py.File(path) as file:

        def read(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[...]
                if name == "rows":
                    values = values[
                        :, [k for k, key in enumerate(json.loads(item.attrs["columns"])) if key not in TIMES]
                    ]
                found[name] = item.dtype.str, values.tobytes()

        file.visititems(read)
    return found


def results(folder):
    """All that a run leaves, but for times."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return rows, {name: stored(folder / name) for name in RESULTS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results of one process."""
    folder = tmp_path_factory.mktemp("alone")
    sweeps.dfc("train", "digits", *mpi_runs.SETTINGS, "--threads", 1, "--out", folder / "run", *EPOCHS)
    return results(folder / "run")


@pytest.mark.parametrize(
    "count",
    [
        1,
        pytest.param(2, marks=pytest.mark.slow),
        3,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8)),
    ],
)
def test_any_number_of_ranks_gives_the_bits_of_one_process(alone, tmp_path, count):
    mpi_runs.train(count, tmp_path / "run", *EPOCHS, seconds=300)
    assert results(tmp_path / "run") == alone
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["ranks"] == count
    if count > 1:
        shards = record["shards_per_rank"]
        assert len(shards) == count and sum(shards) == 10 and max(shards) - min(shards) <= 1


WAVEFORM = ["--set=controller.integrator=waveform", "--set=controller.steps=200", *EPOCHS]


def test_a_run_that_is_solved_in_time_has_the_same_bits_though_some_shards_have_to_be_stepped(tmp_path):
    for count in (1, 2, 3):
        mpi_runs.train(count, tmp_path / str(count), *WAVEFORM, seconds=600)
    alone = results(tmp_path / "1")
    assert any(0 < int(row["fallback_samples"]) < 400 for row in alone[0]), (
        "some shards are solved, some stepped"
    )
    assert results(tmp_path / "2") == alone and results(tmp_path / "3") == alone


@pytest.mark.slow
def test_threads_of_ranks_change_no_bit(alone, tmp_path):
    mpi_runs.train(2, tmp_path / "run", *EPOCHS, "--threads", 3)
    assert results(tmp_path / "run") == alone


def test_sums_of_many_shards_are_held_one_per_level_not_one_per_shard(tmp_path):
    extension = tmp_path / "count.py"
    extension.write_text(
        "from dfc_numba.dynamics.phase import ShardBuffers\n"
        "from dfc_numba.support import ranks\n"
        "begin, take, give_back = ShardBuffers.__init__, ShardBuffers.take, ShardBuffers.give_back\n"
        "def started(self, *arguments):\n"
        "    self.held = 0\n"
        "    begin(self, *arguments)\n"
        "def taken(self):\n"
        "    self.held += 1\n"
        f"    with open('{tmp_path}/' + str(ranks.rank()), 'a') as file:\n"
        "        print(self.held, file=file)\n"
        "    return take(self)\n"
        "def given_back(self, buffer):\n"
        "    self.held -= 1\n"
        "    give_back(self, buffer)\n"
        "ShardBuffers.__init__, ShardBuffers.take, ShardBuffers.give_back = started, taken, given_back\n"
    )
    sizes = ["--set=data.options.train_size=1000", "--set=training.batch_size=1000", "--epochs", 1]
    mpi_runs.train(2, tmp_path / "run", "--extension", extension, *sizes)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["shards_per_rank"] == [32, 32]
    held = [max(map(int, (tmp_path / name).read_text().split())) for name in ("0", "1")]
    assert max(held) <= 7, "the sums under way of 32 shards"


def test_a_signal_stops_all_ranks_at_one_minibatch_and_another_number_of_ranks_goes_on(tmp_path):
    options = ["--extension", mpi_runs.gate(tmp_path), "--epochs", 4, *mpi_runs.LOG]
    process = mpi_runs.start(3, tmp_path / "run", *options)
    sweeps.until(lambda: sweeps.epochs_of(tmp_path, "run") == 2)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted" and "interrupted by SIGTERM" in record["stop_reason"]
    (tmp_path / "open").touch()
    mpi_runs.train(2, tmp_path / "run", "--resume", *options)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ranks"] == 2
    sweeps.dfc("train", "digits", *mpi_runs.SETTINGS, "--threads", 1, "--out", tmp_path / "whole", *options)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.timing
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_ends_all_with_its_message(tmp_path, failing):
    extension = tmp_path / "fail.py"
    extension.write_text(
        "from dfc_numba.learning.training import Trainer\n"
        "from dfc_numba.support import ranks\n"
        "learn = Trainer._learn\n"
        "def fail(self, *arguments):\n"
        f"    if ranks.rank() == {failing} and self.log is not None and self.counters.minibatches == 5:\n"
        "        raise OSError('a bolt is loose')\n"
        "    return learn(self, *arguments)\n"
        "Trainer._learn = fail\n"
    )
    start = time.monotonic()
    text = mpi_runs.train(2, tmp_path / "run", "--extension", extension, *EPOCHS, code=1, seconds=60)
    assert "a bolt is loose" in text and time.monotonic() - start < 60
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed" and "a bolt is loose" in record["stop_reason"]


def test_a_killed_rank_ends_all(tmp_path):
    process = mpi_runs.start(2, tmp_path / "run", "--epochs", 4000)
    sweeps.until(lambda: (tmp_path / "run" / "weights_last.h5").exists())
    mine = [p for p in Path("/proc").iterdir() if p.name.isdigit() and is_follower(p, tmp_path / "run")]
    os.kill(int(mine[0].name), signal.SIGKILL)
    process.communicate(timeout=20)
    assert process.returncode not in (0, 75)
    assert "dfc-numba" not in sweeps.dfc(
        "train", "--out", tmp_path / "run", "--resume", "--max-hours", 0.0001, code=75
    )


def is_follower(process, folder):
    """Whether a process is a rank beside the root of the run in a folder."""
    try:
        command, variables = (
            (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
        )
    except OSError:
        return False
    return str(folder) in command and "PMI_RANK=1" in variables and "mpirun" not in command.split("\0")[0]


def test_processes_that_mpi_does_not_see_together_are_refused(tmp_path):
    environment = {**mpi_runs.environment(), "OMPI_COMM_WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "dfc_numba", "train", "digits", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert re.search(
        r"launcher has started 2 processes, but MPI .* sees 1: each would train by itself", done.stderr
    )


def test_ranks_on_different_processors_are_refused(tmp_path):
    extension = tmp_path / "other.py"
    extension.write_text(
        "from dfc_numba.runs import follower\n"
        "from dfc_numba.support import ranks\n"
        "environment = follower.environment\n"
        "def other():\n"
        "    found = environment()\n"
        "    if ranks.rank() == 1:\n"
        "        found['machine']['processor'] = 'another one'\n"
        "    return found\n"
        "follower.environment = other\n"
    )
    text = mpi_runs.train(2, tmp_path / "run", "--extension", extension, code=2)
    assert re.search("ranks differ in processor: .*, another one on .*; ask for nodes of one kind", text)
    assert not (tmp_path / "run").exists()


def test_what_goes_wrong_alike_on_all_ranks_is_said_once(tmp_path):
    text = mpi_runs.train(3, tmp_path / "run", "--set=controller.k_q=1", code=2)
    assert text.count("no such key") == 1


def test_commands_that_each_process_would_do_are_refused(tmp_path):
    done = subprocess.run(mpi_runs.line(2, "presets"), capture_output=True, text=True, check=False, timeout=60,
                          env=mpi_runs.environment())  # fmt: skip
    assert done.returncode == 2 and "dfc presets is not a command for 2 processes" in done.stderr


def test_info_tells_ranks_and_threads_of_each(tmp_path):
    done = subprocess.run(mpi_runs.line(2, "info"), capture_output=True, text=True, check=True, timeout=60,
                          env=mpi_runs.environment())  # fmt: skip
    assert len(re.findall(r"^ +ranks +2$", done.stdout, flags=re.MULTILINE)) == 1 and "nodes" in done.stdout
    shared = max(1, len(os.sched_getaffinity(0)) // 2)
    assert re.search(rf"^ +available +{shared}$", done.stdout, flags=re.MULTILINE)
