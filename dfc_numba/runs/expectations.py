"""The expected needs of a run, before it starts: memory by counting, time by a short trial on this machine.

The trial runs a few minibatches of every phase with few simulated steps, twice (the first time compiles), and
extrapolates to the steps and minibatches of the run. It changes neither network nor data.
"""

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median

from dfc_numba.learning.phases import simulated_steps
from dfc_numba.learning.training import Trainer

TRIAL_STEPS = (8, 24)
TRIAL_MINIBATCHES = 3
COPIES = 12  # the best weights, up to four moments, a checkpoint of all that being written


@dataclass(frozen=True)
class Expectation:
    """The expected needs of a run.

    Attributes:
        memory: peak memory of the process in bytes.
        seconds: run time, or None where the trial failed.
    """

    memory: int
    seconds: float | None


def expect(network, dataset, config, *, threads=None, done=0):
    """Return the `Expectation` of a run that has done `done` passes over the data."""
    seconds = _expected_seconds(network, dataset, config, threads, done)
    return Expectation(memory=_memory_so_far() + _memory_to_come(network), seconds=seconds)


def _expected_seconds(network, dataset, config, threads, done):
    """Estimate the time of the remaining minibatches; None where the trial did not reach its end."""
    shortened = [_shortened(config, steps) for steps in TRIAL_STEPS]
    trials = [_trial(network, dataset, trial, threads) for trial in (shortened[0], *shortened)]
    if None in trials:
        return None
    trainer = Trainer(network, dataset, config)
    per_pass = -(-len(dataset.train) // config.training.batch_size)
    seconds = {
        phase: _extrapolated(
            [trial[phase] for trial in trials[1:]],
            [simulated_steps(phase, trial) for trial in shortened],
            simulated_steps(phase, config),
        )
        for phase in {current.phase for current in trainer.schedule}
    }
    return sum(per_pass * seconds[current.phase] for current in trainer.schedule[done:])


def _extrapolated(seconds, trial_steps, steps):
    """Return the seconds of a minibatch on the line through two trials; their mean where both had equally many steps."""
    few, more = trial_steps
    if few == more:
        return sum(seconds) / 2
    per_step = max(seconds[1] - seconds[0], 0.0) / (more - few)
    return seconds[0] + per_step * max(0, steps - few)


def _trial(network, dataset, config, threads):
    """Return the median seconds of a minibatch of each phase of a shortened run, or None if it did not end well."""
    watch = _Stopwatch()
    trainer = Trainer(
        network.copy(),
        _first_samples(dataset, config),
        config,
        observers=[watch],
        threads=threads,
    )
    done = trainer.run().status == "done"
    return {phase: median(seconds) for phase, seconds in watch.seconds.items()} if done else None


class _Stopwatch:
    """An observer that keeps the time of each minibatch, by phase."""

    def __init__(self):
        self.seconds = defaultdict(list)

    def on_start(self, trainer):
        self._last = time.perf_counter()

    def on_divergence(self, epoch, tally):
        """Ignore divergence: a trial is too short to converge."""

    def on_minibatch(self, progress):
        now = time.perf_counter()
        self.seconds[progress.phase].append(now - self._last)
        self._last = now


def _shortened(config, steps):
    """Return the configuration with one epoch of each of its phases, and `steps` steps where more of them take longer."""
    feedback, controller = config.feedback, config.controller
    if controller.integrator != "waveform":
        controller = replace(controller, steps=steps)
    epochs = {key: min(1, getattr(feedback, key)) for key in ("pretraining_epochs", "epochs", "extra_epochs")}
    return config.model_copy(
        update={
            "training": config.training.model_copy(update={"epochs": 1}),
            "feedback": feedback.model_copy(update=epochs),
            "controller": controller,
            "inversion": config.inversion.model_copy(update={"steps": steps}),
            "feedback_controller": replace(config.feedback_controller, steps=steps),
        }
    )


def _first_samples(dataset, config):
    """Return the data set with a few full minibatches, and hardly any samples to evaluate."""
    n_samples = min(TRIAL_MINIBATCHES * config.training.batch_size, len(dataset.train))
    cut = {"train": n_samples, "validation": 1, "test": 1}
    parts = {name: getattr(dataset, name) for name in cut}
    return replace(
        dataset,
        **{
            name: replace(split, x=split.x[: cut[name]], y=split.y[: cut[name]])
            for name, split in parts.items()
            if split is not None
        },
    )


def _memory_to_come(network):
    """Return the bytes that a run keeps beyond the trial: the best weights, and the optimisers' moments."""
    return COPIES * network.n_parameters * network.dtype.itemsize


def _memory_so_far():
    """Return the peak memory of the process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
