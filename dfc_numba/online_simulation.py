"""One online simulation in the form that the kernels take: what it begins from, runs, keeps, and leaves."""

from dataclasses import dataclass

import numpy as np

from dfc_numba import memory
from dfc_numba.kernels import online_state as kernel
from dfc_numba.kernels.layout import pack, unpack
from dfc_numba.kernels.noise import scratch
from dfc_numba.kernels.online import run_steps, settle
from dfc_numba.kernels.phase_state import KEYED_NOISE
from dfc_numba.online_records import Recorder, WeightRecorder
from dfc_numba.validation import floats, instance

# variables of the state, and their names in the kernel: of the layers, and of the controller
LAYER_STATE = {"v_ff": "basal", "difference": "difference", "v_fb": "apical", "noise": "noise", "r": "rate"}
OUTPUT_STATE = ("u", "u_int", "u_filtered", "u_slow")
STEP_LIMIT = 2**32  # of the running number that keys the noise
BLOCK_WORK = 2e9  # floating-point operations between two returns to Python, which sees interrupts


@dataclass(frozen=True)
class OnlineState:
    """Where an online simulation of B samples was left, beside the weights: what the next one needs to continue it.

    Attributes:
        step: Euler steps since the very first. age: the same since the last restart.
        v_ff, v_fb, r: lists of (B, n_i) basal and apical voltages, and rates. difference: v - v_ff. noise: its filter.
        u, u_int: (B, n_L) control signal and integral part. u_filtered: what `tau_control` makes of u.
        u_slow: what `high_pass` subtracts from u.
    """

    step: int
    age: int
    v_ff: list
    difference: list
    v_fb: list
    r: list
    noise: list
    u: np.ndarray
    u_int: np.ndarray
    u_filtered: np.ndarray
    u_slow: np.ndarray


class Simulation:
    """One call: the kernel's memory, what is recorded, and how far it has come."""

    def __init__(self, phase, learning, state, total, record, record_weights):
        self.phase, self.total = phase, total
        self.steps, self.diverged = 0, False
        self._network = phase.network.copy()
        self._memory, places = _new_memory(phase)
        self._plan, self._noise = kernel.Plan(places, phase.dynamics, learning), _noise(phase)
        _write_parameters(self._memory, phase)
        if state is not None:
            self._resume(instance("state", state, OnlineState))
        self._first_step = int(self._memory.clock[kernel.STEP])
        self._recorder = Recorder(record, phase.network, phase.count, total)
        weights = record_weights is not None
        self._snapshots = WeightRecorder(record_weights, phase.network, total) if weights else None

    def run(self, segment, *, restarts):
        """Simulate a segment, as far as the number of steps allows, and apply what it has taught the weights."""
        end = segment.steps if self.total is None else min(segment.steps, self.total - self.steps)
        self._check_step_numbers(end)
        target = segment.resolved(self.current_network)
        packed = _packed_segment(segment, target, self._plan.learning, restarts)
        done = 0
        while done < end and not self.diverged:
            self._keep_weights()
            taken, finite = run_steps(
                self._memory, self._plan, self._noise, packed, self._recorder.records, self._recorder.every,
                done, self._block(end - done), self.steps,
            )  # fmt: skip
            self.steps, done, self.diverged = self.steps + taken, done + taken, not finite
        self._settle(packed)

    def _check_step_numbers(self, steps):
        end = self._first_step + self.steps + steps
        if self._noise.source == KEYED_NOISE and end >= STEP_LIMIT:
            raise ValueError(
                f"the noise is keyed by the number of the step, which would reach {STEP_LIMIT}; end before with steps=, and "
                "continue with another seed from dataclasses.replace(run.state, step=0)"
            )

    def _block(self, steps):
        """Steps to take at a time: not too many, and none beyond a look at the weights."""
        work = 4.0 * self.phase.count * self._network.n_parameters + 1e4
        block = min(steps, max(1, int(BLOCK_WORK / work)))
        return block if self._snapshots is None else min(block, self._snapshots.next_step - self.steps)

    def _keep_weights(self):
        """Keep the weights if it is time for it, without a trace in the simulation."""
        if self._snapshots is not None and self.steps == self._snapshots.next_step:
            memory = self._memory._replace(work=self._memory.work.copy())
            settle(memory, self._plan, self._depth, self._depth)
            self._snapshots.keep(self._unpacked(memory))

    def _settle(self, packed):
        """Apply what is pending. After a divergence, only what a held first layer has learned before the last step."""
        first, last = self._layer(1), slice(self._plan.places.last_factor, None)
        if self.diverged:
            self._memory.work[last][: self.phase.count * first.stride] = 0
            settle(self._memory, self._plan, int(packed.still), 0)
        else:
            self._keep_weights()
            settle(self._memory, self._plan, self._depth, self._depth)
        self._memory.clock[kernel.PENDING] = 0
        for i in range(1, self._depth + 1):
            self._rows("pending", i)[:] = 0

    @property
    def _depth(self):
        return self._plan.places.depth

    def current_network(self):
        """The network as it is between two segments; the next call writes its arrays anew."""
        return self._unpacked(self._memory)

    def _unpacked(self, memory):
        network = self._network
        for i in range(1, self._depth + 1):
            layer = self._layer(i)
            weights, feedback = memory.work[layer.weights :], memory.work[layer.feedback :]
            network.weights[i - 1][...] = unpack(weights, layer.inputs, layer.units).T
            network.feedback[i - 1][...] = unpack(feedback, self._plan.places.outputs, layer.units).T
            if network.biases is not None:
                network.biases[i - 1][...] = memory.work[layer.biases :][: layer.units]
        return network

    def _layer(self, i):
        return kernel.Layer(*map(int, self._memory.layers[i]))

    def _rows(self, field, i):
        """An array of layer i as (B, n_i), a view into the kernel's memory; of rates, those of the last step."""
        layer, count = self._layer(i), self.phase.count
        start = getattr(layer, field) + (
            layer.slot * int(self._memory.clock[kernel.STEP] % 2) if field == "rate" else 0
        )
        return self._memory.work[start:][: count * layer.stride].reshape(count, layer.stride)[
            :, : layer.units
        ]

    def _outputs(self, field):
        """A variable of the controller as (B, n_L), a view into the kernel's memory."""
        start, shape = getattr(self._plan.places, field), (self.phase.count, self._plan.places.outputs)
        return self._memory.control[start:][: shape[0] * shape[1]].reshape(shape)

    def _resume(self, state):
        """Fill in an `OnlineState`."""
        count, sizes, dtype = self.phase.count, self.phase.network.sizes, self.phase.network.dtype
        self._memory.clock[: kernel.PENDING] = state.step, state.age
        for name, field in LAYER_STATE.items():
            for i, n in enumerate(sizes[1:]):
                rows = floats(f"state.{name}[{i}]", getattr(state, name)[i], (count, n), dtype=dtype)
                self._rows(field, i + 1)[...] = rows
        for name in OUTPUT_STATE:
            self._outputs(name)[...] = floats(f"state.{name}", getattr(state, name), (count, sizes[-1]))

    def state(self):
        """The `OnlineState` of now, between two segments."""
        layers = {
            name: [self._rows(field, i).copy() for i in range(1, self._depth + 1)]
            for name, field in LAYER_STATE.items()
        }
        outputs = {name: self._outputs(name).copy() for name in OUTPUT_STATE}
        step, age, _ = map(int, self._memory.clock)
        return OnlineState(step=step, age=age, **layers, **outputs)

    def trajectory(self):
        """The `Trajectory` of what was recorded, or None."""
        return self._recorder.trajectory(self.steps, self._first_step, self.phase.controller.dt)

    def weights(self):
        """The `WeightTrajectory` of what was kept, or None."""
        if self._snapshots is None:
            return None
        return self._snapshots.trajectory(self._first_step, self.phase.controller.dt)


