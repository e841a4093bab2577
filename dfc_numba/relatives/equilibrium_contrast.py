"""The update of equilibrium propagation from the states of its phases: the contrast of their correlations."""

from dataclasses import replace

import numpy as np

from dfc_numba.relatives.finiteness import finite_samples
from dfc_numba.support import threads


def contrast(network, x, options, free, nudged):
    """Return (weights, biases, backward) of the update that follows from the states of both phases: a mean over all samples.

    A sample with a state that is not finite contributes zero.
    """
    free, nudged = _without(~usable(free, nudged), free, nudged)
    dtype, count = network.dtype, len(x)
    width = nudged[-1].beta - (nudged[0].beta if len(nudged) == 2 else 0.0)
    x = np.asarray(x, dtype)
    with threads.one_thread():
        if options.form == "gaussian":
            return (*_gaussian_contrast(network, x, free, nudged, 1.0 / (width * count)), None)
        rates = [rate.astype(dtype) for rate in free.rates]
        if len(nudged) == 1:
            change = nudged[0].rate_deviations
            middle = [rate + 0.5 * d for rate, d in zip(rates, change, strict=True)]
        else:
            pairs = list(zip(nudged[0].rate_deviations, nudged[1].rate_deviations, strict=True))
            change = [second - first for first, second in pairs]
            middle = [rate + 0.5 * (a + b) for rate, (a, b) in zip(rates, pairs, strict=True)]
        scale = dtype.type(1.0 / (width * count))
        change = [scale * d for d in change]
        biases = None if network.biases is None else [d.sum(axis=0) for d in change]
        if options.backward == "separate" and not options.same_update:
            below, above = [x, *rates[:-1]], rates[1:]
            weights = [d.T @ r for d, r in zip(change, below, strict=True)]
            return weights, biases, [d.T @ r for d, r in zip(change, above, strict=False)]
        weights = [change[0].T @ x]
        for i in range(1, len(change)):
            weights.append(change[i].T @ middle[i - 1] + middle[i].T @ change[i - 1])
        backward = [np.ascontiguousarray(w.T) for w in weights[1:]] if options.same_update else None
        return weights, biases, backward


def _gaussian_contrast(network, x, free, nudged, scale):
    """Return the update 2/D mean [e_i r_{i-1}^T]; the errors e_i are 0 in the free state."""
    weights = [np.zeros_like(w) for w in network.weights]
    biases = [np.zeros(n, network.dtype) for n in network.sizes[1:]]
    signs = [1.0] if len(nudged) == 1 else [-1.0, 1.0]
    for sign, part in zip(signs, nudged, strict=True):
        rates = [rate.astype(network.dtype) for rate in free.rates]
        below = [x, *[r + d for r, d in zip(rates, part.rate_deviations[:-1], strict=False)]]
        for i, d in enumerate(part.deviations):
            error = d if i == 0 else d - part.rate_deviations[i - 1] @ network.weights[i].T
            error = network.dtype.type(2.0 * sign * scale) * error
            weights[i] += error.T @ below[i]
            biases[i] += error.sum(axis=0)
    return weights, None if network.biases is None else biases


def usable(free, nudged):
    """Return which samples, (B,), have finite states in a `FreeState` and in `NudgedState`s."""
    parts = [array for part in nudged for array in (part.deviations, part.rate_deviations)]
    return finite_samples(len(free.steps), free.states, free.rates, free.drives, *parts)


def _without(lost, free, nudged):
    """Return the states with zeros in the samples that are lost."""
    if not lost.any():
        return free, nudged

    def kept(arrays):
        return [np.where(lost[:, None], array.dtype.type(0.0), array) for array in arrays]

    parts = [
        replace(part, deviations=kept(part.deviations), rate_deviations=kept(part.rate_deviations))
        for part in nudged
    ]
    return replace(free, rates=kept(free.rates)), parts
