"""Short training runs on small networks, for the tests of the trainer."""

import os
import resource
import signal
from contextlib import contextmanager

import numpy as np

import dfc_numba as dfc
from dfc_numba.configuration.config import Config
from dfc_numba.data.dataset import DataSet, Split
from dfc_numba.learning.training import Trainer

SIZES = [4, 6, 5, 3]
SHORT = {"dt": 0.05, "steps": 20, "alpha": 0.01, "k_p": 0.5}
SHORT_FEEDBACK = {"dt": 0.01, "steps": 10, "alpha": 0.5, "k_p": 0.05, "tau_v": 0.03, "sigma": 0.05}

# what a method cannot do without
RECURRENT = ("lcp-rnn-di", "lcp-rnn-kp", "lcp-rnn-lf", "recurrent-bp")
NEEDS = {
    "dfc-single-phase": {"controller": {"sigma": 0.05, "tau_noise": 0.1}},
    "fa": {"inversion": {"feedback_scale": 1.0}},  # -W^T is for loops
    "ep-continual": {"optimizer": {"name": "sgd", "learning_rate": 0.01}},
    **{name: {"network": {"hidden": [6]}} for name in RECURRENT},
}


class StopAfter:
    """An observer that interrupts a run by a signal."""

    def __init__(self, minibatches):
        self.left = minibatches

    def on_minibatch(self, progress):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def configuration(**sections):
    """A configuration for short runs; `sections` overrides single keys."""
    table = {
        "network": {"hidden": SIZES[1:-1]},
        "training": {"epochs": 2, "batch_size": 8},
        "controller": SHORT,
        "feedback": {"pretraining_epochs": 1},
        "feedback_controller": SHORT_FEEDBACK,
        "optimizer": {"learning_rate": 0.01},
        "feedback_optimizer": {"learning_rate": 0.001, "weight_decay": 0.0},
    }
    merged = {key: {**table.get(key, {}), **sections.get(key, {})} for key in {**table, **sections}}
    return Config.model_validate(merged, context={"refuse_unused": False})


def dataset(task="classification", n_train=20, validation=True, seed=0, dtype=np.float64):
    """Inputs in three clusters; labels, or targets from a fixed linear map."""
    rng = np.random.default_rng(seed)
    centres, mix = 2 * rng.normal(size=(SIZES[-1], SIZES[0])), rng.normal(size=(SIZES[0], SIZES[-1]))

    def split(n):
        labels = rng.integers(SIZES[-1], size=n)
        x = (centres[labels] + rng.normal(size=(n, SIZES[0]))).astype(dtype)
        return Split(x, labels if task == "classification" else np.tanh(x @ mix).astype(dtype))

    train, held_out, test = split(n_train), split(9), split(11)
    return DataSet("clusters", task, train, held_out if validation else None, test, SIZES[-1], "drawn here")


def network(sizes=SIZES, **options):
    return dfc.Network.create(sizes, **{"seed": 1, "init": "xavier_normal", **options})


def parameters(net):
    """Copies of all parameters, by kind and layer."""
    kinds = {"weights": net.weights, "biases": net.biases or [], "feedback": net.feedback}
    return {f"{kind}{i}": array.copy() for kind, list_ in kinds.items() for i, array in enumerate(list_)}


def same(ours, theirs, kinds=("weights", "biases", "feedback")):
    """Whether the parameters of these kinds have the same bits."""
    return all(np.array_equal(ours[name], theirs[name]) for name in ours if name.startswith(kinds))


class Watcher:
    """Notes what a trainer tells, and the parameters after every minibatch; may ask it to stop."""

    def __init__(self, stop_after=None):
        self.calls, self.progress, self.states, self.stop_after = [], [], [], stop_after

    def on_start(self, trainer):
        self.calls.append("start")
        self.trainer = trainer

    def on_minibatch(self, progress):
        self.calls.append(progress.phase)
        self.progress.append(progress)
        self.states.append(parameters(self.trainer.network))
        if len(self.progress) == self.stop_after:
            self.trainer.request_stop("enough")

    def on_epoch(self, row):
        self.calls.append(f"epoch {row['epoch']}")

    def on_end(self, outcome):
        self.calls.append(outcome.status)


def train(config, data_set=None, net=None, **options):
    """A trainer after its run, and what a watcher saw."""
    watcher = Watcher(options.pop("stop_after", None))
    trainer = Trainer(net or network(), data_set or dataset(), config, observers=[watcher], **options)
    return trainer, watcher, trainer.run()


@contextmanager
def largest_file(size):
    """Writing beyond this size fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
