#!/usr/bin/env python
"""Compare the waveform integrator with Euler steps: true error, estimated error and fallback over published configurations.

    python scripts/check_waveform.py [--presets NAME ...] [--weights FILE] [--states NAME ...] [--seeds N] [--rtol R ...]
        [--samples N] [--limits NAME ...] [--images N]

One row per preset, state of the network, seed, limit and rtol: the largest relative error (Frobenius) over the layers' weight
updates of one minibatch, what the integrator expects it to be, the share of samples that it left to Euler steps, and flags that
differ. The reference is the Euler kernel; for the continuous limit it is extrapolated from half and a quarter of dt. States:
"initial"; "bp", after some hundred minibatches of backpropagation with the feedback weights as they were; "aligned", the same
with the mean transposed Jacobian as feedback weights; "dfc", after the preset's own pre-training and three epochs of its own
learning, of all training images or the first `--images`, which takes minutes for each preset and seed. `--weights` takes a saved
network instead. Exits with 1 when an error is above its rtol. Data: DFC_DATA_DIR.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning import baselines
from dfc_numba.learning.evaluation import soft_targets
from dfc_numba.learning.methods import nudge
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.experiment import create_network, load_data

PRESETS = (
    "mnist-dfc", "mnist-dfc-fixed", "mnist-dfc-ss", "mnist-dfc-ss-fixed", "fashion-mnist-dfc", "fashion-mnist-dfc-fixed",
    "fashion-mnist-dfc-ss", "fashion-mnist-dfc-ss-fixed", "mnist-train-dfc", "mnist-train-dfc-fixed", "mnist-train-dfc-ss",
    "mnist-train-dfc-ss-fixed", "strong-mnist-dfc", "strong-mnist-two-phase", "strong-fashion-mnist-two-phase",
)  # fmt: skip
STATES = ("initial", "bp", "aligned", "dfc")
MINIBATCHES, RATE = 300, 1e-3
EPOCHS = 3
ROW = "{:<30} {:<8} {:>4} {:<10} {:>7} {:>9} {:>9} {:>8} {:>6}"


def main(arguments=None):
    """Print the table; returns the exit code."""
    options = parse(arguments)
    print(ROW.format("preset", "state", "seed", "limit", "rtol", "error", "estimate", "stepped", "flags"))
    failures, stepped, samples = 0, 0, 0
    for preset in options.presets:
        for seed in range(options.seeds):
            for state in options.states if options.weights is None else ("weights",):
                for limit, rtol, error, update, differing in cases(preset, seed, state, options):
                    failures += error > rtol
                    stepped, samples = stepped + update.fallback.sum(), samples + len(update.fallback)
                    print(
                        ROW.format(
                            preset, state, seed, limit, f"{rtol:g}", f"{error:.1e}",
                            f"{update.estimated_error.max():.1e}", f"{update.fallback.mean():.0%}", differing,
                        ),
                        flush=True,
                    )  # fmt: skip
    print(f"{failures} errors above rtol; {stepped} of {samples} samples stepped ({stepped / samples:.2%})")
    return 1 if failures else 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--weights", help="a saved network")
    parser.add_argument("--states", nargs="+", default=STATES[:3], choices=STATES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rtol", nargs="+", type=float, default=(1e-2, 1e-3, 1e-4))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--limits", nargs="+", default=("published",), choices=("published", "continuous"))
    parser.add_argument("--images", type=int, default=55_000)
    return parser.parse_args(arguments)


def cases(preset, seed, state, options):
    """Yield (limit, rtol, largest error, update, number of differing flags) for one network."""
    config, _ = load_config(preset, [f"training.seed={seed}", "training.dtype=float64"])
    dataset = load_data(config)
    chosen = np.random.default_rng(seed).permutation(len(dataset.train.x))
    network = dfc.Network.load(options.weights) if options.weights else create_network(config, dataset)
    if state == "dfc":
        network = trained(preset, seed, options.images)
    if state in ("bp", "aligned"):
        backpropagate(network, dataset, config, chosen)
    if state == "aligned":
        network.set_feedback("jacobian_transpose", dataset.train.x[chosen[:512]])
    x, y = minibatch(dataset, network, config, chosen[-options.samples :])
    target = y
    if config.target.feedback == "weak":
        target = dfc.output_target(network, x, y, loss=config.target.loss, step=nudge(config.target, len(x)))
    readout = "final" if config.training.method == "dfc-ss" else "average"
    for limit in options.limits:
        reference, converged = reference_of(network, x, target, config.controller, readout, limit)
        for rtol in options.rtol:
            controller = replace(config.controller, integrator="waveform", limit=limit, rtol=rtol)
            update = dfc.forward_update(network, x, target, controller, readout=readout)
            errors = [
                np.linalg.norm(a - b) / np.linalg.norm(b)
                for a, b in zip(update.weights, reference, strict=True)
            ]
            differing = int((update.converged != converged).sum()) if limit == "published" else 0
            yield limit, rtol, max(errors), update, differing


def reference_of(network, x, target, controller, readout, limit):
    """Return (weights' updates, converged) by Euler steps."""
    if limit == "published":
        update = dfc.forward_update(network, x, target, controller, readout=readout)
        return update.weights, update.converged
    weights = []
    for parts in (2, 4):
        finer = replace(controller, dt=controller.dt / parts, steps=controller.steps * parts)
        update = dfc.forward_update(network, x, target, finer, readout=readout)
        scale = finer.time_points / finer.steps if readout == "average" else 1.0
        weights.append([w * scale for w in update.weights])
    return [2 * b - a for a, b in zip(*weights, strict=True)], update.converged


def minibatch(dataset, network, config, indices):
    """Return (x, y) of some samples."""
    y = soft_targets(dataset.train.y[indices], network.sizes[-1], config.target.class_value)
    return np.asarray(dataset.train.x[indices], network.dtype), y


def trained(preset, seed, images):
    """Return the network of a preset after its own pre-training and a few epochs, in float64."""
    settings = {
        "training.seed": seed,
        "training.dtype": "float32",
        "training.epochs": EPOCHS,
        "data.options.train_size": images,
        "controller.integrator": "waveform",
    }
    config, _ = load_config(preset, [f"{key}={value}" for key, value in settings.items()])
    dataset = load_data(config)
    trainer = Trainer(create_network(config, dataset), dataset, config)
    trainer.run()
    return trainer.network.copy(dtype="float64")


def backpropagate(network, dataset, config, order):
    """Train some hundred minibatches by backpropagation with Adam."""
    arrays = [*network.weights, *network.biases]
    first, second = ([np.zeros_like(a) for a in arrays] for _ in range(2))
    for step in range(1, MINIBATCHES + 1):
        x, y = minibatch(dataset, network, config, order[128 * (step - 1) : 128 * step])
        gradients = baselines.backpropagation(network, x, y, loss=config.target.loss)
        for a, m, v, g in zip(arrays, first, second, [*gradients.weights, *gradients.biases], strict=True):
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            a -= RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)


if __name__ == "__main__":
    sys.exit(main())
