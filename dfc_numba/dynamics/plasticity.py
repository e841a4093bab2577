"""Plasticity: the updates of the forward and the feedback weights that one feedback phase gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from dfc_numba.dynamics import waveform
from dfc_numba.dynamics.phase import UpdateTask, evaluated, prepare, warn_of_divergence
from dfc_numba.dynamics.simulation import Trajectory, run_recorded
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels import units
from dfc_numba.kernels.layout import unpack
from dfc_numba.model.activations import phi, phi_prime
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network, feedforward_state
from dfc_numba.model.noise_key import Noise, as_key, given_draws
from dfc_numba.model.products import bias_means, outer_means, outer_sums, shards_of
from dfc_numba.model.recording import Record
from dfc_numba.model.unit_formulas import NOISE_DRIVEN
from dfc_numba.registry import PLASTICITY_RULES
from dfc_numba.steady import newton, transposed
from dfc_numba.steady.equilibrium import linearised, steady_state
from dfc_numba.support.array_types import Array, ArrayLike, Layers
from dfc_numba.support.deferred import Deferred
from dfc_numba.support.ranges import PositiveSigma, Sigma, SigmaFloor, TimeConstant
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import choice, flag, floats, instance, number, silent

READOUTS = ("average", "final", "analytic", "newton")
READOUT_CODES = {"average": kernel.AVERAGE, "final": kernel.FINAL}
SOLVED = ("analytic", "newton")  # readouts that simulate nothing
SAMPLES = ("all", "converged")
Readout: TypeAlias = Literal["average", "final", "analytic", "newton"]
Samples: TypeAlias = Literal["all", "converged"]
SIGMA_FLOOR = 0.01  # the published lower bound of the sigma that a feedback update is divided by, squared
# with which the noise-driven rule becomes the one-shot rule: u = r_L - r~_L after the second step
ONE_SHOT = Controller(dt=1.0, steps=2, alpha=0.0, k_p=0.0, instant_dynamics=True, proactive=False)


@dataclass(frozen=True)
class ForwardUpdate:
    """Plasticity of the forward weights, per unit learning rate.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,), or None for a network without.
        converged, diverged: (B,) booleans as in `Trajectory`; None where nothing was simulated, except that "newton" tells
            where it found the steady state, and that all samples have diverged where the update is not finite.
        trajectory: the `Trajectory` of the simulation, without its recipe; None where it was not recorded.
        estimated_error: (L,) relative error of the weights' updates that integrator="waveform" expects; None without it.
        fallback: (B,) booleans, samples that it left to Euler steps; None without it. `converged` is then decided when it is
            read for the first time, for which samples near a threshold may be stepped as well.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    weights: Layers
    biases: Layers | None
    converged: Deferred[Array | None] = Deferred()
    diverged: Array | None = None
    trajectory: Trajectory | None = None
    estimated_error: Array | None = None
    fallback: Array | None = None

    def __post_init__(self):
        if (
            self.diverged is not None
            and not self.diverged.any()
            and not all_finite(self.weights, self.biases)
        ):
            object.__setattr__(
                self, "diverged", np.ones_like(self.diverged)
            )  # a sum of finite parts overflowed


