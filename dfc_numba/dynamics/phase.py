"""One feedback phase, prepared for the kernels and run: shards over threads, sums in the order of a tree."""

import warnings
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import log_softmax

from dfc_numba.errors import DivergenceWarning
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels import shared_dynamics as shared
from dfc_numba.kernels import units
from dfc_numba.kernels.feedback_phase import run_shard
from dfc_numba.kernels.layout import Layout, dense_views, layout, pack, padded_rows
from dfc_numba.kernels.multiply import add_outer
from dfc_numba.model.activations import addresses
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import feedforward_state
from dfc_numba.model.noise_key import as_key, given_draws
from dfc_numba.model.products import shards_of
from dfc_numba.model.unit_formulas import NOISE_DRIVEN, PlasticityRule
from dfc_numba.registry import ACTIVATIONS, PLASTICITY_RULES
from dfc_numba.support import memory, ranks, threads
from dfc_numba.support.summation import TreeSum
from dfc_numba.support.validation import instance, samples, silent

NAMED = 3  # samples in a message
CONTROL_REMEDY = (
    "a smaller controller.k_p or target.step, a larger controller.alpha, or a smaller controller.dt where the Euler step is "
    "to blame"
)
CONVERGED_RESIDUAL = 1e-5  # of the norm of the feedforward output (published value)


@dataclass(frozen=True)
class Phase:
    """A minibatch, a network and a controller in the form that the kernels take."""

    network: object
    controller: object
    x: np.ndarray
    places: Layout
    parameters: kernel.PackedNetwork
    dynamics: shared.Dynamics
    minibatch: kernel.PhaseInputs
    seen: list | None = None

    @property
    def count(self):
        """Number of samples."""
        return len(self.x)

    @property
    def presynaptic_factors(self):
        """The presynaptic factors of each layer in the feedforward state: rates below, or formulas of them."""
        return [self.x, *self.feedforward_rates[:-1]] if self.seen is None else self.seen

    @property
    def feedforward_rates(self):
        """r of every layer in the feedforward state, list of (B, n_i) in float64."""
        return dense_views(self.minibatch.r_ff, self.count, self.network.sizes)

    def without(self, inactive):
        """Return the same phase, with the samples of a boolean mask held at their feedforward state."""
        minibatch = self.minibatch._replace(active=self.minibatch.active & ~inactive)
        return replace(self, minibatch=minibatch)

    def of_samples(self, chosen):
        """Return the same phase of some samples only, given by their numbers."""
        minibatch, sizes = self.minibatch, self.network.sizes
        v_ff, r_ff = (
            np.concatenate([layer[chosen].ravel() for layer in dense_views(flat, self.count, sizes)])
            for flat in (minibatch.v_ff, minibatch.r_ff)
        )
        own = {name: getattr(minibatch, name)[chosen] for name in ("gap", "target", "active")}
        own["noise"] = minibatch.noise._replace(samples=minibatch.noise.samples[chosen])
        seen = None if self.seen is None else [rows[chosen] for rows in self.seen]
        minibatch = minibatch._replace(v_ff=v_ff, r_ff=r_ff, **own)
        return replace(self, x=self.x[chosen], minibatch=minibatch, seen=seen)

    def with_controller(self, controller):
        """Return the same phase under another controller."""
        noise = self.minibatch.noise._replace(times=controller.time_points)
        minibatch = self.minibatch._replace(noise=noise)
        return replace(self, controller=controller, dynamics=_dynamics(controller), minibatch=minibatch)


