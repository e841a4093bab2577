"""What Newton's method needs of the controlled network at rest: its response to a control signal u, and the slope of that.

    v_i = W_i r_{i-1} + b_i + Q_i u,   r_i = phi(v_i)               (the steady state of DFC, Meulemans et al. 2021)
    d r_i = phi'(v_i) (W_i d r_{i-1} + Q_i d u)

As in `feedback_phase`, voltages and rates are deviations from the feedforward state, which keep their digits however small
u is. Samples are taken by number, in any selection: `chosen` holds the numbers of those whose u are the rows of `u`.
Arrays over all samples are dense, flat `[layer][sample][unit]`; `constants` are `[sample][layer][unit]`, three to a unit.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.layout import Layout
from dfc_numba.kernels.multiply import multiply
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.simd import elementwise
from dfc_numba.kernels.units import run_constants, run_derivative_of_rate, run_step


class Chain(NamedTuple):
    """The network in packed form, in one dtype; the (L+1,) addresses are of loops of each layer, index 0 is unused."""

    layout: Layout
    constants: np.ndarray  # `units.constants_loop`
    step: np.ndarray  # `units.step_loop` with the factor phi(v) - phi(v_ff)
    step_of_rate: np.ndarray  # the same without the factor
    derivative: np.ndarray  # `units.derivative_of_rate_loop`
    weights: np.ndarray  # of the layers from the second on: what W_1 contributes does not change
    feedback: np.ndarray


def workspace_length(layout, rows):
    """Return the elements of memory that the kernels work in, for `rows` control signals."""
    return rows * (5 * layout.widest + layout.stride[-1])


@elementwise(outputs=["out"], inputs=["x", "y", "slope"])
def _scaled_sum(x, y, slope):
    """Return slope (x + y)."""
    return slope * (x + y)


@jit_part
def _slopes(chain, i, out, rate, v, row, constants, place):
    """Write phi'(v_ff + v) of one sample's layer i, with rate deviation `rate`, to `out`; `row` is its place in these arrays."""
    loop, size = chain.derivative[i], chain.layout.stride[i]
    run_derivative_of_rate(loop, size, at(out, row), at(v, row), at(rate, row), at(constants, place))


@jit_part
def _dense(layout, i, array, b):
    """Return the place of sample b's layer i in a dense array."""
    return layout.dense[i] * (array.size // layout.dense[-1]) + b * layout.sizes[i]


@jit
def begin(chain, v_ff, constants, v, slope, first, count):
    """Begin the samples first .. first + count at u = 0.

    Args:
        v_ff: feedforward voltages.
        constants: receives what activation differences are made with, see `units`.
        v, slope: receive the deviation zero and phi'(v).
    """
    layout = chain.layout
    start, still, out = np.zeros(layout.widest), np.zeros(layout.widest), np.zeros(layout.widest)
    for b in range(first, first + count):
        for i in range(1, layout.sizes.size):
            n, stride = layout.sizes[i], layout.stride[i]
            dense, place = _dense(layout, i, v, b), 3 * (b * layout.rows[-1] + layout.rows[i])
            move(n, start, 0, v_ff, dense)
            run_constants(chain.constants[i], stride, at(constants, place), at(start, 0))
            _slopes(chain, i, out, still, still, 0, constants, place)
            move(n, slope, dense, out, 0)
            fill(n, v, dense, 0.0)


@jit_part
def _load_controls(chain, rows, control, u, first):
    """Write control = `rows` control signals, from row `first` of u on, in rows of the chain's stride and dtype."""
    outputs, stride = chain.layout.sizes[-1], chain.layout.stride[-1]
    for row in range(rows):
        move(outputs, control, row * stride, u, (first + row) * outputs)


@jit_part
def _multiply_control(chain, i, rows, drive, control):
    """Write drive of layer i = Q_i u (DFC, Meulemans et al. 2021)."""
    layout = chain.layout
    multiply(
        drive, 0, layout.stride[i], rows,
        control, 0, layout.stride[-1], layout.sizes[-1], chain.feedback, layout.feedback[i],
    )  # fmt: skip


@jit_part
def _multiply_rates(chain, i, rows, basal, rate):
    """Write basal of layer i = W_i r_{i-1} (DFC, Meulemans et al. 2021); zero in the first layer, whose input stays."""
    layout = chain.layout
    if i == 1:
        fill(rows * layout.stride[i], basal, 0, 0.0)
        return
    multiply(
        basal, 0, layout.stride[i], rows,
        rate, 0, layout.stride[i - 1], layout.sizes[i - 1], chain.weights, layout.weights[i] - layout.weights[2],
    )  # fmt: skip


@jit
def respond(chain, constants, chosen, u, v, slope, outputs, first, count, workspace):
    """Bring the chosen samples first .. first + count to rest under the control signals u, in float64.

    v_i = W_i r_{i-1} + b_i + Q_i u,   r_i = phi(v_i)    (the steady state of DFC, Meulemans et al. 2021)

    Args:
        u: rows of n_L, one per chosen sample. outputs: likewise, receives the deviations of r_L.
        v, slope: receive voltages and phi'(v), by the number of the sample. workspace: of `count` rows.
    """
    layout = chain.layout
    depth, n_outputs, size = layout.sizes.size - 1, layout.sizes[-1], count * layout.widest
    drive, basal, soma = workspace[:size], workspace[size : 2 * size], workspace[2 * size : 3 * size]
    rate, out, control = workspace[3 * size : 4 * size], workspace[4 * size : 5 * size], workspace[5 * size :]
    _load_controls(chain, count, control, u, first)
    for i in range(1, depth + 1):
        n, stride = layout.sizes[i], layout.stride[i]
        _multiply_control(chain, i, count, drive, control)
        _multiply_rates(chain, i, count, basal, rate)
        for s in range(count):
            b, row = chosen[first + s], s * stride
            place = 3 * (b * layout.rows[-1] + layout.rows[i])
            _advance(
                chain, i, chain.step_of_rate[i], soma, rate, out, drive, basal, drive, row, constants, place
            )
            _slopes(chain, i, out, rate, soma, row, constants, place)
            move(n, v, _dense(layout, i, v, b), soma, row)
            move(n, slope, _dense(layout, i, slope, b), out, row)
    for s in range(count):
        move(n_outputs, outputs, (first + s) * n_outputs, rate, s * layout.stride[depth])


@jit_part
def _advance(chain, i, loop, v, rate, factor, soma, basal, apical, row, constants, place):
    """Write v and rate of one sample's layer i, by a step that goes to v_ff + v_fb at once; `row`: its place in these arrays."""
    factors, planes = at(factor, row), at(constants, place)
    run_step(
        loop, chain.layout.stride[i], at(v, row), at(rate, row), factors, factors,
        at(soma, row), at(basal, row), at(apical, row), planes, planes, 1.0,
    )  # fmt: skip


@jit
def finish(chain, constants, u, v, drive, rate, factor, first, count, workspace):
    """Write what else there is to the state v under the control signals u, of the samples first .. first + count.

    Args:
        u: rows of n_L, one per sample. v: voltages, as `respond` left them. workspace: of `count` rows.
        drive, rate, factor: receive Q_i u, the rates' deviations, and phi(v) - phi(v - Q_i u).
    """
    layout = chain.layout
    size = count * layout.widest
    apical, soma, basal = workspace[:size], workspace[size : 2 * size], workspace[2 * size : 3 * size]
    above, control = workspace[3 * size : 4 * size], workspace[5 * size :]
    _load_controls(chain, count, control, u, first)
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        _multiply_control(chain, i, count, apical, control)
        for s in range(count):
            b, row = first + s, s * stride
            dense, place = _dense(layout, i, v, b), 3 * (b * layout.rows[-1] + layout.rows[i])
            move(n, soma, row, v, dense)
            vector.subtract(stride, at(basal, row), at(soma, row), at(apical, row))
            _advance(chain, i, chain.step[i], soma, above, basal, soma, basal, apical, row, constants, place)
            move(n, drive, dense, apical, row)
            move(n, rate, dense, above, row)
            move(n, factor, dense, basal, row)


@jit
def push_forward(chain, slope, chosen, directions, each, shared, out, first, count, workspace):
    """Write d r_L = (d r_L / d u) d u at the state that `slope` belongs to, for the chosen samples first .. first + count.

    Args:
        slope: phi'(v), as `respond` left it, in float64 for either dtype of the chain.
        directions: `each` d u for every chosen sample, flat `[sample][direction][output]`, or, if `shared`, for all of them.
        out: flat `[sample][direction][output]`.
        workspace: of `count * each` rows, in the dtype of the chain.
    """
    layout = chain.layout
    depth, n_outputs, rows = layout.sizes.size - 1, layout.sizes[-1], count * each
    size, given = rows * layout.widest, each if shared else rows
    drive, basal, rate = workspace[:size], workspace[size : 2 * size], workspace[2 * size : 3 * size]
    scale, control = workspace[3 * size : 4 * size], workspace[5 * size :]
    _load_controls(chain, given, control, directions, 0 if shared else first * each)
    for i in range(1, depth + 1):
        stride = layout.stride[i]
        _multiply_control(chain, i, given, drive, control)
        if i > 1:
            _multiply_rates(chain, i, rows, basal, rate)
        for s in range(count):
            move(layout.sizes[i], scale, 0, slope, _dense(layout, i, slope, chosen[first + s]))
            for row in range(s * each, (s + 1) * each):
                _scale(i, stride, rate, row * stride, drive, (row % given) * stride, basal, scale)
    for row in range(rows):
        move(n_outputs, out, (first * each + row) * n_outputs, rate, row * layout.stride[depth])


@jit_part
def _scale(i, size, rate, start, drive, own, basal, slope):
    """Write d r_i = phi'(v_i) (W_i d r_{i-1} + Q_i d u) of one direction; in the first layer, the input stays."""
    if i == 1:
        vector.multiply(size, at(rate, start), at(drive, own), at(slope, 0))
    else:
        _scaled_sum(size, at(rate, start), at(drive, own), at(basal, start), at(slope, 0))


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
