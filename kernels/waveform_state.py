"""The state of a shard whose feedback phase is solved in time, and what its layers' units do at one node.

As in `feedback_phase`, v, basal and rate are deviations from the feedforward state. Rows of a layer are
`[node][sample][unit]`, so that what a shard's activation differences are made with serves every node.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.control_space import Ladder, padded, system_stride
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_creating_part, jit_part, jit_shared
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.units import run_constants, run_step, run_unit

SOLVED, NO_LADDER, SLOW, UNSTABLE = 0, 1, 2, 3  # outcomes of a shard


class Backward(NamedTuple):
    """What the Jacobian of the network needs: packed W_{i+1}^T and Q_i^T."""

    weights: np.ndarray  # as in `Layout.transposed`
    feedback: np.ndarray
    feedback_start: np.ndarray  # (L+1,)


class WaveformOutcome(NamedTuple):
    """How the solution of each shard went, one row per shard."""

    status: np.ndarray  # SOLVED, or why not
    nodes: np.ndarray  # m
    sweeps: np.ndarray
    modes: np.ndarray  # products per layer, at most
    time_error: np.ndarray  # relative error of the response in time
    end_error: np.ndarray  # error of the control error at T, relative to that at t = 0
    newton_error: np.ndarray  # expected relative size of what the iterations leave
    first_step: np.ndarray  # relative size of the first correction, and of the last
    last_step: np.ndarray
    update_size: np.ndarray  # (P, L) norm of a shard's update, as if its samples did not cancel
    product_error: np.ndarray  # (P, L+1) bound of what the products in modes leave out, absolute, by layer
    error: np.ndarray  # (B, m_max n_L) control error at the nodes
    start: np.ndarray  # (B, n_L) control error at t = 0
    linear_error: np.ndarray  # (B, n_L) control error and signal at T in the linear response at the nodes
    linear_u: np.ndarray
    matrices: np.ndarray  # (B, L n_L n_L padded) M_{L-k} transposed
    iterate: np.ndarray  # (B, m_max n_L) what the last sweep began from; empty with wide outputs
    correction: np.ndarray  # (B, m_max n_L) the last correction of that

    @staticmethod
    def of_shards():
        """Return the names of the arrays that have one row per shard; the others have one per sample."""
        return WaveformOutcome._fields[: WaveformOutcome._fields.index("error")]


class ShardPlace(NamedTuple):
    """Which samples of the minibatch a shard has, and where it leaves its results."""

    first: int  # the samples first .. first + count
    count: int
    buffer: int  # row of results.outer
    number: int  # row of `WaveformOutcome`


class Ladders(NamedTuple):
    """The time operators (`control_space.Ladder`) in the dtype of the network, and in float64."""

    own: Ladder
    fine: Ladder


class Tolerances(NamedTuple):
    """Relative errors that the parts of a solution may have."""

    time: float  # the response in time, by the number of nodes
    iteration: float
    products: float  # in modes


class FeedforwardState(NamedTuple):
    """What loops over a shard's units need of the feedforward state; see `set_constants`."""

    saturated: np.ndarray  # (L+1,) whether a layer has units that need the third constant
    constants: np.ndarray  # [layer][constant][sample][unit]
    reference: np.ndarray  # likewise v, r, phi'(v), where formulas need them
    slope: np.ndarray  # [layer][sample][unit] phi'


class ControlSystems(NamedTuple):
    """The linear systems in control space, one per sample; empty with wide outputs."""

    matrices: np.ndarray  # [sample][k] M_{L-k} transposed
    factors: np.ndarray  # [sample] the system, factorised
    pivots: np.ndarray


class ControlErrors(NamedTuple):
    """The control error of a shard's samples, float64."""

    start: np.ndarray  # (count, n_L) at t = 0
    at_nodes: np.ndarray  # (count, m n_L)
    correction: np.ndarray  # (count, m n_L) Newton's correction of it


class WaveformState(NamedTuple):
    """The arrays of a shard, flat; `rung` and `nodes` say which operators of the ladder hold."""

    first: int
    count: int
    rung: int
    nodes: int
    feedforward: FeedforwardState
    rate: np.ndarray  # [layer][node][sample][unit]
    factor: np.ndarray  # basal voltages, then the postsynaptic factors
    seen: np.ndarray  # deviations of the presynaptic factors where they are not those of the rates
    v: np.ndarray  # [node][sample][unit] of one layer
    spare: np.ndarray  # the same
    control: np.ndarray  # [node][sample][output] filtered control signal
    systems: ControlSystems
    errors: ControlErrors


@jit_shared
def state_lengths(layout, task, count, most, rows):
    """Return the lengths of the first arrays of a shard in its workspace, down to `WaveformState.spare`.

    Args:
        count: number of samples. most: largest number of nodes. rows: of the arrays of one layer.
    """
    total = count * layout.rows[layout.sizes.size]
    return (
        3 * total,
        3 * total if task.needs_start else 0,
        total,
        most * total,
        most * total,
        most * total if task.presynaptic else 0,
        rows * layout.widest,
        rows * layout.widest,
    )