@dataclass(frozen=True)
class UpdateTask:
    """The results that are asked of a simulation, besides its dynamics.

    Attributes:
        readout: `kernel.AVERAGE`, `kernel.FINAL`, or `kernel.NO_READOUT` for no update of the forward weights.
        rule: the `PlasticityRule` of the forward weights. feedback_rule: that of the feedback weights, None for no update.
        high_pass_gain: dt / tau_f of the feedback rule's filter, 0 for none.
        variables: the `Variable` formulas that are recorded.
    """

    readout: int = kernel.NO_READOUT
    rule: PlasticityRule = PLASTICITY_RULES["nonlinear_difference"]
    feedback_rule: PlasticityRule | None = None
    high_pass_gain: float = 0.0
    variables: tuple = ()

    def assign(self, phase, record_every=0):
        """Return the phase with the loops that this task needs, and the task in the form that the kernels take."""
        rule, feedback_rule = self.rule, self.feedback_rule
        updates = self.readout != kernel.NO_READOUT
        by_formula = feedback_rule is not None and feedback_rule.name != NOISE_DRIVEN
        signal = feedback_rule.presynaptic_formula if by_formula else None
        formulas = [rule] * updates + [feedback_rule] * by_formula + [*self.variables]
        task = kernel.Task(
            readout=self.readout,
            factor_is_rate=rule.factor_is_rate,
            factor_moves=not rule.factor_is_linear,
            needs_start=any(formula.needs_start for formula in formulas),
            presynaptic=self.readout == kernel.AVERAGE and rule.presynaptic_formula is not None,
            learn_feedback=feedback_rule is not None,
            feedback_factor=by_formula,
            feedback_signal=0 if signal is None else units.signal_loop(signal),
            high_pass_gain=self.high_pass_gain,
            record_every=record_every,
            records_formulas=bool(self.variables),
        )
        parameters = phase.parameters._replace(loops=_loops(phase.network, self))
        presynaptic = None
        if rule.presynaptic_formula is not None:
            rates = [phase.x, *phase.feedforward_rates[:-1]]
            presynaptic = [evaluated(rule.presynaptic_formula, r) for r in rates]
        return replace(phase, parameters=parameters, seen=presynaptic), task


def evaluated(formula, rates):
    """Return a formula of r at an array of rates, in float64."""
    rates = np.asarray(rates, np.float64)
    return np.broadcast_to(formula(rates), rates.shape).astype(np.float64)


def prepare(network, x, target, controller, noise):
    """Check the arguments of a feedback phase and pack them.

    Raises:
        ValueError, TypeError: for shapes that do not fit, numbers that are not finite, noise that is missing.
    """
    x, activity = feedforward_state(network, x)
    target = samples("target", target, network.sizes[-1], count=len(x))
    instance("controller", controller, Controller)
    places = layout(network.sizes, network.dtype)
    minibatch = kernel.PhaseInputs(
        v_ff=np.concatenate([v.ravel() for v in activity.v]),
        r_ff=np.concatenate([r.ravel() for r in activity.r]),
        gap=target - activity.r[-1],
        target=target.copy(),  # writable whatever it came from: one type of arguments, one compilation
        active=np.ones(len(x), np.bool_),
        noise=_noise(network, controller, noise, len(x)),
    )
    parameters = _pack_parameters(network, places, controller.jacobian_feedback)
    return Phase(network, controller, x, places, parameters, _dynamics(controller), minibatch)


def _noise(network, controller, noise, count):
    """Return the noise in the form that the kernels take."""
    times, none = controller.time_points, np.zeros(0, network.dtype)
    no_key = np.uint64(0), np.zeros(count, np.uint64)
    key = as_key(noise)
    if noise is not None and key is None:
        shape = controller.time_points, count
        given = given_draws(noise, shape, network.sizes, network.dtype)
    if not controller.noisy:
        return shared.NoiseDraws(shared.NO_NOISE, *no_key, none, times)
    if noise is None:
        raise ValueError(
            f"the controller has sigma = {controller.sigma:g}, sigma_output = {controller.output_sigma:g}, but noise is "
            "None; pass noise=<int seed>, a NoiseKey or a list of draws, or set sigma to 0"
        )
    if key is not None:
        return shared.NoiseDraws(shared.KEYED_NOISE, key.word(), key.numbers(count), none, times)
    flat = np.concatenate([draws.ravel() for draws in given])  # [layer][time][sample][unit]
    return shared.NoiseDraws(shared.GIVEN_NOISE, *no_key, flat, times)


def _pack_parameters(network, places, transposed):
    dtype = network.dtype
    back = [w.T for w in network.weights[1:]]
    # the feedback phase needs no W_1, what it contributes does not change: its place is left as it is
    weights = memory.in_large_pages(places.weights[-1], dtype)
    pack(network.weights[1:], places.stride[2:], dtype, out=weights[places.weights[2] :])
    return kernel.PackedNetwork(
        loops=None,  # those of a task: `UpdateTask.assign`
        weights=weights,
        feedback=pack(network.feedback, places.stride[1:], dtype),
        transposed=pack(back, places.stride[1:-1], dtype) if transposed and back else np.zeros(0, dtype),
    )


