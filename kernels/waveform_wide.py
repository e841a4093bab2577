"""A feedback phase of one shard solved in time for networks with many linear outputs, such as autoencoders.

With linear outputs and the identity as their feedback weights, the control error can be eliminated. What stays implicit is
s(t), the deviation of the rates of layer L-1 (notation: `waveform_shard`; F leak, C controller and filters, e_0 error at t = 0):

    e = E_0 e_0 - E W_L s,     E = (1 + C)^-1 F,     E_0 = (1 + C)^-1
    v_i = F W_i r_{i-1} + h Q_i e_0 - H K_i s,       h = C E_0,     H = C E,     K_i = Q_i W_L,       s = phi(v_{L-1})

so that no product of an iteration ("sweep") has as many rows or columns as there are outputs. The equation for s is solved by
Anderson's method (1965), preconditioned by the response of the network linearised at the mean slopes of the minibatch, whose
modes in time are uncoupled. The number of nodes grows until the solution stays the same; each starts from the one before.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.control_space import GROWTH, solve_normal_equations
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_shared
from dfc_numba.kernels.multiply import mix, multiply, multiply_add
from dfc_numba.kernels.rows import dot, fill, move
from dfc_numba.kernels.units import run_step
from dfc_numba.kernels.waveform_products import NOT_AT_ALL, leave_results
from dfc_numba.kernels.waveform_state import (
    NO_LADDER,
    SLOW,
    UNSTABLE,
    ControlErrors,
    ControlSystems,
    FeedforwardState,
    clear_padding,
    layer_start,
    nodes_start,
    pieces,
    set_constants,
    state_at,
    state_lengths,
)
from dfc_numba.kernels.waveform_sweep import error_at, sweep

MOST_SWEEPS = 40  # with one number of nodes
MEMORY = 5  # differences that Anderson's method combines
FIRST_RATE = 0.5  # assumed contraction of the first sweep, and of the error from the first number of nodes to the second
LEAST_RATE, MOST_RATE = 0.1, 0.97


class Reduced(NamedTuple):
    """The equation for s: operators per rung of the ladder and packed matrices, all in the dtype of the network."""

    feedback: np.ndarray  # packed K_i
    feedback_start: np.ndarray  # (L+1,)
    rate: np.ndarray  # (L+1,) addresses of the loops that give the rates alone
    rate_saturated: np.ndarray
    loop: np.ndarray  # [rung][m, m] -H, at Ladder.square
    drive: np.ndarray  # [rung][m] h, at Ladder.vector
    error: np.ndarray  # [rung][m, m] -E
    error_start: np.ndarray  # [rung][m] E_0
    weight: np.ndarray  # [rung][m] of the nodes in the norm in which steps are measured
    readout: np.ndarray  # [rung][m] what of the course in time counts for the update: its sum, or its end
    refine: np.ndarray  # [rung][m, m of the rung before] interpolation
    refine_start: np.ndarray  # (R,)
    to_modes: np.ndarray  # [rung][mode, m]; a mode is a real number, or a pair for real and imaginary part
    from_modes: np.ndarray  # [rung][m, mode]
    modes_start: np.ndarray  # (R,)
    modes: np.ndarray  # (R, 2) real modes, and pairs
    responses: np.ndarray  # packed (I + K)^-1 - I of the modes: one matrix, or for pairs A, B, -B of A + iB
    responses_start: np.ndarray  # (R,)
    regularisation: float  # of Anderson's normal equations, relative


@jit_shared
def wide_workspace_parts(layout, task, count, most):
    """Return the lengths of a shard's arrays in its workspace, for `count` samples and at most `most` nodes."""
    depth = layout.sizes.size - 1
    total, rows = count * layout.rows[depth + 1], (most + 1) * count
    unknown = most * count * layout.stride[depth - 1]
    own = (total, unknown, unknown, unknown, unknown, unknown, MEMORY * unknown, MEMORY * unknown)
    return state_lengths(layout, task, count, most, rows) + (rows * layout.widest,) + own


