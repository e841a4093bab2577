"""The linear parts of a feedback phase as matrices on a few nodes in time.

The controller, its filters and the compartments are linear and the same for every sample and unit, so that on functions of
time that are polynomials of a stretched time s, t = c (exp(s) - 1), each of them is a small matrix on the values at m nodes
t_1 < ... < t_m = T. (t = 0 is a node too, at which nothing has to be computed: deviations vanish there, and the error is known.)

Two limits differ in these matrices alone. "published" runs the recurrences of the Euler method on the basis functions, one by
one as `kernels.feedback_phase` has them, for the given dt and steps. "continuous" solves the differential equations, dt -> 0
over the same duration, by collocation on a grid much finer than the nodes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.linalg import qr
from scipy.signal import lfilter

from dfc_numba.model.controller_terms import response_to_errors

FINE_POINTS = 241  # of the collocation grid of the continuous limit


@dataclass(frozen=True)
class TimeOperators:
    """Linear operators from node values to node values; functions that vanish at t = 0 have m values.

    Attributes:
        time: (m,) the nodes, the last of them T.
        soma: (m, m) basal voltages at the nodes -> what they contribute to v. Includes a delay of transmission.
        basal: (m, m) W r_{i-1} at the nodes -> basal voltages of layer i; the identity unless transmission is delayed.
        control: (m, m), control_start: (m,) control error at the nodes and at t = 0 -> the control signal that has passed the
            filters of the control, of the apical and of the somatic compartment.
        last_control: (m,), last_control_start: u(T) from the control error.
        total: (m,) sum over all T time points of a function (T times its mean). products: (m, m) likewise of a product of two.
    """

    time: np.ndarray
    soma: np.ndarray
    basal: np.ndarray
    control: np.ndarray
    control_start: np.ndarray
    last_control: np.ndarray
    last_control_start: float
    total: np.ndarray
    products: np.ndarray

    @property
    def nodes(self):
        """m, the number of nodes after t = 0."""
        return len(self.time)


class _Grid:
    """Points in time, the nodes among them, and the values at all points of the functions that are 1 at one node."""

    def __init__(self, nodes, time, stretch):
        self.time = time
        scaled = 2.0 * np.log1p(time / stretch) / np.log1p(time[-1] / stretch) - 1.0
        basis = chebyshev.chebvander(scaled, nodes)
        weight = np.ones(len(time))
        weight[0], weight[-1] = 1e8, 1e4  # both ends are nodes
        chosen = qr((basis * weight[:, np.newaxis]).T, mode="economic", pivoting=True)[2][: nodes + 1]
        self.chosen = np.sort(chosen)
        self.cardinal = np.linalg.solve(basis[self.chosen].T, basis.T).T
        self.cardinal[self.chosen] = np.eye(nodes + 1)

    def at_nodes(self, values):
        return values[self.chosen[1:]]


def stretch(controller):
    """Return c of the stretched time: twice the time constant of the soma within the closed loop."""
    tau = controller.dt if controller.instant_dynamics else controller.tau_v
    return 2.0 * max(tau, controller.dt) / (1.0 + controller.k_p)


@lru_cache(maxsize=64)
def refinement(controller, nodes, others):
    """Return the matrix that takes functions vanishing at t = 0 from `nodes` nodes to `others`; cached, shared, read only."""
    there, _, _ = _polynomials(controller, nodes, others)
    basis, _, _ = _polynomials(controller, nodes, nodes)
    return np.linalg.solve(basis.T, there.T).T[1:, 1:]


def derivative(controller, nodes):
    """Return (m, m) the time derivative at the nodes of functions that vanish at t = 0."""
    basis, scaled, speed = _polynomials(controller, nodes, nodes)
    slopes = chebyshev.chebval(scaled, chebyshev.chebder(np.eye(nodes + 1))).T / speed[:, np.newaxis]
    return np.linalg.solve(basis.T, slopes.T).T[1:, 1:]


def _polynomials(controller, degree, nodes):
    """Return (Chebyshev polynomials of the stretched time at t = 0 and the nodes, that time in [-1, 1], dt / d of it)."""
    time, c = np.append(0.0, time_operators(controller, nodes).time), stretch(controller)
    half = np.log1p(time[-1] / c) / 2.0
    scaled = np.log1p(time / c) / half - 1.0
    return chebyshev.chebvander(scaled, degree), scaled, (c + time) * half


@lru_cache(maxsize=256)
def time_operators(controller, nodes):
    """Return the `TimeOperators` of a controller on `nodes` nodes; cached and shared, read only."""
    make = _Continuous if controller.limit == "continuous" else _Published
    return make(controller, nodes).operators()


class _Limit:
    """Base of the two limits: from the operators on all points of a grid to those on the nodes."""

    def operators(self):
        grid, own = self.grid, self.grid.cardinal[:, 1:]  # functions that vanish at t = 0
        basal = self.transmitted(own)
        u, _ = self.control(grid.cardinal)
        control = grid.at_nodes(self.soma(self.apical(u)))
        return TimeOperators(
            time=grid.at_nodes(grid.time),
            soma=grid.at_nodes(self.soma(basal)),
            basal=grid.at_nodes(basal),
            control=np.ascontiguousarray(control[:, 1:]),
            control_start=np.ascontiguousarray(control[:, 0]),
            last_control=u[-1, 1:],
            last_control_start=float(u[-1, 0]),
            total=self.weights @ own,
            products=own.T @ (self.weights[:, np.newaxis] * own),
        )


class _Published(_Limit):
    """Recurrences of the Euler method on the time points 0 .. steps, columns side by side."""

    def __init__(self, controller, nodes):
        self.controller = controller
        self.grid = _Grid(nodes, controller.dt * np.arange(controller.time_points), stretch(controller))
        self.weights = np.ones(controller.time_points)

    def at_steps(self, values, steps):
        """Return values at some Euler steps, from those at all of them."""
        return values[steps].copy()

    def transmitted(self, basal):
        """Return the basal voltages that a layer has at each time point, from what the layer below sends."""
        return basal if self.controller.transmission_is_instant else _from_rest(basal[:-1])

    def control(self, error):
        """Return (u, u_int) after each step from the control error; both are zero at t = 0."""
        c, driving = self.controller, error[:-1]
        if c.terms:
            return response_to_errors(c.terms, driving, c.dt, c.alpha, c.k_p, c.leak == "integral")
        leaking = c.dt * c.alpha * c.k_p if c.leak == "total" else 0.0
        u_int = lfilter([c.dt, -leaking], [1.0, c.dt * c.alpha - 1.0], driving, axis=0)
        return _from_rest(u_int + c.k_p * driving), _from_rest(u_int)

    def apical(self, u):
        """Return the control signal after its own filter and that of the apical compartment."""
        c, seen = self.controller, u
        if c.tau_control is not None:  # the filter begins with the first control signal
            keep = 1.0 - c.dt / c.tau_control
            seen = _from_rest(lfilter([1.0 - keep], [1.0, -keep], u[1:], axis=0, zi=keep * u[1:2])[0])
        if not c.proactive:
            seen = _from_rest(seen[:-1])
        return seen if c.tau_apical is None else self._relaxed(seen, c.dt / c.tau_apical)

    def soma(self, drive):
        """Return the somatic voltages that compartments with these voltages drive."""
        c = self.controller
        return drive if c.instant_dynamics else self._relaxed(drive, c.dt / c.tau_v)

    @staticmethod
    def _relaxed(x, gain):
        """Return y with y(t+1) = (1 - gain) y(t) + gain x(t+1) from y(0) = 0."""
        return _from_rest(lfilter([gain], [1.0, gain - 1.0], x[1:], axis=0))


class _Continuous(_Limit):
    """Differential equations on the interval [0, T], by collocation at Chebyshev points of the stretched time."""

    def __init__(self, controller, nodes):
        self.controller, c = controller, stretch(controller)
        duration = controller.dt * controller.steps
        half = np.log1p(duration / c) / 2.0
        points = -np.cos(np.pi * np.arange(FINE_POINTS) / (FINE_POINTS - 1))
        time = c * np.expm1(half * (1.0 + points))
        time[-1] = duration
        speed = (c + time) * half  # dt / d point
        self.derivative = _differentiation(points) / speed[:, np.newaxis]
        self.weights = _quadrature(points) * speed * (controller.time_points / duration)
        self.grid = _Grid(nodes, time, c)
        self.points, self.half = points, half

    def at_steps(self, values, steps):
        """Return values at some Euler steps, from those on the grid."""
        c, degree = self.controller, len(self.points) - 1
        points = np.log1p(c.dt * steps / stretch(c)) / self.half - 1.0
        coefficients = np.linalg.solve(chebyshev.chebvander(self.points, degree), values)
        return chebyshev.chebvander(points, degree) @ coefficients

    def transmitted(self, basal):
        """Return the basal voltages as they are: a delay of one step vanishes with dt."""
        return basal

    def control(self, error):
        """Return (u, u_int); u jumps to k_p e at t = 0."""
        c = self.controller
        gain = 1.0 - c.alpha * c.k_p if c.leak == "total" else 1.0
        u_int = self._solve(1.0, c.alpha, gain * error, 0.0 * error[0])
        return u_int + c.k_p * error, u_int

    def apical(self, u):
        """Return the control signal after its own filter and that of the apical compartment."""
        c = self.controller
        seen = u if c.tau_control is None else self._solve(c.tau_control, 1.0, u, u[0])
        return seen if c.tau_apical is None else self._solve(c.tau_apical, 1.0, seen, 0.0 * seen[0])

    def soma(self, drive):
        """Return the somatic voltages that compartments with these voltages drive."""
        c = self.controller
        return drive if c.instant_dynamics else self._solve(c.tau_v, 1.0, drive, 0.0 * drive[0])

    def _solve(self, tau, rate, x, start):
        """Return y with tau dy/dt = x - rate y and y(0) = start."""
        matrix = tau * self.derivative + rate * np.eye(len(x))
        matrix[0] = 0.0
        matrix[0, 0] = 1.0
        return np.linalg.solve(matrix, np.vstack([start, x[1:]]))


def _from_rest(values):
    """Return the same values one step later, zero at t = 0."""
    return np.vstack([np.zeros(values.shape[1]), values])


def _differentiation(points):
    """Return the derivative at Chebyshev points of the second kind, a matrix (Trefethen, Spectral Methods in MATLAB, ch. 6)."""
    scale = (-1.0) ** np.arange(len(points))
    scale[0], scale[-1] = 2.0 * scale[0], 2.0 * scale[-1]
    gaps = points[:, np.newaxis] - points + np.eye(len(points))
    matrix = np.outer(scale, 1.0 / scale) / gaps
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix


def _quadrature(points):
    """Return weights of the integral over [-1, 1] of the polynomial through values at Chebyshev points (Clenshaw and Curtis)."""
    degrees = np.arange(0, len(points), 2)
    moments = np.zeros(len(points))
    moments[degrees] = 2.0 / (1.0 - degrees**2)
    return np.linalg.solve(chebyshev.chebvander(points, len(points) - 1).T, moments)


@dataclass(frozen=True)
class Interpolation:
    """Matrices (T, m + 1) from values at the nodes to the course in time; the first column belongs to t = 0.

    Attributes:
        values: any function of time. basal: W r_{i-1} -> basal voltages. u, u_int: from the control error.
        apical: the control signal in the apical compartment, from the control error.
    """

    values: np.ndarray
    basal: np.ndarray
    u: np.ndarray
    u_int: np.ndarray
    apical: np.ndarray


@lru_cache(maxsize=16)
def interpolation(controller, nodes, every):
    """Return the `Interpolation` at every n-th Euler step; cached and shared, read only."""
    make = _Continuous if controller.limit == "continuous" else _Published
    limit = make(controller, nodes)
    at_steps, cardinal = limit.at_steps, limit.grid.cardinal
    u, u_int = limit.control(cardinal)
    values = cardinal, limit.transmitted(cardinal), u, u_int, limit.apical(u)
    values = [at_steps(array, np.arange(0, controller.time_points, every)) for array in values]
    for array in values[2:]:  # the initial state, before the first step
        array[0] = 0.0
    return Interpolation(*values)
