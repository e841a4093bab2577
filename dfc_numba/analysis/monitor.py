"""Measuring while a network is trained: an observer of the trainer that notes the measurements of a fixed probe batch.

Nothing of the training depends on it. What it notes, except for the time, is a function of the state of the training, so
that a run that goes on from a checkpoint, which holds the notes, ends with the same ones as a run that never stopped.
"""

import time
from contextlib import nullcontext
from math import isnan, nan

from dfc_numba.analysis.measurements import configured
from dfc_numba.analysis.probe import probe_indices, probe_minibatch, probe_of
from dfc_numba.analysis.results import DIMENSIONS, PHASES, noted, stacked, variables
from dfc_numba.storage import analysis_file
from dfc_numba.support import threads

SECONDS = "analysis_seconds"  # of a row: what the measurements since the row before have cost
WHERE = ("minibatches", "epoch", "phase")


class Monitor:
    """Measures a run as its section `[analysis]` says. Handed to the `Trainer`, it is one of its observers.

    It measures before the first minibatch, after every n-th one of the run, and at the end of each epoch, where it adds the
    numbers to the row.

    Args:
        config: the `Config`, with `analysis.every` above 0.
        dataset: the `DataSet`, from whose training set the probe batch is drawn.

    Attributes:
        names: of the measurements.
        notes: a dict for each time that was measured, with what `noted` returns and

            minibatches     how many the run had done
            epoch, phase    where the last one was; epoch 0 is the pre-training, phase a code of `results.PHASES`
            seconds         what it has cost

    Raises:
        ConfigurationError: if the training set is smaller than the probe batch.
    """

    def __init__(self, config, dataset):
        self._config, self._dataset, self._trainer = config, dataset, None
        self.names, self.notes = configured(config), []
        probe_indices(dataset, config)  # refuses what does not fit

    def arrays(self):
        """Return the notes as arrays, the first dimension of which is the time; empty before there is any."""
        return stacked(self.notes)

    def restore(self, arrays):
        """Take over notes as `arrays` has given them.

        Raises:
            ValueError: for notes of other measurements.
        """
        missing = {*self.names, *WHERE, "seconds"} - {*arrays}
        if arrays and missing:
            raise ValueError(
                f"the notes of the analysis lack {', '.join(sorted(missing))}; they are of other settings"
            )
        times = len(arrays["seconds"]) if arrays else 0
        self.notes = [{key: array[n] for key, array in arrays.items()} for n in range(times)]

    def write(self, path):
        """Write the notes, without the time that they took, into an analysis file; nothing before there is any."""
        arrays = {name: array for name, array in self.arrays().items() if name != "seconds"}
        if arrays:
            analysis_file.write(
                path, variables(arrays, "minibatches"), dimensions=DIMENSIONS, config=self._config
            )

    def cost(self):
        """Return the number of measurements, and their seconds: in all, and since the last epoch until the end of each."""
        per_epoch = [row[SECONDS] for row in self._trainer.rows if not isnan(row.get(SECONDS, nan))]
        seconds = sum(note["seconds"] for note in self.notes)
        return {"times": len(self.notes), "seconds": seconds, "seconds_per_epoch": per_epoch}

    def expected(self, trainer):
        """Return (number of measurements to come, their seconds), timed by a second trial, as the first one compiles."""
        config, schedule = self._config, trainer.schedule
        per_pass = -(-len(self._dataset.train) // config.training.batch_size)
        ends = {per_pass * n for n, current in enumerate(schedule, 1) if current.ends_epoch}
        times = {*range(0, per_pass * len(schedule) + 1, config.analysis.every), *ends}
        now = trainer.counters.minibatches
        to_come = {time for time in times if time >= now}
        to_do = to_come - {self.notes[-1]["minibatches"]} if self.notes else to_come | {now}
        _, seconds = (self._note(trainer)["seconds"] for _ in range(2))
        return len(to_do), len(to_do) * seconds

    def on_start(self, trainer):
        """Measure the network at the start of the run."""
        self._trainer = trainer
        if not self.notes:
            limit = nullcontext() if trainer.threads is None else threads.limit_threads(trainer.threads)
            with limit:
                self._measure(**_where("start", 0))

    def on_minibatch(self, progress):
        """Measure after every n-th minibatch."""
        if self._trainer.counters.minibatches % self._config.analysis.every == 0:
            self._measure(**_where(progress.phase, progress.epoch))

    def on_epoch(self, row):
        """Measure at the end of an epoch, unless that was done, and add numbers and cost to the row."""
        trainer = self._trainer
        if self.notes[-1]["minibatches"] != trainer.counters.minibatches:
            self._measure(**_where(trainer.schedule[trainer.counters.passes - 1].phase, row["epoch"]))
        earlier = [n for n, note in enumerate(self.notes, 1) if 0 < note["epoch"] < row["epoch"]]
        row.update({name: float(self.notes[-1][name]) for name in self.names})
        row[SECONDS] = sum(note["seconds"] for note in self.notes[max(earlier, default=0) :])

    def _measure(self, **where):
        counters = self._trainer.counters
        self.notes.append(self._note(self._trainer, minibatches=counters.minibatches, **where))

    def _note(self, trainer, **where):
        start = time.perf_counter()
        minibatch = probe_minibatch(trainer.network, self._dataset, self._config)
        probe = probe_of(trainer.network, minibatch, self._config, own=trainer.own)
        note = noted(probe, self.names, **where)
        return {**note, "seconds": time.perf_counter() - start}


def _where(phase, epoch):
    """Return epoch and phase; epochs of the pre-training are counted separately, and are epoch 0 here."""
    return {"epoch": 0 if phase == "pretraining" else epoch, "phase": PHASES.index(phase)}
