"""The equations that the feedback phase and online plasticity have in common: controller, noise, apical compartment.

Both start from u = 0 and v_fb = 0, so these quantities are the same as deviations from the feedforward pass and as such
(DFC, Meulemans et al. 2021; filters of noise and control, Strong-DFC, Meulemans et al. 2022; Euler method, tau_u = 1):

    u_int += dt (e - alpha u),  u = u_int + k_p e        v_fb_i += (dt/tau_A) (Q_i u - v_fb_i) + sigma_i n_i

The functions take the memory of a simulation (anything with `work`, `signals` and `draws`) and say by `memory_plan` where
things lie in it.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at, fused
from dfc_numba.kernels.jit import jit_part
from dfc_numba.kernels.memory_plan import PAIR_LENGTH
from dfc_numba.kernels.noise import normals
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.units import run_control, run_pair

NO_NOISE, KEYED_NOISE, GIVEN_NOISE = 0, 1, 2
# planes of a controller's further terms: what its loop writes, and what it reads
U, U_INT, E_INT, U_FREE = range(4)
OLD_E, OLD_E_BEFORE, OLD_E_INT, OLD_U, OLD_U_INT, OLD_U_BEFORE, OLD_U_FREE = range(4, 11)


class Dynamics(NamedTuple):
    """The controller's options, as a step needs them (all gains are dt / tau; 1 means instantaneous)."""

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


class NoiseDraws(NamedTuple):
    """Where draws come from."""

    source: int
    key: int  # uint64
    samples: np.ndarray  # (B,) uint64 numbers that tell the samples apart
    given: np.ndarray  # flat [layer][time][sample][unit]
    times: int  # time points of the given draws


class Simulated(NamedTuple):
    """Which samples of a minibatch a simulation takes."""

    first: int
    active: np.ndarray  # (B,) False: the sample is held at its feedforward state


# --- the controller ------------------------------------------------------------------------------------------------------


@jit_part
def to_log_softmax(rates, start, count):
    """Replace the rates of one sample by the logarithm of their softmax."""
    top, total = rates[start], 0.0
    for k in range(start, start + count):
        top = max(top, rates[k])
    for k in range(start, start + count):
        total += np.exp(rates[k] - top)
    logarithm = top + np.log(total)
    for k in range(start, start + count):
        rates[k] -= logarithm


@jit_part
def softmax_error(signals, places, s, target):
    """Write e = r* - softmax(r_L) (strong feedback, Meulemans et al. 2022) of one sample and its target (n_L,)."""
    row = s * places.outputs
    to_log_softmax(signals, places.output + row, places.outputs)
    for k in range(places.outputs):
        signals[places.error + row + k] = target[k] - np.exp(signals[places.output + row + k])


@jit_part
def error_norm(signals, places, dynamics, s, target):
    """Return ||r* - r_L||, or the cross-entropy of softmax(r_L) with the target (n_L,), of one sample."""
    row, total = s * places.outputs, 0.0
    for k in range(places.outputs):
        if dynamics.softmax:
            total -= target[k] * signals[places.output + row + k]
        else:
            total += signals[places.error + row + k] ** 2
    return total if dynamics.softmax else np.sqrt(total)


@jit_part
def _low_pass(gain, x, state, rounds_state):
    """Return gain x + (1 - gain) state, of which one product is rounded before the sum; bits depend on which."""
    keep = 1.0 - gain
    return fused(gain, x, keep * state) if rounds_state else fused(keep, state, gain * x)


@jit_part
def advance_controller(memory, places, dynamics, learning, learns, samples, signal, begins, rounds_state):
    """Take one step of the controller (DFC, Meulemans et al. 2021; tau_u = 1).

        u_int += dt (e - alpha u),  u = u_int + k_p e,  u_filtered += (dt / tau_control) (u - u_filtered)

    `sent` receives what the layers see; with `learns`, `work` receives from `signal` on what the feedback weights learn from:
    u - u_slow, with u_slow += (dt / tau_f) (u - u_slow) in the single-phase rule (Meulemans et al. 2022).

    Args:
        begins: at the first step, at which filters take their input as it is. rounds_state: see `_low_pass`.
    """
    work, signals = memory.work, memory.signals
    gain = 1.0 if begins else dynamics.control_gain
    slow = 1.0 if begins and learning.high_pass_gain != 0.0 else learning.high_pass_gain
    if dynamics.control_loop != 0:
        _evaluate_terms(signals, places, dynamics, begins)
    for s in range(places.count):
        if not samples.active[samples.first + s]:
            continue
        for k in range(places.outputs):
            here, there = s * places.outputs + k, s * places.stride + k
            if dynamics.control_loop == 0:
                e = signals[places.error + here]
                leaking = signals[(places.u_int if dynamics.leak_integral else places.u) + here]
                integral = signals[places.u_int + here] + dynamics.dt * (e - dynamics.alpha * leaking)
                u = integral + dynamics.k_p * e
                signals[places.u + here], signals[places.u_int + here] = u, integral
            else:
                u = _take_terms(signals, places, here)
            before = signals[places.u_filtered + here]
            after = _low_pass(gain, u, before, rounds_state)
            signals[places.u_filtered + here] = after
            work[places.sent + there] = after if dynamics.proactive else before
            if learns:
                slowly = _low_pass(slow, u, signals[places.u_slow + here], rounds_state)
                signals[places.u_slow + here] = slowly
                work[signal + there] = u - slowly
    if learns and learning.feedback_signal != 0:
        _presynaptic_signals(memory, places, learning.feedback_signal, samples, signal)


