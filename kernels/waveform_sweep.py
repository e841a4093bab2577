"""One evaluation of the controlled network at all nodes in time ("sweep"), and the state that it leaves.

Given the control error e(t) at the nodes, control signal, voltages and rates follow layer by layer (equations:
`waveform_shard`). Both solvers end with this, the one for few outputs and the one for wide outputs (`waveform_wide`).
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.multiply import mix, multiply
from dfc_numba.kernels.phase_state import AVERAGE, FINAL
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.waveform_state import clear_padding, evaluate, filtered_control, nodes_start, respond


@jit_part
def error_at(layout, dynamics, minibatch, b, rate, rate_start, out, row, out_start):
    """Write out[row] = r* - r_L, or r* - softmax(r_L), of sample b whose output deviates by `rate`."""
    outputs = layout.sizes[-1]
    for k in range(outputs):
        out[row, out_start + k] = minibatch.gap[b, k] - rate[rate_start + k]
    if not dynamics.softmax:
        return
    dense = layout.dense[layout.sizes.size - 1] * minibatch.gap.shape[0] + b * outputs
    top = -np.inf
    for k in range(outputs):
        top = max(top, minibatch.r_ff[dense + k] + rate[rate_start + k])
    total = 0.0
    for k in range(outputs):
        out[row, out_start + k] = np.exp(minibatch.r_ff[dense + k] + rate[rate_start + k] - top)
        total += out[row, out_start + k]
    for k in range(outputs):
        out[row, out_start + k] = minibatch.target[b, k] - out[row, out_start + k] / total


@jit
def sweep(layout, parameters, ladder, fine, task, state):
    """Write rates and factors of all layers at the nodes, from the control error, and return the squared size of the control."""
    depth, outputs, m, count = layout.sizes.size - 1, layout.sizes[-1], state.nodes, state.count
    end, size = layout.stride[depth], 0.0
    fill(m * count * end, state.control, 0, 0.0)
    for node in range(m):
        start = fine.control_start[fine.vector[state.rung] + node]
        weight = abs(fine.total[fine.vector[state.rung] + node])
        for s in range(count):
            for k in range(outputs):
                response = filtered_control(layout, fine, state, state.errors.at_nodes, s, node, k)
                f = start * state.errors.start[s, k] + response
                state.control[(node * count + s) * end + k] = f
                size += weight * f * f
    for i in range(1, depth + 1):
        stride, place, rows = layout.stride[i], nodes_start(layout, state, i), m * count
        block = count * stride
        multiply(
            state.v, 0, stride, rows, state.control, 0, end, outputs, parameters.feedback, layout.feedback[i]
        )
        clear_padding(layout, i, state.v, 0, rows)
        if i == 1:
            fill(m * block, state.factor, place, 0.0)
        else:
            below = nodes_start(layout, state, i - 1)
            multiply(state.factor, place, stride, rows, state.rate, below, layout.stride[i - 1], layout.sizes[i - 1],
                     parameters.weights, layout.weights[i])  # fmt: skip
            clear_padding(layout, i, state.factor, place, rows)
            square = ladder.square[state.rung]
            mix(state.v, 0, block, m, ladder.soma, square, m, m, state.factor, place, block, block, True)
            if ladder.delayed:
                move(block, state.spare, m * block, state.factor, place + (m - 1) * block)
                mix(state.spare, 0, block, m, ladder.basal, square, m, m,
                    state.factor, place, block, block, False)  # fmt: skip
                move(m * block, state.factor, place, state.spare, 0)
        _activate(layout, parameters, ladder, task, state, i, block, place)
    return size


@jit_part
def _activate(layout, parameters, ladder, task, state, i, block, place):
    """Write rates and factors of layer i from the somatic and basal voltages at all nodes."""
    end, fresh = (state.nodes - 1) * block, state.nodes * block
    if task.readout == FINAL:
        source, start = state.v, end
        if ladder.delayed and task.factor_moves and i > 1:  # the basal voltage is what the last rates imply
            vector.subtract(block, at(state.spare, 0), at(state.v, end), at(state.factor, place + end))
            vector.combine(block, at(state.spare, 0), at(state.spare, 0), at(state.spare, fresh), 1.0, 1.0)
            source, start = state.spare, 0
        else:
            move(block, state.spare, fresh, state.factor, place + end)
        loop = parameters.loops.factor[i]
        evaluate(layout, state, loop, i, state.spare, fresh, source, start, state.spare, fresh)
    for node in range(state.nodes):
        respond(layout, parameters, state, i, node, place + node * block)
    if task.readout == AVERAGE and task.factor_is_rate and i == 1:  # whose basal voltage stays
        move(state.nodes * block, state.factor, place, state.rate, place)
    if task.readout == FINAL:
        move(block, state.factor, place + end, state.spare, fresh)


@jit
def leave_last_state(layout, fine, task, dynamics, minibatch, state, results):
    """Write rates, control signal and, for the final readout, factors at T."""
    depth, outputs, m, count = layout.sizes.size - 1, layout.sizes[-1], state.nodes, state.count
    samples = minibatch.gap.shape[0]
    for i in range(1, depth + 1):
        n, stride = layout.sizes[i], layout.stride[i]
        for s in range(count):
            dense = layout.dense[i] * samples + (state.first + s) * n
            last = nodes_start(layout, state, i) + ((m - 1) * count + s) * stride
            move(n, results.rate, dense, state.rate, last)
            if task.readout == FINAL:
                move(n, results.factor, dense, state.factor, last)
    last_control(layout, fine, state, results.u)
    if dynamics.softmax:
        return
    for s in range(count):  # the rates that the corrected error implies
        b = state.first + s
        for k in range(outputs):
            dense = layout.dense[depth] * samples + b * outputs + k
            results.rate[dense] = minibatch.gap[b, k] - state.errors.at_nodes[s, (m - 1) * outputs + k]


@jit_part
def last_control(layout, fine, state, u):
    """Write u(T) of the samples of a shard."""
    outputs = layout.sizes[-1]
    for s in range(state.count):
        for k in range(outputs):
            total = fine.last_control_start[state.rung] * state.errors.start[s, k]
            for node in range(state.nodes):
                weight = fine.last_control[fine.vector[state.rung] + node]
                total += weight * state.errors.at_nodes[s, node * outputs + k]
            u[state.first + s, k] = total