class Iteration(NamedTuple):
    """The arrays of the iteration, `[node][sample][unit of layer L-1]` each."""

    base: np.ndarray  # [layer][sample][unit] Q_i e_0
    s: np.ndarray
    step: np.ndarray  # what s changes by
    course: np.ndarray  # Q_{L-1} f, the control signal as layer L-1 receives it
    before: np.ndarray  # preconditioned residual, and s plus it, of the sweep before
    reached: np.ndarray
    differences: np.ndarray  # rings of differences of both between sweeps
    moves: np.ndarray


@jit
def _set_base(layout, parameters, state, iteration):
    """Write Q_i e_0 of the hidden layers."""
    depth, outputs, count = layout.sizes.size - 1, layout.sizes[-1], state.count
    end = layout.stride[depth]
    fill(count * end, state.control, 0, 0.0)
    for s in range(count):
        for k in range(outputs):
            state.control[s * end + k] = state.errors.start[s, k]
    for i in range(1, depth):
        start = layer_start(layout, state, i)
        multiply(iteration.base, start, layout.stride[i], count, state.control, 0, end, outputs,
                 parameters.feedback, layout.feedback[i])  # fmt: skip
        clear_padding(layout, i, iteration.base, start, count)


@jit
def _evaluate_rates(layout, parameters, reduced, ladder, state, iteration):
    """Write rates of the hidden layers at the nodes from s, and the control signal's course; returns the square of its size."""
    depth, m, count = layout.sizes.size - 1, state.nodes, state.count
    last, inner = layout.stride[depth - 1], layout.sizes[depth - 1]
    block, square, row = count * last, ladder.square[state.rung], ladder.vector[state.rung]
    mix(state.control, 0, block, m, reduced.loop, square, m, m, iteration.s, 0, block, block, False)
    for i in range(1, depth):
        stride, place = layout.stride[i], nodes_start(layout, state, i)
        size, planes, base = count * stride, 3 * layer_start(layout, state, i), layer_start(layout, state, i)
        multiply(state.v, 0, stride, m * count, state.control, 0, last, inner,
                 reduced.feedback, reduced.feedback_start[i])  # fmt: skip
        clear_padding(layout, i, state.v, 0, m * count)
        mix(state.v, 0, size, m, reduced.drive, row, 1, 1, iteration.base, base, size, size, True)
        if i == depth - 1:
            move(m * size, iteration.course, 0, state.v, 0)
        if i > 1:
            below = layout.stride[i - 1]
            multiply(state.spare, 0, stride, m * count, state.rate, nodes_start(layout, state, i - 1), below,
                     layout.sizes[i - 1], parameters.weights, layout.weights[i])  # fmt: skip
            clear_padding(layout, i, state.spare, 0, m * count)
            mix(state.v, 0, size, m, ladder.soma, square, m, m, state.spare, 0, size, size, True)
        loop = reduced.rate_saturated[i] if state.feedforward.saturated[i] else reduced.rate[i]
        for node in range(m):
            here = node * size
            v, rate = at(state.v, here), at(state.rate, place + here)
            run_step(
                loop, size, v, rate, at(state.factor, 0), at(state.seen, 0), v, v, v,
                at(state.feedforward.constants, planes), at(state.feedforward.reference, 0), 0.0,
            )  # fmt: skip
    return _squared_size(reduced, ladder, state, iteration.course, block)


@jit
def _squared_size(reduced, ladder, state, x, block):
    """Return the square of the size of functions of time."""
    total = 0.0
    for node in range(state.nodes):
        weight = np.float64(reduced.weight[ladder.vector[state.rung] + node])
        total += weight * np.float64(dot(block, x, node * block, x, node * block))
    return total


