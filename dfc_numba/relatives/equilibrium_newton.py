"""Equilibria by Newton's method, and the exact gradient that equilibrium propagation approaches.

    prototypical   G(s) = s - phi(D(s) + beta (y - s_L)) = 0        Hopfield   G(u) = u - phi'(u) D(phi(u)) + beta dC/du = 0

The gradient of the cost at the free equilibrium follows from the implicit function theorem (Scellier & Bengio 2019,
"Equivalence of equilibrium propagation and recurrent backpropagation"):

    (dG/ds)^T lambda = dC/ds,   a = phi'(D) lambda,   dC/dW_i = a_i r_{i-1}^T (+ r_i a_{i-1}^T with transposed backward weights)

Jacobians are dense, (sum n_i)^2 for each sample: for networks of up to about a thousand units.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from dfc_numba.kernels.equilibrium_units import CLIPPED, NONLINEARITIES
from dfc_numba.model.network import Network
from dfc_numba.model.targets import as_targets
from dfc_numba.relatives.equilibrium_contrast import contrast
from dfc_numba.relatives.equilibrium_energy import rate_of, slope_of
from dfc_numba.relatives.equilibrium_propagation import (
    EquilibriumPropagation,
    EquilibriumUpdate,
    FreeState,
    NudgedState,
)
from dfc_numba.support import memory, threads
from dfc_numba.support.ranges import Count, Finite, PositiveTolerance
from dfc_numba.support.validation import float_list, instance, number, samples, silent, whole_number

PIECE_BYTES = 128e6


@dataclass(frozen=True)
class EquilibriumGradient:
    """The gradient of the mean cost at the free equilibrium; lists over the layers.

    Attributes:
        weights, biases, backward: shaped as the parameters; None for those that there are not.
        converged: (B,) whether Newton's method found the equilibrium; samples without are left out.
    """

    weights: list
    biases: list | None
    backward: list | None
    converged: np.ndarray


class _System:
    """The equation G = 0 of a network, for a batch of samples side by side: states (B, N), N = sum n_i."""

    def __init__(self, network, options):
        self.options, self.sizes = options, network.sizes[1:]
        self.ends = np.cumsum(self.sizes)
        self.linear_output = options.form == "prototypical" and options.loss == "cross_entropy"
        total = int(self.ends[-1])
        self.matrix = np.zeros((total, total))  # d D / d r
        self.starts = [0, *self.ends[:-1]]
        above = network.backward if options.backward == "separate" else [w.T for w in network.weights[1:]]
        for i in range(1, len(self.sizes)):
            own, below = self.part(i), self.part(i - 1)
            self.matrix[own, below] = network.weights[i]
            self.matrix[below, own] = above[i - 1]
        self.still = (
            np.zeros(total) if network.biases is None else np.concatenate(network.biases).astype(float)
        )
        self.first = network.weights[0].astype(np.float64)

    def part(self, i):
        """Return the units of layer i, from 0."""
        return slice(self.starts[i], self.ends[i])

    def constant(self, x):
        """Return W_1 x + b, the part of the drives that does not depend on states."""
        still = np.repeat(self.still[None], len(x), axis=0)
        still[:, self.part(0)] += x @ self.first.T
        return still

    def rates(self, state):
        return state if self.options.form == "prototypical" else rate_of(self.options, state)

    def slopes(self, v):
        """Return phi', 1 for a linear output."""
        slopes = slope_of(self.options, v)
        if self.linear_output:
            slopes[:, self.part(-1)] = 1.0
        return slopes

    def residual(self, state, still, y, beta):
        """Return (G, dG/dstate) at given states."""
        rates, output = self.rates(state), self.part(-1)
        drive = rates @ self.matrix.T + still
        count, total = state.shape
        pull, pull_slope = np.zeros_like(state), np.zeros((count, total, total))
        if beta:
            pull[:, output], pull_slope[:, output, output] = _pull(
                state[:, output], y, beta, self.options.loss
            )
        if self.options.form == "hopfield":
            slope = self.slopes(state)
            jacobian = -slope[:, :, None] * self.matrix * slope[:, None, :] - pull_slope
            jacobian[:, range(total), range(total)] += 1.0 - _curvature(self.options, state) * drive
            return state - slope * drive - pull, jacobian
        if self.linear_output:
            slope = self.slopes(drive)
            reached = rate_of(self.options, drive)
            reached[:, output] = drive[:, output]
            jacobian = -slope[:, :, None] * self.matrix - pull_slope
            reached = reached + pull
        else:
            slope = self.slopes(drive + pull)
            reached = rate_of(self.options, drive + pull)
            jacobian = -slope[:, :, None] * (self.matrix + pull_slope)
        jacobian[:, range(total), range(total)] += 1.0
        return state - reached, jacobian


def _pull(output, y, beta, loss):
    """Return beta (target - output) and its derivative with respect to the output."""
    n = output.shape[1]
    if loss == "mse":
        return beta * (y - output), np.broadcast_to(-beta * np.eye(n), (len(output), n, n))
    p = softmax(output, axis=1)
    return beta * (y - p), -beta * (p[:, :, None] * np.eye(n) - p[:, :, None] * p[:, None, :])


def _curvature(options, v):
    """Return phi''(v)."""
    family, (k, c, a, _) = NONLINEARITIES[options.nonlinearity]
    if family == CLIPPED:
        return np.zeros_like(v)
    p = 1.0 / (1.0 + np.exp(c - k * v))
    return k * k * a * p * (1.0 - p) * (1.0 - 2.0 * p)


