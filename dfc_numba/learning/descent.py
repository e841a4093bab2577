"""The descent of a network's arrays along their gradients, stepped in place by a registered optimiser.

Each layer has its own learning rate, epsilon and moments. The gradient is clipped first; weight decay is
added to it afterwards, biases included: an L2 term, or one that keeps a norm. The state is a set of plain
arrays, named by `Descent.arrays`, so that a checkpoint can store it.
"""

from math import cos, pi

import numpy as np

from dfc_numba.kernels import optimizers as kernels
from dfc_numba.registry import OPTIMIZERS
from dfc_numba.support.validation import choice

CLIP_SCOPES = ("layer", "tensor", "all")


class Descent:
    """Steps the parameters of a network, layer by layer.

    Args:
        layers: per layer the list of its parameter arrays (C-contiguous, changed in place); an empty list for
            a frozen layer.
        options: an object with the attributes of the configuration's section `[optimizer]`: `name` of a registered
            `Optimizer`, `learning_rate` and `epsilon` (one number, or one per layer), `momentum` (sgd,
            nesterov, rmsprop), `beta1` (adam), `beta2` (adam, rmsprop: how slowly the means of g and g^2 move; the
            published rmsprop has `beta2` 0.95 and `epsilon` 0.03), `weight_decay`, `clip_norm` (None: no
            clipping), `clip_scope`.
        learning_rate: replaces `options.learning_rate`.
        keep_norm: c for homeostatic decay, which adds beta theta to the gradient of all parameters theta, with
            beta = weight_decay (||theta||^2 - c), the squared norm being that of all layers; None: L2, beta =
            weight_decay.

    Raises:
        ValueError: for an unknown name or scope, a list of another length than `layers`, or an array that is
            not contiguous.
    """

    def __init__(self, layers, options, *, learning_rate=None, keep_norm=None):
        choice("optimizer.clip_scope", options.clip_scope, CLIP_SCOPES)
        if not all(array.flags.c_contiguous for layer in layers for array in layer):
            raise ValueError("an optimiser changes its arrays in place, so they have to be C-contiguous")
        self.options = options
        self.learning_rates = per_layer(
            options.learning_rate if learning_rate is None else learning_rate, len(layers), "learning_rate"
        )
        self.epsilons = per_layer(options.epsilon, len(layers), "epsilon")
        self.steps = np.zeros(1, np.int64)
        self._optimizer = OPTIMIZERS.find(options.name, key="optimizer.name")
        self._keep_norm = None if keep_norm is None else np.array([keep_norm], np.float64)
        self._layers = [list(layer) for layer in layers]
        names = self._optimizer.state
        self._state = [
            [{name: np.zeros_like(array) for name in names} for array in layer] for layer in layers
        ]

    def step(self, gradients, scale=1.0):
        """Take one step down `gradients`, which are nested like `layers` and stay as they are.

        Args:
            scale: factor of the learning rates.
        """
        self.steps += 1
        factors = clip_factors(gradients, self.options.clip_norm, self.options.clip_scope)
        decay = self._decay()
        for layer, arrays in enumerate(self._layers):
            for theta, gradient, state, factor in zip(
                arrays, gradients[layer], self._state[layer], factors[layer], strict=True
            ):
                self._update(layer, theta, gradient, state, factor, decay, scale)

    def arrays(self):
        """Return the state by name: `steps`, and e.g. `first_moment/0/1` for layer 0, tensor 1.

        Writing into the arrays restores a state.
        """
        named = {"steps": self.steps}
        if self._keep_norm is not None:
            named["keep_norm"] = self._keep_norm
        for layer, tensors in enumerate(self._state):
            for tensor, state in enumerate(tensors):
                for name, array in state.items():
                    named[f"{name}/{layer}/{tensor}"] = array
        return named

    def _decay(self):
        """Return what the parameters are multiplied by and added to the gradient, in this step."""
        rate = self.options.weight_decay
        return rate if self._keep_norm is None else rate * (squared_norm(self._layers) - self._keep_norm[0])

    def _update(self, layer, theta, gradient, state, factor, decay, scale):
        """Take one step of one array; the numbers are cast so that float32 parameters are computed in float32."""
        if gradient.shape != theta.shape:
            raise ValueError(
                f"layer {layer + 1}: gradient of shape {gradient.shape}, parameters {theta.shape}"
            )
        gradient = np.ascontiguousarray(gradient, theta.dtype)
        rate, number = scale * self.learning_rates[layer], int(self.steps[0])
        self._optimizer.update(theta, gradient, state, factor, decay, rate, number, self._values(layer))

    def _values(self, layer):
        """Return the options of the optimiser for a layer: shared keys of the section, and its own."""
        keys = self._optimizer.keys
        values = {key: getattr(self.options, key) for key in keys}
        if "epsilon" in keys:
            values["epsilon"] = self.epsilons[layer]
        return values | dict(getattr(self.options, "options", {}))


def cosine(least, epoch, epochs):
    """Return the factor of the learning rate in an epoch: half a cosine from 1 in the first to `least` after the last.

    Loshchilov & Hutter 2017, without restarts; 1 where least is None.
    """
    return 1.0 if least is None else least + (1.0 - least) * (1.0 + cos(pi * (epoch - 1) / epochs)) / 2.0


def clip_factors(gradients, clip_norm, scope):
    """Return factors min(1, clip_norm / (norm + 1e-6)), nested like `gradients` (a list of arrays per layer).

    Args:
        clip_norm: largest norm, or None for no clipping (all factors are 1).
        scope: what a norm is taken over: the arrays of a "layer" jointly, each "tensor" alone, or "all"
            layers jointly.
    """
    if clip_norm is None:
        return [[1.0] * len(layer) for layer in gradients]
    squares = _squares(gradients)
    if scope == "layer":
        squares = [[sum(layer)] * len(layer) for layer in squares]
    elif scope == "all":
        squares = [[sum(map(sum, squares))] * len(layer) for layer in squares]
    return [[min(1.0, clip_norm / (square**0.5 + 1e-6)) for square in layer] for layer in squares]


def squared_norm(layers):
    """Return the sum of the squares of all arrays."""
    return sum(map(sum, _squares(layers)))


def _squares(layers):
    """Return the sum of squares of each array."""
    return [[kernels.sum_of_squares(array.reshape(-1)) for array in layer] for layer in layers]


def per_layer(value, layers, name):
    """Return `value` as a list with one number per layer; a single number holds for all layers."""
    if np.ndim(value) == 0:
        return [float(value)] * layers
    if len(value) != layers:
        raise ValueError(f"{name} has {len(value)} values for {layers} layers; give one, or one per layer")
    return [float(item) for item in value]


def norm_to_keep(layers, options):
    """Return the squared norm that homeostatic decay keeps, by default that of the layers now; None for L2 decay."""
    if options.decay == "l2":
        return None
    return squared_norm(layers) if options.homeostatic_norm is None else options.homeostatic_norm


def forward_layers(weights, biases):
    """List per layer its weights and, where there are any, its biases."""
    return [list(layer) for layer in (zip(weights) if biases is None else zip(weights, biases, strict=True))]


def feedback_layers(feedback, freeze_output):
    """List per layer its feedback weights; none for a frozen output layer."""
    layers = [[array] for array in feedback]
    return [*layers[:-1], []] if freeze_output else layers
