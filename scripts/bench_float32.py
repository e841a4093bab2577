#!/usr/bin/env python
"""Show how far the float32 update is from the float64 update, and how far it is without the evolution of deviations.

    python scripts/bench_float32.py [--activations NAME ...] [--json FILE] [--quick]

One minibatch of the embedded digits, hidden layers and controller as published for MNIST, target nudges from tiny to
large, and strong feedback (the softmax of the output is driven to the labels); at initialisation and after a short
training. "Naive" is a NumPy loop that evolves the voltages themselves in float32 and subtracts phi(v_ff) from phi(v).
The error is the norm of the difference from our float64 update with the same parameters, over the norm of that update.
"""

import sys
from dataclasses import replace

from benchmarks import numpy_peer
from benchmarks.measuring import relative_difference, say
from benchmarks.reporting import Report, parser
from benchmarks.workload import published

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.evaluation import soft_targets
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data

NUDGES = (6e-4, 1e-2, 0.08, 0.5)
STRONG = "strong"
CLASS_VALUE = 0.99  # of the true class with strong feedback, as published
ACTIVATIONS = ("tanh", "sigmoid", "relu")
EPOCHS = 3
QUICK = {"hidden": [24, 16], "epochs": 1, "steps": 60, "samples": 16}


def main(arguments=None):
    """Measure, print the table, write the file."""
    options = parse(arguments)
    report = Report("bench_float32", options)
    errors = [error for activation in options.activations for error in activation_errors(activation, options)]
    columns = ("activation", "network", "nudge", "naive float32", "dfc-numba float32", "worst array")
    rows = [
        (e["activation"], e["network"], e["nudge"], *(f"{e[key]:.1e}" for key in ("naive", "ours", "ours_worst")))
        for e in errors
    ]  # fmt: skip
    report.table("Relative error of the float32 update", columns, rows)
    report.results["errors"] = errors
    report.write()
    return 0


def parse(arguments):
    options = parser("bench_float32", __doc__)
    options.add_argument(
        "--activations", nargs="+", choices=ACTIVATIONS, default=["tanh"], metavar="NAME",
        help="of the hidden layers: " + ", ".join(ACTIVATIONS) + "; default tanh",
    )  # fmt: skip
    return options.parse_args(arguments)


def activation_errors(activation, options):
    """Yield the errors of all nudges, for a network at initialisation and for a trained one."""
    config = configuration(activation, options.quick)
    dataset = load_data(config)
    network = create_network(config, dataset)
    count = QUICK["samples"] if options.quick else published().training.batch_size
    x, y = dataset.train.x[:count], dataset.train.y[:count]
    for name in ("initial", "trained"):
        for nudge in (*NUDGES, STRONG):
            say(f"{activation}, {name} network, nudge {nudge}")
            errors = update_errors(network, x, y, nudge, controller(options.quick))
            yield {"activation": activation, "network": name, "nudge": nudge, **errors}
        if name == "initial":
            say(f"training for {config.training.epochs} epochs")
            Trainer(network, dataset, config).run()


def configuration(activation, quick):
    """Return the preset digits with hidden layers as published for MNIST."""
    hidden = QUICK["hidden"] if quick else list(published().network.hidden)
    epochs = QUICK["epochs"] if quick else EPOCHS
    settings = {
        "network.hidden": hidden,
        "network.hidden_activation": activation,
        "training.epochs": epochs,
        "training.dtype": "float32",
    }
    return load_config("digits", [f"{key}={value}" for key, value in settings.items()])[0]


def controller(quick):
    return replace(published().controller, steps=QUICK["steps"]) if quick else published().controller


def update_errors(network, x, y, nudge, options):
    """Return relative errors of the naive float32 update and of ours, all arrays together, and of our worst array."""
    if nudge == STRONG:
        target = soft_targets(y, network.sizes[-1], CLASS_VALUE)
        options = replace(options, error="softmax")
    else:
        target = dfc.output_target(network, x, y, loss="cross_entropy", step=nudge)
    exact = dfc.forward_update(network.copy(dtype="float64"), x, target, options)
    update = dfc.forward_update(network, x, target, options)
    reference, ours = (u.weights + u.biases for u in (exact, update))
    naive = numpy_peer.forward_update(network, x, target, options)
    return {
        "naive": relative_difference(naive, reference),
        "ours": relative_difference(ours, reference),
        "ours_worst": max(relative_difference([a], [b]) for a, b in zip(ours, reference, strict=True)),
    }


if __name__ == "__main__":
    sys.exit(main())
