"""What an online simulation is made of: what learns and how fast, the pieces of its stream, and what is recorded.

Everything that changes lies in `Memory`, in the places that `memory_plan` gives it: parameters and state of all layers in one
array, so that a copy of it is a copy of all. The one shard is the whole minibatch, since all samples change the same weights
at every step. Rates, inputs and control signals have two slots, of which the number of the step chooses one: what the last
step left, and what this one makes.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.memory_plan import Places
from dfc_numba.kernels.shared_dynamics import Dynamics, NoiseDraws, Simulated

# places in the clock: number of the step, steps since a restart, whether updates are pending
STEP, AGE, PENDING = 0, 1, 2


class OnlineLoops(NamedTuple):
    """Addresses of the loops of each layer, see `units`; (L+1,) each, index 0 is unused."""

    step: np.ndarray  # `units.online_step_loop`
    derivative: np.ndarray  # `units.online_unit_loop` of phi'(v)
    factor_of_feedback: np.ndarray  # of the feedback weights' postsynaptic factor; 0: v_fb
    variables: np.ndarray  # (L+1, number of recorded variables that are formulas)


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
    loops: OnlineLoops
    dynamics: Dynamics
    learning: Learning
    noise: NoiseDraws
    samples: Simulated  # all of them


class Memory(NamedTuple):
    """All that changes, and where it is."""

    work: np.ndarray
    signals: np.ndarray
    clock: np.ndarray
    layers: np.ndarray  # of `memory_plan.LAYER`
    draws: np.ndarray  # scratch of the random numbers


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
    )  # flat (B, B), float64: products of the held inputs with their presynaptic factors, + 1 for the bias
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