@jit
def _precondition(layout, reduced, state, iteration):
    """Write step = P r of a residual r in `step`: modes in time, each with its response of the mean network."""
    depth, m, count = layout.sizes.size - 1, state.nodes, state.count
    stride, n = layout.stride[depth - 1], layout.sizes[depth - 1]
    block, start, here = count * stride, reduced.modes_start[state.rung], reduced.responses_start[state.rung]
    singles, pairs, matrix = reduced.modes[state.rung, 0], reduced.modes[state.rung, 1], stride * n
    modes = singles + 2 * pairs
    mix(state.v, 0, block, modes, reduced.to_modes, start, m, m, iteration.step, 0, block, block, False)
    for mode in range(singles):
        multiply(
            state.spare, mode * block, stride, count, state.v, mode * block,
            stride, n, reduced.responses, here,
        )  # fmt: skip
        here += matrix
    for pair in range(pairs):
        real = (singles + 2 * pair) * block
        imaginary = real + block
        multiply(state.spare, real, stride, count, state.v, real, stride, n, reduced.responses, here)
        multiply_add(
            state.spare, real, stride, count, state.v, imaginary,
            stride, n, reduced.responses, here + 2 * matrix,
        )  # fmt: skip
        multiply(
            state.spare, imaginary, stride, count, state.v, real,
            stride, n, reduced.responses, here + matrix,
        )  # fmt: skip
        multiply_add(
            state.spare, imaginary, stride, count, state.v, imaginary,
            stride, n, reduced.responses, here,
        )  # fmt: skip
        here += 3 * matrix
    clear_padding(layout, depth - 1, state.spare, 0, modes * count)
    mix(
        iteration.step, 0, block, m, reduced.from_modes, start, modes,
        modes, state.spare, 0, block, block, True,
    )  # fmt: skip


@jit
def _accelerate(layout, reduced, ladder, state, iteration, age):
    """Take Anderson's step, in place of the preconditioned residual in `step`, of every sample by itself.

    Args:
        age: number of sweeps before this one.
    """
    depth, m, count = layout.sizes.size - 1, state.nodes, state.count
    stride = layout.stride[depth - 1]
    size, block = m * count * stride, count * stride
    slot = (age - 1) % MEMORY * size
    vector.combine(size, at(state.spare, 0), at(iteration.s, 0), at(iteration.step, 0), 1.0, 1.0)
    if age > 0:
        vector.subtract(size, at(iteration.differences, slot), at(iteration.step, 0), at(iteration.before, 0))
        vector.subtract(size, at(iteration.moves, slot), at(state.spare, 0), at(iteration.reached, 0))
    move(size, iteration.before, 0, iteration.step, 0)
    move(size, iteration.reached, 0, state.spare, 0)
    known = min(age, MEMORY)
    gram = np.zeros((MEMORY, MEMORY + 1))
    for sample in range(count if known > 0 else 0):
        for a in range(known):
            for b in range(a, known + 1):
                total = 0.0
                for node in range(m):
                    here = node * block + sample * stride
                    weight = np.float64(reduced.weight[ladder.vector[state.rung] + node])
                    other, there = iteration.differences, b * size + here
                    if b == known:
                        other, there = iteration.step, here
                    total += weight * np.float64(
                        dot(stride, iteration.differences, a * size + here, other, there)
                    )
                gram[a, b] = total
                if b < known:
                    gram[b, a] = total
        solve_normal_equations(gram, known, reduced.regularisation)
        for a in range(known):
            for node in range(m):
                here = node * block + sample * stride
                step, earlier = at(iteration.step, here), at(iteration.moves, a * size + here)
                vector.combine(stride, step, step, earlier, 1.0, -gram[a, known])