@jit_part
def _plane_length(places):
    """Return the elements of a plane of further terms: whole vector registers."""
    return (places.count * places.outputs + PAIR_LENGTH - 1) // PAIR_LENGTH * PAIR_LENGTH


@jit_part
def _evaluate_terms(signals, places, dynamics, begins):
    """Take one step of a controller with further terms, for all its signals, into the planes that its loop writes."""
    size = _plane_length(places)
    for here in range(places.count * places.outputs):
        terms, e = places.terms + here, signals[places.error + here]
        signals[terms + OLD_E * size] = e
        if begins:
            signals[terms + OLD_E_BEFORE * size] = e
        signals[terms + OLD_U * size] = signals[places.u + here]
        signals[terms + OLD_U_INT * size] = signals[places.u_int + here]
    run_control(
        dynamics.control_loop, size, at(signals, places.terms), at(signals, places.terms + OLD_E * size)
    )


@jit_part
def _take_terms(signals, places, here):
    """Return u of one signal from what `_evaluate_terms` left, which becomes what was before."""
    size, terms = _plane_length(places), places.terms + here
    signals[terms + OLD_U_BEFORE * size] = signals[places.u + here]
    signals[terms + OLD_E_BEFORE * size] = signals[places.error + here]
    signals[terms + OLD_E_INT * size] = signals[terms + E_INT * size]
    signals[terms + OLD_U_FREE * size] = signals[terms + U_FREE * size]
    signals[places.u_int + here] = signals[terms + U_INT * size]
    signals[places.u + here] = signals[terms + U * size]
    return signals[places.u + here]


@jit_part
def _presynaptic_signals(memory, places, loop, samples, signal):
    """Write what the feedback weights learn from, a formula of u and its slow part, `PAIR_LENGTH` signals at a time."""
    signals, outputs, pair = memory.signals, places.outputs, places.pair
    slow, out = pair + PAIR_LENGTH, pair + 2 * PAIR_LENGTH
    for s in range(places.count):
        if not samples.active[samples.first + s]:
            continue
        for first in range(0, outputs, PAIR_LENGTH):
            last = min(outputs, first + PAIR_LENGTH) - 1
            for k in range(PAIR_LENGTH):
                here = s * outputs + min(first + k, last)
                signals[pair + k] = signals[places.u + here]
                signals[slow + k] = signals[places.u_slow + here]
            run_pair(loop, PAIR_LENGTH, at(signals, out), at(signals, pair), at(signals, slow))
            move(last - first + 1, memory.work, signal + s * places.stride + first, signals, out)


# --- the apical compartment -----------------------------------------------------------------------------------------------


@jit_part
def _draw_noise(memory, places, layer, noise, samples, step, point):
    """Write standard normal draws of a layer: keyed by the number of the step, or those given for a time point; zero if held."""
    n, count = layer.units, noise.samples.size
    for s in range(places.count):
        b, draw = samples.first + s, places.draw + s * layer.stride
        if not samples.active[b]:
            fill(n, memory.work, draw, 0.0)
        elif noise.source == KEYED_NOISE:
            key = np.uint64(noise.key)
            normals(memory.work, draw, n, key, step, noise.samples[b], layer.number, memory.draws)
        else:
            given = count * (noise.times * layer.dense + point * n) + b * n
            move(n, memory.work, draw, noise.given, given)
        fill(layer.stride - n, memory.work, draw + n, 0.0)


@jit_part
def advance_apical(memory, places, dynamics, layer, noise, samples, step, point):
    """Take one step of the apical voltages of a layer from their drive and noise.

        v_fb_i += (dt / tau_A) (Q_i u - v_fb_i) + sigma_i n_i

    with n_i = sqrt(dt) / tau_A xi_i, white noise (DFC, Meulemans et al. 2021), or low-passed (Meulemans et al. 2022):

        n_i <- (1 - dt / tau_noise) n_i + sqrt(dt) / tau_noise xi_i

    Args:
        step: number of the step that keys the draws. point: time point of draws that are given.
    """
    size, gain, keep = places.count * layer.stride, dynamics.apical_gain, 1.0 - dynamics.apical_gain
    apical, drive, draw = (
        at(memory.work, layer.apical),
        at(memory.work, layer.drive),
        at(memory.work, places.draw),
    )
    if noise.source == NO_NOISE:
        vector.combine(size, apical, apical, drive, keep, gain)
        return
    _draw_noise(memory, places, layer, noise, samples, step, point)
    sigma = dynamics.sigma_output if layer.number == places.depth else dynamics.sigma
    if dynamics.noise_keep < 0.0:
        vector.combine_noisy(size, apical, apical, drive, draw, keep, gain, sigma * dynamics.noise_gain)
    else:
        filtered = at(memory.work, layer.noise)
        vector.combine(size, filtered, filtered, draw, dynamics.noise_keep, dynamics.noise_gain)
        vector.combine_noisy(size, apical, apical, drive, filtered, keep, gain, sigma)
