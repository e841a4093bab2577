"""The feedforward pass of a shard of samples: v_i = W_i r_{i-1} + b_i, r_i = phi(v_i)."""

import numpy as np
from dfc_numba.kernels.elementwise import piecewise_rate, relu_rate, sigmoid_rate, tanh_rate
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.multiply import multiply
from dfc_numba.kernels.rows import add, fill, move

PIECEWISE, LOGISTIC = 0, 1
# activation -> (family, slope): see `elementwise` for what the slope means in each family
ACTIVATIONS = {
    "linear": (PIECEWISE, 1.0),
    "tanh": (LOGISTIC, 2.0),
    "relu": (PIECEWISE, 0.0),
    "leakyrelu": (PIECEWISE, 0.2),
    "sigmoid": (LOGISTIC, 1.0),
}


@jit_part
def activate(count, rate, rate_start, v, v_start, family, slope):
    """rate = phi(v) for `count` elements."""
    if family == PIECEWISE and slope == 0.0:
        relu_rate(count, rate, rate_start, v, v_start)
    elif family == PIECEWISE:
        piecewise_rate(count, rate, rate_start, v, v_start, slope)
    elif slope == 2.0:
        tanh_rate(count, rate, rate_start, v, v_start)
    else:
        sigmoid_rate(count, rate, rate_start, v, v_start)


@jit
def feedforward(layout, families, slopes, weights, biases, x, first, rows, samples, v_dense, r_dense):
    """Compute voltages and rates of the samples first .. first + rows of a minibatch of `samples`.

    Args:
        weights: packed weights; biases: (sum n_i,), zeros for a network without.
        x: flat inputs, rows of stride_0; v_dense, r_dense: flat outputs `[layer][sample][unit]`.
    """
    depth = layout.sizes.size - 1
    v = np.zeros(rows * layout.widest, x.dtype)
    below = np.zeros(rows * max(layout.widest, layout.stride[0]), x.dtype)
    move(rows * layout.stride[0], below, 0, x, first * layout.stride[0])
    for i in range(1, depth + 1):
        n, stride = layout.sizes[i], layout.stride[i]
        fill(v.size, v, 0, 0.0)
        multiply(
            v, 0, stride, rows, below, 0, layout.stride[i - 1], layout.sizes[i - 1], weights, layout.weights[i]
        )  # fmt: skip
        for s in range(rows):
            add(n, v, s * stride, biases, layout.dense[i])
        activate(rows * stride, below, 0, v, 0, families[i], slopes[i])
        for s in range(rows):
            place = layout.dense[i] * samples + (first + s) * n
            move(n, v_dense, place, v, s * stride)
            move(n, r_dense, place, below, s * stride)