def equilibrium(network, x, options, *, y=None, beta=0.0, start=None, tolerance=1e-13, iterations=50):
    """Solve for the equilibrium that a phase relaxes to.

    Args:
        x: inputs (B, n_0). y, beta: targets and nudge; beta 0 for the free equilibrium.
        start: list of (B, n_i) to start from; None for zeros. tolerance: of |G|, in each unit.

    Returns:
        (states, converged): list of (B, n_i); (B,) booleans. Where Newton's method fails the states are where it stopped.

    Raises:
        ValueError, TypeError: for arguments that do not fit. MemoryError: for Jacobians that do not fit.
    """
    instance("options", options, EquilibriumPropagation)
    x = samples("x", x, instance("network", network, Network).sizes[0])
    whole_number("iterations", iterations, Count)
    number("beta", beta, Finite)
    number("tolerance", tolerance, PositiveTolerance)
    if options.form == "gaussian":
        raise ValueError("form = 'gaussian' rests at the feedforward state; its free phase needs no solver")
    total = sum(network.sizes[1:])
    memory.require(16 * total**2, "the Jacobian of a sample", "use the dynamics: solver = 'steps'")
    y = None if y is None else as_targets(y, network.sizes[-1], count=len(x))
    system = _System(network, options)
    at_a_time = max(1, int(PIECE_BYTES / (16 * total**2)))
    state = (
        np.zeros((len(x), total))
        if start is None
        else np.concatenate(_starts(start, network, len(x)), axis=1)
    )
    converged = np.zeros(len(x), bool)
    with threads.one_thread(), np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(x), at_a_time):
            piece = slice(first, first + at_a_time)
            target = None if y is None else y[piece]
            state[piece], converged[piece] = _solve(
                system, state[piece], system.constant(x[piece]), target, beta, tolerance, iterations
            )
    return np.split(state, system.ends[:-1], axis=1), converged


def _starts(start, network, count):
    """Return the states to start from, checked."""
    return float_list("start", start, [(count, n) for n in network.sizes[1:]])


def _solve(system, state, still, y, beta, tolerance, iterations):
    converged = np.zeros(len(state), bool)
    for _ in range(iterations):
        residual, jacobian = system.residual(state, still, y, beta)
        converged = np.abs(residual).max(axis=1) <= tolerance
        if converged.all():
            break
        try:
            step = np.linalg.solve(jacobian, residual[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        state = np.where(
            converged[:, None] | ~np.isfinite(step).all(axis=1, keepdims=True), state, state - step
        )
    return state, converged


@silent()
def newton_update(network, x, y, options):
    """Return the update of `equilibrium_update` at the exact equilibria of both phases.

    Returns:
        `EquilibriumUpdate`; `free.settled` says for which samples Newton's method found all of them. The others take no part.
    """
    states, settled = equilibrium(network, x, options)
    betas = [options.beta] if options.sides == 1 else [-options.beta, options.beta]
    nudged = []
    for beta in betas:
        moved, converged = equilibrium(network, x, options, y=y, beta=beta, start=states)
        settled = settled & converged
        nudged.append((beta, moved))
    rates = states if options.form == "prototypical" else [rate_of(options, u) for u in states]
    free = FreeState(states, rates, [], np.zeros(len(settled), np.int64), settled)
    found = []
    for beta, moved in nudged:
        keep = settled[:, None]
        deviations = [np.where(keep, m - s, 0.0) for m, s in zip(moved, states, strict=True)]
        rate_deviations = deviations
        if options.form == "hopfield":
            rate_deviations = [
                np.where(keep, rate_of(options, m) - r, 0.0) for m, r in zip(moved, rates, strict=True)
            ]
        parts = [[d.astype(network.dtype) for d in group] for group in (deviations, rate_deviations)]
        found.append(NudgedState(beta, *parts))
    return EquilibriumUpdate(*contrast(network, x, options, free, tuple(found)), free, tuple(found))


@silent()
def equilibrium_gradient(network, x, y, options):
    """Return the exact gradient of the mean cost at the free equilibrium, see the module.

    C is 1/2 |output - y|^2 of a sample, or the cross-entropy, as in `EquilibriumPropagation`.

    Returns:
        `EquilibriumGradient`, which minus `equilibrium_update` approaches as beta -> 0.
    """
    states, converged = equilibrium(network, x, options)
    x, state = np.asarray(x, np.float64), np.concatenate(states, axis=1)
    y = as_targets(y, network.sizes[-1], count=len(x))
    system = _System(network, options)
    with threads.one_thread():
        still = system.constant(x)
        _, jacobian = system.residual(state, still, None, 0.0)
        uphill = np.zeros_like(state)
        uphill[:, system.part(-1)] = -_pull(states[-1], y, 1.0, options.loss)[0]
        uphill[~converged] = 0.0
        adjoint = np.linalg.solve(jacobian.transpose(0, 2, 1), uphill[..., None])[..., 0]
        rates = system.rates(state)
        at = state if options.form == "hopfield" else rates @ system.matrix.T + still
        post = system.slopes(at) * adjoint / len(x)
        post, rates = (np.split(array, system.ends[:-1], axis=1) for array in (post, rates))
        weights = [post[0].T @ x]
        for i in range(1, len(post)):
            weights.append(post[i].T @ rates[i - 1])
            if options.backward == "transposed":
                weights[i] += rates[i].T @ post[i - 1]
        backward = None
        if options.backward == "separate":
            backward = [p.T @ r for p, r in zip(post, rates[1:], strict=False)]
    biases = None if network.biases is None else [p.sum(axis=0) for p in post]
    return EquilibriumGradient(weights, biases, backward, converged)
