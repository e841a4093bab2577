"""Presets as the experiments change them, and networks that learn by them."""

from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network

FEEDBACK_ONLY = {
    "training.freeze_forward": "true",
    "training.epochs": 1,
    "feedback.epochs": 0,
    "feedback.extra_epochs": 0,
}
TINY_TEACHER = {"data.options.teacher_hidden": "[20]", "data.options.train_size": 256}


def preset(name, settings):
    """Return the configuration of a preset, with some keys set to other values."""
    return load_config(name, [f"{key}={value}" for key, value in settings.items()])[0]


def train(config, dataset, observers=(), network=None):
    """Train, and return the `Trainer` at the end of the run; of a new network where none is given.

    Raises:
        RuntimeError: the run diverged.
    """
    network = create_network(config, dataset) if network is None else network
    trainer = Trainer(network, dataset, config, observers=observers)
    outcome = trainer.run()
    if outcome.status != "done":
        raise RuntimeError(f"{config.training.method}: {outcome.message}")
    return trainer
