"""What Newton's method needs of the controlled network at rest: its response to a control signal u, and the slope of that.

    v_i = W_i r_{i-1} + b_i + Q_i u,   r_i = phi(v_i)               (the steady state of DFC, Meulemans et al. 2021)
    d r_i = phi'(v_i) (W_i d r_{i-1} + Q_i d u)

As in `feedback_phase`, voltages and rates are deviations from the feedforward state, which keep their digits however small
u is. Samples are taken by number, in any selection: `chosen` holds the numbers of those whose u are the rows of `u`.
Arrays over all samples are flat, `[sample][layer][unit]`.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.feedforward import LOGISTIC
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.layout import Layout
from dfc_numba.kernels.multiply import multiply
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.simd import elementwise


class Chain(NamedTuple):
    """The network in packed form, in one dtype; index 0 of the activation arrays is unused."""

    layout: Layout
    families: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray  # of the layers from the second on: what W_1 contributes does not change
    feedback: np.ndarray


class Rest(NamedTuple):
    """The state that a control signal leads to, and phi'(v); deviations from the feedforward state."""

    drive: np.ndarray  # Q_i u
    v: np.ndarray
    rate: np.ndarray
    factor: np.ndarray  # phi(v) - phi(v - Q_i u)
    slope: np.ndarray


@elementwise(outputs=["out"], inputs=["x", "y", "slope"])
def _scaled_sum(x, y, slope):
    """slope (x + y)."""
    return slope * (x + y)


@jit
def set_constants(chain, v_ff, limit, constants, first, count):
    """Constants of the activation differences (see `elementwise`) of the samples first .. first + count.

    Args:
        v_ff: feedforward voltages, rows of `layout.rows[-1]` padded units; constants: three times that.
        limit: `ARGUMENT_LIMIT` of the dtype.
    """
    layout = chain.layout
    for b in range(first, first + count):
        for i in range(1, layout.sizes.size):
            stride, place = layout.stride[i], b * layout.rows[-1] + layout.rows[i]
            if chain.families[i] == LOGISTIC:
                vector.logistic_constants(
                    stride, constants, 3 * place, v_ff, place, chain.slopes[i], limit
                )  # fmt: skip
            else:
                move(stride, constants, 3 * place, v_ff, place)


@jit_part
def _load_controls(chain, rows, u, first):
    """`rows` control signals, from row `first` of u on, in rows of the chain's stride and dtype."""
    outputs, stride = chain.layout.sizes[-1], chain.layout.stride[-1]
    control = np.zeros(rows * stride, chain.weights.dtype)
    for row in range(rows):
        move(outputs, control, row * stride, u, (first + row) * outputs)
    return control


@jit_part
def _multiply_control(chain, i, rows, drive, control):
    """drive of layer i = Q_i u."""
    layout = chain.layout
    multiply(
        drive, 0, layout.stride[i], rows,
        control, 0, layout.stride[-1], layout.sizes[-1], chain.feedback, layout.feedback[i],
    )  # fmt: skip


@jit_part
def _multiply_rates(chain, i, rows, basal, rate):
    """basal of layer i = W_i r_{i-1}; zero in the first layer, whose input stays."""
    layout = chain.layout
    if i == 1:
        fill(rows * layout.stride[i], basal, 0, 0.0)
        return
    multiply(
        basal, 0, layout.stride[i], rows,
        rate, 0, layout.stride[i - 1], layout.sizes[i - 1], chain.weights, layout.weights[i] - layout.weights[2],
    )  # fmt: skip


@jit
def respond(chain, constants, chosen, u, rest, outputs, first, count):
    """The state of the chosen samples first .. first + count at rest under the control signals u, in float64.

    Args:
        u: rows of n_L, one per chosen sample. outputs: likewise, receives the deviations of r_L.
        rest: receives the state, by the number of the sample.
    """
    layout = chain.layout
    depth, units, n_outputs = layout.sizes.size - 1, layout.dense[-1], layout.sizes[-1]
    control = _load_controls(chain, count, u, first)
    size = count * layout.widest
    drive, basal, v, rate = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    factor, slope = np.zeros(size), np.zeros(size)
    for i in range(1, depth + 1):
        n, stride = layout.sizes[i], layout.stride[i]
        _multiply_control(chain, i, count, drive, control)
        _multiply_rates(chain, i, count, basal, rate)
        for s in range(count):
            b, row = chosen[first + s], s * stride
            _activate(chain, constants, i, b, row, drive, basal, v, rate, factor, slope)
            place = b * units + layout.dense[i]
            move(n, rest.drive, place, drive, row)
            move(n, rest.v, place, v, row)
            move(n, rest.rate, place, rate, row)
            move(n, rest.factor, place, factor, row)
            move(n, rest.slope, place, slope, row)
    for s in range(count):
        move(n_outputs, outputs, (first + s) * n_outputs, rate, s * layout.stride[depth])


