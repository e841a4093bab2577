"""The log of a run: trajectories of chosen minibatches, written by a separate thread while the training continues.

The simulation that a logged minibatch learns from is recorded, so that its update has the same bits as without. The memory
that records take until they are written is bounded. Before every checkpoint what is logged is closed for good.
"""

import time
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

import numpy as np

from dfc_numba.errors import ConfigurationError, LogError, MissingExtra
from dfc_numba.learning.phases import logged_phases, simulation_of
from dfc_numba.model.recording import Recipe, Record, StoredUpdate
from dfc_numba.storage import recipes, schema, segments
from dfc_numba.storage.background import Background
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import simulates
from dfc_numba.storage.table import filters
from dfc_numba.support.memory import Recycled
from dfc_numba.support.validation import dtype_of

# --- what a section [log] means -----------------------------------------------------------------------------


def chooses(log, position, number, count):
    """Return whether minibatch `position` of `count` in its pass, from 1, is logged; `number` in the run, from 0."""
    return (
        (log.every is not None and (position - 1) % log.every == 0)
        or (log.last_of_epoch and position == count)
        or number in log.minibatches
    )


def kept(log, dynamics, count):
    """Return the `Record` of a minibatch of `count` samples; None where there is nothing to record.

    Args:
        dynamics: the `Controller` or `Inversion` that is simulated, or None.
    """
    if log.recipe_only or dynamics is None:
        return None
    chosen = range(log.samples) if isinstance(log.samples, int) else log.samples
    samples = tuple(sample for sample in chosen if sample < count)
    variables = recipes.of_options(dynamics).wanted(log.variables, dynamics)
    return (
        Record(variables=variables, samples=samples, every=log.every_step) if samples and variables else None
    )


def trajectory_bytes(network, dynamics, keep):
    """Return the bytes of a recorded trajectory in memory; keep: its `Record`, or None."""
    if keep is None:
        return 0
    return recipes.of_options(dynamics).recorded_bytes(network, dynamics, len(keep.samples), keep)


