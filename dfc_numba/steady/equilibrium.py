"""The steady state of the feedback phase without simulating it, and the Jacobian that governs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dfc_numba.model import jacobian
from dfc_numba.model.activations import phi
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network, feedforward_state
from dfc_numba.steady import newton, transposed
from dfc_numba.support.array_types import Array, ArrayLike, Layers
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, instance, samples, silent

METHODS = ("linear", "newton")


@dataclass(frozen=True)
class SteadyState:
    """The controlled network at rest; B samples, lists have one entry per layer.

    Attributes:
        u: (B, n_L) control signal.
        v, r: lists of (B, n_i): somatic voltages and rates. delta_v: v - v_ff, what the controller adds.
        converged: (B,) whether a steady state was found. iterations: (B,) that it took.
        residual: (B,) norm of e - alpha u, of which the steady state of the nonlinear network is the root.
        status: (B,) how the search ended, or None for "linear"; see `steady_state`.
        stable: (B,) whether the controlled network returns there, or None for "linear"; see `steady_state`.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    u: Array
    v: Layers
    r: Layers
    delta_v: Layers
    converged: Array
    iterations: Array
    residual: Array
    status: Array | None = None
    stable: Array | None = None


@silent()
def output_jacobian(network: Network, x: ArrayLike) -> Array:
    """Return J = d r_L / d v at the feedforward voltages: (B, n_L, sum n_i) in float64, the layers side by side.

        J_L = diag(phi'(v_L)),  J_i = J_{i+1} W_{i+1} diag(phi'(v_i))      (the Jacobian of DFC, Meulemans et al. 2021)

    Args:
        x: inputs (B, n_0).

    Raises:
        ValueError, TypeError: for inputs that do not fit.
    """
    _, activity = feedforward_state(network, x)
    with one_thread():
        return jacobian.of_output(network, activity.v)


@silent()
def steady_state(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    method: Literal["linear", "newton"] = "linear",
    tolerance: float = 1e-12,
    max_iterations: int = newton.MAX_ITERATIONS,
) -> SteadyState:
    """Solve for the steady state that the controller reaches.

    "linear" linearises at the feedforward state (DFC, Meulemans et al. 2021, lemma 1; DFC-SSA):

        u = (J Q + alpha I)^{-1} (r* - r_L),  delta_v = Q u,  v_i = W_i r_{i-1} + b_i + delta_v_i,  r_i = phi(v_i)

    with J^T for Q where the controller has jacobian_feedback. "newton" solves the equations themselves,

        e - alpha u = 0,  e = r* - r_L or r* - softmax(r_L),  v_i = W_i r_{i-1} + b_i + Q_i u,  r_i = phi(v_i)

    by damped Newton steps from u = 0; samples that these leave unsolved start again and follow du/dt = e - alpha u in
    implicit steps, which ends where a slow controller would. With jacobian_feedback, J(v)^T u in the place of Q_i u, it
    alternates passes down and up with quasi-Newton steps of u (see `transposed`).

    Args:
        x: inputs (B, n_0). target: r*, (B, n_L).
        controller: a `Controller`, of which the steady state depends on alpha, leak, error and jacobian_feedback.
        tolerance: "newton": of the norm of e - alpha u, relative to the norm of e in the feedforward state.
        max_iterations: "newton": most Newton steps, and most implicit steps, of a sample.

    Returns:
        a `SteadyState`, in float64. With "newton" its .status says of a sample

            "converged"                             by Newton steps
            "converged by continuation"             by implicit steps
            "..., sum of u kept at 0"               likewise, for the softmax error with alpha = 0, which does not see the
                                                    sum of r_L: of a line of steady states, the one that u = 0 leads to
            "out of iterations"                     there may be none, or none that attracts
            "singular"                              likewise, and some direction of u changes nothing
            "no steady state"                       the softmax error with alpha = 0, and a target outside the range of softmax
            "not finite"                            the error of the feedforward state overflows

        (with jacobian_feedback "converged", "out of iterations" or "not finite", and .stable is None)

        and .stable tells whether the controller returns there if the layers are instantaneous: 1 + k_p lambda and
        (lambda + alpha) / (1 + k_p lambda) have positive real parts for every eigenvalue lambda of -de/du. With k_p = 0 that
        means: all eigenvalues of d(e - alpha u)/du have negative ones. Where a sample has not converged it is False.

    Raises:
        ValueError, TypeError: for arguments that do not fit; "linear" with error="softmax", whose steady state is not linear
            in u; "newton" with noise.
    """
    if choice("method", method, METHODS) == "newton" and _transposes(controller):
        controller.require_no_terms("the steady state")
        rest = transposed.solve(
            network, x, target, controller, tolerance=tolerance, max_iterations=max_iterations
        )
        return SteadyState(
            rest.u, rest.v, rest.r, rest.delta_v, rest.converged, rest.iterations, rest.residual, rest.status
        )
    if method == "newton":
        found = newton.solve(
            network, x, target, controller, tolerance=tolerance, max_iterations=max_iterations
        )
        return _of_solution(found, status=found.status, stable=newton.stability(found, controller.k_p))
    instance("controller", controller, Controller).require_no_terms("the steady state")
    if controller.jacobian_feedback:
        return _transposed(network, x, target, controller)
    return _of_solution(linearised(network, x, target, controller))


