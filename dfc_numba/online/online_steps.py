"""One online simulation: how it runs through segments, what it keeps on the way, and what it leaves."""

import numpy as np

from dfc_numba.kernels import online_state as kernel
from dfc_numba.kernels import units
from dfc_numba.kernels.online import run_steps, settle
from dfc_numba.kernels.shared_dynamics import KEYED_NOISE, Simulated
from dfc_numba.model.activations import addresses
from dfc_numba.model.unit_formulas import NOISE_DRIVEN
from dfc_numba.online.online_memory import OnlineMemory, OnlineState
from dfc_numba.online.records import Recorder, WeightRecorder
from dfc_numba.support.validation import instance

STEP_LIMIT = 2**32  # of the running number that keys the noise
BLOCK_WORK = 2e9  # floating-point operations between two returns to Python, which sees interrupts


class Simulation:
    """The steps of one call.

    Attributes:
        steps: how many were taken. diverged: whether a voltage has become non-finite.
        memory: an `OnlineMemory`, in which nothing is pending between two segments.
    """

    def __init__(self, phase, learning, rule, feedback_rule, state, total, record, record_weights):
        """Prepare the steps.

        Args:
            rule, feedback_rule: the `PlasticityRule` of the forward and of the feedback weights.
        """
        self.steps, self.diverged = 0, False
        self._presynaptic = rule.presynaptic_formula
        self.memory = OnlineMemory(
            phase.network, phase.places, phase.count,
            transposed=phase.controller.jacobian_feedback, presynaptic=learning.presynaptic,
        )  # fmt: skip
        if state is not None:
            self.memory.resume(instance("state", state, OnlineState))
        self._total, self._dt = total, phase.controller.dt
        self._first_step = int(self.memory.arrays.clock[kernel.STEP])
        self._network = phase.network.copy()
        self._recorder = Recorder(record, phase.network, phase.count, total)
        loops = _loops(phase.network, rule, feedback_rule, self._recorder.formulas)
        samples = Simulated(0, np.ones(phase.count, np.bool_))
        self._plan = kernel.OnlinePlan(
            self.memory.places, loops, phase.dynamics, learning, phase.minibatch.noise, samples
        )
        self._weights = None
        if record_weights is not None:
            self._weights = WeightRecorder(record_weights, phase.network, total)

    def run(self, segment, *, restarts):
        """Simulate a segment, as far as the number of steps allows, and apply what it has taught the weights."""
        end = segment.steps if self._total is None else min(segment.steps, self._total - self.steps)
        self._check_step_numbers(end)
        target = segment.resolved(self.current_network)
        packed = _packed_segment(segment, target, self._plan.learning, self._presynaptic, restarts)
        done = 0
        while done < end and not self.diverged:
            self._keep_weights()
            taken, finite = run_steps(
                self.memory.arrays, self._plan, packed, self._recorder.records, self._recorder.every, done,
                self._block(end - done), self.steps,
            )  # fmt: skip
            self.steps, done, self.diverged = self.steps + taken, done + taken, not finite
        self._settle(packed)

    def _check_step_numbers(self, steps):
        end = self._first_step + self.steps + steps
        if self._plan.noise.source == KEYED_NOISE and end >= STEP_LIMIT:
            raise ValueError(
                f"the noise is keyed by the number of the step, which would reach {STEP_LIMIT}; end before with steps=, and "
                "continue with another seed from dataclasses.replace(run.state, step=0)"
            )

    def _block(self, steps):
        """Return the number of steps to take at a time: not too many, and none beyond a recording of the weights."""
        work = 4.0 * self.memory.places.count * self._network.n_parameters + 1e4
        block = min(steps, max(1, int(BLOCK_WORK / work)))
        return block if self._weights is None else min(block, self._weights.next_step - self.steps)

    def _keep_weights(self):
        """Keep the weights if it is time for it, without a trace in the simulation."""
        if self._weights is not None and self.steps == self._weights.next_step:
            settled, depth = self.memory.copy(), self.memory.places.depth
            settle(settled.arrays, self._plan, depth, depth)
            self._weights.keep(settled.write_to(self._network))

    def _settle(self, packed):
        """Apply what is pending; after a divergence, only what a held first layer has learned before."""
        depth = self.memory.places.depth
        if self.diverged:
            settle(self.memory.arrays, self._plan, int(packed.still), 0)
        else:
            self._keep_weights()
            settle(self.memory.arrays, self._plan, depth, depth)
        self.memory.arrays.clock[kernel.PENDING] = 0

    def current_network(self):
        """Return the network between two segments; the next call overwrites its arrays."""
        return self.memory.write_to(self._network)

    def trajectory(self):
        """Return the `Trajectory` of what was recorded, or None."""
        return self._recorder.trajectory(self.steps, self._first_step, self._dt)

    def weights(self):
        """Return the `WeightTrajectory` of what was kept, or None."""
        return None if self._weights is None else self._weights.trajectory(self._first_step, self._dt)


def _loops(network, rule, feedback_rule, formulas):
    """Return the loops of all layers; formulas: those of the recorded variables."""
    dtype = network.dtype
    step = addresses(network, units.online_step_loop, dtype, rule.postsynaptic, rule.presynaptic_formula)
    derivative, *variables = (
        addresses(network, units.online_unit_loop, dtype, formula)
        for formula in (units.slope_at_soma, *formulas)
    )
    factor = np.zeros_like(step)
    if feedback_rule.name != NOISE_DRIVEN:
        factor = addresses(network, units.online_unit_loop, dtype, feedback_rule.postsynaptic)
    variables = np.array(variables, np.int64).reshape(-1, len(step)).T.copy()
    return kernel.OnlineLoops(step, derivative, factor, variables)


def _packed_segment(segment, target, learning, presynaptic, restarts):
    """Return a segment in flat arrays; W_1 learns at every step if held inputs have fewer samples than inputs."""
    x, gram = segment.x, np.zeros(0)
    seen = x if presynaptic is None else np.broadcast_to(presynaptic(x), x.shape).astype(x.dtype)
    moves, (count, inputs) = len(x) > 1, x.shape[1:]
    still = not moves and (count <= inputs or not learning.weights)
    if still:
        held, factors = x[0].astype(np.float64), seen[0].astype(np.float64)
        gram = np.einsum("ik,jk->ij", held, factors).ravel() + learning.biases
    seen = _flat(seen) if presynaptic is not None else np.zeros(0, x.dtype)
    return kernel.PackedSegment(_flat(x), seen, _flat(target), moves, len(target) > 1, still, gram, restarts)


def _flat(array):
    """Return the array as one type whatever it came from, so that nothing compiles again."""
    return np.require(array.ravel(), requirements="W")
