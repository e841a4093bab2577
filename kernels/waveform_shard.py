"""A feedback phase of one shard solved in time: the control error at a few nodes by Newton's method, then the updates.

Given the control error e(t), the controlled network is feedforward: the control signal, and layer by layer the voltages and
rates, follow at all times at once,

    f = C e,    v_i = F W_i r_{i-1} + Q_i f,    r_i = phi(v_i),    e = r* - r_L,

with the linear operators C (controller and filters) and F (leak of a compartment) of `dynamics.time_operators` (the dynamics
of DFC, Meulemans et al. 2021). Only e, with n_L components per sample, is implicit. It is found at m nodes by Newton's
method with the derivative at the feedforward state, which is a system in control space (`control_space`), one evaluation of
the network at all nodes ("sweep") per iteration. The correction that the last iteration finds enters the update to first
order.
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.control_space import (
    GROWTH,
    MEMORY,
    PROBES,
    accelerate,
    assemble,
    choose_nodes,
    factorise,
    most_nodes,
    padded,
    right_side,
    solve_transposed,
    system_stride,
)
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part, jit_shared
from dfc_numba.kernels.multiply import _width, multiply
from dfc_numba.kernels.rows import dot, fill
from dfc_numba.kernels.waveform_products import NOT_AT_ALL, leave_results
from dfc_numba.kernels.waveform_state import (
    NO_LADDER,
    SLOW,
    UNSTABLE,
    ControlErrors,
    ControlSystems,
    FeedforwardState,
    filtered_control,
    layer_start,
    nodes_start,
    pieces,
    set_constants,
    state_at,
    workspace_parts,
)
from dfc_numba.kernels.waveform_sweep import error_at, last_control, sweep

MAX_SWEEPS = 16
GROWTH_OF_SAMPLE = 3.0  # of one sample's control error, relative to what the shard's may grow


@jit_part
def _output_slopes(layout, dynamics, minibatch, state, rows, row_start):
    """Write rows (sample, output) of -d e / d v_L at the feedforward state."""
    depth, outputs = layout.sizes.size - 1, layout.sizes[-1]
    stride, slope = layout.stride[depth], layer_start(layout, state, depth)
    fill(state.count * outputs * stride, rows, row_start, 0.0)
    for s in range(state.count):
        for i in range(outputs):
            row = row_start + (s * outputs + i) * stride
            if not dynamics.softmax:
                rows[row + i] = state.feedforward.slope[slope + s * stride + i]
                continue
            p = minibatch.target[state.first + s, i] - state.errors.start[s, i]  # softmax of the output
            for j in range(outputs):
                q = minibatch.target[state.first + s, j] - state.errors.start[s, j]
                weight = (p if i == j else 0.0) - p * q
                rows[row + j] = weight * state.feedforward.slope[slope + s * stride + j]


@jit
def _control_matrices(layout, parameters, dynamics, backward, minibatch, state):
    """Write M_i = J_i Q_i of every sample, by n_L backward chains; transposed and padded into state.systems.matrices."""
    depth, outputs = layout.sizes.size - 1, layout.sizes[-1]
    square = padded(outputs * outputs, _width(state.systems.matrices))
    rows = state.count * outputs
    here, there = state.v, state.spare
    _output_slopes(layout, dynamics, minibatch, state, here, 0)
    for i in range(depth, 0, -1):
        k, stride = depth - i, layout.stride[i]
        multiply(state.control, 0, layout.stride[depth], rows, here, 0, stride, layout.sizes[i],
                 backward.feedback, backward.feedback_start[i])  # fmt: skip
        for s in range(state.count):
            begin = (s * depth + k) * square
            for a in range(outputs):
                row = (s * outputs + a) * layout.stride[depth]
                for j in range(outputs):
                    state.systems.matrices[begin + j * outputs + a] = state.control[row + j]
            fill(square - outputs * outputs, state.systems.matrices, begin + outputs * outputs, 0.0)
        if i == 1:
            return
        below = layout.stride[i - 1]
        multiply(there, 0, below, rows, here, 0, stride, layout.sizes[i],
                 backward.weights, layout.transposed[i - 1])  # fmt: skip
        slope = layer_start(layout, state, i - 1)
        for row in range(rows):
            product = at(there, row * below)
            slopes = at(state.feedforward.slope, slope + row // outputs * below)
            vector.multiply(below, product, product, slopes)
        here, there = there, here


@jit
def _choose_rung(layout, ladder, minibatch, state, tolerance, found):
    """Return the rung of this shard, judged by its mean control matrices and those of its largest sample; -1 if there is none."""
    depth, outputs = layout.sizes.size - 1, layout.sizes[-1]
    size = depth * padded(outputs * outputs, _width(state.systems.matrices))
    wide = depth * padded(outputs * outputs, _width(ladder.response))
    step, own = wide // depth, size // depth
    matrices, errors = np.zeros(2 * wide), np.zeros((PROBES + 1) * outputs)
    largest, top = -1.0, 0
    for s in range(state.count):
        norm = 0.0
        for j in range(outputs * outputs):
            total = 0.0
            for k in range(depth):
                value = np.float64(state.systems.matrices[s * size + k * own + j])
                matrices[k * step + j] += value / state.count
                total += value
            norm += total * total
        if norm > largest:
            largest, top = norm, s
        for probe in range(PROBES):  # sums of the samples' errors with the signs of Walsh functions
            sign = 1.0 if bin_parity(s & (probe + 1)) == 0 else -1.0
            for j in range(outputs):
                errors[probe * outputs + j] += sign * state.errors.start[s, j]
    for k in range(depth):
        for j in range(outputs * outputs):
            matrices[wide + k * step + j] = state.systems.matrices[top * size + k * own + j]
    for j in range(outputs):
        errors[PROBES * outputs + j] = state.errors.start[top, j]
    probes = np.zeros(PROBES + 1, np.int64)
    probes[PROBES] = 1
    return choose_nodes(ladder, depth, outputs, matrices, errors, probes, tolerance, found)


@jit_shared
def bin_parity(bits):
    """Return the parity of the number of ones among the two lowest bits."""
    return (bits ^ (bits >> 1)) & 1


@jit
def _factorise_systems(layout, ladder, state, products):
    """Factorise the system of every sample, and write the linear response as the first control error."""
    depth, outputs, systems, errors = layout.sizes.size - 1, layout.sizes[-1], state.systems, state.errors
    width, n = _width(systems.factors), state.nodes * outputs
    stride, square = system_stride(n, width), padded(outputs * outputs, width)
    for s in range(state.count):
        begin, place = s * depth * square, s * n * stride
        assemble(
            ladder, state.rung, depth, outputs, systems.matrices, begin, systems.factors, place, products
        )
        factorise(systems.factors, place, stride, n, systems.pivots, s * n)
        right_side(ladder, state.rung, depth, outputs, systems.matrices, begin, errors.start.reshape(-1), s * outputs,
                   errors.correction[s], 0)  # fmt: skip
    _solve_systems(layout, state)
    for s in range(state.count):
        for j in range(n):
            errors.at_nodes[s, j] = errors.correction[s, j]


@jit
def _solve_systems(layout, state):
    """Replace the corrections, as right sides, by the solutions of the samples' systems."""
    systems, correction = state.systems, state.errors.correction
    width, n = _width(systems.factors), state.nodes * layout.sizes[-1]
    stride = system_stride(n, width)
    x = np.zeros(n + 2 * width, systems.factors.dtype)
    for s in range(state.count):
        for j in range(n):
            x[j] = correction[s, j]
        solve_transposed(systems.factors, s * n * stride, stride, n, systems.pivots, s * n, x, 0)
        for j in range(n):
            correction[s, j] = x[j]


