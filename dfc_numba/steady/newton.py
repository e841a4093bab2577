"""The exact steady state of the controlled network, by Newton's method for the control signal u.

Damped steps first. A sample that they leave unsolved starts again and follows du/dt = F(u) by implicit Euler steps that
grow as it settles (pseudo-transient continuation, Kelley & Keyes 1998). Samples are solved side by side, each by itself.
"""

from dataclasses import dataclass

import numpy as np

from dfc_numba.model.controller import Controller
from dfc_numba.steady.rest_equation import RestEquation
from dfc_numba.support.ranges import Count, PositiveTolerance
from dfc_numba.support.validation import instance, number, whole_number

MAX_ITERATIONS = 50
HALVINGS = 12  # times that a Newton step is halved before it is given up
SUFFICIENT = 1e-4  # part of the decrease that a Newton step promises to insist on
GROWTH = 2.0  # of |F| that a step of the continuation may bring
LENGTHEN, SHORTEN = (
    2.0,
    0.25,
)  # its time step after a step that leaves |F| as it is, and after one that brings more

CONVERGED, CONTINUED, SUM_KEPT = "converged", "converged by continuation", ", sum of u kept at 0"
OUT_OF_ITERATIONS, SINGULAR, UNREACHABLE = "out of iterations", "singular", "no steady state"
NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Solution:
    """The solutions found, per sample.

    Attributes:
        equation: the `RestEquation`, whose response holds the state that belongs to u.
        u, residual: (B, n_L) control signals, (B,) norms of F(u).
        iterations: (B,). status: (B,) strings. converged: (B,) booleans.
    """

    equation: RestEquation
    u: np.ndarray
    residual: np.ndarray
    iterations: np.ndarray
    status: np.ndarray
    converged: np.ndarray


def solve(network, x, target, controller, *, tolerance=1e-12, max_iterations=MAX_ITERATIONS):
    """Find u with |F(u)| <= tolerance |F(0)| for every sample, starting from u = 0.

    Args:
        x, target, controller: as for `steady_state`.
        max_iterations: of either method.

    Returns:
        a `Solution`.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or a controller that has no such steady state.
    """
    _refuse(instance("controller", controller, Controller))
    controller.require_no_terms("the steady state")
    number("tolerance", tolerance, PositiveTolerance)
    whole_number("max_iterations", max_iterations, Count)
    equation = RestEquation(network, x, target, controller)
    with equation.linear_algebra(), np.errstate(all="ignore"):  # what is not finite is not stepped to
        search = _Search(equation, tolerance)
        _damped_newton(search, max_iterations)
        _continuation(search, max_iterations)
        status = search.status()
    return Solution(equation, search.u, search.norm, search.iterations, status, search.converged)