@jit_shared
def workspace_parts(layout, task, count, most, width):
    """Return the lengths of a shard's arrays in its workspace, for `count` samples and at most `most` nodes."""
    depth, outputs = layout.sizes.size - 1, layout.sizes[-1]
    square, unknowns, rows = padded(outputs * outputs, width), most * outputs, max(most + 1, outputs) * count
    systems = (
        count * depth * square,
        count * unknowns * system_stride(unknowns, width),
        most * most * square,
    )
    return state_lengths(layout, task, count, most, rows) + (rows * layout.stride[depth],) + systems


@jit_creating_part
def pieces(workspace, lengths):
    """Return consecutive pieces of a workspace."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    for k in range(len(lengths)):
        ends[k + 1] = ends[k] + lengths[k]
    return [workspace[ends[k] : ends[k + 1]] for k in range(len(lengths))]


@jit_shared
def state_at(place, rung, nodes, feedforward, parts, systems, errors):
    """Return the `WaveformState` of a shard at a rung of the ladder; parts: the pieces of its workspace."""
    return WaveformState(
        place.first, place.count, rung, nodes, feedforward,
        parts[3], parts[4], parts[5], parts[6], parts[7], parts[8], systems, errors,
    )  # fmt: skip


@jit_part
def layer_start(layout, state, i):
    """Return the start of layer i in arrays `[layer][sample][unit]`."""
    return state.count * layout.rows[i]


@jit_part
def nodes_start(layout, state, i):
    """Return the start of layer i in arrays `[layer][node][sample][unit]`."""
    return state.nodes * state.count * layout.rows[i]


@jit
def set_constants(layout, parameters, task, minibatch, state):
    """Write what the loops need of the feedforward state, and phi' there; the constants are computed in float64."""
    samples, rest = minibatch.gap.shape[0], state.feedforward
    exact = np.zeros(4 * state.count * layout.widest)
    fill(rest.reference.size, rest.reference, 0, 0.0)
    for i in range(1, layout.sizes.size):
        n, stride, start = layout.sizes[i], layout.stride[i], layer_start(layout, state, i)
        size = state.count * stride
        fill(size, exact, 3 * size, 0.0)
        for s in range(state.count):
            dense = layout.dense[i] * samples + (state.first + s) * n
            move(n, exact, 3 * size + s * stride, minibatch.v_ff, dense)
            if task.needs_start:
                move(n, rest.reference, 3 * start + s * stride, minibatch.v_ff, dense)
                move(n, rest.reference, 3 * start + size + s * stride, minibatch.r_ff, dense)
        run_constants(parameters.loops.constants[i], size, at(exact, 0), at(exact, 3 * size))
        for shift in exact[2 * size : 3 * size]:
            rest.saturated[i] |= shift != 0.0
        move(3 * size, rest.constants, 3 * start, exact, 0)
        fill(size, state.v, 0, 0.0)
        evaluate(layout, state, parameters.loops.derivative[i], i, rest.slope, start, state.v, 0, state.v, 0)
        if task.needs_start:
            move(size, rest.reference, 3 * start + 2 * size, rest.slope, start)


@jit_part
def evaluate(layout, state, loop, i, out, out_start, v, v_start, basal, basal_start):
    """Write out = a formula of layer i's units at one node."""
    planes = 3 * layer_start(layout, state, i)
    reference = planes if state.feedforward.reference.size > 0 else 0
    soma = at(v, v_start)
    run_unit(
        loop, state.count * layout.stride[i], at(out, out_start), soma, at(basal, basal_start), soma,
        at(state.feedforward.constants, planes), at(state.feedforward.reference, reference),
    )  # fmt: skip


@jit_part
def respond(layout, parameters, state, i, node, place):
    """Write layer i's rates, factors in the place of the basal voltages, and presynaptic factors at one node."""
    size, planes = state.count * layout.stride[i], 3 * layer_start(layout, state, i)
    loop = parameters.loops.step_saturated[i] if state.feedforward.saturated[i] else parameters.loops.step[i]
    seen = place if state.seen.size > 0 else 0
    reference = planes if state.feedforward.reference.size > 0 else 0
    here, gain = node * size, 0.0  # the somatic voltage is what it is
    soma, factor = at(state.v, here), at(state.factor, place)
    run_step(
        loop, size, soma, at(state.rate, place), factor, at(state.seen, seen), soma, factor, soma,
        at(state.feedforward.constants, planes), at(state.feedforward.reference, reference), gain,
    )  # fmt: skip


@jit_part
def clear_padding(layout, i, x, start, rows):
    """Zero in the elements of rows of layer i that belong to no unit."""
    n, stride = layout.sizes[i], layout.stride[i]
    for row in range(rows):
        fill(stride - n, x, start + row * stride + n, 0.0)


@jit_part
def filtered_control(layout, ladder, state, e, s, node, k):
    """Return the part of the filtered control signal that comes from the control errors `e` at the nodes."""
    outputs, m = layout.sizes[-1], state.nodes
    row, total = ladder.square[state.rung] + node * m, 0.0
    for other in range(m):
        total += ladder.control[row + other] * e[s, other * outputs + k]
    return total
