"""Plasticity: the updates of the forward and the feedback weights that one feedback phase gives."""

from dataclasses import dataclass, replace

import numpy as np

from dfc_numba.dynamics.phase import prepare
from dfc_numba.dynamics.simulation import Trajectory, run_recorded
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels.layout import unpack
from dfc_numba.model.activations import DERIVATIVES, FUNCTIONS
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import feedforward_state
from dfc_numba.model.noise import as_key, given_draws
from dfc_numba.model.products import bias_means, outer_means, outer_sums, shards_of
from dfc_numba.steady import newton
from dfc_numba.steady.equilibrium import linearised, steady_state
from dfc_numba.support.validation import choice, flag, floats, instance, number

READOUTS = ("average", "final", "analytic", "newton")
SOLVED = ("analytic", "newton")  # readouts that simulate nothing
RULES = ("nonlinear_difference", "voltage_difference", "derivative_matrix")
SAMPLES = ("all", "converged")
SIGMA_FLOOR = 0.01  # the published lower bound of the sigma that a feedback update is divided by, squared
# with which the noise-driven rule becomes the one-shot rule: u = r_L - r~_L after the second step
ONE_SHOT = Controller(dt=1.0, steps=2, alpha=0.0, k_p=0.0, instant_dynamics=True, proactive=False)


@dataclass(frozen=True)
class ForwardUpdate:
    """Plasticity of the forward weights, per unit learning rate.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,), or None for a network without.
        converged, diverged: (B,) booleans as in `Trajectory`; None where nothing was simulated, except that "newton" tells
            where it found the steady state.
        trajectory: the `Trajectory` of the simulation, without its recipe; None where it was not recorded.
    """

    weights: list
    biases: list | None
    converged: np.ndarray | None = None
    diverged: np.ndarray | None = None
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class FeedbackUpdate:
    """Plasticity of the feedback weights, per unit learning rate: a list of (n_i, n_L).

    Attributes:
        trajectory: the `Trajectory` of the simulation, without its recipe; None where it was not recorded.
    """

    feedback: list
    trajectory: Trajectory | None = None


def forward_update(
    network,
    x,
    target,
    controller,
    *,
    readout="average",
    rule="nonlinear_difference",
    samples="all",
    noise=None,
    record=None,
):
    """The update Delta W of the forward weights and biases, averaged over the samples.

        Delta W_i = mean over t, b of (phi(v_i) - phi(v_ff_i)) r_{i-1}^T      (plasticity in DFC, Meulemans et al. 2021)

    Args:
        x: inputs (B, n_0). target: output target r*, (B, n_L), best in float64: see `output_target`.
        controller: a `Controller`.
        readout: "average" over all T time points (DFC), "final" time point with v_ff made anew from its rates (DFC-SS),
            "newton": the steady state itself, where "final" ends after enough steps, or "analytic": the linearised steady
            state (DFC-SSA). The last two simulate nothing.
        rule: the postsynaptic factor: phi(v) - phi(v_ff) "nonlinear_difference", v - v_ff "voltage_difference", or
            phi'(v of the feedforward pass) (v - v_ff) "derivative_matrix".
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
    choice("rule", rule, RULES)
    choice("samples", samples, SAMPLES)
    if readout in SOLVED:
        _refuse_simulation(readout, noise=noise, record=record)
    if readout == "analytic":
        _refuse_converged(samples)
        return _analytic_update(network, x, target, controller, rule)
    if readout == "newton":
        return _newton_update(network, x, target, controller, rule, samples == "converged")
    phase = prepare(network, x, target, controller, noise)
    sums, trajectory = run_recorded(
        phase, _task(readout, rule), record, only_converged=samples == "converged"
    )
    return _forward_update(phase, sums, readout, trajectory)


def _task(readout, rule, learn_feedback=False, high_pass_gain=0.0):
    codes = {"average": kernel.AVERAGE, "final": kernel.FINAL, None: kernel.NO_READOUT}
    return kernel.Task(codes[readout], RULES.index(rule), learn_feedback, high_pass_gain, 0)


def _forward_update(phase, sums, readout, trajectory):
    below = [phase.x, *phase.feedforward_rates[:-1]]
    if readout == "average":
        weights, biases = _mean_over_time(phase, sums, below[0])
    else:
        below[1:] = [rate + deviation for rate, deviation in zip(below[1:], sums.rate[:-1], strict=True)]
        weights, biases = outer_means(phase.network, sums.factor, below, phase.count)
    return ForwardUpdate(weights, biases, sums.converged, sums.diverged, trajectory)


def _mean_over_time(phase, sums, x):
    """Weights and biases of the readout "average"; the rates below the first layer are the inputs throughout."""
    network, places, count = phase.network, phase.places, phase.count * phase.controller.time_points
    weights = outer_sums(sums.factor[:1], [x], shards_of(network, phase.count), network.dtype)
    for i, w in enumerate(network.weights[1:], 2):
        weights.append(unpack(sums.outer[places.outer_shard[i] :], *w.shape))
    return [w / network.dtype.type(count) for w in weights], bias_means(network, sums.factor, count)


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
    """The update at the linearised steady state."""
    if not instance("controller", controller, Controller).jacobian_feedback:
        return _update_at_rest(linearised(network, x, target, controller), network, rule)
    steady = steady_state(network, x, target, controller)
    feedforward = network.forward(x, dtype="float64")
    factors = []
    for i, name in enumerate(network.activations):
        factor = steady.delta_v[i]
        if rule == "nonlinear_difference":
            factor = FUNCTIONS[name](steady.v[i]) - FUNCTIONS[name](steady.v[i] - factor)
        elif rule == "derivative_matrix":
            factor = DERIVATIVES[name](feedforward.v[i]) * factor
        factors.append(factor)
    below = [np.asarray(x, np.float64), *steady.r[:-1]]
    return ForwardUpdate(*outer_means(network, factors, below, len(below[0])))


def _newton_update(network, x, target, controller, rule, only_converged):
    """The update at the exact steady state."""
    found = newton.solve(network, x, target, controller)
    kept = found.converged if only_converged else None
    return replace(_update_at_rest(found, network, rule, kept), converged=found.converged)


def _update_at_rest(solution, network, rule, kept=None):
    """The update of the samples `kept`, a mask, None for all; differences are those of the kernel, from which nothing has to be subtracted."""
    response = solution.equation.response
    state = response.state()
    factors = state.factor if rule == "nonlinear_difference" else state.drive
    if rule == "derivative_matrix":
        voltages = zip(network.activations, response.feedforward.v, strict=True)
        factors = [DERIVATIVES[name](v) * f for (name, v), f in zip(voltages, factors, strict=True)]
    rates = zip(response.feedforward.r[:-1], state.rate[:-1], strict=True)
    below = [response.x, *(start + change for start, change in rates)]
    count = len(response.x)
    factors, below = ([_only(array, kept) for array in arrays] for arrays in (factors, below))
    return ForwardUpdate(*outer_means(network, factors, below, count))


def _only(rows, kept):
    """The rows, those that are not kept as zeros, so that the others stay in their shards."""
    return rows if kept is None else np.where(kept[:, np.newaxis], rows, 0.0)


def feedback_update(
    network,
    x,
    target,
    controller,
    *,
    noise=0,
    scaling=False,
    high_pass=None,
    normalise=None,
    sigma_floor=SIGMA_FLOOR,
    record=None,
):
    """The update Delta Q of the feedback weights from noise, averaged over time and samples.

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
        record: as for `forward_update`.

    Returns:
        a `FeedbackUpdate`, arrays (n_i, n_L) in the network's dtype; they are added to the feedback weights, times a
        learning rate.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    phase = prepare(network, x, target, controller, noise)
    task = _feedback_task(controller, None, "nonlinear_difference", high_pass)
    divisors = feedback_divisors(network, controller, scaling, normalise, sigma_floor)
    sums, trajectory = run_recorded(phase, task, record)
    return _feedback_update(phase, sums, divisors, trajectory)