def _transposes(controller):
    return instance("controller", controller, Controller).jacobian_feedback


def _of_solution(solution, **judgement):
    """Return the `SteadyState` that belongs to a control signal."""
    response = solution.equation.response
    state = response.state()
    v, r = (
        [start + change for start, change in zip(before, deviations, strict=True)]
        for before, deviations in ((response.feedforward.v, state.v), (response.feedforward.r, state.rate))
    )
    return SteadyState(
        u=solution.u, v=v, r=r, delta_v=state.drive, converged=solution.converged,
        iterations=solution.iterations, residual=solution.residual, **judgement,
    )  # fmt: skip


def linearised(network, x, target, controller):
    """Return the `newton.Solution` of the network linearised at its feedforward state, for feedback through Q.

    Raises:
        ValueError: where J Q + alpha I is singular, or the error is not linear.
    """
    _refuse_softmax(controller)
    solution = newton.first_step(network, x, target, controller)
    if not solution.converged.all():
        _refuse_singular(network, x, controller, int(np.argmin(solution.converged)))
    return solution


def _refuse_softmax(controller):
    instance("controller", controller, Controller).require_no_terms("the linearised steady state")
    if controller.error == "softmax":
        raise ValueError(
            "the linearised steady state solves r* - r_L = alpha u; with error='softmax' the error is not linear in "
            "the output: use error='difference', Newton's method (method='newton', readout='newton'), or simulate"
        )


def _refuse_singular(network, x, controller, worst):
    """Raise an error that names the first sample whose linear system has no unique solution."""
    gain = output_jacobian(network, np.asarray(x)[worst : worst + 1])[0] @ np.concatenate(network.feedback)
    size, alpha = len(gain), controller.steady_leak
    rank = np.linalg.matrix_rank(gain + alpha * np.eye(size))
    raise ValueError(
        f"J Q + alpha I is singular (sample {worst}: rank {rank} of {size}), so there is no unique steady state; use "
        f"alpha > {alpha:g} or other feedback weights"
    )


def _transposed(network, x, target, controller):
    """Return the steady state for feedback through J^T: u = (J J^T + alpha I)^{-1} (r* - r_L), delta_v = J^T u."""
    _refuse_softmax(controller)
    x, activity = feedforward_state(network, x)
    target = samples("target", target, network.sizes[-1], count=len(x))
    alpha = controller.steady_leak
    with one_thread():
        j = jacobian.of_output(network, activity.v)
        gram = j @ j.transpose(0, 2, 1) + alpha * np.eye(j.shape[1])
        u = np.linalg.solve(gram, (target - activity.r[-1])[:, :, None])
        delta = (j.transpose(0, 2, 1) @ u)[:, :, 0]
        delta_v = [
            np.ascontiguousarray(d) for d in np.split(delta, np.cumsum(network.sizes[1:])[:-1], axis=1)
        ]
        v, r = _propagate(network, x, delta_v)
    u = u[:, :, 0]
    residual = np.linalg.norm(target - r[-1] - alpha * u, axis=1)
    return SteadyState(u, v, r, delta_v, np.isfinite(residual), np.ones(len(x), np.int64), residual)


def _propagate(network, x, delta_v):
    """Return voltages and rates of the network with delta_v added to the voltages of each layer."""
    below, voltages, rates = x, [], []
    for i, name in enumerate(network.activations):
        basal = below @ network.weights[i].T.astype(np.float64) + (
            0.0 if network.biases is None else network.biases[i]
        )
        voltages.append(basal + delta_v[i])
        rates.append(phi(name, voltages[-1]))
        below = rates[-1]
    return voltages, rates