def _loops(network, task):
    """Return the loops of all layers for a `UpdateTask`."""
    dtype, none = network.dtype, np.zeros(len(network.sizes), np.int64)
    rule, feedback_rule = task.rule, task.feedback_rule
    averages = task.readout == kernel.AVERAGE
    post, pre = (rule.postsynaptic, rule.presynaptic_formula) if averages else (None, None)
    # the basal voltage of the first layer stays, so phi(v) - phi(v_ff) is the deviation of its rate
    first = ACTIVATIONS[network.activations[0]].form, dtype, None if rule.factor_is_rate else post, pre
    steps = []
    for saturated in (False, True):
        step = partial(units.step_loop, saturated=saturated)
        steps.append(addresses(network, step, dtype, post, pre))
        steps[-1][1] = step(*first, first=averages)
    final = task.readout == kernel.FINAL
    by_formula = feedback_rule is not None and feedback_rule.name != NOISE_DRIVEN
    variables = [addresses(network, units.unit_loop, dtype, variable.formula) for variable in task.variables]
    return kernel.Loops(
        constants=addresses(network, units.constants_loop, dtype),
        step=steps[0],
        step_saturated=steps[1],
        derivative=addresses(network, units.derivative_loop, dtype),
        factor=addresses(network, units.unit_loop, dtype, rule.postsynaptic) if final else none,
        factor_of_feedback=addresses(network, units.unit_loop, dtype, feedback_rule.postsynaptic) if by_formula else none,
        variables=np.array(variables, np.int64).reshape(-1, len(none)).T.copy(),
    )  # fmt: skip


def _dynamics(controller):
    dt = controller.dt
    tau_apical = dt if controller.tau_apical is None else controller.tau_apical
    low_passed = controller.tau_noise is not None
    return shared.Dynamics(
        steps=controller.steps,
        dt=dt,
        alpha=controller.alpha,
        k_p=controller.k_p,
        soma_gain=1.0 if controller.instant_dynamics else dt / controller.tau_v,
        apical_gain=dt / tau_apical,
        control_gain=1.0 if controller.tau_control is None else dt / controller.tau_control,
        noise_gain=np.sqrt(dt) / (controller.tau_noise if low_passed else tau_apical),
        noise_keep=1.0 - dt / controller.tau_noise if low_passed else -1.0,
        sigma=controller.sigma,
        sigma_output=controller.output_sigma,
        instant_transmission=controller.transmission_is_instant,
        proactive=controller.proactive,
        softmax=controller.error == "softmax",
        jacobian_feedback=controller.jacobian_feedback,
        leak_integral=controller.leak == "integral",
        control_loop=controller.control_loop(),
    )


@dataclass(frozen=True)
class Sums:
    """The results of a run: sums over time in float64, `outer` sums over samples and time in the network's dtype.

    Attributes:
        factor, rate: lists of (B, n_i): summed (or last) factors, last deviations of the rates.
        u: (B, n_L) last control signal.
        outer: flat, see `Layout.outer_shard`: factor x rate of layers 2..L, summed over time; the first layer's rates below
            are constant. outer_feedback: flat, see `Layout`. Either is empty where it was not asked for.
        converged, diverged: (B,) booleans; None for a task that neither records nor has a readout.
    """

    factor: list
    rate: list
    u: np.ndarray
    outer: np.ndarray
    outer_feedback: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray


