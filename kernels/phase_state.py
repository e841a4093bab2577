"""What a feedback phase is made of: its inputs and results as named tuples, and the state of one shard.

Named tuples of arrays and numbers are what the Python layer hands to `feedback_phase.run_shard`; `Shard` is everything that
evolves in a shard, in the places that `memory_plan` gives it.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit_creating_part, jit_part
from dfc_numba.kernels.memory_plan import EACH, NOTHING, SHARED, Needs, Places, plan_of_shard
from dfc_numba.kernels.noise import scratch
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.shared_dynamics import NO_NOISE, NoiseDraws, Simulated
from dfc_numba.kernels.units import run_constants, run_unit

NO_READOUT, AVERAGE, FINAL = 0, 1, 2


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
    noise: NoiseDraws


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


class ShardMemory(NamedTuple):
    """What evolves in a shard, by `memory_plan`."""

    work: np.ndarray
    signals: np.ndarray
    draws: np.ndarray  # scratch of the random numbers


class Shard(NamedTuple):
    """One shard: its samples, where things lie, and what evolves."""

    samples: Simulated
    places: Places
    layers: np.ndarray  # of `memory_plan.LAYER`
    slots: int  # of rates and factors
    block: int  # steps whose products for the updates are taken together
    memory: ShardMemory
    saturated: np.ndarray  # (L+1,) whether a layer has units that need the third constant


def drives_directly(dynamics, noise):
    """Return whether the apical voltage is the feedback Q_i u itself: instantaneous, and without noise."""
    return dynamics.apical_gain == 1.0 and noise.source == NO_NOISE


def shard_plan(sizes, dtype, dynamics, task, noise, count):
    """Return the `ShardPlan` of `count` samples: each layer keeps what is needed beyond its own step, no more."""
    direct, noisy = drives_directly(dynamics, noise), noise.source != NO_NOISE
    records, jacobian = task.record_every > 0, dynamics.jacobian_feedback
    last = task.readout == FINAL and task.factor_moves and not task.factor_is_rate
    by_formula = task.learn_feedback and task.feedback_factor
    apical = not direct or task.learn_feedback or records or jacobian or last
    needs = Needs(
        average=task.readout == AVERAGE,
        basal=EACH if task.readout == FINAL or records or by_formula else SHARED,
        apical=EACH if apical else SHARED,
        drive=NOTHING if direct else EACH if jacobian else SHARED,
        noise=EACH if noisy and dynamics.noise_keep >= 0.0 else NOTHING,
        draws=noisy,
        reference=task.needs_start,
        presynaptic=task.presynaptic,
        feedback=task.learn_feedback,
        scratch=task.records_formulas,
        terms=dynamics.control_loop != 0,
        pair=task.feedback_signal != 0,
    )
    return plan_of_shard(tuple(sizes), np.dtype(dtype).str, needs, count)


@jit_creating_part
def new_shard(layout, plan, minibatch, first, workspace):
    """Return the feedforward state of the plan's samples from `first` on, all deviations zero."""
    fill(plan.length, workspace, 0, 0.0)
    return Shard(
        Simulated(first, minibatch.active),
        plan.places,
        plan.layers,
        plan.slots,
        plan.block,
        ShardMemory(workspace, np.zeros(plan.signals), scratch(layout.widest)),
        np.zeros(layout.sizes.size, np.bool_),
    )


@jit_creating_part
def set_constants(parameters, task, minibatch, shard):
    """Write what the loops need of the feedforward state; the constants are computed in float64."""
    work, count, samples = shard.memory.work, shard.places.count, minibatch.gap.shape[0]
    for i in range(1, shard.layers.size):
        layer = shard.layers[i]
        n, stride = layer.units, layer.stride
        size = count * stride
        exact = np.zeros(4 * size)
        for s in range(count):
            dense, row = layer.dense * samples + (shard.samples.first + s) * n, s * stride
            move(n, exact, 3 * size + row, minibatch.v_ff, dense)
            if task.needs_start:
                move(n, work, layer.reference + row, minibatch.v_ff, dense)
                move(n, work, layer.reference + size + row, minibatch.r_ff, dense)
        run_constants(parameters.loops.constants[i], size, at(exact, 0), at(exact, 3 * size))
        for shift in exact[2 * size : 3 * size]:
            shard.saturated[i] |= shift != 0.0
        move(3 * size, work, layer.constants, exact, 0)
        if task.needs_start:
            evaluate_unit(shard, layer, parameters.loops.derivative[i], layer.reference + 2 * size)


@jit_part
def evaluate_unit(shard, layer, loop, out):
    """Write a formula of a layer's units at the present state to the place `out`."""
    work, size = shard.memory.work, shard.places.count * layer.stride
    v, basal, apical = at(work, layer.v), at(work, layer.basal), at(work, layer.apical)
    run_unit(
        loop, size, at(work, out), v, basal, apical, at(work, layer.constants), at(work, layer.reference)
    )