# --- the kernel's arrays -------------------------------------------------------------------------------------------------


def _new_memory(phase):
    """(Memory of zeros, `Places` in it)."""
    network, dtype = phase.network, phase.network.dtype
    families, _ = network.activation_codes(dtype)
    layers, places, work, control = kernel.arrange(
        phase.places, families, phase.count, phase.controller.jacobian_feedback
    )
    work = memory.in_large_pages(work, dtype)
    work[:] = 0
    return kernel.Memory(work, np.zeros(control), np.zeros(3, np.int64), layers), places


def _write_parameters(memory, phase):
    """Write the network's parameters into the memory, the weights packed."""
    network, strides, dtype = phase.network, phase.places.stride, phase.network.dtype
    _, slopes = network.activation_codes(dtype)

    def write(start, flat):
        memory.work[start : start + len(flat)] = flat

    for i, row in enumerate(memory.layers[1:], 1):
        layer = kernel.Layer(*map(int, row))
        memory.work[layer.slope] = slopes[i]
        write(layer.weights, pack([network.weights[i - 1]], [layer.stride], dtype))
        write(layer.feedback, pack([network.feedback[i - 1]], [layer.stride], dtype))
        if network.biases is not None:
            write(layer.biases, network.biases[i - 1])
        if phase.controller.jacobian_feedback and i < len(strides) - 1:
            write(layer.transposed, pack([network.weights[i].T], [layer.stride], dtype))


def _noise(phase):
    minibatch = phase.minibatch
    return kernel.Noise(
        minibatch.noise_source, minibatch.noise_key, minibatch.noise_samples, minibatch.noise_given,
        phase.controller.time_points, scratch(phase.places.widest),
    )  # fmt: skip


def _packed_segment(segment, target, learning, restarts):
    """A segment in flat arrays. Held inputs of more samples than inputs are no saving, so W_1 learns at every step then."""
    moves, (count, inputs) = len(segment.x) > 1, segment.x.shape[1:]
    still = not moves and (count <= inputs or not learning.weights)
    gram = np.zeros(0)
    if still:
        x = segment.x[0].astype(np.float64)
        gram = np.einsum("ik,jk->ij", x, x).ravel() + learning.biases
    target_moves = len(target) > 1
    x, target = (
        np.require(array.ravel(), requirements="W") for array in (segment.x, target)
    )  # one type of array
    return kernel.Segment(x, target, moves, target_moves, still, gram, restarts)
