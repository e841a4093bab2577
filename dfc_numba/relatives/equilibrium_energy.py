"""Energies of equilibrium propagation, their gradients, the cost, and the nonlinearities in NumPy.

`options` is an `EquilibriumPropagation`: its form, nonlinearity and loss.
"""

import numpy as np
from scipy.special import logsumexp

from dfc_numba.kernels.equilibrium_units import CLIPPED, NONLINEARITIES
from dfc_numba.model.network import Network
from dfc_numba.model.targets import as_targets
from dfc_numba.support import threads
from dfc_numba.support.validation import choice, finite_result, float_list, floats, instance, samples, silent


def rate_of(options, v):
    """Return phi(v) in NumPy."""
    family, (k, c, a, b) = NONLINEARITIES[options.nonlinearity]
    if family == CLIPPED:
        return np.clip(v, k, c)
    with np.errstate(over="ignore"):
        return a / (1.0 + np.exp(c - k * v)) + b


def slope_of(options, v):
    """Return phi'(v) in NumPy."""
    family, (k, c, a, _) = NONLINEARITIES[options.nonlinearity]
    if family == CLIPPED:
        return ((v >= k) & (v <= c)).astype(np.float64)
    with np.errstate(over="ignore"):
        p = 1.0 / (1.0 + np.exp(c - k * v))
    return k * a * p * (1.0 - p)


@silent()
def free_energy(network, x, states, options):
    """Return each sample's energy, (B,): E of the Hopfield or the conditional Gaussian form, without the cost.

    Hopfield: sum_i 1/2 |u_i|^2 - r_i^T W_i r_{i-1} - b_i^T r_i, with 1/2 |x|^2 of the clamped input;
    Gaussian: sum_i |W_i r_{i-1} + b_i - u_i|^2.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that are too large for a finite energy.
    """
    below, states = _checked(network, x, states, options)
    total = 0.5 * np.sum(below**2, axis=1) if options.form == "hopfield" else np.zeros(len(below))
    biases = network.biases or [np.zeros(n) for n in network.sizes[1:]]
    for w, b, u in zip(network.weights, biases, states, strict=True):
        rate, basal = rate_of(options, u), below @ w.T + b
        if options.form == "gaussian":
            total += np.sum((basal - u) ** 2, axis=1)
        elif options.form == "hopfield":
            total += 0.5 * np.sum(u**2, axis=1) - np.sum(rate * basal, axis=1)
        else:
            raise ValueError(
                "form = 'prototypical' has no energy of its states; choose 'hopfield' or 'gaussian'"
            )
        below = rate
    return finite_result("the energy", total)


@silent()
def cost(output, y, loss):
    """Return C of each sample, (B,): 1/2 |output - y|^2 ("mse"), or the cross-entropy of softmax(output) ("cross_entropy").

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that are too large for a finite cost.
    """
    choice("loss", loss, ("mse", "cross_entropy"))
    output = floats("output", output, (None, None))
    y = as_targets(y, output.shape[1], count=len(output))
    if loss == "mse":
        return finite_result("the cost", 0.5 * np.sum((output - y) ** 2, axis=1))
    return finite_result("the cost", logsumexp(output, axis=1) - np.sum(y * output, axis=1))


def _checked(network, x, states, options):
    """Return inputs and states, which have to fit the network."""
    choice("options.form", getattr(options, "form", None), ("prototypical", "hopfield", "gaussian"))
    x = samples("x", x, instance("network", network, Network).sizes[0])
    return x, float_list("states", states, [(len(x), n) for n in network.sizes[1:]])


@silent()
def energy_gradient(network, x, states, options):
    """Return d (mean energy) / d (weights, biases) at given states: two lists.

    Hopfield: -mean r_i r_{i-1}^T, -mean r_i; Gaussian: -2 mean e_i r_{i-1}^T, -2 mean e_i.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that are too large for a finite gradient.
    """
    x, states = _checked(network, x, states, options)
    rates = [rate_of(options, u) for u in states]
    below = [x, *rates[:-1]]
    if options.form == "gaussian":
        biases = network.biases or [np.zeros(n) for n in network.sizes[1:]]
        parts = zip(states, below, network.weights, biases, strict=True)
        posts = [2.0 * (u - r @ w.T - b) for u, r, w, b in parts]
    else:
        posts = rates
    scale = -1.0 / len(rates[0])
    with threads.one_thread():
        weights = [scale * post.T @ r for post, r in zip(posts, below, strict=True)]
        biases = [scale * post.sum(axis=0) for post in posts]
    for array in (*weights, *biases):
        finite_result("the gradient", array)
    return weights, biases