@jit
def _decays(layout, state, last):
    """Return whether the control error of the linear response does not grow until T; last: (B, n_L), receives it there."""
    outputs, everything, initial = layout.sizes[-1], 0.0, 0.0
    for s in range(state.count):
        end, start = 0.0, 0.0
        for k in range(outputs):
            last[state.first + s, k] = state.errors.at_nodes[s, (state.nodes - 1) * outputs + k]
            end += last[state.first + s, k] ** 2
            start += state.errors.start[s, k] ** 2
        if not end <= (GROWTH_OF_SAMPLE * GROWTH) ** 2 * start:
            return False
        everything += end
        initial += start
    return everything <= GROWTH**2 * initial


@jit_part
def _newton_step(layout, dynamics, minibatch, fine, state):
    """Write minus the control error's residual as the right side of the correction, before the systems are solved."""
    depth, outputs, m = layout.sizes.size - 1, layout.sizes[-1], state.nodes
    stride, place = layout.stride[depth], nodes_start(layout, state, depth)
    for node in range(m):
        for s in range(state.count):
            row = place + (node * state.count + s) * stride
            error_at(layout, dynamics, minibatch, state.first + s, state.rate, row,
                      state.errors.correction, s, node * outputs)  # fmt: skip
            for k in range(outputs):
                state.errors.correction[s, node * outputs + k] -= state.errors.at_nodes[s, node * outputs + k]


