"""What a feedback phase that was solved in time leaves: sums over time of factors and of their products, the state at T.

The product of factors and rates, both functions of time known at m nodes, is taken in the few temporal modes that hold nearly
all of their covariance (Karhunen and Loeve), instead of at every time point.
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.multiply import add_outer, mix, multiply
from dfc_numba.kernels.phase_state import AVERAGE
from dfc_numba.kernels.rows import dot, fill, move
from dfc_numba.kernels.waveform_state import clear_padding, filtered_control, layer_start, nodes_start
from dfc_numba.kernels.waveform_sweep import leave_last_state

# how a correction of the control error enters the factors to first order: not, as it is, or times phi'
NOT_AT_ALL, AS_IT_IS, BY_SLOPE = 0, 1, 2


@jit
def _covariance(ladder, state, x, start, block, out, work):
    """Write out = R X X^T R^T of functions of time in x: covariances in the metric of the sum over time; returns the trace."""
    m, square = state.nodes, ladder.square[state.rung]
    for a in range(m):
        for b in range(a + 1):
            out[a, b] = dot(block, x, start + a * block, x, start + b * block)
            out[b, a] = out[a, b]
    for left in range(2):
        for a in range(m):
            for b in range(m):
                total = 0.0
                for k in range(m):
                    total += ladder.root[square + a * m + k] * (out[k, b] if left == 0 else out[b, k])
                work[a, b] = total
        for a in range(m):
            for b in range(m):
                out[a, b] = work[a, b] if left == 0 else work[b, a]
    trace = 0.0
    for a in range(m):
        trace += out[a, a]
    return trace


@jit
def _diagonalise(a, vectors, n):
    """Write the eigenvectors of a symmetric matrix into the rows of `vectors`, by Jacobi's rotations; a is left diagonal."""
    for i in range(n):
        for j in range(n):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(30):
        rest, size = 0.0, 0.0
        for i in range(n):
            size += a[i, i] * a[i, i]
            for j in range(i):
                rest += a[i, j] * a[i, j]
        if not rest > 1e-24 * size:
            return
        for p in range(n):
            for q in range(p + 1, n):
                if a[p, q] == 0.0:
                    continue
                ratio = 0.5 * (a[q, q] - a[p, p]) / a[p, q]
                t = (1.0 if ratio >= 0.0 else -1.0) / (abs(ratio) + np.sqrt(1.0 + ratio * ratio))
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = t * c
                for k in range(n):
                    a[k, p], a[k, q] = c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]
                for k in range(n):
                    a[p, k], a[q, k] = c * a[p, k] - s * a[q, k], s * a[p, k] + c * a[q, k]
                    vectors[p, k], vectors[q, k] = (
                        c * vectors[p, k] - s * vectors[q, k],
                        s * vectors[p, k] + c * vectors[q, k],
                    )


@jit_part
def _quadratic(matrix, vectors, row, n):
    """Return v^T A v with v a row of `vectors`."""
    total = 0.0
    for a in range(n):
        for b in range(n):
            total += vectors[row, a] * matrix[a, b] * vectors[row, b]
    return total


@jit
def _modes(layout, ladder, minibatch, state, i, tolerance, coefficients, outcome, number):
    """Choose the few functions of time in which factors times rates of the layer below are taken; returns their number.

    They are the leading directions of both covariances (Karhunen and Loeve). What the others would contribute is bounded by
    the root of the product of their variances.

    Args:
        coefficients: receives, from row 1 on, what makes their amplitudes of values at the nodes.
    """
    m, count = state.nodes, state.count
    factors, rates, both = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m))
    vectors, work = np.zeros((m, m)), np.zeros((m, m))
    seen = state.seen if state.seen.size > 0 else state.rate
    first = _covariance(
        ladder, state, state.factor, nodes_start(layout, state, i), count * layout.stride[i], factors, work
    )
    second = _covariance(
        ladder, state, seen, nodes_start(layout, state, i - 1), count * layout.stride[i - 1], rates, work
    )
    if not (first > 0.0 and second > 0.0):
        return 0
    both[:] = factors / first + rates / second
    _diagonalise(both, vectors, m)
    taken = np.zeros(m, np.bool_)
    left_first, left_second, used = first, second, 0
    while used < m and np.sqrt(max(left_first, 0.0) * max(left_second, 0.0)) > tolerance:
        best = -1
        for row in range(m):
            if not taken[row] and (best < 0 or both[row, row] > both[best, best]):
                best = row
        taken[best] = True
        left_first -= _quadratic(factors, vectors, best, m)
        left_second -= _quadratic(rates, vectors, best, m)
        used += 1
        for node in range(m):
            total = 0.0
            for k in range(m):
                total += vectors[best, k] * ladder.root[ladder.square[state.rung] + k * m + node]
            coefficients[used * m + node] = total
    outcome.product_error[number, i] = (
        np.sqrt(max(left_first, 0.0) * max(left_second, 0.0)) if used < m else 0.0
    )
    outcome.modes[number] = max(outcome.modes[number], used)
    return used