@jit
def _iterate(layout, parameters, reduced, ladder, state, iteration, tolerance, found):
    """Solve for s at the nodes of a rung, from what `s` holds; `course` then belongs to the solution.

    Args:
        found: receives the number of sweeps, and the relative sizes of the first step, the last, and what is expected to be left.

    Returns:
        whether that is smaller than `tolerance`.
    """
    depth, m, count = layout.sizes.size - 1, state.nodes, state.count
    stride, n = layout.stride[depth - 1], layout.sizes[depth - 1]
    block, place = count * stride, nodes_start(layout, state, depth - 1)
    before, ratio_before = 0.0, 0.0
    for age in range(MOST_SWEEPS):
        size = _evaluate_rates(layout, parameters, reduced, ladder, state, iteration)
        vector.subtract(m * block, at(iteration.step, 0), at(state.rate, place), at(iteration.s, 0))
        _precondition(layout, reduced, state, iteration)
        _accelerate(layout, reduced, ladder, state, iteration, age)
        vector.combine(m * block, at(iteration.s, 0), at(iteration.s, 0), at(iteration.step, 0), 1.0, 1.0)
        mix(state.control, 0, block, m, reduced.loop, ladder.square[state.rung], m, m,
            iteration.step, 0, block, block, False)  # fmt: skip
        multiply(state.spare, 0, stride, m * count, state.control, 0, stride, n,
                 reduced.feedback, reduced.feedback_start[depth - 1])  # fmt: skip
        clear_padding(layout, depth - 1, state.spare, 0, m * count)
        change = (
            np.sqrt(_squared_size(reduced, ladder, state, state.spare, block) / size) if size > 0.0 else 0.0
        )
        ratio = FIRST_RATE if age == 0 else max(LEAST_RATE, min(MOST_RATE, change / before))
        rate, before, ratio_before = max(ratio, ratio_before), change, ratio
        left = change * rate / (1.0 - rate)  # the steps to come, a geometric series
        found[0] += 1.0
        if age == 0:
            found[1] = change
        found[2], found[3] = change, left
        if not np.isfinite(change) or left < tolerance:
            course = at(iteration.course, 0)
            vector.combine(m * block, course, course, at(state.spare, 0), 1.0, 1.0)
            return np.isfinite(change)
    return False


@jit
def _end_error(layout, parameters, reduced, ladder, state, iteration, out):
    """Write to `out`, (count, n_L), the control error at T that s implies."""
    depth, outputs, m, count = layout.sizes.size - 1, layout.sizes[-1], state.nodes, state.count
    stride, end = layout.stride[depth - 1], layout.stride[depth]
    block, last = count * stride, ladder.square[state.rung] + (m - 1) * m
    mix(state.control, 0, block, 1, reduced.error, last, m, m, iteration.s, 0, block, block, False)
    multiply(state.spare, 0, end, count, state.control, 0, stride, layout.sizes[depth - 1],
             parameters.weights, layout.weights[depth])  # fmt: skip
    start = np.float64(reduced.error_start[ladder.vector[state.rung] + m - 1])
    for s in range(count):
        for k in range(outputs):
            out[s, k] = start * state.errors.start[s, k] + np.float64(state.spare[s * end + k])


@jit
def _all_errors(layout, parameters, reduced, ladder, state, iteration):
    """Write the control error at all nodes into state.errors.at_nodes."""
    depth, outputs, m, count = layout.sizes.size - 1, layout.sizes[-1], state.nodes, state.count
    stride, end = layout.stride[depth - 1], layout.stride[depth]
    block, square = count * stride, ladder.square[state.rung]
    mix(state.control, 0, block, m, reduced.error, square, m, m, iteration.s, 0, block, block, False)
    multiply(state.spare, 0, end, m * count, state.control, 0, stride, layout.sizes[depth - 1],
             parameters.weights, layout.weights[depth])  # fmt: skip
    for node in range(m):
        start = np.float64(reduced.error_start[ladder.vector[state.rung] + node])
        for s in range(count):
            for k in range(outputs):
                state.errors.at_nodes[s, node * outputs + k] = start * state.errors.start[s, k] + np.float64(
                    state.spare[(node * count + s) * end + k]
                )


@jit
def _total(reduced, ladder, state, course, block, out):
    """Write out = what of the course of the control signal counts for the update."""
    fill(block, out, 0, 0.0)
    for node in range(state.nodes):
        weight = np.float64(reduced.readout[ladder.vector[state.rung] + node])
        for j in range(block):
            out[j] += weight * course[node * block + j]


@jit
def _relative_distance(x, y, scale):
    """Return |x - y| / |scale|."""
    difference, size = 0.0, 0.0
    for j in range(x.size):
        difference += (x[j] - y[j]) ** 2
        size += scale[j] ** 2
    return np.sqrt(difference / size) if difference > 0.0 else 0.0 * difference


