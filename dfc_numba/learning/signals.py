"""From the errors of the layers to the gradients that an optimiser descends along.

An error delta_i of a sample is target - output at the output. The gradients are those of the mean loss, -s / B sum_b
delta_i r_{i-1}^T with s = 2 / n_L for the squared error and 1 for the cross-entropy.
"""

import numpy as np

from dfc_numba.learning.method import Gradients
from dfc_numba.model.products import outer_means
from dfc_numba.model.targets import unit_of_error


def update_options(config):
    """Return the configured options of `gradients` for the updates of single samples."""
    return {"clip_error": config.training.clip_error, "normalise": config.training.normalise_updates}


def gradients(network, x, activity, deltas, *, loss, clip_error=None, normalise=False):
    """Return the `Gradients` of a minibatch: sums over its samples.

    Args:
        x, activity: inputs (B, n_0), and the feedforward `Activity`.
        deltas: the errors as parts of the gradient of the mean loss, -s / B delta_i, list of (B, n_i).
        loss: "mse" or "cross_entropy".
        clip_error: largest norm of a sample's delta_i in a hidden layer; None for no clipping.
        normalise: whether a sample's delta_i r_{i-1}^T, and delta_i for the biases, are divided by their norms.
    """
    unit = unit_of_error(loss, *deltas[-1].shape)
    if clip_error is not None:
        deltas = [*(_clipped(delta, unit * clip_error) for delta in deltas[:-1]), deltas[-1]]
    if normalise:
        deltas = [unit * _normalised(delta) for delta in deltas]
    below = [np.asarray(x, network.dtype), *activity.r[:-1]]
    rates = [_normalised(r) for r in below] if normalise else below
    weights, biases = outer_means(network, deltas, rates, 1)
    return Gradients(weights=weights, biases=biases)


def _clipped(rows, largest):
    """Scale rows that are longer than `largest` down to it."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * (largest / np.maximum(norms, largest))


def _normalised(rows):
    """Return the rows with norm 1; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)
