"""A plain NumPy loop for the update of a forward phase: what one would write without this package.

Vectorised over the batch, one product per layer and step into arrays that are allocated once, the constant first layer
hoisted, the products for the update taken over blocks of steps. It evolves the voltages v themselves and subtracts
phi(v_ff) from phi(v), as the equations are written.
"""

import numpy as np
from scipy.special import expit

BLOCK_STEPS = 8  # of 4, 8, 16, 32 the fastest, or equal to it


def _linear(v, out):
    np.copyto(out, v)


def _relu(v, out):
    np.maximum(v, 0, out=out)


ACTIVATIONS = {"tanh": np.tanh, "sigmoid": expit, "relu": _relu, "linear": _linear}


class _Layer:
    """State, work space and sums of one layer; arrays are (B, n_i), those of a block of steps (steps, B, n_i)."""

    def __init__(self, weights, bias, feedback, activation, below):
        shape, dtype = (len(below), len(weights)), weights.dtype
        self.phi, self.bias = ACTIVATIONS[activation], bias
        self.weights, self.feedback = np.ascontiguousarray(weights.T), np.ascontiguousarray(feedback.T)
        self.basal = below @ self.weights + bias
        self.v = self.basal.copy()
        self.change = np.empty(shape, dtype)
        self.feedforward_rate = np.empty(shape, dtype)
        self.phi(self.basal, out=self.feedforward_rate)
        self.rates, self.factors = (np.empty((BLOCK_STEPS, *shape), dtype) for _ in range(2))
        self.update, self.factor_sum = np.zeros_like(weights), np.zeros(shape, dtype)

    def advance(self, below, u, gain, slot):
        """Take one Euler step and return the rates; `below`: new rates of the layer below, None for the constant input."""
        rate, factor = self.rates[slot], self.factors[slot]
        if below is not None:
            np.dot(below, self.weights, out=self.basal)
            self.basal += self.bias
        np.dot(u, self.feedback, out=self.change)
        self.change += self.basal
        self.change -= self.v
        self.change *= gain
        self.v += self.change
        self.phi(self.v, out=rate)
        if below is None:
            np.subtract(rate, self.feedforward_rate, out=factor)
        else:
            self.phi(self.basal, out=factor)
            np.subtract(rate, factor, out=factor)
        return rate

    def add_products(self, below, filled):
        """Add the first `filled` steps of the block to the sums; `below` is the layer below, None for the input."""
        factors = self.factors[:filled]
        self.factor_sum += factors.sum(axis=0)
        if below is not None:
            self.update += _rows(factors).T @ _rows(below.rates[:filled])


def _rows(block):
    return block.reshape(-1, block.shape[-1])


def forward_update(network, x, target, controller):
    """Return Delta W_i and Delta b_i of the readout "average" and the rule "nonlinear_difference": a list, weights first.

    Of the controller's options dt, steps, alpha, k_p, tau_v and error are honoured; the others are those of the
    published MNIST configuration: instantaneous apical compartments and transmission, proactive control, no noise.
    """
    layers, below = [], x
    for parameters in zip(
        network.weights, network.biases, network.feedback, network.activations, strict=True
    ):
        layers.append(_Layer(*parameters, below))
        below = layers[-1].feedforward_rate
    _simulate(layers, below, target.astype(x.dtype), controller)
    layers[0].update = layers[0].factor_sum.T @ x
    count = len(x) * controller.time_points
    return [layer.update / count for layer in layers] + [
        layer.factor_sum.sum(axis=0) / count for layer in layers
    ]


def _simulate(layers, output, target, controller):
    gain = controller.dt / controller.tau_v
    u, u_int = np.zeros_like(target), np.zeros_like(target)
    for step in range(controller.steps):
        slot = step % BLOCK_STEPS
        error = target - (output if controller.error == "difference" else _softmax(output))
        u_int += controller.dt * (error - controller.alpha * u)
        u = u_int + controller.k_p * error
        output = None
        for layer in layers:
            output = layer.advance(output, u, gain, slot)
        if slot == BLOCK_STEPS - 1 or step == controller.steps - 1:
            for layer, below in zip(layers, [None, *layers], strict=False):
                layer.add_products(below, slot + 1)


def _softmax(output):
    exponential = np.exp(output - output.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)