def run(phase, task, *, records=None, only_converged=False, steps=None):
    """Simulate all shards and sum up. With `only_converged`, samples that have not converged contribute nothing.

    Each shard is one of the `steps`, a `bars.Steps` that shows how far it is.
    """
    network, dtype = phase.network, phase.network.dtype
    records = no_records(phase.count, dtype) if records is None else records
    pieces = shards_of(network, phase.count)
    dense = phase.count * phase.places.dense[-1]
    u, empty = np.zeros((phase.count, network.sizes[-1])), np.zeros((1, 0), dtype)
    results = kernel.Results(np.zeros(dense), np.zeros(dense), u, empty, empty)
    plans, buffers = _plans(phase, task, pieces), ShardBuffers(phase, task)
    workspaces = memory.PerThread(max(plan.length for plan in plans.values()), dtype)
    total = TreeSum(len(pieces), release=buffers.give_back)
    flags = np.zeros((2, phase.count), np.bool_)  # converged, diverged
    judged = task.readout != kernel.NO_READOUT or task.record_every > 0

    def run_one(piece):
        first, count = pieces[piece]
        chosen, buffer = slice(first, first + count), buffers.take()
        own = buffers.results(results, buffer)
        simulate = partial(_run_shard, plan=plans[count], workspace=workspaces.array(), first=first)
        simulate(phase, task, own, records)
        if only_converged:
            flags[:, chosen] = _convergence(phase, results, chosen)
            if not flags[0, chosen].all():
                _clear(phase, own, buffer, chosen)
                again = task._replace(
                    record_every=0
                )  # what is recorded is the first run, in which all take part
                simulate(phase.without(~flags[0]), again, own, records)
        if task.readout == kernel.AVERAGE:
            add_feedforward_part(phase, own, chosen)
        total.put(piece, buffer)
        if steps is not None:
            steps.advance(len(pieces))

    weights = sum(w.size for w in network.weights[1:]) + sum(q.size for q in network.feedback)
    own = ranks.own(len(pieces))
    samples_here = sum(pieces[piece][1] for piece in own)
    ranks.clear(*records.recorded)
    threads.run(
        len(own), lambda k: run_one(own[k]), work=2.0 * phase.controller.steps * weights * samples_here
    )
    summed = ranks.complete(total, buffers.take)
    ranks.unite(results.factor, results.rate, u, flags, *records.recorded)
    if not only_converged:
        flags = _convergence(phase, results, slice(None)) if judged else (None, None)
    factor, rate = (dense_views(flat, phase.count, network.sizes) for flat in (results.factor, results.rate))
    outer, outer_feedback = buffers.parts(summed)
    return Sums(factor, rate, u, outer, outer_feedback, *flags)


