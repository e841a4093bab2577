"""What a feedback phase is made of: its inputs and results as named tuples, and the state of one shard.

Named tuples of arrays and numbers are what the Python layer hands to `feedback_phase.run_shard`; `State` is everything
that evolves in a shard, in flat arrays `[layer][sample][unit]`. The functions find layers and steps in these arrays.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.jit import jit_creating_part, jit_part, jit_shared
from dfc_numba.kernels.noise import scratch
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.units import run_constants, run_unit

NO_NOISE, KEYED_NOISE, GIVEN_NOISE = 0, 1, 2
NO_READOUT, AVERAGE, FINAL = 0, 1, 2
BLOCK_ROWS = 64  # samples x steps that one product for the updates takes together


class Loops(NamedTuple):
    """Addresses of the loops of each layer, see `units`; (L+1,) each, index 0 is unused, 0 for a loop that is not used."""

    constants: np.ndarray
    step: np.ndarray
    step_saturated: np.ndarray  # the same for a layer with units far in saturation
    derivative: np.ndarray
    factor: np.ndarray  # the postsynaptic factor at the last state
    factor_of_feedback: np.ndarray  # the postsynaptic factor of the feedback weights; 0: v_fb
    variables: np.ndarray  # (L+1, number of recorded variables that are formulas)


class PackedNetwork(NamedTuple):
    """The network in packed form."""

    loops: Loops
    weights: np.ndarray
    feedback: np.ndarray
    transposed: np.ndarray  # empty unless the feedback is the Jacobian's


class Dynamics(NamedTuple):
    """The controller's options, as the step needs them (all gains are dt / tau; 1 means instantaneous)."""

    steps: int
    dt: float
    alpha: float
    k_p: float
    soma_gain: float
    apical_gain: float
    control_gain: float
    noise_gain: float  # weight of a draw in v_fb (white) or in the filter's state (low-passed)
    noise_keep: float  # what the filter keeps per step; negative for white noise
    sigma: float
    sigma_output: float
    instant_transmission: bool
    proactive: bool
    softmax: bool
    jacobian_feedback: bool
    leak_integral: bool
    control_loop: int  # address of the controller's step where it has further terms, else 0


class Task(NamedTuple):
    """What is asked of the simulation."""

    readout: int
    factor_is_rate: bool  # the postsynaptic factor is phi(v) - phi(v_ff): in the first layer that is its rate
    factor_moves: bool  # the final factor depends on the basal voltage that the last rates imply
    needs_start: bool  # formulas refer to the feedforward state
    presynaptic: bool  # the presynaptic factor is a formula of the rate
    learn_feedback: bool
    feedback_factor: bool  # the postsynaptic factor of the feedback weights is a formula
    feedback_signal: int  # address of the presynaptic one as a formula of u and u_slow; 0: u - u_slow
    high_pass_gain: float  # dt / tau_f, or 0 for the control signal as it is
    record_every: int  # 0: nothing is recorded
    records_formulas: bool


class PhaseInputs(NamedTuple):
    """The minibatch; dense arrays are flat `[layer][sample][unit]`, in float64."""

    v_ff: np.ndarray
    r_ff: np.ndarray
    gap: np.ndarray  # (B, n_L) r* - r_L(feedforward)
    target: np.ndarray  # (B, n_L)
    active: np.ndarray  # (B,) False: the sample is held at its feedforward state
    noise_source: int
    noise_key: int  # uint64
    noise_samples: np.ndarray  # (B,) uint64 numbers that tell the samples apart
    noise_given: np.ndarray  # flat [layer][time][sample][unit]


class Results(NamedTuple):
    """Where a shard leaves its results."""

    factor: np.ndarray  # dense: sum over time of the factor (average), or its last value (final)
    rate: np.ndarray  # dense: last deviation of the rates
    u: np.ndarray  # (B, n_L) last control signal
    outer: np.ndarray  # (shards at a time, total of `outer_shard`) sum of factor x rate deviation
    outer_feedback: np.ndarray  # (shards at a time, total) sum of u x v_fb


class Records(NamedTuple):
    """Recorded trajectories; dense arrays are flat `[layer][time][sample][unit]`, empty where not asked for."""

    row: np.ndarray  # (B,) place of a sample among the recorded ones, or -1
    count: int  # recorded samples
    times: int  # recorded time points
    u: np.ndarray
    u_int: np.ndarray
    e: np.ndarray
    error: np.ndarray
    v: np.ndarray
    v_ff: np.ndarray
    v_fb: np.ndarray
    r: np.ndarray
    formulas: np.ndarray  # flat [variable][layer][time][sample][unit]

    @property
    def recorded(self):
        """The arrays that shards write to."""
        return self[3:]


