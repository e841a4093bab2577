"""Training with and without a log, and the writing of records alone, as subjects for timing."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.workload import published
from dfc_numba import Record, simulate
from dfc_numba.configuration.config import LogSection
from dfc_numba.data.dataset import DataSet, Split
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.logger import Logger

LOGGED = {"samples": 16, "dtype": "float32"}  # the same as by default, stated


class InFolder:
    """A computation that writes into a new folder: its result is the size of the files in bytes. `clear` removes them."""

    def __init__(self, parent, write):
        self._parent, self._write, self._folder = parent, write, None

    def __call__(self):
        self._folder = Path(tempfile.mkdtemp(dir=self._parent))
        self._write(self._folder)
        return [sum(file.stat().st_size for file in self._folder.rglob("*"))]

    def clear(self):
        """Remove what was written."""
        shutil.rmtree(self._folder)


def training(workload, dtype, log, minibatches, folder):
    """Prepare a pass of the forward phase over some minibatches, with a log (keys of `[log]`) or None.

    Evaluation is cut to a single sample.
    """
    config, dataset, network = (
        _configuration(workload, dtype, log),
        _data(workload, dtype),
        workload.problem(dtype)[0],
    )
    order = [np.arange(workload.samples)] * minibatches

    def run(directory):
        log = Logger(directory, config) if config.log.on else None
        outcome = Trainer(network.copy(), dataset, config, minibatches=order, log=log).run()
        assert outcome.status == "done", outcome.message

    return InFolder(folder, run)


def _configuration(workload, dtype, log):
    """Return the published configuration with one epoch of the forward phase alone."""
    config = published()
    changes = {"training": {"epochs": 1, "dtype": dtype}, "feedback": {"train": False}}
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    section = LogSection(on=False)
    if log is not None:
        section = LogSection(**LOGGED, **log, last_of_epoch=False, updates="recipe_only" not in log)
    return config.model_copy(update={**sections, "controller": workload.controller, "log": section})


def _data(workload, dtype):
    """Return as many random samples as a minibatch has."""
    _, x, _ = workload.problem(dtype)
    labels = np.random.default_rng(workload.seed).integers(workload.outputs, size=len(x))
    train, one = Split(x, labels), Split(x[:1], labels[:1])
    return DataSet("random", "classification", train, one, one, workload.outputs, "drawn here")


def writing(workload, dtype, compression, folder):
    """Prepare the writing of one record of 16 samples, and nothing else."""
    network, x, target = workload.problem(dtype)
    record = Record(samples=tuple(range(LOGGED["samples"])))
    trajectory = simulate(network, x, target, workload.controller, record=record)

    def run(directory):
        trajectory.save(directory / "record.h5", compression=compression, dtype=LOGGED["dtype"])

    return InFolder(folder, run)
