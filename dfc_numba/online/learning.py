"""Online plasticity: weights that change during the simulation of a stream of inputs, in continuous time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from dfc_numba.dynamics.phase import prepare
from dfc_numba.dynamics.plasticity import find_rule
from dfc_numba.dynamics.simulation import Trajectory
from dfc_numba.kernels.online_state import Learning
from dfc_numba.kernels.units import signal_loop
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import Noise, as_key
from dfc_numba.model.recording import Record
from dfc_numba.model.unit_formulas import NOISE_DRIVEN
from dfc_numba.online.online_memory import OnlineState
from dfc_numba.online.online_steps import Simulation
from dfc_numba.online.records import WeightTrajectory
from dfc_numba.online.stream import read
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.ranges import NotNegative, TimeConstant
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import choice, instance, number

RESETS = ("none", "segment")
# pairs of inputs and output target, or a function of the network and the inputs that returns it
Stream: TypeAlias = Iterable[tuple[ArrayLike, ArrayLike | Callable[[Network, Array], ArrayLike]]]


@dataclass(frozen=True)
class OnlineRun:
    """The results of an online simulation.

    Attributes:
        network: the `Network` at its end; the weights of the last finite state if it diverged.
        state: an `OnlineState` to continue from, or None if it diverged.
        status: "finished" if the stream or `steps` came to its end, "diverged" if a voltage became non-finite, which
            ends it: take a smaller dt, larger time constants, or smaller feedback weights.
        steps: Euler steps that were taken. segments: those that were begun.
        trajectory: `Trajectory` with time points 0..T of this run, (T, B, n_i), its last one non-finite if it diverged;
            None if nothing was recorded. Its `converged` and `diverged` are None.
        weights: `WeightTrajectory`, or None if none were recorded.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    network: Network
    state: OnlineState | None
    status: Literal["finished", "diverged"]
    steps: int
    segments: int
    trajectory: Trajectory | None
    weights: WeightTrajectory | None


def simulate_online(
    network: Network,
    stream: Stream,
    controller: Controller,
    *,
    tau_w: float | None = None,
    tau_q: float | None = None,
    rule: str = "nonlinear_difference",
    feedback_rule: str = NOISE_DRIVEN,
    feedback_decay: float = 0.0,
    high_pass: float | None = None,
    reset: Literal["none", "segment"] = "none",
    noise: Noise = None,
    state: OnlineState | None = None,
    steps: int | None = None,
    record: Record | None = None,
    record_weights: int | None = None,
) -> OnlineRun:
    """Simulate a stream of inputs with forward and feedback weights that learn at every Euler step.

        tau_w dW_i/dt = (phi(v_i) - phi(v_ff_i)) r_{i-1}^T          tau_w db_i/dt = phi(v_i) - phi(v_ff_i)
        tau_q dQ_i/dt = -v_fb_i u^T - feedback_decay Q_i            (plasticity of DFC, Meulemans et al. 2021)

    as means over the B samples of a minibatch, which share the weights; B = 1 is the literal case. Voltages and controller
    are those of `simulate`. A step uses the weights that the step before has left, and then changes them: W_i by factor
    and rates of time t + 1, Q_i by v_fb_i(t) and u(t + 1), as `forward_update` and `feedback_update` pair them. While the
    weights hardly change, T steps therefore change W_i by dt (T + 1) / tau_w times `forward_update(readout="average")`,
    and Q_i by dt T sigma_i^2 / tau_q times `feedback_update`, which divides by the variance of the noise.

    It runs in one thread, since every step of all samples changes the same weights, which are read and written once per
    step; W_1 only when the input changes. In float32 every step rounds a weight to 6e-8 of its size, so changes that are
    slower than that per step are lost: slow learning and small nudges need float64.

    Args:
        network: a `Network`; it is not changed.
        stream: list, or other iterable that may be endless, of pairs (x, target). x is (B, n_0), held for controller.steps
            steps, or (T, B, n_0), one input for each of T steps; so is the output target r*, (B, n_L) or (T, B, n_L). A
            function target(network, x) is called when its segment begins, with the weights that there are then; it may
            use `output_target`. Voltages and controller carry on from segment to segment.
        controller: a `Controller`.
        tau_w, tau_q: time constants of the forward and the feedback weights, at least dt; None keeps them as they are.
        rule: the postsynaptic factor: phi(v) - phi(v_ff) "nonlinear_difference", v - v_ff "voltage_difference", or
            phi'(v_ff) (v - v_ff) "derivative_matrix", with the basal voltage v_ff of the same time; or the name of a
            registered `dfc.PlasticityRule`, whose slope_0 is that phi'(v_ff), too.
        feedback_rule: name of a registered rule of the feedback weights, whose factors take the place of -v_fb and u.
        feedback_decay: beta, the decay of the feedback weights. high_pass: time constant tau_f of a high-pass filter on
            the u that they learn from (single-phase rule of Strong-DFC, Meulemans et al. 2022), at least dt.
        reset: "none", or "segment" to begin every segment at the feedforward state of its first input.
        noise: as for `simulate`: a seed, a `NoiseKey`, or draws (steps + 1, B, n_i) of which index t + 1 drives step t of
            this call. Keyed noise goes by `state.step`, so it does not depend on where a stream is cut.
        state: `OnlineRun.state` to continue from, with `OnlineRun.network`: a stream cut between two segments gives the
            bits of the whole. None begins at the feedforward state of the first input.
        steps: most Euler steps to take; None takes the whole stream. It may end within a segment.
        record: a `Record` of voltages and control, None for none. The error at a time point is that from the target of
            the step before it. record_weights: n, to keep the weights of every n-th time point.

    Returns:
        an `OnlineRun`.

    Raises:
        ValueError, TypeError: for arguments that do not fit. MemoryError: for more to record than fits into memory.
    """
    choice("reset", reset, RESETS)
    instance("network", network, Network)
    instance("controller", controller, Controller).require_no_terms("online plasticity")
    if controller.integrator != "euler":
        raise ValueError(
            "integrator = 'waveform' cannot simulate a stream, whose weights change at every step; use integrator = 'euler'"
        )
    segments, first, total = read(stream, network, controller, steps)
    _require_length(total, noise, record, record_weights)
    phase = _prepared(network, first, controller, noise, total)
    rules = find_rule("rule", rule), find_rule("feedback_rule", feedback_rule, "feedback")
    learning = _learning(phase, tau_w, tau_q, *rules, feedback_decay, high_pass)
    simulation = Simulation(phase, learning, *rules, state, total, record, record_weights)
    for segment in segments:
        simulation.run(segment, restarts=reset == "segment" or (segment is first and state is None))
        if simulation.diverged or simulation.steps == total:
            break
    return _outcome(simulation, segment.number + 1)


