"""What an online simulation is made of: one piece of memory for everything that changes, and where things lie in it.

Everything in the network's dtype lies in one array `work`: parameters and state of all layers; the controller has another,
`control`, in float64. Named tuples of numbers say where, so that the steps of a small network are not spent on counting
references, and a copy of one array is a copy of all. Rows of units are padded as in `layout`; the one shard is the whole
minibatch, since all samples change the same weights at every step. Rates, inputs and control signals have two slots, of
which the number of the step chooses one: what the last step left, and what this one makes.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.jit import jit_part
from dfc_numba.kernels.phase_state import Dynamics

# places in the clock: number of the step, steps since a restart, whether updates are pending
STEP, AGE, PENDING = 0, 1, 2
PAIR_LENGTH = 16  # numbers that a formula of u and u_slow takes at a time


class Layer(NamedTuple):
    """A layer i = 1..L: sizes, and starts of its arrays in `work`; of those with slots, the first slot's."""

    number: int
    units: int
    stride: int
    inputs: int  # units of the layer below
    step: int  # address of its `units.online_step_loop`
    derivative: int  # of the `units.online_unit_loop` of phi'(v)
    factor_of_feedback: int  # of that of the feedback weights' postsynaptic factor; 0: v_fb
    weights: int
    biases: int  # a padded row, zero for a network without
    feedback: int
    transposed: int  # W_{i+1}^T, in use if the feedback is the Jacobian's
    basal: int
    difference: int  # v - v_ff
    apical: int
    noise: int  # state of the noise's filter
    rate: int
    slot: int  # distance of its slots
    below: int  # rates of the layer below, or the input
    below_stride: int
    below_slot: int
    seen: (
        int  # presynaptic factors of the layer above: the rates, or a formula of them; slots as of the rates
    )
    seen_below: int
    pending: int  # factors of the update that W_i and b_i have yet to receive
    pending_feedback: int  # the same for Q_i
    drive: int  # Q_i u, in scratch that all layers share, or J_i^T u
    dense: int  # units per sample before it, without padding


class Places(NamedTuple):
    """Sizes of the whole, starts of what belongs to no layer, and scratch that the layers share."""

    count: int  # samples
    depth: int
    inputs: int
    outputs: int
    stride: int  # of control signals
    input: int  # [slot][sample][unit], rows without padding
    signal: int  # [slot][sample][output] what the feedback weights learn from
    seen: int  # [slot][sample][unit] presynaptic factors of the input, which may be the input itself
    sent: int  # [sample][output] control signal that the layers receive
    held: int  # W_1 x + b_1 at the start of a segment with a held input
    last_factor: int  # of the first layer, while its input is held
    total: int  # new basal voltage of a layer
    derivative: int
    draw: int
    watch: int  # zeros, NaN once a voltage was not finite
    widest: int  # its length
    # in `control`, [sample][output]
    u: int
    u_int: int
    u_filtered: int
    u_slow: int
    error: int
    output: int  # r_L, or log softmax(r_L)
    pair: int  # a few numbers each of u, u_slow and a formula of them


class Learning(NamedTuple):
    """What learns, and how fast; gains are dt / tau, those of the products divided by the number of samples."""

    weights: bool
    biases: bool
    feedback: bool
    presynaptic: bool  # the presynaptic factor of the forward weights is a formula of the rate
    feedback_signal: (
        int  # address of that of the feedback weights as a formula of u and u_slow; 0: u - u_slow
    )
    weight_gain: float
    feedback_gain: float
    feedback_keep: float  # 1 - dt / tau_Q beta
    high_pass_gain: float  # dt / tau_f, or 0 for the control signal as it is


class OnlinePlan(NamedTuple):
    """All that stays the same."""

    places: Places
    dynamics: Dynamics
    learning: Learning


class Memory(NamedTuple):
    """All that changes, and the numbers of `Layer` as a table, one row per layer after an empty one."""

    work: np.ndarray
    control: np.ndarray
    clock: np.ndarray
    layers: np.ndarray


class OnlineNoise(NamedTuple):
    """Where draws come from."""

    source: int
    key: int  # uint64
    samples: np.ndarray  # (B,) uint64 numbers that tell the samples apart
    given: np.ndarray  # flat [layer][time][sample][unit]
    times: int  # time points of the given draws
    scratch: np.ndarray


