"""The expected needs of a sweep, tried before anything starts: data are loaded, networks created, time measured."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from dfc_numba.configuration.config_file import used_values
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning.phases import logs
from dfc_numba.learning.training import Trainer
from dfc_numba.runs import logger
from dfc_numba.runs.comparison import data_key
from dfc_numba.runs.expectations import expect
from dfc_numba.runs.experiment import create_network, load_data
from dfc_numba.support.files import require_room
from dfc_numba.support.memory import available_bytes, readable

# two checkpoints, the last and the best network; a checkpoint holds both networks and the optimisers
SMALL_FILES = 2e6  # bytes of the other files of a run


@dataclass(frozen=True)
class Need:
    """The needs of one run: seconds (None where its trial failed), memory and disk in bytes."""

    seconds: float | None
    memory: int
    disk: float


@dataclass(frozen=True)
class SweepOutlook:
    """The work that a sweep is about to do.

    Attributes:
        datasets: a line about each data set. needs: a `Need` by name of the run. trials: how many were made.
    """

    datasets: tuple
    needs: dict
    trials: int

    def total(self, runs):
        """Return (seconds or None, bytes on disk) that these runs need one after the other."""
        needs = [self.needs[run.name] for run in runs]
        seconds = [need.seconds for need in needs]
        return None if None in seconds else sum(seconds), sum(need.disk for need in needs)

    def memory(self, runs):
        """Return the memory in bytes of the largest of these runs."""
        return max((self.needs[run.name].memory for run in runs), default=0)


def try_out(planned, threads):
    """Return the `SweepOutlook` of a `SweepFile`; writes nothing.

    Runs that differ in the seed or in real numbers alone are taken to need the same: one trial serves them all.

    Raises:
        ConfigurationError: data that are not found or do not fit, a network that cannot be made; says in which run.
    """
    needs, datasets, trials = {}, [], 0
    by_data = {}
    for run in planned.runs:
        by_data.setdefault(data_key(run.config), []).append(run)
    for runs in by_data.values():
        dataset = _named(runs[0], load_data, runs[0].config)
        datasets.append(dataset.summary)
        known = {}
        for run in runs:
            key = _cost_key(run.config)
            if key not in known:
                known[key] = _named(run, _need, run.config, dataset, threads)
                trials += 1
            needs[run.name] = known[key]
    return SweepOutlook(tuple(dict.fromkeys(datasets)), needs, trials)


def check_disk(path, outlook, runs):
    """Refuse a sweep that does not fit on the disk; writes nothing."""
    needed = outlook.total(runs)[1]
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        _refuse_disk(path, runs, needed, f"only {readable(free)} are available there")


def check_quota(path, outlook, runs):
    """Refuse a sweep that the file system has no room for, by its own answer, so that a quota counts, too."""
    needed = outlook.total(runs)[1]
    try:
        require_room(path, int(needed))
    except OSError as error:
        _refuse_disk(path, runs, needed, f"the file system has no room for it ({error.strerror})")


def _refuse_disk(path, runs, needed, reason):
    raise ConfigurationError(
        f"{path}: {len(runs)} runs need about {readable(needed)}, but {reason}; log less, make room, or choose another "
        "disk with --out"
    )


def fitting(outlook, runs, wanted):
    """Return how many of these runs fit into memory at a time, at most `wanted`; refuse them where not even one does."""
    memory, free = outlook.memory(runs), available_bytes()
    if free is None or not memory:
        return wanted
    if memory > free:
        raise ConfigurationError(
            f"a run needs about {readable(memory)} of memory, but only {readable(free)} are available; choose a smaller "
            "network or minibatch, or another machine"
        )
    return max(1, min(wanted, int(free // memory)))


def _named(run, function, *arguments):
    try:
        return function(*arguments)
    except (ValueError, OSError, MemoryError) as error:
        text = str(error)
        raise ConfigurationError(
            text if text.startswith(f"{run.name}: ") else f"{run.name}: {text}"
        ) from None


def _cost_key(config):
    values = used_values(config)
    return repr(
        {
            key: value
            for key, value in values.items()
            if key != "training.seed" and not isinstance(value, float)
        }
    )


def _need(config, dataset, threads):
    network = create_network(config, dataset)
    expected = expect(network, dataset, config, threads=threads)
    trainer = Trainer(network, dataset, config)
    parameters = network.n_parameters * network.dtype.itemsize
    moments = sum(
        array.nbytes for optimizer in trainer.optimizers.values() for array in optimizer.arrays().values()
    )
    disk = 2 * (2 * parameters + moments) + 2 * parameters + SMALL_FILES
    if logs(config):
        disk += logger.expected(config, network, trainer.schedule, len(dataset.train))[1]
    return Need(expected.seconds, expected.memory, disk)