def _outcome(simulation, segments):
    return OnlineRun(
        network=simulation.current_network(),
        state=None if simulation.diverged else simulation.memory.state(),
        status="diverged" if simulation.diverged else "finished",
        steps=simulation.steps,
        segments=segments,
        trajectory=simulation.trajectory(),
        weights=simulation.weights(),
    )


def _require_length(total, noise, record, record_weights):
    """Refuse what takes memory, or an array for every step, where the number of steps is not known."""
    endless = {
        "record": record is not None,
        "record_weights": record_weights is not None,
        "noise as draws": _gives_draws(noise),
    }
    for name, given in endless.items():
        if given and total is None:
            raise ValueError(f"{name} needs to know how long the stream is; pass it as a list, or set steps=")


def _gives_draws(noise):
    return noise is not None and as_key(noise) is None


def _prepared(network, segment, controller, noise, total):
    """Return options, noise and layout as in `simulate`, for the first input."""
    target = np.zeros((segment.count, network.sizes[-1]))
    if _gives_draws(noise):
        controller = replace(controller, steps=total)
    return prepare(network, segment.x[0], target, controller, noise)


def _learning(phase, tau_w, tau_q, rule, feedback_rule, feedback_decay, high_pass):
    decay = number("feedback_decay", feedback_decay, NotNegative)
    _refuse_unused(tau_w, tau_q, rule, feedback_rule, decay, high_pass)
    if tau_q is not None and phase.controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback the layers receive J^T u and the feedback weights are not used; tau_q has to be None"
        )
    weight_gain, feedback_gain, high_pass_gain = (
        _gain(phase.controller.dt, name, tau)
        for name, tau in (("tau_w", tau_w), ("tau_q", tau_q), ("high_pass", high_pass))
    )
    if feedback_gain * decay > 1:
        raise ValueError(
            f"feedback_decay = {decay:g} with tau_q = {tau_q:g} overshoots zero in a step of dt = {phase.controller.dt:g}; "
            "choose feedback_decay <= tau_q / dt"
        )
    signal = feedback_rule.presynaptic_formula
    return Learning(
        weights=tau_w is not None,
        biases=phase.network.biases is not None,
        feedback=tau_q is not None,
        presynaptic=rule.presynaptic_formula is not None,
        feedback_signal=0 if signal is None else signal_loop(signal),
        weight_gain=weight_gain / phase.count,
        # the kernel takes what the feedback weights learn with the sign of the published rule, -v_fb u^T
        feedback_gain=(feedback_gain if feedback_rule.name == NOISE_DRIVEN else -feedback_gain) / phase.count,
        feedback_keep=1.0 - feedback_gain * decay,
        high_pass_gain=high_pass_gain,
    )


def _refuse_unused(tau_w, tau_q, rule, feedback_rule, decay, high_pass):
    if tau_w is None and rule.name != "nonlinear_difference":
        raise ValueError(f"rule={rule.name!r} is for forward weights that learn; set tau_w, or leave it out")
    feedback = {"feedback_decay": decay > 0, "high_pass": high_pass is not None}
    for name, given in (feedback | {"feedback_rule": feedback_rule.name != NOISE_DRIVEN}).items():
        if given and tau_q is None:
            raise ValueError(f"{name} is for feedback weights that learn; set tau_q, or leave it out")


def _gain(dt, name, tau):
    """Return dt / tau, or 0 for None."""
    return (
        0.0
        if tau is None
        else dt / number(f"{name}, a time constant that dt has to resolve,", tau, TimeConstant, least=dt)
    )
