"""One run from a configuration to a run directory: data, network, training, results."""

import itertools
import traceback
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dfc_numba import data
from dfc_numba.analysis.monitor import Monitor
from dfc_numba.configuration.config_file import used_values
from dfc_numba.dynamics.waveform import require_support
from dfc_numba.errors import ConfigurationError, Interrupted
from dfc_numba.extensions import used_extensions
from dfc_numba.learning import observers as watching
from dfc_numba.learning.phases import logs, method_of, solves_in_time, trains_feedback
from dfc_numba.learning.training import Trainer
from dfc_numba.model.network import JACOBIAN_KINDS, Network
from dfc_numba.model.products import shards_of
from dfc_numba.registry import LOSSES
from dfc_numba.runs import follower
from dfc_numba.runs.checkpoint import MINUTES
from dfc_numba.runs.data_files import data_facts, located
from dfc_numba.runs.expectations import expect
from dfc_numba.runs.interruption import leave_on_signals, stop_on_signals
from dfc_numba.runs.logger import Logger
from dfc_numba.runs.resumption import refuse_other_extensions
from dfc_numba.runs.run_directory import RunDirectory, read_record
from dfc_numba.support import ranks
from dfc_numba.support.environment import environment

JACOBIAN_SAMPLES = 1000  # over which feedback weights that start from the Jacobian take its mean


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        outcome: the trainer's `Outcome`.
        directory: path of the run directory.
        rows: one dict per epoch with the columns of metrics.csv.
        signal: number of the signal that interrupted the run, or None.
    """

    outcome: object
    directory: Path
    rows: list
    signal: int | None = None


class Experiment:
    """A run that is about to start or to resume: its directory is claimed, its data are loaded, its network exists.

    Args:
        config: the resolved `Config`.
        out: the run directory; None for the first free runs/<name>-NNN.
        name: name of the run.
        threads: number of threads; None for as many as there are.
        command: the command line, for run.json.
        resume: whether to resume the run in `out`, from its last checkpoint.
        checkpoint_minutes: time between two checkpoints within an epoch.
        wait: seconds to wait for another process that uses the run directory.
        scratch: folder on a disk of this node to work in; the run directory gets what each checkpoint leaves.

    Raises:
        ConfigurationError: the directory holds a run (without `resume`), is in use or cannot be written to, the
            data set does not suit the configuration, a network to start from does not fit, or the log needs an
            extra that is not installed.
        ValueError: from the data set's loader, or if the checkpoint does not fit the configuration.
        CheckpointError: if there is no checkpoint to resume from.
        Interrupted: if a signal comes; the run can be resumed.
    """

    def __init__(
        self,
        config,
        *,
        out=None,
        name="run",
        threads=None,
        command=(),
        resume=False,
        checkpoint_minutes=MINUTES,
        wait=0.0,
        scratch=None,
    ):
        data.check_options(config.data.name, config.data.options)
        self.config, self.threads = config, threads
        claim = RunDirectory.reopen if resume else RunDirectory.create
        before = None
        if resume and out is not None:
            refuse_other_extensions(out, config)
            before = read_record(out)
        facts = {"command": list(command), "environment": environment()}
        facts["extensions"] = used_extensions(used_values(config))
        facts |= {"ranks": ranks.size()}
        follower.check_alike()
        if ranks.is_root():
            self.directory = claim(
                config,
                path=out,
                name=name,
                checkpoint_minutes=checkpoint_minutes,
                wait=wait,
                scratch=scratch,
                **facts,
            )
        path = ranks.share(str(self.directory.path) if ranks.is_root() else None)
        if not ranks.is_root():
            self.directory = follower.FollowerDirectory(path)
        with self._preparing():
            checkpoint = ranks.root_first(self.directory.find_checkpoint) if resume else None
            found = located(config, before, path)
            self.dataset = ranks.root_first(load_data, found)
            if ranks.is_root():
                self.directory.record["data"] = {
                    "summary": self.dataset.summary, "classes": list(self.dataset.classes), "notes": list(self.dataset.notes),
                    **data_facts(found),
                }  # fmt: skip
            new = checkpoint is None
            self.network = create_network(config, self.dataset) if new else checkpoint.state.network
            log = self._log(command) if logs(config) else None
            analysis = Monitor(config, self.dataset) if config.analysis.every else None
            self.trainer = Trainer(
                self.network, self.dataset, config, threads=threads, log=log, analysis=analysis
            )
            self.trainer.directory = self.directory.path
            self._configured = watching.configured(config)
            if not new:
                checkpoint.restore(self.trainer)
            if ranks.size() > 1 and ranks.is_root():
                pieces = len(
                    shards_of(self.network, min(config.training.batch_size, len(self.dataset.train)))
                )
                ends = ranks.split(pieces)
                self.directory.record["nodes"] = ranks.world().nodes
                self.directory.record["shards_per_rank"] = [b - a for a, b in itertools.pairwise(ends)]

    def _log(self, command):
        if not ranks.is_root():
            return follower.FollowerLogger(self.config)
        return Logger(self.directory.folder, self.config, command=command)

    def expect(self):
        """Return the `Expectation` of the run: memory and time."""
        done = self.trainer.counters.passes
        with self._preparing():
            return expect(self.network, self.dataset, self.config, threads=self.threads, done=done)

    def run(self, observers=()):
        """Train, and return the `Result`; the run directory records the ending, whatever happens."""
        together = [follower.Unison(self.trainer)] if ranks.size() > 1 else []
        self.trainer.observers = (
            *together, self.directory, *self._configured, *observers
        )  # fmt: skip
        try:
            with self.trainer.log or nullcontext(), stop_on_signals(self.trainer) as signals:
                outcome = self.trainer.run()
        except KeyboardInterrupt:
            self._close("interrupted", "interrupted at once, after the last checkpoint")
            raise
        except Exception as error:
            self._close("failed", f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
            raise
        return Result(outcome, self.directory.path, self.trainer.rows, signals[0] if signals else None)

    def _close(self, *how, **facts):
        """Record how the run ended, as far as a full disk allows; the error that ended it is what counts."""
        with suppress(OSError):
            self.directory.close(*how, **facts)

    @contextmanager
    def _preparing(self):
        """Leave no run directory behind where a run cannot start; after a signal, one that can be resumed."""
        try:
            with leave_on_signals():
                yield
        except Interrupted as interrupt:
            self._close("interrupted", str(interrupt))
            interrupted = Interrupted(f"{interrupt}; the run in {self.directory.path} can be resumed")
            interrupted.directory = self.directory.path
            raise interrupted from None
        except BaseException:
            self.directory.discard()
            raise


def load_data(config):
    """Return the data set of a configuration; refuse a loss that does not suit it."""
    dataset = data.load(config.data.name, dtype=config.training.dtype, **config.data.options)
    return suited_data(config, dataset)


def suited_data(config, dataset):
    """Return a data set in the form that a loss needs, two classes at one output; refuse one that does not suit it."""
    if dataset.task == "regression" and LOSSES[config.target.loss].classes:
        raise ConfigurationError(
            f"target.loss = {config.target.loss!r} needs class labels; {dataset.name} is a regression data set; set "
            "target.loss = 'mse'"
        )
    if dataset.task == "regression" and config.target.class_value != 1:
        raise ConfigurationError(
            f"target.class_value has no meaning for {dataset.name}, which has no classes; set it to 1"
        )
    if LOSSES[config.target.loss].one_output:
        if dataset.n_outputs > 2:
            raise ConfigurationError(
                f"target.loss = {config.target.loss!r} is for two classes at one output, but {dataset.name} has "
                f"{dataset.n_outputs}; set target.loss = 'cross_entropy'"
            )
        return replace(dataset, n_outputs=1)
    if dataset.task == "classification" and dataset.n_outputs == 1:
        raise ConfigurationError(
            f"{dataset.name} has its two classes at one output, which target.loss = {config.target.loss!r} is not for; set "
            "target.loss = 'binary_cross_entropy'"
        )
    return dataset


def create_network(config, dataset):
    """Return the network of a configuration: new, or a saved one that has the same layers."""
    options = config.network
    sizes = [dataset.n_inputs, *options.hidden, dataset.n_outputs]
    make = partial(_saved_network, config) if options.start_from else partial(_new_network, config, dataset)
    network = make(sizes)
    if solves_in_time(config):
        learns = trains_feedback(config) and not config.feedback.freeze_output
        try:
            require_support(config.controller, network, learns=learns)
        except ValueError as error:
            raise ConfigurationError(f"controller: {error}") from None
    prepare = method_of(config).prepare
    if prepare is not None:
        try:
            prepare(network, config)
        except RuntimeError as error:
            raise ConfigurationError(f"inversion.feedback = 'stable': {error}") from None
    return network


def _new_network(config, dataset, sizes):
    """Create a random network; feedback weights from the Jacobian need the training inputs."""
    options = config.network
    from_jacobian = options.feedback_init in JACOBIAN_KINDS
    network = Network.create(
        sizes,
        hidden_activation=options.hidden_activation,
        output_activation=options.output_activation,
        bias=options.bias,
        init=options.init,
        feedback_init="xavier_normal" if from_jacobian else options.feedback_init,
        feedback_noise=options.feedback_noise,
        init_range=options.init_range,
        seed=config.training.seed,
        dtype=config.training.dtype,
    )
    if from_jacobian:
        first = dataset.train.x[:JACOBIAN_SAMPLES]
        network.set_feedback(options.feedback_init, first, damping=options.feedback_damping)
    return network


def _saved_network(config, sizes):
    """Load the network of `network.start_from`, which must be what the configuration describes."""
    options = config.network
    try:
        network = Network.load(options.start_from)
    except OSError as error:
        raise ConfigurationError(f"network.start_from: cannot read {options.start_from} ({error})") from None
    activation, n_hidden = options.hidden_activation, len(options.hidden)
    expected = {
        "sizes": tuple(sizes),
        "hidden_activation": (activation,) * n_hidden if isinstance(activation, str) else activation,
        "output_activation": options.output_activation,
        "bias": options.bias,
        "dtype": config.training.dtype,
    }
    saved = {
        "sizes": tuple(network.sizes),
        "hidden_activation": tuple(network.hidden_activations),
        "output_activation": network.output_activation,
        "bias": network.biases is not None,
        "dtype": network.dtype.name,
    }
    for key, value in expected.items():
        if saved[key] != value:
            raise ConfigurationError(
                f"network.start_from: {options.start_from} has {key} = {saved[key]}, the configuration "
                f"{value}; describe the saved network in [network] and training.dtype"
            )
    return network
