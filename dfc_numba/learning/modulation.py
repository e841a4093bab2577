"""`optimizer.modulation`: responsibilities of units, read from their weights, modulate what a method learns (GRAPES).

    grapes              gradients of a hidden unit's arrays times its factor f_l (`relatives.grapes`), for every method
    grapes-propagating  errors that pass from layer to layer are multiplied by f_l on their way, so that factors multiply up;
                        where they come straight from the output, dW_l[n, j] is multiplied by the factors of the senders
                        n and j, 1 < l < L, and db_l[n] by that of n times the mean over j (Dellaferrera et al. 2022)

With "-clipped", factors are clipped to [1, 2].
"""

import numpy as np

from dfc_numba.learning.method import CHAIN
from dfc_numba.relatives.grapes import factors_of, scaled_rows


def modulation_of(config):
    """Return (whether it propagates, bounds of the factors or None) of a configuration; None without modulation."""
    name = getattr(config.optimizer, "modulation", None)
    if name is None:
        return None
    return "propagating" in name, (1.0, 2.0) if name.endswith("clipped") else None


def factors_on_the_way(network, config):
    """Return what the errors of the hidden layers are multiplied by on their way down, a list of (n_i,); None for nothing."""
    propagates, clip = modulation_of(config) or (False, None)
    return factors_of(network.weights, clip=clip) if propagates else None


def modulated(layers, arrays, modulation, error_path):
    """Return modulated gradients, a list of arrays for each layer.

    Args:
        arrays: what they are the gradients of, without biases, in the same order: a layer's weights come first, and a unit's
            factor is read from its rows of all matrices of its layer.
        modulation: as `modulation_of` returns it. error_path: that of the method.
    """
    propagates, clip = modulation
    if not propagates:
        rows = [[a for a in layer if a.ndim == 2 and len(a) == len(layer[0])] for layer in arrays]
        factors = factors_of([np.hstack(matrices) for matrices in rows], clip=clip)
        return [*map(scaled_rows, layers, factors), layers[-1]]
    return layers if error_path == CHAIN else _by_senders(layers, [layer[0] for layer in arrays], clip)


def _by_senders(layers, weights, clip):
    """Return the gradients of the layers 1 < l < L by the factors of the units in layer l - 1 and in layer l."""
    factors = factors_of(weights, of="senders", clip=clip)  # of the inputs of the layers 2, ..., L
    result = list(layers)
    for i in range(1, len(layers) - 1):
        inputs, own = factors[i - 1], factors[i]
        (rows,) = scaled_rows(layers[i][:1], own)
        result[i] = [rows * inputs, *scaled_rows(layers[i][1:], own * inputs.mean())]
    return result
