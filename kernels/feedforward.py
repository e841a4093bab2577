"""The feedforward pass of a shard of samples, v_i^- = W_i r_{i-1}^- + b_i, r_i^- = phi(v_i^-) (DFC, Meulemans et al. 2021)."""

import numpy as np

from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit
from dfc_numba.kernels.multiply import multiply
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.units import run_rate


@jit
def feedforward(layout, activations, weights, biases, x, first, rows, samples, v_dense, r_dense):
    """Compute voltages and rates of the samples first .. first + rows of a minibatch of `samples`.

    Args:
        activations: (L+1,) addresses of each layer's `units.rate_loop`; index 0 is unused.
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
        run_rate(activations[i], rows * stride, at(below, 0), at(v, 0))
        for s in range(rows):
            place = layout.dense[i] * samples + (first + s) * n
            move(n, v_dense, place, v, s * stride)
            move(n, r_dense, place, below, s * stride)