@dataclass(frozen=True)
class FeedbackUpdate:
    """Plasticity of the feedback weights, per unit learning rate: a list of (n_i, n_L).

    Attributes:
        trajectory: the `Trajectory` of the simulation, without its recipe; None where it was not recorded.
        diverged: (B,) booleans as in `Trajectory`; None where nothing was simulated and all numbers are finite.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    feedback: Layers
    trajectory: Trajectory | None = None
    diverged: Array | None = None

    def __post_init__(self):
        if self.diverged is not None and not self.diverged.any() and not all_finite(self.feedback):
            object.__setattr__(self, "diverged", np.ones_like(self.diverged))


def flagged(update, count):
    """Return the update; flag all `count` samples as diverged if it is not finite without a simulation."""
    arrays = vars(update)
    if update.diverged is None and not all_finite(
        *(arrays.get(k) for k in ("weights", "biases", "feedback"))
    ):
        object.__setattr__(update, "diverged", np.ones(count, np.bool_))
    return update


def all_finite(*lists):
    """Return whether all numbers in lists of arrays are finite; None counts as an empty list."""
    return all(np.isfinite(array).all() for arrays in lists for array in arrays or [])


@silent()
def forward_update(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    readout: Readout = "average",
    rule: str = "nonlinear_difference",
    samples: Samples = "all",
    noise: Noise = None,
    record: Record | None = None,
) -> ForwardUpdate:
    """Return the update Delta W of the forward weights and biases, averaged over the samples.

        Delta W_i = mean over t, b of (phi(v_i) - phi(v_ff_i)) r_{i-1}^T      (plasticity in DFC, Meulemans et al. 2021)

    Args:
        x: inputs (B, n_0). target: output target r*, (B, n_L), best in float64: see `output_target`.
        controller: a `Controller`.
        readout: "average" over all T time points (DFC), "final" time point with v_ff recomputed from its rates (DFC-SS),
            "newton": the steady state itself, where "final" ends after enough steps, or "analytic": the linearised steady
            state (DFC-SSA). The last two simulate nothing.
        rule: the postsynaptic factor: phi(v) - phi(v_ff) "nonlinear_difference", v - v_ff "voltage_difference", or
            phi'(v of the feedforward pass) (v - v_ff) "derivative_matrix"; or the name of a registered `dfc.PlasticityRule`.
        samples: "all", or "converged": a sample that has not converged contributes zero to the mean over all. With "newton"
            it has converged where `steady_state` says so.
        noise: as for `simulate`.
        record: a `Record`: what to keep of the simulation, as `.trajectory`; None keeps nothing. The update is the same.

    Returns:
        a `ForwardUpdate` in the network's dtype; it is added to the weights, times a learning rate.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that the readout cannot honour.
    """
    choice("readout", readout, READOUTS)
    rule = find_rule("rule", rule)
    choice("samples", samples, SAMPLES)
    if readout in SOLVED:
        _refuse_simulation(readout, noise=noise, record=record)
    if readout == "analytic":
        _refuse_converged(samples)
        return flagged(_analytic_update(network, x, target, controller, rule), np.shape(x)[0])
    if readout == "newton":
        only_converged = samples == "converged"
        return flagged(_newton_update(network, x, target, controller, rule, only_converged), np.shape(x)[0])
    phase = prepare(network, x, target, controller, noise)
    task, only_converged = UpdateTask(READOUT_CODES[readout], rule), samples == "converged"
    if controller.integrator == "waveform":
        make_update = partial(_forward_update, phase, readout=readout, rule=rule, trajectory=None)
        update = waveform.solve(phase, task, make_update, only_converged=only_converged)
        return update if record is None else replace(update, trajectory=run_recorded(phase, task, record)[1])
    sums, trajectory = run_recorded(phase, task, record, only_converged=only_converged)
    warn_of_divergence(phase, sums)
    return _forward_update(phase, sums, readout, rule, trajectory)


def find_rule(name, rule, weights="forward"):
    """Return the `PlasticityRule` of a name, for the weights that it is asked for.

    Raises:
        ValueError: for an unknown name, or a rule of the other weights.
    """
    found = PLASTICITY_RULES.find(rule, name)
    if found.weights != weights:
        names = [other for other in PLASTICITY_RULES if PLASTICITY_RULES[other].weights == weights]
        raise ValueError(
            f"{name} = {rule!r} is a rule of the {found.weights} weights; allowed are {', '.join(names)}"
        )
    return found


def _forward_update(phase, sums, readout, rule, trajectory):
    if readout == "average":
        weights, biases = _mean_over_time(phase, sums, presynaptic_factors(rule, [phase.x])[0])
    else:
        below = [phase.x, *phase.feedforward_rates[:-1]]
        below[1:] = [rate + deviation for rate, deviation in zip(below[1:], sums.rate[:-1], strict=True)]
        below = presynaptic_factors(rule, below)
        weights, biases = outer_means(phase.network, sums.factor, below, phase.count)
    return ForwardUpdate(weights, biases, sums.converged, sums.diverged, trajectory)


def _mean_over_time(phase, sums, x):
    """Return weights and biases of the readout "average"; the rates below the first layer are the inputs throughout."""
    network, places, count = phase.network, phase.places, phase.count * phase.controller.time_points
    weights = outer_sums(sums.factor[:1], [x], shards_of(network, phase.count), network.dtype)
    for i, w in enumerate(network.weights[1:], 2):
        weights.append(unpack(sums.outer[places.outer_shard[i] :], *w.shape))
    return [w / network.dtype.type(count) for w in weights], bias_means(network, sums.factor, count)


def presynaptic_factors(rule, rates):
    """Return the presynaptic factors of a `PlasticityRule` for a list of rates, in float64."""
    formula = rule.presynaptic_formula
    return rates if formula is None else [evaluated(formula, r) for r in rates]


def postsynaptic_factor(rule, symbols):
    """Return the postsynaptic factor of a `PlasticityRule` of one layer.

    Args:
        symbols: functions without arguments that give an array (B, n_i), by the name of the symbol.
    """
    names = units.arguments(rule.postsynaptic)
    values = {name: symbols[name]() for name in names}
    shape = np.shape(symbols["dv"]())
    return np.broadcast_to(units.evaluate(rule.postsynaptic, values), shape)


def _refuse_simulation(readout, **arguments):
    """Refuse arguments that have a meaning for a simulation only."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"readout={readout!r} solves for the steady state and simulates nothing; leave out {name}"
            )


