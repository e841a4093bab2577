"""Random networks, data and draws for the tests, as keyword arguments of either implementation of the API."""

import numpy as np


def parameters(sizes, seed=0, *, bias=True, activation="tanh", feedback_gain=0.4, dtype=np.float64):
    """Keyword arguments of a `Network` with unit-gain random weights and random feedback weights."""
    rng = np.random.default_rng(seed)
    pairs = list(zip(sizes[1:], sizes))
    return {
        "weights": [(rng.normal(size=pair) / np.sqrt(pair[1])).astype(dtype) for pair in pairs],
        "biases": [(0.3 * rng.normal(size=above)).astype(dtype) for above, _ in pairs] if bias else None,
        "feedback": [
            (feedback_gain * rng.normal(size=(above, sizes[-1]))).astype(dtype) for above, _ in pairs
        ],
        "hidden_activation": activation,
    }


# of every kind that matters to the theory
NETWORKS = {
    "tanh": parameters([6, 8, 7, 4]),
    "without biases": parameters([5, 6, 3], bias=False, activation="sigmoid"),
    "one output": parameters([4, 5, 1], activation="leakyrelu"),
    "more outputs than hidden units": parameters([3, 2, 6]),
    "one layer": parameters([4, 3]),
}


def stable_parameters(sizes, seed=0, **options):
    """The same with feedback weights Q_i = W_{i+1}^T ... W_L^T, for which J Q is close to positive definite."""
    arguments = parameters(sizes, seed, **options)
    product = np.eye(sizes[-1])
    for i in reversed(range(len(sizes) - 1)):
        arguments["feedback"][i] = product
        product = arguments["weights"][i].T @ product
    return arguments


def inputs(n_samples, n_inputs, seed=1):
    """Standard normal inputs, (B, n_0)."""
    return np.random.default_rng(seed).normal(size=(n_samples, n_inputs))


def probabilities(n_samples, n_outputs, seed=2):
    """Soft labels, (B, n_L)."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_outputs), size=n_samples)


def draws(controller, sizes, n_samples, seed=3):
    """Standard normal draws (T, B, n_i) for every layer."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(controller.steps + 1, n_samples, n)) for n in sizes[1:]]


def finite_differences(function, array, step=1e-6):
    """Central differences of a scalar function with respect to an array that it reads."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function()
        array[index] = value - step
        result[index] = (above - function()) / (2 * step)
        array[index] = value
    return result


def relative_deviation(ours, theirs, floor=0.0):
    """Largest absolute difference relative to the largest value of `theirs` (or `floor`, if that is larger)."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape
    scale = max(np.abs(theirs).max(), floor)
    return np.abs(ours - theirs).max() / scale if scale > 0 else np.abs(ours).max()


def label(options):
    """A test's name from keyword arguments."""
    return "-".join(f"{name}={value}" for name, value in options.items())