class ShardBuffers:
    """Memory for the sums of shards, used again: what a shard adds up, `outer` and `outer_feedback` side by side."""

    def __init__(self, phase, task):
        places, self._dtype, self._free = phase.places, phase.network.dtype, deque()
        self._outer = int(places.outer_shard[-1]) if task.readout == kernel.AVERAGE else 0
        self._length = self._outer + (int(places.outer_feedback[-1]) if task.learn_feedback else 0)

    def take(self):
        """Return a buffer of zeros."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = memory.in_large_pages(self._length, self._dtype)
        buffer.fill(0)
        return buffer

    def give_back(self, buffer):
        self._free.append(buffer)

    def parts(self, buffer):
        """Return (outer, outer_feedback)."""
        return buffer[: self._outer], buffer[self._outer :]

    def results(self, results, buffer):
        """Return the results, with the sums of a shard as their only row."""
        outer, outer_feedback = (part.reshape(1, -1) for part in self.parts(buffer))
        return results._replace(outer=outer, outer_feedback=outer_feedback)


def _clear(phase, results, buffer, chosen):
    """Forget what a shard has left."""
    buffer.fill(0)
    for flat in (results.factor, results.rate):
        for layer in dense_views(flat, phase.count, phase.network.sizes):
            layer[chosen] = 0


def _run_shard(phase, task, results, records, *, plan, first, workspace):
    """Simulate the samples of one shard, from `first` on."""
    run_shard(
        phase.places, phase.parameters, phase.dynamics, task, phase.minibatch, results, records, plan, first, 0, workspace
    )  # fmt: skip


def add_feedforward_part(phase, results, chosen):
    """Add what the constant rates contribute, the time sum of the factor x r_{i-1}(feedforward), of layers 2..L."""
    places, dtype, sizes = phase.places, phase.network.dtype, phase.network.sizes
    factors = dense_views(results.factor, phase.count, sizes)
    for i in range(2, len(sizes)):
        post, pre = (
            padded_rows(rows[chosen], places.stride[layer], dtype)
            for rows, layer in ((factors[i - 1], i), (phase.presynaptic_factors[i - 1], i - 1))
        )
        add_outer(
            results.outer[0], places.outer_shard[i], sizes[i], 0, sizes[i],
            post, 0, places.stride[i], pre, 0, places.stride[i - 1], chosen.stop - chosen.start,
        )  # fmt: skip


def _plans(phase, task, pieces):
    """Return the plan of a shard, by its number of samples."""
    network, noise = phase.network, phase.minibatch.noise
    plan = partial(kernel.shard_plan, network.sizes, network.dtype, phase.dynamics, task, noise)
    return {count: plan(count) for count in {count for _, count in pieces}}


def _convergence(phase, results, chosen):
    """Return (converged, diverged) of a slice of samples, as published: by the residual and by the remaining error."""
    rate = dense_views(results.rate, phase.count, phase.network.sizes)[-1][chosen]
    return Closeness(phase, rate, results.u[chosen], chosen).flags()


class Closeness:
    """The distance of samples from their steady state at the last time point: the published criteria.

    Args:
        rate, u: last deviations of r_L and last control signals of the samples `chosen`.

    Attributes:
        residual: of the steady-state equation. scale: norm of the feedforward output.
        remaining, initial: the error at the last and at the first time point.
    """

    def __init__(self, phase, rate, u, chosen=slice(None)):
        self.controller = controller = phase.controller
        start = phase.feedforward_rates[-1][chosen]
        end = start + rate
        target = phase.minibatch.target[chosen]
        with silent():
            settled = target - controller.steady_leak * u
            self.residual, self.scale = _distance(controller, settled, end), np.linalg.norm(start, axis=1)
            self.remaining, self.initial = (_distance(controller, target, output) for output in (end, start))

    def flags(self):
        """Return (converged, diverged), (n,) booleans."""
        with np.errstate(invalid="ignore"):
            settles = self.residual < CONVERGED_RESIDUAL * self.scale
            improves = self.remaining < self.controller.convergence_epsilon**2 * self.initial
            return settles & improves, ~(self.residual <= self.scale)

    def uncertain(self, relative, error):
        """Return (n,) where `converged` could change if thresholds moved by `relative`, and errors by a part of the initial."""
        settling, improving = (
            CONVERGED_RESIDUAL * self.scale,
            self.controller.convergence_epsilon**2 * self.initial,
        )
        change = error * self.initial
        settles = _near(self.residual, settling, relative * settling + change)
        improves = _near(self.remaining, improving, relative * improving + change)
        with np.errstate(invalid="ignore"):
            either = settles & (improves | (self.remaining < improving)) | improves & (
                self.residual < settling
            )
        return either | self.near_divergence(relative)

    def near_divergence(self, relative):
        """Return (n,) where `diverged` could change if its threshold moved by a `relative` part."""
        return _near(self.residual, self.scale, relative * self.scale)


_judged_by_caller = ContextVar("judged_by_caller", default=False)


@contextmanager
def judging_divergence():
    """Leave the judgement of what diverges to the caller: no warnings within the context."""
    token = _judged_by_caller.set(True)
    try:
        yield
    finally:
        _judged_by_caller.reset(token)


def warn_of_divergence(phase, sums, *, hops=4):
    """Warn of samples that have diverged: residual above the feedforward output, error not below that at the start.

    Args:
        hops: how far up the call is that the warning names.
    """
    if _judged_by_caller.get() or sums.diverged is None or not sums.diverged.any():
        return
    closeness = Closeness(phase, sums.rate[-1], sums.u)
    lost = np.flatnonzero(sums.diverged & ~(closeness.remaining < closeness.initial))
    if len(lost):
        named = ", ".join(map(str, lost[:NAMED])) + (", ..." if len(lost) > NAMED else "")
        warnings.warn(
            f"the feedback phase diverged for {len(lost)} of {phase.count} samples ({named}): at its end, the error is not below "
            f"that at the start; try {CONTROL_REMEDY}; dfc.stability(network, x, target, controller) says whether dt or "
            "the controlled network is to blame, and the largest stable dt",
            DivergenceWarning, stacklevel=hops,
        )  # fmt: skip


def _near(value, threshold, distance):
    """Return where values are within a distance of a threshold, or are not numbers."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(value - threshold) > distance)


def _distance(controller, target, output):
    """Return the monitored error per sample: ||target - output||, or the cross-entropy of softmax(output)."""
    if controller.error == "difference":
        return np.linalg.norm(target - output, axis=1)
    return -(target * log_softmax(output, axis=1)).sum(axis=1)


def no_records(count, dtype):
    """Return records of nothing, in the dtypes that records have: one type of arguments, one compilation."""
    outputs, layers = np.zeros(0), np.zeros(0, dtype)
    return kernel.Records(
        np.full(count, -1), 0, 0, outputs, outputs, outputs, outputs, layers, layers, layers, layers, layers
    )