@jit_part
def _activate(chain, constants, i, b, row, drive, basal, v, rate, factor, slope):
    """v = basal + drive, rate, factor and phi'(v) of one sample's layer i; `row` is its place in these arrays."""
    n, gain, phi = chain.layout.stride[i], 1.0, chain.slopes[i]
    place = 3 * (b * chain.layout.rows[-1] + chain.layout.rows[i])
    if chain.families[i] == LOGISTIC:
        vector.step_saturated(
            n, v, row, rate, row, factor, row, drive, row, basal, row, drive, row, constants, place, gain, phi
        )  # fmt: skip
        vector.derivative_logistic(n, slope, row, v, row, constants, place, phi)
    else:
        vector.step_piecewise(
            n, v, row, rate, row, factor, row, drive, row, basal, row, drive, row, constants, place, gain, phi
        )  # fmt: skip
        vector.derivative_piecewise(n, slope, row, v, row, constants, place, phi)


@jit
def push_forward(chain, slope, chosen, directions, each, out, first, count):
    """d r_L = (d r_L / d u) d u at the state that `slope` belongs to, for the chosen samples first .. first + count.

    Args:
        slope: phi'(v), as `respond` leaves it, in float64 for either dtype of the chain.
        directions: `each` d u for every chosen sample, flat `[sample][direction][output]`, as is `out`.
    """
    layout = chain.layout
    depth, units, n_outputs, rows = layout.sizes.size - 1, layout.dense[-1], layout.sizes[-1], count * each
    control = _load_controls(chain, rows, directions, first * each)
    size, dtype = rows * layout.widest, chain.weights.dtype
    drive, basal, rate = np.zeros(size, dtype), np.zeros(size, dtype), np.zeros(size, dtype)
    scale = np.zeros(layout.widest, dtype)
    for i in range(1, depth + 1):
        stride = layout.stride[i]
        _multiply_control(chain, i, rows, drive, control)
        _multiply_rates(chain, i, rows, basal, rate)
        for s in range(count):
            move(layout.sizes[i], scale, 0, slope, chosen[first + s] * units + layout.dense[i])
            for row in range(s * each, (s + 1) * each):
                start = row * stride
                _scaled_sum(stride, rate, start, drive, start, basal, start, scale, 0)
    for row in range(rows):
        move(n_outputs, out, (first * each + row) * n_outputs, rate, row * layout.stride[depth])


@jit
def solve(matrices, vectors):
    """Solve a x = b for every sample by elimination with partial pivoting, in place; NaN where a is singular.

    Args:
        matrices: (B, n, n), destroyed. vectors: (B, n), b; receives x.
    """
    for s in range(len(matrices)):
        a, b = matrices[s], vectors[s]
        for k in range(b.size):
            _eliminate(a, b, k)
        for k in range(b.size - 1, -1, -1):
            for j in range(k + 1, b.size):
                b[k] -= a[k, j] * b[j]
            b[k] /= a[k, k]


@jit_part
def _eliminate(a, b, k):
    """Swap the row with the largest element of column k up, and clear the column below."""
    top = k
    for i in range(k + 1, b.size):
        if abs(a[i, k]) > abs(a[top, k]):
            top = i
    for j in range(k, b.size):
        a[k, j], a[top, j] = a[top, j], a[k, j]
    b[k], b[top] = b[top], b[k]
    for i in range(k + 1, b.size):
        factor = a[i, k] / a[k, k]
        b[i] -= factor * b[k]
        for j in range(k + 1, b.size):
            a[i, j] -= factor * a[k, j]