class State(NamedTuple):
    """Everything that evolves in a shard. Flat arrays `[layer][sample][unit]`, rings have a slot after the layer."""

    first: int
    count: int  # samples of this shard
    slots: int  # of the rings of rates and factors
    block: int  # steps that one product takes together, slots of the rings for feedback learning
    keeps_basal: int  # 1: one region per layer, 0: scratch that the layers share
    keeps_apical: int
    keeps_drive: int
    saturated: np.ndarray  # (L+1,) whether a layer has units that need the third constant
    v: np.ndarray  # from here to `scratch` in the workspace
    basal: np.ndarray
    apical: np.ndarray
    drive: np.ndarray
    noise: np.ndarray
    constants: np.ndarray  # per layer three arrays [sample][unit] that activation differences are made with
    start: np.ndarray  # likewise v, r, phi'(v) of the feedforward state, where formulas need it
    rate: np.ndarray  # ring
    factor: np.ndarray  # ring
    seen: np.ndarray  # ring of presynaptic deviations where they are not those of the rate
    apical_block: np.ndarray  # ring
    control_block: np.ndarray  # [slot][sample][output]
    control: np.ndarray  # [sample][output] the signal that the layers receive
    draw: np.ndarray
    scratch: np.ndarray  # a layer of a variable that is a formula
    draw_work: np.ndarray
    u: np.ndarray  # the rest: (sample, output), float64
    u_int: np.ndarray
    u_filtered: np.ndarray
    u_slow: np.ndarray
    error: np.ndarray
    output: np.ndarray  # r_L
    terms: np.ndarray  # planes [sample][output] of `units.CONTROL`, where the controller has further terms
    pair: np.ndarray  # a register each of u, u_slow and the presynaptic factor that is a formula of them


@jit_part
def layer_start(layout, state, i):
    """Start of layer i in the flat arrays of a shard."""
    return state.count * layout.rows[i]


@jit_part
def basal_start(layout, state, i):
    """Start of layer i's basal voltages."""
    return state.keeps_basal * layer_start(layout, state, i)


@jit_part
def apical_start(layout, state, i):
    """Start of layer i's apical voltages."""
    return state.keeps_apical * layer_start(layout, state, i)


@jit_part
def planes_start(layout, state, i):
    """Start of layer i's constants."""
    return 3 * layer_start(layout, state, i)


@jit_part
def ring_start(layout, state, i, step):
    """Start of layer i in the rings of rates and factors, after a step."""
    return state.count * (layout.rows[i] * state.slots + step % state.slots * layout.stride[i])


@jit_part
def block_start(layout, state, i, step):
    """Start of layer i in the ring of apical voltages for feedback learning."""
    return state.count * (layout.rows[i] * state.block + step % state.block * layout.stride[i])


@jit_shared
def drives_directly(dynamics, minibatch):
    """Whether the apical voltage is the feedback Q_i u itself: instantaneous, and without noise."""
    return dynamics.apical_gain == 1.0 and minibatch.noise_source == NO_NOISE


