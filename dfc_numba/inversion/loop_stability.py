"""Stability of dynamic inversion: of its loops in continuous time, and of the ordered Euler steps that are run.

Both follow from the gains of a loop, the eigenvalues mu of its turn, the product of all its matrices: for each gain the
loop decays, grows and oscillates like a loop of single units. The turn is taken at the smallest population.

The hidden layers see of r_m what B does not map to zero. What B has no rank for stays with its leak alone, out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal

import numpy as np

from dfc_numba.inversion.problem import check
from dfc_numba.support.array_types import Array, LayersLike
from dfc_numba.support.ranges import Leak, TimeStep
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, number, silent

RULES = {"sequential": "di", "single": "sldi"}


@dataclass(frozen=True)
class InversionStability:
    """Stability of the loops of dynamic inversion; tuples have one entry per loop, the lowest first.

    Attributes:
        rates: all eigenvalues lambda of a loop in continuous time, per time constant of the hidden layers, (n_modes,).
        factors: all eigenvalues z of its ordered Euler step, (n_modes,).
        stable: whether the errors of the hidden layers come to rest, in continuous time.
        euler_stable: the same of the Euler steps.

    Where a layer has more units than B has rank, as it has with more units than the layer below, its error population has
    modes that no hidden layer sees, with lambda = -alpha. They count for `abscissa` and `radius`, and not for `stable` and
    `euler_stable`.
    """

    rates: tuple[Array, ...]
    factors: tuple[Array, ...]
    stable: bool
    euler_stable: bool

    @property
    def abscissa(self) -> tuple[float, ...]:
        """The largest real part of the rates of each loop."""
        return tuple(float(found.real.max()) for found in self.rates)

    @property
    def radius(self) -> tuple[float, ...]:
        """The largest absolute value of the factors of each loop."""
        return tuple(float(np.abs(found).max()) for found in self.factors)


@silent()
def inversion_stability(
    weights: LayersLike,
    feedback: LayersLike,
    alpha: float = 0.0,
    dt: float = 0.5,
    loop: Literal["sequential", "single"] = "sequential",
) -> InversionStability:
    """Return the `InversionStability` of linear dynamic inversion (Podlaski & Machens 2020), in continuous time and as run.

    With populations r_1 .. r_m, m = 2 in the loop of each hidden layer of "di" (r_x = r_1, r_y = r_2) and m = L in "sldi":

        dr_1/dt = -r_1 + B r_m,   dr_i/dt = -r_i + W_i r_{i-1},   dr_m/dt = -alpha r_m + W_m r_{m-1} - delta

    the rates lambda of its modes and their factors z per Euler step obey, for each eigenvalue mu of W_m .. W_2 B,

        (lambda + 1)^(m-1) (lambda + alpha) = mu
        (z - 1 + dt)^(m-1) (z - 1 + dt alpha) = dt^m z^(m-1) mu

    The loop is stable where all Re lambda < 0, and its Euler steps where all |z| < 1. For m = 2 the former means Re mu <
    alpha - (Im mu)^2 / (1 + alpha)^2, and the latter, for real mu, -(2 - dt)(2 - dt alpha) / dt^2 < mu < alpha.

    Args:
        weights: W_1 .. W_L, list of (n_i, n_{i-1}); of W_1 only the shape matters.
        feedback: B_i, list of (n_i, n_{i+1}), one per hidden layer; a single (n_1, n_L) for loop="single".
        alpha, dt: as for `backward_errors`.
        loop: "sequential" (rule "di") or "single" ("sldi").

    Raises:
        ValueError, TypeError: for shapes that do not fit, numbers that are not finite, unknown names.
    """
    loops = feedback_loops(weights, feedback, alpha=alpha, loop=loop)
    number("dt", dt, TimeStep)
    rates, factors = ([one.modes(equation) for one in loops] for equation in (None, dt))
    return InversionStability(
        rates=tuple(map(np.concatenate, rates)),
        factors=tuple(map(np.concatenate, factors)),
        stable=all(excess(seen) < 0 for seen, _ in rates),
        euler_stable=all(excess(seen, dt) < 0 for seen, _ in factors),
    )


def excess(modes, dt=None):
    """Return how far the worst of some rates, or with dt factors, is beyond the border of stability; -inf for none."""
    return float(distances(modes, dt).max(initial=-np.inf))


def distances(modes, dt=None):
    """Return Re lambda of rates, or with dt |z| - 1 of factors."""
    return modes.real if dt is None else np.abs(modes) - 1.0


def feedback_loops(weights, feedback, *, alpha=0.0, loop="sequential"):
    """Return the loops of a network with weights W_1 .. W_L, checked: a list of `FeedbackLoop`, the lowest first."""
    rule = RULES[choice("loop", loop, tuple(RULES))]
    number("alpha", alpha, Leak)
    problem = check(weights, feedback, None, np.zeros((1, len(weights[-1])), np.float32), rule)
    above, below = ([m.astype(np.float64) for m in ms] for ms in (problem.weights, problem.feedback))
    chains, eps = [above] if loop == "single" else [[w] for w in above], np.finfo(problem.delta_out.dtype).eps
    return [FeedbackLoop(chain, b, alpha, eps) for chain, b in zip(chains, below, strict=True)]


@dataclass(frozen=True)
class FeedbackLoop:
    """A loop of populations r_1 .. r_m: upwards through W_2 .. W_m, and back through B.

    Attributes:
        weights: W_2 .. W_m, list of (n_i, n_{i-1}), float64. feedback: B, (n_1, n_m).
        alpha: leak of r_m; the others have a leak of 1. eps: to which B was rounded, relative to its norm.
    """

    weights: list
    feedback: np.ndarray
    alpha: float
    eps: float = float(np.finfo(np.float64).eps)

    @property
    def sizes(self):
        """[n_1, ..., n_m]."""
        return [len(self.feedback), *map(len, self.weights)]

    @property
    def halves(self):
        """(W_k .. W_2, W_m .. W_{k+1}) with r_k the smallest population: the turn is their product around B."""
        sizes = self.sizes[::-1]
        k = len(sizes) - 1 - sizes.index(min(sizes))
        lower = _chain(self.weights[:k], len(self.feedback))
        return lower, _chain(self.weights[k:], self.sizes[k])

    @property
    def turn(self):
        """W_k .. W_2 B W_m .. W_{k+1}, (n_k, n_k), whose eigenvalues are the gains."""
        lower, upper = self.halves
        return lower @ self.feedback @ upper

    @cached_property
    def rank(self):
        """The rank of B, as what it was rounded to tells it."""
        with one_thread():
            values = np.linalg.svd(self.feedback, compute_uv=False)
        return int(np.count_nonzero(values > values[:1] * max(self.feedback.shape) * self.eps))

    def observed(self):
        """Return (loop, V): this one with what B sees of r_m, V r_m, for r_m, if more rank of B could show new modes of r_m.

        V (rank, n_m) has orthonormal rows; None for the loop itself.
        """
        if self.rank == min(self.feedback.shape) or self.rank > min(self.sizes):
            return self, None
        with one_thread():
            rows = np.linalg.svd(self.feedback, full_matrices=False)[2][: self.rank]
            *below, top = self.weights
            return replace(self, weights=[*below, rows @ top], feedback=self.feedback @ rows.T), rows

    def modes(self, dt=None):
        """Return rates, or with dt factors per Euler step: (those that hidden layers see, those of r_m that they do not)."""
        with one_thread():
            gains = np.linalg.eigvals(self.observed()[0].turn)
        found, _ = spectrum(gains, *self.equation(dt))
        seen, hidden = self.surplus(dt)
        return np.concatenate([found.ravel(), seen]), hidden

    def surplus(self, dt=None):
        """Return the `modes` of no gain: a population's leak alone, where it has more units than there are gains."""
        gains = min(self.rank, *self.sizes)
        *below, top = self.sizes
        counts = [sum(below) - len(below) * gains, self.rank - gains, top - self.rank]
        leaks = np.repeat([1.0, self.alpha, self.alpha], counts)
        return np.split(-leaks if dt is None else 1.0 - dt * leaks, [sum(counts[:2])])

    @property
    def drifts(self):
        """True if hidden layers see modes of r_m that neither a leak nor any gain of a B of this rank lets decay."""
        return self.alpha == 0 and self.rank > min(self.sizes)

    def equation(self, dt=None):
        """Return polynomials (p, q), highest power first: the modes x of a gain mu have p(x) = mu q(x)."""
        hidden = len(self.weights)
        if dt is None:
            return np.poly([-1.0] * hidden + [-self.alpha]), np.ones(1)
        return np.poly([1.0 - dt] * hidden + [1.0 - dt * self.alpha]), dt ** (hidden + 1) * np.eye(
            hidden + 1
        )[0]


