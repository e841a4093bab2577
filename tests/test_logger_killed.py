"""Killing a logging run at random moments: what was closed is there, and the run goes on to the uninterrupted result."""

import csv
import random
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest

from dfc_numba.storage.reader import open_trajectories

KILLS = 50
SCRIPT = Path(__file__).with_name("logged_run.py")
SETTINGS = ["network.hidden=[12,9]", "controller.steps=25", "feedback_controller.steps=12", "training.batch_size=100",
            "training.epochs=2", "feedback.pretraining_epochs=1", "log.every=1"]  # fmt: skip
RESULTS = ("trajectories.h5", "weights_last.h5", "weights_best.h5")


def start(folder, *options):
    """A process of the run in a folder, as soon as it begins to train."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, SCRIPT, "train", "digits", *settings, "--out", folder, *options]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("log:"):
            return process
    raise AssertionError(process.stderr.read())


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def stored(path):
    """Every data set of an HDF5 file, read by plain h5py."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: (item.shape, str(item.dtype), item[...].tobytes())})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def results(folder):
    """All that a complete run leaves, but for times."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [
            {key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)
        ]
    return rows, {name: stored(folder / name) for name in RESULTS}


def records(folder):
    """Checksums of the records by running number; None where no segment is closed yet."""
    try:
        file = open_trajectories(folder)
    except FileNotFoundError:
        return {}
    with file:
        return {int(record["number"]): checksum(record) for name in file.phases for record in file[name]}


def checksum(record):
    """Of a record, and the parameters that it refers to."""
    digest, network = sha256(), record.recipe().network
    arrays = [record[name] for name in record.variables if not name.endswith("_snapshot")]
    for array in [*arrays, *network.weights, *network.biases, *network.feedback]:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def check_what_is_there(folder, whole):
    """Plain h5py opens all that is closed, and the records up to the last closed segment are those of the whole run."""
    for path in folder.rglob("*.h5"):
        assert stored(path), path
    found = records(folder)
    assert found == {number: whole[number] for number in range(len(found))}
    return len(found)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path):
    whole = tmp_path / "whole"
    process, begin = start(whole), time.monotonic()
    finish(process)
    duration = time.monotonic() - begin
    expected, all_records = results(whole), records(whole)
    assert len(all_records) == 65
    chance, kills, runs, kept = random.Random(1), 0, 0, []
    while kills < KILLS:
        runs += 1
        folder = tmp_path / f"run{runs}"
        minutes = chance.choice(["0", "0.002", "10"])
        process = start(folder, "--checkpoint-minutes", minutes)
        while kills < KILLS:
            time.sleep(chance.uniform(0, duration))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
            kept.append(check_what_is_there(folder, all_records))
            process = start(folder, "--resume", "--checkpoint-minutes", minutes)
        finish(process)
        assert results(folder) == expected
        assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".tmp")]
    print(f"\n{kills} kills in {runs} runs; records that were there after each: {kept}")
