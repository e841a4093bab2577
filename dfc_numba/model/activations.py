"""Activation functions and their derivatives on NumPy arrays, where the steps of the kernels are not needed."""

import numpy as np
from scipy.special import expit

# at v = 0 the piecewise linear functions have the slope of positive v
FUNCTIONS = {
    "linear": lambda v: v,
    "tanh": np.tanh,
    "relu": lambda v: np.where(v >= 0, v, v.dtype.type(0)),
    "leakyrelu": lambda v: np.where(v >= 0, v, v.dtype.type(0.2) * v),
    "sigmoid": expit,
}
DERIVATIVES = {
    "linear": np.ones_like,
    "tanh": lambda v: 1 - np.tanh(v) ** 2,
    "relu": lambda v: (v >= 0).astype(v.dtype),
    "leakyrelu": lambda v: np.where(v >= 0, v.dtype.type(1), v.dtype.type(0.2)),
    "sigmoid": lambda v: expit(v) * expit(-v),
}


def slope(network, layer, activity):
    """phi_i'(v_i) of a layer i = 1..L, which is `layer` = i - 1: (B, n_i)."""
    return DERIVATIVES[network.activations[layer]](activity.v[layer])
