"""Measures of a control signal: its effort and the update that lowers it, its size beside feedforward input, its effect."""

import numpy as np
from scipy.special import softmax

from dfc_numba.analysis.least_norm import outer_sums
from dfc_numba.analysis.linear_response import LinearResponse, by_layer
from dfc_numba.dynamics.plasticity import ForwardUpdate
from dfc_numba.model import jacobian
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.steady.equilibrium import steady_state
from dfc_numba.steady.response import Response
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, instance, samples, silent

STATES = ("steady_state", "feedforward")


@silent()
def control_effort(network, u):
    """Return |Q u|^2 / 2 per sample, (B,), which learning with strong feedback lowers (Strong-DFC, Meulemans et al. 2022).

    Args:
        u: control signals (B, n_L), Q of all layers.
    """
    u = samples("u", u, instance("network", network, Network).sizes[-1])
    with one_thread():
        return 0.5 * sum(np.sum((u @ q.T) ** 2, axis=1) for q in network.feedback)


@silent()
def effort_update(network, x, u, controller, *, at="steady_state"):
    """Return the forward update that descends the mean effort H = mean over b of |Q u|^2 / 2 of steady states.

        Delta W_i = mean over b of p_i r_{i-1}^T,   p = (E J)^T (E J Q + alpha I)^{-T} Q^T Q u,   E = -de/dr_L

    is -dH/dW_i at a steady state e = alpha u, where u depends on the weights (Strong-DFC, Meulemans et al. 2022).

    Args:
        x: inputs (B, n_0). u: control signals (B, n_L), such as `steady_state(...).u` or the last of a `Trajectory`.
        controller: a `Controller`, of which alpha, leak and error count.
        at: where J and the rates are taken: in the "steady_state" that u leads to, or in the "feedforward" state, to which
            the former comes close for a small nudge.

    Returns:
        a `ForwardUpdate` in float64.

    Raises:
        ValueError, TypeError: for arguments that do not fit; with jacobian_feedback, where Q depends on the weights; where
            E J Q + alpha I is singular.
    """
    _refuse_jacobian_feedback(controller)
    choice("at", at, STATES)
    u = samples("u", u, instance("network", network, Network).sizes[-1])
    with one_thread():
        voltages, rates, below = _state(network, x, u, at)
        j = jacobian.of_output(network, voltages)
        if controller.error == "softmax":
            j = _softmax_slope(rates[-1]) @ j
        feedback = np.concatenate(network.feedback).astype(np.float64)
        gain = j @ feedback + controller.steady_leak * np.eye(len(feedback.T))
        if controller.error == "softmax" and controller.alpha == 0:
            gain += 1.0  # nothing moves the sum of u
        factors = _adjoint(j, gain, u @ (feedback.T @ feedback)) / len(u)
        return ForwardUpdate(*outer_sums(network, by_layer(network, factors), below))


def _refuse_jacobian_feedback(controller):
    instance("controller", controller, Controller).require_no_terms("the linearised steady state")
    if controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback the feedback weights J^T change with the forward weights; the update is for fixed ones: "
            "use a controller with jacobian_feedback=False"
        )


def _state(network, x, u, at):
    """Return voltages and rates of all layers, and each one's input, in the feedforward state or in the one that u leads to."""
    if at == "feedforward":
        response = LinearResponse(network, samples("x", x, network.sizes[0], count=len(u)))
        return response.v, response.r, response.below
    response = Response(network, samples("x", x, network.sizes[0], count=len(u)))
    response.outputs(u, np.arange(len(u)))
    deviations, start = response.state(), response.feedforward
    voltages = [v + change for v, change in zip(start.v, deviations.v, strict=True)]
    rates = [r + change for r, change in zip(start.r, deviations.rate, strict=True)]
    return voltages, rates, [response.x, *rates[:-1]]


def _softmax_slope(output):
    """Return d softmax(r_L) / d r_L, (B, n_L, n_L)."""
    p = softmax(output, axis=1)
    return p[:, :, np.newaxis] * (np.eye(p.shape[1]) - p[:, np.newaxis])


def _adjoint(j, gain, right):
    """Return J^T G^{-T} b of every sample, (B, N)."""
    try:
        solved = np.linalg.solve(gain.transpose(0, 2, 1), right[:, :, np.newaxis])
    except np.linalg.LinAlgError:
        raise ValueError(
            "J Q + alpha I is singular for a sample, so the control does not follow the weights; use a larger alpha or "
            "other feedback weights"
        ) from None
    return (j.transpose(0, 2, 1) @ solved)[:, :, 0]


@silent()
def feedback_ratio(network, x, u):
    """Return |Q_i u| / |W_i r_{i-1}| per sample and layer, (B, L): the size of feedback relative to feedforward input.

    Args:
        x: inputs (B, n_0), from which the feedforward rates r come. u: control signals (B, n_L).

    Returns:
        (B, L), infinite where there is feedback alone, NaN where there is neither.
    """
    with one_thread():
        response = LinearResponse(network, x)
        u = samples("u", u, network.sizes[-1], count=len(response.x))
        ratios = [
            np.linalg.norm(u @ q.T, axis=1) / np.linalg.norm(below @ w.T.astype(np.float64), axis=1)
            for q, w, below in zip(network.feedback, network.weights, response.below, strict=True)
        ]
        return np.stack(ratios, axis=1)


@silent()
def distance_to_linear(network, x, target, controller, output):
    """Return the distance of controlled outputs from those of the linearised steady state, relative to the feedforward ones.

        |r_L - r_ssa| / |r_ff - r_ssa|,   r_ssa as `steady_state(method="linear")` has it

    Args:
        x: inputs (B, n_0). target: r*, (B, n_L). controller: as for `steady_state`. output: r_L, (B, n_L).

    Returns:
        (B,), NaN where the target is the feedforward output.

    Raises:
        ValueError, TypeError: as for `steady_state(method="linear")`.
    """
    linear = steady_state(network, x, target, controller, method="linear").r[-1]
    output = samples("output", output, network.sizes[-1], count=len(linear))
    start = network.forward(x, dtype="float64").r[-1]
    return np.linalg.norm(output - linear, axis=1) / np.linalg.norm(start - linear, axis=1)