def one_shot_feedback_update(network, x, *, sigma, noise=0, sigma_floor=SIGMA_FLOOR):
    """The update Delta Q of the feedback weights from one noisy forward pass, without a controller.

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
    controller = replace(ONE_SHOT, sigma=number("sigma", sigma, exclusive=True))
    x, activity = feedforward_state(network, x)
    if as_key(noise) is None:
        noise = [
            np.stack([draws] * controller.time_points)
            for draws in given_draws(noise, (len(x),), network.sizes)
        ]
    update = feedback_update(network, x, activity.r[-1], controller, noise=noise, sigma_floor=sigma_floor)
    for q in update.feedback:
        q *= (
            controller.steps
        )  # of which the mean is taken, although only the last one has noise and control to correlate
    return update


def forward_and_feedback_update(
    network, x, target, controller, *, rule="nonlinear_difference", samples="all", noise=0, scaling=False, high_pass=None,
    normalise=None, sigma_floor=SIGMA_FLOOR, record=None,
):  # fmt: skip
    """Both updates from one noisy simulation, with the readout "average" (Strong-DFC, Meulemans et al. 2022).

    Args:
        x, target: (B, n_0), (B, n_L). All arguments are those of `forward_update` and `feedback_update`; a sample that
            samples="converged" leaves out contributes zero to either update.

    Returns:
        (`ForwardUpdate`, `FeedbackUpdate`); where the simulation is recorded, both have its trajectory.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    choice("rule", rule, RULES)
    choice("samples", samples, SAMPLES)
    phase = prepare(network, x, target, controller, noise)
    task = _feedback_task(controller, "average", rule, high_pass)
    divisors = feedback_divisors(network, controller, scaling, normalise, sigma_floor)
    sums, trajectory = run_recorded(phase, task, record, only_converged=samples == "converged")
    forward = _forward_update(phase, sums, "average", trajectory)
    return forward, _feedback_update(phase, sums, divisors, trajectory)


def _feedback_task(controller, readout, rule, high_pass):
    if controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback the layers receive J^T u and the feedback weights are not used; they cannot be learned"
        )
    if high_pass is None:
        return _task(readout, rule, True)
    time_constant = number(
        "high_pass, a time constant that dt has to resolve,", high_pass, least=controller.dt
    )
    return _task(readout, rule, True, controller.dt / time_constant)


def feedback_divisors(network, controller, scaling, normalise, sigma_floor):
    """sigma_i^2 / k_i per layer."""
    number("sigma_floor", sigma_floor, exclusive=True)
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
    """(sigma of the hidden layers, of the output layer)."""
    return [number(f"normalise[{i}]", sigma) for i, sigma in enumerate(floats("normalise", normalise, (2,)))]


def _feedback_update(phase, sums, divisors, trajectory):
    places, sizes, dtype = phase.places, phase.network.sizes, phase.network.dtype
    count = phase.controller.steps * phase.count
    updates = []
    for i, (n, divisor) in enumerate(zip(sizes[1:], divisors, strict=True), 1):
        transposed = unpack(sums.outer_feedback[places.outer_feedback[i] :], sizes[-1], n)
        updates.append(np.ascontiguousarray(transposed.T) * dtype.type(-1.0 / (count * divisor)))
    return FeedbackUpdate(updates, trajectory)