def _refuse_converged(samples):
    if samples != "all":
        raise ValueError(
            f"readout='analytic' simulates nothing that could converge; samples={samples!r} needs 'average' or 'final', or "
            "'newton'"
        )


def _analytic_update(network, x, target, controller, rule):
    """Return the update at the linearised steady state."""
    if not instance("controller", controller, Controller).jacobian_feedback:
        return _update_at_rest(network, rule, *_of_response(linearised(network, x, target, controller)))
    steady = steady_state(network, x, target, controller)
    inputs, feedforward = feedforward_state(network, x)
    states = zip(steady.v, steady.delta_v, feedforward.v, strict=True)
    return _update_at_rest(network, rule, states, [inputs, *steady.r[:-1]])


def unit_symbols(activation, v, dv, v_fb, start, dr=None):
    """Return the symbols of a unit's formulas, at a state of one layer, as functions without arguments.

    Args:
        v, dv, v_fb: arrays: somatic voltage, v - v_ff, apical voltage; v_fb may be a function that gives it.
        start: voltages of the feedforward pass, or a function that gives them. dr: phi(v) - phi(v_ff), None to compute it.
    """
    return {
        "v": lambda: v,
        "v_ff": lambda: v - dv,
        "v_fb": lambda: v_fb() if callable(v_fb) else v_fb,
        "dv": lambda: dv,
        "dr": lambda: phi(activation, v) - phi(activation, v - dv) if dr is None else dr,
        "r": lambda: phi(activation, v),
        "r_ff": lambda: phi(activation, v - dv),
        "slope": lambda: phi_prime(activation, v),
        "slope_ff": lambda: phi_prime(activation, v - dv),
        "slope_0": lambda: phi_prime(activation, start() if callable(start) else start),
    }


def _newton_update(network, x, target, controller, rule, only_converged):
    """Return the update at the exact steady state."""
    if instance("controller", controller, Controller).jacobian_feedback:
        controller.require_no_terms("the steady state")
        found = transposed.solve(network, x, target, controller)
        states = zip(found.v, found.delta_v, found.feedforward.v, strict=True)
        below = [found.x, *found.r[:-1]]
    else:
        found = newton.solve(network, x, target, controller)
        states, below = _of_response(found)
    kept = found.converged if only_converged else None
    return replace(_update_at_rest(network, rule, states, below, kept), converged=found.converged)


def _of_response(solution):
    """Return a solution's voltages of each layer, as `_update_at_rest` takes them, and the rates below it.

    Differences are those of the kernel, from which nothing has to be subtracted.
    """
    response = solution.equation.response
    state, start = response.state(), response.feedforward
    states = zip(
        (v_0 + dv for v_0, dv in zip(start.v, state.v, strict=True)),
        state.drive,
        start.v,
        state.factor,
        strict=True,
    )
    return states, [response.x, *(r + dr for r, dr in zip(start.r[:-1], state.rate[:-1], strict=True))]