def first_step(network, x, target, controller):
    """Take one full Newton step from u = 0: the steady state of the network linearised at its feedforward state.

    Args:
        x, target, controller: as for `steady_state`.

    Returns:
        a `Solution`, converged where the linear system had one.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    equation = RestEquation(network, x, target, controller)
    everyone = np.arange(equation.shape[0])
    with equation.linear_algebra(), np.errstate(all="ignore"):
        u = equation.exact_step(equation.first_residual(), everyone)
        residual = np.linalg.norm(equation.residual(u, everyone), axis=1)
    found = np.isfinite(residual)
    status = np.where(found, CONVERGED, SINGULAR)
    return Solution(equation, u, residual, np.ones(len(u), np.int64), status, found)


def _refuse(controller):
    if controller.jacobian_feedback:
        raise ValueError(
            "with jacobian_feedback a layer receives J(v)^T u, which depends on the voltages of all layers above it, and "
            "the state is not a function of u to solve for; use method='linear', readout='analytic', or simulate"
        )
    if controller.noisy:
        raise ValueError(
            f"the controller has sigma = {controller.sigma:g}, sigma_output = {controller.output_sigma:g}, and with noise "
            "there is no steady state; set sigma to 0, or simulate"
        )


class _Search:
    """The state of the search: u, F(u), |F(u)|, the iterations spent, and the method by which each sample was solved."""

    def __init__(self, equation, tolerance):
        self.equation, count = equation, equation.shape[0]
        self.u, self.f = np.zeros(equation.shape), equation.first_residual()
        self.norm = np.linalg.norm(self.f, axis=1)
        self.goal = tolerance * self.norm
        self.iterations = np.zeros(count, np.int64)
        self.unreachable = equation.unreachable(self.goal)
        self.continued = np.zeros(count, np.bool_)

    @property
    def converged(self):
        """(B,) booleans."""
        return np.isfinite(self.norm) & (self.norm <= self.goal)

    def unsolved(self):
        """Return the numbers of the samples that have not converged and may yet."""
        return np.flatnonzero(~self.converged & ~self.unreachable & np.isfinite(self.norm))

    def unsolved_among(self, chosen):
        """Return those of the chosen, unsolved samples that still have not converged."""
        return chosen[self.norm[chosen] > self.goal[chosen]]

    def restart(self, chosen):
        """Put samples back to u = 0."""
        self.u[chosen] = 0.0
        self.evaluate(chosen)

    def evaluate(self, chosen):
        """Evaluate F of samples at their present u, to which the derivatives then belong."""
        self._accept(chosen, self.u[chosen], self.equation.residual(self.u[chosen], chosen))

    def _accept(self, chosen, u, f):
        self.u[chosen], self.f[chosen] = u, f
        self.norm[chosen] = np.linalg.norm(f, axis=1)

    def move(self, chosen, step, bound):
        """Take a step where |F| is then at most `bound`, or small enough; returns where, (n,) booleans.

        Elsewhere the derivative is that at the end of the step, until `evaluate`.
        """
        u = self.u[chosen] + step
        f = self.equation.residual(u, chosen)
        good = np.linalg.norm(f, axis=1) <= np.maximum(bound, self.goal[chosen])
        self._accept(chosen[good], u[good], f[good])
        return good

    def status(self):
        """Return a status for every sample, as text."""
        words = np.where(self.continued, CONTINUED, CONVERGED).astype(object)
        if self.equation.sum_kept:
            words += SUM_KEPT
        failed = np.flatnonzero(~self.converged)
        if len(failed):
            words[failed] = OUT_OF_ITERATIONS
            words[failed[self.equation.singular(failed)]] = SINGULAR
        words[self.unreachable] = UNREACHABLE
        words[~np.isfinite(self.norm)] = NOT_FINITE
        return words.astype(str)


def _damped_newton(search, max_iterations):
    """Take Newton steps, halved until |F| falls; a sample whose step is halved too often is left where it is."""
    active = search.unsolved()
    for _ in range(max_iterations):
        if not len(active):
            return
        step = search.equation.newton_step(search.f[active], active)
        search.iterations[active] += 1
        given_up = _halve_until_it_falls(search, active, step)
        active = search.unsolved_among(np.setdiff1d(active, given_up))


def _halve_until_it_falls(search, active, step):
    """Take the longest of the steps 1, 1/2, 1/4, ... that lets |F| fall; returns the samples for which none does."""
    length = 1.0
    for _ in range(HALVINGS):
        moved = search.move(active, length * step, (1.0 - SUFFICIENT * length) * search.norm[active])
        active, step, length = active[~moved], step[~moved], 0.5 * length
        if not len(active):
            break
    return active


def _continuation(search, max_iterations):
    """Take implicit Euler steps along du/dt = F(u), the longer the smaller F becomes, for what is unsolved."""
    active = search.unsolved()
    search.restart(active)
    search.continued[active] = True
    time = np.ones(len(search.norm))  # in units of tau_u
    for _ in range(max_iterations):
        if not len(active):
            return
        before = search.norm[active]
        step = search.equation.shifted_step(search.f[active], active, 1.0 / time[active])
        search.iterations[active] += 1
        moved = search.move(active, step, GROWTH * before)
        time[active] *= np.where(moved, LENGTHEN * before / search.norm[active], SHORTEN)
        search.evaluate(active[~moved])
        active = search.unsolved_among(active)


def stability(solution, k_p):
    """Return (B,) whether the controller returns to the u found, if layers are instantaneous; see `steady_state`."""
    equation, found = solution.equation, np.flatnonzero(solution.converged)
    stable = np.zeros(len(solution.converged), np.bool_)
    if len(found):
        with equation.linear_algebra():
            rates = equation.eigenvalues(found)
        loop = 1.0 + k_p * (rates - equation.alpha)
        stable[found] = ((loop.real > 0) & ((rates / loop).real > 0)).all(axis=1)
    return stable