@jit
def solve_wide_shard(
    layout, parameters, dynamics, reduced, ladders, task, minibatch, results, outcome, place, tolerances, workspace
):  # fmt: skip
    """Solve the feedback phase of a shard with wide outputs; arguments as in `solve_shard`.

    Args:
        reduced: the equation for s. workspace: memory as `wide_workspace_parts` says.
    """
    first, count, number, ladder, fine = place.first, place.count, place.number, ladders.own, ladders.fine
    depth, outputs = layout.sizes.size - 1, layout.sizes[-1]
    parts = pieces(workspace, wide_workspace_parts(layout, task, count, ladder.nodes[-1]))
    start, nothing, empty = np.zeros((count, outputs)), np.zeros((count, 0)), workspace[:0]
    iteration = Iteration(
        parts[9], parts[10], parts[11], parts[12], parts[13], parts[14], parts[15], parts[16]
    )
    feedforward = FeedforwardState(np.zeros(depth + 1, np.bool_), parts[0], parts[1], parts[2])
    no_systems = ControlSystems(empty, empty, np.zeros(0, np.int64))
    errors = ControlErrors(start, nothing, nothing)
    state = state_at(place, 0, 0, feedforward, parts, no_systems, errors)
    fill(outputs, state.control, 0, 0.0)
    for s in range(count):
        error_at(layout, dynamics, minibatch, first + s, state.control, 0, start, s, 0)
        for k in range(outputs):
            outcome.start[first + s, k] = start[s, k]
    set_constants(layout, parameters, task, minibatch, state)
    _set_base(layout, parameters, state, iteration)
    block = count * layout.stride[depth - 1]
    found, total, total_before = np.zeros(4), np.zeros(block), np.zeros(block)
    end, end_before = np.zeros((count, outputs)), np.zeros((count, outputs))
    distance, distance_before, solved = np.inf, np.inf, False
    for rung in range(len(ladder.nodes)):
        m = ladder.nodes[rung]
        state = state_at(place, rung, m, feedforward, parts, no_systems, errors)
        if rung == 0:
            fill(m * block, iteration.s, 0, 0.0)
        else:
            coarse = ladder.nodes[rung - 1]
            move(coarse * block, iteration.step, 0, iteration.s, 0)
            mix(iteration.s, 0, block, m, reduced.refine, reduced.refine_start[rung], coarse, coarse,
                iteration.step, 0, block, block, False)  # fmt: skip
        if not _iterate(layout, parameters, reduced, ladder, state, iteration, tolerances.iteration, found):
            outcome.status[number] = SLOW
            return
        outcome.nodes[number], outcome.sweeps[number] = m, int(found[0])
        outcome.first_step[number], outcome.last_step[number] = found[1], found[2]
        outcome.newton_error[number] = found[3]
        total_before[:], end_before[:] = total, end
        _total(reduced, ladder, state, iteration.course, block, total)
        _end_error(layout, parameters, reduced, ladder, state, iteration, end)
        if rung == 0:
            continue
        distance_before, distance = distance, _relative_distance(total, total_before, total)
        rate = FIRST_RATE if rung == 1 else max(LEAST_RATE, min(1.0, distance / max(distance_before, 1e-300)))
        outcome.time_error[number] = distance * rate
        outcome.end_error[number] = rate * _relative_distance(
            end.reshape(-1), end_before.reshape(-1), start.reshape(-1)
        )
        if distance * rate < tolerances.time:
            solved = True
            break
    if not solved:
        outcome.status[number] = NO_LADDER
        return
    error, change = np.zeros((count, state.nodes * outputs)), np.zeros((count, state.nodes * outputs))
    errors = ControlErrors(start, error, change)
    solving = state_at(place, state.rung, state.nodes, feedforward, parts, no_systems, errors)
    if not _decays(end, start):
        outcome.status[number] = UNSTABLE
        return
    _all_errors(layout, parameters, reduced, ladder, solving, iteration)
    sweep(layout, parameters, ladder, fine, task, solving)
    leave_results(
        layout, parameters, dynamics, fine, task, minibatch, solving, results, outcome, place,
        tolerances.products, NOT_AT_ALL,
    )  # fmt: skip


@jit
def _decays(end, start):
    """Return whether the control error of the shard does not grow until T."""
    last, initial = 0.0, 0.0
    for s in range(end.shape[0]):
        for k in range(end.shape[1]):
            last += end[s, k] ** 2
            initial += start[s, k] ** 2
    return last <= GROWTH**2 * initial