def expected(config, network, schedule, n_samples):
    """Return (records, bytes): how many records the log of a whole run has, and about how large they are uncompressed.

    Args:
        schedule: the list of `Pass`. n_samples: size of the training set.
    """
    count = -(-n_samples // config.training.batch_size)
    records, size = 0, 0
    for index, current in enumerate(schedule):
        if current.phase in logged_phases(config):
            positions = range(1, count + 1)
            chosen = sum(chooses(config.log, place, index * count + place - 1, count) for place in positions)
            records += chosen
            size += chosen * _stored_bytes(config, network, current.phase)
    return records, size


def _stored_bytes(config, network, phase):
    """Estimate the bytes of a record in a file: its trajectory, what was learned, and what it was learned from."""
    section, batch, itemsize = (
        simulation_of(phase, config),
        config.training.batch_size,
        network.dtype.itemsize,
    )
    dynamics = recipes.configured(section, config)
    recorded = trajectory_bytes(network, dynamics, kept(config.log, dynamics, batch))
    learned = network.weights if phase == "forward" else network.feedback
    given = batch * (network.sizes[0] * itemsize + 16 * network.sizes[-1])
    parameters = sum(array.nbytes for array in learned) * (1 + config.log.updates)
    return recorded * dtype_of(config.log.dtype).itemsize // itemsize + parameters + given


# --- the log of a run ---------------------------------------------------------------------------------------

MEMORY = 2**29  # bytes of the records that are not written yet, unless a single one is larger
SEGMENT_BYTES, SEGMENT_SECONDS = 2**28, 60.0  # a segment that has more, or is open for longer, is closed
ENDINGS = {"done": "complete"}  # where files have another word for how a run ended
PARAMETERS = ("weights", "biases", "feedback", "backward")
# keys of [log] that all records of a run share
ALIKE = ("variables", "every_step", "dtype", "recipe_only", "updates")


class Logger:
    """Logs a run as its section `[log]` says. Handed to the `Trainer`, it is an observer, too; a context manager.

    Args:
        directory: the run directory.
        config: the `Config`, with `log.on`.
        command: the command line, for the files.

    Raises:
        ConfigurationError: if the compression needs an extra that is not installed, or the run has records of another
            kind already.
    """

    def __init__(self, directory, config, *, command=()):
        self._directory, self._config, self._command = directory, config, command
        self._phases = frozenset(logged_phases(config))
        self._bytes, self._since = 0, None  # of the segment under way
        self._parameters = {}  # the last ones that were copied, by kind
        self._background = self._writer = None
        self._recycled = Recycled(MEMORY)
        _check_compression(config.log)
        _check_kind(directory, config.log)

    def expected(self, trainer):
        """Return (records, bytes) of a whole run, see `expected`."""
        return expected(self._config, trainer.network, trainer.schedule, len(trainer.dataset.train))

    def on_start(self, trainer):
        """Discard what a killed run has logged of minibatches that this one repeats, and begin to write."""
        log, seed = self._config.log, self._config.training.seed
        attributes = schema.root_attributes(config=self._config, command=self._command, seed=seed)
        attributes["threads"] = trainer.threads or attributes["threads"]
        with self._explained():
            segments.keep_before(self._directory, trainer.counters.minibatches)
        self._writer = segments.SegmentWriter(
            self._directory, attributes=attributes, compression=log.compression, dtype=log.dtype
        )
        self._background = Background(MEMORY)

    def wants(self, phase, position, number, count):
        """Return whether a minibatch of a phase is logged, see `chooses`."""
        return phase in self._phases and chooses(self._config.log, position, number, count)

    def updated(self, function, network, minibatch, *arguments, **options):
        """Apply an update function to a minibatch, log it, and return the function's result.

        Args:
            function: is called with network, inputs, `arguments` and `options`.
            arguments: target and controller, or `Inversion`; none for the one-shot rule.
            options: its keyword arguments, with noise.
        """
        target, dynamics = arguments or (network.forward(minibatch.x, dtype="float64").r[-1], None)
        update = {"function": function.__name__, **options}
        noise = update.pop("noise", None)
        keep = kept(self._config.log, dynamics if simulates(update) else None, len(minibatch.x))
        size = self._size(network, minibatch, dynamics, keep)
        with self._explained():
            self._background.reserve(size)
        with self._recycled:
            made = function(network, minibatch.x, *arguments, **options, **({"record": keep} if keep else {}))
        recipe = Recipe(
            network=self._snapshot(network), x=minibatch.x, target=target, noise=noise, labels=minibatch.y,
            indices=minibatch.indices, phase=minibatch.phase, epoch=minibatch.epoch, minibatch=minibatch.position,
            number=minibatch.number, update=update, **{recipes.of_options(dynamics).name: dynamics},
        )  # fmt: skip
        self._append(recipe, made if isinstance(made, tuple) else (made,), size)
        return made

    def on_minibatch(self, progress):
        """Raise an error of the writer at once; close a segment that is large or old enough."""
        with self._explained():
            self._background.check()
            old = self._since is not None and time.monotonic() >= self._since + SEGMENT_SECONDS
            if old or self._bytes >= SEGMENT_BYTES:
                self._close_segment()
                self._background.submit(self._writer.settle)

    def settle(self):
        """Close what is logged so far for good."""
        if self._background is None:
            return
        with self._explained():
            self._close_segment()
            self._background.finish()
            self._background.submit(self._writer.settle)

    def on_end(self, outcome):
        """Close the last segment; a run that is done gets one file for all."""
        with self._explained():
            self._background.submit(self._writer.close, ENDINGS.get(outcome.status, outcome.status))
            self._background.finish()
        self._background.end()
        self._background = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Close what was logged until an error; leave at once where the user wants to."""
        if self._background is not None:
            at_once = kind is not None and not issubclass(kind, Exception)
            status = "interrupted" if at_once else "failed"
            self._background.end(discard=at_once, last=partial(self._writer.close, status))

    def _size(self, network, minibatch, dynamics, keep):
        """Return the bytes that the record of a minibatch takes at most until it is written."""
        parameters = network.n_parameters * network.dtype.itemsize * (1 + self._config.log.updates)
        given = minibatch.x.nbytes + 2 * minibatch.y.nbytes
        return trajectory_bytes(network, dynamics, keep) + parameters + given

    def _append(self, recipe, made, size):
        trajectory = getattr(made[0], "trajectory", None)
        update = _copied(made) if self._config.log.updates else None
        self._since = time.monotonic() if self._since is None else self._since
        self._bytes += size
        with self._explained():
            self._background.submit(self._writer.append, recipe, trajectory, update, size=size)

    def _close_segment(self):
        self._bytes, self._since = 0, None
        self._background.submit(self._writer.close_segment)

    def _snapshot(self, network):
        """Return a copy of a network that the optimiser does not reach; it shares what has not changed since the last one."""
        for kind in PARAMETERS:
            arrays = getattr(network, kind)
            if arrays is None:
                self._parameters[kind] = None
            elif not _same_bits(arrays, self._parameters.get(kind)):
                self._parameters[kind] = [array.copy() for array in arrays]
        return network.sharing(**self._parameters)

    @contextmanager
    def _explained(self):
        """Explain errors of the writer in their messages."""
        try:
            yield
        except LogError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            raise LogError(
                f"the log of the run cannot be written ({kind}{error}); segments closed before can still be read"
            ) from error


def _same_bits(arrays, others):
    """Return whether two lists hold arrays with the same bits; `others` may be None."""
    pairs = zip(arrays, others or [], strict=False)
    return others is not None and all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)


def _copied(made):
    """Return the arrays of the updates as one, copied: their makers scale them in place."""
    kinds = [field.name for field in fields(StoredUpdate)]
    found = {kind: getattr(one, kind, None) for one in made for kind in kinds if hasattr(one, kind)}
    return StoredUpdate(
        **{kind: arrays and [array.copy() for array in arrays] for kind, arrays in found.items()}
    )


def _check_compression(log):
    try:
        filters(log.compression)
    except MissingExtra as error:
        raise ConfigurationError(f"log.compression: {error}") from None


def _check_kind(directory, log):
    """Refuse records of another kind than the run's: those of a file are alike. Which ones are logged may change."""
    try:
        with open_trajectories(directory) as file:
            there = (file.config or {}).get("log", {})
    except FileNotFoundError:
        return
    now = log.model_dump(mode="json")
    changed = [
        f"log.{key} = {there[key]} in the run, {now[key]} requested"
        for key in ALIKE
        if there.get(key, now[key]) != now[key]
    ]
    if changed:
        raise ConfigurationError(
            f"{directory} holds trajectories of another kind ({'; '.join(changed)}), and the records of a run are alike; "
            "leave that out, or begin another run with --out"
        )