@jit_shared
def steps_per_block(count):
    """Steps whose products for the updates are taken together."""
    return max(2, BLOCK_ROWS // count)


@jit_shared
def kept_per_layer(dynamics, task, minibatch):
    """(basal, apical, drive): 1 where each layer keeps its own, 0 for scratch that the layers share.

    What is needed within one layer's step only is kept small, for the sake of the cache.
    """
    records = task.record_every > 0
    through = dynamics.jacobian_feedback
    last = task.readout == FINAL and task.factor_moves and not task.factor_is_rate
    by_formula = task.learn_feedback and task.feedback_factor
    return (
        1 if task.readout == FINAL or records or by_formula else 0,
        1
        if not drives_directly(dynamics, minibatch) or task.learn_feedback or records or through or last
        else 0,
        1 if through else 0,
    )


@jit_shared
def workspace_parts(layout, dynamics, task, minibatch, count):
    """Lengths of the arrays of a shard's state that lie in its workspace, in the order of `State`; 0 where not needed."""
    depth = layout.sizes.size - 1
    total, shared, output = (
        count * layout.rows[depth + 1],
        count * layout.widest,
        count * layout.stride[depth],
    )
    basal, apical, drive = kept_per_layer(dynamics, task, minibatch)
    noisy, learns = minibatch.noise_source != NO_NOISE, task.learn_feedback
    block = steps_per_block(count)
    ring = (block if task.readout == AVERAGE else 2) * total
    return (
        total,
        total if basal == 1 else shared,
        total if apical == 1 else shared,
        0 if drives_directly(dynamics, minibatch) else (total if drive == 1 else shared),
        total if noisy and dynamics.noise_keep >= 0.0 else 0,
        3 * total,
        3 * total if task.needs_start else 0,
        ring,
        ring,
        ring if task.presynaptic else 0,
        block * total if learns else 0,
        block * output if learns else 0,
        output,
        shared if noisy else 0,
        shared if task.records_formulas else 0,
    )


@jit_shared
def padded_signals(count, outputs):
    """Elements of a plane of `State.terms`: whole vector registers."""
    return (count * outputs + 15) // 16 * 16


@jit_creating_part
def new_state(layout, dynamics, task, minibatch, first, count, workspace):
    """The feedforward state of the samples first .. first + count, all deviations zero; nothing that is not needed."""
    depth = layout.sizes.size - 1
    outputs = layout.sizes[depth]
    basal, apical, drive = kept_per_layer(dynamics, task, minibatch)
    block = steps_per_block(count)
    parts = workspace_parts(layout, dynamics, task, minibatch, count)
    terms = 11 * padded_signals(count, outputs) if dynamics.control_loop != 0 else 0
    pair = 48 if task.feedback_signal != 0 else 0
    slots = block if task.readout == AVERAGE else 2
    ends = np.zeros(len(parts) + 1, np.int64)
    for k in range(len(parts)):
        ends[k + 1] = ends[k] + parts[k]
    fill(ends[len(parts)], workspace, 0, 0.0)
    return State(
        first,
        count,
        slots,
        block,
        basal,
        apical,
        drive,
        np.zeros(depth + 1, np.bool_),
        workspace[ends[0] : ends[1]],
        workspace[ends[1] : ends[2]],
        workspace[ends[2] : ends[3]],
        workspace[ends[3] : ends[4]],
        workspace[ends[4] : ends[5]],
        workspace[ends[5] : ends[6]],
        workspace[ends[6] : ends[7]],
        workspace[ends[7] : ends[8]],
        workspace[ends[8] : ends[9]],
        workspace[ends[9] : ends[10]],
        workspace[ends[10] : ends[11]],
        workspace[ends[11] : ends[12]],
        workspace[ends[12] : ends[13]],
        workspace[ends[13] : ends[14]],
        workspace[ends[14] : ends[15]],
        scratch(layout.widest),
        np.zeros((count, outputs)),
        np.zeros((count, outputs)),
        np.zeros((count, outputs)),
        np.zeros((count, outputs)),
        np.zeros((count, outputs)),
        np.zeros((count, outputs)),
        np.zeros(terms),
        np.zeros(pair),
    )


@jit_creating_part
def set_constants(layout, parameters, task, minibatch, state):
    """What the loops need of the feedforward state; the constants are computed in float64."""
    samples = minibatch.gap.shape[0]
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        size, start = state.count * stride, planes_start(layout, state, i)
        exact = np.zeros(4 * size)
        for s in range(state.count):
            dense = layout.dense[i] * samples + (state.first + s) * n
            move(n, exact, 3 * size + s * stride, minibatch.v_ff, dense)
            if task.needs_start:
                move(n, state.start, start + s * stride, minibatch.v_ff, dense)
                move(n, state.start, start + size + s * stride, minibatch.r_ff, dense)
        run_constants(parameters.loops.constants[i], size, exact, 0, exact, 3 * size)
        for shift in exact[2 * size : 3 * size]:
            state.saturated[i] |= shift != 0.0
        move(3 * size, state.constants, start, exact, 0)
        if task.needs_start:
            evaluate_unit(
                layout, state, parameters.loops.derivative[i], i, state.start, start + 2 * size, state.v
            )


@jit_part
def evaluate_unit(layout, state, loop, i, out, out_start, v):
    """out = a formula of layer i's units at the present state; v: their somatic voltages."""
    planes = planes_start(layout, state, i)
    reference = planes if state.start.size > 0 else 0
    run_unit(
        loop, state.count * layout.stride[i], out, out_start, v, layer_start(layout, state, i),
        state.basal, basal_start(layout, state, i), state.apical, apical_start(layout, state, i),
        state.constants, planes, state.start, reference,
    )  # fmt: skip