def _update_at_rest(network, rule, states, rates, kept=None):
    """Return the update at a steady state.

    Args:
        states: of each layer v, dv and the voltage of the feedforward pass, and phi(v) - phi(v_ff) where it is known.
        rates: arrays (B, n_{i-1}): what each layer receives. kept: mask of the samples that count, None for all.
    """
    factors = [
        postsynaptic_factor(rule, unit_symbols(name, v, dv, dv, start, *dr))
        for name, (v, dv, start, *dr) in zip(network.activations, states, strict=True)
    ]
    below = presynaptic_factors(rule, rates)
    count = len(rates[0])
    factors, below = ([_only(array, kept) for array in arrays] for arrays in (factors, below))
    return ForwardUpdate(*outer_means(network, factors, below, count))


def _only(rows, kept):
    """Return the rows, with those that are not kept as zeros, so that the others stay in their shards."""
    return rows if kept is None else np.where(kept[:, np.newaxis], rows, 0.0)


@silent()
def feedback_update(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    noise: Noise = 0,
    scaling: bool = False,
    high_pass: float | None = None,
    normalise: tuple[float, float] | None = None,
    sigma_floor: float = SIGMA_FLOOR,
    feedback_rule: str = NOISE_DRIVEN,
    record: Record | None = None,
) -> FeedbackUpdate:
    """Return the update Delta Q of the feedback weights from noise, averaged over time and samples.

        Delta Q_i = -k_i / sigma_i^2 mean over t, b of v_fb_i(t) u(t+1)^T     (DFC's rule for feedback weights)

    Weight decay is left to the optimiser.

    Args:
        x: inputs (B, n_0). target: output target r*, (B, n_L); for the two-phase rule with weak feedback it is the
            feedforward output, in float64: `network.predict(x, dtype="float64")`.
        controller, noise: as for `simulate`; noise is a seed by default.
        scaling: k_i = (1 + tau_v / tau_noise)^(L - i) instead of 1 (Strong-DFC, Meulemans et al. 2022).
        high_pass: time constant tau_f of a high-pass filter on u, for the single-phase rule; None for none.
        normalise: (sigma of the hidden layers, of the output layer) to divide by; None takes the controller's.
        sigma_floor: what sigma_i is at least taken to be.
        feedback_rule: name of a registered `dfc.PlasticityRule` of the feedback weights, whose factors take the place of
            -v_fb_i(t) and u(t+1).
        record: as for `forward_update`.

    Returns:
        a `FeedbackUpdate`, arrays (n_i, n_L) in the network's dtype; they are added to the feedback weights, times a
        learning rate.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    phase = prepare(network, x, target, controller, noise)
    task = UpdateTask(
        feedback_rule=find_rule("feedback_rule", feedback_rule, "feedback"),
        high_pass_gain=high_pass_gain(controller, high_pass),
    )
    divisors = feedback_divisors(network, controller, scaling, normalise, sigma_floor)
    sums, trajectory = run_recorded(phase, task, record)
    return _feedback_update(phase, sums, divisors, task.feedback_rule, trajectory)


@silent()
def one_shot_feedback_update(
    network: Network, x: ArrayLike, *, sigma: float, noise: Noise = 0, sigma_floor: float = SIGMA_FLOOR
) -> FeedbackUpdate:
    """Return the update Delta Q of the feedback weights from one noisy forward pass, without a controller.

        Delta Q_i = 1 / max(sigma, sigma_floor)^2 mean over b of eps_i (r~_L - r_L)^T,  eps_i = sigma N(0, 1)

    with r~_L the output where eps_i is added to the voltages of every layer: for small sigma above the floor, J_i^T on
    average (a rule of the DFC paper's code, Meulemans et al. 2021). It is the rule of `feedback_update` for a network that
    follows its inputs at once, and a controller that integrates its output once.

    Args:
        x: inputs (B, n_0). sigma: standard deviation of the noise, the same in all layers, above 0.
        noise: an int seed, a `NoiseKey`, or the draws N(0, 1) themselves: a list of arrays (B, n_i).

    Returns:
        a `FeedbackUpdate`, arrays (n_i, n_L) in the network's dtype.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    controller = replace(ONE_SHOT, sigma=number("sigma", sigma, PositiveSigma))
    inputs, activity = feedforward_state(network, x)
    if as_key(noise) is None:
        noise = [
            np.stack([draws] * controller.time_points)
            for draws in given_draws(noise, (len(inputs),), network.sizes)
        ]
    update = feedback_update(network, x, activity.r[-1], controller, noise=noise, sigma_floor=sigma_floor)
    for q in update.feedback:
        q *= (
            controller.steps
        )  # of which the mean is taken, although only the last one has noise and control to correlate
    return flagged(update, np.shape(x)[0])


@silent()
def forward_and_feedback_update(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    rule: str = "nonlinear_difference",
    samples: Samples = "all",
    noise: Noise = 0,
    scaling: bool = False,
    high_pass: float | None = None,
    normalise: tuple[float, float] | None = None,
    sigma_floor: float = SIGMA_FLOOR,
    feedback_rule: str = NOISE_DRIVEN,
    record: Record | None = None,
) -> tuple[ForwardUpdate, FeedbackUpdate]:
    """Return both updates from one noisy simulation, with the readout "average" (Strong-DFC, Meulemans et al. 2022).

    Args:
        x, target: (B, n_0), (B, n_L). All arguments are those of `forward_update` and `feedback_update`; a sample that
            samples="converged" leaves out contributes zero to either update.

    Returns:
        (`ForwardUpdate`, `FeedbackUpdate`); where the simulation is recorded, both have its trajectory.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    choice("samples", samples, SAMPLES)
    rule, feedback_rule = find_rule("rule", rule), find_rule("feedback_rule", feedback_rule, "feedback")
    phase = prepare(network, x, target, controller, noise)
    task = UpdateTask(kernel.AVERAGE, rule, feedback_rule, high_pass_gain(controller, high_pass))
    divisors = feedback_divisors(network, controller, scaling, normalise, sigma_floor)
    sums, trajectory = run_recorded(phase, task, record, only_converged=samples == "converged")
    warn_of_divergence(phase, sums)
    forward = _forward_update(phase, sums, "average", rule, trajectory)
    return forward, _feedback_update(phase, sums, divisors, feedback_rule, trajectory)


def high_pass_gain(controller, high_pass):
    """Return dt / tau_f of the feedback weights' filter, 0 without one."""
    if controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback the layers receive J^T u and the feedback weights are not used; they cannot be learned"
        )
    if high_pass is None:
        return 0.0
    time_constant = number(
        "high_pass, a time constant that dt has to resolve,", high_pass, TimeConstant, least=controller.dt
    )
    return controller.dt / time_constant