@jit_part
def _correction_size(layout, fine, state):
    """Return the squared size of the filtered control signal that the correction makes."""
    size = 0.0
    for node in range(state.nodes):
        weight = abs(fine.total[fine.vector[state.rung] + node])
        for s in range(state.count):
            for k in range(layout.sizes[-1]):
                f = filtered_control(layout, fine, state, state.errors.correction, s, node, k)
                size += weight * f * f
    return size


@jit_part
def _deviation(layout, fine, minibatch, state):
    """Return how far rates are from the feedforward ones, relative to these, in the hidden layer where it is most; at most 1."""
    samples, largest = minibatch.gap.shape[0], 0.0
    rates = state.seen if state.seen.size > 0 else state.rate
    for i in range(1, layout.sizes.size - 1):
        n, stride, place = layout.sizes[i], layout.stride[i], nodes_start(layout, state, i)
        size, change, time = 0.0, 0.0, 0.0
        for s in range(state.count):
            dense = layout.dense[i] * samples + (state.first + s) * n
            size += dot(n, minibatch.r_ff, dense, minibatch.r_ff, dense)
        for node in range(state.nodes):
            weight = abs(fine.total[fine.vector[state.rung] + node])
            row = place + node * state.count * stride
            change += weight * dot(state.count * stride, rates, row, rates, row)
            time += weight
        largest = max(largest, np.sqrt(change / (time * size)) if change < time * size else 1.0)
    return largest


@jit
def _solve(
    layout, parameters, dynamics, ladder, fine, task, minibatch, state, tolerance, correction, outcome, number
):
    """Solve for the control error by Newton's method; leaves rates and factors of the last sweep, and the correction it implies.

    Returns:
        whether what the iteration leaves is expected to be smaller than `tolerance`.
    """
    m, outputs = state.nodes, layout.sizes[-1]
    errors = np.zeros((state.count, MEMORY, m * outputs))
    corrections = np.zeros_like(errors)
    weights, work = np.zeros(m), np.zeros((MEMORY, MEMORY + 1))
    for node in range(m):
        weights[node] = abs(fine.total[fine.vector[state.rung] + node])
    before = 0.0
    for age in range(MAX_SWEEPS):
        size = sweep(layout, parameters, ladder, fine, task, state)
        _newton_step(layout, dynamics, minibatch, fine, state)
        _solve_systems(layout, state)
        step = np.sqrt(_correction_size(layout, fine, state) / size) if size > 0.0 else 0.0
        rate = min(1.0, 10.0 * step) if age == 0 else max(0.02, min(1.0, step / before))
        before = step
        if age == 0:
            outcome.first_step[number] = step
        outcome.sweeps[number], outcome.last_step[number] = age + 1, step
        if correction == NOT_AT_ALL:
            rate = 1.0
        elif step > 0.1 * tolerance:  # the correction enters the factors, not what they are multiplied with
            rate = min(1.0, rate + _deviation(layout, fine, minibatch, state))
        outcome.newton_error[number] = step * rate
        if age > 0:
            for s in range(state.count):
                accelerate(
                    errors[s],
                    corrections[s],
                    age,
                    weights,
                    outputs,
                    state.errors.at_nodes[s],
                    state.errors.correction[s],
                    work,
                )
        else:
            for s in range(state.count):
                errors[s, 0], corrections[s, 0] = state.errors.at_nodes[s], state.errors.correction[s]
        if not np.isfinite(step) or outcome.newton_error[number] < tolerance:
            return np.isfinite(step)
        state.errors.at_nodes[:] += state.errors.correction
    return False