@jit_part
def _scale(layout, ladder, minibatch, state, i):
    """Return the root of the sum of |sum over time of the factor|^2 |feedforward rate below|^2 over samples; v has the former."""
    n, stride, below = layout.sizes[i], layout.stride[i], layout.sizes[i - 1]
    samples, total = minibatch.gap.shape[0], 0.0
    for s in range(state.count):
        dense = layout.dense[i - 1] * samples + (state.first + s) * below
        rate = 0.0
        for j in range(below):
            rate += minibatch.r_ff[dense + j] ** 2
        factor = 0.0
        for j in range(n):
            factor += np.float64(state.v[s * stride + j]) ** 2
        total += rate * factor
    return np.sqrt(total)


@jit
def sum_products(
    layout, parameters, ladder, task, minibatch, state, results, place, tolerance, correction, outcome, number
):
    """Write the sums over time of the factors, the last correction included, and of their products with the rates' deviations."""
    depth, outputs, m, count = layout.sizes.size - 1, layout.sizes[-1], state.nodes, state.count
    samples, end = minibatch.gap.shape[0], layout.stride[depth]
    coefficients = np.zeros((m + 1) * m, state.rate.dtype)
    outcome.modes[number] = 0
    for i in range(depth + 1):
        outcome.product_error[number, i] = 0.0
    for node in range(m):
        coefficients[node] = ladder.total[ladder.vector[state.rung] + node]
    fill(count * end, state.control, 0, 0.0)
    for s in range(count):
        for k in range(outputs):
            total = 0.0
            for node in range(m):
                total += np.float64(coefficients[node]) * filtered_control(
                    layout, ladder, state, state.errors.correction, s, node, k
                )
            state.control[s * end + k] = total
    for i in range(1, depth + 1):
        n, stride, start = layout.sizes[i], layout.stride[i], nodes_start(layout, state, i)
        block = count * stride
        for s in range(count):
            if not minibatch.active[state.first + s]:
                for node in range(m):
                    fill(stride, state.factor, start + node * block + s * stride, 0.0)
                fill(end, state.control, s * end, 0.0)
        mix(state.v, 0, block, 1, coefficients, 0, m, m, state.factor, start, block, block, False)
        if i > 1:
            scale = _scale(layout, ladder, minibatch, state, i)
            modes = _modes(
                layout, ladder, minibatch, state, i, tolerance * scale, coefficients, outcome, number
            )
            mix(state.v, block, block, modes, coefficients, m, m, m, state.factor, start, block, block, False)
            below, lower = layout.stride[i - 1], nodes_start(layout, state, i - 1)
            mix(state.spare, 0, count * below, modes, coefficients, m, m, m,
                state.seen if state.seen.size > 0 else state.rate, lower, count * below, count * below, False)  # fmt: skip
            add_outer(results.outer[place], layout.outer_shard[i], n, 0, n, state.v, block, stride,
                      state.spare, 0, below, modes * count)  # fmt: skip
        if correction != NOT_AT_ALL:
            multiply(state.spare, 0, stride, count, state.control, 0, end, outputs,
                     parameters.feedback, layout.feedback[i])  # fmt: skip
            clear_padding(layout, i, state.spare, 0, count)
            v, spare, slope = at(state.v, 0), at(state.spare, 0), layer_start(layout, state, i)
            if correction == BY_SLOPE:
                vector.multiply(block, spare, spare, at(state.feedforward.slope, slope))
            vector.combine(block, v, v, spare, 1.0, 1.0)
        for s in range(count):
            move(n, results.factor, layout.dense[i] * samples + (state.first + s) * n, state.v, s * stride)


@jit
def leave_results(
    layout, parameters, dynamics, fine, task, minibatch, state, results, outcome, place, tolerance, correction
):
    """Write sums over time, products and the state at T of a shard, from its last sweep and correction.

    Args:
        fine: the `Ladder` in float64. place: the `ShardPlace`. tolerance: of the products. correction: how it enters the factors.
    """
    if task.readout == AVERAGE:
        sum_products(
            layout, parameters, fine, task, minibatch, state, results, place.buffer, tolerance, correction, outcome,
            place.number,
        )  # fmt: skip
    error = state.errors.at_nodes
    error += state.errors.correction
    leave_last_state(layout, fine, task, dynamics, minibatch, state, results)
    for s in range(state.count):
        for j in range(error.shape[1]):
            outcome.error[place.first + s, j] = error[s, j]
