"""The relatives' rules in plain NumPy, written from the papers' equations, independent of the package."""

import numpy as np

ACTIVATIONS = {
    "linear": lambda v: v,
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0.0),
    "sigmoid": lambda v: 1.0 / (1.0 + np.exp(-v)),
    "hardsigmoid": lambda v: np.clip(v, 0.0, 1.0),
    "steepsigmoid": lambda v: 1.0 / (1.0 + np.exp(-4.0 * (v - 0.5))),
}


def feedforward(weights, biases, activations, x):
    """Voltages and rates, the input first among the rates."""
    voltages, rates = [], [x]
    for w, b, name in zip(weights, biases, activations, strict=True):
        voltages.append(rates[-1] @ w.T + b)
        rates.append(ACTIVATIONS[name](voltages[-1]))
    return voltages, rates


def softmax(a):
    e = np.exp(a - a.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def numerical_gradient(function, array, step=1e-6):
    """Central differences of a scalar function of nothing, with respect to an array that it reads."""
    gradient = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + step
        above = function()
        array[place] = kept - step
        below = function()
        array[place] = kept
        gradient[place] = (above - below) / (2 * step)
    return gradient


def reconstruction_loss(net, mappings, x, rule, sigma, xi, layer, activation):
    """The difference reconstruction loss of one hidden layer (0-based), direct and layerwise rules."""
    g = ACTIVATIONS[activation]
    biases = net.biases if net.biases is not None else [0.0] * len(net.weights)
    voltages, rates = feedforward(net.weights, biases, net.activations, x)
    h = rates[1:]
    corrupted = h[layer] + sigma * xi
    up = feedforward(net.weights[layer + 1 :], biases[layer + 1 :], net.activations[layer + 1 :], corrupted)
    q, d = mappings.weights, mappings.biases

    def direct(i, a):
        if rule == "ddtp_rhl" and i < len(q) - 1:
            a = np.tanh(a @ mappings.random_weights.T + mappings.random_biases)
        return g(a @ q[i].T + d[i])

    if rule == "ddtp_control":
        return np.mean((direct(layer, up[0][-1]) - corrupted) ** 2)
    if rule == "dtp":
        back = g(up[1][1] @ q[layer].T + d[layer])
    elif rule == "dtpdrl":
        back = up[1][-1]
        for i in range(len(q) - 1, layer - 1, -1):
            back = h[i] + g(back @ q[i].T + d[i]) - g(h[i + 1] @ q[i].T + d[i])
    else:
        back = h[layer] + direct(layer, up[0][-1]) - direct(layer, voltages[-1])
    return np.mean((back - corrupted) ** 2) / sigma**2