@jit
def solve_shard(
    layout, parameters, dynamics, backward, ladders, task, minibatch, results, outcome,
    place, tolerances, correction, workspace,
):  # fmt: skip
    """Solve the feedback phase of a shard.

    Args:
        ladders: time operators, `Ladders`.
        outcome: its `nodes` of the shard say how many to take; 0: as few as keep the linear response within `tolerances.time`.
        place: the `ShardPlace`, its samples and where it leaves results. tolerances: `Tolerances`.
        correction: how the last correction enters the factors.
        workspace: memory as `workspace_parts` says.
    """
    first, count, number, ladder, fine = place.first, place.count, place.number, ladders.own, ladders.fine
    width, depth, outputs = _width(workspace), layout.sizes.size - 1, layout.sizes[-1]
    parts = pieces(workspace, workspace_parts(layout, task, count, most_nodes(fine), width))
    start, nothing = np.zeros((count, outputs)), np.zeros((count, 0))
    feedforward = FeedforwardState(np.zeros(depth + 1, np.bool_), parts[0], parts[1], parts[2])
    systems = ControlSystems(parts[9], parts[10], np.zeros(0, np.int64))
    state = state_at(place, 0, 0, feedforward, parts, systems, ControlErrors(start, nothing, nothing))
    fill(outputs, state.control, 0, 0.0)
    for s in range(count):
        error_at(layout, dynamics, minibatch, first + s, state.control, 0, start, s, 0)
    set_constants(layout, parameters, task, minibatch, state)
    _control_matrices(layout, parameters, dynamics, backward, minibatch, state)
    size = outcome.matrices.shape[1]
    for s in range(count):
        for k in range(outputs):
            outcome.start[first + s, k] = start[s, k]
        for j in range(size):
            outcome.matrices[first + s, j] = state.systems.matrices[s * size + j]
    if outcome.nodes[number] > 0:
        rung = np.searchsorted(fine.nodes, outcome.nodes[number])
    else:
        found = np.zeros(2)
        rung = _choose_rung(layout, fine, minibatch, state, tolerances.time, found)
        outcome.time_error[number], outcome.end_error[number] = found[0], found[1]
    if rung < 0:
        outcome.status[number] = NO_LADDER
        return
    nodes = fine.nodes[rung]
    outcome.nodes[number] = nodes
    error, change = np.zeros((count, nodes * outputs)), np.zeros((count, nodes * outputs))
    systems = ControlSystems(parts[9], parts[10], np.zeros(count * nodes * outputs, np.int64))
    solving = state_at(place, rung, nodes, feedforward, parts, systems, ControlErrors(start, error, change))
    _factorise_systems(layout, ladder, solving, parts[11])
    last_control(layout, fine, solving, outcome.linear_u)
    if not _decays(layout, solving, outcome.linear_error):
        outcome.status[number] = UNSTABLE
        return
    solved = _solve(
        layout,
        parameters,
        dynamics,
        ladder,
        fine,
        task,
        minibatch,
        solving,
        tolerances.iteration,
        correction,
        outcome,
        number,
    )
    if not solved:
        outcome.status[number] = SLOW
        return
    for s in range(count):
        for j in range(nodes * outputs):
            outcome.iterate[first + s, j], outcome.correction[first + s, j] = error[s, j], change[s, j]
    leave_results(
        layout, parameters, dynamics, fine, task, minibatch, solving, results, outcome, place,
        tolerances.products, correction,
    )  # fmt: skip


@jit
def sum_shard(
    layout, parameters, dynamics, ladders, task, minibatch, results, outcome, place, tolerances, correction, workspace,
):  # fmt: skip
    """Leave the results of a shard that was solved before, by one sweep; which of its samples are active may have changed.

    Args:
        outcome: has `status`, `nodes`, `start`, `iterate` and `correction` of the shard. The others as in `solve_shard`.
    """
    first, count, number, ladder, fine = place.first, place.count, place.number, ladders.own, ladders.fine
    width, depth, outputs = _width(workspace), layout.sizes.size - 1, layout.sizes[-1]
    parts = pieces(workspace, workspace_parts(layout, task, count, most_nodes(fine), width))
    nodes, rung = outcome.nodes[number], 0
    while fine.nodes[rung] != nodes:
        rung += 1
    start = outcome.start[first : first + count].copy()
    error = outcome.iterate[first : first + count, : nodes * outputs].copy()
    change = outcome.correction[first : first + count, : nodes * outputs].copy()
    feedforward = FeedforwardState(np.zeros(depth + 1, np.bool_), parts[0], parts[1], parts[2])
    systems = ControlSystems(parts[9], parts[10], np.zeros(0, np.int64))
    state = state_at(place, rung, nodes, feedforward, parts, systems, ControlErrors(start, error, change))
    set_constants(layout, parameters, task, minibatch, state)
    sweep(layout, parameters, ladder, fine, task, state)
    leave_results(
        layout, parameters, dynamics, fine, task, minibatch, state, results, outcome, place,
        tolerances.products, correction,
    )  # fmt: skip