def feedback_divisors(network, controller, scaling, normalise, sigma_floor):
    """Return sigma_i^2 / k_i per layer."""
    number("sigma_floor", sigma_floor, SigmaFloor)
    hidden, output = (controller.sigma, controller.output_sigma) if normalise is None else _sigmas(normalise)
    depth = len(network.weights)
    sigmas = [max(sigma, sigma_floor) for sigma in [hidden] * (depth - 1) + [output]]
    if not flag("scaling", scaling):
        return [sigma**2 for sigma in sigmas]
    if controller.tau_noise is None:
        raise ValueError(
            "scaling=True uses k_i = (1 + tau_v / tau_noise)^(L - i); set tau_noise, or scaling=False for white noise"
        )
    base = 1.0 + controller.tau_v / controller.tau_noise
    return [sigma**2 / base ** (depth - 1 - i) for i, sigma in enumerate(sigmas)]


def _sigmas(normalise):
    """Return (sigma of the hidden layers, of the output layer)."""
    return [
        number(f"normalise[{i}]", sigma, Sigma)
        for i, sigma in enumerate(floats("normalise", normalise, (2,)))
    ]


def _feedback_update(phase, sums, divisors, rule, trajectory):
    # the kernel sums v_fb u^T for the published rule, whose sign is negative, and the factors of any other as they are
    sign = -1.0 if rule.name == NOISE_DRIVEN else 1.0
    places, sizes, dtype = phase.places, phase.network.sizes, phase.network.dtype
    count = phase.controller.steps * phase.count
    updates = []
    for i, (n, divisor) in enumerate(zip(sizes[1:], divisors, strict=True), 1):
        transposed = unpack(sums.outer_feedback[places.outer_feedback[i] :], sizes[-1], n)
        updates.append(np.ascontiguousarray(transposed.T) * dtype.type(sign / (count * divisor)))
    return flagged(FeedbackUpdate(updates, trajectory, sums.diverged), phase.count)
