"""Leading eigenvalues of closed loops, and the largest time step for which they stay inside the unit circle."""

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

DENSE_SIZE = 600  # larger loops are not made into matrices
VECTORS, RESTARTS = 40, 200  # size of a Krylov space, and maximum number of restarts
LEADING = 4  # eigenvalues to ask for by products: of one alone, the next one may be what converges
TOLERANCE = 1e-9  # of an eigenvalue found by products
STABLE_RADIUS = 1.0 - 1e-13  # what is nearer to 1 does not decay in any run
SPAN = 300.0  # the smallest time step of the scan is 1 / SPAN of the largest one
FINE, COARSE = (25, 12), (7, 7)  # steps of the scan, and bisections between neighbours: to 1e-4, or 1e-2
DOWNWARDS, FARTHEST = 4.0, 16  # factor and number of the steps below the scan


def spectral_radius(euler_map):
    """Return (B,) the largest modulus of the eigenvalues of an `EulerMap`; NaN where it is not finite."""
    radius = np.abs(_leading(euler_map, "LM"))
    for factor in euler_map.hidden_factors():
        radius = np.maximum(radius, np.abs(np.ravel(factor)))
    return radius


def abscissa(flow):
    """Return (B,) the largest real part of the eigenvalues of a `Flow`; NaN where it is not finite."""
    return np.maximum(_leading(flow, "LR").real, max(flow.hidden_rates(), default=-np.inf))


def _leading(loop, which):
    """Return (B,) the eigenvalue of largest modulus ("LM") or real part ("LR")."""
    values = _by_products(loop, which) if loop.size > DENSE_SIZE else None
    if values is None:
        values = eigenvalues(loop.matrices())
    size = np.abs(values) if which == "LM" else values.real
    return np.take_along_axis(values, size.argmax(axis=1)[:, None], axis=1)[:, 0]


def eigenvalues(matrices):
    """Return (B, n) eigenvalues of matrices (B, n, n), NaN for a matrix that is not finite."""
    finite = np.isfinite(matrices).all(axis=(1, 2))
    values = np.full(matrices.shape[:2], np.nan, np.complex128)
    values[finite] = np.linalg.eigvals(matrices[finite])
    return values


def _by_products(loop, which):
    """Return (1, LEADING) leading eigenvalues of the loop of one sample from products alone; None without convergence.

    They converge relative to their modulus, which of something neutral is 0 in a flow: there a multiple of the identity is
    added, so large that the largest real part, no smaller than the mean, ends well above 0.
    """
    start = np.random.default_rng(0).standard_normal(loop.size)
    largest = np.abs(loop(start.reshape(1, -1, 1))).max()
    if not np.isfinite(largest):
        return np.full((1, LEADING), np.nan)
    shift = largest if which == "LR" else 0.0

    def multiply(vector):
        return loop(vector.reshape(1, -1, 1)).ravel() + shift * vector.ravel()

    operator = LinearOperator((loop.size, loop.size), matvec=multiply, dtype=np.float64)
    try:
        return eigs(
            operator, LEADING, which=which, v0=start, ncv=VECTORS, maxiter=RESTARTS, tol=TOLERANCE,
            return_eigenvectors=False,
        )[None] - shift  # fmt: skip
    except ArpackError:
        return None


def largest_stable_step(radius, limit, stable_at_zero, effort):
    """Return (B,) the largest time step below which every smaller one is stable, as far as the scan sees.

    The spectral radius need not grow with dt. It is taken at steps from limit / SPAN to the limit, upwards to the first
    unstable one, and from there by bisection to the last stable one before it; where the smallest of these is unstable,
    from smaller ones. What lies between two steps of the scan is not seen.

    Args:
        radius: function of (dt (n,), numbers of n samples (n,)) that returns their spectral radii.
        limit: (B,) largest step to look at, which is returned where all are stable.
        stable_at_zero: (B,) whether small enough steps are stable; 0 is returned for the others.
        effort: `FINE` or `COARSE`.
    """
    points, bisections = effort
    low, high = np.zeros(len(limit)), np.full(len(limit), np.nan)
    climbing = np.flatnonzero(stable_at_zero)
    for part in np.geomspace(1.0 / SPAN, 1.0, points):
        climbing = _try(radius, part * limit, climbing, low, high)
    descending = np.flatnonzero(stable_at_zero & (low == 0))
    for step in range(1, FARTHEST + 1):
        dt = limit / (SPAN * DOWNWARDS**step)
        climbed = _try(radius, dt, descending, low, high)
        descending = np.setdiff1d(descending, climbed)
    between = np.flatnonzero((low > 0) & np.isfinite(high))
    for _ in range(bisections):
        _try(radius, np.sqrt(low * high), between, low, high)
    return low


def _try(radius, dt, chosen, low, high):
    """Judge the steps dt of the chosen samples, note them in low (stable) or high; returns the samples that are stable."""
    if not len(chosen):
        return chosen
    stable = radius(dt[chosen], chosen) < STABLE_RADIUS
    low[chosen[stable]], high[chosen[~stable]] = dt[chosen[stable]], dt[chosen[~stable]]
    return chosen[stable]