class PackedSegment(NamedTuple):
    """A piece of the stream: flat arrays [time][sample][unit], with one time where the value is held."""

    x: np.ndarray
    seen: np.ndarray  # presynaptic factors of x; empty where they are x itself
    target: np.ndarray  # float64
    x_moves: bool
    target_moves: bool
    still: bool  # what W_1 learns is kept as a sum of factors, since the input is held
    gram: (
        np.ndarray
    )  # flat (B, B) products of the held inputs with their presynaptic factors, + 1 for the bias; float64
    restarts: bool  # whether it begins at the feedforward state of its first input


class OnlineRecords(NamedTuple):
    """Recorded trajectories; those of layers are flat `[layer][time][sample][unit]`, empty where not asked for."""

    row: np.ndarray  # (B,) place of a sample among the recorded ones, or -1
    count: int  # recorded samples
    times: int  # recorded time points
    u: np.ndarray
    u_int: np.ndarray
    error: np.ndarray
    v: np.ndarray
    v_ff: np.ndarray
    v_fb: np.ndarray
    r: np.ndarray
    formulas: np.ndarray  # flat [variable][layer][time][sample][unit]
    variables: np.ndarray  # (L+1, number of them) addresses of their `units.online_unit_loop`


@jit_part
def layer_at(layers, i):
    """The numbers of layer i."""
    return Layer(
        layers[i, 0], layers[i, 1], layers[i, 2], layers[i, 3], layers[i, 4], layers[i, 5], layers[i, 6], layers[i, 7],
        layers[i, 8], layers[i, 9], layers[i, 10], layers[i, 11], layers[i, 12], layers[i, 13], layers[i, 14], layers[i, 15],
        layers[i, 16], layers[i, 17], layers[i, 18], layers[i, 19], layers[i, 20], layers[i, 21], layers[i, 22],
        layers[i, 23], layers[i, 24], layers[i, 25],
    )  # fmt: skip


class _Allocator:
    """Hands out consecutive pieces of an array."""

    def __init__(self):
        self.size = 0

    def __call__(self, length):
        start, self.size = self.size, self.size + int(length)
        return start


def arrange(layout, loops, count, jacobian_feedback, presynaptic):
    """(table of layers, Places, length of `work`, length of `control`) for a network and a number of samples.

    Args:
        loops: (step, derivative, factor_of_feedback) of each layer 1..L, addresses. presynaptic: whether formulas of the
            rates are kept beside them.
    """
    work, control = _Allocator(), _Allocator()
    sizes, strides, depth = layout.sizes, layout.stride, len(layout.sizes) - 1
    widest, signals, outputs = count * layout.widest, count * int(strides[depth]), int(sizes[depth])
    shared = {name: work(widest) for name in ("total", "derivative", "draw", "drive")}
    inputs = work(2 * count * sizes[0])
    places = Places(
        count, depth, int(sizes[0]), outputs, int(strides[depth]),
        input=inputs, signal=work(2 * signals), seen=work(2 * count * sizes[0]) if presynaptic else inputs, sent=work(signals),
        held=work(count * strides[1]), last_factor=work(count * strides[1]),
        total=shared["total"], derivative=shared["derivative"], draw=shared["draw"],
        watch=work(layout.widest), widest=layout.widest,
        **{name: control(count * outputs) for name in ("u", "u_int", "u_filtered", "u_slow", "error", "output")},
        pair=control(3 * PAIR_LENGTH),
    )  # fmt: skip
    below = places.input, sizes[0], count * sizes[0], places.seen
    layers = [Layer(*[0] * len(Layer._fields))]
    for i in range(1, depth + 1):
        size, rate = count * strides[i], work(2 * count * strides[i])
        above = sizes[i + 1] if jacobian_feedback and i < depth else 0
        layer = Layer(
            i, sizes[i], strides[i], sizes[i - 1], *loops[i - 1],
            weights=work(strides[i] * sizes[i - 1]), biases=work(strides[i]), feedback=work(strides[i] * outputs),
            transposed=work(strides[i] * above), basal=work(size), difference=work(size), apical=work(size),
            noise=work(size), rate=rate, slot=size, below=below[0], below_stride=below[1], below_slot=below[2],
            seen=work(2 * size) if presynaptic else rate, seen_below=below[3],
            pending=work(size), pending_feedback=work(size), drive=work(size) if jacobian_feedback else shared["drive"],
            dense=layout.dense[i],
        )  # fmt: skip
        layers.append(layer)
        below = layer.rate, layer.stride, layer.slot, layer.seen
    return np.array(layers, np.int64), places, work.size, control.size
