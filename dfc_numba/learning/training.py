"""Training: the published loops of feedback and forward learning, passes over the data (`Trainer`).

A run is a list of passes (`dfc_numba.learning.schedule`): epochs of feedback pre-training, then for every epoch the
feedback phase, the forward phase and extra feedback epochs. What a minibatch does in a phase is a matter of
the method (`dfc_numba.learning.methods`).
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np

from dfc_numba.data.dataset import DataSet
from dfc_numba.dynamics.phase import judging_divergence
from dfc_numba.errors import DivergenceError, DivergenceWarning
from dfc_numba.learning import divergence, methods
from dfc_numba.learning.descent import (
    Descent,
    cosine,
    feedback_layers,
    forward_layers,
    norm_to_keep,
    per_layer,
)
from dfc_numba.learning.evaluation import Score, check_fit, count_correct, score
from dfc_numba.learning.modulation import modulated, modulation_of
from dfc_numba.learning.observers import check_observers, hears
from dfc_numba.learning.phases import simulated_steps, solves_in_time, trains_feedback
from dfc_numba.learning.schedule import Clock, plan_passes, shuffled_minibatches
from dfc_numba.learning.state import Counters, TrainingState
from dfc_numba.model.network import Network, exact_forward
from dfc_numba.model.noise_key import NoiseKey
from dfc_numba.model.shared_passes import sharing_passes
from dfc_numba.model.targets import loss_value
from dfc_numba.storage.network_file import KINDS
from dfc_numba.support import ranks, threads
from dfc_numba.support.array_types import Array


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run after a minibatch.

    Attributes:
        phase: "pretraining", "feedback", "forward" or "extra feedback".
        epoch: number of the epoch, from 1; those of the pre-training are counted separately.
        minibatch, minibatches: number of the minibatch in this pass, from 1, and how many the pass has.
        loss, accuracy: means over the samples of this forward pass so far; None in the other phases, accuracy
            None for a regression.
        seconds_left: estimated seconds until the end of the run, or None while unknown.
    """

    phase: str
    epoch: int
    minibatch: int
    minibatches: int
    loss: float | None = None
    accuracy: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The ending of a run.

    Attributes:
        status: "done", "diverged" or "interrupted".
        message: a sentence for the user; for "diverged" it says where and what to change, for "interrupted" and a stop
            that counts as done the reason.
        epochs: complete epochs.
        best_epoch: the epoch whose weights are `Trainer.best_network`; 0 if no epoch is complete.
        all_diverged: whether every feedback phase of the last epoch diverged.
        stopped_early: whether an observer ended it although more was planned, and it counts as done.
    """

    status: str
    message: str
    epochs: int
    best_epoch: int
    stopped_early: bool = False
    all_diverged: bool = False


class Trainer:
    """Trains a network on a data set, as a configuration says.

    Args:
        network: the `Network`; its arrays are changed in place.
        dataset: a `DataSet` with `.train`, `.validation` (or None), `.test` (or None) and `.task`; the
            classes of a classification may also be given as soft labels (N, n_L).
        config: an object with the sections `target`, `training`, `controller`, `feedback`,
            `feedback_controller`, `optimizer` and `feedback_optimizer` of the configuration.
        observers: list of objects with any of the events of `dfc.Observer`: `on_start(trainer)`, `on_phase(current)`,
            `on_minibatch(progress)`, `on_checkpoint(path)`, `on_epoch(row)`, `on_divergence(epoch, tally)`, `on_end(outcome)`,
            `on_error(error)`. Those of `training.observers` are not added here: see `observers.configured`.
        minibatches: list of index arrays into the training set that every pass takes, in this order; None
            shuffles them in each pass.
        noise: noise by running number of the minibatch, e.g. a list of lists of arrays (T, B, n_i), None
            where there is none; None draws it from `training.seed`.
        threads: number of threads; None leaves it as it is.
        log: a `Logger` that notes chosen minibatches, and is the first of the observers; None for none.
        analysis: a `Monitor` that measures while the run goes on, and is the next of the observers; None for none.

    Attributes:
        network, best_network: last weights, and those of the best epoch: highest validation accuracy
            (regression: lowest validation loss), without a validation set the same of the training set.
        optimizers: dict of `Descent`: "forward", and with feedback learning "pretraining" and "feedback"; for parameters of
            the method's own "own_pretraining" and "own".
        parameters, method_state: the method's own arrays by name: those that learn, and those that evolve otherwise.
        schedule: the list of `Pass`.
        directory: path of the run directory, None in memory.
        counters, rows: `Counters`; one dict per complete epoch with the columns of metrics.csv (NaN where
            there is no value).

    Raises:
        ValueError: for an unknown method, or a data set that does not fit the network or the loss.
    """

    def __init__(
        self,
        network: Network,
        dataset: DataSet,
        config: Any,
        *,
        observers: Iterable[Any] = (),
        minibatches: Sequence[Array] | None = None,
        noise: Sequence[Any] | None = None,
        threads: int | None = None,
        log: Any = None,
        analysis: Any = None,
    ) -> None:
        check_fit(network, dataset, config.target.loss)
        self.network, self.best_network = network, network.copy()
        self.dataset, self.config = dataset, config
        self.observers, self.threads = check_observers(observers), threads
        self.log, self.analysis, self.directory = log, analysis, None
        self.method = methods.find(config.training.method)
        self.schedule = plan_passes(self.method.phases, config.training, config.feedback)
        arrays = self.method.arrays(network, config)
        self.parameters, self.method_state, self._layers = arrays.parameters, arrays.state, arrays.layers
        self.optimizers = self._create_optimizers()
        self.counters, self.rows = Counters(), []
        self._minibatches, self._noise = minibatches, noise
        self._tally = divergence.Tally(reason=self.method.flagged)
        self._requested: tuple[str, bool] | None = None
        self._stop_reason: tuple[str, bool] | None = None
        self._all_diverged = False

    def _create_optimizers(self):
        """Create the optimiser of the forward weights, and two of the feedback weights: for pre-training and afterwards.

        Parameters of the method's own have two likewise, except those that learn with a layer.
        """
        network, config = self.network, self.config
        rates = per_layer(config.optimizer.learning_rate, len(network.weights), "optimizer.learning_rate")
        if config.optimizer.divide_by_step:
            rates = [rate / config.target.step for rate in rates]
        layers = forward_layers(network.weights, network.biases)
        layers = self._with_layer_parameters(layers, self.parameters)
        optimizers = {"forward": Descent(layers, config.optimizer, learning_rate=rates)}
        options = config.feedback_optimizer
        rates = {"pretraining": options.pretraining_learning_rate, "feedback": options.learning_rate}
        groups = {}
        if trains_feedback(config):
            layers = feedback_layers(network.feedback, config.feedback.freeze_output)
            groups = {name: (layers, rate) for name, rate in rates.items()}
        if own := self._separate(self.parameters):
            layers = [[array] for array in own]
            groups |= {"own_pretraining": (layers, rates["pretraining"]), "own": (layers, rates["feedback"])}
        for name, (layers, rate) in groups.items():
            keep_norm = norm_to_keep(layers, options)
            optimizers[name] = Descent(layers, options, learning_rate=rate, keep_norm=keep_norm)
        return optimizers

    def request_stop(self, reason: str, done: bool = False) -> None:
        """End the run after the minibatch under way; callable from a signal handler or another thread.

        Where several ranks train, a request to any of them ends all after the same minibatch.

        Args:
            reason: a sentence. done: whether the run counts as done, as for early stopping, and not as interrupted.
        """
        self._requested = (reason, done)

    def state(self) -> TrainingState:
        """Return the `TrainingState` of the run: its own arrays, not copies."""
        arrays = {name: optimizer.arrays() for name, optimizer in self.optimizers.items()}
        notes = {} if self.analysis is None else self.analysis.arrays()
        return TrainingState(
            self.network, self.best_network, arrays, self.counters, self.rows, notes, self.own
        )

    @property
    def own(self) -> dict[str, Array]:
        """The arrays of the method's own by name: its parameters and state."""
        return {**self.parameters, **self.method_state}

    def restore(self, state: TrainingState) -> None:
        """Restore a `TrainingState`, which is copied; `run` then continues bit for bit as if it had never stopped.

        Raises:
            ValueError: for the state of another network, other optimisers or a longer run.
        """
        state.check_fit(self)
        for kind in KINDS:
            if (arrays := getattr(state.network, kind)) is not None:
                getattr(self.network, kind).fill(arrays)
        self.best_network = state.best_network.copy()
        for name, optimizer in self.optimizers.items():
            for key, array in optimizer.arrays().items():
                array[...] = state.optimizers[name][key]
        for name, array in self.own.items():
            array[...] = state.method[name]
        self.counters, self.rows = replace(state.counters), [dict(row) for row in state.rows]
        self._tally = divergence.Tally(
            fallback=self.counters.fallback,
            estimated_error=self.counters.estimated_error,
            reason=self.method.flagged,
        )
        if self.analysis is not None:
            self.analysis.restore(state.analysis)

    def __repr__(self) -> str:
        training = self.config.training
        done = f"{len(self.rows)} of {training.epochs} epochs done"
        return f"Trainer({training.method}, {self.network!r}, {self.dataset.name}, {done})"

    def run(self) -> Outcome:
        """Run to the end, or from where an interrupted run stopped, and return the `Outcome`."""
        self._clock = self._start_clock()
        try:
            self.notify("on_start", self)
            outcome = self._outcome()
            self.notify("on_end", outcome)
        except BaseException as error:
            self.notify("on_error", error)
            raise
        return outcome

    def settle(self) -> None:
        """Close what the log has of the minibatches done so far; called before these are taken as done for good."""
        if self.log is not None:
            self.log.settle()

    def _outcome(self):
        limit = nullcontext() if self.threads is None else threads.limit_threads(self.threads)
        try:
            with limit, np.errstate(over="ignore", invalid="ignore"):
                while self.counters.passes < len(self.schedule) and self._stop_reason is None:
                    self._run_pass(self.schedule[self.counters.passes])
        except DivergenceError as error:
            return self._ended("diverged", str(error))
        if self.counters.passes < len(self.schedule):
            (reason, done), self._stop_reason, self._requested = self._stop_reason, None, None
            return self._ended("done" if done else "interrupted", reason, stopped_early=done)
        return self._ended("done", f"finished {len(self.rows)} epochs")

    def _ended(self, status, message, stopped_early=False):
        best = self.counters.best_epoch
        return Outcome(status, message, len(self.rows), best, stopped_early, self._all_diverged)

    def _run_pass(self, current):
        """Do the remaining minibatches of a pass, unless a stop is requested, and the pass's end."""
        batches, first = self._minibatches or self._shuffled(current), self.counters.minibatch
        if current.phase == "forward" and self.counters.minibatch == 0:
            self.counters.samples, self.counters.loss_sum, self.counters.correct = 0, 0.0, 0.0
        while self.counters.minibatch < len(batches):
            self._stop_reason = ranks.agree(self._requested)
            if self._stop_reason is not None:
                return
            if self.counters.minibatch == first:
                self.notify("on_phase", current)
            self._run_minibatch(current, batches)
        row = self._end_epoch(current.epoch) if current.ends_epoch else None
        self.counters.passes, self.counters.minibatch = self.counters.passes + 1, 0
        if row is not None:
            self.notify("on_epoch", row)
            self._tell_divergence(row["epoch"])

    def _tell_divergence(self, epoch):
        """Tell how many feedback phases of the epoch diverged, if more than a few, and start counting again."""
        tally, self._tally = self._tally, divergence.Tally(reason=self.method.flagged)
        self._all_diverged = 0 < tally.samples == tally.diverged
        if tally.worth_a_warning:
            self.notify("on_divergence", epoch, tally)
            if not any(hears(observer, "on_divergence") for observer in self.observers):
                warnings.warn(tally.text(epoch), DivergenceWarning, stacklevel=2)

    def _run_minibatch(self, current, batches):
        start = time.perf_counter()
        counters = self.counters
        self._learn(self._take(current, batches), len(batches))
        counters.fallback, counters.estimated_error = self._tally.fallback, self._tally.estimated_error
        counters.minibatch += 1
        counters.minibatches += 1
        seconds = time.perf_counter() - start
        counters.seconds += seconds
        self._clock.minibatch_done(current.phase, seconds)
        self.notify("on_minibatch", self._progress(current, len(batches)))

    def _take(self, current, batches):
        """Return the next `Minibatch` of a pass."""
        number, position = self.counters.minibatches, self.counters.minibatch + 1
        seed, indices = self.config.training.seed, batches[position - 1]
        return methods.minibatch_of(
            self.dataset.train,
            indices,
            self.network,
            self.config,
            phase=current.phase,
            epoch=current.epoch,
            position=position,
            number=number,
            noise=NoiseKey(seed, number, indices) if self._noise is None else self._noise[number],
        )

    def _learn(self, minibatch, count):
        """Measure (forward phase), compute the gradients and take the optimisers' steps; `count`: minibatches of the pass."""
        forward, frozen = minibatch.phase == "forward", self.config.training.freeze_forward
        # a prediction by the method's own pass comes after the gradients, which may have computed it on the way
        early = frozen or self.method.predict is None
        with sharing_passes(), judging_divergence():
            if forward:
                minibatch = self._with_activity(minibatch)
            if forward and early:
                self._measure(minibatch)
            if forward and frozen:
                return
            logged = self.log is not None and self.log.wants(
                minibatch.phase, minibatch.position, minibatch.number, count
            )
            gradients = self._gradients(minibatch, self._recorded if logged else self._counted)
            if forward and not early:
                self._measure(minibatch)
            gradients.check(self.method, self.network, self.parameters)
            self._tally.flag(gradients.flagged)
            divergence.check_gradients(gradients, minibatch, self._gradients)
        self._step(gradients, minibatch)
        self.method.follow_step(self.network, self.config, self.own)
        divergence.check_parameters(self.network, minibatch)

    def _gradients(self, minibatch, compute=None):
        return self.method.gradients(self.network, minibatch, self.config, self.own, compute)

    def _counted(self, planned, minibatch):
        """Compute the update of a `PlannedUpdate`, and count its diverged feedback phases."""
        update = planned.compute(self.network, minibatch)
        self._tally.count(*(update if isinstance(update, tuple) else (update,)))
        return update

    def _recorded(self, planned, minibatch):
        """Compute the update as `_counted`, with a record in the log."""
        function, arguments, options = planned.function, planned.arguments, planned.options
        network = self.network if planned.network is None else planned.network
        update = self.log.updated(function, network, minibatch, *arguments, **options)
        self._tally.count(*(update if isinstance(update, tuple) else (update,)))
        return update

    def _with_activity(self, minibatch):
        """Return the minibatch with its feedforward activity."""
        if self.network.dtype == np.float64 or "target.feedback" in self.method.reads:  # with the phase
            _, activity = exact_forward(self.network, minibatch.x)
        else:
            activity = self.network.forward(minibatch.x)
        return replace(minibatch, activity=activity)

    def _measure(self, minibatch):
        """Add up loss and accuracy of a minibatch."""
        activity, counters = minibatch.activity, self.counters
        output = activity.r[-1] if self.method.predict is None else self._predict(minibatch.x)
        loss = loss_value(output, minibatch.y, self.config.target.loss)
        divergence.check_loss(loss, activity, minibatch)
        counters.samples += len(output)
        counters.loss_sum += len(output) * loss
        counters.correct += count_correct(output, minibatch.y, self.dataset.task)

    def _step(self, gradients, minibatch):
        """Take one step of each optimiser whose parameters have a gradient."""
        pretraining = minibatch.phase == "pretraining"
        if gradients.weights is not None:
            layers = forward_layers(gradients.weights, gradients.biases)
            layers = self._with_layer_parameters(layers, gradients.own)
            if (modulation := modulation_of(self.config)) is not None:
                arrays = self._with_layer_parameters([[w] for w in self.network.weights], self.parameters)
                layers = modulated(layers, arrays, modulation, self.method.error_path)
            self._descend("forward", layers, minibatch)
        if gradients.feedback is not None:
            layers = feedback_layers(gradients.feedback, self.config.feedback.freeze_output)
            self._descend("pretraining" if pretraining else "feedback", layers, minibatch)
        if gradients.own is not None and self._separate(gradients.own):
            name = "own_pretraining" if pretraining else "own"
            self._descend(name, [[array] for array in self._separate(gradients.own)], minibatch)

    def _with_layer_parameters(self, layers, own):
        """Return the arrays per layer, and those of the method's own that learn with them."""
        for name, layer in self._layers.items():
            layers[layer - 1].append(own[name])
        return layers

    def _separate(self, own):
        """Return the method's own parameters, or their gradients, that the optimisers of [feedback_optimizer] step."""
        return [own[name] for name in self.parameters if name not in self._layers]

    def _descend(self, name, layers, minibatch):
        optimizer = self.optimizers[name]
        least = None if minibatch.phase == "pretraining" else getattr(optimizer.options, "cosine_to", None)
        optimizer.step(layers, cosine(least, minibatch.epoch, self.config.training.epochs))

    def _end_epoch(self, epoch):
        """Evaluate the epoch, keep its weights if they are the best so far, and return its row."""
        start = time.perf_counter()
        counters = self.counters
        train = Score(counters.loss_sum / counters.samples, counters.correct / counters.samples)
        validation, test = (self._evaluate(split) for split in (self.dataset.validation, self.dataset.test))
        self._keep_best(epoch, train if self.dataset.validation is None else validation)
        seconds, counters.seconds = counters.seconds + time.perf_counter() - start, 0.0
        row = {"epoch": epoch}
        for name, measured in (("train", train), ("val", validation), ("test", test)):
            row.update({f"{name}_loss": measured.loss, f"{name}_accuracy": measured.accuracy})
        self.rows.append({**row, "seconds": seconds})
        if solves_in_time(self.config):
            errors = {"fallback_samples": counters.fallback, "estimated_error": counters.estimated_error}
            self.rows[-1].update(errors)
            counters.fallback, counters.estimated_error = 0, 0.0
        return self.rows[-1]

    def _evaluate(self, split):
        if split is None:
            return Score()
        target, task = self.config.target, self.dataset.task
        return score(
            self.network,
            split,
            loss=target.loss,
            task=task,
            class_value=target.class_value,
            predict=self._predict,
        )

    def _predict(self, x):
        return self.method.outputs(self.network, x, self.config, self.own)

    def _keep_best(self, epoch, measured):
        score = measured.accuracy if self.dataset.task == "classification" else -measured.loss
        if isnan(self.counters.best_score) or score > self.counters.best_score:
            self.counters.best_epoch, self.counters.best_score = epoch, score
            self.best_network = self.network.copy()

    def _progress(self, current, minibatches):
        counters, measured = self.counters, {}
        if current.phase == "forward":
            measured["loss"] = counters.loss_sum / counters.samples
            if self.dataset.task == "classification":
                measured["accuracy"] = counters.correct / counters.samples
        return Progress(
            phase=current.phase,
            epoch=current.epoch,
            minibatch=counters.minibatch,
            minibatches=minibatches,
            seconds_left=self._clock.seconds_left(),
            **measured,
        )

    def _shuffled(self, current):
        training = self.config.training
        return shuffled_minibatches(
            len(self.dataset.train.x), training.batch_size, training.seed, current.phase, current.repetition
        )

    def _start_clock(self):
        """Start a clock for the remaining passes; a minibatch costs its simulated steps, or 1."""
        n_samples, batch_size = len(self.dataset.train.x), self.config.training.batch_size
        per_pass = len(self._minibatches) if self._minibatches else -(-n_samples // batch_size)
        remaining = Counter()
        for current in self.schedule[self.counters.passes :]:
            remaining[current.phase] += per_pass
        if remaining:
            remaining[self.schedule[self.counters.passes].phase] -= self.counters.minibatch
        costs = {phase: max(1, simulated_steps(phase, self.config)) for phase in remaining}
        return Clock(remaining, costs)

    def notify(self, event: str, *arguments: Any) -> None:
        """Tell an event, see `dfc.Observer`, to all observers that have it."""
        for observer in filter(None, (self.log, self.analysis, *self.observers)):
            if hasattr(observer, event):
                getattr(observer, event)(*arguments)