def spectrum(gains, p, q):
    """Return all x with p(x) = mu q(x) for each gain mu (k,), and their slopes dx/dmu: two arrays (k, degree of p)."""
    padded = np.pad(q, (len(p) - len(q), 0))
    roots = _roots(p - gains[:, None].astype(complex) * padded)
    with np.errstate(divide="ignore", invalid="ignore"):  # a double root has no slope
        derivative = np.polyval(np.polyder(p), roots) - gains[:, None] * np.polyval(np.polyder(padded), roots)
        return roots, np.polyval(q, roots) / derivative


def _roots(coefficients):
    """Return roots (k, d) of monic polynomials (k, d + 1), highest power first; a double root of a square is exact."""
    if coefficients.shape[1] == 3:
        half = -coefficients[:, 1:2] / 2
        distance = np.sqrt(half**2 - coefficients[:, 2:])
        return np.hstack([half + distance, half - distance])
    degree = coefficients.shape[1] - 1
    companion = np.zeros((len(coefficients), degree, degree), complex)
    companion[:, 0] = -coefficients[:, 1:]
    companion[:, np.arange(1, degree), np.arange(degree - 1)] = 1.0
    return np.linalg.eigvals(companion)


def _chain(weights, size):
    """Return w_k .. W_1 of a list of matrices; the identity for none."""
    return reduce(lambda product, w: w @ product, weights, np.eye(size))
