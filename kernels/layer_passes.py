"""Passes of target propagation: a chain of layers from any layer to any other, with noise at its start and shifts.

    r_s = x + sigma xi,    v_k = M_k r_{k-1} + b_k,    r_k = phi_k(v_k) + c_k        for k = s + 1 .. e

With the forward weights as M and no shift c this is the perturbed forward pass of the difference reconstruction loss;
with the feedback weights as M, their layers numbered from the output down, and c_k = h_k - g_k(h_{k-1}) it is the
difference correction of target propagation (Meulemans et al. 2020, sections 2 and 4). Samples are independent; noise
is drawn from the counter-based generator, so that it does not depend on shards or threads.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.elementwise import combine
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit
from dfc_numba.kernels.layout import Layout
from dfc_numba.kernels.multiply import multiply
from dfc_numba.kernels.noise import normals, scratch
from dfc_numba.kernels.rows import add, move
from dfc_numba.kernels.units import run_rate


class LayerChain(NamedTuple):
    """Layers in packed form, all of one dtype."""

    layout: Layout
    activations: np.ndarray  # addresses of each layer's `units.rate_loop`; index 0 is unused
    weights: np.ndarray
    biases: np.ndarray  # (sum n_k,), zeros for a chain without


class Noise(NamedTuple):
    """White noise on the rates that a pass starts from; `samples` (B,) are the numbers of the samples."""

    sigma: float
    key: np.uint64
    samples: np.ndarray
    layer: int  # the number that tells this layer's draws from those of others


@jit
def propagate(chain, noise, begin, end, x, shifts, start, v_last, r_dense, first, rows, samples):
    """Take the samples first .. first + rows of `samples` from layer `begin` to layer `end`.

    Args:
        x: rates of layer `begin`, flat (B, n). shifts: c_k, flat `[layer][sample][unit]`; empty for none.
        start: receives the perturbed rates, flat (B, n). v_last: receives the voltages of layer `end`, flat (B, n_end).
        r_dense: receives the rates of the layers begin + 1 .. end, flat `[layer][sample][unit]`.
    """
    layout = chain.layout
    widest = max(layout.widest, layout.stride[0])
    v, below = np.zeros(rows * widest, x.dtype), np.zeros(rows * widest, x.dtype)
    n, stride = layout.sizes[begin], layout.stride[begin]
    work = scratch(n)
    for s in range(rows):
        b = first + s
        move(n, below, s * stride, x, b * n)
        if noise.sigma > 0.0:
            normals(v, 0, n, noise.key, 0, noise.samples[b], noise.layer, work)
            row = at(below, s * stride)
            combine(stride, row, row, at(v, 0), 1.0, noise.sigma)
        move(n, start, b * n, below, s * stride)
    for i in range(begin + 1, end + 1):
        inner, n, stride = layout.sizes[i - 1], layout.sizes[i], layout.stride[i]
        multiply(v, 0, stride, rows, below, 0, layout.stride[i - 1], inner, chain.weights, layout.weights[i])
        for s in range(rows):
            add(n, v, s * stride, chain.biases, layout.dense[i])
        run_rate(chain.activations[i], rows * stride, at(below, 0), at(v, 0))
        for s in range(rows):
            place = layout.dense[i] * samples + (first + s) * n
            if shifts.size > 0:
                add(n, below, s * stride, shifts, place)
            if i == end:
                move(n, v_last, (first + s) * n, v, s * stride)
            move(n, r_dense, place, below, s * stride)
