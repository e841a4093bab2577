"""Kills a logging run again and again, checks what is left each time, and resumes it: a program of its own.

    python killing.py FOLDER SEED KILLS

Everything is loaded once; a run is a fork of this process, so that it trains at once. The first run is not killed.
"""

import csv
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np

from dfc_numba import cli
from dfc_numba.display import progress
from dfc_numba.runs import logger
from dfc_numba.storage.reader import open_trajectories

SETTINGS = ["network.hidden=[12,9]", "controller.steps=25", "feedback_controller.steps=12", "training.batch_size=100",
            "training.epochs=2", "feedback.pretraining_epochs=1", "log.every=1", "log.variables=[u,v]"]  # fmt: skip
MINIBATCHES = 13 * (1 + 2 * 2)  # an epoch of pre-training, then feedback and forward
RESULTS = ("trajectories.h5", "weights_last.h5", "weights_best.h5")
CHECKPOINT_MINUTES = (0.0005, 0.002, 10)
SEGMENT_SECONDS = 0.05  # so that there are several segments
MOST_AT_THE_END = 3  # kills of a run that has all its records: closing it may take longer than all else
MOST_MINIBATCHES = 30  # between the beginning of a run and its end by a kill: more than an epoch has
LAST = b"!"


def train(folder, *options):
    """`dfc train` in this process; returns its exit code."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    sys.argv = ["dfc", *map(str, ["train", "digits", *settings, "--threads", 1, "--out", folder, *options])]
    try:
        cli.main()
    except SystemExit as end:
        return end.code


def told(function, telling, last):
    """The function, which tells a pipe that it is called."""

    def telling_first(*arguments):
        with suppress(BrokenPipeError):
            os.write(telling, LAST if last else b".")
        return function(*arguments)

    return telling_first


class Process:
    """`dfc train` in a fork of this process, which has begun to train, or has ended."""

    def __init__(self, *arguments):
        self.heard, telling = os.pipe()
        self.id = os.fork()
        if self.id == 0:
            os._exit(self._train(telling, arguments))
        os.close(telling)
        os.read(self.heard, 1)

    @staticmethod
    def _train(telling, arguments):
        """Tells that the training begins after all announcements, every minibatch, and that the log is to be closed."""
        for place, name in (
            (progress, "log_text"),
            (logger.Logger, "on_minibatch"),
            (logger.Logger, "on_end"),
        ):
            setattr(place, name, told(getattr(place, name), telling, name == "on_end"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return train(*arguments)

    def wait(self, minibatches):
        """Waits for so many minibatches, or for the last."""
        for _ in range(minibatches):
            if os.read(self.heard, 1) in (LAST, b""):
                break

    def kill(self):
        """Whether it had not ended before."""
        os.close(self.heard)
        os.kill(self.id, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(self.id, 0)[1])

    def finish(self):
        """Waits until it is done."""
        os.close(self.heard)
        status = os.waitpid(self.id, 0)[1]
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, status


def stored(path):
    """Every data set of an HDF5 file, read by plain h5py."""
    found = {}

    def read(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape, str(item.dtype), item[...].tobytes()

    with h5py.File(path) as file:
        file.visititems(read)
    return found


def results(folder):
    """All that a complete run leaves, but for times."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return rows, {name: stored(folder / name) for name in RESULTS}


def records(folder):
    """Checksums of the records by running number; none where no segment is closed yet."""
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


class Whole:
    """A run that was never interrupted: what it leaves."""

    def __init__(self, folder):
        assert train(folder.with_name("warm")) == 0
        Process(folder).finish()
        self.results, self.records = results(folder), records(folder)
        assert len(self.records) == MINIBATCHES


def check_what_is_there(folder, whole):
    """Plain h5py opens all that is closed, and the records up to the last closed segment are those of the whole run.

    Returns:
        the number of records.
    """
    for path in folder.rglob("*.h5"):
        assert stored(path), path
    found = records(folder)
    assert found == {number: whole.records[number] for number in range(len(found))}
    return len(found)


def killed_again_and_again(folder, whole, chance, kills):
    """One run to its end, killed at random moments of its training; the numbers of records after each."""
    options = "--checkpoint-minutes", chance.choice(CHECKPOINT_MINUTES)
    process, kept = Process(folder, *options), []
    while len(kept) < kills and kept.count(MINIBATCHES) < MOST_AT_THE_END:
        process.wait(chance.randrange(MOST_MINIBATCHES))
        time.sleep(chance.uniform(0, 0.03))  # in the middle of something
        if not process.kill():
            break
        kept.append(check_what_is_there(folder, whole))
        process = Process(folder, "--resume", *options)
    else:
        process.finish()
    assert results(folder) == whole.results
    assert not [file for file in folder.rglob("*") if file.suffix in (".part", ".tmp")]
    return kept


def main(folder, seed, kills):
    """Runs until there were so many kills; tells the numbers of records after each kill, run by run."""
    logger.SEGMENT_SECONDS = SEGMENT_SECONDS
    folder, chance, runs = Path(folder), random.Random(seed), []
    whole = Whole(folder / "whole")
    while (left := kills - sum(map(len, runs))) > 0:
        runs.append(killed_again_and_again(folder / f"run-{len(runs)}", whole, chance, left))
    there = Counter(count for run in runs for count in run)
    print(f"killed {there.total()} times in {len(runs)} runs; records there after each, run by run: {runs}")
    print(f"different numbers of records: {len(there)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
