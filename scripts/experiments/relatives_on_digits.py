#!/usr/bin/env python
"""Train every relative of DFC, and DFC, on the embedded digits: same network, minibatches and number of epochs.

    python scripts/experiments/relatives_on_digits.py [--epochs 10] [--seeds 3] [METHOD ...]

64-64-10 (tanh where the method does not ask for another nonlinearity), minibatches of 32; learning rates chosen by us, not tuned.
Prints accuracies on the test set after the last epoch, mean and standard deviation over seeds, and CPU seconds of a run.
"""

import argparse
import time

import numpy as np

from dfc_numba.configuration.config import Config
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data

TP = {
    "optimizer.learning_rate": 2e-3, "optimizer.divide_by_step": True, "target.step": 0.1, "target.step_per": "minibatch",
    "feedback.pretraining_epochs": 2, "feedback.extra_epochs": 1, "feedback_optimizer.learning_rate": 1e-3,
    "feedback_optimizer.pretraining_learning_rate": 1e-3, "feedback_optimizer.weight_decay": 1e-5,
}  # fmt: skip
ADAM = {"optimizer.learning_rate": 2e-3}
SEPARATE = {"feedback_optimizer.learning_rate": 2e-3, "feedback_optimizer.weight_decay": 0.0}
EP = {"target.loss": "mse", "method.tolerance": 1e-6, "optimizer.learning_rate": 5e-3}
ENERGY = {
    "network.hidden_activation": "sigmoid",
    "method.beta": 1.0,
    "target.loss": "mse",
    "optimizer.learning_rate": 5e-3,
}
GRAPES = {
    "network.hidden_activation": "relu",
    "network.init": "he_uniform",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
}
FIXED = {"feedback.train": False, "network.feedback_init": "weight_product"}
SETTINGS = {
    "bp": ADAM,
    "dfa": ADAM,
    "dfc-ssa": {**ADAM, **FIXED, "optimizer.divide_by_step": True},
    "dfc-ssa + GRAPES": {**ADAM, **FIXED, "optimizer.divide_by_step": True, "optimizer.modulation": "grapes"},
    "ddtp-linear": TP,
    "ddtp-rhl": {**TP, "method.units": 128},
    "ddtp-control": TP,
    "dtpdrl": TP,
    "dtp": TP,
    "gnt": ADAM,
    "ep": EP,
    "ep-vector-field": {**EP, **SEPARATE},
    "ep-hopfield": {**ENERGY, "method.free_steps": 50, "method.nudged_steps": 50},
    "ep-gaussian": {**ENERGY, "method.nudged_steps": 20},
    "lcp-di": ADAM,
    "lcp-kp": {**ADAM, **SEPARATE},
    "lcp-lf": {**ADAM, "feedback_optimizer.name": "sgd", "feedback_optimizer.learning_rate": 1e-5, "method.steps": 100},
    "grapes-bp": GRAPES,
    "grapes-fa": GRAPES,
    "grapes-dfa": GRAPES,
}  # fmt: skip
ROW = "{:<18} {:>16} {:>10}"


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "methods", nargs="*", default=list(SETTINGS), metavar="METHOD", help="names of SETTINGS"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(ROW.format("method", "test accuracy", "seconds"))
    for name in options.methods:
        scores, seconds = zip(
            *(trained(name, options.epochs, seed) for seed in range(options.seeds)), strict=True
        )
        spread = f" +- {100 * np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
        print(
            ROW.format(name, f"{100 * np.mean(scores):.2f}{spread} %", f"{np.median(seconds):.1f}"),
            flush=True,
        )


def trained(name, epochs, seed):
    """Return (test accuracy after the last epoch, CPU seconds)."""
    settings = {
        "network.hidden": [64], "training.method": name.split(" ")[0], "training.epochs": epochs, "training.batch_size": 32,
        "training.seed": seed, **SETTINGS[name],
    }  # fmt: skip
    table = {}
    for path, value in settings.items():
        section, key = path.split(".")
        table.setdefault(section, {})[key] = value
    config = Config.model_validate(table)
    data = load_data(config)
    start = time.process_time()
    run = Trainer(create_network(config, data), data, config, threads=1)
    outcome = run.run()
    if outcome.status != "done":
        raise SystemExit(f"{name}: {outcome.message}")
    return run.rows[-1]["test_accuracy"], time.process_time() - start


if __name__ == "__main__":
    main()
