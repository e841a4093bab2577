#!/usr/bin/env python
"""Tell whether the update of a run's method, over its whole training set, still points down the loss.

    python scripts/experiments/whole_set_direction.py RUN [--weights FILE] [--feedback KIND] [--samples N]

For the last network of a run of DFC-SS with cross-entropy (or another one by `--weights`), in float64 and at the exact steady
state: the mean loss and how much of it the worst samples have; then, layer by layer and for all layers together, the cosine
between the update (Meulemans et al. 2021, arXiv:2106.07887), summed over the training set, and the direction of steepest descent,
and both norms. With `--feedback` the feedback weights are replaced by a function of the network (see `Network.set_feedback`),
which tells what is owed to them. Data: DFC_DATA_DIR.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.baselines import backpropagation
from dfc_numba.learning.methods import nudge
from dfc_numba.runs.experiment import load_data

KINDS = ("own", "weight_product", "jacobian_transpose", "jacobian_pinv")
SAMPLES_AT_A_TIME, SAMPLES_OF_THE_MEAN_JACOBIAN = 500, 2000


def main(arguments=None):
    """Print the measurements; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--weights", type=Path, help="a saved network; default: the last one of the run")
    parser.add_argument("--feedback", choices=KINDS, default="own")
    parser.add_argument("--samples", type=int, help="the first N training samples instead of all")
    options = parser.parse_args(arguments)
    config, _ = load_config(options.run / "config.toml", [])
    if config.target.loss != "cross_entropy":
        parser.error(f"target.loss = {config.target.loss!r} in {options.run}; needed is 'cross_entropy'")
    data = load_data(config).train
    network = dfc.Network.load(options.weights or options.run / "weights_last.h5").copy(dtype="float64")
    x, labels = np.asarray(data.x[: options.samples], np.float64), np.asarray(data.y[: options.samples])
    if options.feedback != "own":
        means = () if options.feedback == "weight_product" else (x[:SAMPLES_OF_THE_MEAN_JACOBIAN],)
        network.set_feedback(options.feedback, *means)
    print_losses(network, x, labels)
    updates, gradients = directions(network, x, labels, config)
    print(f"{'layer':<6} {'cosine':>8} {'update':>9} {'gradient':>9}")
    for i, (update, gradient) in enumerate(zip(updates, gradients, strict=True), 1):
        print_row(str(i), update.ravel(), gradient.ravel())
    print_row("all", *(np.concatenate([a.ravel() for a in arrays]) for arrays in (updates, gradients)))
    return 0


def print_losses(network, x, labels):
    """Print the mean loss, and the parts that the worst samples have."""
    logits = network.forward(x).r[-1]
    logits = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(x)), labels]
    wrong, worst = np.count_nonzero(logits.argmax(axis=1) != labels), np.sort(losses)[::-1]
    parts = ", ".join(f"{worst[:n].sum() / worst.sum():.0%}" for n in (10, 100, 1000))
    print(
        f"{len(x)} samples, {wrong} misclassified, mean loss {losses.mean():.3g}, of which the worst 10, 100, 1,000 have {parts}"
    )


def directions(network, x, labels, config):
    """Return the updates of all layers' weights and the gradients of the mean loss, both means over all samples."""
    updates, gradients = ([np.zeros_like(w) for w in network.weights] for _ in range(2))
    one_hot, step = np.eye(network.sizes[-1]), nudge(config.target, config.training.batch_size)
    for first in range(0, len(x), SAMPLES_AT_A_TIME):
        chosen = slice(first, first + SAMPLES_AT_A_TIME)
        target = dfc.output_target(network, x[chosen], labels[chosen], loss="cross_entropy", step=step)
        found = dfc.forward_update(network, x[chosen], target, config.controller, readout="newton")
        exact = backpropagation(network, x[chosen], one_hot[labels[chosen]], loss="cross_entropy")
        part = len(x[chosen]) / len(x)
        for total, array in zip([*updates, *gradients], [*found.weights, *exact.weights], strict=True):
            total += part * array
    return updates, gradients


def print_row(name, update, gradient):
    """Print the cosine of an update with steepest descent, and the norms of update and gradient."""
    sizes = np.linalg.norm(update), np.linalg.norm(gradient)
    print(f"{name:<6} {-(update @ gradient) / np.prod(sizes):8.2f} {sizes[0]:9.1e} {sizes[1]:9.1e}")


if __name__ == "__main__":
    sys.exit(main())
